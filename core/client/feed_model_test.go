package client

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tagstore/tagstore/core/config"
)

// world is one key in a store, one session that reads it, and all that may come in
// another order than it was given: answers, events, whole states. One step is one
// of these; nothing happens between two of them, and nothing at the same time.
type world struct {
	t       *testing.T
	random  *rand.Rand
	session *Session
	feed    *feed
	key     config.Key

	kinds   int        // how many layers are written
	states  []position // what the key was, the oldest first
	layers  [2]uint64  // the version of each layer of the key
	there   [2]bool    // whether the layer has a value
	watched int        // the state that the watch has told
	most    int        // the newest state that anybody was answered, or wrote
	reads   []*read
	writes  []own // those whose answer is on its way
	whole   int   // how many whole states were told while a read was under way
	past    int   // what had been answered when the last whole state was told
	story   []string
}

// read is a read of the service that is under way.
type read struct {
	slot         *slot
	gen          uint64
	truth, again bool
	asks         bool // for the store's own truth, by an option
	state        int  // what the service answers; -1 until it has looked
	floor        int  // what had been answered before the read began
}

type own struct {
	entry Entry
	state int
}

// layerOf is whose the layers are: the tenant's, and the service's, which hides it.
var layerOf = func() (of [2]config.Service) {
	of[1], _ = config.ParseService("order")
	return of
}()

func (w *world) say(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf(format, args...))
}

func (w *world) newest() int { return len(w.states) - 1 }

// write changes one layer of the key, and with it what the key is, or not.
func (w *world) write(mine bool) {
	layer := w.random.IntN(w.kinds)
	remove := w.there[layer] && w.random.IntN(3) == 0
	w.layers[layer]++
	w.there[layer] = !remove
	now := position{known: true, absent: true}
	for l := range w.layers {
		if w.there[l] {
			now = position{known: true, service: layerOf[l], version: w.layers[l]}
		}
	}
	if now != w.states[w.newest()] {
		w.states = append(w.states, now)
	}
	w.say("layer %d has version %d, deleted %v: state %d is %v", layer, w.layers[layer], remove, w.newest(), now)
	if mine {
		w.writes = append(w.writes, own{Entry{Key: w.key, Service: layerOf[layer], Version: w.layers[layer], Deleted: remove}, w.newest()})
	}
}

func (w *world) record(state int) *record {
	p := w.states[state]
	if p.absent {
		return newAbsent()
	}
	return newValue(Entry{Key: w.key, Service: p.service, Version: p.version, Value: []byte(fmt.Sprint(p.service, p.version))})
}

func (w *world) tell(state int) {
	e := Event{Kind: EventDelete, Entry: Entry{Key: w.key}}
	if !w.states[state].absent {
		e = Event{Kind: EventPut, Entry: w.record(state).answer.Entry}
	}
	w.event(e)
}

func (w *world) event(e Event) {
	if err := w.feed.event(e); err != nil {
		w.t.Fatal(err)
	}
}

// beginAnew has the watch begin anew, at a replica that may be behind, though not
// behind what was answered before it began the last time: a slot of a key that is
// absent is given up with the second whole state.
func (w *world) beginAnew() {
	if len(w.reads) > 0 {
		w.whole++
	}
	w.watched = max(w.past, w.newest()-w.random.IntN(4))
	w.past = w.most
	w.say("the watch begins anew with state %d", w.watched)
	w.event(Event{Kind: EventGap})
	if !w.states[w.watched].absent {
		w.tell(w.watched)
	}
	w.event(Event{Kind: EventSync})
}

// begin reads from memory where that answers, and else asks the service.
func (w *world) begin(asks bool) {
	r := &read{slot: w.session.slot(w.key, layerOf[1]), state: -1, floor: w.most, asks: asks}
	v := w.session.look(w.key, layerOf[1])
	if w.session.fresh(&v) && !r.asks {
		w.answered("memory", v.record, -1, r.floor)
		return
	}
	var doubt bool
	r.gen, doubt = w.feed.look(r.slot)
	r.truth = doubt && !r.asks
	w.say("a read begins, truth %v, of its own %v", r.truth, r.asks)
	w.reads = append(w.reads, r)
}

// answered notes an answer, which may be none that is older than floor. Of one out
// of memory it is not known which of several equal states it is of.
func (w *world) answered(whence string, r *record, state, floor int) {
	p := r.position()
	at := state
	if at < 0 {
		for at = w.newest(); at >= 0 && w.states[at] != p; at-- {
		}
	}
	w.say("%s answers %v, at the newest state %d", whence, p, at)
	if at < floor {
		w.t.Errorf("state %d was answered before, and now state %d by %s:", floor, at, whence)
		for _, line := range w.story {
			w.t.Log(line)
		}
		w.t.FailNow()
	}
	if state >= 0 {
		w.most = max(w.most, state)
	}
}

// proceed has the service answer a read, or the answer arrive.
func (w *world) proceed() {
	i := w.random.IntN(len(w.reads))
	r := w.reads[i]
	if r.state < 0 {
		r.state = w.newest()
		if !r.truth && !r.again && !r.asks {
			r.state = max(0, w.newest()-w.random.IntN(4)) // a replica may be behind
		}
		return
	}
	found := w.record(r.state)
	held, again := w.feed.found(r.slot, found, r.gen, r.truth || r.again)
	if again && !r.again {
		w.say("the answer, state %d, is asked for again", r.state)
		r.again, r.state = true, -1
		return
	}
	w.reads = append(w.reads[:i], w.reads[i+1:]...)
	if len(w.reads) == 0 {
		w.whole = 0
	}
	if held != nil && held != found {
		w.answered("memory, for the service,", held, -1, r.floor)
		return
	}
	w.answered("the service", found, r.state, r.floor)
}

// wrote has a write of the session be answered.
func (w *world) wrote() {
	o := w.writes[0]
	w.writes = w.writes[1:]
	w.say("the write of state %d is answered", o.state)
	w.session.wrote(w.key, o.entry.Service, o.entry)
	w.most = max(w.most, o.state)
}

// next has the watch tell what came next.
func (w *world) next() {
	w.watched++
	w.say("the watch tells state %d", w.watched)
	w.tell(w.watched)
}

// quiet has all arrive that is on its way, and one more read ask the service if it
// has to. From then on memory answers, and what it answers is the newest.
func (w *world) quiet() {
	for len(w.writes) > 0 {
		w.wrote()
	}
	for w.watched < w.newest() {
		w.next()
	}
	for range 2 {
		for len(w.reads) > 0 {
			w.proceed()
		}
		w.begin(false)
	}
	if len(w.reads) > 0 {
		w.t.Fatalf("all is told and nothing is under way, and memory does not answer: %q", w.story)
	}
	w.most = w.newest()
	w.begin(false)
}

func (w *world) step() {
	switch n := w.random.IntN(20); {
	case n < 2:
		w.write(false)
	case n == 2:
		w.write(true)
	case n == 3 && len(w.writes) > 0:
		w.wrote()
	case n == 4 && w.whole == 0 && w.random.IntN(4) == 0:
		w.beginAnew()
	case n < 9 && w.watched < w.newest():
		w.next()
	case n < 14 && len(w.reads) < 4:
		w.begin(w.random.IntN(4) == 0)
	case len(w.reads) > 0:
		w.proceed()
	}
}

// However answers, events and whole states come, nobody is answered something older
// than what the session had answered or written before the read began, unless it is
// marked; and once all has arrived, memory answers.
func TestNobodyIsTakenBack(t *testing.T) {
	rounds := 6000
	if testing.Short() {
		rounds = 1000
	}
	s := lonely(t)
	key := parsed(t, "p_a")
	for seed := range uint64(rounds) {
		f := newFeed(s, scope{"p_", layerOf[1]})
		s.mu.Lock()
		s.feeds[f.scope] = f
		s.mu.Unlock()
		w := &world{t: t, random: rand.New(rand.NewPCG(seed, 1)), session: s, feed: f, key: key, kinds: 1 + int(seed%2), states: []position{{known: true, absent: true}}}
		w.say("seed %d", seed)
		w.beginAnew()
		for range 80 {
			w.step()
		}
		w.quiet()
		f.mu.Lock()
		f.forget()
		for key := range f.slots {
			s.remove(f, []config.Key{key})
		}
		f.mu.Unlock()
		if n := s.cache.bytes.Load(); n != 0 {
			t.Fatalf("seed %d: %d bytes are held, and nothing is", seed, n)
		}
	}
}
