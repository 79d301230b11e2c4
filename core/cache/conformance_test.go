package cache_test

import (
	"context"
	"testing"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/memdriver"
)

// unwatched is a store that can do everything but be watched, as those of AWS.
type unwatched struct{ *memdriver.Backend }

func (u unwatched) Capabilities() driver.Capabilities {
	has := driver.CapabilitiesOf(u.Backend)
	has.Watch = false
	return has
}

// single can do nothing but what it must.
type single struct{ driver.Backend }

func (s single) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	r.IdempotencyKey = "" // which only an Idempotent store honours
	return s.Backend.Put(ctx, r)
}

func (s single) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	r.IdempotencyKey = ""
	return s.Backend.Delete(ctx, r)
}

// The cache keeps the contract of what it stands in front of: nobody can tell
// that it is there.

func TestConformance(t *testing.T) {
	conform(t, kept, func(m *memdriver.Backend) driver.Backend { return m })
}

func TestConformanceUnwatched(t *testing.T) {
	conform(t, kept, func(m *memdriver.Backend) driver.Backend { return unwatched{m} })
}

func TestConformanceOfABareStore(t *testing.T) {
	conform(t, kept, func(m *memdriver.Backend) driver.Backend { return single{m} })
}

// As TestConformanceUnwatched, with the other table.
func TestConformanceWithClock(t *testing.T) {
	conformWith(t, cache.Options{Table: cache.NewClock}, kept, func(m *memdriver.Backend) driver.Backend { return unwatched{m} })
}

func TestConformanceNotKept(t *testing.T) {
	conform(t, cache.Policy{Prefix: "p_"}, func(m *memdriver.Backend) driver.Backend { return unwatched{m} })
}

func conform(t *testing.T, p cache.Policy, under func(*memdriver.Backend) driver.Backend) {
	t.Helper()
	conformWith(t, cache.Options{}, p, under)
}

func conformWith(t *testing.T, o cache.Options, p cache.Policy, under func(*memdriver.Backend) driver.Backend) {
	t.Helper()
	has := driver.CapabilitiesOf(under(memdriver.New()))
	drivertest.Run(t, drivertest.Caps{
		Batch: true, Watch: true, History: has.History, Ping: has.Ping, Idempotent: has.Idempotent, Size: has.Size, MaxValue: 1 << 20,
	}, func(tb testing.TB) *drivertest.Harness {
		const changes = 5000 // more than a view keeps
		b := newCache(tb, o).Wrap(under(memdriver.New(memdriver.WithChanges(changes))), p)
		return &drivertest.Harness{Backend: b, Changes: changes}
	})
}
