// Package wire converts between the types of packages config and driver and
// the messages of the plugin protocol, in both directions.
//
// A request that does not hold what it must is InvalidArgument. An answer that
// does not is Internal: the plugin broke its contract, and nothing of what it
// said is used. Neither kind of text holds anything that was sent.
package wire

import (
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/errgrpc"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
)

// MaxSchema bounds the schema of a plugin's options, in bytes.
const MaxSchema = 256 << 10

// Description is what a plugin says of itself.
type Description struct {
	Name, Version string
	APIMinor      uint32
	// Features are what its end of the protocol can do beyond that, in the
	// protocol's words, known here or not.
	Features     []string
	Capabilities driver.Capabilities
	// IdempotencyWindow is positive if Capabilities.Idempotent is set.
	IdempotencyWindow time.Duration
	Caveats           driver.Caveats
	OptionsSchema     []byte // a JSON Schema, or empty
}

// DescribeResponse returns the message for d.
func DescribeResponse(d Description) *backendv1.DescribeResponse {
	c, q := d.Capabilities, d.Caveats
	r := &backendv1.DescribeResponse{
		Name: d.Name, Version: d.Version, ApiMinor: d.APIMinor, OptionsSchema: d.OptionsSchema, Features: d.Features,
		Capabilities: &backendv1.Capabilities{
			Batch: c.Batch, History: c.History, Watch: c.Watch, Ping: c.Ping, Idempotent: c.Idempotent, Size: c.Size,
			Refresh: c.Refresh,
		},
		Caveats: &backendv1.Caveats{
			LooseCompareAndSet: q.LooseCompareAndSet, PermanentDelete: q.PermanentDelete, Unattributed: q.Unattributed,
			InferredType: q.InferredType, NonEmpty: q.NonEmpty, TextOnly: q.TextOnly, EventualReads: q.EventualReads,
		},
	}
	if d.IdempotencyWindow > 0 {
		r.IdempotencyWindow = durationpb.New(d.IdempotencyWindow)
	}
	return r
}

// DescriptionOf reads the answer to Describe.
func DescriptionOf(r *backendv1.DescribeResponse) (Description, error) {
	c, q := r.GetCapabilities(), r.GetCaveats()
	d := Description{
		Name: r.GetName(), Version: r.GetVersion(), APIMinor: r.GetApiMinor(), OptionsSchema: r.GetOptionsSchema(), Features: featuresOf(r.GetFeatures()),
		Capabilities: driver.Capabilities{
			Batch: c.GetBatch(), History: c.GetHistory(), Watch: c.GetWatch(),
			Ping: c.GetPing(), Idempotent: c.GetIdempotent(), Size: c.GetSize(),
			Refresh: c.GetRefresh(),
		},
		Caveats: driver.Caveats{
			LooseCompareAndSet: q.GetLooseCompareAndSet(), PermanentDelete: q.GetPermanentDelete(), Unattributed: q.GetUnattributed(),
			InferredType: q.GetInferredType(), NonEmpty: q.GetNonEmpty(), TextOnly: q.GetTextOnly(), EventualReads: q.GetEventualReads(),
		},
	}
	if w := r.GetIdempotencyWindow(); w != nil {
		if !w.IsValid() || w.AsDuration() < 0 {
			return Description{}, Broken("an idempotency window that is not a length of time")
		}
		d.IdempotencyWindow = w.AsDuration()
	}
	switch {
	case d.Name == "":
		return Description{}, Broken("no name")
	case len(d.OptionsSchema) > MaxSchema:
		return Description{}, Broken("a schema of its options that is too large")
	case d.Capabilities.Idempotent && d.IdempotencyWindow == 0:
		return Description{}, Broken("idempotency without a window")
	case d.Caveats.EventualReads && !d.Capabilities.Refresh:
		return Description{}, Broken("eventual reads without a refresh")
	}
	return d, nil
}

// Features beyond these bounds are left out: no host asks for one that has them.
const maxFeatures, maxFeature = 64, 64

func featuresOf(all []string) []string {
	all = all[:min(len(all), maxFeatures)]
	return slices.DeleteFunc(slices.Clone(all), func(f string) bool { return len(f) > maxFeature })
}

// ID returns the message for id.
func ID(id config.ID) *backendv1.Id {
	return &backendv1.Id{Tenant: id.Tenant.String(), Service: id.Service.String(), Key: id.Key.String()}
}

// IDOf reads an ID of a request. The shared tenant is one.
func IDOf(p *backendv1.Id) (config.ID, error) {
	tenant, service, err := ScopeOf(p.GetTenant(), p.GetService())
	if err != nil {
		return config.ID{}, err
	}
	key, err := config.ParseKey(p.GetKey())
	if err != nil {
		return config.ID{}, err
	}
	return config.ID{Tenant: tenant, Service: service, Key: key}, nil
}

// ScopeOf reads the scope of a request. The shared tenant is one.
func ScopeOf(tenant, service string) (config.Tenant, config.Service, error) {
	t, err := config.ParseOwner(tenant)
	if err != nil {
		return config.Tenant{}, config.Service{}, err
	}
	s, err := config.ParseService(service)
	return t, s, err
}

// IDs returns the messages for ids.
func IDs(ids []config.ID) []*backendv1.Id {
	out := make([]*backendv1.Id, len(ids))
	for i, id := range ids {
		out[i] = ID(id)
	}
	return out
}

// IDsOf reads the IDs of a request.
func IDsOf(ps []*backendv1.Id) ([]config.ID, error) {
	ids := make([]config.ID, len(ps))
	for i, p := range ps {
		id, err := IDOf(p)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	return ids, nil
}

// Entry returns the message for e. A nil value stays apart from an empty one.
func Entry(e config.Entry) *backendv1.Entry {
	p := &backendv1.Entry{
		Id: ID(e.ID), Value: e.Value, ContentType: e.ContentType, Version: e.Version, Revision: string(e.Revision),
		UpdatedBy: e.UpdatedBy, Message: e.Message, Secret: e.Secret, Deleted: e.Deleted,
		Source: sources[e.Source],
	}
	if !e.UpdatedAt.IsZero() {
		p.UpdatedAt = timestamppb.New(e.UpdatedAt)
	}
	return p
}

// sources are the tiers that a backend may name; what it leaves out is the
// store itself.
var sources = map[config.Source]backendv1.Source{config.SourceDAX: backendv1.Source_SOURCE_DAX}

// EntryOf reads an entry of an answer. Whether its ID is one that was asked
// for is checked by package store, for every backend alike.
func EntryOf(p *backendv1.Entry) (config.Entry, error) {
	if p == nil {
		return config.Entry{}, Broken("no entry")
	}
	id, err := IDOf(p.GetId())
	if err != nil {
		return config.Entry{}, Broken("an entry without a valid id")
	}
	e := config.Entry{
		ID: id, Value: p.GetValue(), ContentType: p.GetContentType(), Version: p.GetVersion(),
		Revision: config.Revision(p.GetRevision()), UpdatedBy: p.GetUpdatedBy(), Message: p.GetMessage(),
		Secret: p.GetSecret(), Deleted: p.GetDeleted(),
	}
	if p.GetSource() == backendv1.Source_SOURCE_DAX {
		e.Source = config.SourceDAX
	}
	if at := p.GetUpdatedAt(); at != nil {
		if !at.IsValid() {
			return config.Entry{}, Broken("an entry whose time is not one")
		}
		e.UpdatedAt = at.AsTime()
	}
	return e, nil
}

func entries(es []config.Entry) []*backendv1.Entry {
	out := make([]*backendv1.Entry, len(es))
	for i, e := range es {
		out[i] = Entry(e)
	}
	return out
}

func pageOf(ps []*backendv1.Entry, next string) (driver.Page, error) {
	if len(ps) > driver.MaxPageSize {
		return driver.Page{}, Broken("a page of more entries than a page may hold")
	}
	page := driver.Page{NextPageToken: next}
	for _, p := range ps {
		e, err := EntryOf(p)
		if err != nil {
			return driver.Page{}, err
		}
		page.Entries = append(page.Entries, e)
	}
	return page, nil
}

// ListRequest returns the message for r.
func ListRequest(r driver.ListRequest) (*backendv1.ListRequest, error) {
	if err := texts("page token", r.PageToken, "key prefix", r.KeyPrefix); err != nil {
		return nil, err
	}
	return &backendv1.ListRequest{
		Tenant: r.Tenant.String(), Service: r.Service.String(), KeyPrefix: r.KeyPrefix,
		PageSize: clampInt32(r.PageSize), PageToken: r.PageToken,
	}, nil
}

// ListRequestOf reads a request.
func ListRequestOf(p *backendv1.ListRequest) (driver.ListRequest, error) {
	tenant, service, err := ScopeOf(p.GetTenant(), p.GetService())
	if err != nil {
		return driver.ListRequest{}, err
	}
	prefix, err := config.ParseKeyPrefix(p.GetKeyPrefix())
	if err != nil {
		return driver.ListRequest{}, err
	}
	return driver.ListRequest{
		Tenant: tenant, Service: service, KeyPrefix: prefix,
		PageSize: int(p.GetPageSize()), PageToken: p.GetPageToken(),
	}, nil
}

// ListResponse returns the message for p.
func ListResponse(p driver.Page) *backendv1.ListResponse {
	return &backendv1.ListResponse{Entries: entries(p.Entries), NextPageToken: p.NextPageToken}
}

// ListPageOf reads an answer to List.
func ListPageOf(p *backendv1.ListResponse) (driver.Page, error) {
	return pageOf(p.GetEntries(), p.GetNextPageToken())
}

// HistoryRequest returns the message for r.
func HistoryRequest(r driver.HistoryRequest) (*backendv1.HistoryRequest, error) {
	if err := texts("page token", r.PageToken); err != nil {
		return nil, err
	}
	return &backendv1.HistoryRequest{Id: ID(r.ID), PageSize: clampInt32(r.PageSize), PageToken: r.PageToken}, nil
}

// HistoryRequestOf reads a request.
func HistoryRequestOf(p *backendv1.HistoryRequest) (driver.HistoryRequest, error) {
	id, err := IDOf(p.GetId())
	if err != nil {
		return driver.HistoryRequest{}, err
	}
	return driver.HistoryRequest{ID: id, PageSize: int(p.GetPageSize()), PageToken: p.GetPageToken()}, nil
}

// HistoryResponse returns the message for p.
func HistoryResponse(p driver.Page) *backendv1.HistoryResponse {
	return &backendv1.HistoryResponse{Entries: entries(p.Entries), NextPageToken: p.NextPageToken}
}

// HistoryPageOf reads an answer to History.
func HistoryPageOf(p *backendv1.HistoryResponse) (driver.Page, error) {
	return pageOf(p.GetEntries(), p.GetNextPageToken())
}

// PutRequest returns the message for r.
func PutRequest(r driver.PutRequest) (*backendv1.PutRequest, error) {
	err := texts("content type", r.ContentType, "author", r.UpdatedBy, "message", r.Message, "idempotency key", r.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	return &backendv1.PutRequest{
		Id: ID(r.ID), Value: r.Value, ContentType: r.ContentType, ExpectedVersion: expected(r.Expect),
		UpdatedBy: r.UpdatedBy, Message: r.Message, IdempotencyKey: r.IdempotencyKey,
	}, nil
}

// PutRequestOf reads a request. Its value is never nil.
func PutRequestOf(p *backendv1.PutRequest) (driver.PutRequest, error) {
	id, err := IDOf(p.GetId())
	if err != nil {
		return driver.PutRequest{}, err
	}
	value := p.GetValue()
	if value == nil {
		value = []byte{}
	}
	return driver.PutRequest{
		ID: id, Value: value, ContentType: p.GetContentType(), Expect: expectOf(p.ExpectedVersion),
		UpdatedBy: p.GetUpdatedBy(), Message: p.GetMessage(), IdempotencyKey: p.GetIdempotencyKey(),
	}, nil
}

// DeleteRequest returns the message for r.
func DeleteRequest(r driver.DeleteRequest) (*backendv1.DeleteRequest, error) {
	if err := texts("author", r.UpdatedBy, "message", r.Message, "idempotency key", r.IdempotencyKey); err != nil {
		return nil, err
	}
	return &backendv1.DeleteRequest{
		Id: ID(r.ID), ExpectedVersion: expected(r.Expect),
		UpdatedBy: r.UpdatedBy, Message: r.Message, IdempotencyKey: r.IdempotencyKey, Permanent: r.Permanent,
	}, nil
}

// DeleteRequestOf reads a request.
func DeleteRequestOf(p *backendv1.DeleteRequest) (driver.DeleteRequest, error) {
	id, err := IDOf(p.GetId())
	if err != nil {
		return driver.DeleteRequest{}, err
	}
	return driver.DeleteRequest{
		ID: id, Expect: expectOf(p.ExpectedVersion),
		UpdatedBy: p.GetUpdatedBy(), Message: p.GetMessage(), IdempotencyKey: p.GetIdempotencyKey(), Permanent: p.GetPermanent(),
	}, nil
}

func expected(e driver.Expect) *uint64 {
	if v, ok := e.Value(); ok {
		return &v
	}
	return nil
}

func expectOf(v *uint64) driver.Expect {
	if v == nil {
		return driver.Any()
	}
	return driver.Version(*v)
}

// Result returns the message for r.
func Result(r driver.Result) *backendv1.BatchGetResult {
	if r.Err != nil {
		return &backendv1.BatchGetResult{Outcome: &backendv1.BatchGetResult_Error{Error: errgrpc.ToDetail(r.Err)}}
	}
	return &backendv1.BatchGetResult{Outcome: &backendv1.BatchGetResult_Entry{Entry: Entry(r.Entry)}}
}

// ResultOf reads one result of an answer to BatchGet.
func ResultOf(p *backendv1.BatchGetResult) (driver.Result, error) {
	switch outcome := p.GetOutcome().(type) {
	case *backendv1.BatchGetResult_Entry:
		e, err := EntryOf(outcome.Entry)
		return driver.Result{Entry: e}, err
	case *backendv1.BatchGetResult_Error:
		if outcome.Error != nil {
			return driver.Result{Err: errgrpc.FromDetail(outcome.Error)}, nil
		}
	}
	return driver.Result{}, Broken("a result with neither entry nor error")
}

// WatchRequest returns the message for r.
func WatchRequest(r driver.WatchRequest) (*backendv1.WatchRequest, error) {
	if err := texts("resume token", r.After, "key prefix", r.KeyPrefix); err != nil {
		return nil, err
	}
	return &backendv1.WatchRequest{
		Tenant: r.Tenant.String(), Service: r.Service.String(), KeyPrefix: r.KeyPrefix, After: r.After,
	}, nil
}

// WatchRequestOf reads a request.
func WatchRequestOf(p *backendv1.WatchRequest) (driver.WatchRequest, error) {
	tenant, service, err := ScopeOf(p.GetTenant(), p.GetService())
	if err != nil {
		return driver.WatchRequest{}, err
	}
	prefix, err := config.ParseKeyPrefix(p.GetKeyPrefix())
	if err != nil {
		return driver.WatchRequest{}, err
	}
	return driver.WatchRequest{Tenant: tenant, Service: service, KeyPrefix: prefix, After: p.GetAfter()}, nil
}

// eventKinds is indexed by driver.EventKind; the numbers happen to be equal,
// and nothing relies on it.
var eventKinds = map[driver.EventKind]backendv1.EventKind{
	driver.EventPut:      backendv1.EventKind_EVENT_KIND_PUT,
	driver.EventDelete:   backendv1.EventKind_EVENT_KIND_DELETE,
	driver.EventSync:     backendv1.EventKind_EVENT_KIND_SYNC,
	driver.EventProgress: backendv1.EventKind_EVENT_KIND_PROGRESS,
}

// WatchResponse returns the message for e.
func WatchResponse(e driver.Event) *backendv1.WatchResponse {
	p := &backendv1.WatchResponse{Kind: eventKinds[e.Kind], Position: e.Position}
	if e.Kind == driver.EventPut || e.Kind == driver.EventDelete {
		p.Entry = Entry(e.Entry)
	}
	return p
}

// EventOf reads one message of a Watch.
func EventOf(p *backendv1.WatchResponse) (driver.Event, error) {
	e := driver.Event{Position: p.GetPosition()}
	for kind, wire := range eventKinds {
		if wire == p.GetKind() {
			e.Kind = kind
		}
	}
	switch {
	case e.Kind == 0:
		return driver.Event{}, Broken("an event of no known kind")
	case e.Position == "":
		return driver.Event{}, Broken("an event without a position")
	case e.Kind == driver.EventSync || e.Kind == driver.EventProgress:
		return e, nil
	}
	entry, err := EntryOf(p.GetEntry())
	if err != nil {
		return driver.Event{}, err
	}
	if entry.Deleted != (e.Kind == driver.EventDelete) {
		return driver.Event{}, Broken("an event whose kind and entry disagree")
	}
	e.Entry = entry
	return e, nil
}

// SizeResponse returns the message for s.
func SizeResponse(s driver.Size) *backendv1.SizeResponse {
	return &backendv1.SizeResponse{Bytes: s.Bytes, Entries: s.Entries, Versions: s.Versions, Changes: s.Changes}
}

// SizeOf reads the answer to Size.
func SizeOf(p *backendv1.SizeResponse) (driver.Size, error) {
	s := driver.Size{Bytes: p.GetBytes(), Entries: p.GetEntries(), Versions: p.GetVersions(), Changes: p.GetChanges()}
	if min(s.Bytes, s.Entries, s.Versions, s.Changes) < -1 {
		return driver.Size{}, Broken("a size below zero")
	}
	return s, nil
}

// Broken is the error for an answer that breaks the contract; what says which
// part of it, as the object of "answered with".
func Broken(what string) error {
	return config.Errorf(config.Internal, "the plugin broke its contract: it answered with %s", what).
		WithHint("replace the plugin or report it to its author")
}

// texts checks pairs of a name and a text. Protobuf strings are UTF-8, and
// what is not would fail much later and less clearly.
func texts(pairs ...string) error {
	for ; len(pairs) > 1; pairs = pairs[2:] {
		if what, s := pairs[0], pairs[1]; !utf8.ValidString(s) {
			return config.Errorf(config.InvalidArgument, "%s is not valid UTF-8", what)
		}
	}
	return nil
}

// clampInt32 keeps a number that is out of range out of range.
func clampInt32(n int) int32 {
	return int32(min(max(n, math.MinInt32), math.MaxInt32))
}
