package pluginkit

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// Measurement is one operation by so many callers at once.
type Measurement struct {
	Operation string
	Callers   int
	Calls     int
	P50, P99  time.Duration
	PerSecond float64
	// OfFloor is P50 as a multiple of a round trip by as many callers.
	OfFloor float64
}

// Benchmark is what Bench found.
type Benchmark struct {
	Plugin pluginhost.Description
	// Launches are how long it took from starting the process to an open store,
	// sorted.
	Launches []time.Duration
	// Measurements begin with the floor, a round trip that reaches no store.
	Measurements []Measurement
}

// What Bench does how often, and with how much.
const (
	benchLaunches = 5
	benchRounds   = 3
	benchBatch    = 64
	benchList     = 100
	benchValue    = 512
	roundTrip     = "round trip"
)

// Bench measures a plugin through the host, each operation for about as long as
// each says. The operations take turns, in rounds, so that a machine that gets
// busy slows all of them.
func Bench(ctx context.Context, t Target, each time.Duration, logger *slog.Logger) (b Benchmark, err error) {
	s, err := t.newStore(logger)
	if err != nil {
		return b, err
	}
	defer func() {
		if left := s.remove(); err == nil {
			err = left
		}
	}()
	var p *pluginhost.Process
	for i := range benchLaunches {
		began := time.Now()
		if p, err = s.open(ctx); err != nil {
			return b, err
		}
		b.Launches = append(b.Launches, time.Since(began))
		if i < benchLaunches-1 {
			if err := p.Close(); err != nil {
				return b, err
			}
		}
	}
	slices.Sort(b.Launches)
	defer func() {
		if closed := p.Close(); err == nil {
			err = closed
		}
	}()
	b.Plugin = p.Description()
	b.Measurements, err = measure(ctx, p, each)
	return b, err
}

// operation is one thing to measure; caller counts from 0.
type operation struct {
	name string
	call func(ctx context.Context, caller int) error
}

func measure(ctx context.Context, p *pluginhost.Process, each time.Duration) ([]Measurement, error) {
	operations, err := operations(ctx, p)
	if err != nil {
		return nil, err
	}
	type key struct{ operation, callers int }
	samples, spent := map[key][]time.Duration{}, map[key]time.Duration{}
	callers := []int{1, 64}
	for range benchRounds {
		for i, o := range operations {
			for _, n := range callers {
				took, elapsed, err := load(ctx, o, n, each/benchRounds)
				if err != nil {
					return nil, fmt.Errorf("%s by %d callers: %w", o.name, n, err)
				}
				k := key{i, n}
				samples[k], spent[k] = append(samples[k], took...), spent[k]+elapsed
			}
		}
	}
	var all []Measurement
	floor := map[int]time.Duration{}
	for i, o := range operations {
		for _, n := range callers {
			k := key{i, n}
			took := samples[k]
			slices.Sort(took)
			m := Measurement{
				Operation: o.name, Callers: n, Calls: len(took),
				P50: took[len(took)/2], P99: took[len(took)*99/100], PerSecond: float64(len(took)) / spent[k].Seconds(),
			}
			if o.name == roundTrip {
				floor[n] = m.P50
			}
			m.OfFloor = float64(m.P50) / float64(floor[n])
			all = append(all, m)
		}
	}
	return all, nil
}

// load lets n callers repeat an operation for a while.
func load(ctx context.Context, o operation, n int, long time.Duration) (took []time.Duration, elapsed time.Duration, err error) {
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	began := time.Now()
	for caller := range n {
		wg.Go(func() {
			var own []time.Duration
			var failed error
			for failed == nil && (len(own) == 0 || time.Since(began) < long) {
				start := time.Now()
				if failed = o.call(ctx, caller); failed == nil {
					own = append(own, time.Since(start))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
			if err == nil {
				err = failed
			}
		})
	}
	wg.Wait()
	return took, time.Since(began), err
}

// operations fills the store and returns what can be done with it.
func operations(ctx context.Context, p *pluginhost.Process) ([]operation, error) {
	tenant, err := config.ParseTenant("bench")
	if err != nil {
		return nil, err
	}
	value := bytes.Repeat([]byte{'v'}, benchValue)
	ids := make([]config.ID, benchList)
	for i := range ids {
		key, err := config.ParseKey(fmt.Sprintf("bench/k%03d", i))
		if err != nil {
			return nil, err
		}
		ids[i] = config.ID{Tenant: tenant, Key: key}
	}
	// What is written to stays out of what is read: it has a growing history.
	put := func(ctx context.Context, id config.ID) error {
		_, err := p.Put(ctx, driver.PutRequest{ID: id, Value: value, ContentType: "text/plain"})
		return err
	}
	for _, id := range ids {
		if err := put(ctx, id); err != nil {
			return nil, err
		}
	}
	written := make([]config.ID, 64)
	for i := range written {
		key, err := config.ParseKey(fmt.Sprintf("written/k%03d", i))
		if err != nil {
			return nil, err
		}
		written[i] = config.ID{Tenant: tenant, Key: key}
	}
	all := []operation{
		{roundTrip, func(ctx context.Context, _ int) error { return p.RoundTrip(ctx) }},
		{"Get", func(ctx context.Context, caller int) error {
			_, err := p.Get(ctx, ids[caller%len(ids)], 0)
			return err
		}},
	}
	if p.Capabilities().Batch {
		all = append(all, operation{fmt.Sprintf("BatchGet of %d", benchBatch), func(ctx context.Context, _ int) error {
			_, err := p.BatchGet(ctx, ids[:benchBatch])
			return err
		}})
	}
	return append(all,
		operation{fmt.Sprintf("List of %d", benchList), func(ctx context.Context, _ int) error {
			_, err := p.List(ctx, driver.ListRequest{Tenant: tenant, KeyPrefix: "bench/", PageSize: benchList})
			return err
		}},
		operation{"Put", func(ctx context.Context, caller int) error { return put(ctx, written[caller]) }},
	), nil
}
