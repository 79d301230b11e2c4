package client

import (
	"strings"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// answers reports whether e may answer a read that named this service: from
// its own layer, or from a wider one.
func answers(e Entry, service config.Service) bool {
	return e.Service.IsZero() || (e.Service == service && !e.Shared)
}

func hasPrefix(k config.Key, prefix string) bool { return strings.HasPrefix(k.String(), prefix) }

// entryFromWire returns false for an entry whose identity is not valid.
func entryFromWire(e *tagstorev1.Entry) (Entry, bool) {
	key, err := config.ParseKey(e.GetKey())
	if err != nil {
		return Entry{}, false
	}
	service, err := config.ParseService(e.GetService())
	if err != nil {
		return Entry{}, false
	}
	entry := Entry{
		Key: key, Service: service, Shared: e.GetShared(), Value: e.GetValue(), ContentType: e.GetContentType(),
		Version: e.GetVersion(), Revision: config.Revision(e.GetRevision()), UpdatedAt: timeFromWire(e.GetUpdatedAt()),
		UpdatedBy: e.GetUpdatedBy(), Message: e.GetMessage(), Secret: e.GetSecret(), Deleted: e.GetDeleted(),
	}
	// The wire does not tell an empty value from none; only a deletion has none.
	if entry.Value == nil && !entry.Deleted {
		entry.Value = []byte{}
	}
	return entry, true
}

// valueFromWire is entryFromWire for an answer that must hold a value.
func valueFromWire(e *tagstorev1.Entry) (Entry, bool) {
	entry, ok := entryFromWire(e)
	return entry, ok && !entry.Deleted
}

// entriesFromWire returns false unless every entry is valid and fits.
func entriesFromWire(wire []*tagstorev1.Entry, fits func(Entry) bool) ([]Entry, bool) {
	entries := make([]Entry, len(wire))
	for i, w := range wire {
		e, ok := entryFromWire(w)
		if !ok || !fits(e) {
			return nil, false
		}
		entries[i] = e
	}
	return entries, true
}

func freshnessFromWire(f *tagstorev1.Freshness) config.Freshness {
	out := config.Freshness{Age: f.GetAge().AsDuration()}
	switch f.GetSource() {
	case tagstorev1.Source_SOURCE_CACHE:
		out.Source = config.SourceCache
	case tagstorev1.Source_SOURCE_DAX:
		out.Source = config.SourceDAX
	case tagstorev1.Source_SOURCE_STORE:
		out.Source = config.SourceStore
	case tagstorev1.Source_SOURCE_SNAPSHOT:
		out.Source = config.SourceSnapshot
	}
	switch f.GetState() {
	case tagstorev1.FreshnessState_FRESHNESS_STATE_FRESH:
		out.State = config.StateFresh
	case tagstorev1.FreshnessState_FRESHNESS_STATE_STALE:
		out.State = config.StateStale
	case tagstorev1.FreshnessState_FRESHNESS_STATE_DEGRADED:
		out.State = config.StateDegraded
	}
	return out
}

func statusFromWire(s *tagstorev1.Status) *status.Status {
	return status.FromProto(&spb.Status{Code: s.GetCode(), Message: s.GetMessage(), Details: s.GetDetails()})
}

func backendFromWire(b *tagstorev1.Backend) Backend {
	out := Backend{
		Name: b.GetName(), Prefixes: b.GetPrefixes(), State: BackendUnknown,
		PluginName: b.GetPluginName(), PluginVersion: b.GetPluginVersion(), Capabilities: b.GetCapabilities(), Caveats: b.GetCaveats(),
		PID: b.GetPid(), Generation: b.GetGeneration(), Restarts: b.GetRestarts(),
		StartedAt: timeFromWire(b.GetStartedAt()), LastError: b.GetLastError(),
		Circuit: CircuitUnknown, InFlight: int(b.GetInFlight()), Waiting: int(b.GetWaiting()),
		LatencyP50: b.GetLatencyP50().AsDuration(), LatencyP99: b.GetLatencyP99().AsDuration(),
		LastLines: b.GetLastLines(), SHA256: b.GetSha256(), ResidentBytes: b.GetResidentBytes(),
	}
	switch b.GetCircuit() {
	case tagstorev1.BackendCircuit_BACKEND_CIRCUIT_CLOSED:
		out.Circuit = CircuitClosed
	case tagstorev1.BackendCircuit_BACKEND_CIRCUIT_OPEN:
		out.Circuit = CircuitOpen
	case tagstorev1.BackendCircuit_BACKEND_CIRCUIT_HALF_OPEN:
		out.Circuit = CircuitHalfOpen
	}
	switch b.GetState() {
	case tagstorev1.BackendState_BACKEND_STATE_STARTING:
		out.State = BackendStarting
	case tagstorev1.BackendState_BACKEND_STATE_SERVING:
		out.State = BackendServing
	case tagstorev1.BackendState_BACKEND_STATE_RESTARTING:
		out.State = BackendRestarting
	case tagstorev1.BackendState_BACKEND_STATE_STOPPED:
		out.State = BackendStopped
	case tagstorev1.BackendState_BACKEND_STATE_FAILED:
		out.State = BackendFailed
	}
	if s := b.GetSize(); s != nil {
		out.Size = &BackendSize{Bytes: s.GetBytes(), Entries: s.GetEntries(), Versions: s.GetVersions(), Changes: s.GetChanges()}
	}
	return out
}

func timeFromWire(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
