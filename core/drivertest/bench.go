package drivertest

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// benchValue is the size of every value that Bench stores, in bytes.
const benchValue = 512

// Bench measures a Get, a BatchGet of 64 and a List of 100 by one caller, and
// Puts by 1 and by 64 callers, each caller on a key of its own. One operation
// is one call. A BatchGet that the backend does not have is left out.
func Bench(b *testing.B, open Open) {
	b.Run("Get", func(b *testing.B) {
		t := newBench(b, open)
		k := t.benchKeys(1)[0]
		for b.Loop() {
			if _, err := t.b.Get(t.ctx, k, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("BatchGet=64", func(b *testing.B) {
		t := newBench(b, open)
		batcher, ok := driver.AsBatcher(t.b)
		if !ok {
			b.Skip("the backend does not declare Batch")
		}
		ids := t.benchKeys(64)
		for b.Loop() {
			if _, err := batcher.BatchGet(t.ctx, ids); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("List=100", func(b *testing.B) {
		t := newBench(b, open)
		in := t.benchKeys(100)[0]
		r := driver.ListRequest{Tenant: in.Tenant, Service: in.Service, PageSize: 100}
		for b.Loop() {
			if page, err := t.b.List(t.ctx, r); err != nil || len(page.Entries) != 100 {
				b.Fatalf("List returned %d entries, error %v", len(page.Entries), err)
			}
		}
	})
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("Put/callers=%d", callers), func(b *testing.B) {
			t := newBench(b, open)
			ids := t.benchKeys(callers)
			value := bytes.Repeat([]byte{'v'}, benchValue)
			var calls atomic.Int64
			b.ResetTimer()
			parallel(callers, func(i int) {
				for calls.Add(1) <= int64(b.N) {
					if _, err := t.b.Put(t.ctx, driver.PutRequest{ID: ids[i], Value: value}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func newBench(b *testing.B, open Open) *test {
	b.Helper()
	b.ReportAllocs()
	h := open(b)
	b.Cleanup(func() {
		if err := h.Backend.Close(); err != nil {
			b.Errorf("Close: %v", err)
		}
	})
	return &test{TB: b, ctx: b.Context(), h: h, b: h.Backend}
}

// benchKeys puts n keys of one scope.
func (t *test) benchKeys(n int) []config.ID {
	t.Helper()
	ids := make([]config.ID, n)
	for i := range ids {
		ids[i] = our(fmt.Sprintf("bench/k%03d", i))
		t.put(ids[i], string(bytes.Repeat([]byte{'v'}, benchValue)))
	}
	return ids
}
