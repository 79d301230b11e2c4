// Package router decides which backend answers for a key: the one whose
// route's prefix the key starts with, the longest if there are several.
//
// A Table never changes. A Router holds the one that is in use; swapping it
// neither waits for those who read nor makes them wait.
package router

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
)

// Route is one prefix with everything that is asked of its keys.
type Route struct {
	Prefix string // as manifest.CheckPrefix accepts
	// BackendName names Backend: routes of the same name have the same one.
	BackendName string
	Backend     driver.Backend
	// Layers are most specific first; nil means manifest.DefaultLayers.
	Layers []manifest.Layer
	// Schema is nil, or what the values must meet.
	Schema *jsonschema.Schema
	// MaxValue is the largest value in bytes; 0 means
	// manifest.DefaultMaxValue.
	MaxValue int
}

// Table is an immutable set of routes, safe for concurrent use. The routes
// that it returns belong to it and must not be changed.
type Table struct {
	longestFirst []*Route
	byPrefix     []*Route
}

// NewTable checks and copies the routes. The error has code InvalidArgument
// and names everything that is wrong.
func NewTable(routes []Route) (*Table, error) {
	var t Table
	var wrong []string
	seen := map[string]bool{}
	for _, r := range routes {
		if err := check(&r); err != nil {
			wrong = append(wrong, err.Error())
		}
		if seen[r.Prefix] {
			wrong = append(wrong, fmt.Sprintf("prefix %q has two routes", r.Prefix))
		}
		seen[r.Prefix] = true
		r.Layers = slices.Clone(r.Layers)
		t.byPrefix = append(t.byPrefix, &r)
	}
	if len(routes) == 0 {
		wrong = append(wrong, "there are no routes")
	}
	if len(wrong) > 0 {
		return nil, &config.Error{
			Op: "router.NewTable", Code: config.InvalidArgument, Message: strings.Join(wrong, "\n"), Hint: "mend the manifest",
		}
	}
	slices.SortFunc(t.byPrefix, func(a, b *Route) int { return cmp.Compare(a.Prefix, b.Prefix) })
	t.longestFirst = slices.Clone(t.byPrefix)
	slices.SortStableFunc(t.longestFirst, func(a, b *Route) int { return cmp.Compare(len(b.Prefix), len(a.Prefix)) })
	return &t, nil
}

// check fills in the defaults of a route and says what is wrong with it.
func check(r *Route) error {
	if err := manifest.CheckPrefix(r.Prefix); err != nil {
		return err
	}
	if r.Layers == nil {
		r.Layers = manifest.DefaultLayers()
	}
	if r.MaxValue == 0 {
		r.MaxValue = manifest.DefaultMaxValue
	}
	switch {
	case r.Backend == nil:
		return fmt.Errorf("prefix %q has no backend", r.Prefix)
	case r.MaxValue < 0 || r.MaxValue > manifest.MaxMaxValue:
		return fmt.Errorf("prefix %q allows values of %d bytes, the limits are 1 and %d", r.Prefix, r.MaxValue, manifest.MaxMaxValue)
	case len(r.Layers) == 0:
		return fmt.Errorf("prefix %q has no layers", r.Prefix)
	}
	for i, l := range r.Layers {
		if l < manifest.LayerService || l > manifest.LayerShared {
			return fmt.Errorf("prefix %q has an unknown layer", r.Prefix)
		}
		if i > 0 && l <= r.Layers[i-1] {
			return fmt.Errorf("prefix %q does not have its layers once each, most specific first", r.Prefix)
		}
	}
	return nil
}

// FromManifest builds the table of m, asking backend for what answers each
// route, which knows the backend's name and how it asks to be cached.
func FromManifest(m *manifest.Manifest, backend func(manifest.Route) (driver.Backend, bool)) (*Table, error) {
	routes := make([]Route, 0, len(m.Routes))
	for _, r := range m.Routes {
		b, ok := backend(r)
		if !ok {
			b = nil // NewTable names it
		}
		routes = append(routes, Route{
			Prefix: r.Prefix, BackendName: r.Backend, Backend: b, Layers: r.Layers, Schema: r.Schema, MaxValue: r.MaxValue,
		})
	}
	return NewTable(routes)
}

// Match returns the route of a key and the name behind its prefix. A key
// without a route, or with a name that config.CheckName refuses, is
// InvalidArgument.
func (t *Table) Match(k config.Key) (*Route, string, error) {
	const op = "router.Match"
	r := t.find(k.String())
	if r == nil {
		return nil, "", config.AsError(t.unknown("the key starts with no prefix that is known here"), op, k)
	}
	name := k.String()[len(r.Prefix):]
	// The key is one, so all of its segments are sound but for the first one
	// behind the prefix, which was a part of another.
	if name == "" || name[0] == '/' || name[0] == '.' {
		if err := config.CheckName(name); err != nil {
			return nil, "", config.AsError(err, op, k)
		}
	}
	return r, name, nil
}

// MatchPrefix returns the one route that keys starting with p are looked for
// in: p must start with a route's prefix. Routes can overlap, so keys that
// start with p may belong to another, longer route: listing "tenant_config_"
// must leave out the keys of "tenant_config_eu_", which Owns tells apart. What
// selects no route, or can not begin a valid key, is InvalidArgument.
func (t *Table) MatchPrefix(p string) (*Route, error) {
	const op = "router.MatchPrefix"
	if _, err := config.ParseKeyPrefix(p); err != nil {
		return nil, config.AsError(err, op, config.Key{})
	}
	r := t.find(p)
	if r == nil {
		return nil, config.AsError(t.unknown("the key prefix does not select a single route"), op, config.Key{})
	}
	if _, err := config.ParseKeyPrefix(p[len(r.Prefix):]); err != nil {
		return nil, config.AsError(err, op, config.Key{})
	}
	return r, nil
}

// Owns reports whether r is the route of k.
func (t *Table) Owns(r *Route, k config.Key) bool { return t.find(k.String()) == r }

// Routes returns all routes by prefix.
func (t *Table) Routes() []*Route { return slices.Clone(t.byPrefix) }

func (t *Table) find(text string) *Route {
	for _, r := range t.longestFirst {
		if strings.HasPrefix(text, r.Prefix) {
			return r
		}
	}
	return nil
}

func (t *Table) unknown(what string) *config.Error {
	prefixes := make([]string, len(t.byPrefix))
	for i, r := range t.byPrefix {
		prefixes[i] = r.Prefix
	}
	return config.Errorf(config.InvalidArgument, "%s", what).WithHint("the prefixes are %s", strings.Join(prefixes, ", "))
}

// Router holds the table in use. It is safe for concurrent use; a call that
// has loaded a table goes on with it whatever is swapped in meanwhile.
type Router struct {
	table atomic.Pointer[Table]

	mu      sync.Mutex
	changed chan struct{} // closed when another table comes
}

// New returns a Router that uses t.
func New(t *Table) *Router {
	r := &Router{changed: make(chan struct{})}
	r.table.Store(t)
	return r
}

// Load returns the table in use.
func (r *Router) Load() *Table { return r.table.Load() }

// LoadAndWatch returns the table in use, and a channel that is closed when it is
// not any more: for those who go on for long.
func (r *Router) LoadAndWatch() (t *Table, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.Load(), r.changed
}

// Swap puts t into use and returns the table that was. Calls that began before
// may still be using that one and its backends.
func (r *Router) Swap(t *Table) *Table {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.table.Swap(t)
	close(r.changed)
	r.changed = make(chan struct{})
	return old
}
