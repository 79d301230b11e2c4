package server

import (
	"context"
	"math"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/store"
)

// Refresh is the one method whose request names tenants, since a machine that
// announces changes has none of its own. That is no way around the tenant of
// the token: it returns no value, only a version, a count or an error that says
// the same of a key which is somebody else's and of one which never was, and
// what it makes this replica do is what the replica would do by itself a little
// later.
func (s *adminService) Refresh(ctx context.Context, req *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
	targets, err := toTargets(req.GetTargets())
	if err != nil {
		return nil, err
	}
	refused := s.refreshes.admit(targets)
	admitted, at := make([]store.RefreshTarget, 0, len(targets)), make([]int, 0, len(targets))
	out := make([]*tagstorev1.RefreshReceipt, len(targets))
	for i, t := range targets {
		if err := refused[t.Tenant]; err != nil {
			out[i] = toReceipt(store.Receipt{Err: err.WithKey(t.Key)})
			continue
		}
		admitted, at = append(admitted, t), append(at, i)
	}
	if len(admitted) > 0 {
		receipts, err := s.store.Refresh(ctx, admitted)
		if err != nil {
			return nil, err
		}
		for i, r := range receipts {
			out[at[i]] = toReceipt(r)
		}
	}
	return &tagstorev1.RefreshResponse{Replica: s.replica, Receipts: out}, nil
}

// toTargets parses all of a request's targets or says which one is wrong:
// nothing of a request that is not understood is refreshed.
func toTargets(asked []*tagstorev1.RefreshTarget) ([]store.RefreshTarget, error) {
	if len(asked) == 0 || len(asked) > store.MaxTargets {
		return nil, config.Errorf(config.InvalidArgument, "%d targets in one refresh, it takes 1 to %d", len(asked), store.MaxTargets).
			WithHint("send the rest in further requests")
	}
	targets := make([]store.RefreshTarget, len(asked))
	for i, t := range asked {
		var err error
		if targets[i], err = toTarget(t); err != nil {
			e := config.AsError(err, "", config.Key{})
			return nil, config.Errorf(config.InvalidArgument, "targets[%d]: %s", i, e.Message).WithHint("%s", e.Hint)
		}
	}
	return targets, nil
}

func toTarget(t *tagstorev1.RefreshTarget) (out store.RefreshTarget, err error) {
	switch t.GetTenant() {
	case "":
		return out, config.Errorf(config.InvalidArgument, "tenant is empty").
			WithHint("everything of all tenants is never refreshed at once: name each tenant, %s for the shared layer", config.Shared())
	case config.Shared().String():
		out.Tenant = config.Shared()
	default:
		if out.Tenant, err = config.ParseTenant(t.GetTenant()); err != nil {
			return out, err
		}
	}
	if out.Service, err = config.ParseService(t.GetService()); err != nil {
		return out, err
	}
	// A key that its sender left empty by mistake must not become the whole
	// tenant.
	switch scope := t.GetScope().(type) {
	case *tagstorev1.RefreshTarget_Key:
		out.Key, err = config.ParseKey(scope.Key)
	case *tagstorev1.RefreshTarget_KeyPrefix:
		if out.KeyPrefix, err = config.ParseKeyPrefix(scope.KeyPrefix); err == nil && out.KeyPrefix == "" {
			err = config.Errorf(config.InvalidArgument, "key_prefix is empty").WithHint("leave it out for everything that the tenant has")
		}
	}
	if err != nil {
		return out, err
	}
	out.MinVersion = t.GetMinVersion()
	switch {
	case out.Tenant.IsShared() && !out.Service.IsZero():
		return out, config.Errorf(config.InvalidArgument, "the shared layer has no services").WithHint("leave service out")
	case out.Key.IsZero() && out.MinVersion > 0:
		return out, config.Errorf(config.InvalidArgument, "min_version is there without a key").WithHint("leave it out, or name the key")
	}
	return out, nil
}

func toReceipt(r store.Receipt) *tagstorev1.RefreshReceipt {
	if r.Err != nil {
		return &tagstorev1.RefreshReceipt{Outcome: &tagstorev1.RefreshReceipt_Error{Error: toStatus(r.Err)}}
	}
	return &tagstorev1.RefreshReceipt{Outcome: &tagstorev1.RefreshReceipt_Applied{Applied: &tagstorev1.RefreshApplied{
		Version: r.Version, Absent: r.Absent, Values: uint32(min(uint64(r.Values), math.MaxUint32)),
	}}}
}
