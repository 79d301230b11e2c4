package pluginmain

import (
	"io"
	"log/slog"
	"strings"
	"time"
)

// hostTime is the only form of time that the log lines of a plugin may have.
const hostTime = "2006-01-02T15:04:05.000000Z07:00"

// newLogHandler returns a handler whose lines the host reads: one JSON object
// each, with the names that hashicorp's hclog gave them.
func newLogHandler(w io.Writer) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{
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
	})
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
