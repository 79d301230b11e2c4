package store

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

const (
	// batchChunk is how many IDs one backend is asked for at once. It bounds
	// how far a batch can overrun its answer before that is noticed.
	batchChunk = 64
	// batchGets is how many Gets run at once on a backend without Batcher.
	batchGets = 8
)

// Result is the outcome for one key of a batch: Err is nil or Answer is zero.
type Result struct {
	Answer
	Err error
}

// BatchGet returns the effective value of each key, in the order asked. The
// keys may have any mix of prefixes and repeat; a repeated key is read once.
//
// Each key has its own error, and a backend that fails, fails its own keys
// only. Once the answer holds MaxAnswer bytes, the keys that are left over are
// ResourceExhausted; those are to be asked for again without the others. The
// call itself fails only for a number of keys that is not 1 to MaxBatch, and
// for a Want that nobody can mean or that has a MinVersion: of many keys there
// is no one version.
//
// Backends are read in parallel and layers one after the other, so that the
// keys of one backend cost as many of its calls as there are layers to look
// through, for every 64 keys.
func (s *Store) BatchGet(ctx context.Context, sc Scope, keys []config.Key, want Want) (_ []Result, err error) {
	const op = "store.BatchGet"
	defer s.observe(ctx, op, time.Now(), &err)
	if len(keys) == 0 || len(keys) > s.maxBatch {
		return nil, named(config.Errorf(config.InvalidArgument, "a batch has 1 to %d keys, not %d", s.maxBatch, len(keys)), op, config.Key{})
	}
	if err := sc.check(); err != nil {
		return nil, named(err, op, config.Key{})
	}
	err = want.check()
	if err == nil && want.MinVersion > 0 {
		err = config.Errorf(config.InvalidArgument, "a batch has no least version").WithHint("Get each key by itself")
	}
	if err != nil {
		return nil, named(err, op, config.Key{})
	}

	table := s.routes.Load()
	lookups := make(map[config.Key]*lookup, len(keys))
	perBackend := map[string][]*lookup{}
	for _, k := range keys {
		if lookups[k] != nil {
			continue
		}
		w := &lookup{call: call{store: s, op: op, key: k, want: want.cached()}}
		lookups[k] = w
		if w.route, _, w.err = table.Match(k); w.err == nil {
			var found places
			w.err = sc.places(w.route, &found)
			w.places = found.all()
		}
		if w.err != nil {
			w.err = w.refused(w.err)
			continue
		}
		perBackend[w.route.BackendName] = append(perBackend[w.route.BackendName], w)
	}

	var budget atomic.Int64
	budget.Store(int64(s.maxAnswer))
	var all sync.WaitGroup
	for _, group := range perBackend {
		all.Go(func() { readGroup(ctx, group, &budget) })
	}
	all.Wait()
	return s.assemble(keys, lookups), nil
}

// lookup is one distinct key of a batch and what is known of it so far.
type lookup struct {
	call
	places []place // those that are still to be looked at
	read   reading // the last one
	err    error
	looked bool // at one place at least
	given  bool // to one result already
}

func (w *lookup) id() config.ID { return w.places[0].id(w.key) }

// settle takes the answer for w's first place. It reports whether the next one
// has to be asked.
func (w *lookup) settle(r reading, err error) (again bool) {
	if w.looked {
		r = r.beside(w.read)
	}
	w.read, w.looked = r, true
	switch {
	case err != nil:
		w.err = err
	case r.found:
	case len(w.places) > 1:
		w.places = w.places[1:]
		return true
	default:
		w.err = w.gone(r)
	}
	return false
}

func (w *lookup) exhausted() error {
	return w.refused(config.Errorf(config.ResourceExhausted, "the values of other keys fill this answer").
		WithHint("ask for this key again with fewer others"))
}

// size is what a value takes of the answer, roughly, its frame left out.
func (w *lookup) size() int { return len(w.read.entry.Value) + len(w.read.entry.Message) }

// frame is what a key takes of the answer whatever comes of it: the metadata of
// a value, or an error, which names the key three times.
func frame(k config.Key) int {
	const texts = 512
	return 3*len(k.String()) + texts
}

// readGroup reads keys of one backend, layer by layer.
func readGroup(ctx context.Context, group []*lookup, budget *atomic.Int64) {
	for len(group) > 0 {
		var next []*lookup
		for len(group) > 0 {
			chunk := group[:min(batchChunk, len(group))]
			group = group[len(chunk):]
			if budget.Load() <= 0 {
				for _, w := range chunk {
					w.err = w.exhausted()
				}
				continue
			}
			next = append(next, readChunk(ctx, chunk)...)
			for _, w := range chunk {
				if w.err == nil && w.read.found {
					budget.Add(-int64(w.size() + frame(w.key)))
				}
			}
		}
		group = next
	}
}

// readChunk asks for the current place of each key. It returns those whose next
// place has to be asked; each of the others has its value or its err.
func readChunk(ctx context.Context, chunk []*lookup) (again []*lookup) {
	ids := make([]config.ID, len(chunk))
	for i, w := range chunk {
		ids[i] = w.id()
	}
	settle := func(w *lookup, r reading, err error) {
		if w.settle(r, err) {
			again = append(again, w)
		}
	}
	if b, ok := chunk[0].route.Backend.(*cache.Backend); ok {
		for i, r := range b.ReadMany(ctx, ids, chunk[0].want) {
			w := chunk[i]
			read, err := w.cached(ctx, ids[i], r.Answer, r.Err)
			settle(w, read, err)
		}
		return again
	}
	got, err := readThrough(ctx, chunk, ids)
	for i, w := range chunk {
		if err != nil {
			w.err = w.refused(err)
			continue
		}
		read, err := w.through(ctx, ids[i], got[i])
		settle(w, read, err)
	}
	return again
}

// readThrough asks a backend that has no cache before it.
func readThrough(ctx context.Context, chunk []*lookup, ids []config.ID) ([]driver.Result, error) {
	whole := call{store: chunk[0].store, op: chunk[0].op, route: chunk[0].route, want: chunk[0].want}
	if whole.needsRefresh() {
		return whole.refreshed(ctx, ids)
	}
	b := whole.route.Backend
	if batcher, ok := driver.AsBatcher(b); ok {
		got, err := batcher.BatchGet(ctx, ids)
		return whole.whole(ctx, len(ids), got, err)
	}
	results := make([]driver.Result, len(ids))
	var gets errgroup.Group
	gets.SetLimit(batchGets)
	for i, id := range ids {
		gets.Go(func() error {
			results[i].Entry, results[i].Err = b.Get(ctx, id, 0)
			return nil
		})
	}
	_ = gets.Wait() // each result has its own error
	return results, nil
}

// assemble puts the outcomes into the order asked and bounds their size,
// repeated keys included.
func (s *Store) assemble(keys []config.Key, lookups map[config.Key]*lookup) []Result {
	left := s.maxAnswer
	for _, k := range keys {
		left -= frame(k)
	}
	left = max(left, s.maxAnswer/2) // however many keys: some values are in every answer
	results := make([]Result, len(keys))
	for i, k := range keys {
		w := lookups[k]
		switch {
		case w.err != nil:
			results[i].Err = w.err
		case w.size() > left:
			results[i].Err = w.exhausted()
		default:
			left -= w.size()
			results[i].Answer = Answer{Entry: w.read.entry, Freshness: w.read.freshness}
			if w.given { // no two results share memory
				results[i].Entry = w.read.entry.Clone()
			}
			w.given = true
		}
	}
	return results
}
