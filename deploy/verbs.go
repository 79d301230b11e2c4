package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/deploy/internal/check"
	"github.com/tagstore/tagstore/deploy/internal/stack"
)

var testVerb = verb{`deploy/test.sh ENV [flags]
deploy/test.sh --local [flags]

Asks a running system, as two tenants, whether orders are placed once and by the
tenant's own configuration, whether nobody sees another's, and whether a change in the
table decides orders within seconds. It changes one tenant's order limits for a moment
and brings them back. --local asks the system that 'make run-aws-local' runs.
`, func(f *flag.FlagSet, o *options) func(context.Context) error {
	local := f.Bool("local", false, "the system of make run-aws-local, or of --dev-dir")
	dir := f.String("dev-dir", "", "its folder (TAGSTORE_DEV_DIR, or .tagstore)")
	a := f.String("tenant-a", "acme-corp", "a tenant that has order limits")
	b := f.String("tenant-b", "globex-inc", "another one")
	tokenA := f.String("token-file-a", "", "file with a token of tenant A's editor (on a dev stack one is made)")
	tokenB := f.String("token-file-b", "", "the same of tenant B")
	within := f.Duration("within", 30*time.Second, "how long a change may take to decide orders")
	return func(ctx context.Context) error {
		if *a == *b {
			return usagef("test", "the two tenants are one")
		}
		if *local && o.environment != "" {
			return usagef("test", "--local is no stack: give no environment with it")
		}
		s := &check.System{
			A: check.Tenant{Name: *a}, B: check.Tenant{Name: *b}, Within: *within,
			Say: o.say,
		}
		find := func(ctx context.Context) error {
			return deployed(ctx, o, s, map[*check.Tenant]string{&s.A: *tokenA, &s.B: *tokenB})
		}
		if *local {
			find = func(ctx context.Context) error { return running(ctx, s, *dir) }
		}
		if err := find(ctx); err != nil {
			return err
		}
		if o.dryRun {
			o.say("Dry run: nothing was asked.")
			return nil
		}
		return s.Run(ctx)
	}
}}

// running finds the system of this machine by its dev.json.
func running(ctx context.Context, s *check.System, dir string) error {
	if dir == "" {
		dir = os.Getenv("TAGSTORE_DEV_DIR")
	}
	if dir == "" {
		dir = ".tagstore"
	}
	text, err := os.ReadFile(filepath.Join(dir, "dev.json"))
	if err != nil {
		return config.Errorf(config.Unavailable, "no system runs here: %w", err).WithHint("start it with `make run-aws-local` in another terminal")
	}
	var info struct {
		OrderHTTP string                     `json:"order_http"`
		Manifest  string                     `json:"manifest"`
		Tokens    map[string]json.RawMessage `json:"tokens"`
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return config.Errorf(config.FailedPrecondition, "dev.json is damaged").WithHint("stop the system and start it again").WithCause(err)
	}
	s.Orders = info.OrderHTTP
	for _, t := range []*check.Tenant{&s.A, &s.B} {
		var roles struct {
			Editor string `json:"editor"`
		}
		if json.Unmarshal(info.Tokens[t.Name], &roles) != nil || roles.Editor == "" {
			return config.Errorf(config.InvalidArgument, "dev.json has no editor's token of one of the two tenants").WithHint("name tenants that it has with --tenant-a and --tenant-b")
		}
		t.Token = roles.Editor
	}
	if text, err = os.ReadFile(info.Manifest); err != nil {
		return config.Errorf(config.FailedPrecondition, "the system's manifest can not be read: %w", err)
	}
	m, err := manifest.Parse(text, info.Manifest)
	if err != nil {
		return err
	}
	for _, r := range m.Routes {
		for _, b := range m.Backends {
			var options struct {
				Table string `json:"table"`
			}
			if r.Prefix == "tenant_config_" && b.Name == r.Backend && json.Unmarshal(b.Options, &options) == nil {
				s.Table = options.Table
			}
		}
	}
	if s.Table == "" {
		return config.Errorf(config.FailedPrecondition, "the running system has tenant_config_ in no table of DynamoDB").
			WithHint("`make run` keeps it in a file: start `make run-aws-local` instead")
	}
	c, err := stack.Configure(ctx, &stack.Parameters{})
	if err != nil {
		return err
	}
	s.Tables = stack.Tables(c)
	return nil
}

// deployed finds a stack, and tokens for it.
func deployed(ctx context.Context, o *options, s *check.System, files map[*check.Tenant]string) error {
	_, d, err := o.find(ctx, "test")
	if err != nil {
		return err
	}
	s.Orders, s.Table, s.Tables = d.URL, d.Table, d.Tables
	for t, file := range files {
		switch {
		case o.dryRun:
		case file != "":
			text, err := os.ReadFile(file)
			if err != nil {
				return config.Errorf(config.InvalidArgument, "a token can not be read: %w", err)
			}
			t.Token = strings.TrimSpace(string(text))
		default:
			if t.Token, err = d.Token(ctx, t.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// find finds the stack of the environment, and what its name is made of.
func (o *options) find(ctx context.Context, verb string) (*stack.Parameters, *stack.Deployed, error) {
	values, err := o.values(verb)
	if err != nil {
		return nil, nil, err
	}
	p, err := stack.NewName(o.environment, values)
	if err != nil {
		return nil, nil, err
	}
	d, err := stack.Find(ctx, p, o.console())
	return p, d, err
}

// firstValues are what a stack is seeded with, of two tenants.
//
//go:embed seed.json
var firstValues []byte

var seedVerb = verb{`deploy/seed.sh ENV [FILE] [flags]

Writes first values into the stores of the stack of ENV, with the credentials that AWS
is set to: those of deploy/seed.json, which are two tenants', or those of FILE, as
'tagctl seed' reads it. It only ever adds: what has a history is left alone.
`, func(_ *flag.FlagSet, o *options) func(context.Context) error {
	return func(ctx context.Context) (err error) {
		files := o.args
		o.args = nil
		if len(files) > 1 {
			return usagef("seed", "give one file of values at most")
		}
		input := io.Reader(os.Stdin)
		if len(files) == 0 {
			files, input = []string{"-"}, bytes.NewReader(firstValues)
		}
		p, d, err := o.find(ctx, "seed")
		if err != nil {
			return err
		}
		text := d.SeedManifest(p)
		if o.dryRun {
			o.say("%s", text)
			o.say("Dry run: nothing was written.")
			return nil
		}
		tagctl, err := beside("tagctl")
		if err != nil {
			return err
		}
		// A manifest names no plugin outside its folder.
		f, err := os.CreateTemp(filepath.Dir(tagctl), "seed-*.yaml")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
		_, err = f.WriteString(text)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, tagctl, append([]string{"seed", "--dev", "--manifest", f.Name()}, files...)...)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = time.Minute
		cmd.Env = append(os.Environ(), "AWS_REGION="+d.Account.Region)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = input, os.Stdout, os.Stderr
		return ofTagctl(cmd.Run())
	}
}}

// ofTagctl leaves the words to tagctl, which has said them, and keeps its status.
func ofTagctl(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	for code, status := range exitOf {
		if status == exit.ExitCode() {
			return config.Errorf(code, "tagctl ended with %d", exit.ExitCode())
		}
	}
	return config.Errorf(config.Unknown, "tagctl ended with %d", exit.ExitCode())
}

// beside finds a program in the folder of this one.
func beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", config.Errorf(config.FailedPrecondition, "%s is not beside this program: %w", name, err).WithHint("build everything with `make build`")
	}
	return path, nil
}

// rollbackKey goes back to an earlier version of one key.
func rollbackKey(ctx context.Context, o *options, service string, to int) error {
	if len(o.args) == 0 {
		return usagef("rollback", "give the key whose earlier version is wanted")
	}
	key, more := o.args[0], o.args[1:]
	tagctl, err := beside("tagctl")
	if err != nil {
		return err
	}
	if service != "" {
		more = append(more, "--service", service)
	}
	call := func(args ...string) (*bytes.Buffer, error) {
		var out bytes.Buffer
		cmd := exec.CommandContext(ctx, tagctl, append(args, more...)...)
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&out), os.Stderr
		return &out, ofTagctl(cmd.Run())
	}
	text, err := call("history", key, "-o", "json")
	if err != nil {
		return err
	}
	var history struct {
		Entries []struct {
			Version   uint64 `json:"version"`
			UpdatedAt string `json:"updated_at"`
			UpdatedBy string `json:"updated_by"`
			Deleted   bool   `json:"deleted"`
		} `json:"entries"`
	}
	if err := json.Unmarshal(text.Bytes(), &history); err != nil || len(history.Entries) == 0 {
		return config.Errorf(config.NotFound, "%s has no history", key).WithHint("nothing was changed").WithCause(err)
	}
	now := history.Entries[0]
	for _, e := range history.Entries[1:] {
		if e.Deleted || to != 0 && e.Version != uint64(to) {
			continue
		}
		o.say("%s: from version %d, of %s by %s\n  back to version %d, of %s by %s", key, now.Version, now.UpdatedAt, now.UpdatedBy, e.Version, e.UpdatedAt, e.UpdatedBy)
		if o.dryRun {
			o.say("Dry run: nothing was changed.")
			return nil
		}
		if err := o.console().Confirm("Go back?", "yes"); err != nil {
			return err
		}
		// Not on top of what somebody else has written in the meantime.
		done, err := call("rollback", key, "--to", strconv.FormatUint(e.Version, 10), "--if-version", strconv.FormatUint(now.Version, 10))
		if err != nil {
			return err
		}
		o.say("%s", strings.TrimSpace(done.String()))
		return nil
	}
	if to != 0 {
		return config.Errorf(config.NotFound, "%s has no version %d with a value before the current one", key, to).WithHint("nothing was changed; see `tagctl history %s`", key)
	}
	return config.Errorf(config.FailedPrecondition, "version %d of %s is the first one: there is none before it to go back to", now.Version, key).
		WithHint("nothing was changed; to be rid of the key use `tagctl rm %s`", key)
}
