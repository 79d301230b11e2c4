package client

import (
	"context"
	"time"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// ReloadAction is what a reload did about one backend.
type ReloadAction string

// The actions.
const (
	ReloadKept     ReloadAction = "kept" // as it was, with the same process
	ReloadStarted  ReloadAction = "started"
	ReloadReplaced ReloadAction = "replaced" // by a new process
	ReloadRemoved  ReloadAction = "removed"
	ReloadRefused  ReloadAction = "refused"
)

// ReloadedBackend is what a reload did about one backend.
type ReloadedBackend struct {
	// Name is the one in the manifest; with the prefix behind an @ for a backend
	// whose routes have a process each.
	Name   string
	Action ReloadAction // "" for one that this client does not know
	PID    int64        // of the process that serves now; 0 if there is none
	Reason string       // why it was refused; it may hold what the plugin logged
}

// ReloadedRoute is a route that is not as it was.
type ReloadedRoute struct {
	Prefix string
	Change string // "added", "removed" or "changed"
}

// ReloadReceipt is what came of a reload.
type ReloadReceipt struct {
	Replica string // what the replica calls itself
	// Applied says that the manifest is in use. If not, nothing has changed and
	// Problems says why.
	Applied    bool
	Generation uint64 // of the manifest that is in use, from 1
	Backends   []ReloadedBackend
	Routes     []ReloadedRoute
	Problems   []string
	Took       time.Duration
}

// ReloadManifest has the replica that answers put its manifest into use as it
// stands, as a whole or not at all, and returns what came of it: a manifest that
// was refused is no error. It needs the role operator. It is never retried here.
//
// A reload that takes longer than the call goes on; its receipt is in the
// replica's log then.
func (c *Client) ReloadManifest(ctx context.Context) (ReloadReceipt, error) {
	ctx, cancel, k := c.begin(ctx, "client.ReloadManifest", config.Key{})
	defer cancel()
	resp, err := c.admin.ReloadManifest(ctx, &tagstorev1.ReloadManifestRequest{})
	if err != nil {
		return ReloadReceipt{}, k.failed(err)
	}
	r := ReloadReceipt{
		Replica: resp.GetReplica(), Applied: resp.GetApplied(), Generation: resp.GetGeneration(),
		Problems: resp.GetProblems(), Took: resp.GetTook().AsDuration(),
	}
	if !r.Applied && len(r.Problems) == 0 {
		return ReloadReceipt{}, k.broken("with a reload that failed for no reason")
	}
	for _, b := range resp.GetBackends() {
		r.Backends = append(r.Backends, ReloadedBackend{
			Name: b.GetName(), Action: reloadActions[b.GetAction()], PID: b.GetPid(), Reason: b.GetReason(),
		})
	}
	for _, route := range resp.GetRoutes() {
		r.Routes = append(r.Routes, ReloadedRoute{Prefix: route.GetPrefix(), Change: routeChanges[route.GetChange()]})
	}
	return r, nil
}

var reloadActions = map[tagstorev1.ReloadAction]ReloadAction{
	tagstorev1.ReloadAction_RELOAD_ACTION_KEPT:     ReloadKept,
	tagstorev1.ReloadAction_RELOAD_ACTION_STARTED:  ReloadStarted,
	tagstorev1.ReloadAction_RELOAD_ACTION_REPLACED: ReloadReplaced,
	tagstorev1.ReloadAction_RELOAD_ACTION_REMOVED:  ReloadRemoved,
	tagstorev1.ReloadAction_RELOAD_ACTION_REFUSED:  ReloadRefused,
}

var routeChanges = map[tagstorev1.RouteChange]string{
	tagstorev1.RouteChange_ROUTE_CHANGE_ADDED:   "added",
	tagstorev1.RouteChange_ROUTE_CHANGE_REMOVED: "removed",
	tagstorev1.RouteChange_ROUTE_CHANGE_CHANGED: "changed",
}
