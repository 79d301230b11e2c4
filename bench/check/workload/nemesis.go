package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tagstore/tagstore/bench/check/fault"
	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/bench/check/system"
)

// Nemesis breaks one thing.
type Nemesis struct {
	history.Window // without its times
	// Break breaks it and returns what mends it. What it breaks is chosen by
	// random.
	Break func(random *rand.Rand) (mend func() error, err error)
}

// Of makes a Nemesis of a switch that can not fail.
func Of(w history.Window, begin func(*rand.Rand) (mend func())) Nemesis {
	return Nemesis{w, func(random *rand.Rand) (func() error, error) {
		mend := begin(random)
		return func() error { mend(); return nil }, nil
	}}
}

// OfStore are the ways in which a store is broken.
func OfStore(s *fault.Store) []Nemesis {
	return []Nemesis{
		Of(history.Window{Name: "store slow", Excuses: true}, func(random *rand.Rand) func() {
			s.Slow(time.Duration(1+random.IntN(40)) * time.Millisecond)
			return func() { s.Slow(0) }
		}),
		Of(history.Window{Name: "store down", Excuses: true}, func(*rand.Rand) func() { return s.Down() }),
		Of(history.Window{Name: "store throttled", Excuses: true}, func(random *rand.Rand) func() {
			s.Throttle(20 + random.IntN(80))
			return func() { s.Throttle(0) }
		}),
		Of(history.Window{Name: "store older", Excuses: true, Lies: true}, func(random *rand.Rand) func() {
			s.Older(1 + random.IntN(3))
			return func() { s.Older(0) }
		}),
	}
}

// OfNetwork are the ways in which announcements are broken.
func OfNetwork(n *system.Network) []Nemesis {
	each := func(name string, set func(percent int)) Nemesis {
		return Of(history.Window{Name: name}, func(random *rand.Rand) func() {
			set(20 + random.IntN(60))
			return func() { set(0) }
		})
	}
	return []Nemesis{each("refreshes dropped", n.Drop), each("refreshes doubled", n.Double), each("refreshes reordered", n.Late)}
}

// atOnce is how many things are broken at once.
const atOnce = 2

// unleash breaks things until ctx is done, and stops a while before so that
// the run ends in quiet. The returned function waits for it to be over, with
// everything mended.
func (r *run) unleash(ctx context.Context) (wait func() error) {
	ctx, cancel := context.WithTimeout(ctx, r.Duration*9/10)
	var work sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	// The same thing is not broken twice at once.
	free := make(chan Nemesis, len(r.Nemeses))
	random := r.random(2000)
	random.Shuffle(len(r.Nemeses), func(i, j int) { r.Nemeses[i], r.Nemeses[j] = r.Nemeses[j], r.Nemeses[i] })
	for _, n := range r.Nemeses {
		free <- n
	}
	for i := range min(atOnce, len(r.Nemeses)) {
		random := r.random(3000 + i)
		work.Go(func() {
			for system.Wait(ctx, pause(random)) == nil {
				n := <-free
				if err := r.suffer(ctx, n, random); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					return
				}
				free <- n
			}
		})
	}
	return func() error {
		work.Wait()
		cancel()
		return errors.Join(errs...)
	}
}

// suffer breaks one thing for a while.
func (r *run) suffer(ctx context.Context, n Nemesis, random *rand.Rand) error {
	mended := r.recorder.Break(n.Window)
	defer mended()
	mend, err := n.Break(random)
	if err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	_ = system.Wait(ctx, pause(random))
	if err := mend(); err != nil {
		return fmt.Errorf("%s, mended: %w", n.Name, err)
	}
	return nil
}

// pause is how long something lasts: 50 ms to 1 s, mostly short.
func pause(random *rand.Rand) time.Duration {
	part := random.Float64()
	return 50*time.Millisecond + time.Duration(part*part*float64(950*time.Millisecond))
}
