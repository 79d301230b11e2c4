// Package storemap tells from a manifest which key a thing in an AWS store is
// the value of: a parameter, a secret, an object or an item. It is for those
// who learn of a change from the store's side and have the thing's name alone.
//
// The names are read by package keypath from the same options (path, env,
// key_prefix, no_service, bucket, table) as the plugins themselves read, so that
// both always mean the same. The plugins' files need not be there: which store a
// backend is, is told by the name of its plugin, tagstore-plugin-ssm,
// tagstore-plugin-secretsmanager, tagstore-plugin-s3 or tagstore-plugin-dynamodb.
package storemap

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/keypath"
	"github.com/tagstore/tagstore/core/manifest"
)

// Kind is what a store is made of.
type Kind int

// The kinds of stores.
const (
	Parameters Kind = iota + 1 // Systems Manager Parameter Store
	Secrets                    // Secrets Manager
	Objects                    // S3
	Items                      // DynamoDB
)

// String returns what one thing of the store is called.
func (k Kind) String() string {
	switch k {
	case Parameters:
		return "parameter"
	case Secrets:
		return "secret"
	case Objects:
		return "object"
	case Items:
		return "item"
	default:
		return "unknown"
	}
}

// kinds are the stores by the names of their plugins.
var kinds = map[string]Kind{
	"tagstore-plugin-ssm":            Parameters,
	"tagstore-plugin-secretsmanager": Secrets,
	"tagstore-plugin-s3":             Objects,
	"tagstore-plugin-dynamodb":       Items,
}

// Store is one backend of a manifest.
type Store struct {
	Backend string
	Kind    Kind
	// Container is the bucket of Objects and the table of Items.
	Container string
	// Paths maps names of all kinds but Items, which Items maps.
	Paths *keypath.Template
	Items keypath.Items
}

// Root returns the folder that holds the things of all tenants: what the names
// of all of them begin with, and perhaps other names. It is "" for Items.
func (s Store) Root() string {
	if s.Paths == nil {
		return ""
	}
	shared := config.Shared()
	return strings.TrimSuffix(s.Paths.TenantRoot(shared), shared.String()+"/")
}

// Map knows the names of one manifest. It does not change and may be used by
// any number of goroutines.
type Map struct {
	stores []Store
	others []string
	routes []manifest.Route
}

// New returns the map of a manifest, whose files are not touched. The error has
// code InvalidArgument and names everything that is wrong with the options.
func New(m *manifest.Manifest) (*Map, error) {
	var wrong []string
	all := &Map{routes: m.Routes}
	for _, b := range m.Backends {
		kind, known := kinds[filepath.Base(b.Plugin)]
		if !known {
			all.others = append(all.others, b.Name)
			continue
		}
		store, err := newStore(b, kind)
		if err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		all.stores = append(all.stores, store)
	}
	if len(wrong) > 0 {
		return nil, &config.Error{
			Op: "storemap.New", Code: config.InvalidArgument, Message: strings.Join(wrong, "; "),
			Hint: "the service's plugins refuse these options too: correct the manifest",
		}
	}
	return all, nil
}

// options are those by which the plugins name things. What else stands there is
// the plugins' own.
type options struct {
	Path      string  `json:"path"`
	Env       string  `json:"env"`
	KeyPrefix string  `json:"key_prefix"`
	NoService *string `json:"no_service"`
	Bucket    string  `json:"bucket"`
	Table     string  `json:"table"`
}

func newStore(b manifest.Backend, kind Kind) (Store, error) {
	s := Store{Backend: b.Name, Kind: kind}
	var o options
	if err := json.Unmarshal(b.Options, &o); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return Store{}, fmt.Errorf("backend %s: the option %s is a %s, want text", b.Name, wrong.Field, wrong.Value)
		}
		return Store{}, fmt.Errorf("backend %s: the options are not a JSON object", b.Name)
	}
	layout := keypath.Options{Template: o.Path, Env: o.Env, KeyPrefix: o.KeyPrefix}
	if o.NoService != nil {
		layout.NoService = *o.NoService
	}
	switch kind {
	case Items:
		if _, err := config.ParseKeyPrefix(o.KeyPrefix); err != nil || o.Table == "" {
			return Store{}, fmt.Errorf("backend %s: the options table and key_prefix do not name a table and the beginning of a key", b.Name)
		}
		s.Container, s.Items = o.Table, keypath.Items{KeyPrefix: o.KeyPrefix}
		return s, nil
	case Objects:
		if o.Bucket == "" {
			return Store{}, fmt.Errorf("backend %s: the option bucket is missing", b.Name)
		}
		s.Container, layout = o.Bucket, keypath.Objects(layout, o.NoService)
	case Secrets:
		layout = keypath.Secrets(layout)
	case Parameters:
		layout = keypath.Parameters(layout)
	}
	var err error
	if s.Paths, err = keypath.Parse(layout); err != nil {
		return Store{}, fmt.Errorf("backend %s: the option path: %w", b.Name, err)
	}
	return s, nil
}

// Stores returns the backends whose names are known, in the order of the
// manifest.
func (m *Map) Stores() []Store { return m.stores }

// Others returns the names of the backends that are something else, of whose
// things nothing is known.
func (m *Map) Others() []string { return m.others }

// Parameter returns the ID of the value that the parameter of this name holds.
// There is more than one where several backends read the same parameter by
// different keys. The error has code NotFound, names the parameter and says why
// it is nobody's.
func (m *Map) Parameter(name string) ([]config.ID, error) {
	return m.find(Parameters, "", name, func(s Store) (config.ID, bool) { return s.Paths.ID(name) })
}

// Secret is Parameter for the name of a secret.
func (m *Map) Secret(name string) ([]config.ID, error) {
	return m.find(Secrets, "", name, func(s Store) (config.ID, bool) { return s.Paths.ID(name) })
}

// Object is Parameter for a bucket and an object's key in it.
func (m *Map) Object(bucket, key string) ([]config.ID, error) {
	return m.find(Objects, bucket, key, func(s Store) (config.ID, bool) { return s.Paths.ID(key) })
}

// Item is Parameter for a table and the keys of an item in it. Items that are no
// current value (see keypath.KindOf) are nobody's.
func (m *Map) Item(table, pk, sk string) ([]config.ID, error) {
	return m.find(Items, table, pk+" "+sk, func(s Store) (config.ID, bool) { return s.Items.ID(pk, sk) })
}

// HasTable reports whether a backend keeps its values in this table.
func (m *Map) HasTable(table string) bool {
	for _, s := range m.stores {
		if s.Kind == Items && s.Container == table {
			return true
		}
	}
	return false
}

func (m *Map) find(kind Kind, container, name string, read func(Store) (config.ID, bool)) ([]config.ID, error) {
	var ids []config.ID
	there, unrouted := false, false
	for _, s := range m.stores {
		if s.Kind != kind || s.Container != container {
			continue
		}
		there = true
		id, ok := read(s)
		switch {
		case !ok:
		case m.serves(id, s.Backend):
			ids = append(ids, id)
		default:
			unrouted = true
		}
	}
	if len(ids) > 0 {
		return ids, nil
	}
	foreign := func(format string, args ...any) error {
		return &config.Error{Op: "storemap", Code: config.NotFound, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case !there && container != "":
		return nil, foreign("no backend of the manifest keeps an %s in %s", kind, Quote(container))
	case !there:
		return nil, foreign("no backend of the manifest keeps a %s", kind)
	case unrouted:
		return nil, foreign("the %s %s would be a value, but no route leads there, or it has no such layer", kind, Quote(name))
	default:
		return nil, foreign("the %s %s is outside of what the backends' path and key_prefix can name", kind, Quote(name))
	}
}

// serves reports whether the longest matching prefix leads to this backend, and
// has the layer that the ID is in: what no layer reads, nobody has.
func (m *Map) serves(id config.ID, backend string) bool {
	var best manifest.Route
	for _, r := range m.routes {
		if strings.HasPrefix(id.Key.String(), r.Prefix) && len(r.Prefix) > len(best.Prefix) {
			best = r
		}
	}
	layer := manifest.LayerTenant
	switch {
	case id.Tenant.IsShared() && !id.Service.IsZero():
		return false // the shared layer has no services
	case id.Tenant.IsShared():
		layer = manifest.LayerShared
	case !id.Service.IsZero():
		layer = manifest.LayerService
	}
	return best.Backend == backend && slices.Contains(best.Layers, layer)
}

// maxQuoted is how much of a name is shown.
const maxQuoted = 200

// Quote returns a name from outside as text that can be shown: in quotes, with
// escapes, and cut where it is long.
func Quote(name string) string {
	if len(name) > maxQuoted {
		return strconv.Quote(name[:maxQuoted]) + fmt.Sprintf("… (%d bytes)", len(name))
	}
	return strconv.Quote(name)
}
