package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/perf/benchfmt"

	"github.com/tagstore/tagstore/bench/spread"
	"github.com/tagstore/tagstore/bench/targets"
)

// figures are what one round has measured: benchmark, unit, value.
type figures map[string]map[string]float64

// parse reads what the benchmarks print.
func parse(output []byte) (figures, error) {
	found := figures{}
	reader := benchfmt.NewReader(bytes.NewReader(output), "output")
	for reader.Scan() {
		result, ok := reader.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		name := string(result.Name)
		if i := strings.LastIndexByte(name, '-'); i > 0 && strings.Trim(name[i+1:], "0123456789") == "" {
			name = name[:i] // the number of processors
		}
		units := map[string]float64{}
		for _, v := range result.Values {
			units[v.Unit] = v.Value
		}
		found[name] = units
	}
	return found, reader.Err()
}

// leastRounds is how many rounds it takes until the lowest of them bounds the
// median: see bound.
const leastRounds = 5

// outcome is what became of one guarded ratio.
type outcome int

const (
	kept      outcome = iota
	regressed         // worse by more than the margin, beyond noise
	missing           // head does not report the ratio, or its baseline
	fresh             // base does not report it: there is nothing to compare
)

func (o outcome) String() string {
	return [...]string{"no worse", "REGRESSION", "MISSING", "new, not compared"}[o]
}

// verdict is one guarded ratio in both builds.
type verdict struct {
	targets.Target
	outcome
	base, head []float64 // the ratio in each round
	worse      []float64 // how many times worse head was in each round, lowest first
}

func judge(held []targets.Target, base, head []figures) []verdict {
	verdicts := make([]verdict, len(held))
	for i, t := range held {
		verdicts[i] = judgeOne(t, base, head)
	}
	return verdicts
}

func judgeOne(t targets.Target, base, head []figures) verdict {
	v := verdict{Target: t}
	for i := range head {
		// What was not measured is zero here, and so is what can not be a ratio.
		ratio, was := head[i][t.Benchmark][t.Ratio], base[i][t.Benchmark][t.Ratio]
		if _, beside := head[i][t.Benchmark][t.Baseline]; !beside || !positive(ratio) {
			v.outcome = missing
			return v
		}
		if !positive(was) {
			v.outcome = fresh
			return v
		}
		v.base, v.head = append(v.base, was), append(v.head, ratio)
		v.worse = append(v.worse, t.Worse(was, ratio))
	}
	slices.Sort(v.worse)
	if bound(v.worse) > 1+t.Margin {
		v.outcome = regressed
	}
	return v
}

func positive(ratio float64) bool { return ratio > 0 && !math.IsInf(ratio, 1) }

// bound is the value that the median of what these are samples of exceeds with a
// confidence of 95 %, whatever their distribution. The k-th lowest of n is below
// the median unless fewer than k of them are, which is as likely as fewer than k
// heads of n coins; k is the most for which that is at most 5 %. Of 5 it is the
// lowest, of 8 the second.
func bound(sorted []float64) float64 {
	n, k := len(sorted), 0
	ways, fewer, all := 1.0, 0.0, 1.0
	for range n {
		all *= 2
	}
	for k < n {
		if fewer+ways > 0.05*all {
			break
		}
		fewer += ways
		ways = ways * float64(n-k) / float64(k+1)
		k++
	}
	if k == 0 {
		return 0 // too few to say anything
	}
	return sorted[k-1]
}

// report prints the verdicts. Its error says what is wrong.
func report(out io.Writer, verdicts []verdict) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nguarded ratio\tbase\thead\ttimes worse (lowest … highest)\tsurely above\tallowed\tverdict\t")
	counts := map[outcome]int{}
	for _, v := range verdicts {
		counts[v.outcome]++
		if v.outcome == missing || v.outcome == fresh {
			fmt.Fprintf(t, "%s\t-\t-\t-\t-\t%.2f\t%s\t\n", v.Name, 1+v.Margin, v.outcome)
			continue
		}
		fmt.Fprintf(t, "%s\t%.3f\t%.3f\t%.2f (%.2f … %.2f)\t%.2f\t%.2f\t%s\t\n", v.Name, spread.Median(v.base), spread.Median(v.head),
			spread.Median(v.worse), v.worse[0], v.worse[len(v.worse)-1], bound(v.worse), 1+v.Margin, v.outcome)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	var problems []error
	if n := counts[regressed]; n > 0 {
		problems = append(problems, fmt.Errorf("%d of %d guarded ratios got worse by more than their margin", n, len(verdicts)))
	}
	if n := counts[missing]; n > 0 {
		problems = append(problems, fmt.Errorf("%d of %d guarded ratios were not measured, or not their baseline", n, len(verdicts)))
	}
	if counts[fresh] == len(verdicts) {
		problems = append(problems, errors.New("the base has none of the guarded ratios: nothing was compared"))
	}
	return errors.Join(problems...)
}
