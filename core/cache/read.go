package cache

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// patience is how long a read waits for the store when it holds an answer that
// may stand in for it.
const patience = 500 * time.Millisecond

// Read returns the latest value of id, from memory where that is good enough
// for the route's policy and for w, else from the store. An absence is an
// answer and no error. What comes from memory costs no allocation.
//
// Where the store is out of reach, what is held stands in for it up to the
// policy's StaleIfError, marked as it is.
func (b *Backend) Read(ctx context.Context, id config.ID, w Want) (Answer, error) {
	m := b.now.Load()
	if !m.keeps() && w == (Want{}) {
		return m.through(ctx, id)
	}
	s := m.spot(id)
	held, age, ok := m.hit(ctx, &id, s, w)
	if ok {
		return held.answer(&id, config.SourceCache, age, m.valid()), nil
	}
	return m.miss(ctx, id, s, held, w)
}

// Held is what Peek has found. Before it has, no method may be called.
type Held struct {
	record    *Record
	Freshness config.Freshness
}

// Peek is Read for those who only want what is in memory and good enough for
// the route's policy; it reports false where Read would ask the store. Copying an
// Answer costs as much as finding it.
func (b *Backend) Peek(ctx context.Context, id *config.ID, h *Held) bool {
	m := b.now.Load()
	held, age, ok := m.hit(ctx, id, m.cache.spot(m.space, id), Want{})
	if ok {
		h.record, h.Freshness = held, held.freshness(config.SourceCache, age, m.valid())
	}
	return ok
}

// Absent reports whether it is known that there is no value.
func (h *Held) Absent() bool { return h.record.flags.has(isAbsent) }

// Live reports whether there is a value, which its store gave this ID and did not
// delete.
func (h *Held) Live(id *config.ID) bool {
	return h.record.flags&(isAbsent|isDeleted|isBare) == 0 && h.record.about(id)
}

// Form is what Options.Prepare made of the entry, nil where nothing did. It
// belongs to the Cache and must not be changed.
func (h *Held) Form() []byte { return h.record.prepared() }

// Entry writes the entry, whose ID this must be, to e. Its bytes belong to the
// Cache and must not be changed; whoever keeps one of its texts for long clones
// it, for it is a part of them all.
func (h *Held) Entry(id *config.ID, e *config.Entry) { h.record.entry(id, e) }

// valid is the state of a record that is valid and young enough.
func (b *mount) valid() config.State {
	if b.source.down.Load() {
		return config.StateDegraded
	}
	return config.StateFresh
}

// hit returns what is held of id; ok says that it answers.
func (b *mount) hit(ctx context.Context, id *config.ID, s spot, w Want) (held *Record, age time.Duration, ok bool) {
	held, need := b.lookup(s, id)
	if held == nil || !b.usable(held, need) {
		return held, 0, false
	}
	hard := held.hard(&b.policy)
	if age = held.age(b.cache.since()); age >= hard || w.Bounded && age >= w.MaxStaleness {
		return held, age, false
	}
	b.counts.hit(s, age)
	held.used()
	if age >= soft(hard) {
		b.refill(ctx, *id, s)
	}
	return held, age, true
}

// through asks the store of a route that keeps nothing.
func (b *mount) through(ctx context.Context, id config.ID) (Answer, error) {
	var s spot
	var exact bool
	var got driver.Result
	born, began := b.cache.clock.now(), b.cache.since()
	b, err := b.using(ctx, func(b *mount) {
		s = b.spot(id)
		exact = b.demand(s, Want{}).exact
		got = b.ask(ctx, id, exact)
	})
	if err != nil {
		return Answer{}, err
	}
	if ctx.Err() == nil {
		b.reported(id, got.Err)
	}
	r, err := b.judged(id, got, born, began, exact)
	switch {
	case err != nil:
		return Answer{}, err
	case r == nil: // a breach of the contract: others judge it
		r = b.record(got.Entry, false, born, began, true)
	case !r.absent && b.cache.floors.forbids(r.space, r.entry, began):
		return b.miss(ctx, id, s, nil, Want{Bounded: true}) // which waits for the newer one
	}
	return b.fetched(r, began), nil
}

// usable reports whether a record may be used that needs this born.
func (b *mount) usable(r *Record, need uint64) bool {
	return r.born >= need && (r.flags.has(isExact) || need <= b.cache.clock.settled.Load())
}

// finest is how exactly the greatest age is told: ages grow all the time, and
// each hit would write the metric.
const finest = time.Millisecond

func (n *counts) hit(s spot, age time.Duration) {
	n.hits[s.id%uint64(len(n.hits))].Add(1)
	for old := n.oldest.Load(); int64(age) >= old+int64(finest); old = n.oldest.Load() {
		if n.oldest.CompareAndSwap(old, int64(age)) {
			return
		}
	}
}

// refill has a record read again before it expires, for those who come next.
func (b *mount) refill(ctx context.Context, id config.ID, s spot) {
	if b.source.down.Load() {
		return
	}
	// Nobody waits for it: boarding is all there is to do.
	b.board(ctx, id, s, b.demand(s, Want{}))
}

// demand is what a read of s needs of a call of the store.
func (b *mount) demand(s spot, w Want) demand {
	need := b.cache.clock.need(s)
	d := demand{born: need, exact: b.eventual && need > b.cache.clock.settled.Load()}
	switch {
	case !b.keeps():
		// Who asks twice asks the store twice.
		d.order = b.cache.flights.order()
		d.exact = d.exact || w.Bounded
	case w.Bounded:
		// Its age counts from the moment before the store was asked.
		d.after, d.exact = b.cache.since()-w.MaxStaleness, true
		if w.MaxStaleness == 0 {
			d.order = b.cache.flights.order()
		}
	}
	return d
}

// miss answers from the store.
func (b *mount) miss(ctx context.Context, id config.ID, s spot, held *Record, w Want) (Answer, error) {
	b.counts.misses.Add(1)
	began := b.cache.since()
	if b.source.down.Load() {
		return b.instead(id, held, s, w, errDown())
	}
	waiting := ctx
	if b.standIn(held, s, w) != config.StateUnknown {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	r, err := b.fetch(waiting, id, s, b.demand(s, w))
	if err != nil && waiting.Err() != nil && ctx.Err() == nil && b.standIn(held, s, w) == config.StateUnknown {
		// What was to stand in has become too old, or is known to be outdated.
		r, err = b.fetch(ctx, id, s, b.demand(s, w))
	}
	switch {
	case err == nil:
		return b.fetched(r, began), nil
	case ctx.Err() != nil:
		return Answer{}, err
	}
	return b.instead(id, held, s, w, err)
}

// fetched is the answer of a call that began at or after began, or was shared.
func (b *mount) fetched(r *said, began time.Duration) Answer {
	from := config.SourceStore
	if r.entry.Source != config.SourceUnknown {
		from = r.entry.Source
	}
	var age time.Duration
	if r.read < began {
		age = b.cache.since() - r.read
	}
	return r.answer(from, age, config.StateFresh)
}

// standIn is the state in which what is held may answer for a store that can
// not be asked, StateUnknown if it may not. What is known to be outdated is
// stale, however young.
func (b *mount) standIn(held *Record, s spot, w Want) config.State {
	if held == nil || b.policy.StaleIfError <= 0 {
		return config.StateUnknown
	}
	age := held.age(b.cache.since())
	valid := b.usable(held, b.cache.clock.need(s))
	switch {
	case valid && age < b.policy.MaxStaleness && (!w.Bounded || age <= w.MaxStaleness):
		return config.StateDegraded
	case w.Bounded || age >= b.policy.StaleIfError:
		return config.StateUnknown
	}
	return config.StateStale
}

// instead answers with what is held, if err allows it and it may stand in.
func (b *mount) instead(id config.ID, held *Record, s spot, w Want, err error) (Answer, error) {
	if !retryable(err) {
		return Answer{}, err
	}
	state := b.standIn(held, s, w)
	switch state {
	case config.StateDegraded:
		b.counts.degraded.Add(1)
	case config.StateStale:
		b.counts.stale.Add(1)
	default:
		return Answer{}, err
	}
	a := held.answer(&id, config.SourceCache, held.age(b.cache.since()), state)
	a.Outdated = state == config.StateStale
	return a, nil
}

// ReadMany is Read for each of several, in order. What is not in memory costs
// one call of the store, or one for each if it can not be asked for several.
func (b *Backend) ReadMany(ctx context.Context, ids []config.ID, w Want) []Result {
	return b.now.Load().readMany(ctx, ids, w)
}

func (b *mount) readMany(ctx context.Context, ids []config.ID, w Want) []Result {
	out := make([]Result, len(ids))
	var missing, exact []int // indexes
	for i, id := range ids {
		s := b.spot(id)
		if held, age, ok := b.hit(ctx, &id, s, w); ok {
			out[i].Answer = held.answer(&id, config.SourceCache, age, b.valid())
			continue
		}
		if b.demand(s, w).exact {
			exact = append(exact, i)
		} else {
			missing = append(missing, i)
		}
	}
	b.readChunk(ctx, ids, missing, w, false, out)
	b.readChunk(ctx, ids, exact, w, true, out)
	return out
}

// readChunk answers the IDs at these indexes.
func (b *mount) readChunk(ctx context.Context, ids []config.ID, at []int, w Want, exact bool, out []Result) {
	if len(at) == 0 {
		return
	}
	if _, batches := driver.AsBatcher(b.backend); len(at) == 1 || !batches && !b.refreshes(exact) {
		b.readEach(ctx, ids, at, w, out)
		return
	}
	b.counts.misses.Add(int64(len(at)))
	asked := make([]config.ID, len(at))
	for i, j := range at {
		asked[i] = ids[j]
	}
	fail := func(err error) {
		for _, i := range at {
			s := b.spot(ids[i])
			held, _ := b.lookup(s, &ids[i])
			out[i].Answer, out[i].Err = b.instead(ids[i], held, s, w, err)
		}
	}
	if b.source.down.Load() {
		fail(errDown())
		return
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, b.cache.budget)
	defer cancel()
	var (
		born      uint64
		began     time.Duration
		got       []driver.Result
		err, busy error
	)
	in, refused := b.using(ctx, func(b *mount) {
		if busy = b.source.enter(ctx); busy != nil {
			return
		}
		defer b.source.leave()
		born, began = b.cache.clock.now(), b.cache.since()
		got, err = b.askBatch(ctx, asked, exact)
	})
	if refused != nil || busy != nil {
		fail(cmp.Or(refused, busy))
		return
	}
	b = in
	switch {
	case errors.Is(err, errNoBatch):
		b.readEach(ctx, ids, at, w, out)
		return
	case err == nil && len(got) != len(asked):
		err = breach("wrong number of results")
	case err != nil && config.CodeOf(err) == config.NotFound:
		err = breach("batch not found")
	}
	if caller.Err() == nil { // else it may be the caller's deadline that was too short
		b.reported(asked[0], err)
	}
	if err != nil {
		b.counts.failures.Add(1)
		fail(err)
		return
	}
	b.counts.fills.Add(1)
	for i, g := range got {
		out[at[i]] = b.settled(ctx, ids[at[i]], g, born, began, exact, w)
	}
	b.cache.gate.settle()
}

// refreshes reports whether several values at once are read by Refresh.
func (b *mount) refreshes(exact bool) bool {
	_, can := driver.AsRefresher(b.backend)
	return can && exact && b.eventual
}

// errNoBatch is for a backend that took the place of one that could.
var errNoBatch error = unable("be asked for several values at once")

// askBatch makes one call of the store about several IDs.
func (b *mount) askBatch(ctx context.Context, ids []config.ID, exact bool) ([]driver.Result, error) {
	if b.refreshes(exact) {
		r, _ := driver.AsRefresher(b.backend)
		return r.Refresh(ctx, ids)
	}
	batcher, ok := driver.AsBatcher(b.backend)
	if !ok {
		return nil, errNoBatch
	}
	return batcher.BatchGet(ctx, ids)
}

// settled is what one result of a batch comes to.
func (b *mount) settled(ctx context.Context, id config.ID, g driver.Result, born uint64, began time.Duration, exact bool, w Want) Result {
	s := b.spot(id)
	rec, err := b.judged(id, g, born, began, exact)
	switch {
	case err != nil:
		held, _ := b.lookup(s, &id)
		a, err := b.instead(id, held, s, w, err)
		return Result{Answer: a, Err: err}
	case rec == nil:
		return Result{Answer: Answer{Entry: g.Entry, Freshness: config.Freshness{Source: config.SourceStore, State: config.StateFresh}}}
	case !rec.absent && b.cache.floors.forbids(rec.space, rec.entry, b.cache.since()):
		a, err := b.Read(ctx, id, Want{Bounded: true}) // which waits for the newer one
		return Result{Answer: a, Err: err}
	}
	b.keep(s, rec)
	return Result{Answer: b.fetched(rec, began)}
}

// readEach reads one by one, several at once.
func (b *mount) readEach(ctx context.Context, ids []config.ID, at []int, w Want, out []Result) {
	const atOnce = 8
	each(at, atOnce, func(i int) { out[i].Answer, out[i].Err = b.Read(ctx, ids[i], w) })
}
