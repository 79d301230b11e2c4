package pluginkit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExpand(t *testing.T) {
	got, err := Expand(`{"path": "{tmp}/a.db", "table": "{unique}-{unique}", "n": {"{tmp}": 1}}`, `/x/"y"`, "t12")
	if want := `{"path": "/x/\"y\"/a.db", "table": "t12-t12", "n": {"/x/\"y\"": 1}}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
	if got, err := Expand(" \n", "", ""); err != nil || string(got) != "{}" {
		t.Errorf("got %s, %v", got, err)
	}
	for _, bad := range []string{"[]", "null", "5", "{", `{"a":1} x`} {
		if _, err := Expand(bad, "", ""); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// Two stores share nothing.
func TestStoresAreApart(t *testing.T) {
	target := Target{Binary: "x", Options: `{"path":"{tmp}","name":"{unique}"}`}
	a, err1 := target.newStore(nil)
	b, err2 := target.newStore(nil)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if a.dir == b.dir || bytes.Equal(a.options, b.options) {
		t.Errorf("%s and %s", a.options, b.options)
	}
	if err := errors.Join(a.remove(), b.remove()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(a.dir); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// syncBuffer is an output that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestWatchBuildsWhatChanges(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("source", "1")
	var out syncBuffer
	b := Builder{Dir: dir, Command: "grep -v broken source && cp source made", Binary: filepath.Join(dir, "made"), Output: &out}
	source := b.Source()
	if err := b.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	built, done := make(chan string, 8), make(chan struct{})
	go func() {
		defer close(done)
		b.Watch(ctx, source, func() {
			made, _ := os.ReadFile(b.Binary)
			built <- string(made)
		})
	}()
	next := func() string {
		t.Helper()
		select {
		case text := <-built:
			return text
		case <-time.After(20 * time.Second):
			t.Fatalf("nothing was built: %s", out.String())
			return ""
		}
	}
	write("source", "22")
	if got := next(); got != "22" {
		t.Errorf("built %q", got)
	}
	write("source", "broken")
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(out.String(), "what served goes on"); {
		if time.Now().After(deadline) {
			t.Fatalf("the broken build is not told of: %s", out.String())
		}
		<-time.After(5 * time.Millisecond)
	}
	write(".hidden", "not source")
	write("source", "333")
	if got := next(); got != "333" {
		t.Errorf("built %q", got)
	}
	cancel()
	<-done
	if len(built) > 0 {
		t.Errorf("built once more: %q", <-built)
	}
}

// A build that is given up takes what it started with it.
func TestBuildEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	b := Builder{Dir: dir, Command: "sleep 600 & touch started; wait", Binary: "none", Output: &syncBuffer{}}
	failed := make(chan error, 1)
	go func() { failed <- b.Build(ctx) }()
	for {
		if _, err := os.Stat(filepath.Join(dir, "started")); err == nil {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	cancel()
	if err := <-failed; err == nil {
		t.Error("it was built")
	}
}

func TestInitFindsCore(t *testing.T) {
	root := t.TempDir()
	core := filepath.Join(root, "core")
	near := filepath.Join(root, "deep", "er")
	if err := errors.Join(os.MkdirAll(core, 0o700), os.MkdirAll(near, 0o700),
		os.WriteFile(filepath.Join(core, "go.mod"), []byte("module "+corePath+"\n\nrequire a.example/b v1.0.0 // indirect\nrequire (\n\tc.example/d v2.0.0\n)\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	text, replaced, err := Init{Name: "x", Module: "x", Core: core}.goMod(near)
	if err != nil || replaced != core {
		t.Fatalf("%q, %v", replaced, err)
	}
	for _, want := range []string{"a.example/b v1.0.0 // indirect", "c.example/d v2.0.0 // indirect", "replace " + corePath + " => ../../core\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if _, err := (Init{Core: near}).findCore(); !errors.Is(err, config.InvalidArgument) {
		t.Errorf("got %v", err)
	}
}

func TestApart(t *testing.T) {
	for options, want := range map[string]bool{
		"": false, `{"path": "/srv/store.db"}`: false, `{"path": "{tmp}/store.db"}`: true, `{"url": "redis://localhost", "key_prefix": "{unique}:"}`: true,
	} {
		if got := (Target{Options: options}).Apart(); got != want {
			t.Errorf("%s: %v", options, got)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]Packing{
		"a script":  {Name: "a", Version: "v1", Binaries: []string{script}, Dir: t.TempDir()},
		"no name":   {Version: "v1", Binaries: []string{os.Args[0]}, Dir: t.TempDir()},
		"a path":    {Name: "../a", Version: "v1", Binaries: []string{os.Args[0]}, Dir: t.TempDir()},
		"no binary": {Name: "a", Version: "v1", Binaries: []string{script + "x"}, Dir: t.TempDir()},
	} {
		if made, err := Pack(p); err == nil {
			t.Errorf("%s: %+v", name, made)
		} else if left, _ := os.ReadDir(p.Dir); len(left) > 0 {
			t.Errorf("%s left %v", name, left)
		}
	}
}
