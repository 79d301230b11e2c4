package cache_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

func TestRenew(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{}).Wrap(o, kept)
	o.change(t, x, "1")
	read(t, b, x, cache.Want{})
	o.change(t, x, "2")
	wantRead(t, b, x, "1", config.SourceCache, config.StateFresh) // nobody has announced it
	a, err := b.Renew(t.Context(), x)
	if err != nil || a.Entry.Version != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	wantRead(t, b, x, "2", config.SourceCache, config.StateFresh)
}

// A refresh of a store that is away changes nothing: what is held goes on.
func TestRenewOfAStoreThatIsAway(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{}).Wrap(o, kept)
	put(t, b, x, "1")
	o.fail(errAway)
	if _, err := b.Renew(t.Context(), x); !errors.Is(err, config.Unavailable) {
		t.Fatal(err)
	}
	below := cache.Below{Tenant: x.Tenant, Prefix: "p_", Owns: func(config.Key) bool { return true }}
	if _, err := b.RenewAll(t.Context(), below); !errors.Is(err, config.Unavailable) {
		t.Fatal(err)
	}
	wantRead(t, b, x, "1", config.SourceCache, config.StateFresh)
}

func TestRenewAll(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{}).Wrap(o, kept)
	gone, mine := id("acme-corp", "p_gone"), id("acme-corp", "p_mine")
	mine.Service = must(config.ParseService("order"))
	for _, id := range []config.ID{x, gone, mine} {
		o.change(t, id, "1")
		read(t, b, id, cache.Want{})
	}
	o.change(t, x, "2")
	o.change(t, mine, "2")
	if _, err := o.Delete(t.Context(), deletion(gone)); err != nil {
		t.Fatal(err)
	}
	n, err := b.RenewAll(t.Context(), cache.Below{
		Tenant: x.Tenant, AllServices: true, Prefix: "p_", Owns: func(config.Key) bool { return true },
	})
	if err != nil || n != 1 {
		t.Fatalf("%d values, %v; want 1, which is what the tenant-wide layer has", n, err)
	}
	for id, want := range map[config.ID]string{x: "2", gone: "-", mine: "2"} {
		if got, _ := read(t, b, id, cache.Want{}); got != want {
			t.Errorf("%v is %q, want %q", id, got, want)
		}
	}
}

// However many ask for a refresh at once, the store is asked a few times, and
// by one call at least that began after each of them.
func TestRenewsAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		b := newCache(t, cache.Options{}).Wrap(o, kept)
		o.change(t, x, "1")
		release := make(chan struct{})
		o.answers(func(e config.Entry, err error) (config.Entry, error) {
			<-release
			return e, err
		})
		var all sync.WaitGroup
		all.Go(func() { _, _ = b.Renew(t.Context(), x) })
		synctest.Wait() // it has read 1
		o.change(t, x, "2")
		for range 100 {
			all.Go(func() {
				if a, err := b.Renew(t.Context(), x); err != nil || a.Entry.Version != 2 {
					t.Errorf("%+v, %v; the refresh began after version 2 was made", a, err)
				}
			})
		}
		synctest.Wait()
		close(release)
		all.Wait()
		if got, _ := read(t, b, x, cache.Want{}); got != "2" {
			t.Errorf("read %q", got)
		}
		if n := o.gets.Load(); n > 10 {
			t.Errorf("the store was asked %d times for 101 refreshes", n)
		}
	})
}

// Of two refreshes that cross, the one that read the older value leaves nothing
// behind.
func TestRenewsThatCross(t *testing.T) {
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
	early.Go(func() { _, _ = b.Renew(t.Context(), x) })
	<-reached // it has read 1
	o.change(t, x, "2")
	if _, err := b.Renew(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	close(release)
	early.Wait()
	if got, _ := read(t, b, x, cache.Want{}); got != "2" {
		t.Errorf("after the refresh to 2 was acknowledged: %q", got)
	}
}

// A write whose outcome is not known gives up what is held.
func TestWriteOfUnknownOutcome(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{}).Wrap(unsure{o}, kept)
	o.change(t, x, "1")
	read(t, b, x, cache.Want{})
	if _, err := b.Put(t.Context(), putting(x, "2")); !errors.Is(err, config.OutcomeUnknown) {
		t.Fatal(err)
	}
	wantRead(t, b, x, "2", config.SourceStore, config.StateFresh)
}

// A lost event heals within the bound, for those who read and those who watch,
// and the reconciler says that it found it.
func TestReconciler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		event := kept
		event.Reconcile = true
		b := newCache(t, cache.Options{}).Wrap(o, event)
		o.change(t, x, "1")
		read(t, b, x, cache.Want{})
		o.change(t, x, "2") // its event is lost
		calls := o.gets.Load()
		began := time.Now()
		for {
			got, f := read(t, b, x, cache.Want{})
			if got == "2" {
				break
			}
			if f.State != config.StateFresh || time.Since(began) > time.Minute {
				t.Fatalf("after %v: %q, %+v", time.Since(began), got, f)
			}
			pass(time.Second)
		}
		if asked := o.gets.Load() - calls; asked != 0 {
			t.Errorf("%d reads went to the store; the reconciler was to be first", asked)
		}
		t.Logf("healed after %v of at most %v", time.Since(began), event.MaxStaleness)
	})
}

// The reconciler stays within its budget of calls.
func TestReconcilerBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		event := kept
		event.Reconcile = true
		b := newCache(t, cache.Options{CallsPerMinute: 6, MaxBytes: 16 << 20}).Wrap(o, event)
		for i := range 3000 { // thirty calls' worth
			o.change(t, id("acme-corp", fmt.Sprintf("p_%d", i)), "1")
			read(t, b, id("acme-corp", fmt.Sprintf("p_%d", i)), cache.Want{})
		}
		for range 5 * 60 / 4 {
			for i := range 3000 {
				if _, err := b.Read(t.Context(), id("acme-corp", fmt.Sprintf("p_%d", i)), cache.Want{}); err != nil {
					t.Fatal(err)
				}
			}
			pass(4 * time.Second)
		}
		if n := o.batches.Load(); n > 5*6+1 {
			t.Errorf("%d calls in five minutes, the budget is 6 a minute", n)
		}
	})
}

// oneByOne is a store that can not be asked for several values at once.
type oneByOne struct{ *origin }

func (o oneByOne) Capabilities() driver.Capabilities { return driver.Capabilities{Ping: true} }

// What is held of a store that is asked for each value by itself is compared even
// where that takes more calls than the reconciler may make at once.
func TestReconcilerOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		event := kept
		event.Reconcile = true
		b := newCache(t, cache.Options{CallsPerMinute: 60}).Wrap(oneByOne{o}, event)
		for i := range 20 {
			o.change(t, id("acme-corp", fmt.Sprintf("p_%d", i)), "1")
		}
		for range 2 { // what nobody uses is not compared
			for i := range 20 {
				read(t, b, id("acme-corp", fmt.Sprintf("p_%d", i)), cache.Want{})
			}
		}
		o.change(t, id("acme-corp", "p_7"), "2") // its event is lost
		pass(event.MaxStaleness * 9 / 10 * 3 / 4)
		wantRead(t, b, id("acme-corp", "p_7"), "2", config.SourceCache, config.StateFresh)
		calls := o.gets.Load()
		pass(5 * time.Minute)
		if n := o.gets.Load() - calls; n > 5*60+20 {
			t.Errorf("%d calls in five minutes, the budget is 60 a minute", n)
		}
	})
}
