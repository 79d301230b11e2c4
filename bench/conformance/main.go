// Command conformance runs the driver contract's suite for every store, in
// process and as a program, and prints how many of its cases each passed, left
// out and failed, and why some were left out. It fails where a case failed or
// was not run at all. `make conformance` starts what it needs first.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/tagstore/tagstore/core/drivertest"
)

// suite is one way in which a store is held to the contract: one test.
type suite struct {
	store, how, on string
	module, pkg    string // folder of the module from the root, package in it
	test           string
	args           []string // of the test binary
}

const (
	inProcess = "in process"
	asProgram = "as a program"
	asSidecar = "as a sidecar"
	moto      = "moto"
	local     = "DynamoDB Local"
	redis     = "Redis"
)

// outside are the modules that are not in the workspace.
var outside = []string{"examples/plugin-redis"}

// suites are all of them. A test of this package looks for suites in the
// repository that are missing here.
var suites = []suite{
	{"memory", inProcess, "", "core", "./memdriver", "TestConformance", nil},
	{"memory", asProgram, "", "core", "./pluginhost", "TestConformance", nil},
	{"memory, no exchange", asProgram, "", "core", "./pluginhost", "TestConformanceUnary", nil},
	{"memory", asSidecar, "", "core", "./pluginhost", "TestR34Conformance", nil},
	{"memory, three methods", inProcess, "", "core", "./records", "TestConformance", nil},
	{"memory behind the cache", inProcess, "", "core", "./cache", "TestConformance", nil},
	{"the same, unwatched", inProcess, "", "core", "./cache", "TestConformanceUnwatched", nil},
	{"the same, a bare store", inProcess, "", "core", "./cache", "TestConformanceOfABareStore", nil},
	{"the same, clock table", inProcess, "", "core", "./cache", "TestConformanceWithClock", nil},
	{"the same, nothing kept", inProcess, "", "core", "./cache", "TestConformanceNotKept", nil},
	{"local", inProcess, "", "plugins/local", "./localbackend", "TestConformance", nil},
	{"local", asProgram, "", "plugins/local", "./localbackend", "TestConformanceOfTheProgram", nil},
	{"local", asSidecar, "", "plugins/local", "./localbackend", "TestR34ConformanceOfTheSidecar", nil},
	{"dynamodb", inProcess, local, "plugins/dynamodb", "./dynamodbbackend", "TestConformance", nil},
	{"dynamodb", inProcess, moto, "plugins/dynamodb", "./dynamodbbackend", "TestConformanceOnMoto", nil},
	{"dynamodb", asProgram, local, "plugins/dynamodb", "./dynamodbbackend", "TestConformanceOfTheProgram", nil},
	{"dynamodb", asProgram, moto, "plugins/dynamodb", "./dynamodbbackend", "TestConformanceOfTheProgram", []string{"-program-on-moto"}},
	{"dynamodb, eventual reads", inProcess, local, "plugins/dynamodb", "./dynamodbbackend", "TestConformanceWithEventualReads", nil},
	{"dynamodb with DAX", inProcess, local, "plugins/dynamodb", "./dynamodbbackend", "TestConformanceWithDAX", nil},
	{"dynamodb with DAX", inProcess, moto, "plugins/dynamodb", "./dynamodbbackend", "TestConformanceWithDAXOnMoto", nil},
	{"dynamodb with DAX", asProgram, local, "plugins/dynamodb", "./dynamodbbackend", "TestConformanceOfTheProgramWithDAX", nil},
	{"dynamodb with DAX", asProgram, moto, "plugins/dynamodb", "./dynamodbbackend", "TestConformanceOfTheProgramWithDAX", []string{"-program-on-moto"}},
	{"ssm", inProcess, moto, "plugins/ssm", "./ssmbackend", "TestConformance", nil},
	{"ssm", asProgram, moto, "plugins/ssm", "./ssmbackend", "TestConformanceOfTheProgram", nil},
	{"s3", inProcess, moto, "plugins/s3", "./s3backend", "TestConformance", nil},
	{"s3", asProgram, moto, "plugins/s3", "./s3backend", "TestConformanceOfTheProgram", nil},
	{"secretsmanager", inProcess, moto, "plugins/secretsmanager", "./secretsbackend", "TestConformance", nil},
	{"secretsmanager", asProgram, moto, "plugins/secretsmanager", "./secretsbackend", "TestConformanceOfTheProgram", nil},
	{"sqlite, in Python", asProgram, "", "examples/plugin-python", ".", "TestR33ConformanceOfTheProgram", nil},
	{"sqlite, in Python", asSidecar, "", "examples/plugin-python", ".", "TestR34ConformanceOfTheSidecar", nil},
	{"redis", inProcess, redis, "examples/plugin-redis", "./redisbackend", "TestConformance", nil},
	{"redis", asProgram, redis, "examples/plugin-redis", "./redisbackend", "TestConformanceOfTheProgram", nil},
}

// String tells the suites apart for people.
func (s suite) String() string {
	if s.on == "" {
		return s.store + " " + s.how
	}
	return s.store + " " + s.how + " on " + s.on
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// run runs the suites of the stores that args name, of all if none is, from the
// folder of the module bench.
func run(ctx context.Context, args []string, out, progress io.Writer) error {
	var counts []count
	for _, s := range suites {
		if len(args) > 0 && !slices.ContainsFunc(args, func(name string) bool { return strings.HasPrefix(s.store, name) }) {
			continue
		}
		fmt.Fprintf(progress, "-- %s: %s\n", s, s.test)
		c, err := s.run(ctx)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(c.failures)) {
			fmt.Fprintf(progress, "FAILED: %s\n%s\n", name, c.failures[name])
		}
		counts = append(counts, c)
	}
	if len(counts) == 0 {
		return fmt.Errorf("no store is named %q", args)
	}
	return write(out, counts)
}

func (s suite) run(ctx context.Context) (count, error) {
	args := append([]string{"test", "-json", "-count=1", "-timeout=30m", "-run=^" + s.test + "$", s.pkg, "-args"}, s.args...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Dir = filepath.Join("..", filepath.FromSlash(s.module))
	if slices.Contains(outside, s.module) {
		cmd.Env = append(os.Environ(), "GOWORK=off")
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	failed := cmd.Run()
	if ctx.Err() != nil {
		return count{}, ctx.Err()
	}
	c, err := read(s, &stdout)
	if err != nil {
		return count{}, fmt.Errorf("%s: %w\n%s", s.test, err, stderr.String())
	}
	if failed != nil && c.failed == 0 {
		c.failed++ // outside of the cases: the test's end, or its build
		c.failures[s.test] = c.rest + stderr.String()
	}
	return c, nil
}

// count is what became of the cases of one suite.
type count struct {
	suite
	passed, failed, unseen int
	skipped                map[string]int // by reason
	failures               map[string]string
	rest                   string // output of no case
}

// read counts the cases in what `go test -json` prints.
func read(s suite, from io.Reader) (count, error) {
	outcome, output := map[string]string{}, map[string]string{}
	c := count{suite: s, skipped: map[string]int{}, failures: map[string]string{}}
	for decoder := json.NewDecoder(from); ; {
		var event struct{ Action, Test, Output string }
		if err := decoder.Decode(&event); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return count{}, fmt.Errorf("the output of go test can not be read: %w", err)
		}
		name, _ := strings.CutPrefix(event.Test, s.test+"/")
		switch event.Action {
		case "output":
			output[name] += event.Output
		case "pass", "skip", "fail":
			outcome[name] = event.Action
		}
	}
	c.rest = output[""] + output[s.test]
	for _, oneCase := range drivertest.Cases() {
		switch outcome[oneCase.Name] {
		case "pass":
			c.passed++
		case "skip":
			c.skipped[reason(output[oneCase.Name])]++
		case "fail":
			c.failed++
			c.failures[oneCase.Name] = output[oneCase.Name]
		default:
			c.unseen++
		}
	}
	return c, nil
}

// reason returns why a case was left out, as t.Skip said it.
func reason(output string) string {
	for line := range strings.Lines(output) {
		if _, text, ok := strings.Cut(line, "_test.go:"); ok || strings.Contains(line, "suite.go:") {
			if !ok {
				_, text, _ = strings.Cut(line, "suite.go:")
			}
			if _, text, ok = strings.Cut(text, ": "); ok {
				return strings.TrimSpace(text)
			}
		}
	}
	return "it does not say why"
}

// write prints the table and returns an error where the contract is not kept.
func write(out io.Writer, counts []count) error {
	var wrong []string
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "store\thow\ton\tpassed\tleft out\tfailed\tnot run")
	for _, c := range counts {
		left := 0
		for _, n := range c.skipped {
			left += n
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%d\t%d\n", c.store, c.how, c.on, c.passed, left, c.failed, c.unseen)
		if c.failed > 0 || c.unseen > 0 {
			wrong = append(wrong, c.String())
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nof %d cases each. Left out, by what a store does not claim or declares as a caveat:\n", len(drivertest.Cases()))
	for i, c := range counts {
		alike := func(other count) bool { return maps.Equal(other.skipped, c.skipped) }
		if slices.ContainsFunc(counts[:i], alike) {
			continue // it stands with the first of its kind
		}
		fmt.Fprintln(out)
		for _, other := range counts[i:] {
			if alike(other) {
				fmt.Fprintln(out, other)
			}
		}
		for _, why := range slices.Sorted(maps.Keys(c.skipped)) {
			fmt.Fprintf(out, "  %3d  %s\n", c.skipped[why], why)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the contract is not kept, or not asked for: %s", strings.Join(wrong, "; "))
	}
	return nil
}
