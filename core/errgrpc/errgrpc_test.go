package errgrpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
)

func key(t *testing.T, s string) config.Key {
	t.Helper()
	k, err := config.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Every code survives the wire, however the error was wrapped on the way to it.
func TestRoundTripEveryCode(t *testing.T) {
	for _, code := range config.Codes() {
		full := &config.Error{
			Op: "local.Put", Key: key(t, "tenant_config_x"), Code: code, Message: "what is wrong",
			Hint: "how to mend it", Version: 7, RetryAfter: 250 * time.Millisecond,
		}
		for name, err := range map[string]error{
			"plain":   full,
			"wrapped": fmt.Errorf("around: %w", full),
			"joined":  errors.Join(errors.New("beside"), full),
			"caused":  full.WithCause(errors.New("secret cause")),
		} {
			t.Run(code.String()+"/"+name, func(t *testing.T) {
				var got *config.Error
				if !errors.As(errgrpc.FromError(errgrpc.ToStatus(err).Err()), &got) {
					t.Fatal("no config.Error came back")
				}
				got.Err = nil
				want := *full
				if diff := cmp.Diff(&want, got, cmp.AllowUnexported(config.Key{})); diff != "" {
					t.Errorf("round trip changed the error (-sent +received):\n%s", diff)
				}
				if !errors.Is(got, code) {
					t.Errorf("errors.Is(err, %v) is false", code)
				}
			})
		}
	}
}

func TestContextErrorsKeepTheirIdentity(t *testing.T) {
	for _, want := range []error{context.Canceled, context.DeadlineExceeded} {
		for name, err := range map[string]error{"ours": want, "wrapped": fmt.Errorf("x: %w", want), "grpc's own": status.FromContextError(want).Err()} {
			back := errgrpc.FromError(errgrpc.ToStatus(err).Err())
			if !errors.Is(back, want) {
				t.Errorf("%s %v came back as %v", name, want, back)
			}
		}
	}
}

func TestForeignStatusFallsBackToItsCode(t *testing.T) {
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		got := errgrpc.FromStatus(status.New(c, "from elsewhere"))
		if back := errgrpc.ToStatus(got).Code(); back != c {
			t.Errorf("%v became %v on the way back", c, back)
		}
	}
}

func TestCauseAndUnclassifiedTextNeverCross(t *testing.T) {
	const canary = "s3cr3t"
	for name, err := range map[string]error{
		"cause":        config.Errorf(config.Internal, "it broke").WithCause(errors.New(canary)),
		"unclassified": errors.New(canary),
		"peer's":       config.Errorf(config.Unavailable, "it is away").WithCause(status.Error(codes.Unavailable, canary)),
	} {
		raw, merr := proto.Marshal(errgrpc.ToStatus(err).Proto())
		if merr != nil {
			t.Fatal(merr)
		}
		if len(raw) == 0 || bytes.Contains(raw, []byte(canary)) {
			t.Errorf("%s: the canary crossed: %q", name, raw)
		}
	}
}

// A status of any bytes decodes to an error, never to nil or a panic.
func FuzzFromStatus(f *testing.F) {
	seed, _ := proto.Marshal(errgrpc.ToStatus(config.Errorf(config.Conflict, "x").WithVersion(3)).Proto())
	f.Add(seed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s spb.Status
		if proto.Unmarshal(raw, &s) != nil {
			return
		}
		e := errgrpc.FromStatus(status.FromProto(&s))
		if (e == nil) != (s.GetCode() == 0) {
			t.Fatalf("code %d decoded to %v", s.GetCode(), e)
		}
		if e != nil {
			_ = e.Error()
		}
	})
}
