package intercept

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
)

// Options are what the interceptors need. All fields are required.
type Options struct {
	Logger        *slog.Logger
	MeterProvider metric.MeterProvider
	// UnaryCap is the most time that a unary call gets, whatever deadline its
	// caller set. Streams are bounded by what opens them.
	UnaryCap time.Duration
}

// Chain is the interceptors in their order. What is passed to Unary and Stream
// runs inside of them, next to the handler.
type Chain struct {
	log      accessLog
	recovery *Recovery
	unaryCap time.Duration
}

// New returns a Chain.
func New(o Options) (*Chain, error) {
	recovery, err := newRecovery(o.Logger, o.MeterProvider)
	if err != nil {
		return nil, err
	}
	return &Chain{log: accessLog{o.Logger}, recovery: recovery, unaryCap: o.UnaryCap}, nil
}

// Recovery returns what turns panics into errors, for goroutines that a
// handler starts.
func (c *Chain) Recovery() *Recovery { return c.recovery }

// Unary returns the option that installs the chain around unary handlers.
func (c *Chain) Unary(inner ...grpc.UnaryServerInterceptor) grpc.ServerOption {
	return grpc.ChainUnaryInterceptor(append([]grpc.UnaryServerInterceptor{
		errgrpc.UnaryServer, requestIDUnary, c.log.unary, c.recovery.unary, c.Deadline,
	}, inner...)...)
}

// Stream returns the option that installs the chain around stream handlers.
func (c *Chain) Stream(inner ...grpc.StreamServerInterceptor) grpc.ServerOption {
	return grpc.ChainStreamInterceptor(append([]grpc.StreamServerInterceptor{
		errgrpc.StreamServer, requestIDStream, c.log.stream, c.recovery.stream,
	}, inner...)...)
}

// Deadline caps the time of a call and refuses one whose time is already up,
// before anything is done for it.
func (c *Chain) Deadline(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, config.AsError(err, info.FullMethod, config.Key{})
	}
	ctx, cancel := context.WithTimeout(ctx, c.unaryCap)
	defer cancel()
	return next(ctx, req)
}
