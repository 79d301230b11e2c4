package store_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/store"
)

// eventual answers every Get and BatchGet with what it saw first, and Refresh
// with what is there.
type eventual struct {
	*memdriver.Backend
	first     map[config.ID]config.Entry
	refreshes atomic.Int64
}

func newEventual() *eventual {
	return &eventual{Backend: memdriver.New(), first: map[config.ID]config.Entry{}}
}

func (*eventual) Caveats() driver.Caveats { return driver.Caveats{EventualReads: true} }

func (e *eventual) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	if old, ok := e.first[id]; ok && version == 0 {
		return old.Clone(), nil
	}
	got, err := e.Backend.Get(ctx, id, version)
	if err == nil {
		e.first[id] = got
	}
	return got, err
}

func (e *eventual) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	results := make([]driver.Result, len(ids))
	for i, id := range ids {
		results[i].Entry, results[i].Err = e.Get(ctx, id, 0)
	}
	return results, nil
}

func (e *eventual) Refresh(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	e.refreshes.Add(1)
	return e.Backend.BatchGet(ctx, ids)
}

// A bound on the age makes the store's own truth the answer, and one that is
// not stale; without a bound an old answer stays one that says so.
func TestMaxStaleness(t *testing.T) {
	b := newEventual()
	f := on(t, b)
	k := key("param_config_a")
	f.put(t, acme, "param_config_a", `"old"`)
	if _, err := f.Get(t.Context(), acme, k, store.Want{}); err != nil {
		t.Fatal(err)
	}
	f.put(t, acme, "param_config_a", `"new"`)
	for _, c := range []struct {
		want  store.Want
		value string
		state config.State
	}{
		{store.Want{}, `"old"`, config.StateStale},
		{store.Want{MaxStaleness: time.Second}, `"old"`, config.StateStale}, // not Bounded
		{store.Want{Bounded: true}, `"new"`, config.StateFresh},
		{store.Want{Bounded: true, MaxStaleness: store.MaxStaleness}, `"new"`, config.StateFresh},
		{store.Want{MinVersion: 2}, `"new"`, config.StateFresh},
	} {
		a, err := f.Get(t.Context(), acme, k, c.want)
		if err != nil || string(a.Entry.Value) != c.value || a.Freshness.State != c.state {
			t.Errorf("%+v: Get is %s, %+v, %v; want %s, %v", c.want, a.Entry.Value, a.Freshness, err, c.value, c.state)
		}
		if c.want.MinVersion > 0 {
			continue
		}
		r, err := f.BatchGet(t.Context(), acme, []config.Key{k, key("param_config_none")}, c.want)
		if err != nil || string(r[0].Entry.Value) != c.value || r[0].Freshness.State != c.state || !errors.Is(r[1].Err, config.NotFound) {
			t.Errorf("%+v: BatchGet is %+v, %v; want %s, %v", c.want, r, err, c.value, c.state)
		}
	}
}

// A store that knows no bound of its answers' age is not asked to keep one.
func TestMaxStalenessOfAnUnboundedStore(t *testing.T) {
	f := on(t, &qualified{Backend: memdriver.New(), caveats: driver.Caveats{EventualReads: true}})
	f.put(t, acme, "param_config_a", `1`)
	_, err := f.Get(t.Context(), acme, key("param_config_a"), store.Want{Bounded: true})
	wantCode(t, err, config.Unimplemented)
	r, err := f.BatchGet(t.Context(), acme, []config.Key{key("param_config_a")}, store.Want{Bounded: true})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, r[0].Err, config.Unimplemented)
}

func TestWantsThatNobodyCanMean(t *testing.T) {
	f := on(t, memdriver.New())
	f.put(t, acme, "param_config_a", `1`)
	for name, w := range map[string]store.Want{
		"negative": {Bounded: true, MaxStaleness: -1},
		"huge":     {Bounded: true, MaxStaleness: store.MaxStaleness + 1},
	} {
		_, err := f.Get(t.Context(), acme, key("param_config_a"), w)
		if e := errorOf(t, err, config.InvalidArgument); !strings.Contains(e.Message, "max_staleness") || e.Hint == "" {
			t.Errorf("%s: Get says %q", name, e)
		}
		_, err = f.BatchGet(t.Context(), acme, []config.Key{key("param_config_a")}, w)
		wantCode(t, err, config.InvalidArgument)
	}
	_, err := f.BatchGet(t.Context(), acme, []config.Key{key("param_config_a")}, store.Want{MinVersion: 1})
	wantCode(t, err, config.InvalidArgument)
}

// A version that is on its way is waited for.
func TestMinVersionComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memdriver.New()
		f := on(t, b)
		f.put(t, acme, "param_config_a", `1`)
		time.AfterFunc(time.Second, func() { f.put(t, acme, "param_config_a", `2`) })
		began := time.Now()
		a, err := f.Get(t.Context(), acme, key("param_config_a"), store.Want{MinVersion: 2})
		if err != nil || a.Entry.Version != 2 {
			t.Fatalf("Get is version %d, %v", a.Entry.Version, err)
		}
		if took := time.Since(began); took < time.Second || took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// One that does not come is an error that says what is here, before the
// caller's own deadline and after 5 seconds where that is late.
func TestMinVersionDoesNotCome(t *testing.T) {
	for name, c := range map[string]struct {
		deadline, least, most time.Duration
	}{
		"no deadline":     {0, 5 * time.Second, 5 * time.Second},
		"a late one":      {time.Minute, 5 * time.Second, 5 * time.Second},
		"an early one":    {time.Second, 800 * time.Millisecond, 950 * time.Millisecond},
		"a very near one": {10 * time.Millisecond, 8 * time.Millisecond, 9500 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := on(t, memdriver.New())
				f.put(t, acmeOrders, "param_config_a", `1`)
				f.put(t, acme, "param_config_a", `1`)
				f.put(t, acme, "param_config_a", `2`)
				ctx := t.Context()
				if c.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.deadline)
					defer cancel()
				}
				began := time.Now()
				_, err := f.Get(ctx, acmeOrders, key("param_config_a"), store.Want{MinVersion: 2})
				e := errorOf(t, err, config.Unavailable)
				if e.Version != 1 || !strings.Contains(e.Message, "version 1 is here") || !strings.Contains(e.Message, "2") {
					t.Errorf("the error is %q with version %d", e, e.Version)
				}
				if took := time.Since(began); took < c.least || took > c.most {
					t.Errorf("it took %v, want %v to %v", took, c.least, c.most)
				}
			})
		})
	}
}

// Whoever gives up has said so, and learns no version.
func TestMinVersionIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := on(t, memdriver.New())
		f.put(t, acme, "param_config_a", `1`)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := f.Get(ctx, acme, key("param_config_a"), store.Want{MinVersion: 2})
		wantCode(t, err, config.Canceled)
	})
}

// A layer without the value had it and lost it: the less specific ones answer,
// whatever their versions are.
func TestMinVersionOfAnAbsentLayer(t *testing.T) {
	b := memdriver.New()
	f := on(t, b)
	f.put(t, acme, "param_config_a", `"tenant"`)
	want := store.Want{MinVersion: 7}
	a, err := f.Get(t.Context(), acmeOrders, key("param_config_a"), want)
	if err != nil || string(a.Entry.Value) != `"tenant"` {
		t.Errorf("Get is %s, %v", a.Entry.Value, err)
	}
	f.put(t, acmeOrders, "param_config_b", `"service"`)
	f.delete(t, acmeOrders, "param_config_b")
	_, err = f.Get(t.Context(), acmeOrders, key("param_config_b"), want)
	wantCode(t, err, config.NotFound)
}

// A store that counts no versions can not have one awaited.
func TestMinVersionWithoutVersions(t *testing.T) {
	f := on(t, &spy{Backend: memdriver.New(), get: func(_ config.ID, e config.Entry) config.Entry { e.Version = 0; return e }})
	f.put(t, acme, "param_config_a", `1`)
	_, err := f.Get(t.Context(), acme, key("param_config_a"), store.Want{MinVersion: 1})
	wantCode(t, err, config.Unimplemented)
}
