package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// reloading is an AdminService whose ReloadManifest answers what a test says.
type reloading struct {
	tagstorev1.UnimplementedAdminServiceServer
	answer *tagstorev1.ReloadManifestResponse
	err    error
}

func (r reloading) ReloadManifest(context.Context, *tagstorev1.ReloadManifestRequest) (*tagstorev1.ReloadManifestResponse, error) {
	return r.answer, r.err
}

func reload(t *testing.T, r reloading) (client.ReloadReceipt, error) {
	t.Helper()
	lis := listen(t, "127.0.0.1:0")
	start(t, lis, &service{}, r)
	return dial(t, lis.Addr().String()).ReloadManifest(t.Context())
}

// A receipt crosses as it is, and so does that of a manifest that was refused.
func TestReloadManifest(t *testing.T) {
	got, err := reload(t, reloading{answer: &tagstorev1.ReloadManifestResponse{
		Replica: "r1", Generation: 7, Took: durationpb.New(time.Second), Problems: []string{"one", "two"},
		Backends: []*tagstorev1.ReloadedBackend{
			{Name: "a", Action: tagstorev1.ReloadAction_RELOAD_ACTION_KEPT, Pid: 5},
			{Name: "b", Action: tagstorev1.ReloadAction_RELOAD_ACTION_STARTED},
			{Name: "c", Action: tagstorev1.ReloadAction_RELOAD_ACTION_REPLACED},
			{Name: "d", Action: tagstorev1.ReloadAction_RELOAD_ACTION_REMOVED},
			{Name: "e", Action: tagstorev1.ReloadAction_RELOAD_ACTION_REFUSED, Reason: "why"},
			{Name: "f", Action: 99},
		},
		Routes: []*tagstorev1.ReloadedRoute{
			{Prefix: "a_", Change: tagstorev1.RouteChange_ROUTE_CHANGE_ADDED},
			{Prefix: "b_", Change: tagstorev1.RouteChange_ROUTE_CHANGE_REMOVED},
			{Prefix: "c_", Change: tagstorev1.RouteChange_ROUTE_CHANGE_CHANGED},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := client.ReloadReceipt{
		Replica: "r1", Generation: 7, Took: time.Second, Problems: []string{"one", "two"},
		Backends: []client.ReloadedBackend{
			{Name: "a", Action: client.ReloadKept, PID: 5},
			{Name: "b", Action: client.ReloadStarted},
			{Name: "c", Action: client.ReloadReplaced},
			{Name: "d", Action: client.ReloadRemoved},
			{Name: "e", Action: client.ReloadRefused, Reason: "why"},
			{Name: "f"},
		},
		Routes: []client.ReloadedRoute{{Prefix: "a_", Change: "added"}, {Prefix: "b_", Change: "removed"}, {Prefix: "c_", Change: "changed"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the receipt (-want +got):\n%s", diff)
	}
}

func TestReloadManifestFails(t *testing.T) {
	denied := config.Errorf(config.PermissionDenied, "the role admin may not call this method")
	if _, err := reload(t, reloading{err: denied}); !errors.Is(err, config.PermissionDenied) {
		t.Errorf("refused: %v", err)
	}
	if _, err := reload(t, reloading{answer: &tagstorev1.ReloadManifestResponse{}}); !errors.Is(err, config.Internal) {
		t.Errorf("neither applied nor refused: %v", err)
	}
}
