package pluginmain

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/internal/handshake"
)

const (
	// What a plugin without a host that waits for its end gives the calls that
	// run and its store. Whoever runs containers kills behind 30 s most often.
	aloneDrainTime = 10 * time.Second
	aloneCloseTime = 5 * time.Second
	// aloneDialTime bounds the question whether anybody listens at a socket.
	aloneDialTime = time.Second
)

// serveAlone serves on a socket until SIGTERM or SIGINT.
func serveAlone(path, name, version string, schema json.RawMessage, open driver.Opener) (exit int) {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, os.Interrupt)
	syscall.Umask(0o077) // the socket is for this user and root
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("plugin", name)
	slog.SetDefault(logger)

	listener, err := listenAlone(path)
	if err != nil {
		logger.Error("the plugin can not listen at its socket", "socket", path, "error", err)
		return 1
	}
	s := newServer(name, version, open)
	s.schema = schema
	transport := s.grpcServer(nil)
	for _, p := range protocols {
		p.register(transport, s)
	}
	serving := health.NewServer()
	serving.SetServingStatus(handshake.HealthService, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(transport, serving)
	served := make(chan error, 1)
	go func() { served <- transport.Serve(listener) }()
	logger.Info("plugin serves", "version", version, "socket", path, "address", "unix://"+path)

	select {
	case <-told:
		s.drain(transport, aloneDrainTime)
	case err := <-served:
		logger.Error("the plugin's socket failed", "error", err)
		exit = 1
	}
	s.stop()
	if err := s.close(aloneCloseTime); err != nil {
		logger.Error("the backend did not close cleanly", "error", err)
		return 1
	}
	return exit
}

// listenAlone takes a socket, and takes over the file of a process that is dead.
func listenAlone(path string) (net.Listener, error) {
	listener, err := net.Listen("unix", path) //nolint:noctx // it waits for nothing
	if !errors.Is(err, syscall.EADDRINUSE) {
		return listener, err
	}
	info, statErr := os.Lstat(path)
	if statErr != nil || info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("there is something else than a socket: %w", err)
	}
	conn, dialErr := net.DialTimeout("unix", path, aloneDialTime) //nolint:noctx,gosec // bounded by its timeout; a path that whoever runs the plugin gave
	if dialErr == nil {
		conn.Close()
		return nil, fmt.Errorf("another process listens there: %w", err)
	}
	if !errors.Is(dialErr, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("whether another process listens there can not be told: %w", dialErr)
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path) //nolint:noctx // as above
}
