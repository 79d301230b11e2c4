package server

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tagstore/tagstore/core/driver"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/store"
	"github.com/tagstore/tagstore/services/config/internal/intercept"
)

// sizeTimeout bounds how long ListBackends waits for a store to count itself.
const sizeTimeout = 2 * time.Second

// Process is what AdminService shows of one backend. *pluginhost.Process is
// one.
type Process interface {
	driver.Backend
	Status() pluginhost.Status
}

// Backend is one backend and the route prefixes that lead to it.
type Backend struct {
	Process  Process
	Prefixes []string
}

// adminService answers tagstore.v1.AdminService.
type adminService struct {
	tagstorev1.UnimplementedAdminServiceServer
	backends  []Backend // by name
	recovery  *intercept.Recovery
	store     *store.Store
	replica   string
	refreshes *rates
}

var _ tagstorev1.AdminServiceServer = (*adminService)(nil)

// ListBackends asks all stores for their size at once. One that does not answer
// in time is shown without it.
func (s *adminService) ListBackends(ctx context.Context, _ *tagstorev1.ListBackendsRequest) (*tagstorev1.ListBackendsResponse, error) {
	out := make([]*tagstorev1.Backend, len(s.backends))
	var asking sync.WaitGroup
	for i, b := range s.backends {
		out[i] = toBackend(b)
		asking.Go(func() {
			// A panic is logged and counted; this backend has no size then.
			_ = s.recovery.Protect(ctx, "admin.ListBackends", func() error {
				out[i].Size = sizeOf(ctx, b.Process)
				return nil
			})
		})
	}
	asking.Wait()
	return &tagstorev1.ListBackendsResponse{Backends: out}, nil
}

func sizeOf(ctx context.Context, p Process) *tagstorev1.BackendSize {
	sizer, ok := driver.AsSizer(p)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sizeTimeout)
	defer cancel()
	size, err := sizer.Size(ctx)
	if err != nil {
		return nil
	}
	return &tagstorev1.BackendSize{Bytes: size.Bytes, Entries: size.Entries, Versions: size.Versions, Changes: size.Changes}
}

func toBackend(b Backend) *tagstorev1.Backend {
	st := b.Process.Status()
	out := &tagstorev1.Backend{
		Name:          st.Name,
		Prefixes:      slices.Sorted(slices.Values(b.Prefixes)),
		State:         backendStates[st.State],
		PluginName:    st.PluginName,
		PluginVersion: st.PluginVersion,
		Capabilities:  capabilityNames(st.Capabilities),
		Caveats:       st.Caveats.Names(),
		Pid:           int64(st.PID),
		Generation:    st.Generation,
		Restarts:      st.Restarts,
		LastError:     st.LastError,
	}
	if !st.StartedAt.IsZero() {
		out.StartedAt = timestamppb.New(st.StartedAt)
	}
	return out
}

var backendStates = map[pluginhost.State]tagstorev1.BackendState{
	pluginhost.StateStarting:   tagstorev1.BackendState_BACKEND_STATE_STARTING,
	pluginhost.StateServing:    tagstorev1.BackendState_BACKEND_STATE_SERVING,
	pluginhost.StateRestarting: tagstorev1.BackendState_BACKEND_STATE_RESTARTING,
	pluginhost.StateStopped:    tagstorev1.BackendState_BACKEND_STATE_STOPPED,
}

// capabilityNames lists what is declared, in alphabetical order.
func capabilityNames(c driver.Capabilities) []string {
	var names []string
	for _, each := range []struct {
		name string
		has  bool
	}{
		{"batch", c.Batch},
		{"history", c.History},
		{"idempotent", c.Idempotent},
		{"ping", c.Ping},
		{"refresh", c.Refresh},
		{"size", c.Size},
		{"watch", c.Watch},
	} {
		if each.has {
			names = append(names, each.name)
		}
	}
	return names
}
