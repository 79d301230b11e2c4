package cache_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
)

// kept is the policy of a route that keeps everything for a minute.
var kept = cache.Policy{
	Prefix: "p_", MaxStaleness: time.Minute, StaleIfError: time.Hour, NegativeTTL: 2 * time.Second,
}

func newCache(tb testing.TB, o cache.Options) *cache.Cache {
	tb.Helper()
	if o.MaxBytes == 0 {
		o.MaxBytes = 4 << 20
	}
	c, err := cache.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func id(tenant, key string) config.ID {
	return config.ID{Tenant: must(config.ParseTenant(tenant)), Key: must(config.ParseKey(key))}
}

var x = id("acme-corp", "p_x")

// origin is a store behind a cache's back: a memdriver that can not be watched,
// counts how often it is asked, and fails or waits when it is told to.
type origin struct {
	*memdriver.Backend
	caveats driver.Caveats

	gets, batches, refreshes, lists atomic.Int64

	mu   sync.Mutex
	down error
	// answer, unless it is nil, comes instead of what Get found. It is called
	// behind the store's own read, which it may hold up.
	answer func(config.Entry, error) (config.Entry, error)
}

func newOrigin() *origin { return &origin{Backend: memdriver.New()} }

func (o *origin) Capabilities() driver.Capabilities {
	return driver.Capabilities{Batch: true, History: true, Ping: true, Refresh: o.caveats.EventualReads}
}

func (o *origin) Caveats() driver.Caveats { return o.caveats }

// fail has every call end with err, nil for none.
func (o *origin) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.down = err
}

func (o *origin) answers(f func(config.Entry, error) (config.Entry, error)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answer = f
}

func (o *origin) state() (answer func(config.Entry, error) (config.Entry, error), down error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.answer, o.down
}

func (o *origin) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	o.gets.Add(1)
	answer, down := o.state()
	if down != nil {
		return config.Entry{}, down
	}
	e, err := o.Backend.Get(ctx, id, version)
	if answer != nil {
		return answer(e, err)
	}
	return e, err
}

func (o *origin) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	o.batches.Add(1)
	if _, down := o.state(); down != nil {
		return nil, down
	}
	return o.Backend.BatchGet(ctx, ids)
}

// Refresh is the truth, which no answer replaces.
func (o *origin) Refresh(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	o.refreshes.Add(1)
	if _, down := o.state(); down != nil {
		return nil, down
	}
	return o.Backend.BatchGet(ctx, ids)
}

func (o *origin) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	o.lists.Add(1)
	if _, down := o.state(); down != nil {
		return driver.Page{}, down
	}
	return o.Backend.List(ctx, r)
}

func (o *origin) Ping(context.Context) error {
	_, down := o.state()
	return down
}

// change writes behind the cache's back and returns the version.
func (o *origin) change(tb testing.TB, id config.ID, value string) uint64 {
	tb.Helper()
	e, err := o.Put(tb.Context(), driver.PutRequest{ID: id, Value: []byte(value)})
	if err != nil {
		tb.Fatal(err)
	}
	return e.Version
}

func put(tb testing.TB, b driver.Backend, id config.ID, value string) uint64 {
	tb.Helper()
	e, err := b.Put(tb.Context(), driver.PutRequest{ID: id, Value: []byte(value)})
	if err != nil {
		tb.Fatal(err)
	}
	return e.Version
}

// read is what a Read of id says, "-" for an absence.
func read(tb testing.TB, b *cache.Backend, id config.ID, w cache.Want) (string, config.Freshness) {
	tb.Helper()
	a, err := b.Read(tb.Context(), id, w)
	if err != nil {
		tb.Fatal(err)
	}
	if a.Absent {
		return "-", a.Freshness
	}
	return string(a.Entry.Value), a.Freshness
}

func wantRead(tb testing.TB, b *cache.Backend, id config.ID, value string, source config.Source, state config.State) {
	tb.Helper()
	got, f := read(tb, b, id, cache.Want{})
	if got != value || f.Source != source || f.State != state {
		tb.Errorf("read %q, %v %v of age %v; want %q, %v %v", got, f.State, f.Source, f.Age, value, state, source)
	}
}

var errAway = config.Errorf(config.Unavailable, "the store is away")

// pass lets time go by in a test with a clock of its own.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // on the test's own clock
}
