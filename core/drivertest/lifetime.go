package drivertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// call is one method with arguments that are good.
type call struct {
	name   string
	writes bool
	do     func(context.Context) error
}

// calls are all methods that the claim makes callable, for one key.
func (t *test) calls(k config.ID) []call {
	all := []call{
		{"Get", false, func(ctx context.Context) error { _, err := t.b.Get(ctx, k, 0); return err }},
		{"Get of a version", false, func(ctx context.Context) error { _, err := t.b.Get(ctx, k, 1); return err }},
		{"List", false, func(ctx context.Context) error {
			_, err := t.b.List(ctx, driver.ListRequest{Tenant: k.Tenant, Service: k.Service})
			return err
		}},
		{"Put", true, func(ctx context.Context) error {
			_, err := t.b.Put(ctx, driver.PutRequest{ID: k, Value: []byte(`"written"`)})
			return err
		}},
		{"Delete", true, func(ctx context.Context) error {
			_, err := t.remove(ctx, driver.DeleteRequest{ID: k})
			return err
		}},
	}
	if t.caps.Batch {
		all = append(all, call{"BatchGet", false, func(ctx context.Context) error {
			_, err := t.batcher().BatchGet(ctx, []config.ID{k, k})
			return err
		}})
	}
	if t.caps.Refresh {
		all = append(all, call{"Refresh", false, func(ctx context.Context) error {
			_, err := t.refresher().Refresh(ctx, []config.ID{k, k})
			return err
		}})
	}
	if t.caps.History {
		all = append(all, call{"History", false, func(ctx context.Context) error {
			_, err := t.historian().History(ctx, driver.HistoryRequest{ID: k})
			return err
		}})
	}
	if t.caps.Watch {
		all = append(all, call{"Watch", false, func(ctx context.Context) error {
			return t.watcher().Watch(ctx, watchOf(k, ""), func(driver.Event) error { return nil })
		}})
	}
	if t.caps.Ping {
		all = append(all, call{"Ping", false, func(ctx context.Context) error { return t.pinger().Ping(ctx) }})
	}
	if t.caps.Size {
		all = append(all, call{"Size", false, func(ctx context.Context) error { _, err := t.sizer().Size(ctx); return err }})
	}
	return all
}

// within returns what a call returns, and ends the case if it never does.
func (t *test) within(what string, do func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(t.patience):
		t.Fatalf("%s has not returned after %v", what, t.patience)
		return nil
	}
}

// cancelBefore makes every call with a context that is already done.
func cancelBefore(t *test) {
	k := our("limit")
	t.put(k, `"before"`)
	for _, c := range t.calls(k) {
		t.promptly(c.name, func() time.Duration {
			ctx, cancel := context.WithCancel(t.ctx)
			cancel()
			began := time.Now()
			err := t.within(c.name, func() error { return c.do(ctx) })
			took := time.Since(began)
			t.wantDone(err, "%s with a canceled context", c.name)
			return took
		})
	}
	t.wantState(k, putOnce)
}

func deadlineBefore(t *test) {
	k := our("limit")
	t.put(k, `"before"`)
	for _, c := range t.calls(k) {
		t.promptly(c.name, func() time.Duration {
			ctx, cancel := context.WithDeadline(t.ctx, time.Unix(1, 0))
			defer cancel()
			began := time.Now()
			err := t.within(c.name, func() error { return c.do(ctx) })
			took := time.Since(began)
			t.wantDone(err, "%s with a deadline that has passed", c.name)
			return took
		})
	}
	t.wantState(k, putOnce)
}

// cancelDuring cancels calls at any moment of their lives. Each must end soon,
// well or with the context's error, and what was acknowledged must be there.
func cancelDuring(t *test) {
	const callers, each = 8, 12
	k := our("limit")
	t.put(k, `"before"`)
	calls := slices.DeleteFunc(t.calls(k), func(c call) bool {
		// Without History an old version may well not be there (clause C5).
		return c.name == "Watch" || c.name == "Delete" || c.name == "Get of a version" && !t.caps.History
	})
	var mu sync.Mutex
	var late []time.Duration
	acknowledged, tried := 0, 0
	parallel(callers, func(i int) {
		for n := range each {
			c := calls[(i+n)%len(calls)]
			ctx, cancel := context.WithCancel(t.ctx)
			var canceled time.Time
			done := make(chan struct{})
			timer := time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, func() { //nolint:gosec // any moment will do
				canceled = time.Now()
				cancel()
				close(done)
			})
			err := c.do(ctx)
			ended := time.Now()
			if !timer.Stop() {
				<-done
			}
			cancel()
			mu.Lock()
			if !canceled.IsZero() && ended.After(canceled) {
				late = append(late, ended.Sub(canceled))
			}
			if c.writes {
				tried++
				if err == nil {
					acknowledged++
				}
			}
			mu.Unlock()
			if err != nil {
				t.wantDone(err, "%s that was canceled meanwhile", c.name)
			}
		}
	})
	// The middle one: a busy machine delays some, a call that does not listen
	// delays all.
	if slices.Sort(late); len(late) > 0 && late[len(late)/2] > prompt {
		t.Errorf("half of the calls returned more than %v after their context was canceled, the limit is %v", late[len(late)/2], prompt)
	}
	if v := int(t.get(k).Version) - 1; v < acknowledged || v > tried {
		t.Errorf("%d writes happened, of %d tried and %d acknowledged", v, tried, acknowledged)
	}
}

// concurrently calls everything at once on a few keys and checks what every
// caller sees for itself. Run it under the race detector.
func concurrently(t *test) {
	const callers, each = 8, 24
	var mu sync.Mutex
	written := map[config.ID]uint64{}
	parallel(callers, func(i int) {
		r := rand.New(rand.NewPCG(uint64(i), 1)) //nolint:gosec // the same calls every time
		seen := map[config.ID]uint64{}
		for range each {
			k := our(fmt.Sprintf("k%d", r.IntN(4)))
			note := func(e config.Entry) {
				if e.ID != k {
					t.Errorf("asked for %s, got %s", show(k), show(e.ID))
				}
				if e.Version < seen[k] {
					t.Errorf("saw version %d of %s after version %d", e.Version, show(k), seen[k])
				}
				seen[k] = e.Version
			}
			switch n := r.IntN(10); {
			case n < 3:
				if e, err := t.b.Get(t.ctx, k, 0); err == nil {
					note(e)
				} else if !errors.Is(err, config.NotFound) {
					t.Errorf("Get: %v", err)
				}
			case n < 5:
				if _, err := t.b.List(t.ctx, driver.ListRequest{Tenant: k.Tenant, Service: k.Service}); err != nil {
					t.Errorf("List: %v", err)
				}
			case n < 9, t.caps.Caveats.PermanentDelete: // which begins to count anew
				e, err := t.try(driver.PutRequest{ID: k, Value: fmt.Append(nil, i)})
				if err != nil {
					t.Errorf("Put: %v", err)
					continue
				}
				note(e)
				mu.Lock()
				written[k]++
				mu.Unlock()
			default:
				e, err := t.remove(t.ctx, driver.DeleteRequest{ID: k})
				switch {
				case err == nil:
					note(e)
					mu.Lock()
					written[k]++
					mu.Unlock()
				case !errors.Is(err, config.NotFound):
					t.Errorf("Delete: %v", err)
				}
			}
		}
	})
	for k, n := range written {
		if e := t.put(k, `"last"`); e.Version != n+1 {
			t.Errorf("after %d acknowledged writes of %s the next made version %d", n, show(k), e.Version)
		}
	}
}

func closeAgain(t *test) {
	t.put(our("limit"), `1`)
	parallel(4, func(int) {
		if err := t.b.Close(); err != nil {
			t.Errorf("Close, of several at once: %v", err)
		}
	})
	if err := t.b.Close(); err != nil {
		t.Errorf("Close of a closed backend: %v", err)
	}
}

func closeEndsCalls(t *test) {
	k := our("limit")
	t.put(k, `1`)
	if err := t.b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	for _, c := range t.calls(k) {
		err := t.within(c.name, func() error { return c.do(t.ctx) })
		t.wantCode(err, config.FailedPrecondition, "%s after Close", c.name)
	}
}

// closeWithWatch closes while one Watch waits for changes and another for its
// receiver, which the backend does not own.
func closeWithWatch(t *test) {
	k := our("limit")
	t.put(k, `1`)
	idle := t.watch(watchOf(k, ""))
	defer idle.stop()
	idle.sync()
	release := make(chan struct{})
	stuck := t.watchWith(watchOf(k, ""), func(driver.Event) { <-release })
	defer stuck.stop()
	defer close(release)
	stuck.await("its first event", func(seen []driver.Event) bool { return len(seen) > 0 })

	if err := t.within("Close, while a receiver is busy,", t.b.Close); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := idle.ended(); err == nil {
		t.Errorf("Watch returned nil when its backend was closed, want an error")
	}
}
