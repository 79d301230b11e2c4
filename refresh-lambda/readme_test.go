package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/refresh-lambda/internal/app"
)

// The README's table of settings is the one that the program prints, and it
// names every event that there is a sample of.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "```text\n")
	block, _, _ = strings.Cut(block, "```\n")
	if block != app.Usage() {
		t.Errorf("the README has the settings\n%s\nthe program says\n%s", block, app.Usage())
	}
	samples, err := filepath.Glob("testdata/events/*.json")
	if err != nil || len(samples) == 0 {
		t.Fatal("no samples", err)
	}
	for _, name := range samples {
		sample := string(event(t, strings.TrimSuffix(filepath.Base(name), ".json")))
		if _, rest, ok := strings.Cut(sample, `"detail-type": "`); ok {
			if kind, _, _ := strings.Cut(rest, `"`); !strings.Contains(string(text), kind) {
				t.Errorf("the README does not name the event %q", kind)
			}
		}
	}
}
