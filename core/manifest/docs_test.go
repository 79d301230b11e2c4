package manifest_test

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
)

// The reference has a manifest that is one, and a row for each field.
func TestReference(t *testing.T) {
	text, err := os.ReadFile("../../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(text)
	if example == nil {
		t.Fatal("there is no example")
	}
	if _, err := manifest.Parse(example[1], "docs/manifest.md"); err != nil {
		t.Error(err)
	}
	// The reader itself tells which fields there are.
	_, err = manifest.Parse([]byte("version: 1\nbackends: { a: { plugin: a, limits: { xyzzy: 1 }, xyzzy: 1 } }\n"+
		"routes: [{ prefix: a_, backend: a, cache: { mode: none, xyzzy: 1 }, xyzzy: 1 }]\n"), "m.yaml")
	var e *config.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	lists := regexp.MustCompile(`the fields here are ([^)]*)\)`).FindAllStringSubmatch(e.Message, -1)
	if len(lists) != 4 {
		t.Fatalf("%d lists of fields in\n%s", len(lists), e.Message)
	}
	for _, list := range lists {
		for _, field := range strings.Split(strings.ReplaceAll(list[1], " and ", ", "), ", ") {
			if !strings.Contains(string(text), "\n| `"+field+"` |") {
				t.Errorf("%s has no row", field)
			}
		}
	}
}
