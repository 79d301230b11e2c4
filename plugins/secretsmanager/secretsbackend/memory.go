package secretsbackend

import (
	"container/list"
	"context"
	"strings"
	"sync"
	"time"
)

// Secrets Manager's operations are eventually consistent, ListSecrets by up to
// five minutes. So the store remembers what it wrote and refreshed, for longer
// than that, and takes no answer for good that is older.
const (
	rememberFor = 10 * time.Minute
	// rememberMost bounds the memory, at about 300 bytes each.
	rememberMost = 50_000
	// settling is how long after a write an answer that the secret does not exist
	// is asked again.
	settling = 5 * time.Second
)

// fact is what is known of one secret.
type fact struct {
	name   string
	arn    string // of this secret: another one of the same name has another
	id     string // of the version that is current
	number uint64
	live   bool
	wrote  time.Time
}

// memory holds facts, the newest first.
type memory struct {
	mu    sync.Mutex
	facts map[string]*list.Element
	order *list.List
}

func newMemory() *memory { return &memory{facts: map[string]*list.Element{}, order: list.New()} }

// note keeps a fact, unless a newer one of the same secret is known.
func (m *memory) note(f fact) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.facts[f.name]; ok {
		old := e.Value.(fact)
		if old.arn == f.arn && old.number > f.number {
			return
		}
		m.order.Remove(e)
	}
	m.facts[f.name] = m.order.PushFront(f)
	for m.order.Len() > rememberMost || f.wrote.Sub(m.order.Back().Value.(fact).wrote) > rememberFor {
		last := m.order.Back()
		delete(m.facts, last.Value.(fact).name)
		m.order.Remove(last)
	}
}

// of returns what is known of a secret.
func (m *memory) of(name string, now time.Time) (fact, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.facts[name]
	if !ok || now.Sub(e.Value.(fact).wrote) > rememberFor {
		return fact{}, false
	}
	return e.Value.(fact), true
}

// forget drops a fact that does not hold any more.
func (m *memory) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.facts[name]; ok {
		delete(m.facts, name)
		m.order.Remove(e)
	}
}

// live returns the names of the live secrets that start with a prefix.
func (m *memory) live(prefix string, now time.Time) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for e := m.order.Front(); e != nil; e = e.Next() {
		f := e.Value.(fact)
		if now.Sub(f.wrote) > rememberFor {
			break
		}
		if f.live && strings.HasPrefix(f.name, prefix) {
			names = append(names, f.name)
		}
	}
	return names
}

// note remembers what a write or Refresh found.
func (s *Store) note(name, arn, version string, number uint64, live bool) {
	s.memory.note(fact{name: name, arn: arn, id: version, number: number, live: live, wrote: s.now()})
}

// stale reports whether an answer is older than what is known. arn and number are
// zero where the answer was that there is no such secret.
func (s *Store) stale(name, arn string, number uint64) bool {
	f, ok := s.memory.of(name, s.now())
	switch {
	case !ok:
		return false
	case arn == "":
		return f.live && s.now().Sub(f.wrote) < settling
	}
	return f.arn == arn && number < f.number
}

// How often an answer that is older than what is known is asked again: one that
// there is no such secret over a third of a second, since it may have been
// deleted elsewhere, and a lower version over two seconds.
const (
	absentTries = 3
	staleTries  = 8
)

// settled asks until the answer is not older than what is known. try returns
// NotFound for a secret that is not there.
func settled[T any](ctx context.Context, s *Store, try func() (answer T, older bool, err error)) (T, error) {
	var none T
	for attempt := 0; ; attempt++ {
		answer, older, err := try()
		switch {
		case !older, err != nil && attempt == absentTries:
			return answer, err
		case attempt == staleTries:
			return none, errStale()
		}
		if err := s.pause(ctx, attempt); err != nil {
			return none, err
		}
	}
}
