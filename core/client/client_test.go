package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is a ConfigService whose methods a test sets one by one.
type service struct {
	tagstorev1.UnimplementedConfigServiceServer
	get      func(context.Context, *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error)
	batchGet func(context.Context, *tagstorev1.BatchGetRequest) (*tagstorev1.BatchGetResponse, error)
	list     func(context.Context, *tagstorev1.ListRequest) (*tagstorev1.ListResponse, error)
	put      func(context.Context, *tagstorev1.PutRequest) (*tagstorev1.PutResponse, error)
	del      func(context.Context, *tagstorev1.DeleteRequest) (*tagstorev1.DeleteResponse, error)
	restore  func(context.Context, *tagstorev1.RestoreRequest) (*tagstorev1.RestoreResponse, error)
	history  func(context.Context, *tagstorev1.HistoryRequest) (*tagstorev1.HistoryResponse, error)
	rollback func(context.Context, *tagstorev1.RollbackRequest) (*tagstorev1.RollbackResponse, error)
	watch    func(*tagstorev1.WatchRequest, grpc.ServerStreamingServer[tagstorev1.WatchResponse]) error
	session  func(sessionStream) error // nil: there are none
}

func (s *service) Get(ctx context.Context, r *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
	return s.get(ctx, r)
}

func (s *service) BatchGet(ctx context.Context, r *tagstorev1.BatchGetRequest) (*tagstorev1.BatchGetResponse, error) {
	return s.batchGet(ctx, r)
}

func (s *service) List(ctx context.Context, r *tagstorev1.ListRequest) (*tagstorev1.ListResponse, error) {
	return s.list(ctx, r)
}

func (s *service) Put(ctx context.Context, r *tagstorev1.PutRequest) (*tagstorev1.PutResponse, error) {
	return s.put(ctx, r)
}

func (s *service) Delete(ctx context.Context, r *tagstorev1.DeleteRequest) (*tagstorev1.DeleteResponse, error) {
	return s.del(ctx, r)
}

func (s *service) Restore(ctx context.Context, r *tagstorev1.RestoreRequest) (*tagstorev1.RestoreResponse, error) {
	return s.restore(ctx, r)
}

func (s *service) History(ctx context.Context, r *tagstorev1.HistoryRequest) (*tagstorev1.HistoryResponse, error) {
	return s.history(ctx, r)
}

func (s *service) Rollback(ctx context.Context, r *tagstorev1.RollbackRequest) (*tagstorev1.RollbackResponse, error) {
	return s.rollback(ctx, r)
}

func (s *service) Watch(r *tagstorev1.WatchRequest, stream grpc.ServerStreamingServer[tagstorev1.WatchResponse]) error {
	return s.watch(r, stream)
}

type sessionStream = grpc.BidiStreamingServer[tagstorev1.SessionRequest, tagstorev1.SessionResponse]

func (s *service) Session(stream sessionStream) error {
	if s.session == nil {
		return s.UnimplementedConfigServiceServer.Session(stream)
	}
	return s.session(stream)
}

type adminService struct {
	tagstorev1.UnimplementedAdminServiceServer
	backends []*tagstorev1.Backend
}

func (s adminService) ListBackends(context.Context, *tagstorev1.ListBackendsRequest) (*tagstorev1.ListBackendsResponse, error) {
	return &tagstorev1.ListBackendsResponse{Backends: s.backends}, nil
}

// start serves s on lis until the test ends.
func start(t testing.TB, lis net.Listener, s tagstorev1.ConfigServiceServer, admin tagstorev1.AdminServiceServer) *grpc.Server {
	t.Helper()
	server := grpc.NewServer(grpc.UnaryInterceptor(errgrpc.UnaryServer), grpc.StreamInterceptor(errgrpc.StreamServer))
	tagstorev1.RegisterConfigServiceServer(server, s)
	tagstorev1.RegisterAdminServiceServer(server, admin)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(lis) // ends by Stop, with nil or ErrServerStopped
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return server
}

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

func dial(t testing.TB, target string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// connect starts s on a free port and returns a client of it.
func connect(t testing.TB, s *service, opts ...client.Option) *client.Client {
	t.Helper()
	lis := listen(t, "127.0.0.1:0")
	start(t, lis, s, adminService{})
	return dial(t, lis.Addr().String(), opts...)
}

func key(t testing.TB, s string) config.Key {
	t.Helper()
	k, err := config.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func svc(t testing.TB, s string) config.Service {
	t.Helper()
	v, err := config.ParseService(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var identity = cmp.AllowUnexported(config.Key{}, config.Service{})

var (
	at   = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	wire = &tagstorev1.Entry{
		Key: "tenant_config_x", Service: "order", Value: []byte(`{"a":1}`), ContentType: "application/json", Version: 3,
		Revision: "r3", UpdatedAt: timestamppb.New(at), UpdatedBy: "ann", Message: "why", Secret: true,
	}
)

func entry(t testing.TB) client.Entry {
	t.Helper()
	return client.Entry{
		Key: key(t, "tenant_config_x"), Service: svc(t, "order"), Value: []byte(`{"a":1}`), ContentType: "application/json",
		Version: 3, Revision: "r3", UpdatedAt: at, UpdatedBy: "ann", Message: "why", Secret: true,
	}
}

// Every field of a read crosses, both ways.
func TestReads(t *testing.T) {
	var gotVersion *uint64
	s := &service{
		get: func(_ context.Context, r *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
			gotVersion = r.Version
			if r.GetKey() != "tenant_config_x" || r.GetService() != "order" {
				return nil, config.Errorf(config.NotFound, "no such key")
			}
			return &tagstorev1.GetResponse{Entry: wire, Freshness: &tagstorev1.Freshness{
				Source: tagstorev1.Source_SOURCE_STORE, Age: durationpb.New(time.Second),
				State: tagstorev1.FreshnessState_FRESHNESS_STATE_FRESH,
			}}, nil
		},
		history: func(_ context.Context, r *tagstorev1.HistoryRequest) (*tagstorev1.HistoryResponse, error) {
			if r.GetPageSize() != 2 {
				return nil, config.Errorf(config.InvalidArgument, "page size")
			}
			if r.GetPageToken() == "" {
				return &tagstorev1.HistoryResponse{Entries: []*tagstorev1.Entry{wire}, NextPageToken: "2"}, nil
			}
			return &tagstorev1.HistoryResponse{Entries: []*tagstorev1.Entry{{Key: wire.GetKey(), Service: "order", Version: 2, Deleted: true}}}, nil
		},
	}
	c := connect(t, s)
	want := client.Answer{Entry: entry(t), Freshness: config.Freshness{Source: config.SourceStore, Age: time.Second, State: config.StateFresh}}

	got, err := c.Get(t.Context(), key(t, "tenant_config_x"), svc(t, "order"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, identity); diff != "" {
		t.Errorf("Get (-want +got):\n%s", diff)
	}
	if gotVersion != nil {
		t.Errorf("Get asked for version %d", *gotVersion)
	}
	if got, err = c.GetVersion(t.Context(), key(t, "tenant_config_x"), svc(t, "order"), 3); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, identity); diff != "" {
		t.Errorf("GetVersion (-want +got):\n%s", diff)
	}
	if gotVersion == nil || *gotVersion != 3 {
		t.Errorf("GetVersion asked for version %v, want 3", gotVersion)
	}
	var versions []uint64
	for e, err := range c.AllHistory(t.Context(), client.HistoryRequest{Key: key(t, "tenant_config_x"), Service: svc(t, "order"), PageSize: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, e.Version)
	}
	if diff := cmp.Diff([]uint64{3, 2}, versions); diff != "" {
		t.Errorf("AllHistory (-want +got):\n%s", diff)
	}
}

func TestEmptyValueIsAValue(t *testing.T) {
	c := connect(t, &service{get: func(context.Context, *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
		return &tagstorev1.GetResponse{Entry: &tagstorev1.Entry{Key: "k"}}, nil
	}})
	got, err := c.Get(t.Context(), key(t, "k"), config.Service{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Entry.Value == nil || len(got.Entry.Value) != 0 {
		t.Errorf("the empty value came as %#v, want an empty, non-nil slice", got.Entry.Value)
	}
}

func TestBatchGetGivesEachKeyItsOwnOutcome(t *testing.T) {
	c := connect(t, &service{batchGet: func(_ context.Context, r *tagstorev1.BatchGetRequest) (*tagstorev1.BatchGetResponse, error) {
		st := errgrpc.ToStatus(config.Errorf(config.NotFound, "there is no such key")).Proto()
		return &tagstorev1.BatchGetResponse{Results: []*tagstorev1.BatchGetResult{
			{Key: "tenant_config_x", Outcome: &tagstorev1.BatchGetResult_Entry{Entry: wire}},
			{Key: "param_config_y", Outcome: &tagstorev1.BatchGetResult_Error{Error: &tagstorev1.Status{Code: st.GetCode(), Message: st.GetMessage(), Details: st.GetDetails()}}},
		}}, nil
	}})
	got, err := c.BatchGet(t.Context(), []config.Key{key(t, "tenant_config_x"), key(t, "param_config_y")}, svc(t, "order"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(entry(t), got[0].Answer.Entry, identity); diff != "" || got[0].Err != nil {
		t.Errorf("first result (-want +got):\n%s error %v", diff, got[0].Err)
	}
	if !errors.Is(got[1].Err, config.NotFound) {
		t.Errorf("second result has error %v, want code not_found", got[1].Err)
	}
}

// An answer about anything but what was asked never becomes data.
func TestForeignAnswersAreRefused(t *testing.T) {
	x := &tagstorev1.Entry{Key: "p_x"}
	for name, bad := range map[string]*tagstorev1.Entry{
		"no entry":        nil,
		"another key":     {Key: "p_z"},
		"invalid key":     {Key: "p_/../x"},
		"another service": {Key: "p_x", Service: "billing"},
		"invalid service": {Key: "p_x", Service: "A|B"},
		"shared service":  {Key: "p_x", Service: "order", Shared: true},
		"a deletion":      {Key: "p_x", Deleted: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, &service{
				get: func(context.Context, *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
					return &tagstorev1.GetResponse{Entry: bad}, nil
				},
				batchGet: func(context.Context, *tagstorev1.BatchGetRequest) (*tagstorev1.BatchGetResponse, error) {
					return &tagstorev1.BatchGetResponse{Results: []*tagstorev1.BatchGetResult{
						{Key: "p_x", Outcome: &tagstorev1.BatchGetResult_Entry{Entry: x}},
						{Key: "p_x", Outcome: &tagstorev1.BatchGetResult_Entry{Entry: bad}},
					}}, nil
				},
				watch: func(_ *tagstorev1.WatchRequest, stream grpc.ServerStreamingServer[tagstorev1.WatchResponse]) error {
					return stream.Send(&tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Put{Put: bad}})
				},
			})
			if _, err := c.Get(t.Context(), key(t, "p_x"), svc(t, "order")); !errors.Is(err, config.Internal) {
				t.Errorf("Get returned %v, want code internal", err)
			}
			got, err := c.BatchGet(t.Context(), []config.Key{key(t, "p_x"), key(t, "p_x")}, svc(t, "order"))
			if err != nil {
				t.Fatal(err)
			}
			if got[0].Err != nil || !errors.Is(got[1].Err, config.Internal) || got[1].Answer.Entry.Version != 0 {
				t.Errorf("BatchGet returned %v and %v, want none and code internal", got[0].Err, got[1].Err)
			}
			err = c.Watch(t.Context(), client.WatchRequest{KeyPrefix: "p_x", Service: svc(t, "order")}, func(client.Event) error { return nil })
			if !errors.Is(err, config.Internal) {
				t.Errorf("Watch returned %v, want code internal", err)
			}
		})
	}
}

func TestListChecksPrefixAndPages(t *testing.T) {
	c := connect(t, &service{list: func(_ context.Context, r *tagstorev1.ListRequest) (*tagstorev1.ListResponse, error) {
		one := func(k, next string) (*tagstorev1.ListResponse, error) {
			return &tagstorev1.ListResponse{Entries: []*tagstorev1.Entry{{Key: k}}, NextPageToken: next}, nil
		}
		switch r.GetPageToken() {
		case "":
			return one("p_a", "t1")
		case "t1":
			return &tagstorev1.ListResponse{NextPageToken: "t2"}, nil // an empty page is not the last
		case "t2":
			return one("p_b", "")
		case "foreign":
			return one("q_b", "")
		case "stuck":
			return one("p_c", "stuck")
		default:
			return nil, config.Errorf(config.InvalidArgument, "not a page token")
		}
	}})
	for name, tc := range map[string]struct {
		from string
		want []string
		code config.Code
	}{
		"all pages":        {want: []string{"p_a", "p_b"}},
		"foreign key":      {from: "foreign", code: config.Internal},
		"token stays":      {from: "stuck", want: []string{"p_c"}, code: config.Internal},
		"refused by token": {from: "forged", code: config.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			var failed error
			for e, err := range c.All(t.Context(), client.ListRequest{KeyPrefix: "p_", PageToken: tc.from}) {
				if err != nil {
					failed = err
					continue
				}
				got = append(got, e.Key.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			if (failed == nil) != (tc.code == config.Unknown) || (failed != nil && config.CodeOf(failed) != tc.code) {
				t.Errorf("error %v, want code %v", failed, tc.code)
			}
		})
	}
	for _, size := range []int{-1, 1001, 1 << 40} {
		if _, err := c.List(t.Context(), client.ListRequest{KeyPrefix: "p_", PageSize: size}); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("page size %d: %v, want code invalid_argument", size, err)
		}
	}
}

func TestWrites(t *testing.T) {
	meta := &tagstorev1.Entry{Key: "k", Service: "order", Version: 4}
	bad := func(expected *uint64, rest ...bool) error {
		ok := expected != nil && *expected == 3
		for _, r := range rest {
			ok = ok && r
		}
		if !ok {
			return config.Errorf(config.InvalidArgument, "a field did not arrive")
		}
		return nil
	}
	s := &service{
		put: func(_ context.Context, r *tagstorev1.PutRequest) (*tagstorev1.PutResponse, error) {
			return &tagstorev1.PutResponse{Entry: meta}, bad(r.ExpectedVersion, r.GetKey() == "k", r.GetService() == "order",
				string(r.GetValue()) == "v", r.GetContentType() == "text/plain", r.GetMessage() == "m", r.GetIdempotencyKey() == "i")
		},
		del: func(_ context.Context, r *tagstorev1.DeleteRequest) (*tagstorev1.DeleteResponse, error) {
			return &tagstorev1.DeleteResponse{Entry: meta}, bad(r.ExpectedVersion, r.GetKey() == "k", r.GetService() == "order",
				r.GetMessage() == "m", r.GetIdempotencyKey() == "i", r.GetPermanent())
		},
		restore: func(_ context.Context, r *tagstorev1.RestoreRequest) (*tagstorev1.RestoreResponse, error) {
			return &tagstorev1.RestoreResponse{Entry: meta}, bad(r.ExpectedVersion, r.GetKey() == "k", r.GetService() == "order", r.GetMessage() == "m")
		},
		rollback: func(_ context.Context, r *tagstorev1.RollbackRequest) (*tagstorev1.RollbackResponse, error) {
			return &tagstorev1.RollbackResponse{Entry: meta}, bad(r.ExpectedVersion, r.GetKey() == "k", r.GetService() == "order",
				r.GetMessage() == "m", r.GetToVersion() == 1)
		},
	}
	c := connect(t, s)
	k, order, three := key(t, "k"), svc(t, "order"), uint64(3)
	calls := map[string]func() (client.Entry, error){
		"Put": func() (client.Entry, error) {
			return c.Put(t.Context(), client.PutRequest{
				Key: k, Service: order, Value: []byte("v"), ContentType: "text/plain",
				ExpectedVersion: &three, Message: "m", IdempotencyKey: "i",
			})
		},
		"Delete": func() (client.Entry, error) {
			return c.Delete(t.Context(), client.DeleteRequest{Key: k, Service: order, ExpectedVersion: &three, Message: "m", IdempotencyKey: "i", Permanent: true})
		},
		"Restore": func() (client.Entry, error) {
			return c.Restore(t.Context(), client.RestoreRequest{Key: k, Service: order, ExpectedVersion: &three, Message: "m"})
		},
		"Rollback": func() (client.Entry, error) {
			return c.Rollback(t.Context(), client.RollbackRequest{Key: k, Service: order, ToVersion: 1, ExpectedVersion: &three, Message: "m"})
		},
	}
	for name, do := range calls {
		t.Run(name, func(t *testing.T) {
			got, err := do()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(client.Entry{Key: k, Service: order, Version: 4}, got, identity); diff != "" {
				t.Errorf("entry (-want +got):\n%s", diff)
			}
		})
	}
	// The answer to a write is of exactly the layer that was written.
	meta.Service = ""
	for name, do := range calls {
		if _, err := do(); !errors.Is(err, config.Internal) {
			t.Errorf("%s answered for another layer: %v, want code internal", name, err)
		}
	}
}

func TestConflictCarriesTheVersionThatWon(t *testing.T) {
	c := connect(t, &service{put: func(context.Context, *tagstorev1.PutRequest) (*tagstorev1.PutResponse, error) {
		return nil, config.Errorf(config.Conflict, "version 7 is current").WithVersion(7)
	}})
	_, err := c.Put(t.Context(), client.PutRequest{Key: key(t, "k")})
	var e *config.Error
	if !errors.As(err, &e) || e.Code != config.Conflict || e.Version != 7 {
		t.Errorf("Put returned %#v, want a conflict with version 7", err)
	}
}

// Reads are tried three times, writes once: the server counts.
func TestOnlyReadsAreRetried(t *testing.T) {
	var gets, puts int
	var ids []string
	c := connect(t, &service{
		get: func(ctx context.Context, _ *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
			gets++
			md, _ := metadata.FromIncomingContext(ctx)
			ids = append(ids, md.Get("x-request-id")...)
			if gets < 3 {
				return nil, status.Error(codes.Unavailable, "not now")
			}
			return &tagstorev1.GetResponse{Entry: &tagstorev1.Entry{Key: "k"}}, nil
		},
		put: func(context.Context, *tagstorev1.PutRequest) (*tagstorev1.PutResponse, error) {
			puts++
			return nil, config.Errorf(config.Unavailable, "not now")
		},
	})
	if _, err := c.Get(t.Context(), key(t, "k"), config.Service{}); err != nil || gets != 3 {
		t.Errorf("Get took %d attempts and returned %v, want 3 and none", gets, err)
	}
	if len(ids) != 3 || ids[0] == "" || ids[0] != ids[1] || ids[1] != ids[2] {
		t.Errorf("the attempts carried the request ids %q, want one id three times", ids)
	}
	if _, err := c.Put(t.Context(), client.PutRequest{Key: key(t, "k")}); !errors.Is(err, config.Unavailable) || puts != 1 {
		t.Errorf("Put took %d attempts and returned %v, want 1 and code unavailable", puts, err)
	}
}

// A call that is refused since its tenant asks for too much is not sent again, and
// its error says how long to wait: over a stream, too.
func TestRefusedCallsAreNotRetried(t *testing.T) {
	refused := config.Errorf(config.ResourceExhausted, "too much").WithHint("wait")
	refused.RetryAfter = 1500 * time.Millisecond
	for name, opts := range map[string][]client.Option{"calls": nil, "streams": {client.WithStreams()}} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			carrier := &sessions{most: 100, answer: func(c *tagstorev1.SessionCall) *tagstorev1.SessionAnswer {
				calls.Add(1)
				return declined(c, refused)
			}}
			c := connect(t, &service{
				get: func(context.Context, *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
					calls.Add(1)
					return nil, refused
				},
				session: carrier.serve,
			}, opts...)
			_, err := c.Get(as(t, "one"), key(t, "p_a"), config.Service{})
			e := config.AsError(err, "", config.Key{})
			if e.Code != config.ResourceExhausted || e.RetryAfter != refused.RetryAfter || calls.Load() != 1 {
				t.Errorf("%v, to wait %v, after %d calls", err, e.RetryAfter, calls.Load())
			}
		})
	}
}

// A write whose connection breaks may have happened; one that met no service has
// not, and one that the service turned away neither.
func TestBrokenWriteSaysThatItMayHaveHappened(t *testing.T) {
	lis := listen(t, "127.0.0.1:0")
	var server *grpc.Server
	arrived := make(chan struct{})
	server = start(t, lis, &service{put: func(ctx context.Context, _ *tagstorev1.PutRequest) (*tagstorev1.PutResponse, error) {
		close(arrived)
		<-ctx.Done() // the connection is gone
		return nil, ctx.Err()
	}}, adminService{})
	go func() {
		<-arrived
		server.Stop()
	}()
	c := dial(t, lis.Addr().String())
	if _, err := c.Put(t.Context(), client.PutRequest{Key: key(t, "k")}); !errors.Is(err, config.OutcomeUnknown) {
		t.Errorf("a Put whose connection broke returned %v, want code outcome_unknown", err)
	}
	// Nobody listens there any more.
	if _, err := c.Put(t.Context(), client.PutRequest{Key: key(t, "k")}); !errors.Is(err, config.Unavailable) {
		t.Errorf("a Put that met nobody returned %v, want code unavailable", err)
	}
}

func TestEveryCallHasADeadline(t *testing.T) {
	c := connect(t, &service{get: func(ctx context.Context, _ *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}, client.WithTimeout(50*time.Millisecond))
	if _, err := c.Get(t.Context(), key(t, "k"), config.Service{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call without a deadline returned %v, want the deadline exceeded", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ctx, key(t, "k"), config.Service{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call returned %v, want canceled", err)
	}
}

func TestTokenAndRequestID(t *testing.T) {
	c := connect(t, &service{get: func(ctx context.Context, _ *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		return nil, config.Errorf(config.FailedPrecondition, "auth=%q id=%q", md.Get("authorization"), md.Get("x-request-id"))
	}})
	for name, tc := range map[string]struct {
		ctx  context.Context
		want string
		id   string
	}{
		"both":          {client.ContextWithRequestID(client.ContextWithToken(t.Context(), "tok"), "id-1"), `auth=["Bearer tok"] id=["id-1"]`, "id-1"},
		"no token":      {client.ContextWithRequestID(t.Context(), "id-2"), `auth=[] id=["id-2"]`, "id-2"},
		"newest wins":   {client.ContextWithToken(client.ContextWithToken(t.Context(), "a"), "b"), `auth=["Bearer b"] `, ""},
		"hostile id":    {client.ContextWithRequestID(t.Context(), "a\nb"), `auth=[] `, ""},
		"overlong id":   {client.ContextWithRequestID(t.Context(), strings.Repeat("x", 65)), `auth=[] `, ""},
		"longest id":    {client.ContextWithRequestID(t.Context(), strings.Repeat("x", 64)), `auth=[] `, strings.Repeat("x", 64)},
		"id of its own": {t.Context(), `auth=[] `, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Get(tc.ctx, key(t, "k"), config.Service{})
			var e *config.Error
			if !errors.As(err, &e) || !strings.HasPrefix(e.Message, tc.want) {
				t.Fatalf("Get returned %v, want %s", err, tc.want)
			}
			id := client.RequestID(err)
			if (tc.id != "" && id != tc.id) || !strings.HasSuffix(e.Message, fmt.Sprintf("id=[%q]", id)) {
				t.Errorf("RequestID is %q, the service saw %s", id, e.Message)
			}
		})
	}
	if id := client.RequestID(errors.New("another")); id != "" {
		t.Errorf("RequestID of a foreign error is %q", id)
	}
}

func TestPlaintextStaysOnThisMachine(t *testing.T) {
	for target, ok := range map[string]bool{
		"127.0.0.1:7070": true, "127.9.9.9:1": true, "[::1]:7070": true, "localhost:7070": true, "[::ffff:127.0.0.1]:1": true,
		"dns:///localhost:7070": true, "passthrough:///127.0.0.1:1": true, "unix:/tmp/x": true, "unix:///tmp/x": true,
		"10.0.0.1:7070": false, "config.example:7070": false, "dns:///config.example:1": false, "0.0.0.0:7070": false,
		"localhost.example:1": false, "dns://127.0.0.1/config.example:1": false, "[::]:1": false, "": false, "localhost": false,
		"xds:///localhost.example": false,
	} {
		c, err := client.New(target)
		if (err == nil) != ok {
			t.Errorf("New(%q) returned %v, want success: %v", target, err, ok)
		}
		if err != nil {
			if !errors.Is(err, config.InvalidArgument) {
				t.Errorf("New(%q) returned %v, want code invalid_argument", target, err)
			}
			continue
		}
		_ = c.Close()
	}
	for name, opt := range map[string]client.Option{"insecure": client.WithInsecure(), "TLS": client.WithTLS(nil)} {
		c, err := client.New("config.example:7070", opt)
		if err != nil {
			t.Errorf("New with %s returned %v", name, err)
			continue
		}
		_ = c.Close()
	}
}

// A TLS client never falls back: a plaintext server sees no token.
func TestTLSNeedsTLS(t *testing.T) {
	lis := listen(t, "127.0.0.1:0")
	start(t, lis, &service{}, adminService{})
	c := dial(t, lis.Addr().String(), client.WithTLS(nil))
	_, err := c.Get(client.ContextWithToken(t.Context(), "tok"), key(t, "k"), config.Service{})
	if !errors.Is(err, config.Unavailable) {
		t.Errorf("Get over TLS from a plaintext server returned %v, want code unavailable", err)
	}
}

func TestUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "ts") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	lis, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	start(t, lis, &service{get: func(context.Context, *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
		return &tagstorev1.GetResponse{Entry: &tagstorev1.Entry{Key: "k"}}, nil
	}}, adminService{})
	if _, err := dial(t, "unix:"+path).Get(t.Context(), key(t, "k"), config.Service{}); err != nil {
		t.Error(err)
	}
}

func TestNobodyThereIsUnavailableAndSaysWhere(t *testing.T) {
	lis := listen(t, "127.0.0.1:0")
	address := lis.Addr().String()
	_ = lis.Close()
	_, err := dial(t, address).Get(t.Context(), key(t, "k"), config.Service{})
	var e *config.Error
	if !errors.As(err, &e) || e.Code != config.Unavailable || !strings.Contains(e.Hint, address) {
		t.Errorf("Get returned %v, want code unavailable and the address", err)
	}
	if strings.Contains(e.Message, "rpc error") || !strings.Contains(e.Message, "connection refused") {
		t.Errorf("Get says %q, want the reason without what gRPC says around it", e.Message)
	}
}

func TestListBackends(t *testing.T) {
	lis := listen(t, "127.0.0.1:0")
	start(t, lis, &service{}, adminService{backends: []*tagstorev1.Backend{
		{
			Name: "params", Prefixes: []string{"param_config_"}, State: tagstorev1.BackendState_BACKEND_STATE_SERVING,
			PluginName: "local", PluginVersion: "v1", Capabilities: []string{"batch"}, Caveats: []string{"permanent_delete"}, Pid: 7, Generation: 2, Restarts: 1,
			Circuit: tagstorev1.BackendCircuit_BACKEND_CIRCUIT_HALF_OPEN, InFlight: 3, Waiting: 4,
			LatencyP50: durationpb.New(time.Millisecond), LatencyP99: durationpb.New(2 * time.Millisecond), LastLines: "a\nb", Sha256: "9f", ResidentBytes: 5,
			StartedAt: timestamppb.New(at), Size: &tagstorev1.BackendSize{Bytes: 1, Entries: 2, Versions: 3, Changes: -1},
		},
		{Name: "tenants", State: tagstorev1.BackendState_BACKEND_STATE_RESTARTING, LastError: "exit status 1"},
		{Name: "broken", State: tagstorev1.BackendState_BACKEND_STATE_FAILED, Circuit: tagstorev1.BackendCircuit_BACKEND_CIRCUIT_OPEN},
		{Name: "stopped", State: tagstorev1.BackendState_BACKEND_STATE_STOPPED, Circuit: tagstorev1.BackendCircuit_BACKEND_CIRCUIT_CLOSED},
		{Name: "newer", State: 99, Circuit: 99},
	}})
	got, err := dial(t, lis.Addr().String()).ListBackends(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []client.Backend{
		{
			Name: "params", Prefixes: []string{"param_config_"}, State: client.BackendServing, PluginName: "local", PluginVersion: "v1",
			Capabilities: []string{"batch"}, Caveats: []string{"permanent_delete"}, PID: 7, Generation: 2, Restarts: 1, StartedAt: at,
			Size:    &client.BackendSize{Bytes: 1, Entries: 2, Versions: 3, Changes: -1},
			Circuit: client.CircuitHalfOpen, InFlight: 3, Waiting: 4, LatencyP50: time.Millisecond, LatencyP99: 2 * time.Millisecond,
			LastLines: "a\nb", SHA256: "9f", ResidentBytes: 5,
		},
		{Name: "tenants", State: client.BackendRestarting, LastError: "exit status 1", Circuit: client.CircuitUnknown},
		{Name: "broken", State: client.BackendFailed, Circuit: client.CircuitOpen},
		{Name: "stopped", State: client.BackendStopped, Circuit: client.CircuitClosed},
		{Name: "newer", State: client.BackendUnknown, Circuit: client.CircuitUnknown},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("backends (-want +got):\n%s", diff)
	}
}
