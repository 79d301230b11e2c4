package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/store"
)

// qualified is a backend with caveats, whose answers come from a tier in front
// of the store.
type qualified struct {
	*memdriver.Backend
	caveats driver.Caveats
	source  config.Source
	deleted []driver.DeleteRequest
}

func (q *qualified) Caveats() driver.Caveats { return q.caveats }

func (q *qualified) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	e, err := q.Backend.Get(ctx, id, version)
	e.Source = q.source
	return e, err
}

func (q *qualified) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	results, err := q.Backend.BatchGet(ctx, ids)
	for i := range results {
		results[i].Entry.Source = q.source
	}
	return results, err
}

func (q *qualified) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	q.deleted = append(q.deleted, r)
	return q.Backend.Delete(ctx, r)
}

// What loses the history needs consent, what does not refuses it: neither is
// done by accident.
func TestPermanentDelete(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		b := &qualified{Backend: memdriver.New(), caveats: driver.Caveats{PermanentDelete: forgets}}
		f := on(t, b)
		f.put(t, acme, "param_config_a", `1`)
		ask := store.DeleteRequest{Scope: acme, Key: key("param_config_a"), Permanent: !forgets}
		want := config.InvalidArgument
		if forgets {
			want = config.FailedPrecondition
		}
		_, err := f.Delete(t.Context(), ask)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "permanent") || len(b.deleted) != 0 {
			t.Errorf("forgets %t, permanent %t: %v, %d calls", forgets, ask.Permanent, err, len(b.deleted))
		}
		ask.Permanent = forgets
		if _, err := f.Delete(t.Context(), ask); err != nil || len(b.deleted) != 1 || b.deleted[0].Permanent != forgets {
			t.Errorf("forgets %t, permanent %t: %v, %+v", forgets, ask.Permanent, err, b.deleted)
		}
	}
}

// An answer that may be older than what was acknowledged says so, and names
// the tier that it came from.
func TestFreshnessOfEventualReads(t *testing.T) {
	for _, c := range []struct {
		caveats driver.Caveats
		source  config.Source
		want    config.Freshness
	}{
		{driver.Caveats{}, config.SourceUnknown, config.Freshness{Source: config.SourceStore, State: config.StateFresh}},
		{driver.Caveats{EventualReads: true}, config.SourceUnknown, config.Freshness{Source: config.SourceStore, State: config.StateStale}},
		{driver.Caveats{EventualReads: true}, config.SourceDAX, config.Freshness{Source: config.SourceDAX, State: config.StateStale}},
	} {
		f := on(t, &qualified{Backend: memdriver.New(), caveats: c.caveats, source: c.source})
		f.put(t, acme, "param_config_a", `1`)
		k := key("param_config_a")
		got, err := f.Get(t.Context(), acme, k, store.Want{})
		if err != nil || got.Freshness != c.want {
			t.Errorf("%v %v: Get is %+v, %v, want %+v", c.caveats.Names(), c.source, got.Freshness, err, c.want)
		}
		batch, err := f.BatchGet(t.Context(), acme, []config.Key{k}, store.Want{})
		if err != nil || batch[0].Freshness != c.want {
			t.Errorf("%v %v: BatchGet is %+v, %v, want %+v", c.caveats.Names(), c.source, batch[0].Freshness, err, c.want)
		}
		// One version never changes, and a list is read from the store.
		version, err := f.GetVersion(t.Context(), acme, k, 1)
		if err != nil || version.Freshness.State != config.StateFresh {
			t.Errorf("%v: GetVersion is %+v, %v", c.caveats.Names(), version.Freshness, err)
		}
	}
}

// Where a lost race may have left its value, the conflict says so.
func TestConflictOfALooseStore(t *testing.T) {
	for loose, want := range map[bool]bool{false: false, true: true} {
		f := on(t, &qualified{Backend: memdriver.New(), caveats: driver.Caveats{LooseCompareAndSet: loose}})
		f.put(t, acme, "param_config_a", `1`)
		_, err := f.Put(t.Context(), store.PutRequest{Scope: acme, Key: key("param_config_a"), Value: []byte(`2`), Expect: driver.Version(7)})
		if !errors.Is(err, config.Conflict) || strings.Contains(err.Error(), "the history shows it") != want {
			t.Errorf("loose %t: %v", loose, err)
		}
	}
}
