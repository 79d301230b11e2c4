package pluginhost_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/plugintest"
)

const (
	testPlugin = "./internal/testplugin"
	rawPlugin  = "./testdata/plugins/raw"
)

// asHost makes the test binary a host of its own, for tests that kill one: its
// value is the path of the plugin.
const asHost = "PLUGINHOST_TEST_AS_HOST"

// unary has all tests call plugins the way of those that can not exchange.
var unary = flag.Bool("unary", false, "call plugins without exchange")

func TestMain(m *testing.M) {
	// What the tests make is to be this user's alone, as a deployment is: a host
	// refuses programs that a group can write to.
	syscall.Umask(0o022)
	if path := os.Getenv(asHost); path != "" {
		runAsHost(path)
	}
	if what := os.Getenv(asOther); what != "" {
		runAsOther(what)
	}
	goleak.VerifyTestMain(m)
}

// runAsHost starts a plugin, prints its process number and waits to be killed.
func runAsHost(path string) {
	p, err := pluginhost.Start(context.Background(), pluginhost.Plugin{Name: "test", Path: path, Args: strings.Fields(os.Getenv("PLUGINHOST_TEST_ARGS"))},
		pluginhost.Options{SocketDir: os.Getenv("PLUGINHOST_TEST_SOCKETS"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Fprintln(os.Stdout, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, p.Status().PID)
	select {}
}

// logBuffer is a log that tests look into.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// socketDir returns a folder with a path that is short enough for sockets.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func plugin(t testing.TB) pluginhost.Plugin {
	t.Helper()
	return pluginhost.Plugin{Name: "test", Path: plugintest.Build(t, testPlugin)}
}

func raw(t testing.TB) pluginhost.Plugin {
	t.Helper()
	return pluginhost.Plugin{Name: "raw", Path: plugintest.Build(t, rawPlugin)}
}

// start starts p and ends it with the test.
func start(t testing.TB, p pluginhost.Plugin, o pluginhost.Options) *pluginhost.Process {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Unary = o.Unary || *unary
	process, err := pluginhost.Start(t.Context(), p, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := process.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return process
}

func id(t testing.TB, key string) config.ID {
	t.Helper()
	tenant, err := config.ParseTenant("acme-corp")
	if err != nil {
		t.Fatal(err)
	}
	k, err := config.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return config.ID{Tenant: tenant, Key: k}
}

// probe asks the test plugin for one of its effects.
func probe(t testing.TB, p *pluginhost.Process, what string) string {
	t.Helper()
	e, err := p.Get(t.Context(), id(t, "probe/"+what), 0)
	if err != nil {
		t.Fatalf("probe %s: %v", what, err)
	}
	return string(e.Value)
}

func put(t testing.TB, p *pluginhost.Process, key, value string) config.Entry {
	t.Helper()
	e, err := p.Put(t.Context(), driver.PutRequest{ID: id(t, key), Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// marked returns a plugin whose probes leave marks, and the prefix of the marks'
// paths.
func marked(t testing.TB) (pluginhost.Plugin, string) {
	t.Helper()
	marks := filepath.Join(t.TempDir(), "mark-")
	options, err := json.Marshal(map[string]string{"puts": marks})
	if err != nil {
		t.Fatal(err)
	}
	p := plugin(t)
	p.Options = options
	return p, marks
}

// waiting waits until n calls have arrived at the plugin.
func waiting(t testing.TB, marks string, n int) {
	t.Helper()
	eventually(t, 30*time.Second, "the calls arrive", func() bool {
		raw, _ := os.ReadFile(marks + "waiting")
		return bytes.Count(raw, []byte("x\n")) == n
	})
}

// eventually polls until ok holds.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// restarted waits until p serves with its n-th successor.
func restarted(t testing.TB, p *pluginhost.Process, n uint64) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		s := p.Status()
		if s.State == pluginhost.StateServing && s.Restarts == n {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no restart number %d, but %+v", n, s)
		}
	}
}

// alive reports whether a process is there and not just waiting to be reaped.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

// stop sends SIGSTOP and waits until every thread of the process has stopped.
func stop(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the process stops", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, path := range threads {
			stat, err := os.ReadFile(path)
			if _, state, _ := strings.Cut(string(stat), ") "); err == nil && !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return len(threads) > 0
	})
}

func kill(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code config.Code) {
	t.Helper()
	_ = withCode(t, err, code)
}

// withCode returns err, which must have that code.
func withCode(t testing.TB, err error, code config.Code) *config.Error {
	t.Helper()
	var e *config.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got error %v (code %v), want code %v", err, config.CodeOf(err), code)
	}
	return e
}

func number(t testing.TB, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStatusAndDescription(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	s := p.Status()
	if s.Name != "test" || s.State != pluginhost.StateServing || s.PluginName != "test" || s.PluginVersion != "v0.0.1" ||
		s.Generation != 1 || s.Restarts != 0 || s.LastError != "" || s.StartedAt.IsZero() {
		t.Errorf("status is %+v", s)
	}
	if got := probe(t, p, "pid"); got != strconv.Itoa(s.PID) {
		t.Errorf("status has pid %d, the plugin says %s", s.PID, got)
	}
	want := driver.Capabilities{Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true}
	if s.Capabilities != want || p.Capabilities() != want {
		t.Errorf("capabilities are %+v", s.Capabilities)
	}
	if p.IdempotencyWindow() <= 0 {
		t.Error("no idempotency window")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if s := p.Status(); s.State != pluginhost.StateStopped || s.PID != 0 {
		t.Errorf("after Close the status is %+v", s)
	}
	if alive(s.PID) {
		t.Error("the process is still there after Close")
	}
	_, err := p.Get(t.Context(), id(t, "k"), 0)
	wantCode(t, err, config.FailedPrecondition)
}

// A plugin without optional interfaces declares none, and none is called.
func TestBarePluginDeclaresNothing(t *testing.T) {
	pl := plugin(t)
	pl.Options = json.RawMessage(`{"bare": true}`)
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	if p.Capabilities() != (driver.Capabilities{}) || p.IdempotencyWindow() != 0 {
		t.Fatalf("capabilities are %+v", p.Capabilities())
	}
	_, batch := p.BatchGet(t.Context(), nil)
	_, history := p.History(t.Context(), driver.HistoryRequest{ID: id(t, "k")})
	_, size := p.Size(t.Context())
	watch := p.Watch(t.Context(), driver.WatchRequest{}, func(driver.Event) error { return nil })
	for name, err := range map[string]error{"BatchGet": batch, "History": history, "Size": size, "Watch": watch, "Ping": p.Ping(t.Context())} {
		if !errors.Is(err, config.Unimplemented) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever is wrong with a plugin, the error names it, says what happened, and
// nothing is left behind.
func TestFailedStarts(t *testing.T) {
	t.Parallel()
	good := plugin(t).Path
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(text, []byte("\x00not a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	bad := badPrograms(t, good)
	neighbour := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	undisturbed(t, neighbour)
	serve := func(options string) pluginhost.Plugin {
		return pluginhost.Plugin{Path: good, Options: json.RawMessage(options)}
	}
	lacks := func(what string) pluginhost.Plugin {
		return pluginhost.Plugin{Path: raw(t).Path, Args: []string{what}}
	}
	does := func(what string) pluginhost.Plugin { return pluginhost.Plugin{Path: good, Args: []string{what}} }
	for _, c := range []struct {
		name   string
		plugin pluginhost.Plugin
		code   config.Code
		says   []string
	}{
		{"missing", pluginhost.Plugin{Path: filepath.Join(dir, "nothing")}, config.FailedPrecondition, []string{"there is no program at"}},
		{"folder", pluginhost.Plugin{Path: dir}, config.FailedPrecondition, []string{"is a folder"}},
		{"not executable", pluginhost.Plugin{Path: plain}, config.FailedPrecondition, []string{"may not be executed", "chmod"}},
		{"not a program", pluginhost.Plugin{Path: text}, config.FailedPrecondition, []string{"is not a program for"}},
		{"relative", pluginhost.Plugin{Path: "plugin"}, config.InvalidArgument, []string{"not absolute"}},
		{"text", bad("text", "echo hello\n", 0o755), config.FailedPrecondition, []string{"text without an interpreter", "#!"}},
		{"another architecture", bad("foreign", foreignELF, 0o755), config.FailedPrecondition, []string{"is a program for " + foreignArch, runtime.GOARCH, "build the plugin"}},
		{"script of no interpreter", bad("nameless", "#!\nserve\n", 0o755), config.FailedPrecondition, []string{"names no interpreter", "#!"}},
		{"interpreter missing", bad("lost", "#!/usr/bin/no-such-python3 -u\nserve\n", 0o755), config.FailedPrecondition, []string{`interpreter "/usr/bin/no-such-python3"`, "is not there"}},
		{"interpreter of Windows", bad("crlf", "#!/bin/sh\r\nserve\r\n", 0o755), config.FailedPrecondition, []string{"Windows", "line ends"}},
		{"interpreter not executable", bad("passwd", "#!/etc/passwd\n", 0o755), config.FailedPrecondition, []string{`interpreter "/etc/passwd"`, "may not be executed"}},
		{"interpreter unknown to env", bad("env", "#!/usr/bin/env no-such-python3\n", 0o755), config.Unavailable, []string{"exit status 127", "no-such-python3"}},
		{"named pipe", bad("pipe", "", fs.ModeNamedPipe), config.FailedPrecondition, []string{"not a regular file"}},
		{"file open to all", bad("open", "", 0o757), config.FailedPrecondition, []string{"other users can write to its program", "chmod go-w"}},
		{"file open to the group", bad("group", "", 0o775), config.FailedPrecondition, []string{"other users can write to its program"}},
		{"folder open to all", bad("folder/plugin", "", 0o755), config.FailedPrecondition, []string{"other users can write to the folder", "chmod go-w"}},
		{"folder above open to all", bad("folder/deeper/plugin", "", 0o755), config.FailedPrecondition, []string{"other users can write to the folder"}},
		{"link into such a folder", bad("link", "folder/plugin", fs.ModeSymlink), config.FailedPrecondition, []string{"other users can write to the folder"}},
		{"flipped byte", bad("flipped", "", 0o755), config.FailedPrecondition, []string{"have the sha256", "pinned is"}},
		{"bad digest", pluginhost.Plugin{Path: good, SHA256: "ABC"}, config.InvalidArgument, []string{"64 hex digits"}},
		{"negative limit", pluginhost.Plugin{Path: good, Limits: pluginhost.Limits{Memory: -1}}, config.InvalidArgument, []string{"below zero"}},
		{"credentials by name", pluginhost.Plugin{Path: good, Env: []string{"AWS_PROFILE"}}, config.InvalidArgument, []string{"AWS_PROFILE", "aws: true"}},
		{"somebody else's socket", pluginhost.Plugin{Path: good, Args: []string{"borrowed", socketOf(t, neighbour)}}, config.FailedPrecondition, []string{"is served by process", "not part of it"}},
		{"no certificate", pluginhost.Plugin{Path: raw(t).Path, MTLS: true}, config.FailedPrecondition, []string{"mTLS", "no certificate"}},
		{"no working folder", pluginhost.Plugin{Path: good, Dir: filepath.Join(dir, "nothing")}, config.FailedPrecondition, []string{"working folder"}},
		{"reserved variable", pluginhost.Plugin{Path: good, Env: []string{"PLUGIN_UNIX_SOCKET_DIR"}}, config.InvalidArgument, []string{"PLUGIN_UNIX_SOCKET_DIR"}},
		{"exits", does("exit"), config.Unavailable, []string{"ended (exit status 3)", "the last words"}},
		{"hangs", does("hang"), config.Unavailable, []string{"did not get through the handshake in time", "flush"}},
		{"garbage", does("garbage"), config.FailedPrecondition, []string{`"hello, here I am"`, "handshake", "1|VERSION|unix|"}},
		{"handshake without its first field", does("parts"), config.FailedPrecondition, []string{`it printed "1|unix|`}},
		{"no health service", lacks("health"), config.FailedPrecondition, []string{"health check failed", "grpc.health.v1.Health"}},
		{"health of nothing", lacks("status"), config.FailedPrecondition, []string{"health check failed", `the service "plugin"`}},
		{"no backend service", lacks("backend"), config.FailedPrecondition, []string{"Describe failed", "tagstore.backend.v1.BackendService"}},
		{"flood", does("flood"), config.FailedPrecondition, []string{`it printed "xxxx`}},
		{"another version", does("version"), config.FailedPrecondition, []string{`version "99"`, "this host speaks 1"}},
		{"ends behind its handshake", does("brief"), config.Unavailable, []string{"exit status 4"}},
		{"elsewhere", does("elsewhere"), config.FailedPrecondition, []string{"somewhere else", "PLUGIN_UNIX_SOCKET_DIR"}},
		{"unknown option", serve(`{"putz": "x"}`), config.InvalidArgument, []string{`unknown option "putz"`, "puts"}},
		{"wrong type", serve(`{"puts": 7}`), config.InvalidArgument, []string{`"puts" must be a string`}},
		{"open fails", serve(`{"on_open": "error"}`), config.InvalidArgument, []string{"Configure failed", "not to my taste", "offer another"}},
		{"open panics", serve(`{"on_open": "panic"}`), config.Internal, []string{"Configure failed", "panicked", "in open"}},
		{"open hangs", serve(`{"on_open": "hang"}`), config.Unavailable, []string{"did not get through Configure in time"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sockets := socketDir(t)
			c.plugin.Name = "broken-one"
			begin := time.Now()
			p, err := pluginhost.Start(t.Context(), c.plugin, pluginhost.Options{
				SocketDir: sockets, StartTimeout: 1500 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
			})
			if err == nil {
				_ = p.Close()
				t.Fatal("it started")
			}
			wantCode(t, err, c.code)
			for _, want := range append(c.says, "broken-one") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q:\n%v", want, err)
				}
			}
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			if left, _ := os.ReadDir(sockets); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestStartIsGivenUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pl := plugin(t)
	pl.Args = []string{"hang"}
	time.AfterFunc(50*time.Millisecond, cancel)
	begin := time.Now()
	_, err := pluginhost.Start(ctx, pl, pluginhost.Options{SocketDir: socketDir(t)})
	wantCode(t, err, config.Canceled)
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestHost(t *testing.T) {
	sockets := socketDir(t)
	a, b := plugin(t), plugin(t)
	a.Name, b.Name = "a", "b"
	h, err := pluginhost.Open(t.Context(), []pluginhost.Plugin{b, a}, pluginhost.Options{SocketDir: sockets, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range h.Processes() {
		names = append(names, p.Name())
		probe(t, p, "pid")
	}
	if strings.Join(names, " ") != "a b" {
		t.Errorf("processes are %v", names)
	}
	if _, ok := h.Process("a"); !ok {
		t.Error("no process a")
	}
	if _, ok := h.Process("c"); ok {
		t.Error("a process c")
	}
	for range 2 {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	if left, _ := os.ReadDir(sockets); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestHostStartsAllOrNone(t *testing.T) {
	sockets := socketDir(t)
	good, exits, missing := plugin(t), plugin(t), plugin(t)
	exits.Name, exits.Args = "exits", []string{"exit"}
	missing.Name, missing.Path = "missing", "/nowhere/at/all"
	_, err := pluginhost.Open(t.Context(), []pluginhost.Plugin{good, exits, missing},
		pluginhost.Options{SocketDir: sockets, Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Fatal("it started")
	}
	for _, want := range []string{"plugin exits: ", "exit status 3", "plugin missing: ", "/nowhere/at/all"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if left, _ := os.ReadDir(sockets); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := pluginhost.Open(t.Context(), []pluginhost.Plugin{good, good}, pluginhost.Options{}); !errors.Is(err, config.InvalidArgument) {
		t.Errorf("the same name twice: %v", err)
	}
}
