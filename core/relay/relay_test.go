package relay_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func id(tenant, key string) config.ID {
	return config.ID{Tenant: must(config.ParseTenant(tenant)), Key: must(config.ParseKey(key))}
}

var x, elsewhere = id("acme-corp", "p_x"), id("acme-corp", "q_x")

var veil = driver.NewSealer(driver.NewTokenKey())

// store is a memdriver that counts its streams, and fails when it is told to.
type store struct {
	*memdriver.Backend
	// veiled has every stream give positions of its own, which are as good.
	veiled bool
	// tells changes what is told.
	tells func(driver.Event) driver.Event
	// The stream of this number tells a change for each that held gives.
	holds int
	held  chan struct{}

	mu     sync.Mutex
	open   map[string]int // streams that run, by tenant and prefix
	opened int
	most   int // streams there may be; 0: any number
	down   error
	cut    chan struct{} // closed when it goes down
}

func newStore(o ...memdriver.Option) *store {
	return &store{Backend: memdriver.New(o...), open: map[string]int{}, cut: make(chan struct{})}
}

func (s *store) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	name := r.Tenant.String() + " " + r.KeyPrefix
	s.mu.Lock()
	s.opened++
	n, cut, err := s.opened, s.cut, s.down
	if err == nil && s.most > 0 && s.open[name] >= s.most {
		err = config.Errorf(config.ResourceExhausted, "too many streams")
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	s.open[name]++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open[name]--
	}()
	if s.veiled && r.After != "" {
		position, err := veil.Open(r.After)
		if err != nil {
			return err
		}
		_, r.After, _ = strings.Cut(position, " ")
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-cut:
			cancel()
		case <-stop:
		}
	})
	defer waiting.Wait()
	defer close(stop)
	err = s.Backend.Watch(running, r, func(e driver.Event) error {
		if n == s.holds && e.Kind == driver.EventPut {
			<-s.held
		}
		if s.veiled {
			e.Position = veil.Seal(strconv.Itoa(n) + " " + e.Position)
		}
		if s.tells != nil {
			e = s.tells(e)
		}
		return emit(e)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil && ctx.Err() == nil {
		return s.down
	}
	return err
}

func (s *store) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
	close(s.cut)
}

func (s *store) limit(most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = most
}

// streams returns how many run of one scope, and how many were ever opened.
func (s *store) streams(tenant, prefix string) (open, opened int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[tenant+" "+prefix], s.opened
}

func (s *store) put(tb testing.TB, id config.ID, value string) uint64 {
	tb.Helper()
	e, err := s.Put(context.Background(), driver.PutRequest{ID: id, Value: []byte(value)})
	if err != nil {
		tb.Fatal(err)
	}
	return e.Version
}

// newRelay ends what it started with the test.
func newRelay(tb testing.TB, s driver.Watcher) *relay.Relay {
	life, end := context.WithCancel(context.Background())
	var work sync.WaitGroup
	tb.Cleanup(func() {
		end()
		work.Wait()
	})
	return relay.New(life, s, func(f func()) bool {
		work.Go(f)
		return true
	})
}

// watcher is a Watch in a goroutine of its own.
type watcher struct {
	events chan driver.Event
	done   chan error
	cancel context.CancelFunc
}

func watch(tb testing.TB, r *relay.Relay, request driver.WatchRequest) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{events: make(chan driver.Event), done: make(chan error, 1), cancel: cancel}
	go func() {
		w.done <- r.Watch(ctx, request, func(e driver.Event) error {
			select {
			case w.events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	tb.Cleanup(func() { _ = w.end() })
	return w
}

func (w *watcher) end() error {
	w.cancel()
	return w.ended()
}

func (w *watcher) ended() error {
	err := <-w.done
	w.done <- err
	return err
}

func (w *watcher) want(tb testing.TB, events ...string) (last driver.Event) {
	tb.Helper()
	for _, want := range events {
		select {
		case last = <-w.events:
		case err := <-w.done:
			w.done <- err
			tb.Fatalf("the watch ended with %v, want %q", err, want)
		case <-time.After(time.Minute):
			tb.Fatalf("no event came, want %q", want)
		}
		if got := show(last); got != want {
			tb.Fatalf("got %q, want %q", got, want)
		}
	}
	return last
}

// show writes an event as "kind key value version".
func show(e driver.Event) string {
	if e.Kind == driver.EventSync || e.Kind == driver.EventProgress {
		return e.Kind.String()
	}
	return fmt.Sprintf("%v %v %s %d", e.Kind, e.Entry.ID.Key, e.Entry.Value, e.Entry.Version)
}

// below is what acme-corp has below p_.
func below(after string) driver.WatchRequest {
	return driver.WatchRequest{Tenant: x.Tenant, KeyPrefix: "p_", After: after}
}

// gathered are n watchers that all have the present state, of a store with
// nothing below p_.
func gathered(tb testing.TB, r *relay.Relay, n int) []*watcher {
	tb.Helper()
	all := make([]*watcher, n)
	for i := range all {
		all[i] = watch(tb, r, below(""))
		all[i].want(tb, "sync")
	}
	return all
}

// relayed is a store that is watched through a Relay.
type relayed struct {
	*memdriver.Backend
	*relay.Relay
}

func (r relayed) Watch(ctx context.Context, request driver.WatchRequest, emit func(driver.Event) error) error {
	return r.Relay.Watch(ctx, request, emit)
}

// Nobody can tell that a stream is shared, whether its positions agree with those
// of others or not.
func TestConformance(t *testing.T) {
	for name, veiled := range map[string]bool{"positions agree": false, "positions differ": true} {
		t.Run(name, func(t *testing.T) {
			const changes = 1000
			drivertest.Run(t, drivertest.Caps{
				Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true, MaxValue: 1 << 20,
			}, func(tb testing.TB) *drivertest.Harness {
				s := newStore(memdriver.WithChanges(changes))
				s.veiled = veiled
				return &drivertest.Harness{Backend: relayed{s.Backend, newRelay(tb, s).ShareAlone()}, Changes: changes}
			})
		})
	}
}

// A hundred who watch the same cost the store one stream, also where nothing
// changes and whatever else goes on in the store, and an event is told to each once.
func TestManyShareOneStream(t *testing.T) {
	tests := map[string]struct {
		veiled, busy bool
	}{
		"a quiet store":         {},
		"others write":          {busy: true},
		"positions never agree": {veiled: true},
		"neither, others write": {veiled: true, busy: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				s.veiled = tt.veiled
				r := newRelay(t, s)
				var all []*watcher
				for range 100 {
					all = append(all, watch(t, r, below("")))
					all[len(all)-1].want(t, "sync")
					if tt.busy {
						s.put(t, elsewhere, "1")
					}
				}
				synctest.Wait()
				if open, _ := s.streams("acme-corp", "p_"); open != 1 {
					t.Errorf("%d streams are open before anything changed", open)
				}
				_, before := s.streams("acme-corp", "p_")
				for i := range 10 {
					v := s.put(t, x, strconv.Itoa(i))
					for _, w := range all {
						w.want(t, fmt.Sprintf("put p_x %d %d", i, v))
					}
				}
				if open, opened := s.streams("acme-corp", "p_"); open != 1 || opened != before {
					t.Errorf("%d streams are open, and %d were opened for what changed", open, opened-before)
				}
			})
		})
	}
}

// Who watches alone is not given a stream in between.
func TestWhoIsAloneSharesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		w := gathered(t, newRelay(t, s), 1)[0]
		s.put(t, x, "1")
		w.want(t, "put p_x 1 1")
		synctest.Wait()
		if open, opened := s.streams("acme-corp", "p_"); open != 1 || opened != 1 {
			t.Errorf("%d streams are open, %d were opened", open, opened)
		}
	})
}

// Who joins late is told what was acknowledged before, then what is shared.
func TestLateJoiner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		r := newRelay(t, s)
		all := gathered(t, r, 3)
		for i := 1; i <= 20; i++ {
			s.put(t, x, strconv.Itoa(i))
			late := watch(t, r, below("")) // others may not have been told yet
			late.want(t, fmt.Sprintf("put p_x %d %d", i, i), "sync")
			for _, w := range all {
				w.want(t, fmt.Sprintf("put p_x %d %d", i, i))
			}
			all = append(all, late)
		}
		synctest.Wait()
		if open, _ := s.streams("acme-corp", "p_"); open != 1 {
			t.Errorf("%d streams are open", open)
		}
	})
}

// What changes while one joins is not lost, whenever the others are told of it
// and however little the positions say.
func TestChangeWhileOneJoins(t *testing.T) {
	for name, during := range map[string]driver.EventKind{"in its state": driver.EventPut, "at its sync event": driver.EventSync} {
		for _, before := range []bool{true, false} { // the others were there
			t.Run(fmt.Sprintf("%s, others before %v", name, before), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newStore()
					s.veiled = true
					s.put(t, x, "1")
					r := newRelay(t, s)
					var others []*watcher
					come := func() {
						for range 3 {
							w := watch(t, r, below(""))
							w.want(t, "put p_x 1 1", "sync")
							others = append(others, w)
						}
						synctest.Wait()
					}
					if before {
						come()
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					var got []string
					err := r.Watch(ctx, below(""), func(e driver.Event) error {
						got = append(got, show(e))
						switch {
						case e.Entry.Version == 2:
							return errEnough
						case e.Kind == during:
							if !before {
								come()
							}
							s.put(t, x, "2")
							for _, w := range others {
								w.want(t, "put p_x 2 2")
							}
							synctest.Wait()
						}
						return nil
					})
					if want := []string{"put p_x 1 1", "sync", "put p_x 2 2"}; !errors.Is(err, errEnough) || !slices.Equal(got, want) {
						t.Errorf("it was told %q, and ended with %v", got, err)
					}
				})
			})
		}
	}
}

// A shared stream that is behind tells nobody again what its own stream told, not
// even what is being told when it gets there.
func TestSharedStreamIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.veiled = true
		s.holds, s.held = 3, make(chan struct{}) // those of the first two come before
		r := newRelay(t, s)
		all := gathered(t, r, 2)
		synctest.Wait()
		s.put(t, x, "1")
		ahead := watch(t, r, below(""))
		ahead.want(t, "put p_x 1 1", "sync")
		synctest.Wait()
		s.put(t, x, "2")
		ahead.want(t, "put p_x 2 2")
		s.put(t, x, "3")
		synctest.Wait() // it is being told
		s.held <- struct{}{}
		s.held <- struct{}{}
		synctest.Wait()
		ahead.want(t, "put p_x 3 3")
		synctest.Wait()
		close(s.held)
		s.put(t, x, "4")
		ahead.want(t, "put p_x 4 4")
		for _, w := range all {
			w.want(t, "put p_x 1 1", "put p_x 2 2", "put p_x 3 3", "put p_x 4 4")
		}
		synctest.Wait()
		if open, _ := s.streams("acme-corp", "p_"); open != 1 {
			t.Errorf("%d streams are open", open)
		}
	})
}

// From the position of any event, told by a stream of its own or by the shared
// one, a Watch goes on with the change behind it.
func TestResumesFromAnyPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		r := newRelay(t, s)
		all := gathered(t, r, 3)
		positions := make([][]string, len(all)) // of version 1, 2, ...
		const n = 12
		for i := 1; i <= n; i++ {
			s.put(t, x, strconv.Itoa(i))
			s.put(t, elsewhere, strconv.Itoa(i))
			for j, w := range all {
				positions[j] = append(positions[j], w.want(t, fmt.Sprintf("put p_x %d %d", i, i)).Position)
			}
		}
		for _, shared := range []bool{true, false} {
			if !shared {
				for _, w := range all {
					_ = w.end()
				}
			}
			for _, of := range positions {
				for i, position := range of {
					var want []string
					for v := i + 2; v <= n; v++ {
						want = append(want, fmt.Sprintf("put p_x %d %d", v, v))
					}
					w := watch(t, r, below(position))
					w.want(t, append(want, "sync")...)
					_ = w.end()
				}
			}
		}
	})
}

// One that does not read holds up nobody. Behind it is told everything, by the
// store itself, as long as that can; else it is told that it can not be.
func TestSlowOne(t *testing.T) {
	for name, kept := range map[string]int{"the store has it all": 10_000, "the store has forgotten": relay.MaxEvents} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(memdriver.WithChanges(kept))
				r := newRelay(t, s)
				all := gathered(t, r, 3)
				slow, others := all[0], all[1:]
				const n = 3 * relay.MaxEvents
				for i := 1; i <= n; i++ {
					s.put(t, x, strconv.Itoa(i))
					for _, w := range others {
						w.want(t, fmt.Sprintf("put p_x %d %d", i, i))
					}
				}
				seen := uint64(0)
				for seen < n {
					select {
					case e := <-slow.events:
						if e.Entry.Version != seen+1 {
							t.Fatalf("version %d came behind %d", e.Entry.Version, seen)
						}
						seen++
						continue
					case err := <-slow.done:
						slow.done <- err
						if !errors.Is(err, config.OutOfRange) || kept > n {
							t.Fatalf("behind version %d: %v", seen, err)
						}
					}
					break
				}
				if kept > n && seen != n {
					t.Errorf("it was told %d of %d", seen, n)
				}
				s.put(t, x, "last")
				for _, w := range others {
					w.want(t, fmt.Sprintf("put p_x last %d", n+1))
				}
				if kept > n {
					slow.want(t, fmt.Sprintf("put p_x last %d", n+1))
				}
				synctest.Wait()
				if open, _ := s.streams("acme-corp", "p_"); open != 1 {
					t.Errorf("%d streams are open", open)
				}
			})
		})
	}
}

// The shared stream is there as long as somebody watches, and no longer.
func TestEndsWithTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		r := newRelay(t, s)
		for range 3 {
			all := gathered(t, r, 3)
			synctest.Wait()
			for i, w := range all {
				if open, _ := s.streams("acme-corp", "p_"); open != 1 {
					t.Errorf("%d streams are open when %d have left", open, i)
				}
				if err := w.end(); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				synctest.Wait()
			}
			if open, _ := s.streams("acme-corp", "p_"); open != 0 {
				t.Errorf("%d streams are open when all have left", open)
			}
		}
	})
}

// When the store fails all are told what came before, and why it ended.
func TestFailureIsToldToAll(t *testing.T) {
	for _, code := range []config.Code{config.Unavailable, config.OutOfRange, config.DataLoss} {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				r := newRelay(t, s)
				all := gathered(t, r, 20)
				synctest.Wait()
				s.put(t, x, "1")
				synctest.Wait()
				s.fail(config.Errorf(code, "it failed"))
				for _, w := range all {
					w.want(t, "put p_x 1 1")
					if err := w.ended(); !errors.Is(err, code) {
						t.Errorf("a watch ended with %v", err)
					}
				}
				if open, _ := s.streams("acme-corp", "p_"); open != 0 {
					t.Errorf("%d streams are open", open)
				}
			})
		})
	}
}

// A shared stream that the store does not give costs nobody his own.
func TestNoRoomForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.limit(2)
		r := newRelay(t, s)
		all := gathered(t, r, 2)
		for i := 1; i <= 5; i++ {
			s.put(t, x, strconv.Itoa(i))
			for _, w := range all {
				w.want(t, fmt.Sprintf("put p_x %d %d", i, i))
			}
		}
		synctest.Wait()
		if open, _ := s.streams("acme-corp", "p_"); open != 2 {
			t.Errorf("%d streams are open", open)
		}
		s.limit(0) // the next who comes makes it one
		watch(t, r, below("")).want(t, "put p_x 5 5", "sync")
		synctest.Wait()
		s.put(t, x, "6")
		for _, w := range all {
			w.want(t, "put p_x 6 6")
		}
		synctest.Wait()
		if open, _ := s.streams("acme-corp", "p_"); open != 1 {
			t.Errorf("%d streams are open", open)
		}
	})
}

// No two tenants, services or prefixes ever share a stream, however alike they are.
func TestOthersShareNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		r := newRelay(t, s)
		var all []*watcher
		scopes := []driver.WatchRequest{
			{Tenant: x.Tenant, KeyPrefix: "p_"},
			{Tenant: x.Tenant, KeyPrefix: "p_x"},
			{Tenant: x.Tenant, Service: must(config.ParseService("order")), KeyPrefix: "p_"},
			{Tenant: id("globex-inc", "p_x").Tenant, KeyPrefix: "p_"},
			{Tenant: id("globex-inc", "p_x").Tenant, Service: must(config.ParseService("order")), KeyPrefix: "p_"},
			{Tenant: config.Shared(), KeyPrefix: "p_"},
		}
		for range 5 {
			for _, scope := range scopes {
				w := watch(t, r, scope)
				w.want(t, "sync")
				all = append(all, w)
			}
		}
		synctest.Wait()
		for i, scope := range scopes {
			of := config.ID{Tenant: scope.Tenant, Service: scope.Service, Key: id("acme-corp", "p_y").Key}
			value := strconv.Itoa(i)
			if scope.KeyPrefix == "p_x" {
				of.Key = x.Key // the first is told of it, too
			}
			version := s.put(t, of, value)
			told := 0
			synctest.Wait()
			for n, w := range all {
				select {
				case e := <-w.events:
					told++
					if e.Entry.ID != of || e.Entry.Version != version || string(e.Entry.Value) != value {
						t.Errorf("told %s of %v", show(e), e.Entry.ID)
					}
					if mine := scopes[n%len(scopes)]; mine.Tenant != of.Tenant || mine.Service != of.Service {
						t.Fatalf("somebody else was told of %v", of)
					}
				default:
				}
			}
			if want := 5 + 5*strings.Count(scope.KeyPrefix, "x"); told != want {
				t.Errorf("%d were told of scope %d, want %d", told, i, want)
			}
		}
	})
}

// A secret is kept for nobody: it is told by streams of their own, and nothing is
// shared any more.
func TestSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.tells = func(e driver.Event) driver.Event {
			e.Entry.Secret = string(e.Entry.Value) == "hunter2"
			return e
		}
		r := newRelay(t, s)
		all := gathered(t, r, 3)
		s.put(t, x, "1")
		s.put(t, x, "hunter2")
		s.put(t, x, "3")
		for _, w := range all {
			w.want(t, "put p_x 1 1", "put p_x hunter2 2", "put p_x 3 3")
		}
		late := watch(t, r, below(""))
		late.want(t, "put p_x 3 3", "sync")
		synctest.Wait()
		if open, _ := s.streams("acme-corp", "p_"); open != 4 {
			t.Errorf("%d streams are open", open)
		}
	})
}

// What one does with the bytes that it is told is nothing to others.
func TestBytesAreEachOnesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		all := gathered(t, newRelay(t, s), 3)
		synctest.Wait()
		s.put(t, x, "1")
		for _, w := range all {
			e := w.want(t, "put p_x 1 1")
			e.Entry.Value[0] = 'X'
		}
	})
}

// Many come, go, come back to where they were and are slow, while several write
// and delete: each is told every change exactly once, in order, from where it began,
// and what was acknowledged before it began is told before its sync event.
func TestExactlyOnceUnderLoad(t *testing.T) {
	for name, veiled := range map[string]bool{"positions agree": false, "positions differ": true} {
		t.Run(name, func(t *testing.T) {
			s := newStore(memdriver.WithChanges(1 << 20))
			s.veiled = veiled
			r := newRelay(t, s)
			keys := []config.ID{x, id("acme-corp", "p_y"), id("acme-corp", "p_z")}
			acked := make([]atomic.Uint64, len(keys))
			ctx, stop := context.WithCancel(t.Context())
			var writers, watchers sync.WaitGroup
			for i, k := range keys {
				writers.Go(func() {
					for n := 1; n <= writes && ctx.Err() == nil; n++ {
						var e config.Entry
						var err error
						if n%7 == 0 {
							e, err = s.Delete(ctx, driver.DeleteRequest{ID: k})
						} else {
							e, err = s.Put(ctx, driver.PutRequest{ID: k, Value: []byte(strconv.Itoa(n))})
						}
						if err != nil || e.Version != uint64(n) {
							t.Errorf("write %d: version %d, %v", n, e.Version, err)
							return
						}
						acked[i].Store(e.Version)
						if n%50 == 0 {
							s.put(t, elsewhere, "1")
						}
					}
				})
			}
			for range 16 {
				watchers.Go(func() { comeAndGo(t, r, keys, acked) })
			}
			watchers.Wait()
			stop()
			writers.Wait()
			if open, _ := s.streams("acme-corp", "p_"); open > 1 {
				t.Errorf("%d streams are open", open)
			}
		})
	}
}

var errEnough = errors.New("enough")

// writes is how often each key is written under load. The last is no deletion,
// which whoever comes later could not tell from a key that never was.
const writes = 701

// comeAndGo watches again and again until all that was written has been told.
func comeAndGo(t *testing.T, r *relay.Relay, keys []config.ID, acked []atomic.Uint64) {
	versions := map[config.ID]uint64{}
	whole := func() bool {
		return !slices.ContainsFunc(keys, func(k config.ID) bool { return versions[k] != writes })
	}
	position := ""
	for {
		before := map[config.ID]uint64{}
		for i, k := range keys {
			before[k] = acked[i].Load()
		}
		patience := rand.IntN(400)
		slow := rand.IntN(4) == 0
		synced, last := false, position
		fresh := position == ""
		if fresh {
			clear(versions)
		}
		err := r.Watch(t.Context(), below(position), func(e driver.Event) error {
			k := e.Entry.ID
			switch {
			case e.Kind == driver.EventSync:
				if synced {
					t.Error("a second sync event")
				}
				synced = true
				for k, v := range before {
					// In a state, what is missing was deleted.
					if versions[k] < v && (!fresh || versions[k] != 0) {
						t.Errorf("version %d was acknowledged before, %d was told at the sync event", v, versions[k])
					}
				}
			case e.Kind == driver.EventProgress:
			case !synced && fresh:
				versions[k] = e.Entry.Version
			case versions[k] == 0: // it was not there at the beginning
				versions[k] = e.Entry.Version
			case e.Entry.Version != versions[k]+1:
				t.Errorf("version %d of %v came behind %d", e.Entry.Version, k.Key, versions[k])
			default:
				versions[k]++
			}
			if synced || !fresh {
				last = e.Position
			}
			if i := slices.Index(keys, k); slow && i >= 0 && rand.IntN(20) == 0 {
				// Nothing is taken until the writer is far ahead, or done.
				for acked[i].Load() < min(e.Entry.Version+100, writes) && !t.Failed() {
					runtime.Gosched()
				}
			}
			if patience--; synced && patience < 0 {
				return errEnough
			}
			if synced && whole() {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) {
			t.Errorf("a watch ended with %v", err)
			return
		}
		if whole() {
			return
		}
		if position = last; rand.IntN(3) == 0 {
			position = ""
		}
	}
}
