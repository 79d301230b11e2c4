package pluginhost

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/stats"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/handshake"
	"github.com/tagstore/tagstore/core/internal/wire"
)

const (
	// maxHeaders bounds what a plugin may send around a message, in bytes.
	maxHeaders = 64 << 10
	// goPluginGrace bounds the tidying up of go-plugin, whose own waits have no
	// deadline.
	goPluginGrace = 3 * time.Second
)

// generation is one launch of a plugin: a process, its connection and what it
// said of itself. Nothing of it is ever used for another launch.
type generation struct {
	number  uint64
	plugin  Plugin
	logger  *slog.Logger
	dir     string
	logs    *logs
	child   *child
	client  *plugin.Client
	started time.Time

	conn        *grpc.ClientConn
	backend     backendv1.BackendServiceClient
	description wire.Description

	broken   chan struct{} // holds one element once a call lost the connection
	answered atomic.Bool   // it answered a call
}

// launch starts the plugin and returns when it is ready to be called. The
// calling goroutine's thread must live as long as the process may. An error
// says what happened, with the end of stderr; nothing is left running then.
func launch(ctx context.Context, p Plugin, o Options, sockets *socketBase, number uint64) (*generation, error) {
	ctx, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	if err := checkProgram(p); err != nil {
		return nil, err
	}
	dir, err := sockets.launchDir(p.Name)
	if err != nil {
		return nil, err
	}
	logger := o.Logger.With("plugin", p.Name, "generation", number)
	g := &generation{
		number: number, plugin: p, logger: logger, dir: dir, logs: newLogs(logger),
		started: time.Now(), broken: make(chan struct{}, 1),
	}
	g.child = newChild(p, dir, g.logs)
	if err := g.start(ctx, o); err != nil {
		g.end(0)
		return nil, g.withLastLines(err)
	}
	return g, nil
}

func (g *generation) start(ctx context.Context, o Options) error {
	var addr net.Addr
	output := &lineWriter{emit: g.logs.stdout}
	g.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: plugin.HandshakeConfig{MagicCookieKey: handshake.CookieKey, MagicCookieValue: handshake.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{
			handshake.ProtocolVersion: {handshake.PluginName: connPlugin{}},
		},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		RunnerFunc: func(_ hclog.Logger, template *exec.Cmd, _ string) (runner.Runner, error) {
			g.child.environment(template.Env, g.plugin.Env)
			return g.child, nil
		},
		SkipHostEnv:      true,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: g.dir},
		StartTimeout:     o.StartTimeout + time.Second, // ours comes first
		Logger:           newTransportLogger(g.logger),
		SyncStdout:       output,
		SyncStderr:       &lineWriter{emit: g.logs.stderr},
		GRPCDialOptions:  append(dialOptions(), grpc.WithContextDialer(dialer(func() net.Addr { return addr }))),
	})

	// go-plugin's steps take no context: killing the process ends each of them.
	defer context.AfterFunc(ctx, g.child.kill)()
	var err error
	if addr, err = g.client.Start(); err != nil {
		return g.explainStart(ctx, err)
	}
	g.logger.Debug("plugin process started", "pid", g.child.pid)
	protocol, err := g.client.Client()
	if err != nil {
		return g.explainCall(ctx, "connecting", err)
	}
	conn, err := protocol.Dispense(handshake.PluginName)
	if err != nil {
		return g.explainCall(ctx, "connecting", err)
	}
	g.conn = conn.(*grpc.ClientConn) // connPlugin returns nothing else
	g.backend = backendv1.NewBackendServiceClient(g.conn)
	return g.configure(ctx)
}

func (g *generation) configure(ctx context.Context) error {
	if err := g.health(ctx); err != nil {
		return g.explainCall(ctx, "the health check", err)
	}
	if _, err := g.describe(ctx); err != nil {
		return g.explainCall(ctx, "Describe", err)
	}
	if _, err := g.backend.Configure(ctx, &backendv1.ConfigureRequest{Options: g.plugin.Options}); err != nil {
		return g.explainCall(ctx, "Configure", err)
	}
	d, err := g.describe(ctx)
	if err != nil {
		return g.explainCall(ctx, "Describe", err)
	}
	g.description = d
	return nil
}

func (g *generation) describe(ctx context.Context) (wire.Description, error) {
	resp, err := g.backend.Describe(ctx, &backendv1.DescribeRequest{})
	if err != nil {
		return wire.Description{}, err
	}
	return wire.DescriptionOf(resp)
}

// health asks go-plugin's health service, as its Ping does without a deadline.
func (g *generation) health(ctx context.Context) error {
	resp, err := healthpb.NewHealthClient(g.conn).Check(ctx, &healthpb.HealthCheckRequest{Service: plugin.GRPCServiceName})
	if err == nil && resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return config.Errorf(config.Unavailable, "it says that it is not serving")
	}
	return err
}

// lost tells the supervisor that the connection does not work.
func (g *generation) lost() {
	select {
	case g.broken <- struct{}{}:
	default:
	}
}

// end ends the process, at once or, with a grace, orderly, and then releases
// all that it held. go-plugin comes last, when there is nothing left that it
// could wait for.
func (g *generation) end(grace time.Duration) {
	if !g.child.end(grace) {
		g.logger.Error("the plugin process did not end", "pid", g.child.pid)
	}
	released := make(chan struct{})
	go func() {
		defer close(released)
		if g.conn != nil {
			g.conn.Close()
		}
		g.client.Kill()
	}()
	if !waitFor(released, goPluginGrace) {
		g.logger.Error("the connection to a plugin could not be released")
	}
	os.RemoveAll(g.dir)
	g.logs.close()
}

// explainStart says why there was no handshake.
func (g *generation) explainStart(ctx context.Context, err error) error {
	p := g.plugin
	if g.child.pid == 0 && ctx.Err() == nil {
		if errors.Is(err, syscall.ENOEXEC) {
			return p.errorf(config.FailedPrecondition, "%s is not a program for %s/%s", p.Path, runtime.GOOS, runtime.GOARCH).
				WithHint("build the plugin for this machine")
		}
		return p.errorf(config.FailedPrecondition, "it can not be started: %w", err)
	}
	if ctx.Err() != nil {
		return g.explainCall(ctx, "the handshake", err)
	}
	var first string
	select {
	case first = <-g.child.first:
	case <-time.After(pipeGrace):
	}
	parts := strings.Split(first, "|")
	switch {
	case first == "":
		return g.explainCall(ctx, "the handshake", err)
	case len(parts) < 4:
		return p.errorf(config.FailedPrecondition, "it printed %.80q where the handshake must stand", first).
			WithHint("is %s a tagstore plugin? Nothing may be printed before pluginmain.Serve", p.Path)
	case parts[0] != strconv.Itoa(plugin.CoreProtocolVersion), parts[1] != strconv.Itoa(handshake.ProtocolVersion):
		return p.errorf(config.FailedPrecondition, "it speaks version %.20q of the plugin protocol, this host version %d.%d",
			parts[0]+"."+parts[1], plugin.CoreProtocolVersion, handshake.ProtocolVersion).
			WithHint("use a plugin that was built for this release")
	default:
		return p.errorf(config.FailedPrecondition, "its handshake was refused: %s", clip(err.Error(), tailLine))
	}
}

// explainCall says why a step of the launch failed.
func (g *generation) explainCall(ctx context.Context, step string, err error) error {
	p := g.plugin
	answer := pluginError(err)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded), answer.Code == config.DeadlineExceeded:
		return p.errorf(config.Unavailable, "it did not get through %s in time", step).
			WithHint("if it needs longer to open its store, raise the start timeout")
	case ctx.Err() != nil:
		return p.errorf(config.Canceled, "its start was given up")
	}
	// A connection breaks a moment before its process is seen to end.
	if answer.Code == config.Unavailable || answer.Code == config.Unknown {
		if waitFor(g.child.exited, pipeGrace) {
			return p.errorf(config.Unavailable, "it %s during %s", g.child.describeExit(), step).
				WithHint("its last lines may say why")
		}
	}
	e := p.errorf(answer.Code, "%s failed: %s", step, answer.Message)
	e.Hint, e.Err = answer.Hint, err
	return e
}

// linesFollow stands between an error and the end of its process's log.
const linesFollow = "; the last lines of its log are:\n"

// withLastLines adds the end of the process's stderr to an error.
func (g *generation) withLastLines(err error) error {
	var e *config.Error
	lines := g.logs.lastLines()
	if lines == "" || !errors.As(err, &e) {
		return err
	}
	c := *e
	c.Message += linesFollow + lines + "\n"
	return &c
}

// splitLastLines returns the text of an error and, apart from it, the lines
// that withLastLines added.
func splitLastLines(err error) (text, lines string) {
	var e *config.Error
	if !errors.As(err, &e) {
		return err.Error(), ""
	}
	c := *e
	c.Message, lines, _ = strings.Cut(e.Message, linesFollow)
	return c.Error(), strings.TrimSuffix(lines, "\n")
}

// pluginError makes a status that a plugin sent an error whose texts have a
// bound.
func pluginError(err error) *config.Error {
	e := *config.AsError(errgrpc.FromError(err), "", config.Key{})
	e.Op, e.Message, e.Hint = clip(e.Op, tailLine), clip(e.Message, 2*tailLine), clip(e.Hint, tailLine)
	return &e
}

func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(handshake.MaxMessage),
			grpc.MaxCallSendMsgSize(handshake.MaxMessage),
		),
		grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithIdleTimeout(0), // an idle connection would have to find its socket again
		grpc.WithStatsHandler(fateHandler{}),
	}
}

// connPlugin is what go-plugin wants for a service; it yields the connection.
type connPlugin struct{ plugin.NetRPCUnsupportedPlugin }

// GRPCServer implements plugin.GRPCPlugin; a host never serves.
func (connPlugin) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }

// GRPCClient implements plugin.GRPCPlugin.
func (connPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}

// fate is what is known of a call that failed: whether the request left this
// process, and whether the error is one that the plugin sent. Without the
// second the plugin is gone or its connection is.
type fate struct{ sent, answered atomic.Bool }

type fateKey struct{}

// fateHandler notes the fate of calls whose context carries one.
type fateHandler struct{}

// TagRPC implements stats.Handler.
func (fateHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (fateHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	f, ok := ctx.Value(fateKey{}).(*fate)
	if !ok {
		return
	}
	switch s.(type) {
	case *stats.OutPayload:
		f.sent.Store(true)
	case *stats.InTrailer:
		f.answered.Store(true)
	}
}

// TagConn implements stats.Handler.
func (fateHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (fateHandler) HandleConn(context.Context, stats.ConnStats) {}
