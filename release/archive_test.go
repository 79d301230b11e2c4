package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/manifest"
)

// some of the programs stand for all in the tests: what is done with each is the
// same.
var some = []string{"tagctl", "tagstore-config", "tagstore-plugin-local"}

// A release has all programs, the function's where it can run.
func TestReleaseIsComplete(t *testing.T) {
	t.Parallel()
	for goos, want := range map[string]int{"darwin": 9, "linux": 10} {
		if got := (settings{}).programs(target{goos, "arm64"}); len(got) != want {
			t.Errorf("for %s there are %v", goos, got)
		}
	}
	folders, err := filepath.Glob("../plugins/*/main.go")
	if err != nil || len(folders) != len(pluginPrograms()) {
		t.Errorf("the plugins of the repository are %q, those of a release %v, %v", folders, pluginPrograms(), err)
	}
}

// A release for one target: what is in it, that its sums are right, and that
// what it says of itself is so.
func TestArchives(t *testing.T) {
	t.Parallel()
	theImages(t) // the same programs: linked once
	pair := runtime.GOOS + "/" + runtime.GOARCH
	o, err := made("archives", filepath.Join(t.TempDir(), "release"), "-targets", pair, "-snapshot", "-only", strings.Join(some, ","))
	if err != nil {
		t.Fatal(err)
	}
	name := "tagstore_1.2.3-test_" + runtime.GOOS + "_" + runtime.GOARCH
	files, err := os.ReadDir(o.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	if want := []string{"SHA256SUMS", "plugins.yaml", name + ".cdx.json", name + ".tar.gz"}; !slices.Equal(names, want) {
		t.Errorf("it has %q, want %q", names, want)
	}
	sums, err := os.ReadFile(filepath.Join(o.dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(sums)) {
		want, file, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if got, err := sumOf(filepath.Join(o.dir, file)); err != nil || got != want {
			t.Errorf("%s has the sum %s, said is %s, %v", file, got, want, err)
		}
		n++
	}
	if n != 3 {
		t.Errorf("there are %d checksums, want one for each other file:\n%s", n, sums)
	}

	top := unpackedTar(t, filepath.Join(o.dir, name+".tar.gz"), name)
	said, err := exec.CommandContext(t.Context(), filepath.Join(top, "tagctl"), "version").CombinedOutput()
	want := fmt.Sprintf("tagctl v1.2.3-test (commit 0123abc, %s, %s)\n", runtime.Version(), pair)
	if err != nil || string(said) != want {
		t.Errorf("tagctl version says %q, %v, want %q", said, err, want)
	}
	said, err = exec.CommandContext(t.Context(), filepath.Join(top, "tagstore-config"), "-version").CombinedOutput()
	if err != nil || string(said) != "tagstore-config v1.2.3-test\n" {
		t.Errorf("tagstore-config -version says %q, %v", said, err)
	}

	// The plugins' sums, as they stand in a manifest, are those of the plugins.
	plugins, err := os.ReadFile(filepath.Join(o.dir, "plugins.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(plugins), "\n  tagstore-plugin-local:\n    "+runtime.GOOS+": ")
	line, _, _ := strings.Cut(rest, "\n")
	if !ok || strings.Count(string(plugins), "  tagstore-plugin-") != 1 {
		t.Fatalf("the sums are\n%s", plugins)
	}
	text := fmt.Sprintf("version: 1\nbackends:\n  a:\n    plugin: ./plugins/tagstore-plugin-local\n    sha256: %s\nroutes: [{ prefix: a_, backend: a }]\n", line)
	at := filepath.Join(top, "tagstore.yaml")
	if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := manifest.Load(at, manifest.Options{Dev: true}); err != nil || m.Backends[0].SHA256 == "" {
		t.Errorf("a manifest with the line %q: %v", line, err)
	}
}

// unpackedTar unpacks an archive, which has all below one folder, and returns
// that.
func unpackedTar(t *testing.T, at, name string) string {
	t.Helper()
	to := t.TempDir()
	var files []string
	for r := tar.NewReader(bytes.NewReader(unzipped(t, at))); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(to, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		text, err := io.ReadAll(r)
		if err == nil {
			err = os.WriteFile(path, text, h.FileInfo().Mode())
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, strings.TrimPrefix(h.Name, name+"/"))
	}
	want := []string{"CHANGELOG.md", "LICENSE", "NOTICE", "README.md", "plugins/tagstore-plugin-local", "tagctl", "tagstore-config"}
	if !slices.Equal(files, want) {
		t.Errorf("the archive has %q, want %q", files, want)
	}
	return filepath.Join(to, name)
}
