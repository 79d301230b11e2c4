package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/manifest"
)

const readme = "../../README.md"

// The README's shell blocks work, pasted one after the other: `sh run` blocks
// are what starts the system, here with a folder of its own, and `sh` blocks
// are what a reader types beside it.
func TestReadmeShellBlocks(t *testing.T) {
	if got := blocks(t, "sh run"); len(got) != 1 || strings.TrimSpace(got[0]) != "make run" {
		t.Fatalf("the README starts the system with %q, want make run", got)
	}
	s := stack.Start(t) // what `make run` does: build, then tagctl dev
	typed := blocks(t, "sh")
	if len(typed) < 3 {
		t.Fatalf("the README has %d shell blocks, want at least 3", len(typed))
	}
	for _, block := range typed {
		out := shell(t, s, block)
		t.Logf("%s\n%s", strings.TrimSpace(block), out)
		if strings.Contains(block, "/v1/orders") && !strings.Contains(out, "PayPal") {
			t.Errorf("the README's order was not accepted: %s", out)
		}
	}
}

// The three commands that `make run` prints work, pasted as they are.
func TestPrintedCommandsWork(t *testing.T) {
	s := stack.Start(t)
	var commands []string
	waitFor(t, "three commands to be printed", func() bool {
		_, try, _ := strings.Cut(s.Printed(), "Three commands to try")
		commands = nil
		for line := range strings.Lines(try) {
			if command, ok := strings.CutPrefix(line, "  "); ok {
				commands = append(commands, strings.TrimSpace(command))
			}
		}
		return len(commands) == 3
	})
	for _, c := range commands {
		t.Logf("$ %s\n%s", c, shell(t, s, c))
	}
}

// The manifest in the README is one that loads.
func TestReadmeManifestLoads(t *testing.T) {
	found := blocks(t, "yaml manifest")
	if len(found) != 1 {
		t.Fatalf("the README has %d manifests, want 1", len(found))
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "plugins"), 0o700); err != nil {
		t.Fatal(err)
	}
	plugin, err := os.ReadFile(filepath.Join(stack.Build(t), "plugins", "tagstore-plugin-local"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plugins", "tagstore-plugin-local"), plugin, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tagstore.yaml")
	if err := os.WriteFile(path, []byte(found[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Load(path, manifest.Options{Dev: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Routes) != 2 || len(m.Backends) != 2 {
		t.Errorf("it has %d routes and %d backends, want 2 and 2", len(m.Routes), len(m.Backends))
	}
}

// blocks returns the README's code blocks with exactly this info string.
func blocks(t *testing.T, info string) []string {
	t.Helper()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	return blocksOf(string(text), info)
}

func blocksOf(markdown, info string) []string {
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$").FindAllStringSubmatch(markdown, -1) {
		if m[1] == info {
			found = append(found, m[2])
		}
	}
	return found
}

// shell runs a script as a reader would: in the repository's folder, against
// the system that runs.
func shell(t *testing.T, s *stack.Stack, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = filepath.Dir(readme)
	cmd.Env = append(os.Environ(), "TAGSTORE_DEV_DIR="+s.Dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return string(out)
}
