package main

import (
	"bytes"
	"strings"
	"testing"
)

const output = `goos: linux
goarch: amd64
cpu: Some CPU
BenchmarkGet/callers=1-2   	 100	 150000 ns/op	 120000 baseline-ns/op	 140000 p50-ns	 300000 p99-ns	 1.20 ratio	 50 allocs/op
BenchmarkGet/callers=1-2   	 100	 170000 ns/op	 120000 baseline-ns/op	 160000 p50-ns	 300000 p99-ns	 1.40 ratio	 50 allocs/op
BenchmarkGet/callers=1-2   	 100	 160000 ns/op	 120000 baseline-ns/op	 150000 p50-ns	 300000 p99-ns	 1.24 ratio	 50 allocs/op
BenchmarkPutGroupCommit-2  	 100	 90000 ns/op	 7.50 x-one-caller
pkg: another/package
BenchmarkDynamoDB/Get-2    	 100	 90000 ns/op	 1.05 ratio	 1.000 calls/op
BenchmarkSSM/List495-2     	 100	 90000 ns/op	 1.05 ratio	 50.20 calls/op
BenchmarkDAX/Get-2         	 100	 90000 ns/op	 0.30 ratio	 0 calls/op
BenchmarkHit/entries=1000/serial-2     	 100	 151.4 ns/op	 51.0 baseline-ns/op	 2.97 ratio	 0 allocs/op
BenchmarkHit/entries=1000000/serial-2  	 100	 450.0 ns/op	 3.01 x-fewest	 2.50 baseline-x-fewest	 0 allocs/op
BenchmarkResident-2        	 1	 3.700 x-payload	 3.200 heap-x-payload
BenchmarkWatch/view/watchers=1000-2   	 100	 9000000 ns/op	 19000000 p99-ns	 11000000 baseline-p99-ns
BenchmarkRefreshOneStopped/replicas=3-2	 1	 2104000000 p50-ns
`

func TestReportShowsMediansAndTargets(t *testing.T) {
	var out bytes.Buffer
	if err := report(strings.NewReader(output), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Machine: Some CPU",
		"| Get/callers=1 | 160.0 µs (150.0 µs … 170.0 µs) | 150.0 µs",
		"plain gRPC's latency | 1.24 (1.20 … 1.40) | yes |",
		"one caller's rate | 7.50 | no |",
		"| SSM/List495 | 90.0 µs | 1.05 | 50.2 |\n", // the columns of its table, and no other
		"| benchmark | time/op | allocs/op | baseline time/op | ratio | × hit among 1,000 | baseline × the same | resident × payload | heap × payload |\n",
		"| Hit/entries=1000000/serial | 450 ns | 0 |  |  | 3.01 | 2.50 |  |  |\n",
		"all checks on, ≤ 200 ns | 151 ns | yes |",
		"≤ 2 × their payload | 3.70 | no |",
		"can not be watched: p99 ≤ 20 ms | 19.0 ms | yes |",
		"in ≤ 2.5 s | 2104.0 ms | yes |",
		"a Get is 1 API call | 1 | yes |",
		"(495: 50) | 50.2 | no |",
		"a hit is no call of the table | 0 | yes |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}

func TestMissingFigureIsATargetMissed(t *testing.T) {
	var out bytes.Buffer
	if err := report(strings.NewReader("BenchmarkOther-2 1 5 ns/op\n"), &out); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "| no: not measured |"); got != len(targets) {
		t.Errorf("%d targets are reported as not measured, want %d:\n%s", got, len(targets), out.String())
	}
}

func TestEmptyInputIsAnError(t *testing.T) {
	if err := report(strings.NewReader("PASS\n"), &bytes.Buffer{}); err == nil {
		t.Error("an input without benchmarks was accepted")
	}
}
