package server

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/store"
)

// maxRates is how many tenants have a rate of their own at once. Those beyond
// share one, so that made-up names cost no memory.
const maxRates = 10_000

// rates bounds how often the values of each tenant are refreshed, so that one
// tenant whose values change all the time, or a machine gone mad, does not take
// the stores from the others. It is safe for concurrent use.
type rates struct {
	perSecond, burst int
	now              func() time.Time

	mu       sync.Mutex
	tenants  map[config.Tenant]*rate.Limiter
	overflow *rate.Limiter
	swept    time.Time
}

// newRates allows perSecond targets of a tenant, and burst at once, which is to
// be no less than one request can hold: else one that is too large would be
// refused for ever.
func newRates(perSecond, burst int) *rates {
	return &rates{
		perSecond: perSecond, burst: max(burst, store.MaxTargets), now: time.Now,
		tenants: make(map[config.Tenant]*rate.Limiter), overflow: rate.NewLimiter(rate.Limit(perSecond), max(burst, store.MaxTargets)),
	}
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
	now := r.now()
	for tenant, n := range asked {
		reserved := r.of(tenant, now).ReserveN(now, n)
		wait := reserved.DelayFrom(now)
		if wait == 0 {
			continue
		}
		reserved.CancelAt(now)
		e := config.Errorf(config.ResourceExhausted, "the values of this tenant are refreshed too often, more than %d a second", r.perSecond).
			WithHint("retry a little later")
		e.RetryAfter = wait
		refused[tenant] = e
	}
	return refused
}

// of returns the limiter of a tenant.
func (r *rates) of(t config.Tenant, now time.Time) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.tenants[t]; l != nil {
		return l
	}
	// A limiter that is full again is like a new one. It takes this long.
	idle := time.Duration(r.burst) * time.Second / time.Duration(r.perSecond)
	if len(r.tenants) >= maxRates && now.Sub(r.swept) >= idle {
		r.swept = now
		for tenant, l := range r.tenants {
			if l.TokensAt(now) >= float64(r.burst) {
				delete(r.tenants, tenant)
			}
		}
	}
	if len(r.tenants) >= maxRates {
		return r.overflow
	}
	l := rate.NewLimiter(rate.Limit(r.perSecond), r.burst)
	r.tenants[t] = l
	return l
}
