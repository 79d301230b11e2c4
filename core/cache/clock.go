package cache

import (
	"sync"
	"sync/atomic"
)

// How many stripes there are. Keys that share one cost each other a miss.
const (
	keyStripes    = 1 << 16
	tenantStripes = 1 << 12
)

// spot is where an ID lies: the hash of all of it, which is also its key in
// the table, and that of its tenant.
type spot struct{ id, tenant uint64 }

// clock decides whether a record is valid: see the package's protocol. Reading
// it takes no lock.
type clock struct {
	mu      sync.Mutex // held to invalidate
	tick    atomic.Uint64
	epoch   atomic.Uint64
	settled atomic.Uint64
	keys    [keyStripes]atomic.Uint64
	tenants [tenantStripes]atomic.Uint64
}

// now is the born of a record whose backend is asked after this call.
func (c *clock) now() uint64 { return c.tick.Load() }

// need is the least born that a record at s must have.
func (c *clock) need(s spot) uint64 {
	return max(c.keys[s.id%keyStripes].Load(), c.tenants[s.tenant%tenantStripes].Load(), c.epoch.Load())
}

// invalidate ends the validity of every record at s, and of every fill that is
// under way. at is the born of a record that is put in its place. clean says
// that nothing else at s was invalidated since the clock showed since: only
// then a value that was read or written after that is known to be the newest.
//
// The lock makes the comparison and the step one: without it two invalidations
// could each find that nothing came between.
func (c *clock) invalidate(s spot, since uint64) (at uint64, clean bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clean = c.need(s) <= since
	at = c.tick.Add(1)
	c.keys[s.id%keyStripes].Store(at)
	return at, clean
}

// invalidateTenant does the same to all records of a tenant.
func (c *clock) invalidateTenant(tenant, since uint64) (at uint64, clean bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stripe := &c.tenants[tenant%tenantStripes]
	clean = max(stripe.Load(), c.epoch.Load()) <= since
	at = c.tick.Add(1)
	stripe.Store(at)
	return at, clean
}

// invalidateAll does the same to everything.
func (c *clock) invalidateAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch.Store(c.tick.Add(1))
}

// untouched reports whether the stripe of an ID has not been invalidated since
// the clock showed since, other than by the invalidation of its tenant at at.
func (c *clock) untouched(s spot, since, at uint64) bool {
	tenant := c.tenants[s.tenant%tenantStripes].Load()
	return c.keys[s.id%keyStripes].Load() <= since && (tenant <= since || tenant == at) && c.epoch.Load() <= since
}
