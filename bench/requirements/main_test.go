package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// Every requirement has a test by name, and no test is for one that there is not.
func TestEveryRequirementHasATest(t *testing.T) {
	tests, err := find(os.DirFS(filepath.Join("..", "..")))
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range requirements {
		if !slices.ContainsFunc(tests, func(found test) bool { return found.number == i+1 }) {
			t.Errorf("R%d has no test: %s", i+1, text)
		}
	}
	for _, found := range tests {
		if found.number < 1 || found.number > len(requirements) {
			t.Errorf("%s in %s is for none of R1 to R%d", found.name, found.dir, len(requirements))
		}
	}
}

func TestFind(t *testing.T) {
	root := fstest.MapFS{}
	for path, text := range map[string]string{
		"core/a/a_test.go":              "package a\n\nfunc TestR11Second(t *testing.T) {}\nfunc TestR11First(t *testing.T) {}\n",
		"core/b/b_test.go":              "package b\n// func TestR12Comment(t *testing.T) {}\nfunc TestR1Short(t *testing.T) {}\nfunc TestRoles(t *testing.T) {}\nfunc TestR13lower(t *testing.T) {}\n",
		"core/b/b.go":                   "package b\nfunc TestR14NotATest() {}\n",
		"core/b/testdata/c/c_test.go":   "package c\nfunc TestR15Data(t *testing.T) {}\n",
		".tools/d_test.go":              "package d\nfunc TestR16Tool(t *testing.T) {}\n",
		"web/node_modules/e/e_test.go":  "package e\nfunc TestR17Vendored(t *testing.T) {}\n",
		"examples/plugin-f/f/f_test.go": "package f\nfunc TestR33Python(t *testing.T) {}\n",
	} {
		root[path] = &fstest.MapFile{Data: []byte(text)}
	}
	got, err := find(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []test{{11, "core/a", "TestR11First"}, {11, "core/a", "TestR11Second"}, {33, "examples/plugin-f/f", "TestR33Python"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Whole runs of a small repository: two modules, one of them on its own.
func TestRun(t *testing.T) {
	root := t.TempDir()
	for path, text := range map[string]string{
		"go.work":           "go 1.26.0\n\nuse ./one\n",
		"one/go.mod":        "module example.com/one\n\ngo 1.26.0\n",
		"one/r_test.go":     "package one\n\nimport \"testing\"\n\nfunc TestR01Holds(t *testing.T) {}\n\nfunc TestR02Breaks(t *testing.T) {\n\tt.Run(\"sub\", func(t *testing.T) { t.Error(\"broken here\") })\n}\n\nfunc TestR03Elsewhere(t *testing.T) { t.Skip(\"needs another machine\") }\n\nfunc TestR04Holds(t *testing.T) {}\n\nfunc TestR04Elsewhere(t *testing.T) { t.Skip(\"needs root\") }\n",
		"two/go.mod":        "module example.com/two\n\ngo 1.26.0\n",
		"two/r_test.go":     "package two\n\nimport \"testing\"\n\nfunc TestR05OnItsOwn(t *testing.T) {}\n",
		"one/bad/r_test.go": "package bad\n\nimport \"testing\"\n\nfunc TestR06DoesNotBuild(t *testing.T) { undefined() }\n",
		"one/end/r_test.go": "package end\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestMain(m *testing.M) {\n\tm.Run()\n\tos.Exit(1)\n}\n\nfunc TestR07LeavesSomething(t *testing.T) {}\n",
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GOFLAGS", "")
	t.Setenv("GOWORK", "") // the one of the folder, whatever this run was told
	var out, progress bytes.Buffer
	err := run(t.Context(), []string{"R1", "r02", "3", "R4", "R5", "R6", "R7", "R8"}, root, &out, &progress)
	if err == nil || err.Error() != "not shown: R2, R3, R6, R7, R8" {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(progress.String(), "broken here") || !strings.Contains(progress.String(), "undefined") {
		t.Errorf("what failed is not shown:\n%s", progress.String())
	}
	var rows [][]string
	for line := range strings.Lines(out.String()) {
		rows = append(rows, strings.Fields(line))
	}
	for _, want := range []string{
		"one TestR01Holds pass", "one TestR02Breaks FAIL", "one TestR03Elsewhere left out: needs another machine",
		"one TestR04Holds pass", "one TestR04Elsewhere left out: needs root", "two TestR05OnItsOwn pass",
		"one/bad TestR06DoesNotBuild FAIL", "one/end TestR07LeavesSomething FAIL", "- NO TEST", "3 of 8 requirements are shown.",
	} {
		if !slices.ContainsFunc(rows, func(row []string) bool { return strings.HasSuffix(strings.Join(row, " "), want) }) {
			t.Errorf("no row ends with %q in\n%s", want, out.String())
		}
	}
	if err := run(t.Context(), []string{"R1", "R4", "R5"}, root, &out, &progress); err != nil {
		t.Errorf("where all are shown: %v", err)
	}
	for _, arg := range []string{"R0", fmt.Sprintf("R%d", len(requirements)+1), "x", ""} {
		if err := run(t.Context(), []string{arg}, root, &out, &progress); err == nil {
			t.Errorf("%q was taken for a requirement", arg)
		}
	}
}
