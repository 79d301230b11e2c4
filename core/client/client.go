package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

const (
	// maxReceive holds the largest answer that the service sends.
	maxReceive = 16 << 20
	// defaultTimeout is for calls whose context has no deadline.
	defaultTimeout = 10 * time.Second
	// maxRequestID is the longest request id that the service takes over.
	maxRequestID = 64
)

// serviceConfig lets gRPC itself retry the reads: it knows which attempts the
// server has not seen, jitters its backoff, stays within the deadline and
// obeys a server that asks it to wait. The format is that of
// https://github.com/grpc/grpc/blob/master/doc/service_config.md.
const serviceConfig = `{%s"methodConfig": [{
	"name": [
		{"service": "tagstore.v1.ConfigService", "method": "Get"},
		{"service": "tagstore.v1.ConfigService", "method": "BatchGet"},
		{"service": "tagstore.v1.ConfigService", "method": "List"},
		{"service": "tagstore.v1.ConfigService", "method": "History"},
		{"service": "tagstore.v1.AdminService", "method": "ListBackends"}
	],
	"retryPolicy": {
		"maxAttempts": 3, "initialBackoff": "0.03s", "maxBackoff": "0.3s", "backoffMultiplier": 4,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

// Client calls one configuration service. Make it with New, end it with Close.
type Client struct {
	target   string
	timeout  time.Duration
	conn     *grpc.ClientConn
	config   tagstorev1.ConfigServiceClient
	admin    tagstorev1.AdminServiceClient
	carriers *carriers // nil without WithStreams
}

// Option changes what New does.
type Option func(*options)

type options struct {
	creds     credentials.TransportCredentials
	insecure  bool
	spread    bool
	streams   bool
	timeout   time.Duration
	telemetry []otelgrpc.Option
}

// WithTLS encrypts the connection. A nil config trusts the system's roots.
func WithTLS(c *tls.Config) Option {
	return WithTransportCredentials(credentials.NewTLS(c))
}

// WithTransportCredentials secures the connection with creds. Credentials that
// do not encrypt are bound by the rule for plaintext.
func WithTransportCredentials(creds credentials.TransportCredentials) Option {
	return func(o *options) { o.creds = creds }
}

// WithInsecure allows plaintext to any address. Everyone on the way can read
// the tokens and the values.
func WithInsecure() Option {
	return func(o *options) { o.insecure = true }
}

// WithTimeout sets the time that a call gets whose context has no deadline,
// instead of 10 s. It does not bound Watch.
func WithTimeout(d time.Duration) Option {
	return func(o *options) { o.timeout = d }
}

// WithRoundRobin spreads the calls over all addresses that the target resolves
// to, instead of holding on to the first that answers: a call goes to the next
// address that there is a connection to, so one replica that is gone costs no
// more than the calls that it had. A name is looked up again when a connection
// breaks, at most every 30 s.
func WithRoundRobin() Option {
	return func(o *options) { o.spread = true }
}

// WithStreams has Gets go over streams that stay open, one for each token, which
// takes a fraction of the time of calls when many are made at once. The answers
// and errors are the same. The metrics and spans of the client are then those of
// the streams; a Get in a trace that is sampled is made as a call of its own, and
// so is one that a stream can not take, or has lost, or the service has no streams
// for.
//
// A stream holds on to one replica for 20 s, which need not be the one that writes
// go to: MinVersion asks for what was written. It pays for itself when its token
// makes a few calls in that time; a program whose every call has another token
// does without.
func WithStreams() Option {
	return func(o *options) { o.streams = true }
}

// WithTelemetry sends the calls' metrics and spans to these providers instead
// of OpenTelemetry's globals. The trace context of a call's context reaches the
// service either way, in the form of the global propagator.
func WithTelemetry(meters metric.MeterProvider, tracers trace.TracerProvider) Option {
	return func(o *options) {
		o.telemetry = []otelgrpc.Option{otelgrpc.WithMeterProvider(meters), otelgrpc.WithTracerProvider(tracers)}
	}
}

// New returns a client of the service at target: "host:port", a gRPC target
// such as "dns:///host:port", "unix:/path", or several "host:port" with commas
// between them, which the calls are spread over as by WithRoundRobin: any of
// them may be away, and what was sent to one is not tried at another but by the
// rules for retries. It does not connect: an
// address where nobody answers shows in the first call, as Unavailable. The
// error has code InvalidArgument.
func New(target string, opts ...Option) (*Client, error) {
	const op = "client.New"
	o := options{creds: insecure.NewCredentials(), timeout: defaultTimeout}
	for _, set := range opts {
		set(&o)
	}
	if o.timeout <= 0 {
		return nil, &config.Error{Op: op, Code: config.InvalidArgument, Message: "the timeout is not positive"}
	}
	endpoint := target
	var static []grpc.DialOption
	targets := []string{target}
	if strings.Contains(target, ",") && !strings.HasPrefix(target, "unix") && !strings.Contains(target, "://") {
		targets = strings.Split(target, ",")
		addresses, err := parseReplicas(target)
		if err != nil {
			return nil, config.AsError(err, op, config.Key{})
		}
		endpoint, static = addresses.target(), addresses.dial()
		o.spread = true
	}
	balancing := ""
	if o.spread {
		balancing = `"loadBalancingConfig": [{"round_robin": {}}], `
	}
	plaintext := o.creds.Info().SecurityProtocol == insecure.NewCredentials().Info().SecurityProtocol
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(o.creds),
		grpc.WithPerRPCCredentials(bearer{secure: !plaintext}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
		grpc.WithDefaultServiceConfig(fmt.Sprintf(serviceConfig, balancing)),
		// Nobody may change the retries by a DNS record.
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(o.telemetry...)),
	}
	if plaintext && !o.insecure {
		local, err := localDial(targets)
		if err != nil {
			return nil, config.AsError(err, op, config.Key{})
		}
		dial = append(dial, local...)
	}
	conn, err := grpc.NewClient(endpoint, append(dial, static...)...)
	if err != nil {
		return nil, (&config.Error{Op: op, Code: config.InvalidArgument, Message: "the target is not valid"}).
			WithHint("give it as host:port").WithCause(err)
	}
	c := &Client{
		target: target, timeout: o.timeout, conn: conn,
		config: tagstorev1.NewConfigServiceClient(conn), admin: tagstorev1.NewAdminServiceClient(conn),
	}
	if o.streams {
		c.carriers = newCarriers(c.config)
	}
	return c, nil
}

// Close ends the connection and every call on it, with code Canceled. It
// returns nil when called again.
func (c *Client) Close() error {
	// ErrClientConnClosing is all that Close of a connection can return.
	_ = c.conn.Close()
	if c.carriers != nil {
		c.carriers.close()
	}
	return nil
}

// localDial checks that all targets are on this machine, and returns the options
// that hold the connections to it: a name is looked up anew for every
// connection, and what it resolves to then is checked before a byte is sent.
func localDial(targets []string) ([]grpc.DialOption, error) {
	if one := targets[0]; len(targets) == 1 && (strings.HasPrefix(one, "unix:") || strings.HasPrefix(one, "unix-abstract:")) {
		return nil, nil
	}
	for _, target := range targets {
		if err := checkLocal(strings.TrimSpace(target)); err != nil {
			return nil, err
		}
	}
	dialer := &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !at.Addr().Unmap().IsLoopback() {
			return errPlaintext()
		}
		return nil
	}}
	return []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", address)
	})}, nil
}

func checkLocal(target string) error {
	endpoint := target
	if _, rest, ok := strings.Cut(target, "://"); ok {
		if _, endpoint, ok = strings.Cut(rest, "/"); !ok {
			endpoint = rest
		}
	}
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return config.Errorf(config.InvalidArgument, "the target is not valid").WithHint("give it as host:port")
	}
	if host != "localhost" {
		ip, err := netip.ParseAddr(host)
		if err != nil || !ip.Unmap().IsLoopback() {
			return errPlaintext()
		}
	}
	return nil
}

// replicas are the addresses of a target that names several.
type replicas []resolver.Address

func parseReplicas(target string) (replicas, error) {
	var all replicas
	for one := range strings.SplitSeq(target, ",") {
		one = strings.TrimSpace(one)
		host, port, err := net.SplitHostPort(one)
		if err != nil || host == "" || port == "" {
			return nil, config.Errorf(config.InvalidArgument, "the target is not valid").WithHint("give several addresses as host:port,host:port")
		}
		all = append(all, resolver.Address{Addr: one, ServerName: host})
	}
	return all, nil
}

const replicaScheme = "tagstore-replicas"

func (r replicas) target() string { return replicaScheme + ":///" + r[0].ServerName }

func (r replicas) dial() []grpc.DialOption {
	static := manual.NewBuilderWithScheme(replicaScheme)
	static.InitialState(resolver.State{Addresses: r})
	return []grpc.DialOption{grpc.WithResolvers(static)}
}

func errPlaintext() *config.Error {
	return config.Errorf(config.InvalidArgument, "plaintext is allowed to this machine only").
		WithHint("use TLS, or allow it explicitly if the network is trusted")
}

type (
	tokenKey     struct{}
	requestIDKey struct{}
)

// ContextWithToken returns a context whose calls carry this bearer token.
func ContextWithToken(ctx context.Context, token string) context.Context {
	return context.WithValue(ctx, tokenKey{}, token)
}

// ContextWithRequestID returns a context whose calls carry this request id, so
// that they can be found in the service's log. One that is not 1 to 64 of
// A-Z, a-z, 0-9, '.', '_' and '-' is replaced, as the service would; without
// one each call gets an id of its own.
func ContextWithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the id of the request that ended with err, "" if err does
// not come from a call of this package.
func RequestID(err error) string {
	var r *requestError
	if errors.As(err, &r) {
		return r.id
	}
	return ""
}

// bearer takes the token of each call from its context.
type bearer struct{ secure bool }

func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, ok := ctx.Value(tokenKey{}).(string)
	if !ok {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return b.secure }

// call is the frame of one call: its deadline and its request id.
type call struct {
	client *Client
	op     string
	key    config.Key
	id     string
}

func (c *Client) begin(ctx context.Context, op string, key config.Key) (context.Context, context.CancelFunc, call) {
	ctx, k := c.identify(ctx, op, key)
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}, k
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	return ctx, cancel, k
}

func (c *Client) identify(ctx context.Context, op string, key config.Key) (context.Context, call) {
	id, _ := ctx.Value(requestIDKey{}).(string)
	if !validRequestID(id) {
		id = rand.Text()
	}
	return metadata.AppendToOutgoingContext(ctx, "x-request-id", id), call{client: c, op: op, key: key, id: id}
}

func validRequestID(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// failed returns what a call ended with as a *config.Error that knows its
// request id.
func (k call) failed(err error) error {
	// After the last retry gRPC wraps the status in words of its own.
	var last interface{ GRPCStatus() *status.Status }
	if errors.As(err, &last) {
		err = last.GRPCStatus().Err()
	}
	e := config.AsError(errgrpc.FromError(err), k.op, k.key)
	if e.Code == config.Unavailable && e.Hint == "" {
		e = e.WithHint("check that the configuration service answers at %s", k.client.target)
	}
	return e.WithCause(&requestError{id: k.id, cause: e.Err})
}

// failedWrite is failed for a write, which may have happened although nobody
// answered: sent says whether it got as far as a connection. An answer of the
// service carries its detail and says by its own code what happened.
func (k call) failedWrite(err error, sent bool) error {
	if s := status.Convert(err); s.Code() == codes.Unavailable && len(s.Details()) == 0 && sent {
		err = config.Errorf(config.OutcomeUnknown, "the connection broke before the service answered").
			WithHint("read the key, or retry with the same idempotency key").WithCause(errors.New(s.Message()))
	}
	return k.failed(err)
}

// broken is failed for an answer that does not fit what was asked.
func (k call) broken(what string) error {
	e := &config.Error{Op: k.op, Key: k.key, Code: config.Internal, Message: "the service answered " + what}
	return e.WithCause(&requestError{id: k.id})
}

// requestError carries the request id in the causes of a config.Error.
type requestError struct {
	id    string
	cause error
}

func (e *requestError) Error() string {
	if e.cause == nil {
		return "request " + e.id
	}
	return "request " + e.id + ": " + e.cause.Error()
}

func (e *requestError) Unwrap() error { return e.cause }
