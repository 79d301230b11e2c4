package store_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// walk lists all pages and returns "key=value" of every entry.
func walk(ctx context.Context, t interface{ Fatal(...any) }, f *fixture, r store.ListRequest, size func() int) (all []string) {
	for range 10_000 {
		r.PageSize = size()
		a, err := f.List(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Entries) > r.PageSize {
			t.Fatal("the page is longer than asked")
		}
		for _, e := range a.Entries {
			all = append(all, e.ID.Key.String()+"="+string(e.Value))
		}
		if a.NextPageToken == "" {
			return all
		}
		r.PageToken = a.NextPageToken
	}
	t.Fatal("the pages do not end")
	return nil
}

// Walking the pages, of whatever sizes, finds what a naive merge of the layers
// finds; the keys of a longer route are in its own list only.
func TestListWalk(t *testing.T) {
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		b := memdriver.New()
		table, err := router.NewTable([]router.Route{
			{Prefix: "p_", BackendName: "mem", Backend: b, Layers: threeLayers},
			{Prefix: "p_b_", BackendName: "mem", Backend: b, Layers: threeLayers},
		})
		if err != nil {
			t.Fatal(err)
		}
		f := &fixture{Store: store.New(router.New(table), store.Options{})}

		want := map[string]string{}
		prefix := rapid.SampledFrom([]string{"p_", "p_a", "p_b", "p_b_", "p_b_a", "p_a/"}).Draw(t, "prefix")
		names := rapid.SliceOfDistinct(rapid.StringMatching(`[ab](_?[ab]){0,2}(/[ab])?`), rapid.ID[string])
		// Least specific first, so that what comes later overrides.
		for layer, scope := range []store.Scope{{Tenant: config.Shared()}, acme, acmeOrders, globex} {
			for _, name := range names.Draw(t, "names") {
				k := "p_" + name
				if k == "p_b_" {
					continue
				}
				value := strconv.Quote(fmt.Sprintf("%s in %d", k, layer))
				id := config.ID{Tenant: scope.Tenant, Service: scope.Service, Key: key(k)}
				if _, err := b.Put(ctx, driver.PutRequest{ID: id, Value: []byte(value)}); err != nil {
					t.Fatal(err)
				}
				if rapid.IntRange(0, 4).Draw(t, "deleted") == 0 {
					if _, err := b.Delete(ctx, driver.DeleteRequest{ID: id}); err != nil {
						t.Fatal(err)
					}
					continue
				}
				ofLonger := strings.HasPrefix(k, "p_b_")
				if scope != globex && strings.HasPrefix(k, prefix) && ofLonger == strings.HasPrefix(prefix, "p_b_") {
					want[k] = value
				}
			}
		}
		var wanted []string
		for k, v := range want {
			wanted = append(wanted, k+"="+v)
		}
		slices.SortFunc(wanted, func(a, b string) int {
			ka, _, _ := strings.Cut(a, "=")
			kb, _, _ := strings.Cut(b, "=")
			return strings.Compare(ka, kb)
		})
		got := walk(ctx, t, f, store.ListRequest{Scope: acmeOrders, KeyPrefix: prefix}, func() int {
			return rapid.IntRange(1, 5).Draw(t, "size")
		})
		if diff := cmp.Diff(wanted, got); diff != "" {
			t.Fatalf("entries (-want +got):\n%s", diff)
		}
	})
}

func TestListRefusals(t *testing.T) {
	f := on(t, memdriver.New())
	for i := range 3 {
		f.put(t, acme, fmt.Sprintf("param_config_%d", i), `1`)
	}
	first, err := f.List(t.Context(), store.ListRequest{Scope: acme, KeyPrefix: "param_config_", PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	token := first.NextPageToken
	for name, r := range map[string]store.ListRequest{
		"negative size":        {Scope: acme, KeyPrefix: "param_config_", PageSize: -1},
		"huge size":            {Scope: acme, KeyPrefix: "param_config_", PageSize: 1 << 31},
		"no prefix":            {Scope: acme},
		"unknown prefix":       {Scope: acme, KeyPrefix: "x_"},
		"path in the prefix":   {Scope: acme, KeyPrefix: "param_config_../"},
		"token of nobody":      {Scope: acme, KeyPrefix: "param_config_", PageToken: "AAAA"},
		"token not base64":     {Scope: acme, KeyPrefix: "param_config_", PageToken: "!"},
		"token cut short":      {Scope: acme, KeyPrefix: "param_config_", PageToken: token[:len(token)-2]},
		"token, other tenant":  {Scope: globex, KeyPrefix: "param_config_", PageToken: token},
		"token, other service": {Scope: acmeOrders, KeyPrefix: "param_config_", PageToken: token},
		"token, other prefix":  {Scope: acme, KeyPrefix: "param_config_1", PageToken: token},
	} {
		if _, err := f.List(t.Context(), r); config.CodeOf(err) != config.InvalidArgument || err == nil {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
}

// A token that was sealed before the route's layers changed is refused, not
// misread.
func TestListTokenOfOtherLayers(t *testing.T) {
	b := memdriver.New()
	f := on(t, b)
	f.put(t, acme, "param_config_a", `1`)
	f.put(t, acme, "param_config_b", `1`)
	r := store.ListRequest{Scope: acme, KeyPrefix: "param_config_", PageSize: 1}
	a, err := f.List(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	table, err := router.NewTable([]router.Route{{Prefix: "param_config_", BackendName: "params", Backend: b}})
	if err != nil {
		t.Fatal(err)
	}
	f.routes.Swap(table)
	r.PageToken = a.NextPageToken
	_, err = f.List(t.Context(), r)
	wantCode(t, err, config.InvalidArgument)
}

// Replicas with the same key read each other's tokens.
func TestSharedTokenKey(t *testing.T) {
	b := memdriver.New()
	route := router.Route{Prefix: "param_config_", BackendName: "params", Backend: b}
	secret := driver.NewTokenKey()
	one, two := newStore(t, store.Options{TokenKey: secret}, route), newStore(t, store.Options{TokenKey: secret}, route)
	one.put(t, acme, "param_config_a", `1`)
	one.put(t, acme, "param_config_b", `2`)
	r := store.ListRequest{Scope: acme, KeyPrefix: "param_config_", PageSize: 1}
	a, err := one.List(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	r.PageToken = a.NextPageToken
	if a, err = two.List(t.Context(), r); err != nil || len(a.Entries) != 1 || a.Entries[0].ID.Key != key("param_config_b") {
		t.Errorf("List = %+v, %v", a, err)
	}
}

func TestListBoundsBytes(t *testing.T) {
	f := newStore(t, store.Options{}, router.Route{Prefix: "p_", BackendName: "mem", Backend: memdriver.New(), Layers: threeLayers})
	big := strconv.Quote(strings.Repeat("x", 900<<10))
	for i := range 5 {
		f.put(t, acme, fmt.Sprintf("p_%d", i), big)
		f.put(t, acmeOrders, fmt.Sprintf("p_x%d", i), big)
	}
	a, err := f.List(t.Context(), store.ListRequest{Scope: acmeOrders, KeyPrefix: "p_"})
	if err != nil || len(a.Entries) != 2 || a.NextPageToken == "" {
		t.Errorf("%d entries, %v; want those that fit %d bytes", len(a.Entries), err, driver.MaxPageBytes)
	}
	if got := walk(t.Context(), t, f, store.ListRequest{Scope: acmeOrders, KeyPrefix: "p_"}, func() int { return 100 }); len(got) != 10 {
		t.Errorf("%d entries in all, want 10", len(got))
	}
}

// endless has no entries and always another page.
type endless struct {
	driver.Backend
	next  func(token string) string
	calls int
}

func (e *endless) List(_ context.Context, r driver.ListRequest) (driver.Page, error) {
	e.calls++
	return driver.Page{NextPageToken: e.next(r.PageToken)}, nil
}

// A backend whose pages do not end costs a List a bounded number of calls.
func TestEndlessPages(t *testing.T) {
	b := &endless{Backend: memdriver.New(), next: func(token string) string {
		n, _ := strconv.Atoi(token)
		return strconv.Itoa(n + 1)
	}}
	f := on(t, b)
	r := store.ListRequest{Scope: acme, KeyPrefix: "param_config_"}
	for i := 1; i <= 3; i++ {
		a, err := f.List(t.Context(), r)
		if err != nil || len(a.Entries) != 0 || a.NextPageToken == "" || b.calls != 64*i {
			t.Fatalf("List = %+v, %v after %d calls", a, err, b.calls)
		}
		r.PageToken = a.NextPageToken
	}
	b.next = func(string) string { return "again" }
	_, err := f.List(t.Context(), store.ListRequest{Scope: acme, KeyPrefix: "param_config_"})
	wantCode(t, err, config.Internal)
}
