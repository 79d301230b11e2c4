package server

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/store"
)

const (
	// tellPause is how long the log does not say again that a tenant is refused. Its
	// calls are logged one by one at DEBUG.
	tellPause = time.Minute
	// maxHold is how long a refusal is kept back. To refuse takes as much as to answer
	// from memory: who asks again as soon as it is refused would gain by it.
	maxHold = 100 * time.Millisecond
	// maxHeld is how many are at once; one more is told at once.
	maxHeld = 1024
)

// tenantRate bounds how many keys each tenant reads and writes a second (ADR
// 0031). It is an access.Meter. A nil one bounds nothing.
type tenantRate struct {
	buckets *buckets
	logger  *slog.Logger
	refused metric.Int64Counter
	held    chan struct{} // one for each refusal that is kept back
}

// newTenantRate allows perSecond keys of a tenant, and burst at once, which is to
// be no less than one call can ask for. It is nil for a rate of 0; the counter is
// there all the same.
func newTenantRate(perSecond, burst int, logger *slog.Logger, meters metric.MeterProvider) (*tenantRate, error) {
	refused, err := meters.Meter("github.com/tagstore/tagstore/services/config").Int64Counter("tagstore.server.tenant.refused",
		metric.WithDescription("Calls that were refused since their tenant asked for more keys a second than it may."))
	if err != nil {
		return nil, config.Errorf(config.Internal, "the counter of refused calls could not be made").WithCause(err)
	}
	refused.Add(context.Background(), 0) // one that appears with its first event shows no increase for it
	if perSecond == 0 {
		return nil, nil
	}
	return &tenantRate{
		buckets: newBuckets(perSecond, max(burst, store.DefaultMaxBatch)), logger: logger, refused: refused,
		held: make(chan struct{}, maxHeld),
	}, nil
}

// Admit refuses a call of a tenant that has to wait. All of a batch is admitted or
// none, for the reason that rates.admit has.
func (r *tenantRate) Admit(ctx context.Context, t config.Tenant, request any) error {
	wait := r.buckets.take(t, keysOf(request))
	if wait == 0 {
		return nil
	}
	r.refused.Add(ctx, 1)
	if r.buckets.untold(t, tellPause) {
		r.logger.LogAttrs(ctx, slog.LevelWarn, "a tenant asks for more keys than it may and is refused",
			slog.String("tenant", t.String()), slog.Int("keys_per_second", r.buckets.perSecond))
	}
	e := config.Errorf(config.ResourceExhausted, "the caller's tenant reads and writes too much, more than %d keys a second", r.buckets.perSecond).
		WithHint("wait as long as this error says; a client that watches what it reads does not ask")
	e.RetryAfter = wait
	return e
}

// Hold keeps a refusal back, for as long as somebody waits for it and maxHold at
// most.
func (r *tenantRate) Hold(ctx context.Context) {
	select {
	case r.held <- struct{}{}:
	default:
		return
	}
	defer func() { <-r.held }()
	timer := time.NewTimer(maxHold)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// page counts the entries of a page, of which the call was one. How many there
// are is known when they have been read, so the next call waits for them.
func (r *tenantRate) page(t config.Tenant, entries int) {
	if r != nil && entries > 1 {
		r.buckets.spend(t, entries-1)
	}
}

// keysOf is how many keys a request is about. A batch that holds more than any may
// is refused by its handler.
func keysOf(request any) int {
	if batch, ok := request.(*tagstorev1.BatchGetRequest); ok {
		return min(max(len(batch.GetKeys()), 1), store.DefaultMaxBatch)
	}
	return 1
}
