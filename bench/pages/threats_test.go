package pages

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../../"

var (
	attack = regexp.MustCompile(`^\| (\d+) \|`)
	named  = regexp.MustCompile("`([a-z0-9/-]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")
)

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var declared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)

// tests returns the names of the tests in a folder.
func tests(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			found = append(found, m[1])
		}
	}
	return found
}

// missing returns the tests that a text names and that are not there.
func missing(t *testing.T, text string) (wrong []string) {
	t.Helper()
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(tests(t, m[1]), m[2]) {
			wrong = append(wrong, "there is no test "+m[1]+"."+m[2])
		}
	}
	return wrong
}

// The faults of the page about what is seen name tests that exist.
func TestFaultsAreShown(t *testing.T) {
	text := page(t, "observability.md")
	for _, w := range missing(t, text) {
		t.Error(w)
	}
	if n := len(named.FindAllString(text, -1)); n < 20 {
		t.Errorf("%d tests are named", n)
	}
}

// unshown returns what is wrong with the page of threats.
func unshown(t *testing.T, text string, attacks int) (wrong []string) {
	t.Helper()
	seen := make([]int, attacks+1)
	for line := range strings.Lines(text) {
		wrong = append(wrong, missing(t, line)...)
		m := attack.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		n, err := strconv.Atoi(m[1])
		if err != nil || n < 1 || n > attacks {
			wrong = append(wrong, "there is no attack "+m[1])
			continue
		}
		seen[n]++
		if !named.MatchString(line) && !strings.Contains(strings.ToLower(line), "**open**") {
			wrong = append(wrong, "attack "+m[1]+" has no test and is not said to be open")
		}
	}
	for n := 1; n <= attacks; n++ {
		if seen[n] != 1 {
			wrong = append(wrong, "attack "+strconv.Itoa(n)+" stands there "+strconv.Itoa(seen[n])+" times")
		}
	}
	return wrong
}

// Every attack of the list is on the page, with tests that exist, or open.
func TestThreatsAreShown(t *testing.T) {
	text := page(t, "threat-model.md")
	for _, w := range unshown(t, text, 62) {
		t.Error(w)
	}
	if n := len(named.FindAllString(text, -1)); n < 90 {
		t.Errorf("%d tests are named", n)
	}
}

// A page that names what is not there is seen.
func TestThreatsThatAreNotShown(t *testing.T) {
	got := unshown(t, "| 1 | x | y | `bench/pages.TestThreatsAreShown` |\n| 2 | x | **open** | |\n| 3 | x | y | |\n| 3 | x | y | `core/auth.TestNothing` |\n| 9 | x | y | **open** |\n", 4)
	want := []string{
		"attack 3 has no test and is not said to be open", "there is no test core/auth.TestNothing", "there is no attack 9",
		"attack 3 stands there 2 times", "attack 4 stands there 0 times",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
