package pluginhost

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// A bucket holds what bucketOf puts there, and none is wider than a sixteenth.
func TestLatencyBuckets(t *testing.T) {
	last := -1
	for us := time.Duration(0); us < 100_000_000; us += 1 + us/100 {
		d := us * time.Microsecond
		i := bucketOf(d)
		end := bucketEnd(i)
		if i < last || i == latencyBuckets-1 && d < time.Minute {
			t.Fatalf("%v is in bucket %d behind %d", d, i, last)
		}
		if i < latencyBuckets-1 && (d >= end || d < end-max(time.Microsecond, end/latencySteps)) {
			t.Fatalf("%v is in bucket %d, which ends at %v", d, i, end)
		}
		last = i
	}
	if i := bucketOf(-time.Second); i != 0 {
		t.Errorf("a clock that went back gave bucket %d", i)
	}
}

func TestLatencyPercentiles(t *testing.T) {
	var l latencies
	now := time.Unix(1_800_000_000, 0)
	if p50, p99 := l.percentiles(now); p50 != 0 || p99 != 0 {
		t.Errorf("without a call: %v, %v", p50, p99)
	}
	all := make([]time.Duration, 10_000)
	var writers sync.WaitGroup
	for i := range all {
		all[i] = time.Duration(rand.ExpFloat64() * float64(time.Millisecond))
	}
	for part := range slices.Chunk(all, 1000) {
		writers.Go(func() {
			for _, d := range part {
				l.add(now, d)
			}
		})
	}
	writers.Wait()
	slices.Sort(all)
	near := func(got, want time.Duration) bool { return got >= want && got <= want+want/8 }
	p50, p99 := l.percentiles(now)
	if !near(p50, all[4999]) || !near(p99, all[9899]) {
		t.Errorf("got %v and %v, want %v and %v", p50, p99, all[4999], all[9899])
	}

	// What was a minute ago still counts, what was two ago does not.
	l.add(now.Add(latencySpan), time.Hour)
	if p50, _ := l.percentiles(now.Add(latencySpan)); !near(p50, all[4999]) {
		t.Errorf("a minute later: %v", p50)
	}
	if p50, p99 := l.percentiles(now.Add(2 * latencySpan)); p50 < time.Minute || p99 != p50 {
		t.Errorf("two minutes later: %v, %v", p50, p99)
	}
	if p50, p99 := l.percentiles(now.Add(time.Hour)); p50 != 0 || p99 != 0 {
		t.Errorf("an hour later: %v, %v", p50, p99)
	}
}
