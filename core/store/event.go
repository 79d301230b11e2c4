package store

import "github.com/tagstore/tagstore/core/config"

// EventKind says what an Event is.
type EventKind int

// The kinds of event.
const (
	// EventPut carries a live entry with its value.
	EventPut EventKind = iota + 1
	// EventDelete carries a tombstone.
	EventDelete
	// EventSync says that everything that was there when Watch began (or since
	// the resume point, or at an EventGap) has been emitted.
	EventSync
	// EventProgress says only that everything up to its token has been emitted.
	EventProgress
	// EventGap says that what happened since the event before it is not known in
	// full. All values follow as at the beginning, then an EventSync: a key that
	// is not among them is gone.
	EventGap
	// EventSourceDown says that the store is out of reach and changes may be
	// late. What was emitted stays the last that is known.
	EventSourceDown
	// EventSourceUp says that the store is back, and that what was missed has
	// been emitted.
	EventSourceUp
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
	case EventGap:
		return "gap"
	case EventSourceDown:
		return "source down"
	case EventSourceUp:
		return "source up"
	default:
		return "unknown"
	}
}

// Event is one message of a Watch.
type Event struct {
	Kind  EventKind
	Entry config.Entry // zero unless Kind is EventPut or EventDelete
	// ResumeToken makes another Watch go on behind this event.
	ResumeToken string
}
