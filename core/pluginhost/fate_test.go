package pluginhost

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/config"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/wire"
)

// fateServer answers each method in one of the ways that there are.
type fateServer struct {
	backendv1.UnimplementedBackendServiceServer
	arrived chan struct{}
}

func (*fateServer) Get(context.Context, *backendv1.GetRequest) (*backendv1.GetResponse, error) {
	return nil, status.Error(codes.Unavailable, "an answer without a detail")
}

func (s *fateServer) Put(ctx context.Context, _ *backendv1.PutRequest) (*backendv1.PutResponse, error) {
	s.arrived <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// What became of a failed call is known: an error that the plugin sent, a
// request that was lost on the way, one that never left, and one that nobody
// waits for any more.
func TestFateOfCalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	plugin := &fateServer{arrived: make(chan struct{}, 1)}
	server := grpc.NewServer()
	backendv1.RegisterBackendServiceServer(server, plugin)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("unix:"+path, append(dialOptions("under-test"), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := backendv1.NewBackendServiceClient(conn)
	var f fate
	note := func(ctx context.Context) context.Context {
		f.sent.Store(false)
		f.answered.Store(false)
		return context.WithValue(ctx, fateKey{}, &f)
	}
	check := func(what string, err error, code codes.Code, sent, answered bool) {
		t.Helper()
		if status.Code(err) != code || f.sent.Load() != sent || f.answered.Load() != answered {
			t.Errorf("%s: %v, sent %v, answered %v", what, err, f.sent.Load(), f.answered.Load())
		}
	}

	_, err = client.Get(note(t.Context()), &backendv1.GetRequest{})
	check("answered", err, codes.Unavailable, true, true)

	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-plugin.arrived; cancel() }()
	_, err = client.Put(note(ctx), &backendv1.PutRequest{})
	check("given up", err, codes.Canceled, true, false)

	go func() { <-plugin.arrived; server.Stop() }()
	_, err = client.Put(note(t.Context()), &backendv1.PutRequest{})
	check("lost", err, codes.Unavailable, true, false)
	if err := <-served; err != nil {
		t.Error(err)
	}

	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = client.Put(note(ctx), &backendv1.PutRequest{})
	check("never sent", err, codes.Unavailable, false, false)
}

// A plugin that is lost in the moment in which the time of a call is over may have
// carried it out: of a write that is never Unavailable, which says that it was not.
func TestLostAsTheTimeIsOver(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	p := &Process{plugin: Plugin{Name: "lost"}}
	var f fate
	f.sent.Store(true)
	for _, m := range []method{methodPut, methodDelete, methodGet} {
		err := p.failed(over, &generation{broken: make(chan struct{}, 1)}, m, config.Key{}, &f, status.Error(codes.Unavailable, "the connection broke"))
		if config.CodeOf(err) != config.Canceled {
			t.Errorf("%s: %v", m, err)
		}
	}
}

// What the call carries already crosses with what is added.
func TestR22TenantIsAppended(t *testing.T) {
	ctx := metadata.AppendToOutgoingContext(t.Context(), "before", "1")
	ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled,
	}))
	md, _ := metadata.FromOutgoingContext(wire.Inject(ctx, tenantNamed(t, "acme-corp")))
	for name, want := range map[string]string{"before": "1", "x-tagstore-tenant": "acme-corp", "traceparent": "00-01000000000000000000000000000000-0200000000000000-01"} {
		if got := md.Get(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s is %v, want %s", name, got, want)
		}
	}
}
