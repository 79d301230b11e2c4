package pluginmain

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/tagstore/tagstore/core/driver"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/handshake"
)

// How long the steps of an orderly end may take. Together they stay below what
// the host waits for before it kills.
const (
	drainTime  = time.Second
	closeTime  = 500 * time.Millisecond
	orphanPoll = time.Second
)

// exitUsage is the exit code of a plugin that was run by hand.
const exitUsage = 2

// Plugin says what a plugin process serves.
type Plugin[O any] struct {
	// Name is the kind of store, such as "local". It must not be empty.
	Name string
	// Version is the version of this build, for logs and status.
	Version string
	// Open opens the store. Options is a struct with json tags, decoded from
	// the options of the manifest: an option that it does not have is refused
	// before Open is called. Open reports everything else that is wrong with
	// them at once, with code InvalidArgument. It is called at most once, and
	// its context ends when it returns.
	Open func(ctx context.Context, options O) (driver.Backend, error)
}

// Serve runs the plugin until its host ends it. It never returns.
//
// Started by anybody but a host, it says on stderr what it is and exits with
// code 2.
func Serve[O any](p Plugin[O]) {
	names, _ := optionNames(reflect.TypeFor[O]())
	if os.Getenv(handshake.CookieKey) != handshake.CookieValue {
		usage(os.Stderr, filepath.Base(os.Args[0]), p.Name, p.Version, names)
		os.Exit(exitUsage)
	}
	os.Exit(serve(p.Name, p.Version, func(ctx context.Context, raw json.RawMessage) (driver.Backend, error) {
		options, err := decodeOptions[O](raw)
		if err != nil {
			return nil, err
		}
		return p.Open(ctx, options)
	}))
}

func usage(w io.Writer, program, name, version string, options []string) {
	fmt.Fprintf(w, `%s is the tagstore storage plugin %q, version %s (plugin protocol %d).
It is not run by hand: the configuration service starts it. Name it in the
manifest, by a path relative to that file:

    backends:
      example:
        plugin: ./%s
        options: { ... }

where %s.
`, program, name, version, handshake.ProtocolVersion, program, describeOptions(options))
}

func serve(name, version string, open driver.Opener) (exit int) {
	// go-plugin takes SIGINT over and drops it, but only behind the handshake.
	signal.Ignore(os.Interrupt)
	syscall.Umask(0o077) // the socket, and the files of an author who did not think of it
	stderr := os.Stderr  // go-plugin replaces the variable
	slog.SetDefault(slog.New(newLogHandler(stderr)))
	// Before the handshake: right behind it the host may go away or send SIGTERM.
	parent := os.Getppid()
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)

	s := newServer(name, version, open)
	var transport *grpc.Server
	ready := make(chan struct{})
	go func() {
		<-ready
		s.stopWhenTold(transport, told, parent)
	}()
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{MagicCookieKey: handshake.CookieKey, MagicCookieValue: handshake.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{
			handshake.ProtocolVersion: {handshake.PluginName: &grpcPlugin{server: s}},
		},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			transport = s.grpcServer(opts)
			close(ready)
			return transport
		},
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: stderr, JSONFormat: true}),
	})
	s.stop()
	if err := s.close(closeTime); err != nil {
		slog.Error("the backend did not close cleanly", "error", err)
		return 1
	}
	return 0
}

// stopWhenTold waits for SIGTERM, then ends the watches, lets the calls in
// flight finish and stops the transport, upon which go-plugin's Serve returns.
// When the host, process parent, is gone nobody waits for an answer, and it
// stops at once.
func (s *server) stopWhenTold(transport *grpc.Server, told <-chan os.Signal, parent int) {
	orphan := time.NewTicker(orphanPoll)
	defer orphan.Stop()
	for {
		select {
		case <-told:
			s.drain(transport)
			return
		case <-orphan.C:
			if os.Getppid() != parent {
				s.stop()
				transport.Stop()
				return
			}
		}
	}
}

// drain takes no further calls, tells the host so, and stops when those that
// run have been answered, or have had their time.
func (s *server) drain(transport *grpc.Server) {
	s.stop()
	drained := make(chan struct{})
	go func() {
		transport.GracefulStop()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(drainTime):
		slog.Warn("calls were still running when the plugin stopped")
		transport.Stop()
	}
}

// grpcPlugin is what go-plugin wants for a service.
type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	server *server
}

// GRPCServer implements plugin.GRPCPlugin.
func (p *grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, r *grpc.Server) error {
	backendv1.RegisterBackendServiceServer(r, p.server)
	return nil
}

// GRPCClient implements plugin.GRPCPlugin; a plugin never is a client.
func (*grpcPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, plugin.ErrProcessNotFound
}
