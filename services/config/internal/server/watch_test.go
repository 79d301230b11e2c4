package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tagstore/tagstore/core/auth"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

type watchStream = grpc.ServerStreamingClient[tagstorev1.WatchResponse]

func (f *fixture) watch(t *testing.T, ctx context.Context, prefix, token string) watchStream { //nolint:revive // t first, as everywhere in tests
	t.Helper()
	stream, err := f.config.Watch(ctx, &tagstorev1.WatchRequest{KeyPrefix: prefix, ResumeToken: token})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// describe shows what an event says, as "put key=value".
func describe(e *tagstorev1.WatchResponse) string {
	switch {
	case e.GetPut() != nil:
		return fmt.Sprintf("put %s=%s", e.GetPut().GetKey(), e.GetPut().GetValue())
	case e.GetDelete() != nil:
		return fmt.Sprintf("delete %s", e.GetDelete().GetKey())
	case e.GetSync() != nil:
		return "sync"
	case e.GetHeartbeat() != nil:
		return "heartbeat"
	case e.GetGap() != nil:
		return "gap"
	case e.GetSourceDown() != nil:
		return "source down"
	case e.GetSourceUp() != nil:
		return "source up"
	default:
		return "nothing"
	}
}

// expectEvents takes that many events, heartbeats apart, and returns the last
// resume token.
func expectEvents(t *testing.T, stream watchStream, want ...string) (token string) {
	t.Helper()
	for _, w := range want {
		for {
			e, err := stream.Recv()
			if err != nil {
				t.Fatalf("waiting for %q: %v", w, err)
			}
			if e.GetResumeToken() == "" {
				t.Fatalf("%q has no resume token", describe(e))
			}
			token = e.GetResumeToken()
			if got := describe(e); got == w {
				break
			} else if got != "heartbeat" {
				t.Fatalf("got %q, want %q", got, w)
			}
		}
	}
	return token
}

// ended returns the code that the stream ends with, and what came before.
func ended(stream watchStream) (codes.Code, error) {
	for {
		if _, err := stream.Recv(); err != nil {
			return status.Code(err), err
		}
	}
}

func TestWatch(t *testing.T) {
	f := start(t)
	const prefix = "tenant_config_w"
	f.put(t, tenantA, prefix+"1", "1")
	f.put(t, tenantA, prefix+"2", "2")
	f.put(t, tenantB, prefix+"1", "foreign")
	ctx, cancel := context.WithCancel(f.as(t, tenantA, auth.RoleReader))
	defer cancel()
	stream := f.watch(t, ctx, prefix, "")
	expectEvents(t, stream, "put "+prefix+"1=1", "put "+prefix+"2=2", "sync")
	f.put(t, tenantB, prefix+"2", "foreign")
	f.put(t, tenantA, prefix+"2", "22")
	token := expectEvents(t, stream, "put "+prefix+"2=22")
	f.remove(t, tenantA, prefix+"1")
	expectEvents(t, stream, "delete "+prefix+"1")
	cancel()
	if code, err := ended(stream); code != codes.Canceled {
		t.Errorf("ended with %v", err)
	}

	// A token goes on behind its own event, in order, with nothing lost.
	f.put(t, tenantA, prefix+"3", "3")
	again := f.watch(t, f.as(t, tenantA, auth.RoleEditor), prefix, token)
	expectEvents(t, again, "delete "+prefix+"1", "put "+prefix+"3=3", "sync")
}

func TestWatchHeartbeat(t *testing.T) {
	f := start(t, func(o *server.Options) { o.Limits.Heartbeat = 20 * time.Millisecond })
	f.put(t, tenantA, "tenant_config_h", "1")
	ctx, cancel := context.WithCancel(f.as(t, tenantA, auth.RoleReader))
	defer cancel()
	stream := f.watch(t, ctx, "tenant_config_h", "")
	expectEvents(t, stream, "put tenant_config_h=1", "sync")
	var token string
	for range 3 {
		e, err := stream.Recv()
		if err != nil || describe(e) != "heartbeat" || e.GetResumeToken() == "" {
			t.Fatalf("%v, %v", e, err)
		}
		token = e.GetResumeToken()
	}
	f.put(t, tenantA, "tenant_config_h", "2")
	expectEvents(t, f.watch(t, ctx, "tenant_config_h", token), "put tenant_config_h=2", "sync")
}

// An idle stream ends at the moment its token does, whatever the token allowed
// before.
func TestWatchEndsWithItsToken(t *testing.T) {
	f := start(t)
	token, err := f.issuer.ID(tenantA, subject, auth.RoleReader, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	stream := f.watch(t, withToken(t.Context(), token), "tenant_config_e", "")
	expectEvents(t, stream, "sync")
	began := time.Now()
	if code, err := ended(stream); code != codes.Unauthenticated {
		t.Errorf("ended with %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("ended after %v", took)
	}
}

func TestWatchRefusals(t *testing.T) {
	f := start(t)
	f.put(t, tenantA, "tenant_config_r", "1")
	mine := expectEvents(t, f.watch(t, f.as(t, tenantA, auth.RoleReader), "tenant_config_r", ""), "put tenant_config_r=1", "sync")
	flipped := []byte(mine)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct{ tenant, prefix, service, token string }{
		"no route":         {tenantA, "nothing_", "", ""},
		"no prefix":        {tenantA, "", "", ""},
		"several routes":   {tenantA, "p", "", ""},
		"dots":             {tenantA, "tenant_config_x/../y", "", ""},
		"pattern":          {tenantA, "tenant_config_*", "", ""},
		"made-up token":    {tenantA, "tenant_config_r", "", "bm9wZQ"},
		"not base64":       {tenantA, "tenant_config_r", "", "§§§"},
		"huge token":       {tenantA, "tenant_config_r", "", strings.Repeat("A", 64<<10)},
		"flipped token":    {tenantA, "tenant_config_r", "", string(flipped)},
		"others' token":    {tenantB, "tenant_config_r", "", mine},
		"other prefix":     {tenantA, "tenant_config_", "", mine},
		"other service":    {tenantA, "tenant_config_r", "order", mine},
		"service not one":  {tenantA, "tenant_config_r", "Order!", ""},
		"service of dots":  {tenantA, "tenant_config_r", "..", ""},
		"shared as tenant": {tenantA, "tenant_config_r", "_shared", ""},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := f.config.Watch(f.as(t, c.tenant, auth.RoleReader),
				&tagstorev1.WatchRequest{KeyPrefix: c.prefix, Service: c.service, ResumeToken: c.token})
			if err != nil {
				t.Fatal(err)
			}
			e, err := stream.Recv()
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("got %v, %v", e, err)
			}
		})
	}
}

func TestWatchQuotas(t *testing.T) {
	for name, c := range map[string]struct {
		perTenant, perConnection int
		says                     string
	}{
		"tenant":     {2, 100, "tenant"},
		"connection": {100, 2, "connection"},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, func(o *server.Options) {
				o.Limits.WatchesPerTenant, o.Limits.StreamsPerConnection = c.perTenant, c.perConnection
			})
			ctx, cancel := context.WithCancel(f.as(t, tenantA, auth.RoleReader))
			defer cancel()
			for range 2 {
				expectEvents(t, f.watch(t, ctx, "tenant_config_q", ""), "sync")
			}
			_, err := f.watch(t, ctx, "tenant_config_q", "").Recv()
			if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), tenantA) {
				t.Fatalf("the third stream: %v", err)
			}
			// It is nobody else's limit.
			other := tagstorev1.NewConfigServiceClient(f.dial(t, insecure.NewCredentials()))
			stream, err := other.Watch(f.as(t, tenantB, auth.RoleReader), &tagstorev1.WatchRequest{KeyPrefix: "tenant_config_q"})
			if err != nil {
				t.Fatal(err)
			}
			expectEvents(t, stream, "sync")
			// What ends is given back.
			cancel()
			eventually(t, "only the other tenant has streams", func() bool {
				conns, tenants := f.server.OpenStreams()
				return conns == 1 && tenants == 1
			})
			expectEvents(t, f.watch(t, f.as(t, tenantA, auth.RoleReader), "tenant_config_q", ""), "sync")
		})
	}
}

// A client that does not read holds up nobody but itself, and not for ever.
func TestSlowWatchIsEnded(t *testing.T) {
	f := start(t, func(o *server.Options) { o.Limits.SendTimeout = time.Second }) // which the quick ones keep on a busy machine
	slow := f.watch(t, f.as(t, tenantA, auth.RoleReader), "tenant_config_s", "")
	expectEvents(t, slow, "sync")
	quick := f.watch(t, f.as(t, tenantA, auth.RoleReader), "tenant_config_s", "")
	expectEvents(t, quick, "sync")
	// Far more than the flow control windows hold.
	value := strings.Repeat("x", 256<<10)
	for range 16 {
		f.put(t, tenantA, "tenant_config_s", value)
		expectEvents(t, quick, "put tenant_config_s="+value)
	}
	eventually(t, "the slow stream is given up", func() bool {
		return strings.Contains(f.log.String(), `"code":"ResourceExhausted"`)
	})
	var last string
	for {
		e, err := slow.Recv()
		if err == nil {
			last = e.GetResumeToken()
			continue
		}
		if status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("the slow stream ended with %v", err)
		}
		break
	}
	// From its last token it goes on and ends up where the others are.
	again := f.watch(t, f.as(t, tenantA, auth.RoleReader), "tenant_config_s", last)
	for {
		e, err := again.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.GetSync() != nil {
			break
		}
	}
}

// Draining ends every stream so that its client resumes elsewhere, probes
// included, and is over at once then.
func TestDrainEndsStreams(t *testing.T) {
	f := start(t)
	stream := f.watch(t, f.as(t, tenantA, auth.RoleReader), "tenant_config_d", "")
	expectEvents(t, stream, "sync")
	probe, err := healthv1.NewHealthClient(f.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := probe.Recv(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	f.server.Drain(ctx)
	if ctx.Err() != nil {
		t.Error("draining took its whole time")
	}
	if code, err := ended(stream); code != codes.Unavailable {
		t.Errorf("the watch ended with %v", err)
	}
	for {
		if _, err := probe.Recv(); err != nil {
			if status.Code(err) != codes.Unavailable {
				t.Errorf("the probe ended with %v", err)
			}
			break
		}
	}
	if conns, tenants := f.server.OpenStreams(); conns != 0 || tenants != 0 {
		t.Errorf("%d connections and %d tenants still hold streams", conns, tenants)
	}
}

// Clients that vanish leave nothing behind.
func TestVanishedClients(t *testing.T) {
	f := start(t)
	for range 5 {
		conn := f.dial(t, insecure.NewCredentials())
		stream, err := tagstorev1.NewConfigServiceClient(conn).Watch(f.as(t, tenantA, auth.RoleReader), &tagstorev1.WatchRequest{KeyPrefix: "tenant_config_v"})
		if err != nil {
			t.Fatal(err)
		}
		expectEvents(t, stream, "sync")
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("a closed connection still has a stream: %v", err)
		}
	}
	eventually(t, "no streams are left", func() bool {
		conns, tenants := f.server.OpenStreams()
		return conns == 0 && tenants == 0
	})
}

// The header with the request id comes with the first message, not the last.
func TestWatchRequestID(t *testing.T) {
	f := start(t)
	ctx := metadata.AppendToOutgoingContext(f.as(t, tenantA, auth.RoleReader), "x-request-id", "watch-1")
	stream := f.watch(t, ctx, "tenant_config_i", "")
	expectEvents(t, stream, "sync")
	header, err := stream.Header()
	if got := header.Get("x-request-id"); err != nil || len(got) != 1 || got[0] != "watch-1" {
		t.Errorf("got %v, %v", got, err)
	}
}
