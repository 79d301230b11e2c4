package store_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// holding is a backend whose watches of one tenant tell nothing until it is opened.
type holding struct {
	*memdriver.Backend
	tenant config.Tenant
	opened chan struct{}
	begun  atomic.Int64 // watches of that tenant
}

func (h *holding) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	if r.Tenant == h.tenant {
		h.begun.Add(1)
		select {
		case <-h.opened:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return h.Backend.Watch(ctx, r, emit)
}

func newHolding(t *testing.T) (*holding, *fixture) {
	t.Helper()
	h := &holding{Backend: memdriver.New(), tenant: acme.Tenant, opened: make(chan struct{})}
	layers := []manifest.Layer{manifest.LayerTenant}
	f := newStore(t, store.Options{},
		router.Route{Prefix: "p_", BackendName: "holding", Backend: h, Layers: layers},
		router.Route{Prefix: "q_", BackendName: "other", Backend: memdriver.New(), Layers: layers})
	return h, f
}

// began is how many watches have reached the backend when nothing moves any more.
func (h *holding) began(t *testing.T, want int64) {
	t.Helper()
	synctest.Wait()
	if got := h.begun.Load(); got != want {
		t.Fatalf("%d watches have begun, want %d", got, want)
	}
}

// atOnce fails where something waited for its time to be over.
func atOnce(t *testing.T) {
	t.Helper()
	began := time.Now()
	t.Cleanup(func() {
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

func (f *fixture) watchAll(t *testing.T, n int) []*watching {
	t.Helper()
	all := make([]*watching, n)
	for i := range all {
		all[i] = watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: "p_"})
	}
	return all
}

// Of many that come at once 16 begin, and each that has begun lets the next one
// do so; other tenants and other backends do not wait for them.
func TestWatchesBeginInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		atOnce(t)
		h, f := newHolding(t)
		f.put(t, acme, "p_a", `1`)
		all := f.watchAll(t, 40)
		h.began(t, 16)
		for _, w := range []*watching{
			watch(t.Context(), t, f.Store, store.WatchRequest{Scope: globex, KeyPrefix: "p_"}),
			watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: "q_"}),
		} {
			w.expect("sync")
			w.close()
		}
		h.began(t, 16)
		close(h.opened)
		var told sync.WaitGroup
		for _, w := range all { // at once: who has begun waits for whoever listens
			told.Go(func() {
				for _, want := range []string{"put p_a=1", "sync"} {
					if got := show(<-w.events); got != want {
						t.Errorf("a watcher was told %q, want %q", got, want)
					}
				}
			})
		}
		told.Wait()
		h.began(t, 40)
		f.put(t, acme, "p_a", `2`)
		for _, w := range all {
			w.expect("put p_a=2")
			w.close()
		}
	})
}

// Who does not get on for a second does not hold the others up any longer, and who
// ends does not from then on.
func TestTurnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, f := newHolding(t)
		all := f.watchAll(t, 40)
		for _, begun := range []int64{16, 32, 40} {
			h.began(t, begun)
			<-time.After(time.Second)
		}
		for _, w := range all {
			w.close()
		}
		for _, begun := range []int64{40 + 16, 40 + 16 + 16} {
			all := f.watchAll(t, 16)
			h.began(t, begun)
			for _, w := range all {
				w.close()
			}
		}
	})
}

// Whoever waits for a turn goes when the caller does, and goes over to another table
// of routes with those it waits for.
func TestWaitingForATurnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		atOnce(t)
		h, f := newHolding(t)
		all := f.watchAll(t, 16)
		h.began(t, 16)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := watch(ctx, t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: "p_"})
		moved := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: "p_"})
		h.began(t, 16)
		cancel(errors.New("the caller has gone"))
		wantCode(t, gone.end(), config.Canceled)
		f.routes.Swap(must(router.NewTable([]router.Route{
			{Prefix: "p_", BackendName: "new", Backend: memdriver.New(), Layers: []manifest.Layer{manifest.LayerTenant}},
		})))
		moved.expect("sync")
		moved.close()
		for _, w := range all {
			w.expect("sync")
			w.close()
		}
	})
}
