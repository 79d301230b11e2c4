package latency

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// absences is how many keys there are of each kind.
const absences = 64

// BenchmarkNothing: how long it takes to be told that there is nothing: of a key of
// another tenant (the subject), of one that nobody has (the baseline), and of one
// that was the caller's own and is deleted. One call of each makes a round, in any
// order. "ks-p" is the probability that times of one distribution differ as much as
// those of subject and baseline do, by Kolmogorov and Smirnov: near 0 they are told
// apart. "again-ks-p" is that of the baseline beside itself, of other keys that
// nobody has: what this machine makes of two that are the same.
func BenchmarkNothing(b *testing.B) {
	site := stack.NewSite(b)
	manifest := strings.Replace(onLocal(b, site, "replica"), "negative_ttl: 2s", "negative_ttl: 60s", 1)
	replica := site.Start(b, "replica", manifest)
	c := newClient(b, replica.Address)
	mine := client.ContextWithToken(b.Context(), site.Token(b, tenant, auth.RoleEditor))
	other := client.ContextWithToken(b.Context(), site.Token(b, "other", auth.RoleEditor))
	kinds := []string{"absent", "foreign", "deleted", "again"}
	keys := map[string][]string{}
	for i := range absences * len(kinds) { // side by side, and as long as each other
		kind := kinds[i%len(kinds)]
		key := fmt.Sprintf("tenant_config_nothing/%04d", i)
		keys[kind] = append(keys[kind], key)
		k, err := config.ParseKey(key)
		if err != nil {
			b.Fatal(err)
		}
		switch kind {
		case "foreign":
			_, err = c.Put(other, client.PutRequest{Key: k, Value: value(i)})
		case "deleted":
			if _, err = c.Put(mine, client.PutRequest{Key: k, Value: value(i)}); err == nil {
				_, err = c.Delete(mine, client.DeleteRequest{Key: k})
			}
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	stub := tagstorev1.NewConfigServiceClient(dial(b, replica.Address))
	ctx := bearer(b.Context(), site.Token(b, tenant, auth.RoleReader))
	for name, age := range map[string]*durationpb.Duration{"memory": nil, "store": durationpb.New(0)} {
		b.Run(name, func(b *testing.B) {
			ask := func(kind string, i int) time.Duration {
				request := &tagstorev1.GetRequest{Key: keys[kind][i%absences], MaxStaleness: age}
				began := time.Now()
				_, err := stub.Get(ctx, request)
				took := time.Since(began)
				if status.Code(err) != codes.NotFound {
					b.Fatalf("%s: %v", kind, err)
				}
				return took
			}
			for i := range absences { // connections open, what can be held is
				for _, kind := range kinds {
					ask(kind, i)
				}
			}
			took := map[string][]time.Duration{}
			order := slices.Clone(kinds)
			b.ResetTimer()
			for i := range b.N {
				rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
				for _, kind := range order {
					took[kind] = append(took[kind], ask(kind, i))
				}
			}
			b.StopTimer()
			for _, t := range took {
				slices.Sort(t)
			}
			at := func(kind string, perMille int) float64 {
				return float64(took[kind][len(took[kind])*perMille/1000].Nanoseconds())
			}
			b.ReportMetric(0, "ns/op") // which has all of them in it
			b.ReportMetric(at("absent", 500), "baseline-p50-ns")
			for _, p := range []struct {
				perMille int
				name     string
			}{{500, "p50"}, {990, "p99"}} {
				b.ReportMetric(at("foreign", p.perMille), p.name+"-ns")
				b.ReportMetric(at("foreign", p.perMille)/at("absent", p.perMille), p.name+"-ratio")
				b.ReportMetric(at("deleted", p.perMille)/at("absent", p.perMille), "deleted-"+p.name+"-ratio")
				b.ReportMetric(at("again", p.perMille)/at("absent", p.perMille), "again-"+p.name+"-ratio")
			}
			b.ReportMetric(sameDistribution(took["foreign"], took["absent"]), "ks-p")
			b.ReportMetric(sameDistribution(took["deleted"], took["absent"]), "deleted-ks-p")
			b.ReportMetric(sameDistribution(took["again"], took["absent"]), "again-ks-p")
		})
	}
}

// sameDistribution is the probability that two samples of one distribution, which
// are sorted, lie as far apart as these or farther: the test of Kolmogorov and
// Smirnov, as it is for many.
func sameDistribution(a, b []time.Duration) float64 {
	apart, i, j := 0.0, 0, 0
	for i < len(a) && j < len(b) {
		next := min(a[i], b[j])
		for i < len(a) && a[i] == next {
			i++
		}
		for j < len(b) && b[j] == next {
			j++
		}
		apart = max(apart, math.Abs(float64(i)/float64(len(a))-float64(j)/float64(len(b))))
	}
	size := math.Sqrt(float64(len(a)) * float64(len(b)) / float64(len(a)+len(b)))
	lambda := (size + 0.12 + 0.11/size) * apart
	p, sign := 0.0, 1.0
	for k := 1.0; k <= 100; k++ {
		p += sign * 2 * math.Exp(-2*k*k*lambda*lambda)
		sign = -sign
	}
	if lambda < 0.2 { // where the sum converges too slowly, and is 1
		return 1
	}
	return min(max(p, 0), 1)
}

func TestSameDistribution(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	sample := func(shift float64) []time.Duration {
		out := make([]time.Duration, 10_000)
		for i := range out {
			out[i] = time.Duration(1e6 * (10 + shift + random.NormFloat64()))
		}
		slices.Sort(out)
		return out
	}
	one := sample(0)
	if p := sameDistribution(one, one); p != 1 {
		t.Errorf("a sample and itself: %v", p)
	}
	if p := sameDistribution(one, sample(0)); p < 0.01 {
		t.Errorf("two samples of one distribution: %v", p)
	}
	if p := sameDistribution(one, sample(0.1)); p > 1e-6 {
		t.Errorf("a tenth of a deviation apart: %v", p)
	}
}
