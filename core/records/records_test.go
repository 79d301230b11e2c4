package records_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/records"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table is the plainest Table that there can be.
type table struct {
	mu       sync.Mutex
	versions map[config.ID][]config.Entry
	append   func(config.Entry) // nil, or runs before each Append
	closed   int
}

func (t *table) Versions(_ context.Context, id config.ID) ([]config.Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.versions[id], nil
}

func (t *table) Append(_ context.Context, e config.Entry) (bool, error) {
	if t.append != nil {
		t.append(e)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if uint64(len(t.versions[e.ID])) != e.Version-1 {
		return false, nil
	}
	t.versions[e.ID] = append(t.versions[e.ID], e)
	return true, nil
}

func (t *table) Latest(_ context.Context, tenant config.Tenant, service config.Service, prefix string) ([]config.Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found []config.Entry
	for id, versions := range t.versions {
		if id.Tenant == tenant && id.Service == service && strings.HasPrefix(id.Key.String(), prefix) {
			found = append(found, versions[len(versions)-1])
		}
	}
	return found, nil
}

func (t *table) Close() error { t.closed++; return nil }

func newTable() *table { return &table{versions: map[config.ID][]config.Entry{}} }

const maxValue = 1 << 20

func open(testing.TB) *drivertest.Harness {
	shared := newTable()
	b := records.New(shared, records.Options{MaxValue: maxValue})
	return &drivertest.Harness{Backend: b, Peer: b}
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Caps{History: true, MaxValue: maxValue}, open)
}

func FuzzConformance(f *testing.F) { drivertest.Fuzz(f, open) }

func id(t *testing.T) config.ID {
	t.Helper()
	tenant, err1 := config.ParseTenant("acme-corp")
	key, err2 := config.ParseKey("limit")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return config.ID{Tenant: tenant, Key: key}
}

// A write that comes between reading and writing is not lost: the condition is
// looked at anew.
func TestWriteBetweenIsSeen(t *testing.T) {
	tb := newTable()
	first, second := records.New(tb, records.Options{}), records.New(tb, records.Options{})
	k := id(t)
	tb.append = func(config.Entry) {
		tb.append = nil
		if _, err := second.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte(`"theirs"`)}); err != nil {
			t.Error(err)
		}
	}
	_, err := first.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte(`"ours"`), Expect: driver.Absent()})
	var conflict *config.Error
	if !errors.As(err, &conflict) || conflict.Code != config.Conflict || conflict.Version != 1 {
		t.Errorf("got %v", err)
	}
	e, err := first.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte(`"ours"`)})
	if err != nil || e.Version != 2 {
		t.Errorf("got %v, %v", e, err)
	}
}

// The clock may go back; UpdatedAt does not.
func TestTimeDoesNotGoBack(t *testing.T) {
	times := []time.Time{time.Unix(100, 0), time.Unix(50, 0)}
	b := records.New(newTable(), records.Options{Now: func() time.Time {
		next := times[0]
		times = slices.Delete(times, 0, 1)
		return next
	}})
	for range 2 {
		e, err := b.Put(t.Context(), driver.PutRequest{ID: id(t), Value: []byte(`1`)})
		if err != nil || !e.UpdatedAt.Equal(time.Unix(100, 0)) {
			t.Errorf("%v, %v", e.UpdatedAt, err)
		}
	}
}

// broken fails every call, as a store does that can not be reached.
type broken struct{ *table }

var errAway = config.Errorf(config.Unavailable, "the store is away").WithHint("wait")

func (broken) Versions(context.Context, config.ID) ([]config.Entry, error) { return nil, errAway }
func (broken) Latest(context.Context, config.Tenant, config.Service, string) ([]config.Entry, error) {
	return nil, errAway
}

func TestErrorsOfTheTablePass(t *testing.T) {
	tb := newTable()
	b := records.New(broken{tb}, records.Options{})
	k := id(t)
	_, get := b.Get(t.Context(), k, 0)
	_, put := b.Put(t.Context(), driver.PutRequest{ID: k})
	_, list := b.List(t.Context(), driver.ListRequest{Tenant: k.Tenant})
	_, history := b.History(t.Context(), driver.HistoryRequest{ID: k})
	for name, err := range map[string]error{"Get": get, "Put": put, "List": list, "History": history} {
		if !errors.Is(err, config.Unavailable) || !strings.Contains(err.Error(), "the store is away") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(b.Close(), b.Close()); err != nil || tb.closed != 1 {
		t.Errorf("%v, closed %d times", err, tb.closed)
	}
}

// Two processes with one key understand each other's tokens.
func TestTokenKey(t *testing.T) {
	tb, key := newTable(), driver.NewTokenKey()
	k := id(t)
	a, b := records.New(tb, records.Options{TokenKey: key}), records.New(tb, records.Options{TokenKey: key})
	for range 3 {
		if _, err := a.Put(t.Context(), driver.PutRequest{ID: k}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := a.History(t.Context(), driver.HistoryRequest{ID: k, PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	page, err = b.History(t.Context(), driver.HistoryRequest{ID: k, PageSize: 2, PageToken: page.NextPageToken})
	if err != nil || len(page.Entries) != 1 || page.Entries[0].Version != 1 {
		t.Errorf("%v, %v", page, err)
	}
}
