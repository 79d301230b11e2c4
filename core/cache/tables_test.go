package cache_test

import (
	"sync"
	"sync/atomic"

	"github.com/tagstore/tagstore/core/cache"
)

// oneTable holds the last record that it was given, whatever is asked for: all
// hashes are alike.
type oneTable struct {
	mu   sync.Mutex
	last *cache.Record
}

// tables are those that a service may have.
var tables = map[string]func(int64) (cache.Table, error){"ristretto": cache.NewRistretto, "clock": cache.NewClock}

func oneSlot(int64) (cache.Table, error) { return &oneTable{}, nil }

func (o *oneTable) Get(uint64) (*cache.Record, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last, o.last != nil
}

func (o *oneTable) Set(_ uint64, r *cache.Record, _ int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = r
	return true
}

func (o *oneTable) Delete(uint64) {}
func (o *oneTable) Wait()         {}
func (o *oneTable) Cost() int64   { return 0 }
func (o *oneTable) Close()        {}

// noTable drops everything, and says that it took it.
type noTable struct{}

func forgetful(int64) (cache.Table, error) { return noTable{}, nil }

func (noTable) Get(uint64) (*cache.Record, bool)      { return nil, false }
func (noTable) Set(uint64, *cache.Record, int64) bool { return true }
func (noTable) Delete(uint64)                         {}
func (noTable) Wait()                                 {}
func (noTable) Cost() int64                           { return 0 }
func (noTable) Close()                                {}

// spyTable counts what a real table is given.
type spyTable struct {
	cache.Table
	sets atomic.Int64
}

func (s *spyTable) open(maxCost int64) (cache.Table, error) {
	var err error
	s.Table, err = cache.NewRistretto(maxCost)
	return s, err
}

func (s *spyTable) Set(hash uint64, r *cache.Record, cost int64) bool {
	s.sets.Add(1)
	return s.Table.Set(hash, r, cost)
}
