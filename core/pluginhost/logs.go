package pluginhost

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.opentelemetry.io/otel/trace"

	"github.com/tagstore/tagstore/core/config"
)

const (
	maxLogLine = 64 << 10 // bytes of one line; the rest of it is dropped
	// Lines that wait for a slow log, and their bytes; further ones are dropped.
	maxLogWait  = 1024
	maxLogBytes = 2 << 20
	tailLines   = 10  // lines of stderr that are kept for errors
	tailLine    = 512 // bytes of each of them
	logGrace    = time.Second
)

// logs carries what one plugin process prints to the host's log. It never makes
// the process wait: lines that the log is too slow for are dropped and counted.
type logs struct {
	logger  *slog.Logger
	queue   chan logLine
	waits   atomic.Int64  // bytes of what is in queue
	dropped atomic.Uint64 // since it was last said
	drop    func()        // counts them all
	done    chan struct{} // closed to end forward
	ended   chan struct{} // closed by forward
	started bool

	mu      sync.Mutex
	tail    []string
	inPanic bool // what follows on stderr belongs to a stack
}

type logLine struct {
	level   slog.Level
	message string
	attrs   []slog.Attr
	bytes   int64 // as it came
}

// newLogs returns logs that are to be started. It calls dropped for each line
// that the log did not take.
func newLogs(logger *slog.Logger, dropped func()) *logs {
	return &logs{logger: logger, drop: dropped, queue: make(chan logLine, maxLogWait), done: make(chan struct{}), ended: make(chan struct{})}
}

// start begins to write, once it is known of which process.
func (l *logs) start(pid int) {
	l.started = true
	l.logger = l.logger.With("pid", pid)
	go l.forward()
}

// close writes what waits and ends. A log that is stuck is given up on.
func (l *logs) close() {
	if !l.started {
		return
	}
	close(l.done)
	select {
	case <-l.ended:
	case <-time.After(logGrace):
	}
}

func (l *logs) forward() {
	defer close(l.ended)
	for {
		select {
		case line := <-l.queue:
			l.write(line)
		case <-l.done:
			for {
				select {
				case line := <-l.queue:
					l.write(line)
				default:
					l.reportDropped()
					return
				}
			}
		}
	}
}

func (l *logs) write(line logLine) {
	l.waits.Add(-line.bytes)
	l.logger.LogAttrs(context.Background(), line.level, line.message, line.attrs...) //nolint:sloglint // the plugin's words
	if len(l.queue) == 0 {
		l.reportDropped()
	}
}

func (l *logs) reportDropped() {
	if n := l.dropped.Swap(0); n > 0 {
		l.logger.Warn("the plugin logged faster than the log could take: lines were dropped", "lines", n)
	}
}

func (l *logs) put(line logLine) {
	if l.waits.Add(line.bytes) <= maxLogBytes {
		select {
		case l.queue <- line:
			return
		default:
		}
	}
	l.waits.Add(-line.bytes)
	l.dropped.Add(1)
	l.drop()
}

// stderr takes one line of the process's standard error.
func (l *logs) stderr(raw []byte) {
	line := l.parse(raw)
	line.bytes = int64(len(raw))
	text := line.message
	for _, attr := range line.attrs {
		if attr.Value.Kind() != slog.KindGroup {
			text += " " + attr.String()
			continue
		}
		for _, a := range attr.Value.Group() {
			text += " " + a.String()
		}
	}
	l.mu.Lock()
	l.tail = append(l.tail, clip(text, tailLine))
	if len(l.tail) > tailLines {
		l.tail = l.tail[1:]
	}
	l.mu.Unlock()
	l.put(line)
}

// stdout takes one line that the process printed.
func (l *logs) stdout(raw []byte) {
	l.put(logLine{level: slog.LevelInfo, message: "plugin output", attrs: []slog.Attr{slog.String("line", string(raw))}, bytes: int64(len(raw))})
}

// lastLines returns the end of stderr, "" if there was none.
func (l *logs) lastLines() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.tail, "\n")
}

// parse reads a line of JSON as hclog and pluginmain write them. Anything else
// is taken as it stands. The fields are the plugin's word, so they are kept in
// a group of their own, but for those that say which call a line belongs to.
func (l *logs) parse(raw []byte) logLine {
	if bytes.HasPrefix(raw, []byte("{")) {
		var fields map[string]any
		if json.Unmarshal(raw, &fields) == nil {
			if message, ok := fields["@message"].(string); ok {
				return structured(message, fields)
			}
		}
	}
	text := strings.ToValidUTF8(string(raw), "\uFFFD")
	level := slog.LevelInfo
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.HasPrefix(text, "panic: ") || strings.HasPrefix(text, "fatal error: ") {
		l.inPanic = true
	}
	if l.inPanic {
		level = slog.LevelError
	}
	return logLine{level: level, message: text}
}

func structured(message string, fields map[string]any) logLine {
	line := logLine{level: slog.LevelInfo, message: message}
	name, _ := fields["@level"].(string)
	switch name {
	case "trace":
		line.level = slog.LevelDebug - 4
	case "debug":
		line.level = slog.LevelDebug
	case "warn":
		line.level = slog.LevelWarn
	case "error":
		line.level = slog.LevelError
	}
	var attrs []any
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		switch value, ok := fields[key].(string); {
		case strings.HasPrefix(key, "@"):
		case ok && ofCall(key, value):
			line.attrs = append(line.attrs, slog.String(key, value))
		default:
			attrs = append(attrs, slog.Any(key, fields[key]))
		}
	}
	if len(attrs) > 0 {
		line.attrs = append(line.attrs, slog.Group("fields", attrs...))
	}
	return line
}

// ofCall reports whether a field names the call that a line belongs to, in the
// form that the host's own lines have it in.
func ofCall(key, value string) bool {
	switch key {
	case "tenant":
		_, err := config.ParseOwner(value)
		return err == nil
	case "trace_id":
		_, err := trace.TraceIDFromHex(value)
		return err == nil
	case "span_id":
		_, err := trace.SpanIDFromHex(value)
		return err == nil
	default:
		return false
	}
}

// readLines calls emit with each line of r, without its end and cut off at
// maxLogLine bytes, until r ends. However long a line is, it is read.
func readLines(r io.Reader, emit func([]byte)) {
	buffered := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := buffered.ReadSlice('\n')
		if len(line) > 0 {
			emit(bytes.TrimRight(line, "\r\n"))
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = buffered.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

// lineWriter calls emit with each line that is written to it. What a Go plugin
// prints behind the handshake comes so, in pieces.
type lineWriter struct {
	mu   sync.Mutex
	part []byte
	emit func([]byte)
}

// Write never fails.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			w.part = append(w.part, p[:min(len(p), maxLogLine-len(w.part))]...)
			return n, nil
		}
		w.part = append(w.part, p[:min(i, maxLogLine-len(w.part))]...)
		w.emit(w.part)
		w.part, p = w.part[:0], p[i+1:]
	}
}

// newTransportLogger returns the logger for go-plugin itself. What matters of
// what it says the host says itself, so it is all at debug level.
func newTransportLogger(logger *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard})
	l.RegisterSink(slogSink{logger})
	return l
}

type slogSink struct{ logger *slog.Logger }

// Accept implements hclog.SinkAdapter.
func (s slogSink) Accept(_ string, level hclog.Level, message string, args ...any) {
	if level < hclog.Debug || !s.logger.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	attrs := make([]slog.Attr, 0, len(args)/2)
	for i := 0; i+1 < len(args); i += 2 {
		attrs = append(attrs, slog.String(fmt.Sprint(args[i]), fmt.Sprint(args[i+1])))
	}
	s.logger.LogAttrs(context.Background(), slog.LevelDebug, "go-plugin", append(attrs, slog.String("says", message))...)
}

// clip cuts s to n bytes, at a rune's end.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
