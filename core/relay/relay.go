// Package relay has all who watch the same of one store share one stream of it.
//
// A Relay is a driver.Watcher in front of another one and keeps its contract: who
// watches can not tell that others do. What is shared is the stream behind the
// sync event; what comes before it, the state or what was missed, each asks the
// store for by itself, so that the store, and nobody's memory, says what is in it.
//
// # Where two streams meet
//
// Positions are opaque: which of two lies before the other is not known. Whoever
// watches goes over from a stream of its own to the shared one only behind a point
// that is known to be the same in both. There are three ways to know:
//
//   - Both carry an event with the same position: behind it the same follows, by
//     clause C26.
//   - Both carry the same version of the same ID: changes are told in one order,
//     each exactly once, by clause C25.
//   - A watch from the newest position of the shared stream says at once that
//     nothing came behind it, and what is in step with the store began behind that
//     position: then nothing lies between the two.
//
// Until one of them holds it keeps its own stream, which is right for as long as it
// lasts. So a store whose positions never agree costs more streams and no event.
package relay

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Relay shares the streams of one driver.Watcher. It is safe for concurrent use.
type Relay struct {
	from driver.Watcher
	life context.Context
	run  func(work func()) bool
	// crowd is how many have to watch the same before they share: who is alone
	// has no use for a goroutine in between.
	crowd int32

	mu     sync.Mutex
	groups map[scope]*group
}

// scope is what is watched: nobody shares anything with who watches another.
type scope struct {
	tenant  config.Tenant
	service config.Service
	prefix  string
}

// New returns a Relay of from. Its shared streams end with life, and with the last
// who watches them; each is a call of run, which runs work in a goroutine that its
// owner waits for, or returns false.
func New(life context.Context, from driver.Watcher, run func(work func()) bool) *Relay {
	return &Relay{from: from, life: life, run: run, crowd: 2, groups: map[scope]*group{}}
}

// Watch implements driver.Watcher. When the shared stream fails, all who watch it
// are told what it had, and end with its error.
//
// Who is too slow for what is kept of the shared stream goes on from its position
// with a stream of its own, for which the store waits, or says that it no longer
// can. So does everybody where a secret is told: none is kept here.
func (r *Relay) Watch(ctx context.Context, request driver.WatchRequest, emit func(driver.Event) error) error {
	g := r.join(request)
	defer r.leave(g)
	m := &member{group: g, at: request.After, emit: emit}
	for {
		if over, err := m.apart(ctx); over {
			return err
		}
		if over, err := m.follow(ctx); over {
			return err
		}
	}
}

func (r *Relay) join(request driver.WatchRequest) *group {
	s := scope{request.Tenant, request.Service, request.KeyPrefix}
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[s]
	if g == nil {
		g = &group{relay: r, scope: s, apart: map[*member]struct{}{}}
		r.groups[s] = g
	}
	g.members.Add(1)
	return g
}

// leave ends the shared stream with the last who watches.
func (r *Relay) leave(g *group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g.members.Add(-1) > 0 {
		return
	}
	delete(r.groups, g.scope)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.feed != nil {
		g.feed.end()
	}
}

// group is all who watch the same.
type group struct {
	relay   *Relay
	scope   scope
	members atomic.Int32 // Relay.mu guards its changes

	mu     sync.Mutex // guards the rest, the feed, and what member says
	apart  map[*member]struct{}
	feed   *feed // nil where there is none, or it has ended
	secret bool  // was told of one: nothing is shared any more
}

func (g *group) request(after string) driver.WatchRequest {
	return driver.WatchRequest{Tenant: g.scope.tenant, Service: g.scope.service, KeyPrefix: g.scope.prefix, After: after}
}

// open begins the shared stream behind a position. The lock is held.
func (g *group) open(base string) {
	ctx, cancel := context.WithCancel(g.relay.life)
	f := newFeed(base, cancel)
	if !g.relay.run(func() { g.pump(ctx, f, base) }) {
		cancel()
		return
	}
	g.feed = f
}

// pump is the shared stream. It waits for nobody.
func (g *group) pump(ctx context.Context, f *feed, base string) {
	defer f.end()
	err := g.relay.from.Watch(ctx, g.request(base), func(e driver.Event) error { return g.take(f, e) })
	g.mu.Lock()
	defer g.mu.Unlock()
	f.close(err)
	if g.feed == f {
		g.feed = nil
	}
}

// take adds an event to the shared stream, and has those go over to it for whom
// it is the one that they were told last.
func (g *group) take(f *feed, e driver.Event) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.Entry.Secret {
		g.secret, f.dropped = true, true
		return errDropped
	}
	f.push(e)
	if e.Kind == driver.EventSync && !f.live {
		f.live = true
		for m := range g.apart {
			// Those that began before there was anything to compare with begin again.
			if m.stand != (point{}) && !m.meets(f) {
				m.cancel()
			}
		}
		return nil
	}
	if f.live {
		for m := range g.apart {
			if m.stand.is(&e) {
				m.goOver(f, f.last)
			}
		}
	}
	return nil
}

// mark returns where the shared stream stands now.
func (g *group) mark() mark {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.feed == nil || !g.feed.live {
		return mark{}
	}
	return mark{g.feed, g.feed.last, g.feed.events[len(g.feed.events)-1].Position}
}

// mark is a point of a feed; its feed is nil where there was none.
type mark struct {
	feed     *feed
	number   uint64
	position string
}
