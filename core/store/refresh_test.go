package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// receipt is what a Receipt says, in words.
func receipt(r store.Receipt) string {
	switch {
	case r.Err != nil:
		return config.CodeOf(r.Err).String()
	case r.Absent:
		return "absent"
	case r.Version > 0:
		return fmt.Sprintf("version %d", r.Version)
	}
	return fmt.Sprintf("%d values", r.Values)
}

func TestRefresh(t *testing.T) {
	b := newEventual()
	down := &spy{Backend: memdriver.New(), onGet: func(context.Context, config.ID, uint64) error {
		return config.Errorf(config.Unavailable, "down")
	}}
	f := newStore(t, store.Options{},
		router.Route{Prefix: "p_", BackendName: "mem", Backend: b, Layers: threeLayers},
		router.Route{Prefix: "p_own_", BackendName: "mem", Backend: b, Layers: []manifest.Layer{manifest.LayerTenant}},
		router.Route{Prefix: "down_", BackendName: "down", Backend: down, Layers: []manifest.Layer{manifest.LayerService}},
	)
	for i := range 3 {
		f.put(t, acme, "p_a", fmt.Sprint(i))
	}
	f.put(t, acmeOrders, "p_a", `1`)
	f.put(t, acme, "p_b", `1`)
	f.put(t, acme, "p_own_c", `1`)
	f.delete(t, acme, "p_b")
	f.put(t, globex, "p_d", `1`)
	share(t, b.Backend, "p_e", `1`)
	shared := config.Shared()
	for _, c := range []struct {
		name   string
		target store.RefreshTarget
		want   string
	}{
		{"a key", store.RefreshTarget{Tenant: acme.Tenant, Key: key("p_a")}, "version 3"},
		{"a version that is there", store.RefreshTarget{Tenant: acme.Tenant, Key: key("p_a"), MinVersion: 2}, "version 3"},
		{"of a service", store.RefreshTarget{Tenant: acme.Tenant, Service: orders, Key: key("p_a")}, "version 1"},
		{"a shared key", store.RefreshTarget{Tenant: shared, Key: key("p_e")}, "version 1"},
		{"a deleted key", store.RefreshTarget{Tenant: acme.Tenant, Key: key("p_b"), MinVersion: 2}, "absent"},
		{"a key that never was", store.RefreshTarget{Tenant: acme.Tenant, Key: key("p_x")}, "absent"},
		{"somebody else's key", store.RefreshTarget{Tenant: acme.Tenant, Key: key("p_d")}, "absent"},
		{"a prefix", store.RefreshTarget{Tenant: acme.Tenant, KeyPrefix: "p_"}, "1 values"},
		{"a prefix of a service", store.RefreshTarget{Tenant: acme.Tenant, Service: orders, KeyPrefix: "p_"}, "1 values"},
		{"a tenant", store.RefreshTarget{Tenant: acme.Tenant}, "2 values"},
		{"the shared layer", store.RefreshTarget{Tenant: shared}, "1 values"},
		{"a key of no route", store.RefreshTarget{Tenant: acme.Tenant, Key: key("q_a")}, "invalid_argument"},
		{"a prefix of no route", store.RefreshTarget{Tenant: acme.Tenant, KeyPrefix: "q_"}, "invalid_argument"},
		{"a layer that the route does not have", store.RefreshTarget{Tenant: acme.Tenant, Service: orders, Key: key("p_own_c")}, "invalid_argument"},
		{"a prefix without the layer", store.RefreshTarget{Tenant: shared, KeyPrefix: "p_own_"}, "invalid_argument"},
		{"a store that is down", store.RefreshTarget{Tenant: acme.Tenant, Service: orders, Key: key("down_a")}, "unavailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := f.Refresh(t.Context(), []store.RefreshTarget{c.target})
			if err != nil || len(got) != 1 || receipt(got[0]) != c.want {
				t.Errorf("Refresh: %+v, %v, want %s", got, err, c.want)
			}
		})
	}
	if b.refreshes.Load() == 0 {
		t.Error("the source of truth was never asked")
	}
}

// One receipt for each target in the order given; one that fails, fails alone.
func TestRefreshOrder(t *testing.T) {
	f := on(t, memdriver.New())
	var targets []store.RefreshTarget
	var want []string
	for i := range store.MaxTargets {
		k := fmt.Sprintf("param_config_%d", i)
		if i%3 == 0 {
			k = fmt.Sprintf("unknown_%d", i)
		}
		targets = append(targets, store.RefreshTarget{Tenant: acme.Tenant, Key: key(k)})
		switch i % 3 {
		case 0:
			want = append(want, "invalid_argument")
		case 1:
			want = append(want, "absent")
		case 2:
			for range i%5 + 1 {
				f.put(t, acme, k, `1`)
			}
			want = append(want, fmt.Sprintf("version %d", i%5+1))
		}
	}
	receipts, err := f.Refresh(t.Context(), targets)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range receipts {
		got = append(got, receipt(r))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
}

// What contradicts itself refreshes nothing and says which target it is.
func TestRefreshRefuses(t *testing.T) {
	b := newEventual()
	f := on(t, b)
	good := store.RefreshTarget{Tenant: acme.Tenant, Key: key("param_config_a")}
	for name, c := range map[string]struct {
		target store.RefreshTarget
		says   string
	}{
		"no tenant":                {store.RefreshTarget{Key: good.Key}, "no tenant"},
		"everything":               {store.RefreshTarget{}, "no tenant"},
		"a service of all tenants": {store.RefreshTarget{Tenant: config.Shared(), Service: orders, Key: good.Key}, "no services"},
		"a key and a prefix":       {store.RefreshTarget{Tenant: acme.Tenant, Key: good.Key, KeyPrefix: "param_config_"}, "key prefix"},
		"a least version of many":  {store.RefreshTarget{Tenant: acme.Tenant, KeyPrefix: "param_config_", MinVersion: 1}, "least version"},
		"a least version of all":   {store.RefreshTarget{Tenant: acme.Tenant, MinVersion: 1}, "least version"},
	} {
		_, err := f.Refresh(t.Context(), []store.RefreshTarget{good, c.target})
		if e := errorOf(t, err, config.InvalidArgument); !strings.Contains(e.Message, c.says) || !strings.Contains(e.Message, "targets[1]") || e.Hint == "" {
			t.Errorf("%s: the error is %q", name, e)
		}
	}
	for _, n := range []int{0, store.MaxTargets + 1} {
		_, err := f.Refresh(t.Context(), make([]store.RefreshTarget, n))
		wantCode(t, err, config.InvalidArgument)
	}
	if n := b.refreshes.Load(); n != 0 {
		t.Errorf("%d refreshes were made", n)
	}
}

// An older answer than the change that was announced is asked for again.
func TestRefreshAwaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := on(t, memdriver.New())
		f.put(t, acme, "param_config_a", `1`)
		time.AfterFunc(7*time.Second, func() { f.put(t, acme, "param_config_a", `2`) })
		target := []store.RefreshTarget{{Tenant: acme.Tenant, Key: key("param_config_a"), MinVersion: 2}}
		got, err := f.Refresh(t.Context(), target)
		if err != nil || !errors.Is(got[0].Err, config.Unavailable) {
			t.Fatalf("without a deadline: %+v, %v", got, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got, err = f.Refresh(ctx, target)
		if err != nil || receipt(got[0]) != "version 2" {
			t.Fatalf("within its deadline: %+v, %v", got, err)
		}
	})
}

// Pages are walked to their end, and a backend that lies about them is not
// believed.
func TestRefreshPages(t *testing.T) {
	b := &spy{Backend: memdriver.New()}
	f := on(t, b)
	const n = 2500
	for i := range n {
		f.put(t, acme, fmt.Sprintf("param_config_%04d", i), `1`)
	}
	target := []store.RefreshTarget{{Tenant: acme.Tenant, KeyPrefix: "param_config_"}}
	got, err := f.Refresh(t.Context(), target)
	if err != nil || got[0].Values != n {
		t.Fatalf("Refresh: %+v, %v, want %d values", got, err, n)
	}
	f2 := on(t, &spy{Backend: b.Backend, list: func(p driver.Page) driver.Page {
		p.Entries[0].ID.Tenant = globex.Tenant
		return p
	}})
	got, err = f2.Refresh(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, got[0].Err, config.Internal)
}
