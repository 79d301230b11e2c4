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
)

// rounds is how often subject and baseline take turns in one benchmark.
const rounds = 15

// op is one call of what is measured.
type op func(ctx context.Context) error

// compare runs subject and baseline in turns at this many callers until subject
// has run b.N times. It reports, beside the standard ns/op of the subject:
// ratio (time per call, subject over baseline, median of rounds), the
// baseline's ns/op, and the subject's 50th and 99th percentile.
func compare(b *testing.B, callers int, subject, baseline op) {
	b.Helper()
	b.ReportAllocs()
	chunk := max(callers, (b.N+rounds-1)/rounds)
	samples := newSamples(b.N + chunk)
	var ratios, baselines []float64
	run(b, callers, min(chunk, 20*callers), baseline, nil) // connections open, caches warm
	run(b, callers, min(chunk, 20*callers), subject, nil)
	b.ResetTimer()
	b.StopTimer()
	for done := 0; done < b.N; done += chunk {
		base := run(b, callers, chunk, baseline, nil)
		b.StartTimer()
		mine := run(b, callers, chunk, subject, samples)
		b.StopTimer()
		ratios = append(ratios, float64(mine)/float64(base))
		baselines = append(baselines, float64(base.Nanoseconds())/float64(chunk))
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(baselines), "baseline-ns/op")
	samples.report(b)
}

// speedup runs the same work at one caller and at many, in turns, and reports
// how many times the rate of one the many reach.
func speedup(b *testing.B, callers int, subject op) {
	b.Helper()
	chunk := max(callers, (b.N+rounds-1)/rounds)
	var factors []float64
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
	}
	b.ReportMetric(median(factors), "x-one-caller")
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
	return median(ratios)
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
	p50, p99 := s.percentiles()
	b.ReportMetric(float64(p50.Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(p99.Nanoseconds()), "p99-ns")
}

// percentiles returns the 50th and the 99th.
func (s *samples) percentiles() (p50, p99 time.Duration) {
	got := s.all[:min(s.next.Load(), int64(len(s.all)))]
	slices.Sort(got)
	return got[len(got)/2], got[min(len(got)-1, len(got)*99/100)]
}

func median(xs []float64) float64 {
	slices.Sort(xs)
	mid := len(xs) / 2
	if len(xs)%2 == 0 {
		return (xs[mid-1] + xs[mid]) / 2
	}
	return xs[mid]
}
