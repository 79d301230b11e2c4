package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

func declared(t *test) {
	if got, want := driver.CapabilitiesOf(t.b), t.caps.driver(); got != want {
		t.Errorf("the backend declares %+v, and Caps claims %+v", got, want)
	}
}

// declaredWorks calls what is claimed, once the plainest way.
func declaredWorks(t *test) {
	k := our("limit")
	t.put(k, `1`)
	if t.caps.Batch {
		_, err := t.batcher().BatchGet(t.ctx, []config.ID{k})
		t.wantOffered(err, "BatchGet")
	}
	if t.caps.History {
		_, err := t.historian().History(t.ctx, driver.HistoryRequest{ID: k})
		t.wantOffered(err, "History")
	}
	if t.caps.Watch {
		ctx, cancel := context.WithCancel(t.ctx)
		defer cancel()
		err := t.watcher().Watch(ctx, watchOf(k, ""), func(driver.Event) error { cancel(); return nil })
		t.wantDone(err, "Watch that was canceled")
	}
	if t.caps.Ping {
		t.wantOffered(t.pinger().Ping(t.ctx), "Ping")
	}
	if t.caps.Size {
		_, err := t.sizer().Size(t.ctx)
		t.wantOffered(err, "Size")
	}
	if t.caps.Refresh {
		_, err := t.refresher().Refresh(t.ctx, []config.ID{k})
		t.wantOffered(err, "Refresh")
	}
	if t.caps.Idempotent {
		if d := t.idempotent().IdempotencyWindow(); d <= 0 {
			t.Errorf("IdempotencyWindow is %v, want more than 0", d)
		}
	}
}

func (t *test) wantOffered(err error, name string) {
	t.Helper()
	if err != nil {
		t.Errorf("%s is claimed and failed: %v", name, err)
	}
}

// undeclared calls what is not claimed, by type assertion past the
// declaration.
func undeclared(t *test) {
	k := our("limit")
	t.put(k, `1`)
	if b, ok := t.b.(driver.Batcher); ok && !t.caps.Batch {
		_, err := b.BatchGet(t.ctx, []config.ID{k})
		t.wantCode(err, config.Unimplemented, "BatchGet, which is not claimed")
	}
	if b, ok := t.b.(driver.Historian); ok && !t.caps.History {
		_, err := b.History(t.ctx, driver.HistoryRequest{ID: k})
		t.wantCode(err, config.Unimplemented, "History, which is not claimed")
	}
	if b, ok := t.b.(driver.Watcher); ok && !t.caps.Watch {
		ctx, cancel := context.WithTimeout(t.ctx, t.patience)
		defer cancel()
		err := b.Watch(ctx, watchOf(k, ""), func(driver.Event) error { cancel(); return nil })
		t.wantCode(err, config.Unimplemented, "Watch, which is not claimed")
	}
	if b, ok := t.b.(driver.Pinger); ok && !t.caps.Ping {
		t.wantCode(b.Ping(t.ctx), config.Unimplemented, "Ping, which is not claimed")
	}
	if b, ok := t.b.(driver.Sizer); ok && !t.caps.Size {
		_, err := b.Size(t.ctx)
		t.wantCode(err, config.Unimplemented, "Size, which is not claimed")
	}
	if b, ok := t.b.(driver.Refresher); ok && !t.caps.Refresh {
		_, err := b.Refresh(t.ctx, []config.ID{k})
		t.wantCode(err, config.Unimplemented, "Refresh, which is not claimed")
	}
	if !t.caps.Idempotent {
		for range 2 {
			t.putAs(driver.PutRequest{ID: k, Value: []byte(`2`), IdempotencyKey: "again"})
		}
		t.wantVersion(k, 3)
	}
}

func ping(t *test) {
	if err := t.pinger().Ping(t.ctx); err != nil {
		t.Errorf("Ping of a store that answers: %v", err)
	}
}

func size(t *test) {
	measure := func() driver.Size {
		t.Helper()
		s, err := t.sizer().Size(t.ctx)
		if err != nil {
			t.Fatalf("Size: %v", err)
		}
		return s
	}
	// What the store holds of its own, if anything, is in both.
	before := measure()
	t.put(our("a"), `1`)
	t.put(our("a"), `2`)
	t.put(id("globex-inc", "", "b"), `3`)
	t.delete(our("a"))
	after := measure()
	for _, n := range []struct {
		name               string
		before, after, add int64
	}{
		{"Entries", before.Entries, after.Entries, 1},
		{"Versions", before.Versions, after.Versions, 4},
		{"Changes", before.Changes, after.Changes, 4},
	} {
		if n.after != -1 && n.after != n.before+n.add {
			t.Errorf("Size.%s went from %d to %d after three Puts of two keys and one Delete, want %d more, or -1", n.name, n.before, n.after, n.add)
		}
	}
	if after.Bytes < -1 {
		t.Errorf("Size.Bytes is %d, want -1 or more", after.Bytes)
	}
}

// batch returns the results for ids, as many as there are ids.
func (t *test) batch(ids []config.ID) []driver.Result {
	t.Helper()
	results, err := t.batcher().BatchGet(t.ctx, ids)
	if err != nil {
		t.Fatalf("BatchGet of %d IDs failed whole: %v", len(ids), err)
	}
	if len(results) != len(ids) {
		t.Fatalf("BatchGet of %d IDs returned %d results", len(ids), len(results))
	}
	return results
}

func batchOrder(t *test) {
	var ids []config.ID
	for i := range 20 {
		k := our(fmt.Sprintf("k%02d", 19-i))
		t.put(k, `"`+k.Key.String()+`"`)
		ids = append(ids, k, id("globex-inc", "", "foreign"), our("k07"), k)
	}
	t.put(id("globex-inc", "", "foreign"), `"foreign"`)
	for i, r := range t.batch(ids) {
		switch {
		case r.Err != nil:
			t.Errorf("result %d, for %s: %v", i, show(ids[i]), r.Err)
		case r.Entry.ID != ids[i]:
			t.Errorf("result %d is of %s, want %s", i, show(r.Entry.ID), show(ids[i]))
		case string(r.Entry.Value) != `"`+ids[i].Key.String()+`"`:
			t.Errorf("result %d, for %s, has value %s", i, show(ids[i]), brief(r.Entry.Value))
		}
	}
}

func batchPartial(t *test) {
	t.put(our("live"), `1`)
	t.put(our("deleted"), `1`)
	t.delete(our("deleted"))
	ids := []config.ID{our("never"), our("live"), our("deleted"), our("live"), id("globex-inc", order, "live")}
	for i, r := range t.batch(ids) {
		want, err := t.b.Get(t.ctx, ids[i], 0)
		if err == nil {
			if r.Err != nil {
				t.Errorf("BatchGet of %s: %v", show(ids[i]), r.Err)
			} else if d := t.differ(r.Entry, want); d != "" {
				t.Errorf("BatchGet of %s, compared with Get: %s", show(ids[i]), d)
			}
			continue
		}
		t.wantCode(r.Err, config.CodeOf(err), "BatchGet of %s", show(ids[i]))
		if !r.Entry.ID.IsZero() || r.Entry.Value != nil {
			t.Errorf("BatchGet of %s returned an entry beside its error", show(ids[i]))
		}
	}
	for i, r := range t.batch(ids[:1]) {
		t.wantCode(r.Err, config.NotFound, "BatchGet of nothing but %s", show(ids[i]))
	}
}

func batchEmpty(t *test) {
	t.batch(nil)
	t.batch([]config.ID{})
}

// batchLarge asks for more than fits a page, or a message of the plugin
// protocol.
func batchLarge(t *test) {
	value, n := t.bulk()
	ids := make([]config.ID, 2*n)
	for i := range ids {
		ids[i] = our(fmt.Sprintf("k%02d", i%n))
		if i < n {
			t.putAs(driver.PutRequest{ID: ids[i], Value: value})
		}
	}
	for i, r := range t.batch(ids) {
		if r.Err != nil || r.Entry.ID != ids[i] || !bytes.Equal(r.Entry.Value, value) {
			t.Errorf("result %d of %d, for %s: %s with %d bytes, error %v", i, len(ids), show(ids[i]), show(r.Entry.ID), len(r.Entry.Value), r.Err)
		}
	}
}

// past makes versions 1 to 8 of a key, the 4th and the 8th of them tombstones
// where they stay, and returns what History has to show.
func (t *test) past(k config.ID) []config.Entry {
	t.Helper()
	var want []config.Entry
	for i := 1; i <= 8; i++ {
		if i%4 == 0 && !t.caps.Caveats.PermanentDelete {
			want = append(want, t.delete(k))
			continue
		}
		value := fmt.Sprint(i)
		e := t.putAs(driver.PutRequest{ID: k, Value: []byte(value), UpdatedBy: "user-" + value, Message: "change " + value})
		e.Value = []byte(value)
		want = append(want, e)
	}
	slices.Reverse(want)
	return want
}

func (t *test) wantHistory(what string, got, want []config.Entry) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s has %d versions, want %d", what, len(got), len(want))
	}
	for i := range want {
		g, w := got[i], want[i]
		if w.Deleted {
			// A tombstone has nothing that a content type or value could say.
			g.Value, g.ContentType, w.Value, w.ContentType = nil, "", nil, ""
		}
		if d := t.differ(g, w); d != "" {
			t.Errorf("%s, entry %d, version %d: %s", what, i, want[i].Version, d)
		}
	}
}

func historyOrder(t *test) {
	t.past(our("kk")) // neighbours that must not be in it
	t.past(id(acme, "", "k"))
	want := t.past(our("k"))
	t.wantHistory("History", t.history(our("k"), 0), want)
	t.put(our("k"), `"again"`)
	if got := t.history(our("k"), 0); len(got) != len(want)+1 || string(got[0].Value) != `"again"` {
		t.Errorf("History after one more Put does not begin with it")
	}
}

func historyPages(t *test) {
	k := our("k")
	want := t.past(k)
	for _, n := range []int{1, 2, 3, 7, 8, 9, driver.MaxPageSize} {
		t.wantHistory(fmt.Sprintf("History with page size %d", n), t.history(k, n), want)
	}
	for _, n := range []int{-1, driver.MaxPageSize + 1} {
		_, err := t.historian().History(t.ctx, driver.HistoryRequest{ID: k, PageSize: n})
		t.wantCode(err, config.InvalidArgument, "History with page size %d", n)
	}
	big := our("big")
	value, n := t.bulk()
	for range n {
		t.putAs(driver.PutRequest{ID: big, Value: value})
	}
	for i, e := range t.history(big, 0) { // which holds each page against its limit
		if e.Version != uint64(n-i) {
			t.Errorf("History of large values has version %d at place %d, want %d", e.Version, i, n-i)
		}
	}
}

func historyMissing(t *test) {
	_, err := t.historian().History(t.ctx, driver.HistoryRequest{ID: our("never")})
	t.wantCode(err, config.NotFound, "History of a key that was never put")
	_, err = t.try(driver.PutRequest{ID: our("never"), Value: []byte(`1`), Expect: driver.Version(7)})
	t.wantConflict(err, 0, "Put that expects a version of a key that was never put")
	_, err = t.historian().History(t.ctx, driver.HistoryRequest{ID: our("never")})
	t.wantCode(err, config.NotFound, "History of a key whose only Put was refused")
}

// historyWhileWriting walks pages from the newest down while newer ones come.
func historyWhileWriting(t *test) {
	k := our("k")
	want := t.past(k)
	r := driver.HistoryRequest{ID: k, PageSize: 2}
	var got []config.Entry
	for {
		page, err := t.historian().History(t.ctx, r)
		if err != nil {
			t.Fatalf("History: %v", err)
		}
		got = append(got, page.Entries...)
		if r.PageToken = page.NextPageToken; r.PageToken == "" {
			break
		}
		t.put(k, `"newer"`)
	}
	t.wantHistory("History from before the newer versions", got, want)
}
