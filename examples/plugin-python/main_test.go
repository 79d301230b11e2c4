package pluginpython

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var install = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("./install").CombinedOutput()
	return string(out), err
})

// program returns the plugin's program, installed as the README says.
func program(t testing.TB) string {
	t.Helper()
	if out, err := install(); err != nil {
		t.Fatalf("./install: %v\n%s", err, out)
	}
	path, err := filepath.Abs(filepath.Join("bin", "tagstore-plugin-sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}
