// Package latency holds the latency suites. Every figure stands beside a
// baseline of the same run: the two take turns, round by round, so that a busy
// neighbour hits both, and the ratio is the median over the rounds.
package latency

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/spread"
)

// rounds is how often subject and baseline take turns in one benchmark, where
// that many calls fit into its time, and leastRounds how often where not: a ratio
// of one pair of calls says next to nothing.
const (
	rounds      = 15
	leastRounds = 5
)

// op is one call of what is measured.
type op func(ctx context.Context) error

// compare runs subject and baseline in turns at this many callers until subject
// has run b.N times, and for leastRounds. It reports, beside the standard ns/op
// of the subject: ratio (time per call, subject over baseline, median of
// rounds), the baseline's ns/op, the percentiles of the subject, and its 50th
// over that of the baseline. It returns the first two.
func compare(b *testing.B, callers int, subject, baseline op) (perCall, baselineNs float64) {
	b.Helper()
	b.ReportAllocs()
	chunk := max(callers, (b.N+rounds-1)/rounds)
	most := max(b.N, leastRounds*chunk) + chunk
	samples, beside := newSamples(most), newSamples(most)
	var ratios, baselines []float64
	run(b, callers, min(chunk, 20*callers), baseline, nil) // connections open, caches warm
	run(b, callers, min(chunk, 20*callers), subject, nil)
	b.ResetTimer()
	b.StopTimer()
	for done := 0; done < b.N || len(ratios) < leastRounds; done += chunk {
		base := run(b, callers, chunk, baseline, beside)
		if done < b.N {
			b.StartTimer()
		}
		mine := run(b, callers, chunk, subject, samples)
		b.StopTimer()
		ratios = append(ratios, float64(mine)/float64(base))
		baselines = append(baselines, float64(base.Nanoseconds())/float64(chunk))
	}
	perCall, baselineNs = spread.Median(ratios), spread.Median(baselines)
	b.ReportMetric(perCall, "ratio")
	b.ReportMetric(baselineNs, "baseline-ns/op")
	samples.report(b)
	p50, baseline50 := samples.percentile(500), beside.percentile(500)
	b.ReportMetric(float64(baseline50.Nanoseconds()), "baseline-p50-ns")
	b.ReportMetric(float64(p50)/float64(baseline50), "p50-ratio")
	return perCall, baselineNs
}

// speedup runs the same work at one caller and at many, in turns, and reports
// how many times the rate of one the many reach.
func speedup(b *testing.B, callers int, subject op) {
	b.Helper()
	chunk := max(callers, (b.N+rounds-1)/rounds)
	var factors, ones []float64
	run(b, callers, callers, subject, nil)
	b.ResetTimer()
	b.StopTimer()
	for done := 0; done < b.N; done += chunk {
		single := max(1, chunk/callers)
		one := float64(run(b, 1, single, subject, nil)) / float64(single)
		b.StartTimer()
		many := float64(run(b, callers, chunk, subject, nil)) / float64(chunk)
		b.StopTimer()
		factors = append(factors, one/many)
		ones = append(ones, one)
	}
	b.ReportMetric(spread.Median(ones), "baseline-ns/op")
	b.ReportMetric(spread.Median(factors), "x-one-caller")
}

// loop is n calls of something that is over before a clock could be read. Of
// several loops at once each has a worker number of its own.
type loop func(worker, n int) error

// takeTurns runs loops round by round, at this many workers each, until the
// first, which is the subject, has made b.N calls. It returns the time per call
// in nanoseconds of each loop in each round.
func takeTurns(b *testing.B, workers int, loops ...loop) [][]float64 {
	b.Helper()
	b.ReportAllocs()
	chunk := max(workers, (b.N+rounds-1)/rounds)
	perCall := make([][]float64, len(loops))
	for _, l := range loops {
		runLoop(b, workers, chunk, l)
	}
	b.ResetTimer()
	b.StopTimer()
	for done := 0; done < b.N; done += chunk {
		for i, l := range loops {
			if i == 0 {
				b.StartTimer()
			}
			took := runLoop(b, workers, chunk, l)
			b.StopTimer()
			perCall[i] = append(perCall[i], float64(took.Nanoseconds())/float64(chunk))
		}
	}
	return perCall
}

// runLoop makes n calls, shared out to this many goroutines, and returns the
// time for all.
func runLoop(b *testing.B, workers, n int, l loop) time.Duration {
	b.Helper()
	failures := make(chan error, workers)
	began := time.Now()
	if workers == 1 { // no goroutine, whose start would count
		failures <- l(0, n)
	} else {
		for worker := range workers {
			go func() { failures <- l(worker, (n+worker)/workers) }()
		}
	}
	for range workers {
		if err := <-failures; err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began)
}

// ratio is the median over the rounds of how the first of two took longer.
func ratio(subject, baseline []float64) float64 {
	ratios := make([]float64, len(subject))
	for i := range subject {
		ratios[i] = subject[i] / baseline[i]
	}
	return spread.Median(ratios)
}

// run makes n calls from this many goroutines and returns the time for all.
func run(b *testing.B, callers, n int, call op, into *samples) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	var next atomic.Int64
	var failed atomic.Value
	var wg sync.WaitGroup
	began := time.Now()
	for range callers {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				start := time.Now()
				if err := call(ctx); err != nil {
					failed.Store(err)
					return
				}
				into.add(time.Since(start))
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	if err, bad := failed.Load().(error); bad {
		b.Fatal(err)
	}
	return took
}

// samples collects latencies without a lock. A nil *samples drops them.
type samples struct {
	all  []time.Duration
	next atomic.Int64
}

func newSamples(n int) *samples { return &samples{all: make([]time.Duration, n)} }

func (s *samples) add(d time.Duration) {
	if s == nil {
		return
	}
	if i := s.next.Add(1) - 1; i < int64(len(s.all)) {
		s.all[i] = d
	}
}

func (s *samples) report(b *testing.B) {
	b.Helper()
	for _, p := range []struct {
		perMille int
		unit     string
	}{{500, "p50-ns"}, {990, "p99-ns"}, {999, "p99.9-ns"}} {
		b.ReportMetric(float64(s.percentile(p.perMille).Nanoseconds()), p.unit)
	}
}

// percentile is the latency that this many of 1,000 do not exceed. Of fewer
// than 1,000 calls the 999th is the slowest.
func (s *samples) percentile(perMille int) time.Duration {
	got := s.all[:min(s.next.Load(), int64(len(s.all)))]
	slices.Sort(got)
	return got[min(len(got)-1, len(got)*perMille/1000)]
}
