// Package store is what a service asks for configuration: it finds the route
// of a key, looks through the route's layers, holds every write to the route's
// limits and schema, and believes no backend.
//
// # Layers
//
// Reads without a version answer the effective value: that of the first layer
// of the route, most specific first, where the key is live. The service layer
// takes part only if the scope names a service. Writes, History and reads of
// one version address exactly one layer, that of the scope's service or, if it
// names none, the tenant-wide one. The shared layer is never written.
//
// # Trust
//
// Whatever a backend answers is compared with what it was asked for: tenant,
// service, key, version, order and size. An answer that does not fit is not
// used; the caller gets one fixed text with code Internal, and operators a
// log line, a count and a call of Options.OnViolation.
//
// # Errors
//
// Every error is a *config.Error. "There is no such value" is the same text
// whether the key never was, is deleted, or is somebody else's. What a backend
// says in its own words reaches the caller only with codes that the caller can
// act on; all of it is in the log. Nothing is retried here.
//
// # Concurrency
//
// A Store is safe for concurrent use. A call works to its end with the table
// of routes that was in use when it began; a Watch goes on with each new one.
package store

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/router"
)

// The defaults of Options.
const (
	DefaultMaxBatch  = 1000
	DefaultMaxAnswer = 15 << 20
)

// Options are all optional.
type Options struct {
	Logger        *slog.Logger         // nil: slog.Default
	MeterProvider metric.MeterProvider // nil: the global one
	// OnViolation is called, from the goroutine of the call that saw it, when a
	// backend broke its contract. It must be safe for concurrent use.
	OnViolation func(context.Context, Violation)
	// TokenKey seals page and resume tokens; it has driver.TokenKeySize bytes
	// or more. Replicas with the same key read each other's tokens. nil: a
	// fresh one, so that tokens end with this Store.
	TokenKey []byte
	// MaxBatch is the most keys of a BatchGet; 0: DefaultMaxBatch.
	MaxBatch int
	// MaxAnswer is the most bytes of values and keys in the answer of a
	// BatchGet; 0: DefaultMaxAnswer.
	MaxAnswer int
}

// Violation is one answer of a backend that broke its contract.
type Violation struct {
	Backend string
	Op      string // such as "store.Get"
	What    string // one of a few fixed texts, such as "foreign tenant"
}

// Scope is whose configuration a call is about. The zero Service is the whole
// tenant.
type Scope struct {
	Tenant  config.Tenant
	Service config.Service
}

// Answer is one value and how new it is.
type Answer struct {
	Entry     config.Entry
	Freshness config.Freshness
}

// Store answers from the backends of a Router's table.
type Store struct {
	routes      *router.Router
	log         *slog.Logger
	onViolation func(context.Context, Violation)
	tokens      *driver.Sealer
	maxBatch    int
	maxAnswer   int
	turns       turns

	durations  metric.Float64Histogram
	violations metric.Int64Counter
}

// New returns a Store. It panics if o.TokenKey is set and too short.
func New(r *router.Router, o Options) *Store {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	if o.OnViolation == nil {
		o.OnViolation = func(context.Context, Violation) {}
	}
	if o.TokenKey == nil {
		o.TokenKey = driver.NewTokenKey()
	}
	if o.MaxBatch == 0 {
		o.MaxBatch = DefaultMaxBatch
	}
	if o.MaxAnswer == 0 {
		o.MaxAnswer = DefaultMaxAnswer
	}
	s := &Store{
		routes: r, log: o.Logger, onViolation: o.OnViolation, tokens: driver.NewSealer(o.TokenKey),
		maxBatch: o.MaxBatch, maxAnswer: o.MaxAnswer,
	}
	meter := o.MeterProvider.Meter("github.com/tagstore/tagstore/core/store")
	var err error
	// An instrument that fails is one that does nothing: the call goes on.
	if s.durations, err = meter.Float64Histogram("tagstore.store.duration", metric.WithUnit("s"),
		metric.WithDescription("Time that a call of the store took, Watch apart."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10),
	); err != nil {
		otel.Handle(err)
	}
	if s.violations, err = meter.Int64Counter("tagstore.store.violations",
		metric.WithDescription("Answers of a backend that broke its contract. Any is a bug or an attack."),
	); err != nil {
		otel.Handle(err)
	}
	// A counter that appears with its first event shows no increase for it.
	for _, route := range r.Load().Routes() {
		s.violations.Add(context.Background(), 0, metric.WithAttributes(attribute.String("backend", route.BackendName)))
	}
	return s
}

// observe measures one call; defer it with the call's named error.
func (s *Store) observe(ctx context.Context, op string, began time.Time, err *error) {
	code := "ok"
	if *err != nil {
		code = config.CodeOf(*err).String()
	}
	s.durations.Record(ctx, time.Since(began).Seconds(),
		metric.WithAttributes(attribute.String("op", op), attribute.String("code", code)))
}

// fresh is what every answer says that was read from its store just now.
func fresh() config.Freshness {
	return config.Freshness{Source: config.SourceStore, State: config.StateFresh}
}

// freshness is that of the latest value of a key. Reads that may be older than
// what was acknowledged are stale: it can not be known which of them are.
func (c call) freshness(e config.Entry) config.Freshness {
	f := fresh()
	if e.Source != config.SourceUnknown {
		f.Source = e.Source
	}
	if !c.truth() && driver.CaveatsOf(c.route.Backend).EventualReads {
		f.State = config.StateStale
	}
	return f
}

// place is where the values of one layer stand.
type place struct {
	tenant  config.Tenant
	service config.Service
}

func (p place) id(k config.Key) config.ID {
	return config.ID{Tenant: p.tenant, Service: p.service, Key: k}
}

// check refuses what no verified caller has.
func (sc Scope) check() error {
	switch {
	case sc.Tenant.IsZero():
		return config.Errorf(config.PermissionDenied, "the caller belongs to no tenant")
	case sc.Tenant.IsShared():
		return config.Errorf(config.PermissionDenied, "the shared layer is no tenant of its own")
	}
	return nil
}

// places are where a read looks, most specific first.
type places struct {
	list [maxLayers]place
	n    int
}

func (p *places) add(found place) {
	p.list[p.n] = found
	p.n++
}

func (p *places) all() []place { return p.list[:p.n] }

// places fills in where a read looks.
func (sc Scope) places(r *router.Route, found *places) error {
	if err := sc.check(); err != nil {
		return err
	}
	for _, l := range r.Layers {
		if p, ok := sc.at(l); ok {
			found.add(p)
		}
	}
	if found.n == 0 {
		return config.Errorf(config.InvalidArgument, "values of %s belong to a service", r.Prefix).WithHint("name the service")
	}
	return nil
}

// at is where the values of a layer stand; ok is false where it does not take
// part.
func (sc Scope) at(l manifest.Layer) (p place, ok bool) {
	switch {
	case l == manifest.LayerShared:
		return place{tenant: config.Shared()}, true
	case l == manifest.LayerTenant:
		return place{tenant: sc.Tenant}, true
	case l == manifest.LayerService && !sc.Service.IsZero():
		return place{sc.Tenant, sc.Service}, true
	}
	return place{}, false
}

// place returns the one place that a write addresses.
func (sc Scope) place(r *router.Route) (place, error) {
	if err := sc.check(); err != nil {
		return place{}, err
	}
	layer, mend := manifest.LayerTenant, "name a service"
	if !sc.Service.IsZero() {
		layer, mend = manifest.LayerService, "leave the service out"
	}
	for _, l := range r.Layers {
		if l == layer {
			return place{sc.Tenant, sc.Service}, nil
		}
	}
	if len(r.Layers) == 1 && r.Layers[0] == manifest.LayerShared {
		mend = "its values are shared by all tenants, and only operators write them"
	}
	return place{}, config.Errorf(config.InvalidArgument, "%s has no layer %s", r.Prefix, layer).WithHint("%s", mend)
}
