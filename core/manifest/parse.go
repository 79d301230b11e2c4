package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"regexp"
	"runtime"
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
	byteSize    = regexp.MustCompile(`^([0-9]{1,9})(B|KiB|MiB|GiB)?$`)
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
	schemaLines  []schemaLines  // of each of Routes
}

type schemaLines struct {
	node           *yaml.Node // of the route
	schema, sha256 int
	badSHA256      bool // reported already
}

type backendLines struct {
	node                 *yaml.Node // of the backend
	name, plugin, sha256 int
	badSHA256            bool // or no backend at all: reported already
	attached             bool // it has an address, and so no program
}

// parse reads as much as can be read, beside everything that is wrong with it.
func parse(data []byte, path, dir string) (*document, *problems) {
	d := &document{Manifest: Manifest{Path: path, Dir: dir}}
	r := &reader{problems: problems{path: path}, arch: runtime.GOARCH}
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
	b := Backend{Name: key.Value, Options: json.RawMessage("{}"), Required: true}
	at := backendLines{node: n, name: key.Line, badSHA256: n.Kind != yaml.MappingNode}
	what := "backend " + quote(b.Name)
	known := fields{
		"plugin": func(n *yaml.Node) {
			at.plugin = n.Line
			b.Plugin = r.path(n, "plugin", dir)
		},
		"address":      func(n *yaml.Node) { b.Address = r.address(n) },
		"args":         func(n *yaml.Node) { b.Args = r.texts(n, "args") },
		"sha256":       func(n *yaml.Node) { b.SHA256 = r.sums(n, &at) },
		"env":          func(n *yaml.Node) { b.Env = r.env(n) },
		"aws":          func(n *yaml.Node) { b.AWS = r.flag(n, "aws") },
		"mtls":         func(n *yaml.Node) { b.MTLS = r.flag(n, "mtls") },
		"isolate":      func(n *yaml.Node) { b.Isolate = r.flag(n, "isolate") },
		"required":     func(n *yaml.Node) { b.Required = r.flag(n, "required") },
		"concurrency":  func(n *yaml.Node) { b.Concurrency = r.count(n, "concurrency", MaxConcurrency) },
		"limits":       func(n *yaml.Node) { b.Limits = r.limits(n) },
		"options":      func(n *yaml.Node) { b.Options = r.options(n) },
		"call_timeout": func(n *yaml.Node) { b.CallTimeout = r.duration(n, "call_timeout", time.Millisecond, MaxCallTimeout) },
	}
	written := map[string]int{} // line of each field that stands there
	for name, read := range known {
		known[name] = func(n *yaml.Node) {
			written[name] = n.Line
			read(n)
		}
	}
	r.mapping(n, what, known, "plugin|address")
	if _, attached := written["address"]; !attached {
		return b, at
	}
	at.attached = true
	// All of these are about a process that this manifest does not start.
	for _, name := range []string{"plugin", "args", "sha256", "env", "aws", "mtls", "isolate", "limits"} {
		if line, ok := written[name]; ok {
			r.add(line, "remove one of the two: a plugin that has an address is started by somebody else", "%s has an address and %q", what, name)
		}
	}
	return b, at
}

// architectures are those that Go builds a plugin for on Linux, by Go's names.
var architectures = []string{"386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"}

// sums reads one checksum, or one for each architecture, and returns that of
// r.arch.
func (r *reader) sums(n *yaml.Node, at *backendLines) string {
	at.sha256 = n.Line
	if n.Kind != yaml.MappingNode {
		sum, ok := r.sum(n, "sha256")
		at.badSHA256 = !ok
		return sum
	}
	if len(n.Content) == 0 && !r.anySum {
		at.badSHA256 = true
		r.add(n.Line, "write the 64 hex digits that sha256sum prints, by architecture: { amd64: …, arm64: … }", "sha256 is empty")
		return ""
	}
	var ours string
	known := fields{}
	for _, arch := range architectures {
		known[arch] = func(n *yaml.Node) {
			sum, ok := r.sum(n, "sha256 of "+arch)
			if arch == r.arch {
				ours, at.sha256, at.badSHA256 = sum, n.Line, !ok
			}
		}
	}
	r.mapping(n, "sha256", known)
	return ours
}

// sum reads a checksum.
func (r *reader) sum(n *yaml.Node, what string) (string, bool) {
	if r.anySum && n.Kind == yaml.ScalarNode {
		return strings.ToLower(n.Value), true
	}
	sum, ok := r.literal(n, what)
	if ok && !sha256Hex.MatchString(sum) {
		r.add(n.Line, "write the 64 hex digits that sha256sum prints", "bad %s %s", what, quote(sum))
		ok = false
	}
	if !ok {
		return "", false
	}
	return strings.ToLower(sum), true
}

// address accepts the socket of a plugin that runs already.
func (r *reader) address(n *yaml.Node) string {
	const scheme = "unix://"
	text, ok := r.text(n, "address")
	if !ok {
		return ""
	}
	path, unix := strings.CutPrefix(text, scheme)
	switch {
	case !unix || !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsRune(path, 0) || path == "/":
		r.add(n.Line, "write the socket's absolute path, such as unix:///run/plugin/params.sock", "bad address %s", quote(text))
		return ""
	case len(path) > MaxSocketPath:
		r.add(n.Line, "choose a shorter path", "the socket's path has %d bytes, more than %d", len(path), MaxSocketPath)
		return ""
	}
	return text
}

func (r *reader) limits(n *yaml.Node) Limits {
	var l Limits
	r.mapping(n, "limits", fields{
		"memory": func(n *yaml.Node) {
			l.Memory = r.size(n, "memory", "write a size such as 256MiB or 2GiB", MinMemory, MaxMemory, "16MiB and 1024GiB")
		},
		"cpus": func(n *yaml.Node) { l.CPUs = r.count(n, "cpus", MaxCPUs) },
		"open_files": func(n *yaml.Node) {
			files := r.count(n, "open_files", MaxOpenFiles)
			if files > 0 && files < MinOpenFiles {
				r.add(n.Line, "raise it, or leave it out", "open_files %d is less than the %d that a plugin needs to answer", files, MinOpenFiles)
				files = 0
			}
			l.OpenFiles = uint64(files)
		},
	})
	return l
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
		route, backend, prefix, at := r.route(item, d.Dir)
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
		d.schemaLines = append(d.schemaLines, at)
	}
	return wanted, allRead
}

// route also returns the nodes of the backend and the prefix, nil where they
// can not be read, and the lines of the schema.
func (r *reader) route(n *yaml.Node, dir string) (route Route, backend, prefix *yaml.Node, at schemaLines) {
	route = Route{Layers: DefaultLayers(), MaxValue: DefaultMaxValue}
	at.node = n
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
			at.schema = n.Line
			route.SchemaPath = r.path(n, "schema", dir)
		},
		"schema_sha256": func(n *yaml.Node) {
			var ok bool
			route.SchemaSHA256, ok = r.sum(n, "schema_sha256")
			at.sha256, at.badSHA256 = n.Line, !ok
		},
		"max_value": func(n *yaml.Node) {
			route.MaxValue = int(r.size(n, "max_value", "write bytes such as 65536, or 512KiB, or 1MiB; at most 8MiB",
				1, MaxMaxValue, "1 byte and 8MiB"))
		},
		"cache": func(n *yaml.Node) { route.Cache = r.cache(n) },
	}, "prefix", "backend")
	if at.sha256 > 0 && at.schema == 0 {
		r.add(at.sha256, "remove it, or name the schema", "there is a schema_sha256 and no schema")
	}
	return route, backend, prefix, at
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
