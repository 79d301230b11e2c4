package router_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
)

func table(t testing.TB, prefixes ...string) *router.Table {
	t.Helper()
	backend := memdriver.New()
	var routes []router.Route
	for _, p := range prefixes {
		routes = append(routes, router.Route{Prefix: p, BackendName: p + "backend", Backend: backend})
	}
	made, err := router.NewTable(routes)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func key(t testing.TB, s string) config.Key {
	t.Helper()
	k, err := config.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestMatch(t *testing.T) {
	tab := table(t, "tenant_config_", "tenant_config_eu_", "param_config_", "a_")
	for _, c := range []struct{ key, prefix, name string }{
		{"tenant_config_payment", "tenant_config_", "payment"},
		{"tenant_config_eu_payment", "tenant_config_eu_", "payment"},
		{"tenant_config_eu", "tenant_config_", "eu"},
		{"tenant_config_eux_payment", "tenant_config_", "eux_payment"},
		{"param_config_api/v1/limit", "param_config_", "api/v1/limit"},
		{"a_a_", "a_", "a_"},
	} {
		r, name, err := tab.Match(key(t, c.key))
		if err != nil {
			t.Errorf("Match(%q): %v", c.key, err)
			continue
		}
		if r.Prefix != c.prefix || name != c.name {
			t.Errorf("Match(%q) = %q, %q, want %q, %q", c.key, r.Prefix, name, c.prefix, c.name)
		}
		if !tab.Owns(r, key(t, c.key)) {
			t.Errorf("the route of %q does not own it", c.key)
		}
	}
	for _, bad := range []string{
		"unknown_x", "tenant_config", "xtenant_config_a", "Tenant_config_a", // no route
		"tenant_config_", "tenant_config_eu_", // no name
		"param_config_..", "param_config_.", "param_config_./x", "param_config_../x", // no good name
	} {
		_, _, err := tab.Match(key(t, bad))
		if !errors.Is(err, config.InvalidArgument) {
			t.Errorf("Match(%q): %v, want InvalidArgument", bad, err)
		}
	}
	_, _, err := tab.Match(key(t, "unknown_x"))
	if want := "the prefixes are a_, param_config_, tenant_config_, tenant_config_eu_"; !strings.Contains(err.Error(), want) {
		t.Errorf("%v does not say %q", err, want)
	}
}

func TestMatchPrefix(t *testing.T) {
	tab := table(t, "tenant_config_", "tenant_config_eu_", "param_config_")
	for prefix, want := range map[string]string{
		"tenant_config_":        "tenant_config_",
		"tenant_config_e":       "tenant_config_", // some of its keys are the longer route's
		"tenant_config_eu":      "tenant_config_",
		"tenant_config_eu_":     "tenant_config_eu_",
		"tenant_config_eu_a":    "tenant_config_eu_",
		"param_config_api/":     "param_config_",
		"param_config_api/v1/l": "param_config_",
	} {
		r, err := tab.MatchPrefix(prefix)
		if err != nil || r.Prefix != want {
			t.Errorf("MatchPrefix(%q) = %v, %v, want %q", prefix, r, err, want)
		}
	}
	for _, bad := range []string{
		"", "t", "tenant_", "tenant_config", "x_", // no single route
		"param_config_/", "param_config_/a", "param_config_a//", "param_config_../", "param_config_a/\x00", "param_config_*", // no start of a key
	} {
		if _, err := tab.MatchPrefix(bad); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("MatchPrefix(%q): %v, want InvalidArgument", bad, err)
		}
	}
}

func TestNewTableSaysEverything(t *testing.T) {
	b := memdriver.New()
	_, err := router.NewTable([]router.Route{
		{Prefix: "a", Backend: b},
		{Prefix: "b_"},
		{Prefix: "c_", Backend: b, Layers: []manifest.Layer{}},
		{Prefix: "d_", Backend: b, Layers: []manifest.Layer{manifest.LayerTenant, manifest.LayerService}},
		{Prefix: "e_", Backend: b, Layers: []manifest.Layer{manifest.LayerTenant, manifest.LayerTenant}},
		{Prefix: "f_", Backend: b, Layers: []manifest.Layer{7}},
		{Prefix: "g_", Backend: b, MaxValue: -1},
		{Prefix: "h_", Backend: b, MaxValue: manifest.MaxMaxValue + 1},
		{Prefix: "i_", Backend: b},
		{Prefix: "i_", Backend: b},
	})
	if !errors.Is(err, config.InvalidArgument) {
		t.Fatal(err)
	}
	for _, want := range []string{
		`bad prefix "a"`, `"b_" has no backend`, `"c_" has no layers`, `"d_" does not have its layers`, `"e_" does not have its layers`,
		`"f_" has an unknown layer`, `"g_" allows values of -1 bytes`, `"h_" allows`, `"i_" has two routes`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not reported: %s", want)
		}
	}
	if _, err := router.NewTable(nil); !errors.Is(err, config.InvalidArgument) {
		t.Errorf("a table without routes: %v", err)
	}
}

func TestFromManifest(t *testing.T) {
	m, err := manifest.Parse([]byte(`version: 1
backends: { one: { plugin: a }, two: { plugin: b } }
routes:
  - { prefix: two_, backend: two, max_value: 7, layers: ["{tenant}"] }
  - { prefix: one_, backend: one }
`), "m.yaml")
	if err != nil {
		t.Fatal(err)
	}
	backends := map[string]driver.Backend{"one": memdriver.New(), "two": memdriver.New()}
	tab, err := router.FromManifest(m, func(r manifest.Route) (driver.Backend, bool) { b, ok := backends[r.Backend]; return b, ok })
	if err != nil {
		t.Fatal(err)
	}
	routes := tab.Routes()
	if len(routes) != 2 || routes[0].Prefix != "one_" || routes[1].Backend != backends["two"] || routes[1].MaxValue != 7 ||
		len(routes[1].Layers) != 1 || routes[0].MaxValue != manifest.DefaultMaxValue {
		t.Errorf("routes are %+v, %+v", routes[0], routes[1])
	}
	delete(backends, "two")
	if _, err := router.FromManifest(m, func(r manifest.Route) (driver.Backend, bool) { b, ok := backends[r.Backend]; return b, ok }); err == nil {
		t.Error("a route to a backend that is not there was accepted")
	}
}

// The longest prefix wins, whatever the routes are and in whatever order.
func TestLongestPrefixWins(t *testing.T) {
	b := memdriver.New()
	rapid.Check(t, func(t *rapid.T) {
		prefixes := rapid.SliceOfNDistinct(rapid.StringMatching(`[ab](_[ab]){0,3}_`), 1, 8, rapid.ID[string]).Draw(t, "prefixes")
		var routes []router.Route
		for _, p := range prefixes {
			routes = append(routes, router.Route{Prefix: p, Backend: b})
		}
		tab, err := router.NewTable(routes)
		if err != nil {
			t.Fatal(err)
		}
		text := rapid.StringMatching(`[ab](_[ab]){0,5}_?[ab]?`).Draw(t, "key")
		want := ""
		for _, p := range prefixes {
			if strings.HasPrefix(text, p) && len(p) > len(want) {
				want = p
			}
		}
		k, err := config.ParseKey(text)
		if err != nil {
			t.Fatal(err)
		}
		r, name, err := tab.Match(k)
		switch {
		case want == "" || want == text:
			if err == nil {
				t.Fatalf("%q was routed to %q", text, r.Prefix)
			}
		case err != nil:
			t.Fatal(err)
		case r.Prefix != want || r.Prefix+name != text:
			t.Fatalf("%q was routed to %q + %q, want %q", text, r.Prefix, name, want)
		}
	})
}

// Tables are swapped under readers, each of whom sees one whole table.
func TestSwapWhileReading(t *testing.T) {
	tables := []*router.Table{table(t, "a_", "a_b_"), table(t, "a_")}
	wants := map[*router.Table]string{tables[0]: "a_b_", tables[1]: "a_"}
	r := router.New(tables[0])
	k := key(t, "a_b_c")
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 2000 {
				now := r.Load()
				route, _, err := now.Match(k)
				if err != nil || route.Prefix != wants[now] {
					t.Errorf("Match = %v, %v, want %q", route, err, wants[now])
					return
				}
			}
		})
	}
	for i := range 2000 {
		if was := r.Swap(tables[(i+1)%2]); was != tables[i%2] {
			t.Fatal("Swap returned another table than the one in use")
		}
	}
	readers.Wait()
}

// What the caller does with its routes afterwards changes no table.
func TestTableIsACopy(t *testing.T) {
	layers := []manifest.Layer{manifest.LayerTenant}
	routes := []router.Route{{Prefix: "a_", Backend: memdriver.New(), Layers: layers}}
	tab, err := router.NewTable(routes)
	if err != nil {
		t.Fatal(err)
	}
	layers[0], routes[0].Prefix = manifest.LayerShared, "b_"
	if r, _, err := tab.Match(key(t, "a_x")); err != nil || r.Layers[0] != manifest.LayerTenant {
		t.Errorf("Match = %v, %v", r, err)
	}
}
