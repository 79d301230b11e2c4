package localbackend

import (
	"path/filepath"
	"testing"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/plugintest"
)

// changesKept is small enough for the suite to run past it.
const changesKept = 300

var claim = drivertest.Caps{
	Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true, MaxValue: defaults.MaxValue,
}

func suiteOptions(t testing.TB) Options {
	return Options{Path: filepath.Join(t.TempDir(), "store.db"), ChangeLimit: changesKept}
}

func inProcess(t testing.TB) *drivertest.Harness {
	t.Helper()
	o := suiteOptions(t)
	reopen := func() (driver.Backend, error) { return Open(t.Context(), o) }
	b, err := reopen()
	if err != nil {
		t.Fatal(err)
	}
	return &drivertest.Harness{Backend: b, Reopen: reopen, Changes: changesKept}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, claim, inProcess)
}

func TestConformanceOfTheProgram(t *testing.T) {
	t.Parallel()
	plugintest.Run(t, "..", func(t testing.TB) any { return suiteOptions(t) }, claim,
		plugintest.Durable(), plugintest.Changes(changesKept))
}

// The same program in a container of its own, as it were.
func TestR34ConformanceOfTheSidecar(t *testing.T) {
	t.Parallel()
	plugintest.Run(t, "..", func(t testing.TB) any { return suiteOptions(t) }, claim,
		plugintest.Durable(), plugintest.Changes(changesKept), plugintest.Attached())
}

func FuzzConformance(f *testing.F) { drivertest.Fuzz(f, inProcess) }
