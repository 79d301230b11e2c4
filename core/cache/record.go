package cache

import (
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// recordOverhead is what a record takes beside the bytes of its texts: itself,
// the headers of its allocations, and its place in Ristretto's map, in its
// policy's and in the tenant's queue. Measured by TestCostIsHonest.
const recordOverhead = 360

// Record is one answer as a Table holds it: a value, or that there is none. It
// does not change, but for the time at which its store was last seen to agree.
type Record struct {
	owner  *Backend
	entry  config.Entry // only its ID where absent
	absent bool
	// exact: read from the source of truth, or written by this process.
	exact bool
	born  uint64
	// read is the time, of Cache.since, before which the store was last asked.
	read atomic.Int64
	// scale spreads the ages at which records expire, in thousandths.
	scale int32
	seq   uint32 // its place in the share's queue
	// used since the reconciler last looked.
	used atomic.Bool
}

// cost is what a record takes of memory in bytes, roughly and never less.
func (r *Record) cost() int64 {
	e := &r.entry
	// Allocations are rounded up to a size class, by an eighth at the most.
	bytes := len(e.Value) + len(e.ContentType) + len(e.Revision) + len(e.UpdatedBy) + len(e.Message) +
		len(e.ID.Tenant.String()) + len(e.ID.Service.String()) + len(e.ID.Key.String())
	return int64(recordOverhead + bytes + bytes/8)
}

// hard and soft are the ages at which a record is no longer used unasked, and
// at which a use of it has it read again meanwhile.
func (r *Record) hard() time.Duration {
	p := &r.owner.policy
	limit := p.MaxStaleness
	if r.absent {
		limit = min(limit, p.NegativeTTL)
	}
	return limit * time.Duration(r.scale) / 1000
}

func (r *Record) soft() time.Duration { return r.hard() * 3 / 4 }

// age is how long ago the store was asked for it.
func (r *Record) age(now time.Duration) time.Duration {
	return max(now-time.Duration(r.read.Load()), 0)
}

// same reports whether two records say the same of one ID.
func (r *Record) same(other *Record) bool {
	return r.absent == other.absent && r.entry.Version == other.entry.Version && r.entry.Revision == other.entry.Revision
}

// answer is what a reader is told.
func (r *Record) answer(from config.Source, age time.Duration, state config.State) Answer {
	return Answer{Entry: r.entry, Absent: r.absent, Freshness: r.freshness(from, age, state)}
}

// freshness is that of an answer. What may be an old copy is stale at best.
func (r *Record) freshness(from config.Source, age time.Duration, state config.State) config.Freshness {
	if !r.exact {
		state = config.StateStale
	}
	return config.Freshness{Source: from, Age: age, State: state}
}
