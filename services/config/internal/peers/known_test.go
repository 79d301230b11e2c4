package peers

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/fanout"
)

// slowRegistry answers a second later with what it held when it was asked.
type slowRegistry struct {
	mu    sync.Mutex
	held  []fanout.Replica
	asked int
}

func (r *slowRegistry) add(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = append(r.held, fanout.Replica{ID: id})
}

func (r *slowRegistry) Discover(context.Context) ([]fanout.Replica, error) {
	r.mu.Lock()
	held := slices.Clone(r.held)
	r.asked++
	r.mu.Unlock()
	later(time.Second)
	return held, nil
}

// later lets time go by in a test with a clock of its own.
func later(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // on the test's own clock
}

// Who needs the replicas that there are now does not make do with an answer to a
// question from before, even if it comes later. Those who wait share the next.
func TestCurrentReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slowRegistry{}
		r.add("a")
		k := newKnown(r, fanout.Replica{ID: "self"})
		var calls sync.WaitGroup
		calls.Go(func() { _, _ = k.Discover(t.Context()) }) // its registry does not fail
		later(100 * time.Millisecond)
		r.add("b")
		for range 3 {
			calls.Go(func() {
				got, err := k.Discover(current(t.Context()))
				if err != nil || !slices.Contains(got, fanout.Replica{ID: "b"}) {
					t.Errorf("found %v, %v; want the one that came before it asked", got, err)
				}
			})
		}
		calls.Wait()
		if r.asked != 2 {
			t.Errorf("the registry was asked %d times, want twice", r.asked)
		}
	})
}
