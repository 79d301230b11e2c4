// Package telemetry is what every tagstore service reports through: JSON log
// lines by slog, OpenTelemetry metrics on a Prometheus endpoint, and the W3C
// trace context that ties a call to the plugin call that it caused.
//
// Nothing leaves the process by itself: logs go to a writer, metrics are
// fetched. Spans are not exported; they exist so that the ids of a trace that a
// caller began reach the log lines and the plugins behind this process.
package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/tagstore/tagstore/core/config"
)

// maxScrapes bounds how many scrapes are answered at once; more get 503.
const maxScrapes = 4

// Telemetry is one process's way out for what it has to report. Its fields are
// set by New, never nil, and safe for concurrent use.
type Telemetry struct {
	Logger         *slog.Logger
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider

	registry *prometheus.Registry
	meters   *sdkmetric.MeterProvider
	tracers  *sdktrace.TracerProvider
}

// New returns the telemetry of a service that calls itself by this name and
// version. Log lines of at least the level are written to w, one JSON object
// and one Write each; a *slog.LevelVar can change the level later.
//
// New makes W3C trace context (https://www.w3.org/TR/trace-context/) the
// propagator of the process. It sets no other global: pass the providers on.
// A call is sampled when its caller sampled it, and not otherwise.
func New(service, version string, w io.Writer, level slog.Leveler) (*Telemetry, error) {
	const op = "telemetry.New"
	registry := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry))
	if err != nil {
		return nil, broken(op, err)
	}
	if err := errors.Join(
		registry.Register(collectors.NewGoCollector()),
		registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})),
	); err != nil {
		return nil, broken(op, err)
	}
	// The attribute names are those of the OpenTelemetry semantic conventions
	// for a service resource.
	self := resource.NewSchemaless(
		attribute.String("service.name", service),
		attribute.String("service.version", version),
	)
	t := &Telemetry{
		registry: registry,
		meters:   sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithResource(self)),
		tracers: sdktrace.NewTracerProvider(
			sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())), sdktrace.WithResource(self)),
	}
	t.MeterProvider, t.TracerProvider = t.meters, t.tracers
	t.Logger = slog.New(traceHandler{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: readable})}).
		With(slog.String("service", service), slog.String("service_version", version))
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return t, nil
}

// Handler answers with all metrics in the Prometheus text format. It shows
// neither values nor tokens and needs no authentication of its own; it is for
// a listener that only operators reach.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes,
		ErrorLog:            scrapeErrors{t.Logger},
	})
}

// Shutdown ends the providers. Instruments and tracers that were taken from
// them before may still be used and then do nothing. It is called once.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	const op = "telemetry.Shutdown"
	if err := errors.Join(t.meters.Shutdown(ctx), t.tracers.Shutdown(ctx)); err != nil {
		return config.AsError(err, op, config.Key{})
	}
	return nil
}

func broken(op string, err error) error {
	e := config.Errorf(config.Internal, "metrics could not be set up").WithCause(err)
	e.Op = op
	return e
}

// scrapeErrors is where promhttp says what it could not collect.
type scrapeErrors struct{ logger *slog.Logger }

func (s scrapeErrors) Println(v ...any) {
	for _, each := range v {
		if err, ok := each.(error); ok {
			s.logger.Error("metrics could not be collected", slog.Any("error", err))
		}
	}
}
