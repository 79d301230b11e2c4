package client

import (
	"context"
	"crypto/rand"
	"runtime"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

const (
	// carrierLife is how long a stream takes calls. It is less than a server gives
	// to what runs when it sends a connection away, so that no stream is cut off;
	// and it spreads the calls anew over the replicas, and ends what is idle.
	carrierLife = 20 * time.Second
	// carrierEnd is how long its last calls may take then, which is more than the
	// service gives to any.
	carrierEnd = 40 * time.Second
	// maxCarriers is how many tokens have a stream at once.
	maxCarriers = 64
	// untold is how many calls may be begun on a stream before the service has
	// said how many it takes.
	untold = 16
	// Nobody asks for a stream again so soon of a service that has none, or none
	// for us now.
	withoutStreams, withoutStreamsNow = time.Minute, time.Second
)

// carriers are the streams that Gets go over, one for each token. What they can
// not answer, for whatever reason, is asked as a call of its own: so there is one
// place where calls are tried again, and their errors are the same.
type carriers struct {
	service tagstorev1.ConfigServiceClient
	life    context.Context //nolint:containedctx // of all streams
	end     context.CancelFunc
	work    sync.WaitGroup
	span    time.Duration // of each

	mu    sync.Mutex
	by    map[string]*carrier // by token
	pause time.Time           // no stream is opened before
}

func newCarriers(service tagstorev1.ConfigServiceClient) *carriers {
	c := &carriers{service: service, span: carrierLife, by: map[string]*carrier{}}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// close ends the streams. What was under way on them has no answer then.
func (c *carriers) close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.work.Wait()
}

// carrier is one stream. What is sent goes through one goroutine and what comes
// through another, so nobody who waits for an answer can be held up by the wire
// beyond its time.
type carrier struct {
	of     *carriers
	token  string
	id     string          // request id of the stream
	ctx    context.Context //nolint:containedctx // of the stream
	cancel context.CancelFunc
	wake   chan struct{} // there is something to send, or the stream is retired

	mu      sync.Mutex
	age     *time.Timer // what it does next: retire, end
	most    int
	last    uint64
	pending map[uint64]chan *tagstorev1.SessionAnswer // nil: nobody waits any more
	calls   []*tagstorev1.SessionCall                 // to be sent
	cancels []uint64
	retired bool          // it takes no more calls
	shun    time.Duration // how long no other is opened for its token
}

// find returns the stream of a token, nil where there is none to be had.
func (c *carriers) find(token string) *carrier {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.by[token]; s != nil {
		return s
	}
	if len(c.by) >= maxCarriers || c.life.Err() != nil || time.Now().Before(c.pause) {
		return nil
	}
	s := &carrier{
		of: c, token: token, id: rand.Text(), wake: make(chan struct{}, 1), most: untold,
		pending: map[uint64]chan *tagstorev1.SessionAnswer{},
	}
	s.ctx, s.cancel = context.WithCancel(ContextWithToken(c.life, token))
	s.mu.Lock() // it may be over before it is set
	s.age = time.AfterFunc(c.span, s.retire)
	s.mu.Unlock()
	c.by[token] = s
	c.work.Go(s.run)
	return s
}

func (c *carriers) forget(s *carrier) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by[s.token] == s {
		delete(c.by, s.token)
	}
}

func (c *carriers) rest(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pause = time.Now().Add(d)
}

// run is the life of a stream, from its opening on.
func (s *carrier) run() {
	defer s.finish()
	stream, err := s.of.service.Session(metadata.AppendToOutgoingContext(s.ctx, "x-request-id", s.id))
	if err != nil {
		s.refused(err)
		return
	}
	s.of.work.Go(func() { s.send(stream) })
	for opened := false; ; opened = true {
		r, err := stream.Recv()
		if err != nil {
			if !opened {
				s.refused(err)
			}
			return
		}
		if r.GetOpened() != nil {
			s.mu.Lock()
			s.most = int(r.GetOpened().GetMaxInFlight())
			s.mu.Unlock()
		}
		for _, a := range r.GetAnswers() {
			if !s.deliver(a) {
				return
			}
		}
	}
}

// refused is for a stream that was never opened. Where that is the token's fault
// the next one may have better luck, and where it is that of its tenant, which has
// too many or asks for too much, those of others have.
func (s *carrier) refused(err error) {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied:
	case codes.ResourceExhausted:
		s.shun = max(withoutStreamsNow, retryAfter(errgrpc.FromError(err), withoutStreams))
	case codes.Unimplemented:
		s.of.rest(withoutStreams)
	default:
		s.of.rest(withoutStreamsNow)
	}
}

// finish lets all who wait know that nothing more comes.
func (s *carrier) finish() {
	if s.shun == 0 {
		s.of.forget(s)
	}
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.age.Stop()
	s.retired = true
	if s.shun > 0 { // it stands in the way of another until then
		s.age = time.AfterFunc(s.shun, func() { s.of.forget(s) })
	}
	for _, waiting := range s.pending {
		if waiting != nil {
			waiting <- nil
		}
	}
	s.pending = nil
}

// retire lets the stream end behind the answers of what was begun.
func (s *carrier) retire() {
	s.of.forget(s)
	s.mu.Lock()
	if s.pending == nil { // it has ended
		s.mu.Unlock()
		return
	}
	s.retired = true
	s.age = time.AfterFunc(carrierEnd, s.cancel)
	s.mu.Unlock()
	s.signal()
}

func (s *carrier) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// send sends what there is to send, until the stream ends.
func (s *carrier) send(stream grpc.BidiStreamingClient[tagstorev1.SessionRequest, tagstorev1.SessionResponse]) {
	for {
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return
		}
		// Those who are about to ask, too, are asked for in the same message.
		runtime.Gosched()
		s.mu.Lock()
		message := &tagstorev1.SessionRequest{Calls: s.calls, Cancel: s.cancels}
		s.calls, s.cancels = nil, nil
		retired := s.retired
		s.mu.Unlock()
		if len(message.GetCalls()) > 0 || len(message.GetCancel()) > 0 {
			if stream.Send(message) != nil {
				return // whoever receives is told why
			}
		}
		if retired {
			_ = stream.CloseSend() // it never fails
			return
		}
	}
}

// deliver gives an answer to who waits for it, and is false for one that nobody
// asked for: then nothing that comes can be believed.
func (s *carrier) deliver(a *tagstorev1.SessionAnswer) bool {
	s.mu.Lock()
	waiting, known := s.pending[a.GetId()]
	delete(s.pending, a.GetId())
	s.mu.Unlock()
	if waiting != nil {
		waiting <- a
	}
	return known
}

// begin sends a call, and returns where its answer comes, nil if the stream takes
// no more.
func (s *carrier) begin(c *tagstorev1.SessionCall) chan *tagstorev1.SessionAnswer {
	s.mu.Lock()
	if s.retired || len(s.pending) >= s.most {
		s.mu.Unlock()
		return nil
	}
	s.last++
	c.Id = s.last
	waiting := make(chan *tagstorev1.SessionAnswer, 1)
	s.pending[c.Id] = waiting
	s.calls = append(s.calls, c)
	s.mu.Unlock()
	s.signal()
	return waiting
}

// abandon has nobody wait for a call any more. It counts until it is answered.
func (s *carrier) abandon(id uint64) {
	s.mu.Lock()
	_, known := s.pending[id]
	if known {
		s.pending[id] = nil
		s.cancels = append(s.cancels, id)
	}
	s.mu.Unlock()
	if known {
		s.signal()
	}
}

var timers = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}}

// get asks over a stream. ok is false where a call of its own has to ask, which
// may be after a while: then until says when its time is up.
func (c *carriers) get(ctx context.Context, k call, req *tagstorev1.GetRequest, until time.Time) (_ call, resp *tagstorev1.GetResponse, err error, ok bool) {
	token, has := ctx.Value(tokenKey{}).(string)
	if !has || !carried(ctx) {
		return k, nil, nil, false
	}
	s := c.find(token)
	if s == nil {
		return k, nil, nil, false
	}
	left := time.Until(until)
	if left <= 0 {
		return k, nil, nil, false
	}
	message := &tagstorev1.SessionCall{
		TimeoutUs: uint64((left + time.Microsecond - 1) / time.Microsecond),
		Request:   &tagstorev1.SessionCall_Get{Get: req},
	}
	if id, _ := ctx.Value(requestIDKey{}).(string); validRequestID(id) {
		message.RequestId = id
	}
	answer := s.begin(message)
	if answer == nil {
		return k, nil, nil, false
	}
	if k.id = message.GetRequestId(); k.id == "" {
		k.id = s.id + "." + strconv.FormatUint(message.GetId(), 10)
	}
	timer := timers.Get().(*time.Timer) // the pool makes no others
	timer.Reset(left)
	defer timers.Put(timer)
	defer timer.Stop()
	select {
	case a := <-answer:
		resp, err, ok = outcome(k, a)
		return k, resp, err, ok
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = context.DeadlineExceeded
	}
	s.abandon(message.GetId())
	return k, nil, k.failed(status.FromContextError(err).Err()), true
}

// carried reports whether a frame can hold all of a call: what is traced or has
// metadata of its own goes its own way.
func carried(ctx context.Context) bool {
	if trace.SpanContextFromContext(ctx).IsSampled() {
		return false
	}
	_, own := metadata.FromOutgoingContext(ctx)
	return !own
}

func outcome(k call, a *tagstorev1.SessionAnswer) (*tagstorev1.GetResponse, error, bool) {
	switch o := a.GetOutcome().(type) {
	case *tagstorev1.SessionAnswer_Get:
		return o.Get, nil, true
	case *tagstorev1.SessionAnswer_Error:
		switch codes.Code(o.Error.GetCode()) {
		case codes.OK:
			return nil, k.broken("with an error that is none"), true
		case codes.Unavailable: // it is tried again as any other
			return nil, nil, false
		}
		return nil, k.failed(statusFromWire(o.Error).Err()), true
	default: // a nil a, too
		return nil, nil, false
	}
}
