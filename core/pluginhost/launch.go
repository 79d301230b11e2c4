package pluginhost

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	"github.com/tagstore/tagstore/core/internal/exchange"
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
	// exchangeTrial bounds the first call over a stream.
	exchangeTrial = time.Second
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
	link    *link // in place of all these, to a plugin that somebody else runs
	started time.Time

	protocols   []protocol // that may be spoken
	version     int        // of the one that is
	opened      connections
	conn        *grpc.ClientConn
	backend     backendv1.BackendServiceClient
	exchange    *exchange.Conn // nil if every call is one of its own
	description wire.Description

	reason   endReason                    // why it is replaced; the supervisor's
	foreign  atomic.Pointer[foreignError] // who else served the plugin's socket
	broken   chan struct{}                // holds one element once a call lost the connection
	answered atomic.Bool                  // it answered a call
}

// launch starts the plugin and returns when it is ready to be called. The
// calling goroutine's thread must live as long as the process may. An error
// says what happened, with the end of stderr; nothing is left running then.
func launch(
	ctx context.Context, p Plugin, program *executable, o Options, sockets *socketBase, number uint64, dropped func(),
) (*generation, error) {
	ctx, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	if err := program.prepare(p, o, &sockets.images); err != nil {
		return nil, err
	}
	dir, err := sockets.launchDir(p.Name)
	if err != nil {
		return nil, err
	}
	logger := o.Logger.With("plugin", p.Name, "generation", number)
	g := &generation{
		number: number, plugin: p, logger: logger, dir: dir, logs: newLogs(logger, dropped),
		started: time.Now(), broken: make(chan struct{}, 1), protocols: o.protocols,
	}
	g.child = newChild(p, program, dir, g.logs)
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
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: handshake.CookieKey, MagicCookieValue: handshake.CookieValue},
		VersionedPlugins: pluginSets(o.protocols),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		RunnerFunc: func(_ hclog.Logger, template *exec.Cmd, _ string) (runner.Runner, error) {
			g.child.environment(template.Env, g.plugin)
			return g.child, nil
		},
		SkipHostEnv:      true,
		AutoMTLS:         g.plugin.MTLS,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: g.dir},
		StartTimeout:     o.StartTimeout + time.Second, // ours comes first
		Logger:           newTransportLogger(g.logger),
		SyncStdout:       output,
		SyncStderr:       &lineWriter{emit: g.logs.stderr},
		GRPCDialOptions: append(dialOptions(g.plugin.Instance), grpc.WithContextDialer(dialer(func() net.Addr { return addr }, g.checkPeer)),
			grpc.WithChainStreamInterceptor(g.opened.note)),
	})

	// go-plugin's steps take no context: killing the process ends each of them.
	defer context.AfterFunc(ctx, g.child.kill)()
	var err error
	if addr, err = g.client.Start(); err != nil {
		return g.explainStart(ctx, err)
	}
	g.logger.Debug("plugin process started", "pid", g.child.pid)
	if err := g.child.restrain(); err != nil {
		g.logger.Warn("a plugin runs without all of its limits", "pid", g.child.pid, "error", err)
	}
	if err := g.checkCertificate(); err != nil {
		return err
	}
	protocol, err := g.client.Client()
	if err != nil {
		return g.explainCall(ctx, "connecting", err)
	}
	conn, err := protocol.Dispense(handshake.PluginName)
	if err != nil {
		return g.explainCall(ctx, "connecting", err)
	}
	g.conn = conn.(*grpc.ClientConn) // connPlugin returns nothing else
	g.version = g.client.NegotiatedVersion()
	g.backend = clientOf(o.protocols, g.version, g.conn)
	return g.prepare(ctx, o)
}

// prepare has the plugin open its store, and settles how it is called.
func (g *generation) prepare(ctx context.Context, o Options) error {
	if err := g.configure(ctx, o); err != nil {
		return err
	}
	if !o.Unary && slices.Contains(g.description.Features, handshake.FeatureExchange) {
		return g.tryExchange(ctx)
	}
	return nil
}

// tryExchange has the calls go over streams if the plugin can do what it says.
// One that can not is called as if it had not said so, unless it went away over
// it.
func (g *generation) tryExchange(ctx context.Context) error {
	trial, cancel := context.WithTimeout(ctx, exchangeTrial)
	defer cancel()
	conn := exchange.New(g.conn, exchange.Options{
		Sent:     func(ctx context.Context) { fateOf(ctx).sent.Store(true) },
		Answered: func(ctx context.Context) { fateOf(ctx).answered.Store(true) },
	})
	backend := clientOf(g.protocols, g.version, conn)
	resp, err := backend.Describe(trial, &backendv1.DescribeRequest{})
	if err == nil && resp.GetName() != g.description.Name {
		err = wire.Broken("another description over a stream than in a call")
	}
	if err != nil {
		conn.Close()
		if err := g.health(ctx); err != nil {
			return g.explainCall(ctx, "the first call over a stream", err)
		}
		g.logger.Warn("the plugin says that it can exchange and can not: it is called the slower way", "error", pluginError(err))
		return nil
	}
	g.exchange, g.backend = conn, backend
	return nil
}

func (g *generation) configure(ctx context.Context, o Options) error {
	if err := g.health(ctx); err != nil {
		return g.explainCall(ctx, stepHealth, err)
	}
	if d, err := g.describe(ctx); err != nil {
		return g.explainCall(ctx, "Describe", err)
	} else if o.describeOnly {
		g.description = d
		return nil
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

// connections are those that go-plugin made. It forgets the one that it is making
// when the process ends meanwhile, and with it all that tries to connect again.
type connections struct {
	mu  sync.Mutex
	all []*grpc.ClientConn
}

// note is a grpc.StreamClientInterceptor: a stream is the first that go-plugin
// opens on each connection.
func (c *connections) note(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c.mu.Lock()
	if !slices.Contains(c.all, conn) {
		c.all = append(c.all, conn)
	}
	c.mu.Unlock()
	return streamer(ctx, desc, conn, method, opts...)
}

// close closes them all, once more where that was done.
func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.all {
		conn.Close()
	}
}

// checkPeer refuses a connection to anything but the plugin's own processes.
func (g *generation) checkPeer(conn net.Conn) error {
	err := checkPeer(conn, g.child.pid)
	if foreign := (*foreignError)(nil); errors.As(err, &foreign) {
		g.foreign.Store(foreign)
	}
	return err
}

// checkCertificate refuses a plugin that was asked for mTLS and sent no
// certificate: its calls would fail one by one, and less clearly.
func (g *generation) checkCertificate() error {
	if !g.plugin.MTLS {
		return nil
	}
	if parts := strings.Split(<-g.child.first, "|"); len(parts) < 6 || parts[5] == "" {
		return g.plugin.errorf(config.FailedPrecondition, "its manifest entry asks for mTLS, and its handshake has no certificate").
			WithHint("remove mtls: true, or use a plugin that honours " + clientCertificate + "; those of pluginmain do")
	}
	return nil
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
	if g.link != nil {
		g.detach()
		return
	}
	if !g.child.end(grace) {
		g.logger.Error("the plugin process did not end", "pid", g.child.pid)
	}
	released := make(chan struct{})
	go func() {
		defer close(released)
		if g.exchange != nil {
			g.exchange.Close()
		}
		if g.conn != nil {
			g.conn.Close()
		}
		g.client.Kill()
		g.opened.close()
	}()
	if !waitFor(released, goPluginGrace) {
		g.logger.Error("the connection to a plugin could not be released")
	}
	os.RemoveAll(g.dir)
	g.logs.close()
}

// The steps of a launch that fail in ways of their own.
const (
	stepHandshake = "the handshake"
	stepHealth    = "the health check"
)

// explainStart says why there was no handshake.
func (g *generation) explainStart(ctx context.Context, err error) error {
	p := g.plugin
	if g.child.pid == 0 && ctx.Err() == nil {
		return explainExec(p, err)
	}
	if ctx.Err() != nil {
		return g.explainCall(ctx, stepHandshake, err)
	}
	var first string
	select {
	case first = <-g.child.first:
	case <-time.After(pipeGrace):
	}
	parts := strings.Split(first, "|")
	switch {
	case first == "":
		return g.explainCall(ctx, stepHandshake, err)
	case len(parts) < 4, !isNumber(parts[0]), !isNumber(parts[1]):
		return p.errorf(config.FailedPrecondition, "it printed %.80q where the handshake must stand", first).
			WithHint("is %s a tagstore plugin? The first line that it prints has to be 1|VERSION|unix|SOCKET|grpc|; all else goes to standard error", p.Path)
	case parts[0] != strconv.Itoa(plugin.CoreProtocolVersion):
		return p.errorf(config.FailedPrecondition, "its handshake has form %.20q, this host reads form %d", parts[0], plugin.CoreProtocolVersion)
	case !speaks(g.protocols, parts[1]):
		return p.errorf(config.FailedPrecondition, "it speaks version %.20q of the plugin protocol, this host speaks %s", parts[1], numbers(g.protocols)).
			WithHint("use a plugin that was built for this release, or the one before it")
	default:
		return p.errorf(config.FailedPrecondition, "its handshake was refused: %s", clip(err.Error(), tailLine))
	}
}

func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}

// explainCall says why a step of the launch failed.
func (g *generation) explainCall(ctx context.Context, step string, err error) error {
	p := g.plugin
	if foreign := g.foreign.Load(); foreign != nil {
		return p.errorf(config.FailedPrecondition, "%w", foreign).WithHint("a plugin has to listen by itself, in its socket folder")
	}
	answer := pluginError(err)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded), answer.Code == config.DeadlineExceeded:
		e := p.errorf(config.Unavailable, "it did not get through %s in time", step)
		if step == stepHandshake {
			return e.WithHint("it has to print its handshake line and to flush it; if it needs longer until then, raise the start timeout")
		}
		return e.WithHint("if it needs longer to open its store, raise the start timeout")
	case ctx.Err() != nil:
		return p.errorf(config.Canceled, "its start was given up")
	}
	// A connection breaks a moment before its process is seen to end.
	if answer.Code == config.Unavailable || answer.Code == config.Unknown {
		if waitFor(g.exited(), pipeGrace) {
			return p.errorf(config.Unavailable, "it %s during %s", g.describeExit(), step).
				WithHint("its last lines may say why")
		}
	}
	e := p.errorf(answer.Code, "%s failed: %s", step, answer.Message)
	e.Hint, e.Err = answer.Hint, err
	// What these codes mean otherwise is something about a key.
	switch {
	case step == stepHealth && (answer.Code == config.Unimplemented || answer.Code == config.NotFound):
		e.Code, e.Hint = config.FailedPrecondition, `a plugin serves grpc.health.v1.Health, and Check answers SERVING for the service "plugin"`
	case answer.Code == config.Unimplemented && answer.Hint == "":
		e.Code, e.Hint = config.FailedPrecondition, "a plugin serves tagstore.backend.v1.BackendService, with Describe and Configure"
	}
	if step == "Configure" && answer.Code == config.FailedPrecondition {
		e.Err = errors.Join(errStore, err)
	}
	return e
}

// errStore is in the chain of what a plugin that runs said of its store when it
// was to open it: that it is not in a state for that, such as open elsewhere.
var errStore = errors.New("its store is not in a state to be opened")

// linesFollow stands between an error and the end of its process's log.
const linesFollow = "; the last lines of its log are:\n"

// withLastLines adds the end of the process's stderr to an error.
func (g *generation) withLastLines(err error) error {
	var e *config.Error
	if g.logs == nil {
		return err
	}
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

func dialOptions(instance string) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(unaryInstance(instance)),
		grpc.WithChainStreamInterceptor(streamInstance(instance)),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(handshake.MaxMessage),
			grpc.MaxCallSendMsgSize(handshake.MaxMessage),
			grpc.ForceCodecV2(newBoundedCodec()),
		),
		grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithIdleTimeout(0), // an idle connection would have to find its socket again
		grpc.WithChainUnaryInterceptor(unaryFate),
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

// fateOf returns what the fate of a call is to be noted in.
func fateOf(ctx context.Context) *fate {
	if f, ok := ctx.Value(fateKey{}).(*fate); ok {
		return f
	}
	return &fate{} // nobody asked
}
