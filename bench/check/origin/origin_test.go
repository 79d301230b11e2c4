package origin_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tagstore/tagstore/bench/check/fault"
	"github.com/tagstore/tagstore/bench/check/origin"
	"github.com/tagstore/tagstore/core/drivertest"
)

// A store behind the socket is the same store.
func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Caps{Batch: true, History: true, Ping: true, MaxValue: 1 << 20}, func(tb testing.TB) *drivertest.Harness {
		dir, err := os.MkdirTemp("", "or") // short: it holds a socket
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = os.RemoveAll(dir) })
		socket := filepath.Join(dir, "s")
		server, err := origin.Serve(tb.Context(), socket, fault.New(1, 0))
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = server.Close() })
		b, err := origin.Open(tb.Context(), origin.Options{Socket: socket})
		if err != nil {
			tb.Fatal(err)
		}
		return &drivertest.Harness{Backend: b}
	})
}
