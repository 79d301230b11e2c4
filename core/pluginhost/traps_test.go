package pluginhost_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// These tests are about the ways in which go-plugin, or a process under it, is
// known to fail its host. Their numbers are those of the list that the design
// was made with.

// go-plugin's Kill and Ping wait for ever for a process that is stopped.
func TestTrap01KillHasNoDeadline(t *testing.T) {
	t.Parallel()
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	pid := p.Status().PID
	stop(t, pid)
	begin := time.Now()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Close took %v", took)
	}
	if alive(pid) {
		t.Error("the process is still there")
	}
}

func TestTrap01StoppedPluginIsReplaced(t *testing.T) {
	t.Parallel()
	pl := plugin(t)
	pl.CallTimeout = 10 * time.Second
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	pid := p.Status().PID
	stop(t, pid)
	// This read is in flight when the plugin is found to be stuck.
	if got := probe(t, p, "pid"); got == fmt.Sprint(pid) {
		t.Error("the stopped process answered")
	}
	if s := p.Status(); s.Restarts != 1 || !strings.Contains(s.LastError, "health checks") {
		t.Errorf("status is %+v", s)
	}
}

// go-plugin notices the end of a process only when nobody holds its pipes.
func TestTrap02GrandchildHoldsStderr(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	grandchild := number(t, probe(t, p, "grandchild"))
	pid := p.Status().PID
	begin := time.Now()
	kill(t, pid)
	eventually(t, 100*time.Millisecond, "the end of the process is seen", func() bool { return p.Status().PID != pid })
	if got := probe(t, p, "pid"); got == fmt.Sprint(pid) {
		t.Error("the dead process answered")
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the restart took %v", took)
	}
	if alive(grandchild) {
		t.Error("the grandchild is still there")
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		t.Error("the process was not reaped")
	}
}

// go-plugin hands the host's environment on, and lets it win.
func TestTrap03Environment(t *testing.T) {
	t.Setenv("SECRET_OF_THE_HOST", "s3cr3t")
	t.Setenv("ALLOWED", "yes")
	pl := plugin(t)
	pl.Env = []string{"ALLOWED", "NOT_SET_AT_ALL"}
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	var env []string
	if err := json.Unmarshal([]byte(probe(t, p, "env")), &env); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, pair := range env {
		name, _, _ := strings.Cut(pair, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{"ALLOWED", "PLUGIN_PROTOCOL_VERSIONS", "PLUGIN_UNIX_SOCKET_DIR", "TAGSTORE_PLUGIN_COOKIE"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if !slices.Contains(env, "ALLOWED=yes") {
		t.Errorf("environment is %v", env)
	}
}

// go-plugin's client, command and checksum work once.
func TestTrap04EveryLaunchIsNew(t *testing.T) {
	t.Parallel()
	sockets := socketDir(t)
	p := start(t, plugin(t), pluginhost.Options{SocketDir: sockets})
	pids := map[int]bool{}
	for range 3 {
		pid := p.Status().PID
		pids[pid] = true
		kill(t, pid)
		restarted(t, p, uint64(len(pids)))
	}
	if s := p.Status(); s.Restarts != 3 || s.Generation != 4 || len(pids) != 3 {
		t.Errorf("status is %+v", s)
	}
}

// launchDirs returns the folders of the launches of all hosts in base.
func launchDirs(t testing.TB, base string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(base, "*", "*-*"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(p string) bool { return strings.HasSuffix(p, ".lock") })
}

// go-plugin ignores the folder that it is told to put sockets in.
func TestTrap05SocketFolder(t *testing.T) {
	sockets := socketDir(t)
	p := start(t, plugin(t), pluginhost.Options{SocketDir: sockets})
	dirs := launchDirs(t, sockets)
	if len(dirs) != 1 {
		t.Fatalf("launch folders are %v", dirs)
	}
	if found, _ := filepath.Glob(filepath.Join(dirs[0], "plugin*")); len(found) == 0 {
		t.Errorf("no socket in %s", dirs[0])
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(sockets); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Modes of sockets follow the umask, and sockets outlive a killed process.
func TestTrap06SocketModes(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	sockets := filepath.Join(socketDir(t), "made")
	p := start(t, plugin(t), pluginhost.Options{SocketDir: sockets})
	sockets2 := launchDirs(t, sockets)
	if len(sockets2) != 1 {
		t.Fatalf("launch folders are %v", sockets2)
	}
	err := filepath.WalkDir(sockets, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if got := probe(t, p, "umask"); got != "77" {
		t.Errorf("the plugin's umask is %s", got)
	}
	kill(t, p.Status().PID)
	restarted(t, p, 1)
	if dirs := launchDirs(t, sockets); len(dirs) != 1 || dirs[0] == sockets2[0] {
		t.Errorf("launch folders were %v and are %v", sockets2, dirs)
	}
}

func TestTrap06SocketPathTooLong(t *testing.T) {
	long := filepath.Join(socketDir(t), strings.Repeat("x", 60))
	_, err := pluginhost.Start(t.Context(), plugin(t), pluginhost.Options{SocketDir: long})
	e := withCode(t, err, config.FailedPrecondition)
	if !strings.Contains(e.Error(), "bytes") || !strings.Contains(e.Hint, "shorter") {
		t.Errorf("the error is %v", e)
	}
}

func TestTrap06OpenSocketFolderIsRefused(t *testing.T) {
	dir := socketDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := pluginhost.Start(t.Context(), plugin(t), pluginhost.Options{SocketDir: dir})
	if e := withCode(t, err, config.FailedPrecondition); !strings.Contains(e.Hint, "0700") {
		t.Errorf("the error is %v", e)
	}
}

// helperHost runs this test binary as a host and returns it with its plugin.
func helperHost(t *testing.T, sockets string) (host *exec.Cmd, plugin int) {
	t.Helper()
	path := pluginPath(t)
	host = exec.Command(os.Args[0])
	host.Env = append(os.Environ(), asHost+"="+path, "PLUGINHOST_TEST_SOCKETS="+sockets)
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = host.Process.Kill()
		_ = host.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return host, number(t, strings.TrimSpace(line))
}

func pluginPath(t testing.TB) string {
	t.Helper()
	return plugin(t).Path
}

// A killed host leaves its plugins running, and its sockets lying about.
func TestTrap07HostIsKilled(t *testing.T) {
	sockets := socketDir(t)
	host, pid := helperHost(t, sockets)
	if !alive(pid) {
		t.Fatal("the plugin does not run")
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait()
	eventually(t, 2*time.Second, "the plugin is gone", func() bool { return !alive(pid) })

	if len(launchDirs(t, sockets)) != 1 {
		t.Fatal("the dead host left nothing to sweep")
	}
	start(t, plugin(t), pluginhost.Options{SocketDir: sockets})
	if left, _ := os.ReadDir(sockets); len(left) != 1 {
		t.Errorf("the socket folder holds %v", left)
	}
}

func TestTrap07LiveHostsAreNotSwept(t *testing.T) {
	sockets := socketDir(t)
	first := start(t, plugin(t), pluginhost.Options{SocketDir: sockets})
	start(t, plugin(t), pluginhost.Options{SocketDir: sockets})
	if dirs := launchDirs(t, sockets); len(dirs) != 2 {
		t.Errorf("launch folders are %v", dirs)
	}
	probe(t, first, "pid")
}

// A parent-death signal fires when the thread that forked ends.
func TestTrap07EndingThreadsKillNoPlugin(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	pid := p.Status().PID
	kill(t, pid) // so that a relaunch is covered too
	restarted(t, p, 1)
	pid = p.Status().PID
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(runtime.LockOSThread) // the thread ends with its goroutine
	}
	wg.Wait()
	if got := probe(t, p, "pid"); got != fmt.Sprint(pid) {
		t.Errorf("the plugin %d was replaced by %s", pid, got)
	}
}

// A long line on the real standard output stops go-plugin's reader.
func TestTrap08LongLinesOnStdout(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	probe(t, p, "stdout-40")
	probe(t, p, "pid")
}

// gatedHandler is a log that passes until it is shut, and then takes nothing
// until it is free.
type gatedHandler struct {
	slog.Handler
	free <-chan struct{}
	shut atomic.Bool
}

func (h *gatedHandler) Handle(context.Context, slog.Record) error {
	if h.shut.Load() {
		<-h.free
	}
	return nil
}

func (h *gatedHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *gatedHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *gatedHandler) WithGroup(string) slog.Handler            { return h }

// go-plugin's reader waits for the log, and the plugin for the reader.
func TestTrap08StuckLogBlocksNoCall(t *testing.T) {
	free := make(chan struct{})
	// The host's own lines go through the same log: let those of the start pass.
	gate := &gatedHandler{Handler: slog.DiscardHandler, free: free}
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t), Logger: slog.New(gate)})
	gate.shut.Store(true)
	probe(t, p, "stderr-20000")
	for range 100 {
		probe(t, p, "print")
	}
	close(free)
}

// A host takes 2 GiB from a plugin unless told otherwise, and sends it more than
// it takes.
func TestTrap09MessageLimits(t *testing.T) {
	t.Parallel()
	t.Run("request", func(t *testing.T) {
		p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
		pid := probe(t, p, "pid")
		_, err := p.Put(t.Context(), driver.PutRequest{ID: id(t, "k"), Value: make([]byte, 10<<20)})
		wantCode(t, err, config.ResourceExhausted)
		if probe(t, p, "pid") != pid {
			t.Error("the plugin was replaced")
		}
	})
	t.Run("reply", func(t *testing.T) {
		p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
		pid := probe(t, p, "pid")
		_, err := p.Get(t.Context(), id(t, fmt.Sprintf("probe/bytes-%d", 10<<20)), 0)
		wantCode(t, err, config.ResourceExhausted)
		if probe(t, p, "pid") != pid {
			t.Error("the plugin was replaced")
		}
	})
	t.Run("reply of a plugin without limits", func(t *testing.T) {
		p := start(t, raw(t), pluginhost.Options{SocketDir: socketDir(t)})
		_, err := p.Get(t.Context(), id(t, "huge"), 0)
		wantCode(t, err, config.ResourceExhausted)
		if _, err := p.Get(t.Context(), id(t, "fine"), 0); err != nil {
			t.Error(err)
		}
		if s := p.Status(); s.Restarts != 0 {
			t.Errorf("status is %+v", s)
		}
	})
}

// A panic in a handler ends the process, and all other calls with it.
func TestTrap10PanicStaysInItsCall(t *testing.T) {
	var log logBuffer
	pl, marks := marked(t)
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t), Logger: log.logger()})
	pid := probe(t, p, "pid")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := p.Get(context.Background(), id(t, "probe/wait-done"), 0); err != nil {
				t.Errorf("a parallel call failed: %v", err)
			}
		})
	}
	waiting(t, marks, 8)
	_, err := p.Get(t.Context(), id(t, "probe/panic"), 0)
	wantCode(t, err, config.Internal)
	if err := os.WriteFile(marks+"done", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if probe(t, p, "pid") != pid {
		t.Error("the plugin was replaced")
	}
	eventually(t, 2*time.Second, "the panic and its stack are in the log", func() bool {
		return strings.Contains(log.String(), `"level":"ERROR","msg":"panic in a plugin call"`) && strings.Contains(log.String(), "in a call") &&
			strings.Contains(log.String(), "goroutine ")
	})
}

// go-plugin reports a successful launch of a plugin that answers no call.
func TestTrap11MutePluginIsNotPublished(t *testing.T) {
	t.Parallel()
	pl := plugin(t)
	pl.Args = []string{"mute"}
	begin := time.Now()
	_, err := pluginhost.Start(t.Context(), pl, pluginhost.Options{SocketDir: socketDir(t), StartTimeout: 500 * time.Millisecond})
	wantCode(t, err, config.Unavailable)
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
}

// go-plugin waits two seconds for a plugin that has no Shutdown service.
func TestTrap12PluginWithoutShutdown(t *testing.T) {
	p := start(t, raw(t), pluginhost.Options{SocketDir: socketDir(t)})
	begin := time.Now()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 500*time.Millisecond {
		t.Errorf("Close took %v", took)
	}
}

// A connection that idles out has to find its socket again.
func TestTrap13ConnectionNeedsNoSocketFile(t *testing.T) {
	sockets := socketDir(t)
	p := start(t, raw(t), pluginhost.Options{SocketDir: sockets})
	for _, dir := range launchDirs(t, sockets) {
		if err := os.Remove(filepath.Join(dir, "raw")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Get(t.Context(), id(t, "k"), 0); err != nil {
		t.Error(err)
	}
}

// Go errors lose their class on the way through gRPC.
func TestTrap14ErrorsKeepTheirCode(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	for _, code := range config.Codes() {
		_, err := p.Get(t.Context(), id(t, fmt.Sprintf("probe/code-%d", code)), 0)
		e := withCode(t, err, code)
		if e.Message != "as asked" || e.Hint != "a hint" || e.Version != 7 || e.RetryAfter != time.Second {
			t.Errorf("%v came as %+v", code, e)
		}
	}
	_, err := p.Get(t.Context(), id(t, "probe/plain"), 0)
	if e := withCode(t, err, config.Unknown); strings.Contains(e.Error(), "without a class") {
		t.Errorf("unclassified text crossed: %v", e)
	}
	if s := p.Status(); s.Restarts != 0 {
		t.Errorf("errors of the plugin restarted it: %+v", s)
	}
}

// A plugin shares the host's terminal: its Ctrl-C, its input.
func TestTrap15SignalsAndInput(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	pid := p.Status().PID
	if got := probe(t, p, "pgid"); got != fmt.Sprint(pid) {
		t.Errorf("the plugin is in process group %s, not its own %d", got, pid)
	}
	if got := probe(t, p, "stdin"); got != "0 <nil>" {
		t.Errorf("reading its input gave %s", got)
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if got := probe(t, p, "pid"); got != fmt.Sprint(pid) {
			t.Fatalf("SIGINT ended the plugin")
		}
	}
}

// go-plugin's own reader of log lines panics on some that a plugin can write.
func TestHostileLogLine(t *testing.T) {
	var log logBuffer
	pl := plugin(t)
	pl.Args = []string{"panic-line"}
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t), Logger: log.logger()})
	probe(t, p, "raw")
	eventually(t, 2*time.Second, "the lines are in the log", func() bool { return strings.Count(log.String(), "@timestamp") == 2 })
}

// The plugin's part of a trace hangs under the host's span of the call, with and
// without a provider that records.
func TestTraceContextCrosses(t *testing.T) {
	caller := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4}, TraceFlags: trace.FlagsSampled})
	recorder := tracetest.NewSpanRecorder()
	for name, provider := range map[string]trace.TracerProvider{
		"recording": sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)),
		"silent":    noop.NewTracerProvider(),
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t), TracerProvider: provider})
			e, err := p.Get(trace.ContextWithSpanContext(t.Context(), caller), id(t, "probe/trace"), 0)
			if err != nil {
				t.Fatal(err)
			}
			parent := caller
			if name == "recording" {
				spans := recorder.Ended()
				if len(spans) != 1 || spans[0].Name() != "backend/Get" || spans[0].Parent().SpanID() != caller.SpanID() {
					t.Fatalf("the host's spans are %v", spans)
				}
				parent = spans[0].SpanContext()
			}
			if want := parent.TraceID().String() + " " + parent.SpanID().String(); string(e.Value) != want {
				t.Errorf("the plugin is in %q, want %q", e.Value, want)
			}
			if got := probe(t, p, "trace"); got != (trace.TraceID{}).String()+" "+(trace.SpanID{}).String() {
				t.Errorf("a call in no trace puts the plugin in %q", got)
			}
		})
	}
}
