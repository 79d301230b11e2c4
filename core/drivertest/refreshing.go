package drivertest

import (
	"fmt"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// refresh returns the results for ids, as many as there are ids.
func (t *test) refresh(ids []config.ID) []driver.Result {
	t.Helper()
	results, err := t.refresher().Refresh(t.ctx, ids)
	if err != nil {
		t.Fatalf("Refresh of %d IDs failed whole: %v", len(ids), err)
	}
	if len(results) != len(ids) {
		t.Fatalf("Refresh of %d IDs returned %d results", len(ids), len(results))
	}
	return results
}

func refreshLikeBatch(t *test) {
	var ids []config.ID
	for i := range 130 {
		k := our(fmt.Sprintf("k%03d", 129-i))
		if i%3 > 0 {
			t.put(k, `"`+k.Key.String()+`"`)
		}
		ids = append(ids, k, id("globex-inc", order, k.Key.String()))
	}
	t.put(our("deleted"), `1`)
	t.delete(our("deleted"))
	ids = append(ids, our("deleted"), ids[2], ids[2])
	t.refresh(nil)
	for i, r := range t.refresh(ids) {
		want, err := t.b.Get(t.ctx, ids[i], 0)
		if err != nil {
			t.wantCode(r.Err, config.CodeOf(err), "Refresh of %s", show(ids[i]))
			continue
		}
		if r.Err != nil {
			t.Errorf("Refresh of %s: %v", show(ids[i]), r.Err)
		} else if d := t.differ(r.Entry, want); d != "" {
			t.Errorf("Refresh of %s, compared with Get: %s", show(ids[i]), d)
		}
	}
}

// refreshFromSource has a peer write behind a value, an absence and a value
// that goes, all of which were read before.
func refreshFromSource(t *test) {
	changes, comes, goes := our("changes"), our("comes"), our("goes")
	peer := &test{TB: t.TB, ctx: t.ctx, caps: t.caps, h: t.h, b: t.h.Peer, patience: t.patience}
	t.put(changes, `"old"`)
	t.put(goes, `"old"`)
	for _, k := range []config.ID{changes, comes, goes} {
		_, _ = t.b.Get(t.ctx, k, 0) // so that what is in front of the store knows it
	}
	for i := range 5 {
		value := fmt.Sprintf(`"new %d"`, i)
		version := peer.put(changes, value).Version
		r := t.refresh([]config.ID{changes})[0]
		if r.Err != nil || r.Entry.Version != version || string(r.Entry.Value) != value {
			t.Errorf("Refresh after a peer's Put of version %d: version %d with %s, error %v", version, r.Entry.Version, brief(r.Entry.Value), r.Err)
		}
	}
	peer.put(comes, `"new"`)
	peer.delete(goes)
	results := t.refresh([]config.ID{comes, goes})
	if r := results[0]; r.Err != nil || string(r.Entry.Value) != `"new"` {
		t.Errorf("Refresh of a key that a peer made: %s, error %v", brief(r.Entry.Value), r.Err)
	}
	t.wantCode(results[1].Err, config.NotFound, "Refresh of a key that a peer deleted")
}

// refreshSticks checks that no later read goes back behind a Refresh.
func refreshSticks(t *test) {
	k, gone := our("limit"), our("gone")
	peer := &test{TB: t.TB, ctx: t.ctx, caps: t.caps, h: t.h, b: t.h.Peer, patience: t.patience}
	t.put(k, `"old"`)
	t.put(gone, `"old"`)
	for i := range 10 {
		t.get(k)
		version := peer.put(k, fmt.Sprint(i)).Version
		t.refresh([]config.ID{k})
		for range 3 {
			if got := t.get(k).Version; got < version {
				t.Errorf("Get after the Refresh of version %d returned version %d", version, got)
			}
			if t.caps.Batch {
				if r := t.batch([]config.ID{k})[0]; r.Err != nil || r.Entry.Version < version {
					t.Errorf("BatchGet after the Refresh of version %d: version %d, error %v", version, r.Entry.Version, r.Err)
				}
			}
		}
	}
	t.get(gone)
	peer.delete(gone)
	t.refresh([]config.ID{gone})
	for range 3 {
		_, err := t.b.Get(t.ctx, gone, 0)
		t.wantCode(err, config.NotFound, "Get after the Refresh of a deleted key")
	}
}
