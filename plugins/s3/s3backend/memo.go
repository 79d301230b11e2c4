package s3backend

import "sync"

// memoSize is how many versions of objects a Store remembers at least.
const memoSize = 8192

// memo remembers the version numbers of objects that were looked into: what an
// object is, once known, does not change. It holds at most twice memoSize.
type memo struct {
	mu       sync.Mutex
	new, old map[seen]uint64
}

// seen is one version of one object.
type seen struct{ path, revision string }

func (m *memo) get(k seen) (uint64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.new[k]; ok {
		return v, true
	}
	v, ok := m.old[k]
	if ok {
		m.add(k, v)
	}
	return v, ok
}

func (m *memo) put(k seen, version uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(k, version)
}

func (m *memo) add(k seen, version uint64) {
	if len(m.new) >= memoSize || m.new == nil {
		m.old, m.new = m.new, make(map[seen]uint64)
	}
	m.new[k] = version
}
