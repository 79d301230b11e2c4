// Raw is a plugin without go-plugin, as one in another language would be: a
// handshake line, a health service and the backend service, and neither
// limits nor manners.
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
	h := health.NewServer()
	h.SetServingStatus("plugin", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(s, h)
	backendv1.RegisterBackendServiceServer(s, &server{})
	fmt.Printf("1|1|unix|%s|grpc\n", listener.Addr())
	if err := s.Serve(listener); err != nil {
		panic(err)
	}
}

type server struct {
	backendv1.UnimplementedBackendServiceServer
}

func (*server) Describe(context.Context, *backendv1.DescribeRequest) (*backendv1.DescribeResponse, error) {
	return &backendv1.DescribeResponse{Name: "raw", Version: "0", Capabilities: &backendv1.Capabilities{Batch: true, Watch: true}}, nil
}

func (*server) Configure(context.Context, *backendv1.ConfigureRequest) (*backendv1.ConfigureResponse, error) {
	return &backendv1.ConfigureResponse{}, nil
}

func (*server) Get(_ context.Context, r *backendv1.GetRequest) (*backendv1.GetResponse, error) {
	e := &backendv1.Entry{Id: r.GetId(), Value: []byte("v"), Version: 1, Revision: "r"}
	switch r.GetId().GetKey() {
	case "huge":
		e.Value = make([]byte, 20<<20)
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
