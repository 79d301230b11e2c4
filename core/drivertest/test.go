package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// test is what a case works with.
type test struct {
	testing.TB
	ctx  context.Context // ends with the case, and after caseTimeout
	caps Caps
	h    *Harness
	b    driver.Backend
	// patience is how long to wait for something that has to happen.
	patience time.Duration
}

// Most cases need one scope only, which is this.
const (
	acme  = "acme-corp"
	order = "order"
)

// id returns an ID that is valid by construction. The tenant may be "_shared".
func id(tenant, service, key string) config.ID {
	return config.ID{Tenant: owner(tenant), Service: must(config.ParseService(service)), Key: must(config.ParseKey(key))}
}

func owner(s string) config.Tenant { return must(config.ParseOwner(s)) }

// our returns an ID in the scope that most cases use.
func our(key string) config.ID { return id(acme, order, key) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// try makes one Put with whatever condition r has.
func (t *test) try(r driver.PutRequest) (config.Entry, error) { return t.b.Put(t.ctx, r) }

// put stores a value that has to be accepted.
func (t *test) put(id config.ID, value string) config.Entry {
	t.Helper()
	return t.putAs(driver.PutRequest{ID: id, Value: []byte(value)})
}

func (t *test) putAs(r driver.PutRequest) config.Entry {
	t.Helper()
	e, err := t.try(r)
	if err != nil {
		t.Fatalf("Put of %s: %v", show(r.ID), err)
	}
	return e
}

// remove makes one Delete with whatever condition r has, and with the consent
// that the store asks for.
func (t *test) remove(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	r.Permanent = t.caps.Caveats.PermanentDelete
	return t.b.Delete(ctx, r)
}

func (t *test) delete(id config.ID) config.Entry {
	t.Helper()
	e, err := t.remove(t.ctx, driver.DeleteRequest{ID: id})
	if err != nil {
		t.Fatalf("Delete of %s: %v", show(id), err)
	}
	return e
}

func (t *test) get(id config.ID) config.Entry {
	t.Helper()
	e, err := t.b.Get(t.ctx, id, 0)
	if err != nil {
		t.Fatalf("Get of %s: %v", show(id), err)
	}
	if e.ID != id {
		t.Fatalf("Get of %s returned %s", show(id), show(e.ID))
	}
	return e
}

// wantValue checks what Get returns.
func (t *test) wantValue(id config.ID, want string) {
	t.Helper()
	if got := t.get(id); string(got.Value) != want {
		t.Errorf("Get of %s returned %s, want %s", show(id), brief(got.Value), brief([]byte(want)))
	}
}

// wantVersion checks the latest version of a live ID.
func (t *test) wantVersion(id config.ID, want uint64) {
	t.Helper()
	if got := t.get(id); got.Version != want {
		t.Errorf("the version of %s is %d, want %d", show(id), got.Version, want)
	}
}

// wantMissing checks that Get and List show no such key.
func (t *test) wantMissing(id config.ID) {
	t.Helper()
	_, err := t.b.Get(t.ctx, id, 0)
	t.wantCode(err, config.NotFound, "Get of %s", show(id))
	for _, e := range t.list(id, id.Key.String(), 0) {
		if e.ID == id {
			t.Errorf("List shows %s, which is not there", show(id))
		}
	}
}

// wantCode checks an error's code.
func (t *test) wantCode(err error, want config.Code, format string, args ...any) bool {
	t.Helper()
	what := fmt.Sprintf(format, args...)
	switch {
	case err == nil:
		t.Errorf("%s: got no error, want code %s", what, want)
	case config.CodeOf(err) != want:
		t.Errorf("%s: got code %s, want %s: %v", what, config.CodeOf(err), want, err)
	default:
		return true
	}
	return false
}

// wantConflict checks for Conflict with the current version.
func (t *test) wantConflict(err error, current uint64, format string, args ...any) {
	t.Helper()
	if !t.wantCode(err, config.Conflict, format, args...) {
		return
	}
	var e *config.Error
	if !errors.As(err, &e) {
		t.Errorf("%s: the error carries no version: want a *config.Error", fmt.Sprintf(format, args...))
	} else if e.Version != current {
		t.Errorf("%s: the error names version %d as the current one, want %d", fmt.Sprintf(format, args...), e.Version, current)
	}
}

// wantDone checks the error of a call whose context is done.
func (t *test) wantDone(err error, format string, args ...any) {
	t.Helper()
	if code := config.CodeOf(err); err == nil || code != config.Canceled && code != config.DeadlineExceeded {
		t.Errorf("%s: got error %v, want code %s or %s", fmt.Sprintf(format, args...), err, config.Canceled, config.DeadlineExceeded)
	}
}

// maxPages bounds the walk through a backend that never ends its pages.
const maxPages = 5000

// list returns all entries of the scope that in is of, page by page.
func (t *test) list(in config.ID, prefix string, size int) []config.Entry {
	t.Helper()
	r := driver.ListRequest{Tenant: in.Tenant, Service: in.Service, KeyPrefix: prefix, PageSize: size}
	return t.pages("List", size, func(token string) (driver.Page, error) {
		r.PageToken = token
		return t.b.List(t.ctx, r)
	})
}

// history returns all versions of an ID, page by page.
func (t *test) history(id config.ID, size int) []config.Entry {
	t.Helper()
	return t.pages("History", size, func(token string) (driver.Page, error) {
		return t.historian().History(t.ctx, driver.HistoryRequest{ID: id, PageSize: size, PageToken: token})
	})
}

// pages collects pages and holds each against clause C8.
func (t *test) pages(what string, size int, next func(token string) (driver.Page, error)) []config.Entry {
	t.Helper()
	if size == 0 {
		size = driver.DefaultPageSize
	}
	var all []config.Entry
	token := ""
	for range maxPages {
		page, err := next(token)
		if err != nil {
			t.Fatalf("%s: page behind %d entries: %v", what, len(all), err)
		}
		if len(page.Entries) > size {
			t.Fatalf("%s: a page of %d entries, at most %d were asked for", what, len(page.Entries), size)
		}
		if n := weight(page.Entries); n > driver.MaxPageBytes && len(page.Entries) > 1 {
			t.Fatalf("%s: a page of %d entries has %d bytes of values, the limit is %d", what, len(page.Entries), n, driver.MaxPageBytes)
		}
		all = append(all, page.Entries...)
		if token = page.NextPageToken; token == "" {
			return all
		}
	}
	t.Fatalf("%s: no last page among the first %d", what, maxPages)
	return nil
}

func weight(entries []config.Entry) (n int) {
	for _, e := range entries {
		n += len(e.Value)
	}
	return n
}

func keys(entries []config.Entry) []string {
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.ID.Key.String()
	}
	return names
}

// wantKeys checks which keys a scope lists, and that each is of that scope.
func (t *test) wantKeys(in config.ID, prefix string, size int, want ...string) {
	t.Helper()
	got := t.list(in, prefix, size)
	for _, e := range got {
		if e.ID.Tenant != in.Tenant || e.ID.Service != in.Service {
			t.Errorf("List of %s returned %s, which is of another scope", scope(in), show(e.ID))
		}
	}
	if names := keys(got); !slices.Equal(names, want) {
		t.Errorf("List of %s with prefix %q and page size %d:\n got %q\nwant %q", scope(in), prefix, size, names, want)
	}
}

func (t *test) batcher() driver.Batcher       { return claimed(t, "Batch", driver.AsBatcher) }
func (t *test) historian() driver.Historian   { return claimed(t, "History", driver.AsHistorian) }
func (t *test) watcher() driver.Watcher       { return claimed(t, "Watch", driver.AsWatcher) }
func (t *test) pinger() driver.Pinger         { return claimed(t, "Ping", driver.AsPinger) }
func (t *test) idempotent() driver.Idempotent { return claimed(t, "Idempotent", driver.AsIdempotent) }
func (t *test) sizer() driver.Sizer           { return claimed(t, "Size", driver.AsSizer) }
func (t *test) refresher() driver.Refresher   { return claimed(t, "Refresh", driver.AsRefresher) }

func claimed[T any](t *test, name string, as func(driver.Backend) (T, bool)) T {
	t.Helper()
	v, ok := as(t.b)
	if !ok {
		t.Fatalf("Caps.%s is claimed, and the backend does not declare it", name)
	}
	return v
}

// differ is the function differ for what the store promises.
func (t *test) differ(got, want config.Entry) string {
	if t.caps.Caveats.Unattributed {
		if got.UpdatedBy == "" || want.UpdatedBy == "" {
			got.UpdatedBy, want.UpdatedBy = "", ""
		}
		if got.Message == "" || want.Message == "" {
			got.Message, want.Message = "", ""
		}
	}
	return differ(got, want)
}

// differ tells what an entry has other than the wanted one, "" for nothing.
func differ(got, want config.Entry) string {
	switch {
	case got.ID != want.ID:
		return fmt.Sprintf("the ID is %s, want %s", show(got.ID), show(want.ID))
	case !bytes.Equal(got.Value, want.Value):
		return fmt.Sprintf("the value is %s, want %s", brief(got.Value), brief(want.Value))
	case (got.Value == nil) != (want.Value == nil):
		return fmt.Sprintf("the value is nil: %t, want %t", got.Value == nil, want.Value == nil)
	case got.ContentType != want.ContentType:
		return fmt.Sprintf("the content type is %q, want %q", got.ContentType, want.ContentType)
	case got.Version != want.Version:
		return fmt.Sprintf("the version is %d, want %d", got.Version, want.Version)
	case got.Revision != want.Revision:
		return fmt.Sprintf("the revision is %q, want %q", got.Revision, want.Revision)
	case !got.UpdatedAt.Equal(want.UpdatedAt):
		return fmt.Sprintf("the time is %v, want %v", got.UpdatedAt, want.UpdatedAt)
	case got.UpdatedBy != want.UpdatedBy:
		return fmt.Sprintf("the author is %q, want %q", got.UpdatedBy, want.UpdatedBy)
	case got.Message != want.Message:
		return fmt.Sprintf("the message is %q, want %q", got.Message, want.Message)
	case got.Secret != want.Secret || got.Deleted != want.Deleted:
		return fmt.Sprintf("secret %t and deleted %t, want %t and %t", got.Secret, got.Deleted, want.Secret, want.Deleted)
	}
	return ""
}

// show prints an ID so that no two look the same.
func show(id config.ID) string {
	return fmt.Sprintf("(%q, %q, %q)", id.Tenant, id.Service, id.Key)
}

func scope(id config.ID) string { return fmt.Sprintf("(%q, %q)", id.Tenant, id.Service) }

// brief prints the beginning of a value.
func brief(v []byte) string {
	const most = 32
	if v == nil {
		return "nil"
	}
	if len(v) > most {
		return fmt.Sprintf("%q... (%d bytes)", v[:most], len(v))
	}
	return fmt.Sprintf("%q", v)
}

// parallel calls fn with 0 to n-1, each on its own goroutine, all let loose at
// once, and waits for them.
func parallel(n int, fn func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	wg.Wait()
}

// prompt is how soon a call has to return once its context is done (C19).
const prompt = 100 * time.Millisecond

// promptly measures a call up to several times and fails if not even the
// fastest was prompt: a busy machine delays some, a call that does not listen
// delays all. The call returns how long it took.
func (t *test) promptly(what string, call func() time.Duration) {
	t.Helper()
	const tries = 5
	best := time.Duration(1<<63 - 1)
	for range tries {
		if best = min(best, call()); best <= prompt {
			return
		}
	}
	t.Errorf("%s returned %v after its context was done at best, the limit is %v", what, best, prompt)
}
