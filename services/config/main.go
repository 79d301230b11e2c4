// Command tagstore-config is the configuration service: it answers
// tagstore.v1.ConfigService and AdminService over gRPC from the backends that
// its manifest names, each a plugin process of its own. All settings come from
// the environment; -help lists them.
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

	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/telemetry"
	"github.com/tagstore/tagstore/services/config/internal/app"
)

// version is set when a release is linked.
var version = "dev"

func main() { os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)) }

// The exit codes.
const (
	exitOK     = 0 // told to stop, and stopped
	exitFailed = 1 // could not start, or could not go on
	exitUsage  = 2 // started wrongly
)

// run is main with its surroundings passed in. Log lines go to stdout, what
// kept the service from running to stderr, one line for each problem.
func run(args, environ []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("tagstore-config", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	showVersion := flags.Bool("version", false, "print the version and exit")
	healthCheck := flags.Bool("healthcheck", false, "ask the service that runs with these settings whether it is ready, and exit")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, _ = fmt.Fprintf(stdout, "usage: tagstore-config [-help | -version | -healthcheck]\n\nSettings come from the environment:\n\n%s", app.Usage())
		return exitOK
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
		fallthrough
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "tagstore-config: %v (-help lists the settings)\n", err)
		return exitUsage
	}
	if *showVersion {
		_, _ = fmt.Fprintln(stdout, "tagstore-config", version)
		return exitOK
	}
	if *healthCheck {
		s, err := app.LoadSettings(environ)
		if err == nil {
			err = telemetry.AskReady(context.Background(), s.ManagementListen)
		}
		if err != nil {
			_, _ = fmt.Fprintf(stderr, "tagstore-config: %v\n", err)
			return exitFailed
		}
		return exitOK
	}
	if err := pluginhost.Protect(); err != nil {
		_, _ = fmt.Fprintf(stderr, "tagstore-config: it can not be closed to its plugins: %v\n", err)
		return exitFailed
	}
	ctx, force, release := stopSignals()
	defer release()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	if err := app.Run(ctx, app.Options{Version: version, Environ: environ, Out: stdout, Force: force, Reload: hangup}); err != nil {
		_, _ = fmt.Fprintf(stderr, "tagstore-config: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// stopSignals returns a context that the first SIGTERM or SIGINT ends and a
// channel that the second closes. A third has its default effect: it kills.
func stopSignals() (ctx context.Context, force <-chan struct{}, release func()) {
	ctx, cancel := context.WithCancel(context.Background())
	forced, released, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		defer close(done)
		for _, act := range []func(){cancel, func() { close(forced) }} {
			select {
			case <-signals:
				act()
			case <-released:
				return
			}
		}
		signal.Stop(signals)
	}()
	return ctx, forced, func() {
		signal.Stop(signals)
		close(released)
		<-done
		cancel()
	}
}
