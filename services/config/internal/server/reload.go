package server

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// Reloader puts the manifest into use as it is now.
type Reloader interface {
	// Reload returns what came of it. The error is for a reload of which nothing
	// is known: it has not begun, or goes on although ctx is done.
	Reload(ctx context.Context) (Reload, error)
}

// Reload is the receipt of one reload.
type Reload struct {
	Applied    bool
	Generation uint64 // of the manifest that is in use, from 1
	Backends   []pluginhost.Outcome
	Routes     []RouteChange // without those that are as they were
	Problems   []error       // everything that is wrong; none if Applied
	Took       time.Duration
}

// RouteChange is what became of one route.
type RouteChange struct {
	Prefix string
	Change string // RouteAdded, RouteRemoved or RouteChanged
}

// What becomes of routes.
const (
	RouteAdded   = "added"
	RouteRemoved = "removed"
	RouteChanged = "changed"
)

// ReloadManifest is about this whole replica and no tenant, so its caller has
// none.
func (s *adminService) ReloadManifest(ctx context.Context, _ *tagstorev1.ReloadManifestRequest) (*tagstorev1.ReloadManifestResponse, error) {
	if s.reloader == nil {
		return nil, config.Errorf(config.Unimplemented, "this server has no manifest that could be reloaded")
	}
	r, err := s.reloader.Reload(ctx)
	if err != nil {
		return nil, err
	}
	return toReload(s.replica, r), nil
}

func toReload(replica string, r Reload) *tagstorev1.ReloadManifestResponse {
	out := &tagstorev1.ReloadManifestResponse{
		Replica: replica, Applied: r.Applied, Generation: r.Generation, Took: durationpb.New(r.Took),
	}
	for _, b := range r.Backends {
		backend := &tagstorev1.ReloadedBackend{Name: b.Name, Action: reloadActions[b.Action], Pid: int64(b.PID)}
		if b.Err != nil {
			backend.Reason = b.Err.Error()
		}
		out.Backends = append(out.Backends, backend)
	}
	for _, c := range r.Routes {
		out.Routes = append(out.Routes, &tagstorev1.ReloadedRoute{Prefix: c.Prefix, Change: routeChanges[c.Change]})
	}
	for _, p := range r.Problems {
		out.Problems = append(out.Problems, p.Error())
	}
	return out
}

var reloadActions = map[pluginhost.Action]tagstorev1.ReloadAction{
	pluginhost.Kept:     tagstorev1.ReloadAction_RELOAD_ACTION_KEPT,
	pluginhost.Started:  tagstorev1.ReloadAction_RELOAD_ACTION_STARTED,
	pluginhost.Replaced: tagstorev1.ReloadAction_RELOAD_ACTION_REPLACED,
	pluginhost.Removed:  tagstorev1.ReloadAction_RELOAD_ACTION_REMOVED,
	pluginhost.Refused:  tagstorev1.ReloadAction_RELOAD_ACTION_REFUSED,
}

var routeChanges = map[string]tagstorev1.RouteChange{
	RouteAdded:   tagstorev1.RouteChange_ROUTE_CHANGE_ADDED,
	RouteRemoved: tagstorev1.RouteChange_ROUTE_CHANGE_REMOVED,
	RouteChanged: tagstorev1.RouteChange_ROUTE_CHANGE_CHANGED,
}
