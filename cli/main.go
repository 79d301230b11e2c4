// Command tagctl reads and changes configuration from the command line, and
// runs the whole of tagstore on one machine (tagctl dev).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tagstore/tagstore/cli/internal/command"
)

// version and commit are set by the build: -ldflags "-X main.version=...".
var (
	version = "unknown"
	commit  string
)

func main() {
	os.Exit(run())
}

func run() int {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup(1) sets it
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	return command.Run(ctx, command.Process{
		Args: os.Args[1:], Environ: os.Environ(), Version: version, Commit: commit,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Now: time.Now,
	})
}
