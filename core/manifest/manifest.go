// Package manifest reads tagstore.yaml: which plugin is which backend, and
// which prefix of a key leads to which backend.
//
// The format is strict. Everything that is wrong with a manifest is reported
// at once, each problem on a line of its own:
//
//	tagstore.yaml:7: unknown field "plugn" (did you mean "plugin"?)
//
// The file is one YAML document of at most 1 MiB. Anchors, aliases, merge keys
// and explicit tags are refused, so that what is written is what is meant and
// a small file can not unfold into a large one.
package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tagstore/tagstore/core/config"
)

// The bounds of a manifest and of what it names.
const (
	// MaxFile is the largest manifest, and the largest JSON Schema, in bytes.
	MaxFile = 1 << 20
	// DefaultMaxValue is the largest value in bytes of a route that sets none.
	DefaultMaxValue = 1 << 20
	// MaxMaxValue is the most that a route may allow: a value must fit, with
	// its metadata, into one message of 9 MiB between host and plugin.
	MaxMaxValue = 8 << 20
	// MaxCallTimeout is the longest call_timeout.
	MaxCallTimeout = 5 * time.Minute
	// MaxConcurrency is the most calls that a backend may run at once.
	MaxConcurrency = 1 << 16
	// MaxSocketPath is the longest path of a socket in bytes: less than the 107
	// that the kernel has room for.
	MaxSocketPath = 100
	// MinMemory and MaxMemory bound limits.memory in bytes.
	MinMemory = 16 << 20
	MaxMemory = 1 << 40
	// MaxCPUs is the largest limits.cpus.
	MaxCPUs = 1024
	// MinOpenFiles and MaxOpenFiles bound limits.open_files.
	MinOpenFiles = 64
	MaxOpenFiles = 1 << 20
	// MaxPrefix is the longest prefix of a route in bytes.
	MaxPrefix = 64
)

// Manifest is a whole configuration of backends and routes. Backends and
// Routes are in the order of the file.
type Manifest struct {
	Path     string // as it was given
	Dir      string // the folder that Plugin and SchemaPath lie in
	Backends []Backend
	Routes   []Route
}

// Backend is one plugin: a process to be started, or one that somebody else runs.
type Backend struct {
	// Name is ^[a-z][a-z0-9_-]{0,62}$.
	Name string
	// Plugin is the executable, "" if and only if there is an Address. From Load
	// it is absolute, with all symbolic links resolved, and lies below Dir.
	Plugin string
	// Address is "unix://" and the absolute path of the socket of a plugin that
	// runs already. With it there are no Args, no SHA256, no Env and no Limits,
	// and AWS, MTLS and Isolate are false.
	Address string
	Args    []string
	// SHA256 is 64 lower-case hex digits: the sum of this architecture's
	// program, "" if none was given for it. Load has compared it with the bytes
	// of Plugin.
	SHA256 string
	// Env lists the variables of the host's environment that the plugin gets.
	Env []string
	// AWS gives the plugin the variables that lead to AWS credentials.
	AWS bool
	// MTLS has host and plugin prove to each other that they belong together.
	MTLS bool
	// Isolate gives each route of the backend a process of its own.
	Isolate bool
	// Required says that the service is not ready while this backend does not
	// serve. It is true unless the manifest says otherwise.
	Required bool
	// Concurrency is how many calls run at once; 0 means the host's default.
	Concurrency int
	Limits      Limits
	// Options is a JSON object, {} if none was given; the plugin checks it.
	Options json.RawMessage
	// CallTimeout is the deadline of each call; 0 means the host's default.
	CallTimeout time.Duration
}

// Limits are what a plugin's process may take. 0 means no limit of the
// manifest's.
type Limits struct {
	Memory    int64 // bytes
	CPUs      int
	OpenFiles uint64
}

// Route sends the keys that start with Prefix to one backend.
type Route struct {
	Prefix  string // as CheckPrefix accepts
	Backend string // the name of one of Manifest.Backends
	// Layers is never empty, and most specific first.
	Layers []Layer
	// SchemaPath is the JSON Schema that values must meet, "" for none. From
	// Load it is absolute, with all symbolic links resolved, and below Dir.
	SchemaPath string
	// SchemaSHA256 is 64 lower-case hex digits, "" if none was given. Load has
	// compared it with the bytes that Schema was compiled from.
	SchemaSHA256 string
	// Schema is SchemaPath's content as Load compiled it; nil from Parse.
	Schema *jsonschema.Schema
	// MaxValue is the largest value in bytes.
	MaxValue int
	Cache    Cache
}

// Layer is one place where the value of a key may stand. Layers are ordered:
// a smaller one is more specific, and wins.
type Layer int

// The layers, most specific first.
const (
	LayerService Layer = iota + 1
	LayerTenant
	LayerShared
)

// String returns the layer as it stands in the manifest.
func (l Layer) String() string {
	switch l {
	case LayerService:
		return "{tenant}/{service}"
	case LayerTenant:
		return "{tenant}"
	case LayerShared:
		return "shared"
	default:
		return "unknown"
	}
}

// DefaultLayers returns the layers of a route that names none.
func DefaultLayers() []Layer { return []Layer{LayerService, LayerTenant} }

// CacheMode says how a route's values are kept in memory.
type CacheMode int

// The cache modes.
const (
	// CacheNone: every read asks the store.
	CacheNone CacheMode = iota
	// CacheTTL: a value is read again when it is MaxStaleness old.
	CacheTTL
	// CacheEvent: the store tells of changes; MaxStaleness bounds the time for
	// which a lost event goes unnoticed.
	CacheEvent
)

// String returns the mode as it stands in the manifest.
func (m CacheMode) String() string {
	switch m {
	case CacheNone:
		return "none"
	case CacheTTL:
		return "ttl"
	case CacheEvent:
		return "event"
	default:
		return "unknown"
	}
}

// Cache is how a route asks to be cached. The zero value is CacheNone.
type Cache struct {
	Mode CacheMode
	// MaxStaleness is positive unless Mode is CacheNone.
	MaxStaleness time.Duration
	// StaleIfError is how long an old value may stand in for a store that is
	// out of reach; 0: not at all, else at least MaxStaleness.
	StaleIfError time.Duration
	// NegativeTTL is how long an absence is remembered; 0: not at all, at most
	// MaxStaleness.
	NegativeTTL time.Duration
}

// IsZero reports whether c is the cache block that asks for no cache.
func (c Cache) IsZero() bool { return c == Cache{} }

// Options changes what Load asks for.
type Options struct {
	// Dev lets a backend and a schema stand without their sha256, and the
	// manifest without a signature.
	Dev bool
	// Key says who must have signed the manifest. It is needed without Dev, and
	// where it is given the signature is checked with Dev, too.
	Key Key
}

// Parse reads a manifest without touching the file system. Relative paths are
// joined to the folder of path, which is also what the errors name; whether
// the files exist and what they hold is Load's part. The error is a
// *config.Error with code InvalidArgument whose Message has one line for each
// problem, in order of line.
func Parse(data []byte, path string) (*Manifest, error) {
	d, found := parse(data, path, filepath.Dir(path))
	if err := found.err(); err != nil {
		return nil, err
	}
	return &d.Manifest, nil
}

// Load reads the manifest at path, checks its signature, which lies beside it as
// path.sig, and then the files that it names: every plugin is an executable file
// with the checksum that is given, every schema compiles, and all of them lie
// below the manifest's folder once their symbolic links are resolved. Each file
// is read once: the bytes that were verified are those that are used. Of a
// manifest whose signature is not right nothing is read but that.
//
// A plugin's file can still be another one when it is started; whoever starts it
// has to hold the bytes that run to SHA256. The error of Load is that of Parse.
func Load(path string, o Options) (*Manifest, error) {
	m, _, err := load(path, func(data []byte) error { return o.verify(data, path) }, o.Dev)
	return m, err
}

// load also returns the bytes that it read.
func load(path string, verify func(data []byte) error, dev bool) (*Manifest, []byte, error) {
	data, dir, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	if err := verify(data); err != nil {
		return nil, nil, err
	}
	d, found := parse(data, path, dir)
	for i := range d.Backends {
		d.checkPlugin(&d.Backends[i], d.backendLines[i], dev, found)
	}
	for i := range d.Routes {
		d.checkSchema(&d.Routes[i], d.schemaLines[i], dev, found)
	}
	if err := found.err(); err != nil {
		return nil, nil, err
	}
	return &d.Manifest, data, nil
}

// readFile reads a manifest, and returns its folder, too.
func readFile(path string) (data []byte, dir string, err error) {
	found := &problems{path: path}
	if data, err = readBounded(path); err != nil {
		found.add(0, "name a readable file of at most 1 MiB", "the manifest can not be read: %s", plain(err))
		return nil, "", found.err()
	}
	if dir, err = folder(path); err != nil {
		found.add(0, "name a file in a folder that can be read", "the manifest's folder can not be read: %s", plain(err))
		return nil, "", found.err()
	}
	return data, dir, nil
}

// folder returns the absolute folder of path, without symbolic links in it.
func folder(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(filepath.Dir(abs))
}

var (
	errTooLarge   = errors.New("it is larger than 1 MiB")
	errNotRegular = errors.New("it is not a regular file")
)

// readBounded reads a regular file of at most MaxFile bytes.
func readBounded(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err == nil && len(data) > MaxFile {
		return nil, errTooLarge
	}
	return data, err
}

// openRegular looks before it opens: opening a named pipe would wait for its
// other end.
func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	return os.Open(path)
}

// plain returns what went wrong without the path, which the line names.
func plain(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

func (d *document) checkPlugin(b *Backend, at backendLines, dev bool, found *problems) {
	if at.attached || at.plugin == 0 {
		return // there is no program
	}
	if b.SHA256 == "" && !at.badSHA256 && !dev {
		what := "no sha256"
		if at.sha256 > 0 {
			what += " for " + runtime.GOARCH
		}
		found.add(at.name, "add the output of sha256sum, or run in development mode", "backend %q has %s", b.Name, what)
	}
	if b.Plugin == "" {
		return
	}
	path, ok := d.resolve(b.Plugin, "plugin", at.plugin, found)
	if !ok {
		return
	}
	b.Plugin = path
	f, err := openRegular(path)
	if err != nil {
		found.add(at.plugin, "name an executable file", "the plugin can not be read: %s", plain(err))
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm()&0o111 == 0 {
		found.add(at.plugin, "chmod +x it", "the plugin is not executable")
	}
	if b.SHA256 == "" {
		return
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		found.add(at.plugin, "name an executable file", "the plugin can not be read: %s", plain(err))
		return
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != b.SHA256 {
		found.add(at.sha256, "build it again, or write the new sum once you know why it changed",
			"the plugin's bytes have the sha256 %s", got)
	}
}

func (d *document) checkSchema(r *Route, at schemaLines, dev bool, found *problems) {
	line := at.schema
	if r.SchemaPath == "" {
		return
	}
	path, ok := d.resolve(r.SchemaPath, "schema", line, found)
	if !ok {
		return
	}
	r.SchemaPath = path
	data, err := readBounded(path)
	if err != nil {
		found.add(line, "name a JSON file of at most 1 MiB", "the schema can not be read: %s", plain(err))
		return
	}
	if sum := sha256.Sum256(data); r.SchemaSHA256 != "" && hex.EncodeToString(sum[:]) != r.SchemaSHA256 {
		found.add(at.sha256, "put the file back, or write the new sum once you know why it changed",
			"the schema's bytes have the sha256 %x", sum)
		return
	}
	schema, err := CompileSchema(data)
	if err != nil {
		var e *config.Error
		errors.As(err, &e)
		found.add(line, e.Hint, "%s", e.Message)
		return
	}
	r.Schema = schema
	if r.SchemaSHA256 == "" && !at.badSHA256 && !dev {
		found.add(line, "add the output of sha256sum, or run in development mode", "the schema has no schema_sha256")
	}
}

// resolve follows the symbolic links of path and refuses what they lead to
// outside the manifest's folder.
func (d *document) resolve(path, what string, line int, found *problems) (string, bool) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		found.add(line, "mend the path, which is relative to the manifest, or put the file there", "the %s can not be found: %s", what, plain(err))
		return "", false
	}
	if rel, err := filepath.Rel(d.Dir, resolved); err != nil || !filepath.IsLocal(rel) {
		found.add(line, "copy the file into the manifest's folder", "the %s is a link that leaves the manifest's folder", what)
		return "", false
	}
	return resolved, true
}
