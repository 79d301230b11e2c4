// Package server is the gRPC face of the configuration service: the services,
// the interceptors around them and the limits. Wire types do not leave it.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/store"
	"github.com/tagstore/tagstore/services/config/internal/access"
	"github.com/tagstore/tagstore/services/config/internal/intercept"
	"github.com/tagstore/tagstore/services/config/internal/peers"
)

// ServiceNames are the gRPC services whose health is that of the process.
func ServiceNames() []string {
	return []string{tagstorev1.ConfigService_ServiceDesc.ServiceName, tagstorev1.AdminService_ServiceDesc.ServiceName}
}

// Options are what a Server is made of. All fields are required, save those
// that say otherwise.
type Options struct {
	Store *store.Store
	// Backends returns those that there are now, by name. It must not block.
	Backends func() []Backend
	Health   healthv1.HealthServer
	Verifier access.Verifier
	Limits   Limits
	Replica  string // what this process calls itself in receipts; may be empty
	// Peers are told of every change; nil where there are none. They are the
	// caller's to close, after the Server.
	Peers *peers.Peers

	// Reloader reloads the manifest; nil where there is none.
	Reloader Reloader

	TLS *tls.Config // nil: plaintext
	Dev bool        // serve reflection, to everybody

	Logger         *slog.Logger
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider

	now func() time.Duration // the clock of the tenants' rates; nil: the system's
}

// Server serves on one listener. Make it with New, run it with Serve, end it
// with Drain or Stop.
type Server struct {
	grpc    *grpc.Server
	streams *streams
}

// New returns a Server, or an error where an RPC has no row in the method
// table.
func New(o Options) (*Server, error) {
	const op = "server.New"
	chain, err := intercept.New(intercept.Options{
		Logger: o.Logger, MeterProvider: o.MeterProvider, TracerProvider: o.TracerProvider,
		UnaryCap: o.Limits.UnaryCap, Bounded: bounded(),
	})
	if err != nil {
		return nil, config.AsError(err, op, config.Key{})
	}
	table := methods(o.Dev)
	perTenant, err := newTenantRate(o.Limits.TenantRate, o.Limits.TenantBurst, o.Logger, o.MeterProvider)
	if err != nil {
		return nil, config.AsError(err, op, config.Key{})
	}
	var meter access.Meter
	if perTenant != nil {
		meter = perTenant
		if o.now != nil {
			perTenant.buckets.now = o.now
		}
	}
	guard := access.NewGuard(table, o.Verifier, meter)
	streams := newStreams(o.Limits.WatchesPerTenant, o.Limits.StreamsPerConnection)
	options := append(o.Limits.options(),
		grpc.ForceServerCodecV2(newCodec()),
		chain.Unary(guard.Unary),
		chain.Stream(guard.Stream, streams.intercept),
	)
	if o.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(o.TLS)))
	}
	s := &Server{grpc: grpc.NewServer(options...), streams: streams}
	service := &configService{
		store: o.Store, recovery: chain.Recovery(), limits: o.Limits, peers: o.Peers,
		chain: chain, guard: guard, rate: perTenant, drained: streams.drained,
	}
	s.grpc.RegisterService(service.description(), service)
	tagstorev1.RegisterAdminServiceServer(s.grpc, &adminService{
		backends: o.Backends, recovery: chain.Recovery(), store: o.Store, replica: o.Replica,
		refreshes: newRates(o.Limits.RefreshesPerTenant, o.Limits.RefreshBurst), reloader: o.Reloader,
	})
	healthv1.RegisterHealthServer(s.grpc, o.Health)
	if o.Dev {
		reflection.Register(s.grpc)
	}
	if err := table.Check(s.grpc.GetServiceInfo()); err != nil {
		return nil, err
	}
	return s, nil
}

// Serve accepts connections until Drain or Stop, and then returns nil. It
// closes the listener.
func (s *Server) Serve(listener net.Listener) error {
	if err := s.grpc.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return &config.Error{Op: "server.Serve", Code: config.Unavailable, Message: "the listener failed", Err: err}
	}
	return nil
}

// Drain ends every stream with Unavailable, so that its client resumes
// elsewhere, accepts nothing new and waits for the calls in flight. What is
// left when ctx is done is cut off.
func (s *Server) Drain(ctx context.Context) {
	s.streams.drain()
	defer context.AfterFunc(ctx, s.grpc.Stop)()
	s.grpc.GracefulStop()
}

// Stop ends everything at once.
func (s *Server) Stop() {
	s.streams.drain()
	s.grpc.Stop()
}
