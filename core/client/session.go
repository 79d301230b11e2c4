package client

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// Session reads with one token. It is safe for concurrent use, and good for
// nothing but direct calls once its token or its cache has ended.
type Session struct {
	cache    *Cache
	token    string
	expires  int64 // on the cache's clock
	snapshot *Snapshot
	ctx      context.Context //nolint:containedctx // it is the life of the watches, which no call owns
	cancel   context.CancelFunc
	begun    chan struct{} // closed once the snapshot is loaded, if there is one
	used     atomic.Int64  // when it was read from, to the second
	keys     atomic.Int64  // how many slots there are
	slots    atomic.Pointer[index]

	mu    sync.Mutex // after feed.mu where both are held
	feeds map[scope]*feed
	ended bool
	timer *time.Timer
	// probed is when the service was asked last that did not answer then; long ago
	// once it was heard of again.
	probed atomic.Int64
	saving sync.Mutex
	synced chan struct{} // a whole state has come that the snapshot may not have
}

type scope struct {
	prefix  string
	service config.Service
}

// index finds slots. It does not change: a new one takes its place.
type index []perService

// perService are the slots of one service. A session reads as a few services:
// going through them is cheaper than hashing their names.
type perService struct {
	service config.Service
	slots   map[config.Key]*slot
}

func (x index) find(key config.Key, service config.Service) *slot {
	for i := range x {
		if x[i].service == service {
			return x[i].slots[key]
		}
	}
	return nil
}

// with returns an index with these slots as well, and without those.
func (x index) with(service config.Service, slots map[config.Key]*slot, without []config.Key) index {
	out := slices.Clone(x)
	i := slices.IndexFunc(out, func(p perService) bool { return p.service == service })
	if i < 0 {
		i, out = len(out), append(out, perService{service: service, slots: map[config.Key]*slot{}})
	}
	all := make(map[config.Key]*slot, len(out[i].slots)+len(slots))
	maps.Copy(all, out[i].slots)
	maps.Copy(all, slots)
	for _, key := range without {
		delete(all, key)
	}
	out[i].slots = all
	return out
}

func newSession(c *Cache, token string, expires int64, snapshot *Snapshot) *Session {
	s := &Session{cache: c, token: token, expires: expires, snapshot: snapshot, feeds: map[scope]*feed{}, synced: make(chan struct{}, 1), begun: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(ContextWithToken(c.ctx, token))
	s.slots.Store(&index{})
	s.used.Store(c.now())
	s.heard()
	return s
}

// begin loads the snapshot and sets the timers.
func (s *Session) begin() {
	s.mu.Lock()
	if left := s.expires - s.cache.now(); !s.ended && left < int64(30*24*time.Hour) {
		s.timer = time.AfterFunc(time.Duration(max(left, 0)), s.end)
	}
	s.mu.Unlock()
	if s.snapshot == nil {
		close(s.begun)
		return
	}
	err := s.load()
	close(s.begun)
	if err != nil {
		s.cache.options.OnError(err)
	}
	s.goRun(s.saveOften)
}

// goRun runs f until the session ends, unless it has.
func (s *Session) goRun(f func()) {
	c := s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed { // else Close may be waiting for those that run already
		c.running.Go(f)
	}
}

// end drops all that is held. Nothing is held again.
func (s *Session) end() {
	s.cache.mu.Lock()
	if s.cache.sessions[s.token] == s {
		delete(s.cache.sessions, s.token)
	}
	s.cache.mu.Unlock()
	s.cancel()
	s.mu.Lock()
	s.ended = true
	feeds := s.feeds
	s.feeds = nil
	s.slots.Store(&index{})
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	for _, f := range feeds {
		f.drop()
	}
}

// Close ends the session. What it holds is dropped; its snapshot stays.
func (s *Session) Close() error {
	s.saveLast()
	s.end()
	return nil
}

// session makes a Session a Reader.
func (s *Session) session(context.Context) *Session { return s }

// Lag is how far behind the service the session may be: the longest time since
// one of its watches was last heard of in good order. It is 0 where nothing is
// watched.
func (s *Session) Lag() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var most int64
	for _, f := range s.feeds {
		most = max(most, s.cache.now()-f.asOf.Load())
	}
	return time.Duration(most)
}

// view is one look at what is held.
type view struct {
	slot   *slot
	record *record // nil if nothing is held
	lag    int64
	status standing
}

// look finds what is held for a key. What is in the view may be answered if
// fresh says so.
func (s *Session) look(key config.Key, service config.Service) view {
	sl := s.slots.Load().find(key, service)
	if sl == nil {
		return view{}
	}
	// The lag is that of before the value: a value that came in between is newer
	// than its lag says, never older.
	v := view{slot: sl, status: standing(sl.feed.status.Load())}
	asOf := sl.feed.asOf.Load()
	v.record = sl.record.Load()
	now := s.cache.now()
	v.lag = now - asOf
	if now >= s.expires {
		return view{}
	}
	if now-s.used.Load() > int64(time.Second) {
		s.used.Store(now)
	}
	return v
}

// fresh reports whether the view can answer without the service being asked.
func (s *Session) fresh(v *view) bool {
	return v.record != nil && (v.status == live || v.status == sourceDown) && v.lag <= int64(s.cache.options.MaxStaleness)
}

// answer sets a to what the view answers, marked as it has to be.
func (v *view) answer(a *Answer) {
	*a = v.record.answer
	a.Lag = time.Duration(v.lag)
	a.Freshness.Age = a.Lag
	switch {
	case v.record.saved:
		a.Freshness.Source, a.Freshness.State = config.SourceSnapshot, config.StateStale
	case v.status == sourceDown:
		a.Freshness.State = config.StateDegraded
	}
}

// Get is Client.Get with the session's token, from memory where it can be.
//
// An answer from memory has the source cache, and in Lag and Freshness.Age the
// lag of its watch. It is degraded while the store is out of reach and it is
// within CacheOptions.MaxStaleness; beyond that, or where the watch is broken,
// the service is asked. If the service does not answer, or refuses because the
// tenant asks for too much (ResourceExhausted), what is held stands in for it,
// marked stale, as long as CacheOptions.StaleIfError says. An option is kept to:
// with MaxStaleness only what is known to have been read from its store since
// answers from memory, and nothing stands in. With a NotFound out of memory the
// answer's Freshness and Lag say how new that is; they are zero with one of
// the service.
func (s *Session) Get(ctx context.Context, key config.Key, service config.Service, opts ...GetOption) (a Answer, err error) {
	if len(opts) == 0 {
		if v := s.look(key, service); s.fresh(&v) && !v.record.absent {
			v.answer(&a)
			return a, nil
		}
	}
	a, _, err = s.ask(ctx, key, service, opts)
	return a, err
}

// ask is Get by the long way. The slot is nil where nothing can be held.
func (s *Session) ask(ctx context.Context, key config.Key, service config.Service, opts []GetOption) (Answer, *slot, error) {
	const op = "client.Get"
	if err := ctx.Err(); err != nil {
		return Answer{}, nil, config.AsError(err, op, key)
	}
	sl := s.slot(key, service)
	if sl == nil {
		a, err := s.direct(ctx, key, service, opts)
		return a, nil, err
	}
	v := s.look(key, service)
	if v.slot == nil { // it has ended meanwhile
		a, err := s.direct(ctx, key, service, opts)
		return a, nil, err
	}
	o := newGetOptions(opts)
	if s.suffices(&v, o, service) {
		var a Answer
		v.answer(&a)
		if v.record.absent {
			return a, sl, notFound(op, key)
		}
		return a, sl, nil
	}
	stand := s.standIn(sl, v)
	if len(opts) > 0 {
		stand = nil
	}
	if stand != nil {
		if s.cache.now()-s.probed.Load() < int64(probeEvery) {
			return stand.answered(op, key, sl)
		}
		limited, cancel := context.WithTimeout(ctx, s.cache.options.Patience)
		defer cancel()
		a, err := s.read(limited, sl, key, service, opts)
		if away(err) && ctx.Err() == nil {
			s.probed.Store(s.cache.now())
			return stand.answered(op, key, sl)
		}
		return a, sl, err
	}
	a, err := s.read(ctx, sl, key, service, opts)
	return a, sl, err
}

// suffices reports whether the view answers a read with these options.
func (s *Session) suffices(v *view, o getOptions, service config.Service) bool {
	if !s.fresh(v) {
		return false
	}
	r := v.record
	if o.minVersion != nil && (r.absent || r.answer.Entry.Shared || r.answer.Entry.Service != service || r.answer.Entry.Version < *o.minVersion) {
		return false
	}
	return o.maxStaleness == nil || (r.readAt != unknown && s.cache.now()-r.readAt <= int64(o.maxStaleness.AsDuration()))
}

// standIn is what may answer if the service does not, nil if nothing may.
func (s *Session) standIn(sl *slot, v view) *view {
	if v.record == nil {
		v.record = sl.spare.Load()
	}
	if v.record == nil {
		return nil
	}
	bound := s.cache.options.StaleIfError
	if v.record.saved {
		bound = s.snapshot.maxAge()
	}
	if v.lag > int64(bound) {
		return nil
	}
	return &v
}

// answered is the answer of a view that stands in for the service.
func (v *view) answered(op string, key config.Key, sl *slot) (Answer, *slot, error) {
	var a Answer
	v.answer(&a)
	a.Freshness.State = config.StateStale
	if v.record.absent {
		return a, sl, notFound(op, key)
	}
	return a, sl, nil
}

func notFound(op string, key config.Key) error {
	return &config.Error{Op: op, Key: key, Code: config.NotFound, Message: "there is no such value"}
}

// heard notes that the service answers.
func (s *Session) heard() { s.probed.Store(s.cache.now() - int64(probeEvery)) }

// away reports whether err says that nobody answered for the service, or that it
// has no room for the caller now.
func away(err error) bool {
	c := config.CodeOf(err)
	return c == config.Unavailable || c == config.DeadlineExceeded || c == config.ResourceExhausted
}

// direct asks the service, and ends the session if that does not take its token
// any more.
func (s *Session) direct(ctx context.Context, key config.Key, service config.Service, opts []GetOption) (Answer, error) {
	a, err := s.cache.client.Get(ContextWithToken(ctx, s.token), key, service, opts...)
	s.judge(err)
	return a, err
}

func (s *Session) judge(err error) {
	if !away(err) {
		s.heard()
	}
	if c := config.CodeOf(err); c == config.Unauthenticated || c == config.PermissionDenied {
		s.end()
	}
}

// read asks the service for a key that has a slot, and holds the answer if
// that is right.
func (s *Session) read(ctx context.Context, sl *slot, key config.Key, service config.Service, opts []GetOption) (Answer, error) {
	began := s.cache.now()
	gen, doubt := sl.feed.look(sl)
	truth := doubt && len(opts) == 0
	if truth {
		opts = []GetOption{MaxStaleness(0)}
	}
	a, err := s.direct(ctx, key, service, opts)
	found := newRecord(a, err, began)
	if found == nil {
		return a, err
	}
	held, again := sl.feed.found(sl, found, gen, truth)
	if again { // it is older than what was answered before: another replica's
		a, err = s.direct(ctx, key, service, []GetOption{MaxStaleness(0)})
		if found = newRecord(a, err, began); found == nil {
			return a, err
		}
		held, _ = sl.feed.found(sl, found, gen, true)
	}
	if held != nil && held != found && !held.absent {
		return held.answer, nil
	}
	return a, err
}

// BatchGet is Client.BatchGet with the session's token; what is not held is read
// in one call, or each by itself where something held may have to stand in.
func (s *Session) BatchGet(ctx context.Context, keys []config.Key, service config.Service, opts ...GetOption) ([]Result, error) {
	results := make([]Result, len(keys))
	var missing, doubted batch
	for i, key := range keys {
		results[i].Key = key
		sl := s.slot(key, service)
		if sl == nil || len(opts) > 0 {
			missing.add(key, i, nil, never)
			continue
		}
		v := s.look(key, service)
		gen, doubt := sl.feed.look(sl)
		switch {
		case s.fresh(&v) && v.record.absent:
			results[i].Err = notFound("client.BatchGet", key)
		case s.fresh(&v):
			v.answer(&results[i].Answer)
		case s.standIn(sl, v) != nil:
			results[i].Answer, _, results[i].Err = s.ask(ctx, key, service, nil)
		case doubt:
			doubted.add(key, i, sl, gen)
		default:
			missing.add(key, i, sl, gen)
		}
	}
	var err error
	if len(missing.keys) > 0 || len(keys) == 0 { // no key at all is for the service to refuse
		err = s.readBatch(ctx, missing, service, results, &doubted, opts)
	}
	if err == nil && len(doubted.keys) > 0 {
		err = s.readBatch(ctx, doubted, service, results, nil, []GetOption{MaxStaleness(0)})
	}
	if err != nil {
		return nil, err
	}
	return results, nil
}

// batch is what of a BatchGet the service is asked for.
type batch struct {
	keys  []config.Key
	at    []int // in the results
	slots []*slot
	gens  []uint64
}

func (b *batch) add(key config.Key, at int, sl *slot, gen uint64) {
	b.keys, b.at, b.slots, b.gens = append(b.keys, key), append(b.at, at), append(b.slots, sl), append(b.gens, gen)
}

// readBatch asks for b, and adds to older what came older than what had been
// answered before. Without older the answers are the stores' own truth.
func (s *Session) readBatch(ctx context.Context, b batch, service config.Service, results []Result, older *batch, opts []GetOption) error {
	began := s.cache.now()
	read, err := s.cache.client.BatchGet(ContextWithToken(ctx, s.token), b.keys, service, opts...)
	if err != nil {
		s.judge(err)
		return err
	}
	for i, r := range read {
		results[b.at[i]] = r
		found := newRecord(r.Answer, r.Err, began)
		if b.slots[i] == nil || found == nil {
			continue
		}
		if _, again := b.slots[i].feed.found(b.slots[i], found, b.gens[i], older == nil); again {
			older.add(b.keys[i], b.at[i], b.slots[i], b.gens[i])
		}
	}
	return nil
}

// slot is that of a key, nil where the key is not to be held. The first read of
// a prefix and service begins the watch.
func (s *Session) slot(key config.Key, service config.Service) *slot {
	if sl := s.slots.Load().find(key, service); sl != nil {
		return sl
	}
	for _, prefix := range s.cache.options.Prefixes {
		if strings.HasPrefix(key.String(), prefix) {
			if f := s.feed(scope{prefix, service}); f != nil {
				return f.slot(key)
			}
			return nil
		}
	}
	return nil
}

// feed is that of a scope, nil if there are too many or the session has ended.
func (s *Session) feed(sc scope) *feed {
	s.mu.Lock()
	f := s.feeds[sc]
	if f != nil || s.ended || len(s.feeds) >= maxFeeds {
		s.mu.Unlock()
		return f
	}
	f = newFeed(s, sc)
	s.feeds[sc] = f
	s.mu.Unlock()
	s.goRun(f.run)
	return f
}

// add makes slots of a feed visible, and reports whether they may be: not in a
// session that has ended.
func (s *Session) add(service config.Service, slots map[config.Key]*slot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	all := s.slots.Load().with(service, slots, nil)
	s.slots.Store(&all)
	return true
}

// remove takes slots of a feed away that hold nothing.
func (s *Session) remove(f *feed, keys []config.Key) {
	if len(keys) == 0 {
		return
	}
	for _, key := range keys {
		f.slots[key].gone = true
		f.set(f.slots[key], nil)
		delete(f.slots, key)
	}
	s.keys.Add(-int64(len(keys)))
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.slots.Load().with(f.scope.service, nil, keys)
	s.slots.Store(&all)
}

// wrote is told that a write of this session has been answered, however: what is
// held of the key may be older. e is the answer's entry, zero if it failed.
func (s *Session) wrote(key config.Key, service config.Service, e Entry) {
	s.slot(key, service) // what is written is watched from now on, if it was not
	s.mu.Lock()
	var covering []*feed
	for sc, f := range s.feeds {
		// A write of the tenant-wide layer may show in every service.
		if strings.HasPrefix(key.String(), sc.prefix) && (service.IsZero() || sc.service == service) {
			covering = append(covering, f)
		}
	}
	s.mu.Unlock()
	for _, f := range covering {
		f.wrote(key, e)
	}
}

// Put is Client.Put with the session's token; reads of the session that begin
// behind its return see it.
func (s *Session) Put(ctx context.Context, r PutRequest, opts ...WriteOption) (Entry, error) {
	e, err := s.cache.client.Put(ContextWithToken(ctx, s.token), r, opts...)
	s.wrote(r.Key, r.Service, e)
	return e, err
}

// Delete is Client.Delete with the session's token, as Put.
func (s *Session) Delete(ctx context.Context, r DeleteRequest, opts ...WriteOption) (Entry, error) {
	e, err := s.cache.client.Delete(ContextWithToken(ctx, s.token), r, opts...)
	s.wrote(r.Key, r.Service, e)
	return e, err
}
