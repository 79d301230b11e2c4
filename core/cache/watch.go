package cache

import (
	"context"
	"strconv"
	"strings"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/relay"
)

// maxTold is how many keys a Watch remembers to tell nothing twice. Behind it
// an event may be repeated, never lost.
const maxTold = 4096

// Watch is the backend's own where it can be watched, shared by those who watch
// the same, and makes what is held give way to what it tells before it is told.
//
// Any other store is watched through what is written and refreshed here, and
// by listing it within the route's MaxStaleness: changes that nobody announces
// are told by then, and of several in quick succession perhaps only the last.
// The version of a deletion that was found by listing is the least that it can
// have. Positions are good for
// this Cache as long as somebody watched the same prefix in the last minutes;
// else they are OutOfRange. While the store is out of reach Watch ends with
// Unavailable and can be resumed. Whoever falls behind by more than is kept is
// ended with ResourceExhausted, and can resume from its last position if that
// is still kept.
func (b *Backend) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	if told, err := b.passOn(ctx, r, emit); told {
		return err
	}
	if err := b.open(ctx); err != nil {
		return err
	}
	if r.Tenant.IsZero() {
		return config.Errorf(config.InvalidArgument, "a watch needs a tenant")
	}
	if _, err := config.ParseKeyPrefix(r.KeyPrefix); err != nil {
		return err
	}
	view, at, err := b.resume(r)
	if err != nil {
		return err
	}
	if down, _ := b.now.Load().source.state(); down {
		if view != nil {
			view.detach()
		}
		return errDown()
	}
	if view == nil {
		if view, err = b.views.attach(r); err != nil {
			return err
		}
	}
	defer view.detach()
	w := &watching{view: view, request: r, emit: emit, told: map[config.Key]mark{}, passed: map[config.Key]bool{}}
	if r.After == "" {
		at, err = w.snapshot(ctx)
	} else {
		at, err = w.missed(ctx, at)
	}
	if err != nil {
		return err
	}
	return w.follow(ctx, at)
}

// passOn watches a backend that can be watched; told is false for any other.
func (b *Backend) passOn(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) (told bool, err error) {
	m, err := b.enter(ctx)
	if err != nil {
		return true, err
	}
	defer m.leave()
	if _, ok := driver.AsWatcher(m.backend); !ok {
		return false, nil
	}
	var from driver.Watcher = m.relay
	if m.eventual || m.forgets {
		from = heard{m} // a Relay takes it that neither time nor versions go back
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ending, cancel)()
	var refusal error
	err = from.Watch(watching, r, func(e driver.Event) error {
		refusal = emit(e)
		return refusal
	})
	switch {
	case refusal != nil, ctx.Err() != nil, m.ending.Err() == nil:
		return true, err
	case b.ctx.Err() != nil:
		return true, errClosed()
	}
	return true, ErrMoved
}

// newRelay returns what shares the streams of a backend that can be watched. They
// are uses of it, and end with it.
func (b *mount) newRelay() *relay.Relay {
	return relay.New(b.ending, heard{b}, func(work func()) bool {
		b.gate.Lock()
		b.uses.n++
		b.gate.Unlock()
		going := b.cache.goDo(func() {
			defer b.leave()
			work()
		})
		if !going {
			b.leave()
		}
		return going
	})
}

// heard is a backend whose events make what is held give way before they are told.
type heard struct{ by *mount }

func (h heard) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	w, ok := driver.AsWatcher(h.by.backend)
	if !ok {
		return unable("be watched")
	}
	return w.Watch(ctx, r, func(e driver.Event) error {
		h.by.overheard(e)
		return emit(e)
	})
}

// overheard gives up what is held if an event of the store says something
// newer.
func (b *mount) overheard(e driver.Event) {
	if e.Kind != driver.EventPut && e.Kind != driver.EventDelete {
		return
	}
	s := b.spot(e.Entry.ID)
	held, need := b.lookup(s, &e.Entry.ID)
	if held == nil || held.born < need || e.Entry.Version > 0 && held.version >= e.Entry.Version {
		return
	}
	b.cache.clock.invalidate(s, 0)
	now := b.cache.clock.now()
	b.cache.floors.raise(b.space, e.Entry, e.Kind == driver.EventDelete, b.forgets, now, now, b.cache.since())
}

// resume reads a position: the view that it is of, attached, and the number of
// the event that it stands behind.
func (b *Backend) resume(r driver.WatchRequest) (*view, uint64, error) {
	if r.After == "" {
		return nil, 0, nil
	}
	payload, err := b.cache.tokens.Open(r.After, b.seal(r)...)
	if err != nil {
		return nil, 0, err
	}
	name, number, _ := strings.Cut(payload, " ")
	at, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return nil, 0, config.Errorf(config.Internal, "an own position can not be read")
	}
	b.views.mu.RLock()
	var found *view
	for _, v := range b.views.byScope[scope{r.Tenant, r.Service}] {
		if v.prefix == r.KeyPrefix && v.name == name {
			found = v
		}
	}
	b.views.mu.RUnlock()
	if found == nil {
		return nil, 0, errLost()
	}
	v, err := b.views.attach(r)
	if err != nil {
		return nil, 0, err
	}
	if _, _, _, ok := v.after(at); v != found || !ok {
		v.detach()
		return nil, 0, errLost()
	}
	return v, at, nil
}

func errLost() error {
	return config.Errorf(config.OutOfRange, "the changes since this position are not kept here").WithHint("begin anew")
}

// seal is what a position is bound to.
func (b *Backend) seal(r driver.WatchRequest) []string {
	return []string{"view", b.now.Load().policy.Prefix, r.Tenant.String(), r.Service.String(), r.KeyPrefix}
}

// watching is one Watch of a view.
type watching struct {
	view    *view
	request driver.WatchRequest
	emit    func(driver.Event) error
	told    map[config.Key]mark
	// Up to this event the snapshot may have seen what is told, or not.
	window uint64
	whole  bool                // told has all that was told
	passed map[config.Key]bool // keys that the snapshot did not have: it is behind their deletion
	untold bool                // the newest event was not told, so the last position is before it
}

func (w *watching) position(n uint64) string {
	return w.view.b.cache.tokens.Seal(w.view.name+" "+strconv.FormatUint(n, 10), w.view.b.seal(w.request)...)
}

// snapshot tells what is there. What is noted while it is walked over may be in
// it or not, which tell finds out.
func (w *watching) snapshot(ctx context.Context) (at uint64, err error) {
	var entries []config.Entry
	for exact := false; !exact; {
		w.view.mu.Lock()
		at, exact = w.view.last, w.view.listed > 0
		w.view.mu.Unlock()
		if entries, err = w.view.walk(ctx); err != nil {
			return 0, err
		}
		// What changed during its first walk the view took for new, whether it
		// was or not. From now on it knows.
		w.view.mu.Lock()
		exact = exact || at == w.view.last
		w.view.mu.Unlock()
	}
	w.view.mu.Lock()
	w.window, w.whole = w.view.last, true
	w.view.mu.Unlock()
	position := w.position(at)
	for _, e := range entries {
		w.told[e.ID.Key] = mark{version: e.Version, revision: e.Revision}
		if err := w.emit(driver.Event{Kind: driver.EventPut, Entry: e.Clone(), Position: position}); err != nil {
			return 0, err
		}
	}
	return at, w.emit(driver.Event{Kind: driver.EventSync, Position: position})
}

// missed tells what came since a position, after the view was made exact if it
// might not be.
func (w *watching) missed(ctx context.Context, at uint64) (uint64, error) {
	w.view.mu.Lock()
	dirty := w.view.dirty
	w.view.mu.Unlock()
	if dirty {
		if _, err := w.view.walk(ctx); err != nil {
			return 0, err
		}
	}
	for {
		e, number, _, ok := w.view.after(at)
		if !ok {
			return 0, behind()
		}
		if e == nil {
			return at, w.emit(driver.Event{Kind: driver.EventSync, Position: w.position(at)})
		}
		at = number
		if err := w.tell(ctx, e, at); err != nil {
			return 0, err
		}
	}
}

func behind() error {
	return config.Errorf(config.ResourceExhausted, "the watcher fell too far behind").WithHint("read faster, and resume from the last position")
}

// follow tells what happens until something ends it.
func (w *watching) follow(ctx context.Context, at uint64) error {
	for {
		e, number, changed, ok := w.view.after(at)
		switch {
		case !ok:
			return behind()
		case e != nil:
			at = number
			if err := w.tell(ctx, e, at); err != nil {
				return err
			}
			continue
		}
		if w.untold {
			// Whoever resumes must not be told what the snapshot had already.
			w.untold = false
			if err := w.emit(driver.Event{Kind: driver.EventProgress, Position: w.position(at)}); err != nil {
				return err
			}
		}
		m := w.view.b.now.Load()
		down, turned := m.source.state()
		switch {
		case w.view.b.ctx.Err() != nil:
			return errClosed()
		case down:
			return errDown()
		}
		select {
		case <-w.view.gone:
			return errLost()
		case <-m.ending.Done(): // something else is there, with a state of its own
		case <-changed:
		case <-turned:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// before reports whether an event of a key that the snapshot did not have lies
// before the snapshot: the value was there when the walk began, so the walk came
// behind its deletion.
func (w *watching) before(e *event) bool {
	k := e.entry.ID.Key
	if _, has := w.told[k]; has {
		return false // versions tell
	}
	passed, seen := w.passed[k]
	if !seen {
		passed = !e.live
	}
	w.passed[k] = passed || e.absent
	return !passed
}

// tell emits one event, with its value read now if it was not kept.
func (w *watching) tell(ctx context.Context, e *event, number uint64) error {
	w.untold = true
	k := e.entry.ID.Key
	if number <= w.window && w.before(e) {
		return nil
	}
	if e.bare {
		a, err := w.view.b.Read(ctx, e.entry.ID, Want{Bounded: true})
		switch {
		case err != nil:
			return err
		case a.Absent:
			return nil // its deletion is on its way
		}
		e.entry = a.Entry
		e.entry.Revision = config.Revision(strings.Clone(string(e.entry.Revision))) // what told keeps is not to keep the value
	}
	was, known := w.told[k]
	if e.absent && e.entry.Version == 0 && known && was.version > 0 && !w.view.forgets() {
		e.entry.Version = was.version + 1 // as in note
	}
	says := mark{version: e.entry.Version, revision: e.entry.Revision, absent: e.absent}
	if known && (was == says || !w.view.forgets() && says.version > 0 && says.version <= was.version) {
		return nil
	}
	if e.absent && w.whole && (!known || was.absent) {
		return nil // nobody was told that it was there
	}
	if number > w.window && len(w.told) >= maxTold {
		clear(w.told)
		w.whole = false
	}
	w.told[k], w.untold = says, false
	kind := driver.EventPut
	if e.absent {
		kind = driver.EventDelete
		e.entry.Deleted = true
	}
	return w.emit(driver.Event{Kind: kind, Entry: e.entry.Clone(), Position: w.position(number)})
}
