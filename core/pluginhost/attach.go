package pluginhost

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/config"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
)

// A plugin that has an address is run by somebody else: in a container of its
// own beside this one, or by hand. The protocol is the same, without a
// handshake line and without a process to look after; what takes the place of a
// launch is a connection.

const addressScheme = "unix://"

// checkAttached is check for a plugin that somebody else runs.
func (p Plugin) checkAttached() error {
	path, ok := strings.CutPrefix(p.Address, addressScheme)
	switch {
	case !ok || !filepath.IsAbs(path):
		return p.errorf(config.InvalidArgument, "its address is not %s and the absolute path of a socket", addressScheme)
	case len(path) > maxSocketPath:
		return p.errorf(config.InvalidArgument, "the path of its socket has %d bytes, the system's limit is %d", len(path), maxSocketPath)
	case p.Path != "", len(p.Args) > 0, len(p.Env) > 0, p.SHA256 != "", p.MTLS, p.AWS, p.Limits != Limits{}:
		return p.errorf(config.InvalidArgument, "it has an address, and with it what only a program can have").
			WithHint("whoever runs the plugin gives it its program, arguments, variables and limits")
	case p.CallTimeout < 0:
		return p.errorf(config.InvalidArgument, "its call timeout is below zero")
	}
	return nil
}

// link is the one connection of a generation to a plugin that somebody else
// runs. gRPC would make another when it breaks, and might find another process
// there, which nobody has configured: it is given this one, once.
type link struct {
	net.Conn
	peer int // its process number, 0 if it is in another namespace

	closing sync.Once
	ended   chan struct{}
	taken   chan struct{} // holds one element until gRPC has the connection
}

func newLink(conn net.Conn, peer int) *link {
	l := &link{Conn: conn, peer: peer, ended: make(chan struct{}), taken: make(chan struct{}, 1)}
	l.taken <- struct{}{}
	return l
}

// Close implements net.Conn. gRPC calls it as soon as the other end is gone.
func (l *link) Close() error {
	l.closing.Do(func() { close(l.ended) })
	return l.Conn.Close()
}

var errOneConnection = errors.New("the connection to the plugin ended")

// dial is what gRPC dials with.
func (l *link) dial(context.Context, string) (net.Conn, error) {
	select {
	case <-l.taken:
		return l, nil
	default:
		return nil, errOneConnection
	}
}

// attach connects to the plugin and returns when it is ready to be called.
func attach(ctx context.Context, p Plugin, o Options, number uint64) (*generation, error) {
	ctx, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	l, err := connect(ctx, p)
	if err != nil {
		return nil, err
	}
	g := &generation{
		number: number, plugin: p, logger: o.Logger.With("plugin", p.Name, "generation", number),
		started: time.Now(), broken: make(chan struct{}, 1), protocols: o.protocols, link: l,
	}
	if err := g.attach(ctx, o); err != nil {
		g.end(0)
		return nil, err
	}
	return g, nil
}

// connect dials the plugin's socket and makes sure that it is this user, or
// root, who answers. Whoever may write to the socket's folder can put a socket
// of their own there, and would be given every tenant's values; a folder in a
// volume that two containers share can not be relied on to keep others out.
func connect(ctx context.Context, p Plugin) (*link, error) {
	path := strings.TrimPrefix(p.Address, addressScheme)
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, p.errorf(config.Unavailable, "no plugin listens at %s", p.Address).
			WithHint("start it with TAGSTORE_PLUGIN_SOCKET=%s", path).WithCause(err)
	case errors.Is(err, fs.ErrPermission):
		return nil, p.errorf(config.FailedPrecondition, "this user may not connect to %s", p.Address).
			WithHint("run the plugin and the service as the same user")
	case err != nil:
		return nil, p.errorf(config.Unavailable, "it can not be connected to: %w", err)
	}
	uid, pid, err := peerOf(conn.(*net.UnixConn), path) // of network unix, as it was dialled
	if err == nil && uid != 0 && uid != os.Geteuid() {
		err = p.errorf(config.FailedPrecondition, "user %d answers at %s, and not this one, %d, or root", uid, p.Address, os.Geteuid()).
			WithHint("run the plugin and the service as the same user; whoever else listens there must not be given values")
	} else if err != nil {
		err = p.errorf(config.FailedPrecondition, "who answers at %s can not be told: %w", p.Address, err)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return newLink(conn, pid), nil
}

// attach speaks the newest version of the protocol that the plugin has. There
// is no handshake line to tell: a service that the plugin lacks is unimplemented.
func (g *generation) attach(ctx context.Context, o Options) error {
	conn, err := grpc.NewClient("passthrough:///plugin", append(dialOptions(g.plugin.Instance),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(g.link.dial))...)
	if err != nil {
		return g.plugin.errorf(config.Internal, "it can not be connected to: %w", err)
	}
	g.conn = conn
	for _, protocol := range g.protocols {
		g.version, g.backend = protocol.version, protocol.client(conn)
		if _, err = g.backend.Describe(ctx, &backendv1.DescribeRequest{}); status.Code(err) != codes.Unimplemented {
			return g.prepare(ctx, o)
		}
	}
	return g.plugin.errorf(config.FailedPrecondition, "it speaks no version of the plugin protocol that this host speaks, which are %s", numbers(g.protocols)).
		WithHint("is it a tagstore plugin that was built for this release, or the one before it?").WithCause(err)
}

// detach ends the connection, and leaves the plugin to whoever runs it.
func (g *generation) detach() {
	if g.exchange != nil {
		g.exchange.Close()
	}
	if g.conn != nil {
		g.conn.Close()
	}
	_ = g.link.Close()
}

// pid is the process's number; 0 if it can not be told.
func (g *generation) pid() int {
	if g.link != nil {
		return g.link.peer
	}
	return g.child.pid
}

// exited is closed when the process has ended, or the only connection to it.
func (g *generation) exited() <-chan struct{} {
	if g.link != nil {
		return g.link.ended
	}
	return g.child.exited
}

// exitReason is why the generation ended, behind exited.
func (g *generation) exitReason() endReason {
	if g.link != nil {
		return reasonConnection
	}
	return exitReason(g.child.exitError)
}

// describeExit says what came to its end, behind exited.
func (g *generation) describeExit() string {
	if g.link != nil {
		return "closed the connection"
	}
	return g.child.describeExit()
}
