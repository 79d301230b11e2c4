package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/bench/spread"
	"github.com/tagstore/tagstore/bench/targets"
)

const output = `Load average at the start: 12.50
goos: linux
goarch: amd64
cpu: Some CPU
BenchmarkGet/callers=1-2   	 100	 150000 ns/op	 120000 baseline-ns/op	 140000 p50-ns	 300000 p99-ns	 1.20 ratio	 50 allocs/op
BenchmarkGet/callers=1-2   	 100	 170000 ns/op	 120000 baseline-ns/op	 160000 p50-ns	 300000 p99-ns	 1.40 ratio	 50 allocs/op
BenchmarkGet/callers=1-2   	 100	 160000 ns/op	 120000 baseline-ns/op	 150000 p50-ns	 300000 p99-ns	 1.24 ratio	 50 allocs/op
BenchmarkPluginSystem/local-2	 1	 173286830 ready-ns	 104.2 resident-MB
BenchmarkPutGroupCommit-2  	 100	 90000 ns/op	 20000 baseline-ns/op	 7.50 x-one-caller
pkg: another/package
BenchmarkDynamoDB/Get-2    	 100	 90000 ns/op	 1.05 ratio	 1.000 calls/op
BenchmarkSSM/List495-2     	 100	 90000 ns/op	 1.05 ratio	 50.20 calls/op
BenchmarkDAX/Get-2         	 100	 90000 ns/op	 0.30 ratio	 0 calls/op
BenchmarkHit/entries=1000/serial-2     	 100	 151.4 ns/op	 51.0 baseline-ns/op	 2.97 ratio	 0 allocs/op
BenchmarkHit/entries=1000000/serial-2  	 100	 450.0 ns/op	 3.01 x-fewest	 2.50 baseline-x-fewest	 0 allocs/op
BenchmarkResident-2        	 1	 850 resident-MB	 230 payload-MB	 3.700 x-payload	 3.200 heap-x-payload
BenchmarkWatch/view/watchers=1000-2   	 100	 9000000 ns/op	 19000000 p99-ns	 11000000 baseline-p99-ns
BenchmarkRefreshOneStopped/replicas=3-2	 1	 2104000000 p50-ns
BenchmarkFanOut/replicas=100-2	 50	 34000000 ns/op	 100 connections	 148000 cpu-per-replica-ns	 2.1 ratio	 15000000 baseline-ns/op
Not run: BenchmarkFanOut/replicas=1000: it needs 3256 open files and may have 1024: raise the limit with ulimit -n
Not run: BenchmarkFanOut/replicas=1000: it needs 3256 open files and may have 1024: raise the limit with ulimit -n
BenchmarkFanOutOnce/replicas=100/zone-2	 1	 2132000000 all-ns	 66 connections	 31.51 peak-MB	 33 unanswered
`

// report runs the command on some output, with the repository's own targets.
func report(t *testing.T, in string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(append([]string{"-targets", "../targets.yaml"}, args...), strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestReportShowsMediansAndTargets(t *testing.T) {
	out := report(t, output)
	for _, want := range []string{
		"Machine: Some CPU",
		"load average was 12.50 when the suites began:\n**it was busy",
		"| Get/callers=1 | 160.0 µs (150.0 µs … 170.0 µs) | 150.0 µs",
		"time ≤ 1.05 × plain gRPC | 160.0 µs (150.0 µs … 170.0 µs) | 120.0 µs | 1.24 (1.20 … 1.40) | ≤ 1.05 | no |",
		"| PluginSystem/local | 173.3 ms | 104 MB |\n",
		"behind their start | 173.3 ms | - | - | ≤ 300.0 ms | yes |",
		"in all | 104 MB | - | - | ≤ 150 MB | yes |",
		"one caller's | 90.0 µs | 20.0 µs | 7.50 | ≥ 8.00 | no |",
		"| SSM/List495 | 90.0 µs | 1.05 | 50.2 |\n", // the columns of its table, and no other
		"| Hit/entries=1000000/serial | 450 ns | 0 |",
		"all checks on: ≤ 150 ns | 151 ns | - | - | ≤ 150 ns | no |",
		"≤ 2 × their payload | 850 MB | 230 MB | 3.70 | ≤ 2.00 | no |",
		"can not be watched: p99 ≤ 20 ms | 19.0 ms | - | - | ≤ 20.0 ms | yes |",
		"in ≤ 2.5 s | 2104.0 ms | - | - | ≤ 2500.0 ms | yes |",
		"a Get is 1 API call | 1 | - | - | ≤ 1 | yes |",
		"(495: 50) | 50.2 | - | - | ≤ 50 | no |",
		"Not run on this machine:\n\n- BenchmarkFanOut/replicas=1000: it needs 3256 open files and may have 1024: raise the limit with ulimit -n\n\n## ",
		"| FanOutOnce/replicas=100/zone |  |  |  | 2132.0 ms | 33 | 66 |  | 32 MB |\n",
		"a hit is no call of the table | 0 | - | - | ≤ 0 | yes |",
		// A ratio without what it is a ratio to is worth nothing.
		"time ≤ 1.15 × GetItem | 90.0 µs | - | 1.05 | ≤ 1.15 | no: no baseline |",
		"≤ 1.25 × one among 1,000 | 450 ns | - | 3.01 | ≤ 1.25 | no: no baseline |",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q:\n%s", want, out)
		}
	}
}

func TestMissingFigureIsATargetMissed(t *testing.T) {
	held, err := targets.Load("../targets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	out := report(t, "BenchmarkOther-2 1 5 ns/op\n")
	if got := strings.Count(out, "| no: not measured |"); got != len(held) {
		t.Errorf("%d targets are reported as not measured, want %d:\n%s", got, len(held), out)
	}
	out = report(t, "BenchmarkCachedGet/stub/callers=64-2 1 5 ns/op 2 baseline-ns/op\n")
	if want := "| 5 ns | 2 ns | - | ≤ 1.00 | no: no ratio |"; !strings.Contains(out, want) {
		t.Errorf("the report lacks %q:\n%s", want, out)
	}
	if !strings.Contains(out, "is not known") {
		t.Error("the report does not say that nobody asked how busy the machine was")
	}
}

func TestTheJSONHasWhatTheTableHas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	report(t, output, "-json", path)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Loads      []float64 `json:"load_averages"`
		Benchmarks []jsonBenchmark
		Targets    []jsonTarget
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Loads) != 1 || got.Loads[0] != 12.5 {
		t.Errorf("the load averages are %v", got.Loads)
	}
	if b := got.Benchmarks[0]; b.Name != "Get/callers=1" || b.Figures["ratio"] != spread.Of([]float64{1.2, 1.4, 1.24}) {
		t.Errorf("the first benchmark is %+v", b)
	}
	for _, target := range got.Targets {
		switch target.Name {
		case "local-get":
			if target.Met || *target.Ratio != spread.Of([]float64{1.2, 1.4, 1.24}) || *target.AtMost != 1.05 {
				t.Errorf("local-get is %+v", target)
			}
		case "dynamodb-get":
			if target.Met || target.Baseline != nil || target.Missing != "no baseline" {
				t.Errorf("dynamodb-get is %+v", target)
			}
		}
	}
}

func TestPlotsAreDrawnOfWhatWasMeasured(t *testing.T) {
	const curves = `BenchmarkLoad/rate=1000-2 1 200000 p50-ns 900000 p99-ns 100000 baseline-p50-ns 500000 baseline-p99-ns
BenchmarkLoad/rate=2000-2 1 300000 p50-ns 1900000 p99-ns 150000 baseline-p50-ns 700000 baseline-p99-ns
BenchmarkScale/tenants=1/keys=1000-2 1 300 ns/op 100 baseline-ns/op
BenchmarkScale/tenants=1/keys=10000-2 1 600 ns/op 200 baseline-ns/op
BenchmarkScale/tenants=10/keys=100-2 1 600 ns/op 200 baseline-ns/op
`
	dir := filepath.Join(t.TempDir(), "plots")
	out := report(t, curves, "-plots", dir)
	for name, texts := range map[string][]string{
		"load.svg":  {"<svg", "calls a second", "p99, plain gRPC"},
		"scale.svg": {"<svg", "entries", "bare Ristretto"},
	} {
		if !strings.Contains(out, "(plots/"+name+")") {
			t.Errorf("the report does not show %s", name)
		}
		svg, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if !strings.Contains(string(svg), text) {
				t.Errorf("%s lacks %q", name, text)
			}
		}
	}
	if out := report(t, output, "-plots", dir); strings.Contains(out, "## Plots") {
		t.Error("plots are shown of what was not measured")
	}
}

func TestEmptyInputIsAnError(t *testing.T) {
	if err := run([]string{"-targets", "../targets.yaml"}, strings.NewReader("PASS\n"), &bytes.Buffer{}); err == nil {
		t.Error("an input without benchmarks was accepted")
	}
}

func TestInvalidTargetsAreAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.yaml")
	if err := os.WriteFile(path, []byte("version: 1\ntargets:\n  - tarjet: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{"-targets", path}, strings.NewReader(output), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "t.yaml:3: ") {
		t.Errorf("the error does not name the line: %v", err)
	}
}

// record writes the JSON of some output, and returns its path and the report.
func record(t *testing.T, in string) (path, out string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "results.json")
	return path, report(t, in, "-json", path)
}

func TestWhatWasRecordedGivesTheSameReport(t *testing.T) {
	path, want := record(t, output+"Revision: 1234567\nCommand: go test -bench . ./latency\n")
	again := filepath.Join(t.TempDir(), "again.json")
	if got := report(t, "", "-from", path, "-json", again); got != want {
		t.Errorf("from what was recorded the report is\n%s\nwant\n%s", got, want)
	}
	first, err1 := os.ReadFile(path)
	second, err2 := os.ReadFile(again)
	if err1 != nil || err2 != nil || !bytes.Equal(first, second) {
		t.Errorf("and the JSON is another one: %v, %v", err1, err2)
	}
	for _, text := range []string{"Revision: 1234567.", "    go test -bench . ./latency\n", "Spread of the ratios: **38 %**"} {
		if !strings.Contains(want, text) {
			t.Errorf("the report lacks %q:\n%s", text, want)
		}
	}
	if _, out := record(t, "BenchmarkOther-2 1 5 ns/op 1.2 ratio\n"); !strings.Contains(out, "measured once") {
		t.Errorf("of one repetition the report claims to know the spread:\n%s", out)
	}
}

// What is measured by itself takes the place of what there was, and is said to be
// of another time.
func TestAPartIsPutInItsPlace(t *testing.T) {
	path, _ := record(t, output)
	const part = `Revision: 7654321
Load average at the start: 3.25
BenchmarkGet/callers=1-2 1 990000 ns/op 3 ratio
BenchmarkScaleWatch/watchers=10-2 1 2000000 ns/op 4 ratio
BenchmarkFanOut/replicas=1000-2 1 2000000 ns/op 4 ratio
Not run: BenchmarkEtcd: no etcd in PATH
`
	again := filepath.Join(t.TempDir(), "again.json")
	out := report(t, part, "-from", path, "-add", "-json", again)
	for _, want := range []string{
		"load average was 12.50 when", "Not run on this machine:\n\n- BenchmarkEtcd: no etcd in PATH\n\n", "\nMeasured later: Get, ScaleWatch, FanOut, of revision 7654321, at a load average of 3.25.\n",
		"| Get/callers=1 | 990.0 µs |", "| ScaleWatch/watchers=10 | 2000.0 µs | 4.00 |", "| PutGroupCommit | 90.0 µs |",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q:\n%s", want, out)
		}
	}
	out = report(t, strings.ReplaceAll(part, "7654321", "8888888"), "-from", again, "-add")
	if !strings.Contains(out, "8888888") || strings.Contains(out, "7654321") {
		t.Errorf("what was replaced once more is still said to be there:\n%s", out)
	}
}

func TestTwoRunsAgreeWithinTheirSpread(t *testing.T) {
	const run = `BenchmarkA-2 1 100 ns/op 1.00 ratio
BenchmarkA-2 1 100 ns/op 1.10 ratio
BenchmarkB-2 1 900 ns/op 2.00 p50-ratio 3.00 x-cheaper
BenchmarkB-2 1 100 ns/op 2.10 p50-ratio 3.10 x-cheaper
`
	before, _ := record(t, run)
	for name, c := range map[string]struct{ after, says string }{
		"the same":             {run, ""},
		"times are another":    {strings.ReplaceAll(run, "100 ns/op", "900 ns/op"), ""},
		"within the spread":    {strings.ReplaceAll(run, "1.00 ratio", "1.06 ratio"), ""},
		"a ratio is another":   {strings.ReplaceAll(run, "2.", "4."), "B p50-ratio 2.05 (2.00 … 2.10) 4.05 (4.00 … 4.10) apart by 98 %, stated 20 %"},
		"a ratio is missing":   {strings.ReplaceAll(run, "x-cheaper", "y-cheaper"), "B x-cheaper 3.05 (3.00 … 3.10) - only one run has it"},
		"a benchmark is there": {run + "BenchmarkC-2 1 1 ns/op 1 ratio\n", "C ratio - 1.00 only one run has it"},
	} {
		t.Run(name, func(t *testing.T) {
			after, _ := record(t, c.after)
			var out bytes.Buffer
			err := agreement(before, after, &out)
			if (err == nil) != (c.says == "") || !strings.Contains(strings.Join(strings.Fields(out.String()), " "), c.says) {
				t.Errorf("it says %v, and not %q:\n%s", err, c.says, &out)
			}
		})
	}
	once, _ := record(t, "BenchmarkA-2 1 100 ns/op 1.00 ratio\n")
	if err := agreement(once, once, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "COUNT=3") {
		t.Errorf("runs that state no spread: %v", err)
	}
}

// agreement compares two records.
func agreement(before, after string, out *bytes.Buffer) error {
	return run([]string{"-agree", before, after}, strings.NewReader(""), out)
}
