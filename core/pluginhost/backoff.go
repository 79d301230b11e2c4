package pluginhost

import (
	"math/rand/v2"
	"time"
)

const (
	minDelay = 50 * time.Millisecond
	maxDelay = 30 * time.Second
	// maxDelayServed bounds the delay for a plugin that had answered calls: it
	// can serve, and calls are waiting for it.
	maxDelayServed = 800 * time.Millisecond
	healthyAfter   = 60 * time.Second
	maxDoublings   = 10 // 50 ms << 10 is above maxDelay, and far from overflow
)

// backoff spaces the launches of a plugin that keeps failing: full jitter (a
// random delay up to a limit) with a limit that doubles. The zero value is
// ready.
type backoff struct{ failures int }

// next returns the delay before the next launch, above 0. served and uptime
// are those of the process that just ended, zero for one that never served.
func (b *backoff) next(served bool, uptime time.Duration) time.Duration {
	if uptime >= healthyAfter {
		b.failures = 0
	}
	limit := min(minDelay<<min(b.failures, maxDoublings), maxDelay)
	if served {
		limit = min(limit, maxDelayServed)
	}
	b.failures = min(b.failures+1, maxDoublings)
	return 1 + rand.N(limit) //nolint:gosec // jitter, not a secret
}
