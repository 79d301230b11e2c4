package exchange

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/handshake"
)

// Defaults of the settings that are 0.
const (
	DefaultStreams  = 128
	DefaultIdleTime = 30 * time.Second
)

// maxStatus bounds the status of a call that failed, in bytes, as the limit of
// headers bounds that of a call of its own.
const maxStatus = 64 << 10

// Options say how a Conn works. The zero value is usable.
type Options struct {
	// Sent is told the context of each call that failed and of which the plugin
	// may have had the request, Answered that of each call that it answered,
	// before Invoke returns. Calls that went their own way are not among them.
	Sent, Answered func(context.Context)
	// Streams bounds how many are open at once.
	Streams int
	// IdleTime is after how long a stream that nothing used is closed.
	IdleTime time.Duration
}

// Conn sends the calls of a BackendService over streams of one connection. It
// is what the generated client takes for a connection, safe for concurrent use,
// and to be closed.
type Conn struct {
	conn    grpc.ClientConnInterface
	client  backendv1.BackendServiceClient
	options Options

	life context.Context // of all streams
	end  context.CancelFunc

	mu     sync.Mutex
	idle   []*stream // the one that was used last is taken first
	open   int
	shrink *time.Timer // set from the first idle stream on until none is open
}

var _ grpc.ClientConnInterface = (*Conn)(nil)

// New returns a Conn over conn, which stays the caller's to close, afterwards.
func New(conn grpc.ClientConnInterface, o Options) *Conn {
	nothing := func(context.Context) {}
	if o.Sent == nil {
		o.Sent = nothing
	}
	if o.Answered == nil {
		o.Answered = nothing
	}
	if o.Streams == 0 {
		o.Streams = DefaultStreams
	}
	if o.IdleTime == 0 {
		o.IdleTime = DefaultIdleTime
	}
	c := &Conn{conn: conn, client: backendv1.NewBackendServiceClient(conn), options: o}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// Close ends the streams and with them the calls that run, as the end of the
// connection would.
func (c *Conn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
	c.idle = nil
	if c.shrink != nil {
		c.shrink.Stop()
	}
}

// NewStream opens a stream of the connection: a watch is one of its own.
func (c *Conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.conn.NewStream(ctx, desc, method, opts...)
}

// Invoke makes a call. It returns what the connection's own Invoke would.
func (c *Conn) Invoke(ctx context.Context, method string, request, response any, opts ...grpc.CallOption) error {
	req, resp, ok := carried(ctx, request, response, opts)
	if !ok {
		return c.conn.Invoke(ctx, method, request, response, opts...)
	}
	for {
		if deadline, ok := ctx.Deadline(); ok {
			left := time.Until(deadline)
			if left <= 0 {
				return status.FromContextError(context.DeadlineExceeded).Err()
			}
			req.TimeoutUs = uint64((left + time.Microsecond - 1) / time.Microsecond)
		}
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		s, used := c.take()
		if s == nil {
			return c.conn.Invoke(ctx, method, request, response, opts...)
		}
		err := c.call(ctx, s, req, resp)
		// A stream that lay idle may have ended meanwhile. Nobody has the
		// request then, and each turn of this loop takes one such stream away.
		if used && errors.Is(err, errNotBegun) {
			continue
		}
		return err
	}
}

// carried returns what a frame can hold of a call, and false for a call that
// goes its own way.
func carried(ctx context.Context, request, response any, opts []grpc.CallOption) (*backendv1.ExchangeRequest, proto.Message, bool) {
	in, ok1 := request.(proto.Message)
	out, ok2 := response.(proto.Message)
	if !ok1 || !ok2 {
		return nil, nil, false
	}
	for _, o := range opts {
		if _, static := o.(grpc.StaticMethodCallOption); !static {
			return nil, nil, false
		}
	}
	frame := &backendv1.ExchangeRequest{}
	if md, ok := metadata.FromOutgoingContext(ctx); ok {
		frame.Metadata = make(map[string]string, len(md))
		for key, values := range md {
			if len(values) != 1 || strings.HasSuffix(key, "-bin") {
				return nil, nil, false
			}
			frame.Metadata[key] = values[0]
		}
	}
	// What is too large fails as it does elsewhere.
	if !calls.put(frame, in) || proto.Size(frame)+frameRoom > handshake.MaxMessage {
		return nil, nil, false
	}
	return frame, out, true
}

// frameRoom is what id and timeout take.
const frameRoom = 32

// stream is one stream and the call that it carries, if any. Nobody but the
// owner of the call, or the pool, touches it.
type stream struct {
	ctx    context.Context //nolint:containedctx // the stream's own, made before it is opened
	cancel context.CancelFunc
	client grpc.BidiStreamingClient[backendv1.ExchangeRequest, backendv1.ExchangeResponse] // nil until the first call
	id     uint64
	used   time.Time // when it became idle
}

// take returns a stream and whether it was used before, or nil if there can be
// no more.
func (c *Conn) take() (s *stream, used bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.idle); n > 0 {
		s = c.idle[n-1]
		c.idle[n-1] = nil
		c.idle = c.idle[:n-1]
		return s, true
	}
	if c.open >= c.options.Streams {
		return nil, false
	}
	c.open++
	s = &stream{}
	s.ctx, s.cancel = context.WithCancel(c.life)
	return s, false
}

// give takes back a stream whose call was answered.
func (c *Conn) give(s *stream) {
	s.used = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		return
	}
	c.idle = append(c.idle, s)
	if c.shrink == nil {
		c.shrink = time.AfterFunc(c.options.IdleTime, c.closeIdle)
	}
}

// drop ends a stream.
func (c *Conn) drop(s *stream) {
	s.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
}

// closeIdle ends the streams that nothing has used for the idle time, and comes
// back as long as there are others.
func (c *Conn) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		return
	}
	now, n := time.Now(), 0
	for n < len(c.idle) && now.Sub(c.idle[n].used) >= c.options.IdleTime {
		c.idle[n].cancel()
		n++
	}
	c.idle = append(c.idle[:0], c.idle[n:]...)
	if c.open -= n; c.open == 0 {
		c.shrink = nil
		return
	}
	c.shrink.Reset(c.options.IdleTime)
}

// errNotBegun is the error for a call that certainly nobody carried out.
var errNotBegun = status.Error(codes.Unavailable, "the plugin ended the stream before it took the request")

// call makes one call over s and gives s back, or ends it if it can not be used
// again.
func (c *Conn) call(ctx context.Context, s *stream, req *backendv1.ExchangeRequest, resp proto.Message) error {
	stop := context.AfterFunc(ctx, s.cancel)
	answer, sent, err := s.roundTrip(c.client, req)
	if err == nil {
		err = read(req, answer, resp)
	}
	unusable := err != nil
	if answer != nil && !unusable {
		if failure := answer.GetStatus(); failure != nil {
			err = statusOf(failure)
		}
	}
	// An answer that came with the cancellation is one, but its stream is lost.
	if !stop() || unusable {
		c.drop(s)
	} else {
		c.give(s)
	}
	switch {
	case answer != nil:
		c.options.Answered(ctx)
		return err
	case sent:
		c.options.Sent(ctx)
	}
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return err
}

// roundTrip sends a request and waits for what comes back. sent is false where
// the plugin can not have begun with it.
func (s *stream) roundTrip(c backendv1.BackendServiceClient, req *backendv1.ExchangeRequest) (answer *backendv1.ExchangeResponse, sent bool, err error) {
	if s.client == nil {
		s.client, err = c.Exchange(s.ctx, grpc.MaxCallRecvMsgSize(handshake.MaxFrame))
		if err != nil {
			return nil, false, err
		}
	}
	s.id++
	req.Id = s.id
	err = s.client.Send(req)
	switch {
	case errors.Is(err, io.EOF): // the stream had ended
		return nil, false, errNotBegun
	case err != nil:
		return nil, false, err
	}
	answer, err = s.client.Recv()
	if errors.Is(err, io.EOF) { // it ends so between two calls only
		return nil, false, errNotBegun
	}
	return answer, true, err
}

// read moves the outcome of a call into resp. It returns an error for an answer
// that breaks the protocol. Its stream is of no use any more: what comes next may
// belong to anything.
func read(req *backendv1.ExchangeRequest, answer *backendv1.ExchangeResponse, resp proto.Message) error {
	if answer.GetId() != req.GetId() {
		return broken("an answer to another request than the one it was sent")
	}
	if s := answer.GetStatus(); s != nil {
		if s.GetCode() == int32(codes.OK) || proto.Size(s) > maxStatus {
			return broken("a failure without a valid status")
		}
		return nil
	}
	if !outcomes.take(answer, resp) {
		return broken("an answer to another call than the one it was sent")
	}
	return nil
}

func broken(what string) error {
	return status.Error(codes.Internal, "the plugin broke its contract: it answered with "+what)
}

func statusOf(s *backendv1.ExchangeStatus) error {
	return status.FromProto(&spb.Status{Code: s.GetCode(), Message: s.GetMessage(), Details: s.GetDetails()}).Err()
}
