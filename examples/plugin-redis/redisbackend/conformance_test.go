package redisbackend

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/plugintest"
)

// changesKept is small enough for the suite to run past it.
const changesKept = 300

var claim = drivertest.Caps{
	Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true, MaxValue: defaultMaxValue,
}

var namespacesUsed atomic.Int64

// options are those of an empty store.
func options(testing.TB) any {
	return Options{
		Address: shared.address(), Namespace: fmt.Sprintf("test-%d", namespacesUsed.Add(1)), ChangeLimit: changesKept,
	}
}

func inProcess(t testing.TB) *drivertest.Harness {
	t.Helper()
	o := options(t).(Options)
	open := func() (driver.Backend, error) { return Open(t.Context(), o) }
	h := &drivertest.Harness{Reopen: open, Changes: changesKept}
	for _, b := range []*driver.Backend{&h.Backend, &h.Peer} {
		var err error
		if *b, err = open(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := h.Peer.Close(); err != nil {
			t.Errorf("Close of the peer: %v", err)
		}
	})
	return h
}

func TestConformance(t *testing.T) { drivertest.Run(t, claim, inProcess) }

func TestConformanceOfTheProgram(t *testing.T) {
	plugintest.Run(t, "..", options, claim, plugintest.Durable(), plugintest.Shared(), plugintest.Changes(changesKept))
}

func FuzzConformance(f *testing.F) { drivertest.Fuzz(f, inProcess) }
