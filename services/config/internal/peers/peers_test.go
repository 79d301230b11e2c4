package peers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	"github.com/tagstore/tagstore/core/fanout"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/services/config/internal/peers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// replica acknowledges every change, or does what answer does before.
type replica struct {
	tagstorev1.UnimplementedAdminServiceServer
	fanout.Replica
	calls  atomic.Int32
	mu     sync.Mutex
	answer func(context.Context) error
	asked  *tagstorev1.RefreshRequest
}

func (r *replica) Refresh(ctx context.Context, req *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
	r.calls.Add(1)
	r.mu.Lock()
	answer := r.answer
	r.asked = req
	r.mu.Unlock()
	if answer != nil {
		if err := answer(ctx); err != nil {
			return nil, err
		}
	}
	return &tagstorev1.RefreshResponse{Replica: r.ID, Receipts: []*tagstorev1.RefreshReceipt{{
		Outcome: &tagstorev1.RefreshReceipt_Applied{Applied: &tagstorev1.RefreshApplied{Version: 7, Values: 1}},
	}}}, nil
}

func (r *replica) set(answer func(context.Context) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func start(t *testing.T, id string) *replica {
	t.Helper()
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{Replica: fanout.Replica{ID: id, Address: lis.Addr().String()}}
	server := grpc.NewServer(grpc.UnaryInterceptor(errgrpc.UnaryServer))
	tagstorev1.RegisterAdminServiceServer(server, r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(lis) // ends by Stop
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return r
}

// registry is a discoverer that a test changes.
type registry struct {
	mu       sync.Mutex
	replicas []fanout.Replica
	err      error
	asked    int
	hang     chan struct{} // if not nil, what it waits for
}

func (r *registry) Discover(context.Context) ([]fanout.Replica, error) {
	r.mu.Lock()
	hang := r.hang
	r.mu.Unlock()
	if hang != nil {
		<-hang
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	return slices.Clone(r.replicas), r.err
}

func (r *registry) set(err error, replicas ...fanout.Replica) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replicas, r.err = replicas, err
}

func (r *registry) times() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

type tokens struct{}

func (tokens) Token(context.Context) (string, error) { return "t", nil }

// output is a log that can be read while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// fixture is the replica "self" and its peers.
type fixture struct {
	*peers.Peers
	log     *output
	metrics *metric.ManualReader
}

func open(t *testing.T, d fanout.Discoverer, change ...func(*peers.Options)) fixture {
	t.Helper()
	f := fixture{log: &output{}, metrics: metric.NewManualReader()}
	o := peers.Options{
		Self: "self", Discoverer: d, Tokens: tokens{}, Wait: 5 * time.Second,
		Logger: slog.New(slog.NewJSONHandler(f.log, nil)), MeterProvider: metric.NewMeterProvider(metric.WithReader(f.metrics)),
	}
	for _, c := range change {
		c(&o)
	}
	var err error
	if f.Peers, err = peers.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func wait(d time.Duration) func(*peers.Options) { return func(o *peers.Options) { o.Wait = d } }

// counted returns the sum of a counter.
func (f fixture) counted(t *testing.T, name string) (sum int64) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := f.metrics.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					sum += p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					sum += int64(p.Count)
				}
			}
		}
	}
	return sum
}

// What an alarm waits for is there before it happens, and 0.
func TestCountersBeginAtZero(t *testing.T) {
	f := open(t, fanout.Static())
	var all metricdata.ResourceMetrics
	if err := f.metrics.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	series := map[string]int{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
				series[m.Name] = len(sum.DataPoints)
			}
		}
	}
	for name, n := range map[string]int{"asked": 1, "acknowledged": 1, "overflow": 1, "failed": len(config.Codes())} {
		if got := series["tagstore.peers."+name]; got != n || f.counted(t, "tagstore.peers."+name) != 0 {
			t.Errorf("%s has %d series, not %d, or is not 0", name, got, n)
		}
	}
}

func change(t *testing.T) peers.Change {
	t.Helper()
	tenant, err := config.ParseTenant("acme-corp")
	if err != nil {
		t.Fatal(err)
	}
	service, err := config.ParseService("order")
	if err != nil {
		t.Fatal(err)
	}
	key, err := config.ParseKey("tenant_config_x")
	if err != nil {
		t.Fatal(err)
	}
	return peers.Change{Tenant: tenant, Service: service, Key: key, Version: 7}
}

// summary shows "b" for a replica that has the change and "b: code" for one
// that may not.
func summary(statuses []peers.Status) string {
	var out []string
	for _, s := range statuses {
		text := s.Replica
		if s.Err != nil {
			text += ": " + config.CodeOf(s.Err).String()
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func (f fixture) tell(t *testing.T, all bool, want string) {
	t.Helper()
	if got := summary(f.Tell(t.Context(), change(t), all)); got != want {
		t.Errorf("the statuses are %q, want %q", got, want)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.NewTimer(15 * time.Second)
	defer timeout.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-timeout.C:
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

// The others are told of exactly the layer, key and version; self is not asked.
func TestTell(t *testing.T) {
	self, a, b := start(t, "self"), start(t, "a"), start(t, "b")
	f := open(t, fanout.Static(b.Replica, self.Replica, a.Replica))
	f.tell(t, false, "a, b")
	if n := self.calls.Load(); n != 0 {
		t.Errorf("the replica asked itself %d times", n)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	target := a.asked.GetTargets()[0]
	if len(a.asked.GetTargets()) != 1 || target.GetTenant() != "acme-corp" || target.GetService() != "order" ||
		target.GetKey() != "tenant_config_x" || target.GetMinVersion() != 7 {
		t.Errorf("it was told of %v", a.asked)
	}
	eventually(t, "it is counted", func() bool {
		return f.counted(t, "tagstore.peers.asked") == 2 && f.counted(t, "tagstore.peers.acknowledged") == 2 &&
			f.counted(t, "tagstore.peers.duration") == 2 && f.counted(t, "tagstore.peers.failed") == 0
	})
}

func TestNobodyElse(t *testing.T) {
	self := start(t, "self")
	var none *peers.Peers
	if got := none.Tell(t.Context(), change(t), true); got != nil || none.Close() != nil {
		t.Errorf("no peers say %q", summary(got))
	}
	open(t, fanout.Static(self.Replica)).tell(t, true, "")
	open(t, fanout.Static()).tell(t, true, "") // it has not registered itself yet
}

// A registry may have another name for this replica. It finds out, once.
func TestSelfByAnotherName(t *testing.T) {
	self, a := start(t, "self"), start(t, "a")
	other := fanout.Replica{ID: "task-1", Address: self.Address}
	f := open(t, fanout.Static(other, a.Replica))
	for range 3 {
		f.tell(t, false, "a")
	}
	if n := self.calls.Load(); n != 1 {
		t.Errorf("the replica asked itself %d times, want once", n)
	}
}

// A writer waits for its moment and no longer, and the slow one has the change
// all the same.
func TestAWriterDoesNotWaitForASlowReplica(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	release, served := make(chan struct{}), make(chan struct{})
	b.set(func(context.Context) error {
		<-release
		close(served)
		return nil
	})
	f := open(t, fanout.Static(a.Replica, b.Replica), wait(50*time.Millisecond))
	var got []peers.Status
	// Whether the fast one is in time is the machine's affair.
	if got = f.Tell(t.Context(), change(t), false); !slices.ContainsFunc(got, func(s peers.Status) bool {
		return s.Replica == "b" && errors.Is(s.Err, config.DeadlineExceeded)
	}) {
		t.Errorf("the statuses are %q, want that b has not answered", summary(got))
	}
	close(release)
	<-served
	eventually(t, "both are counted", func() bool { return f.counted(t, "tagstore.peers.acknowledged") == 2 })
}

// With a wait of 0 nobody is waited for, and that is no "there is nobody".
func TestNoWait(t *testing.T) {
	a := start(t, "a")
	got := open(t, fanout.Static(a.Replica), wait(0)).Tell(t.Context(), change(t), false)
	if len(got) != 1 {
		t.Errorf("the statuses are %q, want one", summary(got))
	}
	eventually(t, "it is told", func() bool { return a.calls.Load() == 1 })
}

// Waiting for all ends in time for an answer.
func TestWaitForAll(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	f := open(t, fanout.Static(a.Replica, b.Replica), wait(0), func(o *peers.Options) { o.CallTimeout = 10 * time.Second })
	f.tell(t, true, "a, b")

	b.set(func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began := time.Now()
	got := f.Tell(ctx, change(t), true)
	// It has 100 ms of the call's time left then, which a busy machine may take.
	if took := time.Since(began); summary(got) != "a, b: deadline_exceeded" || took >= peers.MaxWait {
		t.Errorf("the statuses are %q, after %v of the 2 s that the call has", summary(got), took)
	}
}

// A replica that hangs is told of a bounded number of changes at once; the
// others go on being told.
func TestAReplicaThatHangsDoesNotPileUp(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	b.set(func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	f := open(t, fanout.Static(a.Replica, b.Replica), wait(0), func(o *peers.Options) { o.CallTimeout = 10 * time.Second })
	for range 64 {
		f.Tell(t.Context(), change(t), false)
	}
	eventually(t, "64 calls hang", func() bool { return b.calls.Load() == 64 })
	eventually(t, "the other has all of them", func() bool { return a.calls.Load() == 64 })
	eventually(t, "the next is refused for b alone", func() bool {
		return summary(f.Tell(t.Context(), change(t), true)) == "a, b: resource_exhausted"
	})
}

// More changes than are told at once are counted, and said of each replica.
func TestOverflow(t *testing.T) {
	a := start(t, "a")
	r := &registry{}
	r.set(nil, a.Replica)
	f := open(t, r, wait(0), func(o *peers.Options) { o.CallTimeout = 10 * time.Second })
	f.tell(t, true, "a")
	hang := make(chan struct{})
	defer close(hang)
	r.mu.Lock()
	r.hang = hang
	r.mu.Unlock()
	var got string
	eventually(t, "a change is not told", func() bool {
		for range 200 {
			got = summary(f.Tell(t.Context(), change(t), false))
		}
		return f.counted(t, "tagstore.peers.overflow") > 0
	})
	if got != "a: resource_exhausted" {
		t.Errorf("the statuses are %q, want that a is not told", got)
	}
}

// However many changes there are, the registry is asked once a second; and it
// may be away for a while, but not for one that waits for all.
func TestRegistry(t *testing.T) {
	a := start(t, "a")
	r := &registry{}
	r.set(config.Errorf(config.Unavailable, "the registry is away"))
	f := open(t, r)
	f.tell(t, false, ": unavailable")
	r.set(nil, a.Replica)
	f.tell(t, true, "a")
	before := r.times()
	for range 20 {
		f.tell(t, false, "a")
	}
	if n := r.times() - before; n > 5 {
		t.Errorf("20 changes asked the registry %d times", n)
	}
	r.set(config.Errorf(config.Unavailable, "the registry is away"))
	f.tell(t, true, ": unavailable")
	f.tell(t, false, "a")
}

// The log says that a replica fails, and that it is back, once each.
func TestLog(t *testing.T) {
	a := start(t, "a")
	f := open(t, fanout.Static(a.Replica))
	a.set(func(context.Context) error { return config.Errorf(config.PermissionDenied, "not you") })
	for range 3 {
		f.tell(t, false, "a: permission_denied")
	}
	a.set(nil)
	for range 3 {
		f.tell(t, false, "a")
	}
	var said []string
	eventually(t, "it is back", func() bool {
		said = nil
		for line := range strings.Lines(f.log.String()) {
			var record struct{ Msg, Replica, Level string }
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				t.Fatal(err)
			}
			said = append(said, record.Level+" "+record.Msg+" "+record.Replica)
		}
		return len(said) > 1
	})
	want := []string{"WARN a replica does not acknowledge changes a", "INFO a replica acknowledges changes again a"}
	if !slices.Equal(said, want) {
		t.Errorf("the log says %q, want %q", said, want)
	}
	if strings.Contains(f.log.String(), "acme-corp") {
		t.Errorf("the log names the tenant:\n%s", f.log)
	}
}

// Who is gone at Close has been told; then nobody is.
func TestClose(t *testing.T) {
	a := start(t, "a")
	f := open(t, fanout.Static(a.Replica), wait(0))
	f.Tell(t.Context(), change(t), false)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if n := a.calls.Load(); n != 1 {
		t.Errorf("after Close the change was told %d times, want once", n)
	}
	f.tell(t, true, "a: unavailable")
}

func TestNewChecksItsOptions(t *testing.T) {
	good := peers.Options{Self: "self", Discoverer: fanout.Static(), Tokens: tokens{}}
	for name, change := range map[string]func(*peers.Options){
		"no name":       func(o *peers.Options) { o.Self = "" },
		"no discoverer": func(o *peers.Options) { o.Discoverer = nil },
		"no tokens":     func(o *peers.Options) { o.Tokens = nil },
		"negative wait": func(o *peers.Options) { o.Wait = -1 },
		"long wait":     func(o *peers.Options) { o.Wait = 6 * time.Second },
	} {
		o := good
		change(&o)
		if _, err := peers.New(o); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%s: New returned %v, want code invalid_argument", name, err)
		}
	}
}
