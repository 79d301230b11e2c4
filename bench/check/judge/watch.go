package judge

import (
	"time"

	"github.com/tagstore/tagstore/bench/check/history"
)

// watches decides C5, stream by stream.
func (j *judge) watches() {
	streams := make([]*stream, len(j.h.Streams))
	for i, s := range j.h.Streams {
		streams[i] = &stream{judge: j, number: i, replica: s.Replica, scope: map[int32]bool{}}
		for _, id := range s.Scope {
			streams[i].scope[id] = true
		}
	}
	for _, e := range j.h.Events {
		streams[e.Stream].event(e)
	}
}

// stream is what one watch has shown so far.
type stream struct {
	*judge
	number  int
	replica int
	scope   map[int32]bool
	seen    map[int32]uint64
	// since is when the call began whose present state, or missed changes, are
	// on their way; what was acknowledged before has to be among them.
	since int64
	// catching says that they are not all there yet.
	catching bool
	// again says that what was seen already may come a second time.
	again bool
}

func (s *stream) event(e history.Event) {
	at := time.Duration(e.At)
	switch e.Kind {
	case history.Opened:
		s.seen, s.since, s.catching, s.again = map[int32]uint64{}, e.At, true, false
	case history.Resumed:
		s.since, s.catching, s.again = e.At, true, true
	case history.Gap:
		// What has been acknowledged since the call can be in the state that
		// follows, what had been before must.
		s.seen, s.catching, s.again = map[int32]uint64{}, true, false
	case history.Value, history.Gone:
		if e.Canary.Bad() {
			s.breach(C3, "watch %d got version %d of %s at %v with the value %v", s.number, e.Version, s.name(e.ID), at, e.Canary)
		}
		if !s.scope[e.ID] {
			s.breach(C5, "watch %d got %s at %v, which it did not ask for", s.number, s.name(e.ID), at)
			return
		}
		if was := s.seen[e.ID]; e.Version < was || e.Version == was && !s.again {
			s.breach(C5, "watch %d got version %d of %s at %v behind version %d", s.number, e.Version, s.name(e.ID), at, was)
		}
		s.seen[e.ID] = max(s.seen[e.ID], e.Version)
		if began := s.lines[e.ID].began.before(e.At); e.Version > began {
			s.breach(C1Future, "watch %d got version %d of %s at %v, but %d is the newest that anybody had begun to write", s.number, e.Version, s.name(e.ID), at, began)
		}
	case history.Synced:
		if s.catching {
			s.owed(e.At, "was synced", func(id int32) uint64 { return s.lines[id].floors[s.replica].before(s.since) })
		}
		s.catching, s.again = false, false
	case history.Ended:
		if s.catching {
			s.breach(C5, "watch %d never got all of its present state", s.number)
			return
		}
		s.owed(e.At, "ended", func(id int32) uint64 { return s.lines[id].done.before(history.Never) })
	case history.Down, history.Up:
	}
}

// owed finds what should have been shown by now. A key that was not shown is
// absent, or should be.
func (s *stream) owed(at int64, when string, floor func(id int32) uint64) {
	for id := range s.scope {
		shown, ok := s.seen[id]
		if !ok {
			shown = s.lines[id].tombs.before(at)
		}
		if least := floor(id); shown < least {
			s.breach(C5, "watch %d %s at %v with version %d of %s, but version %d had been acknowledged",
				s.number, when, time.Duration(at), shown, s.name(id), least)
		}
	}
}
