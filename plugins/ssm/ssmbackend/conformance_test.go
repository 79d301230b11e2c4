package ssmbackend

import (
	"testing"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/plugintest"
)

var claim = drivertest.Caps{
	Batch: true, History: true, Ping: true, MaxValue: MaxStandard, Caveats: (*Store)(nil).Caveats(),
}

// suiteOptions give every ID of the suite a path: without no_service those that
// have no service and several segments have none.
func suiteOptions(t testing.TB) Options {
	moto(t)
	return Options{Path: at(folder(t)).Path, Options: patient, NoService: "_"}
}

func inProcess(t testing.TB) *drivertest.Harness {
	t.Helper()
	o := suiteOptions(t)
	reopen := func() (driver.Backend, error) { return Open(t.Context(), o) }
	b, err := reopen()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := reopen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, peer) })
	return &drivertest.Harness{Backend: b, Peer: peer, Reopen: reopen}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, claim, inProcess)
}

func TestConformanceOfTheProgram(t *testing.T) {
	t.Parallel()
	plugintest.Run(t, "..", func(t testing.TB) any { return suiteOptions(t) }, claim,
		plugintest.Durable(), plugintest.Shared(), plugintest.AWS())
}
