package pluginhost_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/plugintest"
)

// sickly is a plugin whose store is as the files say that set makes and removes.
type sickly struct {
	pluginhost.Plugin
	marks string
}

func newSickly(t testing.TB, name string) sickly {
	t.Helper()
	s := sickly{marks: filepath.Join(t.TempDir(), "mark-")}
	options, err := json.Marshal(map[string]string{"marks": s.marks})
	if err != nil {
		t.Fatal(err)
	}
	s.Plugin = pluginhost.Plugin{Name: name, Path: plugintest.Build(t, "./testdata/plugins/load"), Options: options}
	return s
}

func (s sickly) set(t testing.TB, state string) {
	t.Helper()
	if err := os.WriteFile(s.marks+state, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s sickly) unset(t testing.TB, state string) {
	t.Helper()
	if err := os.Remove(s.marks + state); err != nil {
		t.Fatal(err)
	}
}

// marked returns the lines of one of the plugin's marks.
func (s sickly) marked(name string) []string {
	raw, _ := os.ReadFile(s.marks + name)
	return strings.Fields(string(raw))
}

func idOf(t testing.TB, tenant, key string) config.ID {
	t.Helper()
	i := id(t, key)
	var err error
	if i.Tenant, err = config.ParseTenant(tenant); err != nil {
		t.Fatal(err)
	}
	return i
}

// times makes n calls, one after the other, and returns how long each took.
func times(t testing.TB, p *pluginhost.Process, n int) []time.Duration {
	t.Helper()
	took := make([]time.Duration, n)
	for i := range took {
		begin := time.Now()
		if _, err := p.Get(t.Context(), id(t, "k"), 0); err != nil {
			t.Fatal(err)
		}
		took[i] = time.Since(begin)
	}
	slices.Sort(took)
	return took
}

// startBoth starts two plugins of one host.
func startBoth(t testing.TB, a, b pluginhost.Plugin) (first, second *pluginhost.Process) {
	t.Helper()
	host, err := pluginhost.Open(t.Context(), []pluginhost.Plugin{a, b},
		pluginhost.Options{SocketDir: socketDir(t), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	first, _ = host.Process(a.Name)
	second, _ = host.Process(b.Name)
	return first, second
}

// A plugin that answers nobody, with ten thousand callers: what it can not take
// is refused at once, the host stays small, and its neighbour notices nothing.
// So does a tenant that has asked for little.
func TestR26HungPluginHoldsUpNoOther(t *testing.T) {
	a, b := newSickly(t, "a"), newSickly(t, "b")
	a.CallTimeout = 10 * time.Minute
	slow, quick := startBoth(t, a.Plugin, b.Plugin)
	alone := times(t, quick, 300)
	before := runtime.NumGoroutine()

	a.set(t, "hung")
	const callers, slots, places = 10_000, pluginhost.DefaultConcurrency, 16 * pluginhost.DefaultConcurrency
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var refused atomic.Int32
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			_, err := slow.Get(ctx, idOf(t, fmt.Sprintf("greedy-%d", i%2), "k"), 0)
			switch config.CodeOf(err) {
			case config.ResourceExhausted:
				if e := withCode(t, err, config.ResourceExhausted); e.Hint == "" || !strings.HasPrefix(e.Error(), "a.Get: ") {
					t.Errorf("the refusal is %v", e)
				}
				refused.Add(1)
			case config.Canceled:
			default:
				t.Errorf("a call ended with %v", err)
			}
		})
	}
	var s pluginhost.Status
	eventually(t, 30*time.Second, "each call runs, waits or is refused", func() bool {
		s = slow.Status()
		return s.InFlight+s.Waiting+int(refused.Load()) == callers
	})
	if s.InFlight < slots/2 || s.InFlight >= slots || s.Waiting >= places || refused.Load() == 0 {
		t.Errorf("%d calls run, %d wait and %d were refused", s.InFlight, s.Waiting, refused.Load())
	}
	// A call that waits has its caller's goroutine and no other, one that runs at
	// most those of a stream.
	eventually(t, 30*time.Second, "the refused callers are gone", func() bool {
		return runtime.NumGoroutine() <= before+4*s.InFlight+s.Waiting+50
	})
	t.Logf("%d goroutines before; %d with %d calls that run and %d that wait", before, runtime.NumGoroutine(), s.InFlight, s.Waiting)
	beside := times(t, quick, 300)
	if beside[150] > 5*alone[150] { // the tail is the machine's, where tests run side by side
		t.Errorf("the neighbour's calls took %v (99 of 100 within %v), and %v (%v) alone", beside[150], beside[297], alone[150], alone[297])
	}
	if s := quick.Status(); s.Waiting != 0 || s.InFlight != 0 {
		t.Errorf("the neighbour's status is %+v", s)
	}
	// It is let in where thousands wait; that it is not answered is the plugin's.
	modest := make(chan error, 1)
	go func() {
		_, err := slow.Get(ctx, idOf(t, "modest", "k"), 0)
		modest <- err
	}()
	eventually(t, 30*time.Second, "another tenant's call runs", func() bool {
		now := slow.Status()
		return now.InFlight == s.InFlight+1 && now.Waiting == s.Waiting
	})
	cancel()
	all.Wait()
	wantCode(t, <-modest, config.Canceled)
	a.unset(t, "hung")
	if s := slow.Status(); s.InFlight != 0 || s.Waiting != 0 || s.Circuit != pluginhost.CircuitClosed {
		t.Errorf("behind it all the status is %+v", s)
	}
	times(t, slow, 1)
	t.Logf("alone: %v, 99%% %v; beside the hung one: %v, 99%% %v; refused: %d", alone[150], alone[297], beside[150], beside[297], refused.Load())
}

// Watches take no slots, and have a bound of their own.
func TestR26WatchesAreBoundedApart(t *testing.T) {
	pl := newSickly(t, "watched").Plugin
	pl.Concurrency = 1
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	p.BoundWatches(4)
	ctx, cancel := context.WithCancel(t.Context())
	watch := func() (synced chan struct{}, ended chan error) {
		synced, ended = make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- p.Watch(ctx, driver.WatchRequest{Tenant: id(t, "k").Tenant}, func(driver.Event) error {
				close(synced)
				return nil
			})
		}()
		return synced, ended
	}
	var ends []chan error
	for range 2 { // a tenant's half
		synced, ended := watch()
		<-synced
		ends = append(ends, ended)
	}
	_, refused := watch()
	if e := withCode(t, <-refused, config.ResourceExhausted); !strings.Contains(e.Message, "watches") || e.Hint == "" {
		t.Errorf("the refusal is %v", e)
	}
	times(t, p, 1) // the one slot is free
	cancel()
	for _, ended := range ends {
		wantCode(t, <-ended, config.Canceled)
	}
}

// Half of the calls failing for five seconds opens the circuit: callers learn at
// once, since when and why, and are served again within two seconds of the
// plugin's recovery.
func TestR27HalfFailing(t *testing.T) {
	t.Parallel()
	var log logBuffer
	pl := newSickly(t, "half")
	p := start(t, pl.Plugin, pluginhost.Options{SocketDir: socketDir(t), Logger: log.logger()})
	times(t, p, 10)
	pl.set(t, "half")
	opened := func() bool {
		_, _ = p.Get(t.Context(), id(t, "k"), 0)
		return p.Status().Circuit != pluginhost.CircuitClosed
	}
	eventually(t, 20*time.Second, "the circuit opens", opened)
	asked := len(pl.marked("asked"))
	for range 100 { // within the half second before the first trial
		_, err := p.Get(t.Context(), id(t, "k"), 0)
		if e := withCode(t, err, config.Unavailable); !strings.Contains(e.Message, "is not called since 20") || !strings.Contains(e.Message, "calls failed") || e.Hint == "" {
			t.Fatalf("the error is %v", e)
		}
	}
	if more := len(pl.marked("asked")) - asked; more > 1 {
		t.Errorf("the plugin was asked %d times", more)
	}
	pl.unset(t, "half")
	eventually(t, 30*time.Second, "the circuit closes", func() bool {
		_, err := p.Get(t.Context(), id(t, "k"), 0)
		return err == nil && p.Status().Circuit == pluginhost.CircuitClosed
	})
	times(t, p, 50)
	for _, line := range []string{"the plugin is not called for now", "the plugin is called again"} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("the log does not say: %s", line)
		}
	}
	if s := p.Status(); s.Restarts != 0 || s.State != pluginhost.StateServing {
		t.Errorf("the status is %+v", s)
	}
}

// A store that hangs is found out by callers of whatever patience, but not by
// those that had none; and what hangs does not keep it from being found well.
func TestR27Hanging(t *testing.T) {
	t.Parallel()
	pl := newSickly(t, "hanging")
	pl.CallTimeout = 2 * time.Second
	p := start(t, pl.Plugin, pluginhost.Options{SocketDir: socketDir(t)})
	pl.set(t, "hung")
	calls := func(n int, patience time.Duration) {
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				_, err := p.Get(ctx, id(t, "k"), 0)
				if err == nil {
					t.Error("it answered")
				}
			})
		}
		all.Wait()
	}
	calls(40, 20*time.Millisecond)
	if s := p.Status(); s.Circuit != pluginhost.CircuitClosed {
		t.Errorf("callers without patience opened the circuit: %+v", s)
	}
	calls(20, 1200*time.Millisecond)
	if s := p.Status(); s.Circuit != pluginhost.CircuitOpen {
		t.Errorf("the circuit is %v", s.Circuit)
	}
	// A trial that hangs, and then the recovery: the next trial finds it.
	eventually(t, 30*time.Second, "a call is a trial", func() bool {
		go func() { _, _ = p.Get(context.Background(), id(t, "hold"), 0) }()
		return len(pl.marked("held")) > 0
	})
	if s := p.Status(); s.Circuit != pluginhost.CircuitHalfOpen {
		t.Errorf("during a trial the circuit is %v", s.Circuit)
	}
	pl.unset(t, "hung")
	eventually(t, 30*time.Second, "the circuit closes", func() bool {
		_, err := p.Get(t.Context(), id(t, "k"), 0)
		return err == nil
	})
	pl.set(t, "go")
	times(t, p, 20)
}

// To the cache an open circuit is a store that is away: it serves what it holds,
// and when the store is back both say so, once.
func TestR27CircuitBesideTheCache(t *testing.T) {
	t.Parallel()
	pl := newSickly(t, "cached")
	p := start(t, pl.Plugin, pluginhost.Options{SocketDir: socketDir(t)})
	c, err := cache.New(cache.Options{Logger: slog.New(slog.DiscardHandler), MaxBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	b := c.Wrap(p, cache.Policy{Prefix: "", MaxStaleness: time.Minute, StaleIfError: time.Hour, NegativeTTL: time.Second})
	held := id(t, "held")
	if _, err := b.Read(t.Context(), held, cache.Want{}); err != nil {
		t.Fatal(err)
	}
	n := 0
	other := func() error {
		n++
		_, err := b.Read(t.Context(), id(t, fmt.Sprintf("other/%d", n)), cache.Want{})
		return err
	}
	pl.set(t, "sick")
	eventually(t, 20*time.Second, "the circuit opens", func() bool {
		_ = other()
		return p.Status().Circuit != pluginhost.CircuitClosed
	})
	eventually(t, 30*time.Second, "what is held is served as that of a store that is away", func() bool {
		a, err := b.Read(t.Context(), held, cache.Want{})
		if err != nil {
			t.Fatalf("a key that is held: %v", err)
		}
		return a.Freshness.State == config.StateDegraded
	})
	pl.unset(t, "sick")
	eventually(t, 30*time.Second, "reads go through", func() bool { return other() == nil })
	for range 200 {
		if err := other(); err != nil {
			t.Fatalf("and fail again: %v", err)
		}
	}
	if s := p.Status(); s.Circuit != pluginhost.CircuitClosed {
		t.Errorf("the circuit is %v", s.Circuit)
	}
}

// What a caller gives up the plugin learns within 10 ms.
func TestR21CancelReachesThePlugin(t *testing.T) {
	pl := newSickly(t, "cancelled")
	p := start(t, pl.Plugin, pluginhost.Options{SocketDir: socketDir(t)})
	best := time.Hour
	for i := range 20 { // the least of several: the machine may be busy
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := p.Get(ctx, id(t, "cancel"), 0)
			ended <- err
		}()
		eventually(t, 30*time.Second, "the call arrives", func() bool { return len(pl.marked("arrived")) == i+1 })
		at := time.Now()
		cancel()
		wantCode(t, <-ended, config.Canceled)
		var seen []string
		eventually(t, 4*time.Second, "the plugin sees the end, before the deadline", func() bool {
			seen = pl.marked("canceled")
			return len(seen) == i+1
		})
		ns, err := strconv.ParseInt(seen[i], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Unix(0, ns).Sub(at))
	}
	if best > 10*time.Millisecond {
		t.Errorf("it took %v at best", best)
	}
}

// Trace and tenant cross together, and are in the lines that the plugin logs for
// the call.
func TestR22TraceAndTenantCross(t *testing.T) {
	var log logBuffer
	p := start(t, newSickly(t, "traced").Plugin, pluginhost.Options{
		SocketDir: socketDir(t), Logger: log.logger(), TracerProvider: noop.NewTracerProvider(),
	})
	caller := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2}, SpanID: trace.SpanID{3}, TraceFlags: trace.FlagsSampled})
	e, err := p.Get(trace.ContextWithSpanContext(t.Context(), caller), id(t, "call"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%s %s [acme-corp]", caller.TraceID(), caller.SpanID()); string(e.Value) != want {
		t.Errorf("the plugin was told %q, want %q", e.Value, want)
	}
	var line struct {
		Msg, Plugin, Tenant string
		Generation, PID     int
		TraceID             string `json:"trace_id"`
		SpanID              string `json:"span_id"`
		Fields              map[string]any
	}
	eventually(t, 30*time.Second, "the line arrives", func() bool {
		for text := range strings.Lines(log.String()) {
			if json.Unmarshal([]byte(text), &line) == nil && line.Msg == "called" {
				return true
			}
		}
		return false
	})
	if line.Tenant != "acme-corp" || line.TraceID != caller.TraceID().String() || line.SpanID != caller.SpanID().String() ||
		line.Plugin != "traced" || line.Generation != 1 || line.PID != p.Status().PID || line.Fields["key"] != "call" {
		t.Errorf("the line is %+v", line)
	}
}

// 4 MiB of log lines into a log that takes none: the plugin is not held up, what
// is dropped is counted, and calls are as quick as before.
func TestR29BurstIntoAStuckLog(t *testing.T) {
	free := make(chan struct{})
	gate := &gatedHandler{Handler: slog.DiscardHandler, free: free}
	registry, provider := newMetrics(t)
	p := start(t, newSickly(t, "loud").Plugin, pluginhost.Options{
		SocketDir: socketDir(t), Logger: slog.New(gate), MeterProvider: provider,
	})
	defer close(free)
	before := times(t, p, 200)
	gate.shut.Store(true)
	if _, err := p.Get(t.Context(), id(t, "burst"), 0); err != nil {
		t.Fatal(err)
	}
	after := times(t, p, 200)
	if after[100] > 5*before[100] {
		t.Errorf("calls took %v (99 of 100 within %v), and %v (%v) before", after[100], after[198], before[100], before[198])
	}
	eventually(t, 30*time.Second, "drops are counted", func() bool {
		return scrape(t, registry)[`tagstore_plugin_dropped_lines_total plugin="loud"`] > 0
	})
}

// The last words of a plugin that dies are errors.
func TestR29PanicIsAnError(t *testing.T) {
	var log logBuffer
	p := start(t, newSickly(t, "dying").Plugin, pluginhost.Options{SocketDir: socketDir(t), Logger: log.logger()})
	_, _ = p.Put(t.Context(), driver.PutRequest{ID: id(t, "kept/x"), Value: []byte("v")})
	_, err := p.Get(t.Context(), id(t, "die"), 0)
	wantCode(t, err, config.Unavailable)
	eventually(t, 30*time.Second, "they are in the log", func() bool {
		return strings.Contains(log.String(), `"level":"ERROR","msg":"panic: the last words"`) &&
			strings.Contains(log.String(), `"level":"ERROR","msg":"goroutine 1 [running]:"`)
	})
}

func newMetrics(t testing.TB) (*prometheus.Registry, *sdkmetric.MeterProvider) {
	t.Helper()
	registry := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo())
	if err != nil {
		t.Fatal(err)
	}
	return registry, sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter))
}

// scrape reads the metrics as Prometheus would: name and labels, and the value,
// which is the count of a histogram.
func scrape(t testing.TB, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var name bytes.Buffer
			name.WriteString(family.GetName())
			for _, label := range m.GetLabel() {
				fmt.Fprintf(&name, " %s=%q", label.GetName(), label.GetValue())
			}
			got[name.String()] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}

// One kill, one scrape.
func TestR31ScrapeBehindAKill(t *testing.T) {
	registry, provider := newMetrics(t)
	pl := newSickly(t, "seen")
	p := start(t, pl.Plugin, pluginhost.Options{SocketDir: socketDir(t), MeterProvider: provider})
	times(t, p, 3)
	kill(t, p.Status().PID)
	restarted(t, p, 1)
	times(t, p, 2)
	held := make(chan error, 1)
	go func() {
		_, err := p.Get(context.Background(), id(t, "hold"), 0)
		held <- err
	}()
	eventually(t, 30*time.Second, "a call runs", func() bool { return len(pl.marked("held")) == 1 })
	got := scrape(t, registry)
	for name, want := range map[string]float64{
		`up plugin="seen"`: 1, `failed plugin="seen"`: 0, `generation plugin="seen"`: 2,
		`restarts_total plugin="seen" reason="signal"`: 1, `launch_seconds code="ok" plugin="seen"`: 2,
		`call_seconds code="ok" method="Get" plugin="seen"`: 5,
		`in_flight plugin="seen"`:                           1, `waiting plugin="seen"`: 0, `watches plugin="seen"`: 0, `circuit plugin="seen"`: 0,
	} {
		if value, ok := got["tagstore_plugin_"+name]; !ok || value != want {
			t.Errorf("%s is %v (there: %v), want %v", name, value, ok, want)
		}
	}
	if memory := got[`tagstore_plugin_resident_bytes plugin="seen"`]; memory < 1<<20 || int64(memory) > p.Status().ResidentBytes*10 {
		t.Errorf("the plugin has %v bytes, says the scrape", memory)
	}
	if _, ok := got[`tagstore_plugin_cpu_seconds_total plugin="seen"`]; !ok {
		t.Error("no processor time")
	}
	if t.Failed() {
		t.Logf("all: %v", got)
	}
	pl.set(t, "go")
	if err := <-held; err != nil {
		t.Error(err)
	}
	if s := p.Status(); s.LatencyP50 <= 0 || s.LatencyP99 < s.LatencyP50 || s.InFlight != 0 {
		t.Errorf("the status is %+v", s)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, ok := scrape(t, registry)[`tagstore_plugin_up plugin="seen"`]; ok {
		t.Error("a process that was closed is still observed")
	}
}

// A pinned program is named in the status.
func TestStatusHasThePin(t *testing.T) {
	pl := newSickly(t, "pinned").Plugin
	pl.SHA256 = sumOf(t, pl.Path)
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	if s := p.Status(); s.SHA256 != pl.SHA256 {
		t.Errorf("the status has %q", s.SHA256)
	}
}

func sumOf(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(raw))
}
