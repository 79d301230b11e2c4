package latency

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// BenchmarkPerCore: what a call costs the service's process in time on a
// processor, beside what plain gRPC of the same payload costs the echo's. That is
// what a core can serve, whoever else has the machine: the time on the clock has
// the callers in it, who share the processors here and do not where the service
// runs. "get" is an authenticated Get from memory, "stream" one over a stream that
// stays open, beside a call of its own, "batch" a key of a BatchGet of 64, "watch"
// a change that one of 1,000 watchers is told of.
func BenchmarkPerCore(b *testing.B) {
	site := stack.NewSite(b)
	replica := site.Start(b, "replica", onLocal(b, site, "replica"), "TAGSTORE_WATCHES_PER_TENANT=2000")
	c, address := newClient(b, replica.Address), startEchoTCP(b)
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	echoPID, err := childOf(os.Getpid(), self)
	if err != nil {
		b.Fatal(err)
	}
	editor := client.ContextWithToken(b.Context(), site.Token(b, tenant, auth.RoleEditor))
	keys := make([]string, batch)
	for i := range keys {
		id := benchKey(b, i)
		if _, err := c.Put(editor, client.PutRequest{Key: id.Key, Value: value(i)}); err != nil {
			b.Fatal(err)
		}
		keys[i] = id.Key.String()
	}
	token := site.Token(b, tenant, auth.RoleReader)
	stub, echo := tagstorev1.NewConfigServiceClient(dial(b, replica.Address)), dialEcho(b, address)
	streamed, key := newClient(b, replica.Address, client.WithStreams()), benchKey(b, 0).Key
	one, many := &tagstorev1.GetRequest{Key: keys[0]}, &tagstorev1.BatchGetRequest{Keys: keys}
	measure := func(b *testing.B, callers, items int, subject, baseline op) {
		b.Helper()
		onProcessor(b, callers, items, processWork{replica.PID(), subject}, processWork{echoPID, baseline})
	}
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("get/callers=%d", callers), func(b *testing.B) {
			measure(b, callers, 1,
				func(ctx context.Context) error { _, err := stub.Get(bearer(ctx, token), one); return err },
				func(ctx context.Context) error { _, err := echo.Get(ctx, one); return err })
		})
	}
	b.Run("stream/callers=64", func(b *testing.B) {
		measure(b, 64, 1, func(ctx context.Context) error {
			_, err := streamed.Get(client.ContextWithToken(ctx, token), key, config.Service{})
			return err
		}, func(ctx context.Context) error { _, err := echo.Get(ctx, one); return err })
	})
	b.Run("batch/keys=64", func(b *testing.B) {
		measure(b, 4, batch,
			func(ctx context.Context) error { _, err := stub.BatchGet(bearer(ctx, token), many); return err },
			func(ctx context.Context) error { _, err := echo.BatchGet(ctx, many); return err })
	})
	b.Run("watch/watchers=1000", func(b *testing.B) {
		const watchers = 1000
		subject, baseline := watchReplica(b, site, replica, watchers), watchEcho(b, address, watchers)
		measure(b, 1, watchers, subject.change, baseline.change)
	})
}

// processWork is something that callers have a process do.
type processWork struct {
	pid  int
	call op
}

// leastOnProcessor is how long a process has to have worked for what the system
// says of it, in hundredths of a second, to be a figure.
const leastOnProcessor = 300 * time.Millisecond

// onProcessor runs subject and baseline in turns, b.N times each and until both
// have worked for long enough, and reports the time on a processor for each of
// the items of a call.
func onProcessor(b *testing.B, callers, items int, subject, baseline processWork) {
	b.Helper()
	chunk := max(callers, 320/items)
	run(b, callers, chunk, baseline.call, nil)
	run(b, callers, chunk, subject.call, nil)
	var mine, base time.Duration
	calls := 0
	b.ResetTimer()
	for calls < b.N || min(mine, base) < leastOnProcessor {
		base += spent(b, baseline, callers, chunk)
		mine += spent(b, subject, callers, chunk)
		calls += chunk
	}
	b.ReportMetric(0, "ns/op") // which has both in it
	per := float64(calls * items)
	b.ReportMetric(float64(mine.Nanoseconds())/per, "cpu-per-item-ns")
	b.ReportMetric(float64(base.Nanoseconds())/per, "baseline-cpu-per-item-ns")
	b.ReportMetric(float64(mine)/float64(base), "cpu-ratio")
	b.ReportMetric(per/mine.Seconds(), "items-per-core/s")
}

// spent is how long a process was on a processor for n calls.
func spent(b *testing.B, w processWork, callers, n int) time.Duration {
	b.Helper()
	before, err := cpuOf(w.pid)
	if err != nil {
		b.Fatal(err)
	}
	run(b, callers, n, w.call, nil)
	after, err := cpuOf(w.pid)
	if err != nil {
		b.Fatal(err)
	}
	return after - before
}
