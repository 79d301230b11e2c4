// Command report turns the output of the latency suites into RESULTS.md: the
// median and the spread of every figure over the repetitions, and each target
// of targets.yaml with what was measured.
//
//	go test -run '^$' -bench . -count 5 ./latency | go run ./report -json results.json > RESULTS.md
//
// scripts/bench adds the benchmarks that stand with a plugin. With -from it does the
// same with what an earlier run left as JSON, with -add too it puts what it reads in
// place of the same benchmarks there, and
//
//	go run ./report -agree before.json after.json
//
// compares the ratios of two of these files: it names each that differs by more than
// the runs themselves say that it may, and then fails.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/perf/benchfmt"

	"github.com/tagstore/tagstore/bench/spread"
	"github.com/tagstore/tagstore/bench/targets"
)

// columns are the units of the tables, in order; a table has those that one of
// its benchmarks reports. The suites report times in ns; benchfmt brings every
// such unit to seconds.
var columns = []struct{ unit, heading string }{
	{"sec/op", "time/op"},
	{"p50-sec", "p50"},
	{"p99-sec", "p99"},
	{"p99.9-sec", "p99.9"},
	{"allocs/op", "allocs/op"},
	{"baseline-sec/op", "baseline time/op"},
	{"baseline-p99-sec", "baseline p99"},
	{"baseline-p99.9-sec", "baseline p99.9"},
	{"reached/s", "calls/s reached"},
	{"ratio", "ratio"},
	{"baseline-p50-sec", "baseline p50"},
	{"p50-ratio", "p50 ratio"},
	{"per-key-sec", "time/key"},
	{"x-cheaper", "× cheaper"},
	{"x-one-caller", "× one caller"},
	{"x-fewest", "× hit among 1,000"},
	{"baseline-x-fewest", "baseline × the same"},
	{"x-payload", "resident × payload"},
	{"heap-x-payload", "heap × payload"},
	{"baseline-x-payload", "baseline resident × payload"},
	{"calls/op", "API calls/op"},
	{"ready-sec", "until ready"},
	{"resident-B", "resident"},
	{"loaded-B", "resident under load"},
	{"all-sec", "until answered"},
	{"unanswered", "without the change"},
	{"retries", "retries"},
	{"connections", "connections opened"},
	{"cpu-per-replica-sec", "processor time/replica"},
	{"peak-B", "peak memory"},
	{"service-peak-B", "peak of the service"},
	{"plugin-peak-B", "peak of the plugin"},
	{"cpu-per-item-sec", "processor time"},
	{"baseline-cpu-per-item-sec", "baseline processor time"},
	{"cpu-ratio", "ratio of these"},
	{"items-per-core/s", "a second and core"},
	{"p99-ratio", "p99 ratio"},
	{"free-p50-sec", "p50 without a rate"},
	{"free-p99-sec", "p99 without a rate"},
	{"free-p50-ratio", "p50 ratio without"},
	{"free-p99-ratio", "p99 ratio without"},
	{"flood/s", "calls/s of the other"},
	{"flood-refused", "of which refused"},
	{"free-flood/s", "calls/s without a rate"},
	{"baseline-cpu", "processors, alone"},
	{"cpu", "processors"},
	{"free-cpu", "processors without a rate"},
	{"deleted-p50-ratio", "p50 ratio, deleted"},
	{"again-p50-ratio", "p50 ratio, baseline beside itself"},
	{"ks-p", "p of the same distribution"},
	{"deleted-ks-p", "p, deleted"},
	{"again-ks-p", "p, baseline beside itself"},
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
	{"The way to a plugin", []string{"Plugin"}, `PluginGet is a Get of 1 KiB through the host from a plugin that has it in memory,
beside plain gRPC to another process over a unix socket with the same payload:
over a stream that stays open, and as a call of its own. PluginExchange is the
first beside the second. PluginLaunch is the time from nothing to the first
answer of the local plugin, beside the start and end of its program alone;
PluginResident what its process takes when it has just started, and behind 20,000
calls of 64 callers. PluginSystem is the start of "tagctl dev" with three plugins
until both services are ready, and what these five processes take then, pages
that several share counted for each.
`},
	{"The stores of AWS", []string{"DynamoDB/", "SSM/", "S3/", "SecretsManager/", "DAX/"}, `The AWS stores stand beside the bare SDK call for the same thing on the same
emulator (DynamoDB on Amazon's DynamoDB Local, the others on moto), and DAX, the
tests' own node, beside the same read of the table. An emulator on this machine
answers sooner than AWS does over a network, so the way through the host to the
plugin's process weighs more here; InProcess is the plugin without it. API calls
are counted on the way to the emulator, the first of a process left out.
`},
	{"Hits, and what they are held in", []string{"Hit/", "HitClock/", "Resident"}, `A hit is a Get of package store for a value of 200 B that is in memory: route,
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
	{"Scale", []string{"Scale/"}, `A hit in process by how many entries there are, and by how many tenants they
belong to, beside a bare Ristretto cache with as many entries, any of them asked
for.
`},
	{"Many watchers", []string{"ScaleWatch/", "Join/"}, `ScaleWatch is from the call of a Put until each of so many watchers has the value, 200
or less on a connection, beside plain gRPC that sends the same to as many streams. The
percentiles are those of single watchers, the time of an operation is that until the
last one has it.

Join is from when so many come together, as the clients of a replica do at another one
when theirs has gone, until each has the state of 100 values of 1 KiB. "local" is a store
that is watched itself, "view" one that can not be; the peaks are the most memory that the
service and its plugin had until then.
`},
	{"What a core serves", []string{"PerCore/"}, `The time that the service's process was on a processor for a call, beside what plain
gRPC of the same payload costs its own process: a Get from memory, by itself and over a
stream that stays open (beside a call of its own), a key of a
BatchGet of 64, and a change for each of 1,000 watchers. Who calls shares the
processors with the service here, and is not in it.
`},
	{"The Go client's own cache", []string{"Read/"}, `A read that core/client answers from its own memory, beside the least that one
could cost: a map, and a sync.Map that nobody changes.
`},
	{"Load", []string{"Load/"}, `An authenticated Get of a value of 1 KiB in memory at fixed rates, asked for by a
process of its own in an open loop: a latency counts from when the call was due,
so that what a slow answer does to the calls behind it is in it. The baseline is
plain gRPC of the same payload at the same rate.
`},
	{"Tenants beside each other", []string{"Neighbour/", "Nothing/"}, `Neighbour is a tenant with 100 Gets a second of a value in memory beside another that
asks for a hundred times its part, one by one or in batches of 1,000: with a rate for
each tenant, and without one. The baseline is the same tenant alone. Both have their
callers on the service's processors; "processors" is what the service's process takes
of them. Nothing is a Get that is answered with NOT_FOUND: of another tenant's key,
beside one that nobody has; from memory and from the store.
`},
	{"An order", []string{"OrderPost"}, `OrderPost is an order placed over REST at a whole system: validated, its
configuration read from two stores, on the disk before it is answered. The
baseline is one durable write of a bare bbolt.
`},
	{"The refresh of many replicas", []string{"FanOut"}, `An event of Parameter Store is handed to the refresh function, the real program in
a process of its own with the timeouts of the stack and the 1,024 open files that
Lambda allows, until it has answered. The replicas are gRPC servers with a port and a
core/cache of their own, all in one process on the same processors, so the times are
longer than the function's own part. The percentiles are those of single replicas,
from the event on; retries are calls behind the first of a replica.

FanOut is a function whose connections are open, beside plain gRPC of another process
that calls each replica once, as many at a time. FanOutOnce is the first event of one
that has just started: where all answer (first), one of a hundred takes 300 ms (slow),
refuses once (draining), is an address where nobody listens (gone) or nobody answers
(dead), and where a third does not answer (zone), for which the function's 10 s may
not be enough.
`},
	{"The service", []string{"CachedGet/", "Etcd/", "TokenEcho/", "StreamedGet/", "BatchPerKey/", "Watch/", "Refresh"}, `Real processes of tagstore-config on loopback. The baseline is plain gRPC between
two processes that sends the same payload of 1 KiB: one answer, one message to
each of as many streams, one call of each of three processes.

CachedGet is authenticated: "client" by core/client, "stub" by the generated
code, and "tokens" that beside an echo that verifies the token of each call;
TokenEcho is such an echo beside the bare one. Etcd is the distribution's, where it
is installed: the same value by a serializable Range, without a token, beside the bare
echo. StreamedGet is the same Get by
core/client over a stream that stays open, beside one of its own by the generated
code ("client": by core/client) and beside the bare echo. A ratio at 64 callers is
that of their rates. BatchPerKey is a BatchGet of 64 beside a Get of the same
service. Watch is the time from the
call of a Put until a watcher of its prefix has the value, all of them on
8 connections: the percentiles are those of single watchers, the time of an
operation that until the last one has it. "local" is a store that is watched
itself, "view" one that can not be. Refresh is the time from a change that
somebody else makes in the store, which three replicas share, until all of them
have acknowledged it.
`},
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	path := flags.String("targets", "targets.yaml", "what the figures are held to")
	plots := flags.String("plots", "", "also draw plots into this folder, which lies beside the report")
	asJSON := flags.String("json", "", "also write all of it to this file, as JSON")
	from := flags.String("from", "", "take the figures from such a file, and not from the standard input")
	adding := flags.Bool("add", false, "take the figures from such a file, and those on the standard input in place of its own")
	agreeing := flags.Bool("agree", false, "compare the ratios of two such files, and fail where they differ beyond the spread that they state")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *agreeing {
		return agree(flags.Args(), out)
	}
	held, err := targets.Load(*path)
	if err != nil {
		return err
	}
	m, err := gather(*from, *adding, in)
	if err != nil {
		return err
	}
	verdicts := m.judge(held)
	if *asJSON != "" {
		if err := writeJSON(*asJSON, m, verdicts); err != nil {
			return err
		}
	}
	var drawn []drawing
	if *plots != "" {
		if drawn, err = draw(*plots, m); err != nil {
			return err
		}
	}
	write(out, m, verdicts, drawn)
	return nil
}

// gather takes the figures from a file, from in, or from both.
func gather(from string, adding bool, in io.Reader) (measured, error) {
	if from == "" {
		return read(in)
	}
	m, err := readJSON(from)
	if err != nil || !adding {
		return m, err
	}
	n, err := read(in)
	if err != nil {
		return measured{}, err
	}
	m.add(n)
	return m, nil
}

// figures are those of one benchmark by unit.
type figures map[string]spread.Spread

// measured is what the suites have printed, or what was recorded of that.
type measured struct {
	where
	loads []float64 // of the machine when the suites began, one after the other
	left  []string  // benchmarks that were not run, with the reason
	names []string  // of the benchmarks, in the order of the output
	found map[string]figures
	later []later
}

// later is what was measured by itself, and put in place of what there was.
type later struct {
	Revision   string    `json:"revision,omitempty"`
	Loads      []float64 `json:"load_averages"`
	Benchmarks []string  `json:"benchmarks"`
}

// add puts what was measured later in its place.
func (m *measured) add(n measured) {
	for i := range m.later {
		m.later[i].Benchmarks = slices.DeleteFunc(m.later[i].Benchmarks, func(name string) bool { return n.found[name] != nil })
	}
	m.later = slices.DeleteFunc(m.later, func(l later) bool { return len(l.Benchmarks) == 0 })
	for _, name := range n.names {
		if m.found[name] == nil {
			m.names = append(m.names, name)
		}
		m.found[name] = n.found[name]
	}
	m.left = append(slices.DeleteFunc(m.left, func(said string) bool {
		family, _, _ := strings.Cut(strings.TrimPrefix(said, "Benchmark"), ":")
		return slices.Contains(n.left, said) || slices.ContainsFunc(n.names, func(name string) bool { return strings.HasPrefix(name, family) })
	}), n.left...)
	m.later = append(m.later, later{n.Revision, n.loads, n.names})
}

// String says so in the report.
func (l later) String() string {
	var families []string
	for _, name := range l.Benchmarks {
		family, _, _ := strings.Cut(name, "/")
		if !slices.Contains(families, family) {
			families = append(families, family)
		}
	}
	text := "Measured later: " + strings.Join(families, ", ")
	if l.Revision != "" {
		text += ", of revision " + l.Revision
	}
	if len(l.Loads) > 0 {
		text += fmt.Sprintf(", at a load average of %.2f", l.Loads[0])
	}
	return text + "."
}

// where is on what, of what and how it was measured.
type where struct {
	Machine  string   `json:"machine"`
	CPUs     int      `json:"cpus"`
	Go       string   `json:"go"`
	OS       string   `json:"os"`
	Arch     string   `json:"arch"`
	Revision string   `json:"revision,omitempty"`
	Commands []string `json:"commands,omitempty"`
}

// deviation is the one that the ratios of a suite have in common: they are the
// figures that a neighbour on the machine changes least, and that two runs are
// compared by. Where nothing of the suite was repeated it is that of all suites.
func (m measured) deviation(suite int) float64 {
	var own, all []spread.Spread
	for _, name := range m.names {
		for unit, f := range m.found[name] {
			if !isRatio(unit) {
				continue
			}
			all = append(all, f)
			if suiteOf(name) == suite {
				own = append(own, f)
			}
		}
	}
	return cmp.Or(spread.Pooled(own), spread.Pooled(all))
}

// ratios reports whether one of these benchmarks has a ratio.
func (m measured) ratios(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		for unit := range m.found[name] {
			if isRatio(unit) {
				return true
			}
		}
		return false
	})
}

func isRatio(unit string) bool {
	return unit == "ratio" || strings.HasSuffix(unit, "-ratio") || strings.HasPrefix(unit, "x-")
}

// loadLine is what the suites say first of all.
const loadLine = "Load average at the start: "

// leftLine is what a benchmark says that can not be run on this machine.
const leftLine = "Not run: "

// These are what scripts/bench says of what it measures, and how.
const (
	revisionLine = "Revision: "
	commandLine  = "Command: "
)

func read(in io.Reader) (measured, error) {
	text, err := io.ReadAll(in)
	if err != nil {
		return measured{}, err
	}
	m := measured{
		where: where{CPUs: runtime.NumCPU(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH},
		found: map[string]figures{},
	}
	repetitions := map[string]map[string][]float64{}
	for line := range strings.Lines(string(text)) {
		if said, ok := strings.CutPrefix(strings.TrimSpace(line), revisionLine); ok {
			m.Revision = said
		}
		if said, ok := strings.CutPrefix(strings.TrimSpace(line), commandLine); ok {
			m.Commands = append(m.Commands, said)
		}
		if said, ok := strings.CutPrefix(strings.TrimSpace(line), loadLine); ok {
			if load, err := strconv.ParseFloat(said, 64); err == nil {
				m.loads = append(m.loads, load)
			}
		}
		if said, ok := strings.CutPrefix(strings.TrimSpace(line), leftLine); ok && !slices.Contains(m.left, said) {
			m.left = append(m.left, said)
		}
	}
	reader := benchfmt.NewReader(bytes.NewReader(text), "stdin")
	for reader.Scan() {
		result, ok := reader.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		m.Machine = result.GetConfig("cpu")
		name := trimProcs(string(result.Name))
		if repetitions[name] == nil {
			repetitions[name] = map[string][]float64{}
			m.names = append(m.names, name)
		}
		for _, v := range result.Values {
			repetitions[name][v.Unit] = append(repetitions[name][v.Unit], v.Value)
		}
	}
	for name, units := range repetitions {
		m.found[name] = figures{}
		for unit, values := range units {
			m.found[name][unit] = spread.Of(values)
		}
	}
	if err := reader.Err(); err != nil {
		return measured{}, err
	}
	if len(m.names) == 0 {
		return measured{}, fmt.Errorf("there is no benchmark in the input: run it as the command's documentation says")
	}
	return m, nil
}

// verdict is one target with what was measured of it.
type verdict struct {
	targets.Target
	figure, baseline, ratio *spread.Spread
	missing                 string // what was not measured, "" if nothing
	met                     bool
}

// judge holds the figures to the targets. What is missing is a target missed.
func (m measured) judge(held []targets.Target) []verdict {
	verdicts := make([]verdict, len(held))
	for i, t := range held {
		values := m.found[t.Benchmark]
		v := verdict{Target: t, figure: values.of(t.Figure), baseline: values.of(t.Baseline), ratio: values.of(t.Ratio)}
		switch {
		case len(values) == 0:
			v.missing = "not measured"
		case v.figure == nil:
			v.missing = "no " + t.Figure
		case t.Ratio != "" && v.baseline == nil:
			v.missing = "no baseline"
		case t.Ratio != "" && v.ratio == nil:
			v.missing = "no ratio"
		default:
			v.met = t.Met(values[t.Held()].Median)
		}
		verdicts[i] = v
	}
	return verdicts
}

// of is a figure, or nil if it was not measured.
func (f figures) of(unit string) *spread.Spread {
	if s, measured := f[unit]; measured {
		return &s
	}
	return nil
}

func (v verdict) answer() string {
	switch {
	case v.missing != "":
		return "no: " + v.missing
	case v.met:
		return "yes"
	default:
		return "no"
	}
}

func write(out io.Writer, m measured, verdicts []verdict, drawn []drawing) {
	fmt.Fprintf(out, `# Latency: what was measured

Written by `+"`make bench`, or `make bench-report`"+` from what that recorded; do not edit.
Machine: %s, %d CPUs, %s, %s/%s.%s
%s

Each figure is the median over the repetitions, with the lowest and the highest
in brackets. Machines differ and are shared: trust the ratios. A ratio is time
per call over that of the baseline of the same run, the two taking turns.
%s
`, m.Machine, m.CPUs, m.Go, m.OS, m.Arch, m.of(), m.busy(), m.stated())
	for _, l := range m.later {
		fmt.Fprintf(out, "\n%s\n", l)
	}
	if len(m.Commands) > 0 {
		fmt.Fprintf(out, "\nMeasured by\n\n    %s\n", strings.Join(m.Commands, "\n    "))
	}
	if len(m.left) > 0 {
		fmt.Fprint(out, "\nNot run on this machine:\n\n")
	}
	for _, said := range m.left {
		fmt.Fprintf(out, "- %s\n", said)
	}
	for i, s := range suites {
		var mine []string
		for _, name := range m.names {
			if suiteOf(name) == i {
				mine = append(mine, name)
			}
		}
		if len(mine) > 0 {
			fmt.Fprintf(out, "\n## %s\n\n%s\n", s.heading, s.prose)
			if d := m.deviation(i); d > 0 && m.ratios(mine) {
				fmt.Fprintf(out, "Spread of the ratios: **%.0f %%**.\n\n", 100*spread.Stated(d))
			}
			table(out, mine, m.found)
		}
	}
	if len(drawn) > 0 {
		fmt.Fprint(out, "\n## Plots\n")
	}
	for _, d := range drawn {
		fmt.Fprintf(out, "\n![%s](%s)\n", d.title, d.path)
	}
	fmt.Fprint(out, "\n## Targets\n\n| what | figure | baseline | ratio | target | met |\n|---|---|---|---|---|---|\n")
	for _, v := range verdicts {
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s |\n", v.Meaning, orDash(cell(v.Figure, v.figure)), orDash(cell(v.Baseline, v.baseline)),
			orDash(cell(v.Ratio, v.ratio)), v.Limit(show), v.answer())
	}
}

// of says of which revision the figures are.
func (m measured) of() string {
	if m.Revision == "" {
		return ""
	}
	return " Revision: " + m.Revision + "."
}

// stated says how far two runs of this kind are to be trusted.
func (m measured) stated() string {
	if m.deviation(0) == 0 {
		return "\n**Everything was measured once**: how far a ratio is to be trusted is not known."
	}
	return `
Each suite states the spread of its ratios: four times the standard deviation of their
repetitions, all of the suite taken together. Another run agrees in a ratio if the two
differ by no more than that, or than four deviations of its own repetitions where those
are more; ` + "`make bench-agree`" + ` says in which it does not.`
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// busy says what else the machine had to do when the suites began. The share of
// its processors from which on that is worth a warning is a matter of taste: at
// half of them the 99th percentiles of one caller are no longer ours.
func (m measured) busy() string {
	if len(m.loads) == 0 {
		return "How busy it was when the suites began is not known."
	}
	text := fmt.Sprintf("Its load average was %.2f when the suites began", m.loads[0])
	if m.loads[0] >= float64(m.CPUs)/2 {
		return text + ":\n**it was busy with something else**, and single figures are worth less than the ratios."
	}
	return text + "."
}

// jsonBenchmark is a benchmark in the JSON.
type jsonBenchmark struct {
	Name    string  `json:"name"`
	Figures figures `json:"figures"`
}

// jsonTarget is a target in the JSON. What was not measured is null there.
type jsonTarget struct {
	Name      string         `json:"name"`
	Suite     string         `json:"suite"`
	Meaning   string         `json:"meaning"`
	Benchmark string         `json:"benchmark"`
	Unit      string         `json:"unit"`
	AtMost    *float64       `json:"at_most,omitempty"`
	AtLeast   *float64       `json:"at_least,omitempty"`
	Figure    *spread.Spread `json:"figure"`
	Baseline  *spread.Spread `json:"baseline"`
	Ratio     *spread.Spread `json:"ratio"`
	Met       bool           `json:"met"`
	Missing   string         `json:"missing,omitempty"`
}

// jsonFile is the JSON.
type jsonFile struct {
	where
	Loads []float64 `json:"load_averages"`
	Left  []string  `json:"not_run,omitempty"`
	Later []later   `json:"later,omitempty"`
	// Spreads are those of the ratios by suite, as spread.Stated has them.
	Spreads    map[string]float64 `json:"ratio_spreads"`
	Benchmarks []jsonBenchmark    `json:"benchmarks"`
	Targets    []jsonTarget       `json:"targets"`
}

// readJSON is the way back: what was recorded, without the verdicts.
func readJSON(path string) (measured, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return measured{}, err
	}
	var file jsonFile
	if err := json.Unmarshal(text, &file); err != nil {
		return measured{}, fmt.Errorf("%s: %w", path, err)
	}
	m := measured{where: file.where, loads: file.Loads, left: file.Left, later: file.Later, found: map[string]figures{}}
	for _, b := range file.Benchmarks {
		m.names, m.found[b.Name] = append(m.names, b.Name), b.Figures
	}
	if len(m.names) == 0 {
		return measured{}, fmt.Errorf("%s: there is no benchmark in it", path)
	}
	return m, nil
}

// writeJSON writes everything to a file. Units are those of targets.yaml.
func writeJSON(path string, m measured, verdicts []verdict) error {
	file := jsonFile{where: m.where, Loads: m.loads, Left: m.left, Later: m.later, Spreads: map[string]float64{}}
	for _, name := range m.names {
		if i := suiteOf(name); m.ratios([]string{name}) {
			file.Spreads[suites[i].heading] = spread.Stated(m.deviation(i))
		}
		file.Benchmarks = append(file.Benchmarks, jsonBenchmark{name, m.found[name]})
	}
	for _, v := range verdicts {
		file.Targets = append(file.Targets, jsonTarget{
			v.Name, v.Suite, v.Meaning, v.Benchmark, v.Held(), v.AtMost, v.AtLeast,
			v.figure, v.baseline, v.ratio, v.met, v.missing,
		})
	}
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
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
		if slices.ContainsFunc(names, func(name string) bool { return found[name].of(c.unit) != nil }) {
			units, headings = append(units, c.unit), append(headings, c.heading)
		}
	}
	fmt.Fprintf(out, "| benchmark | %s |\n|---|%s\n", strings.Join(headings, " | "), strings.Repeat("---|", len(units)))
	for _, name := range names {
		cells := make([]string, len(units))
		for i, unit := range units {
			cells[i] = cell(unit, found[name].of(unit))
		}
		fmt.Fprintf(out, "| %s | %s |\n", name, strings.Join(cells, " | "))
	}
}

func cell(unit string, f *spread.Spread) string {
	switch {
	case f == nil:
		return ""
	case f.Low == f.High:
		return show(unit, f.Low)
	}
	return fmt.Sprintf("%s (%s … %s)", show(unit, f.Median), show(unit, f.Low), show(unit, f.High))
}

// show writes a value in the way of its unit.
func show(unit string, v float64) string {
	switch {
	case unit == "sec/op" || strings.HasSuffix(unit, "-sec") || strings.HasSuffix(unit, "-sec/op"):
		return duration(v)
	case slices.Contains([]string{"resident-B", "loaded-B", "payload-B", "peak-B", "service-peak-B", "plugin-peak-B"}, unit):
		return fmt.Sprintf("%.0f MB", v/1e6)
	case slices.Contains([]string{"allocs/op", "calls/op", "retries", "connections", "unanswered"}, unit):
		return strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return fmt.Sprintf("%.2f", v)
	}
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
