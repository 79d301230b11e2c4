package pluginhost

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/internal/wire"
)

// tracing makes the spans of the calls of one plugin.
type tracing struct {
	tracer trace.Tracer
	plugin trace.SpanStartEventOption
}

func newTracing(provider trace.TracerProvider, plugin string) tracing {
	return tracing{
		tracer: provider.Tracer("github.com/tagstore/tagstore/core/pluginhost"),
		plugin: trace.WithAttributes(attribute.String("tagstore.plugin", plugin)),
	}
}

// start begins the span of a call within the trace that ctx carries, and makes
// the plugin part of it; the call tells the plugin its tenant too. A call that is
// in no trace begins none. The span must be ended with end.
func (t tracing) start(ctx context.Context, m method, tenant config.Tenant) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, trace.SpanFromContext(ctx)
	}
	ctx, span := t.tracer.Start(ctx, "backend/"+m.String(), trace.WithSpanKind(trace.SpanKindClient), t.plugin)
	return wire.Inject(ctx, tenant), span
}

// end ends a span that start returned. The text of err is not part of it: it
// may name a key.
func (t tracing) end(span trace.Span, err error) {
	if !span.SpanContext().IsValid() {
		return
	}
	if err != nil && span.IsRecording() {
		span.SetStatus(codes.Error, config.CodeOf(err).String())
	}
	span.End()
}
