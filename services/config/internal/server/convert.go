package server

import (
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// toEntry leaves the tenant out: it is the caller's own, or the shared one.
func toEntry(e config.Entry) *tagstorev1.Entry {
	out := &tagstorev1.Entry{
		Key:         e.ID.Key.String(),
		Service:     e.ID.Service.String(),
		Shared:      e.ID.Tenant.IsShared(),
		Value:       e.Value,
		ContentType: e.ContentType,
		Version:     e.Version,
		Revision:    string(e.Revision),
		UpdatedBy:   e.UpdatedBy,
		Message:     e.Message,
		Secret:      e.Secret,
		Deleted:     e.Deleted,
	}
	if !e.UpdatedAt.IsZero() {
		out.UpdatedAt = timestamppb.New(e.UpdatedAt)
	}
	return out
}

func toEntries(entries []config.Entry) []*tagstorev1.Entry {
	out := make([]*tagstorev1.Entry, len(entries))
	for i, e := range entries {
		out[i] = toEntry(e)
	}
	return out
}

var sources = map[config.Source]tagstorev1.Source{
	config.SourceCache:    tagstorev1.Source_SOURCE_CACHE,
	config.SourceDAX:      tagstorev1.Source_SOURCE_DAX,
	config.SourceStore:    tagstorev1.Source_SOURCE_STORE,
	config.SourceSnapshot: tagstorev1.Source_SOURCE_SNAPSHOT,
}

var states = map[config.State]tagstorev1.FreshnessState{
	config.StateFresh:    tagstorev1.FreshnessState_FRESHNESS_STATE_FRESH,
	config.StateStale:    tagstorev1.FreshnessState_FRESHNESS_STATE_STALE,
	config.StateDegraded: tagstorev1.FreshnessState_FRESHNESS_STATE_DEGRADED,
}

func toFreshness(f config.Freshness) *tagstorev1.Freshness {
	return &tagstorev1.Freshness{Source: sources[f.Source], Age: durationpb.New(f.Age), State: states[f.State]}
}

// toStatus is the outcome of one part of a call, with the same code, text and
// detail that a call which failed whole would have.
func toStatus(err error) *tagstorev1.Status {
	s := errgrpc.ToStatus(err).Proto()
	return &tagstorev1.Status{Code: s.GetCode(), Message: s.GetMessage(), Details: s.GetDetails()}
}

// toExpect turns an expected_version into the condition of a write.
func toExpect(version *uint64) driver.Expect {
	if version == nil {
		return driver.Any()
	}
	return driver.Version(*version)
}
