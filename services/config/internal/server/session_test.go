package server_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// patience is for what comes at once, but for a machine that is busy.
const patience = time.Minute

type sessionStream = grpc.BidiStreamingClient[tagstorev1.SessionRequest, tagstorev1.SessionResponse]

// session opens one and returns it with the number of calls that it takes at
// once.
func (f *fixture) session(ctx context.Context, t *testing.T, opts ...grpc.CallOption) (sessionStream, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	t.Cleanup(cancel)
	stream, err := f.config.Session(ctx, opts...)
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if first.GetOpened().GetMaxInFlight() < 16 || len(first.GetAnswers()) > 0 {
		t.Fatalf("the first response is %v", first)
	}
	return stream, int(first.GetOpened().GetMaxInFlight())
}

func getCall(id uint64, key string) *tagstorev1.SessionCall {
	return &tagstorev1.SessionCall{Id: id, Request: &tagstorev1.SessionCall_Get{Get: &tagstorev1.GetRequest{Key: key}}}
}

func ask(t *testing.T, stream sessionStream, calls ...*tagstorev1.SessionCall) {
	t.Helper()
	if err := stream.Send(&tagstorev1.SessionRequest{Calls: calls}); err != nil {
		t.Fatal(err)
	}
}

// answered returns the next n answers, by id.
func answered(t *testing.T, stream sessionStream, n int) map[uint64]*tagstorev1.SessionAnswer {
	t.Helper()
	got := map[uint64]*tagstorev1.SessionAnswer{}
	for len(got) < n {
		r, err := stream.Recv()
		if err != nil {
			t.Fatalf("%d of %d answers, then %v", len(got), n, err)
		}
		for _, a := range r.GetAnswers() {
			if got[a.GetId()] != nil {
				t.Fatalf("call %d is answered twice", a.GetId())
			}
			got[a.GetId()] = a
		}
	}
	if len(got) > n {
		t.Fatalf("%d answers, want %d", len(got), n)
	}
	return got
}

// sessionEnds reads a session to its end, in which nothing may be answered.
func sessionEnds(t *testing.T, stream sessionStream, want codes.Code) {
	t.Helper()
	r, err := stream.Recv()
	if status.Code(err) != want || r != nil {
		t.Errorf("the session goes on with %v, %v, want %v", r, err, want)
	}
}

// gated is a backend whose reads of some keys wait until they are let go.
type gated struct {
	*memdriver.Backend
	open    chan struct{}
	waiting sync.Map
}

func newGated(b *memdriver.Backend) *gated { return &gated{Backend: b, open: make(chan struct{})} }

func (g *gated) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	key := id.Key.String()
	if strings.Contains(key, "panic") {
		panic("s3cr3t")
	}
	if strings.Contains(key, "wait") {
		g.waiting.Store(key, true)
		defer g.waiting.Delete(key)
		select {
		case <-g.open:
		case <-ctx.Done():
			return config.Entry{}, ctx.Err()
		}
	}
	return g.Backend.Get(ctx, id, version)
}

func (g *gated) waits() (n int) {
	g.waiting.Range(func(any, any) bool { n++; return true })
	return n
}

// behindGate starts a server on such a backend.
func behindGate(t *testing.T, change ...func(*server.Options)) (*fixture, *gated) {
	t.Helper()
	g := newGated(memdriver.New())
	t.Cleanup(func() { _ = g.Close() })
	f := start(t, append([]func(*server.Options){func(o *server.Options) {
		o.Store = newStore(t, g, slog.New(slog.DiscardHandler))
	}}, change...)...)
	f.backend = g.Backend
	return f, g
}

// What a session answers is what a call of its own is answered, errors to the
// last byte.
func TestSessionAnswersAsGetDoes(t *testing.T) {
	f := start(t)
	f.put(t, tenantA, "tenant_config_x", `{"of":"acme"}`)
	f.put(t, tenantA, "tenant_config_x", `{"of":"acme","n":2}`)
	f.put(t, tenantA, "tenant_config_big", `"`+strings.Repeat("x", 300<<10)+`"`)
	f.put(t, tenantB, "tenant_config_b", `{"of":"globex"}`)
	backend := f.backend
	g := start(t, func(o *server.Options) { cached(t, backend, o) })
	one, zero := uint64(1), uint64(0)
	requests := []*tagstorev1.GetRequest{
		{Key: "tenant_config_x"},
		{Key: "tenant_config_x", Version: &one},
		{Key: "tenant_config_x", Version: &one, MinVersion: &one},
		{Key: "tenant_config_x", MinVersion: &zero},
		{Key: "tenant_config_x", Service: "order"},
		{Key: "tenant_config_x", Service: "No!"},
		{Key: "tenant_config_x", MaxStaleness: durationpb.New(0)},
		{Key: "tenant_config_x", MaxStaleness: durationpb.New(-1)},
		{Key: "tenant_config_big"},
		{Key: "tenant_config_none"},
		{Key: "tenant_config_b"},
		{Key: "nothing_x"},
		{Key: "tenant_config_../x"},
		{},
	}
	for name, f := range map[string]*fixture{"store": f, "memory": g} {
		t.Run(name, func(t *testing.T) {
			ctx := f.as(t, tenantA, auth.RoleReader)
			if name == "memory" {
				eventually(t, "from memory", func() bool {
					a, err := f.config.Get(ctx, &tagstorev1.GetRequest{Key: "tenant_config_x"})
					b, err2 := f.config.Get(ctx, &tagstorev1.GetRequest{Key: "tenant_config_big"})
					return err == nil && err2 == nil && a.GetFreshness().GetSource() == tagstorev1.Source_SOURCE_CACHE &&
						b.GetFreshness().GetSource() == tagstorev1.Source_SOURCE_CACHE
				})
			}
			stream, _ := f.session(ctx, t)
			var calls []*tagstorev1.SessionCall
			for i, r := range requests {
				calls = append(calls, &tagstorev1.SessionCall{Id: uint64(i + 1), Request: &tagstorev1.SessionCall_Get{Get: r}})
			}
			ask(t, stream, calls...)
			got := answered(t, stream, len(calls))
			for i, r := range requests {
				want, err := f.config.Get(ctx, r)
				a := got[uint64(i+1)]
				if err == nil {
					want.Freshness.Age, a.GetGet().GetFreshness().Age = nil, nil
					if !proto.Equal(want, a.GetGet()) {
						t.Errorf("%v (-call +session):\n%s", r, cmp.Diff(want, a.GetGet(), protocmp.Transform()))
					}
					continue
				}
				s := status.Convert(err).Proto()
				if diff := cmp.Diff(&tagstorev1.Status{Code: s.GetCode(), Message: s.GetMessage(), Details: s.GetDetails()}, a.GetError(), protocmp.Transform()); diff != "" {
					t.Errorf("%v (-call +session):\n%s", r, diff)
				}
			}
			// What a newer client may ask is refused by itself.
			last := uint64(len(calls))
			ask(t, stream, &tagstorev1.SessionCall{Id: last + 1}, getCall(last+2, "tenant_config_x"))
			got = answered(t, stream, 2)
			if c := codes.Code(got[last+1].GetError().GetCode()); c != codes.Unimplemented || got[last+2].GetGet() == nil {
				t.Errorf("got %v", got)
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err == nil || status.Code(err) != codes.Unknown || err.Error() != "EOF" {
				t.Errorf("after the last answer: %v, want the end", err)
			}
		})
	}
}

// Two tenants ask for the same keys over one connection, mixed, from memory and
// from the store: each is answered its own, and an answer says whose it is by the
// stream alone.
func TestSessionIsolation(t *testing.T) {
	f := start(t)
	backend := f.backend
	g := start(t, func(o *server.Options) { cached(t, backend, o) })
	const keys, rounds = 8, 25
	name := func(i int) string { return fmt.Sprintf("tenant_config_k%d", i%keys) }
	for i := range keys {
		if i%2 == 0 { // the others have only one of the two
			f.put(t, tenantA, name(i), `"`+tenantA+`"`)
		}
		f.put(t, tenantB, name(i), `"`+tenantB+`"`)
	}
	var work sync.WaitGroup
	for _, tenant := range []string{tenantA, tenantB} {
		stream, _ := g.session(g.as(t, tenant, auth.RoleReader), t)
		work.Go(func() {
			id := uint64(0)
			for range rounds {
				var calls []*tagstorev1.SessionCall
				for i := range keys {
					id++
					calls = append(calls, getCall(id, name(i)))
					if i%3 == 0 {
						calls[i].GetGet().MaxStaleness = durationpb.New(0) // past the memory
					}
				}
				if err := stream.Send(&tagstorev1.SessionRequest{Calls: calls}); err != nil {
					t.Error(err)
					return
				}
				for left := keys; left > 0; {
					r, err := stream.Recv()
					if err != nil {
						t.Error(err)
						return
					}
					left -= len(r.GetAnswers())
					for _, a := range r.GetAnswers() {
						i := int(a.GetId()-1) % keys
						missing := tenant == tenantA && i%2 == 1
						switch {
						case missing && codes.Code(a.GetError().GetCode()) != codes.NotFound,
							!missing && string(a.GetGet().GetEntry().GetValue()) != `"`+tenant+`"`,
							!missing && a.GetGet().GetEntry().GetKey() != name(i):
							t.Errorf("%s asked for %s and got %v", tenant, name(i), a)
						}
					}
				}
			}
		})
	}
	work.Wait()
}

// Each call of a session is counted and logged as a Get of its tenant, under the
// request id of its own or the stream's.
func TestSessionCallsAreLoggedAndCounted(t *testing.T) {
	meters := metric.NewManualReader()
	f := start(t, func(o *server.Options) { o.MeterProvider = metric.NewMeterProvider(metric.WithReader(meters)) })
	f.put(t, tenantA, "tenant_config_x", "1")
	stream, _ := f.session(metadata.AppendToOutgoingContext(f.as(t, tenantA, auth.RoleReader), "x-request-id", "stream-1"), t)
	chosen, bad := getCall(2, "tenant_config_none"), getCall(3, "tenant_config_x")
	chosen.RequestId, bad.RequestId = "mine-2", `","level":"ERROR`
	ask(t, stream, getCall(1, "tenant_config_x"), chosen, bad)
	answered(t, stream, 3)
	for _, want := range []string{
		`"code":"OK","duration_ms":`, `"request_id":"stream-1.1","tenant":"acme-corp"`, `"request_id":"mine-2","tenant":"acme-corp"`,
		`"request_id":"stream-1.3","tenant":"acme-corp"`, `"method":"/tagstore.v1.ConfigService/Get","code":"NotFound"`,
	} {
		if log := f.log.String(); !strings.Contains(log, want) {
			t.Errorf("the log has no %s: %s", want, log)
		}
	}
	var all metricdata.ResourceMetrics
	if err := meters.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	counted := map[string]uint64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if data, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Name == "rpc.server.call.duration" {
				for _, p := range data.DataPoints {
					method, _ := p.Attributes.Value("rpc.method")
					code, _ := p.Attributes.Value("rpc.response.status_code")
					counted[method.AsString()+" "+code.AsString()] = p.Count
				}
			}
		}
	}
	if counted["tagstore.v1.ConfigService/Get OK"] != 2 || counted["tagstore.v1.ConfigService/Get NOT_FOUND"] != 1 {
		t.Errorf("counted %v", counted)
	}
}

// An idle session ends at the moment its token does.
func TestSessionEndsWithItsToken(t *testing.T) {
	t.Parallel()
	f := start(t)
	token, err := f.issuer.ID(tenantA, subject, auth.RoleReader, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := f.config.Session(withToken(t.Context(), token))
	if err != nil {
		t.Fatal(err)
	}
	if code, err := sessionCode(stream); code != codes.Unauthenticated {
		t.Errorf("ended with %v", err)
	}
	again, _ := f.session(f.as(t, tenantA, auth.RoleReader), t)
	ask(t, again, getCall(1, "tenant_config_x"))
	answered(t, again, 1)
}

func sessionCode(stream sessionStream) (codes.Code, error) {
	for {
		if _, err := stream.Recv(); err != nil {
			return status.Code(err), err
		}
	}
}

// later is a real verifier that is made once the issuer is there.
type later struct{ atomic.Pointer[auth.Verifier] }

func (l *later) Verify(ctx context.Context, token string) (auth.Principal, error) {
	return l.Load().Verify(ctx, token)
}

// A call that comes when the token is no good any more is not begun, and those
// that were begun before are answered.
func TestSessionVerifiesItsTokenAgain(t *testing.T) {
	var ahead atomic.Int64 // of the verifier's clock
	var verifier later
	f, g := behindGate(t, func(o *server.Options) { o.Verifier = &verifier })
	v, err := auth.NewVerifier(auth.Options{
		Issuer: f.issuer.Issuer(), ClientIDs: []string{clientID}, JWKSURL: f.issuer.JWKSURL(), Logger: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	verifier.Store(v)
	f.put(t, tenantA, "tenant_config_wait1", "1")
	stream, _ := f.session(f.as(t, tenantA, auth.RoleReader), t)
	ask(t, stream, getCall(1, "tenant_config_wait1"))
	eventually(t, "the call waits", func() bool { return g.waits() == 1 })
	ahead.Store(int64(2 * time.Hour))
	ask(t, stream, getCall(2, "tenant_config_wait2"))
	other, err := f.config.Session(f.as(t, tenantA, auth.RoleReader))
	if err != nil {
		t.Fatal(err)
	}
	if code, err := sessionCode(other); code != codes.Unauthenticated {
		t.Errorf("another session with such a token: %v", err)
	}
	close(g.open)
	if got := answered(t, stream, 1)[1]; got.GetGet() == nil {
		t.Errorf("the call that was begun: %v", got)
	}
	sessionEnds(t, stream, codes.Unauthenticated)
}

// No more calls of a session are begun than it was told, and a place is free
// again once a call is answered.
func TestSessionBound(t *testing.T) {
	f, g := behindGate(t, func(o *server.Options) { o.Limits.SessionInFlight = 16 })
	f.put(t, tenantA, "tenant_config_x", "1")
	stream, bound := f.session(f.as(t, tenantA, auth.RoleReader), t)
	if bound != 16 {
		t.Fatalf("the bound is %d", bound)
	}
	id := uint64(0)
	for range bound {
		id++
		ask(t, stream, getCall(id, fmt.Sprintf("tenant_config_wait%d", id)))
	}
	eventually(t, "all wait", func() bool { return g.waits() == bound })
	id++
	ask(t, stream, getCall(id, "tenant_config_x"))
	got := answered(t, stream, 1)[id]
	if codes.Code(got.GetError().GetCode()) != codes.ResourceExhausted || !strings.Contains(got.GetError().GetMessage(), "16") {
		t.Errorf("beyond the bound: %v", got)
	}
	close(g.open)
	answered(t, stream, bound)
	id++
	ask(t, stream, getCall(id, "tenant_config_x"))
	if got := answered(t, stream, 1)[id]; got.GetGet() == nil {
		t.Errorf("with room again: %v", got)
	}
}

// A call ends when its client says so or its time is up, and no other with it.
func TestSessionCancelAndDeadline(t *testing.T) {
	f, g := behindGate(t)
	stream, _ := f.session(f.as(t, tenantA, auth.RoleReader), t)
	short := getCall(2, "tenant_config_wait2")
	short.TimeoutUs = 20_000
	ask(t, stream, getCall(1, "tenant_config_wait1"), short, getCall(3, "tenant_config_wait3"))
	if got := answered(t, stream, 1)[2]; codes.Code(got.GetError().GetCode()) != codes.DeadlineExceeded {
		t.Errorf("with its time up: %v", got)
	}
	eventually(t, "the others wait", func() bool { return g.waits() == 2 })
	// Of ids that are answered or never were nothing is known.
	if err := stream.Send(&tagstorev1.SessionRequest{Cancel: []uint64{2, 3, 99, 0, 1 << 63}}); err != nil {
		t.Fatal(err)
	}
	if got := answered(t, stream, 1)[3]; codes.Code(got.GetError().GetCode()) != codes.Canceled {
		t.Errorf("cancelled: %v", got)
	}
	f.put(t, tenantA, "tenant_config_wait1", "1")
	close(g.open)
	if got := answered(t, stream, 1)[1]; got.GetGet() == nil {
		t.Errorf("the other: %v", got)
	}
}

// A client that is gone ends its calls.
func TestVanishedSession(t *testing.T) {
	f, g := behindGate(t)
	ctx, cancel := context.WithCancel(f.as(t, tenantA, auth.RoleReader))
	stream, _ := f.session(ctx, t)
	ask(t, stream, getCall(1, "tenant_config_wait1"), getCall(2, "tenant_config_wait2"))
	eventually(t, "both wait", func() bool { return g.waits() == 2 })
	cancel()
	eventually(t, "none waits", func() bool { return g.waits() == 0 })
}

// A panic is one call's.
func TestSessionPanic(t *testing.T) {
	f, _ := behindGate(t)
	f.put(t, tenantA, "tenant_config_x", "1")
	stream, _ := f.session(f.as(t, tenantA, auth.RoleReader), t)
	ask(t, stream, getCall(1, "tenant_config_panic"), getCall(2, "tenant_config_x"))
	got := answered(t, stream, 2)
	if codes.Code(got[1].GetError().GetCode()) != codes.Internal || strings.Contains(got[1].String(), "s3cr3t") || got[2].GetGet() == nil {
		t.Errorf("got %v", got)
	}
}

// Draining waits for what was begun, begins nothing more, and says so at the end.
func TestSessionDrains(t *testing.T) {
	f, g := behindGate(t)
	f.put(t, tenantA, "tenant_config_wait1", "1")
	stream, _ := f.session(f.as(t, tenantA, auth.RoleReader), t)
	idle, _ := f.session(f.as(t, tenantA, auth.RoleReader), t)
	ask(t, stream, getCall(1, "tenant_config_wait1"))
	eventually(t, "the call waits", func() bool { return g.waits() == 1 })
	drained := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		defer close(drained)
		f.server.Drain(ctx)
	}()
	sessionEnds(t, idle, codes.Unavailable) // so it drains
	ask(t, stream, getCall(2, "tenant_config_wait2"))
	close(g.open)
	if got := answered(t, stream, 1)[1]; got.GetGet() == nil {
		t.Errorf("the call that was begun: %v", got)
	}
	sessionEnds(t, stream, codes.Unavailable)
	<-drained
	if ctx.Err() != nil {
		t.Error("draining took its whole time")
	}
}

// A client that does not read is answered no more than the windows hold, loses
// its session, and holds up nobody else.
func TestSlowSessionIsEnded(t *testing.T) {
	f := start(t)
	backend := f.backend
	g := start(t, func(o *server.Options) {
		cached(t, backend, o)
		o.Limits.SendTimeout = time.Second
	})
	f.put(t, tenantA, "tenant_config_s", strings.Repeat("x", 256<<10))
	ctx := g.as(t, tenantA, auth.RoleReader)
	eventually(t, "from memory", func() bool {
		a, err := g.config.Get(ctx, &tagstorev1.GetRequest{Key: "tenant_config_s"})
		return err == nil && a.GetFreshness().GetSource() == tagstorev1.Source_SOURCE_CACHE
	})
	slow, bound := g.session(ctx, t)
	// They are more than there is room for on the way, so this ends with the session.
	sent := make(chan uint64)
	go func() {
		id := uint64(0)
		for slow.Send(&tagstorev1.SessionRequest{Calls: []*tagstorev1.SessionCall{getCall(id+1, "tenant_config_s")}}) == nil {
			id++
		}
		sent <- id
	}()
	quick, _ := g.session(ctx, t)
	ask(t, quick, getCall(1, "tenant_config_s"))
	answered(t, quick, 1)
	eventually(t, "the session is given up", func() bool { return strings.Contains(g.log.String(), `"code":"ResourceExhausted"`) })
	begun := strings.Count(g.log.String(), `"method":"/tagstore.v1.ConfigService/Get","code":"OK"`)
	if code, err := sessionCode(slow); code != codes.ResourceExhausted {
		t.Errorf("ended with %v", err)
	}
	if n := <-sent; n <= uint64(2*bound) || begun > bound {
		t.Errorf("%d calls were sent and %d begun for a client that does not read, where %d may be begun at once", n, begun, bound)
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{ encoding.CodecV2 }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// What breaks the protocol ends its session, with what is wrong and how to mend
// it, and nothing else.
func TestHostileSessions(t *testing.T) {
	f := start(t)
	f.put(t, tenantA, "tenant_config_x", "1")
	encoded := func(r *tagstorev1.SessionRequest) []byte {
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	calls := func(ids ...uint64) []byte {
		r := &tagstorev1.SessionRequest{}
		for _, id := range ids {
			r.Calls = append(r.Calls, getCall(id, "tenant_config_x"))
		}
		return encoded(r)
	}
	random := func(seed uint64, n int) []byte {
		source := rand.NewChaCha8([32]byte{byte(seed), 1})
		b := make([]byte, n)
		_, _ = source.Read(b)
		return b
	}
	unknown := protowire.AppendBytes(protowire.AppendTag(calls(1), 99, protowire.BytesType), []byte("later"))
	for name, c := range map[string]struct {
		frames [][]byte
		want   codes.Code // OK: it goes on
	}{
		"random":              {[][]byte{random(1, 1000)}, codes.InvalidArgument},
		"random and long":     {[][]byte{random(2, 1<<20)}, codes.InvalidArgument},
		"behind a good one":   {[][]byte{calls(1), random(3, 10)}, codes.InvalidArgument},
		"cut off":             {[][]byte{calls(1)[:10]}, codes.InvalidArgument},
		"id 0":                {[][]byte{calls(0)}, codes.InvalidArgument},
		"id again":            {[][]byte{calls(5), calls(5)}, codes.InvalidArgument},
		"id again in one":     {[][]byte{calls(5, 5)}, codes.InvalidArgument},
		"id going back":       {[][]byte{calls(5, 4)}, codes.InvalidArgument},
		"a million calls":     {[][]byte{bytes.Repeat([]byte{1<<3 | 2, 0}, 1_000_000)}, codes.InvalidArgument},
		"a million cancelled": {[][]byte{encoded(&tagstorev1.SessionRequest{Cancel: make([]uint64, 1_000_000)})}, codes.InvalidArgument},
		"the same, unpacked":  {[][]byte{bytes.Repeat([]byte{2 << 3, 1}, 1_000_000)}, codes.InvalidArgument},
		"too large":           {[][]byte{make([]byte, 5<<20)}, codes.ResourceExhausted},
		"nothing":             {[][]byte{{}, {}, {}}, codes.OK},
		"unknown field":       {[][]byte{unknown}, codes.OK},
		"the greatest id":     {[][]byte{calls(1<<64 - 1)}, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			stream, _ := f.session(f.as(t, tenantA, auth.RoleReader), t, grpc.ForceCodecV2(rawCodec{encoding.GetCodecV2(encodingproto.Name)}))
			for _, frame := range c.frames {
				_ = stream.SendMsg(frame) // the session may have ended
			}
			if c.want == codes.OK {
				if err := stream.CloseSend(); err != nil {
					t.Fatal(err)
				}
				if _, err := sessionCode(stream); err.Error() != "EOF" {
					t.Errorf("ended with %v", err)
				}
				return
			}
			if code, err := sessionCode(stream); code != c.want {
				t.Errorf("ended with %v", err)
			}
		})
	}
	stream, _ := f.session(f.as(t, tenantA, auth.RoleReader), t)
	ask(t, stream, getCall(1, "tenant_config_x"))
	answered(t, stream, 1)
}

// A tenant's sessions are bounded, and take no place of its watches.
func TestSessionQuota(t *testing.T) {
	f := start(t, func(o *server.Options) { o.Limits.WatchesPerTenant = 1 })
	ctx, cancel := context.WithCancel(f.as(t, tenantA, auth.RoleReader))
	f.session(ctx, t)
	second, err := f.config.Session(f.as(t, tenantA, auth.RoleReader))
	if err != nil {
		t.Fatal(err)
	}
	if code, err := sessionCode(second); code != codes.ResourceExhausted {
		t.Errorf("the second: %v", err)
	}
	expectEvents(t, f.watch(t, f.as(t, tenantA, auth.RoleReader), "tenant_config_q", ""), "sync")
	f.session(f.as(t, tenantB, auth.RoleReader), t)
	cancel()
	eventually(t, "its place is free again", func() bool {
		stream, err := f.config.Session(f.as(t, tenantA, auth.RoleReader))
		if err != nil {
			return false
		}
		_, err = stream.Recv()
		return err == nil
	})
}
