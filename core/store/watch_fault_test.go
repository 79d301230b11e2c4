package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// frail is a backend that can be out of reach: every call then fails, and those
// that run end, a Watch included.
type frail struct {
	mu      sync.Mutex
	backend *memdriver.Backend
	err     error         // nil: in reach
	last    error         // why it was not, the last time
	cut     chan struct{} // closed when it goes out of reach
	calls   int           // of Watch
}

func newFrail(b *memdriver.Backend) *frail { return &frail{backend: b, cut: make(chan struct{})} }

func (f *frail) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		close(f.cut)
	}
	f.err, f.last = err, err
}

func (f *frail) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.cut = nil, make(chan struct{})
}

// replace puts an empty store in place of the one that was.
func (f *frail) replace(b *memdriver.Backend) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backend = b
}

func (f *frail) watches() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func (f *frail) now() (*memdriver.Backend, chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.backend, f.cut, f.err
}

func (f *frail) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	b, _, err := f.now()
	if err != nil {
		return config.Entry{}, err
	}
	return b.Get(ctx, id, version)
}

func (f *frail) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	b, _, err := f.now()
	if err != nil {
		return driver.Page{}, err
	}
	return b.List(ctx, r)
}

func (f *frail) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	b, _, _ := f.now() // by somebody who reaches the store
	return b.Put(ctx, r)
}

func (f *frail) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	b, _, _ := f.now()
	return b.Delete(ctx, r)
}

func (f *frail) Close() error { return nil }

func (f *frail) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	b, cut, err := f.now()
	f.mu.Lock()
	f.calls++
	f.mu.Unlock()
	if err != nil {
		return err
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-cut:
			cancel()
		case <-inner.Done():
		}
	}()
	err = b.Watch(inner, r, func(e driver.Event) error {
		select {
		case <-cut:
			return context.Canceled
		default:
			return emit(e)
		}
	})
	select {
	case <-cut:
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.last
	default:
		return err
	}
}

var (
	errDown = config.Errorf(config.Unavailable, "canary-endpoint refused the connection")
	errHung = config.Errorf(config.DeadlineExceeded, "canary-endpoint did not answer")
)

func onFrail(t testing.TB, b *frail, layers ...manifest.Layer) *fixture {
	t.Helper()
	return newStore(t, store.Options{}, router.Route{Prefix: "p_", BackendName: "mem", Backend: b, Layers: layers})
}

// Neither a store that goes away nor one that hangs ends a watch: it says so
// once, whatever it tries meanwhile, and once more when nothing is missing.
func TestWatchOverAnOutage(t *testing.T) {
	for name, layers := range map[string][]manifest.Layer{"one layer": {manifest.LayerTenant}, "three layers": threeLayers} {
		for _, failure := range []error{errDown, errHung} {
			t.Run(name+", "+failure.Error(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newFrail(memdriver.New())
					f := onFrail(t, b, layers...)
					f.put(t, acme, "p_a", `1`)
					f.put(t, acme, "p_b", `1`)
					w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: "p_"})
					w.expect("put p_a=1", "put p_b=1", "sync")
					b.fail(failure)
					w.expect("source down")
					before := b.watches()
					select { // it asks again, but not all the time, and says nothing
					case e := <-w.events:
						t.Errorf("an event came: %s", show(e))
					case <-time.After(time.Minute): // of the bubble
					}
					if n := b.watches() - before; n < 10 || n > 100*len(layers) {
						t.Errorf("it asked %d times in a minute", n)
					}
					f.put(t, acme, "p_a", `2`)
					f.delete(t, acme, "p_b")
					b.heal()
					w.expect("put p_a=2", "delete p_b", "source up")
					f.put(t, acme, "p_a", `3`)
					w.expect("put p_a=3")
					if n := strings.Count(f.logs.String(), "a backend call failed"); n > 1 {
						t.Errorf("the outage was logged %d times", n)
					}
					b.fail(failure)
					w.expect("source down")
					b.heal()
					w.expect("source up")
					w.close()
				})
			})
		}
	}
}

// A change whose value can not be read yet is emitted once it can.
func TestWatchOfAChangeThatCanNotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		b := &spy{Backend: memdriver.New(), onGet: func(context.Context, config.ID, uint64) error {
			if down.Load() {
				return errDown
			}
			return nil
		}}
		f := newStore(t, store.Options{}, router.Route{Prefix: "p_", BackendName: "mem", Backend: b, Layers: threeLayers})
		w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acmeOrders, KeyPrefix: "p_"})
		w.expect("sync")
		down.Store(true)
		f.put(t, acme, "p_a", `1`)
		w.expect("source down")
		down.Store(false)
		w.expect("put p_a=1", "source up")
		w.close()
	})
}

// Every event of an outage has a token to go on from, for an outage that lasts
// longer than the stream.
func TestWatchResumesInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFrail(memdriver.New())
		f := onFrail(t, b, threeLayers...)
		f.put(t, acme, "p_a", `1`)
		r := store.WatchRequest{Scope: acme, KeyPrefix: "p_"}
		w := watch(t.Context(), t, f.Store, r)
		w.expect("put p_a=1", "sync")
		b.fail(errDown)
		down := w.next()
		w.close()
		f.put(t, acme, "p_a", `2`)
		r.ResumeToken = down.ResumeToken
		w = watch(t.Context(), t, f.Store, r)
		w.expect("source down")
		b.heal()
		w.expect("put p_a=2", "sync", "source up")
		w.close()
	})
}

// What goes away in the middle of the initial state goes on in the middle.
func TestWatchOutageInTheSnapshot(t *testing.T) {
	for name, layers := range map[string][]manifest.Layer{"one layer": {manifest.LayerTenant}, "three layers": threeLayers} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newFrail(memdriver.New())
				f := onFrail(t, b, layers...)
				for i := range 9 {
					f.put(t, acme, "p_"+strconv.Itoa(i), `1`)
				}
				w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: "p_"})
				w.expect("put p_0=1", "put p_1=1")
				b.fail(errDown)
				got := map[string]int{}
				for e := w.next(); e.Kind != store.EventSourceDown; e = w.next() { // those that were on their way
					got[show(e)]++
				}
				f.delete(t, acme, "p_0")
				f.delete(t, acme, "p_8")
				b.heal()
				deleted := false
				var last store.Event
				for last = w.next(); last.Kind != store.EventSync; last = w.next() {
					got[show(last)]++
					deleted = deleted || show(last) == "delete p_0"
				}
				for i := 2; i < 8; i++ {
					if got[fmt.Sprintf("put p_%d=1", i)] != 1 {
						t.Errorf("p_%d came %d times", i, got[fmt.Sprintf("put p_%d=1", i)])
					}
				}
				if !deleted || got["put p_8=1"] != 0 {
					t.Errorf("the deletions were not seen: %v", got)
				}
				w.expect("source up")
				w.close()
			})
		})
	}
}

// Who has nothing to go on from yet is told at once, and can go elsewhere.
func TestWatchOfAStoreThatIsDown(t *testing.T) {
	b := newFrail(memdriver.New())
	b.fail(errDown)
	err := onFrail(t, b, threeLayers...).Watch(t.Context(), store.WatchRequest{Scope: acme, KeyPrefix: "p_"}, func(e store.Event) error {
		t.Errorf("an event came: %s", show(e))
		return nil
	})
	wantCode(t, err, config.Unavailable)
}

// A plugin that was given up is away until somebody has mended it: the watch
// waits for that, as for any other outage.
func TestR02WatchOutlivesTheQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFrail(memdriver.New())
		f := onFrail(t, b, threeLayers...)
		f.put(t, acme, "p_a", `1`)
		w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: "p_"})
		w.expect("put p_a=1", "sync")
		b.fail(config.Errorf(config.FailedPrecondition, "it was given up").WithCause(errDown))
		w.expect("source down")
		f.put(t, acme, "p_a", `2`)
		b.heal()
		w.expect("put p_a=2", "source up")
		w.close()
	})
}

// Any other failure ends the watch, also in the middle of an outage.
func TestWatchOutageThatBecomesAnotherFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFrail(memdriver.New())
		w := watch(t.Context(), t, onFrail(t, b, threeLayers...).Store, store.WatchRequest{Scope: acme, KeyPrefix: "p_"})
		w.expect("sync")
		b.fail(errDown)
		w.expect("source down")
		b.fail(config.Errorf(config.PermissionDenied, "no"))
		wantCode(t, w.end(), config.FailedPrecondition)
		w.stop()
	})
}

// A watch can be ended, and its receiver can refuse, while its store is away.
func TestWatchEndsInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFrail(memdriver.New())
		f := onFrail(t, b, threeLayers...)
		w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: "p_"})
		w.expect("sync")
		b.fail(errDown)
		w.expect("source down")
		w.stop()
		wantCode(t, w.end(), config.Canceled)

		// What the receiver says is not the store's, whatever its code.
		b.heal()
		gone := config.Errorf(config.Unavailable, "the receiver is going away")
		calls := 0
		err := f.Watch(t.Context(), store.WatchRequest{Scope: acme, KeyPrefix: "p_"}, func(store.Event) error {
			calls++
			return gone
		})
		if !errors.Is(err, gone) || calls != 1 {
			t.Errorf("Watch: %v after %d calls of emit, want what the first one returned", err, calls)
		}
	})
}

// A store that has forgotten the changes since, or everything, is a gap: all
// values follow as at the beginning, and the gap's own token leads to a gap.
func TestWatchGap(t *testing.T) {
	for name, c := range map[string]struct {
		layers []manifest.Layer
		lose   func(t *testing.T, f *fixture, b *frail)
	}{
		"compacted, one layer":    {[]manifest.Layer{manifest.LayerTenant}, compact},
		"compacted, three layers": {threeLayers, compact},
		"replaced, one layer":     {[]manifest.Layer{manifest.LayerTenant}, replace},
		"replaced, three layers":  {threeLayers, replace},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newFrail(memdriver.New(memdriver.WithChanges(3)))
				f := onFrail(t, b, c.layers...)
				f.put(t, acme, "p_a", `1`)
				f.put(t, acme, "p_b", `1`)
				f.put(t, acme, "p_c", `1`)
				r := store.WatchRequest{Scope: acme, KeyPrefix: "p_"}
				w := watch(t.Context(), t, f.Store, r)
				w.expect("put p_a=1", "put p_b=1", "put p_c=1", "sync")
				b.fail(errDown)
				down := w.next()
				c.lose(t, f, b)
				b.heal()
				gap := w.next()
				if gap.Kind != store.EventGap {
					t.Fatalf("the event is %s", show(gap))
				}
				// p_c has not changed since it was emitted, and comes again.
				w.expect("put p_a=2", "put p_c=1", "sync", "source up")
				f.put(t, acme, "p_d", `1`)
				w.expect("put p_d=1")
				w.close()
				for _, token := range []string{down.ResumeToken, gap.ResumeToken} {
					r.ResumeToken = token
					w = watch(t.Context(), t, f.Store, r)
					w.expect("gap", "put p_a=2", "put p_c=1", "put p_d=1", "sync")
					w.close()
				}
			})
		})
	}
}

// compact makes the store forget what happened before.
func compact(t *testing.T, f *fixture, _ *frail) {
	f.delete(t, acme, "p_b")
	for i := range 4 {
		f.put(t, acme, "p_a", strconv.Itoa(i%2+1))
	}
	f.put(t, globex, "p_a", `1`)
}

// replace puts another store in its place, as after a loss.
func replace(t *testing.T, f *fixture, b *frail) {
	b.replace(memdriver.New(memdriver.WithChanges(3)))
	f.put(t, acme, "p_a", `2`)
	f.put(t, acme, "p_c", `1`)
}

// A receiver that is slower than the changes is told of each gap and has all of
// a state between two of them.
func TestWatchSlowReceiver(t *testing.T) {
	b := memdriver.New(memdriver.WithChanges(2))
	f := newStore(t, store.Options{}, router.Route{Prefix: "p_", BackendName: "mem", Backend: b, Layers: []manifest.Layer{manifest.LayerTenant}})
	f.put(t, acme, "p_a", `0`)
	var got []string
	syncs := 0
	err := f.Watch(t.Context(), store.WatchRequest{Scope: acme, KeyPrefix: "p_"}, func(e store.Event) error {
		got = append(got, show(e))
		if e.Kind != store.EventSync {
			return nil
		}
		if syncs++; syncs == 3 {
			return errDone
		}
		for range 10 { // while this one is still being taken
			f.put(t, acme, "p_a", strconv.Itoa(syncs))
		}
		return nil
	})
	// Between a sync and a gap comes what was on its way.
	for i := len(got) - 1; i > 0; i-- {
		if got[i] == "gap" && got[i-1] != "sync" {
			got = slices.Delete(got, i-1, i)
		}
	}
	want := []string{"put p_a=0", "sync", "gap", "put p_a=1", "sync", "gap", "put p_a=2", "sync"}
	if diff := cmp.Diff(want, got); diff != "" || !errors.Is(err, errDone) {
		t.Errorf("Watch: %v, events (-want +got):\n%s", err, diff)
	}
}

// forgetful can not go on from anywhere, not even from the beginning.
type forgetful struct{ *memdriver.Backend }

func (forgetful) Watch(context.Context, driver.WatchRequest, func(driver.Event) error) error {
	return config.Errorf(config.OutOfRange, "not kept")
}

// A store that can not even begin anew is not asked for ever.
func TestWatchGapWithoutEnd(t *testing.T) {
	f := newStore(t, store.Options{}, router.Route{Prefix: "p_", BackendName: "mem", Backend: forgetful{memdriver.New()}, Layers: threeLayers})
	var got []string
	err := f.Watch(t.Context(), store.WatchRequest{Scope: acme, KeyPrefix: "p_"}, func(e store.Event) error {
		got = append(got, show(e))
		return nil
	})
	wantCode(t, err, config.OutOfRange)
	if len(got) > 1 {
		t.Errorf("the events are %q", got)
	}
}

// model is what a client makes of the events that it gets, gaps included.
type model struct {
	values map[string]string
	since  map[string]bool // behind a gap: what came since
	down   bool
}

func (m *model) apply(t *testing.T, e store.Event) {
	switch e.Kind {
	case store.EventGap:
		m.since = map[string]bool{}
	case store.EventSync:
		if m.since != nil {
			maps.DeleteFunc(m.values, func(k, _ string) bool { return !m.since[k] })
		}
		m.since = nil
	case store.EventPut, store.EventDelete:
		k := e.Entry.ID.Key.String()
		if m.since != nil {
			m.since[k] = e.Kind == store.EventPut
		}
		if e.Kind == store.EventPut {
			m.values[k] = string(e.Entry.Value)
		} else {
			delete(m.values, k)
		}
	case store.EventSourceDown, store.EventSourceUp:
		if m.down == (e.Kind == store.EventSourceDown) {
			t.Fatalf("%s twice", show(e))
		}
		m.down = !m.down
	}
}

// Through outages at any moment, changes that are forgotten and stores that are
// replaced, a client that follows the events has in the end what is there. A
// seed that fails is named, and repeats the same steps.
func TestWatchConvergesOverOutages(t *testing.T) {
	for seed := range uint64(400) {
		ok := t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { convergesOverOutages(t, rand.New(rand.NewPCG(seed, 0))) })
		})
		if !ok {
			return
		}
	}
}

func convergesOverOutages(t *testing.T, dice *rand.Rand) {
	kept := memdriver.WithChanges(1 + dice.IntN(12))
	b := newFrail(memdriver.New(kept))
	layers := [][]manifest.Layer{threeLayers, {manifest.LayerTenant}, {manifest.LayerTenant, manifest.LayerShared}}[dice.IntN(3)]
	f := onFrail(t, b, layers...)
	places := []store.Scope{acmeOrders, acme, {Tenant: config.Shared()}}
	changes := 0
	change := func() {
		changes++
		p := places[dice.IntN(len(places))]
		id := config.ID{Tenant: p.Tenant, Service: p.Service, Key: key([]string{"p_a", "p_b", "p_c"}[dice.IntN(3)])}
		if dice.IntN(3) == 0 {
			if _, err := b.Delete(t.Context(), driver.DeleteRequest{ID: id}); err != nil && !errors.Is(err, config.NotFound) {
				t.Fatal(err)
			}
			return
		}
		if _, err := b.Put(t.Context(), driver.PutRequest{ID: id, Value: strconv.AppendInt(nil, int64(changes), 10)}); err != nil {
			t.Fatal(err)
		}
	}
	for range dice.IntN(7) {
		change()
	}
	scope := acme
	if layers[0] == manifest.LayerService {
		scope = acmeOrders
	}
	w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: scope, KeyPrefix: "p_"})
	defer w.close()
	client := model{values: map[string]string{}}
	take := func(wait time.Duration) bool {
		select {
		case e := <-w.events:
			client.apply(t, e)
			return true
		case err := <-w.ended:
			t.Fatalf("the watch ended: %v", err)
		case <-time.After(wait): // of the bubble
		}
		return false
	}
	take(time.Hour) // it has begun
	out := false
	for range dice.IntN(30) {
		switch step := dice.IntN(10); {
		case step < 4:
			change()
		case step < 7:
			take(time.Second)
		case step < 8 && !out:
			b.fail(errDown)
			out = true
		case step < 9 && out:
			b.heal()
			out = false
		case out:
			b.replace(memdriver.New(kept))
		}
	}
	if out {
		b.heal()
	}
	for take(time.Minute) {
		continue
	}
	want := map[string]string{}
	page, err := f.List(t.Context(), store.ListRequest{Scope: scope, KeyPrefix: "p_"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Entries {
		want[e.ID.Key.String()] = string(e.Value)
	}
	if diff := cmp.Diff(want, client.values); diff != "" || client.down || client.since != nil {
		t.Fatalf("down %t, in a gap %t, the client has (-want +got):\n%s", client.down, client.since != nil, diff)
	}
}
