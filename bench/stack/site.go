package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
)

// clientID is the app client of the tokens of a Site.
const clientID = "tagstore-bench"

// Site is a folder of manifests and plugins, and a token issuer: what replicas
// of the configuration service share that are started one by one, with settings
// of their own, for what `tagctl dev` does not have.
type Site struct {
	// Dir is the folder that holds all of its state.
	Dir    string
	bin    string
	issuer *devissuer.Issuer
}

// NewSite builds the binaries, once per test process, and serves an issuer until
// the test ends.
func NewSite(t testing.TB) *Site {
	t.Helper()
	s := &Site{bin: Build(t)}
	var err error
	if s.Dir, err = os.MkdirTemp("", "ts"); err != nil { // short: it holds sockets
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mustBeGone(t, s.Dir)
		if t.Failed() {
			t.Logf("the site's folder is kept: %s", s.Dir)
			return
		}
		if err := os.RemoveAll(s.Dir); err != nil {
			t.Error(err)
		}
	})
	if s.issuer, err = devissuer.New(devissuer.Options{ClientID: clientID}); err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.issuer.SetURL("http://" + listener.Addr().String())
	server := &http.Server{Handler: s.issuer, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close() // the listener is gone either way
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return s
}

// Plugin puts an executable into the folder, since a manifest names none that
// lies elsewhere, and returns what it is called there.
func (s *Site) Plugin(t testing.TB, path string) string {
	t.Helper()
	return place(t, path, s.Dir)
}

// place puts an executable into a folder and returns what it is called there.
func place(t testing.TB, path, dir string) string {
	t.Helper()
	name := filepath.Base(path)
	if err := os.Link(path, filepath.Join(dir, name)); err == nil || errors.Is(err, os.ErrExist) {
		return name
	}
	text, err := os.ReadFile(path) // another file system
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	return name
}

// LocalPlugin is Plugin for that of the local store.
func (s *Site) LocalPlugin(t testing.TB) string {
	t.Helper()
	return s.Plugin(t, filepath.Join(s.bin, "plugins", "tagstore-plugin-local"))
}

// tokenLife is longer than any run.
const tokenLife = 24 * time.Hour

// Verifier is what the service verifies the tokens of this site with.
func (s *Site) Verifier() auth.Options {
	return auth.Options{Issuer: s.issuer.Issuer(), ClientIDs: []string{clientID}, JWKSURL: s.issuer.JWKSURL()}
}

// Token returns a token of a person with this role.
func (s *Site) Token(t testing.TB, tenant string, role auth.Role) string {
	t.Helper()
	token, err := s.issuer.ID(tenant, "bench", role, tokenLife)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Refresher returns a token of a machine that announces changes.
func (s *Site) Refresher(t testing.TB) string {
	t.Helper()
	token, err := s.issuer.Refresher(tokenLife)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Replica is one running process of the configuration service.
type Replica struct {
	// Address is the host:port of its gRPC listener.
	Address string

	cmd    *exec.Cmd
	exited chan exit
	output *output
}

// Start starts a replica with this manifest, and these settings beside those
// that it can not do without, and waits until it serves. It is stopped when the
// test ends.
func (s *Site) Start(t testing.TB, name, manifest string, settings ...string) *Replica {
	t.Helper()
	path := filepath.Join(s.Dir, name+".yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &Replica{exited: make(chan exit, 1), output: &output{}}
	r.cmd = exec.CommandContext(context.Background(), filepath.Join(s.bin, "tagstore-config")) // ended by the cleanup
	r.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "TAGSTORE_MANIFEST=" + path, "TAGSTORE_DEV=true", "TAGSTORE_LISTEN=127.0.0.1:0", "TAGSTORE_MANAGEMENT_LISTEN=127.0.0.1:0",
		"TAGSTORE_JWT_ISSUER=" + s.issuer.Issuer(), "TAGSTORE_JWT_CLIENT_IDS=" + clientID, "TAGSTORE_JWKS_URL=" + s.issuer.JWKSURL(),
		"TAGSTORE_DRAIN_DELAY=0s", "TAGSTORE_LOG_LEVEL=WARN", "TAGSTORE_PLUGIN_MAX_FAILURES=0",
	}, settings...)
	r.cmd.Stdout, r.cmd.Stderr = r.output, r.output
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.exited <- exit{r.cmd.Wait()} }()
	t.Cleanup(func() { r.stop(t) })
	for began := time.Now(); !r.ready(); {
		select {
		case end := <-r.exited:
			r.exited <- end
			t.Fatalf("%s did not start: %v\n%s", name, end.err, r.output)
		case <-time.After(poll):
		}
		if time.Since(began) > startTimeout {
			t.Fatalf("%s was not ready within %v\n%s", name, startTimeout, r.output)
		}
	}
	return r
}

// ready looks for the log line with the bound address.
func (r *Replica) ready() bool {
	lines := json.NewDecoder(bytes.NewReader([]byte(r.output.String())))
	for {
		var line struct{ Msg, GRPC string }
		err := lines.Decode(&line)
		switch {
		case err != nil: // no further line yet, or half of one
			return false
		case line.Msg == "ready":
			r.Address = line.GRPC
			return true
		}
	}
}

// PID is that of the process.
func (r *Replica) PID() int { return r.cmd.Process.Pid }

// Freeze stops the process, as SIGSTOP does, until Thaw: its connections stand,
// and nothing answers.
func (r *Replica) Freeze(t testing.TB) { r.signal(t, syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (r *Replica) Thaw(t testing.TB) { r.signal(t, syscall.SIGCONT) }

func (r *Replica) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		t.Fatalf("%v: %v", s, err)
	}
}

func (r *Replica) stop(t testing.TB) {
	if t.Failed() {
		defer func() { t.Logf("what the replica wrote:\n%s", r.output) }()
	}
	for _, s := range []syscall.Signal{syscall.SIGCONT, syscall.SIGTERM} { // what is frozen does not hear
		if err := r.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("%v: %v", s, err)
		}
	}
	select {
	case end := <-r.exited:
		if end.err != nil {
			t.Errorf("the replica ended with %v\n%s", end.err, r.output)
		}
	case <-time.After(stopTimeout):
		t.Errorf("the replica did not end within %v of SIGTERM\n%s", stopTimeout, r.output)
		if err := r.cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		<-r.exited
	}
}
