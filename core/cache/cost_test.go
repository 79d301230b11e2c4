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

// prepared is a form of some length before the value.
func prepared(e *config.Entry) (form, value []byte) {
	const head = 90
	form = append(make([]byte, head, head+len(e.Value)), e.Value...)
	return form, form[head:]
}

// What is charged for a record is what it takes, or the bound on the memory is
// none.
func TestCostIsHonest(t *testing.T) {
	const n = 100_000
	for _, of := range []struct {
		table   string
		size    int
		prepare func(*config.Entry) (form, value []byte)
	}{
		{"ristretto", 20, nil},
		{"ristretto", 200, prepared},
		{"ristretto", 2000, nil},
		{"clock", 20, nil},
		{"clock", 200, nil},
		{"clock", 2000, nil},
		{"clock", 20, prepared},
		{"clock", 200, prepared},
		{"clock", 2000, prepared},
	} {
		size := of.size
		t.Run(fmt.Sprintf("%s/%d/prepared=%t", of.table, size, of.prepare != nil), func(t *testing.T) {
			c := newCache(t, cache.Options{MaxBytes: 1 << 30, TenantShare: 1, Prepare: of.prepare, Table: tables[of.table]})
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
