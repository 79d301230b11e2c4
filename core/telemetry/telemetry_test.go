package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fresh returns a Telemetry and what it logs.
func fresh(t *testing.T, level slog.Leveler) (*telemetry.Telemetry, *bytes.Buffer) {
	t.Helper()
	var logged bytes.Buffer
	tel, err := telemetry.New("tagstore-test", "1.2.3", &logged, level)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return tel, &logged
}

func scrape(t *testing.T, tel *telemetry.Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape answered %d:\n%s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestMetricsAreServed(t *testing.T) {
	tel, _ := fresh(t, slog.LevelInfo)
	counter, err := tel.MeterProvider.Meter("test").Int64Counter("tagstore.things")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3)
	body := scrape(t, tel)
	for _, want := range []string{
		"tagstore_things_total{", "} 3",
		`service_name="tagstore-test"`, `service_version="1.2.3"`,
		"go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("scrape lacks %q:\n%s", want, body)
		}
	}
}

// Two services in one process, as tests run them, do not share metrics.
func TestRegistriesAreSeparate(t *testing.T) {
	one, _ := fresh(t, slog.LevelInfo)
	other, _ := fresh(t, slog.LevelInfo)
	counter, err := one.MeterProvider.Meter("test").Int64Counter("only.one")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 1)
	if strings.Contains(scrape(t, other), "only_one") {
		t.Error("the other telemetry shows a metric that is not its own")
	}
}

func TestLogLineIsOneJSONObject(t *testing.T) {
	tel, logged := fresh(t, slog.LevelInfo)
	tel.Logger.Info("hello", slog.String("key", "a\nb\x1b[31m"), slog.Duration("took", 1500*time.Millisecond))
	tel.Logger.Debug("hidden")
	line := logged.String()
	if strings.Count(line, "\n") != 1 || strings.ContainsRune(line, '\x1b') {
		t.Fatalf("not exactly one clean line: %q", line)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{
		"msg": "hello", "level": "INFO", "service": "tagstore-test", "service_version": "1.2.3", "took": "1.5s", "key": "a\nb\x1b[31m",
	} {
		if got[k] != want {
			t.Errorf("%s is %q, want %q", k, got[k], want)
		}
	}
}

func TestLevelCanChangeWhileRunning(t *testing.T) {
	var level slog.LevelVar
	tel, logged := fresh(t, &level)
	tel.Logger.Debug("before")
	level.Set(slog.LevelDebug)
	tel.Logger.Debug("after")
	if got := logged.String(); strings.Contains(got, "before") || !strings.Contains(got, "after") {
		t.Errorf("logged %s", got)
	}
}

// The trace that a caller began goes on: through a span of ours, onto the next
// hop's headers, and into the log line, groups and attributes or not.
func TestTraceContextPassesThrough(t *testing.T) {
	const traceID = "0af7651916cd43dd8448eb211c80319c"
	tel, logged := fresh(t, slog.LevelInfo)
	in := propagation.MapCarrier{"traceparent": "00-" + traceID + "-b7ad6b7169203331-01"}
	ctx := otel.GetTextMapPropagator().Extract(t.Context(), in)
	ctx, span := tel.TracerProvider.Tracer("test").Start(ctx, "hop")
	defer span.End()

	out := propagation.MapCarrier{}
	otel.GetTextMapPropagator().Inject(ctx, out)
	if got := out["traceparent"]; !strings.HasPrefix(got, "00-"+traceID+"-") || !strings.HasSuffix(got, "-01") {
		t.Errorf("the next hop gets traceparent %q", got)
	}
	tel.Logger.With(slog.Int("n", 1)).WithGroup("g").InfoContext(ctx, "traced")
	if !strings.Contains(logged.String(), traceID) {
		t.Errorf("the log line lacks the trace id: %s", logged)
	}
}

func TestUntracedCallsAreNotSampled(t *testing.T) {
	tel, logged := fresh(t, slog.LevelInfo)
	ctx, span := tel.TracerProvider.Tracer("test").Start(t.Context(), "root")
	defer span.End()
	if sc := trace.SpanContextFromContext(ctx); !sc.IsValid() || sc.IsSampled() {
		t.Errorf("span context valid %t sampled %t, want valid and not sampled", sc.IsValid(), sc.IsSampled())
	}
	tel.Logger.InfoContext(t.Context(), "outside")
	if strings.Contains(logged.String(), "trace_id") {
		t.Errorf("a line outside of any trace has a trace id: %s", logged)
	}
}

// Shutdown ends the providers once; what was taken from them stays usable.
func TestShutdown(t *testing.T) {
	tel, err := telemetry.New("tagstore-test", "1", io.Discard, slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	counter, err := tel.MeterProvider.Meter("test").Int64Counter("c")
	if err != nil {
		t.Fatal(err)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 1)
	if err := tel.Shutdown(t.Context()); !errors.Is(err, config.Unknown) {
		t.Errorf("second Shutdown: %v, want an unclassified error", err)
	}
}
