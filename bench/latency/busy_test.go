package latency

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// sayLoad writes what else the machine had to do when the benchmarks began, for
// the report. The line is none of benchfmt's configuration: benchstat would
// take runs of different load for runs that can not be compared.
func sayLoad(out io.Writer) {
	load := "unknown"
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ = strings.Cut(string(text), " ")
	}
	fmt.Fprintf(out, "Load average at the start: %s\n", load)
}

// Figures of the race detector, or of a busy machine that does not say so, are
// worse than none.
func TestBenchmarksSayWhatTheyCanNotMeasure(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkNone$").CombinedOutput()
	if raceDetector {
		if err == nil || !strings.Contains(string(out), "without -race") {
			t.Errorf("benchmarks ran under the race detector: %v\n%s", err, out)
		}
		return
	}
	if err != nil || !strings.Contains(string(out), "Load average at the start: ") {
		t.Errorf("the benchmarks do not say how busy the machine was: %v\n%s", err, out)
	}
}
