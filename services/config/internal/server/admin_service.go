package server

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tagstore/tagstore/core/auth"
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
	backends  func() []Backend // by name
	recovery  *intercept.Recovery
	store     *store.Store
	replica   string
	refreshes *rates
	reloader  Reloader // nil: there is nothing to reload
}

var _ tagstorev1.AdminServiceServer = (*adminService)(nil)

// ListBackends asks all stores for their size at once. One that does not answer
// in time is shown without it.
func (s *adminService) ListBackends(ctx context.Context, _ *tagstorev1.ListBackendsRequest) (*tagstorev1.ListBackendsResponse, error) {
	caller, _ := auth.FromContext(ctx) // the guard lets in nobody without
	backends := s.backends()
	out := make([]*tagstorev1.Backend, len(backends))
	var asking sync.WaitGroup
	for i, b := range backends {
		out[i] = toBackend(b, caller.Role)
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

// toBackend shows a plugin's own words to an operator alone: they may be about
// any tenant.
func toBackend(b Backend, to auth.Role) *tagstorev1.Backend {
	st := b.Process.Status()
	out := &tagstorev1.Backend{
		Name:          st.Name,
		Prefixes:      slices.Sorted(slices.Values(b.Prefixes)),
		State:         backendStates[st.State],
		PluginName:    st.PluginName,
		PluginVersion: st.PluginVersion,
		Capabilities:  st.Capabilities.Names(),
		Caveats:       st.Caveats.Names(),
		Pid:           int64(st.PID),
		Generation:    st.Generation,
		Restarts:      st.Restarts,
		LastError:     st.LastError,
		Circuit:       backendCircuits[st.Circuit],
		InFlight:      uint32(st.InFlight),
		Waiting:       uint32(st.Waiting),
		Sha256:        st.SHA256,
		ResidentBytes: st.ResidentBytes,
	}
	if st.LatencyP99 > 0 { // else there were no calls
		out.LatencyP50, out.LatencyP99 = durationpb.New(st.LatencyP50), durationpb.New(st.LatencyP99)
	}
	if to == auth.RoleOperator {
		out.LastLines = st.LastLines
	}
	if !st.StartedAt.IsZero() {
		out.StartedAt = timestamppb.New(st.StartedAt)
	}
	return out
}

var backendCircuits = map[pluginhost.Circuit]tagstorev1.BackendCircuit{
	pluginhost.CircuitClosed:   tagstorev1.BackendCircuit_BACKEND_CIRCUIT_CLOSED,
	pluginhost.CircuitOpen:     tagstorev1.BackendCircuit_BACKEND_CIRCUIT_OPEN,
	pluginhost.CircuitHalfOpen: tagstorev1.BackendCircuit_BACKEND_CIRCUIT_HALF_OPEN,
}

var backendStates = map[pluginhost.State]tagstorev1.BackendState{
	pluginhost.StateStarting:   tagstorev1.BackendState_BACKEND_STATE_STARTING,
	pluginhost.StateServing:    tagstorev1.BackendState_BACKEND_STATE_SERVING,
	pluginhost.StateRestarting: tagstorev1.BackendState_BACKEND_STATE_RESTARTING,
	pluginhost.StateStopped:    tagstorev1.BackendState_BACKEND_STATE_STOPPED,
	pluginhost.StateFailed:     tagstorev1.BackendState_BACKEND_STATE_FAILED,
}
