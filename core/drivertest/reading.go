package drivertest

import (
	"fmt"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// awkward is a text with everything that a text may hold.
const awkward = "line one\nline two\t\"quoted\" 'single' \\ / <b>&amp;</b> %s ${x} ä ß 漢字 עברית 🧭 \u200b\u202e"

func missing(t *test) {
	t.wantMissing(our("never"))
	t.put(our("limit"), `1`)
	t.delete(our("limit"))
	t.wantMissing(our("limit"))
	t.put(our("limit"), `2`)
	t.wantValue(our("limit"), `2`)
}

func missingText(t *test) {
	k := our("limit")
	_, never := t.b.Get(t.ctx, k, 0)
	t.wantCode(never, config.NotFound, "Get of a key that was never put")
	t.put(k, `1`)
	t.delete(k)
	_, deleted := t.b.Get(t.ctx, k, 0)
	t.wantCode(deleted, config.NotFound, "Get of a deleted key")
	_, foreign := t.b.Get(t.ctx, id("globex-inc", order, "limit"), 0)
	t.wantCode(foreign, config.NotFound, "Get of another tenant's key")
	if t.Failed() {
		return
	}
	for what, err := range map[string]error{"a deleted key": deleted, "another tenant's key": foreign} {
		if err.Error() != never.Error() {
			t.Errorf("the error for %s can be told from that for one that was never put:\n got %q\nwant %q", what, err, never)
		}
	}
}

func latest(t *test) {
	k := our("limit")
	for i := range 20 {
		want := driver.PutRequest{
			ID: k, Value: fmt.Appendf(nil, `{"i":%d}`, i), ContentType: "application/x-" + fmt.Sprint(i),
			UpdatedBy: fmt.Sprintf("user-%d", i), Message: fmt.Sprintf("change %d", i),
		}
		if t.caps.Caveats.InferredType {
			want.ContentType = config.ContentTypeJSON
		}
		t.putAs(want)
		t.wantStored(t.get(k), want)
	}
}

// wantStored compares an entry with the Put that stored it.
func (t *test) wantStored(got config.Entry, put driver.PutRequest) {
	t.Helper()
	want := got // what Put does not say is not compared
	want.ID, want.Value, want.ContentType, want.UpdatedBy, want.Message = put.ID, put.Value, put.ContentType, put.UpdatedBy, put.Message
	want.Deleted, want.Secret = false, got.Secret
	if t.caps.Caveats.InferredType {
		want.ContentType = driver.InferType(put.Value)
	}
	if d := t.differ(got, want); d != "" {
		t.Errorf("what comes back is not what was put: %s", d)
	}
}

func metadata(t *test) {
	put := driver.PutRequest{
		ID: our("limit"), Value: []byte(awkward), ContentType: `text/plain; charset="utf-8"`,
		UpdatedBy: "auth0|" + awkward, Message: awkward,
	}
	t.putAs(put)
	t.wantStored(t.get(put.ID), put)
	for _, e := range t.list(put.ID, "", 0) {
		t.wantStored(e, put)
	}
	put.ContentType, put.UpdatedBy, put.Message = "", "", ""
	t.putAs(put)
	put.ContentType = config.ContentTypeJSON
	t.wantStored(t.get(put.ID), put)
}

func binaryValue(t *test) {
	every := make([]byte, 512)
	for i := range every {
		every[i] = byte(i)
	}
	for _, value := range [][]byte{every, {0}, {0xff, 0xfe}, []byte("\xc3\x28"), []byte("null"), []byte(" "), []byte("\r\n"), []byte("\"\"")} {
		put := driver.PutRequest{ID: our("bytes"), Value: value, ContentType: "application/octet-stream"}
		t.putAs(put)
		t.wantStored(t.get(put.ID), put)
	}
}

func versions(t *test) {
	k := our("limit")
	t.put(k, `"one"`)
	t.put(k, `"two"`)
	last := t.put(k, `"three"`)

	e, err := t.b.Get(t.ctx, k, last.Version)
	switch {
	case err != nil:
		t.Errorf("Get of the latest version by its number: %v", err)
	case e.Version != last.Version || string(e.Value) != `"three"` || e.Revision != last.Revision:
		t.Errorf("Get of version %d returned version %d with value %s", last.Version, e.Version, brief(e.Value))
	}
	for _, v := range []uint64{last.Version + 1, last.Version + 1<<32, 1<<63 + 1, ^uint64(0)} {
		_, err := t.b.Get(t.ctx, k, v)
		t.wantNoVersion(err, v)
	}
	_, err = t.b.Get(t.ctx, our("never"), 1)
	t.wantNoVersion(err, 1)

	if t.caps.Caveats.PermanentDelete {
		return
	}
	deleted := t.delete(k)
	_, err = t.b.Get(t.ctx, k, deleted.Version)
	t.wantNoVersion(err, deleted.Version)
	for v, want := range map[uint64]string{1: `"one"`, 2: `"two"`, 3: `"three"`} {
		e, err := t.b.Get(t.ctx, k, v)
		switch {
		case !t.caps.History && config.CodeOf(err) == config.Unimplemented:
		case !t.caps.History && config.CodeOf(err) == config.NotFound:
		case err != nil:
			t.Errorf("Get of version %d after a later delete: %v", v, err)
		case e.Version != v || string(e.Value) != want || e.ID != k:
			t.Errorf("Get of version %d returned version %d of %s with value %s, want %s", v, e.Version, show(e.ID), brief(e.Value), want)
		}
	}
}

func (t *test) wantNoVersion(err error, version uint64) {
	t.Helper()
	if !t.caps.History && config.CodeOf(err) == config.Unimplemented {
		return
	}
	t.wantCode(err, config.NotFound, "Get of version %d, which is not there", version)
}

func emptyValue(t *test) {
	for _, value := range [][]byte{{}, nil} {
		k := our("empty")
		put := t.putAs(driver.PutRequest{ID: k, Value: value})
		t.wantEmpty("Get", t.get(k))
		for _, e := range t.list(k, "", 0) {
			t.wantEmpty("List", e)
		}
		t.wantKeys(k, "", 0, "empty")
		if t.caps.Batch {
			for _, r := range t.batch([]config.ID{k}) {
				if r.Err != nil {
					t.Errorf("BatchGet of an empty value: %v", r.Err)
					continue
				}
				t.wantEmpty("BatchGet", r.Entry)
			}
		}
		if t.caps.History {
			for _, e := range t.history(k, 0) {
				t.wantEmpty("History", e)
			}
		}
		if t.caps.Watch {
			w := t.watch(watchOf(k, ""))
			t.wantEmpty("Watch", w.upTo(k, put.Version)[0].Entry)
			w.stop()
		}
	}
}

func (t *test) wantEmpty(what string, e config.Entry) {
	t.Helper()
	if e.Value == nil || len(e.Value) > 0 {
		t.Errorf("%s returned %s for an empty value, want an empty, non-nil slice", what, brief(e.Value))
	}
}
