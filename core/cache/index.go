package cache

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// NewClock returns a Table of at most maxCost, but for what is being set. It is
// our own: beside Ristretto it takes less memory and time, and keeps what it is
// given (ADR 0026).
//
// A Set can be read when it returns, and what is read is what was set last. Who
// reads takes no lock, and looks at one line of memory beside the record: eight
// bytes of tags, one of each record's hash, and seven pointers behind them.
//
// What has to give way is found by a clock hand. A record that was read since the
// hand came by is passed over, up to hottest times if it was read as often.
func NewClock(maxCost int64) (Table, error) {
	t := &index{max: maxCost}
	for i := range t.shards {
		t.shards[i].lines.Store(&lines{at: make([]line, 1)})
	}
	return t, nil
}

const (
	indexShards = 256
	perLine     = 7
	// hottest is how often the hand passes over what is read all the time.
	hottest = 3
	// reach is how many lines a record may be in, and how many the hand looks
	// at before it takes the least used of them.
	reach = 8
	// overflown marks, in place of an eighth tag, a line that was full when one
	// more record was to go there: it may be in the lines that follow.
	overflown uint64 = 1 << 63
	ones      uint64 = 0x0001_0101_0101_0101
	highs     uint64 = ones << 7
)

// line is as much as the processor fetches at once.
type line struct {
	tags    atomic.Uint64 // 0: the place is free
	records [perLine]atomic.Pointer[Record]
}

// lines are those of a shard, their number a power of two. They are replaced to
// grow.
type lines struct {
	at   []line
	held int // records, which the shard's lock guards
}

type shard struct {
	mu    sync.Mutex
	lines atomic.Pointer[lines]
	hand  int      // place that the clock hand points at
	_     [40]byte // a shard that is written does not slow the next one's readers
}

type index struct {
	max    int64
	cost   atomic.Int64
	hand   atomic.Uint64 // shard that gives way next
	shards [indexShards]shard
}

// The hash's lowest bits choose the line, its highest the shard, and those below
// them the tag.
func (t *index) shard(hash uint64) *shard { return &t.shards[hash>>56] }

func tag(hash uint64) uint64 {
	if tag := hash >> 48 & 0xff; tag != 0 {
		return tag
	}
	return 1
}

// having has the highest bit of each byte set where tags has this tag, and
// perhaps above one where it has.
func having(tags, tag uint64) uint64 {
	x := (tags ^ tag*ones) &^ (0xff << 56)
	return (x - ones) &^ x & highs
}

// Get returns what was set last, unless it was deleted or had to give way. One
// that is moved or replaced at this very moment may be missed.
func (t *index) Get(hash uint64) (*Record, bool) {
	lines := t.shard(hash).lines.Load()
	at := lines.at
	mask := uint64(len(at) - 1)
	want := tag(hash)
	for i := range uint64(reach) {
		l := &at[(hash+i)&mask]
		tags := l.tags.Load()
		for m := having(tags, want); m != 0; m &= m - 1 {
			r := l.records[uint(bits.TrailingZeros64(m))/8%perLine].Load()
			if r != nil && r.hash == hash {
				return r, true
			}
		}
		if tags&overflown == 0 {
			return nil, false
		}
	}
	return nil, false
}

// find returns where a hash is. The lock is held.
func (ls *lines) find(hash uint64) (l *line, place int, ok bool) {
	mask := uint64(len(ls.at) - 1)
	for i := range uint64(reach) {
		l := &ls.at[(hash+i)&mask]
		for p := range perLine {
			if r := l.records[p].Load(); r != nil && r.hash == hash {
				return l, p, true
			}
		}
		if l.tags.Load()&overflown == 0 {
			break
		}
	}
	return nil, 0, false
}

// add puts in what is not there. It reports false where that takes more lines.
// The lock is held.
func (ls *lines) add(r *Record) bool {
	if ls.held+1 > len(ls.at)*perLine*13/16 {
		return false
	}
	mask := uint64(len(ls.at) - 1)
	for i := range uint64(reach) {
		l := &ls.at[(r.hash+i)&mask]
		tags := l.tags.Load()
		for p := range perLine {
			if l.records[p].Load() == nil {
				l.records[p].Store(r)
				l.tags.Store(tags | tag(r.hash)<<(8*p))
				ls.held++
				return true
			}
		}
		l.tags.Store(tags | overflown)
	}
	return false
}

// take removes the record at a place. The lock is held.
func (ls *lines) take(l *line, place int) {
	l.tags.Store(l.tags.Load() &^ (0xff << (8 * place)))
	l.records[place].Store(nil)
	ls.held--
}

// with returns lines that hold r as well: ls, or more; nil where that takes too
// many, since the hashes are alike. The lock is held.
func (ls *lines) with(r *Record) *lines {
	more := ls
	for held := true; !held || !more.add(r); {
		if len(more.at) > 16*(1+ls.held) {
			return nil
		}
		more = &lines{at: make([]line, 2*len(more.at))}
		held = more.copy(ls)
	}
	return more
}

// copy adds what other holds.
func (ls *lines) copy(other *lines) bool {
	for i := range other.at {
		for p := range perLine {
			if r := other.at[i].records[p].Load(); r != nil && !ls.add(r) {
				return false
			}
		}
	}
	return true
}

// Set puts a record in place of what has its hash, and reports false for one
// that costs more than all may, or whose hash is like too many others.
func (t *index) Set(hash uint64, r *Record, cost int64) bool {
	if cost > t.max {
		t.Delete(hash)
		return false
	}
	s := t.shard(hash)
	s.mu.Lock()
	ls := s.lines.Load()
	if l, place, ok := ls.find(hash); ok {
		cost -= l.records[place].Swap(r).cost()
	} else {
		if ls = ls.with(r); ls == nil {
			s.mu.Unlock()
			return false
		}
		s.lines.Store(ls)
	}
	s.mu.Unlock()
	if t.cost.Add(cost) > t.max {
		t.makeRoom()
	}
	return true
}

// makeRoom removes what was not read for the longest time, shard by shard.
func (t *index) makeRoom() {
	for t.cost.Load() > t.max {
		t.shards[t.hand.Add(1)%indexShards].giveWay(t)
	}
}

// giveWay goes on with the hand until a record has to go, which is the least
// used of a few lines at the latest.
func (s *shard) giveWay(t *index) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ls := s.lines.Load()
	var coldest *line
	var place int
	least := uint32(hottest + 1)
	for n := 0; n < reach*perLine && least > 0; n++ {
		s.hand = (s.hand + 1) % (len(ls.at) * perLine)
		l, p := &ls.at[s.hand/perLine], s.hand%perLine
		if r := l.records[p].Load(); r != nil {
			if heat := r.cool(); heat < least {
				coldest, place, least = l, p, heat
			}
		}
	}
	if coldest != nil {
		t.cost.Add(-coldest.records[place].Load().cost())
		ls.take(coldest, place)
	}
}

// Delete removes what has this hash.
func (t *index) Delete(hash uint64) {
	s := t.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	ls := s.lines.Load()
	if l, place, ok := ls.find(hash); ok {
		t.cost.Add(-l.records[place].Load().cost())
		ls.take(l, place)
	}
}

// Wait returns at once: nothing that was set is late.
func (t *index) Wait() {}

// Cost is the sum of the costs of what is held.
func (t *index) Cost() int64 { return t.cost.Load() }

// Close does nothing: there is nothing that would go on.
func (t *index) Close() {}
