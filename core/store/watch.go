package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// maxSeen is how many keys a Watch remembers to send nothing twice. Behind it
// an event may be repeated, never lost.
const maxSeen = 1024

// WatchRequest says what to watch. KeyPrefix must select a single route.
type WatchRequest struct {
	Scope     Scope
	KeyPrefix string
	// ResumeToken is "" for the present state first, or that of any event of
	// an earlier Watch with the same scope and prefix.
	ResumeToken string
}

// Watch emits the effective value of every key that starts with the prefix, in
// order of key, then one EventSync, then what changes; with a resume token,
// what changed since its event, one EventSync, and what changes. It blocks
// until ctx is done, emit fails (its error is returned as it is) or the store
// does, and calls emit from its own goroutine only.
//
// A change that a more specific layer hides is not emitted, and a deletion
// that uncovers a less specific value is emitted as a put of that value.
//
// With one layer, every change is emitted once, in the order of the store.
// With several, and behind a resume token from the middle of the initial
// state, the layers are read anew for each change, so what is emitted
// is the effective value at that time: changes in quick succession may be seen
// as the last of them. A key never goes back to an older value, whatever the
// layers change at once, and always arrives at its last. An event may be
// repeated.
//
// Where the store can not tell everything that changed since the resume token,
// or since what the receiver was slow to take, Watch emits an EventGap and
// begins anew: the values of all keys, an EventSync, and what changes. The
// EventGap has the token of the event before it, so that whoever resumes behind
// it is told of the gap again. Where gap follows gap and no EventSync comes, the
// Watch ends with OutOfRange.
//
// A store that is out of reach ends no Watch that has begun or goes on from a
// token: Watch emits one EventSourceDown, asks again with growing pauses, and,
// when all that was missed has been emitted, one EventSourceUp. A Watch that
// has nothing to go on from yet ends with Unavailable.
//
// When the table of routes is swapped a Watch goes on with the new one. Nothing
// is missed and nothing told twice where the same keys are still those of the
// same backend, whatever process is behind that by now; else an EventGap says
// that the keys, their layers or their store are others. A Watch whose prefix
// has no route any more ends as if it began now.
//
// Of the watches of one tenant 16 at a time begin, or begin anew, on one backend;
// the others wait for them, each of them for a second at most.
//
// A Watch holds at most two events of each layer and the versions of 1024 keys
// in memory: a slow receiver makes its backends wait, and them only for it.
func (s *Store) Watch(ctx context.Context, r WatchRequest, emit func(Event) error) error {
	const op = "store.Watch"
	table, changed := s.routes.LoadAndWatch()
	sel, err := s.selectingIn(table, op, r.Scope, r.KeyPrefix)
	if err != nil {
		return err
	}
	from, ok := driver.AsWatcher(sel.route.Backend)
	if !ok {
		return sel.unable("be watched")
	}
	w := &watch{selection: sel, from: from, changed: changed, emit: emit}
	w.reset()
	if r.ResumeToken != "" {
		payload, err := s.tokens.Open(r.ResumeToken, sel.seal("watch")...)
		if err != nil {
			return sel.refused(err)
		}
		if w.at, ok = parseMark(payload, len(sel.places)); !ok {
			return sel.refused(config.Errorf(config.Internal, "an own resume token can not be read"))
		}
		w.begun = true
	}
	return w.keep(ctx)
}

// stage is how much of what a Watch owes has been emitted at some mark.
type stage string

const (
	// stageSnapshot: of what was there when it began, the keys up to mark.key.
	stageSnapshot stage = "snapshot"
	// stageDirect: everything, each change as its layer told it.
	stageDirect stage = "direct"
	// stageRead: everything, with values read after the change that they were
	// emitted for. They may be ahead of the positions, so whoever resumes has
	// to read, too, or a key could go back.
	stageRead stage = "read"
)

// mark is what a resume token holds.
type mark struct {
	stage     stage
	key       string
	positions []string // of each layer
}

func (m mark) String() string { return pack(append([]string{string(m.stage), m.key}, m.positions...)) }

func parseMark(s string, layers int) (mark, bool) {
	parts, ok := unpack(s)
	if !ok || len(parts) != 2+layers {
		return mark{}, false
	}
	return mark{stage(parts[0]), parts[1], parts[2:]}, true
}

const (
	// maxLayers is how many kinds of layer there are.
	maxLayers = 3
	// maxGaps is how often a Watch begins anew without getting to a sync.
	maxGaps = 8
)

// watch is one running Watch.
type watch struct {
	*selection
	from driver.Watcher
	// changed is closed when the table is not the one in use any more.
	changed <-chan struct{}
	emit    func(Event) error
	at      mark
	seen    map[config.Key]config.Entry // what was emitted, without values

	begun   bool  // there is something to go on from
	synced  bool  // EventSync was emitted, since the last EventGap if there was one
	gaps    int   // EventGaps that were emitted since the last EventSync
	down    bool  // EventSourceDown was emitted, and its EventSourceUp not yet
	refusal error // of emit

	// Of one attempt.
	turnOver func()                       // to be called when it has begun
	events   [maxLayers]chan driver.Event // nil behind the last layer
	failures chan error
	layers   []bool // which have had their sync
	heard    bool   // of any of them
	// direct is closed when the only layer's stream is to handle its events itself:
	// from then on everything here is its own until it has ended.
	direct chan struct{}
}

// reset forgets everything that could be gone on from.
func (w *watch) reset() {
	w.at = mark{stage: stageSnapshot, positions: make([]string, len(w.places))}
	w.seen = map[config.Key]config.Entry{}
	w.synced = false
}

// blank reports that no layer has told anything to go on from.
func (w *watch) blank() bool { return w.at.key == "" && strings.Join(w.at.positions, "") == "" }

// keep emits until something fails that asking again does not mend.
func (w *watch) keep(ctx context.Context) error {
	var pauses pauses
	for {
		err := w.attempt(ctx)
		if w.heard {
			w.begun = true
			pauses.reset()
		}
		var lost *inexact
		switch code := config.CodeOf(err); {
		case w.refusal != nil:
			return w.refusal
		case ctx.Err() != nil:
			return w.refused(ctx.Err())
		case w.outOfDate():
			if err := w.reroute(); err != nil {
				return err
			}
			continue
		case errors.Is(err, cache.ErrMoved):
			continue
		case errors.As(err, &lost):
			if w.gaps > 0 && w.blank() || w.gaps == maxGaps {
				return lost.err
			}
			if err := w.send(EventGap, config.Entry{}); err != nil {
				return err
			}
			w.reset()
			w.gaps++
			continue
		// A plugin that was given up is Unavailable underneath: it can be mended.
		case !errors.Is(err, config.Unavailable) && code != config.DeadlineExceeded, !w.begun:
			return err
		}
		if !w.down {
			w.down, w.quiet = true, true
			if err := w.send(EventSourceDown, config.Entry{}); err != nil {
				return err
			}
		}
		if !pauses.wait(ctx) {
			return w.refused(ctx.Err())
		}
	}
}

func (w *watch) outOfDate() bool {
	select {
	case <-w.changed:
		return true
	default:
		return false
	}
}

// reroute takes over the table that is in use by now.
func (w *watch) reroute() error {
	table, changed := w.store.routes.LoadAndWatch()
	sel, err := w.store.selectingIn(table, w.op, w.scope, w.prefix)
	if err != nil {
		return err
	}
	from, ok := driver.AsWatcher(sel.route.Backend)
	if !ok {
		return sel.unable("be watched")
	}
	sel.quiet = w.quiet
	same := w.sameKeys(sel)
	w.selection, w.from, w.changed = sel, from, changed
	if same {
		return nil
	}
	if w.begun {
		// Positions that no store knows: who resumes behind the gap is told of it
		// again.
		w.at = mark{stage: stageRead, positions: slices.Repeat([]string{"moved"}, len(w.places))}
		if err := w.send(EventGap, config.Entry{}); err != nil {
			return err
		}
	}
	w.reset()
	return nil
}

// attempt watches all layers from where w stands and emits until something
// fails. Nothing that it started is left then.
func (w *watch) attempt(ctx context.Context) error {
	w.heard = false
	over, ok := w.store.turns.take(ctx, turnOf{w.scope.Tenant, w.route.BackendName})
	if !ok {
		return w.refused(ctx.Err())
	}
	defer over()
	w.turnOver = over
	ctx, cancel := context.WithCancel(ctx)
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	w.events = [maxLayers]chan driver.Event{}
	w.failures, w.layers = make(chan error, len(w.places)), make([]bool, len(w.places))
	w.direct = make(chan struct{})
	for i, p := range w.places {
		events := make(chan driver.Event)
		w.events[i] = events
		after := w.at.positions[i]
		streams.Go(func() { w.failures <- w.stream(ctx, p, after, events) })
	}
	return w.run(ctx)
}

// inexact is why a store can not go on from a position.
type inexact struct{ err error }

func (e *inexact) Error() string { return e.err.Error() }

func (e *inexact) Unwrap() error { return e.err }

// handled is an error of what was done with an event, not of the stream.
type handled struct{ error }

func (h handled) Unwrap() error { return h.error }

// stream passes on the events of one layer, or handles them: each goroutine that
// an event goes through costs a thousand watchers a switch. Its error is never
// nil.
func (w *watch) stream(ctx context.Context, p place, after string, events chan<- driver.Event) error {
	direct := w.direct
	var ended error
	err := w.from.Watch(ctx, driver.WatchRequest{
		Tenant: p.tenant, Service: p.service, KeyPrefix: w.prefix, After: after,
	}, func(e driver.Event) error {
		select {
		case events <- e:
			return nil
		case <-direct:
			ended = w.take(ctx, 0, e)
			return ended
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if ended != nil {
		return handled{ended}
	}
	switch code := config.CodeOf(err); {
	case err == nil:
		return errEnded
	case code == config.OutOfRange, code == config.InvalidArgument && after != "":
		// The position came out of a seal of this route, so its backend has
		// issued it. One that does not know it has lost what it knew.
		return &inexact{err}
	}
	return err
}

var errEnded = &config.Error{Code: config.Unavailable, Message: "the watch ended"}

// run emits until something fails.
func (w *watch) run(ctx context.Context) error {
	var err error
	switch {
	case w.at.stage != stageSnapshot:
	case w.blank():
		err = w.snapshot(ctx)
	default:
		err = w.rest(ctx)
	}
	if err != nil {
		return err
	}
	if w.at.stage == stageDirect { // there is one layer, and nothing is read for it
		close(w.direct)
		_, _, err := w.receive(ctx, [maxLayers]chan driver.Event{})
		return err
	}
	for {
		layer, e, err := w.receive(ctx, w.events)
		if err != nil {
			return err
		}
		if err := w.take(ctx, layer, e); err != nil {
			return err
		}
	}
}

// take handles an event of the run's, and moves the layer's position.
func (w *watch) take(ctx context.Context, layer int, e driver.Event) error {
	before := w.at.positions[layer]
	if err := w.check(ctx, layer, e); err != nil {
		return err
	}
	if err := w.handle(ctx, layer, e); err != nil {
		w.at.positions[layer] = before // it is still to be handled
		return err
	}
	return nil
}

// next returns an event from any of these layers, checked, and moves the
// layer's position.
func (w *watch) next(ctx context.Context, from [maxLayers]chan driver.Event) (layer int, e driver.Event, err error) {
	if layer, e, err = w.receive(ctx, from); err == nil {
		err = w.check(ctx, layer, e)
	}
	return layer, e, err
}

// receive returns an event from any of these layers.
func (w *watch) receive(ctx context.Context, from [maxLayers]chan driver.Event) (layer int, e driver.Event, err error) {
	select {
	case e = <-from[0]:
	case e = <-from[1]:
		layer = 1
	case e = <-from[2]:
		layer = 2
	case <-w.changed:
		return 0, e, cache.ErrMoved
	case err := <-w.failures:
		var own handled
		if errors.As(err, &own) {
			return 0, e, own.error
		}
		if errors.Is(err, cache.ErrMoved) {
			return 0, e, err
		}
		var lost *inexact
		if errors.As(err, &lost) {
			return 0, e, &inexact{w.failed(ctx, lost.err)}
		}
		return 0, e, w.failed(ctx, err)
	case <-ctx.Done():
		return 0, e, w.refused(ctx.Err())
	}
	return layer, e, nil
}

// check refuses an event that the layer should not tell, and moves its position.
func (w *watch) check(ctx context.Context, layer int, e driver.Event) error {
	if wrong := w.wrong(e, w.places[layer]); wrong != "" {
		return w.violation(ctx, wrong)
	}
	w.at.positions[layer] = e.Position
	w.heard = true
	return nil
}

func (w *watch) wrong(e driver.Event, p place) string {
	if e.Position == "" || len(e.Position) > maxBackendToken {
		return "bad position"
	}
	switch e.Kind {
	case driver.EventSync, driver.EventProgress:
		return ""
	case driver.EventPut, driver.EventDelete:
		if e.Entry.Deleted != (e.Kind == driver.EventDelete) {
			return "event that contradicts its entry"
		}
		return w.outside(e.Entry, p)
	}
	return "unknown kind of event"
}

// snapshot merges what the layers hold when they begin to be watched, each in
// order of key, and ends with the sync event.
func (w *watch) snapshot(ctx context.Context) error {
	heads := make([]*config.Entry, len(w.places)) // nil: not there yet, or synced
	last := make([]string, len(w.places))
	for {
		first := -1
		for i := range w.places {
			for heads[i] == nil && !w.layers[i] {
				var only [maxLayers]chan driver.Event
				only[i] = w.events[i]
				_, e, err := w.next(ctx, only)
				if err != nil {
					return err
				}
				switch e.Kind {
				case driver.EventSync:
					w.layers[i] = true
				case driver.EventDelete:
					return w.violation(ctx, "deletion in a snapshot")
				case driver.EventPut:
					key := e.Entry.ID.Key.String()
					if key <= last[i] {
						return w.violation(ctx, "keys out of order")
					}
					last[i], heads[i] = key, &e.Entry
				}
			}
			if heads[i] != nil && (first < 0 || heads[i].ID.Key.String() < heads[first].ID.Key.String()) {
				first = i
			}
		}
		if first < 0 {
			break
		}
		e := *heads[first]
		for i, h := range heads {
			if h != nil && h.ID.Key == e.ID.Key {
				heads[i] = nil
			}
		}
		w.at.key = e.ID.Key.String()
		if err := w.put(e); err != nil {
			return err
		}
	}
	w.at.stage, w.at.key = stageDirect, ""
	if len(w.places) > 1 {
		w.at.stage = stageRead
	}
	return w.caughtUp()
}

// rest goes on with a snapshot that was cut off: the keys behind the mark are
// listed as they are now. The changes since the mark are on their way, those
// of the keys before it included.
func (w *watch) rest(ctx context.Context) error {
	m := w.merge(driver.DefaultPageSize)
	m.after = w.at.key
	for {
		e, err := m.peek(ctx)
		if errors.Is(err, errEnough) {
			m.pages = 0 // whoever watches has time
			continue
		}
		if err != nil {
			return err
		}
		if e == nil {
			break
		}
		w.at.key = e.ID.Key.String()
		if err := w.put(*e); err != nil {
			return err
		}
		m.skip(w.at.key)
	}
	w.at.stage, w.at.key = stageRead, ""
	return nil
}

// handle emits what one event of one layer changes.
func (w *watch) handle(ctx context.Context, layer int, e driver.Event) error {
	switch e.Kind {
	case driver.EventProgress:
		return w.send(EventProgress, config.Entry{})
	case driver.EventSync:
		return w.sync(layer)
	}
	if !w.table.Owns(w.route, e.Entry.ID.Key) {
		return nil
	}
	if w.at.stage == stageDirect {
		if e.Kind == driver.EventDelete {
			return w.send(EventDelete, e.Entry)
		}
		return w.send(EventPut, filled(e.Entry))
	}
	now, at, err := w.effective(ctx, e.Entry.ID.Key, w.places)
	switch {
	case err != nil:
		return err
	case now.outdated:
		return w.gone(now) // what is told has no mark either
	case at < 0 && e.Kind == driver.EventPut:
		return nil // deleted since: that event is on its way
	case at < 0:
		return w.delete(e.Entry)
	case at < layer:
		return nil // hidden
	}
	return w.put(now.entry)
}

// sync takes the sync event of one layer. The last one's says that everything
// is up to date.
func (w *watch) sync(layer int) error {
	if w.layers[layer] {
		return nil
	}
	w.layers[layer] = true
	if slices.Contains(w.layers, false) {
		return nil
	}
	return w.caughtUp()
}

// caughtUp emits what says that nothing is missing any more.
func (w *watch) caughtUp() error {
	w.turnOver()
	if !w.synced {
		w.synced, w.gaps = true, 0
		if err := w.send(EventSync, config.Entry{}); err != nil {
			return err
		}
	}
	if !w.down {
		return nil
	}
	w.down, w.quiet = false, false
	return w.send(EventSourceUp, config.Entry{})
}

// put emits a value unless it is what was emitted last for its key, or the
// key is another route's.
func (w *watch) put(e config.Entry) error {
	if !w.table.Owns(w.route, e.ID.Key) || w.repeats(e) {
		return nil
	}
	return w.send(EventPut, e)
}

// delete emits a tombstone unless the key was emitted as deleted last.
func (w *watch) delete(e config.Entry) error {
	if w.repeats(e) {
		return nil
	}
	return w.send(EventDelete, e)
}

// repeats remembers e and reports whether it says what was emitted last for
// its key. Once a key is gone it does not matter which layer's deletion did it.
func (w *watch) repeats(e config.Entry) bool {
	k := e.ID.Key
	was, known := w.seen[k]
	if len(w.seen) >= maxSeen && !known {
		clear(w.seen)
	}
	// A revision of its own: what was read may be a part of all that is held with it.
	w.seen[k] = config.Entry{ID: e.ID, Version: e.Version, Revision: config.Revision(strings.Clone(string(e.Revision))), Deleted: e.Deleted}
	return known && (was.Deleted && e.Deleted ||
		was.ID == e.ID && was.Version == e.Version && was.Revision == e.Revision && was.Deleted == e.Deleted)
}

func (w *watch) send(kind EventKind, e config.Entry) error {
	w.refusal = w.emit(Event{Kind: kind, Entry: e, ResumeToken: w.store.tokens.Seal(w.at.String(), w.seal("watch")...)})
	return w.refusal
}

// The pauses before a store that is out of reach is asked again: half of a
// bound that doubles, and up to the other half at random, so that all who watch
// it do not ask at once.
const (
	shortestBound = 100 * time.Millisecond
	longestBound  = 5 * time.Second
)

type pauses struct{ bound time.Duration }

func (p *pauses) reset() { p.bound = 0 }

// wait returns false as soon as ctx is done.
func (p *pauses) wait(ctx context.Context) bool {
	p.bound = min(max(2*p.bound, shortestBound), longestBound)
	timer := time.NewTimer(p.bound/2 + rand.N(p.bound/2)) //nolint:gosec // jitter, not a secret
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
