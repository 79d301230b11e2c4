package pluginmain

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/tagstore/tagstore/core/internal/wire"
)

// hostTime is the only form of time that the log lines of a plugin may have.
const hostTime = "2006-01-02T15:04:05.000000Z07:00"

// newLogHandler returns a handler whose lines the host reads: one JSON object
// each, with the names that hashicorp's hclog gave them.
func newLogHandler(w io.Writer) slog.Handler {
	return callHandler{slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level: slog.LevelDebug - 4, // the host decides what it keeps
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch a.Key {
			case slog.TimeKey:
				if t, ok := a.Value.Any().(time.Time); ok {
					return slog.String("@timestamp", t.UTC().Format(hostTime))
				}
			case slog.LevelKey:
				if level, ok := a.Value.Any().(slog.Level); ok {
					return slog.String("@level", hostLevel(level))
				}
			case slog.MessageKey:
				return slog.String("@message", a.Value.String())
			default:
				if strings.HasPrefix(a.Key, "@") {
					a.Key = "_" + a.Key[1:]
				}
			}
			return a
		},
	})}
}

// callHandler adds to each line that is logged with the context of a call the
// tenant and the trace that the call belongs to.
type callHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h callHandler) Handle(ctx context.Context, r slog.Record) error {
	tenant, span := wire.IncomingTenant(ctx), trace.SpanContextFromContext(ctx)
	if tenant == "" && !span.IsValid() {
		return h.Handler.Handle(ctx, r)
	}
	r = r.Clone()
	if tenant != "" {
		r.AddAttrs(slog.String("tenant", tenant))
	}
	if span.IsValid() {
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h callHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return callHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h callHandler) WithGroup(name string) slog.Handler {
	return callHandler{h.Handler.WithGroup(name)}
}

func hostLevel(l slog.Level) string {
	switch {
	case l < slog.LevelDebug:
		return "trace"
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warn"
	default:
		return "error"
	}
}
