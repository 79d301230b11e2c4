// Package plugintest holds a plugin's real program against the conformance
// suite, through a real process, as the configuration service would run it.
package plugintest

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

var (
	buildsMu sync.Mutex
	builds   = map[string]*build{}
)

type build struct {
	once   sync.Once
	binary string
	output string // of a build that failed
	err    error
}

// Build returns the path of a freshly built program. mainPkg is what `go build`
// takes: an import path, or a path relative to the test's folder; flags are for
// that command. Each is built
// once per test binary; the file is kept among the user's caches, so that a
// later run links it again only after a change.
func Build(t testing.TB, mainPkg string, flags ...string) string {
	t.Helper()
	buildsMu.Lock()
	name := strings.Join(append([]string{mainPkg}, flags...), " ")
	b := builds[name]
	if b == nil {
		b = &build{}
		builds[name] = b
	}
	buildsMu.Unlock()
	b.once.Do(func() { b.run(t, mainPkg, flags) })
	if b.err != nil {
		t.Fatalf("go build %s: %v\n%s", mainPkg, b.err, b.output)
	}
	return b.binary
}

func (b *build) run(t testing.TB, mainPkg string, flags []string) {
	var dir string
	if dir, b.err = cacheDir(mainPkg, flags); b.err != nil {
		return
	}
	// Another test binary may be building the same program.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		b.err = err
		return
	}
	defer lock.Close()
	if b.err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); b.err != nil {
		return
	}
	b.binary = filepath.Join(dir, "plugin")
	args := append([]string{"build", "-o", b.binary}, flags...)
	out, err := exec.CommandContext(t.Context(), "go", append(args, mainPkg)...).CombinedOutput()
	b.output, b.err = string(out), err
}

func cacheDir(mainPkg string, flags []string) (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		return os.MkdirTemp("", "tagstore-plugintest-")
	}
	name := sha256.Sum256([]byte(strings.Join(append([]string{here, mainPkg}, flags...), "\x00")))
	dir := filepath.Join(caches, "tagstore", "plugintest", hex.EncodeToString(name[:8]))
	return dir, os.MkdirAll(dir, 0o700)
}
