package daxread

import (
	"sync"
	"time"
)

// The circuit opens after failuresToOpen calls in a row that the cluster did
// not answer. While it is open no call reaches the cluster, except one after
// each cooldown; the cooldown doubles until such a call is answered.
const (
	failuresToOpen  = 3
	firstCooldown   = 500 * time.Millisecond
	longestCooldown = 30 * time.Second
)

// verdict is what a call says about the cluster.
type verdict int

const (
	nothing  verdict = iota // the caller gave up, or the call never got there
	answered                // the cluster works, whatever the answer
	failed                  // the cluster did not answer
	lied                    // the cluster can not be trusted
)

// breaker is the circuit. Its zero value with a clock is a closed one.
type breaker struct {
	now func() time.Time

	mu       sync.Mutex
	failures int
	cooldown time.Duration // 0 while closed
	until    time.Time     // when the cooldown ends
	probing  bool          // a call is trying the cluster
	opened   int           // how often, for tests
}

// allow reports whether a call may reach the cluster, and whether it is the
// one that tries an open circuit. A call that may must report its verdict.
func (b *breaker) allow() (ok, probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cooldown == 0 {
		return true, false
	}
	if b.probing || b.now().Before(b.until) {
		return false, false
	}
	b.probing = true
	return true, true
}

// report takes the verdict of a call that was allowed. Of the calls that were
// under way when the circuit opened, only a lie still counts.
func (b *breaker) report(v verdict, probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
	isOpen := b.cooldown > 0
	switch {
	case v == lied:
		b.open(longestCooldown)
	case isOpen && !probe, v == nothing:
	case v == answered:
		b.failures, b.cooldown = 0, 0
	case probe:
		b.open(min(2*b.cooldown, longestCooldown))
	default:
		if b.failures++; b.failures >= failuresToOpen {
			b.open(firstCooldown)
		}
	}
}

func (b *breaker) open(cooldown time.Duration) {
	b.cooldown, b.until, b.failures = cooldown, b.now().Add(cooldown), 0
	b.opened++
}
