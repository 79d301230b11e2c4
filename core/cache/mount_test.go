package cache_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
)

// beside is another way to the store of o, as the process is that replaces one.
func (o *origin) beside() *origin { return &origin{Backend: o.Backend, caveats: o.caveats} }

// watchable tells of its own changes, too.
type watchable struct{ *origin }

func (w watchable) Capabilities() driver.Capabilities {
	has := w.origin.Capabilities()
	has.Watch = true
	return has
}

func over(unused <-chan struct{}) bool {
	select {
	case <-unused:
		return true
	default:
		return false
	}
}

// Ten times in a thousand puts something else is put behind the route, onto the
// same store: who watches a view sees each version once, in order.
func TestR10ViewsSurviveASwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		c := newCache(t, cache.Options{})
		b := c.Wrap(o, kept)
		w := watch(t, b, "")
		w.want(t, "sync")
		for i := 1; i <= 1000; i++ {
			if i%100 == 50 {
				next := o.beside()
				c.Same(next, o)
				<-b.Swap(next, kept) // a pass through the store may still be using it
				o = next
			}
			put(t, b, x, fmt.Sprint(i))
			w.want(t, fmt.Sprintf("put p_x %d %d", i, i))
		}
		// What the former one did not tell is found without waiting for a pass.
		o.change(t, x, "1001")
		next := o.beside()
		c.Same(next, o)
		b.Swap(next, kept)
		began := time.Now()
		w.want(t, "put p_x 1001 1001")
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		_ = w.end()
	})
}

// A Watch that the store itself answers ends with what says that it may go on,
// and goes on from its last position.
func TestR10WatchGoesOnFromItsPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := watchable{newOrigin()}
		c := newCache(t, cache.Options{})
		b := c.Wrap(o, kept)
		put(t, b, x, "1")
		w := watch(t, b, "")
		w.want(t, "put p_x 1 1", "sync")
		put(t, b, x, "2")
		last := w.want(t, "put p_x 2 2")
		next := watchable{o.beside()}
		c.Same(next, o)
		unused := b.Swap(next, kept)
		if err := <-w.done; !errors.Is(err, cache.ErrMoved) {
			t.Errorf("the watch ended with %v", err)
		}
		w.done <- cache.ErrMoved
		<-unused
		put(t, b, x, "3")
		w = watch(t, b, last.Position)
		w.want(t, "put p_x 3 3")
		_ = w.end()
	})
}

// Nothing that is known of one store is used for another.
func TestSwapToAnotherStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := newOrigin(), newOrigin()
		c := newCache(t, cache.Options{})
		b := c.Wrap(one, kept)
		other.change(t, x, "other 1")
		pass(time.Second) // its value is the younger one by time, not by version
		for i := 1; i <= 3; i++ {
			put(t, b, x, fmt.Sprint(i))
		}
		w := watch(t, b, "")
		last := w.want(t, "put p_x 3 3", "sync")
		b.Swap(other, kept)
		if err := <-w.done; !errors.Is(err, config.OutOfRange) {
			t.Errorf("the watch ended with %v, want that begins anew", err)
		}
		w.done <- nil
		wantRead(t, b, x, "other 1", config.SourceStore, config.StateFresh)
		wantRead(t, b, x, "other 1", config.SourceCache, config.StateFresh)
		w = watch(t, b, last.Position)
		if err := <-w.done; !errors.Is(err, config.OutOfRange) {
			t.Errorf("a position of the former store: %v", err)
		}
		w.done <- nil
		w = watch(t, b, "")
		w.want(t, "put p_x other 1 1", "sync")
		other.fail(errAway)
		if got, f := read(t, b, x, cache.Want{}); got != "other 1" || f.Source != config.SourceCache {
			t.Errorf("while it is away: %q, %+v", got, f)
		}
		_ = w.end()
	})
}

// A write that is under way in the former backend when another takes its place
// is seen, once it is acknowledged, by every later read.
func TestR10AckedThroughTheFormerBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		c := newCache(t, cache.Options{})
		reached, release := make(chan struct{}), make(chan struct{})
		former := heldPut{origin: o, puts: &atomic.Int64{}, reached: reached, release: release}
		b := c.Wrap(former, kept)
		o.change(t, x, "1")
		done := make(chan uint64)
		go func() { done <- put(t, b, x, "2") }()
		<-reached
		next := o.beside()
		c.Same(next, former)
		unused := b.Swap(next, kept)
		if over(unused) {
			t.Error("the former backend counts as unused while a call is under way in it")
		}
		read(t, b, x, cache.Want{}) // fills, whatever it finds
		close(release)
		if v := <-done; v != 2 {
			t.Errorf("version %d", v)
		}
		<-unused
		if got, _ := read(t, b, x, cache.Want{}); got != "2" {
			t.Errorf("an acknowledged write is not seen: %q", got)
		}
	})
}

// While it is held nothing reaches the backend but what was there, and all else
// waits and is lost on nobody.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		c := newCache(t, cache.Options{})
		reached, release := make(chan struct{}), make(chan struct{})
		former := heldPut{origin: o, puts: &atomic.Int64{}, reached: reached, release: release}
		b := c.Wrap(former, kept)
		go func() { _, _ = b.Put(t.Context(), putting(x, "1")) }()
		<-reached
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Hold(short); !errors.Is(err, config.Unavailable) {
			t.Errorf("a call is under way, and Hold says %v", err)
		}
		b.Release()
		held := make(chan error, 1)
		go func() { held <- b.Hold(t.Context()) }()
		synctest.Wait()
		y := id("acme-corp", "p_y")
		waiting := make(chan uint64)
		go func() { waiting <- put(t, b, y, "1") }()
		got := make(chan string)
		go func() { v, _ := read(t, b, y, cache.Want{Bounded: true}); got <- v }()
		synctest.Wait()
		close(release)
		if err := <-held; err != nil {
			t.Fatal(err)
		}
		wantRead(t, b, x, "1", config.SourceCache, config.StateFresh)
		gets := o.gets.Load()
		synctest.Wait()
		if o.gets.Load() != gets {
			t.Error("it was asked while it was held")
		}
		next := o.beside()
		c.Same(next, former)
		if unused := b.Swap(next, kept); !over(unused) {
			t.Error("it is used after Hold")
		}
		if v := <-waiting; v != 1 {
			t.Errorf("version %d", v)
		}
		<-got
		gaveUp, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Hold(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Put(gaveUp, putting(y, "2")); !errors.Is(err, config.Unavailable) {
			t.Errorf("a put that gave up waiting: %v, want that nothing was changed", err)
		}
		b.Release()
		put(t, b, y, "2")
	})
}

// What is taken out of use does nothing any more, and nobody waits for it.
func TestUnwrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		c := newCache(t, cache.Options{})
		b := c.Wrap(o, kept)
		put(t, b, x, "1")
		w := watch(t, b, "")
		w.want(t, "put p_x 1 1", "sync")
		<-b.Unwrap()
		if err := <-w.done; err == nil {
			t.Error("the watch ended without an error")
		}
		w.done <- nil
		if _, err := b.Put(t.Context(), putting(x, "2")); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("put: %v", err)
		}
		lists := o.lists.Load()
		pass(10 * time.Minute)
		if o.lists.Load() != lists {
			t.Error("it still compares")
		}
		if e, err := o.Get(t.Context(), x, 0); err != nil || string(e.Value) != "1" {
			t.Errorf("the backend itself: %+v, %v", e, err)
		}
	})
}

// A swap with reads, writes and watches going on: nothing fails, and what was
// acknowledged is what is read.
func TestSwapsUnderLoad(t *testing.T) {
	store := memdriver.New()
	c := newCache(t, cache.Options{})
	last := &origin{Backend: store}
	b := c.Wrap(last, kept)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 8)
	for i := range cap(done) {
		k := id("acme-corp", fmt.Sprintf("p_%d", i))
		go func() {
			for n := 1; ctx.Err() == nil; n++ {
				if v := put(t, b, k, fmt.Sprint(n)); v != uint64(n) {
					done <- fmt.Errorf("put %d is version %d", n, v)
					return
				}
				if got, _ := read(t, b, k, cache.Want{}); got != fmt.Sprint(n) {
					done <- fmt.Errorf("%q was read after %d was acknowledged", got, n)
					return
				}
			}
			done <- nil
		}()
	}
	for i := range 200 {
		if i%2 == 1 {
			if err := b.Hold(ctx); err != nil {
				t.Fatal(err)
			}
		}
		next := &origin{Backend: store}
		c.Same(next, last)
		<-b.Swap(next, kept)
		last = next
	}
	stop()
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
