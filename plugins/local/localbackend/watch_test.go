package localbackend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

var errEnough = errors.New("enough")

// watchUntil runs a Watch until it has emitted n events and returns them.
func watchUntil(t *testing.T, s *Store, r driver.WatchRequest, n int) []driver.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var events []driver.Event
	err := s.Watch(ctx, r, func(e driver.Event) error {
		events = append(events, e)
		if len(events) == n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("watch after %d of %d events: %v", len(events), n, err)
	}
	return events
}

// brief shows events as "kind key version".
func brief(events []driver.Event) []string {
	var lines []string
	for _, e := range events {
		lines = append(lines, strings.TrimSpace(fmt.Sprint(e.Kind, " ", e.Entry.ID.Key, " ", e.Entry.Version)))
	}
	return lines
}

func TestWatchResumesInANewProcess(t *testing.T) {
	path := tempFile(t)
	s := openStore(t, Options{Path: path})
	a, other := id(t, "acme", "a"), id(t, "globex", "a")
	put(t, s, a, "1")
	r := driver.WatchRequest{Tenant: a.Tenant}
	events := watchUntil(t, s, r, 2)
	if diff := cmp.Diff([]string{"put a 1", "sync  0"}, brief(events)); diff != "" {
		t.Fatalf("at first (-want +got):\n%s", diff)
	}
	put(t, s, other, "x")
	put(t, s, a, "2")
	remove(t, s, a)
	closeIt(t, s)

	s = openStore(t, Options{Path: path})
	put(t, s, a, "4")
	r.After = events[1].Position
	events = watchUntil(t, s, r, 4)
	if diff := cmp.Diff([]string{"put a 2", "delete a 3", "put a 4", "sync  0"}, brief(events)); diff != "" {
		t.Fatalf("resumed (-want +got):\n%s", diff)
	}
	if got := string(events[2].Entry.Value); got != "4" {
		t.Errorf("value is %q, want 4", got)
	}
	r.After = events[0].Position
	events = watchUntil(t, s, r, 3)
	if diff := cmp.Diff([]string{"delete a 3", "put a 4", "sync  0"}, brief(events)); diff != "" {
		t.Fatalf("resumed from within (-want +got):\n%s", diff)
	}
}

func TestCompactedWatchIsOutOfRange(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t), ChangeLimit: 5})
	a := id(t, "acme", "a")
	r := driver.WatchRequest{Tenant: a.Tenant}
	r.After = watchUntil(t, s, r, 1)[0].Position
	for i := range 5 {
		put(t, s, a, fmt.Sprint(i))
	}
	if got := len(watchUntil(t, s, r, 6)); got != 6 {
		t.Fatalf("%d events", got)
	}
	put(t, s, a, "one too many")
	err := s.Watch(t.Context(), r, func(driver.Event) error { return nil })
	wantCode(t, err, config.OutOfRange)
}

// A resume point from a newer copy of the file is refused rather than waited
// for.
func TestPositionBehindTheLogIsOutOfRange(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	r := driver.WatchRequest{Tenant: tenant(t, "acme")}
	r.After = s.tokens.position(1, r)
	err := s.Watch(t.Context(), r, func(driver.Event) error { return nil })
	wantCode(t, err, config.OutOfRange)
}

// The snapshot is one moment, whatever is written while it is emitted, and the
// stream goes on from just there.
func TestSnapshotOfManyPagesIsOneMoment(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	const n = 2*watchEvents + 10
	key := func(i int) config.ID { return id(t, "acme", fmt.Sprintf("k%04d", i)) }
	for i := range n {
		put(t, s, key(i), "old")
	}
	var events []driver.Event
	err := s.Watch(t.Context(), driver.WatchRequest{Tenant: tenant(t, "acme")}, func(e driver.Event) error {
		if len(events) == 1 {
			put(t, s, key(0), "new")     // was emitted
			put(t, s, key(n-1), "new")   // is not yet
			put(t, s, key(n-1), "newer") //
			remove(t, s, key(n-2))       // is gone before its turn
			remove(t, s, key(n-3))       //
			put(t, s, key(n-3), "again") // is back before its turn
			put(t, s, key(n), "created") // was not there
		}
		events = append(events, e)
		if len(events) == n+1+7 {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	for i, e := range events[:n] {
		if e.Kind != driver.EventPut || e.Entry.ID != key(i) || e.Entry.Version != 1 || string(e.Entry.Value) != "old" {
			t.Fatalf("event %d of the snapshot is %v", i, brief(events[i:i+1]))
		}
	}
	want := []string{
		"sync  0", "put k0000 2", "put k0521 2", "put k0521 3", "delete k0520 2", "delete k0519 2", "put k0519 3", "put k0522 1",
	}
	if diff := cmp.Diff(want, brief(events[n:])); diff != "" {
		t.Errorf("behind the snapshot (-want +got):\n%s", diff)
	}
}

// A receiver that is slower than versions are kept is told so.
func TestOvertakenSnapshotIsOutOfRange(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t), HistoryLimit: 1, ChangeLimit: 2})
	const n = watchEvents + 1
	for i := range n {
		put(t, s, id(t, "acme", fmt.Sprintf("k%04d", i)), "old")
	}
	once := true
	err := s.Watch(t.Context(), driver.WatchRequest{Tenant: tenant(t, "acme")}, func(e driver.Event) error {
		if once {
			once = false
			for range 10 {
				put(t, s, id(t, "acme", fmt.Sprintf("k%04d", n-1)), "new")
			}
		}
		return nil
	})
	wantCode(t, err, config.OutOfRange)
}

// A receiver that does not return holds up nobody, and no room in the file.
func TestSlowReceiverHoldsNothing(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t), HistoryLimit: 1, ChangeLimit: 10})
	a := id(t, "acme", "a")
	put(t, s, a, "0")
	blocked, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.Watch(t.Context(), driver.WatchRequest{Tenant: a.Tenant}, func(e driver.Event) error {
			if e.Kind == driver.EventSync {
				close(blocked)
				<-goOn
				return errEnough
			}
			return nil
		})
	}()
	<-blocked
	big := strings.Repeat("x", 100_000)
	for range 100 {
		put(t, s, a, big)
	}
	size, err := s.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if limit := int64(40 * len(big)); size.Bytes > limit {
		t.Errorf("the file has %d bytes after 100 overwrites of %d, want at most %d", size.Bytes, len(big), limit)
	}
	close(goOn)
	if err := <-done; !errors.Is(err, errEnough) {
		t.Error(err)
	}
}

func TestEveryWatchSeesEveryChangeOnce(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	const writers, each, watchers = 8, 40, 4
	var wg sync.WaitGroup
	for range watchers {
		wg.Go(func() {
			versions := make(map[config.ID]uint64)
			var finished int
			err := s.Watch(t.Context(), driver.WatchRequest{Tenant: tenant(t, "acme")}, func(e driver.Event) error {
				if e.Kind != driver.EventPut {
					return nil
				}
				if last := versions[e.Entry.ID]; last > 0 && e.Entry.Version != last+1 {
					return fmt.Errorf("%s: version %d after %d", e.Entry.ID.Key, e.Entry.Version, last)
				}
				versions[e.Entry.ID] = e.Entry.Version
				if e.Entry.Version == each {
					if finished++; finished == writers {
						return errEnough
					}
				}
				return nil
			})
			if !errors.Is(err, errEnough) {
				t.Error(err)
			}
		})
	}
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				_, err := s.Put(t.Context(), driver.PutRequest{ID: id(t, "acme", fmt.Sprint("k", w)), Value: fmt.Append(nil, i)})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// A quiet Watch says how far it is, by the clock alone.
func TestQuietWatchReportsProgress(t *testing.T) {
	path := tempFile(t)
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, Options{Path: path})
		r := driver.WatchRequest{Tenant: tenant(t, "acme")}
		begun := time.Now()
		var events []driver.Event
		err := s.Watch(t.Context(), r, func(e driver.Event) error {
			if events = append(events, e); len(events) == 3 {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"sync  0", "progress  0", "progress  0"}, brief(events)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		if took := time.Since(begun); took != 2*progressEvery {
			t.Errorf("they took %s, want %s", took, 2*progressEvery)
		}
		if got, err := s.tokens.sequence(events[2].Position, r); err != nil || got != s.acked.Load() {
			t.Errorf("the position is %d (%v), want %d", got, err, s.acked.Load())
		}
	})
}
