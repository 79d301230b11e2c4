package store

import (
	"context"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

const (
	// maxBeginning is how many watches of one tenant begin at once in one backend.
	// Each is told the state or what it missed, and what its client has not read of
	// that is held in memory: a thousand that come together, as when their replica
	// has gone, would have it held a thousand times.
	maxBeginning = 16
	// turnPatience is how long one that begins counts. Who takes longer may wait for
	// its client, or for a store that does not answer, and the others would, too.
	turnPatience = time.Second
)

// turns has few watches begin at once. Nobody waits for what another tenant does,
// or another backend.
type turns struct {
	mu  sync.Mutex
	all map[turnOf]*turn // of which somebody has or awaits one
}

type turnOf struct {
	tenant  config.Tenant
	backend string
}

type turn struct {
	slots chan struct{}
	users int // that have or await a slot
}

// take waits for a turn, in the order of those who came, until ctx ends, and ok is
// false then. Who has it calls over as soon as it has begun, and may do so again.
func (t *turns) take(ctx context.Context, of turnOf) (over func(), ok bool) {
	t.mu.Lock()
	if t.all == nil {
		t.all = map[turnOf]*turn{}
	}
	mine := t.all[of]
	if mine == nil {
		mine = &turn{slots: make(chan struct{}, maxBeginning)}
		t.all[of] = mine
	}
	mine.users++
	t.mu.Unlock()
	select {
	case mine.slots <- struct{}{}:
	case <-ctx.Done():
		t.leave(of, mine)
		return nil, false
	}
	once := sync.OnceFunc(func() {
		<-mine.slots
		t.leave(of, mine)
	})
	patience := time.AfterFunc(turnPatience, once)
	return func() {
		patience.Stop()
		once()
	}, true
}

func (t *turns) leave(of turnOf, mine *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mine.users--; mine.users == 0 {
		delete(t.all, of)
	}
}
