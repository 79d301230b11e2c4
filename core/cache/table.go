package cache

import (
	"sync"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/tagstore/tagstore/core/config"
)

// Table is what a Cache needs of a cache library. It may lose, drop or delay
// anything that it is given at any time; what Get returns is what some Set of
// that hash was given. All methods may be called at once from any number of
// goroutines, but none with or after Close.
type Table interface {
	Get(hash uint64) (*Record, bool)
	// Set reports whether the record was taken, as far as is known.
	Set(hash uint64, r *Record, cost int64) bool
	Delete(hash uint64)
	// Wait returns when the Sets before it have taken effect or been dropped.
	Wait()
	// Cost is the sum of the costs of what is held, roughly.
	Cost() int64
	Close()
}

// NewRistretto returns a Table of at most maxCost.
//
// Its traps are why nothing depends on the order of its calls: a Set of an
// absent key behind another one is dropped in favour of the older, a deleted
// value can be read after Del returned, new keys are dropped under load, and
// an item that costs more than the whole is dropped without a word.
func NewRistretto(maxCost int64) (Table, error) {
	// Ten counters for each item that fits, as its documentation advises, with
	// items of half a kilobyte; each takes three bytes.
	counters := max(10*maxCost/512, 10_000)
	c, err := ristretto.NewCache(&ristretto.Config[uint64, *Record]{
		NumCounters: counters, MaxCost: maxCost, BufferItems: 64, IgnoreInternalCost: true,
		// The hash is the Cache's own; identity is compared on every hit, so a
		// second hash would find nothing more.
		KeyToHash: func(hash uint64) (uint64, uint64) { return hash, 0 },
	})
	if err != nil {
		return nil, config.Errorf(config.Internal, "the cache can not be made: %w", err)
	}
	return &ristrettoTable{cache: c, max: maxCost}, nil
}

// ristrettoOverhead is what a record takes in the maps of Ristretto and of its
// policy, beyond what it takes in ours. Measured by TestCostIsHonest.
const ristrettoOverhead = 100

type ristrettoTable struct {
	cache *ristretto.Cache[uint64, *Record]
	max   int64
}

func (t *ristrettoTable) Get(hash uint64) (*Record, bool) { return t.cache.Get(hash) }
func (t *ristrettoTable) Set(hash uint64, r *Record, cost int64) bool {
	return t.cache.Set(hash, r, cost+ristrettoOverhead)
}
func (t *ristrettoTable) Delete(hash uint64) { t.cache.Del(hash) }
func (t *ristrettoTable) Wait()              { t.cache.Wait() }
func (t *ristrettoTable) Cost() int64        { return t.max - t.cache.RemainingCost() }
func (t *ristrettoTable) Close()             { t.cache.Close() }

// gate keeps writers out of a table that is closed: Ristretto panics when a Set
// meets its Close.
type gate struct {
	mu     sync.RWMutex
	closed bool
	table  Table
}

// get is for those who may come after close; a hit asks the table itself.
func (g *gate) get(hash uint64) (*Record, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return nil, false
	}
	return g.table.Get(hash)
}

func (g *gate) set(hash uint64, r *Record, cost int64) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return !g.closed && g.table.Set(hash, r, cost)
}

func (g *gate) delete(hash uint64) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if !g.closed {
		g.table.Delete(hash)
	}
}

// settle waits until what was set before can be read.
func (g *gate) settle() {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if !g.closed {
		g.table.Wait()
	}
}

func (g *gate) cost() int64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return 0
	}
	return g.table.Cost()
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		g.table.Close()
	}
}
