package fanout_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	"github.com/tagstore/tagstore/core/fanout"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tenantName = "acme-corp"
	token      = "a-machine's-token"
)

type tokens struct{ err error }

func (s tokens) Token(context.Context) (string, error) { return token, s.err }

// registry is a Discoverer whose replicas come and go.
type registry struct {
	mu       sync.Mutex
	replicas []fanout.Replica
	err      error
	asked    int
	// next is called before each discovery with its number, from 1.
	next func(n int)
}

func (r *registry) Discover(context.Context) ([]fanout.Replica, error) {
	r.mu.Lock()
	r.asked++
	n, next := r.asked, r.next
	r.mu.Unlock()
	if next != nil {
		next(n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.replicas), r.err
}

func (r *registry) set(replicas ...fanout.Replica) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replicas = replicas
}

func (r *registry) discoveries() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// replica is a gRPC server with an AdminService.
type replica struct {
	tagstorev1.UnimplementedAdminServiceServer
	fanout.Replica
	calls, connections, live atomic.Int32
	server                   *grpc.Server
	answer                   func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error)
}

func (r *replica) Refresh(ctx context.Context, req *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
	r.calls.Add(1)
	if got := metadata.ValueFromIncomingContext(ctx, "authorization"); !slices.Equal(got, []string{"Bearer " + token}) {
		return nil, config.Errorf(config.Unauthenticated, "not the machine's token")
	}
	return r.answer(ctx, req)
}

func (r *replica) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (r *replica) HandleRPC(context.Context, stats.RPCStats)                         {}
func (r *replica) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (r *replica) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		r.connections.Add(1)
		r.live.Add(1)
	case *stats.ConnEnd:
		r.live.Add(-1)
	}
}

// acknowledge answers with version 7 of every target.
func acknowledge(id string) func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
	return func(_ context.Context, req *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
		resp := &tagstorev1.RefreshResponse{Replica: id}
		for range req.GetTargets() {
			resp.Receipts = append(resp.Receipts, &tagstorev1.RefreshReceipt{Outcome: &tagstorev1.RefreshReceipt_Applied{
				Applied: &tagstorev1.RefreshApplied{Version: 7, Values: 1},
			}})
		}
		return resp, nil
	}
}

// hang does not answer.
func hang(ctx context.Context, _ *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func fail(err error) func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
	return func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
		return nil, err
	}
}

// start starts a replica that acknowledges until a test says otherwise.
func start(t testing.TB, id string) *replica {
	t.Helper()
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, id, lis)
}

func serve(t testing.TB, id string, lis net.Listener) *replica {
	t.Helper()
	r := &replica{Replica: fanout.Replica{ID: id, Address: lis.Addr().String()}, answer: acknowledge(id)}
	r.server = grpc.NewServer(grpc.UnaryInterceptor(errgrpc.UnaryServer), grpc.StatsHandler(r))
	tagstorev1.RegisterAdminServiceServer(r.server, r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.server.Serve(lis) // ends by Stop, with nil or ErrServerStopped
	}()
	t.Cleanup(func() {
		r.server.Stop()
		<-done
	})
	return r
}

// dead returns a replica at an address where nobody listens.
func dead(t testing.TB, id string) fanout.Replica {
	t.Helper()
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis.Close()
	return fanout.Replica{ID: id, Address: lis.Addr().String()}
}

// open returns a Fanout over the registry; change may alter its options.
func open(t testing.TB, d fanout.Discoverer, change ...func(*fanout.Options)) *fanout.Fanout {
	t.Helper()
	o := fanout.Options{Discoverer: d, Tokens: tokens{}, CallTimeout: 10 * time.Second}
	for _, c := range change {
		c(&o)
	}
	f, err := fanout.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func within(d time.Duration) func(*fanout.Options) {
	return func(o *fanout.Options) { o.CallTimeout = d }
}

// target is one key of the tenant whose name must not show up anywhere.
func target(t testing.TB) []client.RefreshTarget {
	t.Helper()
	tenant, err := config.ParseTenant(tenantName)
	if err != nil {
		t.Fatal(err)
	}
	key, err := config.ParseKey("tenant_config_x")
	if err != nil {
		t.Fatal(err)
	}
	return []client.RefreshTarget{{Tenant: tenant, Key: key, MinVersion: 7}}
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.NewTimer(15 * time.Second)
	defer timeout.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-timeout.C:
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}
