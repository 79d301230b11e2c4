package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

type watchStream = grpc.ServerStreamingServer[tagstorev1.WatchResponse]

func send(stream watchStream, token string, event *tagstorev1.WatchResponse) error {
	event.ResumeToken = token
	return stream.Send(event)
}

func put(k string) *tagstorev1.WatchResponse {
	return &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Put{Put: &tagstorev1.Entry{Key: k}}}
}

func del(k string) *tagstorev1.WatchResponse {
	return &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Delete{Delete: &tagstorev1.Entry{Key: k, Deleted: true}}}
}

func sync() *tagstorev1.WatchResponse {
	return &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Sync{Sync: &tagstorev1.WatchSync{}}}
}

func heartbeat() *tagstorev1.WatchResponse {
	return &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Heartbeat{Heartbeat: &tagstorev1.WatchHeartbeat{}}}
}

// script serves one stream per step list, told apart by the resume token that
// it is asked for; it ends the stream with the step's error.
func script(steps map[string]func(watchStream) error) *service {
	return &service{watch: func(r *tagstorev1.WatchRequest, stream watchStream) error {
		run, ok := steps[r.GetResumeToken()]
		if !ok {
			return config.Errorf(config.InvalidArgument, "unexpected resume token %q", r.GetResumeToken())
		}
		return run(stream)
	}}
}

func all(steps ...error) error { return errors.Join(steps...) }

func TestWatchResumesBehindTheLastEvent(t *testing.T) {
	c := connect(t, script(map[string]func(watchStream) error{
		"": func(s watchStream) error {
			return all(send(s, "t0", put("p_a")), send(s, "t1", sync()), send(s, "t2", put("p_b")), status.Error(codes.Unavailable, "going away"))
		},
		"t2": func(s watchStream) error { // ends without an error, as a drained server may
			return all(send(s, "t2", sync()), send(s, "t3", del("p_a")), send(s, "t4", heartbeat()))
		},
		"t4": func(s watchStream) error {
			return all(send(s, "t5", put("p_c")), config.Errorf(config.OutOfRange, "compacted"))
		},
	}))
	var got []string
	var breaks int
	err := c.Watch(t.Context(), client.WatchRequest{KeyPrefix: "p_", OnRetry: func(err error, _ time.Duration) {
		if !errors.Is(err, config.Unavailable) {
			t.Errorf("OnRetry was told %v", err)
		}
		breaks++
	}}, func(e client.Event) error {
		got = append(got, fmt.Sprintf("%v %v %q", e.Kind, e.Entry.Key, e.ResumeToken))
		return nil
	})
	if !errors.Is(err, config.OutOfRange) {
		t.Errorf("Watch returned %v, want code out_of_range", err)
	}
	if breaks != 2 {
		t.Errorf("OnRetry was called %d times, want 2", breaks)
	}
	want := []string{
		`put p_a ""`, `sync  "t1"`, `put p_b "t2"`, `sync  "t2"`, `delete p_a "t3"`, `heartbeat  "t4"`, `put p_c "t5"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// Half of the present state is not a state: nothing resumes from it.
func TestWatchReturnsABreakBeforeTheFirstSync(t *testing.T) {
	c := connect(t, script(map[string]func(watchStream) error{
		"": func(s watchStream) error {
			return all(send(s, "t0", put("p_a")), status.Error(codes.Unavailable, "going away"))
		},
	}))
	err := c.Watch(t.Context(), client.WatchRequest{KeyPrefix: "p_"}, func(client.Event) error { return nil })
	if !errors.Is(err, config.Unavailable) {
		t.Errorf("Watch returned %v, want code unavailable", err)
	}
}

func TestWatchEndsAreReturned(t *testing.T) {
	for _, code := range []config.Code{config.Unauthenticated, config.PermissionDenied, config.OutOfRange, config.InvalidArgument, config.Internal} {
		t.Run(code.String(), func(t *testing.T) {
			c := connect(t, script(map[string]func(watchStream) error{
				"t7": func(s watchStream) error { return all(send(s, "t8", sync()), config.Errorf(code, "the end")) },
			}))
			err := c.Watch(t.Context(), client.WatchRequest{KeyPrefix: "p_", ResumeToken: "t7"}, func(client.Event) error { return nil })
			if !errors.Is(err, code) {
				t.Errorf("Watch returned %v, want code %v", err, code)
			}
			if client.RequestID(err) == "" {
				t.Error("the error has no request id")
			}
		})
	}
}

func TestWatchStopsWithItsCallerAtOnce(t *testing.T) {
	forever := script(map[string]func(watchStream) error{
		"": func(s watchStream) error {
			if err := send(s, "t1", sync()); err != nil {
				return err
			}
			<-s.Context().Done()
			return s.Context().Err()
		},
	})
	c := connect(t, forever)
	stop := errors.New("enough")
	if err := c.Watch(t.Context(), client.WatchRequest{}, func(client.Event) error { return stop }); err != stop { //nolint:errorlint // identity is the contract
		t.Errorf("Watch returned %v, want what emit returned", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Watch(ctx, client.WatchRequest{}, func(client.Event) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled Watch returned %v, want canceled", err)
	}
}

// A server that went away and came back at the same address is found again.
func TestWatchSurvivesARestart(t *testing.T) {
	s := script(map[string]func(watchStream) error{
		"": func(s watchStream) error {
			if err := send(s, "t1", sync()); err != nil {
				return err
			}
			<-s.Context().Done()
			return s.Context().Err()
		},
		"t1": func(s watchStream) error {
			return all(send(s, "t2", put("p_x")), config.Errorf(config.OutOfRange, "the end"))
		},
	})
	lis := listen(t, "127.0.0.1:0")
	server := start(t, lis, s, adminService{})
	c := dial(t, lis.Addr().String())
	restarted := false
	var got []client.EventKind
	err := c.Watch(t.Context(), client.WatchRequest{KeyPrefix: "p_", OnRetry: func(error, time.Duration) {
		if !restarted {
			start(t, listen(t, lis.Addr().String()), s, adminService{})
			restarted = true
		}
	}}, func(e client.Event) error {
		got = append(got, e.Kind)
		if e.Kind == client.EventSync {
			server.Stop()
		}
		return nil
	})
	if !errors.Is(err, config.OutOfRange) {
		t.Errorf("Watch returned %v, want the end that the restarted server gives", err)
	}
	if diff := cmp.Diff([]client.EventKind{client.EventSync, client.EventPut}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
