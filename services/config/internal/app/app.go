// Package app is the configuration service as a whole: it composes the plugin
// host, the store and the server from the settings, runs them, and takes them
// down again in order.
package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/store"
	"github.com/tagstore/tagstore/core/telemetry"
	"github.com/tagstore/tagstore/services/config/internal/readiness"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

const (
	// name is what the service calls itself in logs and metrics.
	name = "tagstore-config"
	// pollInterval bounds how old the health of a prefix can be.
	pollInterval = 250 * time.Millisecond
	// closeTimeout bounds each step of taking things down that has no setting.
	closeTimeout = 5 * time.Second
)

// Options are what Run gets from its process.
type Options struct {
	Version string
	Environ []string  // in the form of os.Environ
	Out     io.Writer // for log lines, one Write each
	// Force ends a drain at once when it is closed. Nil never does.
	Force <-chan struct{}
	// Reload has the manifest reloaded. Nil never does.
	Reload <-chan os.Signal
}

// Run serves until ctx is done, drains, and returns nil. It returns an error,
// with one line for each problem, when the service can not start or its
// listener fails; whichever way it returns, everything that it started is gone.
//
// It writes one log line with the message "ready" and the bound addresses when
// it serves.
func Run(ctx context.Context, o Options) (err error) {
	s, err := LoadSettings(o.Environ)
	if err != nil {
		return err
	}
	// The start is logged whatever the level, "ready" above all: others wait
	// for that line.
	var level slog.LevelVar
	level.Set(min(s.LogLevel, slog.LevelInfo))
	tel, err := telemetry.New(name, o.Version, o.Out, &level)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, tel.Shutdown(ctx))
	}()
	p, err := prepare(s)
	if err != nil {
		return err
	}
	p.warn(tel.Logger)

	listener, err := listen(ctx, "LISTEN", p.address.String())
	if err != nil {
		return stoppedOr(ctx, err)
	}
	defer listener.Close() // does nothing where the server has closed it
	monitor := readiness.NewMonitor(server.ServiceNames()...)
	management, err := startManagement(ctx, s.ManagementListen, monitor, tel)
	if err != nil {
		return stoppedOr(ctx, err)
	}
	defer func() { err = errors.Join(err, management.close()) }()

	// Before the plugins: its options are checked, and the keys are on their way
	// while the plugins start.
	verifier, err := auth.NewVerifier(s.auth(tel.Logger))
	if err != nil {
		return err
	}
	defer verifier.Close()
	others, err := openOthers(ctx, s.Peers, p.peers, tel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, others.close()) }()

	host, err := pluginhost.Open(ctx, p.layout.plugins(), pluginhost.Options{
		Logger: tel.Logger, SocketDir: s.SocketDir, StartTimeout: s.PluginStartTimeout, MaxFailures: s.maxFailures(), Dev: s.Dev,
		MeterProvider: tel.MeterProvider, TracerProvider: tel.TracerProvider,
	})
	if err != nil {
		return stoppedOr(ctx, err)
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	held, err := cache.New(cache.Options{
		Logger: tel.Logger, MeterProvider: tel.MeterProvider, MaxBytes: int64(s.CacheMB) << 20, TenantShare: float64(s.CacheTenantPercent) / 100,
		CallsPerMinute: s.ReconcileCalls, TokenKey: p.tokenKey, Prepare: server.Prepare, Table: tables[s.CacheTable],
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	reloader, err := newReloader(p, s, tel, monitor, host, held)
	if err != nil {
		return err
	}
	srv, err := server.New(server.Options{
		Store: store.New(reloader.router, store.Options{
			Logger: tel.Logger, MeterProvider: tel.MeterProvider, TokenKey: p.tokenKey,
		}),
		Backends: reloader.backends, Reloader: reloader, Health: monitor.Health(), Verifier: verifier, Limits: p.limits, TLS: p.tls, Dev: s.Dev,
		Replica: p.peers.replica, Peers: others.peers,
		Logger: tel.Logger, MeterProvider: tel.MeterProvider, TracerProvider: tel.TracerProvider,
	})
	if err != nil {
		return err
	}
	return serve(ctx, running{
		settings: s, level: &level, log: tel.Logger, force: o.Force, hangup: o.Reload,
		server: srv, listener: listener, monitor: monitor, management: management, reloader: reloader, verifier: verifier,
		replica: p.peers.replica, others: others,
	})
}

// running is what serve needs of what Run has built.
type running struct {
	settings   Settings
	level      *slog.LevelVar
	log        *slog.Logger
	force      <-chan struct{}
	server     *server.Server
	listener   net.Listener
	monitor    *readiness.Monitor
	management *management
	reloader   *reloader
	hangup     <-chan os.Signal
	verifier   *auth.Verifier
	replica    string
	others     *others
}

// serve runs the server until ctx is done or a listener fails, and drains it.
// Nothing that it starts outlives it.
func serve(ctx context.Context, r running) error {
	var work sync.WaitGroup
	defer work.Wait()
	polling, stopPolling := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPolling()

	served := make(chan error, 1)
	work.Go(func() { served <- r.server.Serve(r.listener) })
	r.monitor.Serve(r.reloader.watched, func() bool { return r.verifier.Ready() == nil })
	work.Go(func() { r.monitor.Run(polling, pollInterval) })
	backends := len(r.reloader.watched)
	reloading, stopReloading := context.WithCancel(ctx)
	defer stopReloading()
	work.Go(func() { r.reloader.run(reloading, r.hangup) })
	if r.settings.Peers.Register {
		defer r.others.deregister(ctx)
		if err := r.others.register(ctx, r.replica, r.listener.Addr()); err != nil {
			r.server.Stop()
			return errors.Join(stoppedOr(ctx, err), <-served)
		}
	}
	r.log.Info("ready",
		slog.String("replica", r.replica),
		slog.String("grpc", r.listener.Addr().String()),
		slog.String("management", r.management.address()),
		slog.Int("backends", backends))
	r.level.Set(r.settings.LogLevel)

	select {
	case <-ctx.Done():
		r.drain(ctx)
		return <-served
	case err := <-served:
		r.server.Stop()
		return err
	case err := <-r.management.failed:
		r.server.Stop()
		return errors.Join(err, <-served)
	}
}

// drain tells everybody to go elsewhere, gives them time to, and then finishes
// what is in flight.
func (r running) drain(ctx context.Context) {
	r.log.Info("draining", slog.Duration("delay", r.settings.DrainDelay), slog.Duration("timeout", r.settings.DrainTimeout))
	r.monitor.Drain()
	var deregistering sync.WaitGroup
	defer deregistering.Wait()
	deregistering.Go(func() { r.others.deregister(ctx) })
	delay := time.NewTimer(r.settings.DrainDelay)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-r.force:
	}
	inFlight, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.settings.DrainTimeout)
	defer cancel()
	drained := make(chan struct{})
	var forcing sync.WaitGroup
	forcing.Go(func() {
		select {
		case <-r.force:
			cancel()
		case <-drained:
		}
	})
	r.server.Drain(inFlight)
	close(drained)
	forcing.Wait()
	r.log.Info("drained")
}

// listen takes the port before anything else is started: that it is in use is
// the likeliest reason why a start fails.
func listen(ctx context.Context, setting, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, (&config.Error{Code: config.FailedPrecondition, Message: Prefix + setting + ": " + err.Error()}).
			WithHint("free the port, or set %s%s to another one (port 0 takes a free one)", Prefix, setting).WithCause(err)
	}
	return l, nil
}

// stoppedOr returns nil for a start that was given up because the process was
// told to stop, else err.
func stoppedOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // giving up was what was asked for
	}
	return err
}
