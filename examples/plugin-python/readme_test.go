package pluginpython

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
)

func section(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n## "+name+"\n")
	if !found {
		t.Fatalf("README.md has no section %s", name)
	}
	part, _, _ := strings.Cut(rest, "\n## ")
	return part
}

func TestReadmeSections(t *testing.T) {
	for _, name := range []string{"Name", "Description", "Options", "Consistency", "Limits", "Errors", "Examples"} {
		section(t, name)
	}
}

// The table of options is that of the plugin.
func TestReadmeOptions(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), ".venv/bin/python", "-c", "import json; from plugin import options; print(json.dumps(options.SCHEMA))")
	cmd.Env = []string{"PYTHONPATH=" + program(t)}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Required   []string
		Properties map[string]struct{ Default *int }
	}
	if err := json.Unmarshal(out, &schema); err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(section(t, "Options"), -1)
	if len(rows) != len(schema.Properties) {
		t.Errorf("%d rows for %d options", len(rows), len(schema.Properties))
	}
	for _, row := range rows {
		option, there := schema.Properties[row[1]]
		want := "none, required"
		if option.Default != nil {
			want = fmt.Sprintf("`%d`", *option.Default)
		}
		if !there || row[2] != want {
			t.Errorf("option %q: the default is %s, want %s", row[1], row[2], want)
		}
	}
}

func TestReadmeErrors(t *testing.T) {
	known := map[string]bool{}
	for _, c := range config.Codes() {
		known[c.String()] = true
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(section(t, "Errors"), -1)
	if len(rows) < 10 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		if !known[row[1]] {
			t.Errorf("%s is no code", row[1])
		}
	}
}

func TestReadmeManifest(t *testing.T) {
	_, rest, _ := strings.Cut(section(t, "Examples"), "```yaml\n")
	text, _, _ := strings.Cut(rest, "```")
	if _, err := manifest.Parse([]byte(text), "tagstore.yaml"); err != nil {
		t.Error(err)
	}
}
