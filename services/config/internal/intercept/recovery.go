package intercept

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"

	"github.com/tagstore/tagstore/core/config"
)

// Recovery turns a panic into an error with code Internal for that call alone.
// The stack goes to the log and the panic into the counter
// tagstore.server.panics; the caller learns only that it happened.
type Recovery struct {
	logger *slog.Logger
	panics metric.Int64Counter
}

func newRecovery(logger *slog.Logger, meters metric.MeterProvider) (*Recovery, error) {
	panics, err := meters.Meter("github.com/tagstore/tagstore/services/config").Int64Counter("tagstore.server.panics",
		metric.WithDescription("Calls that ended in a panic."))
	if err != nil {
		return nil, config.Errorf(config.Internal, "the counter of panics could not be made").WithCause(err)
	}
	panics.Add(context.Background(), 0) // one that appears with its first event shows no increase for it
	return &Recovery{logger: logger, panics: panics}, nil
}

// Protect calls f and returns its error, or Internal if it panics. Every
// goroutine of a handler runs inside of it: a panic there would otherwise end
// the process.
func (r *Recovery) Protect(ctx context.Context, op string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = r.caught(ctx, op, p)
		}
	}()
	return f()
}

func (r *Recovery) caught(ctx context.Context, op string, p any) error {
	r.panics.Add(ctx, 1)
	r.logger.LogAttrs(ctx, slog.LevelError, "panic",
		slog.String("op", op), slog.String("request_id", CallFrom(ctx).ID),
		slog.String("panic", describe(p)), slog.String("stack", string(debug.Stack())))
	e := config.Errorf(config.Internal, "the server broke while it answered").
		WithHint("report it with the request id")
	e.Op = op
	return e
}

// describe shows the runtime's own panics and only the type of any other,
// whose text might hold a value.
func describe(p any) string {
	if err, ok := p.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", p)
}

func (r *Recovery) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return r.Protect(stream.Context(), info.FullMethod, func() error { return next(srv, stream) })
}
