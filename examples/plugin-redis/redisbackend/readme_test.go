package redisbackend

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
)

func section(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
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

// The table has every option, and the default that its tag says and parse takes.
func TestReadmeOptions(t *testing.T) {
	s, err := Options{Address: "unix:///x"}.parse()
	if err != nil {
		t.Fatal(err)
	}
	taken := map[string]string{
		"namespace": s.namespace, "history_limit": fmt.Sprint(s.historyLimit), "change_limit": fmt.Sprint(s.changeLimit),
		"max_value": fmt.Sprint(s.maxValue), "idempotency_window": strings.TrimSuffix(s.window.String(), "0m0s"),
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(section(t, "Options"), -1) {
		rows[m[1]] = m[2]
	}
	for f := range reflect.TypeFor[Options]().Fields() {
		name := f.Tag.Get("json")
		row, there := rows[name]
		delete(rows, name)
		if want := f.Tag.Get("default"); !there || want != taken[name] || want != "" && row != "`"+want+"`" {
			t.Errorf("option %s: README has %q, the tag %q, the code %q", name, row, want, taken[name])
		}
	}
	if len(rows) > 0 {
		t.Errorf("there are no options %v", rows)
	}
}

func TestReadmeErrors(t *testing.T) {
	known := map[string]bool{}
	for _, c := range config.Codes() {
		known[c.String()] = true
	}
	rows := regexp.MustCompile("(?m)^\\| (`[a-z_`, ]+) \\|").FindAllStringSubmatch(section(t, "Errors"), -1)
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
