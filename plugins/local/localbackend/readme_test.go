package localbackend

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestReadmeSections(t *testing.T) {
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(readme(t), -1) {
		got = append(got, m[1])
	}
	want := []string{"Name", "Description", "Options", "Consistency", "Limits", "Errors", "Examples"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sections (-want +got):\n%s", diff)
	}
}

// The options table names every option, and its default.
func TestReadmeOptions(t *testing.T) {
	s, err := Options{Path: "x"}.parse()
	if err != nil {
		t.Fatal(err)
	}
	defaults := map[string]string{
		"path":               "none, required",
		"history_limit":      fmt.Sprintf("`%d`", s.historyLimit),
		"change_limit":       fmt.Sprintf("`%d`", s.changeLimit),
		"max_value":          fmt.Sprintf("`%d`", s.maxValue),
		"idempotency_window": fmt.Sprintf("`%gh`", s.idempotencyWindow.Hours()),
		"lock_timeout":       fmt.Sprintf("`%gs`", s.lockTimeout.Seconds()),
	}
	want := map[string]string{}
	for f := range reflect.TypeFor[Options]().Fields() {
		name := f.Tag.Get("json")
		want[name] = defaults[name]
	}
	_, rest, _ := strings.Cut(readme(t), "## Options")
	section, _, _ := strings.Cut(rest, "\n## ")
	got := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(section, -1) {
		got[m[1]] = m[2]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options (-code +README):\n%s", diff)
	}
}

// The errors table names codes that exist.
func TestReadmeErrors(t *testing.T) {
	known := map[string]bool{}
	for _, c := range config.Codes() {
		known[c.String()] = true
	}
	_, rest, _ := strings.Cut(readme(t), "## Errors")
	rows := regexp.MustCompile("(?m)^\\| (`[a-z_`, ]+) \\|").FindAllStringSubmatch(rest, -1)
	if len(rows) < 10 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		for name := range strings.SplitSeq(row[1], ", ") {
			if !known[strings.Trim(name, "`")] {
				t.Errorf("%s is no code", name)
			}
		}
	}
}
