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
	byID  map[config.ID]floor
	order []raised // oldest first
}

type raised struct {
	id    config.ID
	until time.Duration
}

type floor struct {
	version uint64
	gone    bool          // and that version is not there any more
	updated time.Time     // what the store said
	until   time.Duration // of Cache.since
}

// raise notes that id was acknowledged as e, or as absent: then every version
// up to the deletion's is outdated, or up to the last one that was known. For
// a store that forgets there is no floor then: it counts from 1 again.
func (f *floors) raise(e config.Entry, absent, forgets bool, now time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byID == nil {
		f.byID = map[config.ID]floor{}
	}
	was, known := f.byID[e.ID]
	if absent && e.Version == 0 {
		e.Version, e.UpdatedAt = was.version, was.updated
	}
	if absent && forgets || e.Version == 0 {
		delete(f.byID, e.ID)
		return
	}
	if again := absent && e.Version == was.version; known && was.over(e) && !again {
		return
	}
	until := now + floorKeep
	f.byID[e.ID] = floor{version: e.Version, gone: absent, updated: e.UpdatedAt, until: until}
	f.order = append(f.order, raised{e.ID, until})
	for len(f.order) > 0 && (len(f.order) > floorMost || f.order[0].until < now) {
		if old := f.order[0]; f.byID[old.id].until == old.until { // else it was raised again
			delete(f.byID, old.id)
		}
		f.order = f.order[1:]
	}
}

// forbids reports whether e is older than what was acknowledged of its ID.
func (f *floors) forbids(e config.Entry, now time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	known, ok := f.byID[e.ID]
	return ok && known.until >= now && known.over(e)
}

// over reports whether e is an older state of the ID. A lower version that was
// made later is a new life of a key whose history its store has forgotten.
func (f floor) over(e config.Entry) bool {
	return (e.Version < f.version || f.gone && e.Version == f.version) && !e.UpdatedAt.After(f.updated)
}
