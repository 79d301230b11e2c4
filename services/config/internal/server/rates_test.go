package server

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
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
	now := time.Unix(1<<30, 0)
	r.now = func() time.Time { return now }
	one := tenant(t, "acme")
	full := slices.Repeat([]store.RefreshTarget{one}, store.MaxTargets)
	if refused := r.admit(full); len(refused) != 0 {
		t.Fatalf("the first full request: %v", refused)
	}
	wait := r.admit(full)[one.Tenant].RetryAfter
	if wait != 10*time.Second {
		t.Fatalf("the second is to wait %v, want 10 s", wait)
	}
	now = now.Add(wait - time.Millisecond)
	if refused := r.admit(full)[one.Tenant]; refused == nil || refused.RetryAfter > 2*time.Millisecond {
		t.Errorf("just before: %v", refused)
	}
	now = now.Add(time.Millisecond)
	if refused := r.admit(full); len(refused) != 0 {
		t.Errorf("after the wait: %v", refused)
	}
}

// However many tenants are named, only so many are remembered; those that are
// beyond share a rate, and room comes back once the others are idle.
func TestRatesAreBounded(t *testing.T) {
	r := newRates(10, 0)
	now := time.Unix(1<<30, 0)
	r.now = func() time.Time { return now }
	for i := range maxRates + 500 {
		r.admit([]store.RefreshTarget{tenant(t, fmt.Sprintf("t-%d", i))})
	}
	if n := len(r.tenants); n != maxRates {
		t.Errorf("%d tenants are remembered, want %d", n, maxRates)
	}
	last := tenant(t, "last")
	if refused := r.admit([]store.RefreshTarget{last}); refused[last.Tenant] == nil {
		t.Error("400 more tenants than the shared rate allows were let in")
	}
	now = now.Add(time.Minute)
	if refused := r.admit([]store.RefreshTarget{last}); len(refused) != 0 || len(r.tenants) != 1 {
		t.Errorf("a minute later: %v, %d tenants are remembered", refused, len(r.tenants))
	}
}
