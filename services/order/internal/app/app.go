// Package app is the order service as a whole: it composes the server from the
// settings, runs it, and takes it down again in order.
package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/telemetry"
	"github.com/tagstore/tagstore/services/order/internal/orders"
	"github.com/tagstore/tagstore/services/order/internal/orders/boltstore"
	"github.com/tagstore/tagstore/services/order/internal/orders/dynamostore"
	"github.com/tagstore/tagstore/services/order/internal/server"
)

// name is what the service calls itself in logs and metrics.
const name = "tagstore-order"

// closeTimeout bounds each step of taking things down that has no setting.
const closeTimeout = 5 * time.Second

// Options are what Run gets from its process.
type Options struct {
	Version string
	Environ []string  // in the form of os.Environ
	Out     io.Writer // for log lines, one Write each
}

// Run serves until ctx is done, drains, and returns nil. It returns an error,
// with one line for each problem, when the service can not start or a listener
// fails; whichever way it returns, everything that it started is gone.
//
// It writes one log line with the message "ready" and the bound addresses when
// it serves, whatever the log level. The configuration service and the token
// issuer need not be there by then.
func Run(ctx context.Context, o Options) (err error) {
	s, err := LoadSettings(o.Environ)
	if err != nil {
		return err
	}
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

	svc, err := open(ctx, s, tel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, svc.close()) }()
	return svc.serve(ctx, s, tel, &level)
}

// service is everything that has to be closed.
type service struct {
	api, management net.Listener
	config          *client.Client
	cache           *client.Cache // nil if nothing is held
	verifier        *auth.Verifier
	store           orders.Store // nil if it could not be opened
	handler         http.Handler
	plan            plan
}

// open takes everything that the service needs, and reports all that it can
// not have at once.
func open(ctx context.Context, s Settings, tel *telemetry.Telemetry) (_ *service, err error) {
	svc := &service{}
	var problems [6]error
	svc.plan, problems[0] = s.plan()
	svc.api, problems[1] = listen(ctx, "LISTEN", s.Listen)
	svc.management, problems[2] = listen(ctx, "MANAGEMENT_LISTEN", s.ManagementListen)
	svc.store, problems[3] = s.Orders.open(ctx)
	svc.verifier, problems[4] = auth.NewVerifier(s.auth(tel.Logger))
	svc.config, problems[5] = client.New(s.ConfigTarget, append(svc.plan.config, client.WithTelemetry(tel.MeterProvider, tel.TracerProvider))...)
	problems[5] = of("CONFIG_TARGET", problems[5])
	if err := errors.Join(problems[:]...); err != nil {
		return nil, errors.Join(err, svc.close())
	}
	var values orders.Configuration = svc.config
	if s.ConfigCache {
		if svc.cache, err = client.NewCache(svc.config, s.cache(tel.Logger)); err != nil {
			return nil, errors.Join(err, svc.close())
		}
		values = svc.cache
	}
	svc.handler = server.New(server.Options{
		Book: orders.NewBook(values, svc.store, time.Now), Verifier: svc.verifier, CursorKey: svc.plan.cursorKey,
		Logger: tel.Logger, MeterProvider: tel.MeterProvider, TracerProvider: tel.TracerProvider,
	})
	return svc, nil
}

// close lets go of what open took, as far as it got. The listeners may have
// been closed before, by their servers.
func (svc *service) close() error {
	for _, l := range []net.Listener{svc.api, svc.management} {
		if l != nil {
			_ = l.Close()
		}
	}
	if svc.verifier != nil {
		svc.verifier.Close()
	}
	var problems [3]error
	if svc.cache != nil {
		problems[2] = svc.cache.Close()
	}
	if svc.config != nil {
		problems[0] = svc.config.Close()
	}
	if svc.store != nil {
		problems[1] = svc.store.Close()
	}
	return errors.Join(problems[:]...)
}

// serve runs both listeners until ctx is done or one of them fails. Nothing
// that it starts outlives it.
func (svc *service) serve(ctx context.Context, s Settings, tel *telemetry.Telemetry, level *slog.LevelVar) error {
	var draining atomic.Bool
	ready := func() error {
		if draining.Load() {
			return config.Errorf(config.Unavailable, "draining")
		}
		return svc.verifier.Ready()
	}
	api := newServer(svc.handler, tel.Logger)
	api.TLSConfig = svc.plan.tls
	management := newServer(managementHandler(ready, tel), tel.Logger)

	failed := make(chan error, 2)
	go func() {
		if svc.plan.tls != nil {
			failed <- api.ServeTLS(svc.api, "", "")
			return
		}
		failed <- api.Serve(svc.api)
	}()
	go func() { failed <- management.Serve(svc.management) }()
	tel.Logger.Info("ready",
		slog.String("http", svc.api.Addr().String()), slog.String("management", svc.management.Addr().String()))
	level.Set(s.LogLevel)

	var err error
	running := 2
	select {
	case <-ctx.Done():
		tel.Logger.Info("draining", slog.Duration("delay", s.DrainDelay), slog.Duration("timeout", s.DrainTimeout))
		draining.Store(true)
		select {
		case <-time.After(s.DrainDelay):
		case one := <-failed:
			err = ended(one)
			running--
		}
	case one := <-failed:
		err = ended(one)
		running--
	}
	// The management listener goes last, so that the drain can be watched.
	shutdown(ctx, api, s.DrainTimeout)
	shutdown(ctx, management, closeTimeout)
	for range running {
		err = errors.Join(err, ended(<-failed))
	}
	if err == nil {
		tel.Logger.Info("drained")
	}
	return err
}

// ended drops the error by which a server says that it was told to stop.
func ended(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return config.Errorf(config.Unavailable, "a listener failed: %v", err).WithCause(err)
}

// shutdown waits for the requests in flight and cuts off those that take
// longer. The cut is no failure: clients of a service that stops see it anyway.
func shutdown(ctx context.Context, s *http.Server, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		_ = s.Close()
	}
}

// newServer returns a server that no slow client can hold: a request has 5 s
// to arrive, as long as the work on it may take, and 10 s until it is answered.
func newServer(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// managementHandler is for operators: alive is who answers, ready is who can
// verify tokens and is not about to stop. A configuration service that is away
// makes nobody unready: orders are still shown, and new ones get their 503.
func managementHandler(ready func() error, tel *telemetry.Telemetry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			say(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		say(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", tel.Handler())
	return mux
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // a client that is gone needs no answer
}

func listen(ctx context.Context, setting, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, config.Errorf(config.FailedPrecondition, "%s%s: %v", Prefix, setting, err).
			WithHint("free the port, or choose another one (port 0 takes a free one)").WithCause(err)
	}
	return l, nil
}

// open opens the store that was chosen.
func (s StoreSettings) open(ctx context.Context) (orders.Store, error) {
	if s.Store == StoreDynamoDB {
		store, err := dynamostore.Open(ctx, dynamostore.Options{Table: s.Table, CreateTable: s.CreateTable})
		if err != nil {
			return nil, of("DYNAMODB_TABLE", err)
		}
		return store, nil
	}
	store, err := boltstore.Open(s.Data)
	if err != nil {
		return nil, of("DATA", err)
	}
	return store, nil
}

// of names the setting that an error, or each of joined errors, comes from.
func of(setting string, err error) error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, one := range joined.Unwrap() {
			all = append(all, of(setting, one))
		}
		return errors.Join(all...)
	}
	e := *config.AsError(err, "", config.Key{})
	e.Op = Prefix + setting
	return &e
}
