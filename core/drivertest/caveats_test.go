package drivertest

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
)

var everyCaveat = driver.Caveats{
	LooseCompareAndSet: true, PermanentDelete: true, Unattributed: true, InferredType: true, NonEmpty: true, TextOnly: true, EventualReads: true,
}

var weakCaps = Caps{Batch: true, History: true, Refresh: true, Caveats: everyCaveat}

// weakStore is a store with every caveat there is: what a Parameter Store with
// an accelerator in front of it would be.
type weakStore struct {
	mu       sync.Mutex
	versions map[config.ID][]config.Entry // of what is live
	made     uint64                       // revisions
	tokens   *driver.Sealer
}

// weak is one Backend on a weakStore. Single parts of it can be made wrong.
type weak struct {
	store *weakStore

	mu     sync.Mutex
	seen   map[config.ID]driver.Result // what an accelerator would hold
	closed bool

	// What is wrong with it.
	consents, blind, keepsType, takesEmpty, takesBinary, liesOfAuthors, forgetsOwn, refreshesNothing, refreshesOnce bool
	reversesRefresh                                                                                                 bool
	declares                                                                                                        driver.Caveats
}

func openWeak(change func(*weak)) *Harness {
	s := &weakStore{versions: map[config.ID][]config.Entry{}, tokens: driver.NewSealer(driver.NewTokenKey())}
	open := func() *weak {
		return &weak{store: s, seen: map[config.ID]driver.Result{}, declares: everyCaveat}
	}
	b := open()
	change(b)
	return &Harness{Backend: b, Peer: open()}
}

// gap gives another writer the time to come between.
func (s *weakStore) gap() {
	for range 20 {
		runtime.Gosched()
	}
}

func (w *weak) Caveats() driver.Caveats { return w.declares }

func (w *weak) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return nil
}

func (w *weak) begin(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return config.Errorf(config.FailedPrecondition, "closed")
	}
	return ctx.Err()
}

func (w *weak) source(id config.ID, version uint64) driver.Result {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	all := w.store.versions[id]
	switch {
	case version == 0 && len(all) > 0:
		return driver.Result{Entry: bare(all[len(all)-1])}
	case version > 0 && version <= uint64(len(all)):
		return driver.Result{Entry: bare(all[version-1])}
	}
	return driver.Result{Err: config.NotFound}
}

func bare(e config.Entry) config.Entry {
	e = e.Clone()
	e.UpdatedBy, e.Message = "", ""
	return e
}

func (w *weak) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	if err := w.begin(ctx); err != nil {
		return config.Entry{}, err
	}
	if version > 0 {
		r := w.source(id, version)
		return r.Entry, r.Err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.seen[id]
	if !ok {
		r = w.source(id, 0)
		w.seen[id] = r
	}
	if w.refreshesOnce {
		delete(w.seen, id)
		w.seen[id] = driver.Result{Err: config.NotFound}
	}
	return r.Entry.Clone(), r.Err
}

func (w *weak) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	if err := w.begin(ctx); err != nil {
		return nil, err
	}
	results := make([]driver.Result, len(ids))
	for i, id := range ids {
		results[i].Entry, results[i].Err = w.Get(ctx, id, 0)
	}
	return results, nil
}

func (w *weak) Refresh(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	if err := w.begin(ctx); err != nil {
		return nil, err
	}
	if !w.refreshesNothing {
		w.forget(ids...)
	}
	results, err := w.BatchGet(ctx, ids)
	if w.reversesRefresh {
		slices.Reverse(results)
	}
	return results, err
}

func (w *weak) forget(ids ...config.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		delete(w.seen, id)
	}
}

func (w *weak) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	if err := w.begin(ctx); err != nil {
		return driver.Page{}, err
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, err
	}
	scope := []string{"list", r.Tenant.String(), r.Service.String(), r.KeyPrefix}
	last := ""
	if r.PageToken != "" {
		if last, err = w.store.tokens.Open(r.PageToken, scope...); err != nil {
			return driver.Page{}, err
		}
	}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	var page driver.Page
	total := 0
	for _, id := range slices.SortedFunc(maps.Keys(w.store.versions), func(a, b config.ID) int {
		return strings.Compare(a.Key.String(), b.Key.String())
	}) {
		key := id.Key.String()
		if id.Tenant != r.Tenant || id.Service != r.Service || !strings.HasPrefix(key, r.KeyPrefix) || last != "" && key <= last {
			continue
		}
		all := w.store.versions[id]
		e := bare(all[len(all)-1])
		if total += len(e.Value); len(page.Entries) == size || len(page.Entries) > 0 && total > driver.MaxPageBytes {
			page.NextPageToken = w.store.tokens.Seal(page.Entries[len(page.Entries)-1].ID.Key.String(), scope...)
			break
		}
		page.Entries = append(page.Entries, e)
	}
	return page, nil
}

func (w *weak) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	if err := w.begin(ctx); err != nil {
		return driver.Page{}, err
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, err
	}
	scope := []string{"history", r.ID.Tenant.String(), r.ID.Service.String(), r.ID.Key.String()}
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	all := w.store.versions[r.ID]
	if len(all) == 0 {
		return driver.Page{}, config.NotFound
	}
	next := len(all)
	if r.PageToken != "" {
		at, err := w.store.tokens.Open(r.PageToken, scope...)
		if err != nil {
			return driver.Page{}, err
		}
		next, _ = strconv.Atoi(at)
	}
	var page driver.Page
	for total := 0; next > 0; next-- {
		e := all[next-1].Clone()
		if w.liesOfAuthors {
			e.UpdatedBy = all[len(all)-1].UpdatedBy
		}
		if total += len(e.Value); len(page.Entries) == size || len(page.Entries) > 0 && total > driver.MaxPageBytes {
			page.NextPageToken = w.store.tokens.Seal(strconv.Itoa(next), scope...)
			break
		}
		page.Entries = append(page.Entries, e)
	}
	return page, nil
}

// latest returns the newest version of a key, 0 if there is none.
func (w *weak) latest(id config.ID) uint64 {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return uint64(len(w.store.versions[id]))
}

// expected compares before the write and so leaves a gap.
func (w *weak) expected(id config.ID, expect driver.Expect) error {
	if latest := w.latest(id); !expect.Match(latest, latest > 0) {
		return config.Errorf(config.Conflict, "another version").WithVersion(latest)
	}
	return nil
}

func (w *weak) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	if err := w.begin(ctx); err != nil {
		return config.Entry{}, err
	}
	switch err := driver.CheckInferredType(r.ContentType); {
	case len(r.Value) == 0 && !w.takesEmpty:
		return config.Entry{}, config.Errorf(config.InvalidArgument, "empty")
	case !utf8.Valid(r.Value) && !w.takesBinary:
		return config.Entry{}, config.Errorf(config.InvalidArgument, "not text")
	case err != nil && !w.keepsType:
		return config.Entry{}, err
	}
	if err := w.expected(r.ID, r.Expect); err != nil {
		return config.Entry{}, err
	}
	w.store.gap() // in which another writer may come between
	defer func() {
		if !w.forgetsOwn {
			w.forget(r.ID)
		}
	}()
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	all := w.store.versions[r.ID]
	want, set := r.Expect.Value()
	if set && want == 0 && len(all) > 0 { // Absent is exact
		return config.Entry{}, config.Errorf(config.Conflict, "exists").WithVersion(uint64(len(all)))
	}
	w.store.made++
	e := config.Entry{
		ID: r.ID, Value: append([]byte{}, r.Value...), ContentType: driver.InferType(r.Value), Version: uint64(len(all) + 1),
		Revision: config.Revision(fmt.Sprint(w.store.made)), UpdatedAt: time.Now().UTC(), UpdatedBy: r.UpdatedBy, Message: r.Message,
	}
	if w.keepsType {
		e.ContentType = r.ContentType
	}
	w.store.versions[r.ID] = append(all, e)
	if set && want > 0 && e.Version != want+1 && !w.blind {
		return config.Entry{}, config.Errorf(config.Conflict, "lost a race").WithVersion(e.Version - 1)
	}
	answer := bare(e)
	answer.Value = nil
	return answer, nil
}

func (w *weak) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	if err := w.begin(ctx); err != nil {
		return config.Entry{}, err
	}
	latest := w.latest(r.ID)
	switch {
	case latest == 0:
		return config.Entry{}, config.NotFound
	case !r.Permanent && !w.consents:
		return config.Entry{}, config.Errorf(config.FailedPrecondition, "it would be permanent")
	}
	if err := w.expected(r.ID, r.Expect); err != nil {
		return config.Entry{}, err
	}
	defer func() {
		if !w.forgetsOwn {
			w.forget(r.ID)
		}
	}()
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.store.made++
	gone := config.Entry{
		ID: r.ID, Version: latest + 1, Revision: config.Revision(fmt.Sprint(w.store.made)), UpdatedAt: time.Now().UTC(), Deleted: true,
	}
	delete(w.store.versions, r.ID)
	return gone, nil
}

// TestEveryCaveatAtOncePasses checks that what the suite asks of a store with
// caveats can be had.
func TestEveryCaveatAtOncePasses(t *testing.T) {
	Run(t, weakCaps, func(testing.TB) *Harness { return openWeak(func(*weak) {}) })
}

// TestNoCaveatIsNoExcuse checks that a case is left out for the caveats that
// it names and for no other.
func TestNoCaveatIsNoExcuse(t *testing.T) {
	full := Caps{Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true, MaxValue: 1}
	for _, c := range Cases() {
		if missing := c.Missing(full, nil); missing != "" && c.Clause != "C29" && c.Clause != "C30" {
			t.Errorf("%s does not run for a store without caveats: %s", c.Name, missing)
		}
	}
}

func weakBad(does, caught, says string, change func(*weak)) bad {
	return bad{
		does: does, caught: caught, says: says, caps: &weakCaps,
		open: func() *Harness { return openWeak(change) }, good: func() *Harness { return openWeak(func(*weak) {}) },
	}
}

// badWeak are the wrong backends of C29 and C30.
var badWeak = []bad{
	weakBad("answers a Refresh from its accelerator", "refresh/from-the-source", "Refresh after a peer's Put", func(w *weak) { w.refreshesNothing = true }),
	weakBad("answers a Refresh out of order", "refresh/like-batch", "Refresh of", func(w *weak) { w.reversesRefresh = true }),
	weakBad("goes back behind a Refresh", "refresh/sticks", "Get of", func(w *weak) { w.refreshesOnce = true }),
	weakBad("keeps quiet about a caveat", "caveats/declared", "the backend declares", func(w *weak) { w.declares.TextOnly = false }),
	weakBad("declares a caveat too many", "caveats/declared", "the backend declares", func(w *weak) { w.declares = everyCaveat; w.declares.NonEmpty = false }),
	{
		does: "declares eventual reads without a Refresh", caught: "caveats/declared", says: "no Refresh that would end them",
		make: func(b *memdriver.Backend) driver.Backend { return qualified{b} },
		caps: &Caps{Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true, Caveats: eventual},
	},
	weakBad("tells both writers that they won", "caveats/loose-race", "was not told that it lost", func(w *weak) { w.blind = true }),
	weakBad("deletes for good without consent", "caveats/permanent-delete", "Delete without Permanent", func(w *weak) { w.consents = true }),
	weakBad("names the latest author in every version", "caveats/unattributed", "says that the author of version", func(w *weak) { w.liesOfAuthors = true }),
	weakBad("keeps a type that it says it loses", "caveats/inferred-type", "returned the content type", func(w *weak) { w.keepsType = true }),
	weakBad("takes an empty value that it says it refuses", "caveats/non-empty", "Put of an empty value", func(w *weak) { w.takesEmpty = true }),
	weakBad("takes binary that it says it refuses", "caveats/text-only", "which is not UTF-8", func(w *weak) { w.takesBinary = true }),
	weakBad("does not see its own writes", "caveats/own-writes", "Get of", func(w *weak) { w.forgetsOwn = true }),
}

type qualified struct{ *memdriver.Backend }

func (qualified) Caveats() driver.Caveats { return eventual }

func init() { badBackends = append(badBackends, badWeak...) }
