// Raw is a plugin without go-plugin, as one in another language would be: a
// handshake line, a health service and the backend service, and neither
// limits nor manners. Its argument, if any, says what it does not serve, or how it
// exchanges.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
)

func main() {
	listener, err := net.Listen("unix", filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "raw"))
	if err != nil {
		panic(err)
	}
	s := grpc.NewServer()
	hangUp = func() { // what breaks every connection and leaves the process
		for _, c := range connections {
			c.Close()
		}
	}
	without := ""
	if len(os.Args) > 1 {
		without = os.Args[1]
	}
	h := health.NewServer()
	if without != "status" {
		h.SetServingStatus("plugin", healthpb.HealthCheckResponse_SERVING)
	}
	if without != "health" {
		healthpb.RegisterHealthServer(s, h)
	}
	if without != "backend" {
		backendv1.RegisterBackendServiceServer(s, &server{})
	}
	fmt.Printf("1|1|unix|%s|grpc\n", listener.Addr())
	if err := s.Serve(&noting{Listener: listener}); err != nil {
		panic(err)
	}
}

var (
	connections []net.Conn
	hangUp      func()
)

// noting keeps the connections that it accepts.
type noting struct{ net.Listener }

func (n *noting) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err == nil {
		connections = append(connections, c)
	}
	return c, err
}

type server struct {
	backendv1.UnimplementedBackendServiceServer
}

func (*server) Describe(context.Context, *backendv1.DescribeRequest) (*backendv1.DescribeResponse, error) {
	r := &backendv1.DescribeResponse{Name: "raw", Version: "0", Capabilities: &backendv1.Capabilities{Batch: true, Watch: true}}
	if len(os.Args) > 1 {
		r.Features = []string{"exchange", "what-no-host-knows"}
	}
	return r, nil
}

func (s *server) Exchange(stream grpc.BidiStreamingServer[backendv1.ExchangeRequest, backendv1.ExchangeResponse]) error {
	if len(os.Args) < 2 || os.Args[1] == "unimplemented" {
		return s.UnimplementedBackendServiceServer.Exchange(stream)
	}
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	answer := &backendv1.ExchangeResponse{Id: req.GetId()}
	switch os.Args[1] {
	case "mute":
		<-stream.Context().Done()
		return stream.Context().Err()
	case "end":
		return nil
	case "exit":
		os.Exit(3)
	case "id":
		answer.Id++
	case "kind":
		answer.Outcome = &backendv1.ExchangeResponse_Ping{}
	case "nobody":
		answer.Outcome = &backendv1.ExchangeResponse_Describe{}
	}
	return stream.Send(answer)
}

func (*server) Configure(context.Context, *backendv1.ConfigureRequest) (*backendv1.ConfigureResponse, error) {
	return &backendv1.ConfigureResponse{}, nil
}

func (*server) Get(_ context.Context, r *backendv1.GetRequest) (*backendv1.GetResponse, error) {
	e := &backendv1.Entry{Id: r.GetId(), Value: []byte("v"), Version: 1, Revision: "r"}
	switch r.GetId().GetKey() {
	case "huge":
		e.Value = make([]byte, 20<<20)
	case "hang-up":
		hangUp()
	case "nothing":
		e = nil
	case "bad-id":
		e.Id = &backendv1.Id{Tenant: "../etc", Key: "a//b"}
	case "unavailable":
		return nil, status.Error(codes.Unavailable, "a plain gRPC error")
	}
	return &backendv1.GetResponse{Entry: e}, nil
}

func (*server) BatchGet(_ context.Context, r *backendv1.BatchGetRequest) (*backendv1.BatchGetResponse, error) {
	if len(r.GetIds()) == 1 { // nothing of one, too much of several
		return &backendv1.BatchGetResponse{}, nil
	}
	return &backendv1.BatchGetResponse{Results: make([]*backendv1.BatchGetResult, len(r.GetIds())+1)}, nil
}

func (*server) Watch(r *backendv1.WatchRequest, s grpc.ServerStreamingServer[backendv1.WatchResponse]) error {
	switch r.GetKeyPrefix() {
	case "end":
		return nil
	case "kind":
		return s.Send(&backendv1.WatchResponse{Kind: 77, Position: "p"})
	}
	return s.Send(&backendv1.WatchResponse{Kind: backendv1.EventKind_EVENT_KIND_PUT, Position: "p"})
}
