package cache

import (
	"sync"

	"github.com/tagstore/tagstore/core/config"
)

// negativePart is the part of a tenant's share that absences may take: they are
// asked for at will, by keys that cost nothing to make up.
const negativePart = 10

// shares bounds how much of the table one tenant takes, so that none can evict
// what others use, and finds the records again: a Table can not be walked.
type shares struct {
	table *gate
	limit int64 // of one tenant, in cost

	mu       sync.RWMutex
	byTenant map[config.Tenant]*share
}

func newShares(table *gate, limit int64) *shares {
	return &shares{table: table, limit: limit, byTenant: map[config.Tenant]*share{}}
}

// share is what one tenant put into the table.
type share struct {
	mu       sync.Mutex
	values   queue
	absences queue
	seq      uint32
}

// queue remembers what was put, oldest first. Some of it may have been evicted
// or replaced meanwhile, which sweep finds out.
type queue struct {
	held  []held
	used  int64 // cost of all held
	swept int   // length after the last sweep
}

type held struct {
	hash uint64
	cost uint32
	seq  uint32
}

func (s *shares) of(t config.Tenant) *share {
	s.mu.RLock()
	sh := s.byTenant[t]
	s.mu.RUnlock()
	if sh != nil {
		return sh
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh = s.byTenant[t]; sh == nil {
		sh = &share{}
		s.byTenant[t] = sh
	}
	return sh
}

// put stores a record and makes room for it in its tenant's own share. It
// reports false for one that is not kept.
func (s *shares) put(r *Record) bool {
	cost := r.cost()
	sh := s.of(r.site.tenant)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	q, limit := &sh.values, s.limit
	if r.flags.has(isAbsent) {
		q, limit = &sh.absences, s.limit/negativePart
	}
	if cost > limit {
		return false
	}
	grown := len(q.held) > q.swept+q.swept/4+64
	if grown && (q.used+cost > limit || len(q.held) > 2*q.swept+1024) {
		s.sweep(q)
	}
	for q.used+cost > limit {
		if s.live(q.held[0]) {
			s.table.delete(q.held[0].hash)
		}
		q.used -= int64(q.held[0].cost)
		q.held = q.held[1:]
	}
	sh.seq++
	r.seq = sh.seq
	if !s.table.set(r.hash, r, cost) {
		return false
	}
	q.held = append(q.held, held{hash: r.hash, cost: uint32(min(cost, 1<<32-1)), seq: r.seq})
	q.used += cost
	return true
}

// live reports whether what was put is still in the table.
func (s *shares) live(h held) bool {
	r, ok := s.table.get(h.hash)
	return ok && r.seq == h.seq
}

// sweep forgets what is no longer in the table.
func (s *shares) sweep(q *queue) {
	s.table.settle() // what was put just now is not gone, only late
	kept := make([]held, 0, len(q.held))
	q.used = 0
	for _, h := range q.held {
		if s.live(h) {
			kept = append(kept, h)
			q.used += int64(h.cost)
		}
	}
	q.held, q.swept = kept, len(kept)
}

// walk calls visit with what each tenant holds, oldest first, until it returns
// false. It holds no lock meanwhile.
func (s *shares) walk(visit func(*Record) bool) {
	s.mu.RLock()
	all := make([]*share, 0, len(s.byTenant))
	for _, sh := range s.byTenant {
		all = append(all, sh)
	}
	s.mu.RUnlock()
	for _, sh := range all {
		sh.mu.Lock()
		held := append(append([]held(nil), sh.values.held...), sh.absences.held...)
		sh.mu.Unlock()
		for _, h := range held {
			if r, ok := s.table.get(h.hash); ok && r.seq == h.seq && !visit(r) {
				return
			}
		}
	}
}
