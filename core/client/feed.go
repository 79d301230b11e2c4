package client

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// refusedWait is how long a watch that was refused is not asked for again.
const refusedWait = 30 * time.Second

// standing says what a feed's slots are good for.
type standing int32

const (
	// asking: the watch is broken, or has not told everything yet. The service
	// is asked.
	asking standing = iota
	// live: every change is told.
	live
	// sourceDown: the service can not reach the store.
	sourceDown
)

const (
	unknown = int64(-1 << 63) // a time that is not known
	never   = ^uint64(0)      // a generation that no slot has
)

// record is one state of one key. It does not change.
type record struct {
	answer Answer
	absent bool
	saved  bool  // it comes from a snapshot
	readAt int64 // when it was read from its store, at the earliest; or unknown
}

// newRecord is what an answer of the service says, nil if that is not known to
// be the newest.
func newRecord(a Answer, err error, began int64) *record {
	switch {
	case config.CodeOf(err) == config.NotFound && err != nil:
		return newAbsent()
	case err != nil || a.Freshness.State == config.StateStale || a.Freshness.State == config.StateDegraded:
		return nil
	}
	r := newValue(a.Entry)
	if a.Freshness.State == config.StateFresh {
		r.readAt = began - int64(a.Freshness.Age)
	}
	return r
}

func newValue(e Entry) *record {
	return &record{answer: Answer{Entry: e, Freshness: config.Freshness{Source: config.SourceCache, State: config.StateFresh}}, readAt: unknown}
}

func newAbsent() *record {
	r := newValue(Entry{})
	r.absent = true
	return r
}

func (r *record) size() int64 {
	e := &r.answer.Entry
	return overhead + int64(len(e.Key.String())+len(e.Value)+len(e.ContentType)+len(e.UpdatedBy)+len(e.Message))
}

func (r *record) position() position {
	e := &r.answer.Entry
	return position{known: true, absent: r.absent, service: e.Service, shared: e.Shared, version: e.Version}
}

// same reports whether two records hold the same state.
func (r *record) same(o *record) bool {
	a, b := &r.answer.Entry, &o.answer.Entry
	return r.absent == o.absent && a.Service == b.Service && a.Shared == b.Shared && a.Version == b.Version && a.Revision == b.Revision && bytes.Equal(a.Value, b.Value)
}

// position says which of two states of a key is the newer one, where that can
// be said: within one layer of a store that counts.
type position struct {
	known, absent, shared bool
	service               config.Service
	version               uint64
}

// beside reports whether p and o can be compared.
func (p position) beside(o position) bool {
	return !p.absent && !o.absent && p.version > 0 && o.version > 0 && p.service == o.service && p.shared == o.shared
}

func (p position) olderThan(o position) bool { return p.beside(o) && p.version < o.version }

// same reports whether p and o are known to look the same to who reads.
func (p position) same(o position) bool {
	return p.absent && o.absent || p == o && p.counted()
}

// counted reports whether p may come before or behind another state: not that of a
// store that does not count.
func (p position) counted() bool { return p.absent || p.version > 0 }

// maybeBefore reports whether p may be from before o: it is older, or of another
// layer, or one of the two is an absence. Of a store that does not count nothing
// is known.
func (p position) maybeBefore(o position) bool {
	switch {
	case !o.known, p.absent && o.absent:
		return false
	case p.beside(o):
		return p.version < o.version
	}
	return p.absent != o.absent || p.service != o.service || p.shared != o.shared
}

// slot is where a key's newest state is. One without a record is either not
// held, for its size, or in doubt: then only the store's own truth will do.
type slot struct {
	feed   *feed
	record atomic.Pointer[record]
	spare  atomic.Pointer[record] // what the record was before the doubt
	typed  atomic.Pointer[typed]

	// Under the feed's lock.
	gen uint64 // counts what was told, answered and done about the key
	// changed is the generation in which that was last something else than top.
	changed uint64
	top     position // the newest that anybody was answered
	// ahead says that the slot may know of something that the watch has not told
	// yet: it is not to be believed about older things.
	ahead bool
	// unsure says that top is one of several that were answered, of which nobody
	// knows which is the newest.
	unsure bool
	// idle says that the key was absent in the last whole state, and that nothing was
	// told or asked since.
	idle bool
	gone bool // no reader finds it any more
}

// change begins a generation: who asked before may get something older than what is
// known now, so its answer is not to be held.
func (sl *slot) change() {
	sl.repeat()
	sl.changed = sl.gen
}

// repeat begins a generation in which top was answered once more. Who asked before
// may get something older, unless it gets the same.
func (sl *slot) repeat() {
	sl.gen++
	sl.idle = false
}

// newest reports whether nothing newer than the answer p is known, which the store
// itself gave to who asked in the generation gen.
func (sl *slot) newest(p position, gen uint64) bool {
	return gen == sl.gen || gen >= sl.changed && gen < sl.gen && p.same(sl.top)
}

// given notes that somebody was answered p, or wrote it.
func (sl *slot) given(p position) {
	switch {
	case p.same(sl.top):
		sl.repeat()
		return
	case p.olderThan(sl.top), p == sl.top: // or nothing is known: the store does not count
		return
	case !sl.top.known, sl.top.olderThan(p):
		sl.top = p
	default:
		sl.top, sl.unsure, sl.ahead = p, true, true
	}
	sl.change()
}

// feed keeps the slots of one prefix and service right with one Watch.
type feed struct {
	session *Session
	scope   scope
	status  atomic.Int32
	asOf    atomic.Int64 // until when the slots are known to be right

	mu       sync.Mutex
	slots    map[config.Key]*slot
	ended    bool
	synced   bool // there has been a whole state
	complete bool // a key that has no slot is absent
	down     bool
	// state is the present state while it is being told, else nil.
	state   map[config.Key]*record
	partial bool // state lacks keys
}

func newFeed(s *Session, sc scope) *feed {
	f := &feed{session: s, scope: sc, slots: map[config.Key]*slot{}}
	f.asOf.Store(s.cache.now())
	return f
}

// run watches until the session ends.
func (f *feed) run() {
	s := f.session
	bound := firstWait
	for s.ctx.Err() == nil {
		f.begin()
		began := s.cache.now()
		err := s.cache.client.Watch(s.ctx, WatchRequest{
			KeyPrefix: f.scope.prefix, Service: f.scope.service, OnRetry: func(error, time.Duration) { f.broke() },
		}, f.event)
		f.broke()
		switch code := config.CodeOf(err); {
		case s.ctx.Err() != nil || errors.Is(err, errEnded):
			return
		case code == config.Unauthenticated:
			s.end()
			return
		case code == config.Unavailable, code == config.OutOfRange, code == config.ResourceExhausted:
		default:
			// What may not be watched is not to be held.
			f.clear()
			bound = refusedWait
		}
		s.cache.options.OnError(err)
		if s.cache.now()-began > int64(refusedWait) {
			bound = firstWait
		}
		wait := bound/2 + rand.N(bound) //nolint:gosec // jitter is no secret
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(max(wait, retryAfter(err, refusedWait))):
		}
		bound = min(2*bound, max(bound, mostWait))
	}
}

// retryAfter is how long the service has asked to be left alone, if it has, and
// this at most.
func retryAfter(err error, most time.Duration) time.Duration {
	var e *config.Error
	if !errors.As(err, &e) {
		return 0
	}
	return min(e.RetryAfter, most)
}

var errEnded = errors.New("the session has ended")

// begin prepares for a whole state.
func (f *feed) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.partial, f.down = map[config.Key]*record{}, false, false
}

// broke notes that the watch is not heard of any more.
func (f *feed) broke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Store(int32(asking))
}

// event takes what the watch tells. What it says is in the slots before the
// time is moved on.
func (f *feed) event(e Event) error {
	s := f.session
	if now := s.cache.now(); now >= s.expires {
		s.end()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return errEnded
	}
	switch e.Kind {
	case EventPut, EventDelete:
		r := newAbsent()
		if e.Kind == EventPut {
			r = newValue(e.Entry)
		}
		f.tell(e.Entry.Key, r)
	case EventGap:
		f.status.Store(int32(asking))
		f.state, f.partial, f.down = map[config.Key]*record{}, false, false
	case EventSync:
		if f.state != nil {
			f.install()
			select {
			case s.synced <- struct{}{}:
			default:
			}
		}
		f.synced = true
	case EventSourceDown:
		f.down = true
	case EventSourceUp:
		f.down = false
	case EventHeartbeat:
		if f.status.Load() == int32(asking) {
			return nil // it is not the sync that was waited for
		}
	}
	switch {
	case f.state != nil || !f.synced, e.Kind != EventSync && f.status.Load() == int32(asking):
		return nil
	case f.down:
		f.status.Store(int32(sourceDown))
		return nil
	}
	if f.status.Load() != int32(live) {
		s.heard()
	}
	f.asOf.Store(s.cache.now())
	f.status.Store(int32(live))
	return nil
}

// tell takes one state of one key.
func (f *feed) tell(key config.Key, r *record) {
	if f.state != nil {
		switch {
		case r.absent:
			delete(f.state, key)
		case len(f.state) >= f.session.cache.options.MaxKeys:
			f.partial = true
		default:
			f.state[key] = r
		}
		return
	}
	sl := f.slots[key]
	if sl == nil {
		if r.absent {
			return
		}
		if sl = f.newSlot(key, nil); sl == nil {
			f.complete = false
			return
		}
		f.apply(sl, r, false)
		f.session.add(f.scope.service, map[config.Key]*slot{key: sl})
		return
	}
	f.apply(sl, r, false)
}

// install puts a whole state in place.
func (f *feed) install() {
	state := f.state
	f.state, f.complete = nil, !f.partial
	gone := newAbsent()
	var idle []config.Key
	for key, sl := range f.slots {
		r := state[key]
		if r == nil {
			if held := sl.record.Load(); held != nil && held.absent && f.complete && sl.idle {
				idle = append(idle, key)
				continue
			}
			if f.partial {
				f.set(sl, nil)
				continue
			}
			r = gone
		}
		f.apply(sl, r, true)
		// What was answered of a key that is absent is known until the next whole
		// state: this one's replica may be behind, and have older events to tell.
		sl.idle = r.absent
	}
	f.session.remove(f, idle)
	added := map[config.Key]*slot{}
	for key, r := range state {
		if f.slots[key] != nil {
			continue
		}
		sl := f.newSlot(key, nil)
		if sl == nil {
			f.complete = false
			break
		}
		f.apply(sl, r, true)
		added[key] = sl
	}
	if len(added) > 0 {
		f.session.add(f.scope.service, added)
	}
}

// apply lets the watch have its say about one slot. In a whole state, which may
// be that of another replica, older things are no news but a reason to doubt.
//
// Once a slot is ahead, it is until the watch tells a newer version than the one
// that it knows of: an absence, or another layer's value, may come back, so that
// the watch tells the same says nothing.
func (f *feed) apply(sl *slot, r *record, whole bool) {
	sl.change()
	p := r.position()
	held := sl.record.Load()
	newer := !sl.unsure && sl.top.olderThan(p)
	switch {
	case !sl.top.known, held != nil && held.saved, newer:
		f.hold(sl, r, false)
	case held != nil && held.same(r):
		f.hold(sl, r, p.counted() && (sl.ahead || whole))
	case !whole && !sl.ahead:
		// The watch tells in order. It can only be overtaken by an answer.
		if p.olderThan(sl.top) || held == nil && p.maybeBefore(sl.top) {
			f.doubt(sl)
			return
		}
		f.hold(sl, r, false)
	case !sl.unsure && p.same(sl.top):
		f.hold(sl, r, true)
	case p.olderThan(sl.top) && !whole:
		// It is behind, and will catch up.
	default:
		f.doubt(sl)
	}
}

// hold puts a record in place, if there is room for it.
func (f *feed) hold(sl *slot, r *record, ahead bool) {
	// Whoever asked before has to look again: two answers of the store may come
	// in another order than they were given.
	sl.change()
	sl.top, sl.ahead, sl.unsure = r.position(), ahead, false
	e := &r.answer.Entry
	c := f.session.cache
	if f.ended || sl.gone || (e.Secret && !c.options.Secrets) || c.bytes.Load()+r.size() > c.options.MaxBytes {
		sl.ahead = false
		f.set(sl, nil)
		return
	}
	f.set(sl, r)
}

// set replaces the record and frees the spare.
func (f *feed) set(sl *slot, r *record) {
	var grown int64
	if r != nil {
		grown = r.size()
	}
	for _, old := range []*record{sl.record.Swap(r), sl.spare.Swap(nil)} {
		if old != nil {
			grown -= old.size()
		}
	}
	f.session.cache.bytes.Add(grown)
}

// doubt takes the record away until the store itself has been asked.
func (f *feed) doubt(sl *slot) {
	sl.change()
	sl.ahead = true
	if old := sl.record.Swap(nil); old != nil {
		if spare := sl.spare.Swap(old); spare != nil {
			f.session.cache.bytes.Add(-spare.size())
		}
	}
}

// newSlot makes a slot that no reader sees yet, nil if there are too many.
func (f *feed) newSlot(key config.Key, r *record) *slot {
	if f.ended || f.session.keys.Load() >= int64(f.session.cache.options.MaxKeys) {
		return nil
	}
	f.session.keys.Add(1)
	sl := &slot{feed: f}
	f.slots[key] = sl
	if r != nil {
		f.hold(sl, r, false)
	}
	return sl
}

// slot is that of a key that is asked for.
func (f *feed) slot(key config.Key) *slot {
	f.mu.Lock()
	defer f.mu.Unlock()
	if sl := f.slots[key]; sl != nil {
		return sl
	}
	var r *record
	if f.synced && f.complete {
		r = newAbsent()
	}
	sl := f.newSlot(key, r)
	if sl == nil || !f.session.add(f.scope.service, map[config.Key]*slot{key: sl}) {
		return nil
	}
	return sl
}

// look says how much was told of a slot, and whether it is in doubt. It is for who
// asks the service.
func (f *feed) look(sl *slot) (gen uint64, doubt bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sl.idle = false
	return sl.gen, sl.ahead && sl.record.Load() == nil
}

// found takes an answer of the service to a question from when the slot was in
// the generation gen; truth says that it is the store's own. It returns the
// record that answers now, nil for the answer itself, and again if the answer is
// older than an earlier one.
func (f *feed) found(sl *slot, r *record, gen uint64, truth bool) (held *record, again bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, now := r.position(), sl.record.Load()
	switch {
	case !truth && (sl.unsure || p.maybeBefore(sl.top)):
		return nil, true
	case truth && sl.newest(p, gen):
		f.hold(sl, r, true)
		return nil, false
	case now == nil:
		sl.given(p)
		return nil, false
	case now.same(r):
		// It may be the same again, behind something that the watch has yet to tell.
		sl.repeat()
		sl.ahead = sl.ahead || p.counted()
		if r.readAt > now.readAt {
			f.hold(sl, r, sl.ahead)
		}
		return nil, false
	case sl.top.olderThan(p):
		f.hold(sl, r, true)
		return nil, false
	case p.olderThan(sl.top):
		return now, false
	}
	sl.given(p)
	f.doubt(sl)
	return nil, false
}

// wrote notes that the key was written, and that the watch may not know yet.
func (f *feed) wrote(key config.Key, e Entry) {
	sl := f.slot(key)
	if sl == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := position{known: true, absent: e.Deleted, service: e.Service, version: e.Version}
	if held := sl.record.Load(); e.Version > 0 && held != nil && held.position().beside(p) && !held.position().olderThan(p) {
		return // the watch was faster
	}
	if e.Version > 0 {
		sl.given(p)
	}
	// What is deleted in one layer may be there in another.
	sl.unsure = sl.unsure || e.Deleted
	f.doubt(sl)
}

// clear forgets what is held, and that anything was ever told.
func (f *feed) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
}

// forget is clear under the lock.
func (f *feed) forget() {
	f.synced, f.complete, f.state = false, false, nil
	for _, sl := range f.slots {
		sl.change()
		f.set(sl, nil)
	}
}

// drop ends the feed. Nothing is held from then on, not even what comes at this
// very moment.
func (f *feed) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.forget()
	f.status.Store(int32(asking))
}
