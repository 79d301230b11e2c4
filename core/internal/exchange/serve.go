package exchange

import (
	"context"
	"errors"
	"io"
	"math"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/handshake"
)

// Stream is a plugin's end of one stream.
type Stream = grpc.BidiStreamingServer[backendv1.ExchangeRequest, backendv1.ExchangeResponse]

// Server answers the requests of streams.
type Server struct {
	service   backendv1.BackendServiceServer
	intercept grpc.UnaryServerInterceptor
	methods   map[protoreflect.FullName]grpc.MethodDesc // by their requests
	stopping  <-chan struct{}
}

// NewServer returns a Server that answers with the methods of service, behind
// intercept, which is called as gRPC would call it and must not panic. Streams
// end when stopping is closed: one that carries a call, behind its answer.
func NewServer(service backendv1.BackendServiceServer, intercept grpc.UnaryServerInterceptor, stopping <-chan struct{}) *Server {
	s := &Server{service: service, intercept: intercept, methods: map[protoreflect.FullName]grpc.MethodDesc{}, stopping: stopping}
	handlers := map[string]grpc.MethodDesc{}
	for _, m := range backendv1.BackendService_ServiceDesc.Methods {
		handlers[m.MethodName] = m
	}
	described := backendv1.File_tagstore_backend_v1_backend_service_proto.Services().ByName("BackendService").Methods()
	for i := range described.Len() {
		if m, ok := handlers[string(described.Get(i).Name())]; ok {
			s.methods[described.Get(i).Input().FullName()] = m
		}
	}
	return s
}

// The states of a stream.
const (
	idle int32 = iota
	busy
	ended // while it was idle: a request that comes now is not begun
)

// Serve answers the requests of one stream, one after the other, until the host
// ends it or the Server stops. It is what the handler of Exchange returns.
func (s *Server) Serve(stream Stream) error {
	var state atomic.Int32
	worked := make(chan error, 1)
	// It ends with the stream, and thus soon behind the return of this function
	// if not before.
	go func() { worked <- s.work(stream, &state) }()
	select {
	case err := <-worked:
		return err
	case <-s.stopping:
	}
	if state.CompareAndSwap(idle, ended) {
		return nil
	}
	return <-worked
}

func (s *Server) work(stream Stream, state *atomic.Int32) error {
	for {
		req, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case !state.CompareAndSwap(idle, busy):
			return nil
		}
		err = stream.Send(s.answer(stream.Context(), req))
		state.Store(idle)
		if err != nil {
			return err
		}
		select {
		case <-s.stopping:
			return nil
		default:
		}
	}
}

// answer carries out one request.
func (s *Server) answer(ctx context.Context, req *backendv1.ExchangeRequest) *backendv1.ExchangeResponse {
	answer := &backendv1.ExchangeResponse{Id: req.GetId()}
	resp, err := s.handle(ctx, req)
	switch {
	case err != nil:
	case proto.Size(resp) > handshake.MaxMessage:
		err = status.Errorf(codes.ResourceExhausted, "trying to send message larger than max (%d vs. %d)", proto.Size(resp), handshake.MaxMessage)
	case !outcomes.put(answer, resp):
		err = status.Error(codes.Internal, "the answer can not be sent")
	}
	if err != nil {
		p := status.Convert(err).Proto()
		answer.Outcome = &backendv1.ExchangeResponse_Status{
			Status: &backendv1.ExchangeStatus{Code: p.GetCode(), Message: p.GetMessage(), Details: p.GetDetails()},
		}
	}
	return answer
}

func (s *Server) handle(ctx context.Context, req *backendv1.ExchangeRequest) (proto.Message, error) {
	call := calls.get(req)
	if call == nil {
		return nil, status.Error(codes.Unimplemented, "this plugin does not have the method")
	}
	if us := req.GetTimeoutUs(); us > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(min(us, math.MaxInt64/1000))*time.Microsecond)
		defer cancel()
	}
	md := make(metadata.MD, len(req.GetMetadata())+1)
	if instance := metadata.ValueFromIncomingContext(ctx, handshake.InstanceKey); len(instance) > 0 {
		md[handshake.InstanceKey] = instance // the stream's, once for all of its calls
	}
	for name, value := range req.GetMetadata() {
		md[name] = []string{value}
	}
	ctx = metadata.NewIncomingContext(ctx, md)
	resp, err := s.methods[call.Descriptor().FullName()].Handler(s.service, ctx, func(into any) error {
		move(call, into.(proto.Message).ProtoReflect()) // of generated code
		return nil
	}, s.intercept)
	if err != nil {
		return nil, err
	}
	return resp.(proto.Message), nil // of generated code
}
