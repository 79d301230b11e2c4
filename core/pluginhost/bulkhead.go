package pluginhost

import (
	"container/list"
	"context"
	"sync"

	"github.com/tagstore/tagstore/core/config"
)

const (
	// placesPerSlot is how many calls may wait for each that may run. With the
	// default concurrency it is 4096 calls: some tens of milliseconds of work for
	// a store that answers in a millisecond.
	placesPerSlot = 16
	// maxWatches bounds the streams of one plugin, each of which costs both sides
	// memory for as long as it lasts.
	maxWatches = 4096
)

// bulkhead bounds the calls of one plugin that run at once, and those that wait
// for their turn, so that a plugin that hangs holds up nobody but its callers.
//
// Both are shared among the tenants by one rule: a tenant may take a slot while
// it holds fewer of them than are free, and a place in the queue while it holds
// fewer than are free there. One tenant alone thus gets half, whoever comes next
// at most half of what it finds, and among n that are busy it settles at a part
// in n+1 each. So there is something left for one that comes new, without a list
// of who might come. (A fixed half would be used up by two; sharing only when
// somebody waits would have a newcomer wait for calls that hang.) What it costs
// is the part that stays free.
//
// A slot that is given back goes to the tenants that wait in turn, and within a
// tenant to the call that waited longest.
type bulkhead struct {
	slots, places int

	mu      sync.Mutex
	held    int
	waiting int
	shares  map[config.Tenant]*share // of the tenants that hold or wait
	turns   list.List                // of the shares that wait: *share
	spare   *share                   // the last one that was let go, to be used again
}

// share is what one tenant has of a bulkhead.
type share struct {
	tenant config.Tenant
	held   int
	queue  list.List     // of chan struct{}, closed when its turn has come
	turn   *list.Element // in turns, nil while nobody waits
}

func newBulkhead(slots, places int) *bulkhead {
	return &bulkhead{slots: slots, places: places, shares: map[config.Tenant]*share{}}
}

// enter waits for a turn of tenant's. Whoever got one calls leave with it.
// Where there is no place to wait it returns errFull at once; where ctx ends the
// wait, errWait.
func (b *bulkhead) enter(ctx context.Context, tenant config.Tenant) (s *share, waited bool, err error) {
	b.mu.Lock()
	s = b.share(tenant)
	if s.queue.Len() == 0 && s.held < b.slots-b.held {
		s.held++
		b.held++
		b.mu.Unlock()
		return s, false, nil
	}
	if s.queue.Len() >= b.places-b.waiting {
		b.forget(s)
		b.mu.Unlock()
		return nil, false, errFull
	}
	ready := make(chan struct{})
	place := s.queue.PushBack(ready)
	b.waiting++
	if s.turn == nil {
		s.turn = b.turns.PushBack(s)
	}
	b.mu.Unlock()

	select {
	case <-ready:
		return s, true, nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-ready: // it came in the same moment, and goes to somebody else
		b.release(s)
	default:
		b.unqueue(s, place)
		b.forget(s)
	}
	return nil, true, errWait
}

// leave gives back what enter gave.
func (b *bulkhead) leave(s *share) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release(s)
}

// counts returns how many calls run and how many wait.
func (b *bulkhead) counts() (held, waiting int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held, b.waiting
}

// release gives a slot back and hands out all that may be.
func (b *bulkhead) release(s *share) {
	s.held--
	b.held--
	// A share that may not go holds at least as many slots as are free, so at
	// most slots of them are passed over.
	for e := b.turns.Front(); e != nil && b.held < b.slots; {
		next, _ := e.Value.(*share)
		if next.held >= b.slots-b.held {
			e = e.Next()
			continue
		}
		place := next.queue.Front()
		ready, _ := place.Value.(chan struct{})
		b.turns.MoveToBack(e)
		b.unqueue(next, place)
		next.held++
		b.held++
		close(ready)
		e = b.turns.Front()
	}
	b.forget(s)
}

func (b *bulkhead) unqueue(s *share, place *list.Element) {
	s.queue.Remove(place)
	b.waiting--
	if s.queue.Len() == 0 {
		b.turns.Remove(s.turn)
		s.turn = nil
	}
}

func (b *bulkhead) share(tenant config.Tenant) *share {
	if s, ok := b.shares[tenant]; ok {
		return s
	}
	s := b.spare
	if s == nil {
		s = &share{}
	}
	b.spare, s.tenant = nil, tenant
	b.shares[tenant] = s
	return s
}

// forget drops a share that has nothing.
func (b *bulkhead) forget(s *share) {
	if s.held == 0 && s.queue.Len() == 0 {
		delete(b.shares, s.tenant)
		b.spare = s
	}
}

var (
	errFull = config.Errorf(config.ResourceExhausted, "too many calls of the plugin wait already").
		WithHint("retry later; if it stays so the plugin is too slow: ask for less at once, or raise its concurrency in the manifest")
	errWait = config.Errorf(config.ResourceExhausted, "the call did not get its turn in time").
		WithHint("retry later; the plugin is busy")
	errWatches = config.Errorf(config.ResourceExhausted, "the plugin has as many watches as it may have").
			WithHint("end some of them, or watch fewer scopes")
)
