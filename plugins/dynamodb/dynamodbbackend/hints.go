package dynamodbbackend

import (
	"container/list"
	"sync"

	"github.com/tagstore/tagstore/core/config"
)

// lru is a bounded map that forgets what was unused for longest. It is safe for
// concurrent use.
type lru[V any] struct {
	mu    sync.Mutex
	limit int
	order *list.List // of *lruItem[V], the newest first
	items map[config.ID]*list.Element
}

type lruItem[V any] struct {
	id    config.ID
	value V
}

func newLRU[V any](limit int) *lru[V] {
	return &lru[V]{limit: limit, order: list.New(), items: map[config.ID]*list.Element{}}
}

// get returns what is kept for id.
func (l *lru[V]) get(id config.ID) (v V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.items[id]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*lruItem[V]).value, true
}

// update replaces what is kept for id. change gets the old value, if there is
// one, and returns the new one; evicted gets what has to make room for it. Both
// run under the lock.
func (l *lru[V]) update(id config.ID, change func(old V, ok bool) (V, bool), evicted func(config.ID, V)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.items[id]; ok {
		item := e.Value.(*lruItem[V])
		if v, keep := change(item.value, true); keep {
			item.value = v
			l.order.MoveToFront(e)
		}
		return
	}
	var none V
	v, keep := change(none, false)
	if !keep {
		return
	}
	l.items[id] = l.order.PushFront(&lruItem[V]{id, v})
	if l.order.Len() > l.limit {
		oldest := l.order.Remove(l.order.Back()).(*lruItem[V])
		delete(l.items, oldest.id)
		if evicted != nil {
			evicted(oldest.id, oldest.value)
		}
	}
}

// hint is the last that was seen of an ID. It may be wrong: every write is
// checked by the table, and a wrong hint costs one more call.
type hint struct {
	version uint64
	live    bool
	foreign bool
}

// maxHints bounds the memory of hints to a few megabytes.
const maxHints = 10_000

type hints struct{ *lru[hint] }

func newHints() hints { return hints{newLRU[hint](maxHints)} }

// saw notes a state that was read. An older one than is known is not taken.
func (h hints) saw(id config.ID, s state) {
	if !s.exists {
		return
	}
	h.update(id, func(old hint, ok bool) (hint, bool) {
		return hint{s.version, s.live, s.foreign}, !ok || s.version >= old.version
	}, nil)
}

// wrote notes a write of this process.
func (h hints) wrote(id config.ID, version uint64, live bool) {
	h.update(id, func(old hint, ok bool) (hint, bool) {
		return hint{version: version, live: live}, !ok || version >= old.version
	}, nil)
}
