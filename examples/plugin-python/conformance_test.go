package pluginpython

import (
	"path/filepath"
	"testing"

	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/plugintest"
)

// changesKept is small enough for the suite to run past it.
const changesKept = 300

var claim = drivertest.Caps{Batch: true, History: true, Watch: true, Ping: true, Size: true, MaxValue: 1 << 20}

func suiteOptions(t testing.TB) any {
	return map[string]any{"path": filepath.Join(t.TempDir(), "store.db"), "change_limit": changesKept}
}

// A plugin that is not written in Go keeps the same contract (R33).
func TestR33ConformanceOfTheProgram(t *testing.T) {
	t.Parallel()
	plugintest.RunBinary(t, program(t), suiteOptions, claim,
		plugintest.Durable(), plugintest.Shared(), plugintest.Changes(changesKept))
}

// The same, run by somebody else.
func TestR34ConformanceOfTheSidecar(t *testing.T) {
	t.Parallel()
	plugintest.RunBinary(t, program(t), suiteOptions, claim, plugintest.Durable(), plugintest.Changes(changesKept), plugintest.Attached())
}
