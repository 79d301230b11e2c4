package daxtest

import "time"

// Drop says when a fault closes the connection.
type Drop int

// The moments at which a connection can be dropped.
const (
	DropNever Drop = iota
	// DropBefore closes it when a request arrives, before it is carried out.
	DropBefore
	// DropAfter closes it after the request was carried out, without an answer.
	DropAfter
	// DropMidway closes it after half of the answer.
	DropMidway
)

// Fault is what goes wrong with requests of one method. The fields work
// together: a Delay comes first, then a Hang, and so on downwards.
type Fault struct {
	// Times is how many requests the fault hits. 0 means all until it is healed.
	Times int
	// Delay is how long the request waits before anything happens.
	Delay time.Duration
	// Hang keeps the connection open and silent until it is dropped.
	Hang bool
	// Drop closes the connection.
	Drop Drop
	// Failure is answered instead of carrying the request out.
	Failure *Failure
	// Raw is sent instead of an answer.
	Raw []byte
	// Unprocessed leaves this many of a batch's keys or items unprocessed,
	// counted from its end.
	Unprocessed int
	// Instead is the key of the item whose attributes, and key, are answered
	// for every key that is read. It makes the node a liar.
	Instead Item
}

// fault is one that was injected and how often it still hits.
type fault struct {
	Fault
	method string
	left   int // < 0 means without end
}

// Fail makes requests of a method go wrong, "*" those of every method. The
// returned function heals it. Of several faults the newest hits.
func (s *Server) Fail(method string, f Fault) (heal func()) {
	injected := &fault{Fault: f, method: method, left: f.Times}
	if f.Times == 0 {
		injected.left = -1
	}
	s.mu.Lock()
	s.faults = append(s.faults, injected)
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		injected.left = 0
	}
}

// hit returns the fault for a request, the zero Fault if there is none.
func (s *Server) hit(method string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.faults) - 1; i >= 0; i-- {
		f := s.faults[i]
		if f.left == 0 || (f.method != method && f.method != Any) {
			continue
		}
		if f.left > 0 {
			f.left--
		}
		return f.Fault
	}
	return Fault{}
}
