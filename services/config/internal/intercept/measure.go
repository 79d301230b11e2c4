package intercept

import (
	"context"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	"github.com/tagstore/tagstore/core/config"
)

// measure is the metric rpc.server.call.duration of the OpenTelemetry semantic
// conventions. What tells its series apart is made once for each method and
// code, and not with each call.
type measure struct {
	duration metric.Float64Histogram

	mu     sync.Mutex
	series atomic.Pointer[map[string]*series] // by full method; replaced, never changed
}

// series are the options of one method, by code.
type series [int(codes.Unauthenticated) + 1][]metric.RecordOption

func newMeasure(meters metric.MeterProvider) (*measure, error) {
	duration, err := meters.Meter("github.com/tagstore/tagstore/services/config").Float64Histogram("rpc.server.call.duration",
		metric.WithUnit("s"), metric.WithDescription("Time that a call took in its handler, checks included."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10))
	if err != nil {
		return nil, config.Errorf(config.Internal, "the histogram of calls could not be made").WithCause(err)
	}
	m := &measure{duration: duration}
	m.series.Store(&map[string]*series{})
	return m, nil
}

// record notes one call. The method is one that is registered: no caller makes
// up names here.
func (m *measure) record(ctx context.Context, method string, code codes.Code, took time.Duration) {
	of := (*m.series.Load())[method]
	if of == nil {
		of = m.add(method)
	}
	if int(code) >= len(of) {
		code = codes.Unknown
	}
	m.duration.Record(ctx, took.Seconds(), of[code]...)
}

func (m *measure) add(method string) *series {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := *m.series.Load()
	if of := known[method]; of != nil {
		return of
	}
	of := &series{}
	for c := range of {
		name := code.Code(c).String()
		attributes := []attribute.KeyValue{
			attribute.String("rpc.system.name", "grpc"),
			attribute.String("rpc.method", strings.TrimPrefix(method, "/")),
			attribute.String("rpc.response.status_code", name),
		}
		if isServers(codes.Code(c)) {
			attributes = append(attributes, attribute.String("error.type", name))
		}
		of[c] = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}
	}
	next := maps.Clone(known)
	next[method] = of
	m.series.Store(&next)
	return of
}
