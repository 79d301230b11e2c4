package store

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/router"
)

const (
	// MaxTargets is the most targets of one Refresh.
	MaxTargets = 100
	// refreshing is how many targets are read at once.
	refreshing = 8
)

// RefreshTarget names what may have changed: one key, the keys that start with
// a prefix, or, with neither, everything that the tenant has in all routes.
// Tenant may be config.Shared. A service narrows it to that service's layer;
// without one a key or prefix is of the tenant-wide layer.
type RefreshTarget struct {
	Tenant    config.Tenant
	Service   config.Service
	Key       config.Key
	KeyPrefix string
	// MinVersion, with a Key only, is the version that the change made, 0 where
	// that is not known. An older one is read again until the call's deadline,
	// or for 5 seconds where it has none.
	MinVersion uint64
}

// Receipt is what came of one target. If Err is set the rest is zero.
type Receipt struct {
	// Version is, with a key, the version that is in place now: 0 where the
	// store does not count, or the value is absent.
	Version uint64
	Absent  bool // with a key: there is no such value in its layer
	Values  int  // how many values were read
	Err     error
}

// Refresh reads what may have changed from the store's own truth. Whatever is
// answered once it has returned, by this process, is not older than that.
//
// There is one receipt for each target, in the order given, and a target that
// fails, fails alone. The call itself fails, with InvalidArgument and before
// anything is read, for a number of targets that is not 1 to MaxTargets and
// for targets that contradict themselves.
//
// Nobody's right to a tenant is checked here. No value is returned.
func (s *Store) Refresh(ctx context.Context, targets []RefreshTarget) (_ []Receipt, err error) {
	const op = "store.Refresh"
	defer s.observe(ctx, op, time.Now(), &err)
	if len(targets) == 0 || len(targets) > MaxTargets {
		return nil, named(config.Errorf(config.InvalidArgument, "a refresh has 1 to %d targets, not %d", MaxTargets, len(targets)), op, config.Key{})
	}
	for i, t := range targets {
		if err := t.check(); err != nil {
			return nil, named(config.Errorf(config.InvalidArgument, "targets[%d]: %s", i, err.Message).WithHint("%s", err.Hint), op, t.Key)
		}
	}
	table := s.routes.Load()
	receipts := make([]Receipt, len(targets))
	var reads errgroup.Group
	reads.SetLimit(refreshing)
	for i, t := range targets {
		reads.Go(func() error {
			receipt, err := s.refresh(ctx, op, table, t)
			if err != nil {
				receipt = Receipt{Err: err}
			}
			receipts[i] = receipt
			return nil
		})
	}
	_ = reads.Wait() // each receipt has its own error
	return receipts, nil
}

// check refuses a target that says two things at once, or nothing.
func (t RefreshTarget) check() *config.Error {
	switch {
	case t.Tenant.IsZero():
		return config.Errorf(config.InvalidArgument, "it names no tenant").WithHint("everything of all tenants is not refreshed at once: name each")
	case t.Tenant.IsShared() && !t.Service.IsZero():
		return config.Errorf(config.InvalidArgument, "the shared layer has no services").WithHint("leave the service out")
	case !t.Key.IsZero() && t.KeyPrefix != "":
		return config.Errorf(config.InvalidArgument, "it names a key and a key prefix").WithHint("leave one of them out")
	case t.Key.IsZero() && t.MinVersion > 0:
		return config.Errorf(config.InvalidArgument, "only a key has a least version").WithHint("leave min_version out, or name the key")
	}
	return nil
}

func (s *Store) refresh(ctx context.Context, op string, table *router.Table, t RefreshTarget) (Receipt, error) {
	c := call{store: s, op: op, key: t.Key, want: cache.Want{Bounded: true}, renew: true}
	var err error
	switch {
	case !t.Key.IsZero():
		if c.route, _, err = table.Match(t.Key); err != nil {
			return Receipt{}, c.refused(err)
		}
		return c.refreshKey(ctx, t)
	case t.KeyPrefix != "":
		if c.route, err = table.MatchPrefix(t.KeyPrefix); err != nil {
			return Receipt{}, c.refused(err)
		}
		if !t.in(c.route) {
			return Receipt{}, c.refused(t.noLayer(c.route))
		}
		n, err := c.refreshPrefix(ctx, table, t, false)
		return Receipt{Values: n}, err
	}
	return s.refreshTenant(ctx, op, table, t)
}

// layer is the one that a target is about.
func (t RefreshTarget) layer() manifest.Layer {
	switch {
	case t.Tenant.IsShared():
		return manifest.LayerShared
	case t.Service.IsZero():
		return manifest.LayerTenant
	}
	return manifest.LayerService
}

// in reports whether a route has the layer.
func (t RefreshTarget) in(r *router.Route) bool { return slices.Contains(r.Layers, t.layer()) }

func (t RefreshTarget) noLayer(r *router.Route) error {
	names := make([]string, len(r.Layers))
	for i, l := range r.Layers {
		names[i] = l.String()
	}
	return config.Errorf(config.InvalidArgument, "%s has no layer %s, so nothing of it is ever answered", r.Prefix, t.layer()).
		WithHint("its layers are %s", strings.Join(names, ", "))
}

func (c call) refreshKey(ctx context.Context, t RefreshTarget) (Receipt, error) {
	if !t.in(c.route) {
		return Receipt{}, c.refused(t.noLayer(c.route))
	}
	id := config.ID{Tenant: t.Tenant, Service: t.Service, Key: t.Key}
	var r reading
	var err error
	if t.MinVersion == 0 {
		r, err = c.read(ctx, id)
	} else {
		most := patience
		if deadline, ok := ctx.Deadline(); ok {
			most = time.Until(deadline)
		}
		r, err = c.awaited(ctx, id, t.MinVersion, most)
	}
	switch {
	case err != nil:
		return Receipt{}, err
	case !r.found:
		return Receipt{Absent: true}, nil
	}
	return Receipt{Version: r.entry.Version, Values: 1}, nil
}

// refreshPrefix lists one layer of one route and counts what it has. What is
// held of other services gives way, too, where all of them are meant.
func (c call) refreshPrefix(ctx context.Context, table *router.Table, t RefreshTarget, allServices bool) (int, error) {
	if b, ok := c.route.Backend.(*cache.Backend); ok {
		n, err := b.RenewAll(ctx, cache.Below{
			Tenant: t.Tenant, Service: t.Service, AllServices: allServices, Prefix: t.KeyPrefix,
			Owns: func(k config.Key) bool { return table.Owns(c.route, k) },
		})
		if err != nil {
			return 0, c.refusedByCache(ctx, err)
		}
		return n, nil
	}
	p := place{t.Tenant, t.Service}
	sel := &selection{call: c, table: table, prefix: t.KeyPrefix, places: []place{p}}
	l := &layerPage{place: p}
	m := &merge{selection: sel, layers: []*layerPage{l}, size: driver.MaxPageSize}
	for n := 0; ; l.token = l.next {
		if err := m.fetch(ctx, l); err != nil {
			return 0, err
		}
		for _, e := range l.rest {
			if table.Owns(c.route, e.ID.Key) {
				n++
			}
		}
		if l.next == "" {
			return n, nil
		}
	}
}

// refreshTenant is refreshPrefix of every route that has the layer. Without a
// service that is the tenant-wide one, and what is held of every service gives
// way: which of them have values can not be listed.
func (s *Store) refreshTenant(ctx context.Context, op string, table *router.Table, t RefreshTarget) (Receipt, error) {
	var lists errgroup.Group
	lists.SetLimit(refreshing)
	var mu sync.Mutex
	var whole Receipt
	for _, r := range table.Routes() {
		if _, holds := r.Backend.(*cache.Backend); !t.in(r) && (!holds || !t.Service.IsZero()) {
			continue
		}
		lists.Go(func() error {
			ofRoute := t
			ofRoute.KeyPrefix = r.Prefix
			n, err := call{store: s, op: op, route: r}.refreshPrefix(ctx, table, ofRoute, t.Service.IsZero())
			mu.Lock()
			defer mu.Unlock()
			whole.Values += n
			return err
		})
	}
	err := lists.Wait()
	return whole, err
}
