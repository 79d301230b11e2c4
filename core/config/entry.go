package config

import (
	"bytes"
	"time"
)

// ContentTypeJSON is the content type of a value for which none was given.
const ContentTypeJSON = "application/json"

// Revision is a store's own opaque mark of one state of a value. It is
// compared for equality only and never ordered.
type Revision string

// Entry is one state of one value, with the identity that the store gave it,
// so that an answer can be checked against what was asked.
type Entry struct {
	ID ID
	// Value is nil where only the metadata was asked for; an empty value is
	// an empty, non-nil slice.
	Value       []byte
	ContentType string
	// Version counts the changes of this ID from 1; a delete and a rollback
	// count as changes. 0 means that the store does not count.
	Version   uint64
	Revision  Revision
	UpdatedAt time.Time // UTC
	UpdatedBy string
	Message   string
	// Secret marks a value that must not be cached, logged or shown unasked.
	Secret bool
	// Deleted marks a tombstone: the version at which the value was deleted.
	Deleted bool
	// Source is the tier that this came from, where it is not the store itself.
	Source Source
}

// Clone returns a copy that shares no memory with e.
func (e Entry) Clone() Entry {
	e.Value = bytes.Clone(e.Value)
	return e
}

// Source says which tier an answer came from.
type Source int

// The tiers of an answer, nearest first.
const (
	SourceUnknown Source = iota
	SourceCache
	SourceDAX
	SourceStore
	SourceSnapshot
)

// String returns the tier's name as it stands in logs and on the wire.
func (s Source) String() string {
	switch s {
	case SourceCache:
		return "cache"
	case SourceDAX:
		return "dax"
	case SourceStore:
		return "store"
	case SourceSnapshot:
		return "snapshot"
	default:
		return "unknown"
	}
}

// State says how far an answer can be trusted to be the newest.
type State int

// The states of an answer.
const (
	StateUnknown State = iota
	// StateFresh answers are not older than the last acknowledged change.
	StateFresh
	// StateStale answers may be older, and are sent because that was allowed.
	StateStale
	// StateDegraded answers are fresh as far as is known, with their store
	// out of reach.
	StateDegraded
)

// String returns the state's name as it stands in logs and on the wire.
func (s State) String() string {
	switch s {
	case StateFresh:
		return "fresh"
	case StateStale:
		return "stale"
	case StateDegraded:
		return "degraded"
	default:
		return "unknown"
	}
}

// Freshness goes with every answer.
type Freshness struct {
	Source Source
	Age    time.Duration // since the value was read from its store
	State  State
}
