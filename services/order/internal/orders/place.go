package orders

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// configTimeout is how long an order waits for its configuration.
const configTimeout = 2 * time.Second

// Configuration is the configuration service; *client.Client implements it.
// The tenant of a call is that of the token in its context.
type Configuration interface {
	BatchGet(ctx context.Context, keys []config.Key, service config.Service, opts ...client.GetOption) ([]client.Result, error)
}

// ConfigUnavailable says that the configuration that decides an order could
// not be had, or not be understood. Nothing was accepted.
type ConfigUnavailable struct {
	Key        config.Key // zero if it is about all of them
	Version    uint64     // of a value that was not understood, else 0
	RetryAfter time.Duration
	Err        error // for the log
}

// Error says which key it is about.
func (e *ConfigUnavailable) Error() string {
	switch {
	case e.Key.IsZero():
		return "the configuration is not available"
	case e.Version != 0:
		return fmt.Sprintf("version %d of %s can not be used", e.Version, e.Key)
	default:
		return fmt.Sprintf("%s is not available", e.Key)
	}
}

// Unwrap returns the cause.
func (e *ConfigUnavailable) Unwrap() error { return e.Err }

// Buyer is who places an order, out of a verified token.
type Buyer struct {
	Tenant  config.Tenant
	Subject string
}

// Book places orders and shows them. It is safe for concurrent use.
type Book struct {
	config Configuration
	store  Store
	now    func() time.Time
	turns  turns
}

// NewBook returns a Book. It owns neither the configuration nor the store.
func NewBook(c Configuration, s Store, now func() time.Time) *Book {
	return &Book{config: c, store: s, now: now}
}

// Place decides d by the tenant's present configuration and stores it. ctx
// carries the buyer's token for the configuration service.
//
// With a request key, a request of the same tenant that was accepted before
// with the same draft returns its order, and replayed true, whatever the
// configuration says now; with another draft the code is AlreadyExists. Those
// that come at the same time wait for each other.
//
// Errors are *Refusal, *ConfigUnavailable, or a *config.Error of the store or,
// for Unauthenticated, PermissionDenied and Canceled, of the configuration
// service. After each of them but OutcomeUnknown nothing was stored.
func (b *Book) Place(ctx context.Context, buyer Buyer, d Draft, requestKey string) (o Order, replayed bool, err error) {
	var once Once
	if requestKey != "" {
		once = Once{Key: requestKey, Fingerprint: d.fingerprint()}
		done, err := b.turns.take(ctx, turn{buyer.Tenant, requestKey})
		if err != nil {
			return Order{}, false, err
		}
		defer done()
		o, err := b.store.Find(ctx, buyer.Tenant, once)
		if err == nil || !errors.Is(err, config.NotFound) {
			return o, err == nil, err
		}
	}
	p, err := b.policy(ctx)
	if err != nil {
		return Order{}, false, err
	}
	if err := p.check(d); err != nil {
		return Order{}, false, err
	}
	now := b.now().UTC().Truncate(time.Millisecond)
	return b.store.Create(ctx, Order{
		ID: NewID(now), Tenant: buyer.Tenant, CreatedAt: now, CreatedBy: buyer.Subject,
		Lines: d.lines, Total: d.total, Currency: p.currency, Reference: d.reference,
		Gateway: *p.gateway, Decisions: p.decisions,
	}, once)
}

// Get returns one order of the tenant.
func (b *Book) Get(ctx context.Context, tenant config.Tenant, id ID) (Order, error) {
	return b.store.Get(ctx, tenant, id)
}

// List returns the tenant's orders before an ID, newest first, as Store.List.
func (b *Book) List(ctx context.Context, tenant config.Tenant, before ID, limit int) ([]Order, error) {
	return b.store.List(ctx, tenant, before, limit)
}

// policy reads the configuration of ctx's token, all of it in one call.
func (b *Book) policy(ctx context.Context) (policy, error) {
	limited, cancel := context.WithTimeout(ctx, configTimeout)
	defer cancel()
	results, err := b.config.BatchGet(limited, Keys(), service)
	if err != nil {
		return policy{}, unavailable(ctx, config.Key{}, err)
	}
	if len(results) != len(Keys()) {
		return policy{}, unavailable(ctx, config.Key{}, config.Errorf(config.Internal, "%d results for %d keys", len(results), len(Keys())))
	}
	entries := make([]client.Entry, len(results))
	for i, r := range results {
		key := Keys()[i]
		switch {
		case errors.Is(r.Err, config.NotFound):
			return policy{}, &Refusal{Rule: RuleConfigured, Key: key, Detail: "orders can not be taken until " + key.String() + " is configured"}
		case r.Err != nil:
			return policy{}, unavailable(ctx, key, r.Err)
		}
		entries[i] = r.Answer.Entry
	}
	return newPolicy(entries)
}

// unavailable tells what the caller did, or is, from what the configuration
// service lacks.
func unavailable(ctx context.Context, key config.Key, err error) error {
	switch config.CodeOf(err) {
	case config.Unauthenticated, config.PermissionDenied:
		return config.AsError(err, "orders.Place", key)
	}
	if ctx.Err() != nil {
		return config.AsError(ctx.Err(), "orders.Place", key)
	}
	var e *config.Error
	errors.As(err, &e)
	c := &ConfigUnavailable{Key: key, Err: err}
	if e != nil {
		c.RetryAfter = e.RetryAfter
	}
	return c
}

// turn names one client's request.
type turn struct {
	tenant config.Tenant
	key    string
}

// turns lets the requests with one name pass one at a time. It holds no more
// names than there are requests at work.
type turns struct {
	mu    sync.Mutex
	taken map[turn]*queue
}

type queue struct {
	pass    chan struct{} // holds one item while somebody's turn lasts
	members int
}

// take waits for its turn, or for ctx. The caller calls done once.
func (t *turns) take(ctx context.Context, name turn) (done func(), err error) {
	t.mu.Lock()
	if t.taken == nil {
		t.taken = map[turn]*queue{}
	}
	q := t.taken[name]
	if q == nil {
		q = &queue{pass: make(chan struct{}, 1)}
		t.taken[name] = q
	}
	q.members++
	t.mu.Unlock()

	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if q.members--; q.members == 0 {
			delete(t.taken, name)
		}
	}
	select {
	case q.pass <- struct{}{}:
		return func() {
			<-q.pass
			leave()
		}, nil
	case <-ctx.Done():
		leave()
		return nil, config.AsError(ctx.Err(), "orders.Place", config.Key{})
	}
}
