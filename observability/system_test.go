package observability

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	dto "github.com/prometheus/client_model/go"
)

// patience is what anything here may take; nothing waits that long on purpose.
const patience = 90 * time.Second

// built is the folder of the programs.
var built string

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// build builds the programs as `make build` does, from the repository's workspace,
// of which this module is no part.
var build = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "obs"); err != nil {
		return "", err
	}
	built = dir
	for _, to := range []struct {
		folder   string
		packages []string
	}{{"/", []string{"./services/config", "./services/order", "./cli"}}, {"/plugins/", []string{"./plugins/local"}}} {
		cmd := exec.CommandContext(context.Background(), "go", append([]string{"build", "-ldflags", "-s -w", "-o", dir + to.folder}, to.packages...)...)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "GOWORK=", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	for from, to := range map[string]string{
		"config": "tagstore-config", "order": "tagstore-order", "cli": "tagctl", "plugins/local": "plugins/tagstore-plugin-local",
	} {
		if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
			return dir, err
		}
	}
	return dir, nil
})

// info is what is used of the dev.json of `tagctl dev`.
type info struct {
	ConfigGRPC     string `json:"config_grpc"`
	OrderHTTP      string `json:"order_http"`
	ManagementHTTP string `json:"management_http"`
	Issuer         string `json:"issuer"`
	JWKSURL        string `json:"jwks_url"`
	Machine        struct {
		TokenURL string `json:"token_url"`
		ID       string `json:"client_id"`
		Secret   string `json:"client_secret"`
	} `json:"machine"`
}

// system is the system as `tagctl dev` runs it, and a second configuration
// service beside it, with a store of its own, that tells the first of changes.
type system struct {
	t        *testing.T
	bin, dir string
	info     info
	order    string // its management
	second   string // that of the second configuration service
	secondAt string // its gRPC
}

// run starts a program that ends with the test.
func (s *system) run(name string, env []string, args ...string) (*exec.Cmd, io.Reader) {
	s.t.Helper()
	cmd := exec.CommandContext(context.Background(), filepath.Join(s.bin, name), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TAGSTORE_DEV_DIR=" + s.dir}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return cmd, stdout
}

// stop ends a program and waits for it.
func (s *system) stop(cmd *exec.Cmd, read <-chan struct{}) {
	_ = cmd.Process.Signal(syscall.SIGINT) // it may have ended
	<-read
	_ = cmd.Wait()
}

// lines passes each line of r to see, until r ends.
func lines(r io.Reader, see func(string)) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for in := bufio.NewScanner(r); in.Scan(); {
			see(in.Text())
		}
	}()
	return ended
}

// until polls for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}
}

// free returns an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func start(t *testing.T) *system {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "o") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &system{t: t, bin: bin, dir: dir, order: "http://" + free(t)}
	cmd, out := s.run("tagctl", nil, "dev", "--order-management-listen", strings.TrimPrefix(s.order, "http://"))
	read := lines(out, func(string) {})
	t.Cleanup(func() { s.stop(cmd, read) })
	until(t, "tagctl dev is ready", func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "dev.json"))
		return err == nil && json.Unmarshal(text, &s.info) == nil
	})

	two := filepath.Join(dir, "two")
	if err := os.MkdirAll(two, 0o700); err != nil {
		t.Fatal(err)
	}
	plugin, err := os.ReadFile(filepath.Join(bin, "plugins", "tagstore-plugin-local"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"plugin": plugin,
		"tagstore.yaml": []byte("version: 1\nbackends:\n  tenants:\n    plugin: ./plugin\n    options: { path: two.db }\nroutes:\n  - prefix: tenant_config_\n    backend: tenants\n" +
			"    cache: { mode: event, max_staleness: 60s, stale_if_error: 1h, negative_ttl: 2s }\n"),
	} {
		if err := os.WriteFile(filepath.Join(two, name), content, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ready := make(chan [2]string, 1)
	second, out := s.run("tagstore-config", []string{
		"TAGSTORE_MANIFEST=" + filepath.Join(two, "tagstore.yaml"), "TAGSTORE_DEV=true", "TAGSTORE_LISTEN=127.0.0.1:0", "TAGSTORE_MANAGEMENT_LISTEN=127.0.0.1:0",
		"TAGSTORE_SOCKET_DIR=" + two, "TAGSTORE_DRAIN_DELAY=0s", "TAGSTORE_REPLICA_ID=two", "TAGSTORE_PEERS=one=" + s.info.ConfigGRPC,
		"TAGSTORE_JWT_ISSUER=" + s.info.Issuer, "TAGSTORE_JWT_CLIENT_IDS=tagstore-dev," + s.info.Machine.ID, "TAGSTORE_JWKS_URL=" + s.info.JWKSURL,
		"TAGSTORE_MACHINE_TOKEN_URL=" + s.info.Machine.TokenURL, "TAGSTORE_MACHINE_CLIENT_ID=" + s.info.Machine.ID, "TAGSTORE_MACHINE_CLIENT_SECRET=" + s.info.Machine.Secret,
	})
	ended := lines(out, func(line string) {
		var l struct{ Msg, GRPC, Management string }
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == "ready" {
			ready <- [2]string{l.GRPC, l.Management}
		}
	})
	t.Cleanup(func() { s.stop(second, ended) })
	select {
	case at := <-ready:
		s.secondAt, s.second = at[0], "http://"+at[1]
	case <-ended:
		t.Fatal("the second service did not start")
	}
	return s
}

// tagctl runs it and returns what it prints, both ways.
func (s *system) tagctl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "tagctl"), args...)
	cmd.Env = []string{"TAGSTORE_DEV_DIR=" + s.dir}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *system) must(args ...string) string {
	s.t.Helper()
	out, err := s.tagctl(args...)
	if err != nil {
		s.t.Fatalf("tagctl %v: %v\n%s", args, err, out)
	}
	return out
}

// post places an order and returns the status.
func (s *system) post(token, body string) int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.info.OrderHTTP+"/v1/orders", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

// plugin returns the process of a backend.
func (s *system) plugin(name string) int {
	s.t.Helper()
	var all struct {
		Backends []struct {
			Name string `json:"name"`
			PID  int    `json:"pid"`
		} `json:"backends"`
	}
	out := s.must("plugin", "ls", "-o", "json")
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		s.t.Fatalf("%v:\n%s", err, out)
	}
	for _, b := range all.Backends {
		if b.Name == name && b.PID != 0 {
			return b.PID
		}
	}
	s.t.Fatalf("no process of %s in:\n%s", name, out)
	return 0
}

// traffic is what users and operators do in a day, and what goes wrong: reads of
// what is there and what is not, a watch, writes, orders that are taken and that
// are refused, wrong tokens, a plugin that stops, one that dies, a manifest that is
// refused, and a change that another replica is told of.
func (s *system) traffic() {
	s.must("get", "tenant_config_payment-gateway")
	s.must("get", "tenant_config_payment-gateway")
	_, _ = s.tagctl("get", "tenant_config_nothing") // there is none
	s.must("ls", "tenant_config_")
	s.must("set", "tenant_config_greeting", `{"text":"hello"}`, "-m", "x")
	s.must("refresh", "acme-corp", "tenant_config_greeting")
	if out, err := s.tagctl("get", "tenant_config_greeting", "--address", s.info.ConfigGRPC, "--token", "no.token"); err == nil {
		s.t.Errorf("a token that is none was taken: %s", out)
	}
	token := strings.TrimSpace(s.must("token", "--tenant", "globex-inc"))
	if status := s.post(token, `{"items":[{"sku":"book","quantity":2,"unitPrice":15000}]}`); status != http.StatusCreated {
		s.t.Errorf("an order got %d", status)
	}
	if status := s.post(token, `{`); status != http.StatusBadRequest {
		s.t.Errorf("half an order got %d", status)
	}
	// The first service had version 1 of this key before the second told it so.
	for _, at := range []string{s.info.ConfigGRPC, s.secondAt, s.secondAt} {
		s.must("set", "tenant_config_told", `"x"`, "--address", at, "--token", strings.TrimSpace(s.must("token")), "-m", "x")
	}
	until(s.t, "one change was acknowledged, and one was not", func() bool {
		f := fetch(s.t, s.second+"/metrics")
		failed := 0.0
		for _, m := range f["tagstore_peers_failed_total"].GetMetric() {
			failed += m.GetCounter().GetValue()
		}
		return f["tagstore_peers_duration_seconds"] != nil && failed > 0
	})
	watch, out := s.run("tagctl", nil, "watch", "tenant_config_", "-o", "json")
	synced := make(chan struct{}, 1)
	read := lines(out, func(string) {
		select {
		case synced <- struct{}{}:
		default:
		}
	})
	s.t.Cleanup(func() { s.stop(watch, read) })
	<-synced

	pid := s.plugin("tenants")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		s.t.Fatal(err)
	}
	if out, err := s.tagctl("set", "tenant_config_greeting", `"stuck"`, "-m", "x"); err == nil {
		s.t.Errorf("a plugin that is stopped wrote: %s", out)
	}
	until(s.t, "another plugin serves", func() bool {
		_, err := s.tagctl("set", "tenant_config_greeting", `"again"`, "-m", "x")
		return err == nil
	})
	if err := syscall.Kill(s.plugin("tenants"), syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	until(s.t, "another plugin serves", func() bool {
		_, err := s.tagctl("set", "tenant_config_greeting", `"once more"`, "-m", "x")
		return err == nil
	})
}

// family is a metric as it was scraped.
type family struct {
	name, kind, help string
	services         map[string]bool
	labels           map[string]map[string]bool // values by name
}

// scraped returns what the system emits after traffic, by the name of its series:
// a histogram has three.
var scraped = sync.OnceValue(func() map[string]*family { return map[string]*family{} })

func scrape(t *testing.T) map[string]*family {
	t.Helper()
	all := scraped()
	if len(all) > 0 {
		return all
	}
	s := start(t)
	s.traffic()
	for _, from := range [][2]string{{"tagstore-config", s.info.ManagementHTTP}, {"tagstore-config", s.second}, {"tagstore-order", s.order}} {
		for _, f := range fetch(t, from[1]+"/metrics") {
			names := []string{f.GetName()}
			kind := strings.ToLower(f.GetType().String())
			if kind == "histogram" {
				names = []string{f.GetName() + "_bucket", f.GetName() + "_count", f.GetName() + "_sum"}
			}
			for _, name := range names {
				to := all[name]
				if to == nil {
					to = &family{name: f.GetName(), kind: kind, help: f.GetHelp(), services: map[string]bool{}, labels: map[string]map[string]bool{}}
					all[name] = to
				}
				to.services[from[0]] = true
				to.see("job", from[0])
				to.see("instance", "")
				if strings.HasSuffix(name, "_bucket") {
					to.see("le", "")
				}
				for _, m := range f.GetMetric() {
					for _, l := range m.GetLabel() {
						to.see(l.GetName(), l.GetValue())
					}
				}
			}
		}
	}
	return all
}

func (f *family) see(label, value string) {
	if f.labels[label] == nil {
		f.labels[label] = map[string]bool{}
	}
	f.labels[label][value] = true
}

func fetch(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v", url, response.StatusCode, err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return families
}
