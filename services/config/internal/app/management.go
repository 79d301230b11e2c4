package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/telemetry"
	"github.com/tagstore/tagstore/services/config/internal/readiness"
)

// management is the HTTP listener for operators. It is up before the plugins
// are started and down after they have ended, so that both can be watched.
type management struct {
	server   *http.Server
	listener net.Listener
	failed   chan error
	done     chan struct{}
}

func startManagement(ctx context.Context, address string, monitor *readiness.Monitor, tel *telemetry.Telemetry) (*management, error) {
	listener, err := listen(ctx, "MANAGEMENT_LISTEN", address)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", monitor.Healthz)
	mux.HandleFunc("GET /readyz", monitor.Readyz)
	mux.Handle("GET /metrics", tel.Handler())
	m := &management{
		listener: listener, failed: make(chan error, 1), done: make(chan struct{}),
		server: &http.Server{
			Handler:           mux,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       5 * time.Second,
			WriteTimeout:      10 * time.Second,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          slog.NewLogLogger(tel.Logger.Handler(), slog.LevelWarn),
		},
	}
	go func() {
		defer close(m.done)
		if err := m.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			m.failed <- &config.Error{
				Op: "app.management", Code: config.Unavailable, Message: "the management listener failed", Err: err,
			}
		}
	}()
	return m, nil
}

func (m *management) address() string { return m.listener.Addr().String() }

// close waits a moment for requests in flight and then cuts them off.
func (m *management) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := m.server.Shutdown(ctx); err != nil {
		_ = m.server.Close() // closes the connections that Shutdown gave up on
	}
	<-m.done
	return nil
}
