package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// The bounds of views.
const (
	maxViews      = 10_000
	maxViewKeys   = 100_000
	maxViewEvents = 4096    // that a slow or returning watcher can still get
	maxViewBytes  = 4 << 20 // of the values in them
	viewIdle      = 2 * time.Minute
)

// newBoot names one run of one replica.
func newBoot() string { return rand.Text() }

// views are what is watched of one route whose store can not be watched
// itself.
type views struct {
	b    *Backend
	wake chan struct{} // holds one: something is to be done at once

	mu      sync.RWMutex
	space   uint32 // of the store that they are of
	byScope map[scope][]*view
	count   int
	made    uint64
}

type scope struct {
	tenant  config.Tenant
	service config.Service
}

func (vs *views) init(b *Backend, space uint32) {
	vs.b, vs.wake, vs.space, vs.byScope = b, make(chan struct{}, 1), space, map[scope][]*view{}
}

// renounce ends all views: they are of another store.
func (vs *views) renounce(space uint32) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	for _, views := range vs.byScope {
		for _, v := range views {
			close(v.gone)
		}
	}
	vs.space, vs.count = space, 0
	clear(vs.byScope)
}

// view is the state and the newest changes of what lies below one prefix of one
// scope, for all who watch it. It is fed by what is applied, and made exact by
// listing the store.
type view struct {
	b      *Backend
	scope  scope
	prefix string
	name   string // part of its positions
	space  uint32
	gone   chan struct{} // closed when its store is not the route's any more

	mu       sync.Mutex
	watchers int
	idle     time.Duration // since when it has none
	known    map[config.Key]mark
	events   []event // the newest; the last one has number last
	bytes    int
	last     uint64
	changed  chan struct{} // closed and replaced with every event
	dirty    bool          // may have missed something
	listed   time.Duration // when the last good list of it began; 0: never
	list     *listing      // the newest
	walks    uint64        // counts them
}

// mark is what was told of one key last.
type mark struct {
	version  uint64
	revision config.Revision
	absent   bool
	at       uint64 // of the clock
}

// event is one change. Its value is missing where it must not be kept.
type event struct {
	entry  config.Entry
	absent bool
	bare   bool
	live   bool // there was a value before
}

// listing is one walk through the store, shared by those who asked for it
// before it began.
type listing struct {
	number  uint64
	began   time.Duration
	done    chan struct{}
	entries []config.Entry
	err     error
}

// changed tells the views what was applied. clean is what Backend.apply says.
func (vs *views) changed(r *said, clean bool) {
	vs.mu.RLock()
	views := vs.byScope[scope{r.entry.ID.Tenant, r.entry.ID.Service}]
	if r.space != vs.space {
		views = nil
	}
	vs.mu.RUnlock()
	for _, v := range views {
		if strings.HasPrefix(r.entry.ID.Key.String(), v.prefix) {
			v.note(r, clean)
		}
	}
}

// note takes one change unless it is known, or older than what is.
func (v *view) note(r *said, clean bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	k := r.entry.ID.Key
	was, known := v.known[k]
	// Versions that only ever grow order what the clock leaves open.
	counted := r.entry.Version > 0 && (was.version > 0 || !known) && !v.forgets()
	switch {
	case counted && r.entry.Version <= was.version:
		return
	case !counted && known && (r.born <= was.at || was.says(r)):
		return
	case !counted && !clean:
		v.soon() // which of the two is newer is not known
		return
	case r.absent && (was.absent || !known && v.listed > 0):
		return // before the first walk is through, it may have what this takes away
	}
	if !known && len(v.known) >= maxViewKeys {
		v.forgetAbsences()
	}
	now := mark{version: r.entry.Version, revision: r.entry.Revision, absent: r.absent, at: r.born}
	e := event{entry: r.entry, absent: r.absent, live: known && !was.absent}
	if r.absent && now.version == 0 && was.version > 0 && !v.forgets() {
		now.version = was.version + 1 // the least that the deletion can have
		e.entry.Version = now.version
	}
	v.known[k] = now
	v.push(e)
}

func (v *view) forgets() bool { return v.b.now.Load().forgets }

func (m mark) says(r *said) bool {
	return m.absent == r.absent && (m.absent || m.version == r.entry.Version && m.revision == r.entry.Revision)
}

func (v *view) forgetAbsences() {
	for k, m := range v.known {
		if m.absent {
			delete(v.known, k)
		}
	}
}

// push appends an event and lets the oldest go. The lock is held.
func (v *view) push(e event) {
	if e.entry.Secret || len(e.entry.Value) > maxViewBytes/64 {
		e.entry.Value, e.bare = nil, !e.absent
	}
	v.events = append(v.events, e)
	v.last++
	v.bytes += len(e.entry.Value)
	for len(v.events) > maxViewEvents || v.bytes > maxViewBytes && len(v.events) > 1 {
		v.bytes -= len(v.events[0].entry.Value)
		v.events[0] = event{}
		v.events = v.events[1:]
	}
	close(v.changed)
	v.changed = make(chan struct{})
}

// soon has the view compared with the store. The lock is held.
func (v *view) soon() {
	v.dirty = true
	select {
	case v.b.views.wake <- struct{}{}:
	default:
	}
}

// after returns the first event behind a number, with its own; ok is false for
// a number that is no longer covered. Where there is none yet, e is nil and
// changed says when to look again.
func (v *view) after(n uint64) (e *event, number uint64, changed <-chan struct{}, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	first := v.last + 1 - uint64(len(v.events))
	switch {
	case n > v.last || n+1 < first:
		return nil, 0, nil, false
	case n == v.last:
		return nil, 0, v.changed, true
	}
	found := v.events[n+1-first]
	return &found, n + 1, nil, true
}

// attach returns the view of what is to be watched, made if it is not there.
// Whoever got it detaches.
func (vs *views) attach(r driver.WatchRequest) (*view, error) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	sc := scope{r.Tenant, r.Service}
	for _, v := range vs.byScope[sc] {
		if v.prefix == r.KeyPrefix {
			v.mu.Lock()
			v.watchers++
			v.mu.Unlock()
			return v, nil
		}
	}
	if vs.count >= maxViews {
		return nil, config.Errorf(config.ResourceExhausted, "too many prefixes are watched").WithHint("watch fewer, or wider ones")
	}
	vs.made++
	v := &view{
		b: vs.b, scope: sc, prefix: r.KeyPrefix, name: vs.b.cache.boot + "/" + strconv.FormatUint(vs.made, 36), watchers: 1,
		space: vs.space, gone: make(chan struct{}), known: map[config.Key]mark{}, changed: make(chan struct{}),
	}
	// A copy: changed walks over the slice without the lock.
	vs.byScope[sc] = append(append([]*view(nil), vs.byScope[sc]...), v)
	vs.count++
	return v, nil
}

func (v *view) detach() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.watchers--
	v.idle = v.b.cache.since()
}

// all returns the views there are, without those that nobody has watched for a
// while.
func (vs *views) all() []*view {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	var out []*view
	now := vs.b.cache.since()
	for sc, views := range vs.byScope {
		var kept []*view
		for _, v := range views {
			v.mu.Lock()
			old := v.watchers == 0 && now-v.idle > viewIdle
			v.mu.Unlock()
			if !old {
				kept = append(kept, v)
			}
		}
		vs.count -= len(views) - len(kept)
		if len(kept) == 0 {
			delete(vs.byScope, sc)
		} else {
			vs.byScope[sc] = kept
		}
		out = append(out, kept...)
	}
	return out
}

// renew has every view of what was renewed compared with the store before it
// returns.
func (vs *views) renew(ctx context.Context, below Below) {
	for _, v := range vs.all() {
		if v.scope.tenant != below.Tenant || v.scope.service != below.Service && !below.AllServices {
			continue
		}
		if strings.HasPrefix(v.prefix, below.Prefix) || strings.HasPrefix(below.Prefix, v.prefix) {
			_, _ = v.walk(ctx) // else it stays dirty and is tried again
		}
	}
}

// walk lists what the view covers, by a walk that begins after this call, and
// makes the view exact. The entries must not be changed.
func (v *view) walk(ctx context.Context) ([]config.Entry, error) {
	v.mu.Lock()
	behind := v.walks
	v.mu.Unlock()
	for {
		v.mu.Lock()
		l := v.list
		if l == nil || isDone(l.done) {
			v.walks++
			l = &listing{number: v.walks, began: v.b.cache.since(), done: make(chan struct{})}
			v.list = l
			if !v.b.cache.goDo(func() { v.run(l) }) {
				l.err = config.Errorf(config.FailedPrecondition, "the cache is closed")
				close(l.done)
			}
		}
		v.mu.Unlock()
		select {
		case <-l.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if l.number > behind {
			return l.entries, l.err
		}
	}
}

func isDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// walkBudget is the longest that one walk may take.
const walkBudget = time.Minute

// run does one walk. What it finds different goes the way of every other
// change, so that reads and watchers never disagree.
func (v *view) run(l *listing) {
	defer close(l.done)
	ctx, cancel := context.WithTimeout(v.b.cache.ctx, walkBudget)
	defer cancel()
	v.mu.Lock()
	v.dirty = false
	first := v.listed == 0
	v.mu.Unlock()
	var born uint64
	var b *mount
	for range moves {
		b, born = v.b.now.Load(), v.b.cache.clock.now()
		if l.err = ErrMoved; b.space != v.space {
			break // it is gone, or about to be
		}
		if l.entries, l.err = b.listAll(ctx, v.scope, v.prefix); !errors.Is(l.err, ErrMoved) {
			break
		}
	}
	if l.err != nil {
		v.mu.Lock()
		v.dirty = true
		v.mu.Unlock()
		return
	}
	differs := v.compare(b, l.entries, born, first)
	for _, r := range differs.apply {
		r.read = l.began
		b.apply(r)
	}
	for _, k := range differs.gone {
		// A list may be older than what it is compared with; this is not.
		if _, err := v.b.Renew(ctx, config.ID{Tenant: v.scope.tenant, Service: v.scope.service, Key: k}); err != nil {
			v.mu.Lock()
			v.dirty = true
			v.mu.Unlock()
			return
		}
	}
	v.b.counts.reconciled.Add(int64(len(differs.apply) + len(differs.gone)))
	v.mu.Lock()
	v.listed = max(l.began, 1)
	v.mu.Unlock()
}

// differences are what a walk has found out.
type differences struct {
	apply []*said
	gone  []config.Key
}

// compare holds what was listed against what is known. The first walk tells
// nobody: whoever watches gets the same list.
func (v *view) compare(b *mount, entries []config.Entry, born uint64, first bool) differences {
	v.mu.Lock()
	defer v.mu.Unlock()
	var d differences
	listed := make(map[config.Key]bool, len(entries))
	for _, e := range entries {
		k := e.ID.Key
		listed[k] = true
		was, known := v.known[k]
		switch {
		case !known && first:
			if len(v.known) < maxViewKeys {
				v.known[k] = mark{version: e.Version, revision: e.Revision, at: born}
			}
		case known && was.at > born: // changed since the walk began
		case known && !was.absent && was.version == e.Version && was.revision == e.Revision:
		case known && !v.forgets() && e.Version > 0 && e.Version <= was.version: // an older list
		default:
			d.apply = append(d.apply, b.record(e, false, born, 0, true)) // List is never eventual: C30
		}
	}
	for k, m := range v.known {
		if !m.absent && !listed[k] && m.at <= born {
			d.gone = append(d.gone, k)
		}
	}
	return d
}

// listAll reads all entries below a prefix in order of key.
func (b *mount) listAll(ctx context.Context, sc scope, prefix string) ([]config.Entry, error) {
	var entries []config.Entry
	token := ""
	for {
		page, err := b.page(ctx, driver.ListRequest{
			Tenant: sc.tenant, Service: sc.service, KeyPrefix: prefix, PageSize: driver.MaxPageSize, PageToken: token,
		})
		if !errors.Is(err, ErrMoved) {
			b.reported(config.ID{}, err)
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, page.Entries...)
		if len(entries) > maxViewKeys {
			return nil, config.Errorf(config.ResourceExhausted, "more than %d keys are watched at once", maxViewKeys).WithHint("watch a longer prefix")
		}
		if page.NextPageToken == "" || page.NextPageToken == token {
			return entries, nil
		}
		token = page.NextPageToken
	}
}
