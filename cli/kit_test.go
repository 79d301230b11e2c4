package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// From an empty folder to a green conformance run, with nothing written by hand.
// It prints how long that took, and how many lines the author has to make his own.
func TestFromAnEmptyFolder(t *testing.T) {
	dir := t.TempDir()
	began := time.Now()
	run := func(in, command string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Dir = in
		cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return string(out)
	}
	// Above it is a workspace that does not know it, as in a checkout of this project.
	if err := os.WriteFile(filepath.Join(dir, "go.work"), []byte("go 1.26.0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(dir, "tagctl plugin init hello")
	took := time.Since(began)
	tested := run(dir, "cd hello && make test")
	if !strings.Contains(tested, "ok  \ttagstore-plugin-hello") {
		t.Errorf("make test said\n%s", tested)
	}
	total := time.Since(began)
	// The whole suite ran, in process and as a program: the test says so.
	verbose := run(filepath.Join(dir, "hello"), "GOWORK=off go test -v ./...")
	for _, want := range []string{"--- PASS: TestConformance/write/race-count", "--- PASS: TestConformanceOfTheProgram/history/order"} {
		if !strings.Contains(verbose, want) {
			t.Errorf("it did not run %q", want)
		}
	}
	store, err := os.ReadFile(filepath.Join(dir, "hello", "store.go"))
	if err != nil {
		t.Fatal(err)
	}
	lines := code(string(store))
	t.Logf("init took %v, init and make test %v; lines written by hand: 0; lines of code in store.go: %d", took.Round(time.Millisecond), total.Round(10*time.Millisecond), lines)
	if lines > 45 {
		t.Errorf("store.go has %d lines of code: it is to be about forty", lines)
	}
}

// code counts the lines that are neither empty nor a comment.
func code(text string) int {
	n := 0
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			n++
		}
	}
	return n
}
