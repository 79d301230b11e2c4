package fault_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/check/fault"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
)

// While nothing is broken it is a store like any other.
func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Caps{Batch: true, History: true, Ping: true, MaxValue: 1 << 20}, func(testing.TB) *drivertest.Harness {
		return &drivertest.Harness{Backend: fault.New(1, 0)}
	})
}

// filled is a store with five versions of one key.
func filled(t *testing.T) (*fault.Store, config.ID) {
	t.Helper()
	s := fault.New(1, 0)
	tenant, err1 := config.ParseTenant("acme")
	key, err2 := config.ParseKey("limit")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	id := config.ID{Tenant: tenant, Key: key}
	for range 5 {
		if _, err := s.Put(t.Context(), driver.PutRequest{ID: id, Value: []byte(`1`)}); err != nil {
			t.Fatal(err)
		}
	}
	return s, id
}

func TestOlder(t *testing.T) {
	s, id := filled(t)
	s.Older(2)
	seen := map[uint64]int{}
	for range 200 {
		e, err := s.Get(t.Context(), id, 0)
		if err != nil {
			t.Fatal(err)
		}
		seen[e.Version]++
	}
	if len(seen) != 3 || seen[5] == 0 || seen[4] == 0 || seen[3] == 0 {
		t.Errorf("reads answered versions %v, want 3, 4 and 5", seen)
	}
	s.Older(0)
	if e, err := s.Get(t.Context(), id, 0); err != nil || e.Version != 5 {
		t.Errorf("healed, Get = version %d, %v; want 5", e.Version, err)
	}
}

func TestDown(t *testing.T) {
	s, id := filled(t)
	up := s.Down()
	if _, err := s.Get(t.Context(), id, 0); !errors.Is(err, config.Unavailable) {
		t.Errorf("Get: %v, want code unavailable", err)
	}
	unknown := uint64(0)
	for range 50 {
		_, err := s.Put(t.Context(), driver.PutRequest{ID: id, Value: []byte(`2`)})
		switch {
		case errors.Is(err, config.OutcomeUnknown):
			unknown++
		case !errors.Is(err, config.Unavailable):
			t.Fatalf("Put: %v, want code unavailable or outcome_unknown", err)
		}
	}
	up()
	up()
	e, err := s.Get(t.Context(), id, 0)
	if err != nil || e.Version != 5+unknown || unknown == 0 || unknown == 50 {
		t.Errorf("up again, Get = version %d, %v; want that of the %d writes of 50 that may have been made", e.Version, err, unknown)
	}
}

func TestThrottled(t *testing.T) {
	s, id := filled(t)
	s.Throttle(50)
	refused := 0
	for range 200 {
		if _, err := s.Get(t.Context(), id, 0); errors.Is(err, config.ResourceExhausted) {
			refused++
		}
	}
	if refused < 50 || refused > 150 {
		t.Errorf("%d of 200 calls were refused, want about half", refused)
	}
}

func TestSlowEndsWithItsCaller(t *testing.T) {
	s, id := filled(t)
	s.Slow(time.Hour)
	if _, err := s.Get(deadline(t), id, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get: %v, want that time ran out", err)
	}
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
