package dynamodbbackend

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
)

func versionsOf(entries []config.Entry) string {
	var v []uint64
	for _, e := range entries {
		v = append(v, e.Version)
	}
	return fmt.Sprint(v)
}

func TestHistoryLimit(t *testing.T) {
	s, other := fresh(t, Options{HistoryLimit: 3})
	in := limits(t)
	for i := range 6 {
		put(t, s, in, fmt.Sprint(i))
	}
	remove(t, s, in)
	if got := versionsOf(history(t, s, in)); got != "[7 6 5]" {
		t.Errorf("history: %s", got)
	}
	_, err := s.Get(t.Context(), in, 4)
	wantCode(t, err, config.NotFound)
	if n := len(other.sortKeys(acmePK, "HISTORY#limits#")); n != 3 {
		t.Errorf("%d records in the table", n)
	}
	// A change of another tool counts as a version of its own.
	put(t, s, in, `8`)
	other.set(acmePK, limitsSK, item{"config": num("9"), "version": num("9")})
	put(t, s, in, `10`)
	if got := versionsOf(history(t, s, in)); got != "[10 9 8]" {
		t.Errorf("history: %s", got)
	}
}

// The narrowest limits together, with changes of another tool in between.
func TestHistoryOfOne(t *testing.T) {
	s, other := fresh(t, Options{HistoryLimit: 1, HistoryTTL: "1h"})
	in := limits(t)
	put(t, s, in, `1`)
	put(t, s, in, `2`)
	other.set(acmePK, limitsSK, item{"config": num("3"), "version": num("3")})
	if got := versionsOf(history(t, s, in)); got != "[3 2]" {
		t.Errorf("history: %s", got)
	}
	put(t, s, in, `4`)
	remove(t, s, in)
	if got := versionsOf(history(t, s, in)); got != "[5]" {
		t.Errorf("history: %s", got)
	}
}

func TestHistoryTTL(t *testing.T) {
	for name, endpoint := range map[string]string{"DynamoDB Local": emulators.DynamoDBLocal(t), "moto": emulators.Moto(t)} {
		t.Run(name, func(t *testing.T) {
			at(t, endpoint)
			var now atomic.Int64
			now.Store(time.Now().UnixMilli())
			clock := func() time.Time { return time.UnixMilli(now.Load()) }
			// No time to live is on for this table: what has expired stays, and must
			// not be seen.
			o := Options{Table: table(t, endpoint), HistoryTTL: "1h", TTLAttribute: "gone-at"}
			s := openAt(t, o, clock)
			other := &foreign{TB: t, db: client(t, endpoint), table: o.Table}
			in := limits(t)
			put(t, s, in, `1`)
			put(t, s, in, `2`)
			for version, expires := range map[uint64]bool{1: true, 2: false} {
				_, has := other.get(acmePK, fmt.Sprintf("HISTORY#limits#%010d", version))["gone-at"]
				if has != expires {
					t.Errorf("version %d expires: %t", version, has)
				}
			}
			if _, has := other.get(acmePK, limitsSK)["gone-at"]; has {
				t.Error("the current item expires")
			}
			now.Add(time.Hour.Milliseconds())
			if got := versionsOf(history(t, s, in)); got != "[2]" {
				t.Errorf("history: %s", got)
			}
			_, err := s.Get(t.Context(), in, 1)
			wantCode(t, err, config.NotFound)
			put(t, s, in, `3`)
			remove(t, s, in)
			if got := versionsOf(history(t, s, in)); got != "[4 3 2]" {
				t.Errorf("history: %s", got)
			}
			// A record that is gone does not stop a write, and none comes back.
			other.remove(acmePK, "HISTORY#limits#0000000004")
			put(t, s, in, `5`)
			if keys := other.sortKeys(acmePK, "HISTORY#limits#"); slices.Contains(keys, "HISTORY#limits#0000000004") {
				t.Errorf("records: %q", keys)
			}
			other.set(acmePK, limitsSK, item{"config": num("6"), "version": num("6")})
			put(t, s, in, `7`)
			if _, has := other.get(acmePK, "HISTORY#limits#0000000006")["gone-at"]; !has {
				t.Error("the record of another tool's change does not expire")
			}
			now.Add(24 * time.Hour.Milliseconds())
			if got := versionsOf(history(t, s, in)); got != "[7]" {
				t.Errorf("history: %s", got)
			}
		})
	}
}

func TestIdempotencyWindow(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixMilli())
	s := openAt(t, Options{Table: table(t, local(t)), IdempotencyWindow: "1m"}, func() time.Time { return time.UnixMilli(now.Load()) })
	in := limits(t)
	r := driver.PutRequest{ID: in, Value: []byte(`1`), IdempotencyKey: "once", Expect: driver.Absent()}
	first, err := s.Put(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	// Another process refuses the condition before it sends anything, unless it
	// looks at the key first.
	other := openStore(t, Options{Table: s.table})
	get(t, other, in)
	now.Add(59_999)
	again, err := openAt(t, Options{Table: s.table}, s.now).Put(t.Context(), r)
	if err != nil || again.Revision != first.Revision || again.Version != 1 || !again.UpdatedAt.Equal(first.UpdatedAt) {
		t.Fatalf("within the window: %+v, %v, want %+v", again, err, first)
	}
	now.Add(1)
	_, err = s.Put(t.Context(), r)
	wantCode(t, err, config.Conflict)
	r.Expect, r.Value = driver.Any(), []byte(`2`)
	if e, err := s.Put(t.Context(), r); err != nil || e.Version != 2 {
		t.Fatalf("after the window: %+v, %v", e, err)
	}
	_, err = s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`3`), IdempotencyKey: "once"})
	wantCode(t, err, config.AlreadyExists)

	// A Delete is found again after the key is gone, by a process that knows
	// nothing, and reads first.
	d := driver.DeleteRequest{ID: in, IdempotencyKey: "gone"}
	tombstone, err := s.Delete(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := other.Delete(t.Context(), d); err != nil || e.Version != tombstone.Version || !e.Deleted {
		t.Errorf("a repeated Delete: %+v, %v", e, err)
	}
	_, err = other.Delete(t.Context(), driver.DeleteRequest{ID: in, IdempotencyKey: "another"})
	wantCode(t, err, config.NotFound)
	// What is remembered lies in the tenant's own partition.
	f := &foreign{TB: t, db: client(t, local(t)), table: s.table}
	if n := len(f.sortKeys(acmePK, "IDEM#")); n != 2 {
		t.Errorf("%d keys are remembered", n)
	}
}

// A clock that is set back, or that of another process which is behind, does not
// take time back.
func TestClocks(t *testing.T) {
	s, _ := fresh(t, Options{})
	in := limits(t)
	first := put(t, s, in, `1`)
	behind := openAt(t, Options{Table: s.table}, func() time.Time { return time.Now().Add(-time.Hour) })
	calls := behind.conn.CountCalls()
	e, err := behind.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`2`), Expect: driver.Version(1)})
	if err != nil || e.UpdatedAt.Before(first.UpdatedAt) || !get(t, s, in).UpdatedAt.Equal(e.UpdatedAt) {
		t.Errorf("%+v, %v, after %v", e, err, first.UpdatedAt)
	}
	wantCalls(t, calls, "a write by a slow clock", 2)
}
