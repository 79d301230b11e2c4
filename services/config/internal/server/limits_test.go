package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// The numbers are part of what the service promises its operators.
func TestDefaultLimits(t *testing.T) {
	want := server.Limits{
		MaxReceive: 4 << 20, MaxSend: 16 << 20, MaxHeaders: 16 << 10, MaxStreams: 250, ConnectTimeout: 5 * time.Second,
		KeepaliveMin: 10 * time.Second, MaxConnectionAge: 10 * time.Minute, ConnectionGrace: 30 * time.Second,
		KeepaliveInterval: 30 * time.Second, KeepaliveTimeout: 10 * time.Second, UnaryCap: 30 * time.Second,
		WatchesPerTenant: 100, StreamsPerConnection: 200, RefreshesPerTenant: 50, RefreshBurst: 100, TenantBurst: 1000, SessionInFlight: 128, Heartbeat: 5 * time.Second, SendTimeout: 10 * time.Second,
	}
	if got := server.DefaultLimits(); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestRequestSize(t *testing.T) {
	f := start(t)
	ctx := f.as(t, tenantA, auth.RoleEditor)
	_, err := f.config.Put(ctx, &tagstorev1.PutRequest{Key: "tenant_config_big", Value: make([]byte, 4<<20)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request of more than 4 MiB: %v", err)
	}
	if got := f.history(t, tenantA, "tenant_config_big"); got != "none" {
		t.Errorf("%s versions were stored", got)
	}
}

// stuck is a backend whose reads wait for their context.
type stuck struct{ *memdriver.Backend }

func (s stuck) Get(ctx context.Context, _ config.ID, _ uint64) (config.Entry, error) {
	<-ctx.Done()
	return config.Entry{}, ctx.Err()
}

func TestUnaryCallsAreCapped(t *testing.T) {
	backend := stuck{memdriver.New()}
	t.Cleanup(func() { _ = backend.Close() })
	f := start(t, func(o *server.Options) {
		o.Limits.UnaryCap = 50 * time.Millisecond
		o.Store = newStore(t, backend, slog.New(slog.DiscardHandler))
	})
	_, err := f.config.Get(f.as(t, tenantA, auth.RoleReader), &tagstorev1.GetRequest{Key: "tenant_config_x"})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("without a deadline of its own: %v", err)
	}
}

// raw is a connection that speaks HTTP/2 frame by frame.
type raw struct {
	conn   net.Conn
	framer *http2.Framer
}

func (f *fixture) raw(t *testing.T) raw {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return raw{conn, http2.NewFramer(conn, conn)}
}

func (r raw) greet(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(r.conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := r.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
}

// next returns the next frame for which want is true.
func (r raw) next(t *testing.T, what string, want func(http2.Frame) bool) http2.Frame {
	t.Helper()
	for {
		frame, err := r.framer.ReadFrame()
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		if want(frame) {
			return frame
		}
	}
}

func (r raw) goAway(t *testing.T) *http2.GoAwayFrame {
	t.Helper()
	return r.next(t, "GOAWAY", func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok }).(*http2.GoAwayFrame)
}

func TestConnectionLimitsAreAnnounced(t *testing.T) {
	r := start(t).raw(t)
	r.greet(t)
	frame := r.next(t, "SETTINGS", func(f http2.Frame) bool { _, ok := f.(*http2.SettingsFrame); return ok })
	settings := frame.(*http2.SettingsFrame)
	for id, want := range map[http2.SettingID]uint32{http2.SettingMaxConcurrentStreams: 250, http2.SettingMaxHeaderListSize: 16 << 10} {
		if got, ok := settings.Value(id); !ok || got != want {
			t.Errorf("%v is %d, want %d", id, got, want)
		}
	}
}

// Metadata over the limit does not reach a handler, whatever the client makes
// of the announced limit.
func TestHeaderSize(t *testing.T) {
	for name, c := range map[string]struct {
		filler  int
		reaches bool
	}{
		"below": {14 << 10, true},
		"above": {17 << 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			r := f.raw(t)
			r.greet(t)
			r.call(t, hpack.HeaderField{Name: "filler", Value: strings.Repeat("~", c.filler)})
			// The refusal may be a reset of the stream or the end of the
			// connection; an answer is neither.
			answered := false
			for {
				frame, err := r.framer.ReadFrame()
				if err != nil {
					break
				}
				kind := frame.Header().Type
				answered = kind == http2.FrameHeaders
				if answered || kind == http2.FrameRSTStream || kind == http2.FrameGoAway {
					break
				}
			}
			if logged := strings.Contains(f.log.String(), `"msg":"call"`); answered != c.reaches || logged != c.reaches {
				t.Errorf("answered %t, reached the interceptors %t, want %t", answered, logged, c.reaches)
			}
		})
	}
}

// A path without its slash is no method, and reaches no handler: what allows
// methods by their paths compares with the slash.
func TestPathWithoutItsSlash(t *testing.T) {
	f := start(t)
	r := f.raw(t)
	r.greet(t)
	r.send(t, 1, strings.TrimPrefix(configService, "/")+"Watch", hpack.HeaderField{Name: "authorization", Value: "Bearer " + f.token(t, tenantA, auth.RoleAdmin)})
	frame := r.next(t, "an answer", func(f http2.Frame) bool {
		return f.Header().Type == http2.FrameHeaders || f.Header().Type == http2.FrameRSTStream
	})
	if headers, ok := frame.(*http2.HeadersFrame); ok {
		fields, err := hpack.NewDecoder(4096, nil).DecodeFull(headers.HeaderBlockFragment())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(fields, func(h hpack.HeaderField) bool {
			return h.Name == "grpc-status" && h.Value == fmt.Sprint(int(codes.Unimplemented))
		}) {
			t.Errorf("got %v", fields)
		}
	}
	if strings.Contains(f.log.String(), `"msg":"call"`) {
		t.Error("it reached the interceptors")
	}
}

// Streams that are opened and reset at once, over and over, leave nothing behind
// and hold up nobody else.
func TestRapidReset(t *testing.T) {
	f := start(t)
	r := f.raw(t)
	r.greet(t)
	// What the server answers has to be read, or it would wait for this client.
	read := make(chan struct{})
	go func() { defer close(read); _, _ = io.Copy(io.Discard, r.conn) }()
	for i := range uint32(5000) {
		r.send(t, 2*i+1, configService+"Watch")
		if err := r.framer.WriteRSTStream(2*i+1, http2.ErrCodeCancel); err != nil {
			break // the server has had enough of it
		}
	}
	if _, err := f.config.Get(f.as(t, tenantB, auth.RoleReader), &tagstorev1.GetRequest{Key: "tenant_config_x"}); status.Code(err) != codes.NotFound {
		t.Errorf("another client gets %v", err)
	}
	_ = r.conn.Close() // it may have been closed
	<-read
	eventually(t, "no streams are left", func() bool {
		conns, tenants := f.server.OpenStreams()
		return conns == 0 && tenants == 0
	})
}

// call sends a Watch without a message on stream 1, with one more header.
func (r raw) call(t *testing.T, extra hpack.HeaderField) {
	t.Helper()
	r.send(t, 1, configService+"Watch", extra)
}

// send begins a call without a message.
func (r raw) send(t *testing.T, stream uint32, path string, extra ...hpack.HeaderField) {
	t.Helper()
	var block strings.Builder
	encoder := hpack.NewEncoder(&block)
	for _, h := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: path},
		{Name: ":authority", Value: "x"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
	}, extra...) {
		if err := encoder.WriteField(h); err != nil {
			t.Fatal(err)
		}
	}
	const frame = 8 << 10
	text := block.String()
	first := text[:min(frame, len(text))]
	err := r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte(first), EndHeaders: len(first) == len(text)})
	for text = text[len(first):]; err == nil && text != ""; {
		next := text[:min(frame, len(text))]
		text = text[len(next):]
		err = r.framer.WriteContinuation(stream, text == "", []byte(next))
	}
	// The server may hang up before it has all of it: what it answers tells.
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
}

func TestSilentConnectionIsClosed(t *testing.T) {
	f := start(t, func(o *server.Options) { o.Limits.ConnectTimeout = 100 * time.Millisecond })
	for name, say := range map[string]string{"nothing": "", "half a preface": http2.ClientPreface[:10]} {
		r := f.raw(t)
		if _, err := io.WriteString(r.conn, say); err != nil {
			t.Fatal(err)
		}
		// The server may have sent its own settings before it gives up.
		if _, err := io.Copy(io.Discard, r.conn); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("after saying %s: %v", name, err)
		}
	}
}

func TestPingFloodIsCutOff(t *testing.T) {
	r := start(t).raw(t)
	r.greet(t)
	for range 8 {
		if err := r.framer.WritePing(false, [8]byte{1}); err != nil {
			break // cut off already
		}
	}
	if got := r.goAway(t).ErrCode; got != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("GOAWAY with %v", got)
	}
}

func TestOldConnectionIsSentAway(t *testing.T) {
	f := start(t, func(o *server.Options) { o.Limits.MaxConnectionAge = 50 * time.Millisecond })
	r := f.raw(t)
	r.greet(t)
	if got := r.goAway(t).ErrCode; got != http2.ErrCodeNo {
		t.Errorf("GOAWAY with %v", got)
	}
}

// A compressed request does not get around the size limit: no decompressor is
// linked at all.
func TestNoCompression(t *testing.T) {
	f := start(t)
	ctx := f.as(t, tenantA, auth.RoleReader)
	err := f.conn.Invoke(ctx, configService+"Get", &tagstorev1.GetRequest{Key: "tenant_config_x"}, &tagstorev1.GetResponse{},
		grpc.UseCompressor("gzip"))
	if err == nil {
		t.Error("a gzip request was answered")
	}
}
