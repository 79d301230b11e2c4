package latency

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/spread"
	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
)

const (
	// crowdedRounds is how often the three states of BenchmarkNeighbour take turns, in
	// each repetition.
	crowdedRounds = 1
	// crowdedFor is how long the neighbour is measured in each.
	crowdedFor = 3 * time.Second
	// headStart is how long before that the other tenant begins, and after it ends.
	headStart = time.Second
)

// BenchmarkNeighbour: what a tenant that asks for its part, Gets from memory at a
// fixed rate, feels of another that asks for a hundred times its own: without a
// rate for each tenant, and with one (TAGSTORE_TENANT_RATE). The baseline is the
// same tenant alone. "gets" floods with single Gets, "batches" with batches of
// 1,000 keys. Both tenants' calls are made by bench/load, a process for each, on
// the processors that the service has, too: what the flood takes of those is in the
// figures; "cpu" is what the service's process alone takes of a processor.
func BenchmarkNeighbour(b *testing.B) {
	generator := filepath.Join(b.TempDir(), "load")
	build := exec.CommandContext(b.Context(), "go", "build", "-o", generator, "github.com/tagstore/tagstore/bench/load")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("building the load generator: %v\n%s", err, out)
	}
	const noisy, calm = "noisy", tenant
	for _, flood := range []struct {
		name        string
		part, batch int // keys a second; those of a call
	}{{"gets", 100, 0}, {"batches", 1000, 1000}} {
		b.Run(flood.name, func(b *testing.B) {
			site := stack.NewSite(b)
			at := map[string]*stack.Replica{
				"free":    site.Start(b, "free", onLocal(b, site, "free")),
				"limited": site.Start(b, "limited", onLocal(b, site, "limited"), fmt.Sprintf("TAGSTORE_TENANT_RATE=%d", flood.part)),
			}
			id := benchKey(b, 0)
			for _, replica := range at {
				c := newClient(b, replica.Address)
				for _, t := range []string{noisy, calm} {
					editor := client.ContextWithToken(b.Context(), site.Token(b, t, auth.RoleEditor))
					if _, err := c.Put(editor, client.PutRequest{Key: id.Key, Value: value(0)}); err != nil {
						b.Fatal(err)
					}
				}
			}
			reader, other := site.Token(b, calm, auth.RoleReader), site.Token(b, noisy, auth.RoleReader)
			rate := 100 * flood.part / max(flood.batch, 1)
			got := map[string]map[string][]float64{"alone": {}, "free": {}, "limited": {}}
			for range crowdedRounds { // whatever b.N is: the rate says how many calls there are
				for state, into := range got { // in any order, which is what ranging over a map is
					replica := at["free"]
					if state != "alone" {
						replica = at[state]
					}
					ended := func() map[string]float64 { return nil }
					if state != "alone" {
						ended = beginLoad(b, generator, replica.Address, other, id.Key.String(), rate, crowdedFor+2*headStart,
							"-refusable", "-cut", "-batch", fmt.Sprint(flood.batch), "-callers", "64")
						<-time.After(headStart)
					}
					before, err := cpuOf(replica.PID())
					if err != nil {
						b.Fatal(err)
					}
					figures := beginLoad(b, generator, replica.Address, reader, id.Key.String(), 100, crowdedFor, "-conns", "1")()
					after, err := cpuOf(replica.PID())
					if err != nil {
						b.Fatal(err)
					}
					figures["cpu"] = (after - before).Seconds() / crowdedFor.Seconds()
					for unit, v := range figures {
						into[unit] = append(into[unit], v)
					}
					for unit, v := range ended() {
						into["flood-"+unit] = append(into["flood-"+unit], v)
					}
				}
			}
			b.ReportMetric(0, "ns/op") // which means nothing here
			for _, p := range []string{"p50", "p99"} {
				b.ReportMetric(1e9*spread.Median(got["alone"][p+"-sec"]), "baseline-"+p+"-ns")
				b.ReportMetric(1e9*spread.Median(got["limited"][p+"-sec"]), p+"-ns")
				b.ReportMetric(1e9*spread.Median(got["free"][p+"-sec"]), "free-"+p+"-ns")
				b.ReportMetric(ratio(got["limited"][p+"-sec"], got["alone"][p+"-sec"]), p+"-ratio")
				b.ReportMetric(ratio(got["free"][p+"-sec"], got["alone"][p+"-sec"]), "free-"+p+"-ratio")
			}
			b.ReportMetric(spread.Median(got["limited"]["flood-reached/s"]), "flood/s")
			b.ReportMetric(spread.Median(got["free"]["flood-reached/s"]), "free-flood/s")
			b.ReportMetric(spread.Median(got["limited"]["flood-refused"]), "flood-refused")
			for name, state := range map[string]string{"": "limited", "free-": "free", "baseline-": "alone"} {
				b.ReportMetric(spread.Median(got[state]["cpu"]), name+"cpu")
			}
		})
	}
}
