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
		"| 1.05 |  | 1 |\n",
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
