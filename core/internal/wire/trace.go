package wire

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/tagstore/tagstore/core/config"
)

// Trace context crosses to a plugin as W3C Trace Context says
// (https://www.w3.org/TR/trace-context/): in the metadata of each call. It is
// carried here and not by otelgrpc, which costs as much as the rest of a small
// call and would make spans in a process that sends them nowhere.

// traceParent is the field without which the others mean nothing.
const traceParent = "traceparent"

// Inject returns a context whose outgoing metadata carries, beside what it held
// before, ctx's span context and the tenant that the call is for; ctx itself if
// it has no span context. The tenant stands in the request too, which is what
// counts: here the log of a plugin, an interceptor or a proxy finds it, together
// with the trace, without knowing the requests. A call in no trace goes without,
// since a header costs a twentieth of a small call.
func Inject(ctx context.Context, tenant config.Tenant) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	fields := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, fields)
	var pairs []string
	for name, value := range fields {
		pairs = append(pairs, name, value)
	}
	if !tenant.IsZero() {
		pairs = append(pairs, tenantHeader, tenant.String())
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

// ExtractTrace is the other end: it returns a context with the span context
// that ctx's incoming metadata carries, or ctx itself if there is none.
func ExtractTrace(ctx context.Context) context.Context {
	// Most calls are in no trace, and each look-up of what is not there goes
	// through all that is.
	if len(metadata.ValueFromIncomingContext(ctx, traceParent)) == 0 {
		return ctx
	}
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

const tenantHeader = "x-tagstore-tenant"

// IncomingTenant is the tenant that the metadata of ctx's call names, as it stands
// there; "" for none.
func IncomingTenant(ctx context.Context) string {
	if values := metadata.ValueFromIncomingContext(ctx, tenantHeader); len(values) == 1 {
		return values[0]
	}
	return ""
}
