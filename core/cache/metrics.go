package cache

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// observe registers the instruments. They read what is counted anyway; an
// instrument that fails is one that does nothing.
func (c *Cache) observe(p metric.MeterProvider) {
	m := p.Meter("github.com/tagstore/tagstore/core/cache")
	var failed error
	note := func(err error) {
		if err != nil {
			failed = err
		}
	}
	reads, err := m.Int64ObservableCounter("tagstore.cache.reads",
		metric.WithDescription("Reads of one value, by what came of them: hit, miss, degraded or stale."))
	note(err)
	fills, err := m.Int64ObservableCounter("tagstore.cache.fills",
		metric.WithDescription("Calls of a store for what was not in memory, by outcome."))
	note(err)
	notKept, err := m.Int64ObservableCounter("tagstore.cache.not_kept",
		metric.WithDescription("Values that were served and not kept: too large for their tenant's share, or dropped under load."))
	note(err)
	reconciled, err := m.Int64ObservableCounter("tagstore.cache.reconciled",
		metric.WithDescription("Values that the reconciler found changed: changes whose event was lost or never sent."))
	note(err)
	bound, err := m.Float64ObservableGauge("tagstore.cache.staleness.limit", metric.WithUnit("s"),
		metric.WithDescription("The age within which a change that nobody announced is seen, as the route promises."))
	note(err)
	oldest, err := m.Float64ObservableGauge("tagstore.cache.staleness.oldest", metric.WithUnit("s"),
		metric.WithDescription("The greatest age of an unmarked answer since the last scrape."))
	note(err)
	lag, err := m.Float64ObservableGauge("tagstore.cache.watch.lag", metric.WithUnit("s"),
		metric.WithDescription("How long ago the watched prefix that waits longest was compared with its store."))
	note(err)
	down, err := m.Int64ObservableGauge("tagstore.cache.source.down",
		metric.WithDescription("1 while the store is held to be out of reach."))
	note(err)
	bytes, err := m.Int64ObservableGauge("tagstore.cache.bytes", metric.WithUnit("By"),
		metric.WithDescription("Memory that is charged for what is held."))
	note(err)
	if failed != nil {
		otel.Handle(failed)
		return
	}
	_, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(bytes, c.gate.cost())
		c.mu.Lock()
		backends := c.backends
		c.mu.Unlock()
		for _, b := range backends {
			m := b.now.Load()
			prefix := attribute.String("prefix", m.policy.Prefix)
			with := func(kv attribute.KeyValue) metric.MeasurementOption { return metric.WithAttributes(prefix, kv) }
			o.ObserveInt64(reads, b.counts.hitsInAll(), with(attribute.String("outcome", "hit")))
			o.ObserveInt64(reads, b.counts.misses.Load(), with(attribute.String("outcome", "miss")))
			o.ObserveInt64(reads, b.counts.degraded.Load(), with(attribute.String("outcome", "degraded")))
			o.ObserveInt64(reads, b.counts.stale.Load(), with(attribute.String("outcome", "stale")))
			o.ObserveInt64(fills, b.counts.fills.Load(), with(attribute.String("outcome", "ok")))
			o.ObserveInt64(fills, b.counts.failures.Load(), with(attribute.String("outcome", "failed")))
			o.ObserveInt64(notKept, b.counts.notKept.Load(), metric.WithAttributes(prefix))
			o.ObserveInt64(reconciled, b.counts.reconciled.Load(), metric.WithAttributes(prefix))
			o.ObserveFloat64(bound, m.bound().Seconds(), metric.WithAttributes(prefix))
			o.ObserveFloat64(oldest, time.Duration(b.counts.oldest.Swap(0)).Seconds(), metric.WithAttributes(prefix))
			o.ObserveFloat64(lag, b.views.lag().Seconds(), metric.WithAttributes(prefix))
			isDown := int64(0)
			if m.source.down.Load() {
				isDown = 1
			}
			o.ObserveInt64(down, isDown, metric.WithAttributes(prefix))
		}
		return nil
	}, reads, fills, notKept, reconciled, bound, oldest, lag, down, bytes)
	if err != nil {
		otel.Handle(err)
	}
}

// lag is how long ago the watched view that waits longest was compared.
func (vs *views) lag() time.Duration {
	var most time.Duration
	now := vs.b.cache.since()
	for _, v := range vs.all() {
		v.mu.Lock()
		if v.watchers > 0 && v.listed > 0 {
			most = max(most, now-v.listed)
		}
		v.mu.Unlock()
	}
	return most
}
