package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

const (
	// failuresDown is how many calls in a row have to find a store out of reach
	// before it is held to be.
	failuresDown = 3
	// probeEvery is how often a store that is down is tried.
	probeEvery = 250 * time.Millisecond
	// maxFills and maxWaiting bound the calls of one store that are under way,
	// and those that wait for their turn.
	maxFills   = 64
	maxWaiting = 4096
)

// source is what is known of one store, whichever routes lead to it: whether it
// can be reached, and how many calls it is given at once.
type source struct {
	backend driver.Backend
	space   uint32 // of its store: sources of one store have the same
	used    bool   // some route has led to it; Cache.mu guards it

	down    atomic.Bool
	fails   atomic.Int32
	waiting atomic.Int32
	probing atomic.Bool
	slots   chan struct{}
	budget  *rate.Limiter // of the reconciler's calls

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when down changes
	lastID  config.ID     // that was asked for in vain
}

func newSource(b driver.Backend, callsPerMinute int, space uint32) *source {
	return &source{
		backend: b, space: space, slots: make(chan struct{}, maxFills), changed: make(chan struct{}),
		budget: rate.NewLimiter(rate.Limit(float64(callsPerMinute)/60), max(callsPerMinute/6, 1)),
	}
}

// outage reports whether an error says that the store is out of reach. That of
// a plugin that was given up is FailedPrecondition, for callers need not retry,
// and Unavailable underneath.
func outage(err error) bool {
	return errors.Is(err, config.Unavailable) || config.CodeOf(err) == config.DeadlineExceeded
}

// retryable reports whether an old answer may stand in for this error.
func retryable(err error) bool { return outage(err) || config.CodeOf(err) == config.ResourceExhausted }

// enter waits for a turn. Whoever got nil calls leave.
func (s *source) enter(ctx context.Context) error {
	select {
	case s.slots <- struct{}{}:
		return nil
	default:
	}
	if s.waiting.Add(1) > maxWaiting {
		s.waiting.Add(-1)
		return config.Errorf(config.ResourceExhausted, "too many reads wait for the store").WithHint("retry later")
	}
	defer s.waiting.Add(-1)
	select {
	case s.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return config.Errorf(config.Unavailable, "the store is busy").WithHint("retry")
	}
}

func (s *source) leave() { <-s.slots }

// afford takes calls of the reconciler out of the budget, if there is anything in
// it. What is more than it ever holds at once is owed, and paid off before there is
// anything again.
func (s *source) afford(calls int) bool {
	now, most := time.Now(), s.budget.Burst()
	if !s.budget.AllowN(now, min(calls, most)) {
		return false
	}
	for owed := calls - most; owed > 0; owed -= most {
		s.budget.ReserveN(now, min(owed, most))
	}
	return true
}

// report takes the outcome of a call of the store. It returns true where that
// is how it went down.
func (s *source) report(id config.ID, err error) (fell bool) {
	if !outage(err) {
		s.fails.Store(0)
		if s.down.Load() {
			s.turn(false)
		}
		return false
	}
	if s.fails.Add(1) < failuresDown || s.down.Load() {
		return false
	}
	s.mu.Lock()
	s.lastID = id
	s.mu.Unlock()
	return s.turn(true)
}

func (s *source) turn(down bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down.Load() == down {
		return false
	}
	s.down.Store(down)
	close(s.changed)
	s.changed = make(chan struct{})
	return true
}

// state returns whether the store is down, and a channel that is closed when
// that changes.
func (s *source) state() (down bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down.Load(), s.changed
}

// probe asks a store that is down until it answers or ctx is done.
func (s *source) probe(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for s.down.Load() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.try(ctx)
		}
	}
}

// try asks the store for a sign of life.
func (s *source) try(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.mu.Lock()
	id := s.lastID
	s.mu.Unlock()
	var err error
	if p, ok := driver.AsPinger(s.backend); ok {
		err = p.Ping(ctx)
	} else if !id.IsZero() {
		_, err = s.backend.Get(ctx, id, 0)
	}
	s.report(id, err)
}

func errDown() error {
	return config.Errorf(config.Unavailable, "the store is out of reach").WithHint("retry")
}
