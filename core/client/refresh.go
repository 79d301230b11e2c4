package client

import (
	"context"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// maxRefreshTargets is how many targets one Refresh takes.
const maxRefreshTargets = 100

// RefreshTarget names what may have changed: one key of one layer, every key
// that starts with KeyPrefix, or, with neither, all that the tenant has in all
// services. Key and KeyPrefix exclude each other.
type RefreshTarget struct {
	Tenant    config.Tenant // config.Shared() for the layer that all tenants share
	Service   config.Service
	Key       config.Key
	KeyPrefix string
	// MinVersion is, with Key, the version that the change made, 0 where that
	// is not known: the replica asks a store that answers an older one again.
	MinVersion uint64
}

// RefreshReceipt says what came of one target. Err is nil or the rest is zero.
type RefreshReceipt struct {
	// Version is, for a key, the one that is in place now; 0 where the store
	// does not count, or the value is absent.
	Version uint64
	Absent  bool // for a key: there is no such value
	Values  int  // how many values were read
	Err     error
}

// RefreshAnswer is what one replica answered.
type RefreshAnswer struct {
	Replica string // what the replica calls itself
	// Receipts has one for each target, in the order asked.
	Receipts []RefreshReceipt
}

// Refresh has the replica that answers read 1 to 100 targets from their
// stores' own truth, in place of what it holds in memory. It needs the role
// refresher. The call fails only as a whole request; a target whose store is
// out of reach changes nothing and has an error of its own.
//
// It is never retried here: asking twice does no harm, but who announces a
// change to many replicas looks again which of them are left, and at an
// address where nobody answers that is most often the point.
func (c *Client) Refresh(ctx context.Context, targets []RefreshTarget) (RefreshAnswer, error) {
	ctx, cancel, k := c.begin(ctx, "client.Refresh", config.Key{})
	defer cancel()
	req, err := k.refreshRequest(targets)
	if err != nil {
		return RefreshAnswer{}, err
	}
	resp, err := c.admin.Refresh(ctx, req)
	if err != nil {
		return RefreshAnswer{}, k.failed(err)
	}
	if len(resp.GetReceipts()) != len(targets) {
		return RefreshAnswer{}, k.broken("with another number of receipts")
	}
	answer := RefreshAnswer{Replica: resp.GetReplica(), Receipts: make([]RefreshReceipt, len(targets))}
	for i, target := range targets {
		k.key = target.Key
		answer.Receipts[i] = k.receipt(resp.GetReceipts()[i], target)
	}
	return answer, nil
}

func (k call) refreshRequest(targets []RefreshTarget) (*tagstorev1.RefreshRequest, error) {
	invalid := func(key config.Key, message string) error {
		return &config.Error{Op: k.op, Key: key, Code: config.InvalidArgument, Message: message}
	}
	if len(targets) == 0 || len(targets) > maxRefreshTargets {
		return nil, invalid(config.Key{}, "the number of targets is not between 1 and 100")
	}
	req := &tagstorev1.RefreshRequest{Targets: make([]*tagstorev1.RefreshTarget, len(targets))}
	for i, t := range targets {
		wire := &tagstorev1.RefreshTarget{Tenant: t.Tenant.String(), Service: t.Service.String(), MinVersion: t.MinVersion}
		switch {
		case t.Tenant.IsZero():
			return nil, invalid(t.Key, "a target names no tenant")
		case !t.Key.IsZero() && t.KeyPrefix != "":
			return nil, invalid(t.Key, "a target has both a key and a key prefix")
		case t.Key.IsZero() && t.MinVersion != 0:
			return nil, invalid(t.Key, "a target has a version but no key")
		case !t.Key.IsZero():
			wire.Scope = &tagstorev1.RefreshTarget_Key{Key: t.Key.String()}
		case t.KeyPrefix != "":
			wire.Scope = &tagstorev1.RefreshTarget_KeyPrefix{KeyPrefix: t.KeyPrefix}
		}
		req.Targets[i] = wire
	}
	return req, nil
}

// receipt takes over what the replica says of one target, if it can be about
// that target: receipts name none, so one that does not fit shows a replica
// that mixed them up.
func (k call) receipt(r *tagstorev1.RefreshReceipt, target RefreshTarget) RefreshReceipt {
	switch outcome := r.GetOutcome().(type) {
	case *tagstorev1.RefreshReceipt_Error:
		err := errgrpc.FromStatus(statusFromWire(outcome.Error))
		if err == nil {
			return RefreshReceipt{Err: k.broken("with an error that is none")}
		}
		// Not failed: the replica did answer, whatever its store did.
		e := config.AsError(err, k.op, k.key)
		return RefreshReceipt{Err: e.WithCause(&requestError{id: k.id, cause: e.Err})}
	case *tagstorev1.RefreshReceipt_Applied:
		a := outcome.Applied
		switch {
		case target.Key.IsZero() && (a.GetVersion() != 0 || a.GetAbsent()):
			return RefreshReceipt{Err: k.broken("about one key, which was not asked for")}
		case a.GetVersion() != 0 && a.GetVersion() < target.MinVersion:
			return RefreshReceipt{Err: k.broken("with an older version than was asked for")}
		}
		return RefreshReceipt{Version: a.GetVersion(), Absent: a.GetAbsent(), Values: int(a.GetValues())}
	}
	return RefreshReceipt{Err: k.broken("with a receipt that says nothing")}
}
