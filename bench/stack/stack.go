// Package stack boots the real system for tests: the binaries that `make
// build` makes, started by `tagctl dev` in a folder of the test's own, with
// nothing in-process and nothing faked. End-to-end tests and benchmarks share
// it, and it is the only way in which they start anything.
package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 30 * time.Second
	poll         = 5 * time.Millisecond
)

// Info is what `tagctl dev` writes to dev.json once everything is ready.
type Info struct {
	ConfigGRPC     string   `json:"config_grpc"`
	ConfigGRPCAll  []string `json:"config_grpc_all"`
	OrderHTTP      string   `json:"order_http"`
	ManagementHTTP string   `json:"management_http"`
	Issuer         string   `json:"issuer"`
	JWKSURL        string   `json:"jwks_url"`
	Manifest       string   `json:"manifest"`
	// Tokens holds, by tenant, the tokens by role; the machines' stand beside.
	Tokens    map[string]map[string]string `json:"-"`
	Refresher string                       `json:"-"`
	Operator  string                       `json:"-"`
}

// Stack is one running system.
type Stack struct {
	Info
	// Dir is the folder that holds all of its state.
	Dir string
	// StartedIn is the time from the start of tagctl until all was ready.
	StartedIn time.Duration

	bin    string
	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan exit
	output *output
}

// exit is how tagctl ended.
type exit struct{ err error }

// Start builds the binaries, once per test process, starts the system and
// waits until it is ready. It is stopped, and checked to leave nothing behind,
// when the test ends.
func Start(t testing.TB) *Stack {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	s := &Stack{Dir: dir, bin: Build(t)}
	t.Cleanup(func() {
		s.Stop(t)
		if t.Failed() {
			t.Logf("the system's folder is kept: %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s.Boot(t)
	return s
}

// Boot starts a stack that was stopped or killed, on the data that it left.
func (s *Stack) Boot(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		t.Fatal("the stack runs already")
	}
	// A killed system can not remove its dev.json; what is read below must be
	// the new one's.
	if err := os.Remove(s.infoPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	s.output = &output{}
	cmd := exec.CommandContext(context.Background(), filepath.Join(s.bin, "tagctl"), "dev")
	cmd.Env = append(os.Environ(), "TAGSTORE_DEV_DIR="+s.Dir, "TAGSTORE_PLUGIN_MAX_FAILURES=0")
	cmd.Stdout, cmd.Stderr = s.output, s.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan exit, 1)
	go func() { exited <- exit{cmd.Wait()} }()
	s.cmd, s.exited = cmd, exited
	for {
		if s.readInfo() == nil {
			s.StartedIn = time.Since(began)
			return
		}
		select {
		case end := <-exited:
			s.cmd = nil
			t.Fatalf("the system did not start: %v\n%s", end.err, s.output)
		case <-time.After(poll):
		}
		if time.Since(began) > startTimeout {
			s.kill()
			t.Fatalf("the system was not ready within %v\n%s", startTimeout, s.output)
		}
	}
}

// Stop ends the system as Ctrl-C would and fails the test when a process of it
// is left. It does nothing when the system is not running.
func (s *Stack) Stop(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	select {
	case end := <-s.exited:
		if end.err != nil {
			t.Errorf("tagctl dev ended with %v\n%s", end.err, s.output)
		}
	case <-time.After(stopTimeout):
		t.Errorf("tagctl dev did not end within %v of an interrupt\n%s", stopTimeout, s.output)
		s.kill()
	}
	s.cmd = nil
	mustBeGone(t, s.Dir)
}

// Kill ends every process of the system at once with SIGKILL, as a power cut
// would, and waits until all are gone.
func (s *Stack) Kill(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		t.Fatal("the stack does not run")
	}
	s.kill()
	mustBeGone(t, s.Dir)
}

func (s *Stack) kill() {
	pids, _ := processes(s.Dir)
	for _, pid := range append(pids, s.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
	}
	<-s.exited
	s.cmd = nil
}

// mustBeGone waits for the processes of a system to end: the last of them end
// by themselves when the one above them is gone.
func mustBeGone(t testing.TB, dir string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		pids, err := processes(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(pids) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("processes are left over: %v", pids)
			return
		}
		<-time.After(poll)
	}
}

// processes finds every process that was started for the system in a folder by
// that folder in its environment, arguments, executable or working directory
// (Linux /proc; see proc(5)).
func processes(dir string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if belongs(filepath.Join("/proc", e.Name()), dir) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Plugin puts a built plugin beside the others that a manifest of the system's
// folder can name, as ./plugins/NAME.
func (s *Stack) Plugin(t testing.TB, name string) {
	t.Helper()
	place(t, s.Bin(filepath.Join("plugins", name)), filepath.Join(s.Dir, "plugins"))
}

// Processes returns the names of the system's processes by their number.
func (s *Stack) Processes(t testing.TB) map[int]string {
	t.Helper()
	pids, err := processes(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{}
	for _, pid := range pids {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
			names[pid] = filepath.Base(exe)
		}
	}
	return names
}

func belongs(proc, dir string) bool {
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil || bytes.Contains(stat, []byte(") Z ")) {
		return false // gone, or a zombie that only waits for its parent
	}
	for _, link := range []string{"exe", "cwd"} {
		if target, err := os.Readlink(filepath.Join(proc, link)); err == nil && strings.HasPrefix(target, dir) {
			return true
		}
	}
	for _, file := range []string{"environ", "cmdline"} {
		if text, err := os.ReadFile(filepath.Join(proc, file)); err == nil && bytes.Contains(text, []byte(dir)) {
			return true
		}
	}
	return false
}

// Token returns the development token of a tenant's role.
func (s *Stack) Token(t testing.TB, tenant, role string) string {
	t.Helper()
	token := s.Tokens[tenant][role]
	if token == "" {
		t.Fatalf("dev.json has no token for %s %s", tenant, role)
	}
	return token
}

// Printed returns what tagctl has printed since the last Boot.
func (s *Stack) Printed() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.output.String()
}

// output is a buffer that can be read while a process writes to it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Bin returns the path of a built binary.
func (s *Stack) Bin(name string) string { return filepath.Join(s.bin, name) }

func (s *Stack) infoPath() string { return filepath.Join(s.Dir, "dev.json") }

func (s *Stack) readInfo() error {
	text, err := os.ReadFile(s.infoPath())
	if err != nil {
		return err
	}
	var raw struct {
		Info
		Tokens map[string]json.RawMessage `json:"tokens"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	info := raw.Info
	info.Tokens = map[string]map[string]string{}
	for name, value := range raw.Tokens {
		switch name {
		case "refresher":
			err = json.Unmarshal(value, &info.Refresher)
		case "operator":
			err = json.Unmarshal(value, &info.Operator)
		default:
			roles := map[string]string{}
			err = json.Unmarshal(value, &roles)
			info.Tokens[name] = roles
		}
		if err != nil {
			return fmt.Errorf("tokens.%s: %w", name, err)
		}
	}
	s.Info = info
	return nil
}

var build = sync.OnceValues(func() (string, error) {
	root, err := root()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(context.Background(), "make", "--no-print-directory", "build")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return filepath.Join(root, "bin"), nil
})

// Build builds the binaries, once per test process, and returns their folder.
func Build(t testing.TB) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// root is the folder of go.work.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.work above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}
