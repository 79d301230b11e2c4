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

	{"Hit/entries=1000/serial", "sec/op", 200e-9, false, "a hit in process, all checks on, ≤ 200 ns"},
	{"Hit/entries=1000/serial", "allocs/op", 0, false, "a hit allocates nothing"},
	{"Hit/entries=1000000/serial", "x-fewest", 1.25, false, "a hit among 1,000,000 entries, any of them, ≤ 1.25 × one among 1,000"},
	{"Hit/entries=1000000/hot", "x-fewest", 1.25, false, "a hit among 1,000,000 entries, 1,000 of them in use, ≤ 1.25 × one among 1,000"},
	{"Resident", "x-payload", 2, false, "a process with 1,000,000 entries of 200 B takes ≤ 2 × their payload"},
	{"Watch/local/watchers=1000", "p99-sec", 20e-3, false, "Put → 1,000 watchers, of a store that is watched itself: p99 ≤ 20 ms"},
	{"Watch/view/watchers=1000", "p99-sec", 20e-3, false, "Put → 1,000 watchers, of a store that can not be watched: p99 ≤ 20 ms"},
	{"Refresh/replicas=3", "p50-sec", 10e-3, false, "Refresh acknowledged by 3 replicas: p50 ≤ 10 ms"},
	{"Refresh/replicas=3", "p99-sec", 50e-3, false, "Refresh acknowledged by 3 replicas: p99 ≤ 50 ms"},
	{"RefreshOneStopped/replicas=3", "p50-sec", 2.5, false, "Refresh with one of them stopped ends, with an error that names it, in ≤ 2.5 s"},
}

// columns are the units of the tables, in order; a table has those that one of
// its benchmarks reports. The suites report times in ns; benchfmt brings every
// such unit to seconds.
var columns = []struct{ unit, heading string }{
	{"sec/op", "time/op"},
	{"p50-sec", "p50"},
	{"p99-sec", "p99"},
	{"allocs/op", "allocs/op"},
	{"baseline-sec/op", "baseline time/op"},
	{"baseline-p99-sec", "baseline p99"},
	{"ratio", "ratio"},
	{"x-one-caller", "× one caller"},
	{"x-fewest", "× hit among 1,000"},
	{"baseline-x-fewest", "baseline × the same"},
	{"x-payload", "resident × payload"},
	{"heap-x-payload", "heap × payload"},
	{"baseline-x-payload", "baseline resident × payload"},
	{"calls/op", "API calls/op"},
}

// suite is a table of its own: the benchmarks whose names begin so, or, without
// any name, all that no other suite has.
type suite struct {
	heading string
	names   []string
	prose   string
}

var suites = []suite{
	{"Plugins and the local store", nil, `The baseline of reads is plain gRPC to another process over a unix socket with
the same payload, that of writes is a bare bbolt transaction with its fsync.
`},
	{"The stores of AWS", []string{"DynamoDB/", "SSM/", "S3/", "SecretsManager/", "DAX/"}, `The AWS stores stand beside the bare SDK call for the same thing on the same
emulator (DynamoDB on Amazon's DynamoDB Local, the others on moto), and DAX, the
tests' own node, beside the same read of the table. An emulator on this machine
answers sooner than AWS does over a network, so the way through the host to the
plugin's process weighs more here; InProcess is the plugin without it. API calls
are counted on the way to the emulator, the first of a process left out.
`},
	{"Hits, and what they are held in", []string{"Hit/", "Resident"}, `A hit is a Get of package store for a value of 200 B that is in memory: route,
layers, identity and freshness included. The baseline is a Get of a bare
Ristretto cache with the same keys and values, asked in the same order, uniformly
over all of them; "hot" asks for 1,000 only. "read" is core/cache alone, and
"second-layer" a Get that is answered by the tenant's layer, behind a remembered
absence in the service's. Of more than 1,000 entries the tables say how many
times a hit among 1,000 they take, for both: what the processor's caches do not
hold slows either.

Resident is the whole process with 1,000,000 such values, measured in a child
with GOGC=100 after a collection whose freed pages were given back. The payload
is the bytes of the values and of their keys, and of nothing else. The baseline
is a process with the same in a bare Ristretto cache, and the ratio that of their
resident sets.
`},
	{"The service", []string{"CachedGet/", "Watch/", "Refresh"}, `Real processes of tagstore-config on loopback. The baseline is plain gRPC between
two processes that sends the same payload of 1 KiB: one answer, one message to
each of 1,000 streams, one call of each of three processes.

CachedGet is authenticated: "client" by core/client, "stub" by the generated
code. A ratio at 64 callers is that of their rates. Watch is the time from the
call of a Put until a watcher of its prefix has the value, with 1,000 of them on
8 connections: the percentiles are those of single watchers, the time of an
operation that until the last one has it. "local" is a store that is watched
itself, "view" one that can not be. Refresh is the time from a change that
somebody else makes in the store, which three replicas share, until all of them
have acknowledged it.
`},
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
per call over that of the baseline of the same run, the two taking turns.
`, machine, runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for i, s := range suites {
		var mine []string
		for _, name := range names {
			if suiteOf(name) == i {
				mine = append(mine, name)
			}
		}
		if len(mine) > 0 {
			fmt.Fprintf(out, "\n## %s\n\n%s\n", s.heading, s.prose)
			table(out, mine, found)
		}
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

// suiteOf returns the index of the suite that a benchmark belongs to.
func suiteOf(name string) int {
	for i, s := range suites {
		if slices.ContainsFunc(s.names, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			return i
		}
	}
	return 0
}

// table writes the figures of some benchmarks.
func table(out io.Writer, names []string, found map[string]figures) {
	var units, headings []string
	for _, c := range columns {
		if slices.ContainsFunc(names, func(name string) bool { return len(found[name][c.unit]) > 0 }) {
			units, headings = append(units, c.unit), append(headings, c.heading)
		}
	}
	fmt.Fprintf(out, "| benchmark | %s |\n|---|%s\n", strings.Join(headings, " | "), strings.Repeat("---|", len(units)))
	for _, name := range names {
		cells := make([]string, len(units))
		for i, unit := range units {
			cells[i] = cell(unit, found[name][unit])
		}
		fmt.Fprintf(out, "| %s | %s |\n", name, strings.Join(cells, " | "))
	}
}

func cell(unit string, values []float64) string {
	if len(values) == 0 {
		return ""
	}
	low, high := slices.Min(values), slices.Max(values)
	show := func(v float64) string {
		switch unit {
		case "sec/op", "p50-sec", "p99-sec", "baseline-sec/op", "baseline-p99-sec":
			return duration(v)
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

// duration shows seconds in the unit that fits.
func duration(v float64) string {
	switch {
	case v < 1e-6:
		return fmt.Sprintf("%.0f ns", v*1e9)
	case v < 10e-3:
		return fmt.Sprintf("%.1f µs", v*1e6)
	default:
		return fmt.Sprintf("%.1f ms", v*1e3)
	}
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
