// Command report turns the output of the latency suites into RESULTS.md: the
// median and the spread of every figure over the repetitions, and each target
// with what was measured.
//
//	go test -run '^$' -bench . -count 5 ./latency | go run ./report > RESULTS.md
//
// scripts/bench adds the benchmarks that stand with a plugin.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// target is what one figure of one benchmark is meant to reach.
type target struct {
	benchmark, unit string
	limit           float64
	atLeast         bool // else at most
	meaning         string
}

var targets = []target{
	{"Get/callers=1", "ratio", 1.25, false, "a Get through the plugin ≤ 1.25 × plain gRPC's latency"},
	{"PutGroupCommit", "x-one-caller", 8, true, "durable Puts at 64 callers ≥ 8 × one caller's rate"},

	{"DynamoDB/Get", "ratio", 1.15, false, "DynamoDB: Get through host and plugin ≤ 1.15 × GetItem"},
	{"SSM/Get", "ratio", 1.15, false, "Parameter Store: Get through host and plugin ≤ 1.15 × GetParameter"},
	{"S3/Get", "ratio", 1.15, false, "S3: Get through host and plugin ≤ 1.15 × GetObject"},
	{"SecretsManager/Get", "ratio", 1.15, false, "Secrets Manager: Get through host and plugin ≤ 1.15 × GetSecretValue"},
	{"DynamoDB/GetInProcess", "ratio", 1.15, false, "DynamoDB: Get of the plugin's own code ≤ 1.15 × GetItem"},
	{"SSM/GetInProcess", "ratio", 1.15, false, "Parameter Store: Get of the plugin's own code ≤ 1.15 × GetParameter"},
	{"S3/GetInProcess", "ratio", 1.15, false, "S3: Get of the plugin's own code ≤ 1.15 × GetObject"},
	{"SecretsManager/GetInProcess", "ratio", 1.15, false, "Secrets Manager: Get of the plugin's own code ≤ 1.15 × GetSecretValue"},
	{"DynamoDB/BatchGet100", "ratio", 1.3, false, "DynamoDB: BatchGet of 100 through host and plugin ≤ 1.3 × one BatchGetItem"},
	{"DAX/Get", "ratio", 1, false, "DAX: a hit takes less than the read of the table"},

	{"DynamoDB/Get", "calls/op", 1, false, "DynamoDB: a Get is 1 API call"},
	{"SSM/Get", "calls/op", 1, false, "Parameter Store: a Get is 1 API call"},
	{"S3/Get", "calls/op", 1, false, "S3: a Get is 1 API call"},
	{"SecretsManager/Get", "calls/op", 1, false, "Secrets Manager: a Get is 1 API call"},
	{"DynamoDB/Put", "calls/op", 1, false, "DynamoDB: a Put, with its history, is 1 API call"},
	{"DynamoDB/BatchGet100", "calls/op", 1, false, "DynamoDB: a BatchGet of 100 is 1 API call"},
	{"DAX/Get", "calls/op", 0, false, "DAX: a hit is no call of the table"},
	{"SSM/List495", "calls/op", 50, false, "Parameter Store: a cold List of n parameters is ⌈n/10⌉ calls (495: 50)"},
	{"SSM/Prefetch500", "calls/op", 51, false, "Parameter Store: prefetch of 500 is 50 calls, and 1 for the empty page with which moto follows a last page that is full"},
}

// columns are the units of the table, in order. The suites report times in ns;
// benchfmt brings every such unit to seconds.
var columns = []struct{ unit, heading string }{
	{"sec/op", "time/op"},
	{"p50-sec", "p50"},
	{"p99-sec", "p99"},
	{"allocs/op", "allocs/op"},
	{"baseline-sec/op", "baseline time/op"},
	{"ratio", "ratio"},
	{"x-one-caller", "× one caller"},
	{"calls/op", "API calls/op"},
}

func main() {
	if err := report(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

type figures map[string][]float64 // by unit

func report(in io.Reader, out io.Writer) error {
	reader := benchfmt.NewReader(in, "stdin")
	found := map[string]figures{}
	var names []string
	machine := ""
	for reader.Scan() {
		result, ok := reader.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		machine = result.GetConfig("cpu")
		name := trimProcs(string(result.Name))
		if found[name] == nil {
			found[name] = figures{}
			names = append(names, name)
		}
		for _, v := range result.Values {
			found[name][v.Unit] = append(found[name][v.Unit], v.Value)
		}
	}
	if err := reader.Err(); err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("there is no benchmark in the input: run it as the command's documentation says")
	}
	write(out, machine, names, found)
	return nil
}

func write(out io.Writer, machine string, names []string, found map[string]figures) {
	fmt.Fprintf(out, `# Latency: what was measured

Written by `+"`make bench`"+`; do not edit. Machine: %s, %d CPUs, %s, %s/%s.

Each figure is the median over the repetitions, with the lowest and the highest
in brackets. Machines differ and are shared: trust the ratios. A ratio is time
per call over that of the baseline of the same run, the two taking turns; the
baseline of reads is plain gRPC to another process over a unix socket with the
same payload, that of writes is a bare bbolt transaction with its fsync.

The AWS stores stand beside the bare SDK call for the same thing on the same
emulator (DynamoDB on Amazon's DynamoDB Local, the others on moto), and DAX, the
tests' own node, beside the same read of the table. An emulator on this machine
answers sooner than AWS does over a network, so the way through the host to the
plugin's process weighs more here; InProcess is the plugin without it. API calls
are counted on the way to the emulator, the first of a process left out.

| benchmark | %s |
|---|%s
`, machine, runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, strings.Join(headings(), " | "), strings.Repeat("---|", len(columns)))
	for _, name := range names {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = cell(c.unit, found[name][c.unit])
		}
		fmt.Fprintf(out, "| %s | %s |\n", name, strings.Join(cells, " | "))
	}
	fmt.Fprint(out, "\n## Targets\n\n| target | measured | met |\n|---|---|---|\n")
	for _, t := range targets {
		values := found[t.benchmark][t.unit]
		met, measured := "no: not measured", "-"
		if len(values) > 0 {
			m := median(values)
			measured = cell(t.unit, values)
			met = "no"
			if (t.atLeast && m >= t.limit) || (!t.atLeast && m <= t.limit) {
				met = "yes"
			}
		}
		fmt.Fprintf(out, "| %s | %s | %s |\n", t.meaning, measured, met)
	}
}

func headings() []string {
	h := make([]string, len(columns))
	for i, c := range columns {
		h[i] = c.heading
	}
	return h
}

func cell(unit string, values []float64) string {
	if len(values) == 0 {
		return ""
	}
	low, high := slices.Min(values), slices.Max(values)
	show := func(v float64) string {
		switch unit {
		case "sec/op", "p50-sec", "p99-sec", "baseline-sec/op":
			return fmt.Sprintf("%.1f µs", v*1e6)
		case "allocs/op", "calls/op":
			return strconv.FormatFloat(v, 'f', -1, 64)
		default:
			return fmt.Sprintf("%.2f", v)
		}
	}
	if low == high {
		return show(low)
	}
	return fmt.Sprintf("%s (%s … %s)", show(median(values)), show(low), show(high))
}

// trimProcs takes the "-2" of GOMAXPROCS off a benchmark's name.
func trimProcs(name string) string {
	if i := strings.LastIndexByte(name, '-'); i > 0 && strings.Trim(name[i+1:], "0123456789") == "" {
		return name[:i]
	}
	return name
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[mid-1] + sorted[mid]) / 2
	}
	return sorted[mid]
}
