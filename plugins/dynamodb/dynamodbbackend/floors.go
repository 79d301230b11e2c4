package dynamodbbackend

import (
	"hash/maphash"
	"sync"

	"github.com/tagstore/tagstore/core/config"
)

// floors say for each ID what an eventually consistent read may not be older
// than: this Backend's own writes and Refreshes (clause C29). A read below its
// floor is repeated from the table with strong consistency.
//
// The floors of the IDs that were unused for longest are merged into coarse
// ones: all IDs of one bucket share the highest floor of those that left it. So
// none is ever lost, however many IDs there are; what is lost is that some reads
// have to be repeated though their answer was good. Such a repeated read gives
// its ID a floor of its own again.
type floors struct {
	exact *lru[floor]
	seed  maphash.Seed

	mu     sync.Mutex
	coarse []coarseFloor
	// clock counts changes, so that a strong read knows whether a floor is newer
	// than itself.
	clock uint64
}

// floor is the least that an ID's reads may answer.
type floor struct {
	// version is the least version; 0 where the ID was found not to exist.
	version uint64
	// only, if set, is the one revision that will do: versions do not order the
	// states that other tools make.
	only config.Revision
	set  uint64 // clock
}

// coarseFloor is that of all IDs of a bucket that have none of their own.
type coarseFloor struct {
	version uint64
	absent  bool // one of them was found not to exist
	set     uint64
}

// The bounds of floors: a few megabytes.
const (
	maxFloors    = 32_768
	floorBuckets = 8192
)

func newFloors(limit int) *floors {
	return &floors{exact: newLRU[floor](limit), seed: maphash.MakeSeed(), coarse: make([]coarseFloor, floorBuckets)}
}

func (f *floors) bucket(id config.ID) *coarseFloor {
	return &f.coarse[maphash.Comparable(f.seed, id)%floorBuckets]
}

// now is the moment to give to raise: it lies before the strong read begins.
func (f *floors) now() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clock
}

// allows reports whether an eventually consistent read may answer s.
func (f *floors) allows(id config.ID, s state) bool {
	if exact, ok := f.exact.get(id); ok {
		switch {
		case exact.version == 0:
			return !s.exists
		case exact.only != "":
			return s.exists && s.revision == exact.only
		default:
			return s.exists && s.version >= exact.version
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.bucket(id)
	switch {
	case c.version > 0 && (!s.exists || s.version < c.version):
		return false
	case c.absent && s.exists:
		return false
	}
	return true
}

// wrote raises the floor to a version that this Backend has written.
func (f *floors) wrote(id config.ID, version uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clock++
	f.exact.update(id, func(old floor, ok bool) (floor, bool) {
		return floor{version: version, set: f.clock}, !ok || version >= old.version
	}, f.evicted)
}

// read sets the floor to a state that was read with strong consistency, in a
// read that began at the moment began. Without always it is set only where
// there is a floor, exact or coarse, that it can replace.
func (f *floors) read(id config.ID, s state, began uint64, always bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clock++
	next := floor{version: s.version, set: f.clock}
	if s.foreign {
		next.only = s.revision
	}
	c := f.bucket(id)
	overtaken := false
	f.exact.update(id, func(old floor, ok bool) (floor, bool) {
		switch {
		case ok && old.set > began:
			// A write or a read that ended meanwhile knows better, unless this
			// is surely later.
			return next, s.version > old.version
		case !ok && c.set > began:
			// What left meanwhile may have been this ID's.
			overtaken = true
			return next, false
		}
		if ok && s.exists && s.version < old.version {
			next.only = s.revision // another tool set the count back
		}
		return next, ok || always || c.version > 0 || c.absent
	}, f.evicted)
	if overtaken && always {
		f.evicted(id, next)
	}
}

// evicted merges a floor that has to go into its bucket's.
func (f *floors) evicted(id config.ID, old floor) {
	c := f.bucket(id)
	f.clock++
	c.set = f.clock
	switch {
	case old.version == 0:
		c.absent = true
	case old.only != "" && old.version < noVersion:
		c.version = max(c.version, old.version+1) // not even one of the same version will do
	default:
		c.version = max(c.version, old.version)
	}
}
