package daxread

import (
	"context"
	"crypto/x509"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
)

// Options says which cluster to read from, and how.
type Options struct {
	// Endpoint is the cluster's endpoint: "dax://host:port" or, with TLS,
	// "daxs://host:port". The port is 8111 or 9111 unless it is given.
	Endpoint string
	// Region is the cluster's region; requests are signed for it.
	Region string
	// Credentials sign the requests. They are cached here until they expire.
	Credentials aws.CredentialsProvider
	// RequestTimeout bounds one call, retries included. 0 means
	// DefaultRequestTimeout.
	RequestTimeout time.Duration
	// RootCAs are the certificates that a daxs endpoint must descend from. Nil
	// means those of the system.
	RootCAs *x509.CertPool

	refresh time.Duration // how often the cluster is asked for its nodes; tests have less patience
}

// defaultRefresh must be longer than connect takes at most.
const defaultRefresh = 4 * time.Second

// The bounds of RequestTimeout.
const (
	DefaultRequestTimeout = 250 * time.Millisecond
	MinRequestTimeout     = 10 * time.Millisecond
	MaxRequestTimeout     = 10 * time.Second
)

// openTimeout is how long Open waits for the cluster.
const openTimeout = time.Second

// Client reads through one cluster. It is safe for concurrent use.
type Client struct {
	endpoint endpoint
	o        Options
	breaker  breaker

	session atomic.Pointer[session] // nil while there is no connection
	stop    context.CancelFunc
	tried   chan struct{} // closed after the first connect
	kept    chan struct{} // closed when keep has ended

	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup // calls of users
}

// Open checks the options and connects to the cluster. It does not fail
// because the cluster is down: it waits for a second at most, and goes on
// trying after that until Close.
func Open(o Options) (*Client, error) {
	e, wrong := parseEndpoint(o.Endpoint)
	var problems []string
	if wrong != "" {
		problems = append(problems, wrong)
	}
	if o.Region == "" {
		problems = append(problems, "the region is missing")
	}
	if o.Credentials == nil {
		problems = append(problems, "there are no credentials")
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = DefaultRequestTimeout
	}
	if o.refresh == 0 {
		o.refresh = defaultRefresh
	}
	if o.RequestTimeout < MinRequestTimeout || o.RequestTimeout > MaxRequestTimeout {
		problems = append(problems, "the request timeout is not between "+MinRequestTimeout.String()+" and "+MaxRequestTimeout.String())
	}
	if len(problems) > 0 {
		return nil, config.Errorf(config.InvalidArgument, "DAX can not be used: %s", strings.Join(problems, "; "))
	}
	if _, is := o.Credentials.(*aws.CredentialsCache); !is {
		o.Credentials = aws.NewCredentialsCache(o.Credentials) // the library asks for every request
	}
	c := &Client{endpoint: e, o: o, breaker: breaker{now: time.Now}, tried: make(chan struct{}), kept: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	go c.keep(ctx)
	timer := time.NewTimer(openTimeout)
	defer timer.Stop()
	select {
	case <-c.tried:
	case <-timer.C:
	}
	return c, nil
}

// The wait between two connects doubles up to a longest one. After maxStuck
// sessions that did not end the cluster is left alone: each has left calls
// behind, and only a new process gets rid of them.
const (
	firstReconnect   = 250 * time.Millisecond
	longestReconnect = 15 * time.Second
	maxStuck         = 4
)

// keep sees to it that there is a session, until the context ends.
func (c *Client) keep(ctx context.Context) {
	defer close(c.kept)
	tried := sync.OnceFunc(func() { close(c.tried) })
	wait := firstReconnect
	for stuck := 0; stuck < maxStuck; {
		s, err := connect(ctx, c.endpoint, c.o)
		if err == nil {
			c.session.Store(s)
		}
		tried()
		if err == nil {
			wait = firstReconnect
			select {
			case <-s.broken:
			case <-ctx.Done():
			}
			c.session.Store(nil)
			if !s.close() {
				stuck++
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		wait = min(2*wait, longestReconnect)
	}
}

// GetItem returns an item; a missing one is an output without Item. The input
// must not ask for a consistent read, and a projection must have the key's
// attributes.
func (c *Client) GetItem(ctx context.Context, in *dynamodb.GetItemInput) (*dynamodb.GetItemOutput, error) {
	if in == nil || in.TableName == nil {
		return nil, unsupported("there is nothing to read")
	}
	out, err := c.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{
		ReturnConsumedCapacity: in.ReturnConsumedCapacity,
		RequestItems: map[string]types.KeysAndAttributes{*in.TableName: {
			Keys: []map[string]types.AttributeValue{in.Key}, ConsistentRead: in.ConsistentRead, AttributesToGet: in.AttributesToGet,
			ProjectionExpression: in.ProjectionExpression, ExpressionAttributeNames: in.ExpressionAttributeNames,
		}},
	})
	switch {
	case err != nil:
		return nil, err
	case len(out.UnprocessedKeys) > 0:
		return nil, &readError{kind: ErrThrottled, why: "the item was left unprocessed"}
	case len(out.Responses[*in.TableName]) == 0:
		return &dynamodb.GetItemOutput{}, nil
	}
	return &dynamodb.GetItemOutput{Item: out.Responses[*in.TableName][0]}, nil
}

// BatchGetItem returns those items that exist, in no order, and the keys that
// were left unprocessed. The input must not ask for consistent reads, and a
// projection must have the key's attributes.
func (c *Client) BatchGetItem(ctx context.Context, in *dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemOutput, error) {
	own, want, err := request(in)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, &readError{kind: ErrClosed, why: "a read after Close"}
	}
	c.calls.Add(1)
	c.mu.Unlock()
	defer c.calls.Done()

	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := c.session.Load()
	if s == nil || s.isBroken() {
		return nil, &readError{kind: ErrUnavailable, why: "not connected"}
	}
	allowed, probe := c.breaker.allow()
	if !allowed {
		return nil, &readError{kind: ErrUnavailable, why: "it did not answer lately"}
	}
	r := reader{ctx: ctx, session: s, in: own, want: want, timeout: c.o.RequestTimeout}
	out, v, err := r.read()
	c.breaker.report(v, probe)
	return out, err
}

// Close ends the client: it waits for the calls under way, each of which is
// bounded, and closes all connections. Further calls fail with ErrClosed, and
// closing again does nothing.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.calls.Wait()
	c.stop()
	<-c.kept
	return nil
}
