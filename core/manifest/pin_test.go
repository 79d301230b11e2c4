package manifest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/manifest"
)

// Sums are written where they belong, and nothing else is touched.
func TestPin(t *testing.T) {
	const routes = "routes:\n  - { prefix: a_, backend: a } # the last line"
	for name, c := range map[string]struct{ before, after string }{
		"block": {
			"# ü\nversion: 1 # one\nbackends:\n  a:   # the only\n    # its program\n    plugin: ./plugins/fake   # here\n\n    env: [A]\n" + routes,
			"# ü\nversion: 1 # one\nbackends:\n  a:   # the only\n    # its program\n    plugin: ./plugins/fake   # here\n    sha256: SUM\n\n    env: [A]\n" + routes,
		},
		"block, last": {
			"version: 1\n" + routes + "\nbackends:\n  a:\n    plugin: ./plugins/fake",
			"version: 1\n" + routes + "\nbackends:\n  a:\n    plugin: ./plugins/fake\n    sha256: SUM",
		},
		"flow": {
			"version: 1\nbackends: { a: { plugin: plugins/fake, env: [A] } }\n" + routes,
			"version: 1\nbackends: { a: { plugin: plugins/fake, sha256: SUM, env: [A] } }\n" + routes,
		},
		"flow, quoted, behind more than ASCII, in two lines": {
			"version: 1\nbackends: { a: { options: { ü: \"ü€😀\" }, \"plugin\": 'plugins/fake',\n  env: [A] } }\n" + routes,
			"version: 1\nbackends: { a: { options: { ü: \"ü€😀\" }, \"plugin\": 'plugins/fake', sha256: SUM,\n  env: [A] } }\n" + routes,
		},
		"wrong": {
			"version: 1\nbackends: { a: { sha256: 9f2c, plugin: plugins/fake } }\n" + routes,
			"version: 1\nbackends: { a: { sha256: SUM, plugin: plugins/fake } }\n" + routes,
		},
		"quoted": {
			"version: 1\nbackends:\n  a:\n    sha256: \"TODO\" # soon\n    plugin: plugins/fake\n" + routes,
			"version: 1\nbackends:\n  a:\n    sha256: SUM # soon\n    plugin: plugins/fake\n" + routes,
		},
		"empty": {
			"version: 1\nbackends:\n  a:\n    sha256:   # soon\n    plugin: plugins/fake\n" + routes,
			"version: 1\nbackends:\n  a:\n    sha256: SUM   # soon\n    plugin: plugins/fake\n" + routes,
		},
		"right": {
			"version: 1\nbackends: { a: { plugin: plugins/fake, sha256: SUM } }\n" + routes,
			"version: 1\nbackends: { a: { plugin: plugins/fake, sha256: SUM } }\n" + routes,
		},
		"architectures": {
			"version: 1\nbackends:\n  a:\n    plugin: plugins/fake\n    sha256:\n      OTHER: OLD\n" + routes,
			"version: 1\nbackends:\n  a:\n    plugin: plugins/fake\n    sha256:\n      OTHER: OLD\n      ARCH: SUM\n" + routes,
		},
		"architectures in flow": {
			"version: 1\nbackends:\n  a: { plugin: plugins/fake, sha256: { ARCH: 1, OTHER: OLD } }\n" + routes,
			"version: 1\nbackends:\n  a: { plugin: plugins/fake, sha256: { ARCH: SUM, OTHER: OLD } }\n" + routes,
		},
		"no architecture yet": {
			"version: 1\nbackends:\n  a: { plugin: plugins/fake, sha256: {} }\n" + routes,
			"version: 1\nbackends:\n  a: { plugin: plugins/fake, sha256: {ARCH: SUM} }\n" + routes,
		},
		"schema and address": {
			"version: 1\nbackends:\n  a: { address: unix:///run/a.sock }\nroutes:\n  - schema: schemas/param.json\n    prefix: a_\n    backend: a\n  - { prefix: b_, backend: a, schema: schemas/param.json }\n",
			"version: 1\nbackends:\n  a: { address: unix:///run/a.sock }\nroutes:\n  - schema: schemas/param.json\n    schema_sha256: SCHEMASUM\n    prefix: a_\n    backend: a\n  - { prefix: b_, backend: a, schema: schemas/param.json, schema_sha256: SCHEMASUM }\n",
		},
		"line ends of Windows": {
			"version: 1\r\nbackends:\r\n  a:\r\n    plugin: plugins/fake\r\n" + strings.ReplaceAll(routes, "\n", "\r\n"),
			"version: 1\r\nbackends:\r\n  a:\r\n    plugin: plugins/fake\r\n    sha256: SUM\r\n" + strings.ReplaceAll(routes, "\n", "\r\n"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			enter(t)
			full := func(text string) string {
				return string(filled([]byte(strings.ReplaceAll(text, "OLD", strings.Repeat("0", 64)))))
			}
			before := full(c.before)
			put(t, "tagstore.yaml", []byte(before))
			got, sums, err := manifest.Pin("tagstore.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(full(c.after), string(got)); diff != "" {
				t.Errorf("manifest (-want +got):\n%s", diff)
			}
			for _, s := range sums {
				if s.Changed != (before != string(got)) || s.File == "" || s.Of == "" || s.SHA256 != sum() && s.SHA256 != sumOf(fakeSchema) {
					t.Errorf("it says %+v", s)
				}
			}
			if now, err := os.ReadFile("tagstore.yaml"); err != nil || string(now) != before {
				t.Errorf("the file was changed: %v", err)
			}
			// What was pinned is what production takes.
			put(t, "tagstore.yaml", got)
			key := newKey(t)
			sign(t, "tagstore.yaml", key)
			if _, err := manifest.Load("tagstore.yaml", manifest.Options{Key: manifest.KeyOf(key)}); err != nil {
				t.Error(err)
			}
			if again, _, err := manifest.Pin("tagstore.yaml"); err != nil || string(again) != string(got) {
				t.Errorf("pinned twice, it is another: %v", err)
			}
		})
	}
}

// One manifest for several architectures: each gets its sum beside the others',
// whatever stood there.
func TestPinForArchitectures(t *testing.T) {
	const routes = "routes:\n  - { prefix: a_, backend: a }\n"
	for name, c := range map[string]struct{ before, after string }{
		"none": {
			"version: 1\nbackends:\n  a:\n    plugin: plugins/fake\n" + routes,
			"version: 1\nbackends:\n  a:\n    plugin: plugins/fake\n    sha256: { OTHER: OLD, ARCH: SUM }\n" + routes,
		},
		"one for all": {
			"version: 1\nbackends: { a: { sha256: NEW, plugin: plugins/fake } }\n" + routes,
			"version: 1\nbackends: { a: { sha256: { OTHER: OLD, ARCH: SUM }, plugin: plugins/fake } }\n" + routes,
		},
		"one of each": {
			"version: 1\nbackends: { a: { plugin: plugins/fake, sha256: { ARCH: NEW, OTHER: NEW } } }\n" + routes,
			"version: 1\nbackends: { a: { plugin: plugins/fake, sha256: { ARCH: SUM, OTHER: OLD } } }\n" + routes,
		},
	} {
		t.Run(name, func(t *testing.T) {
			enter(t)
			const old = "#!/bin/sh\n# of another architecture\n"
			full := func(text string) string {
				return string(filled([]byte(strings.NewReplacer("OLD", sumOf(old), "NEW", strings.Repeat("0", 64)).Replace(text))))
			}
			put(t, "tagstore.yaml", []byte(full(c.before)))
			var got []byte
			for _, step := range []struct{ arch, program string }{{full("OTHER"), old}, {full("ARCH"), fakePlugin}} {
				if err := os.WriteFile(filepath.Join("plugins", "fake"), []byte(step.program), 0o700); err != nil {
					t.Fatal(err)
				}
				var sums []manifest.Pinned
				var err error
				if got, sums, err = manifest.PinFor("tagstore.yaml", step.arch); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]manifest.Pinned{{Of: "a", File: "plugins/fake", SHA256: sumOf(step.program), Arch: step.arch, Changed: true}}, sums); diff != "" {
					t.Errorf("sums of %s (-want +got):\n%s", step.arch, diff)
				}
				put(t, "tagstore.yaml", got)
			}
			if diff := cmp.Diff(full(c.after), string(got)); diff != "" {
				t.Errorf("manifest (-want +got):\n%s", diff)
			}
			key := newKey(t)
			sign(t, "tagstore.yaml", key)
			if _, err := manifest.Load("tagstore.yaml", manifest.Options{Key: manifest.KeyOf(key)}); err != nil {
				t.Error(err)
			}
		})
	}
	if _, _, err := manifest.PinFor("tagstore.yaml", "x86"); err == nil || !strings.Contains(err.Error(), "bad architecture \"x86\"") {
		t.Errorf("of an architecture that is none: %v", err)
	}
}

func TestPinRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"a layout without a place": {
			"version: 1\nbackends:\n  a:\n    plugin: >-\n      plugins/fake\nroutes: [{ prefix: a_, backend: a }]\n",
			"tagstore.yaml: the layout leaves no place for a checksum",
		},
		"a missing program": {
			"version: 1\nbackends: { a: { plugin: plugins/none } }\nroutes: [{ prefix: a_, backend: a }]\n",
			"tagstore.yaml:2: the plugin can not be found",
		},
		"a folder": {
			"version: 1\nbackends: { a: { plugin: plugins } }\nroutes: [{ prefix: a_, backend: a, schema: schemas/broken.json }]\n",
			"tagstore.yaml:2: the plugin can not be read: it is not a regular file",
		},
		"another mistake": {
			"version: 1\nbackends: { a: { plugn: plugins/fake, sha256: x } }\nroutes: [{ prefix: a_, backend: a }]\n",
			`tagstore.yaml:2: unknown field "plugn"`,
		},
	} {
		enter(t)
		put(t, "tagstore.yaml", []byte(c.text))
		if out, _, err := manifest.Pin("tagstore.yaml"); out != nil || err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := manifest.Pin(filepath.Join(t.TempDir(), "none.yaml")); err == nil {
		t.Error("a file that is not there was pinned")
	}
}

// FuzzPin: whatever is pinned says what it said, which Pin itself holds it to;
// here, that it neither panics nor takes what production refuses.
func FuzzPin(f *testing.F) {
	f.Add("version: 1\nbackends: { a: { plugin: plugins/fake, sha256: {} } }\nroutes: [{ prefix: a_, backend: a }]\n")
	f.Add("version: 1\nbackends:\n  a:\n    plugin: plugins/fake\n    sha256:\nroutes:\n- prefix: a_\n  backend: a\n  schema: s.json\n")
	dir := f.TempDir()
	put(f, filepath.Join(dir, "s.json"), []byte("true"))
	if err := os.Mkdir(filepath.Join(dir, "plugins"), 0o700); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plugins", "fake"), []byte(fakePlugin), 0o700); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, "m.yaml")
	key := newKey(f)
	f.Fuzz(func(t *testing.T, text string) {
		put(t, path, []byte(text))
		out, _, err := manifest.Pin(path)
		if err != nil {
			return
		}
		put(t, path, out)
		if _, err := manifest.Sign(path, key); err != nil {
			t.Fatalf("production refuses what was pinned: %v\n%s", err, out)
		}
	})
}
