package main

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/manifest"
)

// dir is where the tests build, empty until one does.
var dir string

func TestMain(m *testing.M) {
	code := m.Run()
	if dir != "" {
		_ = os.RemoveAll(dir)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// output is what a command printed, and where what it made is.
type output struct{ dir, text string }

// publicKey is what the command says that the services have to be told.
func (o output) publicKey(t *testing.T) string {
	t.Helper()
	_, rest, ok := strings.Cut(o.text, "TAGSTORE_MANIFEST_KEY=")
	if !ok {
		t.Fatalf("it tells no key:\n%s", o.text)
	}
	key, _, _ := strings.Cut(rest, "\n")
	return key
}

const dataFolder = "/tmp/data"

// manifestFlags are those of a manifest that needs nobody.
func manifestFlags() []string {
	return []string{"-arch", runtime.GOARCH, "-manifest", "release/testdata/tagstore.yaml", "-set", "DATA=" + dataFolder}
}

// theCommand is this program, without the race detector, under which compressing
// takes minutes.
var theCommand = sync.OnceValues(func() (string, error) {
	var err error
	if dir, err = os.MkdirTemp("", "release"); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // a service that is not root looks for its root in there
		return "", err
	}
	path := filepath.Join(dir, "release")
	if out, err := exec.CommandContext(context.Background(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// building has one command at a time in a folder of programs.
var building sync.Mutex

// made runs a command on this repository, as its Makefile does. A flag -work
// among those given is for one that is to build everything anew.
func made(name, out string, flags ...string) (output, error) {
	path, err := theCommand()
	if err != nil {
		return output{}, err
	}
	building.Lock()
	defer building.Unlock()
	args := append([]string{name, "-root", "..", "-out", out, "-work", filepath.Join(dir, "programs"), "-version", "v1.2.3-test", "-commit", "0123abc"}, flags...)
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(context.Background(), path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return output{}, fmt.Errorf("release %v: %w\n%s%s", args, err, &stdout, &stderr)
	}
	return output{out, stdout.String()}, nil
}

// madeImages are those of this machine's architecture, made once for all tests.
var madeImages = sync.OnceValues(func() (output, error) {
	if _, err := theCommand(); err != nil { // which makes dir
		return output{}, err
	}
	return made("image", filepath.Join(dir, "image"), manifestFlags()...)
})

func theImages(t *testing.T) output {
	t.Helper()
	o, err := madeImages()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

var treeLine = regexp.MustCompile(`(?m)^(config|order) +(\S+) +(\S+) MB +(\S+) MB +(sha256:[0-9a-f]{64})$`)

// What an image is made of, to the last file: a program that needs no other, no
// shell, nothing that somebody else could write to.
func TestTrees(t *testing.T) {
	t.Parallel()
	o := theImages(t)
	common := []string{
		"/ 0755 0", "dev/ 0755 0", "etc/ 0755 0", "etc/group 0444 0", "etc/passwd 0444 0", "etc/ssl/ 0755 0", "etc/ssl/certs/ 0755 0",
		"etc/ssl/certs/ca-certificates.crt 0444 0", "proc/ 0555 0", "sys/ 0555 0", "tmp/ 1777 0", "usr/ 0755 0",
		"usr/local/ 0755 0", "usr/local/bin/ 0755 0", "usr/share/ 0755 0", "usr/share/doc/ 0755 0", "usr/share/doc/tagstore/ 0755 0",
		"usr/share/doc/tagstore/LICENSE 0444 0", "usr/share/doc/tagstore/NOTICE 0444 0",
	}
	for service, own := range map[string][]string{
		"config": {
			"etc/tagstore/ 0755 0", "etc/tagstore/plugins/ 0755 0", "etc/tagstore/plugins/tagstore-plugin-local 0555 0",
			"etc/tagstore/schemas/ 0755 0", "etc/tagstore/schemas/any.json 0444 0", "etc/tagstore/tagstore.yaml 0444 0", "etc/tagstore/tagstore.yaml.sig 0444 0",
			"run/ 0755 0", "run/tagstore/ 0700 65532", "usr/local/bin/tagstore-config 0555 0",
		},
		"order": {"usr/local/bin/tagstore-order 0555 0", "var/ 0755 0", "var/lib/ 0755 0", "var/lib/tagstore/ 0700 65532"},
	} {
		want := slices.Sorted(slices.Values(append(own, common...)))
		root := rootOf(o.dir, service, runtime.GOARCH)
		var got []string
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if !info.ModTime().Equal(epoch) {
				t.Errorf("%s is of %v", path, info.ModTime())
			}
			mode := info.Mode().Perm()
			if info.Mode()&fs.ModeSticky != 0 {
				mode |= 0o1000
			}
			name := strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
			if d.IsDir() {
				name += "/"
			} else if !info.Mode().IsRegular() {
				t.Errorf("%s is no file: %v", path, info.Mode())
			}
			got = append(got, fmt.Sprintf("%s %04o %d", name, mode, owner(info)))
			if mode&0o111 != 0 && !d.IsDir() {
				isStatic(t, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if os.Geteuid() != 0 { // who can not give away what is its own
			for _, list := range [][]string{got, want} {
				for i := range list {
					list[i] = list[i][:strings.LastIndexByte(list[i], ' ')]
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has\n%s\nwant\n%s", service, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	for _, m := range treeLine.FindAllStringSubmatch(o.text, -1) {
		t.Logf("%s: %s MB, plugins %s MB", m[1], m[3], m[4])
	}
}

// isStatic says that a program brings all that it needs.
func isStatic(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s needs a dynamic linker, which is not there", path)
		}
	}
}

// The manifest of the image is one that the service takes, and the function too.
func TestManifestIsSigned(t *testing.T) {
	t.Parallel()
	o := theImages(t)
	key, err := manifest.ParseKey(o.publicKey(t))
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Load(filepath.Join(rootOf(o.dir, "config", runtime.GOARCH), "etc/tagstore/tagstore.yaml"), manifest.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Backends) != 2 || m.Backends[0].SHA256 == "" {
		t.Errorf("it has %+v", m.Backends)
	}
}

// The same sources are the same trees, whatever was built before and wherever.
func TestTreesAreReproducible(t *testing.T) {
	t.Parallel()
	o := theImages(t)
	// A signature is by a key; everything else is by the sources.
	again := filepath.Join(t.TempDir(), "elsewhere")
	p, err := made("image", again, append(manifestFlags(), "-key", filepath.Join(dir, "programs", "unreleased.key"), "-work", filepath.Join(again, "programs"))...)
	if err != nil {
		t.Fatal(err)
	}
	first, second := treeLine.FindAllString(o.text, -1), treeLine.FindAllString(p.text, -1)
	if len(first) != 2 || !slices.Equal(first, second) {
		t.Errorf("first\n%s\nthen\n%s", strings.Join(first, "\n"), strings.Join(second, "\n"))
	}
	if first, second := digests(t, o), digests(t, p); !slices.Equal(first, second) {
		t.Errorf("the images are %v, then %v", first, second)
	}
	for _, service := range []string{"config", "order"} {
		name := filepath.Join(service, runtime.GOARCH+".cdx.json")
		a, err := os.ReadFile(filepath.Join(o.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(p.dir, name)); err != nil || !bytes.Equal(a, b) {
			t.Errorf("the bills of materials of %s differ: %v", service, err)
		}
	}
}

func TestTreeRefuses(t *testing.T) {
	t.Parallel()
	for _, paths := range [][]string{{"a", "a"}, {"../a"}, {"/a"}, {"a/"}, {""}} {
		var entries []entry
		for _, p := range paths {
			entries = append(entries, file(p, 0o444, nil))
		}
		if tr, err := newTree(entries...); err == nil {
			t.Errorf("%q make %v", paths, tr)
		}
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, exitUsage, "usage: release image-root|image|lambda|archives"},
		{[]string{"images"}, exitUsage, `there is no command "images"`},
		{[]string{"image", "-help"}, exitOK, "-manifest"},
		{[]string{"image", "-arch", "arm"}, exitUsage, `"arm" is none of amd64, arm64`},
		{[]string{"image", "-arch", "arm64,arm64"}, exitUsage, `"arm64" is there twice`},
		{[]string{"image", "-set", "A"}, exitUsage, "it is not NAME=VALUE"},
		{[]string{"image", "here"}, exitUsage, `unexpected argument "here"`},
		{[]string{"image", "-root", "..", "-out", t.TempDir()}, exitFailed, "release/tagstore.yaml: it needs -set ACCOUNT=… -set ENVIRONMENT=… -set PROJECT=… -set REGION=…"},
		{[]string{"image", "-root", "..", "-out", t.TempDir(), "-version", "a b", "-manifest", "release/testdata/tagstore.yaml", "-set", "DATA=/x"}, exitFailed, `"a b" is no version`},
		{[]string{"lambda", "-root", "..", "-out", t.TempDir(), "-manifest", "none.yaml"}, exitFailed, "none.yaml: no such file"},
		{[]string{"archives", "-out", t.TempDir(), "-version", "v1.2.3-4-gabc"}, exitFailed, "v1.2.3-4-gabc is no version of a release"},
		{[]string{"archives", "-out", t.TempDir(), "-version", "v1.2.3-dirty"}, exitFailed, "is no version of a release"},
		{[]string{"archives", "-targets", "linux/386"}, exitUsage, `"linux/386" is none of`},
	} {
		var out bytes.Buffer
		if len(c.args) > 1 {
			c.args = slices.Insert(c.args, 1, "-work", t.TempDir(), "-out", t.TempDir())
		}
		if code := run(t.Context(), c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%q: code %d, want %d and %q in\n%s", c.args, code, c.code, c.says, &out)
		}
	}
}

// Two commands in one folder would pack each other's programs.
func TestOneCommandAtATime(t *testing.T) {
	t.Parallel()
	work := t.TempDir()
	unlock, err := lock(work)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(work); err == nil || !strings.Contains(err.Error(), "another command builds in "+work) {
		t.Errorf("a second one: %v", err)
	}
	unlock()
	if unlock, err = lock(work); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// A private key that others can read is none, and neither is a plugin that
// nobody has.
func TestManifestRefuses(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "release.key")
	if err := os.WriteFile(key, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := signingKey(settings{key: key}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("an open key: %v", err)
	}
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := signingKey(settings{key: key}); err == nil || !strings.Contains(err.Error(), "no private key") {
		t.Errorf("what is no key: %v", err)
	}
	foreign := filepath.Join(t.TempDir(), "tagstore.yaml")
	text := "version: 1\nbackends: { a: { plugin: ./plugins/theirs } }\nroutes: [{ prefix: a_, backend: a }]\n"
	if err := os.WriteFile(foreign, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := made("image-root", t.TempDir(), "-arch", runtime.GOARCH, "-manifest", foreign)
	if err == nil || !strings.Contains(err.Error(), "theirs is no plugin of this repository: say with -plugins where it is") {
		t.Errorf("somebody else's plugin: %v", err)
	}
}
