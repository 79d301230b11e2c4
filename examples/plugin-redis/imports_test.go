package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Whoever writes a plugin elsewhere has these packages of tagstore, and needs no
// other.
func TestOnlyReleasedPathsAreImported(t *testing.T) {
	released := []string{"config", "driver", "drivertest", "options", "pluginmain", "plugintest"}
	const list = `{{range .Imports}}{{.}} {{end}}{{range .TestImports}}{{.}} {{end}}{{range .XTestImports}}{{.}} {{end}}`
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", list, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	for path := range strings.FieldsSeq(string(out)) {
		if name, ok := strings.CutPrefix(path, "github.com/tagstore/tagstore/"); ok {
			ours++
			if name, ok = strings.CutPrefix(name, "core/"); !ok || !slices.Contains(released, name) {
				t.Errorf("%s is imported", path)
			}
		}
	}
	if ours < 4 {
		t.Errorf("%d packages of tagstore are imported: the list is not what it was", ours)
	}
}
