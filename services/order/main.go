// Command tagstore-order is the demo consumer of tagstore: a REST service that
// places orders by the configuration of the caller's tenant. All settings come
// from the environment; -help lists them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/tagstore/tagstore/core/telemetry"
	"github.com/tagstore/tagstore/services/order/internal/app"
)

// version is set when a release is linked.
var version = "dev"

// The exit codes.
const (
	exitOK     = 0 // told to stop, and stopped
	exitFailed = 1 // could not start, or could not go on
	exitUsage  = 2 // started wrongly
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	// The first signal drains, a second one kills.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is main with its surroundings passed in. Log lines go to stdout, what
// kept the service from running to stderr, one line for each problem.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("tagstore-order", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	showVersion := flags.Bool("version", false, "print the version and exit")
	healthCheck := flags.Bool("healthcheck", false, "ask the service that runs with these settings whether it is ready, and exit")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = fmt.Fprintf(stdout, "usage: tagstore-order [-help | -version | -healthcheck]\n\nSettings come from the environment:\n\n%s", app.Usage())
		return exitOK
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "tagstore-order: %v (-help lists the settings)\n", err)
		return exitUsage
	case *showVersion:
		_, _ = fmt.Fprintln(stdout, "tagstore-order", version)
		return exitOK
	}
	if *healthCheck {
		s, err := app.LoadSettings(environ)
		if err == nil {
			err = telemetry.AskReady(ctx, s.ManagementListen)
		}
		if err != nil {
			_, _ = fmt.Fprintf(stderr, "tagstore-order: %v\n", err)
			return exitFailed
		}
		return exitOK
	}
	if err := app.Run(ctx, app.Options{Version: version, Environ: environ, Out: stdout}); err != nil {
		_, _ = fmt.Fprintf(stderr, "tagstore-order: %v\n", err)
		return exitFailed
	}
	return exitOK
}
