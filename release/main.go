// Command release makes what is shipped of tagstore: the file trees of the
// images, the images themselves, the packages of the Lambda function, and the
// archives of a release. The same sources, by the same Go, make the same bytes,
// wherever and whenever that is. docs/release.md is the page for its users.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const usage = `usage: release image-root|image|lambda|archives [flags]

  image-root   the file tree of each service's image, for each architecture
  image        the same, and an OCI layout and a bill of materials for each service
  lambda       the zip of the refresh function, for each architecture
  archives     the archives of a release, with checksums and bills of materials

'release COMMAND -help' lists the flags.
`

// errUsage is told with the exit code of a command that was called wrongly.
var errUsage = errors.New("it was called wrongly")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	err := command(ctx, args[0], args[1:], stdout, stderr)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "release: %v\n%s", err, usage)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "release: %v\n", err)
		return exitFailed
	}
}

// settings are the flags of all commands; not every command has each.
type settings struct {
	root     string // of the repository
	out      string
	work     string // what may be used again
	version  string
	commit   string
	arches   []string
	manifest string
	key      string
	plugins  string
	set      values
	targets  []target
	only     []string // of the programs
	snapshot bool
}

func command(ctx context.Context, name string, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("release "+name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	s := settings{set: values{}}
	flags.StringVar(&s.root, "root", ".", "the repository")
	flags.StringVar(&s.out, "out", "bin/"+name, "where the results go")
	flags.StringVar(&s.work, "work", "", "where programs are built, and found up to date the next time; by default bin/.release in the repository")
	flags.StringVar(&s.version, "version", "unknown", "version that the programs are to tell")
	flags.StringVar(&s.commit, "commit", "unknown", "commit that they are built from")
	var arches, targets, only string
	switch name {
	case "image-root", "image", "lambda":
		flags.StringVar(&arches, "arch", "amd64,arm64", "architectures, by Go's names")
		flags.StringVar(&s.manifest, "manifest", "release/tagstore.yaml", "manifest of the service; $"+"{NAME} in it is what -set NAME= says")
		flags.StringVar(&s.key, "key", "", "private key to sign it with, a PEM file; by default one that is made for trying things out")
		flags.StringVar(&s.plugins, "plugins", "", "folder with plugins that are not of this repository, in ARCH/NAME")
		flags.Var(s.set, "set", "NAME=VALUE for the manifest; may be repeated")
	case "archives":
		flags.StringVar(&targets, "targets", "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64", "OS/ARCH, by Go's names")
		flags.StringVar(&only, "only", "", "names of programs to take, of a snapshot; by default all")
		flags.BoolVar(&s.snapshot, "snapshot", false, "take any version, not just one that was tagged")
	default:
		return fmt.Errorf("there is no command %q: %w", name, errUsage)
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: %w", flags.Arg(0), errUsage)
	}
	if s.work == "" {
		s.work = filepath.Join(s.root, "bin", ".release")
	}
	for _, path := range []*string{&s.root, &s.out, &s.work} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	var err error
	if s.arches, err = list(arches, "amd64", "arm64"); err != nil {
		return fmt.Errorf("-arch: %w: %w", err, errUsage)
	}
	pairs, err := list(targets, "linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64")
	if err != nil {
		return fmt.Errorf("-targets: %w: %w", err, errUsage)
	}
	for _, pair := range pairs {
		goos, arch, _ := strings.Cut(pair, "/")
		s.targets = append(s.targets, target{goos, arch})
	}
	var names []string
	for _, p := range append(pluginPrograms(), tagctl, stackProgram, configProgram, orderProgram, refreshProgram) {
		names = append(names, p.name)
	}
	if s.only, err = list(only, names...); err != nil {
		return fmt.Errorf("-only: %w: %w", err, errUsage)
	}
	if err := os.MkdirAll(s.out, 0o755); err != nil { //nolint:gosec // what is shipped is for everybody
		return err
	}
	unlock, err := lock(s.work)
	if err != nil {
		return err
	}
	defer unlock()
	switch name {
	case "lambda":
		return makeLambda(ctx, s, stdout)
	case "archives":
		return makeArchives(ctx, s, stdout)
	default:
		return makeImages(ctx, s, name == "image", stdout)
	}
}

// list splits text at commas and spaces and holds its parts to those known.
func list(text string, known ...string) ([]string, error) {
	parts := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	for i, part := range parts {
		if !slices.Contains(known, part) {
			return nil, fmt.Errorf("%q is none of %s", part, strings.Join(known, ", "))
		}
		if slices.Contains(parts[:i], part) {
			return nil, fmt.Errorf("%q is there twice", part)
		}
	}
	return parts, nil
}

// lock has one command at a time in a folder of programs: another one would
// replace with its version what this one is packing.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // what is shipped is for everybody
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("another command builds in %s: wait for its end, or name another folder with -work", dir)
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

// values are those of the flag -set.
type values map[string]string

func (v values) String() string { return "" }

func (v values) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return errors.New("it is not NAME=VALUE")
	}
	v[name] = value
	return nil
}
