// Bad is a plugin that answers as none may: too much, too old, for somebody else,
// or without end. It has neither limits nor manners, and does without go-plugin.
package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
)

func main() {
	listener, err := net.Listen("unix", filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "bad"))
	if err != nil {
		panic(err)
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(protocodec.Name)}))
	h := health.NewServer()
	h.SetServingStatus("plugin", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(s, h)
	backendv1.RegisterBackendServiceServer(s, &server{})
	fmt.Printf("1|1|unix|%s|grpc\n", listener.Addr())
	if err := s.Serve(listener); err != nil {
		panic(err)
	}
}

// gigabyte is the revision of an entry that stands for a message of that length.
const gigabyte = "a gigabyte"

// codec makes that message of one MiB that stands in it a thousand times.
type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*backendv1.GetResponse); ok && m.GetEntry().GetRevision() == gigabyte {
		part := mem.SliceBuffer(make([]byte, 1<<20))
		all := make(mem.BufferSlice, 1<<10)
		for i := range all {
			all[i] = part
		}
		return all, nil
	}
	return c.CodecV2.Marshal(v)
}

type server struct {
	backendv1.UnimplementedBackendServiceServer
}

// Describe lies: History, Size and Refresh are not there.
func (*server) Describe(context.Context, *backendv1.DescribeRequest) (*backendv1.DescribeResponse, error) {
	return &backendv1.DescribeResponse{Name: "bad", Version: "0", Capabilities: &backendv1.Capabilities{
		Batch: true, Watch: true, History: true, Size: true, Refresh: true,
	}}, nil
}

func (*server) Configure(context.Context, *backendv1.ConfigureRequest) (*backendv1.ConfigureResponse, error) {
	return &backendv1.ConfigureResponse{}, nil
}

func (*server) Get(_ context.Context, r *backendv1.GetRequest) (*backendv1.GetResponse, error) {
	e := &backendv1.Entry{Id: r.GetId(), Value: []byte(`"v"`), Version: max(1, r.GetVersion()), Revision: "r"}
	if code, ok := strings.CutPrefix(r.GetId().GetKey(), "p_code_"); ok {
		n, err := strconv.ParseUint(code, 10, 8)
		if err != nil {
			return nil, err
		}
		return nil, status.Error(codes.Code(n), "as asked")
	}
	switch r.GetId().GetKey() {
	case "p_tenant":
		e.Id.Tenant = "globex-inc"
	case "p_older":
		e.Version = max(1, r.GetVersion()-1)
	case "p_gigabyte":
		e.Revision = gigabyte
	case "p_headers":
		return nil, status.Error(codes.NotFound, string(bytes.Repeat([]byte("x"), 1<<20)))
	case "p_deaf":
		select {}
	case "p_flood":
		line := append(bytes.Repeat([]byte("x"), 4<<10), '\n')
		for range 4 << 10 {
			if _, err := syscall.Write(2, line); err != nil {
				return nil, err
			}
		}
	}
	return &backendv1.GetResponse{Entry: e}, nil
}

func (*server) BatchGet(_ context.Context, r *backendv1.BatchGetRequest) (*backendv1.BatchGetResponse, error) {
	return &backendv1.BatchGetResponse{Results: slices.Repeat([]*backendv1.BatchGetResult{{}}, 1_000_000)}, nil
}

func (*server) List(context.Context, *backendv1.ListRequest) (*backendv1.ListResponse, error) {
	return &backendv1.ListResponse{Entries: slices.Repeat([]*backendv1.Entry{{}}, 1_000_000)}, nil
}

// Watch goes on for ever, whoever listens.
func (*server) Watch(_ *backendv1.WatchRequest, s grpc.ServerStreamingServer[backendv1.WatchResponse]) error {
	if err := s.Send(&backendv1.WatchResponse{Kind: backendv1.EventKind_EVENT_KIND_SYNC, Position: "p"}); err != nil {
		return err
	}
	select {}
}
