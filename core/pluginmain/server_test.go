package pluginmain

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/errgrpc"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/handshake"
	"github.com/tagstore/tagstore/core/internal/wire"
	"github.com/tagstore/tagstore/core/memdriver"
)

// serving runs s in this process and returns a client of it.
func serving(t *testing.T, open driver.Opener) backendv1.BackendServiceClient {
	t.Helper()
	s := newServer("mem", "v0", open)
	s.schema = json.RawMessage(`{"type":"object"}`)
	transport := s.grpcServer(nil)
	backendv1.RegisterBackendServiceServer(transport, s)
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- transport.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		transport.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		s.stop()
		if err := s.close(time.Second); err != nil {
			t.Error(err)
		}
	})
	return backendv1.NewBackendServiceClient(conn)
}

func openMem(context.Context, json.RawMessage) (driver.Backend, error) { return memdriver.New(), nil }

func code(err error) config.Code { return config.CodeOf(errgrpc.FromError(err)) }

func TestConfigureOnceAndFirst(t *testing.T) {
	ctx := t.Context()
	c := serving(t, openMem)
	id := &backendv1.Id{Tenant: "t", Key: "k"}
	_, get := c.Get(ctx, &backendv1.GetRequest{Id: id})
	_, batch := c.BatchGet(ctx, &backendv1.BatchGetRequest{})
	_, list := c.List(ctx, &backendv1.ListRequest{Tenant: "t"})
	_, put := c.Put(ctx, &backendv1.PutRequest{Id: id})
	_, del := c.Delete(ctx, &backendv1.DeleteRequest{Id: id})
	_, history := c.History(ctx, &backendv1.HistoryRequest{Id: id})
	_, ping := c.Ping(ctx, &backendv1.PingRequest{})
	_, size := c.Size(ctx, &backendv1.SizeRequest{})
	stream, err := c.Watch(ctx, &backendv1.WatchRequest{Tenant: "t"})
	if err != nil {
		t.Fatal(err)
	}
	_, watch := stream.Recv()
	for name, err := range map[string]error{
		"Get": get, "BatchGet": batch, "List": list, "Put": put, "Delete": del,
		"History": history, "Ping": ping, "Size": size, "Watch": watch,
	} {
		if code(err) != config.FailedPrecondition {
			t.Errorf("%s before Configure: %v", name, err)
		}
	}
	before, err := c.Describe(ctx, &backendv1.DescribeRequest{})
	if err != nil || before.GetName() != "mem" || string(before.GetOptionsSchema()) != `{"type":"object"}` {
		t.Errorf("Describe before Configure: %v, %v", before, err)
	}
	if _, err := c.Configure(ctx, &backendv1.ConfigureRequest{}); err != nil {
		t.Fatal(err)
	}
	resp, err := c.Describe(ctx, &backendv1.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := wire.DescriptionOf(resp)
	if err != nil || d.Capabilities != driver.CapabilitiesOf(memdriver.New()) {
		t.Errorf("Describe: %+v, %v", d, err)
	}
	if !slices.Contains(resp.GetFeatures(), handshake.FeatureReconfigure) {
		t.Errorf("features are %v", resp.GetFeatures())
	}
}

// A host that has lost its connection configures again: with the same options,
// whatever they look like, that changes nothing, and with others it is refused.
func TestR34ConfigureAgain(t *testing.T) {
	ctx := t.Context()
	opened := 0
	c := serving(t, func(context.Context, json.RawMessage) (driver.Backend, error) {
		opened++
		return memdriver.New(), nil
	})
	configure := func(options string) config.Code {
		_, err := c.Configure(ctx, &backendv1.ConfigureRequest{Options: []byte(options)})
		if err == nil {
			return 0
		}
		return code(err)
	}
	if got := configure(`{"a": 1, "b": {"d": [1, 2], "c": 12345678901234567890}}`); got != 0 {
		t.Fatal(got)
	}
	id := &backendv1.Id{Tenant: "t", Key: "k"}
	if _, err := c.Put(ctx, &backendv1.PutRequest{Id: id, Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	for options, want := range map[string]config.Code{
		`{"b":{"c":12345678901234567890,"d":[1,2]},"a":1}`: 0,
		`{"b":{"c":12345678901234567891,"d":[1,2]},"a":1}`: config.FailedPrecondition,
		`{"b":{"c":12345678901234567890,"d":[2,1]},"a":1}`: config.FailedPrecondition,
		`{}`: config.FailedPrecondition, "": config.FailedPrecondition, "no JSON": config.FailedPrecondition,
	} {
		if got := configure(options); got != want {
			t.Errorf("Configure with %s: %v", options, got)
		}
	}
	if got, err := c.Get(ctx, &backendv1.GetRequest{Id: id}); err != nil || string(got.GetEntry().GetValue()) != "v" || opened != 1 {
		t.Errorf("after %d times Open, Get: %v, %v", opened, got, err)
	}
}

// Two hosts configure at once: the store is opened once.
func TestR34ConfigureAtOnce(t *testing.T) {
	var opened atomic.Int64
	c := serving(t, func(context.Context, json.RawMessage) (driver.Backend, error) {
		opened.Add(1)
		return memdriver.New(), nil
	})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := c.Configure(t.Context(), &backendv1.ConfigureRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := opened.Load(); n != 1 {
		t.Errorf("Open was called %d times", n)
	}
}

func TestConfigureFails(t *testing.T) {
	for name, c := range map[string]struct {
		open driver.Opener
		code config.Code
	}{
		"error": {func(context.Context, json.RawMessage) (driver.Backend, error) {
			return nil, config.Errorf(config.InvalidArgument, "no")
		}, config.InvalidArgument},
		"unknown": {func(context.Context, json.RawMessage) (driver.Backend, error) { return nil, errors.New("no") }, config.Unknown},
		"nothing": {func(context.Context, json.RawMessage) (driver.Backend, error) { return nil, nil }, config.Internal}, //nolint:nilnil // the mistake that this is about
		"panic":   {func(context.Context, json.RawMessage) (driver.Backend, error) { panic("no") }, config.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			client := serving(t, c.open)
			if _, err := client.Configure(t.Context(), &backendv1.ConfigureRequest{}); code(err) != c.code {
				t.Errorf("got %v", err)
			}
			if _, err := client.Ping(t.Context(), &backendv1.PingRequest{}); code(err) != config.FailedPrecondition {
				t.Errorf("a call after a failure: %v", err)
			}
			// It may be mended by now: the store may be there.
			if _, err := client.Configure(t.Context(), &backendv1.ConfigureRequest{}); code(err) != c.code {
				t.Errorf("configured again after a failure: %v", err)
			}
		})
	}
}

// required has no optional interface.
type required struct{ driver.Backend }

func TestUndeclaredIsUnimplemented(t *testing.T) {
	ctx := t.Context()
	c := serving(t, func(context.Context, json.RawMessage) (driver.Backend, error) { return required{memdriver.New()}, nil })
	if _, err := c.Configure(ctx, &backendv1.ConfigureRequest{}); err != nil {
		t.Fatal(err)
	}
	_, batch := c.BatchGet(ctx, &backendv1.BatchGetRequest{})
	_, history := c.History(ctx, &backendv1.HistoryRequest{Id: &backendv1.Id{Tenant: "t", Key: "k"}})
	_, ping := c.Ping(ctx, &backendv1.PingRequest{})
	_, size := c.Size(ctx, &backendv1.SizeRequest{})
	stream, err := c.Watch(ctx, &backendv1.WatchRequest{Tenant: "t"})
	if err != nil {
		t.Fatal(err)
	}
	_, watch := stream.Recv()
	for name, err := range map[string]error{"BatchGet": batch, "History": history, "Ping": ping, "Size": size, "Watch": watch} {
		if code(err) != config.Unimplemented {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// short answers batches with too few results; its watches panic.
type short struct{ *memdriver.Backend }

func (short) BatchGet(context.Context, []config.ID) ([]driver.Result, error) { return nil, nil }

func (short) Watch(context.Context, driver.WatchRequest, func(driver.Event) error) error {
	panic("in a watch")
}

func TestBackendThatBreaksItsContract(t *testing.T) {
	ctx := t.Context()
	c := serving(t, func(context.Context, json.RawMessage) (driver.Backend, error) { return short{memdriver.New()}, nil })
	if _, err := c.Configure(ctx, &backendv1.ConfigureRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err := c.BatchGet(ctx, &backendv1.BatchGetRequest{Ids: []*backendv1.Id{{Tenant: "t", Key: "k"}}})
	if code(err) != config.Internal {
		t.Errorf("BatchGet: %v", err)
	}
	stream, err := c.Watch(ctx, &backendv1.WatchRequest{Tenant: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); code(err) != config.Internal {
		t.Errorf("Watch: %v", err)
	}
	if _, err := c.Ping(ctx, &backendv1.PingRequest{}); err != nil {
		t.Errorf("Ping afterwards: %v", err)
	}
}

// stuck never closes.
type stuck struct {
	*memdriver.Backend
	free chan struct{}
}

func (s stuck) Close() error { <-s.free; return nil }

func TestCloseHasABound(t *testing.T) {
	free := make(chan struct{})
	defer close(free)
	s := newServer("mem", "v0", nil)
	s.backend.Store(&opened{Backend: stuck{memdriver.New(), free}})
	if err := s.close(time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// Package store lets a content type have 128 bytes, a message 1024 and a token
// a subject of 255.
func TestLargestPageFitsAMessage(t *testing.T) {
	tenant, errTenant := config.ParseTenant(strings.Repeat("t", config.MaxLabel))
	service, errService := config.ParseService(strings.Repeat("s", config.MaxLabel))
	key, errKey := config.ParseKey(strings.Repeat("k", config.MaxKey))
	if err := errors.Join(errTenant, errService, errKey); err != nil {
		t.Fatal(err)
	}
	entry := config.Entry{
		ID:          config.ID{Tenant: tenant, Service: service, Key: key},
		Value:       make([]byte, driver.MaxPageBytes/driver.MaxPageSize),
		ContentType: strings.Repeat("c", 128), Version: 1 << 63, Revision: config.Revision(strings.Repeat("r", 64)),
		UpdatedAt: time.Unix(1<<32, 999_999_999), UpdatedBy: strings.Repeat("u", 255), Message: strings.Repeat("m", 1024), Secret: true,
	}
	page := driver.Page{NextPageToken: strings.Repeat("p", 2*config.MaxKey)}
	for range driver.MaxPageSize {
		page.Entries = append(page.Entries, entry)
	}
	if n := proto.Size(wire.ListResponse(page)); n > handshake.MaxMessage {
		t.Errorf("it has %d bytes, the limit is %d", n, handshake.MaxMessage)
	}
}
