package dynamodbbackend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// BenchmarkDAX measures reads that a DAX node has in its item cache beside the
// same reads of the table, by stores in this process. The node is the tests'
// own, which speaks DAX's protocol. "ratio" is the time through DAX over that of
// the table, the two taking turns; "calls/op" is how many calls the table gets,
// which is what a hit saves.
//
// It stands here since the node is internal to this module; `make bench` runs it
// with the stores suite of bench/latency.
func BenchmarkDAX(b *testing.B) {
	s, plain, _, _ := accelerated(b)
	value := `"` + strings.Repeat("v", 1<<10) + `"`
	ids := make([]config.ID, batchKeys)
	for i := range ids {
		ids[i] = id(b, "acme-corp", "", fmt.Sprintf("k%03d", i))
		put(b, plain, ids[i], value)
	}
	for begun := time.Now(); time.Since(begun) < warmth; {
		for _, store := range []*Store{plain, s} {
			if _, err := store.Get(b.Context(), ids[0], 0); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("Get", func(b *testing.B) {
		beside(b, s, plain, func(ctx context.Context, s *Store) (config.Source, error) {
			e, err := s.Get(ctx, ids[0], 0)
			return e.Source, err
		})
	})
	b.Run("BatchGet100", func(b *testing.B) {
		beside(b, s, plain, func(ctx context.Context, s *Store) (config.Source, error) {
			results, err := s.BatchGet(ctx, ids)
			if err == nil && slices.ContainsFunc(results, func(r driver.Result) bool { return r.Err != nil }) {
				err = fmt.Errorf("not all of %d keys were read", len(ids))
			}
			return results[len(results)-1].Entry.Source, err
		})
	})
}

// rounds is how often DAX and the table take turns where that many reads fit into
// the time, and leastRounds where not.
const (
	rounds      = 15
	leastRounds = 5
)

// warmth is for how long both are read before anything is measured: a DynamoDB
// Local that has just started answers several times slower than later on.
const warmth = time.Second

func beside(b *testing.B, dax, table *Store, read func(context.Context, *Store) (config.Source, error)) {
	b.Helper()
	b.ReportAllocs()
	times := func(n int, s *Store, want config.Source) time.Duration {
		begun := time.Now()
		for range n {
			if source, err := read(b.Context(), s); err != nil || source != want {
				b.Fatalf("source %s (%v), want %s", source, err, want)
			}
		}
		return time.Since(begun)
	}
	chunk := (b.N + rounds - 1) / rounds
	times(1, dax, config.SourceDAX) // the node has read it now
	calls := dax.conn.CountCalls()
	var ratios, baselines []float64
	b.ResetTimer()
	b.StopTimer()
	done := 0
	for ; done < b.N || len(ratios) < leastRounds; done += chunk {
		base := times(chunk, table, config.SourceUnknown)
		if done < b.N {
			b.StartTimer()
		}
		mine := times(chunk, dax, config.SourceDAX)
		b.StopTimer()
		ratios = append(ratios, float64(mine)/float64(base))
		baselines = append(baselines, float64(base.Nanoseconds())/float64(chunk))
	}
	b.ReportMetric(middle(ratios), "ratio")
	b.ReportMetric(middle(baselines), "baseline-ns/op")
	b.ReportMetric(float64(calls.Attempts())/float64(done), "calls/op")
}

// middle is the median.
func middle(xs []float64) float64 {
	slices.Sort(xs)
	return (xs[(len(xs)-1)/2] + xs[len(xs)/2]) / 2
}
