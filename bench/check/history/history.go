// Package history records what the clients of a system asked it and what they
// were answered, with one monotonic clock, so that package judge can hold the
// record to the rules afterwards.
//
// Whatever is recorded is what a client saw: nothing is taken from inside of
// the system.
package history

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// Kind says what an Op was.
type Kind uint8

// The kinds of Op.
const (
	// Get is a read through a replica.
	Get Kind = iota + 1
	// Put is a write through a replica.
	Put
	// Delete is a deletion through a replica; its version is the tombstone's.
	Delete
	// External is a write into the store behind the back of every replica, as
	// an operator's tool makes it. Nobody acknowledges it.
	External
	// ExternalDelete is a deletion of that kind.
	ExternalDelete
	// Refresh is one replica's acknowledgement that it has a change.
	Refresh
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case Get:
		return "get"
	case Put:
		return "put"
	case Delete:
		return "delete"
	case External:
		return "external put"
	case ExternalDelete:
		return "external delete"
	case Refresh:
		return "refresh"
	}
	return "unknown"
}

// Writes reports whether an Op of this kind makes a version.
func (k Kind) Writes() bool {
	return k == Put || k == Delete || k == External || k == ExternalDelete
}

// Deletes reports whether the version that it makes is a tombstone.
func (k Kind) Deletes() bool { return k == Delete || k == ExternalDelete }

// Mark is what an answer says of its own age.
type Mark uint8

// The marks of an answer.
const (
	Fresh Mark = iota
	Degraded
	Stale
)

// String returns the mark's name.
func (m Mark) String() string { return [...]string{"fresh", "degraded", "stale"}[m] }

// Replicas is a set of replicas, by their number from 0 to 31.
type Replicas uint32

// Only returns the set of one replica.
func Only(r int) Replicas { return 1 << r }

// All returns the set of the first n replicas.
func All(n int) Replicas { return 1<<n - 1 }

// Has reports whether r is in the set.
func (s Replicas) Has(r int) bool { return s&(1<<r) != 0 }

// Never is the Return of a write whose outcome its client was not told: it may
// take effect at any time behind its Call.
const Never = int64(math.MaxInt64)

// Op is one question and its answer. Questions that failed and changed nothing
// are not recorded.
type Op struct {
	Call, Return int64 // nanoseconds since the recording began
	Version      uint64
	MinVersion   uint64 // that a Get asked for; 0 is none
	Lag          int64  // nanoseconds that a Get's answer says it may be behind its replica
	ID           int32  // index into History.IDs
	Session      int32
	Replica      int8 // that was asked; External ops have -1
	Kind         Kind
	Mark         Mark
	Absent       bool     // the answer is that there is no such value
	Final        bool     // a Get after everything was healed and had settled
	Acked        Replicas // which have the change, as the answer says
	Canary       Canary   // what came of the check of a Get's value
}

// EventKind says what an Event of a watch is.
type EventKind uint8

// The kinds of Event.
const (
	// Opened is the call that begins a stream without a resume token.
	Opened EventKind = iota + 1
	// Resumed is the call that goes on with one.
	Resumed
	// Value carries a version that is there.
	Value
	// Gone carries a tombstone, whose version may not be known: 0.
	Gone
	// Synced ends the present state.
	Synced
	// Gap says that something may have been missed; the present state follows.
	Gap
	// Down and Up tell of the store.
	Down
	Up
	// Ended is the end of the stream by its client, when the run was over and
	// everything had settled.
	Ended
)

// String returns the kind's name.
func (k EventKind) String() string {
	return [...]string{"unknown", "opened", "resumed", "value", "gone", "synced", "gap", "down", "up", "ended"}[k]
}

// Event is one event of a watch, in the order in which its client got them.
type Event struct {
	At      int64
	Stream  int32
	ID      int32 // index into History.IDs, -1 where the ID is none of them
	Version uint64
	Replica int8
	Kind    EventKind
	Canary  Canary
}

// Stream is what one watch was to see.
type Stream struct {
	Replica int
	Scope   []int32 // indexes of the IDs that it covers
}

// Window is a time in which something was broken on purpose.
type Window struct {
	Name       string
	Start, End int64
	// Excuses says that answers marked as stale or degraded are to be expected.
	Excuses bool
	// Lies says that the store answers with older versions as if they were the
	// newest, so that what a replica reads from it proves nothing.
	Lies bool
}

// History is a whole record.
type History struct {
	Replicas int
	IDs      []config.ID
	Ops      []Op // by Call
	Events   []Event
	Streams  []Stream
	Windows  []Window
	// MaxStaleness is the route's, 0 where unannounced writes are not judged.
	MaxStaleness time.Duration
	// Settling is how long behind a window its effects may last.
	Settling time.Duration
	// Local says that each replica is asked through one client, which answers
	// from a cache of its own. An answer with a lag may be older than what the
	// replica had acknowledged by that and by Transit, which is what a message
	// takes at most from the replica into the client.
	Local   bool
	Transit time.Duration
	// Patience is how long a replica waits for its store before it answers with
	// what it has: a marked answer that took as long is excused by that. 0: none
	// is.
	Patience time.Duration
}

// Recorder makes a History. Its methods may be called at once from any number
// of goroutines; a Session belongs to one.
type Recorder struct {
	began time.Time
	now   func() time.Time

	mu       sync.Mutex
	sessions []*Session
	streams  []*Watch
	windows  []Window
	open     map[int]Window
	opened   int
}

// NewRecorder starts the clock.
func NewRecorder() *Recorder {
	return &Recorder{began: time.Now(), now: time.Now, open: map[int]Window{}}
}

// Now is the time on the recorder's clock.
func (r *Recorder) Now() int64 { return int64(r.now().Sub(r.began)) }

// Session returns a new session, which records what one client does.
func (r *Recorder) Session() *Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &Session{recorder: r, number: int32(len(r.sessions))}
	r.sessions = append(r.sessions, s)
	return s
}

// Session is one client's record.
type Session struct {
	recorder *Recorder
	number   int32
	ops      []Op
}

// Now is the time on the recorder's clock.
func (s *Session) Now() int64 { return s.recorder.Now() }

// Add records one Op. Its Call was taken from Now before the question was
// sent; Return is set here unless it is Never.
func (s *Session) Add(op Op) {
	if op.Return == 0 {
		op.Return = s.recorder.Now()
	}
	op.Session = s.number
	s.ops = append(s.ops, op)
}

// Watch is one stream's record.
type Watch struct {
	recorder *Recorder
	number   int32
	stream   Stream
	events   []Event
}

// Watch returns a new stream's record. It belongs to one goroutine.
func (r *Recorder) Watch(s Stream) *Watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &Watch{recorder: r, number: int32(len(r.streams)), stream: s}
	r.streams = append(r.streams, w)
	return w
}

// Add records one event as of now.
func (w *Watch) Add(e Event) {
	e.At, e.Stream, e.Replica = w.recorder.Now(), w.number, int8(w.stream.Replica)
	w.events = append(w.events, e)
}

// Break opens a window and returns what closes it.
func (r *Recorder) Break(w Window) (mended func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.Start, w.End = r.Now(), Never
	number := r.opened
	r.opened++
	r.open[number] = w
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if w, ok := r.open[number]; ok {
			delete(r.open, number)
			w.End = r.Now()
			r.windows = append(r.windows, w)
		}
	}
}

// History returns all that was recorded. Every session and stream must have
// ended; a window that is still open is one that never closes.
func (r *Recorder) History(h History) *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		h.Ops = append(h.Ops, s.ops...)
	}
	slices.SortStableFunc(h.Ops, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
	for _, w := range r.streams {
		h.Streams = append(h.Streams, w.stream)
		h.Events = append(h.Events, w.events...)
	}
	h.Windows = append(h.Windows, r.windows...)
	for _, w := range r.open {
		h.Windows = append(h.Windows, w)
	}
	slices.SortFunc(h.Windows, func(a, b Window) int { return cmp.Compare(a.Start, b.Start) })
	return &h
}
