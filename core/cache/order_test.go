package cache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// A Put is visible when it returns, not soon after.
func TestPutIsVisibleAtItsAck(t *testing.T) {
	for name, table := range tables {
		t.Run(name, func(t *testing.T) {
			o := newOrigin()
			b := newCache(t, cache.Options{Table: table}).Wrap(o, kept)
			for i := range 1000 {
				value := fmt.Sprint(i)
				put(t, b, x, value)
				if got, _ := read(t, b, x, cache.Want{}); got != value {
					t.Fatalf("read %q behind the ack of %q", got, value)
				}
			}
		})
	}
}

// heldPut holds up its first Put behind the store's own.
type heldPut struct {
	*origin
	puts             *atomic.Int64
	reached, release chan struct{}
}

func (h heldPut) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	e, err := h.origin.Put(ctx, r)
	if h.puts.Add(1) == 1 {
		close(h.reached)
		<-h.release
	}
	return e, err
}

// Of two writes that cross, the one whose answer came late does not hide the
// newer one.
func TestWritesThatCross(t *testing.T) {
	h := heldPut{origin: newOrigin(), puts: &atomic.Int64{}, reached: make(chan struct{}), release: make(chan struct{})}
	b := newCache(t, cache.Options{}).Wrap(h, kept)
	var early sync.WaitGroup
	early.Go(func() { put(t, b, x, "1") })
	<-h.reached // it has been made, and its answer is under way
	put(t, b, x, "2")
	close(h.release)
	early.Wait()
	if got, _ := read(t, b, x, cache.Want{}); got != "2" {
		t.Errorf("behind the ack of 2: %q", got)
	}
}

// A position means nothing to another run, although it watches the same.
func TestPositionOfAnotherRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		key := driver.NewTokenKey()
		var last [2]driver.Event
		var runs [2]*cache.Backend
		for i := range runs {
			runs[i] = newCache(t, cache.Options{TokenKey: key}).Wrap(o, kept)
			w := watch(t, runs[i], "")
			w.want(t, "sync")
			put(t, runs[i], id("acme-corp", fmt.Sprintf("p_%d", i)), "v")
			_, last[i] = w.next(t)
			_ = w.end()
			if _, err := o.Delete(t.Context(), deletion(last[i].Entry.ID)); err != nil {
				t.Fatal(err)
			}
		}
		err := runs[1].Watch(t.Context(), driver.WatchRequest{Tenant: x.Tenant, KeyPrefix: "p_", After: last[0].Position}, func(driver.Event) error {
			return errors.New("it was accepted")
		})
		if !errors.Is(err, config.OutOfRange) {
			t.Errorf("Watch: %v, want code out_of_range", err)
		}
	})
}

// uncounted is a store without versions: nothing but the order of what happens
// tells which of two values is the newer.
type uncounted struct{ *origin }

func (u uncounted) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	e, err := u.origin.Get(ctx, id, version)
	e.Version = 0
	return e, err
}

func (u uncounted) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	e, err := u.origin.Put(ctx, r)
	e.Version = 0
	return e, err
}

func (u uncounted) Refresh(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	got, err := u.origin.Refresh(ctx, ids)
	for i := range got {
		got[i].Entry.Version = 0
	}
	return got, err
}

// hold has the origin's first Get wait behind its read. It returns when that
// has been reached and what lets it go on.
func (o *origin) hold() (reached <-chan struct{}, release func()) {
	at, going := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	o.answers(func(e config.Entry, err error) (config.Entry, error) {
		if calls.Add(1) == 1 {
			close(at)
			<-going
		}
		return e, err
	})
	return at, func() { close(going) }
}

// A fill that is overtaken by an acknowledgement leaves nothing behind that is
// used, be it a value or an absence, and although no version tells.
func TestOvertakenFillOfAnUncountedStore(t *testing.T) {
	for name, before := range map[string]string{"a value": "1", "an absence": ""} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin()
			b := newCache(t, cache.Options{}).Wrap(uncounted{o}, kept)
			if before != "" {
				o.change(t, x, before)
			}
			reached, release := o.hold()
			var early sync.WaitGroup
			early.Go(func() { read(t, b, x, cache.Want{}) })
			<-reached
			put(t, b, x, "2")
			release()
			early.Wait()
			if got, _ := read(t, b, x, cache.Want{}); got != "2" {
				t.Errorf("after the ack of 2: %q", got)
			}
		})
	}
}

// Of two refreshes that cross, the one that read the older value leaves nothing
// behind, although no version tells.
func TestCrossedRenewsOfAnUncountedStore(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{}).Wrap(uncounted{o}, kept)
	o.change(t, x, "1")
	reached, release := o.hold()
	var early sync.WaitGroup
	early.Go(func() { _, _ = b.Renew(t.Context(), x) })
	<-reached // it has read 1
	o.change(t, x, "2")
	if _, err := b.Renew(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	release()
	early.Wait()
	if got, _ := read(t, b, x, cache.Want{}); got != "2" {
		t.Errorf("after the refresh to 2 was acknowledged: %q", got)
	}
}

// Behind an acknowledgement a store whose reads are eventual is asked for its
// truth.
func TestTruthBehindAnAckOfAnEventualStore(t *testing.T) {
	o := newOrigin()
	o.caveats = driver.Caveats{EventualReads: true}
	b := newCache(t, cache.Options{Table: forgetful}).Wrap(uncounted{o}, kept)
	o.change(t, x, "1")
	old := must(uncounted{o}.Get(t.Context(), x, 0))
	o.answers(func(config.Entry, error) (config.Entry, error) { return old, nil })
	put(t, b, x, "2")
	wantRead(t, b, x, "2", config.SourceStore, config.StateFresh)
}

// An absence that a Put overtook says nothing of what the Put made: else the
// value that was acknowledged could not be read for as long as floors last.
func TestOvertakenAbsenceIsNoFloor(t *testing.T) {
	o := newOrigin()
	b := newCache(t, cache.Options{}).Wrap(o, kept)
	reached, release := o.hold()
	var late sync.WaitGroup
	late.Go(func() {
		if _, err := b.Renew(t.Context(), x); err != nil {
			t.Error(err)
		}
	})
	<-reached // there is no value yet, and the answer is under way
	put(t, b, x, "1")
	release()
	late.Wait()
	wantRead(t, b, x, "1", config.SourceStore, config.StateFresh)
	if got, _ := read(t, b, x, cache.Want{Bounded: true}); got != "1" {
		t.Errorf("the store's own truth is %q", got)
	}
}

// waits is a store whose Get ends with its context, or when it is released.
type waits struct {
	*origin
	reached, release chan struct{}
	once             *atomic.Bool
}

func (w waits) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	if w.once.CompareAndSwap(false, true) {
		close(w.reached)
	}
	select {
	case <-w.release:
		return w.origin.Get(ctx, id, version)
	case <-ctx.Done():
		return config.Entry{}, ctx.Err()
	}
}

// Whoever gives up takes nothing away from those who share the call.
func TestGivingUpAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := waits{newOrigin(), make(chan struct{}), make(chan struct{}), &atomic.Bool{}}
		w.change(t, x, "1")
		b := newCache(t, cache.Options{}).Wrap(w, kept)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _, _ = b.Read(ctx, x, cache.Want{}) })
		<-w.reached
		all.Go(func() {
			if got, err := b.Read(t.Context(), x, cache.Want{}); err != nil || string(got.Entry.Value) != "1" {
				t.Errorf("who did not give up got %+v, %v", got, err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(w.release)
		all.Wait()
	})
}
