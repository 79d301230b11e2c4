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
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/internal/handshake"
	"github.com/tagstore/tagstore/core/options"
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
	// Open opens the store. Options is a struct with the tags of package
	// options, decoded from the options of the manifest: an option that it does
	// not have, or a required one that is missing, is refused before Open is
	// called, and defaults are filled in. Open reports everything else that is
	// wrong with them at once, with code InvalidArgument. It is not called
	// again once it has succeeded, and its context ends when it returns.
	Open func(ctx context.Context, options O) (driver.Backend, error)
}

// Serve runs the plugin until its host ends it. It never returns.
//
// With TAGSTORE_PLUGIN_SOCKET set and no host that started it, it serves on the
// socket of that path, for hosts whose manifest has it as the backend's address,
// until SIGTERM or SIGINT. It logs to stderr then.
//
// Started in any other way, it says on stderr what it is and exits with
// code 2.
func Serve[O any](p Plugin[O]) {
	schema, err := options.Schema[O]()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
		os.Exit(exitUsage)
	}
	open := func(ctx context.Context, raw json.RawMessage) (driver.Backend, error) {
		options, err := options.Decode[O](raw)
		if err != nil {
			return nil, err
		}
		return p.Open(ctx, options)
	}
	socket := os.Getenv(handshake.SocketVariable)
	switch {
	case os.Getenv(handshake.CookieKey) == handshake.CookieValue:
		os.Exit(serve(p.Name, p.Version, schema, open))
	case socket != "":
		os.Exit(serveAlone(socket, p.Name, p.Version, schema, open))
	default:
		usage(os.Stderr, os.Args[0], p.Name, p.Version, schema)
		os.Exit(exitUsage)
	}
}

// usage says what this is, and the next command for each of the two people who
// may be looking at it: who wrote the plugin, and who is to run it.
func usage(w io.Writer, program, name, version string, schema json.RawMessage) {
	base := filepath.Base(program)
	if !strings.ContainsRune(program, filepath.Separator) {
		program = "./" + program
	}
	fmt.Fprintf(w, `%s is the tagstore storage plugin %q, version %s (plugin protocol %d).
It is not run by hand: the configuration service starts it. Name it in the
manifest, by a path relative to that file:

    backends:
      %s:
        plugin: ./%s
        options: { ... }
    routes:
      - prefix: %s_config_
        backend: %s

`, base, name, version, handshake.ProtocolVersion, name, base, name, name)
	all, err := options.Read(schema)
	switch {
	case err == nil && len(all) > 0:
		fmt.Fprintf(w, "Its options:\n\n%s\n", options.Table(all, "    "))
	default:
		fmt.Fprint(w, "It has no options.\n\n")
	}
	fmt.Fprintf(w, `To see and to try it:

    tagctl plugin info %[1]s    what it is and can do
    tagctl plugin test %[1]s    hold it to the driver contract
    tagctl plugin pack %[1]s    an archive and its manifest entry

To have it serve on a socket of its own, for a manifest with that address:

    %[2]s=/run/tagstore/%[3]s.sock %[1]s
`, program, handshake.SocketVariable, name)
}

func serve(name, version string, schema json.RawMessage, open driver.Opener) (exit int) {
	// go-plugin takes SIGINT over and drops it, but only behind the handshake.
	signal.Ignore(os.Interrupt)
	syscall.Umask(0o077) // the socket, and the files of an author who did not think of it
	stderr := os.Stderr  // go-plugin replaces the variable
	slog.SetDefault(slog.New(newLogHandler(stderr)))
	// Before the handshake: right behind it the host may go away or send SIGTERM.
	parent := os.Getppid()
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)

	warnOfVersions(os.Getenv("PLUGIN_PROTOCOL_VERSIONS"))

	s := newServer(name, version, open)
	s.schema = schema
	var transport *grpc.Server
	ready := make(chan struct{})
	go func() {
		<-ready
		s.stopWhenTold(transport, told, parent)
	}()
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: handshake.CookieKey, MagicCookieValue: handshake.CookieValue},
		VersionedPlugins: pluginSets(s),
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
			s.drain(transport, drainTime)
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
func (s *server) drain(transport *grpc.Server, limit time.Duration) {
	s.stop()
	drained := make(chan struct{})
	go func() {
		transport.GracefulStop()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(limit):
		slog.Warn("calls were still running when the plugin stopped")
		transport.Stop()
	}
}

// grpcPlugin is what go-plugin wants for a service.
type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	server   *server
	protocol protocol
}

// GRPCServer implements plugin.GRPCPlugin.
func (p *grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, r *grpc.Server) error {
	p.protocol.register(r, p.server)
	return nil
}

// GRPCClient implements plugin.GRPCPlugin; a plugin never is a client.
func (*grpcPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, plugin.ErrProcessNotFound
}
