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

func sum() string {
	s := sha256.Sum256([]byte(fakePlugin))
	return hex.EncodeToString(s[:])
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
	write(in("schemas/param.json"), `{"type": "object", "$ref": "#/$defs/x", "$defs": {"x": {"required": ["currency"]}}}`, 0o600)
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

// load writes text as tagstore.yaml, SUM standing for the plugin's checksum,
// and loads it.
func load(t *testing.T, text []byte, o manifest.Options) (*manifest.Manifest, error) {
	t.Helper()
	if err := os.WriteFile("tagstore.yaml", bytes.ReplaceAll(text, []byte("SUM"), []byte(sum())), 0o600); err != nil {
		t.Fatal(err)
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
				if err := os.WriteFile(golden, []byte(e.Message+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), e.Message+"\n"); diff != "" {
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
			{Name: "tenants", Plugin: fake, SHA256: sum(), Options: json.RawMessage(`{}`)},
			{
				Name: "params", Plugin: fake, SHA256: sum(), Args: []string{"-v", "--level=debug"},
				Env: []string{"AWS_REGION", "AWS_ENDPOINT_URL"}, CallTimeout: 2 * time.Second,
				Options: json.RawMessage(`{"path":"/config-service/{tenant}/{service}/{name}","region":"eu-central-1","retries":3,` +
					`"big":12345678901234567890123,"ratio":0.10,"hex":31,"strict":true,"none":null,"since":"2026-01-02",` +
					`"list":[1,"two",{"three":3}],"quoted key":"<&>"}`),
			},
		},
		Routes: []manifest.Route{
			{
				Prefix: "param_config_", Backend: "params", Layers: []manifest.Layer{service, tenant, shared},
				SchemaPath: filepath.Join(dir, "schemas", "param.json"), MaxValue: 512 << 10,
				Cache: manifest.Cache{
					Mode: manifest.CacheEvent, MaxStaleness: time.Minute, StaleIfError: time.Hour, NegativeTTL: 2 * time.Second,
				},
			},
			{Prefix: "tenant_config_", Backend: "tenants", Layers: []manifest.Layer{service, tenant}, MaxValue: 1 << 20},
			{Prefix: "tenant_config_eu_", Backend: "tenants", Layers: []manifest.Layer{tenant}, MaxValue: 64 << 10},
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
	text := []byte("version: 1\nbackends: { a: { plugin: plugins/fake } }\nroutes: [{ prefix: a_, backend: a }]\n")
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
		_, err := manifest.Load(path, manifest.Options{})
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
