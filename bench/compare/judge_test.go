package main

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/bench/targets"
)

const guardedFile = `version: 1
targets:
  - { name: time, suite: hit, meaning: m, benchmark: Hit/x, figure: sec/op, baseline: baseline-sec/op, ratio: ratio, at_most: 1, margin: 0.25 }
  - { name: cheaper, suite: rpc, meaning: m, benchmark: Batch, figure: sec/op, baseline: baseline-sec/op, ratio: x-cheaper, at_least: 20, margin: 0.25 }
`

// rounds makes one round of each value of a benchmark's ratio.
func rounds(benchmark, unit string, values ...float64) []figures {
	all := make([]figures, len(values))
	for i, v := range values {
		all[i] = figures{benchmark: {unit: v, "baseline-sec/op": 1}}
	}
	return all
}

func TestARegressionIsWhatNoiseDoesNotMake(t *testing.T) {
	held, err := targets.Parse([]byte(guardedFile), "t.yaml")
	if err != nil {
		t.Fatal(err)
	}
	time, cheaper := held[0], held[1]
	for what, c := range map[string]struct {
		target     targets.Target
		base, head []figures
		want       outcome
	}{
		"the same":           {time, rounds("Hit/x", "ratio", 2, 2.1, 2, 1.9, 2), rounds("Hit/x", "ratio", 2, 2.1, 2, 1.9, 2), kept},
		"within the margin":  {time, rounds("Hit/x", "ratio", 2, 2, 2, 2, 2), rounds("Hit/x", "ratio", 2.4, 2.4, 2.4, 2.4, 2.4), kept},
		"beyond the margin":  {time, rounds("Hit/x", "ratio", 2, 2, 2, 2, 2), rounds("Hit/x", "ratio", 2.6, 2.6, 2.6, 2.6, 2.6), regressed},
		"four of five":       {time, rounds("Hit/x", "ratio", 2, 2, 2, 2, 2), rounds("Hit/x", "ratio", 9, 9, 9, 9, 2), kept},
		"seven of eight":     {time, rounds("Hit/x", "ratio", 2, 2, 2, 2, 2, 2, 2, 2), rounds("Hit/x", "ratio", 9, 9, 9, 9, 9, 9, 9, 2), regressed},
		"better":             {time, rounds("Hit/x", "ratio", 2, 2, 2, 2, 2), rounds("Hit/x", "ratio", 1, 1, 1, 1, 1), kept},
		"a rate that falls":  {cheaper, rounds("Batch", "x-cheaper", 20, 20, 20, 20, 20), rounds("Batch", "x-cheaper", 10, 10, 10, 10, 10), regressed},
		"a rate that rises":  {cheaper, rounds("Batch", "x-cheaper", 20, 20, 20, 20, 20), rounds("Batch", "x-cheaper", 40, 40, 40, 40, 40), kept},
		"no ratio any more":  {time, rounds("Hit/x", "ratio", 2, 2, 2, 2, 2), rounds("Hit/x", "other", 2, 2, 2, 2, 2), missing},
		"no number":          {time, rounds("Hit/x", "ratio", 2, 2, 2, 2, 2), rounds("Hit/x", "ratio", math.NaN(), 2, 2, 2, 2), missing},
		"no benchmark":       {time, rounds("Hit/x", "ratio", 2, 2, 2, 2, 2), rounds("Hit/y", "ratio", 2, 2, 2, 2, 2), missing},
		"none before":        {time, rounds("Hit/y", "ratio", 2, 2, 2, 2, 2), rounds("Hit/x", "ratio", 2, 2, 2, 2, 2), fresh},
		"the noise of both":  {time, rounds("Hit/x", "ratio", 2, 6, 2, 6, 2), rounds("Hit/x", "ratio", 2.1, 6.2, 2.2, 6, 1.9), kept},
		"no baseline beside": {time, rounds("Hit/x", "ratio", 2, 2), []figures{{"Hit/x": {"ratio": 2}}, {"Hit/x": {"ratio": 2}}}, missing},
	} {
		t.Run(what, func(t *testing.T) {
			if got := judgeOne(c.target, c.base, c.head); got.outcome != c.want {
				t.Errorf("the verdict is %q, want %q: %+v", got.outcome, c.want, got)
			}
		})
	}
}

func TestTheReportFailsWhereItMust(t *testing.T) {
	ok := verdict{Target: targets.Target{Name: "a"}, base: []float64{1}, head: []float64{1}, worse: []float64{1}}
	bad, gone, added := ok, verdict{outcome: missing}, verdict{outcome: fresh}
	bad.outcome = regressed
	for want, verdicts := range map[string][]verdict{
		"":                                  {ok, added},
		"1 of 2 guarded ratios got worse":   {ok, bad},
		"1 of 2 guarded ratios were not me": {ok, gone},
		"nothing was compared":              {added, added},
	} {
		var out bytes.Buffer
		err := report(&out, verdicts)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
		if !strings.Contains(out.String(), verdicts[1].String()) {
			t.Errorf("the table lacks %q:\n%s", verdicts[1], &out)
		}
	}
}

func TestBoundIsThatOfTheSignTest(t *testing.T) {
	for n, want := range map[int]float64{1: 0, 4: 0, 5: 1, 7: 1, 8: 2, 11: 3, 20: 6} {
		values := make([]float64, n)
		for i := range values {
			values[i] = float64(i + 1)
		}
		if got := bound(values); got != want {
			t.Errorf("of %d it is the value of rank %v, want %v", n, got, want)
		}
	}
}

func TestOnlyTheGuardedBenchmarksRun(t *testing.T) {
	held, err := targets.Parse([]byte(guardedFile), "t.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := pattern(slices.Concat(held, held)), "^BenchmarkHit$/^x$|^BenchmarkBatch$"; got != want {
		t.Errorf("the pattern is %s, want %s", got, want)
	}
}

func TestWhatCanNotBeComparedIsSaid(t *testing.T) {
	for want, args := range map[string][]string{
		"name a revision":     {},
		"4 rounds tell":       {"-base", "HEAD", "-rounds", "4"},
		"slack of 1 or more":  {"-base", "HEAD", "-slack", "0.5"},
		`no suite "no-suite"`: {"-base", "HEAD", "-suites", "no-suite"},
		"can not be had from": {"-base", "no-such-revision"},
		"no ratio of these":   {"-base", "HEAD", "-suites", "stores"},
	} {
		if err := run(t.Context(), args, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with %q the error is %v, want %q", args, err, want)
		}
	}
}
