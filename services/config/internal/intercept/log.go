package intercept

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
)

// accessLog writes one line for each call when it is over. A line holds
// neither a request, a response, a token nor the text of an error that is the
// caller's own doing.
type accessLog struct{ logger *slog.Logger }

func (l accessLog) write(ctx context.Context, method string, code codes.Code, took time.Duration, err error) {
	level := levelOf(code)
	if level == slog.LevelInfo && CallFrom(ctx).quiet {
		level = slog.LevelDebug
	}
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

// isServers reports whether a code is held to be the server's fault by the
// semantic conventions for gRPC servers.
func isServers(code codes.Code) bool {
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	default:
		return false
	}
}
