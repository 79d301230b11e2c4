package cache_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// made is a store of values that it makes up when it is asked, so that it takes
// no memory of its own.
type made struct {
	*origin
	size int
}

func (m made) List(_ context.Context, r driver.ListRequest) (driver.Page, error) {
	var from int
	if r.PageToken != "" {
		_, _ = fmt.Sscan(r.PageToken, &from)
	}
	var page driver.Page
	for i := from; i < from+r.PageSize; i++ {
		k, err := config.ParseKey(fmt.Sprintf("p_%08d", i))
		if err != nil {
			return driver.Page{}, err
		}
		page.Entries = append(page.Entries, config.Entry{
			ID: config.ID{Tenant: r.Tenant, Key: k}, Value: make([]byte, m.size), ContentType: config.ContentTypeJSON,
			Version: 1, Revision: config.Revision(fmt.Sprint("r", i)), UpdatedBy: fmt.Sprint("user-", i%10),
		})
	}
	page.NextPageToken = fmt.Sprint(from + r.PageSize)
	return page, nil
}

// What is charged for a record is what it takes, or the bound on the memory is
// none.
func TestCostIsHonest(t *testing.T) {
	const n = 100_000
	for _, size := range []int{20, 200, 2000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			c := newCache(t, cache.Options{MaxBytes: 1 << 30, TenantShare: 1})
			b := c.Wrap(made{newOrigin(), size}, kept)
			before := heap()
			for from := 0; from < n; from += 1000 {
				if _, err := b.List(t.Context(), driver.ListRequest{Tenant: x.Tenant, KeyPrefix: "p_", PageSize: 1000, PageToken: fmt.Sprint(from)}); err != nil {
					t.Fatal(err)
				}
			}
			took, charged := int64(heap()-before), c.Cost()
			t.Logf("%d values of %d bytes take %d bytes each; %d are charged", n, size, took/n, charged/n)
			if ratio := float64(charged) / float64(took); ratio < 0.95 || ratio > 1.6 {
				t.Errorf("the charge is %.2f of what is taken", ratio)
			}
			runtime.KeepAlive(b)
		})
	}
}

// heap is what is in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
