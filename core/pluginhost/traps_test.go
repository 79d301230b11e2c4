package pluginhost_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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
func TestR06StoppedPluginIsClosed(t *testing.T) {
	t.Parallel()
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	pid := p.Status().PID
	stop(t, pid)
	begin := time.Now()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("Close took %v", took)
	}
	if alive(pid) {
		t.Error("the process is still there")
	}
	nothingWaits(t)
}

func TestR05StoppedPluginIsReplaced(t *testing.T) {
	t.Parallel()
	pl := plugin(t)
	pl.CallTimeout = 10 * time.Second
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	pid := p.Status().PID
	stop(t, pid)
	begin := time.Now()
	// This read is in flight when the plugin is found to be stuck.
	if got := probe(t, p, "pid"); got == fmt.Sprint(pid) {
		t.Error("the stopped process answered")
	}
	if took := time.Since(begin); took >= 30*time.Second {
		t.Errorf("it served again after %v", took)
	} else {
		t.Logf("it served again after %v", took)
	}
	if s := p.Status(); s.Restarts != 1 || !strings.Contains(s.LastError, "health checks") {
		t.Errorf("status is %+v", s)
	}
	nothingWaits(t)
}

// nothingWaits waits until no goroutine is in those steps of go-plugin that have
// no deadline.
func nothingWaits(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, "nobody waits in go-plugin's Kill or Ping", func() bool {
		stacks := make([]byte, 4<<20)
		text := string(stacks[:runtime.Stack(stacks, true)])
		return !strings.Contains(text, "go-plugin.(*Client).Kill") && !strings.Contains(text, "go-plugin.(*GRPCClient).Ping")
	})
}

// go-plugin notices the end of a process only when nobody holds its pipes.
func TestR07GrandchildHoldsStderr(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	grandchild := number(t, probe(t, p, "grandchild"))
	pid := p.Status().PID
	begin := time.Now()
	kill(t, pid)
	eventually(t, 10*time.Second, "the end of the process is seen", func() bool { return p.Status().PID != pid })
	t.Logf("the end was seen after %v", time.Since(begin))
	if got := probe(t, p, "pid"); got == fmt.Sprint(pid) {
		t.Error("the dead process answered")
	}
	t.Logf("the restart took %v", time.Since(begin))
	if s := p.Status(); !strings.Contains(s.LastError, "signal 9") {
		t.Errorf("the end was seen by something else: %+v", s)
	}
	if alive(grandchild) {
		t.Error("the grandchild is still there")
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		t.Error("the process was not reaped")
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

// helperHost runs this test binary as a host and returns it with its plugin.
func helperHost(t *testing.T, sockets string, args ...string) (host *exec.Cmd, plugin int) {
	t.Helper()
	path := pluginPath(t)
	host = exec.Command(os.Args[0])
	host.Env = append(os.Environ(), asHost+"="+path, "PLUGINHOST_TEST_SOCKETS="+sockets, "PLUGINHOST_TEST_ARGS="+strings.Join(args, " "))
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

// A long line on the real standard output stops go-plugin's reader.
func TestR30LongLinesOnStdout(t *testing.T) {
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
func TestR29StuckLogBlocksNoCall(t *testing.T) {
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
// it takes. Here the limit is 9 MiB in both directions, since a value may have 8.
func TestR20MessageLimits(t *testing.T) {
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
func TestR32PanicStaysInItsCall(t *testing.T) {
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
	eventually(t, 30*time.Second, "the panic and its stack are in the log", func() bool {
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
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// go-plugin waits two seconds for a plugin that has no Shutdown service.
func TestTrap12PluginWithoutShutdown(t *testing.T) {
	best := time.Hour // of some: the machine may be busy
	for range 3 {
		p := start(t, raw(t), pluginhost.Options{SocketDir: socketDir(t)})
		begin := time.Now()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		best = min(best, time.Since(begin))
	}
	if best > time.Second {
		t.Errorf("Close took %v at best", best)
	}
}

// A connection that idles out has to find its socket again. Ours does not idle,
// and does not need the file; one that broke and can not be made again leads to
// a new process, not to a plugin that is unavailable for ever.
func TestR25SocketFileIsDeleted(t *testing.T) {
	t.Parallel()
	sockets := socketDir(t)
	p := start(t, raw(t), pluginhost.Options{SocketDir: sockets})
	pid := p.Status().PID
	for _, dir := range launchDirs(t, sockets) {
		if err := os.Remove(filepath.Join(dir, "raw")); err != nil {
			t.Fatal(err)
		}
	}
	// Long enough for health checks, which are calls, to have found it.
	deadline := time.Now().Add(4 * time.Second)
	eventually(t, 10*time.Second, "several health checks", func() bool {
		if _, err := p.Get(t.Context(), id(t, "k"), 0); err != nil {
			t.Fatal(err)
		}
		return time.Now().After(deadline)
	})
	if s := p.Status(); s.PID != pid || s.Restarts != 0 {
		t.Errorf("status is %+v", s)
	}
	begin := time.Now()
	// Too short for a second attempt, which would hang up on the successor.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := p.Get(ctx, id(t, "hang-up"), 0)
	wantCode(t, err, config.DeadlineExceeded)
	eventually(t, 10*time.Second, "another process serves", func() bool {
		s := p.Status()
		return s.State == pluginhost.StateServing && s.PID != pid
	})
	if _, err := p.Get(t.Context(), id(t, "k"), 0); err != nil {
		t.Error(err)
	}
	t.Logf("it served again after %v", time.Since(begin))
}

// Go errors lose their class on the way through gRPC.
func TestR23ErrorsKeepTheirCode(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	for _, code := range config.Codes() {
		_, err := p.Get(t.Context(), id(t, fmt.Sprintf("probe/code-%d", code)), 0)
		e := withCode(t, err, code)
		if e.Message != "as asked" || e.Hint != "a hint" || e.Version != 7 || e.RetryAfter != time.Second {
			t.Errorf("%v came as %+v", code, e)
		}
	}
	_, err := p.Get(t.Context(), id(t, "probe/code-3"), 0)
	if !errors.Is(err, config.Conflict) || errors.Is(err, config.NotFound) {
		t.Errorf("errors.Is does not tell what it is: %v", err)
	}
	_, err = p.Get(t.Context(), id(t, "probe/plain"), 0)
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
	eventually(t, 30*time.Second, "the lines are in the log", func() bool { return strings.Count(log.String(), "@timestamp") == 2 })
}

// The plugin's part of a trace hangs under the host's span of the call, with and
// without a provider that records.
func TestR22TraceContextCrosses(t *testing.T) {
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
