package cache

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// demand is what a read needs of a call of the store to share it.
type demand struct {
	born  uint64        // the least that is valid for the asker
	after time.Duration // of Cache.since: the call began no earlier
	order uint64        // and behind as many others: a clock may stand still
	exact bool          // it asks the source of truth
	apply bool          // and puts the answer in place of what is held
}

// flight is one call of the store about one ID, for whoever asks meanwhile.
type flight struct {
	demand // what it offers
	ctx    context.Context
	done   chan struct{}
	rec    *said // set before done is closed; nil with err
	err    error
}

func (f *flight) serves(d demand) bool {
	return f.born >= d.born && f.after >= d.after && f.order > d.order && (f.exact || !d.exact) && (f.apply || !d.apply)
}

// maxFlights is how many calls about one ID are under way at once: a new one
// need not wait for one that began too early to be of use, but no more than
// that. Who comes then shares the next.
const maxFlights = 2

type flightKey struct {
	owner *Backend
	space uint32 // of the store that is asked
	id    config.ID
}

// flights are the calls under way.
type flights struct {
	mu    sync.Mutex
	begun uint64 // counts them
	byKey map[flightKey]*airspace
}

// airspace is what is under way about one ID, and what begins when there is
// room.
type airspace struct {
	under []*flight
	next  *flight
}

// order is what a flight that has not begun yet is behind.
func (fs *flights) order() uint64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.begun
}

// fetch answers from the store, by a call of its own or one that is under way
// and meets d. The call goes on when ctx is done: others may wait for it, and
// what it brings is kept. It is bounded by the Cache's FillBudget.
func (b *mount) fetch(ctx context.Context, id config.ID, s spot, d demand) (*said, error) {
	f := b.board(ctx, id, s, d)
	select {
	case <-f.done:
		return f.rec, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// board returns the flight to wait for.
func (b *mount) board(ctx context.Context, id config.ID, s spot, d demand) *flight {
	fs, key := &b.cache.flights, flightKey{b.Backend, b.space, id}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.byKey == nil {
		fs.byKey = map[flightKey]*airspace{}
	}
	air := fs.byKey[key]
	if air == nil {
		air = &airspace{}
		fs.byKey[key] = air
	}
	for _, f := range air.under {
		if f.serves(d) {
			return f
		}
	}
	if air.next == nil {
		air.next = &flight{done: make(chan struct{}), ctx: context.WithoutCancel(ctx)}
	}
	f := air.next
	f.exact, f.apply = f.exact || d.exact, f.apply || d.apply
	b.depart(key, s, air)
	return f
}

// depart begins the next flight if there is room. The lock is held.
func (b *mount) depart(key flightKey, s spot, air *airspace) {
	c, f := b.cache, air.next
	if f == nil || len(air.under) >= maxFlights {
		return
	}
	air.next = nil
	// In this order: an invalidation that comes now makes the flight's record
	// invalid, and nobody who asks after it boards.
	f.born, f.after = c.clock.now(), c.since()
	c.flights.begun++
	f.order = c.flights.begun
	ctx, cancel := context.WithTimeout(f.ctx, c.budget)
	stop := context.AfterFunc(c.ctx, cancel)
	began := c.goDo(func() {
		defer cancel()
		defer stop()
		f.rec, f.err = b.fly(ctx, key.id, f)
		b.land(key, s, f)
		close(f.done)
	})
	if !began {
		stop()
		cancel()
		f.err = errClosed()
		close(f.done)
		return
	}
	air.under = append(air.under, f)
}

// land makes room for the next flight.
func (b *mount) land(key flightKey, s spot, f *flight) {
	fs := &b.cache.flights
	fs.mu.Lock()
	defer fs.mu.Unlock()
	air := fs.byKey[key]
	air.under = slices.DeleteFunc(air.under, func(other *flight) bool { return other == f })
	b.depart(key, s, air)
	if len(air.under) == 0 {
		delete(fs.byKey, key)
	}
}

// fly makes the call and keeps what it brings.
func (b *mount) fly(ctx context.Context, id config.ID, f *flight) (*said, error) {
	b, err := b.enter(ctx) // what is behind the route by now
	if err != nil {
		return nil, err
	}
	defer b.leave()
	s := b.spot(id)
	if err := b.source.enter(ctx); err != nil {
		return nil, err
	}
	defer b.source.leave()
	exact := f.exact
	for pause := newPause(); ; {
		got := b.ask(ctx, id, exact)
		b.reported(id, got.Err)
		rec, err := b.judged(id, got, f.born, f.after, exact)
		if err != nil {
			b.counts.failures.Add(1)
			if ctx.Err() != nil && outage(err) {
				err = config.Errorf(config.Unavailable, "the store did not answer in time").WithHint("retry")
			}
			return nil, err
		}
		if rec == nil { // a breach of the contract: handed on as it is, and not kept
			return b.record(got.Entry, false, f.born, f.after, true), nil
		}
		if !rec.absent && b.cache.floors.forbids(rec.space, rec.entry, b.cache.since()) {
			if !pause.wait(ctx) {
				b.counts.failures.Add(1)
				return nil, config.Errorf(config.Unavailable, "the store answers with an older version than it acknowledged").WithHint("retry")
			}
			exact = true
			continue
		}
		b.counts.fills.Add(1)
		if f.apply {
			b.apply(rec)
			return rec, nil
		}
		b.keep(s, rec)
		b.cache.gate.settle()
		return rec, nil
	}
}

// ask makes one call of the store about one ID.
func (b *mount) ask(ctx context.Context, id config.ID, exact bool) driver.Result {
	if r, ok := driver.AsRefresher(b.backend); ok && exact && b.eventual {
		got, err := r.Refresh(ctx, []config.ID{id})
		switch {
		case err != nil && config.CodeOf(err) == config.NotFound:
			return driver.Result{Err: breach("batch not found")}
		case err != nil:
			return driver.Result{Err: err}
		case len(got) != 1:
			return driver.Result{Err: breach("wrong number of results")}
		}
		return got[0]
	}
	e, err := b.backend.Get(ctx, id, 0)
	return driver.Result{Entry: e, Err: err}
}

// pause is the growing wait between two looks at a store that should have
// something newer.
type pause struct{ next time.Duration }

func newPause() *pause { return &pause{next: 5 * time.Millisecond} }

// wait reports false where ctx is done, or would be before the wait is over.
func (p *pause) wait(ctx context.Context) bool {
	d := p.next * time.Duration(scale()) / 1000
	p.next = min(2*p.next, 250*time.Millisecond)
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
