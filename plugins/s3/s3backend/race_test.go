package s3backend

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
)

const path = "acme/order/k"

var key = id("acme", "order", "k")

// step is one write of a test.
type step func(testing.TB, *Store)

func puts(value string) step {
	return func(t testing.TB, s *Store) { t.Helper(); put(t, s, key, value) }
}
func removes() step { return func(t testing.TB, s *Store) { t.Helper(); remove(t, s, key) } }
func puttings(value string) step {
	return func(t testing.TB, s *Store) { t.Helper(); foreign(t, s, path, value) }
}

// A value that changed and changed back has the ETag that it had. A write that
// was made for what was there before arrives after that: S3 takes it, and still
// nobody ever sees it, and its writer is told who won.
func TestWriteThatArrivesAfterItsValueCameBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, meanwhile []step
		late              func(*testing.T, *Store) error
		conflict          uint64 // with the late write, 0 if it goes on to succeed
		after             string // the history
	}{
		"put over a version": {
			before:    []step{puts("a"), puts("b"), puts("X")},
			meanwhile: []step{puts("Y"), puts("X")},
			late:      putting("late", driver.Version(3)), conflict: 5,
			after: "5 X, 4 Y, 3 X, 2 b, 1 a",
		},
		"put of the very same value": {
			before:    []step{puts("X")},
			meanwhile: []step{puts("Y"), puts("X")},
			late:      putting("X", driver.Version(1)), conflict: 3,
			after: "3 X, 2 Y, 1 X",
		},
		"put over whatever is there": {
			before:    []step{puts("X")},
			meanwhile: []step{puts("Y"), puts("X")},
			late:      putting("late", driver.Any()),
			after:     "4 late, 3 X, 2 Y, 1 X",
		},
		"delete": {
			before:    []step{puts("X")},
			meanwhile: []step{puts("Y"), puts("X")},
			late:      deleting(driver.Version(1)), conflict: 3,
			after: "3 X, 2 Y, 1 X",
		},
		"delete of whatever is there": {
			before:    []step{puts("X")},
			meanwhile: []step{puts("Y"), puts("X")},
			late:      deleting(driver.Any()),
			after:     "4 deleted, 3 X, 2 Y, 1 X",
		},
		"put of a key that is deleted again": {
			before:    []step{puts("X"), removes()},
			meanwhile: []step{puts("Y"), removes()},
			late:      putting("late", driver.Version(2)), conflict: 4,
			after: "4 deleted, 3 Y, 2 deleted, 1 X",
		},
		"put of a key that came and went": {
			meanwhile: []step{puts("Y"), removes()},
			late:      putting("late", driver.Absent()),
			after:     "3 late, 2 deleted, 1 Y",
		},
		"put after the deletion of the same value": {
			before:    []step{puts("X")},
			meanwhile: []step{removes(), puts("X")},
			late:      putting("late", driver.Version(1)), conflict: 3,
			after: "3 X, 2 deleted, 1 X",
		},
		"put after another tool's of the same value": {
			before:    []step{puts("X")},
			meanwhile: []step{puttings("X")},
			late:      putting("late", driver.Version(1)), conflict: 2,
			after: "2 X, 1 X",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct := openStore(t, Options{})
			for _, do := range c.before {
				do(t, direct)
			}
			proxy := emulators.NewProxy(t, emulators.Moto(t))
			slow := through(t, direct, proxy.URL)
			released, seen := make(chan struct{}), make(chan struct{})
			release, goOn := sync.OnceFunc(func() { close(released) }), sync.OnceFunc(func() { close(seen) })
			proxy.Inject(emulators.Fault{Operation: "PutObject", Times: 1, Until: released})
			var late error
			var wg sync.WaitGroup
			wg.Go(func() { late = c.late(t, slow) })
			defer wg.Wait()
			defer goOn()
			defer release()
			proxy.Await(t, "PutObject", 1)
			for _, do := range c.meanwhile {
				do(t, direct)
			}
			listed := proxy.Calls("ListObjectVersions")
			proxy.Inject(emulators.Fault{Operation: "ListObjectVersions", Times: 1, Until: seen})
			want, wantErr := direct.Get(t.Context(), key, 0)
			history := past(t, direct, key)
			release()
			proxy.Await(t, "ListObjectVersions", listed+1)

			// S3 holds the late write as the current object, and its writer is held up.
			for who, s := range map[string]*Store{"one that was there": direct, "one that is new": openStore(t, Options{Bucket: direct.bucket})} {
				got, err := s.Get(t.Context(), key, 0)
				if fmt.Sprint(err) != fmt.Sprint(wantErr) || string(got.Value) != string(want.Value) || got.Version != want.Version || got.Revision != want.Revision {
					t.Errorf("%s reads version %d %q (%v) while the late write is current, want version %d %q (%v)",
						who, got.Version, got.Value, err, want.Version, want.Value, wantErr)
				}
				if got := past(t, s, key); got != history {
					t.Errorf("%s has history %q, want %q", who, got, history)
				}
				if page := must(s.List(t.Context(), driver.ListRequest{Tenant: key.Tenant, Service: key.Service})); wantErr == nil &&
					(len(page.Entries) != 1 || page.Entries[0].Version != want.Version) || wantErr != nil && len(page.Entries) != 0 {
					t.Errorf("%s lists %v", who, page.Entries)
				}
			}
			// Another late write is removed while this writer looks where it came.
			proxy.Inject(emulators.Fault{Operation: "HeadObject", Times: 1, Then: emulators.Reply, Answer: emulators.Answer{Status: http.StatusNotFound}})
			goOn()
			wg.Wait()
			if c.conflict == 0 && late != nil {
				t.Errorf("the late write: %v", late)
			}
			if c.conflict > 0 {
				var e *config.Error
				if !errors.As(late, &e) || e.Code != config.Conflict || e.Version != c.conflict {
					t.Errorf("the late write: %v, want a conflict with version %d", late, c.conflict)
				}
			}
			if got := past(t, direct, key); got != c.after {
				t.Errorf("history %q, want %q", got, c.after)
			}
			// Other tools do not see it any more either.
			now, err := direct.Get(t.Context(), key, 0)
			value, there := others(t, direct, path)
			if there != (err == nil) || there && value != string(now.Value) {
				t.Errorf("other tools read %q (%t), the store %q (%v)", value, there, now.Value, err)
			}
			last := now.Version
			if err != nil {
				last = must(direct.History(t.Context(), driver.HistoryRequest{ID: key})).Entries[0].Version
			}
			if e := put(t, direct, key, "next"); e.Version != last+1 {
				t.Errorf("the next put made version %d, want %d", e.Version, last+1)
			}
		})
	}
}

func putting(value string, expect driver.Expect) func(*testing.T, *Store) error {
	return func(t *testing.T, s *Store) error {
		_, err := s.Put(t.Context(), driver.PutRequest{ID: key, Value: []byte(value), Expect: expect})
		return err
	}
}

func deleting(expect driver.Expect) func(*testing.T, *Store) error {
	return func(t *testing.T, s *Store) error {
		_, err := s.Delete(t.Context(), driver.DeleteRequest{ID: key, Expect: expect})
		return err
	}
}

// A late write whose writer dies stays void, and the next write goes on from
// the version that won.
func TestWriterThatDiesAfterALateWrite(t *testing.T) {
	t.Parallel()
	direct := openStore(t, Options{})
	put(t, direct, key, "X")
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	slow := through(t, direct, proxy.URL)
	release := make(chan struct{})
	proxy.Inject(emulators.Fault{Operation: "PutObject", Times: 1, Until: release})
	proxy.Inject(emulators.Fault{Operation: "ListObjectVersions", Then: emulators.DropBefore})
	var late error
	var wg sync.WaitGroup
	wg.Go(func() { late = putting("late", driver.Version(1))(t, slow) })
	proxy.Await(t, "PutObject", 1)
	put(t, direct, key, "Y")
	put(t, direct, key, "X")
	close(release)
	wg.Wait()
	wantCode(t, late, config.OutcomeUnknown)
	if value, _ := others(t, direct, path); value != "late" {
		t.Fatalf("other tools read %q: the late write is not there, and this test shows nothing", value)
	}
	fresh := openStore(t, Options{Bucket: direct.bucket})
	wantEntry(t, direct, key, 3, "X")
	wantEntry(t, fresh, key, 3, "X")
	if got, want := past(t, fresh, key), "3 X, 2 Y, 1 X"; got != want {
		t.Errorf("history %q, want %q", got, want)
	}
	_, err := fresh.Get(t.Context(), key, 2)
	if err != nil {
		t.Errorf("get of version 2: %v", err)
	}
	err = putting("no", driver.Version(2))(t, fresh)
	wantCode(t, err, config.Conflict)
	if e := put(t, fresh, key, "next"); e.Version != 4 {
		t.Errorf("the next put made version %d, want 4", e.Version)
	}
	wantEntry(t, openStore(t, Options{Bucket: direct.bucket}), key, 4, "next")
	if got, want := past(t, openStore(t, Options{Bucket: direct.bucket}), key), "4 next, 3 X, 2 Y, 1 X"; got != want {
		t.Errorf("history %q, want %q", got, want)
	}
}

// raceRounds is how often two writers race; -args -race-rounds=1000 is the long
// form.
var raceRounds = flag.Int("race-rounds", 100, "how often two writers race for one key")

// Two writers that expect the same version, again and again, with two values
// that keep coming back: of each two one succeeds, and what it wrote is what is
// there.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	const perKey = 50 // a new bucket now and then: the emulator's lists grow with the bucket
	rounds := *raceRounds
	var first, second *Store
	wins := [2]int{}
	var last config.Entry
	for round := range rounds {
		if round%perKey == 0 {
			first = openStore(t, Options{})
			second = openStore(t, Options{Bucket: first.bucket})
			last = config.Entry{}
		}
		var errs [2]error
		var entries [2]config.Entry
		values := [2]string{"A", "B"}
		if round%3 == 0 {
			values[1] = "A" // the same, too
		}
		var wg sync.WaitGroup
		for i, s := range []*Store{first, second} {
			wg.Go(func() {
				entries[i], errs[i] = s.Put(t.Context(), driver.PutRequest{ID: key, Value: []byte(values[i]), Expect: driver.Version(last.Version)})
			})
		}
		wg.Wait()
		winner := 0
		if errs[0] != nil {
			winner = 1
		}
		if errs[winner] != nil || errs[1-winner] == nil {
			t.Fatalf("round %d: the two writers got %v and %v, want one winner", round, errs[0], errs[1])
		}
		var e *config.Error
		if !errors.As(errs[1-winner], &e) || e.Code != config.Conflict || e.Version != last.Version+1 {
			t.Fatalf("round %d: the other writer got %v, want a conflict with version %d", round, errs[1-winner], last.Version+1)
		}
		wins[winner]++
		got := must([]*Store{first, second}[rand.IntN(2)].Get(t.Context(), key, 0))
		if got.Version != last.Version+1 || string(got.Value) != values[winner] || got.Revision != entries[winner].Revision {
			t.Fatalf("round %d: version %d with %q, want version %d with %q", round, got.Version, got.Value, last.Version+1, values[winner])
		}
		last = got
	}
	t.Logf("%d rounds, %d and %d won", rounds, wins[0], wins[1])
}

// A write that comes too late in the ordinary way is refused by S3: no other
// tool ever sees it.
func TestLateWriteIsNotStored(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, meanwhile []step
		late              func(*testing.T, *Store) error
	}{
		"put":    {[]step{puts("X")}, []step{puts("Y")}, putting("late", driver.Version(1))},
		"create": {nil, []step{puts("Y")}, putting("late", driver.Absent())},
		"delete": {[]step{puts("X")}, []step{puts("Y")}, deleting(driver.Version(1))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct := openStore(t, Options{})
			for _, do := range c.before {
				do(t, direct)
			}
			proxy := emulators.NewProxy(t, emulators.Moto(t))
			slow := through(t, direct, proxy.URL)
			released := make(chan struct{})
			proxy.Inject(emulators.Fault{Operation: "PutObject", Times: 1, Until: released})
			var late error
			var wg sync.WaitGroup
			wg.Go(func() { late = c.late(t, slow) })
			proxy.Await(t, "PutObject", 1)
			for _, do := range c.meanwhile {
				do(t, direct)
			}
			close(released)
			wg.Wait()
			wantCode(t, late, config.Conflict)
			if n := proxy.Calls("DeleteObject"); n != 0 {
				t.Errorf("the late write was stored, and removed: %v", proxy.Operations())
			}
		})
	}
}

// A delete marker that comes late does not hide what was put meanwhile.
func TestLateDeleteMarker(t *testing.T) {
	t.Parallel()
	direct := openStore(t, Options{})
	put(t, direct, key, "one")
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	slow := through(t, direct, proxy.URL)
	released := make(chan struct{})
	proxy.Inject(emulators.Fault{Operation: "DeleteObject", Times: 1, Until: released})
	var late error
	var wg sync.WaitGroup
	wg.Go(func() { late = deleting(driver.Version(1))(t, slow) })
	proxy.Await(t, "DeleteObject", 1)
	put(t, direct, key, "three")
	close(released)
	wg.Wait()
	if late != nil {
		t.Errorf("the delete: %v", late)
	}
	wantEntry(t, direct, key, 3, "three")
	if got, want := past(t, direct, key), "3 three, 2 deleted, 1 one"; got != want {
		t.Errorf("history %q, want %q", got, want)
	}
}

// The loser of a race removes what it stored. Whoever looks at the version list
// meanwhile finds a line of it gone, and looks again: that is nobody's error.
func TestAVersionVanishesUnderALook(t *testing.T) {
	t.Parallel()
	list := func(s *Store) error {
		_, err := s.List(t.Context(), driver.ListRequest{Tenant: key.Tenant, Service: key.Service})
		return err
	}
	for name, c := range map[string]struct {
		method string // of the request that finds its version gone
		call   func(*Store) error
	}{
		"get":              {http.MethodHead, func(s *Store) error { _, err := s.Get(t.Context(), key, 0); return err }},
		"get of version":   {http.MethodHead, func(s *Store) error { _, err := s.Get(t.Context(), key, 2); return err }},
		"its bytes":        {http.MethodGet, func(s *Store) error { _, err := s.Get(t.Context(), key, 2); return err }},
		"history":          {http.MethodGet, func(s *Store) error { _, err := s.History(t.Context(), driver.HistoryRequest{ID: key}); return err }},
		"list":             {http.MethodHead, list},
		"put":              {http.MethodHead, func(s *Store) error { return putting("4", driver.Version(3))(t, s) }},
		"put that lost":    {http.MethodHead, func(s *Store) error { return lost(putting("4", driver.Version(2))(t, s)) }},
		"delete":           {http.MethodHead, func(s *Store) error { return deleting(driver.Version(3))(t, s) }},
		"delete that lost": {http.MethodHead, func(s *Store) error { return lost(deleting(driver.Version(2))(t, s)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct := openStore(t, Options{})
			for _, value := range []string{"1", "2", "3"} {
				foreign(t, direct, path, value) // nothing tells its number but the lines below
			}
			var left atomic.Int64
			left.Store(looks - 1)
			s := through(t, direct, editing(t, func(r *http.Response) error {
				q := r.Request.URL.Query()
				if r.Request.Method != c.method || !q.Has("versionId") || left.Add(-1) < 0 {
					return nil
				}
				r.Body.Close()
				r.StatusCode, r.Body, r.ContentLength, r.Header = http.StatusNotFound, http.NoBody, 0, http.Header{}
				return nil
			}))
			if err := c.call(s); err != nil {
				t.Error(err)
			}
			if left.Load() >= 0 {
				t.Error("nothing vanished")
			}
		})
	}
}

// lost is nil for the error of a write that another one came before.
func lost(err error) error {
	if config.CodeOf(err) == config.Conflict {
		return nil
	}
	return fmt.Errorf("want a conflict, got %w", err)
}
