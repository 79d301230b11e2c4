package intercept

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/tagstore/tagstore/core/errgrpc"
)

// accessLog writes one line for each call when it is over. A line holds
// neither a request, a response, a token nor the text of an error that is the
// caller's own doing.
type accessLog struct{ logger *slog.Logger }

func (l accessLog) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	began := time.Now()
	resp, err := next(ctx, req)
	l.write(ctx, info.FullMethod, time.Since(began), err)
	return resp, err
}

func (l accessLog) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	began := time.Now()
	err := next(srv, stream)
	l.write(stream.Context(), info.FullMethod, time.Since(began), err)
	return err
}

func (l accessLog) write(ctx context.Context, method string, took time.Duration, err error) {
	code := errgrpc.ToStatus(err).Code()
	level := levelOf(code)
	if !l.logger.Enabled(ctx, level) {
		return
	}
	call := CallFrom(ctx)
	attrs := []slog.Attr{
		slog.String("method", method),
		slog.String("code", code.String()),
		slog.Float64("duration_ms", float64(took)/float64(time.Millisecond)),
		slog.String("request_id", call.ID),
	}
	if tenant := call.Tenant(); !tenant.IsZero() {
		attrs = append(attrs, slog.String("tenant", tenant.String()))
	}
	if level >= slog.LevelWarn {
		attrs = append(attrs, slog.String("error", err.Error()))
		if cause := errors.Unwrap(err); cause != nil {
			attrs = append(attrs, slog.String("cause", cause.Error()))
		}
	}
	l.logger.LogAttrs(ctx, level, "call", attrs...)
}

// levelOf parts what works, what its caller got wrong, and what an operator
// has to look at.
func levelOf(code codes.Code) slog.Level {
	switch code {
	case codes.OK:
		return slog.LevelDebug
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return slog.LevelError
	case codes.Unavailable, codes.FailedPrecondition:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}
