// Package storetest holds an orders.Store to its contract. An implementation's
// test is one call of Run.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/order/internal/orders"
)

// Open returns a store of what is at the place that one test names: a place of
// its own when the test begins, and the same when it opens again after Close.
type Open func(t *testing.T, place string) orders.Store

// Run tests the stores that open returns.
func Run(t *testing.T, open Open) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, orders.Store){
		"Create is read back":             createIsReadBack,
		"another tenant's is absent":      anothersIsAbsent,
		"tenants do not run together":     tenantsDoNotRunTogether,
		"List pages newest first":         listPages,
		"a key makes one order":           keyMakesOneOrder,
		"a key at once makes one order":   keyAtOnce,
		"an ID is taken once":             idIsTakenOnce,
		"a done context writes nothing":   doneContext,
		"answers share no memory":         noSharedMemory,
		"closed is a failed precondition": closed,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			test(t, s)
		})
	}
	t.Run("everything survives Close", func(t *testing.T) { survivesClose(t, open) })
}

// at is the time of the first order of every test.
var at = time.Date(2026, 11, 23, 10, 0, 0, int(7*time.Millisecond), time.UTC)

// Tenant parses a tenant for a test.
func Tenant(t testing.TB, s string) config.Tenant {
	t.Helper()
	tenant, err := config.ParseTenant(s)
	if err != nil {
		t.Fatal(err)
	}
	return tenant
}

// NewOrder returns an order with every field set, n milliseconds after at.
func NewOrder(t testing.TB, tenant string, n int) orders.Order {
	t.Helper()
	when := at.Add(time.Duration(n) * time.Millisecond)
	var decisions []orders.Decision
	for i, key := range orders.Keys() {
		decisions = append(decisions, orders.Decision{Key: key, Layer: orders.LayerTenant, Version: uint64(i + 1)})
	}
	return orders.Order{
		ID: orders.NewID(when), Tenant: Tenant(t, tenant), CreatedAt: when, CreatedBy: "subject",
		Lines: []orders.Line{{SKU: "A-1", Quantity: 2, UnitPrice: orders.MaxAmount / 2}, {SKU: "B", Quantity: 1}},
		Total: orders.MaxAmount - 1, Currency: orders.Currency{Code: "USD", Exponent: 2}, Reference: "é ☕",
		Gateway:   orders.Gateway{Name: "Stripe", Endpoint: "https://api.stripe.com", RetryPolicy: "exponential"},
		Decisions: decisions,
	}
}

func create(t *testing.T, s orders.Store, o orders.Order, once orders.Once) {
	t.Helper()
	stored, replayed, err := s.Create(t.Context(), o, once)
	if err != nil || replayed {
		t.Fatalf("Create returned replayed %v, error %v", replayed, err)
	}
	same(t, "Create", o, stored)
}

func same(t *testing.T, what string, want, got orders.Order) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(orders.ID{}, config.Tenant{}, config.Key{})); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func code(t *testing.T, what string, err error, want config.Code) {
	t.Helper()
	if err == nil || config.CodeOf(err) != want {
		t.Errorf("%s returned %v, want code %v", what, err, want)
	}
}

func once(key string, fingerprint byte) orders.Once {
	return orders.Once{Key: key, Fingerprint: [32]byte{fingerprint}}
}

func createIsReadBack(t *testing.T, s orders.Store) {
	o := NewOrder(t, "acme-corp", 0)
	create(t, s, o, orders.Once{})
	got, err := s.Get(t.Context(), o.Tenant, o.ID)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Get", o, got)
}

func anothersIsAbsent(t *testing.T, s orders.Store) {
	o := NewOrder(t, "acme-corp", 0)
	create(t, s, o, once("k", 1))
	other := Tenant(t, "globex-inc")
	_, foreign := s.Get(t.Context(), other, o.ID)
	code(t, "Get of another tenant's order", foreign, config.NotFound)
	_, absent := s.Get(t.Context(), other, orders.NewID(at))
	code(t, "Get of no order", absent, config.NotFound)
	if foreign.Error() != absent.Error() {
		t.Errorf("%q tells another tenant's order from none, %q", foreign, absent)
	}
	_, err := s.Find(t.Context(), other, once("k", 1))
	code(t, "Find of another tenant's key", err, config.NotFound)
	if page, err := s.List(t.Context(), other, orders.ID{}, 10); err != nil || len(page) != 0 {
		t.Errorf("List of another tenant returned %d orders, %v", len(page), err)
	}
	// The same key is another tenant's to use.
	create(t, s, NewOrder(t, "globex-inc", 1), once("k", 2))
}

// One tenant's name that begins, or goes on, like another's.
func tenantsDoNotRunTogether(t *testing.T, s orders.Store) {
	names := []string{"a", "aa", "a-a", "b", "aab"}
	for i, name := range names {
		create(t, s, NewOrder(t, name, i), once("a", 1))
	}
	for _, name := range names {
		page, err := s.List(t.Context(), Tenant(t, name), orders.ID{}, 10)
		if err != nil || len(page) != 1 || page[0].Tenant != Tenant(t, name) {
			t.Errorf("List of %s returned %d orders, %v", name, len(page), err)
		}
	}
}

func listPages(t *testing.T, s orders.Store) {
	const n = 7
	var want []string
	for i := range n {
		o := NewOrder(t, "acme-corp", i)
		create(t, s, o, orders.Once{})
		create(t, s, NewOrder(t, "globex-inc", i), orders.Once{})
		want = append(want, o.ID.String())
	}
	slices.Reverse(want)
	for limit := 1; limit <= n+1; limit++ {
		var got []string
		var before orders.ID
		for {
			page, err := s.List(t.Context(), Tenant(t, "acme-corp"), before, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) > limit {
				t.Fatalf("a page of %d has %d orders", limit, len(page))
			}
			for _, o := range page {
				got = append(got, o.ID.String())
				before = o.ID
			}
			if len(page) < limit {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%s", limit, diff)
		}
	}
	// A position needs no order at it.
	gone := orders.NewID(at.Add(3*time.Millisecond + 500*time.Microsecond))
	page, err := s.List(t.Context(), Tenant(t, "acme-corp"), gone, n)
	if err != nil || len(page) < 3 {
		t.Errorf("List before an ID that has no order returned %d orders, %v", len(page), err)
	}
}

func keyMakesOneOrder(t *testing.T, s orders.Store) {
	o := NewOrder(t, "acme-corp", 0)
	_, err := s.Find(t.Context(), o.Tenant, once("k", 1))
	code(t, "Find before Create", err, config.NotFound)
	create(t, s, o, once("k", 1))

	again := NewOrder(t, "acme-corp", 1)
	got, replayed, err := s.Create(t.Context(), again, once("k", 1))
	if err != nil || !replayed {
		t.Fatalf("the second Create returned replayed %v, %v", replayed, err)
	}
	same(t, "the second Create", o, got)
	if got, err = s.Find(t.Context(), o.Tenant, once("k", 1)); err != nil {
		t.Fatal(err)
	}
	same(t, "Find", o, got)

	_, _, err = s.Create(t.Context(), again, once("k", 2))
	code(t, "Create with another fingerprint", err, config.AlreadyExists)
	_, err = s.Find(t.Context(), o.Tenant, once("k", 2))
	code(t, "Find with another fingerprint", err, config.AlreadyExists)
	_, err = s.Get(t.Context(), again.Tenant, again.ID)
	code(t, "Get of what was not created", err, config.NotFound)
	// A key that goes on like another is another.
	create(t, s, NewOrder(t, "acme-corp", 2), once("kk", 1))
}

func keyAtOnce(t *testing.T, s orders.Store) {
	const n = 8
	var wg sync.WaitGroup
	answers := make([]orders.Order, n)
	made := make([]bool, n)
	for i := range n {
		o := NewOrder(t, "acme-corp", i)
		wg.Go(func() {
			stored, replayed, err := s.Create(t.Context(), o, once("k", 1))
			if err != nil {
				t.Error(err)
			}
			answers[i], made[i] = stored, !replayed
		})
	}
	wg.Wait()
	first := slices.Index(made, true)
	if first < 0 || slices.Contains(made[first+1:], true) {
		t.Fatalf("%v made an order, want exactly one", made)
	}
	for i := range n {
		same(t, fmt.Sprintf("answer %d", i), answers[first], answers[i])
	}
	if page, err := s.List(t.Context(), answers[0].Tenant, orders.ID{}, n); err != nil || len(page) != 1 {
		t.Errorf("there are %d orders, %v", len(page), err)
	}
}

func idIsTakenOnce(t *testing.T, s orders.Store) {
	o := NewOrder(t, "acme-corp", 0)
	create(t, s, o, orders.Once{})
	changed := o
	changed.Total = 1
	_, _, err := s.Create(t.Context(), changed, once("k", 1))
	code(t, "Create with a taken ID", err, config.Internal)
	got, err := s.Get(t.Context(), o.Tenant, o.ID)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Get", o, got)
	_, err = s.Find(t.Context(), o.Tenant, once("k", 1))
	code(t, "Find after it", err, config.NotFound)
}

func doneContext(t *testing.T, s orders.Store) {
	o := NewOrder(t, "acme-corp", 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, created := s.Create(ctx, o, once("k", 1))
	_, found := s.Find(ctx, o.Tenant, once("k", 1))
	_, got := s.Get(ctx, o.Tenant, o.ID)
	_, listed := s.List(ctx, o.Tenant, orders.ID{}, 1)
	for name, err := range map[string]error{"Create": created, "Find": found, "Get": got, "List": listed} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s returned %v, want canceled", name, err)
		}
	}
	_, err := s.Get(t.Context(), o.Tenant, o.ID)
	code(t, "Get of what a cancelled Create was for", err, config.NotFound)
}

func noSharedMemory(t *testing.T, s orders.Store) {
	o := NewOrder(t, "acme-corp", 0)
	want := NewOrder(t, "acme-corp", 0)
	want.ID = o.ID
	create(t, s, o, orders.Once{})
	o.Lines[0].SKU, o.Decisions[0].Version = "changed", 99
	for range 2 {
		got, err := s.Get(t.Context(), o.Tenant, o.ID)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "Get", want, got)
		got.Lines[0].SKU, got.Decisions[0].Version = "changed", 99
	}
}

func closed(t *testing.T, s orders.Store) {
	o := NewOrder(t, "acme-corp", 0)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatalf("Close returned %v", err)
		}
	}
	_, _, created := s.Create(t.Context(), o, once("k", 1))
	_, found := s.Find(t.Context(), o.Tenant, once("k", 1))
	_, got := s.Get(t.Context(), o.Tenant, o.ID)
	_, listed := s.List(t.Context(), o.Tenant, orders.ID{}, 1)
	for name, err := range map[string]error{"Create": created, "Find": found, "Get": got, "List": listed} {
		code(t, name, err, config.FailedPrecondition)
	}
}

func survivesClose(t *testing.T, open Open) {
	place := t.TempDir()
	s := open(t, place)
	var made []orders.Order
	for i := range 3 {
		o := NewOrder(t, "acme-corp", i)
		create(t, s, o, once(fmt.Sprint(i), byte(i)))
		made = append(made, o)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, place)
	}
	t.Cleanup(func() { _ = s.Close() })
	for i, o := range made {
		got, err := s.Get(t.Context(), o.Tenant, o.ID)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "Get", o, got)
		if got, err = s.Find(t.Context(), o.Tenant, once(fmt.Sprint(i), byte(i))); err != nil {
			t.Fatal(err)
		}
		same(t, "Find", o, got)
	}
}
