package exchange_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tagstore/tagstore/core/internal/exchange"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/handshake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plugin is a backend whose Get does what the key says.
type plugin struct {
	backendv1.UnimplementedBackendServiceServer
	*exchange.Server
	exchange func(exchange.Stream) error // instead of the Server's, if set

	begun, over chan string // keys: begun has those of calls that wait
	release     chan struct{}
	puts        atomic.Int64
	streams     atomic.Int64
	unary       atomic.Int64
}

func (p *plugin) Exchange(s exchange.Stream) error {
	p.streams.Add(1)
	defer p.streams.Add(-1)
	if p.exchange != nil {
		return p.exchange(s)
	}
	return p.Serve(s)
}

func (p *plugin) Get(ctx context.Context, r *backendv1.GetRequest) (*backendv1.GetResponse, error) {
	e := &backendv1.Entry{Id: r.GetId()}
	switch key := r.GetId().GetKey(); key {
	case "block":
		p.begun <- key
		<-ctx.Done()
		p.over <- key
		return nil, status.FromContextError(ctx.Err()).Err()
	case "wait":
		p.begun <- key
		<-p.release
	case "deaf": // to its context
		p.begun <- key
		<-p.release
		p.over <- key
	case "deadline":
		at, ok := ctx.Deadline()
		e.Message = fmt.Sprint(ok, " ", time.Until(at).Milliseconds())
	case "metadata":
		md, _ := metadata.FromIncomingContext(ctx)
		e.Message = fmt.Sprintf("%v %v %q", md.Get("x-one"), md.Get("x-two"), md.Get("x-bytes-bin"))
	case "method":
		e.Message, _ = ctx.Value(interceptedKey{}).(string)
	case "huge":
		e.Value = make([]byte, handshake.MaxMessage+1)
	case "large":
		e.Value = make([]byte, handshake.MaxMessage-1<<10)
	case "error":
		s, err := status.New(codes.Aborted, "not this time").WithDetails(&errdetails.ErrorInfo{Reason: "REASON"})
		return nil, cmp.Or(err, s.Err())
	case "unavailable":
		return nil, status.Error(codes.Unavailable, "the store is away")
	}
	return &backendv1.GetResponse{Entry: e}, nil
}

func (p *plugin) Put(_ context.Context, r *backendv1.PutRequest) (*backendv1.PutResponse, error) {
	p.puts.Add(1)
	return &backendv1.PutResponse{Entry: &backendv1.Entry{Id: r.GetId(), Version: uint64(len(r.GetValue()))}}, nil
}

// interceptedKey has the method that the interceptor saw.
type interceptedKey struct{}

func passing(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	return next(context.WithValue(ctx, interceptedKey{}, info.FullMethod), req)
}

// fates counts what a Conn says of its calls.
type fates struct{ sent, answered atomic.Int64 }

func (f *fates) options() exchange.Options {
	return exchange.Options{
		Sent:     func(context.Context) { f.sent.Add(1) },
		Answered: func(context.Context) { f.answered.Add(1) },
	}
}

type rig struct {
	*plugin
	backendv1.BackendServiceClient
	conn   *exchange.Conn
	server *grpc.Server
	stop   context.CancelFunc
	fates  fates
}

// setUp serves a plugin on a unix socket. adjust may change it, and the Conn's
// options, beforehand.
func setUp(t *testing.T, adjust func(*plugin, *exchange.Options)) *rig {
	t.Helper()
	r := &rig{plugin: &plugin{begun: make(chan string, 1000), over: make(chan string, 1000), release: make(chan struct{})}}
	o := r.fates.options()
	if adjust != nil {
		adjust(r.plugin, &o)
	}
	stopping, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.Server = exchange.NewServer(r.plugin, passing, stopping.Done())
	r.server = grpc.NewServer(grpc.MaxRecvMsgSize(handshake.MaxMessage), grpc.MaxSendMsgSize(handshake.MaxFrame),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			r.unary.Add(1)
			return next(ctx, req)
		}))
	backendv1.RegisterBackendServiceServer(r.server, r.plugin)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(listener) }()
	conn, err := grpc.NewClient("unix:"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(handshake.MaxMessage), grpc.MaxCallSendMsgSize(handshake.MaxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	r.conn = exchange.New(conn, o)
	r.BackendServiceClient = backendv1.NewBackendServiceClient(r.conn)
	t.Cleanup(func() {
		r.conn.Close()
		conn.Close()
		stop()
		r.server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) get(ctx context.Context, key string) (string, error) {
	resp, err := r.BackendServiceClient.Get(ctx, &backendv1.GetRequest{Id: &backendv1.Id{Tenant: "t", Key: key}})
	return resp.GetEntry().GetMessage(), err
}

// going makes a call and returns its error when it is over.
func (r *rig) going(ctx context.Context, key string) <-chan error {
	done := make(chan error, 1)
	go func() { _, err := r.get(ctx, key); done <- err }()
	return done
}

func (r *rig) wantFates(t *testing.T, sent, answered int64) {
	t.Helper()
	if s, a := r.fates.sent.Load(), r.fates.answered.Load(); s != sent || a != answered {
		t.Errorf("%d calls failed behind their request and %d were answered, want %d and %d", s, a, sent, answered)
	}
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("got %v, want code %v", err, want)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // between two polls
	}
}

// One stream carries all calls of one caller, and none goes its own way.
func TestCallsShareAStream(t *testing.T) {
	r := setUp(t, nil)
	for range 100 {
		if _, err := r.get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.streams.Load(); n != 1 || r.unary.Load() != 0 {
		t.Errorf("100 calls took %d streams and %d calls of their own", n, r.unary.Load())
	}
	r.wantFates(t, 0, 100)
}

func TestDeadlineCrosses(t *testing.T) {
	r := setUp(t, nil)
	if got, err := r.get(t.Context(), "deadline"); err != nil || got[:5] != "false" {
		t.Errorf("a call without a deadline has %q, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var has bool
	var left int
	got, err := r.get(ctx, "deadline")
	if _, scan := fmt.Sscan(got, &has, &left); err != nil || scan != nil || !has || left < 50_000 || left > 60_000 {
		t.Errorf("the handler of a call with a minute saw %q, %v", got, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	wantCode(t, <-r.going(short, "block"), codes.DeadlineExceeded)
	<-r.over
	wantCode(t, <-r.going(short, "k"), codes.DeadlineExceeded)
}

// A cancelled call returns although its handler does not, whose context ends.
func TestCancellationCrosses(t *testing.T) {
	r := setUp(t, nil)
	for _, key := range []string{"block", "deaf"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := r.going(ctx, key)
		<-r.begun
		cancel()
		wantCode(t, <-done, codes.Canceled)
		if key == "block" {
			<-r.over
		}
	}
	r.wantFates(t, 2, 0)
	close(r.release)
	<-r.over
	if _, err := r.get(t.Context(), "k"); err != nil {
		t.Errorf("a call behind cancelled ones: %v", err)
	}
	eventually(t, "the streams of cancelled calls end", func() bool { return r.streams.Load() == 1 })
}

// A call that is slow holds up nobody.
func TestSlowCallsBlockNoOther(t *testing.T) {
	r := setUp(t, nil)
	var slow []<-chan error
	for range 10 {
		slow = append(slow, r.going(t.Context(), "wait"))
		<-r.begun
	}
	for range 10 {
		if _, err := r.get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
	}
	close(r.release)
	for _, done := range slow {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestErrorsKeepTheirDetails(t *testing.T) {
	r := setUp(t, nil)
	_, err := r.get(t.Context(), "error")
	s := status.Convert(err)
	if s.Code() != codes.Aborted || s.Message() != "not this time" || len(s.Details()) != 1 {
		t.Fatalf("got %v with %v", err, s.Details())
	}
	if info, ok := s.Details()[0].(*errdetails.ErrorInfo); !ok || info.GetReason() != "REASON" {
		t.Errorf("the detail is %v", s.Details()[0])
	}
	_, err = r.get(t.Context(), "unavailable")
	wantCode(t, err, codes.Unavailable)
	r.wantFates(t, 0, 2)
	_, err = r.Ping(t.Context(), &backendv1.PingRequest{})
	wantCode(t, err, codes.Unimplemented)
}

// What a frame can not hold goes another way, and all of it arrives.
func TestMetadataCrosses(t *testing.T) {
	r := setUp(t, nil)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-one", "1", "X-Two", "2")
	if got, err := r.get(ctx, "metadata"); err != nil || got != "[1] [2] []" || r.unary.Load() != 0 {
		t.Errorf("got %q, %v", got, err)
	}
	twice := metadata.AppendToOutgoingContext(ctx, "x-one", "3")
	if got, err := r.get(twice, "metadata"); err != nil || got != "[1 3] [2] []" || r.unary.Load() != 1 {
		t.Errorf("got %q, %v", got, err)
	}
	binary := metadata.AppendToOutgoingContext(ctx, "x-bytes-bin", "\x00\xff")
	if got, err := r.get(binary, "metadata"); err != nil || got != `[1] [2] ["\x00\xff"]` || r.unary.Load() != 2 {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestInterceptorSeesTheMethod(t *testing.T) {
	r := setUp(t, nil)
	if got, err := r.get(t.Context(), "method"); err != nil || got != backendv1.BackendService_Get_FullMethodName {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestMessageLimits(t *testing.T) {
	r := setUp(t, nil)
	put := func(n int) (uint64, error) {
		resp, err := r.BackendServiceClient.Put(t.Context(), &backendv1.PutRequest{Value: make([]byte, n)})
		return resp.GetEntry().GetVersion(), err
	}
	// Around the limit a request goes with its frame, without it, not at all.
	for _, n := range []int{handshake.MaxMessage - 1000, handshake.MaxMessage - 10} {
		if got, err := put(n); err != nil || got != uint64(n) {
			t.Errorf("a request of %d bytes: %d, %v", n, got, err)
		}
	}
	_, err := put(handshake.MaxMessage)
	wantCode(t, err, codes.ResourceExhausted)
	if n := r.puts.Load(); n != 2 {
		t.Errorf("%d requests arrived", n)
	}
	if _, err := r.get(t.Context(), "large"); err != nil {
		t.Errorf("the largest answer: %v", err)
	}
	_, err = r.get(t.Context(), "huge")
	wantCode(t, err, codes.ResourceExhausted)
	if _, err := r.get(t.Context(), "k"); err != nil || r.streams.Load() != 1 {
		t.Errorf("afterwards, on %d streams: %v", r.streams.Load(), err)
	}
}

// Beyond the bound calls go their own way, and streams that nobody uses end.
func TestStreamsHaveABound(t *testing.T) {
	r := setUp(t, func(_ *plugin, o *exchange.Options) { o.Streams, o.IdleTime = 4, 50*time.Millisecond })
	var calls []<-chan error
	for range 10 {
		calls = append(calls, r.going(t.Context(), "wait"))
	}
	for range 10 {
		<-r.begun
	}
	if streams, unary := r.streams.Load(), r.unary.Load(); streams != 4 || unary != 6 {
		t.Errorf("10 calls at once took %d streams and %d calls of their own", streams, unary)
	}
	close(r.release)
	for _, done := range calls {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the idle streams end", func() bool { return r.streams.Load() == 0 })
	if _, err := r.get(t.Context(), "k"); err != nil || r.streams.Load() != 1 {
		t.Errorf("afterwards, on %d streams: %v", r.streams.Load(), err)
	}
	eventually(t, "the idle stream ends", func() bool { return r.streams.Load() == 0 })
}

// The end of a plugin: calls that run are answered, idle streams end, and what
// comes later was certainly not begun.
func TestStopFinishesWhatRuns(t *testing.T) {
	r := setUp(t, nil)
	running := r.going(t.Context(), "wait")
	<-r.begun
	if _, err := r.get(t.Context(), "k"); err != nil { // on a stream that is idle now
		t.Fatal(err)
	}
	r.stop()
	eventually(t, "the idle stream ends", func() bool { return r.streams.Load() == 1 })
	_, err := r.BackendServiceClient.Put(t.Context(), &backendv1.PutRequest{})
	wantCode(t, err, codes.Unavailable)
	if n := r.puts.Load(); n != 0 {
		t.Errorf("%d requests were begun", n)
	}
	r.wantFates(t, 0, 1)
	close(r.release)
	if err := <-running; err != nil {
		t.Errorf("the call that ran: %v", err)
	}
	eventually(t, "all streams end", func() bool { return r.streams.Load() == 0 })
}

// Stops and requests that meet: each call was carried out and answered, or was
// neither, or may have been and its fate says so.
func TestStopUnderLoad(t *testing.T) {
	for range 20 {
		r := setUp(t, nil)
		var answered, notBegun atomic.Int64
		var callers sync.WaitGroup
		for range 16 {
			callers.Go(func() {
				for {
					_, err := r.BackendServiceClient.Put(t.Context(), &backendv1.PutRequest{})
					if err != nil {
						wantCode(t, err, codes.Unavailable)
						notBegun.Add(1)
						return
					}
					answered.Add(1)
				}
			})
		}
		eventually(t, "calls are answered", func() bool { return answered.Load() > 100 })
		r.stop()
		callers.Wait()
		r.wantFates(t, 0, answered.Load())
		if puts := r.puts.Load(); puts != answered.Load() || notBegun.Load() != 16 {
			t.Fatalf("%d of %d calls that were carried out were answered, %d failed", answered.Load(), puts, notBegun.Load())
		}
	}
}

// The connection breaks: all that runs fails at once, and may have happened.
func TestCrashFailsWhatRuns(t *testing.T) {
	r := setUp(t, nil)
	var calls []<-chan error
	for range 8 {
		calls = append(calls, r.going(t.Context(), "block"))
		<-r.begun
	}
	r.server.Stop()
	for _, done := range calls {
		wantCode(t, <-done, codes.Unavailable)
	}
	r.wantFates(t, 8, 0)
	_, err := r.get(t.Context(), "k")
	wantCode(t, err, codes.Unavailable)
	r.wantFates(t, 8, 0)
}

func TestCloseFailsWhatRuns(t *testing.T) {
	r := setUp(t, nil)
	done := r.going(t.Context(), "block")
	<-r.begun
	r.conn.Close()
	wantCode(t, <-done, codes.Canceled)
	<-r.over
	_, err := r.get(t.Context(), "k")
	wantCode(t, err, codes.Canceled)
}

// What a plugin answers against the protocol is an error of that call, and its
// stream is not used again.
func TestBrokenAnswers(t *testing.T) {
	message := func(id uint64) *backendv1.ExchangeResponse {
		return &backendv1.ExchangeResponse{Id: id, Outcome: &backendv1.ExchangeResponse_Get{Get: &backendv1.GetResponse{}}}
	}
	failure := func(id uint64, code codes.Code, text int) *backendv1.ExchangeResponse {
		return &backendv1.ExchangeResponse{Id: id, Outcome: &backendv1.ExchangeResponse_Status{
			Status: &backendv1.ExchangeStatus{Code: int32(code), Message: string(slices.Repeat([]byte("x"), text))},
		}}
	}
	for name, answer := range map[string]func(id uint64) *backendv1.ExchangeResponse{
		"of another request": func(id uint64) *backendv1.ExchangeResponse { return message(id + 1) },
		"of the one before":  func(id uint64) *backendv1.ExchangeResponse { return message(id - 1) },
		"empty":              func(id uint64) *backendv1.ExchangeResponse { return &backendv1.ExchangeResponse{Id: id} },
		"a failure that is none": func(id uint64) *backendv1.ExchangeResponse {
			return failure(id, codes.OK, 0)
		},
		"an endless failure": func(id uint64) *backendv1.ExchangeResponse { return failure(id, codes.NotFound, 1<<20) },
		"to another call": func(id uint64) *backendv1.ExchangeResponse {
			return &backendv1.ExchangeResponse{Id: id, Outcome: &backendv1.ExchangeResponse_Put{Put: &backendv1.PutResponse{}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var served atomic.Int64
			r := setUp(t, func(p *plugin, _ *exchange.Options) {
				p.exchange = func(s exchange.Stream) error {
					for {
						req, err := s.Recv()
						if err != nil {
							return err
						}
						a := message(req.GetId())
						if served.Add(1) == 1 {
							a = answer(req.GetId())
						}
						if err := s.Send(a); err != nil {
							return err
						}
					}
				}
			})
			_, err := r.get(t.Context(), "k")
			wantCode(t, err, codes.Internal)
			r.wantFates(t, 0, 1)
			if _, err := r.get(t.Context(), "k"); err != nil {
				t.Errorf("the next call: %v", err)
			}
		})
	}
}

// An end that is not orderly leaves open what became of the request, an orderly
// one does not.
func TestStreamThatEndsInsteadOfAnAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		end  error
		code codes.Code
		sent int64
	}{
		{"orderly", nil, codes.Unavailable, 0},
		{"with an error", status.Error(codes.Internal, "no"), codes.Internal, 1},
		{"going away", status.Error(codes.Unavailable, "no"), codes.Unavailable, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := setUp(t, func(p *plugin, _ *exchange.Options) {
				p.exchange = func(s exchange.Stream) error {
					_, err := s.Recv()
					return errors.Join(err, c.end)
				}
			})
			_, err := r.get(t.Context(), "k")
			wantCode(t, err, c.code)
			r.wantFates(t, c.sent, 0)
		})
	}
}

// Streams that ended while they lay idle cost no call.
func TestIdleStreamsThatEnded(t *testing.T) {
	var end atomic.Pointer[chan struct{}]
	first := make(chan struct{})
	end.Store(&first)
	r := setUp(t, func(p *plugin, _ *exchange.Options) {
		p.exchange = func(s exchange.Stream) error { return exchange.NewServer(p, passing, *end.Load()).Serve(s) }
	})
	var calls []<-chan error
	for range 5 {
		calls = append(calls, r.going(t.Context(), "wait"))
		<-r.begun
	}
	close(r.release)
	for _, done := range calls {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	second := make(chan struct{})
	end.Store(&second)
	close(first)
	eventually(t, "the streams end", func() bool { return r.streams.Load() == 0 })
	if _, err := r.get(t.Context(), "k"); err != nil || r.streams.Load() != 1 {
		t.Errorf("the next call, on %d streams: %v", r.streams.Load(), err)
	}
	r.wantFates(t, 0, 6)
}

func TestManyCallers(t *testing.T) {
	r := setUp(t, func(_ *plugin, o *exchange.Options) { o.Streams = 8; o.IdleTime = time.Millisecond })
	var callers sync.WaitGroup
	for i := range 32 {
		callers.Go(func() {
			for n := range 200 {
				key := fmt.Sprint(i, "-", n)
				ctx, cancel := context.WithCancel(t.Context())
				if n%10 == 9 {
					cancel()
				}
				resp, err := r.BackendServiceClient.Get(ctx, &backendv1.GetRequest{Id: &backendv1.Id{Key: key}})
				cancel()
				if n%10 == 9 {
					wantCode(t, err, codes.Canceled)
				} else if err != nil || resp.GetEntry().GetId().GetKey() != key {
					t.Errorf("%s was answered with %v, %v", key, resp, err)
				}
			}
		})
	}
	callers.Wait()
}

// Every call that has one answer can be exchanged.
func TestEveryCallHasItsPlace(t *testing.T) {
	methods := backendv1.File_tagstore_backend_v1_backend_service_proto.Services().ByName("BackendService").Methods()
	request := (&backendv1.ExchangeRequest{}).ProtoReflect().Descriptor()
	response := (&backendv1.ExchangeResponse{}).ProtoReflect().Descriptor()
	for i := range methods.Len() {
		m := methods.Get(i)
		if m.IsStreamingServer() || m.IsStreamingClient() {
			continue
		}
		has := func(frame protoreflect.MessageDescriptor, message protoreflect.MessageDescriptor) bool {
			for i := range frame.Fields().Len() {
				if fd := frame.Fields().Get(i); fd.Message() == message && fd.ContainingOneof() != nil {
					return true
				}
			}
			return false
		}
		if !has(request, m.Input()) || !has(response, m.Output()) {
			t.Errorf("%s has no place in the frames", m.Name())
		}
	}
}

// A call that this plugin does not know, of a host that is newer.
func TestUnknownCall(t *testing.T) {
	r := setUp(t, nil)
	stream, err := r.BackendServiceClient.Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&backendv1.ExchangeRequest{Id: 7}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil || answer.GetId() != 7 || answer.GetStatus().GetCode() != int32(codes.Unimplemented) {
		t.Errorf("got %v, %v", answer, err)
	}
}
