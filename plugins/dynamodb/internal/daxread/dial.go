package daxread

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// connectTimeout bounds one connection attempt, TLS and name resolution
	// included.
	connectTimeout = 500 * time.Millisecond
	// seedTimeout bounds one request for the cluster's nodes.
	seedTimeout = 500 * time.Millisecond
)

// seedHost stands for the cluster's endpoint in the client library. The
// library resolves the names of its seeds without any bound in time; given an
// address, it has nothing to resolve and leaves that to the dialer. The
// address is one that documentation uses and no network has.
const seedHost = "192.0.2.1"

// netError is an error of a connection. The library passes on only its text,
// and tells errors of the network by the methods of net.Error.
type netError struct {
	text    string
	timeout bool
}

func (e *netError) Error() string   { return e.text }
func (e *netError) Timeout() bool   { return e.timeout }
func (e *netError) Temporary() bool { return true }

// What the texts of errors are searched for.
var (
	errConnect  net.Error = &netError{text: "daxread: cannot connect"}
	errLost     net.Error = &netError{text: "daxread: connection lost"}
	errDeadline net.Error = &netError{text: "daxread: no answer in time", timeout: true}
	errGarbage  net.Error = &netError{text: "daxread: malformed answer"}
)

// dialer makes the library's connections and keeps track of them.
type dialer struct {
	endpoint endpoint
	tls      *tls.Config // nil without TLS
	ctx      context.Context
	stop     context.CancelFunc

	mu     sync.Mutex
	closed bool
	conns  map[*conn]struct{}
	wg     sync.WaitGroup // dials under way
}

func newDialer(ctx context.Context, e endpoint, o Options) *dialer {
	d := &dialer{endpoint: e, conns: map[*conn]struct{}{}}
	if e.tls {
		d.tls = &tls.Config{ServerName: e.host, RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12}
	}
	d.ctx, d.stop = context.WithCancel(ctx)
	context.AfterFunc(d.ctx, d.shut)
	return d
}

func (d *dialer) seed() string { return net.JoinHostPort(seedHost, d.endpoint.port) }

// DialContext connects to the cluster's endpoint or to a node. The library
// gives it a context without an end.
func (d *dialer) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil, errConnect
	}
	d.wg.Add(1)
	d.mu.Unlock()
	defer d.wg.Done()

	ctx, cancel := context.WithTimeout(d.ctx, connectTimeout)
	defer cancel()
	c := &conn{d: d, node: address}
	if address == d.seed() {
		address, c.limit = d.endpoint.address(), seedTimeout
	}
	raw, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, errConnect
	}
	c.raw, c.Conn = raw, raw
	if d.tls != nil {
		secure := tls.Client(raw, d.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, errConnect
		}
		c.Conn = secure
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		_ = raw.Close()
		return nil, errConnect
	}
	d.conns[c] = struct{}{}
	return c, nil
}

// drain closes the idle connections to a node. It is called when one of them
// turned out to be dead: the others were made to the same process, and each
// would cost its request the time to find out.
func (d *dialer) drain(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		if c.node == node && !c.waiting.Load() {
			c.drained.Store(true)
			_ = c.raw.Close()
		}
	}
}

// shut closes every connection and refuses new ones.
func (d *dialer) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for c := range d.conns {
		c.drained.Store(true)
		_ = c.raw.Close()
	}
}

// close is shut, and waits for the connections that are being made.
func (d *dialer) close() {
	d.shut()
	d.stop()
	d.wg.Wait()
}

// conn is one connection, on which the library has one request at a time.
type conn struct {
	net.Conn
	raw     net.Conn // below TLS: its Close never waits
	d       *dialer
	node    string
	greeted bool          // the handshake, which has no answer, was sent
	limit   time.Duration // of any deadline, 0 for none
	waiting atomic.Bool   // a request was sent and no answer has begun
	drained atomic.Bool   // closed on this side
	scanner scanner       // of the reading side
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.waiting.Store(false)
		if c.scanner.feed(b[:n]) != nil {
			return 0, errGarbage
		}
	}
	if err != nil && (n == 0 || !errors.Is(err, io.EOF)) {
		return n, c.failure(err)
	}
	return n, nil
}

func (c *conn) Write(b []byte) (int, error) {
	c.waiting.Store(c.greeted)
	c.greeted = true
	n, err := c.Conn.Write(b)
	if err != nil {
		return n, c.failure(err)
	}
	return n, nil
}

// SetDeadline is what the library calls before it uses a connection.
func (c *conn) SetDeadline(t time.Time) error {
	if c.limit > 0 {
		if latest := time.Now().Add(c.limit); t.IsZero() || t.After(latest) {
			t = latest
		}
	}
	if err := c.Conn.SetDeadline(t); err != nil {
		return c.failure(err)
	}
	return nil
}

// failure gives an error the form that the library treats as the network's,
// whatever it was: it takes an EOF for a mistake of the program.
func (c *conn) failure(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errDeadline
	}
	if !c.drained.Load() {
		c.d.drain(c.node)
	}
	return errLost
}

func (c *conn) Close() error {
	c.d.mu.Lock()
	delete(c.d.conns, c)
	c.d.mu.Unlock()
	return c.Conn.Close()
}
