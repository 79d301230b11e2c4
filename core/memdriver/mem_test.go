package memdriver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func key(t *testing.T, s string) config.ID {
	t.Helper()
	tenant, err1 := config.ParseTenant("acme")
	k, err2 := config.ParseKey(s)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return config.ID{Tenant: tenant, Key: k}
}

func put(t *testing.T, b *memdriver.Backend, id config.ID, idempotencyKey string) config.Entry {
	t.Helper()
	e, err := b.Put(t.Context(), driver.PutRequest{ID: id, Value: []byte(`1`), IdempotencyKey: idempotencyKey})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestHistoryBound(t *testing.T) {
	b := memdriver.New(memdriver.WithHistory(3))
	k := key(t, "limit")
	for range 10 {
		put(t, b, k, "")
	}
	page, err := b.History(t.Context(), driver.HistoryRequest{ID: k})
	if err != nil {
		t.Fatal(err)
	}
	var versions []uint64
	for _, e := range page.Entries {
		versions = append(versions, e.Version)
	}
	if want := []uint64{10, 9, 8}; !slices.Equal(versions, want) {
		t.Errorf("History shows versions %v, want %v", versions, want)
	}
	if _, err := b.Get(t.Context(), k, 7); !errors.Is(err, config.NotFound) {
		t.Errorf("Get of a version that is not kept: %v, want code not_found", err)
	}
	if e, err := b.Get(t.Context(), k, 8); err != nil || e.Version != 8 {
		t.Errorf("Get of the oldest version that is kept = version %d, %v", e.Version, err)
	}
}

func TestMaxValue(t *testing.T) {
	b := memdriver.New(memdriver.WithMaxValue(3))
	k := key(t, "limit")
	if _, err := b.Put(t.Context(), driver.PutRequest{ID: k, Value: make([]byte, 3)}); err != nil {
		t.Errorf("Put of the largest value: %v", err)
	}
	if _, err := b.Put(t.Context(), driver.PutRequest{ID: k, Value: make([]byte, 4)}); !errors.Is(err, config.InvalidArgument) {
		t.Errorf("Put of one byte more: %v, want code invalid_argument", err)
	}
}

// TestClock checks the time of versions and the end of an idempotency key.
func TestClock(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("CET", 3600))
	now := start
	b := memdriver.New(memdriver.WithNow(func() time.Time { return now }))
	k := key(t, "limit")

	if e := put(t, b, k, "once"); !e.UpdatedAt.Equal(start) || e.UpdatedAt.Location() != time.UTC {
		t.Errorf("the first version is of %v, want %v in UTC", e.UpdatedAt, start)
	}
	now = start.Add(-time.Minute)
	if e := put(t, b, k, ""); !e.UpdatedAt.Equal(start) {
		t.Errorf("when the clock was set back a version is of %v, want %v", e.UpdatedAt, start)
	}
	now = start.Add(b.IdempotencyWindow() - time.Nanosecond)
	if e := put(t, b, k, "once"); e.Version != 1 {
		t.Errorf("within the window a retry made version %d, want the first one's answer", e.Version)
	}
	now = start.Add(b.IdempotencyWindow())
	if e := put(t, b, k, "once"); e.Version != 3 {
		t.Errorf("after the window a Put returned version %d, want a new one", e.Version)
	}
}

// TestManyIdempotencyKeys checks that forgetting the keys that have expired
// leaves the others alone.
func TestManyIdempotencyKeys(t *testing.T) {
	now := time.Unix(1<<30, 0)
	b := memdriver.New(memdriver.WithNow(func() time.Time { return now }), memdriver.WithHistory(1), memdriver.WithChanges(1))
	k := key(t, "limit")
	const writes, each = 3000, 10 * time.Second
	for i := range writes {
		put(t, b, k, fmt.Sprint(i))
		now = now.Add(each)
	}
	for i := writes - int((b.IdempotencyWindow()-1)/each); i < writes; i++ {
		if e := put(t, b, k, fmt.Sprint(i)); e.Version != uint64(i+1) {
			t.Errorf("retry %d returned version %d, want %d", i, e.Version, i+1)
		}
	}
}

func TestRefusesZeroIDs(t *testing.T) {
	b := memdriver.New()
	whole := key(t, "limit")
	for _, id := range []config.ID{{}, {Key: whole.Key}, {Tenant: whole.Tenant}} {
		_, getErr := b.Get(t.Context(), id, 0)
		_, putErr := b.Put(t.Context(), driver.PutRequest{ID: id})
		_, deleteErr := b.Delete(t.Context(), driver.DeleteRequest{ID: id})
		for name, err := range map[string]error{"Get": getErr, "Put": putErr, "Delete": deleteErr} {
			if !errors.Is(err, config.InvalidArgument) {
				t.Errorf("%s of %+v: %v, want code invalid_argument", name, id, err)
			}
		}
	}
}

// TestWatchFallsBehind checks that a receiver which is slower than the bound
// on changes ends with OutOfRange rather than with a gap.
func TestWatchFallsBehind(t *testing.T) {
	b := memdriver.New(memdriver.WithChanges(4))
	k := key(t, "limit")
	put(t, b, k, "")
	var last uint64
	err := b.Watch(t.Context(), driver.WatchRequest{Tenant: k.Tenant}, func(e driver.Event) error {
		if e.Kind == driver.EventSync {
			for range 5 {
				put(t, b, k, "")
			}
			return nil
		}
		last = e.Entry.Version
		return nil
	})
	if !errors.Is(err, config.OutOfRange) || last != 1 {
		t.Errorf("Watch ended with %v behind version %d, want code out_of_range behind version 1", err, last)
	}
}

// TestChangesBound checks the edge: as many changes as are kept can be resumed
// from, one more can not.
func TestChangesBound(t *testing.T) {
	const kept = 4
	b := memdriver.New(memdriver.WithChanges(kept))
	k := key(t, "limit")
	r := driver.WatchRequest{Tenant: k.Tenant}
	position := func(r driver.WatchRequest) (last string, err error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err = b.Watch(ctx, r, func(e driver.Event) error {
			last = e.Position
			if e.Kind == driver.EventSync {
				cancel()
			}
			return nil
		})
		return last, err
	}
	for n := range 10 {
		from, err := position(r)
		if !errors.Is(err, config.Canceled) {
			t.Fatalf("Watch: %v", err)
		}
		for range kept {
			put(t, b, k, "")
		}
		resumed := r
		resumed.After = from
		if _, err := position(resumed); !errors.Is(err, config.Canceled) {
			t.Errorf("round %d: Watch resumed %d changes later: %v", n, kept, err)
		}
		put(t, b, k, "")
		if _, err := position(resumed); !errors.Is(err, config.OutOfRange) {
			t.Errorf("round %d: Watch resumed %d changes later: %v, want code out_of_range", n, kept+1, err)
		}
	}
	if size, err := b.Size(t.Context()); err != nil || size.Changes != kept || size.Entries != 1 || size.Bytes != -1 {
		t.Errorf("Size = %+v, %v, want %d changes and 1 entry", size, err, kept)
	}
}
