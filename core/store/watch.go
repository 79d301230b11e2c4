package store

import (
	"context"
	"errors"
	"sync"

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

// EventKind says what an Event is.
type EventKind int

// The kinds of event.
const (
	// EventPut carries a live entry with its value.
	EventPut EventKind = iota + 1
	// EventDelete carries a tombstone.
	EventDelete
	// EventSync says that everything that was there when Watch began (or since
	// the resume point) has been emitted.
	EventSync
	// EventProgress says only that everything up to its token has been emitted.
	EventProgress
	// EventGap says that what happened since the event before it is not known in
	// full. All values follow as at the beginning, then an EventSync: a key that
	// is not among them is gone.
	EventGap
	// EventSourceDown says that the store is out of reach and changes may be
	// late. What was emitted stays the last that is known.
	EventSourceDown
	// EventSourceUp says that the store is back. What was missed has been
	// emitted, or is about to be behind an EventGap.
	EventSourceUp
)

// String returns the kind's name as it stands in logs.
func (k EventKind) String() string {
	switch k {
	case EventPut:
		return "put"
	case EventDelete:
		return "delete"
	case EventSync:
		return "sync"
	case EventProgress:
		return "progress"
	case EventGap:
		return "gap"
	case EventSourceDown:
		return "source down"
	case EventSourceUp:
		return "source up"
	default:
		return "unknown"
	}
}

// Event is one message of a Watch.
type Event struct {
	Kind  EventKind
	Entry config.Entry // zero unless Kind is EventPut or EventDelete
	// ResumeToken makes another Watch go on behind this event.
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
// A Watch holds at most two events of each layer and the versions of 1024 keys
// in memory: a slow receiver makes its backends wait, and them only for it. A
// resume token that lies before the changes still kept is OutOfRange.
func (s *Store) Watch(ctx context.Context, r WatchRequest, emit func(Event) error) error {
	const op = "store.Watch"
	sel, err := s.selecting(op, r.Scope, r.KeyPrefix)
	if err != nil {
		return err
	}
	from, ok := driver.AsWatcher(sel.route.Backend)
	if !ok {
		return sel.unable("be watched")
	}
	w := &watch{
		selection: sel, emit: emit, seen: map[config.Key]config.Entry{},
		at: mark{stage: stageSnapshot, positions: make([]string, len(sel.places))}, synced: make([]bool, len(sel.places)),
	}
	if r.ResumeToken != "" {
		payload, err := s.tokens.Open(r.ResumeToken, sel.seal("watch")...)
		if err != nil {
			return sel.refused(err)
		}
		if w.at, ok = parseMark(payload, len(sel.places)); !ok {
			return sel.refused(config.Errorf(config.Internal, "an own resume token can not be read"))
		}
	}

	ctx, cancel := context.WithCancel(ctx)
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	w.failures = make(chan error, len(sel.places))
	for i, p := range sel.places {
		events := make(chan driver.Event)
		w.events[i] = events
		after := w.at.positions[i]
		streams.Go(func() { w.failures <- w.stream(ctx, from, p, after, events) })
	}
	return w.run(ctx, r.ResumeToken == "")
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

// maxLayers is how many kinds of layer there are.
const maxLayers = 3

// watch is one running Watch.
type watch struct {
	*selection
	emit     func(Event) error
	events   [maxLayers]chan driver.Event // nil behind the last layer
	failures chan error
	at       mark
	synced   []bool
	seen     map[config.Key]config.Entry // what was emitted, without values
}

// stream passes on the events of one layer. Its error is never nil.
func (w *watch) stream(ctx context.Context, from driver.Watcher, p place, after string, events chan<- driver.Event) error {
	err := from.Watch(ctx, driver.WatchRequest{
		Tenant: p.tenant, Service: p.service, KeyPrefix: w.prefix, After: after,
	}, func(e driver.Event) error {
		select {
		case events <- e:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err == nil {
		return errEnded
	}
	return err
}

var errEnded = &config.Error{Code: config.Unavailable, Message: "the watch ended"}

// run emits until something fails.
func (w *watch) run(ctx context.Context, fresh bool) error {
	var err error
	switch {
	case fresh:
		err = w.snapshot(ctx)
	case w.at.stage == stageSnapshot:
		err = w.rest(ctx)
	}
	if err != nil {
		return err
	}
	for {
		layer, e, err := w.next(ctx, w.events)
		if err == nil {
			err = w.handle(ctx, layer, e)
		}
		if err != nil {
			return err
		}
	}
}

// next returns an event from any of these layers, checked, and moves the
// layer's position.
func (w *watch) next(ctx context.Context, from [maxLayers]chan driver.Event) (layer int, e driver.Event, err error) {
	select {
	case e = <-from[0]:
	case e = <-from[1]:
		layer = 1
	case e = <-from[2]:
		layer = 2
	case err := <-w.failures:
		return 0, e, w.failed(ctx, err)
	case <-ctx.Done():
		return 0, e, w.refused(ctx.Err())
	}
	if wrong := w.wrong(e, w.places[layer]); wrong != "" {
		return 0, e, w.violation(ctx, wrong)
	}
	w.at.positions[layer] = e.Position
	return layer, e, nil
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
			for heads[i] == nil && !w.synced[i] {
				var only [maxLayers]chan driver.Event
				only[i] = w.events[i]
				_, e, err := w.next(ctx, only)
				if err != nil {
					return err
				}
				switch e.Kind {
				case driver.EventSync:
					w.synced[i] = true
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
	return w.send(EventSync, config.Entry{})
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
	case at < 0 && e.Kind == driver.EventPut:
		return nil // deleted since: that event is on its way
	case at < 0:
		return w.delete(e.Entry)
	case at < layer:
		return nil // hidden
	}
	return w.put(now.entry)
}

// sync emits one sync event when the last layer has had its own.
func (w *watch) sync(layer int) error {
	if w.synced[layer] {
		return nil
	}
	w.synced[layer] = true
	for _, s := range w.synced {
		if !s {
			return nil
		}
	}
	return w.send(EventSync, config.Entry{})
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
	w.seen[k] = config.Entry{ID: e.ID, Version: e.Version, Revision: e.Revision, Deleted: e.Deleted}
	return known && (was.Deleted && e.Deleted ||
		was.ID == e.ID && was.Version == e.Version && was.Revision == e.Revision && was.Deleted == e.Deleted)
}

func (w *watch) send(kind EventKind, e config.Entry) error {
	return w.emit(Event{Kind: kind, Entry: e, ResumeToken: w.store.tokens.Seal(w.at.String(), w.seal("watch")...)})
}
