package command_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/cli/internal/command"
)

// release is a folder with a manifest as it is before its first release.
func release(t *testing.T) func(args ...string) result {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.Mkdir("plugins", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"plugins/fake": "#!/bin/sh\nexit 1\n", "schema.json": "true",
		"tagstore.yaml": "version: 1\nbackends:\n  a:\n    plugin: plugins/fake # the only one\nroutes:\n  - { prefix: a_, backend: a, schema: schema.json }\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return func(args ...string) result {
		t.Helper()
		return run(t, command.Process{Args: append([]string{"manifest"}, args...)})
	}
}

func want(t *testing.T, got result, status int, says ...string) {
	t.Helper()
	if got.status != status {
		t.Errorf("exit status %d, want %d; stdout:\n%sstderr:\n%s", got.status, status, got.stdout, got.stderr)
	}
	for _, text := range says {
		if !strings.Contains(got.stdout+got.stderr, text) {
			t.Errorf("it does not say %q; stdout:\n%sstderr:\n%s", text, got.stdout, got.stderr)
		}
	}
}

func flip(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(path, text, 0o700); err != nil {
		t.Fatal(err)
	}
}

// From an unsigned manifest to one that a service takes, and back by one byte.
func TestR11ReleaseByCommandLine(t *testing.T) {
	manifest := release(t)
	made := manifest("keygen", "release.key")
	want(t, made, 0, "TAGSTORE_MANIFEST_KEY")
	for file, mode := range map[string]os.FileMode{"release.key": 0o600, "release.key.pub": 0o644} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm()&^mode != 0 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	public := strings.TrimSpace(made.stdout)

	want(t, manifest("verify", "tagstore.yaml", "--key", public), 6, "the manifest is not signed", "tagctl manifest sign")
	want(t, manifest("sign", "tagstore.yaml", "--key", "release.key"), 6, `backend "a" has no sha256`, "no schema_sha256")
	want(t, manifest("pin", "tagstore.yaml"), 0, "plugins/fake", "yes")
	if text, err := os.ReadFile("tagstore.yaml"); err != nil || !strings.Contains(string(text), "plugin: plugins/fake # the only one\n    sha256: ") {
		t.Errorf("the manifest is now\n%s%v", text, err)
	}
	if info, err := os.Stat("tagstore.yaml"); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	want(t, manifest("sign", "tagstore.yaml", "--key", "release.key"), 0, "tagstore.yaml.sig")
	for _, key := range []string{public, "release.key.pub"} {
		want(t, manifest("verify", "tagstore.yaml", "--key", key), 0, "1 backends, 1 routes")
	}
	want(t, run(t, command.Process{Args: []string{"manifest", "verify", "tagstore.yaml"}, Environ: []string{"TAGSTORE_MANIFEST_KEY=" + public}}), 0)
	again := manifest("pin", "tagstore.yaml")
	want(t, again, 0, "no")
	if strings.Contains(again.stderr, "Sign it anew") {
		t.Error("pinning what is pinned is said to break the signature")
	}

	for _, file := range []string{"tagstore.yaml", "plugins/fake", "schema.json", "tagstore.yaml.sig"} {
		flip(t, file)
		want(t, manifest("verify", "tagstore.yaml", "--key", public), 6)
		flip(t, file)
	}
	want(t, manifest("verify", "tagstore.yaml", "--key", public), 0)

	// For two architectures.
	want(t, manifest("pin", "tagstore.yaml", "--arch", "s390x"), 0, "s390x")
	want(t, manifest("pin", "tagstore.yaml", "--arch", runtime.GOARCH), 0, runtime.GOARCH)
	if text, err := os.ReadFile("tagstore.yaml"); err != nil || !strings.Contains(string(text), "sha256: { s390x: ") {
		t.Errorf("the manifest is now\n%s%v", text, err)
	}
	want(t, manifest("pin", "tagstore.yaml", "--arch", "x86"), 6, "bad architecture \"x86\"")
	want(t, manifest("sign", "tagstore.yaml", "--key", "release.key"), 0)
	want(t, manifest("verify", "tagstore.yaml", "--key", public), 0)

	flip(t, "plugins/fake") // a new build
	want(t, manifest("pin", "tagstore.yaml"), 0, "yes", "Sign it anew: tagstore.yaml.sig")
	want(t, manifest("verify", "tagstore.yaml", "--key", public), 6, "is not what was signed")
	key, err := os.Open("release.key")
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	want(t, run(t, command.Process{Args: []string{"manifest", "sign", "tagstore.yaml", "--key", "-", "-o", "json"}, Stdin: key}), 0, public)
	want(t, manifest("verify", "tagstore.yaml", "--key", public), 0)
}

func TestManifestRefuses(t *testing.T) {
	manifest := release(t)
	want(t, manifest("keygen", "release.key"), 0)
	private, err := os.ReadFile("release.key")
	if err != nil {
		t.Fatal(err)
	}
	want(t, manifest("keygen", "release.key"), 5, "release.key is there already")
	if now, err := os.ReadFile("release.key"); err != nil || string(now) != string(private) {
		t.Errorf("the key was overwritten: %v", err)
	}
	want(t, manifest("keygen", filepath.Join("none", "key")), 1, "no such file")
	want(t, manifest("sign", "tagstore.yaml"), 2, "--key is missing")
	want(t, manifest("sign", "tagstore.yaml", "--key", "none"), 2, "no such file")
	want(t, manifest("sign", "tagstore.yaml", "--key", "release.key.pub"), 1, "others can read")
	if err := os.Chmod("release.key.pub", 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, manifest("sign", "tagstore.yaml", "--key", "release.key.pub"), 6, "--key has a public key")
	want(t, manifest("verify", "tagstore.yaml"), 2, "--key is missing")
	want(t, manifest("verify", "tagstore.yaml", "--key", "release.key"), 6, "the key is a private key")
	if err := os.Chmod("release.key", 0o644); err != nil {
		t.Fatal(err)
	}
	want(t, manifest("sign", "tagstore.yaml", "--key", "release.key"), 1, "others can read the private key", "chmod 600")
	want(t, manifest("pin", "none.yaml"), 6, "none.yaml: the manifest can not be read")
}

func TestManifestJSON(t *testing.T) {
	manifest := release(t)
	for _, c := range []struct {
		args []string
		keys []string
	}{
		{[]string{"keygen", "k"}, []string{"private_key_file", "public_key_file", "public_key"}},
		{[]string{"pin", "tagstore.yaml"}, []string{"pinned"}},
		{[]string{"sign", "tagstore.yaml", "--key", "k"}, []string{"signature_file", "public_key"}},
		{[]string{"verify", "tagstore.yaml", "--key", "k.pub"}, []string{"backends", "routes"}},
	} {
		got := manifest(append(c.args, "-o", "json")...)
		want(t, got, 0)
		var out map[string]any
		if err := json.Unmarshal([]byte(got.stdout), &out); err != nil {
			t.Errorf("%v: %v", c.args, err)
		}
		for _, key := range c.keys {
			if _, ok := out[key]; !ok {
				t.Errorf("%v: there is no %s in\n%s", c.args, key, got.stdout)
			}
		}
	}
}

// Seeding runs plugins, so it asks for what a service asks for.
func TestR11SeedRunsOnlyWhatIsSigned(t *testing.T) {
	manifest := release(t)
	want(t, manifest("keygen", "k"), 0)
	want(t, manifest("pin", "tagstore.yaml"), 0)
	seed := func(args ...string) result {
		return run(t, command.Process{
			Args:  append([]string{"seed", "--manifest", "tagstore.yaml", "-"}, args...),
			Stdin: strings.NewReader(`[{"tenant": "acme-corp", "key": "a_b", "value": 1}]`),
		})
	}
	want(t, seed(), 6, "there is no key to check the manifest's signature with")
	want(t, seed("--manifest-key", "k.pub"), 6, "the manifest is not signed")
	want(t, manifest("sign", "tagstore.yaml", "--key", "k"), 0)
	if got := seed("--manifest-key", "k.pub"); !strings.Contains(got.stderr, "plugin a") {
		t.Errorf("what is signed is not run: %s", got.stderr) // the program of this manifest ends at once
	}
}
