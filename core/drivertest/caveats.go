package drivertest

import (
	"errors"
	"fmt"
	"sync"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

func caveatsDeclared(t *test) {
	got := driver.CaveatsOf(t.b)
	if got != t.caps.Caveats {
		t.Errorf("the backend declares %q, and Caps claims %q", got.Names(), t.caps.Caveats.Names())
	}
	if got.EventualReads && !driver.CapabilitiesOf(t.b).Refresh {
		t.Errorf("the backend declares eventual reads, and no Refresh that would end them")
	}
}

// looseRace lets two writers expect the same version. However the race goes,
// one of them and no other may believe that it came right after that version,
// and every write that was made is owned up to.
func looseRace(t *test) {
	k := our("counter")
	current := t.put(k, `0`).Version
	for range 25 {
		var mu sync.Mutex
		won := 0
		parallel(2, func(i int) {
			e, err := t.try(driver.PutRequest{ID: k, Value: fmt.Append(nil, i), Expect: driver.Version(current)})
			mu.Lock()
			defer mu.Unlock()
			switch conflict := new(config.Error); {
			case err == nil:
				won++
				if e.Version != current+1 {
					t.Errorf("a writer that expects version %d made version %d and was not told that it lost", current, e.Version)
				}
			case !errors.As(err, &conflict) || conflict.Code != config.Conflict:
				t.Errorf("the writer that lost: got error %v, want code %s", err, config.Conflict)
			case conflict.Version <= current:
				t.Errorf("the conflict names version %d, want the one that won over %d", conflict.Version, current)
			}
		})
		if won != 1 {
			t.Errorf("of 2 writers that expect version %d, %d succeeded, want 1", current, won)
		}
		next := t.get(k).Version
		if next <= current || next > current+2 {
			t.Errorf("two writers brought version %d to %d", current, next)
		}
		current = next
	}
}

func permanentDelete(t *test) {
	k := our("limit")
	t.put(k, `1`)
	last := t.put(k, `2`)
	_, err := t.b.Delete(t.ctx, driver.DeleteRequest{ID: k})
	t.wantCode(err, config.FailedPrecondition, "Delete without Permanent")
	t.wantValue(k, `2`)
	t.wantVersion(k, last.Version)
	_, err = t.b.Delete(t.ctx, driver.DeleteRequest{ID: k, Expect: driver.Version(1), Permanent: true})
	t.wantConflict(err, last.Version, "Delete with Permanent that expects the version before")
	t.wantVersion(k, last.Version)
	if _, err = t.b.Delete(t.ctx, driver.DeleteRequest{ID: k, Expect: driver.Version(last.Version), Permanent: true}); err != nil {
		t.Fatalf("Delete with Permanent: %v", err)
	}
	t.wantMissing(k)
	if t.caps.History {
		_, err := t.historian().History(t.ctx, driver.HistoryRequest{ID: k})
		t.wantCode(err, config.NotFound, "History of a key that was deleted for good")
	}
	_, err = t.b.Delete(t.ctx, driver.DeleteRequest{ID: k, Permanent: true})
	t.wantCode(err, config.NotFound, "Delete with Permanent of what is gone")
	if e := t.put(k, `3`); e.Version != 1 {
		t.Errorf("the first Put after it made version %d, want 1", e.Version)
	}
}

// unattributedIsTrue checks that an author or a message that is there is that
// of the very version.
func unattributedIsTrue(t *test) {
	k := our("limit")
	check := func(what string, e config.Entry) {
		t.Helper()
		for _, text := range []struct{ name, got, want string }{
			{"author", e.UpdatedBy, fmt.Sprintf("user-%d", e.Version)},
			{"message", e.Message, fmt.Sprintf("change %d", e.Version)},
		} {
			if text.got != "" && text.got != text.want {
				t.Errorf("%s says that the %s of version %d is %q, want %q or nothing", what, text.name, e.Version, text.got, text.want)
			}
		}
	}
	for i := 1; i <= 5; i++ {
		check("Put", t.putAs(driver.PutRequest{
			ID: k, Value: fmt.Append(nil, i), UpdatedBy: fmt.Sprintf("user-%d", i), Message: fmt.Sprintf("change %d", i),
		}))
		check("Get", t.get(k))
		for _, e := range t.list(k, "", 0) {
			check("List", e)
		}
	}
	if t.caps.History {
		for _, e := range t.history(k, 0) {
			check("History", e)
		}
	}
}

func inferredType(t *test) {
	k := our("limit")
	for _, put := range []driver.PutRequest{
		{Value: []byte(`{"a":1}`)},
		{Value: []byte(`{"a":1}`), ContentType: "text/plain"},
		{Value: []byte(`30`), ContentType: config.ContentTypeJSON},
		{Value: []byte(`not JSON`), ContentType: "text/plain; charset=utf-8"},
		{Value: []byte(`not JSON`), ContentType: "text/x-anything"},
		{Value: []byte(`not JSON`), ContentType: "application/octet-stream"},
	} {
		put.ID = k
		answer := t.putAs(put)
		if want := driver.InferType(put.Value); answer.ContentType != want {
			t.Errorf("Put of %s as %q returned the content type %q, want %q", brief(put.Value), put.ContentType, answer.ContentType, want)
		}
		t.wantStored(t.get(k), put)
	}
	before := t.get(k)
	for _, lost := range []string{"image/png", "application/x-yaml", "no media type"} {
		_, err := t.try(driver.PutRequest{ID: k, Value: []byte(`1`), ContentType: lost})
		t.wantCode(err, config.InvalidArgument, "Put of the content type %q, which would be lost", lost)
	}
	t.wantVersion(k, before.Version)
}

func nonEmpty(t *test) {
	t.put(our("old"), `"before"`)
	for _, value := range [][]byte{nil, {}} {
		for _, k := range []config.ID{our("old"), our("fresh")} {
			_, err := t.try(driver.PutRequest{ID: k, Value: value, ContentType: "text/plain"})
			t.wantCode(err, config.InvalidArgument, "Put of an empty value")
		}
	}
	t.wantState(our("old"), putOnce)
	t.wantState(our("fresh"), neverPut)
}

func textOnly(t *test) {
	t.put(our("old"), `"before"`)
	for _, value := range []string{"\xff", "\xc3\x28", "text \xed\xa0\x80"} {
		for _, k := range []config.ID{our("old"), our("fresh")} {
			_, err := t.try(driver.PutRequest{ID: k, Value: []byte(value), ContentType: "application/octet-stream"})
			t.wantCode(err, config.InvalidArgument, "Put of %q, which is not UTF-8", value)
		}
	}
	t.wantState(our("old"), putOnce)
	t.wantState(our("fresh"), neverPut)
}

// ownWrites reads a key until whatever is in front of the store may hold it,
// and looks for each own write at once, also right behind a foreign one.
func ownWrites(t *test) {
	k, gone := our("limit"), our("gone")
	t.put(gone, `1`)
	for i := range 10 {
		if i > 0 {
			t.get(k)
			if _, err := t.h.Peer.Put(t.ctx, driver.PutRequest{ID: k, Value: []byte(`"theirs"`)}); err != nil {
				t.Fatalf("Put through the peer: %v", err)
			}
		}
		want := fmt.Sprint(i)
		e := t.put(k, want)
		t.wantValue(k, want)
		t.wantVersion(k, e.Version)
		if t.caps.Batch {
			if r := t.batch([]config.ID{k})[0]; r.Err != nil || r.Entry.Version != e.Version {
				t.Errorf("BatchGet after the Put of version %d: version %d, error %v", e.Version, r.Entry.Version, r.Err)
			}
		}
	}
	t.get(gone)
	t.delete(gone)
	t.wantMissing(gone)
	t.put(gone, `2`)
	t.wantValue(gone, `2`)
}
