package server

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/store"
)

func tenant(t *testing.T, name string) store.RefreshTarget {
	t.Helper()
	owner, err := config.ParseTenant(name)
	if err != nil {
		t.Fatal(err)
	}
	return store.RefreshTarget{Tenant: owner}
}

// Whoever waits as long as the refusal says is admitted, and not before.
func TestRatesSayHowLong(t *testing.T) {
	r := newRates(10, 0)
	now := time.Hour
	r.buckets.now = func() time.Duration { return now }
	one := tenant(t, "acme")
	full := slices.Repeat([]store.RefreshTarget{one}, store.MaxTargets)
	if refused := r.admit(full); len(refused) != 0 {
		t.Fatalf("the first full request: %v", refused)
	}
	wait := r.admit(full)[one.Tenant].RetryAfter
	if wait != 10*time.Second {
		t.Fatalf("the second is to wait %v, want 10 s", wait)
	}
	now += wait - time.Millisecond
	if refused := r.admit(full)[one.Tenant]; refused == nil || refused.RetryAfter > 2*time.Millisecond {
		t.Errorf("just before: %v", refused)
	}
	now += time.Millisecond
	if refused := r.admit(full); len(refused) != 0 {
		t.Errorf("after the wait: %v", refused)
	}
}

// However many tenants are named, only so many are remembered; those that are
// beyond share a rate, and room comes back once the others are idle.
func TestRatesAreBounded(t *testing.T) {
	r := newRates(10, 0)
	now := time.Hour
	r.buckets.now = func() time.Duration { return now }
	for i := range maxRates + 500 {
		r.admit([]store.RefreshTarget{tenant(t, fmt.Sprintf("t-%d", i))})
	}
	if n := len(r.buckets.tenants); n != maxRates {
		t.Errorf("%d tenants are remembered, want %d", n, maxRates)
	}
	last := tenant(t, "last")
	if refused := r.admit([]store.RefreshTarget{last}); refused[last.Tenant] == nil {
		t.Error("400 more tenants than the shared rate allows were let in")
	}
	now += time.Minute
	if refused := r.admit([]store.RefreshTarget{last}); len(refused) != 0 || len(r.buckets.tenants) != 1 {
		t.Errorf("a minute later: %v, %d tenants are remembered", refused, len(r.buckets.tenants))
	}
}

// What a page held beyond its call is owed, and nobody else waits for it. Nothing
// is given twice to callers who have read the clock in another order than they come.
func TestBucketsOwe(t *testing.T) {
	b := newBuckets(10, 100)
	now := time.Hour
	b.now = func() time.Duration { return now }
	one, other := tenant(t, "acme").Tenant, tenant(t, "globex").Tenant
	if wait := b.take(one, 1); wait != 0 {
		t.Fatalf("the first call is to wait %v", wait)
	}
	b.spend(one, 100)
	if wait := b.take(one, 1); wait != 200*time.Millisecond {
		t.Errorf("the next is to wait %v, want 0.2 s", wait)
	}
	if wait := b.take(other, 100); wait != 0 {
		t.Errorf("another tenant is to wait %v", wait)
	}
	now += 200 * time.Millisecond
	if wait := b.take(one, 1); wait != 0 {
		t.Errorf("after the wait: another %v", wait)
	}
	for range 10 {
		now -= time.Second
		b.take(one, 1)
		now += time.Second
		if wait := b.take(one, 1); wait != 100*time.Millisecond {
			t.Fatalf("a second that was there twice: the wait is %v, want 0.1 s", wait)
		}
	}
}

// It is told once in a while which tenant is refused.
func TestBucketsAreQuiet(t *testing.T) {
	b := newBuckets(10, 100)
	now := time.Hour
	b.now = func() time.Duration { return now }
	one, other := tenant(t, "acme").Tenant, tenant(t, "globex").Tenant
	for _, c := range []struct {
		of   config.Tenant
		past time.Duration
		want bool
	}{{one, 0, true}, {one, 59 * time.Second, false}, {other, 0, true}, {one, time.Second, true}, {one, 0, false}} {
		now += c.past
		if got := b.untold(c.of, time.Minute); got != c.want {
			t.Errorf("%v, %v later: %t", c.of, c.past, got)
		}
	}
}

// More tenants than are remembered, each of which asks now and then, do not get
// into each other's way.
func TestBucketsOfManyTenants(t *testing.T) {
	b := newBuckets(100, 100)
	now := time.Hour
	b.now = func() time.Duration { return now }
	for i := range 3 * maxRates {
		now += 50 * time.Microsecond
		if wait := b.take(tenant(t, fmt.Sprintf("t-%d", i)).Tenant, 1); wait != 0 {
			t.Fatalf("tenant %d is to wait %v", i, wait)
		}
	}
	if n := len(b.tenants); n > maxRates {
		t.Errorf("%d tenants are remembered", n)
	}
}

// A refusal is kept back for a moment, unless nobody waits for it or too many are.
func TestRefusalsAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := newTenantRate(1, 0, slog.New(slog.DiscardHandler), noop.NewMeterProvider())
		if err != nil {
			t.Fatal(err)
		}
		took := func(ctx context.Context) time.Duration {
			began := time.Now()
			r.Hold(ctx)
			return time.Since(began)
		}
		if got := took(t.Context()); got != maxHold {
			t.Errorf("it was held for %v", got)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if got := took(gone); got != 0 {
			t.Errorf("with nobody there it was held for %v", got)
		}
		var held sync.WaitGroup
		for range maxHeld {
			held.Go(func() { r.Hold(t.Context()) })
		}
		synctest.Wait()
		if got := took(t.Context()); got != 0 {
			t.Errorf("beside as many as may be it was held for %v", got)
		}
		held.Wait()
		if got := took(t.Context()); got != maxHold {
			t.Errorf("behind them it was held for %v", got)
		}
	})
}

// BenchmarkTenantRate: what a call of a tenant takes more where there is a rate,
// of which the clock is a part: one that is admitted, and one that is refused.
func BenchmarkTenantRate(b *testing.B) {
	one, err := config.ParseTenant("acme")
	if err != nil {
		b.Fatal(err)
	}
	request := &tagstorev1.GetRequest{Key: "tenant_config_a"}
	b.Run("clock", func(b *testing.B) {
		began := time.Now()
		for b.Loop() {
			_ = time.Since(began)
		}
	})
	for _, c := range []struct {
		name      string
		perSecond int
		tenants   int
	}{{"admitted", 1 << 30, 1}, {"admitted/tenants=10000", 1 << 30, maxRates}, {"refused", 1, 1}} {
		b.Run(c.name, func(b *testing.B) {
			r, err := newTenantRate(c.perSecond, 0, slog.New(slog.DiscardHandler), noop.NewMeterProvider())
			if err != nil {
				b.Fatal(err)
			}
			for i := range c.tenants - 1 {
				t, err := config.ParseTenant(fmt.Sprintf("t-%d", i))
				if err != nil {
					b.Fatal(err)
				}
				r.buckets.take(t, 1)
			}
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Admit(ctx, one, request); err != nil && c.perSecond > 1 {
					b.Fatal(err)
				}
			}
		})
	}
}
