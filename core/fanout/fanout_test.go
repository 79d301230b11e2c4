package fanout_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	"github.com/tagstore/tagstore/core/fanout"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// summary shows a report as "id" for a replica that acknowledged and
// "id: code" for one that did not.
func summary(r fanout.Report) string {
	var parts []string
	for _, o := range r.Outcomes {
		part := o.Replica.ID
		if o.Err != nil {
			part += ": " + config.CodeOf(o.Err).String()
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

func refresh(t *testing.T, f *fanout.Fanout) fanout.Report {
	t.Helper()
	report, err := f.Refresh(t.Context(), target(t))
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// want checks who acknowledged, and that Report.Err agrees and names exactly
// those that did not, with their code and never the tenant.
func want(t *testing.T, report fanout.Report, expected string) {
	t.Helper()
	if got := summary(report); got != expected {
		t.Errorf("the report is %q, want %q", got, expected)
	}
	err := report.Err()
	if failed := strings.Contains(expected, ":"); failed != (err != nil) {
		t.Fatalf("Report.Err is %v for %q", err, expected)
	}
	if err == nil {
		return
	}
	if strings.Contains(err.Error(), tenantName) || strings.Contains(err.Error(), token) {
		t.Errorf("the error names the tenant or the token: %v", err)
	}
	for _, o := range report.Outcomes {
		named := strings.Contains(err.Error(), fmt.Sprintf("%s (%s)", o.Replica.ID, config.CodeOf(o.Err)))
		if named != (o.Err != nil) {
			t.Errorf("replica %s has error %v, and Report.Err is %v", o.Replica.ID, o.Err, err)
		}
	}
}

// All replicas are asked at once, and each has its receipt.
func TestEveryReplicaAcknowledges(t *testing.T) {
	a, b, c := start(t, "a"), start(t, "b"), start(t, "c")
	var together sync.WaitGroup
	together.Add(3)
	for _, r := range []*replica{a, b, c} {
		r.answer = func(ctx context.Context, req *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
			together.Done()
			together.Wait() // for ever, if one is asked after the other
			return acknowledge(r.ID)(ctx, req)
		}
	}
	// One that is registered twice is asked once.
	f := open(t, fanout.Static(c.Replica, a.Replica, b.Replica, a.Replica))
	report := refresh(t, f)
	want(t, report, "a, b, c")
	for _, o := range report.Outcomes {
		if len(o.Receipts) != 1 || o.Receipts[0].Version != 7 || o.Took <= 0 || o.AnsweredAs != "" {
			t.Errorf("outcome %+v, want a receipt of version 7 and a time", o)
		}
	}
}

// One that does not answer is named, and the others have the change.
func TestAReplicaThatFailsIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error)
		want   string
		calls  int32
	}{
		"answers with an error":    {fail(config.Errorf(config.Unavailable, "starting")), "a, b: unavailable", 2},
		"refuses the caller":       {fail(config.Errorf(config.PermissionDenied, "not you")), "a, b: permission_denied", 1},
		"is too busy":              {fail(config.Errorf(config.ResourceExhausted, "later")), "a, b: resource_exhausted", 1},
		"does not know the method": {fail(config.Errorf(config.Unimplemented, "what?")), "a, b: unimplemented", 1},
		"breaks off":               {fail(errors.New("panic")), "a, b: unknown", 2},
		"answers something else": {func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
			return &tagstorev1.RefreshResponse{Replica: "b"}, nil
		}, "a, b: internal", 2},
		"its store is away": {func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
			st := errgrpc.ToStatus(config.Errorf(config.Unavailable, "the store is away")).Proto()
			return &tagstorev1.RefreshResponse{Replica: "b", Receipts: []*tagstorev1.RefreshReceipt{{Outcome: &tagstorev1.RefreshReceipt_Error{
				Error: &tagstorev1.Status{Code: st.GetCode(), Message: st.GetMessage(), Details: st.GetDetails()},
			}}}}, nil
		}, "a, b: unavailable", 2},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := start(t, "a"), start(t, "b")
			b.answer = test.answer
			want(t, refresh(t, open(t, fanout.Static(a.Replica, b.Replica))), test.want)
			if a.calls.Load() != 1 || b.calls.Load() != test.calls {
				t.Errorf("a was asked %d times and b %d times, want once and %d times", a.calls.Load(), b.calls.Load(), test.calls)
			}
		})
	}
	t.Run("is not there", func(t *testing.T) {
		a := start(t, "a")
		want(t, refresh(t, open(t, fanout.Static(a.Replica, dead(t, "b")))), "a, b: unavailable")
	})
	t.Run("has no address", func(t *testing.T) {
		a := start(t, "a")
		want(t, refresh(t, open(t, fanout.Static(a.Replica, fanout.Replica{ID: "b", Address: "nonsense"}))), "a, b: invalid_argument")
	})
}

// A replica that hangs costs the time of one call, not of two.
func TestAReplicaThatHangsIsAskedOnce(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	b.answer = hang
	want(t, refresh(t, open(t, fanout.Static(a.Replica, b.Replica), within(2*time.Second))), "a, b: deadline_exceeded")
	if b.calls.Load() != 1 {
		t.Errorf("the replica was asked %d times, want once", b.calls.Load())
	}
}

// Who is gone at the second look need not know.
func TestAReplicaThatIsGoneIsLeftOut(t *testing.T) {
	a := start(t, "a")
	r := &registry{}
	r.set(a.Replica, dead(t, "b"))
	r.next = func(n int) {
		if n == 2 {
			r.set(a.Replica)
		}
	}
	want(t, refresh(t, open(t, r)), "a")
}

// Who is new at the second look is asked, and counts.
func TestAReplicaThatIsNewIsAsked(t *testing.T) {
	a, c := start(t, "a"), start(t, "c")
	r := &registry{}
	b := dead(t, "b")
	r.set(a.Replica, b)
	r.next = func(n int) {
		if n == 2 {
			r.set(a.Replica, b, c.Replica, dead(t, "d"))
		}
	}
	want(t, refresh(t, open(t, r)), "a, b: unavailable, c, d: unavailable")
	if a.calls.Load() != 1 || c.calls.Load() != 1 {
		t.Errorf("a and c were asked %d and %d times, want once each", a.calls.Load(), c.calls.Load())
	}
}

// A replica that restarts is back at the second look.
func TestAReplicaThatComesBackAcknowledges(t *testing.T) {
	a, b := start(t, "a"), dead(t, "b")
	r := &registry{}
	r.set(a.Replica, b)
	r.next = func(n int) {
		if n == 2 {
			lis, err := new(net.ListenConfig).Listen(context.WithoutCancel(t.Context()), "tcp", b.Address)
			if err != nil {
				t.Error(err)
				return
			}
			serve(t, "b", lis)
		}
	}
	want(t, refresh(t, open(t, r)), "a, b")
}

// Without a failure nobody looks twice, and a second look that fails leaves the
// report of the first.
func TestDiscoveries(t *testing.T) {
	a := start(t, "a")
	r := &registry{}
	r.set(a.Replica)
	f := open(t, r)
	want(t, refresh(t, f), "a")
	if n := r.discoveries(); n != 1 {
		t.Errorf("%d discoveries, want 1", n)
	}
	r.set(a.Replica, dead(t, "b"))
	r.next = func(n int) {
		if n == 3 {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.err = config.Errorf(config.Unavailable, "the registry is away")
		}
	}
	want(t, refresh(t, f), "a, b: unavailable")
}

// A registry answers as many as it can, and the replica that asks stands beside
// them: it is not one too many.
func TestTheMostReplicasAndTheOneThatAsks(t *testing.T) {
	a := start(t, "a")
	self := fanout.Replica{ID: "self"}
	known := []fanout.Replica{self}
	for i := range 1000 {
		known = append(known, fanout.Replica{ID: fmt.Sprint(i), Address: a.Address})
	}
	report, err := open(t, fanout.Static(known...), within(time.Minute), func(o *fanout.Options) {
		o.Skip = func(r fanout.Replica) bool { return r == self }
	}).Refresh(t.Context(), target(t))
	if err != nil || report.Err() != nil || len(report.Outcomes) != 1000 {
		t.Errorf("with 1,000 others: %d answered, %v, %v", len(report.Outcomes), report.Err(), err)
	}
}

func TestNobodyToAsk(t *testing.T) {
	a := start(t, "a")
	gone := &registry{}
	b := dead(t, "b")
	gone.set(b)
	gone.next = func(n int) {
		if n == 2 {
			gone.set()
		}
	}
	many := make([]fanout.Replica, 1001)
	for i := range many {
		many[i] = fanout.Replica{ID: fmt.Sprint(i), Address: a.Address}
	}
	for name, test := range map[string]struct {
		discoverer fanout.Discoverer
		change     func(*fanout.Options)
		targets    []client.RefreshTarget
		want       config.Code
	}{
		"nobody is healthy":        {discoverer: fanout.Static(), want: config.Unavailable},
		"the last one went":        {discoverer: gone, want: config.Unavailable},
		"the registry fails":       {discoverer: &registry{err: config.Errorf(config.ResourceExhausted, "throttled")}, want: config.ResourceExhausted},
		"the registry fails badly": {discoverer: &registry{err: errors.New(tenantName)}, want: config.Unknown},
		"too many":                 {discoverer: fanout.Static(many...), want: config.FailedPrecondition},
		"no targets":               {discoverer: fanout.Static(a.Replica), targets: []client.RefreshTarget{}, want: config.InvalidArgument},
		"too many targets":         {discoverer: fanout.Static(a.Replica), targets: make([]client.RefreshTarget, 101), want: config.InvalidArgument},
		"no token": {discoverer: fanout.Static(a.Replica), change: func(o *fanout.Options) {
			o.Tokens = tokens{err: config.Errorf(config.Unavailable, "no token")}
		}, want: config.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			var change []func(*fanout.Options)
			if test.change != nil {
				change = append(change, test.change)
			}
			targets := test.targets
			if targets == nil {
				targets = target(t)
			}
			report, err := open(t, test.discoverer, change...).Refresh(t.Context(), targets)
			if !errors.Is(err, test.want) || len(report.Outcomes) != 0 {
				t.Fatalf("Refresh returned %v, %v, want code %v", summary(report), err, test.want)
			}
			if strings.Contains(err.Error(), tenantName) {
				t.Errorf("the error names the tenant: %v", err)
			}
		})
	}
	if n := a.calls.Load(); n != 0 {
		t.Errorf("the replica was asked %d times", n)
	}
}

// Who asks does not ask itself, and being alone is no error.
func TestSkip(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	self := func(o *fanout.Options) { o.Skip = func(r fanout.Replica) bool { return r.ID == "a" } }
	want(t, refresh(t, open(t, fanout.Static(a.Replica, b.Replica), self)), "b")
	want(t, refresh(t, open(t, fanout.Static(a.Replica), self)), "")
	if n := a.calls.Load(); n != 0 {
		t.Errorf("the skipped replica was asked %d times", n)
	}
}

// An address may have been taken over by another replica: it acknowledged, and
// both names are known.
func TestAnotherReplicaAnswers(t *testing.T) {
	a := start(t, "a")
	var log bytes.Buffer
	f := open(t, fanout.Static(fanout.Replica{ID: "gone", Address: a.Address}), func(o *fanout.Options) {
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	for range 2 {
		report := refresh(t, f)
		want(t, report, "gone")
		if got := report.Outcomes[0].AnsweredAs; got != "a" {
			t.Errorf("answered as %q, want a", got)
		}
	}
	if got := strings.Count(log.String(), "answered=a"); got != 1 || !strings.Contains(log.String(), "discovered=gone") {
		t.Errorf("noted %d times, want once:\n%s", got, log.String())
	}
}

// One connection serves all calls to a replica, until it is gone.
func TestConnections(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	r := &registry{}
	r.set(a.Replica, b.Replica)
	f := open(t, r)
	for range 3 {
		want(t, refresh(t, f), "a, b")
	}
	r.set(a.Replica)
	want(t, refresh(t, f), "a")
	eventually(t, "the connection to the replica that is gone is closed", func() bool { return b.live.Load() == 0 })
	if a.connections.Load() != 1 || b.connections.Load() != 1 || a.live.Load() != 1 {
		t.Errorf("%d and %d connections were made, %d lives, want one each, and one", a.connections.Load(), b.connections.Load(), a.live.Load())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the last connection is closed", func() bool { return a.live.Load() == 0 })
	if _, err := f.Refresh(t.Context(), target(t)); !errors.Is(err, config.FailedPrecondition) {
		t.Errorf("after Close, Refresh returned %v, want code failed_precondition", err)
	}
}

// Close ends what is under way and leaves nothing behind.
func TestCloseEndsCalls(t *testing.T) {
	a := start(t, "a")
	a.answer = hang
	f := open(t, fanout.Static(a.Replica))
	call := f.Start(t.Context(), target(t))
	eventually(t, "the replica is asked", func() bool { return a.calls.Load() == 1 })
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	<-call.Done()
	report, err := call.Report()
	if err != nil {
		t.Fatal(err)
	}
	want(t, report, "a: canceled")
}

// While some have not answered, it is known who has.
func TestReportUnderWay(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	release := make(chan struct{})
	b.answer = func(ctx context.Context, req *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
		<-release
		return acknowledge("b")(ctx, req)
	}
	call := open(t, fanout.Static(a.Replica, b.Replica)).Start(t.Context(), target(t))
	var report fanout.Report
	eventually(t, "the first has answered", func() bool {
		var err error
		report, err = call.Report()
		return err == nil && strings.HasPrefix(summary(report), "a,")
	})
	want(t, report, "a, b: deadline_exceeded")
	close(release)
	<-call.Done()
	if report, _ = call.Report(); report.Err() != nil {
		t.Errorf("at the end: %v", report.Err())
	}
}

// While it is not known whom to ask, no report could be taken for one of nobody.
func TestReportBeforeDiscovery(t *testing.T) {
	a := start(t, "a")
	r, discovered := &registry{}, make(chan struct{})
	r.set(a.Replica)
	r.next = func(int) { <-discovered }
	call := open(t, r).Start(t.Context(), target(t))
	if _, err := call.Report(); !errors.Is(err, config.DeadlineExceeded) {
		t.Errorf("Report returned %v, want code deadline_exceeded", err)
	}
	close(discovered)
	<-call.Done()
	if report, err := call.Report(); err != nil || report.Err() != nil {
		t.Errorf("at the end: %v, %v", err, report.Err())
	}
}

// The caller's deadline and cancellation hold.
func TestCancel(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	b.answer = hang
	ctx, cancel := context.WithCancel(t.Context())
	call := open(t, fanout.Static(a.Replica, b.Replica)).Start(ctx, target(t))
	eventually(t, "one has answered and one was asked", func() bool { return a.calls.Load() == 1 && b.calls.Load() == 1 })
	cancel()
	<-call.Done()
	report, err := call.Report()
	if err != nil {
		t.Fatal(err)
	}
	if b := report.Outcomes[1]; !errors.Is(b.Err, context.Canceled) {
		t.Errorf("the replica that hangs has error %v, want canceled", b.Err)
	}
}

// A replica that hangs holds a bounded number of calls; the next ones fail at
// once for it, and the others do not wait.
func TestAReplicaThatHangsDoesNotPileUp(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	b.answer = hang
	f := open(t, fanout.Static(a.Replica, b.Replica))
	for range 64 {
		call := f.Start(t.Context(), target(t))
		eventually(t, "one has answered and the other hangs", func() bool {
			report, err := call.Report()
			return err == nil && summary(report) == "a, b: deadline_exceeded" && len(report.Outcomes[0].Receipts) == 1
		})
	}
	eventually(t, "64 calls hang", func() bool { return b.calls.Load() == 64 })
	want(t, refresh(t, f), "a, b: resource_exhausted")
	if n := b.calls.Load(); n != 64 {
		t.Errorf("the replica was asked %d times, want 64", n)
	}
}

// One Refresh makes at most 64 calls at once.
func TestCallsAtOnce(t *testing.T) {
	var now, most atomic.Int32
	var replicas []fanout.Replica
	for i := range 3 {
		r := start(t, "")
		r.answer = func(ctx context.Context, req *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			defer now.Add(-1)
			return acknowledge("")(ctx, req)
		}
		for j := range 60 {
			replicas = append(replicas, fanout.Replica{ID: fmt.Sprint(i, j), Address: r.Address})
		}
	}
	report := refresh(t, open(t, fanout.Static(replicas...)))
	if err := report.Err(); err != nil || len(report.Outcomes) != len(replicas) {
		t.Errorf("%d of %d outcomes, error %v", len(report.Outcomes), len(replicas), err)
	}
	if most.Load() > 64 {
		t.Errorf("%d calls at once, want at most 64", most.Load())
	}
}

// An error stays readable however many fail.
func TestReportNamesAFew(t *testing.T) {
	var report fanout.Report
	for i := range 12 {
		report.Outcomes = append(report.Outcomes, fanout.Outcome{
			Replica: fanout.Replica{ID: fmt.Sprintf("r%02d", i)}, Err: config.Errorf(config.Unavailable, "away"),
		})
	}
	report.Outcomes[11].Err = config.Errorf(config.Internal, "broken")
	err := report.Err()
	if !errors.Is(err, config.Unavailable) || !strings.Contains(err.Error(), "12 of 12 replicas") ||
		!strings.HasSuffix(err.Error(), "r09 (unavailable), and 2 more") {
		t.Errorf("the error is %v", err)
	}
}

func TestNewChecksItsOptions(t *testing.T) {
	for name, o := range map[string]fanout.Options{
		"no discoverer": {Tokens: tokens{}},
		"no tokens":     {Discoverer: fanout.Static()},
		"bad timeout":   {Discoverer: fanout.Static(), Tokens: tokens{}, CallTimeout: -1},
	} {
		if _, err := fanout.New(o); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%s: New returned %v, want code invalid_argument", name, err)
		}
	}
}
