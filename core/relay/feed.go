package relay

import (
	"context"
	"errors"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// The bounds of what is kept of one shared stream. Who needs more asks the store.
const (
	maxEvents = 256
	maxBytes  = 1 << 20 // of the values in them
)

// errDropped ends a shared stream that must not be one.
var errDropped = errors.New("a secret is not kept")

// feed is the newest of what one shared stream told. Its group's lock guards it.
type feed struct {
	end context.CancelFunc // of its stream

	live    bool           // everything up to its beginning has been told
	events  []driver.Event // never empty: the newest has the number last
	last    uint64
	bytes   int
	changed chan struct{} // closed with every event, and replaced unless it is the end
	ended   bool
	err     error // it ended with
	dropped bool  // it ended because it must not be shared
}

// newFeed begins behind a position, which stands in for an event of it.
func newFeed(base string, end context.CancelFunc) *feed {
	f := &feed{end: end, changed: make(chan struct{})}
	f.push(driver.Event{Kind: driver.EventSync, Position: base})
	return f
}

func (f *feed) push(e driver.Event) {
	f.events = append(f.events, e)
	f.last++
	f.bytes += len(e.Entry.Value)
	for len(f.events) > maxEvents || f.bytes > maxBytes && len(f.events) > 1 {
		f.bytes -= len(f.events[0].Entry.Value)
		f.events[0] = driver.Event{}
		f.events = f.events[1:]
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *feed) close(err error) {
	f.ended, f.err = true, err
	close(f.changed)
}

// find returns the number of the newest event that a point is the same as.
func (f *feed) find(p point) (number uint64, ok bool) {
	for i := len(f.events) - 1; i >= 0; i-- {
		if p.is(&f.events[i]) {
			return f.last - uint64(len(f.events)-1-i), true
		}
	}
	return 0, false
}

// after returns the event behind a number; kept is false where it is gone. Where
// there is none yet, e is nil.
func (f *feed) after(n uint64) (e *driver.Event, kept bool) {
	first := f.last + 1 - uint64(len(f.events))
	switch {
	case n+1 < first:
		return nil, false
	case n == f.last:
		return nil, true
	}
	found := f.events[n+1-first]
	return &found, true
}

// point is what is compared of an event that somebody was told last. The zero
// point is the same as nothing.
type point struct {
	position string
	change   bool
	id       config.ID
	version  uint64
	revision config.Revision
	deleted  bool
}

// behind returns the point behind one more event. What tells nothing new leaves the
// change that was the last.
func (p point) behind(e *driver.Event) point {
	p.position = e.Position
	if e.Kind == driver.EventPut || e.Kind == driver.EventDelete {
		p.change, p.id, p.version, p.revision, p.deleted = true, e.Entry.ID, e.Entry.Version, e.Entry.Revision, e.Entry.Deleted
	}
	return p
}

// is reports whether the same follows behind both.
func (p *point) is(e *driver.Event) bool {
	if p.position == "" {
		return false
	}
	return p.position == e.Position ||
		p.change && (e.Kind == driver.EventPut || e.Kind == driver.EventDelete) && p.version == e.Entry.Version &&
			p.revision == e.Entry.Revision && p.deleted == e.Entry.Deleted && p.id == e.Entry.ID
}
