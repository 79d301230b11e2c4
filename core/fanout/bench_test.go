package fanout_test

import (
	"slices"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/fanout"
)

// BenchmarkRefresh asks three replicas on loopback, beside one call of one of
// them in the same run: ratio is the median of the one over that of the other.
func BenchmarkRefresh(b *testing.B) {
	a := start(b, "a")
	f := open(b, fanout.Static(a.Replica, start(b, "b").Replica, start(b, "c").Replica))
	single, err := client.New(a.Address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = single.Close() })
	ctx, targets := client.ContextWithToken(b.Context(), token), target(b)
	measure := func(call func() error) time.Duration {
		began := time.Now()
		if err := call(); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	one := func() error {
		_, err := single.Refresh(ctx, targets)
		return err
	}
	all := func() error {
		report, err := f.Refresh(ctx, targets)
		if err != nil {
			return err
		}
		return report.Err()
	}
	for range 20 { // connections, and what warms up
		measure(one)
		measure(all)
	}
	var ones, alls []time.Duration
	for b.Loop() {
		ones, alls = append(ones, measure(one)), append(alls, measure(all))
	}
	slices.Sort(ones)
	slices.Sort(alls)
	n := len(alls)
	b.ReportMetric(float64(alls[n/2])/float64(ones[n/2]), "ratio")
	b.ReportMetric(float64(alls[n/2].Nanoseconds())/1e6, "p50-ms")
	b.ReportMetric(float64(alls[n*99/100].Nanoseconds())/1e6, "p99-ms")
}

// BenchmarkRefreshOneHangs asks three replicas of which one does not answer,
// with the default timeout.
func BenchmarkRefreshOneHangs(b *testing.B) {
	hung := start(b, "c")
	hung.answer = hang
	f := open(b, fanout.Static(start(b, "a").Replica, start(b, "b").Replica, hung.Replica), within(0))
	for b.Loop() {
		report, err := f.Refresh(b.Context(), target(b))
		if err != nil || report.Err() == nil {
			b.Fatalf("the replica that hangs is not named: %v, %v", report, err)
		}
	}
}
