// Package driver is the contract between tagstore and one kind of store. A
// plugin author implements Backend, and whichever optional interfaces the
// store can honour; everything else (layers, cache, schemas, tenancy policy,
// limits, retries) is somebody else's.
//
// Words: the scope of a call is its tenant and service; an entry is live when
// it was put and not deleted since; a tombstone is the version that a Delete
// writes. The codes are those of package config.
//
// Package drivertest holds every numbered clause against an implementation; a
// failing case prints the clause that was broken.
//
// # Identity
//
// C1: Every entry that a call returns carries the ID that was asked for, or,
// from List, History and Watch, an ID of the scope and key prefix asked for.
// Nothing of another tenant or service is ever returned, whatever bytes the
// tenant, service or key hold: distinct IDs never share a value.
//
// C2: Tenant, service and key are compared byte for byte. Nothing is folded,
// trimmed, decoded or normalised.
//
// # Reading
//
// C3: Get of a key that was never put, or whose latest version is a tombstone,
// is an error with code NotFound. The two errors are the same text.
//
// C4: Get returns what the latest acknowledged Put of that ID stored: the same
// value bytes, content type, author and message.
//
// C5: Get with a version returns that version's entry, or NotFound where it
// does not exist, is no longer kept, or is a tombstone. A backend without
// History may answer Unimplemented for every version but the latest.
//
// C6: An empty value is a value. It comes back as an empty, non-nil slice.
//
// # Listing
//
// C7: List returns the live entries of exactly one scope whose keys start with
// the prefix, in ascending byte order of key, each once, over however many
// pages.
//
// C8: A page holds at most PageSize entries (0 means DefaultPageSize; below 0
// or above MaxPageSize is InvalidArgument) and ends early rather than pass
// MaxPageBytes of values, but never with a first entry left out. The last page
// has no token; a page may be empty and still have one.
//
// C9: A page token that this backend did not issue, or issued for another
// scope, key prefix, key or operation, is InvalidArgument. It is never
// ignored and never read as somebody else's.
//
// # Writing
//
// C10: The first Put of an ID makes version 1. Each later Put and each Delete
// adds exactly 1, a Put after a Delete included: versions are never reused.
//
// C11: Put and Delete compare the expected version with the current one and
// write in one step that no other write of that ID can come between. Of any
// number of writers that expect the same version at most one succeeds.
//
// C12: Expect Any always matches; Absent matches a key that does not exist or
// is deleted; Version(n) matches when the latest version, tombstone included,
// is n. No match is code Conflict with the current version in Error.Version
// (0 where the key never existed), and nothing is written.
//
// C13: A write that returned nil is durable to the degree that the store
// promises and visible to the next Get, List and History.
//
// C14: Put returns the entry as stored with a nil Value; Delete returns the
// tombstone. Version and Revision are those of this very write, UpdatedAt is
// UTC and never goes back for one ID.
//
// C15: Delete of a key that is not live is NotFound, whatever was expected,
// and writes nothing. After Delete the value's earlier versions are still in
// History.
//
// C16: A value over the backend's limit is InvalidArgument and nothing is
// written.
//
// C17: Revision is different for any two versions of one ID and not empty.
//
// # Memory
//
// C18: Bytes are copied in and out: the caller may change what it passed or
// was given at any time without changing what is stored.
//
// # Time and concurrency
//
// C19: A call whose context is done returns within 100 ms with an error whose
// code is Canceled or DeadlineExceeded. A call that starts so writes nothing.
//
// C20: All methods may be called at once from any number of goroutines.
//
// C21: Close waits for nothing but what it owns, returns nil when called
// again, and makes every later call FailedPrecondition.
//
// # Optional interfaces
//
// C22: Capabilities are what CapabilitiesOf says, no less and no more: a
// method of a capability that is not declared answers Unimplemented if it is
// reached at all, one that is declared never does.
//
// C23: Batcher. BatchGet answers every ID, in the order asked, duplicates
// included, each with the entry or the error that Get would give. The call
// itself fails only when nothing at all could be read.
//
// C24: Historian. History returns all versions that are kept of one ID, newest
// first, tombstones included, with their values; paged under the rules of List.
// NotFound where the ID never existed.
//
// C25: Watcher. With no resume point Watch emits the live entries of the scope
// and prefix as puts in order of key, then one sync event, then every later
// change exactly once, in the order in which they were made; no change falls
// between snapshot and stream. With a resume point it emits a sync event after
// the changes since then, and no snapshot. What was acknowledged before the call
// is in what comes before the sync event.
//
// C26: Every event carries a position from which a later Watch of the same
// scope and prefix resumes with the change after it; a snapshot's events carry
// one of the snapshot as a whole, so a Watch that ended before its sync event
// is started anew. A position that this backend did not issue for that scope
// and prefix is InvalidArgument; one that lies before the changes still kept is
// OutOfRange.
//
// C27: Watch emits from one goroutine at a time, and returns what emit
// returned as soon as that is an error, or the context's error once it is
// done. A slow receiver slows its own Watch and nothing else.
//
// C28: Idempotent. A write with an idempotency key that the same tenant used
// within the window returns the first write's result and writes nothing, if
// the two ask for the same; else the code is AlreadyExists.
//
// C29: Refresher. Refresh answers as BatchGet does, from the source of truth,
// with every write in it that any Backend of this store acknowledged before
// the call. Afterwards no read of this Backend answers an ID older than that.
//
// C30: Caveats. What a store can not keep by its nature it declares as
// Caveats, no less and no more, and keeps what they say instead. A backend
// that declares EventualReads is a Refresher.
package driver
