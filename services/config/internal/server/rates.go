package server

import (
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/store"
)

const (
	// maxRates is how many tenants have a rate of their own at once. Those beyond
	// share one, so that made-up names cost no memory.
	maxRates = 10_000
	// sweepPause is how long the idle are not looked for again: there are maxRates
	// to look at.
	sweepPause = 100 * time.Millisecond
)

// buckets are a bucket of tokens for each tenant, into which perSecond flow until
// it holds burst. They are safe for concurrent use.
//
// Not golang.org/x/time/rate: it takes as long as all of this, and counts time
// twice for callers who have read the clock in another order than they come.
type buckets struct {
	perSecond int
	depth     time.Duration        // how long it takes until an empty one is full
	now       func() time.Duration // on a clock that never goes back

	mu       sync.Mutex
	tenants  map[config.Tenant]*bucket
	overflow *bucket
	swept    time.Duration
}

// bucket is one of them, under the lock of all.
type bucket struct {
	full time.Duration // when it is full again: so it says how much is missing
	told time.Duration // until when its refusals are not logged again
}

func newBuckets(perSecond, burst int) *buckets {
	began := time.Now()
	b := &buckets{
		perSecond: perSecond, now: func() time.Duration { return time.Since(began) },
		tenants: make(map[config.Tenant]*bucket), overflow: &bucket{}, swept: -sweepPause,
	}
	b.depth = b.flow(burst)
	return b
}

// flow is how long it takes until n tokens have come.
func (b *buckets) flow(n int) time.Duration {
	return time.Duration(n) * time.Second / time.Duration(b.perSecond)
}

// take takes n tokens of a tenant, which are at most burst, or none of them and
// returns how long it takes until there are as many.
func (b *buckets) take(t config.Tenant, n int) time.Duration {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.of(t, now)
	full := max(of.full, now) + b.flow(n)
	if wait := full - now - b.depth; wait > 0 {
		return wait
	}
	of.full = full
	return 0
}

// spend takes n tokens, of which there may be fewer: whatever comes next waits
// for them.
func (b *buckets) spend(t config.Tenant, n int) {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.of(t, now)
	of.full = max(of.full, now) + b.flow(n)
}

// untold reports whether nobody was told for as long as this that a tenant was
// refused, and takes it for told.
func (b *buckets) untold(t config.Tenant, pause time.Duration) bool {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.of(t, now)
	if now < of.told {
		return false
	}
	of.told = now + pause
	return true
}

func (b *buckets) of(t config.Tenant, now time.Duration) *bucket {
	of := b.tenants[t]
	if of == nil {
		of = b.add(t, now)
	}
	return of
}

func (b *buckets) add(t config.Tenant, now time.Duration) *bucket {
	if len(b.tenants) >= maxRates && now-b.swept >= sweepPause {
		b.swept = now
		for tenant, of := range b.tenants {
			if of.full <= now { // it is like a new one
				delete(b.tenants, tenant)
			}
		}
	}
	if len(b.tenants) >= maxRates {
		return b.overflow
	}
	of := &bucket{}
	b.tenants[t] = of
	return of
}

// rates bounds how often the values of each tenant are refreshed, so that one
// tenant whose values change all the time, or a machine gone mad, does not take
// the stores from the others. It is safe for concurrent use.
type rates struct{ buckets *buckets }

// newRates allows perSecond targets of a tenant, and burst at once, which is to
// be no less than one request can hold: else one that is too large would be
// refused for ever.
func newRates(perSecond, burst int) *rates {
	return &rates{buckets: newBuckets(perSecond, max(burst, store.MaxTargets))}
}

// admit returns an error for each tenant whose targets have to wait. All of a
// tenant's targets are admitted or none: otherwise a request that is sent again
// as a whole would spend what it waited for on the targets that it had got.
func (r *rates) admit(targets []store.RefreshTarget) map[config.Tenant]*config.Error {
	asked := make(map[config.Tenant]int)
	for _, t := range targets {
		asked[t.Tenant]++
	}
	refused := make(map[config.Tenant]*config.Error)
	for tenant, n := range asked {
		wait := r.buckets.take(tenant, n)
		if wait == 0 {
			continue
		}
		e := config.Errorf(config.ResourceExhausted, "the values of this tenant are refreshed too often, more than %d a second", r.buckets.perSecond).
			WithHint("retry a little later")
		e.RetryAfter = wait
		refused[tenant] = e
	}
	return refused
}
