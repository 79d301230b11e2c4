package store_test

import (
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// shared is a Store whose one route has these backends behind it, one after
// another, and shares what is watched of each.
type shared struct {
	*fixture
	cache *cache.Cache
	route *cache.Backend
}

func newShared(t *testing.T, b driver.Backend, layers ...manifest.Layer) *shared {
	t.Helper()
	c, err := cache.New(cache.Options{Logger: slog.New(slog.DiscardHandler), MaxBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	route := c.Wrap(b, cache.Policy{Prefix: "p_", MaxStaleness: time.Minute})
	f := newStore(t, store.Options{}, router.Route{Prefix: "p_", BackendName: "mem", Backend: route, Layers: layers})
	return &shared{f, c, route}
}

// crowd are 20 watchers with the present state.
func (f *shared) crowd(t *testing.T, sc store.Scope, state ...string) []*watching {
	t.Helper()
	all := make([]*watching, 20)
	for i := range all {
		all[i] = watch(t.Context(), t, f.Store, store.WatchRequest{Scope: sc, KeyPrefix: "p_"})
		all[i].expect(append(state, "sync")...)
	}
	synctest.Wait()
	return all
}

var oneAndThree = map[string][]manifest.Layer{"one layer": {manifest.LayerTenant}, "three layers": threeLayers}

// Every one of those who share is told of an outage once, of what was missed, and
// that it is over.
func TestOutageIsToldToAllWhoShare(t *testing.T) {
	for name, layers := range oneAndThree {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newFrail(memdriver.New())
				f := newShared(t, b, layers...)
				f.put(t, acme, "p_a", `1`)
				all := f.crowd(t, acme, "put p_a=1")
				for range 3 {
					b.fail(errDown)
					for _, w := range all {
						w.expect("source down")
					}
					f.put(t, acme, "p_a", `2`)
					b.heal()
					for _, w := range all {
						w.expect("put p_a=2", "source up")
					}
					f.put(t, acme, "p_a", `1`)
					for _, w := range all {
						w.expect("put p_a=1")
					}
				}
				for _, w := range all {
					w.close()
				}
			})
		})
	}
}

// A store that has lost what it knew is a gap for all, with everything behind it.
func TestGapIsToldToAllWhoShare(t *testing.T) {
	for name, layers := range oneAndThree {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newFrail(memdriver.New())
				f := newShared(t, b, layers...)
				f.put(t, acme, "p_a", `1`)
				all := f.crowd(t, acme, "put p_a=1")
				b.fail(errDown)
				for _, w := range all {
					w.expect("source down")
				}
				b.replace(memdriver.New())
				f.put(t, acme, "p_b", `2`)
				b.heal()
				for _, w := range all {
					w.expect("gap", "put p_b=2", "sync", "source up")
				}
				f.put(t, acme, "p_b", `3`)
				for _, w := range all {
					w.expect("put p_b=3")
					w.close()
				}
			})
		})
	}
}

// Whatever way to the same store is put behind the route, all go on without being
// told, and what was there before is let go.
func TestReloadUnderAllWhoShare(t *testing.T) {
	for name, layers := range oneAndThree {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := memdriver.New()
				was := newFrail(b)
				f := newShared(t, was, layers...)
				all := f.crowd(t, acme)
				for i := range 10 {
					f.put(t, acme, "p_a", strconv.Itoa(i))
					told := func() {
						for _, w := range all {
							w.expect("put p_a=" + strconv.Itoa(i))
						}
					}
					if i%2 == 1 {
						told()
						if err := f.route.Hold(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					next := newFrail(b)
					f.cache.Same(next, was)
					unused := f.route.Swap(next, cache.Policy{Prefix: "p_", MaxStaleness: time.Minute})
					if i%2 == 0 {
						told()
					}
					<-unused
					was = next
				}
				for _, w := range all {
					w.close()
				}
				synctest.Wait()
				<-f.route.Unwrap() // nothing uses it any more
			})
		})
	}
}

// Who watches a tenant shares with nobody of another, however they come and go.
func TestTenantsShareNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFrail(memdriver.New())
		f := newShared(t, b, manifest.LayerTenant)
		mine := f.crowd(t, acme)
		before := b.watches()
		theirs := f.crowd(t, globex)
		if b.watches() == before {
			t.Error("the other tenant has no stream of its own")
		}
		for i := range 5 {
			value := strconv.Itoa(i)
			f.put(t, acme, "p_a", value)
			f.put(t, globex, "p_b", value)
			for _, w := range mine {
				w.expect("put p_a=" + value)
			}
			for _, w := range theirs {
				w.expect("put p_b=" + value)
			}
		}
		token := mine[0].resume(t, f, "p_a", "5")
		err := f.Watch(t.Context(), store.WatchRequest{Scope: globex, KeyPrefix: "p_", ResumeToken: token}, func(store.Event) error { return nil })
		wantCode(t, err, config.InvalidArgument)
		for _, w := range append(mine[1:], theirs...) {
			w.stop()
		}
	})
}

// resume returns the token of one more change.
func (w *watching) resume(t *testing.T, f *shared, k, value string) string {
	t.Helper()
	f.put(t, acme, k, value)
	e := w.next()
	w.close()
	return e.ResumeToken
}

// A token of those who share is as good as that of a stream of one's own, here and
// in a replica that shares nothing.
func TestTokensOfThoseWhoShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memdriver.New()
		f := newShared(t, newFrail(b), threeLayers...)
		all := f.crowd(t, acme)
		var tokens []string
		for i := range 6 {
			f.put(t, acme, "p_a", strconv.Itoa(i))
			for n, w := range all {
				if e := w.next(); n == i {
					tokens = append(tokens, e.ResumeToken)
				}
			}
		}
		for _, w := range all[1:] {
			w.close()
		}
		for i, token := range tokens {
			w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: "p_", ResumeToken: token})
			if i < 5 {
				w.expect("put p_a=5") // of several layers, at least the last
			}
			w.expect("sync")
			w.close()
		}
		all[0].close()
	})
}
