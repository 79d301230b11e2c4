package wire

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// Trace context crosses to a plugin as W3C Trace Context says
// (https://www.w3.org/TR/trace-context/): in the metadata of each call. It is
// carried here and not by otelgrpc, which costs as much as the rest of a small
// call and would make spans in a process that sends them nowhere.

// InjectTrace returns a context whose outgoing metadata carries ctx's span
// context, or ctx itself if it has none.
func InjectTrace(ctx context.Context) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	fields := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, fields)
	for name, value := range fields {
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	return ctx
}

// ExtractTrace is the other end: it returns a context with the span context
// that ctx's incoming metadata carries, or ctx itself if there is none.
func ExtractTrace(ctx context.Context) context.Context {
	fields := propagation.MapCarrier{}
	for _, name := range (propagation.TraceContext{}).Fields() {
		if values := metadata.ValueFromIncomingContext(ctx, name); len(values) == 1 {
			fields[name] = values[0]
		}
	}
	if len(fields) == 0 {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, fields)
}
