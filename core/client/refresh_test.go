package client_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// refresher is an AdminService whose Refresh a test sets.
type refresher struct {
	tagstorev1.UnimplementedAdminServiceServer
	refresh func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error)
}

func (r refresher) Refresh(ctx context.Context, req *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
	return r.refresh(ctx, req)
}

func connectRefresher(t *testing.T, refresh func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error)) *client.Client {
	t.Helper()
	lis := listen(t, "127.0.0.1:0")
	start(t, lis, &service{}, refresher{refresh: refresh})
	return dial(t, lis.Addr().String())
}

func tenant(t testing.TB, s string) config.Tenant {
	t.Helper()
	v, err := config.ParseTenant(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func applied(version uint64, absent bool, values uint32) *tagstorev1.RefreshReceipt {
	return &tagstorev1.RefreshReceipt{Outcome: &tagstorev1.RefreshReceipt_Applied{
		Applied: &tagstorev1.RefreshApplied{Version: version, Absent: absent, Values: values},
	}}
}

func refused(err error) *tagstorev1.RefreshReceipt {
	st := errgrpc.ToStatus(err).Proto()
	return &tagstorev1.RefreshReceipt{Outcome: &tagstorev1.RefreshReceipt_Error{
		Error: &tagstorev1.Status{Code: st.GetCode(), Message: st.GetMessage(), Details: st.GetDetails()},
	}}
}

// Every kind of target crosses, and each gets its own receipt, in order.
func TestRefresh(t *testing.T) {
	var got *tagstorev1.RefreshRequest
	var authorization []string
	c := connectRefresher(t, func(ctx context.Context, r *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
		got = r
		authorization = metadata.ValueFromIncomingContext(ctx, "authorization")
		return &tagstorev1.RefreshResponse{Replica: "r1", Receipts: []*tagstorev1.RefreshReceipt{
			applied(7, false, 1), applied(0, true, 0), applied(0, false, 12), applied(0, false, 40),
			refused(config.Errorf(config.Unavailable, "the store is out of reach")),
		}}, nil
	})
	acme := tenant(t, "acme-corp")
	answer, err := c.Refresh(client.ContextWithToken(t.Context(), "machine"), []client.RefreshTarget{
		{Tenant: acme, Service: svc(t, "order"), Key: key(t, "param_config_a"), MinVersion: 7},
		{Tenant: config.Shared(), Key: key(t, "param_config_b"), MinVersion: 3},
		{Tenant: acme, KeyPrefix: "param_config_api/"},
		{Tenant: acme},
		{Tenant: acme, Key: key(t, "param_config_c")},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &tagstorev1.RefreshRequest{Targets: []*tagstorev1.RefreshTarget{
		{Tenant: "acme-corp", Service: "order", Scope: &tagstorev1.RefreshTarget_Key{Key: "param_config_a"}, MinVersion: 7},
		{Tenant: "_shared", Scope: &tagstorev1.RefreshTarget_Key{Key: "param_config_b"}, MinVersion: 3},
		{Tenant: "acme-corp", Scope: &tagstorev1.RefreshTarget_KeyPrefix{KeyPrefix: "param_config_api/"}},
		{Tenant: "acme-corp"},
		{Tenant: "acme-corp", Scope: &tagstorev1.RefreshTarget_Key{Key: "param_config_c"}},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Bearer machine"}, authorization); diff != "" {
		t.Errorf("authorization (-want +got):\n%s", diff)
	}
	if answer.Replica != "r1" {
		t.Errorf("replica %q, want r1", answer.Replica)
	}
	last := answer.Receipts[4].Err
	if !errors.Is(last, config.Unavailable) || !strings.Contains(last.Error(), "param_config_c: the store is out of reach") || client.RequestID(last) == "" {
		t.Errorf("the fifth receipt has error %v (request %q), want the store's for param_config_c", last, client.RequestID(last))
	}
	if diff := cmp.Diff([]client.RefreshReceipt{
		{Version: 7, Values: 1}, {Absent: true}, {Values: 12}, {Values: 40},
	}, answer.Receipts[:4]); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
}

// What can not be meant is refused before anything is sent.
func TestRefreshRefusesTargetsThatMeanNothing(t *testing.T) {
	c := connectRefresher(t, func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
		t.Error("a request was sent")
		return &tagstorev1.RefreshResponse{}, nil
	})
	acme := tenant(t, "acme-corp")
	for name, targets := range map[string][]client.RefreshTarget{
		"none":               nil,
		"too many":           make([]client.RefreshTarget, 101),
		"no tenant":          {{Key: key(t, "p_x")}},
		"key and prefix":     {{Tenant: acme, Key: key(t, "p_x"), KeyPrefix: "p_"}},
		"version of no key":  {{Tenant: acme, KeyPrefix: "p_", MinVersion: 1}},
		"version of nothing": {{Tenant: acme, MinVersion: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := c.Refresh(t.Context(), targets); !errors.Is(err, config.InvalidArgument) {
				t.Errorf("Refresh returned %v, want code invalid_argument", err)
			} else if strings.Contains(err.Error(), "acme") {
				t.Errorf("the error names the tenant: %v", err)
			}
		})
	}
}

// A receipt that can not be about its target is no acknowledgement.
func TestForeignReceiptsAreRefused(t *testing.T) {
	acme := tenant(t, "acme-corp")
	one := client.RefreshTarget{Tenant: acme, Key: key(t, "p_x"), MinVersion: 5}
	all := client.RefreshTarget{Tenant: acme, KeyPrefix: "p_"}
	for name, c := range map[string]struct {
		target  client.RefreshTarget
		receipt *tagstorev1.RefreshReceipt
	}{
		"older than asked":      {one, applied(4, false, 1)},
		"says nothing":          {one, &tagstorev1.RefreshReceipt{}},
		"an error that is none": {one, refused(nil)},
		"a version of a prefix": {all, applied(3, false, 1)},
		"an absent prefix":      {all, applied(0, true, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			answer, err := connectRefresher(t, func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
				return &tagstorev1.RefreshResponse{Replica: "r1", Receipts: []*tagstorev1.RefreshReceipt{c.receipt}}, nil
			}).Refresh(t.Context(), []client.RefreshTarget{c.target})
			if err != nil {
				t.Fatal(err)
			}
			if got := answer.Receipts[0]; !errors.Is(got.Err, config.Internal) || got.Version != 0 || got.Values != 0 {
				t.Errorf("receipt %+v, want an error of code internal and nothing else", got)
			}
		})
	}
	t.Run("another number", func(t *testing.T) {
		_, err := connectRefresher(t, func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
			return &tagstorev1.RefreshResponse{Replica: "r1", Receipts: []*tagstorev1.RefreshReceipt{applied(5, false, 1)}}, nil
		}).Refresh(t.Context(), []client.RefreshTarget{one, one})
		if !errors.Is(err, config.Internal) {
			t.Errorf("Refresh returned %v, want code internal", err)
		}
	})
}

// Who asks many replicas decides itself what to do about one that is away.
func TestRefreshIsNotRetried(t *testing.T) {
	var calls atomic.Int32
	c := connectRefresher(t, func(context.Context, *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
		calls.Add(1)
		return nil, config.Errorf(config.Unavailable, "starting")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := c.Refresh(ctx, []client.RefreshTarget{{Tenant: tenant(t, "acme-corp")}}); !errors.Is(err, config.Unavailable) {
		t.Errorf("Refresh returned %v, want code unavailable", err)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("the replica was called %d times, want once", n)
	}
}
