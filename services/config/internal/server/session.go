package server

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/services/config/internal/intercept"
)

// unopened is how many calls a client may have begun before it is told how many,
// as the .proto file says.
const unopened = 16

// session is one stream of calls (ADR 0024). What is in memory is answered where
// it is read, one call after the other; what has to ask a store gets a goroutine.
// Nothing is read while what was answered is not sent, so a client that does not
// read holds its own session up, with a bounded number of answers, and loses it
// after SendTimeout.
//
// It ends in one of two ways: with finish, behind the answers of all that was
// begun, or with end, at once.
type session struct {
	service *configService
	stream  grpc.ServerStream
	ctx     context.Context //nolint:containedctx // the stream's own, of which every call's is made
	end     context.CancelCauseFunc
	out     *outbox
	most    int // calls at once

	caller  auth.Principal  // of the last message
	allowed context.Context //nolint:containedctx // ctx with it
	last    uint64          // the greatest id of a call so far
	refused bool            // a call of this message, since its tenant asks for too much

	mu       sync.Mutex
	begun    int                           // messages and calls that are worked on
	running  map[uint64]context.CancelFunc // calls that ask a store
	finished bool
	reason   error         // of finish
	idle     chan struct{} // closed when it is finished and nothing is worked on
}

func (s *configService) Session(stream grpc.BidiStreamingServer[tagstorev1.SessionRequest, tagstorev1.SessionResponse]) error {
	const op = "config.Session"
	caller, _, err := scope(stream.Context(), "")
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	x := &session{
		service: s, stream: stream, ctx: ctx, end: end, caller: caller, allowed: auth.ContextWithPrincipal(ctx, caller),
		most: max(s.limits.SessionInFlight, unopened), running: map[uint64]context.CancelFunc{}, idle: make(chan struct{}),
	}
	x.out = newOutbox(stream.SendMsg, s.limits.SendTimeout, end)
	defer x.out.close()
	if err := stream.Send(&tagstorev1.SessionResponse{
		Opened: &tagstorev1.SessionOpened{MaxInFlight: uint32(x.most)},
	}); err != nil {
		return err
	}
	expiry := time.AfterFunc(time.Until(caller.Expires), func() { x.finish(errSessionExpired) })
	defer expiry.Stop()
	defer context.AfterFunc(s.drained, func() { x.finish(errSessionDraining) })()
	// It reads until the stream ends, which is soon behind the return of this
	// function if not before.
	go func() {
		if err := s.recovery.Protect(ctx, op, x.read); err != nil {
			end(err)
		}
	}()
	select {
	case <-x.idle:
		return x.reason
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var (
	errSessionExpired = config.Errorf(config.Unauthenticated, "the token has expired").
				WithHint("get a new one and open another session")
	errSessionDraining = config.Errorf(config.Unavailable, "this server is shutting down").
				WithHint("open a session elsewhere and make the calls again that were not answered")
)

// finish ends the session behind the answers of what was begun, with this error
// or, for nil, with OK. What is read from now on is not begun.
func (x *session) finish(reason error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.finished {
		return
	}
	x.finished, x.reason = true, reason
	if x.begun == 0 {
		close(x.idle)
	}
}

// enter is false where nothing is begun any more.
func (x *session) enter() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.finished {
		return false
	}
	x.begun++
	return true
}

// leave is called once nothing is left to be sent by who entered.
func (x *session) leave() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.begun--; x.finished && x.begun == 0 {
		close(x.idle)
	}
}

// read begins what comes. A client that has said all that it has to say gets its
// answers.
func (x *session) read() error {
	var f frame
	for {
		err := x.stream.RecvMsg(&f)
		if errors.Is(err, io.EOF) {
			x.finish(nil)
			return nil
		}
		if err != nil {
			return err
		}
		if x.ctx.Err() != nil { // what has come already is not begun
			return context.Cause(x.ctx)
		}
		if !x.enter() {
			return nil
		}
		if err := x.take(&f); err != nil {
			return err // it ends at once, and what was begun with it
		}
		x.leave()
	}
}

// take begins the calls of one message and answers those that need not wait.
func (x *session) take(f *frame) error {
	request, err := f.parse(x.most)
	if err != nil {
		return err
	}
	for _, id := range request.GetCancel() {
		x.cancel(id)
	}
	calls := request.GetCalls()
	if len(calls) == 0 {
		return nil
	}
	// What a call of its own would find out: the token may be no good any more.
	caller, err := x.service.guard.Authenticate(x.ctx)
	if err != nil {
		x.finish(err)
		return nil
	}
	if caller != x.caller {
		x.caller, x.allowed = caller, auth.ContextWithPrincipal(x.ctx, caller)
	}
	ready := make([]answer, 0, len(calls))
	for _, c := range calls {
		if c.GetId() <= x.last {
			return config.Errorf(config.InvalidArgument, "the id of a call is not greater than all before it on the session").
				WithHint("count the calls of a session from 1")
		}
		x.last = c.GetId()
		if a, ok := x.begin(c); ok {
			ready = append(ready, a)
		}
	}
	x.out.give(ready...)
	x.out.settle(x.most)
	if x.refused { // they are told; what its client says next is listened to a little later
		x.refused = false
		x.service.rate.Hold(x.ctx)
	}
	return nil
}

// begin answers a call, or lets it answer itself later.
func (x *session) begin(c *tagstorev1.SessionCall) (answer, bool) {
	method := tagstorev1.ConfigService_Get_FullMethodName
	get := c.GetGet()
	if get == nil {
		method = tagstorev1.ConfigService_Session_FullMethodName
	}
	part := x.service.chain.Begin(x.allowed, method, intercept.PartID(x.ctx, c.GetRequestId(), c.GetId()))
	if get == nil {
		return failedAnswer(c, part.End(config.Errorf(config.Unimplemented, "this server can not do in a session what the call asks for").
			WithHint("make it a call of its own"))), true
	}
	if err := x.service.guard.Allow(part, method, x.caller, get); err != nil {
		x.refused = x.refused || config.CodeOf(err) == config.ResourceExhausted
		return failedAnswer(c, part.End(err)), true
	}
	var held *prepared
	err := x.service.recovery.Protect(part, method, func() error {
		held = x.service.fromMemory(part, get)
		return nil
	})
	switch {
	case err != nil:
		return failedAnswer(c, part.End(err)), true
	case held != nil:
		_ = part.End(nil)
		return heldAnswer(c.GetId(), held), true
	}
	if err := x.ask(c, part); err != nil {
		return failedAnswer(c, part.End(err)), true
	}
	return answer{}, false
}

// ask has a goroutine answer a call.
func (x *session) ask(c *tagstorev1.SessionCall, part *intercept.Part) error {
	timeout := x.service.limits.UnaryCap
	if us := c.GetTimeoutUs(); us > 0 {
		timeout = min(timeout, time.Duration(min(us, math.MaxInt64/1000))*time.Microsecond)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.running) >= x.most {
		return config.Errorf(config.ResourceExhausted, "the session has its %d calls already", x.most).
			WithHint("wait for answers, or make single calls")
	}
	ctx, cancel := context.WithTimeout(part, timeout)
	x.running[c.GetId()] = cancel
	x.begun++
	go func() {
		defer x.leave()
		x.out.give(x.fromStore(ctx, c, part))
		cancel()
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.running, c.GetId())
	}()
	return nil
}

func (x *session) fromStore(ctx context.Context, c *tagstorev1.SessionCall, part *intercept.Part) answer {
	var got *tagstorev1.GetResponse
	err := x.service.recovery.Protect(part, tagstorev1.ConfigService_Get_FullMethodName, func() (err error) {
		got, err = x.service.Get(ctx, c.GetGet())
		return err
	})
	var a answer
	if err == nil {
		a, err = plainAnswer(&tagstorev1.SessionAnswer{Id: c.GetId(), Outcome: &tagstorev1.SessionAnswer_Get{Get: got}})
	}
	if err = part.End(err); err != nil {
		return failedAnswer(c, err)
	}
	return a
}

// cancel ends a call that asks a store, if it does. It counts until it is over.
func (x *session) cancel(id uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if cancel := x.running[id]; cancel != nil {
		cancel()
	}
}

// failedAnswer has an encoding: a status is made valid when it is made.
func failedAnswer(c *tagstorev1.SessionCall, err error) answer {
	a, _ := plainAnswer(&tagstorev1.SessionAnswer{Id: c.GetId(), Outcome: &tagstorev1.SessionAnswer_Error{Error: toStatus(err)}})
	return a
}

// outbox sends the answers of a session. Whoever brings one while nobody sends
// does so for all who come meanwhile: what is ready together goes together.
type outbox struct {
	write func(any) error
	end   context.CancelCauseFunc
	stuck *time.Timer // ends the session
	most  time.Duration

	mu      sync.Mutex
	fewer   sync.Cond // waiting has become shorter, or nobody sends
	waiting []answer
	sending bool
	broken  bool // nothing can be sent any more
}

func newOutbox(write func(any) error, most time.Duration, end context.CancelCauseFunc) *outbox {
	o := &outbox{write: write, end: end, most: most}
	o.fewer.L = &o.mu
	o.stuck = time.AfterFunc(most, func() { end(errSessionSlow) })
	o.stuck.Stop()
	return o
}

var errSessionSlow = config.Errorf(config.ResourceExhausted, "the client does not read the answers of its session").
	WithHint("read faster, or ask less at once")

// close is for the end of the session.
func (o *outbox) close() { o.stuck.Stop() }

// give returns when these answers are sent or somebody else sends them.
func (o *outbox) give(as ...answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(o.waiting, as...)
	if o.sending {
		return
	}
	o.sending = true
	for len(o.waiting) > 0 && !o.broken {
		n := together(o.waiting)
		now := o.waiting[:n:n]
		o.waiting = o.waiting[n:]
		o.mu.Unlock()
		err := o.send(now)
		o.mu.Lock()
		o.fewer.Broadcast()
		if err != nil {
			o.broken = true
			o.end(err)
		}
	}
	if o.sending = false; len(o.waiting) == 0 && cap(o.waiting) > 0 {
		o.waiting = nil
	}
	o.fewer.Broadcast()
}

func (o *outbox) send(as []answer) error {
	o.stuck.Reset(o.most)
	defer o.stuck.Stop()
	return o.write(encode(as))
}

// settle waits until there is room again: somebody who sends can be held up, and
// with each message more would be waiting.
func (o *outbox) settle(most int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.sending && len(o.waiting) >= most {
		o.fewer.Wait()
	}
}
