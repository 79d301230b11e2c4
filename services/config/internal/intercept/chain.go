package intercept

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
)

// Options are what the interceptors need. All fields are required, save those
// that say otherwise.
type Options struct {
	Logger         *slog.Logger
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider
	// UnaryCap is the most time that a unary call gets, whatever deadline its
	// caller set. Streams are bounded by what opens them.
	UnaryCap time.Duration
	// Bounded are the full names of the methods whose handlers call Bound
	// themselves, as soon as they may have to wait. May be nil.
	Bounded map[string]bool
}

// Chain is what stands around the handlers. What is passed to Unary and Stream
// runs inside of it, next to the handler.
type Chain struct {
	log      accessLog
	recovery *Recovery
	measure  *measure
	spans    spans
	unaryCap time.Duration
	bounded  map[string]bool
}

// New returns a Chain.
func New(o Options) (*Chain, error) {
	recovery, err := newRecovery(o.Logger, o.MeterProvider)
	if err != nil {
		return nil, err
	}
	measure, err := newMeasure(o.MeterProvider)
	if err != nil {
		return nil, err
	}
	return &Chain{
		log: accessLog{o.Logger}, recovery: recovery, measure: measure, spans: newSpans(o.TracerProvider),
		unaryCap: o.UnaryCap, bounded: o.Bounded,
	}, nil
}

// Recovery returns what turns panics into errors, for goroutines that a
// handler starts.
func (c *Chain) Recovery() *Recovery { return c.recovery }

// Unary returns the option that installs the chain around unary handlers, with
// inner, which may be nil, next to them. All of it is one interceptor: a chain of them costs a
// small call a closure each.
func (c *Chain) Unary(inner grpc.UnaryServerInterceptor) grpc.ServerOption {
	return grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		return c.unary(ctx, req, info, inner, next)
	})
}

func (c *Chain) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, inner grpc.UnaryServerInterceptor, next grpc.UnaryHandler) (resp any, err error) {
	began := time.Now()
	ctx, span := c.spans.begin(ctx, info.FullMethod)
	ctx, err = begin(ctx)
	if err != nil {
		return nil, errgrpc.ToStatus(err).Err()
	}
	defer func() {
		if p := recover(); p != nil {
			err = c.recovery.caught(ctx, info.FullMethod, p)
		}
		if err != nil {
			resp = nil
		}
		err = c.finish(ctx, info.FullMethod, began, span, err)
	}()
	bound, cancel, err := c.Deadline(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	defer cancel()
	if inner == nil {
		return next(bound, req)
	}
	return inner(bound, req, info, next)
}

// Deadline caps the time of a call and refuses one whose time is already up,
// before anything is done for it.
func (c *Chain) Deadline(ctx context.Context, method string) (context.Context, context.CancelFunc, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, config.AsError(err, method, config.Key{})
	}
	if c.bounded[method] {
		return ctx, func() {}, nil
	}
	ctx, cancel := Bound(ctx, c.unaryCap)
	return ctx, cancel, nil
}

// finish writes down how a call ended, and returns its error as it is sent.
func (c *Chain) finish(ctx context.Context, method string, began time.Time, span trace.Span, err error) error {
	took := time.Since(began)
	var how *status.Status // nil is OK, and costs nothing
	if err != nil {
		how = errgrpc.ToStatus(err)
	}
	c.measure.record(ctx, method, how.Code(), took)
	c.log.write(ctx, method, how.Code(), took, err)
	end(span, how)
	return how.Err()
}

// Part is one of the calls that a stream carries. It is their context, too.
type Part struct {
	callContext

	chain  *Chain
	method string
	began  time.Time
}

// Begin begins a part of a stream, whose context ctx is. The part belongs to the
// tenant of the stream, has this request id, and is logged and counted as a call
// of method; whoever begins it ends it, and recovers what panics in between.
func (c *Chain) Begin(ctx context.Context, method, id string) *Part {
	return &Part{
		callContext: callContext{Context: ctx, call: Call{ID: id, tenant: CallFrom(ctx).tenant}},
		chain:       c, method: method, began: time.Now(),
	}
}

// End writes down how the part ended, and returns its error as it is sent.
func (p *Part) End(err error) error {
	return p.chain.finish(p, p.method, p.began, nil, err)
}

// PartID is the request id of a part: what its caller chose, if that is valid, or
// else the stream's own with the part's number behind it.
func PartID(ctx context.Context, chosen string, number uint64) string {
	if validRequestID(chosen) {
		return chosen
	}
	return CallFrom(ctx).ID + "." + strconv.FormatUint(number, 10)
}

// Bound returns ctx with a deadline that is at most this far away.
func Bound(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= most {
		return ctx, func() {} // whoever set it ends it, and a timer more would change nothing
	}
	return context.WithTimeout(ctx, most)
}

// Stream returns the option that installs the chain around stream handlers.
func (c *Chain) Stream(inner ...grpc.StreamServerInterceptor) grpc.ServerOption {
	return grpc.ChainStreamInterceptor(append([]grpc.StreamServerInterceptor{c.stream, c.recovery.stream}, inner...)...)
}

func (c *Chain) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	began := time.Now()
	ctx, span := c.spans.begin(stream.Context(), info.FullMethod)
	call, err := begin(ctx)
	if err != nil {
		return errgrpc.ToStatus(err).Err()
	}
	return c.finish(call, info.FullMethod, began, span, next(srv, WithContext(call, stream)))
}
