package cache_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

func deletion(id config.ID) driver.DeleteRequest { return driver.DeleteRequest{ID: id} }

func putting(id config.ID, value string) driver.PutRequest {
	return driver.PutRequest{ID: id, Value: []byte(value)}
}

// unsure makes what it is told to and does not say so.
type unsure struct{ *origin }

func (u unsure) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	if _, err := u.origin.Put(ctx, r); err != nil {
		return config.Entry{}, err
	}
	return config.Entry{}, config.Errorf(config.OutcomeUnknown, "the answer was lost")
}

// watcher is a Watch in a goroutine of its own.
type watcher struct {
	events chan driver.Event
	done   chan error
	cancel context.CancelFunc
}

func watch(tb testing.TB, b driver.Watcher, after string) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{events: make(chan driver.Event), done: make(chan error, 1), cancel: cancel}
	go func() {
		w.done <- b.Watch(ctx, driver.WatchRequest{Tenant: x.Tenant, KeyPrefix: "p_", After: after}, func(e driver.Event) error {
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

// end ends the watch and returns what it ended with.
func (w *watcher) end() error {
	w.cancel()
	err := <-w.done
	w.done <- err
	return err
}

// next returns the next event as "kind key value version".
func (w *watcher) next(tb testing.TB) (string, driver.Event) {
	tb.Helper()
	select {
	case e := <-w.events:
		if e.Kind == driver.EventSync || e.Kind == driver.EventProgress {
			return e.Kind.String(), e
		}
		return fmt.Sprintf("%v %v %s %d", e.Kind, e.Entry.ID.Key, e.Entry.Value, e.Entry.Version), e
	case err := <-w.done:
		w.done <- err
		tb.Fatalf("the watch ended with %v", err)
	case <-time.After(5 * time.Minute):
		tb.Fatal("no event")
	}
	panic("unreachable")
}

func (w *watcher) want(tb testing.TB, events ...string) (last driver.Event) {
	tb.Helper()
	for _, want := range events {
		var got string
		if got, last = w.next(tb); got != want {
			tb.Fatalf("got %q, want %q", got, want)
		}
	}
	return last
}

// What is written here is told at once, each version; what is written
// elsewhere is told by a refresh, or by the reconciler within the bound.
func TestWatchOfAnUnwatchableStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		b := newCache(t, cache.Options{}).Wrap(o, kept)
		o.change(t, x, "1")
		w := watch(t, b, "")
		w.want(t, "put p_x 1 1", "sync")
		for i := 2; i <= 5; i++ {
			put(t, b, x, fmt.Sprint(i))
		}
		w.want(t, "put p_x 2 2", "put p_x 3 3", "put p_x 4 4", "put p_x 5 5")
		o.change(t, x, "6")
		if _, err := b.Renew(t.Context(), x); err != nil {
			t.Fatal(err)
		}
		w.want(t, "put p_x 6 6")

		y := id("acme-corp", "p_y")
		o.change(t, y, "1") // nobody announces it
		began := time.Now()
		w.want(t, "put p_y 1 1")
		if took := time.Since(began); took > kept.MaxStaleness {
			t.Errorf("it took %v, the bound is %v", took, kept.MaxStaleness)
		}
		if _, err := o.Delete(t.Context(), deletion(y)); err != nil {
			t.Fatal(err)
		}
		w.want(t, "delete p_y  2")
		if _, err := b.Delete(t.Context(), deletion(x)); err != nil {
			t.Fatal(err)
		}
		w.want(t, "delete p_x  7")
		put(t, b, x, "8")
		w.want(t, "put p_x 8 8")
		if err := w.end(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// A prefix whose list takes more calls than the reconciler may make at once is
// compared all the same.
func TestWatchOfMoreThanTheBudgetHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys = driver.MaxPageSize + 1
		o := newOrigin()
		for i := range keys {
			o.change(t, id("acme-corp", fmt.Sprintf("p_%04d", i)), "1")
		}
		b := newCache(t, cache.Options{CallsPerMinute: 6}).Wrap(o, kept)
		w := watch(t, b, "")
		for range keys {
			w.next(t)
		}
		w.want(t, "sync")
		o.change(t, x, "1") // nobody announces it
		began := time.Now()
		w.want(t, "put p_x 1 1")
		if took := time.Since(began); took > kept.MaxStaleness {
			t.Errorf("it took %v, the bound is %v", took, kept.MaxStaleness)
		}
		lists := o.lists.Load()
		pass(5 * time.Minute)
		if n := o.lists.Load() - lists; n > 5*6+1 {
			t.Errorf("%d calls in five minutes, the budget is 6 a minute", n)
		}
		_ = w.end()
	})
}

// Nothing falls between the state at the beginning and the changes behind it.
func TestWatchMissesNothingAtItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.change(t, x, "1")
		reached, release := make(chan struct{}), make(chan struct{})
		b := newCache(t, cache.Options{}).Wrap(listHeld{origin: o, number: 2, reached: reached, release: release}, kept)
		watch(t, b, "").want(t, "put p_x 1 1", "sync") // the view has had its first list
		w := watch(t, b, "")
		<-reached // the list has been read, and not been told
		put(t, b, x, "2")
		close(release)
		w.want(t, "put p_x 1 1", "sync", "put p_x 2 2")
		_ = w.end()
	})
}

// What the state at the beginning had already is not told again, not even to
// whoever resumes: the position moves on over it.
func TestWatchRepeatsNothingOfItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.change(t, x, "1")
		reached, release := make(chan struct{}), make(chan struct{})
		b := newCache(t, cache.Options{}).Wrap(listLate{origin: o, number: 2, reached: reached, release: release}, kept)
		watch(t, b, "").want(t, "put p_x 1 1", "sync") // the view has had its first list
		w := watch(t, b, "")
		<-reached // the walk has begun, and nothing has been read
		put(t, b, x, "2")
		close(release)
		w.want(t, "put p_x 2 2", "sync")
		position := w.want(t, "progress").Position
		_ = w.end()
		w = watch(t, b, position)
		w.want(t, "sync")
		put(t, b, x, "3")
		w.want(t, "put p_x 3 3")
		_ = w.end()
	})
}

// A deletion behind the read of the first list is not lost, though the view did
// not know of the value yet.
func TestWatchTellsADeletionAtItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.change(t, x, "1")
		reached, release := make(chan struct{}), make(chan struct{})
		b := newCache(t, cache.Options{}).Wrap(listHeld{origin: o, number: 1, reached: reached, release: release}, kept)
		w := watch(t, b, "")
		<-reached // the value has been listed, and not been told
		if _, err := b.Delete(t.Context(), deletion(x)); err != nil {
			t.Fatal(err)
		}
		close(release)
		w.want(t, "sync") // listed anew, since something had changed
		put(t, b, x, "3")
		w.want(t, "put p_x 3 3")
		_ = w.end()
	})
}

// A value that changed and went while the first list was on its way is not told:
// the list came behind its deletion.
func TestWatchTellsNothingThatWentBeforeItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.change(t, x, "1")
		reached, release := make(chan struct{}), make(chan struct{})
		b := newCache(t, cache.Options{}).Wrap(listLate{origin: o, number: 1, reached: reached, release: release}, kept)
		w := watch(t, b, "")
		<-reached
		put(t, b, x, "2")
		if _, err := o.Delete(t.Context(), deletion(x)); err != nil {
			t.Fatal(err)
		}
		close(release)
		w.want(t, "sync", "progress")
		put(t, b, x, "4")
		w.want(t, "put p_x 4 4")
		_ = w.end()
	})
}

// listLate holds up one of its lists before the read.
type listLate struct {
	*origin
	number           int64
	reached, release chan struct{}
}

func (l listLate) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	if l.lists.Load() == l.number-1 {
		close(l.reached)
		<-l.release
	}
	return l.origin.List(ctx, r)
}

// listHeld holds up one of its lists behind the read.
type listHeld struct {
	*origin
	number           int64
	reached, release chan struct{}
}

func (l listHeld) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	page, err := l.origin.List(ctx, r)
	if l.lists.Load() == l.number {
		close(l.reached)
		<-l.release
	}
	return page, err
}

func TestWatchResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		key := driver.NewTokenKey()
		b := newCache(t, cache.Options{TokenKey: key}).Wrap(o, kept)
		put(t, b, x, "1")
		w := watch(t, b, "")
		last := w.want(t, "put p_x 1 1", "sync")
		_ = w.end()
		put(t, b, x, "2")
		put(t, b, x, "3")
		w = watch(t, b, last.Position)
		last = w.want(t, "put p_x 2 2", "put p_x 3 3", "sync")
		_ = w.end()

		resume := func(b driver.Watcher, position string, change func(*driver.WatchRequest)) error {
			r := driver.WatchRequest{Tenant: x.Tenant, KeyPrefix: "p_", After: position}
			change(&r)
			return b.Watch(t.Context(), r, func(driver.Event) error { return errors.New("it was accepted") })
		}
		same := func(*driver.WatchRequest) {}
		other := newCache(t, cache.Options{TokenKey: key}).Wrap(o, kept)
		if err := resume(other, last.Position, same); !errors.Is(err, config.OutOfRange) {
			t.Errorf("another replica: %v", err)
		}
		for name, err := range map[string]error{
			"forged":          resume(b, "AAAA"+last.Position[4:], same),
			"of other tenant": resume(b, last.Position, func(r *driver.WatchRequest) { r.Tenant = id("globex-inc", "p_x").Tenant }),
			"of other prefix": resume(b, last.Position, func(r *driver.WatchRequest) { r.KeyPrefix = "p_x" }),
		} {
			if !errors.Is(err, config.InvalidArgument) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for i := range 5000 { // more than is kept
			put(t, b, x, fmt.Sprint(i))
		}
		if err := resume(b, last.Position, same); !errors.Is(err, config.OutOfRange) {
			t.Errorf("too old: %v", err)
		}
		last.Position = ""
		pass(10 * time.Minute) // nobody watches
	})
}

// A watcher that does not read is ended, never skipped.
func TestSlowWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		b := newCache(t, cache.Options{}).Wrap(o, kept)
		w := watch(t, b, "")
		w.want(t, "sync")
		for i := range 5000 {
			put(t, b, x, fmt.Sprint(i))
		}
		seen := uint64(0)
		for {
			select {
			case e := <-w.events:
				if e.Entry.Version != seen+1 {
					t.Fatalf("version %d came behind %d", e.Entry.Version, seen)
				}
				seen++
				continue
			case err := <-w.done:
				w.done <- err
				if !errors.Is(err, config.ResourceExhausted) {
					t.Fatal(err)
				}
			}
			break
		}
	})
}

// While the store is away a watch ends with Unavailable; resumed, it tells what
// was missed.
func TestWatchOfAStoreThatGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		b := newCache(t, cache.Options{}).Wrap(o, kept)
		put(t, b, x, "1")
		w := watch(t, b, "")
		last := w.want(t, "put p_x 1 1", "sync")
		o.fail(errAway)
		if err := <-w.done; !errors.Is(err, config.Unavailable) {
			t.Fatal(err)
		} else {
			w.done <- err
		}
		if err := b.Watch(t.Context(), driver.WatchRequest{Tenant: x.Tenant, KeyPrefix: "p_", After: last.Position}, nil); !errors.Is(err, config.Unavailable) {
			t.Fatal(err)
		}
		o.change(t, x, "2")
		o.fail(nil)
		pass(2 * time.Second)
		w = watch(t, b, last.Position)
		w.want(t, "put p_x 2 2", "sync")
		_ = w.end()
	})
}

// The value of a secret is read when it is told, and not kept until then.
func TestWatchOfSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		b := newCache(t, cache.Options{}).Wrap(secretive{o}, kept)
		w := watch(t, b, "")
		w.want(t, "sync")
		gets := o.gets.Load()
		put(t, b, x, "hunter2")
		w.want(t, "put p_x hunter2 1")
		if o.gets.Load() == gets {
			t.Error("the secret was kept")
		}
		_ = w.end()
	})
}
