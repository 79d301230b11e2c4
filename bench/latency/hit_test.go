package latency

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/tagstore/tagstore/bench/spread"
	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/router"
	corestore "github.com/tagstore/tagstore/core/store"
)

const (
	hitPrefix = "tenant_config_"
	// hitValue is the size of a value in bytes.
	hitValue = 200
	hitFew   = 1000
	hitMost  = 1_000_000
	// hitBytes is what every cache here may hold, so that what its size costs is
	// the same for all: just enough for hitMost entries.
	hitBytes = 768 << 20
)

// BenchmarkHit: a value that is in memory, with everything that stands before
// it: route, layers, identity, freshness. Beside it a Get of a bare Ristretto
// cache with the same keys and values, asked in the same order, uniformly over
// all of them. With more entries than hitFew, "x-fewest" is how many times it
// takes what a hit among hitFew does, and "baseline-x-fewest" the same of
// Ristretto: what the processor's caches can not hold slows both.
func BenchmarkHit(b *testing.B) { hit(b, cache.NewRistretto, hitFew, 10_000, 100_000, hitMost) }

// BenchmarkHitClock: the same from the other table that the service may have.
func BenchmarkHitClock(b *testing.B) { hit(b, cache.NewClock, hitFew, hitMost) }

func hit(b *testing.B, table table, entries ...int) {
	b.Helper()
	few := newHits(b, hitFew, table)
	b.Run("read", func(b *testing.B) { few.report(b, takeTurns(b, 1, few.read, few.bare)) })
	b.Run("second-layer", func(b *testing.B) { few.report(b, takeTurns(b, 1, few.second, few.bare)) })
	for _, n := range entries {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			h := few
			if n > hitFew {
				h = newHits(b, n, table)
			}
			beside := []loop{h.bare}
			if n > hitFew {
				beside = append(beside, few.get, few.bare)
			}
			b.Run("serial", func(b *testing.B) { h.report(b, takeTurns(b, 1, append([]loop{h.get}, beside...)...)) })
			if n != hitFew && n != hitMost {
				return
			}
			b.Run("parallel", func(b *testing.B) {
				h.report(b, takeTurns(b, runtime.GOMAXPROCS(0), append([]loop{h.get}, beside...)...))
			})
			if n == hitMost {
				h.keys = h.keys[:hitFew]
				b.Run("hot", func(b *testing.B) { h.report(b, takeTurns(b, 1, append([]loop{h.get}, beside...)...)) })
			}
		})
	}
}

// hits is a store whose cache holds a value of each key, and a bare Ristretto
// cache with the same.
type hits struct {
	keys    []config.Key // in the order in which they are asked for
	scope   corestore.Scope
	store   *corestore.Store
	backend *cache.Backend
	plain   *ristretto.Cache[string, []byte]
}

func newHits(b *testing.B, n int, holds table) *hits {
	b.Helper()
	h := &hits{keys: make([]config.Key, n), scope: corestore.Scope{Tenant: storeID(b, "service", "").Tenant, Service: storeID(b, "service", "").Service}}
	for i := range h.keys {
		h.keys[i] = hitKey(i)
	}
	c, err := newCache(holds)
	if err != nil {
		b.Fatal(err)
	}
	h.backend = wrap(c)
	table, err := router.NewTable([]router.Route{{
		Prefix: hitPrefix, BackendName: "made", Backend: h.backend, Layers: []manifest.Layer{manifest.LayerService, manifest.LayerTenant},
	}})
	if err != nil {
		b.Fatal(err)
	}
	h.store = corestore.New(router.New(table), corestore.Options{Logger: slog.New(slog.DiscardHandler), MeterProvider: noop.NewMeterProvider()})
	if h.plain, err = newPlain(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
		h.plain.Close()
	})
	if err := errors.Join(fill(h.backend, h.scope, n), fillPlain(h.plain, n)); err != nil {
		b.Fatal(err)
	}
	if n == hitFew { // and what the service's layer lacks, for second
		if err := fill(h.backend, corestore.Scope{Tenant: h.scope.Tenant}, n); err != nil {
			b.Fatal(err)
		}
		other := h.scope
		other.Service = absentIn(b)
		for _, k := range h.keys {
			if _, err := h.store.Get(b.Context(), other, k, corestore.Want{}); err != nil {
				b.Fatal(err)
			}
		}
	}
	rand.Shuffle(n, func(i, j int) { h.keys[i], h.keys[j] = h.keys[j], h.keys[i] })
	return h
}

// each calls get for n keys, workers apart from each other.
func (h *hits) each(worker, n int, get func(config.Key) error) error {
	i := worker * len(h.keys) / runtime.GOMAXPROCS(0) % len(h.keys)
	for range n {
		if err := get(h.keys[i]); err != nil {
			return err
		}
		if i++; i == len(h.keys) {
			i = 0
		}
	}
	return nil
}

var errNoHit = errors.New("the value is not in memory")

// get is a Get of the store.
func (h *hits) get(worker, n int) error { return h.getIn(h.scope, worker, n) }

// second is get where the most specific layer is known to have no value.
func (h *hits) second(worker, n int) error {
	sc := h.scope
	sc.Service, _ = config.ParseService(absentService)
	return h.getIn(sc, worker, n)
}

func (h *hits) getIn(sc corestore.Scope, worker, n int) error {
	ctx := context.Background()
	return h.each(worker, n, func(k config.Key) error {
		a, err := h.store.Get(ctx, sc, k, corestore.Want{})
		if err == nil && (a.Freshness.Source != config.SourceCache || len(a.Entry.Value) != hitValue) {
			return errNoHit
		}
		return err
	})
}

// read is a Read of the cache alone.
func (h *hits) read(worker, n int) error {
	ctx := context.Background()
	return h.each(worker, n, func(k config.Key) error {
		a, err := h.backend.Read(ctx, config.ID{Tenant: h.scope.Tenant, Service: h.scope.Service, Key: k}, cache.Want{})
		if err == nil && (a.Freshness.Source != config.SourceCache || len(a.Entry.Value) != hitValue) {
			return errNoHit
		}
		return err
	})
}

// bare is a Get of Ristretto as its documentation shows it.
func (h *hits) bare(worker, n int) error {
	return h.each(worker, n, func(k config.Key) error {
		if v, ok := h.plain.Get(k.String()); !ok || len(v) != hitValue {
			return errNoHit
		}
		return nil
	})
}

// report takes the turns of the subject, Ristretto and, if there are more, those
// of both among few entries.
func (h *hits) report(b *testing.B, perCall [][]float64) {
	b.Helper()
	b.ReportMetric(ratio(perCall[0], perCall[1]), "ratio")
	if len(perCall) == 4 {
		b.ReportMetric(ratio(perCall[0], perCall[2]), "x-fewest")
		b.ReportMetric(spread.Median(perCall[2]), "fewest-ns/op")
		b.ReportMetric(ratio(perCall[1], perCall[3]), "baseline-x-fewest")
	}
	b.ReportMetric(spread.Median(perCall[1]), "baseline-ns/op")
}

// absentService is the service in whose layer made has nothing.
const absentService = "absent"

func absentIn(b *testing.B) config.Service { return storeID(b, absentService, "").Service }

// made is a store that makes up its values, so that no copy of them stands
// beside what the cache holds. Every text is one of its own, as they are when
// they come from a plugin.
type made struct{ driver.Backend }

func (made) Get(_ context.Context, id config.ID, _ uint64) (config.Entry, error) {
	if id.Service.String() == absentService {
		return config.Entry{}, config.Errorf(config.NotFound, "there is no such value")
	}
	tenant, err1 := config.ParseTenant(strings.Clone(id.Tenant.String()))
	service, err2 := config.ParseService(strings.Clone(id.Service.String()))
	key, err3 := config.ParseKey(strings.Clone(id.Key.String()))
	return config.Entry{
		ID: config.ID{Tenant: tenant, Service: service, Key: key}, Value: hitText(), ContentType: strings.Clone(config.ContentTypeJSON),
		Version: 1, Revision: config.Revision(strings.Clone("1")), UpdatedBy: strings.Clone("bench"), UpdatedAt: time.Now().UTC(),
	}, errors.Join(err1, err2, err3)
}

func (m made) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	out := make([]driver.Result, len(ids))
	for i, id := range ids {
		out[i].Entry, out[i].Err = m.Get(ctx, id, 0)
	}
	return out, nil
}

func (made) Close() error { return nil }

func hitKey(i int) config.Key {
	k, err := config.ParseKey(fmt.Sprintf("%sbench/%07d", hitPrefix, i))
	if err != nil {
		panic(err) // it is the one above
	}
	return k
}

func hitText() []byte { return bytes.Repeat([]byte("x"), hitValue) }

// table makes what a cache holds its records in.
type table = func(maxCost int64) (cache.Table, error)

func newCache(holds table) (*cache.Cache, error) {
	return cache.New(cache.Options{
		Logger: slog.New(slog.DiscardHandler), MeterProvider: noop.NewMeterProvider(), MaxBytes: hitBytes, TenantShare: 1, Table: holds,
	})
}

// wrap has what is held used for longer than any run.
func wrap(c *cache.Cache) *cache.Backend {
	const day = 24 * time.Hour
	return c.Wrap(made{}, cache.Policy{Prefix: hitPrefix, MaxStaleness: day, StaleIfError: day, NegativeTTL: day})
}

func newPlain() (*ristretto.Cache[string, []byte], error) {
	return ristretto.NewCache(&ristretto.Config[string, []byte]{
		NumCounters: 10 * hitBytes / 512, MaxCost: hitBytes, BufferItems: 64, IgnoreInternalCost: true,
	})
}

// fillChunk is how many values are put into a cache at once: what does not fit
// into its buffer it may drop.
const fillChunk = 1000

// fill reads n values, and makes sure that they are held.
func fill(backend *cache.Backend, sc corestore.Scope, n int) error {
	for i := 0; i < n; i += fillChunk {
		ids := make([]config.ID, min(fillChunk, n-i))
		for j := range ids {
			ids[j] = config.ID{Tenant: sc.Tenant, Service: sc.Service, Key: hitKey(i + j)}
		}
		for range 2 {
			for _, r := range backend.ReadMany(context.Background(), ids, cache.Want{}) {
				if r.Err != nil {
					return r.Err
				}
			}
		}
	}
	return nil
}

func fillPlain(plain *ristretto.Cache[string, []byte], n int) error {
	for i := 0; i < n; i += fillChunk {
		for range 2 {
			for j := i; j < min(i+fillChunk, n); j++ {
				if k := hitKey(j).String(); !has(plain, k) {
					plain.Set(k, hitText(), hitValue)
				}
			}
			plain.Wait()
		}
	}
	return nil
}

func has(plain *ristretto.Cache[string, []byte], key string) bool {
	_, ok := plain.Get(key)
	return ok
}

// BenchmarkResident: the memory of a process that holds hitMost values of 200
// bytes in the cache and nothing else, beside one that holds the same in a bare
// Ristretto cache. The payload is the bytes of the values and of their keys. It
// is measured with GOGC=100, after a collection whose freed pages the system
// took back: "x-payload" is the resident set of the whole process, and
// "heap-x-payload" the live heap, over the payload.
func BenchmarkResident(b *testing.B) { residentOf(b, "cache") }

// BenchmarkResidentClock: the same in the other table that the service may have.
func BenchmarkResidentClock(b *testing.B) { residentOf(b, "clock") }

func residentOf(b *testing.B, what string) {
	b.Helper()
	ours, bare := resident(b, what), resident(b, "ristretto") // once, whatever b.N is
	b.ReportMetric(0, "ns/op")                                // which means nothing here
	b.ReportMetric(ours.RSS/1e6, "resident-MB")
	b.ReportMetric(ours.Payload/1e6, "payload-MB")
	b.ReportMetric(ours.RSS/ours.Payload, "x-payload")
	b.ReportMetric(ours.Heap/ours.Payload, "heap-x-payload")
	b.ReportMetric(bare.RSS/bare.Payload, "baseline-x-payload")
	b.ReportMetric(ours.RSS/bare.RSS, "ratio")
}

// footprint is what one process takes, in bytes.
type footprint struct{ Payload, Heap, RSS float64 }

// residentRole makes the test binary hold values instead of testing.
const residentRole = "hold"

func resident(b *testing.B, what string) footprint {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0], residentRole, what)
	cmd.Env = append(os.Environ(), "GOGC=100", "GOMEMLIMIT=off")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("holding values in %s: %v\n%s", what, err, &said)
	}
	var f footprint
	if err := json.Unmarshal(out, &f); err != nil {
		b.Fatal(err)
	}
	return f
}

// holdProfile names the file, if any, in which hold leaves a profile of the heap.
const holdProfile = "HEAP_PROFILE"

// hold fills a cache of this kind and says what that takes.
func hold(what string, out io.Writer) error {
	tenant, err := config.ParseTenant("bench")
	if err != nil {
		return err
	}
	sc := corestore.Scope{Tenant: tenant}
	payload := float64(hitMost * (hitValue + len(hitKey(0).String())))
	var held any
	switch what {
	case "cache", "clock":
		holds := cache.NewRistretto
		if what == "clock" {
			holds = cache.NewClock
		}
		c, err := newCache(holds)
		if err != nil {
			return err
		}
		defer c.Close()
		backend := wrap(c)
		if err := fill(backend, sc, hitMost); err != nil {
			return err
		}
		for i := range hitMost {
			a, err := backend.Read(context.Background(), config.ID{Tenant: tenant, Key: hitKey(i)}, cache.Want{})
			if err != nil {
				return err
			}
			if a.Freshness.Source != config.SourceCache {
				return fmt.Errorf("value %d: %w", i, errNoHit)
			}
		}
		held = backend
	case "ristretto":
		plain, err := newPlain()
		if err != nil {
			return err
		}
		defer plain.Close()
		if err := fillPlain(plain, hitMost); err != nil {
			return err
		}
		for i := range hitMost {
			if !has(plain, hitKey(i).String()) {
				return fmt.Errorf("value %d: %w", i, errNoHit)
			}
		}
		held = plain
	default:
		return fmt.Errorf("there is no cache %q", what)
	}
	runtime.GC()
	debug.FreeOSMemory()
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	rss, err := residentSet()
	if err != nil {
		return err
	}
	if path := os.Getenv(holdProfile); path != "" {
		var profile bytes.Buffer
		if err := errors.Join(pprof.WriteHeapProfile(&profile), os.WriteFile(path, profile.Bytes(), 0o600)); err != nil {
			return err
		}
	}
	runtime.KeepAlive(held)
	return json.NewEncoder(out).Encode(footprint{Payload: payload, Heap: float64(heap.HeapAlloc), RSS: rss})
}

// residentSet is what this process takes, in bytes.
func residentSet() (float64, error) { return residentSetOf(os.Getpid()) }

// residentSetOf is what a process takes, in bytes.
func residentSetOf(pid int) (float64, error) { return memoryOf(pid, "VmRSS:") }

// memoryOf is a line of the status of proc(5), in bytes.
func memoryOf(pid int, line string) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), line); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 64)
			return kib * 1024, err
		}
	}
	return 0, errors.Join(errors.New("the system does not say what the process takes"), lines.Err())
}
