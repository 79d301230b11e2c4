package cache

import (
	"context"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// The defaults of Options.
const (
	DefaultMaxBytes       = 256 << 20
	DefaultTenantShare    = 0.25
	DefaultFillBudget     = 2 * time.Second
	DefaultCallsPerMinute = 600
)

// Options are all optional.
type Options struct {
	Logger        *slog.Logger         // nil: slog.Default
	MeterProvider metric.MeterProvider // nil: the global one
	// MaxBytes bounds the memory of all records; 0: DefaultMaxBytes.
	MaxBytes int64
	// TenantShare is the part of MaxBytes that one tenant may take, above 0 and
	// at most 1; 0: DefaultTenantShare.
	TenantShare float64
	// FillBudget is the longest that one read of a store may take;
	// 0: DefaultFillBudget.
	FillBudget time.Duration
	// CallsPerMinute bounds the calls that the reconciler makes of each store;
	// 0: DefaultCallsPerMinute.
	CallsPerMinute int
	// TokenKey seals the positions of Watch, as store.Options.TokenKey does.
	// nil: a fresh one.
	TokenKey []byte
	// Prepare makes of a value that is to be kept what its readers send, so that
	// it is made once; nil: nothing is. What it returns must not change any more,
	// and value, which is the value's own bytes, byte for byte, has to be the end of
	// form: the value is then held there and nowhere else. It is called from the
	// goroutine that reads or writes the value, never for a secret.
	Prepare func(*config.Entry) (form, value []byte)
	// Table makes the table; nil: NewRistretto.
	Table func(maxCost int64) (Table, error)
}

// Cache holds what one replica keeps in memory, for all its routes. Make it
// with New and end it with Close.
type Cache struct {
	log      *slog.Logger
	table    Table  // for hits; everything else goes through gate
	index    *index // table, if it is ours: a call of it costs less
	gate     *gate
	shares   *shares
	maxBytes int64
	budget   time.Duration
	perMin   int
	prepare  func(*config.Entry) (form, value []byte)
	clock    clock
	floors   floors
	seed     maphash.Seed
	began    time.Time
	tokens   *driver.Sealer
	boot     string // tells the positions of this Cache from those of others

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	backends []*Backend // replaced, never changed
	sources  []*source
	spaces   uint32 // counts them

	flights flights
}

// New returns an empty Cache. The error has code InvalidArgument.
func New(o Options) (*Cache, error) {
	const op = "cache.New"
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.TenantShare == 0 {
		o.TenantShare = DefaultTenantShare
	}
	if o.FillBudget == 0 {
		o.FillBudget = DefaultFillBudget
	}
	if o.CallsPerMinute == 0 {
		o.CallsPerMinute = DefaultCallsPerMinute
	}
	if o.TokenKey == nil {
		o.TokenKey = driver.NewTokenKey()
	}
	if o.Table == nil {
		o.Table = NewRistretto
	}
	switch {
	case o.MaxBytes < 1<<20:
		return nil, config.AsError(config.Errorf(config.InvalidArgument, "the cache has %d bytes, it takes 1 MiB at least", o.MaxBytes), op, config.Key{})
	case o.TenantShare < 0 || o.TenantShare > 1:
		return nil, config.AsError(config.Errorf(config.InvalidArgument, "a tenant's share of %g is not above 0 and at most 1", o.TenantShare), op, config.Key{})
	case o.FillBudget < 0 || o.CallsPerMinute < 0:
		return nil, config.AsError(config.Errorf(config.InvalidArgument, "the budgets of the cache are below 0"), op, config.Key{})
	}
	table, err := o.Table(o.MaxBytes)
	if err != nil {
		return nil, config.AsError(err, op, config.Key{})
	}
	c := &Cache{
		log: o.Logger, table: table, gate: &gate{table: table}, maxBytes: o.MaxBytes, budget: o.FillBudget, perMin: o.CallsPerMinute, prepare: o.Prepare,
		seed: maphash.MakeSeed(), began: time.Now(), tokens: driver.NewSealer(o.TokenKey), boot: newBoot(),
	}
	c.index, _ = table.(*index)
	c.shares = newShares(c.gate, int64(float64(o.MaxBytes)*o.TenantShare))
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.work.Go(c.settle)
	c.observe(o.MeterProvider)
	return c, nil
}

// Close ends the reads that are under way, every Watch over views, and the
// table. It does not close the backends. No other method may be called with or
// after it, but for Close, which returns nil again.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.work.Wait()
	c.gate.close()
	return nil
}

// Clear makes everything that is held invalid, such as after a store was
// restored from a backup.
func (c *Cache) Clear() { c.clock.invalidateAll() }

// goDo runs f in a goroutine that Close waits for. It reports false, and does
// not run it, once Close has begun.
func (c *Cache) goDo(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.work.Go(f)
	return true
}

// get is for hits.
func (c *Cache) get(hash uint64) (*Record, bool) {
	if c.index != nil {
		return c.index.Get(hash)
	}
	return c.table.Get(hash)
}

// since is the clock of ages: it does not go back and is not the wall's.
func (c *Cache) since() time.Duration { return time.Since(c.began) }

// settledAfter is how long after an invalidation a store's eventual copies are
// not believed.
const settledAfter = floorKeep

// settle moves clock.settled to where the clock stood settledAfter ago.
func (c *Cache) settle() {
	const steps = 10
	var past [steps]uint64
	tick := time.NewTicker(settledAfter / steps)
	defer tick.Stop()
	for i := 0; ; i = (i + 1) % steps {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
			c.clock.settled.Store(past[i])
			past[i] = c.clock.now()
		}
	}
}

// spot returns where an ID of one backend lies.
func (c *Cache) spot(space uint32, id *config.ID) spot {
	tenant := maphash.String(c.seed, id.Tenant.String())
	service := maphash.String(c.seed, id.Service.String())
	key := maphash.String(c.seed, id.Key.String())
	// The parts are hashed apart with a secret seed, so that no two of them run
	// together; odd factors keep the order of them.
	h := tenant*0x9e3779b97f4a7c15 ^ service*0xc2b2ae3d27d4eb4f ^ key ^ uint64(space)*0xd6e8feb86659fd93
	h ^= h >> 32
	return spot{id: h, tenant: tenant}
}

// scale spreads what was read at once over a tenth to either side.
func scale() int32 { return 900 + rand.Int32N(201) } //nolint:gosec // jitter, not a secret

// Cost is the memory in bytes that is charged for what is held, roughly.
func (c *Cache) Cost() int64 { return c.gate.cost() }
