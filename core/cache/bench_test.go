package cache_test

import (
	"fmt"
	"testing"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
)

// BenchmarkHit is a Read from memory.
func BenchmarkHit(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			o := newOrigin()
			c := newCache(b, cache.Options{MaxBytes: 256 << 20, TenantShare: 1}).Wrap(o, kept)
			ids := make([]config.ID, n)
			for i := range ids {
				ids[i] = id("acme-corp", fmt.Sprintf("p_%d", i))
				o.change(b, ids[i], "v")
				read(b, c, ids[i], cache.Want{})
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				if a, err := c.Read(b.Context(), ids[i%n], cache.Want{}); err != nil || a.Absent {
					b.Fatal(err)
				}
			}
		})
	}
}
