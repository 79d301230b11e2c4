package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
)

// ErrMissing is wrapped by errors that say which of the distribution's packages
// to install.
var ErrMissing = errors.New("missing")

// A need is a program of the distribution that the emulators need.
type need struct {
	// what names it, with the version from which on it will do.
	what string
	// packages are those of Debian and its kin that bring it: the first that
	// helps is taken.
	packages []string
	// find returns the program, or "" where none will do.
	find func(context.Context) string
}

var (
	python = need{
		what:     "Python 3.11 or newer with its venv module",
		packages: []string{"python3-venv", "python3.13-venv", "python3.12-venv", "python3.11-venv"},
		find: func(ctx context.Context) string {
			for _, name := range []string{"python3", "python3.14", "python3.13", "python3.12", "python3.11"} {
				// ensurepip is what distributions split off.
				if exec.CommandContext(ctx, name, "-c", "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))").Run() == nil {
					return name
				}
			}
			return ""
		},
	}
	java = need{
		what:     "Java 17 or newer",
		packages: []string{"default-jre-headless", "openjdk-25-jre-headless", "openjdk-21-jre-headless", "openjdk-17-jre-headless"},
		find: func(ctx context.Context) string {
			out, err := exec.CommandContext(ctx, "java", "-version").CombinedOutput()
			major := regexp.MustCompile(`version "(\d+)`).FindSubmatch(out)
			if err != nil || major == nil {
				return ""
			}
			if n, err := strconv.Atoi(string(major[1])); err != nil || n < 17 {
				return ""
			}
			return "java"
		},
	}
	maven = need{
		what:     "Maven",
		packages: []string{"maven"},
		find: func(ctx context.Context) string {
			if exec.CommandContext(ctx, "mvn", "--version").Run() != nil {
				return ""
			}
			return "mvn"
		},
	}
)

// provide makes sure that something satisfies n. Where nothing does, the
// distribution's package manager brings it, if there is one that we know and
// that this user may use.
func (r *Runner) provide(ctx context.Context, n need) error {
	if n.find(ctx) != "" {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err == nil && os.Getuid() == 0 {
		for i, name := range n.packages {
			r.say("installing the package " + name)
			if err := apt(ctx, "install", "-y", "-q", "--no-install-recommends", name); err != nil && i == 0 {
				// The list of packages may be old, or not be there.
				if apt(ctx, "update", "-q") == nil {
					_ = apt(ctx, "install", "-y", "-q", "--no-install-recommends", name) // found or not is what counts
				}
			}
			if n.find(ctx) != "" {
				return nil
			}
		}
	}
	return fmt.Errorf("%w: the emulators need %s: install the package %s", ErrMissing, n.what, n.packages[0])
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return cmd.Run()
}

// Needs makes sure of everything that Start will need: less where the
// emulators are installed already.
func (r *Runner) Needs(ctx context.Context) error {
	emulators, err := r.emulators()
	if err != nil {
		return err
	}
	needs := []need{java}
	for _, e := range emulators {
		if !r.installed(ctx, e) {
			needs = append(needs, e.needs...)
		}
	}
	for _, n := range needs {
		if err := r.provide(ctx, n); err != nil {
			return err
		}
	}
	return nil
}
