package main_test

import (
	"flag"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the scripts print into docs/deploy.md")

const page = "../docs/deploy.md"

// What the documentation shows is what the scripts print.
func TestPrintedInDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	for _, name := range []string{"deploy", "cleanup"} {
		r := script(t, noAccount(), "", name, "--dry-run")
		has(t, r, 0, "Dry run: nothing was changed.")
		start, end := "<!-- printed: "+name+".sh --dry-run -->\n```\n", "```\n"
		before, rest, found := strings.Cut(got, start)
		old, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Fatalf("%s has no place for what %s prints", page, name)
		}
		if old != r.out && !*update {
			t.Errorf("%s shows\n%s\nand %s.sh prints\n%s\nrun `go test -run TestPrintedInDocs -args -update` in deploy/", page, old, name, r.out)
		}
		got = before + start + r.out + end + after
	}
	if *update {
		if err := os.WriteFile(page, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var amount = regexp.MustCompile(`^\**(\d+)\**$`)

// The costs add up.
func TestCostsAddUp(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rows, found := strings.Cut(string(text), "| item | dev, idle |")
	if !found {
		t.Fatal("there is no table of costs")
	}
	rows, _, _ = strings.Cut(rows, "\n\n")
	sums, lines := make([]int, 4), 0
	for row := range strings.Lines(rows) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
		if len(cells) != 5 || !amount.MatchString(strings.TrimSpace(cells[1])) {
			continue
		}
		for i, cell := range cells[1:] {
			n, err := strconv.Atoi(amount.FindStringSubmatch(strings.TrimSpace(cell))[1])
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(cells[0], "sum") {
				if n != sums[i] {
					t.Errorf("column %d adds up to %d, and says %d", i+1, sums[i], n)
				}
				continue
			}
			sums[i] += n
		}
		lines++
	}
	if lines < 10 {
		t.Errorf("the table has %d lines", lines)
	}
}
