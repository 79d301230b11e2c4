// Package fault is a store that can be broken: package memdriver's, behind
// switches that make it slow, unreachable, throttled or a liar.
package fault

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
)

// Store is the store that all replicas share. It is not a Watcher and not
// Idempotent, as the stores of AWS are not.
type Store struct {
	mem *memdriver.Backend

	latency   time.Duration // the longest delay while nothing is wrong
	slow      atomic.Int64  // that beside it, in nanoseconds
	down      atomic.Int32  // how many hold it down
	throttled atomic.Int32  // of a hundred calls
	older     atomic.Int64  // by how many versions reads lag behind

	mu     sync.Mutex
	random *rand.Rand
}

var (
	_ driver.Backend   = (*Store)(nil)
	_ driver.Batcher   = (*Store)(nil)
	_ driver.Historian = (*Store)(nil)
	_ driver.Pinger    = (*Store)(nil)
)

// New returns an empty store whose chances are those of seed, and whose calls
// take up to latency while nothing is wrong with it: without any, a value that
// is read hardly ever is old when it arrives.
func New(seed uint64, latency time.Duration) *Store {
	return &Store{
		latency: latency,
		mem:     memdriver.New(memdriver.WithHistory(64), memdriver.WithChanges(1)),
		random:  rand.New(rand.NewPCG(seed, 0x5708e)), //nolint:gosec // a run is to be repeated
	}
}

// Capabilities implements driver.Limited.
func (s *Store) Capabilities() driver.Capabilities {
	return driver.Capabilities{Batch: true, History: true, Ping: true}
}

// Slow delays every call by up to most from now on, before and after it
// touches what is stored: an answer may be old when it arrives. 0 ends it.
func (s *Store) Slow(most time.Duration) { s.slow.Store(int64(most)) }

// Down makes every call fail until the returned function is called. Half of
// the writes that fail so have been made, and say that this is not known.
func (s *Store) Down() (up func()) {
	s.down.Add(1)
	return sync.OnceFunc(func() { s.down.Add(-1) })
}

// Throttle refuses percent of a hundred calls. 0 ends it.
func (s *Store) Throttle(percent int) { s.throttled.Store(int32(percent)) }

// Older makes reads answer a version that is up to k older, as if it were the
// newest. They never go back behind a deletion, nor deny it: whoever is told of
// an absence knows no version by which to tell the lie. 0 ends it.
func (s *Store) Older(k int) { s.older.Store(int64(k)) }

// Truth is the store without any fault.
func (s *Store) Truth() driver.Backend { return s.mem }

// chance returns a number below n.
func (s *Store) chance(n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.Int64N(n)
}

// delay waits for a part of what Slow allows.
func (s *Store) delay(ctx context.Context) error {
	most := int64(s.latency) + s.slow.Load()
	if most <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(time.Duration(s.chance(most/2 + 1)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// refuse says why a call is not made, if it is not.
func (s *Store) refuse() error {
	if s.down.Load() > 0 {
		return config.Errorf(config.Unavailable, "the store is down")
	}
	if p := s.throttled.Load(); p > 0 && s.chance(100) < int64(p) {
		return config.Errorf(config.ResourceExhausted, "the store is throttled")
	}
	return nil
}

// call is what every call goes through.
func call[T any](ctx context.Context, s *Store, do func() (T, error)) (T, error) {
	var none T
	if err := s.delay(ctx); err != nil {
		return none, err
	}
	if err := s.refuse(); err != nil {
		return none, err
	}
	got, err := do()
	if late := s.delay(ctx); late != nil {
		return none, late
	}
	return got, err
}

// write is call for a write: its fate may be unknown.
func write(ctx context.Context, s *Store, do func() (config.Entry, error)) (config.Entry, error) {
	if err := s.delay(ctx); err != nil {
		return config.Entry{}, err
	}
	refused := s.refuse()
	if refused != nil && (config.CodeOf(refused) != config.Unavailable || s.chance(2) == 0) {
		return config.Entry{}, refused
	}
	e, err := do()
	if refused != nil {
		return config.Entry{}, config.Errorf(config.OutcomeUnknown, "the store went down during the write")
	}
	if late := s.delay(ctx); err == nil && late != nil {
		return config.Entry{}, late // it has been made all the same
	}
	return e, err
}

// Get implements driver.Backend.
func (s *Store) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	return call(ctx, s, func() (config.Entry, error) { return s.get(ctx, id, version) })
}

// get is Get, lying if it is to.
func (s *Store) get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	newest, err := s.mem.Get(ctx, id, version)
	k := s.older.Load()
	if version != 0 || k == 0 || err != nil {
		return newest, err
	}
	history, histErr := s.mem.History(ctx, driver.HistoryRequest{ID: id, PageSize: int(k) + 1})
	if histErr != nil {
		return newest, err
	}
	for back := s.chance(k + 1); back > 0 && len(history.Entries) > 1 && !history.Entries[1].Deleted; back-- {
		history.Entries = history.Entries[1:]
	}
	return history.Entries[0], nil
}

// BatchGet implements driver.Batcher.
func (s *Store) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	return call(ctx, s, func() ([]driver.Result, error) {
		results, err := s.mem.BatchGet(ctx, ids)
		for i := range results {
			results[i].Entry, results[i].Err = s.get(ctx, ids[i], 0)
		}
		return results, err
	})
}

// List implements driver.Backend. It does not lie.
func (s *Store) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	return call(ctx, s, func() (driver.Page, error) { return s.mem.List(ctx, r) })
}

// History implements driver.Historian.
func (s *Store) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	return call(ctx, s, func() (driver.Page, error) { return s.mem.History(ctx, r) })
}

// Put implements driver.Backend.
func (s *Store) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	r.IdempotencyKey = "" // which only an Idempotent store honours
	return write(ctx, s, func() (config.Entry, error) { return s.mem.Put(ctx, r) })
}

// Delete implements driver.Backend.
func (s *Store) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	r.IdempotencyKey = ""
	return write(ctx, s, func() (config.Entry, error) { return s.mem.Delete(ctx, r) })
}

// Ping implements driver.Pinger.
func (s *Store) Ping(ctx context.Context) error {
	_, err := call(ctx, s, func() (struct{}, error) { return struct{}{}, s.mem.Ping(ctx) })
	return err
}

// Close implements driver.Backend.
func (s *Store) Close() error { return s.mem.Close() }
