// Mutants breaks the code on purpose, one line at a time, and fails unless a
// test that the table names notices each time. What is changed stays outside
// the tree: the go command lays it over.
//
//	mutants [-v] [name ...]
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

// Mutant is one change that breaks a promise.
type Mutant struct {
	Name string // what is wrong with it
	File string // below the root, with slashes
	Old  string // occurs exactly once in File
	New  string // comes in its place
	// Package is the folder of the test that notices, Test its name.
	Package, Test string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1) //nolint:gocritic // the signal handler ends with the process
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	verbose := flags.Bool("v", false, "show what the tests print")
	if err := flags.Parse(args); err != nil {
		return err
	}
	root, err := workspace(ctx)
	if err != nil {
		return err
	}
	chosen := table
	if flags.NArg() > 0 {
		chosen = slices.DeleteFunc(slices.Clone(table), func(m Mutant) bool { return !slices.Contains(flags.Args(), m.Name) })
		if len(chosen) != flags.NArg() {
			return errors.New("there is no mutant of that name; without a name all of them run")
		}
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	results, err := runner{root: root, dir: dir}.all(ctx, chosen)
	if err != nil {
		return err
	}
	if *verbose {
		for _, r := range results {
			fmt.Fprintf(out, "== %s\n%s\n", r.Name, r.output)
		}
	}
	return report(out, results)
}

// workspace is the folder of go.work.
func workspace(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOWORK").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if !filepath.IsAbs(file) {
		return "", errors.New("there is no workspace here, run it below the folder of go.work and without GOWORK=off")
	}
	return filepath.Dir(file), nil
}

// result is what came of one mutant.
type result struct {
	Mutant
	line   int
	took   time.Duration
	wrong  string // "" if it was caught
	output string
}

func report(out io.Writer, results []result) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "seeded bug\tin\tcaught by\tin\tseconds\t")
	missed := 0
	for _, r := range results {
		by := r.Test
		if r.wrong != "" {
			missed++
			by = "NOT CAUGHT: " + r.wrong
		}
		fmt.Fprintf(t, "%s\t%s:%d\t%s\t%s\t%.1f\t\n", r.Name, r.File, r.line, by, r.Package, r.took.Seconds())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d of %d seeded bugs were caught\n", len(results)-missed, len(results))
	if missed > 0 {
		return fmt.Errorf("%d of %d seeded bugs were not caught", missed, len(results))
	}
	return nil
}

// atOnce is how many go commands run at a time, each with a part of the
// processors to itself.
const atOnce = 2

// testTimeout ends a test that hangs, which is a way of noticing, too.
const testTimeout = "30s"

type runner struct{ root, dir string }

// all first has every test that the table names pass on the code as it is: a
// test that fails anyway notices nothing.
func (r runner) all(ctx context.Context, mutants []Mutant) ([]result, error) {
	results := make([]result, len(mutants))
	var rotten []error
	for i, m := range mutants {
		results[i].Mutant = m
		line, err := r.find(m)
		if err != nil {
			rotten = append(rotten, fmt.Errorf("%s: %w", m.Name, err))
		}
		results[i].line = line
	}
	if err := errors.Join(rotten...); err != nil {
		return nil, err
	}
	if err := r.unmutated(ctx, mutants); err != nil {
		return nil, err
	}
	slots := make(chan struct{}, atOnce)
	var work sync.WaitGroup
	for i := range results {
		work.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			began := time.Now()
			results[i].output, results[i].wrong = r.try(ctx, i, mutants[i])
			results[i].took = time.Since(began)
		})
	}
	work.Wait()
	return results, ctx.Err()
}

// find returns the line that a mutant changes.
func (r runner) find(m Mutant) (int, error) {
	text, err := os.ReadFile(r.path(m.File))
	if err != nil {
		return 0, err
	}
	if n := strings.Count(string(text), m.Old); n != 1 {
		return 0, fmt.Errorf("its text occurs %d times in %s, want once: the code has changed, bring the table up to date", n, m.File)
	}
	before, _, _ := strings.Cut(string(text), m.Old)
	return 1 + strings.Count(before, "\n"), nil
}

func (r runner) path(file string) string { return filepath.Join(r.root, filepath.FromSlash(file)) }

// unmutated runs every test that is named, and wants each to have run.
func (r runner) unmutated(ctx context.Context, mutants []Mutant) error {
	tests := map[string][]string{}
	for _, m := range mutants {
		if !slices.Contains(tests[m.Package], m.Test) {
			tests[m.Package] = append(tests[m.Package], m.Test)
		}
	}
	for pkg, names := range tests {
		out, err := r.test(ctx, pkg, names, "-v")
		if err != nil {
			return fmt.Errorf("the tests of %s fail as they are: %w\n%s", pkg, err, out)
		}
		for _, name := range names {
			if !strings.Contains(out, "--- PASS: "+name+" ") {
				return fmt.Errorf("%s has no test %s, or it does not pass", pkg, name)
			}
		}
	}
	return nil
}

// try lays one mutant over the code and runs its test.
func (r runner) try(ctx context.Context, number int, m Mutant) (output, wrong string) {
	overlay, err := r.lay(number, m)
	if err != nil {
		return "", err.Error()
	}
	out, err := r.test(ctx, m.Package, []string{m.Test}, "-count=1", "-vet=off", "-ldflags=-s -w", "-overlay="+overlay)
	switch {
	case err == nil:
		return out, m.Test + " passes"
	case strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]"):
		return out, "it does not compile"
	case !strings.Contains(out, "--- FAIL: "+m.Test) && !strings.Contains(out, "panic: "):
		return out, "something else failed: " + err.Error()
	}
	return out, ""
}

// lay writes the changed file and the overlay that puts it in place.
func (r runner) lay(number int, m Mutant) (string, error) {
	text, err := os.ReadFile(r.path(m.File))
	if err != nil {
		return "", err
	}
	changed := filepath.Join(r.dir, fmt.Sprintf("%d.go", number))
	if err := os.WriteFile(changed, bytes.Replace(text, []byte(m.Old), []byte(m.New), 1), 0o600); err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {r.path(m.File): changed}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(r.dir, fmt.Sprintf("%d.json", number))
	return overlay, os.WriteFile(overlay, replace, 0o600)
}

// test runs some tests of a package.
func (r runner) test(ctx context.Context, pkg string, names []string, args ...string) (string, error) {
	args = append([]string{"test", "-timeout", testTimeout, "-run", "^(" + strings.Join(names, "|") + ")$"}, args...)
	cmd := exec.CommandContext(ctx, "go", append(args, ".")...)
	cmd.Dir = r.path(pkg)
	cmd.Env = append(os.Environ(), "GOFLAGS=-p=2")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
