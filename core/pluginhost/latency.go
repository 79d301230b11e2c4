package pluginhost

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// latencySpan is how long a histogram is filled; one and its predecessor are
	// looked at together.
	latencySpan = time.Minute
	// A value is told from its neighbours to one part in latencySteps, up to
	// somewhat above a minute.
	latencySteps   = 16
	latencyBuckets = 24 * latencySteps
)

// latencies holds how long the calls of the last one to two minutes took, in
// microseconds, without a lock on the way of a call. A call that ends while the
// minute turns may be lost. HdrHistogram's windows are turned by hand and take a
// lock for each value; these few lines need neither.
type latencies struct {
	span  atomic.Int64 // the number of the one that is filled
	mu    sync.Mutex   // orders those that turn
	spans [2][latencyBuckets]atomic.Uint64
}

func (l *latencies) add(now time.Time, d time.Duration) {
	l.spans[l.turn(now)&1][bucketOf(d)].Add(1)
}

// turn returns the number of the histogram to fill, cleared if it is a new one.
func (l *latencies) turn(now time.Time) int64 {
	n := now.UnixNano() / int64(latencySpan)
	if n <= l.span.Load() {
		return l.span.Load()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := max(l.span.Load()+1, n-1); i <= n; i++ {
		for b := range l.spans[i&1] {
			l.spans[i&1][b].Store(0)
		}
		l.span.Store(i)
	}
	return l.span.Load()
}

// percentiles returns the 50th and the 99th, 0 if there was no call.
func (l *latencies) percentiles(now time.Time) (p50, p99 time.Duration) {
	l.turn(now)
	var counts [latencyBuckets]uint64
	var total uint64
	for i := range counts {
		counts[i] = l.spans[0][i].Load() + l.spans[1][i].Load()
		total += counts[i]
	}
	var below uint64
	for i, n := range counts {
		if p50 == 0 && n > 0 && 2*(below+n) >= total {
			p50 = bucketEnd(i)
		}
		if below += n; n > 0 && 100*below >= 99*total {
			return p50, bucketEnd(i)
		}
	}
	return p50, 0
}

// bucketOf is linear up to latencySteps and has as many steps in each doubling
// from there on.
func bucketOf(d time.Duration) int {
	v := uint64(max(d.Microseconds(), 0))
	e := max(bits.Len64(v)-bits.Len64(latencySteps), 0)
	return min(e*latencySteps+int(v>>e), latencyBuckets-1)
}

// bucketEnd is the least time above all of a bucket's.
func bucketEnd(i int) time.Duration {
	if i < latencySteps {
		return time.Duration(i+1) * time.Microsecond
	}
	e := i/latencySteps - 1
	return time.Duration(latencySteps+i%latencySteps+1) << e * time.Microsecond
}
