package pluginhost

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// When a circuit opens and how it is tried. What the window holds is kept in
// parts, each of which is dropped as a whole.
const (
	breakerWindow = 5 * time.Second
	breakerParts  = 10
	// breakerCalls is how many calls of the window must have ended before their
	// failures say something.
	breakerCalls = 10
	// breakerTrial is how often a call is let through an open circuit; a write
	// only when no read has been for twice as long, since a write that gets no
	// answer leaves its caller in doubt where a refused one does not.
	breakerTrial = 500 * time.Millisecond
)

// Circuit is whether calls of a plugin are let through to it.
type Circuit int

// The states of a circuit.
const (
	CircuitClosed   Circuit = iota // calls go through
	CircuitOpen                    // calls are Unavailable at once
	CircuitHalfOpen                // open, and a call is trying the plugin
)

// String returns the state's name as it stands in logs and on the wire.
func (c Circuit) String() string {
	switch c {
	case CircuitClosed:
		return "closed"
	case CircuitOpen:
		return "open"
	case CircuitHalfOpen:
		return "half-open"
	default:
		return "unknown"
	}
}

// verdict is what a call says of the health of its plugin.
type verdict int

const (
	healthy   verdict = iota // the plugin answered, be it with an error
	unhealthy                // its store was out of reach, or it did not answer in time
	unknown                  // neither: the call never got there, or its caller gave up
)

// breaker stops the calls of a plugin half of which end without an answer, or
// with the one that its store is out of reach: their callers learn so at once
// rather than at their deadline, and the plugin is left in peace.
//
// While it is open a call every breakerTrial goes through, whatever became of
// the one before: a trial that hangs does not keep the next from finding that
// the plugin is well again. One that ends well closes it.
type breaker struct {
	open atomic.Bool // written under mu

	mu     sync.Mutex
	parts  [breakerParts]struct{ calls, failures int }
	part   int64 // the number of the part that now counts
	since  time.Time
	reason string    // what opened it
	tried  time.Time // when a call was last let through
	trials int       // that are under way
}

// allow says whether a call may go through. One that is let through as a trial
// is to be reported as such.
func (b *breaker) allow(write bool) (trial bool, err error) {
	if !b.open.Load() {
		return false, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open.Load() {
		return false, nil
	}
	now := time.Now()
	wait := breakerTrial
	if write {
		wait = 2 * breakerTrial
	}
	if left := b.tried.Add(wait).Sub(now); left > 0 {
		e := config.Errorf(config.Unavailable, "it is not called since %s, because %s", b.since.UTC().Format(time.RFC3339), b.reason).
			WithHint("retry: it is tried every %v; the host's log and the plugin's status say what is wrong with it", breakerTrial)
		e.RetryAfter = left
		return false, e
	}
	b.tried = now
	b.trials++
	return true, nil
}

// report takes what came of a call that was let through. It returns true where
// that opened or closed the circuit.
func (b *breaker) report(v verdict, code config.Code, trial bool) (turned bool) {
	if v == unknown && !trial {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if trial {
		b.trials--
		switch {
		case !b.open.Load():
		case v == healthy:
			b.parts = [breakerParts]struct{ calls, failures int }{}
			b.open.Store(false)
			return true
		case v == unknown: // it proved nothing: the next may try at once
			b.tried = time.Time{}
		}
		return false
	}
	if b.open.Load() {
		return false // it began before
	}
	part := b.advance(now)
	part.calls++
	if v == healthy {
		return false
	}
	part.failures++
	var calls, failures int
	for _, p := range b.parts {
		calls += p.calls
		failures += p.failures
	}
	if calls < breakerCalls || 2*failures < calls {
		return false
	}
	b.since, b.tried = now, now
	b.reason = config.Errorf(code, "%d of its last %d calls failed, the last of them with %v", failures, calls, code).Message
	b.open.Store(true)
	return true
}

// advance returns the part of the window that now counts, and clears those that
// have passed out of it.
func (b *breaker) advance(now time.Time) *struct{ calls, failures int } {
	const length = breakerWindow / breakerParts
	n := now.UnixNano() / int64(length)
	for i := max(b.part+1, n-breakerParts+1); i <= n; i++ {
		b.parts[i%breakerParts] = struct{ calls, failures int }{}
	}
	b.part = max(b.part, n)
	return &b.parts[b.part%breakerParts]
}

// state returns how the circuit stands and, unless it is closed, why.
func (b *breaker) state() (c Circuit, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.open.Load():
		return CircuitClosed, ""
	case b.trials > 0:
		return CircuitHalfOpen, b.reason
	default:
		return CircuitOpen, b.reason
	}
}
