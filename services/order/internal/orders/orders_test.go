package orders

import (
	"context"
	"errors"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Amounts and totals are exact or refused, as big.Int has them.
func TestTotalsNeverWrap(t *testing.T) {
	numbers := []int64{0, 1, 2, 3, 1 << 20, 1 << 26, 1<<26 + 1, 1<<27 - 1, 1 << 31, 1 << 32, 1<<52 - 1, 1 << 52, MaxAmount - 1, MaxAmount}
	for _, quantity := range numbers[1:] {
		for _, price := range numbers {
			for _, more := range numbers {
				want := new(big.Int).Mul(big.NewInt(quantity), big.NewInt(price))
				want.Add(want, big.NewInt(more))
				d, err := NewDraft([]Line{{SKU: "A", Quantity: quantity, UnitPrice: price}, {SKU: "B", Quantity: 1, UnitPrice: more}}, "", "")
				fits := want.Cmp(big.NewInt(MaxAmount)) <= 0 && quantity < MaxAmount
				if (err == nil) != fits {
					t.Errorf("%d × %d + %d: %v, want it accepted: %v", quantity, price, more, err, fits)
				}
				if err == nil && d.total != want.Int64() {
					t.Errorf("%d × %d + %d is %d", quantity, price, more, d.total)
				}
			}
		}
	}
	for _, l := range []Line{
		{SKU: "A", Quantity: math.MaxInt64, UnitPrice: 1},
		{SKU: "A", Quantity: 1, UnitPrice: math.MaxInt64},
		{SKU: "A", Quantity: math.MinInt64, UnitPrice: 1},
		{SKU: "A", Quantity: 1, UnitPrice: math.MinInt64},
	} {
		if _, err := NewDraft([]Line{l}, "", ""); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%+v: %v, want code invalid_argument", l, err)
		}
	}
}

func TestIDs(t *testing.T) {
	base := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	var ids []string
	for i := range 1000 {
		id := NewID(base.Add(time.Duration(i) * time.Millisecond))
		if again, ok := ParseID(id.String()); !ok || again != id {
			t.Fatalf("%q does not parse as itself", id)
		}
		ids = append(ids, id.String())
	}
	if !slices.IsSorted(ids) {
		t.Error("ids do not sort as their times")
	}
	if first, second := NewID(base), NewID(base); first == second {
		t.Error("two ids of one time are the same")
	}
	id := ids[0]
	// The last character holds 3 bits of the 128, so 2 of its 5 are always 0.
	for _, bad := range []string{"", id[1:], id + "0", strings.ToUpper(id), id[:25] + "1", id[:25] + "w", id[:25] + "/", id[:25] + "\xff"} {
		if bad != id {
			if _, ok := ParseID(bad); ok {
				t.Errorf("%q parses", bad)
			}
		}
	}
}

func TestFingerprintTellsDraftsApart(t *testing.T) {
	a := Line{SKU: "A", Quantity: 1, UnitPrice: 2}
	b := Line{SKU: "B", Quantity: 1, UnitPrice: 2}
	seen := map[[32]byte]int{}
	for i, args := range []struct {
		lines               []Line
		currency, reference string
	}{
		{[]Line{a}, "", ""},
		{[]Line{b}, "", ""},
		{[]Line{a, b}, "", ""},
		{[]Line{b, a}, "", ""},
		{[]Line{a, a}, "", ""},
		{[]Line{a}, "USD", ""},
		{[]Line{a}, "", "USD"},
		{[]Line{{SKU: "A", Quantity: 2, UnitPrice: 1}}, "", ""},
	} {
		d, err := NewDraft(args.lines, args.currency, args.reference)
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := seen[d.fingerprint()]; taken {
			t.Errorf("drafts %d and %d have one fingerprint", other, i)
		}
		seen[d.fingerprint()] = i
	}
}

func TestCurrencyAsText(t *testing.T) {
	for text, want := range map[string]Currency{
		`"USD"`: {"USD", 2}, ` "JPY" `: {"JPY", 0}, `"KWD"`: {"KWD", 3}, `"CLF"`: {"CLF", 4},
		`{"code":"JPY","exponent":2,"name":"Yen"}`: {"JPY", 2},
	} {
		var p policy
		if err := p.readCurrency([]byte(text)); err != nil || p.currency != want {
			t.Errorf("%s is %+v, %v; want %+v", text, p.currency, err, want)
		}
	}
}

// short answers with fewer results than keys.
type short struct{}

func (short) BatchGet(context.Context, []config.Key, config.Service, ...client.GetOption) ([]client.Result, error) {
	return []client.Result{{}}, nil
}

func TestTooFewResultsDecideNothing(t *testing.T) {
	d, err := NewDraft([]Line{{SKU: "A", Quantity: 1, UnitPrice: 1}}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = NewBook(short{}, nil, time.Now).Place(t.Context(), Buyer{}, d, "")
	var missing *ConfigUnavailable
	if !errors.As(err, &missing) {
		t.Errorf("Place returned %v", err)
	}
}

// A turn that its owner does not get in time is given up, and nothing is kept
// of any once all are over.
func TestTurns(t *testing.T) {
	var turns turns
	name := turn{key: "k"}
	done, err := turns.take(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := turns.take(ctx, name); !errors.Is(err, context.Canceled) {
		t.Errorf("the second take returned %v, want canceled", err)
	}
	other, err := turns.take(t.Context(), turn{key: "another"})
	if err != nil {
		t.Errorf("another name waited: %v", err)
	}
	other()
	next := make(chan struct{})
	go func() {
		defer close(next)
		done, err := turns.take(t.Context(), name)
		if err != nil {
			t.Error(err)
			return
		}
		done()
	}()
	done()
	<-next
	if len(turns.taken) != 0 {
		t.Errorf("%d names are kept", len(turns.taken))
	}
}
