package cache

import (
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// The bounds of what is remembered of acknowledged versions.
const (
	floorKeep = 10 * time.Minute
	floorMost = 1 << 16
)

// floors remembers the least version that an ID can have, for the time in
// which a store that answers from an old copy could still bring an older one
// back.
type floors struct {
	mu    sync.Mutex
	byID  map[place]floor
	order []raised // oldest first
}

// place is one ID of one store.
type place struct {
	space uint32
	id    config.ID
}

type raised struct {
	place place
	until time.Duration
}

type floor struct {
	version uint64
	gone    bool          // and that version is not there any more
	updated time.Time     // what the store said
	until   time.Duration // of Cache.since
	at      uint64        // of the clock when it was raised
}

// raise notes that id was acknowledged as e, or as absent: then every version
// up to the deletion's is outdated, or up to the last one that was known. For
// a store that forgets there is no floor then: it counts from 1 again. born is the
// clock before the store was asked, at what it is now. An absence without a
// version of its own says nothing of what was acknowledged since born.
func (f *floors) raise(space uint32, e config.Entry, absent, forgets bool, born, at uint64, now time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byID == nil {
		f.byID = map[place]floor{}
	}
	in := place{space, e.ID}
	was, known := f.byID[in]
	if absent && e.Version == 0 {
		if known && was.at >= born && !was.gone {
			return
		}
		e.Version, e.UpdatedAt = was.version, was.updated
	}
	if absent && forgets || e.Version == 0 {
		delete(f.byID, in)
		return
	}
	if again := absent && e.Version == was.version; known && was.over(e) && !again {
		return
	}
	until := now + floorKeep
	f.byID[in] = floor{version: e.Version, gone: absent, updated: e.UpdatedAt, until: until, at: at}
	f.order = append(f.order, raised{in, until})
	for len(f.order) > 0 && (len(f.order) > floorMost || f.order[0].until < now) {
		if old := f.order[0]; f.byID[old.place].until == old.until { // else it was raised again
			delete(f.byID, old.place)
		}
		f.order = f.order[1:]
	}
}

// forbids reports whether e is older than what was acknowledged of its ID.
func (f *floors) forbids(space uint32, e config.Entry, now time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	known, ok := f.byID[place{space, e.ID}]
	return ok && known.until >= now && known.over(e)
}

// over reports whether e is an older state of the ID. A lower version that was
// made later is a new life of a key whose history its store has forgotten.
func (f floor) over(e config.Entry) bool {
	return (e.Version < f.version || f.gone && e.Version == f.version) && !e.UpdatedAt.After(f.updated)
}
