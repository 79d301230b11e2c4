package driver

import (
	"context"
	"encoding/json"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// The bounds of a page (clause C8).
const (
	DefaultPageSize = 100
	MaxPageSize     = 1000
	MaxPageBytes    = 2 << 20
)

// Backend is one store. The clauses in the package documentation are part of
// each method's contract; those named here matter most for it.
type Backend interface {
	// Get returns the entry of id: the latest for version 0, else that version.
	// C1, C3 to C6.
	Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error)
	// List returns one page of live entries. C1, C7 to C9.
	List(ctx context.Context, r ListRequest) (Page, error)
	// Put writes a new version. C10 to C14, C16, C28.
	Put(ctx context.Context, r PutRequest) (config.Entry, error)
	// Delete writes a tombstone. C10 to C15, C28.
	Delete(ctx context.Context, r DeleteRequest) (config.Entry, error)
	// Close ends the backend. C21.
	Close() error
}

// Opener opens a Backend from its options: the JSON object that stands in the
// manifest, never nil. It checks the options strictly and reports everything
// that is wrong with them at once, with code InvalidArgument.
type Opener func(ctx context.Context, options json.RawMessage) (Backend, error)

// ListRequest asks for one page. The zero PageToken asks for the first.
type ListRequest struct {
	Tenant    config.Tenant
	Service   config.Service
	KeyPrefix string // as config.ParseKeyPrefix accepts; "" is everything
	PageSize  int
	PageToken string
}

// Page is one page of entries; NextPageToken is "" on the last.
type Page struct {
	Entries       []config.Entry
	NextPageToken string
}

// Expect is the condition of a write (clause C12). The zero value is Any.
type Expect struct {
	set     bool
	version uint64
}

// Any matches whatever is there.
func Any() Expect { return Expect{} }

// Absent matches a key that does not exist or is deleted.
func Absent() Expect { return Expect{set: true} }

// Version matches when n is the latest version. Version(0) is Absent.
func Version(n uint64) Expect { return Expect{set: true, version: n} }

// Value returns the expected version; ok is false for Any.
func (e Expect) Value() (version uint64, ok bool) { return e.version, e.set }

// Match reports whether a key whose latest version is latest (0: never
// existed), live or a tombstone, meets the condition.
func (e Expect) Match(latest uint64, live bool) bool {
	switch {
	case !e.set:
		return true
	case e.version == 0:
		return !live
	default:
		return latest == e.version
	}
}

// PutRequest is one write.
type PutRequest struct {
	ID          config.ID
	Value       []byte
	ContentType string // "" is stored as config.ContentTypeJSON
	Expect      Expect
	UpdatedBy   string
	Message     string
	// IdempotencyKey is "" or marks the retries of one write. A backend that is
	// not Idempotent ignores it.
	IdempotencyKey string
}

// DeleteRequest is one deletion.
type DeleteRequest struct {
	ID             config.ID
	Expect         Expect
	UpdatedBy      string
	Message        string
	IdempotencyKey string
	// Permanent consents to losing the key's history. Only a store with
	// Caveats.PermanentDelete asks for it, and only to such a store it is sent.
	Permanent bool
}

// Batcher reads many IDs in one call (clause C23).
type Batcher interface {
	BatchGet(ctx context.Context, ids []config.ID) ([]Result, error)
}

// Result is the answer for one ID of a batch: Err is nil or Entry is zero.
type Result struct {
	Entry config.Entry
	Err   error
}

// Historian keeps old versions (clause C24).
type Historian interface {
	History(ctx context.Context, r HistoryRequest) (Page, error)
}

// HistoryRequest asks for one page of the versions of one ID.
type HistoryRequest struct {
	ID        config.ID
	PageSize  int
	PageToken string
}

// Watcher reports changes as they happen (clauses C25 to C27). Watch blocks
// until its context is done, emit fails or the store does.
type Watcher interface {
	Watch(ctx context.Context, r WatchRequest, emit func(Event) error) error
}

// WatchRequest says what to watch. After is "" for a snapshot first, or the
// position of an event of an earlier Watch with the same other fields.
type WatchRequest struct {
	Tenant    config.Tenant
	Service   config.Service
	KeyPrefix string
	After     string
}

// EventKind says what an Event is.
type EventKind int

// The kinds of event.
const (
	// EventPut carries a live entry with its value.
	EventPut EventKind = iota + 1
	// EventDelete carries a tombstone.
	EventDelete
	// EventSync says that everything that was there when Watch began (or since
	// the resume point) has been emitted. Its entry is zero.
	EventSync
	// EventProgress says only that everything up to its position has been
	// emitted. Its entry is zero.
	EventProgress
)

// String returns the kind's name as it stands in logs.
func (k EventKind) String() string {
	switch k {
	case EventPut:
		return "put"
	case EventDelete:
		return "delete"
	case EventSync:
		return "sync"
	case EventProgress:
		return "progress"
	default:
		return "unknown"
	}
}

// Event is one message of a Watch.
type Event struct {
	Kind     EventKind
	Entry    config.Entry
	Position string // opaque, sealed; see clause C26
}

// Pinger tells whether the store can be reached. Ping returns nil or an error
// with code Unavailable.
type Pinger interface {
	Ping(ctx context.Context) error
}

// Idempotent stores honour idempotency keys (clause C28) for at least the
// time that IdempotencyWindow returns, which is positive.
type Idempotent interface {
	IdempotencyWindow() time.Duration
}

// Sizer tells how much the store holds.
type Sizer interface {
	Size(ctx context.Context) (Size, error)
}

// Refresher is for a backend whose ordinary reads may be older than what the
// store holds (Caveats.EventualReads). Refresh is BatchGet from the source of
// truth, past whatever is in front of it (clause C29).
type Refresher interface {
	Refresh(ctx context.Context, ids []config.ID) ([]Result, error)
}

// Size is what a store holds, over all tenants. A field that the store can not
// tell cheaply is -1.
type Size struct {
	Bytes    int64 // on disk
	Entries  int64 // live entries
	Versions int64 // history records, tombstones included
	Changes  int64 // change-log records that a Watch can still resume from
}

// Capabilities names the optional interfaces of a backend.
type Capabilities struct {
	Batch      bool
	History    bool
	Watch      bool
	Ping       bool
	Idempotent bool
	Size       bool
	Refresh    bool
}

// Names lists what is declared, in alphabetical order.
func (c Capabilities) Names() []string {
	return declared([]declaration{
		{"batch", c.Batch},
		{"history", c.History},
		{"idempotent", c.Idempotent},
		{"ping", c.Ping},
		{"refresh", c.Refresh},
		{"size", c.Size},
		{"watch", c.Watch},
	})
}

type declaration struct {
	name string
	made bool
}

func declared(all []declaration) []string {
	var names []string
	for _, d := range all {
		if d.made {
			names = append(names, d.name)
		}
	}
	return names
}

// Caveats are the parts of the contract that a store can not keep by its
// nature (clause C30). A backend that has any declares it, so that callers and
// operators know before they lose something; the zero value is the contract in
// full.
type Caveats struct {
	// LooseCompareAndSet: Absent is exact; any other expected version is
	// compared before the write and checked after it. A write that lost a race
	// may have been made all the same, and always says so: Conflict with the
	// version that was there before it. Together with PermanentDelete, a Delete
	// can be compared before and not checked after: a Put that comes between the
	// two (as it can in Parameter Store) is deleted unnoticed, though it was
	// acknowledged.
	LooseCompareAndSet bool
	// PermanentDelete: Delete takes the history with it, and the next Put is
	// version 1 again. Without DeleteRequest.Permanent it is
	// FailedPrecondition and changes nothing.
	PermanentDelete bool
	// Unattributed: UpdatedBy and Message may be missing from any answer. What
	// is there is true.
	Unattributed bool
	// InferredType: the content type is not stored. Answers carry what
	// InferType says of the bytes, and a Put of a type that would come back as
	// something else than text or JSON is InvalidArgument.
	InferredType bool
	// NonEmpty: a Put of an empty value is InvalidArgument.
	NonEmpty bool
	// TextOnly: a Put of a value that is not UTF-8 text is InvalidArgument.
	TextOnly bool
	// EventualReads: Get of the latest version and BatchGet may answer older
	// than what was written through another Backend. They are never older than
	// this Backend's own writes and Refreshes.
	EventualReads bool
}

// Names lists what is declared, in snake_case and alphabetical order.
func (c Caveats) Names() []string {
	return declared([]declaration{
		{"eventual_reads", c.EventualReads},
		{"inferred_type", c.InferredType},
		{"loose_compare_and_set", c.LooseCompareAndSet},
		{"non_empty", c.NonEmpty},
		{"permanent_delete", c.PermanentDelete},
		{"text_only", c.TextOnly},
		{"unattributed", c.Unattributed},
	})
}

// Qualified is for a Backend that has Caveats.
type Qualified interface {
	Caveats() Caveats
}

// CaveatsOf returns what b declares, the zero value where it declares nothing.
func CaveatsOf(b Backend) Caveats {
	if q, ok := b.(Qualified); ok {
		return q.Caveats()
	}
	return Caveats{}
}

// Limited is for a Backend that has the methods of optional interfaces without
// always honouring them, such as a proxy of a backend elsewhere: what it
// returns decides, not the methods that it has.
type Limited interface {
	Capabilities() Capabilities
}

// CapabilitiesOf returns what b declares: by Limited if it has it, else by the
// optional interfaces that it implements.
func CapabilitiesOf(b Backend) Capabilities {
	if l, ok := b.(Limited); ok {
		return l.Capabilities()
	}
	var c Capabilities
	_, c.Batch = b.(Batcher)
	_, c.History = b.(Historian)
	_, c.Watch = b.(Watcher)
	_, c.Ping = b.(Pinger)
	_, c.Idempotent = b.(Idempotent)
	_, c.Size = b.(Sizer)
	_, c.Refresh = b.(Refresher)
	return c
}

// AsBatcher returns b as a Batcher if it declares to be one. Use it and its
// siblings rather than a type assertion, which would bypass Limited.
func AsBatcher(b Backend) (Batcher, bool) {
	return as[Batcher](b, CapabilitiesOf(b).Batch)
}

// AsHistorian returns b as a Historian if it declares to be one.
func AsHistorian(b Backend) (Historian, bool) {
	return as[Historian](b, CapabilitiesOf(b).History)
}

// AsWatcher returns b as a Watcher if it declares to be one.
func AsWatcher(b Backend) (Watcher, bool) {
	return as[Watcher](b, CapabilitiesOf(b).Watch)
}

// AsPinger returns b as a Pinger if it declares to be one.
func AsPinger(b Backend) (Pinger, bool) {
	return as[Pinger](b, CapabilitiesOf(b).Ping)
}

// AsIdempotent returns b as Idempotent if it declares to be.
func AsIdempotent(b Backend) (Idempotent, bool) {
	return as[Idempotent](b, CapabilitiesOf(b).Idempotent)
}

// AsSizer returns b as a Sizer if it declares to be one.
func AsSizer(b Backend) (Sizer, bool) {
	return as[Sizer](b, CapabilitiesOf(b).Size)
}

// AsRefresher returns b as a Refresher if it declares to be one.
func AsRefresher(b Backend) (Refresher, bool) {
	return as[Refresher](b, CapabilitiesOf(b).Refresh)
}

func as[T any](b Backend, declared bool) (T, bool) {
	if !declared {
		var none T
		return none, false
	}
	t, ok := b.(T)
	return t, ok
}

// CheckPageSize applies clause C8 to a requested page size: it returns the
// size to use, or an InvalidArgument error.
func CheckPageSize(n int) (int, error) {
	switch {
	case n < 0 || n > MaxPageSize:
		return 0, config.Errorf(config.InvalidArgument, "page size %d is not between 0 and %d", n, MaxPageSize)
	case n == 0:
		return DefaultPageSize, nil
	}
	return n, nil
}
