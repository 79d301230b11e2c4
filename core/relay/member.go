package relay

import (
	"context"
	"errors"
	"time"

	"github.com/tagstore/tagstore/core/driver"
)

// lookFor is how long the store may take to say that nothing came behind a
// position. Nothing is told meanwhile.
const lookFor = 2 * time.Second

// errOver ends a stream of a member's own that it needs no longer.
var errOver = errors.New("the stream is not needed any more")

// member is one Watch. All of it runs in the goroutine that called.
type member struct {
	group  *group
	emit   func(driver.Event) error
	at     string // everything up to here was told
	last   point  // of what was told last
	synced bool   // the sync event was told
	looked *feed  // whether nothing lies between it and this was asked already

	// The group's lock guards these.
	stand  point              // last, zero while something is told and before the sync event
	cancel context.CancelFunc // of the stream of its own
	feed   *feed              // that it went over to
	number uint64             // of the event in it that was told last, or is known to be
}

// meets goes over to the feed if it has what was told last. The lock is held.
func (m *member) meets(f *feed) bool {
	if f == nil || !f.live {
		return false
	}
	number, ok := f.find(m.stand)
	if ok {
		m.goOver(f, number)
	}
	return ok
}

// goOver ends the stream of its own. The lock is held.
func (m *member) goOver(f *feed, number uint64) {
	m.feed, m.number, m.stand = f, number, point{}
	m.cancel()
}

// apart watches with streams of its own, one behind the other, until it has gone
// over to the shared one. over is true where the Watch has to end, with err.
func (m *member) apart(ctx context.Context) (over bool, err error) {
	g := m.group
	g.mu.Lock()
	m.feed, m.stand, m.cancel = nil, point{}, func() {}
	g.apart[m] = struct{}{}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.apart, m)
	}()
	for {
		before := g.mark()
		inStep, over, err := m.watch(ctx)
		switch {
		case over:
			return true, err
		case m.over():
			return false, nil
		case !inStep || before.feed == nil || before.feed == m.looked:
			continue
		}
		// The mark was there before the store was asked for what is told by now.
		m.looked = before.feed
		if m.quietSince(ctx, before.position) {
			g.mu.Lock()
			m.goOver(before.feed, before.number)
			g.mu.Unlock()
			return false, nil
		}
	}
}

func (m *member) over() bool {
	m.group.mu.Lock()
	defer m.group.mu.Unlock()
	return m.feed != nil
}

// watch is one stream of its own, from where it stands. over is false where it
// ended only because something else is to be tried; inStep says that it ended at
// its sync event.
func (m *member) watch(ctx context.Context) (inStep, over bool, err error) {
	g := m.group
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	g.mu.Lock()
	m.cancel = cancel
	g.mu.Unlock()
	var refusal error
	enough := false
	err = g.relay.from.Watch(own, g.request(m.at), func(e driver.Event) error {
		g.mu.Lock()
		m.stand = point{}
		enough = m.feed != nil
		g.mu.Unlock()
		if enough {
			return errOver
		}
		if e.Kind != driver.EventSync || !m.synced {
			if refusal = m.emit(e); refusal != nil {
				return refusal
			}
		}
		m.synced = m.synced || e.Kind == driver.EventSync
		if !m.synced {
			return nil // part of a state, perhaps, which nothing that is shared tells
		}
		m.at, m.last = e.Position, m.last.behind(&e)
		g.mu.Lock()
		defer g.mu.Unlock()
		m.stand = m.last
		switch {
		case m.meets(g.feed):
			enough = true
		case e.Kind == driver.EventSync && m.mayLook():
			enough, inStep = true, true
		default:
			return nil
		}
		m.stand = point{}
		return errOver
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	m.stand = point{}
	switch {
	case refusal != nil, ctx.Err() != nil:
		return false, true, err
	case enough, own.Err() != nil:
		return inStep, false, nil
	}
	return false, true, err
}

// mayLook reports whether there is a shared stream to look at, and begins it where
// enough watch. The lock is held.
func (m *member) mayLook() bool {
	g := m.group
	switch {
	case g.secret:
	case g.feed != nil:
		return g.feed.live && g.feed != m.looked
	case g.members.Load() >= g.relay.crowd:
		g.open(m.at)
	}
	return false
}

// quietSince asks the store whether nothing came behind a position.
func (m *member) quietSince(ctx context.Context, position string) (quiet bool) {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	// Its error says nothing about the stream that matters.
	_ = m.group.relay.from.Watch(ctx, m.group.request(position), func(e driver.Event) error {
		if e.Kind == driver.EventProgress {
			return nil
		}
		quiet = e.Kind == driver.EventSync
		return errOver
	})
	return quiet
}

// follow tells what the shared stream tells. over is false where it is to go on
// with a stream of its own.
func (m *member) follow(ctx context.Context) (over bool, err error) {
	g, f := m.group, m.feed
	for {
		if err := ctx.Err(); err != nil {
			return true, err
		}
		g.mu.Lock()
		e, kept := f.after(m.number)
		changed, ended := f.changed, f.ended
		g.mu.Unlock()
		switch {
		case !kept:
			return false, nil
		case e != nil:
			if e.Kind != driver.EventSync { // which is that of the shared stream
				told := *e
				told.Entry = e.Entry.Clone()
				if err := m.emit(told); err != nil {
					return true, err
				}
			}
			m.number++
			m.at, m.last = e.Position, m.last.behind(e)
		case ended && f.dropped:
			return false, nil
		case ended:
			return true, f.err
		default:
			select {
			case <-changed:
			case <-ctx.Done():
				return true, ctx.Err()
			}
		}
	}
}
