// Command requirements runs the tests of what a plugin host has to do, and
// prints which test shows which requirement, and whether it does. A test shows
// requirement 11 if it is called TestR11 and something more. It fails where a
// requirement has no test, or none that passes, or one that fails.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
)

// requirements says what each is about, from R1 on.
var requirements = []string{
	"restarts back off with jitter, 50 ms to 30 s, and never spin",
	"what fails five times in ten minutes is given up until the manifest changes",
	"every launch begins anew: client, command, hash, socket folder",
	"reads survive a crash; a write is never sent twice",
	"a plugin that is stopped or stuck is replaced in under 5 s",
	"ending a plugin takes under 3 s, whatever it does",
	"a grandchild that holds the log hides no crash and does not stay",
	"a reload fails no request, and a bad one changes nothing",
	"what did not change keeps its process; a slow start delays nobody else",
	"a watch goes on over a reload, without a gap or a repeat",
	"unsigned, unpinned, or another by one bit: refused",
	"the bytes that were verified are those that run",
	"a plugin sees its own variables and nothing else of the host",
	"AWS credentials go to those that may have them",
	"sockets are private, short and swept, and the peer is checked",
	"mTLS where it is asked for; that it is missing shows at the launch",
	"no new privileges, a group of its own, limits",
	"no plugin outlives its host, nor ends with one of its threads",
	"this version of the protocol and the one before, both ways",
	"messages above the limit are refused, and harm nothing else",
	"every call has a deadline, and a cancel arrives",
	"trace and tenant cross together",
	"an error is the same one on the other side",
	"one process for all prefixes; configured again before its first call",
	"a socket file that goes away ends in a relaunch, not in an outage",
	"a slow plugin, or one tenant, takes nothing from the others",
	"a circuit opens on failures, and closes soon after they end",
	"SIGTERM under load: nothing that was accepted fails",
	"logs never block; what is lost is counted; a panic is an error",
	"long lines on the real standard output never block",
	"metrics and health of each plugin",
	"a panic ends one call and no other",
	"a plugin in Python keeps the same contract",
	"a plugin that somebody else runs, and restarts, under readers",
}

// test is one that shows a requirement.
type test struct {
	number int    // of the requirement
	dir    string // of the package, from the root
	name   string
}

var declared = regexp.MustCompile(`(?m)^func (TestR([0-9]{2})[A-Z][0-9A-Za-z_]*)\(`)

// find returns the tests in the packages under root, by folder and name.
func find(root fs.FS) ([]test, error) {
	var tests []test
	err := fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != "." && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "node_modules") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		for _, m := range declared.FindAllSubmatch(text, -1) {
			number, err := strconv.Atoi(string(m[2]))
			if err != nil {
				return err
			}
			tests = append(tests, test{number, filepath.ToSlash(filepath.Dir(path)), string(m[1])})
		}
		return nil
	})
	slices.SortFunc(tests, func(a, b test) int {
		return strings.Compare(a.dir+"\x00"+a.name, b.dir+"\x00"+b.name)
	})
	return tests, err
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], "..", os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "requirements:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// run runs the tests of the requirements that args name, of all if none is, in
// the repository at root.
func run(ctx context.Context, args []string, root string, out, progress io.Writer) error {
	wanted, err := numbers(args)
	if err != nil {
		return err
	}
	tests, err := find(os.DirFS(root))
	if err != nil {
		return err
	}
	tests = slices.DeleteFunc(tests, func(t test) bool { return !slices.Contains(wanted, t.number) })
	outcomes := map[test]outcome{}
	for len(tests) > 0 {
		dir := tests[0].dir
		n := slices.IndexFunc(tests, func(t test) bool { return t.dir != dir })
		if n < 0 {
			n = len(tests)
		}
		fmt.Fprintf(progress, "-- %s: %d tests\n", dir, n)
		if err := runPackage(ctx, root, dir, tests[:n], outcomes); err != nil {
			return err
		}
		for _, t := range tests[:n] {
			if o := outcomes[t]; o.action == failed {
				fmt.Fprintf(progress, "FAILED: %s\n%s\n", t.name, o.output)
			}
		}
		tests = tests[n:]
	}
	return write(out, wanted, outcomes)
}

// numbers reads R1, R01 and 1, and returns all where nothing is asked for.
func numbers(args []string) ([]int, error) {
	var all []int
	for _, arg := range args {
		n, err := strconv.Atoi(strings.TrimPrefix(strings.ToUpper(arg), "R"))
		if err != nil || n < 1 || n > len(requirements) {
			return nil, fmt.Errorf("%q is not one of R1 to R%d", arg, len(requirements))
		}
		all = append(all, n)
	}
	if len(all) == 0 {
		for n := range requirements {
			all = append(all, n+1)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// The ends of a test, as `go test -json` calls them; unseen is none.
const (
	passed  = "pass"
	skipped = "skip"
	failed  = "fail"
	unseen  = ""
)

type outcome struct {
	action, output string
}

func runPackage(ctx context.Context, root, dir string, tests []test, outcomes map[test]outcome) error {
	names := make([]string, len(tests))
	for i, t := range tests {
		names[i] = t.name
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-count=1", "-timeout=30m", "-run=^("+strings.Join(names, "|")+")$", ".")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Dir = filepath.Join(root, filepath.FromSlash(dir))
	outside, err := outsideWorkspace(ctx, cmd.Dir)
	if err != nil {
		return err
	}
	if outside {
		cmd.Env = append(os.Environ(), "GOWORK=off")
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	broken := cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	rest, err := read(&stdout, tests, outcomes)
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", dir, err, stderr.String())
	}
	if broken == nil || slices.ContainsFunc(tests, func(t test) bool { return outcomes[t].action == failed }) {
		return nil
	}
	// Outside of the tests: their build, or what is looked for when all have
	// ended. None of them shows anything then.
	for _, t := range tests {
		outcomes[t] = outcome{failed, rest + stderr.String()}
	}
	return nil
}

// outsideWorkspace reports whether the module of a folder is one for itself, which
// an example of a third party's is.
func outsideWorkspace(ctx context.Context, dir string) (bool, error) {
	ask := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = dir
		text, err := cmd.Output()
		return strings.TrimSpace(string(text)), err
	}
	work, err := ask("env", "GOWORK")
	if err != nil || work == "" || work == "off" {
		return false, err
	}
	module, err := ask("env", "GOMOD")
	if err != nil {
		return false, err
	}
	text, err := ask("work", "edit", "-json")
	if err != nil {
		return false, err
	}
	var file struct {
		Use []struct{ DiskPath string }
	}
	if err := json.Unmarshal([]byte(text), &file); err != nil {
		return false, err
	}
	for _, use := range file.Use {
		if filepath.Join(filepath.Dir(work), use.DiskPath) == filepath.Dir(module) {
			return false, nil
		}
	}
	return true, nil
}

// read takes the ends of the tests from what `go test -json` prints, and returns
// the output of none of them.
func read(from io.Reader, tests []test, outcomes map[test]outcome) (rest string, err error) {
	for decoder := json.NewDecoder(from); ; {
		var event struct{ Action, Test, Output string }
		if err := decoder.Decode(&event); errors.Is(err, io.EOF) {
			return rest, nil
		} else if err != nil {
			return rest, fmt.Errorf("the output of go test can not be read: %w", err)
		}
		top, sub, _ := strings.Cut(event.Test, "/")
		at := slices.IndexFunc(tests, func(t test) bool { return t.name == top })
		if at < 0 {
			rest += event.Output
			continue
		}
		o := outcomes[tests[at]]
		o.output += event.Output
		switch event.Action {
		case passed, skipped, failed:
			if sub == "" {
				o.action = event.Action
			}
		}
		outcomes[tests[at]] = o
	}
}

// reason returns why a test was left out, as t.Skip said it.
func reason(output string) string {
	for line := range strings.Lines(output) {
		if _, text, ok := strings.Cut(line, "_test.go:"); ok {
			if _, text, ok = strings.Cut(text, ": "); ok {
				return strings.TrimSpace(text)
			}
		}
	}
	return "it does not say why"
}

// write prints the table and returns an error where a requirement is not shown.
func write(out io.Writer, wanted []int, outcomes map[test]outcome) error {
	var wrong []string
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "R\trequirement\ttest\tresult")
	for _, number := range wanted {
		tests := []test{}
		for t := range outcomes {
			if t.number == number {
				tests = append(tests, t)
			}
		}
		slices.SortFunc(tests, func(a, b test) int { return strings.Compare(a.dir+"\x00"+a.name, b.dir+"\x00"+b.name) })
		shown, bad := false, false
		label, text := "R"+strconv.Itoa(number), requirements[number-1]
		for _, t := range tests {
			result := "pass"
			switch o := outcomes[t]; o.action {
			case passed:
				shown = true
			case skipped:
				result = "left out: " + reason(o.output)
			case failed:
				result, bad = "FAIL", true
			case unseen:
				result, bad = "NOT RUN", true
			}
			fmt.Fprintf(table, "%s\t%s\t%s %s\t%s\n", label, text, t.dir, t.name, result)
			label, text = "", ""
		}
		if len(tests) == 0 {
			fmt.Fprintf(table, "%s\t%s\t-\tNO TEST\n", label, text)
		}
		if !shown || bad {
			wrong = append(wrong, "R"+strconv.Itoa(number))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d of %d requirements are shown.\n", len(wanted)-len(wrong), len(wanted))
	if len(wrong) > 0 {
		return fmt.Errorf("not shown: %s", strings.Join(wrong, ", "))
	}
	return nil
}
