package client

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// A token that outlives every clock is one that never expires.
func TestTokenOfManyYears(t *testing.T) {
	for name, at := range map[string]time.Time{
		"the end of time, as people write it": time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		"seconds that are milliseconds":       time.Unix(time.Now().UnixMilli(), 0),
	} {
		t.Run(name, func(t *testing.T) {
			s := lonely(t, Expires(at))
			if s.expires < int64(100*365*24*time.Hour) {
				t.Errorf("the session ends at %v of the cache's life", time.Duration(s.expires))
			}
		})
	}
}

// What a session that ends lets go of is not missing in its snapshot, however it
// meets with a save.
func TestSnapshotIsWholeWhereTheSessionEnds(t *testing.T) {
	tenant, err := config.ParseTenant("acme")
	if err != nil {
		t.Fatal(err)
	}
	key := parsed(t, "p_a")
	var services []config.Service
	for _, name := range []string{"order", "billing"} {
		service, err := config.ParseService(name)
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, service)
	}
	for range 50 {
		file := Snapshot{Path: filepath.Join(t.TempDir(), "snap"), Key: make([]byte, SnapshotKeySize), Tenant: tenant}
		s := lonely(t)
		s.snapshot = &file
		var feeds []*feed
		for _, service := range services {
			f := newFeed(s, scope{"p_", service})
			for _, e := range []Event{{Kind: EventSync}, {Kind: EventPut, Entry: Entry{Key: key, Version: 1, Value: []byte("v")}}} {
				if err := f.event(e); err != nil {
					t.Fatal(err)
				}
			}
			s.mu.Lock()
			s.feeds[f.scope] = f
			s.mu.Unlock()
			f.mu.Lock()
			feeds = append(feeds, f)
		}
		saved, ended := make(chan error, 1), make(chan struct{})
		go func() { saved <- s.save() }()
		for s.saving.TryLock() { // until it is at work
			s.saving.Unlock()
		}
		go func() {
			defer close(ended)
			s.end()
		}()
		<-s.ctx.Done()
		for _, f := range feeds {
			f.mu.Unlock()
			for range 100 { // both go on to the other one
				runtime.Gosched()
			}
		}
		if err := <-saved; err != nil {
			t.Fatal(err)
		}
		<-ended
		if _, err := os.Stat(file.Path); err != nil {
			continue // not written, so what was there before still is
		}
		again := lonely(t)
		again.snapshot = &file
		if err := again.load(); err != nil {
			t.Fatal(err)
		}
		for _, service := range services {
			if sl := again.slots.Load().find(key, service); sl == nil || sl.record.Load() == nil {
				t.Fatalf("the file lacks what service %s read", service)
			}
		}
	}
}
