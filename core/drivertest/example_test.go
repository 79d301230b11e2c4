package drivertest_test

import (
	"testing"

	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/memdriver"
)

// A store's conformance test, as it stands in a test file of its own. Each
// harness gets an empty store.
func ExampleRun() {
	testConformance := func(t *testing.T) {
		claim := drivertest.Caps{
			Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true, MaxValue: 1 << 20,
		}
		drivertest.Run(t, claim, func(testing.TB) *drivertest.Harness {
			return &drivertest.Harness{Backend: memdriver.New()}
		})
	}
	_ = testConformance // go test calls it
}
