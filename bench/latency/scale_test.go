package latency

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/tagstore/tagstore/bench/spread"
	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/router"
	corestore "github.com/tagstore/tagstore/core/store"
)

// scaleMost is up to how many entries BenchmarkScale goes.
var scaleMost = flag.Int("scale-most", 100_000, "the most entries of BenchmarkScale: 1000000 takes a minute to fill")

// BenchmarkScale: what a hit in process costs by how many entries there are, and
// by how many tenants they belong to, beside a bare Ristretto cache with as many
// entries, asked in the same order, any of them. Of many tenants all have the
// same keys, 100,000 entries together.
func BenchmarkScale(b *testing.B) {
	for keys := 1000; keys <= *scaleMost; keys *= 10 {
		b.Run(fmt.Sprintf("tenants=1/keys=%d", keys), func(b *testing.B) { scale(b, 1, keys) })
	}
	for tenants := 10; tenants <= 10_000; tenants *= 10 {
		keys := 100_000 / tenants
		b.Run(fmt.Sprintf("tenants=%d/keys=%d", tenants, keys), func(b *testing.B) { scale(b, tenants, keys) })
	}
}

// BenchmarkScaleWatch: from the call of a Put until each of up to 10,000 watchers
// has the value, as in BenchmarkWatch, of a store that can not be watched itself,
// as none of AWS can. One connection has 200 of them, or less.
func BenchmarkScaleWatch(b *testing.B) {
	const most = 10_000
	site := stack.NewSite(b)
	echo := startEchoTCP(b)
	text, _ := onFiles(b, site, "scale")
	replica := site.Start(b, "scale", text, fmt.Sprintf("TAGSTORE_WATCHES_PER_TENANT=%d", 2*most))
	for watchers := 1; watchers <= most; watchers *= 10 {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) { watchMany(b, site, replica, echo, watchers) })
	}
}

func scale(b *testing.B, tenants, keys int) {
	b.Helper()
	c, err := newCache(cache.NewRistretto)
	if err != nil {
		b.Fatal(err)
	}
	backend := wrap(c)
	table, err := router.NewTable([]router.Route{{
		Prefix: hitPrefix, BackendName: "made", Backend: backend, Layers: []manifest.Layer{manifest.LayerTenant},
	}})
	if err != nil {
		b.Fatal(err)
	}
	store := corestore.New(router.New(table), corestore.Options{Logger: slog.New(slog.DiscardHandler), MeterProvider: noop.NewMeterProvider()})
	plain, err := newPlain()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
		plain.Close()
	})
	type question struct {
		scope corestore.Scope
		key   config.Key
		bare  string
	}
	asked := make([]question, 0, tenants*keys)
	for t := range tenants {
		name, err := config.ParseTenant(fmt.Sprintf("tenant-%05d", t))
		if err != nil {
			b.Fatal(err)
		}
		sc := corestore.Scope{Tenant: name}
		if err := fill(backend, sc, keys); err != nil {
			b.Fatal(err)
		}
		for i := range keys {
			key := hitKey(i)
			asked = append(asked, question{sc, key, name.String() + "/" + key.String()})
		}
	}
	for i, q := range asked {
		plain.Set(q.bare, hitText(), hitValue)
		if i%fillChunk == fillChunk-1 {
			plain.Wait()
		}
	}
	plain.Wait()
	rand.Shuffle(len(asked), func(i, j int) { asked[i], asked[j] = asked[j], asked[i] })
	for _, q := range asked {
		if !has(plain, q.bare) {
			b.Fatal("the bare cache has not taken every entry")
		}
	}
	// Each way goes on where it was in the last round, so that all entries are
	// asked for, however few a round has.
	each := func(ask func(question) error) loop {
		next := 0
		return func(_, n int) error {
			for range n {
				if err := ask(asked[next]); err != nil {
					return err
				}
				if next++; next == len(asked) {
					next = 0
				}
			}
			return nil
		}
	}
	ctx := context.Background()
	perCall := takeTurns(b, 1, each(func(q question) error {
		a, err := store.Get(ctx, q.scope, q.key, corestore.Want{})
		if err == nil && (a.Freshness.Source != config.SourceCache || len(a.Entry.Value) != hitValue) {
			return errNoHit
		}
		return err
	}), each(func(q question) error {
		if v, ok := plain.Get(q.bare); !ok || len(v) != hitValue {
			return errors.New("the bare cache has lost a value")
		}
		return nil
	}))
	b.ReportMetric(ratio(perCall[0], perCall[1]), "ratio")
	b.ReportMetric(spread.Median(perCall[1]), "baseline-ns/op")
}
