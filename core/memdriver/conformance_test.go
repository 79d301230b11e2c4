package memdriver_test

import (
	"testing"

	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/memdriver"
)

const changes = 256

func open(testing.TB) *drivertest.Harness {
	b := memdriver.New(memdriver.WithChanges(changes))
	return &drivertest.Harness{Backend: b, Peer: b, Changes: changes}
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Caps{
		Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true, MaxValue: 1 << 20,
	}, open)
}

func FuzzAgainstItself(f *testing.F) { drivertest.Fuzz(f, open) }

func BenchmarkBackend(b *testing.B) { drivertest.Bench(b, open) }
