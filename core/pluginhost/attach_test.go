package pluginhost_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/plugintest"
)

// The reference store keeps every clause when somebody else runs it.
func TestR34Conformance(t *testing.T) {
	t.Parallel()
	plugintest.Run(t, testPlugin, func(testing.TB) any { return struct{}{} }, drivertest.Caps{
		Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true, MaxValue: 1 << 20,
	}, plugintest.Attached())
}

// sidecar is where the test plugin is run, and as what a host has it.
func sidecar(t testing.TB) (run func() *plugintest.Alone, p pluginhost.Plugin) {
	t.Helper()
	binary, socket := plugintest.Build(t, testPlugin), filepath.Join(socketDir(t), "p")
	return func() *plugintest.Alone { return plugintest.RunAlone(t, binary, socket) },
		pluginhost.Plugin{Name: "test", Address: "unix://" + socket}
}

// Restarted in whatever way, under readers, a sidecar costs no read.
func TestR34SidecarRestartsUnderReaders(t *testing.T) {
	t.Parallel()
	const readers = 16
	run, pl := sidecar(t)
	now := run()
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	ctx, cancel := context.WithCancel(t.Context())
	var reads, failed atomic.Int64
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := p.Get(context.Background(), id(t, "probe/pid"), 0)
				reads.Add(1)
				if err != nil {
					failed.Add(1)
					t.Errorf("a read failed: %v (%v)", err, errors.Unwrap(err))
				}
			}
		})
	}
	var longest time.Duration
	for i := range 8 {
		before := reads.Load()
		eventually(t, 10*time.Second, "some reads", func() bool { return reads.Load() > before+2*readers })
		begin := time.Now()
		if i%2 == 0 {
			now.Kill()
		} else if err := now.Stop(); err != nil {
			t.Errorf("the sidecar ended with %v", err)
		}
		now = run()
		eventually(t, 10*time.Second, "the new sidecar serves", func() bool {
			s := p.Status()
			return s.State == pluginhost.StateServing && s.PID == now.PID()
		})
		longest = max(longest, time.Since(begin))
	}
	cancel()
	wg.Wait()
	t.Logf("%d reads over 8 restarts, %d failed; serving again after %v at most", reads.Load(), failed.Load(), longest)
	if s := p.Status(); s.Restarts != 8 || s.State != pluginhost.StateServing {
		t.Errorf("status is %+v", s)
	}
}

// The host leaves the process alone, which the next host, or the same one after
// a loss of the connection, finds as it was: configured, with its data.
func TestR34ConnectionsComeAndGo(t *testing.T) {
	t.Parallel()
	run, pl := sidecar(t)
	alone := run()
	first := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	put(t, first, "k", "v")
	if d, err := pluginhost.Inspect(t.Context(), pl, pluginhost.Options{SocketDir: socketDir(t)}); err != nil || d.Name != "test" {
		t.Errorf("asked what it is, it says %+v, %v", d, err)
	}
	second := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)}) // as a reload has it
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	e, err := second.Get(t.Context(), id(t, "k"), 0)
	if err != nil || string(e.Value) != "v" {
		t.Errorf("the second host got %q, %v", e.Value, err)
	}
	if got := probe(t, second, "instance"); got != "test" {
		t.Errorf("the instance is %q", got)
	}

	pl.Options = json.RawMessage(`{"bare": true}`)
	_, err = pluginhost.Start(t.Context(), pl, pluginhost.Options{SocketDir: socketDir(t), Logger: slog.New(slog.DiscardHandler)})
	if e := withCode(t, err, config.FailedPrecondition); !strings.Contains(err.Error(), "other options") || !strings.Contains(e.Hint, "restart it") {
		t.Errorf("other options: %v", err)
	}
	if !alive(alone.PID()) {
		t.Error("the process is gone")
	}
	if s := second.Status(); s.PID != alone.PID() || s.Restarts != 0 {
		t.Errorf("status is %+v", s)
	}
}

// A sidecar that stands still is not killed, but not waited for either; it is
// back as soon as it goes on.
func TestR34StoppedSidecar(t *testing.T) {
	t.Parallel()
	run, pl := sidecar(t)
	alone := run()
	pl.CallTimeout = 20 * time.Second
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t), StartTimeout: 500 * time.Millisecond})
	put(t, p, "k", "v")
	stop(t, alone.PID())
	read := make(chan error, 1)
	go func() {
		_, err := p.Get(context.Background(), id(t, "k"), 0)
		read <- err
	}()
	// More failures than a plugin that the host starts would be allowed.
	eventually(t, 20*time.Second, "the connection is given up, and tried again", func() bool {
		s := p.Status()
		return s.State == pluginhost.StateRestarting && s.Generation > 6
	})
	if err := syscall.Kill(alone.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Errorf("the read that waited: %v", err)
	}
	if s := p.Status(); s.PID != alone.PID() || s.State != pluginhost.StateServing {
		t.Errorf("status is %+v", s)
	}
}

// The order in which containers start does not matter.
func TestR34HostIsFirst(t *testing.T) {
	t.Parallel()
	run, pl := sidecar(t)
	type started struct {
		p   *pluginhost.Process
		err error
	}
	done := make(chan started, 1)
	go func() {
		p, err := pluginhost.Start(context.Background(), pl, pluginhost.Options{SocketDir: socketDir(t), Logger: slog.New(slog.DiscardHandler), StartTimeout: 20 * time.Second})
		done <- started{p, err}
	}()
	select {
	case s := <-done:
		t.Fatalf("it did not wait: %v", s.err)
	case <-time.After(100 * time.Millisecond):
	}
	run()
	s := <-done
	if s.err != nil {
		t.Fatal(s.err)
	}
	put(t, s.p, "k", "v")
	if err := s.p.Close(); err != nil {
		t.Error(err)
	}
}

func TestR34FailedStarts(t *testing.T) {
	t.Parallel()
	dir := socketDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mute, err := net.Listen("unix", filepath.Join(dir, "mute"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	other, err := net.Listen("unix", filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	stranger := grpc.NewServer() // some service, and none of ours
	go func() { _ = stranger.Serve(other) }()
	t.Cleanup(stranger.Stop)
	for _, c := range []struct {
		name   string
		plugin pluginhost.Plugin
		code   config.Code
		says   string
	}{
		{"no service of ours", pluginhost.Plugin{Address: "unix://" + dir + "/other"}, config.FailedPrecondition, "no version of the plugin protocol that this host speaks, which are 1"},
		{"nobody there", pluginhost.Plugin{Address: "unix://" + dir + "/none"}, config.Unavailable, "no plugin listens at"},
		{"no socket", pluginhost.Plugin{Address: "unix://" + file}, config.Unavailable, "no plugin listens at"},
		{"mute", pluginhost.Plugin{Address: "unix://" + dir + "/mute"}, config.Unavailable, "in time"},
		{"relative", pluginhost.Plugin{Address: "unix://x"}, config.InvalidArgument, "absolute path"},
		{"another scheme", pluginhost.Plugin{Address: "tcp://127.0.0.1:1"}, config.InvalidArgument, "unix://"},
		{"long", pluginhost.Plugin{Address: "unix:///" + strings.Repeat("x", 200)}, config.InvalidArgument, "201 bytes"},
		{"a program as well", pluginhost.Plugin{Address: "unix:///x", Path: "/x"}, config.InvalidArgument, "only a program"},
		{"limits", pluginhost.Plugin{Address: "unix:///x", Limits: pluginhost.Limits{CPUs: 1}}, config.InvalidArgument, "only a program"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.plugin.Name = "away"
			p, err := pluginhost.Start(t.Context(), c.plugin, pluginhost.Options{
				SocketDir: socketDir(t), StartTimeout: 300 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
			})
			if err == nil {
				_ = p.Close()
				t.Fatal("it started")
			}
			wantCode(t, err, c.code)
			if !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "away") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// Whoever else listens at the address is given nothing, not even the options.
func TestR34ForeignPeerIsRefused(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		unable(t, "only root can serve as somebody else")
	}
	dir := socketDir(t)
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(dir, "theirs")
	if err := os.Mkdir(theirs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(theirs, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(theirs, "p")
	foreign := plugintest.RunAlone(t, asNobody(t), socket)
	eventually(t, 10*time.Second, "somebody listens", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	_, err := pluginhost.Start(t.Context(), pluginhost.Plugin{Name: "theirs", Address: foreign.Address()},
		pluginhost.Options{SocketDir: socketDir(t), Logger: slog.New(slog.DiscardHandler)})
	if e := withCode(t, err, config.FailedPrecondition); !strings.Contains(e.Message, "user 65534 answers") {
		t.Errorf("the error is %v", e)
	}
}

// asNobody returns a program that runs the test plugin as another user.
func asNobody(t testing.TB) string {
	t.Helper()
	binary := plugintest.Build(t, testPlugin)
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "plugin")
	if err := os.WriteFile(copied, program, 0o755); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "run")
	text := "#!/bin/sh\nexec /usr/bin/setpriv --reuid=65534 --regid=65534 --clear-groups " + copied + "\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

// What a write left open on a connection that broke is not known, as ever.
func TestR34WritesAreNotRepeated(t *testing.T) {
	t.Parallel()
	run, pl := sidecar(t)
	marks := filepath.Join(t.TempDir(), "mark-")
	options, err := json.Marshal(map[string]string{"puts": marks})
	if err != nil {
		t.Fatal(err)
	}
	pl.Options = options
	run()
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	_, err = p.Put(t.Context(), driver.PutRequest{ID: id(t, "probe/die"), Value: []byte("v"), Message: "m"})
	wantCode(t, err, config.OutcomeUnknown)
	run()
	restarted(t, p, 1)
	if lines := markLines(t, marks); len(lines) != 1 {
		t.Errorf("the plugin got %q", lines)
	}
	put(t, p, "k", "v")
	if lines := markLines(t, marks+"opened"); len(lines) != 2 {
		t.Errorf("it was configured %d times", len(lines))
	}
}
