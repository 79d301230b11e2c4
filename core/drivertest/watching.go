package drivertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// watch is a Watch that runs on a goroutine of its own and keeps what it saw.
type watch struct {
	t      *test
	cancel context.CancelFunc
	done   chan struct{} // closed when Watch returned
	err    error         // what it returned, once done is closed
	news   chan struct{} // a place for "there is more"

	emitting atomic.Int32 // how many calls of emit have not returned

	mu     sync.Mutex
	seen   []driver.Event // without EventProgress
	breach string         // what was wrong with an event, if anything was
}

func watchOf(in config.ID, prefix string) driver.WatchRequest {
	return driver.WatchRequest{Tenant: in.Tenant, Service: in.Service, KeyPrefix: prefix}
}

func (t *test) watch(r driver.WatchRequest) *watch {
	t.Helper()
	return t.watchWith(r, func(driver.Event) {})
}

// watchWith calls receive with every event, on Watch's own goroutine.
func (t *test) watchWith(r driver.WatchRequest, receive func(driver.Event)) *watch {
	t.Helper()
	b := t.watcher()
	ctx, cancel := context.WithCancel(t.ctx)
	w := &watch{t: t, cancel: cancel, done: make(chan struct{}), news: make(chan struct{}, 1)}
	go func() {
		defer close(w.done)
		w.err = b.Watch(ctx, r, func(e driver.Event) error {
			defer w.emitting.Add(-1)
			w.note(e, w.emitting.Add(1))
			receive(e)
			return nil
		})
	}()
	return w
}

func (w *watch) note(e driver.Event, emitting int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case emitting > 1:
		w.breach = "emit was called while another call of it had not returned"
	case e.Position == "":
		w.breach = fmt.Sprintf("an event of kind %s has no position", e.Kind)
	case e.Kind == driver.EventDelete && !e.Entry.Deleted, e.Kind == driver.EventPut && e.Entry.Deleted:
		w.breach = fmt.Sprintf("an event of kind %s carries an entry with deleted %t", e.Kind, e.Entry.Deleted)
	case e.Kind == driver.EventPut && e.Entry.Value == nil:
		w.breach = "a put has no value"
	case (e.Kind == driver.EventSync || e.Kind == driver.EventProgress) && !e.Entry.ID.IsZero():
		w.breach = fmt.Sprintf("an event of kind %s carries an entry", e.Kind)
	}
	if e.Kind == driver.EventProgress {
		return
	}
	w.seen = append(w.seen, e)
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (w *watch) events() []driver.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// await waits until what was seen is enough, and returns it.
func (w *watch) await(what string, enough func(seen []driver.Event) bool) []driver.Event {
	w.t.Helper()
	timeout := time.NewTimer(w.t.patience)
	defer timeout.Stop()
	for {
		seen := w.events()
		if enough(seen) {
			return seen
		}
		select {
		case <-w.news:
		case <-w.done:
			if seen := w.events(); enough(seen) {
				return seen
			}
			w.t.Fatalf("Watch ended before %s: %v; it had emitted %q", what, w.err, told(w.events()))
		case <-timeout.C:
			w.t.Fatalf("Watch has not emitted %s after %v, only %q", what, w.t.patience, told(seen))
		}
	}
}

// sync waits for the sync event and returns what came up to it.
func (w *watch) sync() []driver.Event {
	w.t.Helper()
	seen := w.await("its sync event", func(seen []driver.Event) bool { return synced(seen) >= 0 })
	return seen[:synced(seen)+1]
}

func synced(seen []driver.Event) int {
	return slices.IndexFunc(seen, func(e driver.Event) bool { return e.Kind == driver.EventSync })
}

// upTo waits for a version of an ID and returns what was seen by then.
func (w *watch) upTo(id config.ID, version uint64) []driver.Event {
	w.t.Helper()
	return w.await(fmt.Sprintf("version %d of %s", version, show(id)), func(seen []driver.Event) bool {
		return slices.ContainsFunc(seen, func(e driver.Event) bool { return e.Entry.ID == id && e.Entry.Version >= version })
	})
}

// ended waits until Watch returns and returns its error.
func (w *watch) ended() error {
	w.t.Helper()
	select {
	case <-w.done:
		return w.err
	case <-time.After(w.t.patience):
		w.t.Fatalf("Watch has not returned after %v", w.t.patience)
		return nil
	}
}

// stop cancels the Watch, waits for it and reports what it did wrong.
func (w *watch) stop() {
	w.t.Helper()
	w.cancel()
	select {
	case <-w.done:
	case <-time.After(w.t.patience):
		w.t.Errorf("Watch has not returned %v after its context was canceled", w.t.patience)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.breach != "" {
		w.t.Errorf("Watch: %s", w.breach)
	}
}

// told describes events, each as "kind key@version".
func told(events []driver.Event) []string {
	var lines []string
	for _, e := range events {
		line := e.Kind.String()
		if !e.Entry.ID.IsZero() {
			line += fmt.Sprintf(" %s@%d", e.Entry.ID.Key, e.Entry.Version)
		}
		lines = append(lines, line)
	}
	return lines
}

// wantEvents compares events as told describes them.
func (t *test) wantEvents(what string, got []driver.Event, want ...string) {
	t.Helper()
	if g := told(got); !slices.Equal(g, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, g, want)
	}
}

func watchSnapshot(t *test) {
	for _, name := range []string{"b", "a", "c/d", "c", "gone"} {
		t.put(our(name), `1`)
	}
	t.put(our("b"), `2`)
	t.delete(our("gone"))
	for prefix, want := range map[string][]string{
		"":   {"put a@1", "put b@2", "put c@1", "put c/d@1", "sync"},
		"c":  {"put c@1", "put c/d@1", "sync"},
		"c/": {"put c/d@1", "sync"},
		"x":  {"sync"},
	} {
		w := t.watch(watchOf(our("k"), prefix))
		t.wantEvents(fmt.Sprintf("Watch of prefix %q", prefix), w.sync(), want...)
		w.stop()
	}
	w := t.watch(watchOf(our("k"), "b"))
	defer w.stop()
	if d := t.differ(w.sync()[0].Entry, t.get(our("b"))); d != "" {
		t.Errorf("an entry of the snapshot, compared with Get: %s", d)
	}
}

func watchStream(t *test) {
	t.put(our("a"), `1`)
	w := t.watch(watchOf(our("k"), ""))
	defer w.stop()
	w.sync()
	t.put(our("b"), `1`)
	t.put(our("a"), `2`)
	t.delete(our("b"))
	t.put(id("globex-inc", order, "a"), `"foreign"`)
	t.put(our("b"), `2`)
	t.put(our("a"), `2`)
	t.delete(our("a"))
	t.put(our("c"), `"last"`)
	seen := w.upTo(our("c"), 1)
	t.wantEvents("Watch", seen,
		"put a@1", "sync", "put b@1", "put a@2", "delete b@2", "put b@3", "put a@3", "delete a@4", "put c@1")
	if d := t.differ(seen[len(seen)-1].Entry, t.get(our("c"))); d != "" {
		t.Errorf("the entry of a change, compared with Get: %s", d)
	}
}

func watchPrefix(t *test) {
	w := t.watch(watchOf(our("k"), "a/"))
	defer w.stop()
	w.sync()
	for _, name := range []string{"a", "a/b", "a-b", "a/b/c", "b/a/", "aa/b"} {
		t.put(our(strings.TrimSuffix(name, "/")), `1`)
	}
	t.delete(our("a/b"))
	t.put(our("a/z"), `1`)
	t.wantEvents("Watch of prefix \"a/\"", w.upTo(our("a/z"), 1), "sync", "put a/b@1", "put a/b/c@1", "delete a/b@2", "put a/z@1")
}

// gapFree begins one Watch after the other while writers are at work. Whatever
// moment each hits, its snapshot and stream together have every version behind
// the snapshot's exactly once. Versions that 5 divides are tombstones.
func gapFree(t *test) {
	const writers, watches, each = 4, 6, 7
	const last = (watches + 1) * each
	key := func(i int) config.ID { return our(fmt.Sprintf("k%d", i)) }
	var all []*watch
	for burst := range watches + 1 {
		if burst < watches {
			w := t.watch(watchOf(our("k"), ""))
			defer w.stop()
			all = append(all, w)
		}
		parallel(writers, func(i int) {
			for n := burst*each + 1; n <= (burst+1)*each; n++ {
				var err error
				if n%5 == 0 {
					_, err = t.b.Delete(t.ctx, driver.DeleteRequest{ID: key(i)})
				} else {
					_, err = t.try(driver.PutRequest{ID: key(i), Value: fmt.Append(nil, n)})
				}
				if err != nil {
					t.Errorf("write %d of %s: %v", n, show(key(i)), err)
				}
			}
		})
	}
	for i, w := range all {
		seen := w.await("the last version of every key", func(seen []driver.Event) bool {
			done := 0
			for _, e := range seen {
				if e.Entry.Version == last {
					done++
				}
			}
			return done >= writers && synced(seen) >= 0
		})
		t.wantNoGap(fmt.Sprintf("Watch %d", i), seen)
	}
}

// wantNoGap checks that a snapshot is in order of key, and that the versions
// of every key behind it follow one another. It reports the first fault.
func (t *test) wantNoGap(what string, seen []driver.Event) {
	t.Helper()
	at := synced(seen)
	version := map[config.ID]uint64{}
	for i, e := range seen {
		id, next := e.Entry.ID, e.Entry.Version
		last, known := version[id]
		fault := ""
		switch {
		case i == at:
			continue
		case e.Kind == driver.EventSync:
			fault = "there is a second sync event"
		case i > 0 && i < at && id.Key.String() <= seen[i-1].Entry.ID.Key.String():
			fault = "the snapshot is out of order"
		case i > at && !known && next%5 != 1: // what was not live goes on with a put
			fault = fmt.Sprintf("%s was not in the snapshot and begins with version %d", show(id), next)
		case i > at && known && next != last+1:
			fault = fmt.Sprintf("version %d of %s follows version %d", next, show(id), last)
		}
		if fault != "" {
			t.Errorf("%s: %s: %q", what, fault, told(seen))
			return
		}
		version[id] = next
	}
}

// changes makes six changes behind a first Watch's sync event and returns all
// that it saw: the snapshot of two, sync, and the six.
func (t *test) changes() []driver.Event {
	t.Helper()
	t.put(our("a"), `1`)
	t.put(our("b"), `1`)
	w := t.watch(watchOf(our("k"), ""))
	defer w.stop()
	w.sync()
	t.put(our("c"), `1`)
	t.delete(our("a"))
	t.put(id("globex-inc", "", "a"), `"foreign"`)
	t.put(our("c"), `2`)
	t.put(our("a"), `2`)
	t.delete(our("b"))
	t.put(our("d"), `1`)
	seen := w.upTo(our("d"), 1)
	t.wantEvents("Watch", seen,
		"put a@1", "put b@1", "sync", "put c@1", "delete a@2", "put c@2", "put a@3", "delete b@2", "put d@1")
	return seen
}

// resumed returns what a Watch emits behind a position, up to its sync event.
func (t *test) resumed(position string) []driver.Event {
	t.Helper()
	r := watchOf(our("k"), "")
	r.After = position
	w := t.watch(r)
	defer w.stop()
	return w.sync()
}

func watchResume(t *test) {
	seen := t.changes()
	for i := 2; i < len(seen); i++ { // from the sync event on
		t.wantEvents(fmt.Sprintf("Watch resumed behind event %d of %q", i, told(seen)),
			t.resumed(seen[i].Position), append(told(seen[i+1:]), "sync")...)
	}
	r := watchOf(our("k"), "")
	r.After = seen[len(seen)-1].Position
	w := t.watch(r)
	defer w.stop()
	w.sync()
	t.put(our("d"), `2`)
	t.wantEvents("Watch resumed, then one more change", w.upTo(our("d"), 2), "sync", "put d@2")
}

// watchPositions resumes from what a snapshot gave, and from what a resumed
// Watch gave.
func watchPositions(t *test) {
	seen := t.changes()
	want := append(told(seen[3:]), "sync")
	for _, e := range seen[:2] {
		// How much of the snapshot is told again is the store's affair; that
		// no change is left out is not.
		got := told(t.resumed(e.Position))
		if len(got) < len(want) || !slices.Equal(got[len(got)-len(want):], want) {
			t.Errorf("Watch resumed from the position of a snapshot's event:\n got %q\nwant it to end with %q", got, want)
		}
	}
	for i := 2; i+1 < len(seen); i++ {
		first := t.resumed(seen[i].Position)[0]
		t.wantEvents(fmt.Sprintf("Watch resumed from the first event of a Watch resumed behind event %d of %q", i, told(seen)),
			t.resumed(first.Position), append(told(seen[i+2:]), "sync")...)
	}
}

// wantWatchRefused starts a Watch that has to fail before it emits.
func (t *test) wantWatchRefused(r driver.WatchRequest, want config.Code, what string) {
	t.Helper()
	emitted := 0
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	err := t.within("Watch with "+what, func() error {
		return t.watcher().Watch(ctx, r, func(driver.Event) error {
			emitted++
			cancel() // it was not refused
			return nil
		})
	})
	t.wantCode(err, want, "Watch with %s", what)
	if emitted > 0 {
		t.Errorf("Watch with %s emitted %d events, want none", what, emitted)
	}
}

func forgedPosition(t *test) {
	issued := t.changes()[4].Position
	for _, forged := range forgeries(issued) {
		r := watchOf(our("k"), "")
		r.After = forged
		t.wantWatchRefused(r, config.InvalidArgument, fmt.Sprintf("a forged position of %d bytes", len(forged)))
	}
}

func foreignPosition(t *test) {
	issued := t.changes()[4].Position
	for _, in := range []config.ID{id("globex-inc", order, "k"), id(acme, "", "k"), id(acme, "order-2", "k"), id("_shared", order, "k")} {
		r := watchOf(in, "")
		r.After = issued
		t.wantWatchRefused(r, config.InvalidArgument, "the position of "+scope(our("k"))+" for "+scope(in))
	}
	for _, prefix := range []string{"a", "c", "x"} {
		r := watchOf(our("k"), prefix)
		r.After = issued
		t.wantWatchRefused(r, config.InvalidArgument, fmt.Sprintf("the position of prefix \"\" for prefix %q", prefix))
	}
	r := watchOf(our("k"), "")
	r.After = t.firstPage(our("c"), "")
	t.wantWatchRefused(r, config.InvalidArgument, "a page token")
	t.wantRefused(our("k"), "", issued, "a position")
}

func outOfRange(t *test) {
	r := watchOf(our("k"), "")
	w := t.watch(r)
	r.After = w.sync()[0].Position
	w.stop()
	parallel(racers, func(i int) {
		for range t.h.Changes/racers + 2 {
			if _, err := t.try(driver.PutRequest{ID: our(fmt.Sprintf("k%d", i)), Value: []byte(`1`)}); err != nil {
				t.Errorf("Put: %v", err)
			}
		}
	})
	t.wantWatchRefused(r, config.OutOfRange, "a position from before the changes that are kept")
	// Starting anew is the way out.
	w = t.watch(watchOf(our("k"), ""))
	defer w.stop()
	if n := len(w.sync()); n != racers+1 {
		t.Errorf("Watch without a position emitted %d events up to its sync event, want %d", n, racers+1)
	}
}

func emitError(t *test) {
	mine := errors.New("the receiver has had enough")
	t.put(our("a"), `1`)
	w := t.watch(watchOf(our("k"), ""))
	between := w.sync()[1].Position
	w.stop()
	t.put(our("b"), `1`)
	for _, c := range []struct {
		name   string
		after  string
		stopAt int
	}{
		{"the first of a snapshot", "", 1},
		{"the last of a snapshot", "", 2},
		{"sync", "", 3},
		{"a change", between, 1},
	} {
		r := watchOf(our("k"), "")
		r.After = c.after
		n := 0
		err := t.within("Watch whose receiver failed", func() error {
			return t.watcher().Watch(t.ctx, r, func(driver.Event) error {
				if n++; n >= c.stopAt {
					return mine
				}
				return nil
			})
		})
		if !errors.Is(err, mine) {
			t.Errorf("Watch whose receiver failed at %s returned %v, want the receiver's error", c.name, err)
		}
		if n != c.stopAt {
			t.Errorf("Watch emitted %d events, and the receiver failed at event %d, %s", n, c.stopAt, c.name)
		}
	}
}

func watchCancel(t *test) {
	t.put(our("a"), `1`)
	t.promptly("Watch", func() time.Duration {
		w := t.watch(watchOf(our("k"), ""))
		w.sync()
		canceled := time.Now()
		w.cancel()
		err := w.ended()
		took := time.Since(canceled)
		t.wantDone(err, "Watch that was canceled while it waited")
		return took
	})
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	n := 0
	err := t.within("Watch canceled by its receiver", func() error {
		return t.watcher().Watch(ctx, watchOf(our("k"), ""), func(driver.Event) error {
			n++
			cancel()
			return nil
		})
	})
	t.wantDone(err, "Watch that was canceled by its receiver")
}

func slowReceiver(t *test) {
	const changes = 50
	release := make(chan struct{})
	slow := t.watchWith(watchOf(our("k"), ""), func(driver.Event) { <-release })
	defer slow.stop()
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	slow.await("its first event", func(seen []driver.Event) bool { return len(seen) > 0 })

	quick := t.watch(watchOf(our("k"), ""))
	defer quick.stop()
	quick.sync()
	for range changes {
		t.put(our("k"), `1`)
	}
	quick.upTo(our("k"), changes)
	free()
	slow.upTo(our("k"), changes)
	t.wantNoGap("the slow Watch", slow.events())
	if n := len(slow.events()); n != changes+1 {
		t.Errorf("the slow Watch emitted %d events, want sync and %d changes", n, changes)
	}
}

// oneAtATime has a receiver that is busy for a moment with every event, so that
// a second call of it would meet the first. The watch itself notices.
func oneAtATime(t *test) {
	const each = 10
	for i := range each {
		t.put(our(fmt.Sprintf("k%02d", i)), `1`)
	}
	w := t.watchWith(watchOf(our("k"), ""), func(driver.Event) { <-time.After(2 * time.Millisecond) })
	defer w.stop()
	w.sync()
	for range each {
		t.put(our("k"), `1`)
	}
	w.upTo(our("k"), each)
}
