package nearest_test

import (
	"testing"

	"github.com/tagstore/tagstore/core/internal/nearest"
)

func TestOf(t *testing.T) {
	names := []string{"backend", "prefix", "layers", "LISTEN", "x"}
	for _, c := range []struct{ given, want string }{
		{"backend", "backend"},
		{"backends", "backend"},
		{"bakend", "backend"},
		{"bakkend", "backend"},
		{"perfix", "prefix"}, // two replacements
		{"LISTN", "LISTEN"},
		{"schema", ""},
		{"", ""},
		{"yz", ""}, // as long as the candidate is far
		{"listen", ""},
	} {
		if got := nearest.Of(c.given, names); got != c.want {
			t.Errorf("Of(%q) = %q, want %q", c.given, got, c.want)
		}
	}
}
