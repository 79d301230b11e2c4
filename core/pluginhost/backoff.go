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

// backoff spaces the launches of a plugin that keeps failing: a random delay
// below a limit that doubles. One that never answered a call waits half of the
// limit at least, so that ten minutes see 60 launches at most, whatever chance
// wants; one that had is wanted back at once, and waits anything from 0. The
// zero value is ready.
type backoff struct{ failures int }

// next returns the delay before the next launch, above 0. served and uptime
// are those of the process that just ended, zero for one that never served.
func (b *backoff) next(served bool, uptime time.Duration) time.Duration {
	if uptime >= healthyAfter {
		b.failures = 0
	}
	limit := min(minDelay<<min(b.failures, maxDoublings), maxDelay)
	b.failures = min(b.failures+1, maxDoublings)
	if served {
		return 1 + rand.N(min(limit, maxDelayServed)) //nolint:gosec // jitter, not a secret
	}
	return limit/2 + rand.N(limit/2+1) //nolint:gosec // as above
}
