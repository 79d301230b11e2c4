package spread_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tagstore/tagstore/bench/spread"
)

func TestOf(t *testing.T) {
	values := []float64{4, 1, 2}
	got := spread.Of(values)
	if want := (spread.Spread{Median: 2, Low: 1, High: 4, N: 3, Deviation: got.Deviation}); got != want {
		t.Errorf("it is %v, want %v", got, want)
	}
	if math.Abs(got.Deviation-math.Ln2) > 1e-9 { // the logarithms are -ln 2, 0, ln 2 around their mean
		t.Errorf("the deviation is %v, want %v", got.Deviation, math.Ln2)
	}
	if !slices.Equal(values, []float64{4, 1, 2}) {
		t.Errorf("the values are in another order: %v", values)
	}
	if got := spread.Median([]float64{4, 1}); got != 2.5 {
		t.Errorf("the median of two is %v", got)
	}
	for name, values := range map[string][]float64{"one": {7}, "nothing": {0, 0, 1}} {
		if got := spread.Of(values).Deviation; got != 0 {
			t.Errorf("%s has a deviation of %v", name, got)
		}
	}
}

func TestPooled(t *testing.T) {
	calm, wild, once := spread.Spread{N: 3, Deviation: 0.03}, spread.Spread{N: 3, Deviation: 0.05}, spread.Spread{N: 1}
	for _, c := range []struct {
		name    string
		figures []spread.Spread
		want    float64
	}{
		{"of one", []spread.Spread{calm}, 0.03},
		{"of two", []spread.Spread{calm, wild}, math.Sqrt((0.0009 + 0.0025) / 2)},
		{"what was taken once says nothing", []spread.Spread{calm, once, once}, 0.03},
		{"and nothing was taken twice", []spread.Spread{once}, 0},
		{"of none", nil, 0},
	} {
		if got := spread.Pooled(c.figures); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestAgree(t *testing.T) {
	one, two := spread.Of([]float64{1, 1.02}), spread.Of([]float64{1.2, 1.22})
	wide := spread.Of([]float64{1, 1.3})
	for _, c := range []struct {
		name   string
		a, b   spread.Spread
		pooled float64
		want   bool
	}{
		{"less than all of the kind might", one, two, 0.05, true},
		{"more than that", one, two, 0.03, false},
		{"the other way round", two, one, 0.03, false},
		{"less than its own repetitions let it", wide, one, 0.01, true},
		{"the same of nothing", spread.Of([]float64{0}), spread.Of([]float64{0}), 0.1, true},
		{"something of nothing", spread.Of([]float64{0}), one, 0.1, false},
	} {
		if by, might, agree := spread.Agree(c.a, c.b, c.pooled); agree != c.want {
			t.Errorf("%s: they differ by %v, may by %v, and agree: %v", c.name, by, might, agree)
		}
	}
}

// Runs of the same thing agree, and of a suite in which one thing has changed by
// more than what is stated that one is found.
func TestWhatIsStatedHolds(t *testing.T) {
	const rows, runs, noise, seed = 20, 500, 0.08, 1
	r := rand.New(rand.NewPCG(seed, 0))
	measure := func(change float64) []spread.Spread {
		suite := make([]spread.Spread, rows)
		for i := range suite {
			values := make([]float64, 3)
			for j := range values {
				values[j] = math.Exp(noise * r.NormFloat64())
				if i == 0 {
					values[j] *= change
				}
			}
			suite[i] = spread.Of(values)
		}
		return suite
	}
	apart := func(a, b []spread.Spread) (rows []int) {
		pooled := max(spread.Pooled(a), spread.Pooled(b))
		for i := range a {
			if _, _, agree := spread.Agree(a[i], b[i], pooled); !agree {
				rows = append(rows, i)
			}
		}
		return rows
	}
	wrong, found := 0, 0
	for range runs {
		before := measure(1)
		wrong += len(apart(before, measure(1)))
		if slices.Contains(apart(before, measure(2)), 0) {
			found++
		}
	}
	if wrong > rows*runs/1000 {
		t.Errorf("of %d ratios that are the same %d are said not to be, want no more than one in a thousand", rows*runs, wrong)
	}
	if found < runs*9/10 {
		t.Errorf("a ratio that doubled was found in %d of %d runs, want nine in ten", found, runs)
	}
}
