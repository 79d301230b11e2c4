package intercept_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/config/internal/intercept"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// probe is a service with one unary and one streaming method that the tests
// fill in.
type probe struct {
	healthv1.UnimplementedHealthServer
	handle func(context.Context) error
}

func (p probe) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	return &healthv1.HealthCheckResponse{}, p.handle(ctx)
}

func (p probe) Watch(_ *healthv1.HealthCheckRequest, stream grpc.ServerStreamingServer[healthv1.HealthCheckResponse]) error {
	return p.handle(stream.Context())
}

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// records returns what was logged, one map for each line.
func (l *lines) records(t *testing.T) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []map[string]any
	for line := range strings.Lines(l.text.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("not a JSON line: %q", line)
		}
		out = append(out, r)
	}
	return out
}

type fixture struct {
	client healthv1.HealthClient
	log    *lines
	meters *metric.ManualReader
	spans  *tracetest.InMemoryExporter
}

func start(t *testing.T, handle func(context.Context) error) fixture {
	t.Helper()
	f := fixture{log: &lines{}, meters: metric.NewManualReader(), spans: tracetest.NewInMemoryExporter()}
	chain, err := intercept.New(intercept.Options{
		Logger:         slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		MeterProvider:  metric.NewMeterProvider(metric.WithReader(f.meters)),
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(f.spans)),
		UnaryCap:       time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(chain.Unary(nil), chain.Stream(), grpc.WaitForHandlers(true))
	healthv1.RegisterHealthServer(server, probe{handle: handle})
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///probe", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	f.client = healthv1.NewHealthClient(conn)
	return f
}

// call makes one call of each kind and returns the error and the header.
func (f fixture) call(ctx context.Context, stream bool) (metadata.MD, error) {
	if !stream {
		var header metadata.MD
		_, err := f.client.Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Header(&header))
		return header, err
	}
	s, err := f.client.Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return nil, err
	}
	_, err = s.Recv()
	header, _ := s.Header()
	return header, err
}

func kinds(t *testing.T, run func(t *testing.T, stream bool)) {
	t.Helper()
	for name, stream := range map[string]bool{"unary": false, "stream": true} {
		t.Run(name, func(t *testing.T) { run(t, stream) })
	}
}

func TestRequestID(t *testing.T) {
	valid := regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	for name, c := range map[string]struct {
		sent []string
		kept bool
	}{
		"none":          {nil, false},
		"plain":         {[]string{"Order-1.a_b"}, true},
		"longest":       {[]string{strings.Repeat("a", 64)}, true},
		"too long":      {[]string{strings.Repeat("a", 65)}, false},
		"empty":         {[]string{""}, false},
		"two":           {[]string{"a", "b"}, false},
		"space":         {[]string{"a b"}, false},
		"quote":         {[]string{`a"b`}, false},
		"path":          {[]string{"../x"}, false},
		"log injection": {[]string{`","level":"ERROR`}, false},
	} {
		t.Run(name, func(t *testing.T) {
			kinds(t, func(t *testing.T, stream bool) {
				var seen string
				f := start(t, func(ctx context.Context) error {
					seen = intercept.CallFrom(ctx).ID
					return config.Errorf(config.NotFound, "nothing here")
				})
				ctx := t.Context()
				for _, v := range c.sent {
					ctx = metadata.AppendToOutgoingContext(ctx, intercept.RequestIDKey, v)
				}
				header, err := f.call(ctx, stream)
				if status.Code(err) != codes.NotFound {
					t.Fatal(err)
				}
				got := header.Get(intercept.RequestIDKey)
				if len(got) != 1 || !valid.MatchString(got[0]) || got[0] != seen {
					t.Fatalf("the response header has %q, the handler saw %q", got, seen)
				}
				if kept := len(c.sent) == 1 && got[0] == c.sent[0]; kept != c.kept {
					t.Errorf("%q was kept: %t, want %t", c.sent, kept, c.kept)
				}
			})
		})
	}
}

func TestRequestIDsAreUnique(t *testing.T) {
	f := start(t, func(context.Context) error { return nil })
	seen := map[string]bool{}
	for range 20 {
		header, err := f.call(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		id := header.Get(intercept.RequestIDKey)[0]
		if seen[id] {
			t.Fatalf("%s came twice", id)
		}
		seen[id] = true
	}
}

// A panic ends its own call with Internal, tells the caller nothing of what it
// was, and shows in the log and in a counter. The server lives on.
func TestPanic(t *testing.T) {
	const canary = "s3cr3t"
	for name, p := range map[string]any{"text": canary, "error": errors.New(canary)} {
		t.Run(name, func(t *testing.T) {
			kinds(t, func(t *testing.T, stream bool) {
				panicking := true
				f := start(t, func(context.Context) error {
					if panicking {
						panic(p)
					}
					return config.Errorf(config.NotFound, "nothing here")
				})
				_, err := f.call(t.Context(), stream)
				if status.Code(err) != codes.Internal || strings.Contains(err.Error(), canary) {
					t.Fatalf("the caller got %v", err)
				}
				panicking = false
				if _, err := f.call(t.Context(), stream); status.Code(err) != codes.NotFound {
					t.Fatalf("the next call got %v", err)
				}
				if got := f.panics(t); got != 1 {
					t.Errorf("counted %d panics, want 1", got)
				}
				stack := false
				for _, r := range f.log.records(t) {
					text, _ := r["stack"].(string)
					stack = stack || strings.Contains(text, "intercept_test.go")
				}
				if !stack {
					t.Error("no log line has the stack")
				}
				if strings.Contains(f.log.text.String(), canary) {
					t.Error("the log shows what the panic was about")
				}
			})
		})
	}
}

func TestRuntimePanicIsNamed(t *testing.T) {
	f := start(t, func(context.Context) error {
		var none []error
		return none[len(none)]
	})
	if _, err := f.call(t.Context(), false); status.Code(err) != codes.Internal {
		t.Fatal(err)
	}
	if r := f.log.records(t); !strings.Contains(r[0]["panic"].(string), "index out of range") {
		t.Errorf("logged %v", r[0]["panic"])
	}
}

func (f fixture) panics(t *testing.T) int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := f.meters.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "tagstore.server.panics" {
				return sum.DataPoints[0].Value
			}
		}
	}
	return 0
}

func TestDeadlineIsCapped(t *testing.T) {
	var left time.Duration
	f := start(t, func(ctx context.Context) error {
		deadline, ok := ctx.Deadline()
		if !ok {
			return config.Errorf(config.Internal, "no deadline")
		}
		left = time.Until(deadline)
		return nil
	})
	for name, ask := range map[string]time.Duration{"none": 0, "ten years": 10 * 365 * 24 * time.Hour, "shorter": time.Second} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			want := time.Minute
			if ask > 0 {
				ctx, cancel = context.WithTimeout(ctx, ask)
				want = min(want, ask)
			}
			defer cancel()
			if _, err := f.call(ctx, false); err != nil {
				t.Fatal(err)
			}
			if left > want || left < want-time.Second {
				t.Errorf("the handler has %v left, want about %v", left, want)
			}
		})
	}
}

// A call that comes too late does not reach its handler.
func TestDeadlineInThePast(t *testing.T) {
	chain, err := intercept.New(intercept.Options{Logger: slog.New(slog.DiscardHandler), MeterProvider: metric.NewMeterProvider(), TracerProvider: sdktrace.NewTracerProvider(), UnaryCap: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	_, _, err = chain.Deadline(ctx, "/x/Y")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// One line for each call, at a level that says whether an operator has to look,
// with what was wrong only where it is not the caller's own doing.
func TestAccessLog(t *testing.T) {
	tenant, err := config.ParseTenant("acme-corp")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err   error
		level string
		code  string
		shown bool // the error's text and cause
	}{
		"ok":          {nil, "DEBUG", "OK", false},
		"caller":      {config.Errorf(config.InvalidArgument, "canary").WithCause(errors.New("why")), "INFO", "InvalidArgument", false},
		"not found":   {config.Errorf(config.NotFound, "canary").WithCause(errors.New("why")), "INFO", "NotFound", false},
		"canceled":    {context.Canceled, "INFO", "Canceled", false},
		"unavailable": {config.Errorf(config.Unavailable, "canary").WithCause(errors.New("why")), "WARN", "Unavailable", true},
		"internal":    {config.Errorf(config.Internal, "canary").WithCause(errors.New("why")), "ERROR", "Internal", true},
	} {
		t.Run(name, func(t *testing.T) {
			kinds(t, func(t *testing.T, stream bool) {
				f := start(t, func(ctx context.Context) error {
					intercept.CallFrom(ctx).SetTenant(tenant)
					return c.err
				})
				ctx := metadata.AppendToOutgoingContext(t.Context(), intercept.RequestIDKey, "id-1", "authorization", "Bearer tokencanary")
				_, _ = f.call(ctx, stream)
				records := f.log.records(t)
				if len(records) != 1 {
					t.Fatalf("%d lines: %v", len(records), records)
				}
				r := records[0]
				method := "/grpc.health.v1.Health/Check"
				if stream {
					method = "/grpc.health.v1.Health/Watch"
				}
				for k, want := range map[string]any{
					"msg": "call", "level": c.level, "code": c.code, "method": method, "request_id": "id-1", "tenant": "acme-corp",
				} {
					if r[k] != want {
						t.Errorf("%s is %v, want %v", k, r[k], want)
					}
				}
				if d, ok := r["duration_ms"].(float64); !ok || d < 0 {
					t.Errorf("duration_ms is %v", r["duration_ms"])
				}
				text := f.log.text.String()
				if shown := strings.Contains(text, "canary") && r["cause"] == "why"; shown != c.shown {
					t.Errorf("the error is shown: %t, want %t: %s", shown, c.shown, text)
				}
				if strings.Contains(text, "tokencanary") {
					t.Errorf("the token is in the log: %s", text)
				}
			})
		})
	}
}

// Each call is counted once, by its method and how it ended, and a panic as the
// Internal that its caller got.
func TestCallsAreMeasured(t *testing.T) {
	for want, end := range map[string]func() error{
		"OK":        func() error { return nil },
		"NOT_FOUND": func() error { return config.Errorf(config.NotFound, "none") },
		"INTERNAL":  func() error { panic("broken") },
	} {
		t.Run(want, func(t *testing.T) {
			kinds(t, func(t *testing.T, stream bool) {
				f := start(t, func(context.Context) error { return end() })
				method := "grpc.health.v1.Health/Check"
				if stream {
					method = "grpc.health.v1.Health/Watch"
				}
				for range 3 {
					_, _ = f.call(t.Context(), stream)
				}
				got := f.measured(t)
				if n := got[method+" "+want]; n != 3 || len(got) != 1 {
					t.Errorf("measured %v, want 3 of %s %s", got, method, want)
				}
			})
		})
	}
}

// measured is how often each method ended how.
func (f fixture) measured(t *testing.T) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	// A client may have its answer before the server has written that down.
	eventually(t, func() bool {
		var all metricdata.ResourceMetrics
		if err := f.meters.Collect(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		var total uint64
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				data, ok := m.Data.(metricdata.Histogram[float64])
				if !ok || m.Name != "rpc.server.call.duration" {
					continue
				}
				for _, p := range data.DataPoints {
					method, _ := p.Attributes.Value("rpc.method")
					code, _ := p.Attributes.Value("rpc.response.status_code")
					out[method.AsString()+" "+code.AsString()] = p.Count
					total += p.Count
				}
			}
		}
		return total >= 3
	})
	return out
}

// eventually returns when done does, or after seconds.
func eventually(t *testing.T, done func() bool) {
	t.Helper()
	tick, end := time.NewTicker(time.Millisecond), time.NewTimer(5*time.Second)
	defer tick.Stop()
	defer end.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-end.C:
			return
		}
	}
}

// A call that its caller put into a trace goes on in it; any other is in none.
func TestTraceOfTheCaller(t *testing.T) {
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for name, c := range map[string]struct {
		sent  string
		valid bool
	}{
		"none":    {"", false},
		"broken":  {"00-xyz", false},
		"sampled": {"00-" + id + "-" + parent + "-01", true},
	} {
		t.Run(name, func(t *testing.T) {
			kinds(t, func(t *testing.T, stream bool) {
				var in trace.SpanContext
				f := start(t, func(ctx context.Context) error {
					in = trace.SpanContextFromContext(ctx)
					return nil
				})
				ctx := t.Context()
				if c.sent != "" {
					ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", c.sent)
				}
				_, _ = f.call(ctx, stream)
				if in.IsValid() != c.valid {
					t.Fatalf("the handler is in the trace %v", in)
				}
				if !c.valid {
					return
				}
				if in.TraceID().String() != id || in.SpanID().String() == parent {
					t.Errorf("the handler is in span %v of trace %v, want one of its own in %s", in.SpanID(), in.TraceID(), id)
				}
				eventually(t, func() bool { return len(f.spans.GetSpans()) > 0 })
				if ended := f.spans.GetSpans(); len(ended) != 1 || ended[0].Parent.SpanID().String() != parent {
					t.Errorf("%d spans ended, want one below the caller's", len(ended))
				}
			})
		})
	}
}
