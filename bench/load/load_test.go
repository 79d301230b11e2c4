package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// after waits, in the time of the bubble.
func after(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// One answer takes a second, all others a millisecond: with one caller at 100
// calls a second, the hundred calls that were due meanwhile waited for it, on
// average for half of it. A closed loop sees one slow call of a thousand.
func TestACallCountsFromWhenItWasDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int64
		r := openLoop(t.Context(), plan{rate: 100, calls: 1000, callers: 1, timeout: time.Minute}, func(ctx context.Context) error {
			if made.Add(1) == 500 {
				return after(ctx, time.Second)
			}
			return after(ctx, time.Millisecond)
		})
		if got := percentile(r.fromActual, 990); got != time.Millisecond {
			t.Errorf("the 99th percentile of a closed loop is %v, want 1ms", got)
		}
		if got := percentile(r.fromIntended, 990); got < 800*time.Millisecond || got > time.Second {
			t.Errorf("the 99th percentile is %v, want what the calls waited: nearly a second", got)
		}
		if got := percentile(r.fromIntended, 500); got != time.Millisecond {
			t.Errorf("the 50th percentile is %v, want 1ms: the backlog is worked off", got)
		}
	})
}

func TestTheRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openLoop(t.Context(), plan{rate: 1000, calls: 5000, callers: 64, timeout: time.Minute}, func(ctx context.Context) error {
			return after(ctx, 20*time.Millisecond) // which one caller could not keep up with
		})
		if r.took < 5*time.Second || r.took > 5020*time.Millisecond {
			t.Errorf("5,000 calls at 1,000 a second took %v", r.took)
		}
		if got := percentile(r.fromIntended, 1000); got != 20*time.Millisecond {
			t.Errorf("the slowest call is %v, want 20ms: none had to wait", got)
		}
	})
}

// Who takes a second for each of 100 calls a second has made ten of them in ten
// seconds, where it is cut off.
func TestLateCallsAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openLoop(t.Context(), plan{rate: 100, calls: 1000, callers: 1, timeout: time.Minute, cut: 10 * time.Second}, func(ctx context.Context) error {
			return after(ctx, time.Second)
		})
		if n := len(r.fromIntended); n != 10 || len(r.fromActual) != n || r.took != 10*time.Second || r.fromIntended[0] < time.Second {
			t.Errorf("%d calls in %v", n, r.took)
		}
	})
}

func TestFailedCallsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		var made atomic.Int64
		r := openLoop(t.Context(), plan{rate: 100, calls: 10, callers: 2, timeout: time.Second}, func(ctx context.Context) error {
			if made.Add(1) > 7 {
				return broken
			}
			return nil
		})
		if r.failed != 3 || !errors.Is(r.firstError, broken) {
			t.Errorf("%d calls failed, with %v, want 3", r.failed, r.firstError)
		}
	})
}

// server answers those that have the token.
type server struct {
	tagstorev1.UnimplementedConfigServiceServer
	asked atomic.Int64
}

func (s *server) Get(ctx context.Context, r *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
	in, _ := metadata.FromIncomingContext(ctx)
	if got := in.Get("authorization"); len(got) != 1 || got[0] != "Bearer token" {
		return nil, status.Error(codes.Unauthenticated, "no token")
	}
	s.asked.Add(1)
	return &tagstorev1.GetResponse{Entry: &tagstorev1.Entry{Key: r.GetKey()}}, nil
}

// serve serves until the test ends, and returns where.
func serve(t *testing.T, s tagstorev1.ConfigServiceServer) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving := grpc.NewServer()
	tagstorev1.RegisterConfigServiceServer(serving, s)
	served := make(chan error, 1)
	go func() { served <- serving.Serve(listener) }()
	t.Cleanup(func() {
		serving.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func TestLoadOverRealSockets(t *testing.T) {
	asked := &server{}
	args := []string{"-target", serve(t, asked), "-key", "tenant_config_a", "-rates", "200,400", "-duration", "100ms", "-conns", "2"}
	var out bytes.Buffer
	if err := run(t.Context(), args, "token", &out); err != nil {
		t.Fatal(err)
	}
	if got := asked.asked.Load(); got != 200+20+40 { // the warm-up, and both rates
		t.Errorf("%d calls were made, want 260", got)
	}
	for _, want := range []string{"BenchmarkLoad/rate=200-", "\t20\t", "BenchmarkLoad/rate=400-", "\t40\t", " p99.9-ns"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, &out)
		}
	}
	if err := run(t.Context(), args, "wrong", &out); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token it ends with %v", err)
	}
}

// Half of its batches are refused: with -refusable they are counted, without they
// have failed.
func TestRefusedCallsAreCounted(t *testing.T) {
	args := []string{"-target", serve(t, &refusing{}), "-key", "tenant_config_a", "-rates", "400", "-duration", "100ms", "-conns", "1", "-batch", "3"}
	var out bytes.Buffer
	if err := run(t.Context(), append(args, "-refusable"), "", &out); err != nil || !strings.Contains(out.String(), "\t0.5000 refused") {
		t.Errorf("%v, %s", err, &out)
	}
	if err := run(t.Context(), args, "", &out); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("without -refusable it ends with %v", err)
	}
}

// refusing refuses every other batch of three keys, and all others.
type refusing struct {
	tagstorev1.UnimplementedConfigServiceServer
	asked atomic.Int64
}

func (s *refusing) BatchGet(_ context.Context, r *tagstorev1.BatchGetRequest) (*tagstorev1.BatchGetResponse, error) {
	if s.asked.Add(1)%2 == 0 && len(r.GetKeys()) == 3 {
		return &tagstorev1.BatchGetResponse{}, nil
	}
	return nil, status.Error(codes.ResourceExhausted, "too much")
}

func TestWrongArgumentsAreRefused(t *testing.T) {
	for want, args := range map[string][]string{
		"name the key": {"-rates", "100"},
		`"0" is no ra`: {"-key", "a", "-rates", "100,0"},
		"above zero":   {"-key", "a", "-callers", "0"},
		"not below":    {"-key", "a", "-batch", "-1"},
	} {
		if err := run(t.Context(), args, "", &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with %q the error is %v, want %q", args, err, want)
		}
	}
}
