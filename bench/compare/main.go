// Command compare holds the latency suites of this tree beside those of another
// revision, and fails where one of the ratios that bench/targets.yaml guards got
// worse by more than its margin.
//
//	compare -base REV [-suites "hit rpc"] [-rounds 6] [-benchtime 200ms]
//
// Both are built first and then take turns, round by round. ADR 0022 says what
// is a regression, and why a noisy machine is none.
package main

import (
	"bytes"
	"context"
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
	"syscall"

	"github.com/tagstore/tagstore/bench/targets"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1) //nolint:gocritic // the signal handler ends with the process
	}
}

// options are those of the command line.
type options struct {
	base, suites, benchtime, benchstat, overlay string
	rounds                                      int
	slack                                       float64
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.StringVar(&o.base, "base", "", "the revision to compare this tree with")
	flags.StringVar(&o.suites, "suites", "", "only the ratios of these suites, separated by blanks")
	flags.StringVar(&o.benchtime, "benchtime", "200ms", "how long each benchmark runs in each round")
	flags.IntVar(&o.rounds, "rounds", 6, "how often the two take turns")
	flags.StringVar(&o.benchstat, "benchstat", "", "the benchstat that prints its table, if any")
	flags.StringVar(&o.overlay, "overlay", "", "what is laid over this tree alone, as in `go help build`")
	flags.Float64Var(&o.slack, "slack", 1, "each margin counts this many times")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case o.base == "":
		return errors.New("there is nothing to compare with: name a revision, as in -base main")
	case o.rounds < leastRounds:
		return fmt.Errorf("%d rounds tell nothing apart from noise: take %d or more", o.rounds, leastRounds)
	case o.slack < 1:
		return errors.New("the margins are the least that is safe: give a slack of 1 or more")
	}
	root, err := workspace(ctx)
	if err != nil {
		return err
	}
	held, err := guarded(filepath.Join(root, "bench", "targets.yaml"), strings.Fields(o.suites), o.slack)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "compare")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tree := filepath.Join(dir, "tree")
	if err := export(ctx, root, o.base, tree); err != nil {
		return err
	}
	base := &side{name: "base", tree: tree, binary: filepath.Join(dir, "base.test")}
	head := &side{name: "head", tree: root, binary: filepath.Join(dir, "head.test"), overlay: o.overlay}
	for _, s := range []*side{base, head} {
		if err := s.build(ctx); err != nil {
			return err
		}
	}
	if err := takeTurns(ctx, base, head, pattern(held), o.benchtime, o.rounds); err != nil {
		return err
	}
	if o.benchstat != "" {
		if err := table(ctx, o.benchstat, dir, out, base, head); err != nil {
			return err
		}
	}
	return report(out, judge(held, base.rounds, head.rounds))
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

// guarded are the targets with a margin, of these suites or of all.
func guarded(path string, suites []string, slack float64) ([]targets.Target, error) {
	all, err := targets.Load(path)
	if err != nil {
		return nil, err
	}
	for _, name := range suites {
		if !slices.Contains(targets.Suites, name) {
			return nil, fmt.Errorf("there is no suite %q: the suites are %s", name, strings.Join(targets.Suites, ", "))
		}
	}
	var held []targets.Target
	for _, t := range all {
		if t.Margin > 0 && (len(suites) == 0 || slices.Contains(suites, t.Suite)) {
			t.Margin *= slack
			held = append(held, t)
		}
	}
	if len(held) == 0 {
		return nil, fmt.Errorf("no ratio of these suites has a margin in %s: there is nothing to compare", path)
	}
	return held, nil
}

// pattern names the benchmarks of these targets, and no other, for -test.bench.
func pattern(held []targets.Target) string {
	var patterns []string
	for _, t := range held {
		parts := strings.Split("Benchmark"+t.Benchmark, "/")
		for i, part := range parts {
			parts[i] = "^" + part + "$"
		}
		if p := strings.Join(parts, "/"); !slices.Contains(patterns, p) {
			patterns = append(patterns, p)
		}
	}
	return strings.Join(patterns, "|")
}

// export writes the files of a revision into a new folder. It is not a worktree
// of git, so that nothing is left in the repository if this process is killed.
func export(ctx context.Context, root, rev, tree string) error {
	if err := os.Mkdir(tree, 0o700); err != nil {
		return err
	}
	var refused, said bytes.Buffer // each command's own: both write at once
	archive := exec.CommandContext(ctx, "git", "-C", root, "archive", "--format=tar", "--end-of-options", rev)
	unpack := exec.CommandContext(ctx, "tar", "-x", "-C", tree)
	archive.Stderr, unpack.Stderr = &refused, &said
	pipe, err := archive.StdoutPipe()
	if err != nil {
		return err
	}
	unpack.Stdin = pipe
	if err := archive.Start(); err != nil {
		return err
	}
	unpacked := unpack.Run()
	if err := errors.Join(archive.Wait(), unpacked); err != nil {
		return fmt.Errorf("%s can not be had from git: %w\n%s%s", rev, err, &refused, &said)
	}
	return nil
}

// side is one of the two builds.
type side struct {
	name, tree, binary, overlay string

	output bytes.Buffer // of all rounds, for benchstat
	rounds []figures
}

// environ is that of the build and of the benchmarks, which build the services
// themselves.
func (s *side) environ() []string {
	flags := "-buildvcs=false"
	if s.overlay != "" {
		flags += " '-overlay=" + s.overlay + "'"
	}
	return append(os.Environ(), "GOWORK=", "GOFLAGS="+flags)
}

func (s *side) build(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", s.binary, "./latency")
	cmd.Dir, cmd.Env = filepath.Join(s.tree, "bench"), s.environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the suites of %s do not build: %w\n%s", s.name, err, out)
	}
	return nil
}

// measure runs the benchmarks once and keeps what they print.
func (s *side) measure(ctx context.Context, pattern, benchtime string) error {
	cmd := exec.CommandContext(ctx, s.binary, "-test.run=^$", "-test.bench="+pattern, "-test.benchtime="+benchtime, "-test.count=1", "-test.timeout=10m")
	cmd.Dir, cmd.Env = filepath.Join(s.tree, "bench", "latency"), s.environ()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("the benchmarks of %s fail: %w\n%s", s.name, err, out)
	}
	found, err := parse(out)
	if err != nil {
		return fmt.Errorf("the benchmarks of %s: %w", s.name, err)
	}
	s.rounds = append(s.rounds, found)
	s.output.Write(out)
	return nil
}

// takeTurns has each side begin every other round, so that what the first of two
// leaves behind helps neither.
func takeTurns(ctx context.Context, base, head *side, pattern, benchtime string, rounds int) error {
	order := []*side{base, head}
	for range rounds {
		for _, s := range order {
			if err := s.measure(ctx, pattern, benchtime); err != nil {
				return err
			}
		}
		slices.Reverse(order)
	}
	return nil
}

// table is benchstat's, of everything that was printed.
func table(ctx context.Context, benchstat, dir string, out io.Writer, sides ...*side) error {
	cmd := exec.CommandContext(ctx, benchstat)
	for _, s := range sides {
		path := filepath.Join(dir, s.name+".txt")
		if err := os.WriteFile(path, s.output.Bytes(), 0o600); err != nil {
			return err
		}
		cmd.Args = append(cmd.Args, s.name+"="+path)
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("benchstat: %w\n%s", err, &said)
	}
	return nil
}
