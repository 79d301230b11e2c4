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

// TestConformance holds the cache to the contract of what it stands in front
// of: nobody can tell that it is there.
func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		under  func(*memdriver.Backend) driver.Backend
		policy cache.Policy
	}{
		"kept":             {func(m *memdriver.Backend) driver.Backend { return m }, kept},
		"kept, unwatched":  {func(m *memdriver.Backend) driver.Backend { return unwatched{m} }, kept},
		"not kept":         {func(m *memdriver.Backend) driver.Backend { return unwatched{m} }, cache.Policy{Prefix: "p_"}},
		"kept, bare store": {func(m *memdriver.Backend) driver.Backend { return single{m} }, kept},
	} {
		t.Run(name, func(t *testing.T) {
			has := driver.CapabilitiesOf(c.under(memdriver.New()))
			drivertest.Run(t, drivertest.Caps{
				Batch: true, Watch: true, History: has.History, Ping: has.Ping, Idempotent: has.Idempotent, Size: has.Size, MaxValue: 1 << 20,
			}, func(tb testing.TB) *drivertest.Harness {
				m := memdriver.New(memdriver.WithChanges(5000))
				b := newCache(tb, cache.Options{}).Wrap(c.under(m), c.policy)
				return &drivertest.Harness{Backend: b, Changes: 5000}
			})
		})
	}
}
