package cache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

func TestHitsCostNoCall(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{}).Wrap(o, kept)
	o.change(t, x, "1")
	wantRead(t, b, x, "1", config.SourceStore, config.StateFresh)
	for range 10 {
		wantRead(t, b, x, "1", config.SourceCache, config.StateFresh)
	}
	y := id("acme-corp", "p_y")
	wantRead(t, b, y, "-", config.SourceStore, config.StateFresh)
	wantRead(t, b, y, "-", config.SourceCache, config.StateFresh)
	if n := o.gets.Load(); n != 2 {
		t.Errorf("the store was asked %d times, want 2", n)
	}
}

// A list fetches what would be many reads.
func TestListIsKept(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{}).Wrap(o, kept)
	for i := range 500 {
		o.change(t, id("acme-corp", fmt.Sprintf("p_%03d", i)), "v")
	}
	page, err := b.List(t.Context(), driver.ListRequest{Tenant: x.Tenant, KeyPrefix: "p_", PageSize: 1000})
	if err != nil || len(page.Entries) != 500 {
		t.Fatal(len(page.Entries), err)
	}
	var ids []config.ID
	for _, e := range page.Entries {
		ids = append(ids, e.ID)
	}
	for _, r := range b.ReadMany(t.Context(), ids, cache.Want{}) {
		if r.Err != nil || string(r.Entry.Value) != "v" {
			t.Fatal(r)
		}
	}
	if o.lists.Load() != 1 || o.gets.Load() != 0 || o.batches.Load() > 1 {
		t.Errorf("%d lists, %d gets, %d batches; want 1, 0, and 1 for what the table dropped", o.lists.Load(), o.gets.Load(), o.batches.Load())
	}
}

// Put is visible at its ack, and a fill that read the store before it is never
// used after it, however late it comes.
func TestFillThatIsOvertaken(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{}).Wrap(o, kept)
	o.change(t, x, "1")
	reached, release := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	o.answers(func(e config.Entry, err error) (config.Entry, error) {
		if calls.Add(1) == 1 {
			close(reached)
			<-release
		}
		return e, err
	})
	var early sync.WaitGroup
	early.Go(func() {
		// It began before the Put, so either value is right.
		if got, _ := read(t, b, x, cache.Want{}); got != "1" && got != "2" {
			t.Errorf("the early read is %q", got)
		}
	})
	<-reached
	put(t, b, x, "2")
	wantRead(t, b, x, "2", config.SourceCache, config.StateFresh)
	close(release)
	early.Wait() // the fill has stored what it found
	if got, _ := read(t, b, x, cache.Want{}); got != "2" {
		t.Errorf("after the ack of 2 the fill brought back %q", got)
	}
}

// Who asks after an ack does not share a call of the store from before it.
func TestNobodyBoardsAnOldFlight(t *testing.T) {
	o := newOrigin()
	o.caveats = driver.Caveats{}
	b := newCache(t, cache.Options{Table: forgetful}).Wrap(o, kept) // so that every read asks
	put(t, b, x, "1")
	reached, release := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	o.answers(func(e config.Entry, err error) (config.Entry, error) {
		if calls.Add(1) == 1 {
			close(reached)
			<-release
		}
		return e, err
	})
	var early sync.WaitGroup
	early.Go(func() { read(t, b, x, cache.Want{}) })
	<-reached
	put(t, b, x, "2")
	wantRead(t, b, x, "2", config.SourceStore, config.StateFresh)
	close(release)
	early.Wait()
}

// Those who ask at once share one call; the first of them giving up does not
// fail the others.
func TestFlightsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		b := newCache(t, cache.Options{}).Wrap(o, kept)
		o.change(t, x, "1")
		_, release := o.hold()
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() {
			_, err := b.Read(ctx, x, cache.Want{})
			first <- err
		}()
		synctest.Wait() // it asks the store
		var others sync.WaitGroup
		for range 16 {
			others.Go(func() {
				if got, _ := read(t, b, x, cache.Want{}); got != "1" {
					t.Errorf("read %q", got)
				}
			})
		}
		synctest.Wait() // all of them wait for that
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up got %v", err)
		}
		release()
		others.Wait()
		if n := o.gets.Load(); n != 1 {
			t.Errorf("the store was asked %d times, want once", n)
		}
	})
}

// Two tenants that ask for the same key at the same moment share no call: the store
// is asked for each of them before it answers either, and each gets its own.
func TestFlightsAreATenantsOwn(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{}).Wrap(o, kept)
	tenants := []string{"acme-corp", "globex-inc"}
	var reached, done sync.WaitGroup
	reached.Add(len(tenants))
	for _, tenant := range tenants {
		o.change(t, id(tenant, "p_x"), tenant)
	}
	var once [2]sync.Once
	o.answers(func(e config.Entry, err error) (config.Entry, error) {
		once[slices.Index(tenants, string(e.Value))].Do(reached.Done)
		reached.Wait()
		return e, err
	})
	for _, tenant := range tenants {
		done.Go(func() {
			if got, _ := read(t, b, id(tenant, "p_x"), cache.Want{}); got != tenant {
				t.Errorf("%s reads %q", tenant, got)
			}
		})
	}
	done.Wait()
	if n := o.gets.Load(); n != 2 {
		t.Errorf("the store was asked %d times", n)
	}
}

// What hashes alike is still told apart.
func TestIdentityIsCompared(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{Table: oneSlot}).Wrap(o, kept)
	other := id("globex-inc", "p_x")
	o.change(t, x, "acme")
	o.change(t, other, "globex")
	for range 3 {
		if got, _ := read(t, b, x, cache.Want{}); got != "acme" {
			t.Errorf("acme-corp read %q", got)
		}
		if got, _ := read(t, b, other, cache.Want{}); got != "globex" {
			t.Errorf("globex-inc read %q", got)
		}
	}
}

// A table that drops every Set costs calls and nothing else.
func TestForgetfulTable(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{Table: forgetful}).Wrap(o, kept)
	for i := range 5 {
		value := fmt.Sprint(i)
		put(t, b, x, value)
		wantRead(t, b, x, value, config.SourceStore, config.StateFresh)
	}
}

// The ages of one value while its store answers, and while it does not.
func TestAges(t *testing.T) {
	type step struct {
		after  time.Duration // the store last agreed
		value  string        // "" for Unavailable
		source config.Source
		state  config.State
	}
	for name, c := range map[string]struct {
		down  bool
		steps []step
	}{
		"the store answers": {false, []step{
			{30 * time.Second, "1", config.SourceCache, config.StateFresh},
			{2 * time.Minute, "2", config.SourceStore, config.StateFresh},
		}},
		"the store is away": {true, []step{
			{30 * time.Second, "1", config.SourceCache, config.StateFresh},
			{50 * time.Second, "1", config.SourceCache, config.StateFresh},
			{90 * time.Second, "1", config.SourceCache, config.StateStale},
			{59 * time.Minute, "1", config.SourceCache, config.StateStale},
			{61 * time.Minute, "", 0, 0},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin()
				b := newCache(t, cache.Options{}).Wrap(o, kept)
				o.change(t, x, "1")
				read(t, b, x, cache.Want{})
				began := time.Now()
				o.change(t, x, "2") // which nobody announces
				if c.down {
					o.fail(errAway)
				}
				for _, s := range c.steps {
					pass(time.Until(began.Add(s.after)))
					if s.value != "" {
						wantRead(t, b, x, s.value, s.source, s.state)
					} else if a, err := b.Read(t.Context(), x, cache.Want{}); !errors.Is(err, config.Unavailable) {
						t.Errorf("after %v: %+v, %v; want it unavailable", s.after, a, err)
					}
				}
			})
		})
	}
}

// What is held when a read begins may be too old to stand in by the time that its
// patience is over: then the store is waited for, as where nothing is held.
func TestHeldValueGrowsTooOldWhileTheStoreIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		b := newCache(t, cache.Options{}).Wrap(o, kept)
		o.change(t, x, "1")
		read(t, b, x, cache.Want{})
		o.answers(func(e config.Entry, err error) (config.Entry, error) {
			pass(time.Second)
			return e, err
		})
		pass(kept.StaleIfError - 200*time.Millisecond)
		wantRead(t, b, x, "1", config.SourceStore, config.StateFresh)
	})
}

// A plugin that was given up says that no retry will help. What is held stands
// in for its store all the same: it is as far away as one that may come back.
func TestR02HeldValuesOutliveThePlugin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		b := newCache(t, cache.Options{}).Wrap(o, kept)
		o.change(t, x, "1")
		read(t, b, x, cache.Want{})
		o.fail(config.Errorf(config.FailedPrecondition, "the plugin was given up").WithCause(errAway))
		pass(90 * time.Second)
		wantRead(t, b, x, "1", config.SourceCache, config.StateStale)
		// Any other state of a store is an answer.
		o.fail(config.Errorf(config.FailedPrecondition, "the key was disabled"))
		pass(90 * time.Second)
		if a, err := b.Read(t.Context(), x, cache.Want{}); config.CodeOf(err) != config.FailedPrecondition {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

// A store that is away does not make a value that is young enough wait, and
// what is not held fails fast.
func TestStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		short := kept
		short.NegativeTTL = 2 * time.Second
		b := newCache(t, cache.Options{}).Wrap(o, short)
		y := id("acme-corp", "p_y")
		put(t, b, x, "1")
		read(t, b, y, cache.Want{})
		o.fail(errAway)
		for range 5 { // until the store is held to be away
			if _, err := b.Read(t.Context(), id("acme-corp", "p_z"), cache.Want{}); !errors.Is(err, config.Unavailable) {
				t.Fatal(err)
			}
		}
		calls := o.gets.Load()
		if _, err := b.Read(t.Context(), id("acme-corp", "p_z"), cache.Want{}); !errors.Is(err, config.Unavailable) || o.gets.Load() != calls {
			t.Errorf("got %v after %d calls, want none: it is known to be away", err, o.gets.Load()-calls)
		}
		wantRead(t, b, x, "1", config.SourceCache, config.StateDegraded)
		pass(10 * time.Second) // an absence is old by now, and still the last that is known
		wantRead(t, b, y, "-", config.SourceCache, config.StateDegraded)
		if _, err := b.Read(t.Context(), x, cache.Want{Bounded: true}); !errors.Is(err, config.Unavailable) {
			t.Errorf("the truth of a store that is away: %v", err)
		}
		o.fail(nil)
		pass(time.Second)
		wantRead(t, b, y, "-", config.SourceStore, config.StateFresh)
	})
}

// An absence is kept for its own time, and never beyond a Put.
func TestAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		b := newCache(t, cache.Options{}).Wrap(o, kept)
		wantRead(t, b, x, "-", config.SourceStore, config.StateFresh)
		o.change(t, x, "1") // which nobody announces
		wantRead(t, b, x, "-", config.SourceCache, config.StateFresh)
		pass(3 * time.Second)
		wantRead(t, b, x, "1", config.SourceStore, config.StateFresh)
		y := id("acme-corp", "p_y")
		wantRead(t, b, y, "-", config.SourceStore, config.StateFresh)
		put(t, b, y, "2")
		wantRead(t, b, y, "2", config.SourceCache, config.StateFresh)
	})
}

// max_staleness counts from the moment before the store was asked.
func TestBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		b := newCache(t, cache.Options{}).Wrap(o, kept)
		o.change(t, x, "1")
		read(t, b, x, cache.Want{})
		o.change(t, x, "2")
		pass(10 * time.Second)
		if got, f := read(t, b, x, cache.Want{Bounded: true, MaxStaleness: 20 * time.Second}); got != "1" || f.Age != 10*time.Second {
			t.Errorf("within the bound: %q of age %v", got, f.Age)
		}
		if got, f := read(t, b, x, cache.Want{Bounded: true, MaxStaleness: 5 * time.Second}); got != "2" || f.Age != 0 {
			t.Errorf("beyond the bound: %q of age %v", got, f.Age)
		}
		o.change(t, x, "3")
		if got, _ := read(t, b, x, cache.Want{Bounded: true}); got != "3" {
			t.Errorf("the truth is %q", got)
		}
	})
}

// secretive marks what it returns.
type secretive struct{ *origin }

func (s secretive) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	e, err := s.origin.Get(ctx, id, version)
	e.Secret = err == nil
	return e, err
}

func (s secretive) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	e, err := s.origin.Put(ctx, r)
	e.Secret = err == nil
	return e, err
}

func TestSecretsAreNotKept(t *testing.T) {
	o := newOrigin()
	spy := &spyTable{}
	b := newCache(t, cache.Options{Table: spy.open, Prepare: func(e *config.Entry) (form, value []byte) {
		t.Error("a form was made of a secret")
		return nil, e.Value
	}}).Wrap(secretive{o}, kept)
	put(t, b, x, "hunter2")
	for range 3 {
		wantRead(t, b, x, "hunter2", config.SourceStore, config.StateFresh)
	}
	if spy.sets.Load() != 0 {
		t.Errorf("%d secrets were put into the table", spy.sets.Load())
	}
}

// What was prepared is what is read, and the value that it was made of: not what
// a writer does to its own bytes afterwards.
func TestPreparedIsRead(t *testing.T) {
	b := newCache(t, cache.Options{Prepare: func(e *config.Entry) (form, value []byte) {
		form = append([]byte(e.ID.Tenant.String()+"/"), e.Value...)
		return form, form[len(form)-len(e.Value):]
	}}).Wrap(newOrigin(), kept)
	y := id("globex-inc", "p_x")
	for i := range 10 {
		for _, id := range []config.ID{x, y} {
			value := fmt.Appendf(nil, "%d", i)
			if _, err := b.Put(t.Context(), driver.PutRequest{ID: id, Value: value}); err != nil {
				t.Fatal(err)
			}
			value[0] = 'x'
			wantRead(t, b, id, fmt.Sprint(i), config.SourceCache, config.StateFresh)
			var h cache.Held
			ok := b.Peek(t.Context(), &id, &h)
			if want := fmt.Sprintf("%v/%d", id.Tenant, i); !ok || h.Absent() || !h.Live(&id) || string(h.Form()) != want {
				t.Fatalf("the form is %q, want %q", h.Form(), want)
			}
			var e config.Entry
			if h.Entry(&id, &e); e.ID != id || string(e.Value) != fmt.Sprint(i) {
				t.Fatalf("the entry is %+v", e)
			}
			for _, other := range []config.ID{{Tenant: id.Tenant, Key: must(config.ParseKey("p_y"))}, {Tenant: must(config.ParseTenant("other")), Key: id.Key}} {
				if h.Live(&other) {
					t.Fatalf("the value of %v passes for that of %v", id, other)
				}
			}
		}
	}
	none := id("acme-corp", "p_none")
	wantRead(t, b, none, "-", config.SourceStore, config.StateFresh)
	var h cache.Held
	if ok := b.Peek(t.Context(), &none, &h); !ok || !h.Absent() || h.Live(&none) || h.Form() != nil {
		t.Errorf("an absence has the form %q", h.Form())
	}
}

// One tenant fills its own share and evicts nothing of anybody else.
func TestTenantShare(t *testing.T) {
	o := newOrigin()
	c := newCache(t, cache.Options{MaxBytes: 4 << 20, TenantShare: 0.25})
	b := c.Wrap(o, kept)
	const mine = 100
	for i := range mine {
		o.change(t, id("acme-corp", fmt.Sprintf("p_%d", i)), "1")
		read(t, b, id("acme-corp", fmt.Sprintf("p_%d", i)), cache.Want{})
	}
	value := make([]byte, 10<<10)
	for i := range 1000 { // ten times its share
		put(t, b, id("globex-inc", fmt.Sprintf("p_%d", i)), string(value))
	}
	hits := 0
	for i := range mine {
		if _, f := read(t, b, id("acme-corp", fmt.Sprintf("p_%d", i)), cache.Want{}); f.Source == config.SourceCache {
			hits++
		}
	}
	// A thousand writes share the stripe of one key or another.
	if hits < mine*8/10 {
		t.Errorf("%d of %d values of another tenant are still held", hits, mine)
	}
	if held := c.Cost(); held > 2<<20 {
		t.Errorf("%d bytes are held, want about a quarter of 4 MiB", held)
	}
	huge := id("globex-inc", "p_huge")
	o.change(t, huge, string(make([]byte, 1<<20))) // with its overhead more than the share
	read(t, b, huge, cache.Want{})
	if _, f := read(t, b, huge, cache.Want{}); f.Source != config.SourceStore {
		t.Errorf("what is larger than the share came from the %v", f.Source)
	}
}

// Keys that are not there can be made up at will. They fill a tenth of a share.
func TestAbsencesAreBounded(t *testing.T) {
	o := newOrigin()
	c := newCache(t, cache.Options{MaxBytes: 4 << 20, TenantShare: 0.25})
	b := c.Wrap(o, kept)
	for i := range 2000 {
		read(t, b, id("acme-corp", fmt.Sprintf("p_made-up-%d", i)), cache.Want{})
	}
	if held := c.Cost(); held > 200<<10 {
		t.Errorf("absences take %d bytes, want at most a tenth of 1 MiB", held)
	}
}

// A store that brings back an older version than it acknowledged is asked
// again, and not believed.
func TestFloor(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{Table: forgetful}).Wrap(o, kept)
	put(t, b, x, "1")
	old, err := o.Get(t.Context(), x, 0)
	if err != nil {
		t.Fatal(err)
	}
	put(t, b, x, "2")
	times := 0
	o.answers(func(e config.Entry, err error) (config.Entry, error) {
		if times++; times <= 2 {
			return old, nil
		}
		return e, err
	})
	wantRead(t, b, x, "2", config.SourceStore, config.StateFresh)
	o.answers(func(config.Entry, error) (config.Entry, error) { return old, nil })
	if a, err := b.Read(t.Context(), x, cache.Want{}); !errors.Is(err, config.Unavailable) {
		t.Errorf("a store that only has the older version: %+v, %v", a, err)
	}
}

// A store that lags behind does not bring back what was deleted, nor what was
// known to be outdated when it was found to be gone.
func TestFloorOfADeletion(t *testing.T) {
	for name, gone := range map[string]func(*testing.T, *origin, *cache.Backend){
		"by a write": func(t *testing.T, _ *origin, b *cache.Backend) {
			if _, err := b.Delete(t.Context(), driver.DeleteRequest{ID: x}); err != nil {
				t.Fatal(err)
			}
		},
		"found by a refresh": func(t *testing.T, o *origin, b *cache.Backend) {
			if _, err := o.Delete(t.Context(), driver.DeleteRequest{ID: x}); err != nil {
				t.Fatal(err)
			}
			if a, err := b.Renew(t.Context(), x); err != nil || !a.Absent {
				t.Fatalf("renewed: %+v, %v", a, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin()
				b := newCache(t, cache.Options{}).Wrap(o, kept)
				put(t, b, x, "1")
				old := must(o.Backend.Get(t.Context(), x, 0))
				gone(t, o, b)
				o.answers(func(config.Entry, error) (config.Entry, error) { return old, nil })
				pass(3 * time.Second)
				wantRead(t, b, x, "-", config.SourceCache, config.StateDegraded)
				o.answers(nil)
				wantRead(t, b, x, "-", config.SourceStore, config.StateFresh)
				put(t, b, x, "2")
				wantRead(t, b, x, "2", config.SourceCache, config.StateFresh)
			})
		})
	}
}

// An absence that may be outdated is marked, and never told as an error, which
// can not be.
func TestOutdatedAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		b := newCache(t, cache.Options{}).Wrap(unsure{o}, kept)
		wantRead(t, b, x, "-", config.SourceStore, config.StateFresh)
		if _, err := b.Put(t.Context(), putting(x, "1")); !errors.Is(err, config.OutcomeUnknown) {
			t.Fatal(err)
		}
		o.fail(errAway)
		if a, err := b.Read(t.Context(), x, cache.Want{}); err != nil || !a.Absent || !a.Outdated || a.Freshness.State != config.StateStale {
			t.Errorf("Read says %+v, %v; want an absence that is outdated", a, err)
		}
		if e, err := b.Get(t.Context(), x, 0); !errors.Is(err, config.Unavailable) {
			t.Errorf("Get says %+v, %v; want it unavailable", e, err)
		}
		if got, err := b.BatchGet(t.Context(), []config.ID{x}); err != nil || !errors.Is(got[0].Err, config.Unavailable) {
			t.Errorf("BatchGet says %+v, %v; want it unavailable", got, err)
		}
	})
}

// What a store answers from an old copy is marked, and not asked for where it
// could be older than an ack.
func TestEventualReads(t *testing.T) {
	o := newOrigin()
	o.caveats = driver.Caveats{EventualReads: true}
	b := newCache(t, cache.Options{}).Wrap(o, kept)
	y := id("acme-corp", "p_y")
	o.change(t, y, "1")
	wantRead(t, b, y, "1", config.SourceStore, config.StateStale)
	wantRead(t, b, y, "1", config.SourceCache, config.StateStale)
	old, err := o.Get(t.Context(), y, 0)
	if err != nil {
		t.Fatal(err)
	}
	o.change(t, y, "2")
	o.answers(func(config.Entry, error) (config.Entry, error) { return old, nil })
	if _, err := b.Renew(t.Context(), y); err != nil {
		t.Fatal(err)
	}
	wantRead(t, b, y, "2", config.SourceCache, config.StateFresh)
	put(t, b, y, "3")
	wantRead(t, b, y, "3", config.SourceCache, config.StateFresh)
}
