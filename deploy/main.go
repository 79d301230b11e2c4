// Command tagstore-stack puts tagstore into an account of AWS, tests it there, goes
// back to what was there before, and removes it. deploy/*.sh are its entry points.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/deploy/internal/stack"
)

// version is set by the build: -ldflags "-X main.version=...".
var version = "unknown"

// The exit statuses are tagctl's.
const (
	exitOther       = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitAuth        = 4
	exitConflict    = 5
	exitInvalid     = 6
	exitUnavailable = 7
	exitInterrupted = 130
)

var exitOf = map[config.Code]int{
	config.NotFound: exitNotFound, config.PermissionDenied: exitAuth, config.Unauthenticated: exitAuth, config.Conflict: exitConflict,
	config.InvalidArgument: exitInvalid, config.Unavailable: exitUnavailable, config.ResourceExhausted: exitUnavailable,
	config.OutcomeUnknown: exitUnavailable, config.DeadlineExceeded: exitUnavailable, config.Canceled: exitInterrupted,
}

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	err := execute(ctx, os.Args[1:])
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "Error: %v\nHint: %s\n", usage.err, usage.hint)
		return exitUsage
	}
	return report(ctx, os.Stderr, err)
}

// report prints an error, or each of those that were joined, and returns the exit
// status of the first.
func report(ctx context.Context, w io.Writer, err error) int {
	status := 0
	for _, one := range parts(err) {
		var e *config.Error
		if !errors.As(one, &e) {
			e = config.Errorf(config.Unknown, "%v", one)
		}
		if ctx.Err() != nil && (e.Code == config.Canceled || errors.Is(one, context.Canceled)) {
			e = config.Errorf(config.Canceled, "interrupted").WithHint("run the same again: it goes on where it stopped")
		}
		fmt.Fprintf(w, "Error: %s\n", e.Message)
		if e.Hint != "" {
			fmt.Fprintf(w, "Hint: %s\n", e.Hint)
		}
		if status == 0 {
			status = exitOther
			if known, ok := exitOf[e.Code]; ok {
				status = known
			}
		}
	}
	return status
}

func parts(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, parts(e)...)
	}
	return all
}

// usageError is a command line that can not be understood.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }

func usagef(verb, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), "see 'deploy/" + verb + ".sh -h'"}
}

// verb is one of the entry points.
type verb struct {
	usage string
	// flags defines its own flags and returns what it does.
	flags func(*flag.FlagSet, *options) func(context.Context) error
}

// options are what every verb has.
type options struct {
	out         io.Writer
	environment string
	file        string
	home        string
	set         settings
	yes, dryRun bool
	poll        time.Duration
	args        []string // behind the environment
}

// settings are the Name=Value of --set.
type settings map[string]string

func (s settings) String() string { return "" }

func (s settings) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return errors.New("not Name=Value")
	}
	s[name] = value
	return nil
}

var verbs map[string]verb

func init() {
	verbs = map[string]verb{
		"deploy": deployVerb, "rollback": rollbackVerb, "cleanup": cleanupVerb, "test": testVerb, "seed": seedVerb,
		"version": {"tagstore-stack version\n", func(_ *flag.FlagSet, o *options) func(context.Context) error {
			return func(context.Context) error {
				o.say("tagstore-stack %s", version)
				return nil
			}
		}},
	}
}

func execute(ctx context.Context, args []string) error {
	names := strings.Join(slices.Sorted(maps.Keys(verbs)), ", ")
	if len(args) == 0 {
		return &usageError{errors.New("there is no verb"), "it is one of " + names}
	}
	v, known := verbs[args[0]]
	if !known {
		return &usageError{fmt.Errorf("there is no verb %q", args[0]), "it is one of " + names}
	}
	o := &options{out: os.Stdout, set: settings{}}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.home, "home", "deploy", "folder with the parameters files")
	f.StringVar(&o.file, "parameters", "", "file of Name=Value lines (deploy/parameters/ENV.env)")
	f.Var(o.set, "set", "`Name=Value`, before that of the file; may be given again")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	f.BoolVar(&o.dryRun, "dry-run", false, "change nothing, and say what would be done")
	f.DurationVar(&o.poll, "poll", 5*time.Second, "time between two looks at what AWS is doing")
	do := v.flags(f, o)
	args, behind := cut(args)
	var words []string
	for rest := args[1:]; ; {
		err := f.Parse(rest)
		if errors.Is(err, flag.ErrHelp) {
			f.SetOutput(o.out)
			o.say("%s\nFlags:", v.usage)
			f.PrintDefaults()
			return err
		}
		if err != nil {
			return usagef(args[0], "%w", err)
		}
		// Flags may stand behind words.
		if rest = f.Args(); len(rest) == 0 {
			break
		}
		words, rest = append(words, rest[0]), rest[1:]
	}
	words = append(words, behind...)
	if o.poll <= 0 {
		return usagef(args[0], "--poll is not positive")
	}
	if len(words) > 0 {
		o.environment, o.args = words[0], words[1:]
	}
	return do(ctx)
}

// cut cuts a command line at "--".
func cut(args []string) (before, behind []string) {
	if i := slices.Index(args, "--"); i > 0 {
		return args[:i], args[i+1:]
	}
	return args, nil
}

func (o *options) say(format string, args ...any) { fmt.Fprintf(o.out, format+"\n", args...) }

func (o *options) console() *stack.Console {
	return &stack.Console{In: os.Stdin, Out: o.out, Poll: o.poll, Yes: o.yes}
}

// values reads the parameters file, and puts those of --set over it.
func (o *options) values(verb string) (map[string]string, error) {
	if o.environment == "" && o.dryRun {
		o.environment = "dev" // which is only looked at
	}
	if o.environment == "" || len(o.args) > 0 {
		return nil, usagef(verb, "give one environment: dev, staging or prod")
	}
	if !slices.Contains([]string{"dev", "staging", "prod"}, o.environment) {
		return nil, usagef(verb, "%q is no environment: there are dev, staging and prod", o.environment)
	}
	file := o.file
	if file == "" {
		file = filepath.Join(o.home, "parameters", o.environment+".env")
	}
	f, err := os.Open(file)
	if err != nil && (o.file != "" || !errors.Is(err, os.ErrNotExist)) {
		return nil, config.Errorf(config.InvalidArgument, "the parameters can not be read: %w", err).WithHint("give a file of Name=Value lines with --parameters")
	}
	values := map[string]string{}
	if err == nil {
		defer f.Close()
		if values, err = stack.ReadValues(io.LimitReader(f, 1<<20), file); err != nil {
			return nil, err
		}
	}
	maps.Copy(values, o.set)
	return values, nil
}

var deployVerb = verb{`deploy/deploy.sh ENV [flags]

Puts the stack of ENV (dev, staging or prod) into the account that AWS is set to, or
changes it: first the repositories and the bucket, then package and templates into
that bucket, then a change set, which is shown and has to be confirmed, and a smoke
test. Nothing to do is no error, and an interrupted run is taken up by the next.
`, func(f *flag.FlagSet, o *options) func(context.Context) error {
	noTest := f.Bool("no-test", false, "leave out the smoke test")
	return func(ctx context.Context) error {
		values, err := o.values("deploy")
		if err != nil {
			return err
		}
		p, err := stack.NewParameters(o.environment, values)
		if err != nil {
			return err
		}
		d := stack.Deployment{Console: o.console(), Parameters: p, Program: version, DryRun: o.dryRun, NoTest: *noTest}
		return d.Deploy(ctx)
	}
}}

var cleanupVerb = verb{`deploy/cleanup.sh ENV [flags]

Removes the stack of ENV and what its removal leaves: tables, buckets with all their
versions, users, values in Parameter Store and Secrets Manager, logs and keys. It
lists all of it first. Data stops it unless --delete-data is given, and the stack's
name has to be typed unless --yes is. It looks at the end whether anything is left.
`, func(f *flag.FlagSet, o *options) func(context.Context) error {
	deleteData := f.Bool("delete-data", false, "remove what holds data, too")
	artifacts := f.Bool("artifacts", false, "remove images, packages and releases of the whole project, too")
	return func(ctx context.Context) error {
		values, err := o.values("cleanup")
		if err != nil {
			return err
		}
		p, err := stack.NewName(o.environment, values)
		if err != nil {
			return err
		}
		c := stack.Cleanup{Console: o.console(), Parameters: p, DryRun: o.dryRun, DeleteData: *deleteData, Artifacts: *artifacts}
		return c.Run(ctx)
	}
}}

var rollbackVerb = verb{`deploy/rollback.sh ENV [flags]
deploy/rollback.sh config KEY [flags] [-- flags of tagctl]

The first goes back to the release before the last, templates, parameters, images and
package alike, or to the one of --to. The second goes back to an earlier version of
one key of the configuration, as a new version, by means of tagctl.
`, func(f *flag.FlagSet, o *options) func(context.Context) error {
	to := f.Int("to", 0, "the release, or the version of the key, to go back to")
	images := f.Bool("images-only", false, "keep templates and parameters, and take the images and the package of that release")
	goOn := f.Bool("continue", false, "go on with CloudFormation's own rollback, which failed half-way")
	skip := f.String("skip", "", "with --continue: resources that can not go back, as Stack.Resource, by commas")
	noTest := f.Bool("no-test", false, "leave out the smoke test")
	service := f.String("service", "", "with config: the service whose value it is")
	return func(ctx context.Context) error {
		if *to < 0 {
			return usagef("rollback", "--to is a number from 1")
		}
		if o.environment == "config" {
			return rollbackKey(ctx, o, *service, *to)
		}
		values, err := o.values("rollback")
		if err != nil {
			return err
		}
		p, err := stack.NewName(o.environment, values)
		if err != nil {
			return err
		}
		d := stack.Deployment{Console: o.console(), Parameters: p, Program: version, DryRun: o.dryRun, NoTest: *noTest}
		if *goOn {
			var names []string
			if *skip != "" {
				names = strings.Split(*skip, ",")
			}
			return d.Continue(ctx, names)
		}
		return d.Rollback(ctx, *to, *images)
	}
}}
