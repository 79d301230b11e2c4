package store_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// moody is a store that can be told to fail. A write that fails has been made
// all the same.
type moody struct {
	*memdriver.Backend
	mu   sync.Mutex
	mood error
}

func (m *moody) Capabilities() driver.Capabilities { return driver.Capabilities{History: true} }

func (m *moody) fails(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mood = err
}

func (m *moody) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mood
}

func (m *moody) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	if err := m.failure(); err != nil {
		return config.Entry{}, err
	}
	return m.Backend.Get(ctx, id, version)
}

func (m *moody) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	e, err := m.Backend.Put(ctx, r)
	if err == nil {
		err = m.failure()
	}
	return e, err
}

// cached is a Store with one route behind a cache.
func cached(t *testing.T, b driver.Backend, p cache.Policy) *store.Store {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	c, err := cache.New(cache.Options{Logger: quiet, MaxBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	p.Prefix = "tenant_config_"
	table, err := router.NewTable([]router.Route{{
		Prefix: p.Prefix, BackendName: "moody", Backend: c.Wrap(b, p), Layers: []manifest.Layer{manifest.LayerService, manifest.LayerTenant},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return store.New(router.New(table), store.Options{Logger: quiet})
}

// Where an absence may be outdated the answer is not that there is no such
// value: an error has no mark that says so. An old absence in one layer does not
// keep what another one has from being answered, marked.
func TestOutdatedAbsence(t *testing.T) {
	k := key("tenant_config_limit")
	m := &moody{Backend: memdriver.New()}
	s := cached(t, m, cache.Policy{MaxStaleness: time.Minute, StaleIfError: time.Hour, NegativeTTL: time.Minute})
	if _, err := s.Get(t.Context(), acmeOrders, k, store.Want{}); !errors.Is(err, config.NotFound) {
		t.Fatal(err)
	}
	m.fails(config.Errorf(config.OutcomeUnknown, "the answer was lost"))
	put := store.PutRequest{Scope: acmeOrders, Key: k, Value: []byte(`1`)}
	if _, err := s.Put(t.Context(), put); !errors.Is(err, config.OutcomeUnknown) {
		t.Fatal(err)
	}
	m.fails(config.Errorf(config.ResourceExhausted, "the store is throttled"))
	if a, err := s.Get(t.Context(), acmeOrders, k, store.Want{}); !errors.Is(err, config.Unavailable) {
		t.Errorf("Get says %+v, %v; want it unavailable", a, err)
	}
	if got, err := s.BatchGet(t.Context(), acmeOrders, []config.Key{k}, store.Want{}); err != nil || !errors.Is(got[0].Err, config.Unavailable) {
		t.Errorf("BatchGet says %+v, %v; want it unavailable", got, err)
	}
	m.fails(nil)
	put.Scope = acme
	if _, err := s.Put(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	m.fails(config.Errorf(config.ResourceExhausted, "the store is throttled"))
	if a, err := s.Get(t.Context(), acmeOrders, k, store.Want{}); err != nil || a.Freshness.State != config.StateStale {
		t.Errorf("behind the old absence Get says %+v, %v; want the tenant's value, stale", a, err)
	}
}

// process is one way to a store, such as a plugin is. Those before it and those
// behind it have the same store.
type process struct {
	*memdriver.Backend
	watched bool
}

func (p *process) Capabilities() driver.Capabilities {
	return driver.Capabilities{Watch: p.watched, Batch: true}
}

// Ten times in a thousand puts another process takes the place of the one
// behind the route, every other time only after that one is through: who
// watches sees each version once, in order, and nothing else.
func TestR10WatchSurvivesASwap(t *testing.T) {
	for name, watched := range map[string]bool{"of its own watch": true, "of a view": false} {
		t.Run(name, func(t *testing.T) {
			quiet := slog.New(slog.DiscardHandler)
			c, err := cache.New(cache.Options{Logger: quiet, MaxBytes: 4 << 20})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			mem := memdriver.New()
			now := &process{mem, watched}
			p := cache.Policy{Prefix: "tenant_config_", MaxStaleness: time.Minute}
			b := c.Wrap(now, p)
			f := newStore(t, store.Options{}, router.Route{
				Prefix: p.Prefix, BackendName: "one", Backend: b, Layers: []manifest.Layer{manifest.LayerTenant},
			})
			w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: p.Prefix})
			defer w.close()
			w.expect("sync")
			const puts, swaps = 1000, 10
			swapped := make(chan error, 1)
			go func() {
				swapped <- func() error {
					for i := range swaps {
						id := config.ID{Tenant: acme.Tenant, Key: key("tenant_config_x")}
						for e, err := mem.Get(t.Context(), id, 0); err != nil || e.Version < uint64(i*puts/swaps); e, err = mem.Get(t.Context(), id, 0) {
							runtime.Gosched() // until it is that far
						}
						if i%2 == 0 {
							if err := b.Hold(t.Context()); err != nil {
								return err
							}
						}
						next := &process{mem, watched}
						c.Same(next, now)
						<-b.Swap(next, p)
						now = next
					}
					return nil
				}()
			}()
			put := make(chan error, 1)
			go func() {
				put <- func() error {
					for range puts {
						if _, err := f.Put(t.Context(), store.PutRequest{Scope: acme, Key: key("tenant_config_x"), Actor: "me", Value: []byte("1")}); err != nil {
							return err
						}
					}
					return nil
				}()
			}()
			for i := 1; i <= puts; i++ {
				if e := w.next(); e.Kind != store.EventPut || e.Entry.Version != uint64(i) {
					t.Fatalf("event %d is %s of version %d", i, show(e), e.Entry.Version)
				}
			}
			if err := errors.Join(<-put, <-swapped); err != nil {
				t.Fatal(err)
			}
		})
	}
}
