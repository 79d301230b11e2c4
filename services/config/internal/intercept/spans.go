package intercept

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// traceParent is the field of W3C Trace Context without which the others mean
// nothing (https://www.w3.org/TR/trace-context/).
const traceParent = "traceparent"

// spans gives a call that its caller put into a trace a span in it. A call in
// no trace gets none: it would be sampled by nobody, and its log line has the
// request id.
type spans struct{ tracer trace.Tracer }

func newSpans(p trace.TracerProvider) spans {
	return spans{p.Tracer("github.com/tagstore/tagstore/services/config")}
}

// begin returns the span, nil for none, and ctx with it.
func (s spans) begin(ctx context.Context, method string) (context.Context, trace.Span) {
	if len(metadata.ValueFromIncomingContext(ctx, traceParent)) == 0 {
		return ctx, nil
	}
	fields := propagation.MapCarrier{}
	for _, name := range (propagation.TraceContext{}).Fields() {
		if values := metadata.ValueFromIncomingContext(ctx, name); len(values) == 1 {
			fields[name] = values[0]
		}
	}
	ctx = propagation.TraceContext{}.Extract(ctx, fields)
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, nil
	}
	name := strings.TrimPrefix(method, "/")
	return s.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("rpc.system.name", "grpc"), attribute.String("rpc.method", name)))
}

// end ends the span, if there is one, with the outcome of its call.
func end(span trace.Span, s *status.Status) {
	if span == nil {
		return
	}
	if isServers(s.Code()) {
		span.SetStatus(otelcodes.Error, s.Message())
	}
	span.End()
}
