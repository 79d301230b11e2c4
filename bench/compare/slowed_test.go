package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hitPath is the code that answers from memory, and where in it a sleep goes.
const (
	hitPath = "core/store/read.go"
	answers = "if s.held(ctx, &sc, &at) {"
)

// A build whose hits take 50 µs longer is caught.
func TestASlowedBuildIsCaught(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), []string{"-base", "HEAD", "-suites", "hit", "-benchtime", "2000x", "-overlay", slowed(t)}, &out)
	if err == nil || !strings.Contains(err.Error(), "got worse by more than their margin") {
		t.Errorf("a sleep of 50 µs on the path of a hit was not caught: %v\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "REGRESSION") {
		t.Errorf("the table does not name it:\n%s", &out)
	}
}

// A build beside itself is not. The margin is that of `make test`, wide enough
// for a machine that does much else.
func TestABuildIsNoWorseThanItself(t *testing.T) {
	root, err := workspace(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	held, err := guarded(filepath.Join(root, "bench", "targets.yaml"), []string{"hit"}, 4)
	if err != nil {
		t.Fatal(err)
	}
	one := &side{name: "one", tree: root, binary: filepath.Join(t.TempDir(), "latency.test")}
	if err := one.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := &side{name: "other", tree: root, binary: one.binary}
	if err := takeTurns(t.Context(), one, other, pattern(held), "2000x", leastRounds); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	verdicts := judge(held, one.rounds, other.rounds)
	if err := report(&out, verdicts); err != nil || verdicts[0].outcome != kept {
		t.Errorf("a build is slower than itself: %v\n%s", err, &out)
	}
}

// slowed writes an overlay that puts the sleep in place.
func slowed(t *testing.T) string {
	t.Helper()
	root, err := workspace(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, filepath.FromSlash(hitPath))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), answers); n != 1 {
		t.Fatalf("%q is %d times in %s, want once: the code has changed, bring this test up to date", answers, n, hitPath)
	}
	changed := filepath.Join(t.TempDir(), "read.go")
	slow := strings.Replace(string(text), answers, "time.Sleep(50 * time.Microsecond)\n\t\t"+answers, 1)
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(t.TempDir(), "overlay.json")
	for file, text := range map[string][]byte{changed: []byte(slow), overlay: replace} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return overlay
}
