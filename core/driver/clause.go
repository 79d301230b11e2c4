package driver

import (
	_ "embed" // the clauses are read from the documentation that states them
	"regexp"
	"slices"
	"strings"
)

//go:embed doc.go
var doc string

var clauseStart = regexp.MustCompile(`^// (C[0-9]+): `)

// Clauses returns the names of the numbered clauses, in their order.
func Clauses() []string {
	var names []string
	for line := range strings.Lines(doc) {
		if m := clauseStart.FindStringSubmatch(line); m != nil {
			names = append(names, m[1])
		}
	}
	return names
}

// Clause returns the text of a clause as it stands in the package
// documentation, its name first, on one line; "" where there is none.
func Clause(name string) string {
	if !slices.Contains(Clauses(), name) {
		return ""
	}
	_, text, _ := strings.Cut(doc, "\n// "+name+": ")
	text, _, _ = strings.Cut(text, "\n//\n")
	text, _, _ = strings.Cut(text, "\npackage ")
	return name + ": " + strings.ReplaceAll(text, "\n// ", " ")
}
