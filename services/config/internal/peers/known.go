package peers

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/fanout"
)

// knownFor is how long a discovery serves for all changes: a registry answers
// so often, and no oftener, however many changes there are.
const knownFor = time.Second

// known is the discoverer of the fan-out: the registry's last answer, with this
// replica in it. The fan-out skips this replica, so that being alone is no
// failure.
type known struct {
	registry fanout.Discoverer
	self     fanout.Replica
	now      func() time.Time
	asking   chan struct{} // holds a token while nobody asks the registry

	// The token of asking guards these.
	asked time.Time // when the registry was asked last
	at    time.Time // of the last answer, good or bad
	err   error
	// last is the last good answer and this replica; nil before the first.
	last atomic.Pointer[[]fanout.Replica]
}

func newKnown(registry fanout.Discoverer, self fanout.Replica) *known {
	k := &known{registry: registry, self: self, now: time.Now, asking: make(chan struct{}, 1)}
	k.asking <- struct{}{}
	return k
}

type currentKey struct{}

// current returns a context in which Discover does not make do with what it
// knows.
func current(ctx context.Context) context.Context {
	return context.WithValue(ctx, currentKey{}, true)
}

// Discover implements fanout.Discoverer. While the registry fails, the replicas
// of its last good answer go on being those that there are, unless ctx asks for
// the current ones.
func (k *known) Discover(ctx context.Context) ([]fanout.Replica, error) {
	must := ctx.Value(currentKey{}) != nil
	began := k.now()
	select {
	case <-k.asking:
	case <-ctx.Done():
		return nil, config.AsError(ctx.Err(), "peers.Discover", config.Key{})
	}
	defer func() { k.asking <- struct{}{} }()
	fresh := !k.at.IsZero() && k.now().Sub(k.at) < knownFor
	if must {
		// What somebody else asked for while this call waited is current, too.
		fresh = k.asked.After(began)
	}
	if !fresh {
		k.ask(ctx)
	}
	last := k.last.Load()
	if k.err != nil && (must || last == nil) {
		return nil, k.err
	}
	return slices.Clone(*last), nil
}

func (k *known) ask(ctx context.Context) {
	k.asked = k.now()
	replicas, err := k.registry.Discover(ctx)
	k.at, k.err = k.now(), err
	if err == nil {
		all := append(slices.Clone(replicas), k.self)
		k.last.Store(&all)
	}
}
