// Package spread sums up the repetitions of a figure, and says whether two runs
// of the suites agree.
package spread

import (
	"math"
	"slices"
)

// Spread is what the repetitions of one figure came to.
type Spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	N      int     `json:"n"`
	// Deviation is the standard deviation of the logarithms: 0.1 is a tenth of
	// the figure, up or down. It is 0 of one repetition, which says nothing of it,
	// and of figures that are not above zero, which have no logarithm.
	Deviation float64 `json:"deviation"`
}

// Of sums up one repetition or more.
func Of(values []float64) Spread {
	return Spread{Median(values), slices.Min(values), slices.Max(values), len(values), deviation(values)}
}

func deviation(values []float64) float64 {
	if len(values) < 2 || slices.Min(values) <= 0 {
		return 0
	}
	mean, squares := 0.0, 0.0
	for _, v := range values {
		mean += math.Log(v) / float64(len(values))
	}
	for _, v := range values {
		squares += (math.Log(v) - mean) * (math.Log(v) - mean)
	}
	return math.Sqrt(squares / float64(len(values)-1))
}

// Median is the middle one, or the mean of the two in the middle. It leaves the
// order of values alone.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[mid-1] + sorted[mid]) / 2
	}
	return sorted[mid]
}

// Pooled is the deviation that figures of one kind have in common: the root of
// the mean of their variances, each with the weight of its repetitions. A few
// repetitions of one figure say little of how far it can be off; those of all its
// like say more. It is 0 where none was repeated.
func Pooled(figures []Spread) float64 {
	squares, weight := 0.0, 0.0
	for _, f := range figures {
		squares += f.Deviation * f.Deviation * float64(f.N-1)
		weight += float64(f.N - 1)
	}
	if weight == 0 {
		return 0
	}
	return math.Sqrt(squares / weight)
}

// sure is how many deviations of a repetition apart two medians may be. The
// difference of two medians of three has a deviation of 0.95, and with more
// repetitions less, so that of a thousand pairs one or none is further apart by
// chance.
const sure = 4

// Stated is by how much of itself a figure may differ in another run, as the run
// says that has this deviation.
func Stated(deviation float64) float64 { return math.Expm1(sure * deviation) }

// Agree reports whether the medians of a figure in two runs are as close together
// as the runs say: by its own deviation in either, or by the one that is pooled
// where that is more. It returns by how much they differ, too, and by how much
// they might.
func Agree(a, b Spread, pooled float64) (by, might float64, agree bool) {
	might = Stated(max(pooled, a.Deviation, b.Deviation))
	low, high := min(a.Median, b.Median), max(a.Median, b.Median)
	if low <= 0 {
		return high - low, might, low == high
	}
	by = high/low - 1
	return by, might, by <= might
}
