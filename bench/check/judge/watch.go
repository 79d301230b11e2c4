package judge

import (
	"fmt"
	"slices"
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
	seen    map[int32]told
	// since is when the call began whose present state, or missed changes, are
	// on their way; what was acknowledged before has to be among them.
	since int64
	// catching says that they are not all there yet.
	catching bool
	// again are the IDs whose last version may come a second time: those that
	// had one when the stream was resumed.
	again map[int32]bool
}

// told is what a watch has shown of one ID: a version, or, of a deletion, whose
// version is the least that it can have, the oldest and the newest that it can
// have been.
type told struct {
	least, most uint64
	gone        bool
}

// told is what an event can mean.
func (s *stream) told(e history.Event, was uint64) told {
	if e.Kind != history.Gone {
		return told{e.Version, e.Version, false}
	}
	l := s.lines[e.ID]
	if i, _ := slices.BinarySearch(l.deletions, max(e.Version, was+1)); i < len(l.deletions) {
		return told{l.deletions[i], max(l.tombs.before(e.At), l.deletions[i]), true}
	}
	return told{e.Version, e.Version, true}
}

func (s *stream) event(e history.Event) {
	at := time.Duration(e.At)
	switch e.Kind {
	case history.Opened:
		s.seen, s.since, s.catching, s.again = map[int32]told{}, e.At, true, map[int32]bool{}
	case history.Resumed:
		s.since, s.catching = e.At, true
		for id := range s.seen {
			s.again[id] = true
		}
	case history.Gap:
		// What has been acknowledged since the call can be in the state that
		// follows, what had been before must.
		s.seen, s.catching, s.again = map[int32]told{}, true, map[int32]bool{}
	case history.Value, history.Gone:
		if e.Canary.Bad() {
			s.breach(C3, "watch %d got version %d of %s at %v with the value %v", s.number, e.Version, s.name(e.ID), at, e.Canary)
		}
		if !s.scope[e.ID] {
			s.breach(C5, "watch %d got %s at %v, which it did not ask for", s.number, s.name(e.ID), at)
			return
		}
		was := s.seen[e.ID].least
		now := s.told(e, was)
		// What a store that lies has shown unasked is nothing to hold it to; what
		// was acknowledged is.
		bound := was
		if s.during(e.At, e.At, lies, int64(s.h.Settling)) {
			bound = min(was, s.lines[e.ID].floors[s.replica].before(s.since))
		}
		if now.most < bound || now.most == was && !s.again[e.ID] {
			s.breach(C5, "watch %d got version %d of %s (%v) at %v behind version %d", s.number, e.Version, s.name(e.ID), e.Kind, at, was)
			if s.v.Breaches[C5] == 1 {
				s.recount(e.ID, e.At)
				s.replay(e.ID, e.At)
			}
		} else {
			s.seen[e.ID] = now
		}
		delete(s.again, e.ID)
		if began := s.lines[e.ID].began.before(e.At); now.least > began {
			s.breach(C1Future, "watch %d got version %d of %s at %v, but %d is the newest that anybody had begun to write", s.number, now.least, s.name(e.ID), at, began)
		}
	case history.Synced:
		if s.catching {
			s.owed(e.At, "was synced", func(id int32) uint64 {
				least := s.lines[id].floors[s.replica].before(s.since)
				if s.lines[id].tombs.before(e.At) > least {
					return 0 // deleted since, which a watch is told later: as P2 allows where nobody announced it
				}
				return least
			})
		}
		s.catching = false
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
		told, ok := s.seen[id]
		shown := told.most
		if !ok || told.gone { // a later deletion changes nothing that is to be shown
			shown = max(shown, s.lines[id].tombs.before(at))
		}
		if least := floor(id); shown < least {
			s.breach(C5, "watch %d %s at %v with version %d of %s, but version %d had been acknowledged",
				s.number, when, time.Duration(at), shown, s.name(id), least)
			if s.v.Breaches[C5] == 1 {
				s.recount(id, at)
				s.replay(id, at)
			}
		}
	}
}

// replay says what the stream showed of one ID before a time.
func (s *stream) replay(id int32, before int64) {
	var last []string
	for _, e := range s.h.Events {
		if int(e.Stream) == s.number && e.At <= before && (e.ID == id || e.ID < 0) {
			last = append(last, fmt.Sprintf("    watch %d: %v version %d at %v", s.number, e.Kind, e.Version, time.Duration(e.At)))
		}
	}
	s.v.Examples = append(s.v.Examples, last[max(0, len(last)-2*trail):]...)
}
