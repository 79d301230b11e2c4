package awsconn

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// The bounds of the transport. A caller beyond maxConns waits for a connection
// until its own deadline.
const (
	maxConns     = 512
	maxIdleConns = 256
	idleTimeout  = 50 * time.Second // less than what AWS and load balancers allow
	dialTimeout  = 2 * time.Second
	tlsTimeout   = 3 * time.Second
)

// dialer makes connections and owns them: once it is closed they are too, and
// with them every request and goroutine that waits on one.
type dialer struct {
	net.Dialer

	mu     sync.Mutex
	closed bool
	open   map[*ownedConn]struct{}
}

func newDialer(timeout time.Duration) *dialer {
	return &dialer{Dialer: net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}, open: map[*ownedConn]struct{}{}}
}

var errClosed = &net.OpError{Op: "dial", Net: "tcp", Err: net.ErrClosed}

// DialContext is a http.Transport's.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	closed := d.closed
	d.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	raw, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := &ownedConn{Conn: raw, owner: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		raw.Close()
		return nil, errClosed
	}
	d.open[conn] = struct{}{}
	return conn, nil
}

// close closes every connection, and refuses to make more.
func (d *dialer) close() {
	d.mu.Lock()
	d.closed = true
	conns := d.open
	d.open = nil
	d.mu.Unlock()
	for conn := range conns {
		conn.Conn.Close()
	}
}

type ownedConn struct {
	net.Conn
	owner *dialer
}

// Close forgets the connection too.
func (c *ownedConn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

// bound sets what this package wants of a transport and leaves the rest, such
// as its trusted certificates, alone.
func bound(t *http.Transport, d *dialer, answer time.Duration) {
	t.DialContext = d.DialContext
	t.TLSHandshakeTimeout = tlsTimeout
	t.ResponseHeaderTimeout = answer
	t.MaxConnsPerHost = maxConns
	t.MaxIdleConns = 2 * maxIdleConns // two hosts: the store's and STS
	t.MaxIdleConnsPerHost = maxIdleConns
	t.IdleConnTimeout = idleTimeout
}

// client sends requests and says of one that failed whether it may have
// arrived. It follows no redirect: a signature is made for one host.
type client struct{ http http.Client }

func newClient(t *http.Transport) *client {
	return &client{http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Do sends r. Its error is a *sendError.
func (c *client) Do(r *http.Request) (*http.Response, error) {
	var wrote atomic.Bool
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }})
	r = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		// The SDK closes its body as soon as the answer arrives. Through
		// io.WriterTo, net/http would take that for a failed write and cut the
		// connection under the answer; through Read it does not.
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	response, err := c.http.Do(r) //nolint:gosec // the URL is the SDK's, made of the configured endpoint
	if err != nil {
		return response, &sendError{err: err, wrote: wrote.Load()}
	}
	return response, nil
}

// sendError is a request without an answer.
type sendError struct {
	err   error
	wrote bool // its head was written in full, so it may have been carried out
}

// Error returns the transport's text.
func (e *sendError) Error() string { return e.err.Error() }

// Unwrap returns the transport's error.
func (e *sendError) Unwrap() error { return e.err }

// mayHaveArrived reports whether a call that failed so may have been carried
// out nevertheless.
func mayHaveArrived(err error) bool {
	if refused := (*credentialsError)(nil); errors.As(err, &refused) {
		return false // what failed is the call for the credentials
	}
	var send *sendError
	if errors.As(err, &send) {
		return send.wrote
	}
	if canceled(err) {
		return true // nobody waited for the answer
	}
	status, answered := statusOf(err)
	if !answered {
		return false // it failed before it was sent
	}
	code := apiCode(err)
	if isThrottle(code, status) {
		return code == "TransactionInProgressException" // an earlier sending of it is being carried out
	}
	return status >= 500 || status < 300
}
