package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/internal/nearest"
)

var (
	backendName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	prefixName  = regexp.MustCompile(`^[a-z0-9][a-z0-9_]*_$`)
	envName     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	sha256Hex   = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
	byteSize    = regexp.MustCompile(`^([0-9]{1,9})(B|KiB|MiB)?$`)
	yamlError   = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(.*)$`)
)

// CheckPrefix checks the prefix of a route: 2 to MaxPrefix bytes of a-z, 0-9
// and '_' that start with a letter or digit and end with '_', so that it is
// told apart from the name behind it, and so that prefix and name together are
// always a valid start of a key. The error has code InvalidArgument.
func CheckPrefix(s string) error {
	if len(s) > MaxPrefix || !prefixName.MatchString(s) {
		return config.Errorf(config.InvalidArgument, "bad prefix %s", quote(s)).
			WithHint("use 2 to %d of a-z, 0-9 and '_' that end with '_', such as tenant_config_", MaxPrefix)
	}
	return nil
}

// document is a manifest with the lines that the problems of its files are
// reported on.
type document struct {
	Manifest
	backendLines []backendLines // of each of Backends
	schemaLines  []int          // of each of Routes
}

type backendLines struct {
	name, plugin, sha256 int
	badSHA256            bool // or no backend at all: reported already
}

// parse reads as much as can be read, beside everything that is wrong with it.
func parse(data []byte, path, dir string) (*document, *problems) {
	d := &document{Manifest: Manifest{Path: path, Dir: dir}}
	r := &reader{problems: problems{path: path}}
	if root := r.root(data); root != nil {
		r.forbid(root)
		r.manifest(root, d)
	}
	return d, &r.problems
}

// root returns the top node of the only document in data.
func (r *reader) root(data []byte) *yaml.Node {
	if len(data) > MaxFile {
		r.add(0, "split it, or move large options into files of the plugin's own", "the manifest has more than 1 MiB")
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		r.add(1, "begin with version: 1", "the manifest is empty")
		return nil
	case err != nil:
		r.syntax(err)
		return nil
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		r.add(second.Line, "keep one, and remove the --- line", "the file holds more than one YAML document")
		return nil
	case !errors.Is(err, io.EOF):
		r.syntax(err)
		return nil
	}
	return doc.Content[0]
}

func (r *reader) syntax(err error) {
	line, text := 1, err.Error()
	if m := yamlError.FindStringSubmatch(text); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
		text = m[2]
	}
	r.add(line, "mend the YAML here or just above", "this is not YAML: %s", text)
}

func (r *reader) manifest(n *yaml.Node, d *document) {
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		r.add(n.Line, "begin with version: 1", "the manifest is empty")
		return
	}
	declared := map[string]int{} // line of each backend, by name
	var wanted []reference
	allRead := false // so that no backend is called unused for a bad route
	r.mapping(n, "the manifest", fields{
		"version":  r.version,
		"backends": func(n *yaml.Node) { r.backends(n, d, declared) },
		"routes":   func(n *yaml.Node) { wanted, allRead = r.routes(n, d) },
	}, "version", "backends", "routes")

	names := make([]string, 0, len(d.Backends))
	for _, b := range d.Backends {
		names = append(names, b.Name)
	}
	used := map[string]bool{}
	for _, w := range wanted {
		used[w.name] = true
		if _, ok := declared[w.name]; !ok {
			mend := "add it under backends"
			if near := nearest.Of(w.name, names); near != "" {
				mend = "did you mean " + strconv.Quote(near) + "?"
			}
			r.add(w.line, mend, "unknown backend %s", quote(w.name))
		}
	}
	for _, name := range names {
		if allRead && !used[name] {
			r.add(declared[name], "add a route to it, or remove it", "no route uses backend %s", quote(name))
		}
	}
}

func (r *reader) version(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" && n.Value == "1" {
		return
	}
	if n.Kind != yaml.AliasNode {
		r.add(n.Line, "write version: 1", "this version of the format is not known")
	}
}

func (r *reader) backends(n *yaml.Node, d *document, declared map[string]int) {
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		r.add(n.Line, "name at least one", "there are no backends")
		return
	}
	r.entries(n, "backends", func(key, value *yaml.Node) {
		// A bad name is still a name: its routes must not be reported as well.
		declared[key.Value] = key.Line
		if !backendName.MatchString(key.Value) {
			r.add(key.Line, "use 1 to 63 of a-z, 0-9, '_' and '-' that start with a letter", "bad backend name %s", quote(key.Value))
		}
		b, at := r.backend(key, value, d.Dir)
		d.Backends = append(d.Backends, b)
		d.backendLines = append(d.backendLines, at)
	})
}

func (r *reader) backend(key, n *yaml.Node, dir string) (Backend, backendLines) {
	b := Backend{Name: key.Value, Options: json.RawMessage("{}")}
	at := backendLines{name: key.Line, badSHA256: n.Kind != yaml.MappingNode}
	r.mapping(n, "backend "+quote(b.Name), fields{
		"plugin": func(n *yaml.Node) {
			at.plugin = n.Line
			b.Plugin = r.path(n, "plugin", dir)
		},
		"args": func(n *yaml.Node) { b.Args = r.texts(n, "args") },
		"sha256": func(n *yaml.Node) {
			at.sha256 = n.Line
			sum, ok := r.literal(n, "sha256")
			if ok && sha256Hex.MatchString(sum) {
				b.SHA256 = strings.ToLower(sum)
				return
			}
			at.badSHA256 = true
			if ok {
				r.add(n.Line, "write the 64 hex digits that sha256sum prints", "bad sha256 %s", quote(sum))
			}
		},
		"env":          func(n *yaml.Node) { b.Env = r.env(n) },
		"options":      func(n *yaml.Node) { b.Options = r.options(n) },
		"call_timeout": func(n *yaml.Node) { b.CallTimeout = r.duration(n, "call_timeout", time.Millisecond, MaxCallTimeout) },
	}, "plugin")
	return b, at
}

// path accepts a relative path that stays below the manifest's folder as it is
// written; where its links lead is not looked at here.
func (r *reader) path(n *yaml.Node, what, dir string) string {
	p, ok := r.text(n, what)
	switch {
	case !ok:
		return ""
	case p == "":
		r.add(n.Line, "name a file", "%s is empty", what)
		return ""
	case filepath.IsAbs(p):
		r.add(n.Line, "make it relative to the manifest, and keep the file in its folder", "%s is the absolute path %s", what, quote(p))
		return ""
	case !filepath.IsLocal(p):
		r.add(n.Line, "keep the file in the manifest's folder", "%s leaves the manifest's folder: %s", what, quote(p))
		return ""
	}
	return filepath.Join(dir, p)
}

func (r *reader) env(n *yaml.Node) []string {
	names := r.texts(n, "env")
	seen := map[string]bool{}
	for i, name := range names {
		line := n.Content[i].Line
		switch {
		case !envName.MatchString(name):
			r.add(line, "list names only, such as AWS_REGION; their values come from the host", "bad environment variable name %s", quote(name))
		case seen[name]:
			r.add(line, "list it once", "duplicate environment variable %s", quote(name))
		}
		seen[name] = true
	}
	return names
}

func (r *reader) options(n *yaml.Node) json.RawMessage {
	if n.Kind != yaml.MappingNode {
		r.wrongKind(n, "options", "a mapping")
		return nil
	}
	var out bytes.Buffer
	r.json(n, &out, 1)
	return out.Bytes()
}

// reference is a backend that a route names.
type reference struct {
	name string
	line int
}

func (r *reader) routes(n *yaml.Node, d *document) (wanted []reference, allRead bool) {
	if n.Kind != yaml.SequenceNode {
		r.wrongKind(n, "routes", "a list")
		return nil, false
	}
	if len(n.Content) == 0 {
		r.add(n.Line, "add at least one", "there are no routes")
	}
	allRead = true
	prefixes := map[string]int{}
	for _, item := range n.Content {
		route, backend, prefix, schema := r.route(item, d.Dir)
		if backend != nil {
			wanted = append(wanted, reference{route.Backend, backend.Line})
		} else {
			allRead = false
		}
		if prefix != nil {
			if first, ok := prefixes[route.Prefix]; ok {
				r.add(prefix.Line, "give each prefix one route", "duplicate prefix %s, first on line %d", quote(route.Prefix), first)
			} else {
				prefixes[route.Prefix] = prefix.Line
			}
		}
		d.Routes = append(d.Routes, route)
		d.schemaLines = append(d.schemaLines, schema)
	}
	return wanted, allRead
}

// route also returns the nodes of the backend and the prefix, nil where they
// can not be read, and the line of the schema.
func (r *reader) route(n *yaml.Node, dir string) (route Route, backend, prefix *yaml.Node, schema int) {
	route = Route{Layers: DefaultLayers(), MaxValue: DefaultMaxValue}
	r.mapping(n, "a route", fields{
		"prefix": func(n *yaml.Node) {
			text, ok := r.text(n, "prefix")
			if !ok {
				return
			}
			if err := CheckPrefix(text); err != nil {
				var e *config.Error
				errors.As(err, &e)
				r.add(n.Line, e.Hint, "%s", e.Message)
				return
			}
			route.Prefix, prefix = text, n
		},
		"backend": func(n *yaml.Node) {
			if text, ok := r.text(n, "backend"); ok {
				route.Backend, backend = text, n
			}
		},
		"layers": func(n *yaml.Node) { route.Layers = r.layers(n) },
		"schema": func(n *yaml.Node) {
			schema = n.Line
			route.SchemaPath = r.path(n, "schema", dir)
		},
		"max_value": func(n *yaml.Node) { route.MaxValue = r.size(n) },
		"cache":     func(n *yaml.Node) { route.Cache = r.cache(n) },
	}, "prefix", "backend")
	return route, backend, prefix, schema
}

func (r *reader) layers(n *yaml.Node) []Layer {
	const known = `use "{tenant}/{service}", "{tenant}" and "shared"`
	names := r.texts(n, "layers")
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		r.add(n.Line, `leave it out for ["{tenant}/{service}", "{tenant}"]`, "layers is empty")
	}
	var layers []Layer
	for i, name := range names {
		line := n.Content[i].Line
		layer := layerNamed(name)
		switch {
		case layer == 0:
			r.add(line, known, "unknown layer %s", quote(name))
			continue
		case contains(layers, layer):
			r.add(line, "list it once", "duplicate layer %s", quote(name))
			continue
		case len(layers) > 0 && layer < layers[len(layers)-1]:
			r.add(line, "list the most specific first: service, tenant, shared", "layer %s stands behind a less specific one", quote(name))
		}
		layers = append(layers, layer)
	}
	return layers
}

func contains(layers []Layer, l Layer) bool {
	for _, have := range layers {
		if have == l {
			return true
		}
	}
	return false
}

func layerNamed(name string) Layer {
	for _, l := range []Layer{LayerService, LayerTenant, LayerShared} {
		if l.String() == name {
			return l
		}
	}
	return 0
}

// size reads a number of bytes, with or without a unit.
func (r *reader) size(n *yaml.Node) int {
	const mend = "write bytes such as 65536, or 512KiB, or 1MiB; at most 8MiB"
	text, ok := r.literal(n, "max_value")
	if !ok {
		return 0
	}
	m := byteSize.FindStringSubmatch(text)
	if m == nil {
		r.add(n.Line, mend, "bad max_value %s", quote(text))
		return 0
	}
	size, err := strconv.Atoi(m[1]) // at most nine digits
	switch m[2] {
	case "KiB":
		size <<= 10
	case "MiB":
		size <<= 20
	}
	if err != nil || size < 1 || size > MaxMaxValue {
		r.add(n.Line, mend, "max_value %s is not between 1 byte and 8MiB", quote(text))
		return 0
	}
	return size
}

func (r *reader) cache(n *yaml.Node) Cache {
	const longest = 7 * 24 * time.Hour
	var c Cache
	var staleness, ifError, negative *yaml.Node
	known := false // and so worth holding the rest against
	r.mapping(n, "cache", fields{
		"mode": func(n *yaml.Node) {
			text, ok := r.text(n, "mode")
			if !ok {
				return
			}
			for _, m := range []CacheMode{CacheNone, CacheTTL, CacheEvent} {
				if m.String() == text {
					c.Mode, known = m, true
					return
				}
			}
			r.add(n.Line, "use none, ttl or event", "unknown cache mode %s", quote(text))
		},
		"max_staleness": func(n *yaml.Node) {
			staleness, c.MaxStaleness = n, r.duration(n, "max_staleness", time.Millisecond, longest)
		},
		"stale_if_error": func(n *yaml.Node) {
			ifError, c.StaleIfError = n, r.duration(n, "stale_if_error", 0, longest)
		},
		"negative_ttl": func(n *yaml.Node) {
			negative, c.NegativeTTL = n, r.duration(n, "negative_ttl", 0, longest)
		},
	}, "mode")
	switch {
	case !known:
	case c.Mode == CacheNone:
		for _, set := range []*yaml.Node{staleness, ifError, negative} {
			if set != nil {
				r.add(set.Line, "remove it, or use ttl or event", "cache mode none takes no durations")
			}
		}
	case staleness == nil:
		r.add(n.Line, "add max_staleness, such as 60s", "cache mode %s needs max_staleness", c.Mode)
	case c.MaxStaleness > 0:
		if c.StaleIfError > 0 && c.StaleIfError < c.MaxStaleness {
			r.add(ifError.Line, "make it longer, or remove it", "stale_if_error is shorter than max_staleness")
		}
		if c.NegativeTTL > c.MaxStaleness {
			r.add(negative.Line, "make it shorter", "negative_ttl is longer than max_staleness")
		}
	}
	return c
}
