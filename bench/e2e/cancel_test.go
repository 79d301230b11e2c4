package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// Half of the calls of two tenants are given up while they are under way, on
// connections and a plugin that all share. Nobody who waits gets somebody else's
// answer, nor an error.
func TestCancelStorm(t *testing.T) {
	s := stack.Start(t)
	const keys, workers, calls = 8, 8, 100
	users := []*user{newUser(t, s, acme, "editor"), newUser(t, s, globex, "editor")}
	for _, u := range users {
		for i := range keys {
			if _, err := u.put(key(t, "tenant_config_storm/%d", i), i); err != nil {
				t.Fatal(err)
			}
		}
	}
	var answered, given atomic.Int64
	var wg sync.WaitGroup
	for _, u := range users {
		for worker := range workers {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(worker)))
				for range calls {
					ctx, cancel := context.WithTimeout(u.ctx, 30*time.Second)
					giveUp := random.IntN(2) == 0
					if giveUp {
						time.AfterFunc(time.Duration(random.IntN(1500))*time.Microsecond, cancel)
					}
					n := random.IntN(keys)
					// Not from memory: every call goes to the plugin.
					answer, err := u.client.Get(ctx, key(t, "tenant_config_storm/%d", n), config.Service{}, client.MaxStaleness(0))
					cancel()
					switch {
					case err == nil:
						answered.Add(1)
						if got, err := u.check(answer.Entry); err != nil || got != n {
							t.Errorf("key %d holds %d: %v", n, got, err)
						}
					case giveUp && errors.Is(err, config.Canceled):
						given.Add(1)
					default:
						t.Errorf("a call that was given up: %t, got %v", giveUp, err)
					}
				}
			})
		}
	}
	wg.Wait()
	if answered.Load() < workers*calls/2 || given.Load() < 50 {
		t.Errorf("%d calls were answered, %d given up", answered.Load(), given.Load())
	}
	t.Logf("%d calls were answered, %d given up", answered.Load(), given.Load())
}
