package cache

import (
	"context"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

const (
	// maintainEvery is how often what is due is looked for.
	maintainEvery = time.Second
	// unkeptStaleness bounds how late the watchers of a route that keeps nothing
	// are told of a change that nobody announced.
	unkeptStaleness = 30 * time.Second
	// reconcileChunk is how many values one call of the reconciler compares.
	reconcileChunk = 100
)

// bound is how late a change that nobody announced may be seen.
func (b *mount) bound() time.Duration {
	if b.keeps() {
		return b.policy.MaxStaleness
	}
	return unkeptStaleness
}

// maintain is the reconciler of one route, and keeps an eye on its store while
// somebody depends on being told.
func (b *Backend) maintain() {
	for b.ctx.Err() == nil {
		b.now.Load().maintain()
	}
}

// maintain goes on until something else takes its place.
func (b *mount) maintain() {
	ctx := b.ending
	tick := time.NewTicker(min(maintainEvery, b.bound()/4))
	defer tick.Stop()
	var compared time.Duration
	pass := b.bound() / 2 * time.Duration(scale()) / 1000
	_, turned := b.source.state()
	for {
		select {
		case <-ctx.Done():
			return
		case <-turned:
			var down bool
			if down, turned = b.source.state(); !down {
				b.suspect() // whatever changed meanwhile was missed
			}
		case <-b.views.wake:
		case <-tick.C:
		}
		views := b.views.all()
		if b.source.down.Load() {
			continue // it is probed already
		}
		if _, pings := driver.AsPinger(b.backend); pings && len(views) > 0 {
			b.source.try(ctx)
			b.probeIfDown()
		}
		now := b.cache.since()
		b.walkDue(ctx, views, now, pass)
		if b.policy.Reconcile && b.keeps() && now-compared >= pass/2 {
			compared = now
			b.compareHeld(ctx)
		}
	}
}

// walkDue compares the views that are due with the store, as far as the budget
// of calls goes.
func (b *mount) walkDue(ctx context.Context, views []*view, now, pass time.Duration) {
	const atOnce = 8
	var due []int
	for i, v := range views {
		if pages, is := v.due(now, pass); is && b.source.afford(pages) {
			due = append(due, i)
		}
	}
	each(due, atOnce, func(i int) { _, _ = views[i].walk(ctx) }) // else it stays dirty, and is tried again
}

// suspect has every view compared with the store.
func (b *Backend) suspect() {
	for _, v := range b.views.all() {
		v.mu.Lock()
		v.dirty = true
		v.mu.Unlock()
	}
}

// due reports whether a view that is watched has to be compared with its store,
// and how many calls that takes.
func (v *view) due(now, pass time.Duration) (pages int, is bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.known)/driver.MaxPageSize + 1, v.listed > 0 && (v.dirty || now-v.listed >= pass)
}

// reported notes the outcome of a call of the store.
func (b *mount) reported(id config.ID, err error) {
	if b.source.report(id, err) {
		b.probe()
	}
}

func (b *mount) probeIfDown() {
	if b.source.down.Load() {
		b.probe()
	}
}

// probe asks the store for a sign of life until there is one.
func (b *mount) probe() {
	if b.source.probing.CompareAndSwap(false, true) {
		b.cache.goDo(func() {
			b.source.probe(b.cache.ctx)
			b.source.probing.Store(false)
			b.probeIfDown() // who found that it fell meanwhile found it being probed
		})
	}
}

// compareHeld compares what is held and in use with the store, as far as the
// budget of calls goes: what it does not get to expires by its age.
func (b *mount) compareHeld(ctx context.Context) {
	var chunk []*Record
	now := b.cache.since()
	b.cache.shares.walk(func(r *Record) bool {
		if r.site.owner != b.Backend || r.site.space != b.space || r.age(now) < r.hard(&b.policy)/4 || r.unused() {
			return true
		}
		if chunk = append(chunk, r); len(chunk) < reconcileChunk {
			return true
		}
		going := b.compareChunk(ctx, chunk)
		chunk = nil
		return going
	})
	if len(chunk) > 0 {
		b.compareChunk(ctx, chunk)
	}
}

// compareChunk reports whether to go on.
func (b *mount) compareChunk(ctx context.Context, chunk []*Record) bool {
	ids := make([]config.ID, len(chunk))
	for i, r := range chunk {
		ids[i] = r.id()
	}
	ctx, cancel := context.WithTimeout(ctx, b.cache.budget)
	defer cancel()
	born, began := b.cache.clock.now(), b.cache.since()
	got, ok := b.askMany(ctx, ids)
	if !ok {
		return false
	}
	for i, g := range got {
		r, err := b.judged(ids[i], g, born, began, true)
		switch {
		case err != nil || r == nil:
		case chunk[i].says(r) && chunk[i].flags.has(isExact):
			chunk[i].read.Store(int64(began)) // it is as good as read anew
		case chunk[i].says(r):
			b.keep(b.spot(ids[i]), r)
		case !r.absent && b.cache.floors.forbids(r.space, r.entry, began):
		default:
			b.counts.reconciled.Add(1)
			b.apply(r)
		}
	}
	return true
}

// askMany asks the source of truth for several values within the budget.
func (b *mount) askMany(ctx context.Context, ids []config.ID) ([]driver.Result, bool) {
	calls := 1
	refresher, refreshes := driver.AsRefresher(b.backend)
	refreshes = refreshes && b.eventual
	batcher, batches := driver.AsBatcher(b.backend)
	if !refreshes && !batches {
		calls = len(ids)
	}
	if !b.source.afford(calls) || b.source.down.Load() {
		return nil, false
	}
	var got []driver.Result
	var err error
	in, refused := b.using(ctx, func(in *mount) {
		switch {
		case in.source != b.source: // the next pass is its own
		case refreshes:
			got, err = refresher.Refresh(ctx, ids)
		case batches:
			got, err = batcher.BatchGet(ctx, ids)
		default:
			got = make([]driver.Result, len(ids))
			for i, id := range ids {
				got[i].Entry, got[i].Err = b.backend.Get(ctx, id, 0)
			}
		}
	})
	if refused != nil || in.source != b.source {
		return nil, false
	}
	b.reported(ids[0], err)
	return got, err == nil && len(got) == len(ids)
}
