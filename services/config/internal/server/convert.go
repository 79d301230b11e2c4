package server

import (
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/store"
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

// toWant says what a Get asks of its answer. What contradicts itself is refused
// rather than guessed at.
func toWant(req *tagstorev1.GetRequest) (store.Want, error) {
	switch {
	case req.Version != nil && req.MinVersion != nil:
		return store.Want{}, config.Errorf(config.InvalidArgument, "version and min_version are both there").
			WithHint("version for exactly that one, min_version for the current value if it is that new")
	case req.Version != nil && req.GetMaxStaleness() != nil:
		return store.Want{}, config.Errorf(config.InvalidArgument, "version and max_staleness are both there").
			WithHint("leave max_staleness out: one version never changes")
	case req.MinVersion != nil && req.GetMinVersion() == 0:
		return store.Want{}, config.Errorf(config.InvalidArgument, "min_version is 0, and versions count from 1").
			WithHint("leave it out for any version")
	}
	want, err := toStaleness(req.GetMaxStaleness())
	want.MinVersion = req.GetMinVersion()
	return want, err
}

// toStaleness turns a max_staleness into what a read wants; nil wants nothing.
// How much it may be is the store's to say.
func toStaleness(d *durationpb.Duration) (store.Want, error) {
	if d == nil {
		return store.Want{}, nil
	}
	if !d.IsValid() {
		return store.Want{}, config.Errorf(config.InvalidArgument, "max_staleness is no duration: its seconds and nanoseconds are out of range or differ in sign").
			WithHint("send 0s to %v, or leave it out", store.MaxStaleness)
	}
	return store.Want{MaxStaleness: d.AsDuration(), Bounded: true}, nil
}
