package system

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// Prefix is that of every key which a System is asked for.
const Prefix = "tenant_config_"

// peerTimeout is how long a Put waits for one other replica.
const peerTimeout = 500 * time.Millisecond

// StoreOptions say how the replicas of NewStore are made.
type StoreOptions struct {
	Name     string // "": "core/store"
	Replicas int
	Backend  driver.Backend // shared by all
	Policy   cache.Policy
	Network  *Network // between them
	// Table is cache.Options.Table.
	Table func(maxCost int64) (cache.Table, error)
}

// Store is this repository's store and cache, each replica with its own, in
// this process.
type Store struct {
	name     string
	network  *Network
	replicas []*store.Store
	caches   []*cache.Cache

	ctx    context.Context // of messages that are under way
	cancel context.CancelFunc
	late   sync.WaitGroup
}

var (
	_ System  = (*Store)(nil)
	_ Watcher = (*Store)(nil)
)

// NewStore returns replicas that tell each other of their writes.
func NewStore(o StoreOptions) (*Store, error) {
	s := &Store{name: o.Name, network: o.Network}
	if s.name == "" {
		s.name = "core/store"
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	quiet := slog.New(slog.DiscardHandler)
	meters := noop.NewMeterProvider()
	o.Policy.Prefix = Prefix
	for range o.Replicas {
		c, err := cache.New(cache.Options{Logger: quiet, MeterProvider: meters, MaxBytes: 4 << 20, CallsPerMinute: 60_000, Table: o.Table})
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.caches = append(s.caches, c)
		table, err := router.NewTable([]router.Route{{
			Prefix: Prefix, BackendName: "shared", Backend: c.Wrap(o.Backend, o.Policy),
			Layers: []manifest.Layer{manifest.LayerService, manifest.LayerTenant},
		}})
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.replicas = append(s.replicas, store.New(router.New(table), store.Options{Logger: quiet, MeterProvider: meters}))
	}
	return s, nil
}

// Name implements System.
func (s *Store) Name() string { return s.name }

// Replicas implements System.
func (s *Store) Replicas() int { return len(s.replicas) }

func scope(id config.ID) store.Scope { return store.Scope{Tenant: id.Tenant, Service: id.Service} }

// Get implements System.
func (s *Store) Get(ctx context.Context, replica int, id config.ID, w Want) (Answer, error) {
	a, err := s.replicas[replica].Get(ctx, scope(id), id.Key, store.Want{MinVersion: w.MinVersion, Bounded: w.Truth})
	got, err := entry(a.Entry, err)
	if err != nil {
		return Answer{}, err
	}
	if a.Entry.ID != id && !got.Absent {
		return Answer{}, fmt.Errorf("asked for one value the store answered another")
	}
	got.Mark = marked(a.Freshness.State)
	return got, nil
}

// Put implements System.
func (s *Store) Put(ctx context.Context, replica int, id config.ID, latest uint64, value []byte) (history.Replicas, error) {
	e, err := s.replicas[replica].Put(ctx, store.PutRequest{
		Scope: scope(id), Key: id.Key, Actor: "check", Value: value, Expect: driver.Version(latest),
	})
	if err != nil {
		return 0, err
	}
	return s.tell(ctx, replica, id, e.Version), nil
}

// Delete implements System.
func (s *Store) Delete(ctx context.Context, replica int, id config.ID, latest uint64) (history.Replicas, error) {
	e, err := s.replicas[replica].Delete(ctx, store.DeleteRequest{
		Scope: scope(id), Key: id.Key, Actor: "check", Expect: driver.Version(latest),
	})
	if err != nil {
		return 0, err
	}
	return s.tell(ctx, replica, id, e.Version), nil
}

// tell refreshes the other replicas, as far as the network lets it, and
// returns which have the change.
func (s *Store) tell(ctx context.Context, from int, id config.ID, version uint64) history.Replicas {
	var mu sync.Mutex
	have := history.Only(from)
	var told sync.WaitGroup
	for r := range s.replicas {
		if r == from {
			continue
		}
		fate, after := s.network.Fate()
		if fate == Delivered || fate == Doubled {
			told.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, peerTimeout)
				defer cancel()
				if _, err := s.Refresh(ctx, r, id, version); err == nil {
					mu.Lock()
					defer mu.Unlock()
					have |= history.Only(r)
				}
			})
		}
		if fate == Doubled || fate == Late {
			s.late.Go(func() {
				if Wait(s.ctx, after) == nil {
					ctx, cancel := context.WithTimeout(s.ctx, peerTimeout)
					defer cancel()
					_, _ = s.Refresh(ctx, r, id, version) // nobody waits for it
				}
			})
		}
	}
	told.Wait()
	return have
}

// Refresh implements System.
func (s *Store) Refresh(ctx context.Context, replica int, id config.ID, least uint64) (Receipt, error) {
	receipts, err := s.replicas[replica].Refresh(ctx, []store.RefreshTarget{
		{Tenant: id.Tenant, Service: id.Service, Key: id.Key, MinVersion: least},
	})
	if err != nil {
		return Receipt{}, err
	}
	return Receipt{Version: receipts[0].Version, Absent: receipts[0].Absent}, receipts[0].Err
}

// Watch implements Watcher.
func (s *Store) Watch(ctx context.Context, replica int, r Watch, emit func(Event) error) error {
	kinds := map[store.EventKind]history.EventKind{
		store.EventPut: history.Value, store.EventDelete: history.Gone, store.EventSync: history.Synced,
	}
	return s.replicas[replica].Watch(ctx, store.WatchRequest{
		Scope: store.Scope{Tenant: r.Tenant, Service: r.Service}, KeyPrefix: r.Prefix, ResumeToken: r.After,
	}, func(e store.Event) error {
		return emit(Event{Kind: kinds[e.Kind], ID: e.Entry.ID, Version: e.Entry.Version, Value: e.Entry.Value, Resume: e.ResumeToken})
	})
}

// Close implements System. It does not close the backend.
func (s *Store) Close() error {
	s.cancel()
	s.late.Wait()
	var errs []error
	for _, c := range s.caches {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Wait returns nil when d is over, or else why ctx is.
func Wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// forgetful is a table that drops every Set.
type forgetful struct{}

// Forgetful makes a table that drops every Set and says that it took it.
func Forgetful(int64) (cache.Table, error) { return forgetful{}, nil }

func (forgetful) Get(uint64) (*cache.Record, bool)      { return nil, false }
func (forgetful) Set(uint64, *cache.Record, int64) bool { return true }
func (forgetful) Delete(uint64)                         {}
func (forgetful) Wait()                                 {}
func (forgetful) Cost() int64                           { return 0 }
func (forgetful) Close()                                {}
