package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/drivertest"
)

var oneSuite = suite{store: "acme", how: inProcess, on: moto, test: "TestConformance"}

// stream is what `go test -json` prints of a suite whose first cases end so and
// whose others pass.
func stream(first ...string) *bytes.Buffer {
	var out bytes.Buffer
	event := func(action, test, output string) {
		fmt.Fprintf(&out, `{"Action":%q,"Package":"p","Test":%q,"Output":%q}`+"\n", action, test, output)
	}
	for i, c := range drivertest.Cases() {
		name := "TestConformance/" + c.Name
		switch {
		case i >= len(first):
			event("pass", name, "")
		case first[i] == "fail":
			event("output", name, "    writing.go:12: version 2, want 1\n")
			event("fail", name, "")
		case first[i] == "unseen":
		default:
			event("output", name, "    "+first[i]+"\n")
			event("skip", name, "")
		}
	}
	event("pass", "TestConformance", "")
	return &out
}

func TestCases(t *testing.T) {
	all := len(drivertest.Cases())
	for name, c := range map[string]struct {
		first []string
		row   string
		line  string
		wrong bool
	}{
		"all passed": {nil, fmt.Sprintf("%d 0 0 0", all), "", false},
		"left out": {
			[]string{"suite.go:146: not claimed: Caps.Watch", "suite.go:155: not offered: Harness.Peer", "suite.go:146: not claimed: Caps.Watch"},
			fmt.Sprintf("%d 3 0 0", all-3), "    2  not claimed: Caps.Watch\n", false,
		},
		"left out by the store's own test": {
			[]string{"conformance_test.go:37: not held: names are short"}, fmt.Sprintf("%d 1 0 0", all-1), "    1  not held: names are short\n", false,
		},
		"failed":  {[]string{"fail"}, fmt.Sprintf("%d 0 1 0", all-1), "", true},
		"not run": {[]string{"unseen"}, fmt.Sprintf("%d 0 0 1", all-1), "", true},
	} {
		t.Run(name, func(t *testing.T) {
			counted, err := read(oneSuite, stream(c.first...))
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err = write(&out, []count{counted})
			if (err != nil) != c.wrong {
				t.Errorf("error %v", err)
			}
			if got := strings.Join(strings.Fields(strings.Split(out.String(), "\n")[1]), " "); got != "acme in process moto "+c.row {
				t.Errorf("the row is %q, want the counts %q", got, c.row)
			}
			if !strings.Contains(out.String(), c.line) {
				t.Errorf("%q is not in\n%s", c.line, out.String())
			}
		})
	}
}

func TestFailureIsShown(t *testing.T) {
	counted, err := read(oneSuite, stream("fail"))
	if err != nil {
		t.Fatal(err)
	}
	if got := counted.failures[drivertest.Cases()[0].Name]; !strings.Contains(got, "version 2, want 1") {
		t.Errorf("of the failure is shown %q", got)
	}
}

func TestOutputThatIsNoneIsAnError(t *testing.T) {
	if _, err := read(oneSuite, strings.NewReader("go: no such tool")); err == nil {
		t.Error("it was counted")
	}
}

// Every suite of the repository is in the table.
func TestAllSuitesAreListed(t *testing.T) {
	root := filepath.Join("..", "..")
	declared := regexp.MustCompile(`(?m)^func (TestConformance\w*)\(`)
	found := 0
	for _, module := range []string{"core", "plugins", "examples"} {
		err := filepath.WalkDir(filepath.Join(root, module), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Base(path) != "conformance_test.go" {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
				found++
				if !slices.ContainsFunc(suites, func(s suite) bool {
					return s.test == m[1] && filepath.Join(root, s.module, s.pkg) == filepath.Dir(path)
				}) {
					t.Errorf("%s in %s is not among the suites", m[1], path)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 10 {
		t.Errorf("only %d suites were found", found)
	}
}
