package client_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// What is asked of an answer reaches the service as it stands, and what is not
// asked does not.
func TestGetOptions(t *testing.T) {
	var get *tagstorev1.GetRequest
	var batch *tagstorev1.BatchGetRequest
	c := connect(t, &service{
		get: func(_ context.Context, r *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
			get = r
			return &tagstorev1.GetResponse{Entry: &tagstorev1.Entry{Key: r.GetKey()}, Freshness: &tagstorev1.Freshness{
				Source: tagstorev1.Source_SOURCE_CACHE, Age: durationpb.New(time.Second), State: tagstorev1.FreshnessState_FRESHNESS_STATE_DEGRADED,
			}}, nil
		},
		batchGet: func(_ context.Context, r *tagstorev1.BatchGetRequest) (*tagstorev1.BatchGetResponse, error) {
			batch = r
			return &tagstorev1.BatchGetResponse{Results: []*tagstorev1.BatchGetResult{{
				Key: r.GetKeys()[0], Outcome: &tagstorev1.BatchGetResult_Entry{Entry: &tagstorev1.Entry{Key: r.GetKeys()[0]}},
			}}}, nil
		},
	})
	k := key(t, "p_a")
	answer, err := c.Get(t.Context(), k, config.Service{})
	if err != nil || get.MinVersion != nil || get.MaxStaleness != nil {
		t.Errorf("without options: %v, %v", get, err)
	}
	if want := (config.Freshness{Source: config.SourceCache, Age: time.Second, State: config.StateDegraded}); answer.Freshness != want {
		t.Errorf("the freshness is %+v, want %+v", answer.Freshness, want)
	}
	if _, err := c.Get(t.Context(), k, config.Service{}, client.MinVersion(7), client.MaxStaleness(0)); err != nil ||
		get.GetMinVersion() != 7 || get.MaxStaleness == nil || get.MaxStaleness.AsDuration() != 0 {
		t.Errorf("with both: %v, %v", get, err)
	}
	if _, err := c.BatchGet(t.Context(), []config.Key{k}, config.Service{}); err != nil || batch.MaxStaleness != nil {
		t.Errorf("a batch without options: %v, %v", batch, err)
	}
	if _, err := c.BatchGet(t.Context(), []config.Key{k}, config.Service{}, client.MaxStaleness(time.Minute)); err != nil || batch.MaxStaleness.AsDuration() != time.Minute {
		t.Errorf("a batch: %v, %v", batch, err)
	}
	if _, err := c.BatchGet(t.Context(), []config.Key{k}, config.Service{}, client.MinVersion(1)); !errors.Is(err, config.InvalidArgument) {
		t.Errorf("a batch with a least version: %v", err)
	}
}

// The version that is here comes with the error that the one asked for is not.
func TestMinVersionThatIsNotThere(t *testing.T) {
	c := connect(t, &service{get: func(context.Context, *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
		return nil, config.Errorf(config.Unavailable, "version 3 is here").WithVersion(3)
	}})
	_, err := c.Get(t.Context(), key(t, "p_a"), config.Service{}, client.MinVersion(4))
	var e *config.Error
	if !errors.As(err, &e) || e.Code != config.Unavailable || e.Version != 3 {
		t.Errorf("the error is %+v", err)
	}
}

// Each of the four writes asks for the replicas and tells what they have.
func TestWriteOptions(t *testing.T) {
	late := &tagstorev1.Status{Code: int32(codes.DeadlineExceeded), Message: "late"}
	wire := []*tagstorev1.ReplicaStatus{{Replica: "config-1"}, {Replica: "config-2", Error: late}, {Replica: "config-3", Error: &tagstorev1.Status{}}}
	asked := map[string]bool{}
	entry := func(k string) *tagstorev1.Entry { return &tagstorev1.Entry{Key: k, Version: 1} }
	c := connect(t, &service{
		put: func(_ context.Context, r *tagstorev1.PutRequest) (*tagstorev1.PutResponse, error) {
			asked["put"] = r.GetAwaitReplicas()
			return &tagstorev1.PutResponse{Entry: entry(r.GetKey()), Replicas: wire}, nil
		},
		del: func(_ context.Context, r *tagstorev1.DeleteRequest) (*tagstorev1.DeleteResponse, error) {
			asked["delete"] = r.GetAwaitReplicas()
			return &tagstorev1.DeleteResponse{Entry: entry(r.GetKey()), Replicas: wire}, nil
		},
		restore: func(_ context.Context, r *tagstorev1.RestoreRequest) (*tagstorev1.RestoreResponse, error) {
			asked["restore"] = r.GetAwaitReplicas()
			return &tagstorev1.RestoreResponse{Entry: entry(r.GetKey()), Replicas: wire}, nil
		},
		rollback: func(_ context.Context, r *tagstorev1.RollbackRequest) (*tagstorev1.RollbackResponse, error) {
			asked["rollback"] = r.GetAwaitReplicas()
			return &tagstorev1.RollbackResponse{Entry: entry(r.GetKey()), Replicas: wire}, nil
		},
	})
	k := key(t, "p_a")
	for name, send := range map[string]func(...client.WriteOption) error{
		"put": func(o ...client.WriteOption) error {
			_, err := c.Put(t.Context(), client.PutRequest{Key: k}, o...)
			return err
		},
		"delete": func(o ...client.WriteOption) error {
			_, err := c.Delete(t.Context(), client.DeleteRequest{Key: k}, o...)
			return err
		},
		"restore": func(o ...client.WriteOption) error {
			_, err := c.Restore(t.Context(), client.RestoreRequest{Key: k}, o...)
			return err
		},
		"rollback": func(o ...client.WriteOption) error {
			_, err := c.Rollback(t.Context(), client.RollbackRequest{Key: k, ToVersion: 1}, o...)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := send(); err != nil || asked[name] {
				t.Errorf("without options: %v, asked to wait: %t", err, asked[name])
			}
			var replicas []client.ReplicaStatus
			if err := send(client.AwaitReplicas(), client.Replicas(&replicas)); err != nil || !asked[name] {
				t.Errorf("with both: %v, asked to wait: %t", err, asked[name])
			}
			var got []string
			for _, r := range replicas {
				state := "has it"
				if r.Err != nil {
					state = config.CodeOf(r.Err).String()
				}
				got = append(got, fmt.Sprintf("%s %s", r.Replica, state))
			}
			if diff := cmp.Diff([]string{"config-1 has it", "config-2 deadline_exceeded", "config-3 internal"}, got); diff != "" {
				t.Errorf("the replicas (-want +got):\n%s", diff)
			}
		})
	}
}

func gap() *tagstorev1.WatchResponse {
	return &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Gap{Gap: &tagstorev1.WatchGap{}}}
}

// A gap, and the source's going and coming, are told as they come. Until the
// sync behind a gap nothing can be resumed but what was before it.
func TestWatchTellsGapsAndOutages(t *testing.T) {
	down := &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_SourceDown{SourceDown: &tagstorev1.WatchSourceDown{}}}
	up := &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_SourceUp{SourceUp: &tagstorev1.WatchSourceUp{}}}
	tries := 0
	c := connect(t, script(map[string]func(watchStream) error{
		"": func(s watchStream) error {
			return all(send(s, "t0", put("p_a")), send(s, "t1", sync()), send(s, "t2", down), status.Error(codes.Unavailable, "going away"))
		},
		"t2": func(s watchStream) error {
			if tries++; tries == 1 { // breaks in the middle of what follows the gap
				return all(send(s, "t2", gap()), send(s, "t3", put("p_b")), send(s, "t3", heartbeat()), status.Error(codes.Unavailable, "going away"))
			}
			return all(send(s, "t2", gap()), send(s, "t4", put("p_b")), send(s, "t5", sync()), send(s, "t6", up),
				config.Errorf(config.OutOfRange, "the end"))
		},
	}))
	var got []string
	err := c.Watch(t.Context(), client.WatchRequest{KeyPrefix: "p_"}, func(e client.Event) error {
		got = append(got, fmt.Sprintf("%v %v %q", e.Kind, e.Entry.Key, e.ResumeToken))
		return nil
	})
	if !errors.Is(err, config.OutOfRange) {
		t.Errorf("Watch returned %v, want the end that the service gives", err)
	}
	want := []string{
		`put p_a ""`, `sync  "t1"`, `source down  "t2"`,
		`gap  ""`, `put p_b ""`, `heartbeat  ""`,
		`gap  ""`, `put p_b ""`, `sync  "t5"`, `source up  "t6"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
