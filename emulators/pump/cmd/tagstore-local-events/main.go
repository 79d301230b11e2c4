// Command tagstore-local-events is what `make run-aws-local` runs beside the
// services: the events of the emulators' stores and the Lambda function that
// they go to. `tagctl dev --also` starts it and tells it where everything is.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tagstore/tagstore/emulators/lambdaruntime"
	"github.com/tagstore/tagstore/emulators/pump/refreshpath"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "tagstore-local-events: %v\n", err)
		stop()
		os.Exit(1) //nolint:gocritic // what is deferred has been done
	}
}

// The variables that say what to run, which tagctl dev sets or passes on.
const (
	infoVariable     = "TAGSTORE_DEV_INFO"
	cloudMapVariable = "TAGCTL_CLOUDMAP"
)

func run(ctx context.Context, out io.Writer) error {
	path, cloudMap := os.Getenv(infoVariable), os.Getenv(cloudMapVariable)
	if path == "" || cloudMap == "" {
		return errors.New(infoVariable + " and " + cloudMapVariable + " have to be set: it is started by tagctl dev --also, see examples/aws-local")
	}
	info, err := refreshpath.ReadInfo(path)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(out, nil))
	p, err := refreshpath.Start(ctx, refreshpath.Options{
		Info: info, Binary: filepath.Join(filepath.Dir(self), "tagstore-refresh"), CloudMap: cloudMap,
		Environ: os.Environ(), Output: out, Logger: logger,
		// Lambda waits for minutes; nobody at a terminal does.
		RetryDelays: []time.Duration{2 * time.Second, 5 * time.Second},
		Mapping:     lambdaruntime.Mapping{MaximumRetryAttempts: 30, RetryDelay: time.Second},
	})
	if err != nil {
		return err
	}
	logger.Info("ready")
	<-ctx.Done()
	return p.Close()
}
