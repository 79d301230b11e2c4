package daxtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/fxamacker/cbor/v2"
)

// Options describe a node.
type Options struct {
	// DynamoDB is the base URL of the DynamoDB endpoint behind the node.
	DynamoDB string
	// Region is what requests must be signed for, and what the node itself
	// signs for. The default is us-east-1.
	Region string
	// Credentials, if set, are the only ones that the node accepts.
	Credentials aws.Credentials
	// TLS makes the node speak TLS with a certificate of Server.Roots.
	TLS bool
	// TTL is how long the item cache and the query cache keep what was read.
	// The default is that of DAX, 5 minutes.
	TTL time.Duration
	// Now is the clock of the caches. The default is time.Now.
	Now func() time.Time
}

// Connection is what the node knows about one connection.
type Connection struct {
	Calls      map[string]int // by method
	UserAgent  string
	Authorized int // successful authorizations
	Open       bool
}

// Server is a running node. Its methods are safe for concurrent use.
type Server struct {
	o        Options
	dynamodb *dynamodb.Client
	idle     *http.Transport
	roots    *x509.CertPool
	tls      *tls.Config
	address  string

	items   cache[Item]
	queries cache[*dynamodb.QueryOutput]
	scans   cache[*dynamodb.ScanOutput]

	mu          sync.Mutex
	up          *running // nil while the node is down
	calls       map[string]int
	connections []*connection
	faults      []*fault
	cluster     []string // addresses that endpoints answers; nil is this node
	schemas     map[string]schema
	listIDs     map[string]int64
	lists       [][]string // by id
}

// running is a node between its start and its stop.
type running struct {
	listener net.Listener
	ctx      context.Context // ends with the node, and the requests with it
	stop     context.CancelFunc
	wg       sync.WaitGroup
}

// Start starts a node that ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.TTL == 0 {
		o.TTL = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	s := &Server{
		o:    o,
		idle: transport,
		dynamodb: dynamodb.New(dynamodb.Options{
			BaseEndpoint: &o.DynamoDB, Region: o.Region, HTTPClient: &http.Client{Transport: plainBody{transport}},
			Credentials: credentials.NewStaticCredentialsProvider("node", "node", ""),
		}),
		address: "127.0.0.1:0",
		items:   cache[Item]{ttl: o.TTL, now: o.Now},
		queries: cache[*dynamodb.QueryOutput]{ttl: o.TTL, now: o.Now},
		scans:   cache[*dynamodb.ScanOutput]{ttl: o.TTL, now: o.Now},
		calls:   map[string]int{},
		schemas: map[string]schema{},
		listIDs: map[string]int64{},
		lists:   [][]string{0: nil, 1: {}}, // list 1 is the empty one
	}
	if o.TLS {
		roots, certificate := NewRoots(t)
		s.roots, s.tls = roots, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	}
	if err := s.Up(); err != nil {
		t.Fatalf("start a DAX node: %v", err)
	}
	t.Cleanup(func() {
		s.Down()
		s.idle.CloseIdleConnections()
	})
	return s
}

// plainBody sends a request's body through Read alone: through io.WriterTo
// net/http may cut the connection of an answer that comes fast, and the SDK would
// make the call a second time.
type plainBody struct{ http.RoundTripper }

func (p plainBody) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context())
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return p.RoundTripper.RoundTrip(r)
}

// Endpoint is where the node is, such as "dax://127.0.0.1:8111".
func (s *Server) Endpoint() string {
	if s.tls != nil {
		return "daxs://" + s.address
	}
	return "dax://" + s.address
}

// Address is the host and port of Endpoint.
func (s *Server) Address() string { return s.address }

// Roots are the certificates that the node's certificate descends from.
func (s *Server) Roots() *x509.CertPool { return s.roots }

// Up starts the node on the port that it had. Its caches are empty; what the
// whole cluster knows, such as attribute lists, is still there.
func (s *Server) Up() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up != nil {
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", s.address)
	if err != nil {
		return err
	}
	s.address = listener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	s.up = &running{listener: listener, ctx: ctx, stop: stop}
	s.up.wg.Add(1)
	go s.accept(s.up)
	return nil
}

// Down stops the node: its port refuses connections, and those that were open
// are closed.
func (s *Server) Down() {
	s.mu.Lock()
	up := s.up
	s.up = nil
	s.mu.Unlock()
	if up == nil {
		return
	}
	up.stop()
	_ = up.listener.Close()
	s.DropConnections()
	up.wg.Wait()
	s.items.clear()
	s.queries.clear()
	s.scans.clear()
}

// Restart is Down and Up.
func (s *Server) Restart() error {
	s.Down()
	return s.Up()
}

// DropConnections closes every open connection, as a load balancer does with
// idle ones and a node with all when it ends.
func (s *Server) DropConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.connections {
		if c.open {
			c.Close()
		}
	}
}

// SetEndpoints makes the node say that the cluster consists of these
// addresses. None means the node itself.
func (s *Server) SetEndpoints(addresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster = addresses
}

// Calls counts the requests of a method that arrived, "*" those of all.
func (s *Server) Calls(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if method != Any {
		return s.calls[method]
	}
	n := 0
	for name, calls := range s.calls {
		if name != AuthorizeConnection {
			n += calls
		}
	}
	return n
}

// Hits counts the reads that the item cache answered.
func (s *Server) Hits() int {
	hits, _ := s.items.counts()
	return hits
}

// Misses counts the reads that the item cache could not answer.
func (s *Server) Misses() int {
	_, misses := s.items.counts()
	return misses
}

// Connections lists every connection since the start, oldest first.
func (s *Server) Connections() []Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Connection, len(s.connections))
	for i, c := range s.connections {
		all[i] = Connection{Calls: maps.Clone(c.calls), UserAgent: c.userAgent, Authorized: c.authorized, Open: c.open}
	}
	return all
}

// connection is one connection of a client. The fields are guarded by the
// server's mutex.
type connection struct {
	net.Conn
	open       bool
	calls      map[string]int
	userAgent  string
	authorized int
}

func (s *Server) accept(up *running) {
	defer up.wg.Done()
	for {
		conn, err := up.listener.Accept()
		if err != nil {
			return
		}
		c := &connection{Conn: conn, open: true, calls: map[string]int{}}
		s.mu.Lock()
		s.connections = append(s.connections, c)
		down := s.up != up
		s.mu.Unlock()
		if down {
			_ = conn.Close()
			return
		}
		up.wg.Add(1)
		go func() {
			defer up.wg.Done()
			s.serve(up.ctx, c)
			_ = c.Close()
			s.mu.Lock()
			c.open = false
			s.mu.Unlock()
		}()
	}
}

// serve answers the requests of one connection, one after the other, until it
// is closed or something came that is not DAX.
func (s *Server) serve(ctx context.Context, c *connection) {
	var stream io.ReadWriter = c.Conn
	if s.tls != nil {
		secure := tls.Server(c.Conn, s.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return
		}
		stream = secure
	}
	dec := cbor.NewDecoder(stream)
	if err := s.greet(dec, c); err != nil {
		return
	}
	var denied *Failure
	if s.o.Credentials.HasKeys() {
		denied = AuthenticationRequired
	}
	for {
		head, err := read(dec, 2)
		if err != nil {
			return
		}
		id, err := integer(head[1], "a method's number")
		if err != nil {
			return
		}
		m, known := methods[id]
		if !known {
			return // what follows can not be told from the next request
		}
		args, err := read(dec, m.args)
		if err != nil {
			return
		}
		s.count(c, m.name)
		if m.name == AuthorizeConnection {
			if s.o.Credentials.HasKeys() {
				denied = authorize(s.o.Credentials, s.o.Region, time.Now(), args)
			}
			if denied == nil {
				s.mu.Lock()
				c.authorized++
				s.mu.Unlock()
			}
			continue // it has no answer
		}
		if !s.answer(ctx, stream, m, args, denied) {
			return
		}
	}
}

// greet reads what a client sends on a new connection.
func (s *Server) greet(dec *cbor.Decoder, c *connection) error {
	magic, err := read(dec, 1)
	if err != nil {
		return err
	}
	if magic[0] != "J7yne5G" {
		return errors.New("daxtest: not a DAX client")
	}
	hello, err := read(dec, 4) // layering, session, header, mode
	if err != nil {
		return err
	}
	optional, err := as[map[any]any](hello[2], "the client's header")
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.userAgent, _ = optional["UserAgent"].(string)
	return nil
}

func read(dec *cbor.Decoder, n int) ([]any, error) {
	all := make([]any, n)
	for i := range all {
		if err := dec.Decode(&all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (s *Server) count(c *connection, method string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[method]++
	c.calls[method]++
}

// answer carries out one request, with the fault that hits it, and reports
// whether the connection goes on.
func (s *Server) answer(ctx context.Context, w io.ReadWriter, m method, args []any, denied *Failure) bool {
	f := s.hit(m.name)
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	}
	if f.Hang {
		_, _ = io.Copy(io.Discard, w)
		return false
	}
	if f.Drop == DropBefore {
		return false
	}
	var answer []byte
	var err error
	switch {
	case denied != nil:
		err = denied
	case f.Failure != nil:
		err = f.Failure
	case f.Raw != nil:
		answer = f.Raw
	default:
		answer, err = m.run(s, append(args, request{ctx, f}))
	}
	if err != nil {
		if answer, err = failure(err).encode(s); err != nil {
			return false
		}
	}
	switch f.Drop {
	case DropAfter:
		return false
	case DropMidway:
		_, _ = w.Write(answer[:len(answer)/2])
		return false
	}
	_, err = w.Write(answer)
	return err == nil
}

// request is what a method needs beside its arguments; it is their last one.
type request struct {
	context.Context
	Fault
}

func requestOf(args []any) request { return args[len(args)-1].(request) }

// endpoints answers where the cluster's nodes are: as raw addresses, since
// that is what clients dial.
func (s *Server) endpoints([]any) ([]byte, error) {
	s.mu.Lock()
	addresses := s.cluster
	s.mu.Unlock()
	if addresses == nil {
		addresses = []string{s.address}
	}
	w := ok()
	w.array(len(addresses))
	for i, a := range addresses {
		host, portText, err := net.SplitHostPort(a)
		if err != nil {
			return nil, err
		}
		port, err := strconv.Atoi(portText)
		if err != nil {
			return nil, err
		}
		ip := net.ParseIP(host)
		if ip == nil {
			return nil, fmt.Errorf("daxtest: %q is not an address", host)
		}
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		role := int64(2)
		if i == 0 {
			role = 1
		}
		w.mapping(7)
		for key, write := range []func(){
			func() { w.integer(int64(i + 1)) }, func() { w.text(host) }, func() { w.bytes(ip) }, func() { w.integer(int64(port)) },
			func() { w.integer(role) }, func() { w.text("us-east-1a") }, func() { w.integer(1) },
		} {
			w.integer(int64(key))
			write()
		}
	}
	return w.b, nil
}
