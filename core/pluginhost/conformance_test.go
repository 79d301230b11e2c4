package pluginhost_test

import (
	"testing"

	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/plugintest"
)

var claim = drivertest.Caps{
	Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true, MaxValue: 1 << 20,
}

// The reference store keeps every clause through a real process too.
func TestConformance(t *testing.T) {
	t.Parallel()
	plugintest.Run(t, testPlugin, func(testing.TB) any { return struct{}{} }, claim)
}

// And so it does where the two do not exchange.
func TestConformanceUnary(t *testing.T) {
	t.Parallel()
	plugintest.Run(t, testPlugin, func(testing.TB) any { return struct{}{} }, claim, plugintest.Unary())
}
