package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

func tenantNamed(t testing.TB, name string) config.Tenant {
	t.Helper()
	tenant, err := config.ParseTenant(name)
	if err != nil {
		t.Fatal(err)
	}
	return tenant
}

// enterMany lets n calls of a tenant come, each in a goroutine of its own, until
// they run or wait. Those that are refused are counted; stop ends all others.
func enterMany(ctx context.Context, b *bulkhead, tenant config.Tenant, n int) (refused *atomic.Int32) {
	refused = new(atomic.Int32)
	for range n {
		go func() {
			s, _, err := b.enter(ctx, tenant)
			switch {
			case errors.Is(err, errFull):
				refused.Add(1)
			case err == nil:
				<-ctx.Done()
				b.leave(s)
			}
		}()
	}
	synctest.Wait()
	return refused
}

// However many calls one tenant, or a few, have: another's runs at once.
func TestR26NobodyTakesAll(t *testing.T) {
	for _, slots := range []int{2, 16, 256} {
		for _, greedy := range []int{1, 2, 5} {
			if 1<<greedy > slots {
				continue
			}
			t.Run(fmt.Sprintf("slots=%d greedy=%d", slots, greedy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					b := newBulkhead(slots, slots*placesPerSlot)
					for i := range greedy {
						const calls = 10_000
						before, _ := b.counts()
						refused := enterMany(ctx, b, tenantNamed(t, fmt.Sprintf("greedy-%d", i)), calls)
						if refused.Load() == 0 {
							t.Error("nothing was refused")
						}
						if held, waiting := b.counts(); held == before || held >= slots || waiting >= slots*placesPerSlot {
							t.Errorf("%d slots and %d places are taken", held, waiting)
						}
					}
					s, waited, err := b.enter(ctx, tenantNamed(t, "modest"))
					if err != nil || waited {
						t.Errorf("the other tenant: waited %v, %v", waited, err)
					} else {
						b.leave(s)
					}
					cancel()
					synctest.Wait()
					if held, waiting := b.counts(); held != 0 || waiting != 0 || len(b.shares) != 0 || b.turns.Len() != 0 {
						t.Errorf("left: %d slots, %d places, %d shares, %d turns", held, waiting, len(b.shares), b.turns.Len())
					}
				})
			})
		}
	}
}

// One tenant alone gets half of everything, and one slot is a slot.
func TestR26OneTenantGetsHalf(t *testing.T) {
	for slots, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 2, 256: 128} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			b := newBulkhead(slots, 10)
			enterMany(ctx, b, tenantNamed(t, "alone"), 1000)
			if held, waiting := b.counts(); held != want || waiting != 5 {
				t.Errorf("of %d slots %d are held; %d of 10 places", slots, held, waiting)
			}
		})
	}
}

// Slots that come free go round the tenants, and to the oldest call of each.
func TestR26TurnsGoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBulkhead(1, 100)
		first, _, err := b.enter(t.Context(), tenantNamed(t, "a"))
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan string, 9)
		var all sync.WaitGroup
		for _, name := range []string{"a", "b", "c"} {
			for i := range 3 {
				all.Go(func() {
					s, _, err := b.enter(t.Context(), tenantNamed(t, name))
					if err != nil {
						t.Error(err)
						return
					}
					order <- fmt.Sprint(name, i)
					b.leave(s)
				})
				synctest.Wait()
			}
		}
		b.leave(first)
		all.Wait()
		close(order)
		var got string
		for o := range order {
			got += o + " "
		}
		if want := "a0 b0 c0 a1 b1 c1 a2 b2 c2 "; got != want {
			t.Errorf("the order was %s, want %s", got, want)
		}
	})
}

func TestR26WaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBulkhead(1, 100)
		s, _, err := b.enter(t.Context(), tenantNamed(t, "a"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := b.enter(ctx, tenantNamed(t, "a")); !errors.Is(err, errWait) {
			t.Errorf("the wait ended with %v", err)
		}
		b.leave(s)
		if held, waiting := b.counts(); held != 0 || waiting != 0 || len(b.shares) != 0 {
			t.Errorf("left: %d slots, %d places, %d shares", held, waiting, len(b.shares))
		}
	})
}

// Under calls that come, wait, give up and go at random the bounds hold, no slot
// is lost and none is given to a call that has gone.
func TestR26BoundsHold(t *testing.T) {
	const slots, places, callers = 7, 20, 64
	b := newBulkhead(slots, places)
	var running, got atomic.Int32
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			tenant := tenantNamed(t, fmt.Sprintf("t-%d", i%5))
			for range 300 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(200))*time.Microsecond)
				s, _, err := b.enter(ctx, tenant)
				if err == nil {
					if n := running.Add(1); n > slots {
						t.Errorf("%d run at once", n)
					}
					got.Add(1)
					running.Add(-1)
					b.leave(s)
				}
				cancel()
				if _, waiting := b.counts(); waiting > places {
					t.Errorf("%d wait", waiting)
				}
			}
		})
	}
	all.Wait()
	if held, waiting := b.counts(); held != 0 || waiting != 0 || len(b.shares) != 0 || b.turns.Len() != 0 {
		t.Errorf("left: %d slots, %d places, %d shares, %d turns", held, waiting, len(b.shares), b.turns.Len())
	}
	if got.Load() == 0 {
		t.Error("no call got a turn")
	}
}
