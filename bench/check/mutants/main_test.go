package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every text of the table is where the table says it is.
func TestTheTableFitsTheCode(t *testing.T) {
	root, err := workspace(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range table {
		if _, err := (runner{root: root}).find(m); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
		if names[m.Name] {
			t.Errorf("two mutants are called %s", m.Name)
		}
		names[m.Name] = true
		if m.Old == m.New {
			t.Errorf("%s changes nothing", m.Name)
		}
	}
	if len(table) < 12 {
		t.Errorf("there are %d mutants, want 12 at least", len(table))
	}
}

// sample is a module with one function, a test that looks at it, one that does
// not, and one that fails anyway.
var sample = map[string]string{
	"go.mod": "module sample\n\ngo 1.26.0\n",
	"add.go": "package sample\n\n// Add adds.\nfunc Add(a, b int) int { return a + b }\n\nfunc twice() int { return 2 + 2 }\n",
	"add_test.go": `package sample

import "testing"

func TestAdd(t *testing.T) {
	if Add(1, 2) != 3 || twice() != 4 {
		t.Error("it does not add")
	}
}

func TestNothing(t *testing.T) { _ = Add(1, 2) }

func TestFails(t *testing.T) { t.Error("always") }
`,
}

func TestRunner(t *testing.T) {
	root := t.TempDir()
	for name, text := range sample {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GOWORK", "off")
	for _, tt := range []struct {
		name          string
		old, new      string
		test          string
		wrong, failed string // of the mutant, of the run
	}{
		{name: "caught", old: "a + b", new: "a - b", test: "TestAdd"},
		{name: "a panic is caught, too", old: "return a + b", new: "panic(a + b)", test: "TestAdd"},
		{name: "missed", old: "a + b", new: "a - b", test: "TestNothing", wrong: "TestNothing passes"},
		{name: "not Go", old: "a + b", new: "a +", test: "TestAdd", wrong: "it does not compile"},
		{name: "text that is not there", old: "a * b", new: "a", test: "TestAdd", failed: "occurs 0 times"},
		{name: "text that is there twice", old: "return", new: "", test: "TestAdd", failed: "occurs 2 times"},
		{name: "a test that is not there", old: "a + b", new: "a - b", test: "TestOther", failed: "has no test TestOther"},
		{name: "a test that fails anyway", old: "a + b", new: "a - b", test: "TestFails", failed: "fail as they are"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := Mutant{Name: tt.name, File: "add.go", Old: tt.old, New: tt.new, Package: ".", Test: tt.test}
			results, err := runner{root: root, dir: t.TempDir()}.all(t.Context(), []Mutant{m})
			if tt.failed != "" {
				if err == nil || !strings.Contains(err.Error(), tt.failed) {
					t.Errorf("the run ended with %v, want %q", err, tt.failed)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if results[0].wrong != tt.wrong {
				t.Errorf("the runner says %q, want %q\n%s", results[0].wrong, tt.wrong, results[0].output)
			}
			var out strings.Builder
			if err := report(&out, results); (err == nil) != (tt.wrong == "") || !strings.Contains(out.String(), tt.name) {
				t.Errorf("the report says %v\n%s", err, out.String())
			}
		})
	}
	if text, err := os.ReadFile(filepath.Join(root, "add.go")); err != nil || string(text) != sample["add.go"] {
		t.Errorf("the code was changed: %v", err)
	}
}
