// Command emulators starts and stops the emulators of AWS that the tests use.
// `make emulators` and `make emulators-stop` call it.
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
	"syscall"
	"time"

	"github.com/tagstore/tagstore/emulators/internal/runner"
	"github.com/tagstore/tagstore/emulators/internal/state"
)

const usage = `usage: emulators [-dir DIR] [-files DIR] COMMAND

  start    install what is missing, start what does not run, return when both answer
  stop     stop both
  status   say what runs; the exit code is 0 if both do, 3 if none does, 4 if one does
  needs    make sure of Python, Java and Maven

The exit code is 2 where a program is missing that this could not install.

`

// limit bounds one call: an installation over a slow line is what takes long.
const limit = 20 * time.Minute

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stderr)
	cancel()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out io.Writer) int {
	flags := flag.NewFlagSet("emulators", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprint(out, usage)
		flags.PrintDefaults()
	}
	dir := flags.String("dir", state.Dir, "folder of what is installed, of the logs and of the state")
	files := flags.String("files", "emulators", "folder of the files that pin the emulators")
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
		flags.Usage()
		return 1
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// Absolute: the emulators run elsewhere.
	at, err := filepath.Abs(*dir)
	from, err2 := filepath.Abs(*files)
	if err = errors.Join(err, err2); err != nil {
		fmt.Fprintln(out, "emulators:", err)
		return 1
	}
	r := runner.New(at, from, out)
	code := 0
	switch {
	case flags.Arg(0) == "start":
		err = r.Start(ctx)
	case flags.Arg(0) == "stop":
		err = r.Stop(ctx)
	case flags.Arg(0) == "needs":
		err = r.Needs(ctx)
	case flags.Arg(0) == "status":
		var count int
		count, err = r.Status(ctx)
		code = []int{3, 4, 0}[count]
	default:
		flags.Usage()
		return 1
	}
	switch {
	case errors.Is(err, runner.ErrMissing):
		fmt.Fprintln(out, "emulators:", err)
		return 2
	case err != nil:
		fmt.Fprintln(out, "emulators:", err)
		return 1
	}
	return code
}
