package client_test

import (
	"context"
	"errors"
	"slices"
	gosync "sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// sessions serves streams of Gets as the service does, one call after the other.
type sessions struct {
	most   uint32
	answer func(*tagstorev1.SessionCall) *tagstorev1.SessionAnswer // nil: none

	opened    atomic.Int32
	mu        gosync.Mutex
	tokens    []string
	calls     []*tagstorev1.SessionCall
	cancelled []uint64
}

func (s *sessions) serve(stream sessionStream) error {
	s.opened.Add(1)
	s.mu.Lock()
	s.tokens = append(s.tokens, metadata.ValueFromIncomingContext(stream.Context(), "authorization")...)
	s.mu.Unlock()
	if err := stream.Send(&tagstorev1.SessionResponse{Opened: &tagstorev1.SessionOpened{MaxInFlight: s.most}}); err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the client has said all that it has to say
		}
		s.mu.Lock()
		s.calls = append(s.calls, r.GetCalls()...)
		s.cancelled = append(s.cancelled, r.GetCancel()...)
		s.mu.Unlock()
		out := &tagstorev1.SessionResponse{}
		for _, c := range r.GetCalls() {
			if a := s.answer(c); a != nil {
				out.Answers = append(out.Answers, a)
			}
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

func (s *sessions) seen() (calls []*tagstorev1.SessionCall, cancelled []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls), slices.Clone(s.cancelled)
}

func given(c *tagstorev1.SessionCall, r *tagstorev1.GetResponse) *tagstorev1.SessionAnswer {
	return &tagstorev1.SessionAnswer{Id: c.GetId(), Outcome: &tagstorev1.SessionAnswer_Get{Get: r}}
}

func declined(c *tagstorev1.SessionCall, err error) *tagstorev1.SessionAnswer {
	s := errgrpc.ToStatus(err).Proto()
	return &tagstorev1.SessionAnswer{Id: c.GetId(), Outcome: &tagstorev1.SessionAnswer_Error{
		Error: &tagstorev1.Status{Code: s.GetCode(), Message: s.GetMessage(), Details: s.GetDetails()},
	}}
}

// own counts the calls of their own.
func own(n *atomic.Int32, answer func(*tagstorev1.GetRequest) (*tagstorev1.GetResponse, error)) func(context.Context, *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
	return func(_ context.Context, r *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
		n.Add(1)
		return answer(r)
	}
}

func echoed(r *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
	return &tagstorev1.GetResponse{Entry: &tagstorev1.Entry{Key: r.GetKey(), Value: []byte(r.GetKey())}}, nil
}

func as(t testing.TB, token string) context.Context {
	t.Helper()
	return client.ContextWithToken(t.Context(), token)
}

// Gets of one token go over one stream, in which no token is, with all that they
// ask; the answer is what a call of its own has.
func TestStreamedGets(t *testing.T) {
	var unary atomic.Int32
	s := &sessions{most: 100, answer: func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer {
		switch c.GetGet().GetKey() {
		case "tenant_config_x":
			return given(c, &tagstorev1.GetResponse{Entry: wire})
		default:
			return declined(c, config.Errorf(config.NotFound, "there is no such key").WithHint("put it"))
		}
	}}
	c := connect(t, &service{session: s.serve, get: own(&unary, func(*tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
		return nil, config.Errorf(config.NotFound, "there is no such key").WithHint("put it")
	})}, client.WithStreams())
	got, err := c.Get(as(t, "one"), key(t, "tenant_config_x"), svc(t, "order"), client.MinVersion(3))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(client.Answer{Entry: entry(t)}, got, identity); diff != "" {
		t.Errorf("Get (-want +got):\n%s", diff)
	}
	ctx, cancel := context.WithTimeout(client.ContextWithRequestID(as(t, "one"), "mine-1"), time.Hour)
	defer cancel()
	_, err = c.Get(ctx, key(t, "tenant_config_none"), config.Service{})
	var e, plain *config.Error
	if !errors.As(err, &e) || client.RequestID(err) != "mine-1" {
		t.Fatalf("got %v of request %q", err, client.RequestID(err))
	}
	_, err = connect(t, &service{get: own(&unary, func(*tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
		return nil, config.Errorf(config.NotFound, "there is no such key").WithHint("put it")
	})}).Get(ctx, key(t, "tenant_config_none"), config.Service{})
	if !errors.As(err, &plain) || e.Error() != plain.Error() || e.Op != plain.Op || e.Hint != plain.Hint || e.Key != plain.Key {
		t.Errorf("over a stream: %v; as a call of its own: %v", e, plain)
	}
	if _, err := c.GetVersion(as(t, "two"), key(t, "tenant_config_x"), svc(t, "order"), 3); err != nil {
		t.Fatal(err)
	}
	calls, _ := s.seen()
	if unary.Load() != 1 || s.opened.Load() != 2 || len(calls) != 3 {
		t.Fatalf("%d calls of their own, %d streams, %d calls over them", unary.Load(), s.opened.Load(), len(calls))
	}
	if diff := cmp.Diff([]string{"Bearer one", "Bearer two"}, s.tokens); diff != "" {
		t.Errorf("the streams' tokens (-want +got):\n%s", diff)
	}
	if calls[0].GetGet().GetMinVersion() != 3 || calls[0].GetGet().GetService() != "order" || calls[2].GetGet().GetVersion() != 3 {
		t.Errorf("what was asked did not cross: %v", calls)
	}
	if left := time.Duration(calls[0].GetTimeoutUs()) * time.Microsecond; left <= 0 || left > 10*time.Second {
		t.Errorf("without a deadline of its own the call has %v", left)
	}
	if left := time.Duration(calls[1].GetTimeoutUs()) * time.Microsecond; left <= 30*time.Minute || left > time.Hour {
		t.Errorf("with an hour to go the call has %v", left)
	}
	if calls[1].GetRequestId() != "mine-1" || calls[0].GetRequestId() != "" {
		t.Errorf("the request ids are %q and %q", calls[0].GetRequestId(), calls[1].GetRequestId())
	}
}

// A call without a token, or with metadata of its own, goes its own way.
func TestWhatNoStreamCarries(t *testing.T) {
	var unary atomic.Int32
	s := &sessions{most: 100, answer: func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer { return nil }}
	c := connect(t, &service{session: s.serve, get: own(&unary, echoed)}, client.WithStreams())
	for _, ctx := range []context.Context{t.Context(), metadata.AppendToOutgoingContext(as(t, "one"), "x-mine", "1")} {
		if _, err := c.Get(ctx, key(t, "p_x"), config.Service{}); err != nil {
			t.Fatal(err)
		}
	}
	if unary.Load() != 2 || s.opened.Load() != 0 {
		t.Errorf("%d calls of their own, %d streams", unary.Load(), s.opened.Load())
	}
}

// A service without streams is asked for one once, and whatever a stream can not
// answer is asked as a call of its own.
func TestStreamsFallBack(t *testing.T) {
	answerAll := func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer {
		r, _ := echoed(c.GetGet())
		return given(c, r)
	}
	broken := func(answer func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer) func(sessionStream) error {
		return (&sessions{most: 100, answer: answer}).serve
	}
	for name, session := range map[string]func(sessionStream) error{
		"not implemented": nil,
		"refused":         func(sessionStream) error { return config.Errorf(config.ResourceExhausted, "too many") },
		"not this token":  func(sessionStream) error { return config.Errorf(config.Unauthenticated, "expired") },
		"ends with OK":    func(sessionStream) error { return nil },
		"takes nothing":   (&sessions{most: 0, answer: answerAll}).serve,
		"breaks with a call": func(s sessionStream) error {
			_, err := s.Recv()
			return errors.Join(err, status.Error(codes.Unavailable, "gone"))
		},
		"another's answer": broken(func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer { c.Id += 7; return answerAll(c) }),
		"no outcome": broken(func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer {
			return &tagstorev1.SessionAnswer{Id: c.GetId()}
		}),
		"the store is away": broken(func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer {
			return declined(c, config.Errorf(config.Unavailable, "away"))
		}),
		"an answer at no call": func(s sessionStream) error {
			_ = s.Send(&tagstorev1.SessionResponse{Answers: []*tagstorev1.SessionAnswer{{Id: 1}, {Id: 0}, {Id: 1 << 63}}})
			_, err := s.Recv()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var unary, opened atomic.Int32
			s := &service{get: own(&unary, echoed)}
			if session != nil {
				s.session = func(stream sessionStream) error { opened.Add(1); return session(stream) }
			}
			c := connect(t, s, client.WithStreams())
			for range 5 {
				var all gosync.WaitGroup
				for _, k := range []string{"p_a", "p_b", "p_c"} {
					all.Go(func() {
						got, err := c.Get(as(t, "one"), key(t, k), config.Service{})
						if err != nil || string(got.Entry.Value) != k {
							t.Errorf("%s: %q, %v", k, got.Entry.Value, err)
						}
					})
				}
				all.Wait()
			}
			if n := unary.Load(); n < 1 || n > 15 {
				t.Errorf("%d calls of their own, of 15", n)
			}
			if n := opened.Load(); name == "refused" && n > 2 {
				t.Errorf("a stream was asked for %d times of a service that has none now", n)
			}
		})
	}
}

// A tenant that may open no stream now is asked for with calls of their own for as
// long as the service says, and the streams of others are opened all the same.
func TestStreamsOfOthersAreOpened(t *testing.T) {
	refused := config.Errorf(config.ResourceExhausted, "too much")
	refused.RetryAfter = time.Hour // a minute, to the client
	s := &sessions{most: 100, answer: func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer {
		r, _ := echoed(c.GetGet())
		return given(c, r)
	}}
	var unary, noisy atomic.Int32
	c := connect(t, &service{get: own(&unary, echoed), session: func(stream sessionStream) error {
		if md, _ := metadata.FromIncomingContext(stream.Context()); md.Get("authorization")[0] == "Bearer noisy" {
			noisy.Add(1)
			return refused
		}
		return s.serve(stream)
	}}, client.WithStreams())
	get := func(token string) {
		t.Helper()
		if _, err := c.Get(as(t, token), key(t, "p_a"), config.Service{}); err != nil {
			t.Fatal(err)
		}
	}
	get("noisy")
	get("calm")
	for range 20 {
		get("noisy")
	}
	if calls, _ := s.seen(); noisy.Load() != 1 || len(calls) != 1 || unary.Load() != 21 {
		t.Errorf("%d streams were asked for, %d calls of the other came over its own, %d as calls of their own", noisy.Load(), len(calls), unary.Load())
	}
}

// An answer that is about something else never becomes data.
func TestForeignStreamedAnswersAreRefused(t *testing.T) {
	for name, answer := range map[string]func(*tagstorev1.SessionCall) *tagstorev1.SessionAnswer{
		"another key": func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer {
			return given(c, &tagstorev1.GetResponse{Entry: &tagstorev1.Entry{Key: "p_z"}})
		},
		"another service": func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer {
			return given(c, &tagstorev1.GetResponse{Entry: &tagstorev1.Entry{Key: "p_x", Service: "billing"}})
		},
		"nothing": func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer { return given(c, nil) },
		"an error that is none": func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer {
			return &tagstorev1.SessionAnswer{Id: c.GetId(), Outcome: &tagstorev1.SessionAnswer_Error{Error: &tagstorev1.Status{}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var unary atomic.Int32
			c := connect(t, &service{session: (&sessions{most: 100, answer: answer}).serve, get: own(&unary, echoed)}, client.WithStreams())
			if _, err := c.Get(as(t, "one"), key(t, "p_x"), config.Service{}); !errors.Is(err, config.Internal) {
				t.Errorf("Get returned %v, want code internal", err)
			}
		})
	}
}

// A call ends when its time is up or its caller gives up, whatever the service
// does, and the service is told. It counts until it is answered: what is beyond
// the bound goes its own way.
func TestStreamedCallsEndInTime(t *testing.T) {
	var unary atomic.Int32
	s := &sessions{most: 3, answer: func(*tagstorev1.SessionCall) *tagstorev1.SessionAnswer { return nil }}
	c := connect(t, &service{session: s.serve, get: own(&unary, echoed)}, client.WithStreams(), client.WithTimeout(50*time.Millisecond))
	short, cancel := context.WithTimeout(as(t, "one"), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Get(short, key(t, "p_x"), config.Service{}); !errors.Is(err, config.DeadlineExceeded) || client.RequestID(err) == "" {
		t.Errorf("with its time up: %v", err)
	}
	if _, err := c.Get(as(t, "one"), key(t, "p_x"), config.Service{}); !errors.Is(err, config.DeadlineExceeded) {
		t.Errorf("without a deadline of its own: %v", err)
	}
	given, giveUp := context.WithCancel(as(t, "one"))
	ended := make(chan error)
	go func() { _, err := c.Get(given, key(t, "p_x"), config.Service{}); ended <- err }()
	giveUp()
	if err := <-ended; !errors.Is(err, config.Canceled) {
		t.Errorf("given up: %v", err)
	}
	poll(t, "the service is told", func() bool {
		calls, cancelled := s.seen()
		return len(calls) == len(cancelled) && len(calls) >= 2
	})
	for range 3 { // those that are not answered take all places, or all but one
		_, _ = c.Get(as(t, "one"), key(t, "p_x"), config.Service{})
	}
	if got, err := c.Get(as(t, "one"), key(t, "p_x"), config.Service{}); err != nil || string(got.Entry.Value) != "p_x" {
		t.Errorf("beyond the bound: %v", err)
	}
	if s.opened.Load() != 1 {
		t.Errorf("%d streams", s.opened.Load())
	}
}

// A stream that has had its time takes no more calls, answers those that it has,
// and another follows; none fails.
func TestStreamsTakeTurns(t *testing.T) {
	var unary atomic.Int32
	s := &sessions{most: 100, answer: func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer {
		r, _ := echoed(c.GetGet())
		return given(c, r)
	}}
	c := connect(t, &service{session: s.serve, get: own(&unary, echoed)}, client.WithStreams())
	c.SetStreamSpan(20 * time.Millisecond)
	poll(t, "five streams were opened", func() bool {
		if _, err := c.Get(as(t, "one"), key(t, "p_x"), config.Service{}); err != nil {
			t.Fatal(err)
		}
		return s.opened.Load() >= 5
	})
}
