package drivertest

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

func versionCount(t *test) {
	k := our("limit")
	want := uint64(0)
	check := func(what string, e config.Entry) {
		t.Helper()
		want++
		if e.Version != want {
			t.Fatalf("%s made version %d, want %d", what, e.Version, want)
		}
	}
	for range 3 {
		check("Put", t.put(k, `1`))
		check("Put of the same value", t.put(k, `1`))
		t.wantVersion(k, want)
		check("Delete", t.delete(k))
	}
	check("Put after Delete", t.put(k, `1`))
	if other := t.put(our("other"), `1`); other.Version != 1 {
		t.Errorf("the first Put of another key made version %d, want 1", other.Version)
	}
}

// state is where a key stands before a conditional write.
type state struct {
	name    string
	puts    int // each of "before"
	deleted bool
	version uint64
	live    bool
}

var neverPut, putOnce = state{name: "never put"}, state{name: "put once", puts: 1, version: 1, live: true}

// states are those in which a condition can find a key.
func (t *test) states() []state {
	deleted := state{name: "deleted", puts: 2, deleted: true, version: 3}
	if t.caps.Caveats.PermanentDelete {
		deleted.version = 0
	}
	return []state{neverPut, putOnce, {name: "put twice", puts: 2, version: 2, live: true}, deleted}
}

// reach brings a fresh key into a state.
func (t *test) reach(k config.ID, s state) {
	t.Helper()
	for range s.puts {
		t.put(k, `"before"`)
	}
	if s.deleted {
		t.delete(k)
	}
}

// wantState checks that a key still is where reach brought it.
func (t *test) wantState(k config.ID, s state) {
	t.Helper()
	if s.live {
		t.wantValue(k, `"before"`)
		t.wantVersion(k, s.version)
	} else {
		t.wantMissing(k)
	}
	if e := t.put(k, `"probe"`); e.Version != s.version+1 {
		t.Errorf("after a write that was refused the next Put made version %d, want %d", e.Version, s.version+1)
	}
}

// expectations are conditions and whether each is met in a state.
func expectations(s state) map[string]struct {
	expect driver.Expect
	met    bool
} {
	type row = struct {
		expect driver.Expect
		met    bool
	}
	rows := map[string]row{
		"Any":                {driver.Any(), true},
		"Absent":             {driver.Absent(), !s.live},
		"a future version":   {driver.Version(s.version + 1), false},
		"the highest number": {driver.Version(^uint64(0)), false},
	}
	if s.version > 0 {
		rows["the latest version"] = row{driver.Version(s.version), true}
	}
	if s.version > 1 {
		rows["the version before"] = row{driver.Version(s.version - 1), false}
	}
	return rows
}

func putExpect(t *test) {
	n := 0
	for _, s := range t.states() {
		for name, row := range expectations(s) {
			n++
			k := our(fmt.Sprintf("k%d", n))
			t.reach(k, s)
			e, err := t.try(driver.PutRequest{ID: k, Value: []byte(`"after"`), Expect: row.expect})
			switch {
			case !row.met:
				t.wantConflict(err, s.version, "Put that expects %s of a key %s", name, s.name)
				t.wantState(k, s)
			case err != nil:
				t.Errorf("Put that expects %s of a key %s: %v", name, s.name, err)
			case e.Version != s.version+1:
				t.Errorf("Put that expects %s of a key %s made version %d, want %d", name, s.name, e.Version, s.version+1)
			default:
				t.wantValue(k, `"after"`)
			}
		}
	}
}

func deleteExpect(t *test) {
	n := 0
	for _, s := range t.states() {
		for name, row := range expectations(s) {
			if !s.live {
				continue // deleteMissing
			}
			n++
			k := our(fmt.Sprintf("k%d", n))
			t.reach(k, s)
			_, err := t.remove(t.ctx, driver.DeleteRequest{ID: k, Expect: row.expect})
			switch {
			case !row.met:
				t.wantConflict(err, s.version, "Delete that expects %s of a key %s", name, s.name)
				t.wantState(k, s)
			case err != nil:
				t.Errorf("Delete that expects %s of a key %s: %v", name, s.name, err)
			default:
				t.wantMissing(k)
			}
		}
	}
}

func deleteMissing(t *test) {
	n := 0
	for _, s := range t.states() {
		for name, row := range expectations(s) {
			if s.live {
				continue
			}
			n++
			k := our(fmt.Sprintf("k%d", n))
			t.reach(k, s)
			_, err := t.remove(t.ctx, driver.DeleteRequest{ID: k, Expect: row.expect})
			t.wantCode(err, config.NotFound, "Delete that expects %s of a key %s", name, s.name)
			t.wantState(k, s)
		}
	}
}

func absentAfterDelete(t *test) {
	k := our("limit")
	t.put(k, `1`)
	t.delete(k)
	e, err := t.try(driver.PutRequest{ID: k, Value: []byte(`2`), Expect: driver.Absent()})
	if err != nil {
		t.Fatalf("Put that expects an absent key after Delete: %v", err)
	}
	if e.Version != 3 {
		t.Errorf("it made version %d, want 3", e.Version)
	}
	_, err = t.try(driver.PutRequest{ID: k, Value: []byte(`3`), Expect: driver.Absent()})
	t.wantConflict(err, 3, "Put that expects an absent key of a live one")
	t.wantValue(k, `2`)
}

// racers is how many goroutines write the same key at once.
const racers = 16

// race lets many writers expect the same version and returns the index of the
// one that won.
func (t *test) race(k config.ID, version uint64, write func(i int) error) {
	t.Helper()
	var won atomic.Int32
	errs := make([]error, racers)
	parallel(racers, func(i int) {
		if errs[i] = write(i); errs[i] == nil {
			won.Add(1)
		}
	})
	if n := won.Load(); n != 1 {
		t.Errorf("of %d writers that expect version %d of %s, %d succeeded, want 1", racers, version, show(k), n)
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, config.NotFound) { // which only a Delete behind a Delete may say
			t.wantConflict(err, version+1, "the writer that lost")
		}
	}
}

func raceCreate(t *test) {
	for round := range 5 {
		k := our(fmt.Sprintf("new-%d", round))
		t.race(k, 0, func(i int) error {
			_, err := t.try(driver.PutRequest{ID: k, Value: fmt.Append(nil, i), Expect: driver.Absent()})
			return err
		})
		t.wantVersion(k, 1)
	}
}

func raceUpdate(t *test) {
	k := our("counter")
	t.put(k, `0`)
	for version := uint64(1); version <= 10; version++ {
		t.race(k, version, func(i int) error {
			_, err := t.try(driver.PutRequest{ID: k, Value: fmt.Append(nil, i), Expect: driver.Version(version)})
			return err
		})
		t.wantVersion(k, version+1)
	}
}

func raceDelete(t *test) {
	for round := range 5 {
		k := our(fmt.Sprintf("limit-%d", round))
		t.put(k, `1`)
		t.race(k, 1, func(i int) error {
			var err error
			if i%2 == 0 {
				_, err = t.try(driver.PutRequest{ID: k, Value: []byte(`2`), Expect: driver.Version(1)})
			} else {
				_, err = t.remove(t.ctx, driver.DeleteRequest{ID: k, Expect: driver.Version(1)})
			}
			return err
		})
		if e := t.put(k, `3`); e.Version != 3 {
			t.Errorf("after a race that one writer won the next Put made version %d, want 3", e.Version)
		}
	}
}

// raceCount has every writer read, add one and write if nobody came between,
// until all have: no increment may be lost.
func raceCount(t *test) {
	const writers, each = 8, 5
	k := our("counter")
	t.put(k, `0`)
	parallel(writers, func(int) {
		for done := 0; done < each; {
			e, err := t.b.Get(t.ctx, k, 0)
			if err != nil {
				t.Errorf("Get: %v", err)
				return
			}
			var n int
			if _, err := fmt.Sscan(string(e.Value), &n); err != nil {
				t.Errorf("Get returned %s: %v", brief(e.Value), err)
				return
			}
			_, err = t.try(driver.PutRequest{ID: k, Value: fmt.Append(nil, n+1), Expect: driver.Version(e.Version)})
			switch {
			case err == nil:
				done++
			case !errors.Is(err, config.Conflict):
				t.Errorf("Put: %v", err)
				return
			}
		}
	})
	t.wantValue(k, fmt.Sprint(writers*each))
	t.wantVersion(k, writers*each+1)
}

func visible(t *test) {
	k := our("limit")
	for i := range 20 {
		want := fmt.Sprint(i)
		put := t.put(k, want)
		t.wantValue(k, want)
		if got := t.list(k, "", 0); len(got) != 1 || string(got[0].Value) != want {
			t.Errorf("List after Put %d does not show it", i)
		}
		if t.caps.History {
			if got := t.history(k, 0); got[0].Version != put.Version || string(got[0].Value) != want {
				t.Errorf("History after Put of version %d begins with version %d", put.Version, got[0].Version)
			}
		}
		if i%5 == 4 {
			t.delete(k)
			t.wantMissing(k)
		}
	}
}

func visibleToPeer(t *test) {
	k := our("limit")
	peer := &test{TB: t.TB, ctx: t.ctx, caps: t.caps, h: t.h, b: t.h.Peer, patience: t.patience}
	for i := range 10 {
		mine := fmt.Sprintf("%d, mine", i)
		t.put(k, mine)
		peer.wantValue(k, mine)
		theirs := fmt.Sprintf("%d, theirs", i)
		e := peer.putAs(driver.PutRequest{ID: k, Value: []byte(theirs)})
		t.wantValue(k, theirs)
		t.wantVersion(k, e.Version)
	}
	if t.caps.Caveats.LooseCompareAndSet {
		return
	}
	latest := t.get(k).Version
	t.race(k, latest, func(i int) error {
		b := t.b
		if i%2 == 0 {
			b = t.h.Peer
		}
		_, err := b.Put(t.ctx, driver.PutRequest{ID: k, Value: fmt.Append(nil, i), Expect: driver.Version(latest)})
		return err
	})
}

func durable(t *test) {
	kept, gone := our("kept"), our("gone")
	t.put(kept, `1`)
	want := t.putAs(driver.PutRequest{ID: kept, Value: []byte(awkward), ContentType: "text/plain", UpdatedBy: "me", Message: awkward})
	want.Value = []byte(awkward)
	t.put(gone, `1`)
	tombstone := t.delete(gone)
	t.reopen()

	if d := t.differ(t.get(kept), want); d != "" {
		t.Errorf("after reopening, %s", d)
	}
	t.wantMissing(gone)
	t.wantKeys(kept, "", 0, "kept")
	next := tombstone.Version + 1
	if t.caps.Caveats.PermanentDelete {
		next = 1
	}
	if e := t.put(gone, `2`); e.Version != next {
		t.Errorf("Put of a key that was deleted before reopening made version %d, want %d", e.Version, next)
	}
	if t.caps.History {
		if got := t.history(kept, 0); len(got) != 2 {
			t.Errorf("History has %d versions after reopening, want 2", len(got))
		}
	}
}

// reopen closes the backend and goes on with what the harness opens anew.
func (t *test) reopen() {
	t.Helper()
	if err := t.b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	b, err := t.h.Reopen()
	if err != nil {
		t.Fatalf("opening the same store again: %v", err)
	}
	t.b = b
	t.Cleanup(func() { b.Close() }) //nolint:errcheck // the closing cases' work
}

func writeAnswer(t *test) {
	put := driver.PutRequest{ID: our("limit"), Value: []byte(`1`), ContentType: "text/plain", UpdatedBy: "me", Message: "why"}
	answer := t.putAs(put)
	if answer.Value != nil {
		t.Errorf("Put returned the value %s, want nil", brief(answer.Value))
	}
	stored := answer
	stored.Value = put.Value
	t.wantStored(stored, put)
	if d := t.differ(t.get(put.ID), stored); d != "" {
		t.Errorf("Get after Put: compared with what Put returned, %s", d)
	}
	t.wantUTC(answer)

	tombstone, err := t.remove(t.ctx, driver.DeleteRequest{ID: put.ID, UpdatedBy: "you", Message: "why not"})
	if err != nil {
		t.Fatalf("Delete: %v", err)
	}
	want := tombstone
	want.ID, want.Deleted, want.UpdatedBy, want.Message, want.Version = put.ID, true, "you", "why not", 2
	if d := t.differ(tombstone, want); d != "" {
		t.Errorf("Delete did not return the tombstone, version 2, with its author and message: %s", d)
	}
	t.wantUTC(tombstone)
	if t.caps.History && !t.caps.Caveats.PermanentDelete {
		got := t.history(put.ID, 0)[0]
		got.Value, got.ContentType, tombstone.ContentType = nil, "", ""
		if d := t.differ(got, tombstone); d != "" {
			t.Errorf("History's tombstone, compared with what Delete returned: %s", d)
		}
	}
}

func (t *test) wantUTC(e config.Entry) {
	t.Helper()
	if e.UpdatedAt.IsZero() || e.UpdatedAt.Location() != time.UTC {
		t.Errorf("UpdatedAt is %v, want a time in UTC", e.UpdatedAt)
	}
}

func timeOrder(t *test) {
	k := our("limit")
	last := t.put(k, `1`)
	for range 30 {
		next := t.put(k, `1`)
		if next.UpdatedAt.Before(last.UpdatedAt) {
			t.Errorf("version %d is of %v, version %d before it of %v", next.Version, next.UpdatedAt, last.Version, last.UpdatedAt)
		}
		last = next
	}
}

func historyAfterDelete(t *test) {
	k := our("limit")
	t.put(k, `"one"`)
	t.put(k, `"two"`)
	t.delete(k)
	got := t.history(k, 0)
	if len(got) != 3 || !got[0].Deleted || string(got[1].Value) != `"two"` || string(got[2].Value) != `"one"` {
		t.Errorf("History after Delete has %d versions, want the tombstone and both values before it", len(got))
	}
}

func maxValue(t *test) {
	k := our("big")
	most := bytes.Repeat([]byte{'x'}, t.caps.MaxValue)
	t.putAs(driver.PutRequest{ID: k, Value: most})
	if got := t.get(k); !bytes.Equal(got.Value, most) {
		t.Errorf("the largest value came back with %d bytes, want %d", len(got.Value), len(most))
	}
}

func oversize(t *test) {
	old, fresh := our("old"), our("fresh")
	t.put(old, `"before"`)
	over := bytes.Repeat([]byte{'x'}, t.caps.MaxValue+1)
	for _, k := range []config.ID{old, fresh} {
		_, err := t.try(driver.PutRequest{ID: k, Value: over})
		t.wantCode(err, config.InvalidArgument, "Put of one byte more than Caps.MaxValue")
	}
	t.wantState(old, putOnce)
	t.wantState(fresh, neverPut)
}

func revisions(t *test) {
	k := our("limit")
	seen := map[config.Revision]uint64{}
	note := func(e config.Entry) {
		t.Helper()
		if e.Revision == "" {
			t.Errorf("version %d has no revision", e.Version)
		}
		if earlier, ok := seen[e.Revision]; ok {
			t.Errorf("versions %d and %d have the same revision", earlier, e.Version)
		}
		seen[e.Revision] = e.Version
	}
	for i := range 30 {
		put := t.put(k, `1`) // the same value: a digest of it would not do
		note(put)
		if got := t.get(k).Revision; got != put.Revision {
			t.Errorf("Get returned revision %q, Put %q", got, put.Revision)
		}
		if i%10 == 9 {
			note(t.delete(k))
		}
	}
}

func memoryIn(t *test) {
	k := our("limit")
	mine := []byte(`"mine"`)
	t.putAs(driver.PutRequest{ID: k, Value: mine})
	scribble(mine)
	t.wantValue(k, `"mine"`)
	if t.caps.History {
		if got := t.history(k, 0)[0]; string(got.Value) != `"mine"` {
			t.Errorf("History shows %s after the caller changed its slice", brief(got.Value))
		}
	}
	if t.caps.Watch {
		w := t.watch(watchOf(k, ""))
		defer w.stop()
		if got := w.upTo(k, 1)[0].Entry; string(got.Value) != `"mine"` {
			t.Errorf("Watch shows %s after the caller changed its slice", brief(got.Value))
		}
	}
}

func memoryOut(t *test) {
	k := our("limit")
	resumed := watchOf(k, "")
	if t.caps.Watch {
		w := t.watch(resumed)
		resumed.After = w.sync()[0].Position
		w.stop()
	}
	put := t.put(k, `"mine"`)
	read := map[string]func() []byte{
		"Get":              func() []byte { return t.get(k).Value },
		"Get of a version": func() []byte { return must(t.b.Get(t.ctx, k, put.Version)).Value },
		"List":             func() []byte { return t.list(k, "", 0)[0].Value },
	}
	if t.caps.Batch {
		read["BatchGet"] = func() []byte { return t.batch([]config.ID{k, k})[1].Entry.Value }
		read["BatchGet, first of two"] = func() []byte { return t.batch([]config.ID{k, k})[0].Entry.Value }
	}
	if t.caps.History {
		read["History"] = func() []byte { return t.history(k, 0)[0].Value }
	}
	if t.caps.Watch {
		read["Watch, of the snapshot"] = func() []byte {
			w := t.watch(watchOf(k, ""))
			defer w.stop()
			return w.upTo(k, 1)[0].Entry.Value
		}
		read["Watch, of a change"] = func() []byte {
			w := t.watch(resumed)
			defer w.stop()
			return w.upTo(k, 1)[0].Entry.Value
		}
	}
	for name, value := range read {
		scribble(value())
		for other, value := range read {
			if got := value(); string(got) != `"mine"` {
				t.Errorf("after the caller changed what %s returned, %s returns %s", name, other, brief(got))
			}
		}
	}
}

func scribble(b []byte) {
	for i := range b {
		b[i] = '#'
	}
}
