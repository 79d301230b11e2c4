package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// watching is a Watch in a goroutine of its own.
type watching struct {
	t      interface{ Fatalf(string, ...any) }
	events chan store.Event
	ended  chan error
	stop   context.CancelFunc
}

func watch(ctx context.Context, t interface{ Fatalf(string, ...any) }, s *store.Store, r store.WatchRequest) *watching {
	ctx, cancel := context.WithCancel(ctx)
	w := &watching{t: t, events: make(chan store.Event), ended: make(chan error, 1), stop: cancel}
	go func() {
		w.ended <- s.Watch(ctx, r, func(e store.Event) error {
			select {
			case w.events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return w
}

func (w *watching) next() store.Event {
	select {
	case e := <-w.events:
		return e
	case err := <-w.ended:
		w.t.Fatalf("the watch ended: %v", err)
	case <-time.After(10 * time.Second):
		w.t.Fatalf("no event came")
	}
	return store.Event{}
}

// end waits for the watch to end without another event.
func (w *watching) end() error {
	select {
	case e := <-w.events:
		w.t.Fatalf("an event came: %s", show(e))
	case err := <-w.ended:
		return err
	case <-time.After(10 * time.Second):
		w.t.Fatalf("the watch did not end")
	}
	return nil
}

// close ends the watch and waits for it.
func (w *watching) close() {
	w.stop()
	select {
	case err := <-w.ended:
		if err == nil {
			w.t.Fatalf("the watch ended without a reason")
		}
	case <-time.After(10 * time.Second):
		w.t.Fatalf("the watch did not end")
	}
}

// show writes an event as "put a=value".
func show(e store.Event) string {
	switch e.Kind {
	case store.EventPut:
		return "put " + e.Entry.ID.Key.String() + "=" + string(e.Entry.Value)
	case store.EventDelete:
		return "delete " + e.Entry.ID.Key.String()
	default:
		return e.Kind.String()
	}
}

func (w *watching) expect(want ...string) {
	for _, one := range want {
		if got := show(w.next()); got != one {
			w.t.Fatalf("the event is %q, want %q", got, one)
		}
	}
}

func TestWatchSnapshot(t *testing.T) {
	b := memdriver.New()
	f := newStore(t, store.Options{},
		router.Route{Prefix: "p_", BackendName: "mem", Backend: b, Layers: threeLayers},
		router.Route{Prefix: "p_long_", BackendName: "mem", Backend: b, Layers: threeLayers},
	)
	for _, k := range []string{"p_a", "p_c", "p_long_x", "p_z"} {
		f.put(t, acme, k, `"tenant"`)
	}
	for _, k := range []string{"p_b", "p_c", "p_long_y"} {
		f.put(t, acmeOrders, k, `"service"`)
	}
	share(t, b, "p_c", `"shared"`)
	share(t, b, "p_d", `"shared"`)
	f.put(t, globex, "p_e", `"globex"`)
	w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acmeOrders, KeyPrefix: "p_"})
	defer w.close()
	w.expect(`put p_a="tenant"`, `put p_b="service"`, `put p_c="service"`, `put p_d="shared"`, `put p_z="tenant"`, "sync")
	f.put(t, acme, "p_long_x", `"hidden"`)
	f.put(t, globex, "p_a", `"hidden"`)
	f.put(t, acme, "p_z", `"end"`)
	w.expect(`put p_z="end"`)
}

// What a change of one layer is to someone who sees several.
func TestWatchLayers(t *testing.T) {
	b := memdriver.New()
	f := newStore(t, store.Options{}, router.Route{Prefix: "p_", BackendName: "mem", Backend: b, Layers: threeLayers})
	w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acmeOrders, KeyPrefix: "p_"})
	defer w.close()
	w.expect("sync")

	share(t, b, "p_a", `"shared"`)
	w.expect(`put p_a="shared"`)
	f.put(t, acme, "p_a", `"tenant"`)
	w.expect(`put p_a="tenant"`)
	share(t, b, "p_a", `"shared 2"`) // hidden
	f.put(t, acmeOrders, "p_a", `"service"`)
	w.expect(`put p_a="service"`)
	f.put(t, acme, "p_a", `"tenant 2"`) // hidden
	f.delete(t, acmeOrders, "p_a")
	w.expect(`put p_a="tenant 2"`)
	f.delete(t, acme, "p_a")
	w.expect(`put p_a="shared 2"`)
	if _, err := b.Delete(t.Context(), driver.DeleteRequest{ID: config.ID{Tenant: config.Shared(), Key: key("p_a")}}); err != nil {
		t.Fatal(err)
	}
	w.expect("delete p_a")
	f.put(t, acme, "p_b", `"tenant"`)
	w.expect(`put p_b="tenant"`)
	f.put(t, acmeOrders, "p_b", `"service"`)
	w.expect(`put p_b="service"`)
	f.delete(t, acme, "p_b") // hidden
	f.delete(t, acmeOrders, "p_b")
	w.expect("delete p_b")
}

// One layer passes every change on, once and in order, and every event can be
// resumed behind.
func TestWatchOneLayer(t *testing.T) {
	b := memdriver.New()
	f := newStore(t, store.Options{}, router.Route{
		Prefix: "p_", BackendName: "mem", Backend: b, Layers: []manifest.Layer{manifest.LayerTenant},
	})
	r := store.WatchRequest{Scope: acme, KeyPrefix: "p_"}
	w := watch(t.Context(), t, f.Store, r)
	first := w.next()
	if first.Kind != store.EventSync {
		t.Fatalf("the first event is %s", show(first))
	}
	var want []string
	for i := range 5 {
		f.put(t, acme, "p_a", strconv.Itoa(i))
		want = append(want, fmt.Sprintf("put p_a=%d", i))
	}
	f.delete(t, acme, "p_a")
	want = append(want, "delete p_a")
	w.close() // none of it was received

	r.ResumeToken = first.ResumeToken
	w = watch(t.Context(), t, f.Store, r)
	var tokens []string
	for _, one := range want {
		e := w.next()
		if show(e) != one {
			t.Fatalf("the event is %q, want %q", show(e), one)
		}
		tokens = append(tokens, e.ResumeToken)
	}
	w.expect("sync")
	w.close()
	for i, token := range tokens {
		r.ResumeToken = token
		w = watch(t.Context(), t, f.Store, r)
		w.expect(append(append([]string{}, want[i+1:]...), "sync")...)
		w.close()
	}
}

// replica is what a client makes of the events that it gets.
type replica struct {
	values map[string]string
	newest map[config.ID]uint64
}

func (r *replica) apply(t *rapid.T, e store.Event) {
	if e.Kind != store.EventPut && e.Kind != store.EventDelete {
		return
	}
	id := e.Entry.ID
	if id.Tenant == globex.Tenant || strings.Contains(string(e.Entry.Value), "globex") {
		t.Fatalf("an event of somebody else's: %s", show(e))
	}
	if e.Entry.Version < r.newest[id] {
		t.Fatalf("%s goes back from version %d to %d", id.Key, r.newest[id], e.Entry.Version)
	}
	r.newest[id] = e.Entry.Version
	if e.Kind == store.EventPut {
		r.values[id.Key.String()] = string(e.Entry.Value)
	} else {
		delete(r.values, id.Key.String())
	}
}

// Whoever watches any layers, is cut off behind any event and resumes there,
// has what a List shows in the end, and never sees a value go back.
func TestWatchConverges(t *testing.T) {
	ctx := t.Context()
	allLayers := [][]manifest.Layer{
		threeLayers, {manifest.LayerService, manifest.LayerTenant}, {manifest.LayerTenant}, {manifest.LayerTenant, manifest.LayerShared},
	}
	rapid.Check(t, func(t *rapid.T) {
		b := memdriver.New()
		layers := rapid.SampledFrom(allLayers).Draw(t, "layers")
		table, err := router.NewTable([]router.Route{
			{Prefix: "p_", BackendName: "mem", Backend: b, Layers: layers},
			{Prefix: "p_c_", BackendName: "mem", Backend: b, Layers: layers},
		})
		if err != nil {
			t.Fatal(err)
		}
		s := store.New(router.New(table), store.Options{})
		scope := rapid.SampledFrom([]store.Scope{acme, acmeOrders}).Draw(t, "scope")
		places := []store.Scope{acmeOrders, acme, {Tenant: config.Shared()}, globex}
		change := func(what string, n int) {
			for i := range rapid.IntRange(0, n).Draw(t, what) {
				p := rapid.SampledFrom(places).Draw(t, "place")
				id := config.ID{Tenant: p.Tenant, Service: p.Service, Key: key(rapid.SampledFrom([]string{"p_a", "p_b", "p_c", "p_c_x", "p_d"}).Draw(t, "key"))}
				if rapid.Bool().Draw(t, "delete") {
					_, err := b.Delete(ctx, driver.DeleteRequest{ID: id})
					if err != nil && !errors.Is(err, config.NotFound) {
						t.Fatal(err)
					}
					continue
				}
				value := strconv.Quote(fmt.Sprintf("%s %d of %s/%s", what, i, p.Tenant, p.Service))
				if _, err := b.Put(ctx, driver.PutRequest{ID: id, Value: []byte(value)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		change("before", 12)
		client := replica{map[string]string{}, map[config.ID]uint64{}}
		r := store.WatchRequest{Scope: scope, KeyPrefix: "p_"}
		for range rapid.IntRange(1, 4).Draw(t, "connections") {
			w := watch(ctx, t, s, r)
			synced := false
			for range rapid.IntRange(0, 5).Draw(t, "received") {
				if synced { // nothing more may come: make sure that something does
					break
				}
				e := w.next()
				client.apply(t, e)
				r.ResumeToken = e.ResumeToken
				synced = e.Kind == store.EventSync
				change("meanwhile", 2)
			}
			w.close()
			change("while away", 6)
		}
		want := map[string]string{}
		for _, line := range walk(ctx, t, &fixture{Store: s}, store.ListRequest{Scope: scope, KeyPrefix: "p_"}, func() int { return 2 }) {
			k, v, _ := strings.Cut(line, "=")
			want[k] = v
		}
		w := watch(ctx, t, s, r)
		defer w.close()
		for synced := false; !synced || !maps.Equal(want, client.values); {
			select {
			case e := <-w.events:
				client.apply(t, e)
				synced = synced || e.Kind == store.EventSync
			case err := <-w.ended:
				t.Fatalf("the watch ended: %v", err)
			case <-time.After(5 * time.Second):
				t.Fatalf("the client has (-want +got):\n%s", cmp.Diff(want, client.values))
			}
		}
	})
}

// Writers of all layers at once: the watch calls emit one at a time and ends
// at the last value of every key.
func TestWatchConcurrentWriters(t *testing.T) {
	b := memdriver.New()
	f := newStore(t, store.Options{}, router.Route{Prefix: "p_", BackendName: "mem", Backend: b, Layers: threeLayers})
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	values := map[string]string{}
	var inside atomic.Int32
	ended := make(chan error, 1)
	synced := make(chan struct{})
	go func() {
		ended <- f.Watch(ctx, store.WatchRequest{Scope: acmeOrders, KeyPrefix: "p_"}, func(e store.Event) error {
			if inside.Add(1) != 1 {
				t.Error("emit was called while it ran")
			}
			defer inside.Add(-1)
			mu.Lock()
			defer mu.Unlock()
			switch e.Kind {
			case store.EventPut:
				values[e.Entry.ID.Key.String()] = string(e.Entry.Value)
			case store.EventDelete:
				delete(values, e.Entry.ID.Key.String())
			case store.EventSync:
				close(synced)
			}
			return nil
		})
	}()
	<-synced
	var writers sync.WaitGroup
	for i, p := range []config.ID{{Tenant: acme.Tenant, Service: orders}, {Tenant: acme.Tenant}, {Tenant: config.Shared()}} {
		writers.Go(func() {
			for n := range 60 {
				p.Key = key("p_" + strconv.Itoa(n%3))
				if n%5 == 4 {
					if _, err := b.Delete(ctx, driver.DeleteRequest{ID: p}); err != nil && !errors.Is(err, config.NotFound) {
						t.Error(err)
					}
					continue
				}
				value := []byte(fmt.Sprintf(`"%d of %d"`, n, i))
				if _, err := b.Put(ctx, driver.PutRequest{ID: p, Value: value}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	want := map[string]string{}
	for _, line := range walk(ctx, t, f, store.ListRequest{Scope: acmeOrders, KeyPrefix: "p_"}, func() int { return 10 }) {
		k, v, _ := strings.Cut(line, "=")
		want[k] = v
	}
	eventually(t, "the last value of every key", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return maps.Equal(want, values)
	})
	cancel()
	wantCode(t, <-ended, config.Canceled)
}

func TestWatchEnds(t *testing.T) {
	request := store.WatchRequest{Scope: acmeOrders, KeyPrefix: "param_config_"}
	t.Run("emit fails", func(t *testing.T) {
		f := on(t, memdriver.New())
		if err := f.Watch(t.Context(), request, func(store.Event) error { return errDone }); !errors.Is(err, errDone) {
			t.Errorf("Watch: %v, want what emit returned", err)
		}
	})
	t.Run("the backend closes", func(t *testing.T) {
		b := memdriver.New()
		f := on(t, b)
		w := watch(t.Context(), t, f.Store, request)
		w.expect("sync")
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		wantCode(t, w.end(), config.FailedPrecondition)
		w.stop()
	})
	t.Run("the backend gives up", func(t *testing.T) {
		f := on(t, quitter{memdriver.New()})
		err := f.Watch(t.Context(), request, func(store.Event) error { return nil })
		wantCode(t, err, config.Unavailable)
	})
	t.Run("a layer can not be read", func(t *testing.T) {
		b := &spy{Backend: memdriver.New()}
		f := on(t, b)
		w := watch(t.Context(), t, f.Store, request)
		w.expect("sync")
		b2 := on(t, b.Backend)
		// Happens before the change that makes the watch read.
		b.onGet = func(context.Context, config.ID, uint64) error { return config.Errorf(config.DataLoss, "damaged") }
		b2.put(t, acme, "param_config_a", `1`)
		wantCode(t, w.end(), config.DataLoss)
		w.stop()
	})
}

// quitter ends its watches without a reason.
type quitter struct{ *memdriver.Backend }

func (quitter) Watch(context.Context, driver.WatchRequest, func(driver.Event) error) error {
	return nil
}

func TestWatchTokens(t *testing.T) {
	b := memdriver.New(memdriver.WithChanges(2))
	f := on(t, b)
	f.put(t, acme, "param_config_a", `1`)
	w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: "param_config_"})
	inSnapshot, afterSync := w.next().ResumeToken, w.next().ResumeToken
	w.close()
	list, err := f.List(t.Context(), store.ListRequest{Scope: acme, KeyPrefix: "param_config_", PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(store.Event) error { return nil }
	for name, r := range map[string]store.WatchRequest{
		"forged":         {Scope: acme, KeyPrefix: "param_config_", ResumeToken: "AAAA"},
		"cut short":      {Scope: acme, KeyPrefix: "param_config_", ResumeToken: afterSync[1:]},
		"other tenant":   {Scope: globex, KeyPrefix: "param_config_", ResumeToken: afterSync},
		"other service":  {Scope: acmeOrders, KeyPrefix: "param_config_", ResumeToken: afterSync},
		"other prefix":   {Scope: acme, KeyPrefix: "param_config_a", ResumeToken: afterSync},
		"snapshot token": {Scope: globex, KeyPrefix: "param_config_", ResumeToken: inSnapshot},
		"page token":     {Scope: acme, KeyPrefix: "param_config_", ResumeToken: list.NextPageToken + "x"},
		"no prefix":      {Scope: acme},
	} {
		if err := f.Watch(t.Context(), r, nothing); config.CodeOf(err) != config.InvalidArgument || err == nil {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
	for range 3 {
		f.put(t, acme, "param_config_a", `2`)
	}
	for _, token := range []string{inSnapshot, afterSync} {
		w := watch(t.Context(), t, f.Store, store.WatchRequest{Scope: acme, KeyPrefix: "param_config_", ResumeToken: token})
		w.expect("gap", "put param_config_a=2", "sync")
		w.close()
	}
}

// progressing reports progress behind every event.
type progressing struct{ *memdriver.Backend }

func (p progressing) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	return p.Backend.Watch(ctx, r, func(e driver.Event) error {
		if err := emit(e); err != nil {
			return err
		}
		return emit(driver.Event{Kind: driver.EventProgress, Position: e.Position})
	})
}

// Progress is passed on, with a token that resumes behind it.
func TestWatchProgress(t *testing.T) {
	f := newStore(t, store.Options{}, router.Route{
		Prefix: "p_", BackendName: "mem", Backend: progressing{memdriver.New()}, Layers: []manifest.Layer{manifest.LayerTenant},
	})
	f.put(t, acme, "p_a", `1`)
	r := store.WatchRequest{Scope: acme, KeyPrefix: "p_"}
	w := watch(t.Context(), t, f.Store, r)
	w.expect("put p_a=1", "sync", "progress")
	f.put(t, acme, "p_a", `2`)
	w.expect("put p_a=2")
	e := w.next()
	if e.Kind != store.EventProgress {
		t.Fatalf("the event is %s", show(e))
	}
	w.close()
	f.put(t, acme, "p_a", `3`)
	r.ResumeToken = e.ResumeToken
	w = watch(t.Context(), t, f.Store, r)
	defer w.close()
	w.expect("put p_a=3")
}

// A Watch goes on with the table that is in use. It says so only where what it
// selects is something else than before, and ends where it selects nothing.
func TestWatchAcrossSwap(t *testing.T) {
	b, other := memdriver.New(), memdriver.New()
	f := on(t, b)
	swap := func(routes ...router.Route) {
		t.Helper()
		table, err := router.NewTable(routes)
		if err != nil {
			t.Fatal(err)
		}
		f.routes.Swap(table)
	}
	params := router.Route{Prefix: "param_config_", BackendName: "params", Backend: b, Layers: threeLayers}
	r := store.WatchRequest{Scope: acme, KeyPrefix: "param_config_"}
	w := watch(t.Context(), t, f.Store, r)
	w.expect("sync")
	f.put(t, acme, "param_config_eu_x", `1`)
	w.expect("put param_config_eu_x=1")

	// The same keys of the same store, under another name and with another
	// route beside them.
	renamed := params
	renamed.BackendName, renamed.MaxValue = "renamed", 100
	swap(renamed, router.Route{Prefix: "tenant_config_", BackendName: "other", Backend: other})
	f.put(t, acme, "param_config_a", `1`)
	w.expect("put param_config_a=1")

	// Some of the keys belong to a route of their own now.
	swap(params, router.Route{Prefix: "param_config_eu_", BackendName: "other", Backend: other})
	e := w.next()
	if show(e) != "gap" {
		t.Fatalf("got %s, want a gap", show(e))
	}
	w.expect("put param_config_a=1", "sync")
	f.put(t, acme, "param_config_eu_x", `2`)
	f.put(t, acme, "param_config_b", `1`)
	w.expect("put param_config_b=1")

	// Who resumes behind the gap is told of it again.
	again := r
	again.ResumeToken = e.ResumeToken
	w2 := watch(t.Context(), t, f.Store, again)
	w2.expect("gap", "put param_config_a=1", "put param_config_b=1", "sync")
	w2.close()

	// Another store, and fewer layers.
	moved := params
	moved.Backend, moved.Layers = other, []manifest.Layer{manifest.LayerTenant}
	swap(moved)
	w.expect("gap", "put param_config_eu_x=2", "sync")
	f.put(t, acme, "param_config_c", `1`)
	w.expect("put param_config_c=1")

	swap(router.Route{Prefix: "tenant_config_", BackendName: "other", Backend: other})
	wantCode(t, w.end(), config.InvalidArgument)
}
