package cache

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/memdriver"
)

// A store that falls in the moment in which its probe ends is probed again: else
// nothing would ever ask it, and what is behind it would be out of reach for good.
func TestAStoreFallsAsItsProbeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Options{Table: NewClock})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := c.Wrap(memdriver.New(), Policy{Prefix: "p_", MaxStaleness: time.Minute}).now.Load()
		for round := range 5_000 {
			var work sync.WaitGroup
			work.Go(b.probe) // of a fall that some other call has undone
			work.Go(func() {
				for n := 0; n < 1000 && !b.source.probing.Load(); n++ {
					runtime.Gosched()
				}
				for range failuresDown {
					b.reported(config.ID{}, errDown())
				}
			})
			work.Wait()
			synctest.Wait()
			if b.source.down.Load() && !b.source.probing.Load() {
				t.Fatalf("round %d: the store is down, and nobody looks whether it is back", round)
			}
			for b.source.down.Load() || b.source.probing.Load() {
				time.Sleep(probeEvery) //nolint:forbidigo // on the test's own clock
			}
		}
	})
}
