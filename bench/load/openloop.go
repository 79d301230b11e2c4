package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// plan is when calls are to begin, whatever became of the ones before.
type plan struct {
	rate    int // calls a second
	calls   int
	callers int // how many may be under way at once
	timeout time.Duration
	cut     time.Duration // nothing is begun any more after so long; 0: all calls are made
}

// result are the latencies of one plan, sorted.
type result struct {
	// fromIntended counts from when a call was to begin: what it waited for a
	// caller because the ones before took long is in it. A closed loop, which asks
	// again when it has its answer, leaves exactly that out.
	fromIntended []time.Duration
	// fromActual counts from when it did begin.
	fromActual []time.Duration
	took       time.Duration
	failed     int
	refused    int // of those that did not fail
	firstError error
}

// openLoop makes all calls of the plan, or those for which there was time. It ends
// early only with its context.
func openLoop(ctx context.Context, p plan, call func(ctx context.Context) error) result {
	r := result{fromIntended: make([]time.Duration, p.calls), fromActual: make([]time.Duration, p.calls)}
	var next atomic.Int64
	var mu sync.Mutex
	var callers sync.WaitGroup
	began := time.Now()
	for range p.callers {
		callers.Go(func() {
			wait := time.NewTimer(0)
			defer wait.Stop()
			for p.cut == 0 || time.Since(began) < p.cut {
				i := int(next.Add(1)) - 1
				if i >= p.calls {
					return
				}
				intended := began.Add(time.Duration(i) * time.Second / time.Duration(p.rate))
				wait.Reset(time.Until(intended))
				select {
				case <-wait.C:
				case <-ctx.Done():
				}
				actual := time.Now()
				err := limited(ctx, p.timeout, call)
				ended := time.Now()
				r.fromIntended[i], r.fromActual[i] = ended.Sub(intended), ended.Sub(actual)
				if err != nil {
					mu.Lock()
					r.failed++
					r.firstError = errors.Join(r.firstError, firstOf(r.failed, err))
					mu.Unlock()
				}
			}
		})
	}
	callers.Wait()
	r.took = time.Since(began)
	made := min(int(next.Load()), p.calls)
	r.fromIntended, r.fromActual = r.fromIntended[:made], r.fromActual[:made]
	slices.Sort(r.fromIntended)
	slices.Sort(r.fromActual)
	return r
}

func limited(ctx context.Context, timeout time.Duration, call func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	return call(ctx)
}

// firstOf keeps one error of thousands that are the same.
func firstOf(n int, err error) error {
	if n == 1 {
		return err
	}
	return nil
}

// percentile is the latency that this many of 1,000 calls do not exceed.
func percentile(sorted []time.Duration, perMille int) time.Duration {
	return sorted[min(len(sorted)-1, len(sorted)*perMille/1000)]
}
