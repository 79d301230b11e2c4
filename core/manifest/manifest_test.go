package manifest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
)

var update = flag.Bool("update", false, "write the .err files of testdata/bad anew")

const fakePlugin = "#!/bin/sh\nexit 1\n"

const fakeSchema = `{"type": "object", "$ref": "#/$defs/x", "$defs": {"x": {"required": ["currency"]}}}`

func sum() string { return sumOf(fakePlugin) }

func sumOf(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

// filled puts what only the running test knows into a manifest of testdata: SUM
// is the plugin's checksum, ARCH this machine's architecture, and OTHER another.
func filled(text []byte) []byte {
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	return []byte(strings.NewReplacer(
		"SCHEMASUM", sumOf(fakeSchema), "SUM", sum(), "ARCH", runtime.GOARCH, "OTHER", other,
	).Replace(string(text)))
}

// enter makes a folder with everything that the manifests of testdata name,
// and makes it the working folder.
func enter(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	elsewhere := t.TempDir()
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, path string) {
		t.Helper()
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
	in := func(path string) string { return filepath.Join(dir, path) }
	write(in("plugins/fake"), fakePlugin, 0o700)
	write(in("plugins/notexec"), fakePlugin, 0o600)
	write(filepath.Join(elsewhere, "fake"), fakePlugin, 0o700)
	write(filepath.Join(elsewhere, "schema.json"), `true`, 0o600)
	link("fake", in("plugins/link"))
	link(filepath.Join(elsewhere, "fake"), in("plugins/outside"))
	write(in("schemas/param.json"), fakeSchema, 0o600)
	write(in("schemas/broken.json"), `{"type": `, 0o600)
	write(in("schemas/wrong.json"), `{"type": "objekt"}`, 0o600)
	write(in("schemas/remote.json"), `{"$ref": "https://127.0.0.1:1/schema.json"}`, 0o600)
	write(in("schemas/file.json"), `{"$ref": "file:///etc/hostname"}`, 0o600)
	link(filepath.Join(elsewhere, "schema.json"), in("schemas/outside.json"))
	t.Chdir(dir)
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

// load writes text, filled, as tagstore.yaml, signs it unless that is not asked
// for, and loads it.
func load(t *testing.T, text []byte, o manifest.Options) (*manifest.Manifest, error) {
	t.Helper()
	if err := os.WriteFile("tagstore.yaml", filled(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if !o.Dev {
		key := newKey(t)
		sign(t, "tagstore.yaml", key)
		o.Key = manifest.KeyOf(key)
	}
	return manifest.Load("tagstore.yaml", o)
}

func files(t *testing.T, pattern string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
	}
	all := map[string][]byte{}
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			t.Fatal(err)
		}
		if all[abs], err = os.ReadFile(p); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// Each bad manifest is refused with the whole text that stands beside it.
func TestBad(t *testing.T) {
	for path, text := range files(t, "testdata/bad/*.yaml") {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			// The one word of a message that depends on the machine.
			told := func(e *config.Error) string {
				return strings.ReplaceAll(e.Message, " for "+runtime.GOARCH+" ", " for ARCH ") + "\n"
			}
			golden := strings.TrimSuffix(path, ".yaml") + ".err"
			enter(t)
			_, err := load(t, text, manifest.Options{})
			var e *config.Error
			if !errors.As(err, &e) {
				t.Fatalf("Load: %v, want a *config.Error", err)
			}
			if e.Code != config.InvalidArgument {
				t.Errorf("code %s, want %s", e.Code, config.InvalidArgument)
			}
			if *update {
				if err := os.WriteFile(golden, []byte(told(e)), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), told(e)); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGood(t *testing.T) {
	for path, text := range files(t, "testdata/good/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			enter(t)
			if _, err := load(t, text, manifest.Options{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestLoadReadsEverything(t *testing.T) {
	text, err := os.ReadFile("testdata/good/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := enter(t)
	got, err := load(t, text, manifest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fake := filepath.Join(dir, "plugins", "fake")
	tenant, service, shared := manifest.LayerTenant, manifest.LayerService, manifest.LayerShared
	want := &manifest.Manifest{
		Path: "tagstore.yaml", Dir: dir,
		Backends: []manifest.Backend{
			{Name: "tenants", Plugin: fake, SHA256: sum(), Options: json.RawMessage(`{}`), Required: true},
			{
				Name: "params", Plugin: fake, SHA256: sum(), Args: []string{"-v", "--level=debug"},
				Env: []string{"AWS_REGION", "AWS_ENDPOINT_URL"}, CallTimeout: 2 * time.Second,
				AWS: true, MTLS: true, Isolate: true, Concurrency: 64,
				Limits: manifest.Limits{Memory: 256 << 20, CPUs: 2, OpenFiles: 1024},
				Options: json.RawMessage(`{"path":"/config-service/{tenant}/{service}/{name}","region":"eu-central-1","retries":3,` +
					`"big":12345678901234567890123,"ratio":0.10,"hex":31,"strict":true,"none":null,"since":"2026-01-02",` +
					`"list":[1,"two",{"three":3}],"quoted key":"<&>"}`),
			},
			{
				Name: "attached", Address: "unix:///run/plugin/attached.sock", Concurrency: 1, Required: true,
				CallTimeout: time.Second, Options: json.RawMessage(`{"a":1}`),
			},
		},
		Routes: []manifest.Route{
			{
				Prefix: "param_config_", Backend: "params", Layers: []manifest.Layer{service, tenant, shared},
				SchemaPath: filepath.Join(dir, "schemas", "param.json"), SchemaSHA256: sumOf(fakeSchema), MaxValue: 512 << 10,
				Cache: manifest.Cache{
					Mode: manifest.CacheEvent, MaxStaleness: time.Minute, StaleIfError: time.Hour, NegativeTTL: 2 * time.Second,
				},
			},
			{Prefix: "tenant_config_", Backend: "tenants", Layers: []manifest.Layer{service, tenant}, MaxValue: 1 << 20},
			{Prefix: "tenant_config_eu_", Backend: "tenants", Layers: []manifest.Layer{tenant}, MaxValue: 64 << 10},
			{Prefix: "attached_", Backend: "attached", Layers: []manifest.Layer{service, tenant}, MaxValue: 1 << 20},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes((*jsonschema.Schema)(nil))); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
	schema := got.Routes[0].Schema
	if schema == nil || schema.Validate(map[string]any{}) == nil || schema.Validate(map[string]any{"currency": "EUR"}) != nil {
		t.Error("the compiled schema does not hold values to the file's rules")
	}
	if !got.Routes[2].Cache.IsZero() || got.Routes[0].Cache.IsZero() {
		t.Error("IsZero does not tell a cache block that asks for none")
	}
}

func TestDevNeedsNoSum(t *testing.T) {
	enter(t)
	text := []byte("version: 1\nbackends: { a: { plugin: plugins/fake } }\nroutes: [{ prefix: a_, backend: a, schema: schemas/param.json }]\n")
	if _, err := load(t, text, manifest.Options{Dev: true}); err != nil {
		t.Error(err)
	}
	if _, err := load(t, text, manifest.Options{}); err == nil {
		t.Error("a plugin without a checksum was accepted outside development")
	}
	wrong := bytes.Replace(text, []byte("fake }"), []byte("fake, sha256: "+strings.Repeat("0", 64)+" }"), 1)
	if _, err := load(t, wrong, manifest.Options{Dev: true}); err == nil {
		t.Error("a wrong checksum was accepted in development")
	}
	wrong = bytes.Replace(text, []byte("param.json }"), []byte("param.json, schema_sha256: "+strings.Repeat("0", 64)+" }"), 1)
	if _, err := load(t, wrong, manifest.Options{Dev: true}); err == nil {
		t.Error("a schema with a wrong checksum was accepted in development")
	}
	elsewhere := bytes.Replace(text, []byte("fake }"), []byte("fake, sha256: { OTHER: "+strings.Repeat("0", 64)+" } }"), 1)
	if _, err := load(t, elsewhere, manifest.Options{Dev: true}); err != nil {
		t.Errorf("the checksum of another architecture was held against this one's: %v", err)
	}
}

func TestUnreadable(t *testing.T) {
	enter(t)
	large := append([]byte("version: 1\n#"), bytes.Repeat([]byte("x"), manifest.MaxFile)...)
	if err := os.WriteFile("large.yaml", large, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"none.yaml":      "none.yaml: the manifest can not be read: no such file or directory (name a readable file of at most 1 MiB)",
		"plugins":        "plugins: the manifest can not be read: it is not a regular file (name a readable file of at most 1 MiB)",
		"large.yaml":     "large.yaml: the manifest can not be read: it is larger than 1 MiB (name a readable file of at most 1 MiB)",
		"none/none.yaml": "none/none.yaml: the manifest can not be read: no such file or directory (name a readable file of at most 1 MiB)",
	} {
		_, err := manifest.Load(path, manifest.Options{Key: manifest.KeyOf(newKey(t))})
		var e *config.Error
		if !errors.As(err, &e) || e.Message != want {
			t.Errorf("Load(%q):\n%v\nwant\n%s", path, err, want)
		}
	}
	if _, err := manifest.Parse(large, "large.yaml"); err == nil {
		t.Error("Parse read more than 1 MiB")
	}
}

// A manifest with very many problems still has an error of bounded length.
func TestManyProblems(t *testing.T) {
	_, err := manifest.Parse([]byte("version: 1\n"+strings.Repeat("? x\n", 1000)), "m.yaml")
	var e *config.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	lines := strings.Split(e.Message, "\n")
	if len(lines) != 51 || !strings.HasSuffix(lines[50], "more problems (mend these first)") {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

func TestCheckPrefix(t *testing.T) {
	for text, ok := range map[string]bool{
		"tenant_config_": true, "a_": true, "0_": true, "a__": true, strings.Repeat("a", 63) + "_": true,
		"": false, "_": false, "a": false, "a-_": false, "A_": false, "a/_": false, "a._": false, "ä_": false, "a_\n": false,
		strings.Repeat("a", 64) + "_": false,
	} {
		if err := manifest.CheckPrefix(text); (err == nil) != ok {
			t.Errorf("CheckPrefix(%q) = %v, want ok = %v", text, err, ok)
		}
	}
}

func TestNames(t *testing.T) {
	for _, l := range []manifest.Layer{manifest.LayerService, manifest.LayerTenant, manifest.LayerShared} {
		if l.String() == "unknown" {
			t.Errorf("layer %d has no name", l)
		}
	}
	if manifest.Layer(0).String() != "unknown" || manifest.CacheMode(9).String() != "unknown" {
		t.Error("a value without a name has one")
	}
}

// FuzzLoad holds Parse to what it promises for any bytes.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/bad/*.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, p := range paths {
			text, err := os.ReadFile(p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := manifest.Parse(data, "dir/m.yaml")
		if err != nil {
			var e *config.Error
			if !errors.As(err, &e) || e.Code != config.InvalidArgument {
				t.Fatalf("%v is not an InvalidArgument", err)
			}
			for line := range strings.SplitSeq(e.Message, "\n") {
				if !strings.HasPrefix(line, "dir/m.yaml:") || !strings.HasSuffix(line, ")") {
					t.Fatalf("a line does not say where and how to mend it: %q", line)
				}
			}
			return
		}
		names := map[string]bool{}
		for _, b := range m.Backends {
			names[b.Name] = true
			var options map[string]any
			if err := json.Unmarshal(b.Options, &options); err != nil {
				t.Fatalf("options are not a JSON object: %v", err)
			}
			if (b.Plugin == "") == (b.Address == "") {
				t.Fatalf("a backend is neither started nor attached to, or both: %+v", b)
			}
			if b.Address != "" {
				bare := manifest.Backend{
					Name: b.Name, Address: b.Address, Required: b.Required, Concurrency: b.Concurrency,
					Options: b.Options, CallTimeout: b.CallTimeout,
				}
				if diff := cmp.Diff(bare, b); diff != "" {
					t.Fatalf("a backend with an address has something of a process (-want +got):\n%s", diff)
				}
				continue
			}
			if rel, err := filepath.Rel("dir", b.Plugin); err != nil || !filepath.IsLocal(rel) {
				t.Fatalf("the plugin %q lies outside the manifest's folder", b.Plugin)
			}
		}
		if len(m.Routes) == 0 {
			t.Fatal("a manifest without routes was accepted")
		}
		for _, r := range m.Routes {
			if !names[r.Backend] || len(r.Layers) == 0 || r.MaxValue < 1 || r.MaxValue > manifest.MaxMaxValue {
				t.Fatalf("a route that does not hold together was accepted: %+v", r)
			}
			if _, err := config.ParseKey(r.Prefix + "x"); err != nil {
				t.Fatalf("prefix %q does not begin a key: %v", r.Prefix, err)
			}
		}
	})
}
