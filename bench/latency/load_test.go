package latency

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/perf/benchfmt"

	"github.com/tagstore/tagstore/bench/spread"
	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
)

// loadRounds is how often subject and baseline take turns at each rate, in each
// repetition.
const loadRounds = 1

// BenchmarkLoad: an authenticated Get of a value in memory at fixed rates, beside
// plain gRPC with the same payload at the same rate. The calls are made by
// bench/load, a process of its own, in an open loop: a latency counts from when
// the call was due.
func BenchmarkLoad(b *testing.B) {
	generator := filepath.Join(b.TempDir(), "load")
	build := exec.CommandContext(b.Context(), "go", "build", "-o", generator, "github.com/tagstore/tagstore/bench/load")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("building the load generator: %v\n%s", err, out)
	}
	site := stack.NewSite(b)
	replica := site.Start(b, "replica", onLocal(b, site, "replica"))
	id := benchKey(b, 0)
	editor := client.ContextWithToken(b.Context(), site.Token(b, tenant, auth.RoleEditor))
	if _, err := newClient(b, replica.Address).Put(editor, client.PutRequest{Key: id.Key, Value: value(0)}); err != nil {
		b.Fatal(err)
	}
	token, echo := site.Token(b, tenant, auth.RoleReader), startEchoTCP(b)
	for _, rate := range []int{500, 1000, 2000, 4000, 8000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) {
			mine, base := map[string][]float64{}, map[string][]float64{}
			for range loadRounds { // whatever b.N is: the rate says how many calls there are
				// in any order, which is what ranging over a map is
				for target, into := range map[string]map[string][]float64{replica.Address: mine, echo: base} {
					for unit, v := range load(b, generator, target, token, id.Key.String(), rate) {
						into[unit] = append(into[unit], v)
					}
				}
			}
			b.ReportMetric(0, "ns/op") // which means nothing here
			for _, p := range []string{"p50", "p99", "p99.9"} {
				b.ReportMetric(1e9*spread.Median(mine[p+"-sec"]), p+"-ns")
				b.ReportMetric(1e9*spread.Median(base[p+"-sec"]), "baseline-"+p+"-ns")
			}
			b.ReportMetric(ratio(mine["p50-sec"], base["p50-sec"]), "p50-ratio")
			b.ReportMetric(spread.Median(mine["reached/s"]), "reached/s")
		})
	}
}

// load makes one run of the generator and returns its figures.
func load(b *testing.B, generator, target, token, key string, rate int) map[string]float64 {
	b.Helper()
	return beginLoad(b, generator, target, token, key, rate, time.Second)()
}

// beginLoad begins a run of the generator, and returns what waits for its figures.
func beginLoad(b *testing.B, generator, target, token, key string, rate int, span time.Duration, more ...string) func() map[string]float64 {
	b.Helper()
	cmd := exec.CommandContext(context.Background(), generator, append([]string{
		"-target", target, "-key", key, "-rates", fmt.Sprint(rate), "-duration", span.String(),
	}, more...)...)
	cmd.Env = append(os.Environ(), "TAGSTORE_TOKEN="+token)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return func() map[string]float64 {
		b.Helper()
		if err := cmd.Wait(); err != nil {
			b.Fatalf("%d calls a second: %v\n%s", rate, err, &said)
		}
		figures := map[string]float64{}
		reader := benchfmt.NewReader(&out, "load")
		for reader.Scan() {
			if r, ok := reader.Result().(*benchfmt.Result); ok {
				for _, v := range r.Values {
					figures[v.Unit] = v.Value
				}
			}
		}
		if len(figures) == 0 {
			b.Fatal("the load generator has printed no figures")
		}
		return figures
	}
}
