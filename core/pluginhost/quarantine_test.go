package pluginhost_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// gauge returns what a gauge stands at for one plugin.
func gauge(t *testing.T, reader sdkmetric.Reader, name, plugin string) int64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			if d, ok := m.Data.(metricdata.Gauge[int64]); ok && m.Name == name {
				for _, point := range d.DataPoints {
					if of, _ := point.Attributes.Value("plugin"); of.AsString() == plugin {
						return point.Value
					}
				}
			}
		}
	}
	return -1
}

// Four ends of a plugin are mended; behind the fifth nothing is started until
// somebody asks for it, and no other plugin notices.
func TestR02SixthCrashYieldsNoNewProcess(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	bad, good := plugin(t), plugin(t)
	bad.Name, good.Name = "bad", "good"
	bad.CallTimeout = 10 * time.Second
	host, err := pluginhost.Open(t.Context(), []pluginhost.Plugin{bad, good}, pluginhost.Options{
		SocketDir: socketDir(t), Logger: slog.New(slog.DiscardHandler),
		MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	p, _ := host.Process("bad")
	other, _ := host.Process("good")
	otherPID := other.Status().PID

	pids := map[int]bool{}
	for i := range 5 {
		restarted(t, p, uint64(i))
		pid := p.Status().PID
		if pids[pid] {
			t.Fatalf("process %d came back", pid)
		}
		pids[pid] = true
		kill(t, pid)
		eventually(t, 30*time.Second, "the end is seen", func() bool { return p.Status().PID != pid })
	}
	eventually(t, 30*time.Second, "the plugin is given up", func() bool { return p.Status().State == pluginhost.StateFailed })
	s := p.Status()
	if s.PID != 0 || s.Generation != 5 || s.Restarts != 4 || !strings.Contains(s.LastError, "signal 9") || s.State.String() != "failed" {
		t.Errorf("status is %+v", s)
	}
	begin := time.Now()
	_, err = p.Get(t.Context(), id(t, "k"), 0)
	e := withCode(t, err, config.FailedPrecondition)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the call failed after %v", took)
	}
	if !strings.Contains(e.Message, "failed 5 times within 10m0s") || !strings.Contains(e.Hint, "reload the manifest") {
		t.Errorf("the error is %v", e)
	}
	for range 100 { // nor does a circuit breaker say something else after a while
		_, err := p.Get(t.Context(), id(t, "k"), 0)
		wantCode(t, err, config.FailedPrecondition)
	}
	if !errors.Is(err, config.Unavailable) {
		t.Error("a cache can not tell that no store was asked")
	}
	if got := gauge(t, reader, "tagstore.plugin.failed", "bad"); got != 1 {
		t.Errorf("the metric is %d", got)
	}
	if got := gauge(t, reader, "tagstore.plugin.up", "bad"); got != 0 {
		t.Errorf("the plugin is up: %d", got)
	}
	probe(t, other, "pid")
	if s := other.Status(); s.PID != otherPID || s.Restarts != 0 || s.State != pluginhost.StateServing {
		t.Errorf("the other plugin is disturbed: %+v", s)
	}
	// Longer than any restart of a plugin that had answered would have waited.
	quiet := time.Now().Add(1200 * time.Millisecond)
	eventually(t, 5*time.Second, "a while passes", func() bool {
		if s := p.Status(); s.Generation != 5 || s.State != pluginhost.StateFailed {
			t.Fatalf("status is %+v", s)
		}
		return time.Now().After(quiet)
	})

	p.Rearm()
	restarted(t, p, 5)
	put(t, p, "k", "v")
	if got := gauge(t, reader, "tagstore.plugin.failed", "bad"); got != 0 {
		t.Errorf("the metric is %d", got)
	}
	p.Rearm() // has no effect, and leaves none for later
	kill(t, p.Status().PID)
	restarted(t, p, 6)
}

// A plugin that crashes while it starts is given up as well, and calls that wait
// for it fail then and there.
func TestR02CrashOnStart(t *testing.T) {
	t.Parallel()
	pl := plugin(t)
	binary := filepath.Join(t.TempDir(), "plugin")
	if err := os.Symlink(pl.Path, binary); err != nil {
		t.Fatal(err)
	}
	pl.Path, pl.CallTimeout = binary, 30*time.Second
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	if err := os.Remove(binary); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/false", binary); err != nil {
		t.Fatal(err)
	}
	kill(t, p.Status().PID)
	begin := time.Now()
	_, err := p.Get(t.Context(), id(t, "k"), 0)
	wantCode(t, err, config.FailedPrecondition)
	t.Logf("given up after %v", time.Since(begin))
	if s := p.Status(); s.State != pluginhost.StateFailed || s.Generation != 5 || !strings.Contains(s.LastError, "exit status 1") {
		t.Errorf("status is %+v", s)
	}
	// Still broken: the next five failures are as many as the first.
	p.Rearm()
	eventually(t, 20*time.Second, "it is given up again", func() bool {
		s := p.Status()
		return s.State == pluginhost.StateFailed && s.Generation > 5
	})
	if s := p.Status(); s.Generation != 10 {
		t.Errorf("status is %+v", s)
	}
	if err := os.Remove(binary); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(pluginPath(t), binary); err != nil {
		t.Fatal(err)
	}
	p.Rearm()
	eventually(t, 10*time.Second, "it serves", func() bool { return p.Status().State == pluginhost.StateServing })
	put(t, p, "k", "v")
}

// A plugin in quarantine is closed as any other.
func TestR02FailedPluginIsClosed(t *testing.T) {
	t.Parallel()
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t), MaxFailures: 1})
	kill(t, p.Status().PID)
	eventually(t, 30*time.Second, "it is given up", func() bool { return p.Status().State == pluginhost.StateFailed })
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if s := p.Status(); s.State != pluginhost.StateStopped {
		t.Errorf("status is %+v", s)
	}
	p.Rearm()
}
