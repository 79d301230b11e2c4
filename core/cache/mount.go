package cache

import (
	"context"
	"slices"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/relay"
)

// mount is what is behind a route until something else is put there. It does
// not change. Its methods are the route's, asked of this backend with this
// policy.
type mount struct {
	*Backend
	backend driver.Backend
	source  *source
	space   uint32 // source's: it tells the IDs of one store from the same ones of others
	policy  Policy
	// eventual backends are asked through driver.Refresher where it matters.
	eventual bool
	forgets  bool // Caveats.PermanentDelete

	ending context.Context // done when no new call may use it
	end    context.CancelFunc

	relay *relay.Relay // of a backend that can be watched itself

	uses *uses // Backend.gate guards it
}

// uses counts the calls of a backend that are under way.
type uses struct {
	n    int
	none []chan struct{} // each is closed when there are none
}

// over returns a channel that is closed as soon as there are none.
func (u *uses) over() <-chan struct{} {
	none := make(chan struct{})
	if u.n == 0 {
		close(none)
	} else {
		u.none = append(u.none, none)
	}
	return none
}

func (b *Backend) mount(s *source, p Policy) *mount {
	caveats := driver.CaveatsOf(s.backend)
	m := &mount{
		Backend: b, backend: s.backend, source: s, space: s.space, policy: p, eventual: caveats.EventualReads, forgets: caveats.PermanentDelete,
		uses: &uses{},
	}
	m.ending, m.end = context.WithCancel(b.ctx)
	m.relay = m.newRelay()
	return m
}

// ErrMoved is in the chain of the error that ends a Watch when what it watches
// is about to be replaced. Whoever watches again, from the last position that
// was told, goes on without a gap.
var ErrMoved error = config.Errorf(config.Unavailable, "the backend is being replaced").WithHint("watch again, from the last position")

// errTaken is for who still holds a route that is not there any more: as if it
// had been looked for a moment later.
func errTaken() error {
	return config.Errorf(config.InvalidArgument, "this prefix is not known here any more")
}

// enter returns what answers now, and keeps it from being ended until leave. It
// waits while the backend is held.
func (b *Backend) enter(ctx context.Context) (*mount, error) {
	for {
		b.gate.Lock()
		m, held, taken := b.now.Load(), b.held, b.taken
		if held == nil && !taken {
			m.uses.n++
		}
		b.gate.Unlock()
		switch {
		case taken:
			return nil, errTaken()
		case held == nil:
			return m, nil
		}
		select {
		case <-held:
		case <-b.ctx.Done():
			return nil, errClosed()
		case <-ctx.Done():
			return nil, config.Errorf(config.Unavailable, "the backend is being replaced").WithHint("retry").WithCause(ctx.Err())
		}
	}
}

// using calls do with what answers now, which it returns. do must not use the
// route again: while it is held, do would wait for its own end.
func (b *Backend) using(ctx context.Context, do func(*mount)) (*mount, error) {
	m, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	do(m)
	return m, nil
}

// moves is how often in a row a walk begins anew because what it walks through
// was replaced.
const moves = 3

// page is one page of a walk that must not lead through two stores: it is
// ErrMoved where something else is behind the route by now.
func (b *mount) page(ctx context.Context, r driver.ListRequest) (page driver.Page, err error) {
	in, refused := b.using(ctx, func(in *mount) {
		if in.source == b.source {
			page, err = b.list(ctx, r)
		}
	})
	switch {
	case refused != nil:
		return driver.Page{}, refused
	case in.source != b.source:
		return driver.Page{}, ErrMoved
	}
	return page, err
}

func (b *mount) leave() {
	b.gate.Lock()
	defer b.gate.Unlock()
	if b.uses.n--; b.uses.n == 0 {
		for _, none := range b.uses.none {
			close(none)
		}
		b.uses.none = nil
	}
}

// Swap puts to behind the route, with a policy of its own. Calls that are under
// way end where they are; every later one asks to. The returned channel is
// closed when nothing uses the former backend through this route any more: it
// may be closed then.
//
// Where to leads to the same store, by Same or because it is what was there
// before, what is held stays, and who watches misses nothing and is told
// nothing twice: a write through either is seen through the other as ever. Else
// nothing that is held is used any more, and a Watch ends with OutOfRange or
// whatever its new store says of the position.
func (b *Backend) Swap(to driver.Backend, p Policy) (unused <-chan struct{}) {
	c := b.cache
	c.mu.Lock()
	m := b.mount(c.source(to), p)
	c.mu.Unlock()

	b.gate.Lock()
	old := b.now.Load()
	other := old.space != m.space
	b.now.Store(m)
	b.letIn()
	unused = old.uses.over()
	b.gate.Unlock()

	old.end()
	if other {
		b.views.renounce(m.space)
	}
	b.suspect() // what replaces a backend may know more than it did
	select {
	case b.views.wake <- struct{}{}:
	default:
	}
	c.forget()
	return unused
}

// letIn ends a Hold. The lock is held.
func (b *Backend) letIn() {
	if b.held != nil {
		close(b.held)
		b.held = nil
	}
}

// Hold has every call that has to ask the backend wait until Swap or Release,
// ends whoever watches it with ErrMoved, and returns when none of the calls that
// were under way is left, or with an error when ctx is done. It is for stores
// that let in one process at a time. What is in memory goes on being served.
func (b *Backend) Hold(ctx context.Context) error {
	b.gate.Lock()
	m := b.now.Load()
	if b.held == nil {
		b.held = make(chan struct{})
	}
	// What goes on after Release is as it is, and has not ended.
	next := *m
	next.ending, next.end = context.WithCancel(b.ctx)
	next.relay = next.newRelay()
	b.now.Store(&next)
	idle := m.uses.over()
	b.gate.Unlock()
	m.end()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return config.Errorf(config.Unavailable, "the calls of the backend that are under way did not end in time").WithCause(ctx.Err())
	}
}

// Release undoes Hold: the backend is used again.
func (b *Backend) Release() {
	b.gate.Lock()
	defer b.gate.Unlock()
	b.letIn()
}

// Unwrap takes the backend out of use: calls that come later are
// InvalidArgument, what is held is not used, whoever watches is ended, and
// nothing of it runs any more. The backend itself stays open. The returned
// channel is as that of Swap.
func (b *Backend) Unwrap() (unused <-chan struct{}) {
	b.gate.Lock()
	b.taken = true
	b.letIn()
	unused = b.now.Load().uses.over()
	b.gate.Unlock()
	b.close()
	c := b.cache
	c.mu.Lock()
	c.backends = slices.DeleteFunc(slices.Clone(c.backends), func(other *Backend) bool { return other == b })
	c.mu.Unlock()
	c.forget()
	return unused
}

// Behind reports whether this is what answers now.
func (b *Backend) Behind(backend driver.Backend) bool { return b.now.Load().backend == backend }

// Same says that b, which has not been wrapped yet, leads to the store that
// other leads to: what is held of other is as good for b.
func (c *Cache) Same(b, other driver.Backend) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if was := c.known(other); was != nil && c.known(b) == nil {
		c.sources = append(c.sources, newSource(b, c.perMin, was.space))
	}
}

// forget lets go of what is known of backends that no route uses any more.
func (c *Cache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	used := map[*source]bool{}
	for _, b := range c.backends {
		used[b.now.Load().source] = true
	}
	c.sources = slices.DeleteFunc(slices.Clone(c.sources), func(s *source) bool { return s.used && !used[s] })
}
