package client_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	gosync "sync"
	"syscall"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// told collects what OnError is told.
type told struct {
	mu  gosync.Mutex
	all []error
}

func (o *told) add(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, err)
}

func (o *told) has(code config.Code) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, err := range o.all {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

func snapshot(t *testing.T) client.Snapshot {
	t.Helper()
	return client.Snapshot{Path: filepath.Join(t.TempDir(), "snap"), Key: bytes.Repeat([]byte{7}, client.SnapshotKeySize), Tenant: tenant(t, "acme")}
}

// Who comes with the token while its snapshot is being loaded gets what is in it,
// too, and does not keep it from being used.
func TestSnapshotIsLoadedBeforeAnybodyReads(t *testing.T) {
	o := client.CacheOptions{Patience: 100 * time.Millisecond}
	r := newRig(t, 1, o)
	r.world.put("acme", "p_a", `1`, "")
	file := snapshot(t)
	r.holds(r.session("acme/1", client.WithSnapshot(file)), "p_a", `1`)
	r.until("the file is there", func() bool { _, err := os.Stat(file.Path); return err == nil })
	if err := r.cache.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file.Path)
	if err != nil {
		t.Fatal(err)
	}

	r.replicas[0].fail(away)
	r.cache = r.newCache(o)
	file.Path += ".slow"
	if err := syscall.Mkfifo(file.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(opts ...client.SessionOption) chan error {
		done := make(chan error, 1)
		go func() {
			s, err := r.cache.Session("acme/2", opts...)
			if err == nil {
				_, err = r.get(s, "p_a")
			}
			done <- err
		}()
		return done
	}
	first := read(client.WithSnapshot(file))
	slow, err := os.OpenFile(file.Path, os.O_WRONLY, 0) // returns once it is being read
	if err != nil {
		t.Fatal(err)
	}
	second := read()
	select {
	case err := <-second:
		t.Errorf("it was answered before the snapshot was there, with %v", err)
		second <- err
	case <-time.After(50 * time.Millisecond): // time enough to do it wrong
	}
	if _, err := slow.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := slow.Close(); err != nil {
		t.Fatal(err)
	}
	for name, done := range map[string]chan error{"first": first, "second": second} {
		if err := <-done; err != nil {
			t.Errorf("the %s read: %v", name, err)
		}
	}
}

// A service starts from its snapshot while nobody answers, says so with each
// answer, and has the present state once somebody does.
func TestSnapshotStandsInUntilTheFirstContact(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{Patience: 100 * time.Millisecond, Secrets: true})
	r.world.put("acme", "p_a", `"hunter2"`, "")
	r.world.put("acme", "p_s", `"hush"`, "")
	r.world.state["acme p_s"].Secret = true
	file := snapshot(t)
	s := r.session("acme/1", client.WithSnapshot(file))
	r.holds(s, "p_a", `"hunter2"`)
	r.until("the file is there", func() bool { _, err := os.Stat(file.Path); return err == nil })
	if err := r.cache.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the file has %v, %v", info.Mode(), err)
	}
	content, err := os.ReadFile(file.Path)
	if err != nil || bytes.Contains(content, []byte("hunter2")) || bytes.Contains(content, []byte("p_a")) {
		t.Fatalf("the file is to be read: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file.Path), ".snap*")); len(left) > 0 {
		t.Errorf("%v are left over", left)
	}

	r.replicas[0].fail(away)
	r.cache = r.newCache(client.CacheOptions{Patience: 100 * time.Millisecond, Secrets: true, StaleIfError: time.Nanosecond})
	again := r.session("acme/2", client.WithSnapshot(file))
	a, err := r.get(again, "p_a")
	if err != nil || string(a.Entry.Value) != `"hunter2"` || a.Freshness.Source != config.SourceSnapshot || a.Freshness.State != config.StateStale || a.Lag <= 0 {
		t.Fatalf("out of the snapshot it answered %+v, %v", a, err)
	}
	v := &client.Value[string]{Key: key(t, "p_a")}
	if got, err := v.Get(t.Context(), again); err != nil || got.Value != "hunter2" || got.Freshness.Source != config.SourceSnapshot {
		t.Errorf("out of the snapshot a Value read %+v, %v", got, err)
	}
	if _, err := r.get(again, "p_s"); !errors.Is(err, config.Unavailable) {
		t.Errorf("a secret is in the snapshot: %v", err)
	}
	r.world.put("acme", "p_a", `"new"`, "")
	r.replicas[0].fail(nil)
	r.holds(again, "p_a", `"new"`)
	if got, err := v.Get(t.Context(), again); err != nil || got.Value != "new" || got.Freshness.Source != config.SourceCache {
		t.Errorf("after the first contact a Value read %+v, %v", got, err)
	}
}

func TestSnapshotTakesSecretsIfAsked(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{Patience: 100 * time.Millisecond, Secrets: true})
	r.world.put("acme", "p_s", `"hush"`, "")
	r.world.state["acme p_s"].Secret = true
	file := snapshot(t)
	file.Secrets = true
	r.holds(r.session("acme/1", client.WithSnapshot(file)), "p_s", `"hush"`)
	_ = r.cache.Close()
	r.replicas[0].fail(away)
	r.cache = r.newCache(client.CacheOptions{Patience: 100 * time.Millisecond, Secrets: true})
	if a, err := r.get(r.session("acme/2", client.WithSnapshot(file)), "p_s"); err != nil || string(a.Entry.Value) != `"hush"` {
		t.Errorf("answered %q, %v", a.Entry.Value, err)
	}
}

// A file of another tenant or key, a damaged one, one that is too old and none
// at all are no snapshot, and no reason not to start.
func TestSnapshotsThatAreNotTaken(t *testing.T) {
	r := newRig(t, 1, client.CacheOptions{Patience: 100 * time.Millisecond})
	r.world.put("acme", "p_a", "1", "")
	file := snapshot(t)
	r.holds(r.session("acme/1", client.WithSnapshot(file)), "p_a", "1")
	_ = r.cache.Close()
	good, err := os.ReadFile(file.Path)
	if err != nil {
		t.Fatal(err)
	}
	r.replicas[0].fail(away)
	for name, tc := range map[string]struct {
		change func(*client.Snapshot) []byte
		silent bool
	}{
		"another tenant": {change: func(s *client.Snapshot) []byte { s.Tenant = tenant(t, "globex"); return good }},
		"another key":    {change: func(s *client.Snapshot) []byte { s.Key = bytes.Repeat([]byte{8}, 32); return good }},
		"a flipped bit":  {change: func(*client.Snapshot) []byte { b := bytes.Clone(good); b[len(b)-20] ^= 1; return b }},
		"cut off":        {change: func(*client.Snapshot) []byte { return good[:len(good)/2] }},
		"another file":   {change: func(*client.Snapshot) []byte { return []byte("hello") }},
		"too old":        {change: func(s *client.Snapshot) []byte { s.MaxAge = time.Nanosecond; return good }, silent: true},
		"none":           {change: func(s *client.Snapshot) []byte { s.Path += ".none"; return nil }, silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			one := file
			one.Path = filepath.Join(t.TempDir(), "snap")
			if content := tc.change(&one); content != nil {
				if err := os.WriteFile(one.Path, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var errs told
			cache, err := client.NewCache(r.client, client.CacheOptions{Prefixes: []string{"p_"}, OnError: errs.add})
			if err != nil {
				t.Fatal(err)
			}
			defer cache.Close()
			s, err := cache.Session("acme/2", client.WithSnapshot(one))
			if err != nil {
				t.Fatal(err)
			}
			if a, err := s.Get(t.Context(), key(t, "p_a"), config.Service{}); !errors.Is(err, config.Unavailable) {
				t.Errorf("answered %q, %v", a.Entry.Value, err)
			}
			if errs.has(config.FailedPrecondition) == tc.silent {
				t.Errorf("OnError was told %v", errs.all)
			}
		})
	}
	for name, change := range map[string]func(*client.Snapshot){
		"no path": func(s *client.Snapshot) { s.Path = "" }, "short key": func(s *client.Snapshot) { s.Key = s.Key[:16] },
		"no tenant": func(s *client.Snapshot) { s.Tenant = config.Tenant{} }, "shared": func(s *client.Snapshot) { s.Tenant = config.Shared() },
	} {
		one := file
		change(&one)
		cache := r.newCache(client.CacheOptions{})
		if _, err := cache.Session("acme/3", client.WithSnapshot(one)); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%s: answered %v", name, err)
		}
	}
}
