package cache

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Policy says how one route is kept in memory.
type Policy struct {
	// Prefix names the route in metrics.
	Prefix string
	// MaxStaleness is the age up to which a value is used unasked; 0: values
	// are not kept at all.
	MaxStaleness time.Duration
	// Reconcile has what is held compared with the store before it reaches
	// MaxStaleness, so that reads do not wait for it.
	Reconcile bool
	// StaleIfError is the age up to which a value stands in for a store that is
	// out of reach; 0: not at all.
	StaleIfError time.Duration
	// NegativeTTL is MaxStaleness for an absence, at most that.
	NegativeTTL time.Duration
}

// Want is what a read asks of its answer. The zero value asks nothing beyond
// the route's policy.
type Want struct {
	// Bounded says that the answer may be MaxStaleness old at most. With 0 it
	// is read from the source of truth by a call that begins after this one.
	Bounded      bool
	MaxStaleness time.Duration
}

// Answer is what is known of one ID. Its bytes belong to the Cache: they must
// not be changed.
type Answer struct {
	Entry  config.Entry
	Absent bool // Entry is nothing but the ID then
	// Outdated says that a store which can not be asked may have something
	// newer by now. An absence must not be told as an error then: errors have no
	// mark.
	Outdated bool
	// Freshness is how new Entry is, or that it is absent.
	Freshness config.Freshness
}

// Result is the answer for one ID of several: Err is nil or Answer is zero.
type Result struct {
	Answer
	Err error
}

// Backend is one route's backend behind a Cache. It keeps the contract of
// package driver where the backend does, and copies bytes in and out there;
// Read and ReadMany do not. What is behind it can be replaced while it is used:
// see Swap.
//
// It is safe for concurrent use.
type Backend struct {
	cache  *Cache
	sites  sites
	now    atomic.Pointer[mount] // what answers
	views  views
	counts counts
	ctx    context.Context // ends with Close or Unwrap of this, or with the Cache
	close  context.CancelFunc

	gate  sync.Mutex    // who uses now, and whether it may be used
	held  chan struct{} // closed when Hold is over; nil where there is none
	taken bool          // out of use, by Unwrap
}

// counts are what the metrics read. They are counted apart from the
// instruments, which cost more than a hit.
type counts struct {
	hits                                                          [8]tally // by hash, so that those who hit at once do not wait for each other
	misses, degraded, stale, fills, failures, notKept, reconciled atomic.Int64
	// oldest is the greatest age of an answer that was not marked since it was
	// last reported, in nanoseconds.
	oldest atomic.Int64
}

// tally is a counter that shares a line of memory with nothing.
type tally struct {
	atomic.Int64
	_ [56]byte
}

// hitsInAll is the sum of all.
func (n *counts) hitsInAll() (sum int64) {
	for i := range n.hits {
		sum += n.hits[i].Load()
	}
	return sum
}

// Wrap returns b behind the cache. Several routes may have the same b, each
// with a policy of its own; they share what is known of its being in reach.
func (c *Cache) Wrap(b driver.Backend, p Policy) *Backend {
	c.mu.Lock()
	defer c.mu.Unlock()
	wrapped := &Backend{cache: c}
	wrapped.ctx, wrapped.close = context.WithCancel(c.ctx)
	m := wrapped.mount(c.source(b), p)
	wrapped.now.Store(m)
	wrapped.views.init(wrapped, m.space)
	c.backends = append(slices.Clone(c.backends), wrapped)
	if !c.closed {
		c.work.Go(wrapped.maintain)
	}
	return wrapped
}

// source returns what is known of b's store, the same for every Wrap of b. The
// lock is held.
func (c *Cache) source(b driver.Backend) *source {
	s := c.known(b)
	if s == nil {
		c.spaces++
		s = newSource(b, c.perMin, c.spaces)
		c.sources = append(c.sources, s)
	}
	s.used = true
	return s
}

// known is source, nil where there is none.
func (c *Cache) known(b driver.Backend) *source {
	if reflect.TypeOf(b).Comparable() {
		for _, s := range c.sources {
			if s.backend == b {
				return s
			}
		}
	}
	return nil
}

// keeps reports whether the route's values are kept at all.
func (b *mount) keeps() bool { return b.policy.MaxStaleness > 0 }

// Capabilities are those of the backend, and Watch whatever it can do.
func (b *Backend) Capabilities() driver.Capabilities {
	has := driver.CapabilitiesOf(b.now.Load().backend)
	has.Watch = true
	has.Batch = true
	return has
}

// Caveats are those of the backend.
func (b *Backend) Caveats() driver.Caveats { return driver.CaveatsOf(b.now.Load().backend) }

// Get is Read for the latest version, and the backend's own for any other.
func (b *Backend) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	if version != 0 {
		m, err := b.enter(ctx)
		if err != nil {
			return config.Entry{}, err
		}
		defer m.leave()
		return m.backend.Get(ctx, id, version)
	}
	if err := b.open(ctx); err != nil {
		return config.Entry{}, err
	}
	a, err := b.Read(ctx, id, Want{})
	switch {
	case err != nil:
		return config.Entry{}, err
	case a.Absent:
		return config.Entry{}, a.absence()
	}
	return a.Entry.Clone(), nil
}

// open is what a hit would not notice.
func (b *Backend) open(ctx context.Context) error {
	if b.ctx.Err() != nil {
		return errClosed()
	}
	return ctx.Err()
}

// Close closes the backend. What is held of it is not used any more.
func (b *Backend) Close() error {
	b.close()
	return b.now.Load().backend.Close()
}

func errClosed() error {
	return config.Errorf(config.FailedPrecondition, "the backend is closed")
}

// absence is the error that tells an absence.
func (a Answer) absence() error {
	if a.Outdated {
		return errDown()
	}
	return errAbsent
}

var errAbsent error = config.Errorf(config.NotFound, "there is no such value")

// BatchGet is Get for each of several.
func (b *Backend) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	out := make([]driver.Result, len(ids))
	for i, r := range b.ReadMany(ctx, ids, Want{}) {
		switch {
		case r.Err != nil:
			out[i].Err = r.Err
		case r.Absent:
			out[i].Err = r.absence()
		default:
			out[i].Entry = r.Entry.Clone()
		}
	}
	return out, nil
}

// List is the backend's own, which it always asks. What a page holds is kept,
// so that one call fetches what would be many Gets.
func (b *Backend) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	m, err := b.enter(ctx)
	if err != nil {
		return driver.Page{}, err
	}
	defer m.leave()
	return m.list(ctx, r)
}

func (b *mount) list(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	born, began := b.cache.clock.now(), b.cache.since()
	page, err := b.backend.List(ctx, r)
	if err != nil || !b.keeps() {
		return page, err
	}
	for _, e := range page.Entries {
		if e.Deleted || e.ID.Tenant != r.Tenant || e.ID.Service != r.Service {
			continue // not what was asked for: others judge it
		}
		s := b.spot(e.ID)
		if held, need := b.lookup(s, &e.ID); held != nil && held.born >= need {
			continue
		}
		b.keep(s, b.record(e, false, born, began, true)) // List is never eventual: C30
	}
	return page, nil
}

// Put writes through, and puts what it wrote in place of what is held before it
// returns.
func (b *Backend) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	m, err := b.enter(ctx)
	if err != nil {
		return config.Entry{}, err
	}
	defer m.leave()
	return m.put(ctx, r)
}

func (b *mount) put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	born, began := b.cache.clock.now(), b.cache.since()
	e, err := b.backend.Put(ctx, r)
	if err != nil {
		b.failedWrite(r.ID, err)
		return e, err
	}
	if e.ID != r.ID || e.Deleted { // others judge it
		b.cache.clock.invalidate(b.spot(r.ID), born)
		return e, nil
	}
	written := e
	written.Value = append([]byte{}, r.Value...)
	b.wrote(b.record(written, false, born, began, true), r.IdempotencyKey)
	return e, nil
}

// Delete writes through as Put does.
func (b *Backend) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	m, err := b.enter(ctx)
	if err != nil {
		return config.Entry{}, err
	}
	defer m.leave()
	return m.remove(ctx, r)
}

func (b *mount) remove(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	born, began := b.cache.clock.now(), b.cache.since()
	e, err := b.backend.Delete(ctx, r)
	if err != nil {
		b.failedWrite(r.ID, err)
		return e, err
	}
	if e.ID != r.ID || !e.Deleted {
		b.cache.clock.invalidate(b.spot(r.ID), born)
		return e, nil
	}
	b.wrote(b.record(e, true, born, began, true), r.IdempotencyKey)
	return e, nil
}

// wrote applies an acknowledged write. One that carried an idempotency key may
// be the answer to an earlier write, which others have followed since: it is
// not put in place.
func (b *mount) wrote(r *said, idempotencyKey string) {
	if idempotencyKey == "" {
		b.apply(r)
		return
	}
	b.cache.floors.raise(r.space, r.entry, r.absent, b.forgets, r.born, b.cache.clock.now(), b.cache.since())
	r.born, _ = b.cache.clock.invalidate(b.spot(r.entry.ID), r.born)
	b.views.changed(r, false)
}

// failedWrite gives up what is held where the write may have been made, or
// another one has been.
func (b *mount) failedWrite(id config.ID, err error) {
	switch config.CodeOf(err) {
	case config.InvalidArgument, config.NotFound, config.AlreadyExists, config.PermissionDenied, config.Unauthenticated,
		config.FailedPrecondition, config.Unimplemented, config.ResourceExhausted:
		return
	}
	b.cache.clock.invalidate(b.spot(id), 0)
}

// History, Ping, IdempotencyWindow, Size and Refresh of the driver's optional
// interfaces are the backend's own; Capabilities says whether they are there.

// History returns the versions that the backend keeps.
func (b *Backend) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	m, err := b.enter(ctx)
	if err != nil {
		return driver.Page{}, err
	}
	defer m.leave()
	if from, ok := driver.AsHistorian(m.backend); ok {
		return from.History(ctx, r)
	}
	return driver.Page{}, unable("tell the history of a value")
}

// Ping asks the backend whether its store is in reach.
func (b *Backend) Ping(ctx context.Context) error {
	m, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer m.leave()
	if p, ok := driver.AsPinger(m.backend); ok {
		return p.Ping(ctx)
	}
	return unable("be pinged")
}

// IdempotencyWindow is the backend's.
func (b *Backend) IdempotencyWindow() time.Duration {
	if i, ok := driver.AsIdempotent(b.now.Load().backend); ok {
		return i.IdempotencyWindow()
	}
	return 0
}

// Size asks the backend how much its store holds.
func (b *Backend) Size(ctx context.Context) (driver.Size, error) {
	m, err := b.enter(ctx)
	if err != nil {
		return driver.Size{}, err
	}
	defer m.leave()
	if s, ok := driver.AsSizer(m.backend); ok {
		return s.Size(ctx)
	}
	return driver.Size{}, unable("tell how much it holds")
}

// Refresh asks the backend's source of truth, past the cache, and puts what it
// says in place of what is held.
func (b *Backend) Refresh(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	m, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	return m.refresh(ctx, ids)
}

func (b *mount) refresh(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	r, ok := driver.AsRefresher(b.backend)
	if !ok {
		return nil, unable("be asked past what is in front of it")
	}
	born, began := b.cache.clock.now(), b.cache.since()
	got, err := r.Refresh(ctx, ids)
	if err != nil || len(got) != len(ids) {
		return got, err
	}
	for i, g := range got {
		if rec, err := b.judged(ids[i], g, born, began, true); err == nil && rec != nil {
			b.apply(rec)
		}
	}
	return got, nil
}

// ErrBreach is in the chain of an error that says how a backend broke its
// contract: its Message is one of a few fixed texts.
var ErrBreach = errors.New("the backend broke its contract")

func breach(what string) error {
	return &config.Error{Code: config.Internal, Message: what, Err: ErrBreach}
}

func unable(what string) error {
	return config.Errorf(config.Unimplemented, "the backend can not %s", what)
}

func (b *mount) spot(id config.ID) spot { return b.cache.spot(b.space, &id) }

// record makes one of what a backend said of e.ID.
func (b *mount) record(e config.Entry, absent bool, born uint64, began time.Duration, exact bool) *said {
	r := &said{space: b.space, entry: e, absent: absent, born: born, read: began, exact: exact || !b.eventual}
	if absent {
		r.entry = config.Entry{ID: e.ID, Version: e.Version, Revision: e.Revision, UpdatedAt: e.UpdatedAt, UpdatedBy: e.UpdatedBy, Message: e.Message, Deleted: true}
	}
	if prepare := b.cache.prepare; prepare != nil && b.keeps() && !absent && !e.Secret && !e.Deleted && e.Value != nil {
		r.form, r.entry.Value = prepare(&r.entry) // before anybody else has the record
	}
	return r
}

// judged makes a record of one answer, nil for one that does not fit: that is
// for others to judge. NotFound is an absence, any other error is returned.
func (b *mount) judged(id config.ID, got driver.Result, born uint64, began time.Duration, exact bool) (*said, error) {
	switch {
	case got.Err == nil && got.Entry.ID == id && !got.Entry.Deleted:
		return b.record(got.Entry, false, born, began, exact), nil
	case got.Err == nil:
		return nil, nil
	case config.CodeOf(got.Err) == config.NotFound:
		return b.record(config.Entry{ID: id}, true, born, began, exact), nil
	}
	return nil, got.Err
}

// keep puts what a store said into the table, unless it must not be or can not
// be. Nobody else may have r yet.
func (b *mount) keep(s spot, r *said) {
	if !b.keeps() || r.entry.Secret || r.absent && b.policy.NegativeTTL <= 0 {
		return
	}
	if p := b.pack(s, r); p == nil || !b.cache.shares.put(p) {
		b.counts.notKept.Add(1)
	}
}

// lookup returns the record at s if it is about id, and the born that it needs
// to be valid. The record is looked at first: an invalidation in between makes
// it invalid, never the other way about.
func (b *mount) lookup(s spot, id *config.ID) (r *Record, need uint64) {
	r, ok := b.cache.get(s.id)
	need = b.cache.clock.need(s)
	if !ok || !r.is(b, id) {
		return nil, need
	}
	return r, need
}

// apply puts what the source of truth said, or this process wrote, in place of
// what is held, and tells the watchers. It reports whether nothing else came
// between the record's born and now: else what is held is given up, and the
// record, which may be the older of two, is not used.
func (b *mount) apply(r *said) (clean bool) {
	s := b.spot(r.entry.ID)
	born := r.born
	b.cache.floors.raise(r.space, r.entry, r.absent, b.forgets, r.born, b.cache.clock.now(), b.cache.since())
	r.born, clean = b.cache.clock.invalidate(s, born)
	if clean {
		b.keep(s, r)
		b.cache.gate.settle() // else the next read misses it
	}
	b.views.changed(r, clean)
	return clean
}
