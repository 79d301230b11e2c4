package pluginmain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/errgrpc"
	"github.com/tagstore/tagstore/core/internal/exchange"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/handshake"
	"github.com/tagstore/tagstore/core/internal/wire"
)

// maxStack bounds the stack that is logged with a panic, in bytes.
const maxStack = 16 << 10

// server is the protocol's service over one Backend.
type server struct {
	backendv1.UnimplementedBackendServiceServer

	name, version string
	schema        json.RawMessage // of the options, for Describe
	open          driver.Opener

	configuring chan struct{}          // holds one element while Configure runs
	options     [sha256.Size]byte      // those that Configure succeeded with
	backend     atomic.Pointer[opened] // Configure succeeded

	// stopping ends the streams, none of which would end by itself.
	stopping context.Context
	stop     context.CancelFunc

	exchanges *exchange.Server
}

// opened is a Backend with the optional interfaces that it declared when it was
// opened; those that it did not declare are nil.
type opened struct {
	driver.Backend
	driver.Batcher
	driver.Historian
	driver.Watcher
	driver.Pinger
	driver.Idempotent
	driver.Sizer
	driver.Refresher
}

func newServer(name, version string, open driver.Opener) *server {
	s := &server{name: name, version: version, open: open, configuring: make(chan struct{}, 1)}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.exchanges = exchange.NewServer(s, s.exchanged, s.stopping.Done())
	return s
}

// grpcServer returns a gRPC server with everything but the services, which
// go-plugin registers.
func (s *server) grpcServer(opts []grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(opts,
		grpc.MaxRecvMsgSize(handshake.MaxMessage),
		grpc.MaxSendMsgSize(handshake.MaxFrame), // the host takes a message of MaxMessage
		grpc.ChainUnaryInterceptor(errgrpc.UnaryServer, s.unary),
		grpc.ChainStreamInterceptor(errgrpc.StreamServer, s.stream),
	)...)
}

func (s *server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if v := recover(); v != nil {
			resp, err = nil, panicked(ctx, info.FullMethod, v)
		}
	}()
	ctx = wire.ExtractTrace(ctx)
	resp, err = next(ctx, req)
	logCause(ctx, info.FullMethod, err)
	return resp, err
}

// exchanged is what stands around a handler whose request came over a stream:
// what stands around it elsewhere.
func (s *server) exchanged(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	return errgrpc.UnaryServer(ctx, req, info, func(ctx context.Context, req any) (any, error) {
		return s.unary(ctx, req, info, next)
	})
}

// Exchange ends its streams itself when the plugin stops, behind the calls that
// they carry.
func (s *server) Exchange(stream exchange.Stream) error { return s.exchanges.Serve(stream) }

func (s *server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicked(stream.Context(), info.FullMethod, v)
		}
	}()
	if info.FullMethod == backendv1.BackendService_Exchange_FullMethodName {
		return next(srv, stream)
	}
	ctx, cancel := context.WithCancel(wire.ExtractTrace(stream.Context()))
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	err = next(srv, endingStream{stream, ctx})
	logCause(ctx, info.FullMethod, err)
	return err
}

// endingStream is a stream that ends when the plugin stops. Without it those of
// go-plugin would last as long as the connection, and a graceful stop with them.
type endingStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // ServerStream has it so
}

// Context implements grpc.ServerStream.
func (s endingStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream. Behind the end, m is left to the
// transport, whose own RecvMsg ends with the handler.
func (s endingStream) RecvMsg(m any) error {
	received := make(chan error, 1)
	go func() { received <- s.ServerStream.RecvMsg(m) }()
	select {
	case err := <-received:
		return err
	case <-s.ctx.Done():
		return config.AsError(s.ctx.Err(), "", config.Key{})
	}
}

func panicked(ctx context.Context, method string, v any) error {
	stack := debug.Stack()
	slog.ErrorContext(ctx, "panic in a plugin call", "method", method, "panic", fmt.Sprint(v), "stack", string(stack[:min(len(stack), maxStack)]))
	return config.Errorf(config.Internal, "the plugin panicked").WithHint("its log has the stack")
}

// logCause logs the part of an error that does not cross to the host, for the
// codes that an operator has to explain.
func logCause(ctx context.Context, method string, err error) {
	if err == nil || !strings.HasPrefix(method, "/"+backendv1.BackendService_ServiceDesc.ServiceName+"/") {
		return
	}
	switch config.CodeOf(err) {
	case config.Unknown, config.Internal, config.Unavailable, config.DataLoss:
	default:
		return
	}
	e := config.AsError(err, "", config.Key{})
	if e.Err != nil {
		slog.WarnContext(ctx, "a plugin call failed", "method", method, "error", e, "cause", e.Err)
	}
}

func (s *server) Describe(context.Context, *backendv1.DescribeRequest) (*backendv1.DescribeResponse, error) {
	d := wire.Description{
		Name: s.name, Version: s.version, APIMinor: handshake.APIMinor, OptionsSchema: s.schema,
		Features: []string{handshake.FeatureReconfigure, handshake.FeatureExchange},
	}
	if b := s.backend.Load(); b != nil {
		d.Capabilities = driver.Capabilities{
			Batch: b.Batcher != nil, History: b.Historian != nil, Watch: b.Watcher != nil,
			Ping: b.Pinger != nil, Idempotent: b.Idempotent != nil, Size: b.Sizer != nil,
			Refresh: b.Refresher != nil,
		}
		d.Caveats = driver.CaveatsOf(b.Backend)
		if b.Idempotent != nil {
			d.IdempotencyWindow = b.IdempotencyWindow()
		}
	}
	return wire.DescribeResponse(d), nil
}

func (s *server) Configure(ctx context.Context, r *backendv1.ConfigureRequest) (*backendv1.ConfigureResponse, error) {
	select {
	case s.configuring <- struct{}{}:
		defer func() { <-s.configuring }()
	case <-ctx.Done():
		return nil, config.AsError(ctx.Err(), "", config.Key{})
	}
	options := digest(r.GetOptions())
	switch {
	case s.backend.Load() == nil:
	case options == s.options:
		return &backendv1.ConfigureResponse{}, nil
	default:
		return nil, config.Errorf(config.FailedPrecondition, "the plugin was configured before, with other options").
			WithHint("each process has one set of options: restart it, or start another")
	}
	b, err := s.open(ctx, r.GetOptions())
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, config.Errorf(config.Internal, "the plugin's Open returned neither a backend nor an error")
	}
	o := &opened{Backend: b}
	o.Batcher, _ = driver.AsBatcher(b)
	o.Historian, _ = driver.AsHistorian(b)
	o.Watcher, _ = driver.AsWatcher(b)
	o.Pinger, _ = driver.AsPinger(b)
	o.Idempotent, _ = driver.AsIdempotent(b)
	o.Sizer, _ = driver.AsSizer(b)
	o.Refresher, _ = driver.AsRefresher(b)
	s.options = options
	s.backend.Store(o)
	return &backendv1.ConfigureResponse{}, nil
}

// digest tells options apart, whatever the order and the spaces of their JSON.
func digest(options []byte) [sha256.Size]byte {
	if len(bytes.TrimSpace(options)) == 0 {
		options = []byte("{}")
	}
	d := json.NewDecoder(bytes.NewReader(options))
	d.UseNumber()
	var v any
	if d.Decode(&v) == nil {
		if sorted, err := json.Marshal(v); err == nil {
			options = sorted
		}
	}
	return sha256.Sum256(options)
}

// close closes the backend if there is one, waiting for it no longer than limit.
func (s *server) close(limit time.Duration) error {
	b := s.backend.Load()
	if b == nil {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- b.Close() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return config.Errorf(config.DeadlineExceeded, "the backend did not close within %v", limit)
	}
}

func (s *server) current() (*opened, error) {
	if b := s.backend.Load(); b != nil {
		return b, nil
	}
	return nil, config.Errorf(config.FailedPrecondition, "the plugin is not configured")
}

func undeclared(capability string) error {
	return config.Errorf(config.Unimplemented, "this backend does not have the capability %q", capability)
}

func (s *server) Get(ctx context.Context, r *backendv1.GetRequest) (*backendv1.GetResponse, error) {
	b, err := s.current()
	if err != nil {
		return nil, err
	}
	id, err := wire.IDOf(r.GetId())
	if err != nil {
		return nil, err
	}
	e, err := b.Get(ctx, id, r.GetVersion())
	if err != nil {
		return nil, err
	}
	return &backendv1.GetResponse{Entry: wire.Entry(e)}, nil
}

// BatchGet ends its answer at handshake.BatchBytes, but never with a first
// result left out. A single result that no message can hold becomes an error in
// its place, so that it does not cost the others.
func (s *server) BatchGet(ctx context.Context, r *backendv1.BatchGetRequest) (*backendv1.BatchGetResponse, error) {
	b, err := s.current()
	if err != nil {
		return nil, err
	}
	if b.Batcher == nil {
		return nil, undeclared("batch")
	}
	ids, err := wire.IDsOf(r.GetIds())
	if err != nil {
		return nil, err
	}
	results, err := b.BatchGet(ctx, ids)
	if err != nil {
		return nil, err
	}
	answer, err := answerable(ids, results)
	return &backendv1.BatchGetResponse{Results: answer}, err
}

func (s *server) Refresh(ctx context.Context, r *backendv1.RefreshRequest) (*backendv1.RefreshResponse, error) {
	b, err := s.current()
	if err != nil {
		return nil, err
	}
	if b.Refresher == nil {
		return nil, undeclared("refresh")
	}
	ids, err := wire.IDsOf(r.GetIds())
	if err != nil {
		return nil, err
	}
	results, err := b.Refresh(ctx, ids)
	if err != nil {
		return nil, err
	}
	answer, err := answerable(ids, results)
	return &backendv1.RefreshResponse{Results: answer}, err
}

// answerable returns as many results, from the first on, as one message takes.
func answerable(ids []config.ID, results []driver.Result) ([]*backendv1.BatchGetResult, error) {
	if len(results) != len(ids) {
		return nil, config.Errorf(config.Internal, "the backend gave %d results for %d keys", len(results), len(ids))
	}
	answer, total := []*backendv1.BatchGetResult{}, 0
	for i, result := range results {
		m := wire.Result(result)
		size := proto.Size(m)
		if size > handshake.MaxResult {
			m = wire.Result(driver.Result{Err: config.Errorf(config.ResourceExhausted,
				"the value is larger than a batch may be").WithKey(ids[i].Key).WithHint("read it alone")})
			size = proto.Size(m)
		}
		if total += size; total > handshake.BatchBytes && i > 0 {
			break
		}
		answer = append(answer, m)
	}
	return answer, nil
}

func (s *server) List(ctx context.Context, r *backendv1.ListRequest) (*backendv1.ListResponse, error) {
	b, err := s.current()
	if err != nil {
		return nil, err
	}
	req, err := wire.ListRequestOf(r)
	if err != nil {
		return nil, err
	}
	page, err := b.List(ctx, req)
	if err != nil {
		return nil, err
	}
	return wire.ListResponse(page), nil
}

func (s *server) Put(ctx context.Context, r *backendv1.PutRequest) (*backendv1.PutResponse, error) {
	b, err := s.current()
	if err != nil {
		return nil, err
	}
	req, err := wire.PutRequestOf(r)
	if err != nil {
		return nil, err
	}
	e, err := b.Put(ctx, req)
	if err != nil {
		return nil, err
	}
	return &backendv1.PutResponse{Entry: wire.Entry(e)}, nil
}

func (s *server) Delete(ctx context.Context, r *backendv1.DeleteRequest) (*backendv1.DeleteResponse, error) {
	b, err := s.current()
	if err != nil {
		return nil, err
	}
	req, err := wire.DeleteRequestOf(r)
	if err != nil {
		return nil, err
	}
	e, err := b.Delete(ctx, req)
	if err != nil {
		return nil, err
	}
	return &backendv1.DeleteResponse{Entry: wire.Entry(e)}, nil
}

func (s *server) History(ctx context.Context, r *backendv1.HistoryRequest) (*backendv1.HistoryResponse, error) {
	b, err := s.current()
	if err != nil {
		return nil, err
	}
	if b.Historian == nil {
		return nil, undeclared("history")
	}
	req, err := wire.HistoryRequestOf(r)
	if err != nil {
		return nil, err
	}
	page, err := b.History(ctx, req)
	if err != nil {
		return nil, err
	}
	return wire.HistoryResponse(page), nil
}

func (s *server) Watch(r *backendv1.WatchRequest, stream grpc.ServerStreamingServer[backendv1.WatchResponse]) error {
	b, err := s.current()
	if err != nil {
		return err
	}
	if b.Watcher == nil {
		return undeclared("watch")
	}
	req, err := wire.WatchRequestOf(r)
	if err != nil {
		return err
	}
	err = b.Watch(stream.Context(), req, func(e driver.Event) error { return stream.Send(wire.WatchResponse(e)) })
	if s.stopping.Err() != nil {
		return config.Errorf(config.Unavailable, "the plugin is stopping").WithHint("resume from the last position")
	}
	return err
}

func (s *server) Ping(ctx context.Context, _ *backendv1.PingRequest) (*backendv1.PingResponse, error) {
	b, err := s.current()
	if err != nil {
		return nil, err
	}
	if b.Pinger == nil {
		return nil, undeclared("ping")
	}
	if err := b.Ping(ctx); err != nil {
		return nil, err
	}
	return &backendv1.PingResponse{}, nil
}

func (s *server) Size(ctx context.Context, _ *backendv1.SizeRequest) (*backendv1.SizeResponse, error) {
	b, err := s.current()
	if err != nil {
		return nil, err
	}
	if b.Sizer == nil {
		return nil, undeclared("size")
	}
	size, err := b.Size(ctx)
	if err != nil {
		return nil, err
	}
	return wire.SizeResponse(size), nil
}
