package drivertest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var goodCaps = Caps{Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true, MaxValue: 1 << 20}

const goodChanges = 256

func openGood(testing.TB) *Harness {
	b := memdriver.New(memdriver.WithChanges(goodChanges))
	return &Harness{Backend: b, Peer: b, Changes: goodChanges}
}

// openReopenable returns a harness whose store outlives its Backend.
func openReopenable(reopened func(*memdriver.Backend) driver.Backend) *Harness {
	b := memdriver.New()
	return &Harness{
		Backend: hook(func(h *hooked, _ *memdriver.Backend) { h.close = func() error { return nil } })(b),
		Reopen:  func() (driver.Backend, error) { return reopened(b), nil },
	}
}

// hooked is a good backend of which single methods can be replaced.
type hooked struct {
	*memdriver.Backend
	get      func(context.Context, config.ID, uint64) (config.Entry, error)
	list     func(context.Context, driver.ListRequest) (driver.Page, error)
	put      func(context.Context, driver.PutRequest) (config.Entry, error)
	remove   func(context.Context, driver.DeleteRequest) (config.Entry, error)
	close    func() error
	batch    func(context.Context, []config.ID) ([]driver.Result, error)
	history  func(context.Context, driver.HistoryRequest) (driver.Page, error)
	watch    func(context.Context, driver.WatchRequest, func(driver.Event) error) error
	ping     func(context.Context) error
	size     func(context.Context) (driver.Size, error)
	declares driver.Capabilities
}

func hook(change func(*hooked, *memdriver.Backend)) func(*memdriver.Backend) driver.Backend {
	return func(b *memdriver.Backend) driver.Backend {
		h := &hooked{
			Backend: b, get: b.Get, list: b.List, put: b.Put, remove: b.Delete, close: b.Close, batch: b.BatchGet,
			history: b.History, watch: b.Watch, ping: b.Ping, size: b.Size, declares: driver.CapabilitiesOf(b),
		}
		change(h, b)
		return h
	}
}

func (h *hooked) Get(ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
	return h.get(ctx, id, v)
}

func (h *hooked) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	return h.list(ctx, r)
}

func (h *hooked) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	return h.put(ctx, r)
}

func (h *hooked) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	return h.remove(ctx, r)
}
func (h *hooked) Close() error { return h.close() }
func (h *hooked) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	return h.batch(ctx, ids)
}

func (h *hooked) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	return h.history(ctx, r)
}

func (h *hooked) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	return h.watch(ctx, r, emit)
}
func (h *hooked) Ping(ctx context.Context) error                { return h.ping(ctx) }
func (h *hooked) Size(ctx context.Context) (driver.Size, error) { return h.size(ctx) }
func (h *hooked) Capabilities() driver.Capabilities             { return h.declares }

// moved keeps every value under another ID than the one that was asked for,
// and hides that in its answers.
func moved(to func(config.ID) config.ID) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		h.get = func(ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
			e, err := b.Get(ctx, to(id), v)
			e.ID = id
			return e, err
		}
		h.put = func(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			id := r.ID
			r.ID = to(id)
			e, err := b.Put(ctx, r)
			e.ID = id
			return e, err
		}
	})
}

// everything is all pages of a List as one.
func everything(ctx context.Context, b driver.Backend, r driver.ListRequest) ([]config.Entry, error) {
	var all []config.Entry
	r.PageToken = ""
	for {
		page, err := b.List(ctx, r)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Entries...)
		if r.PageToken = page.NextPageToken; r.PageToken == "" {
			return all, nil
		}
	}
}

// readsElsewhere answers a Get that finds nothing from another ID.
func readsElsewhere(other func(config.ID) config.ID) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		h.get = func(ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
			e, err := b.Get(ctx, id, v)
			if errors.Is(err, config.NotFound) {
				if e, err2 := b.Get(ctx, other(id), v); err2 == nil {
					e.ID = id
					return e, nil
				}
			}
			return e, err
		}
	})
}

// listsToo adds the entries of other scopes to a List's only page.
func listsToo(others func(driver.ListRequest) []driver.ListRequest) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		h.list = func(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
			page, err := b.List(ctx, r)
			for _, other := range others(r) {
				more, _ := b.List(ctx, other)
				page.Entries = append(page.Entries, more.Entries...)
			}
			slices.SortStableFunc(page.Entries, func(x, y config.Entry) int { return cmp.Compare(x.ID.Key.String(), y.ID.Key.String()) })
			return page, err
		}
	})
}

// ownTokens pages with tokens of which open and seal are the backend's own.
func ownTokens(open func(token string, r driver.ListRequest) (after string, err error), seal func(last string, r driver.ListRequest) string) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		h.list = func(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
			size, err := driver.CheckPageSize(r.PageSize)
			if err != nil {
				return driver.Page{}, err
			}
			all, err := everything(ctx, b, r)
			if err != nil {
				return driver.Page{}, err
			}
			if r.PageToken != "" {
				after, err := open(r.PageToken, r)
				if err != nil {
					return driver.Page{}, err
				}
				all = slices.DeleteFunc(all, func(e config.Entry) bool { return e.ID.Key.String() <= after })
			}
			if len(all) <= size {
				return driver.Page{Entries: all}, nil
			}
			return driver.Page{Entries: all[:size], NextPageToken: seal(all[size-1].ID.Key.String(), r)}, nil
		}
	})
}

// edits changes every entry on its way out of Get, List, BatchGet and History.
func edits(edit func(*config.Entry)) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		page := func(p driver.Page, err error) (driver.Page, error) {
			for i := range p.Entries {
				edit(&p.Entries[i])
			}
			return p, err
		}
		h.get = func(ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
			e, err := b.Get(ctx, id, v)
			edit(&e)
			return e, err
		}
		h.list = func(ctx context.Context, r driver.ListRequest) (driver.Page, error) { return page(b.List(ctx, r)) }
		h.history = func(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
			return page(b.History(ctx, r))
		}
	})
}

// onPut, onDelete, onGet, onBatch, onHistory, onWatch and onList replace one
// method.
func onGet(f func(*memdriver.Backend, context.Context, config.ID, uint64) (config.Entry, error)) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		h.get = func(ctx context.Context, id config.ID, v uint64) (config.Entry, error) { return f(b, ctx, id, v) }
	})
}

func onList(f func(*memdriver.Backend, context.Context, driver.ListRequest) (driver.Page, error)) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		h.list = func(ctx context.Context, r driver.ListRequest) (driver.Page, error) { return f(b, ctx, r) }
	})
}

func onPut(f func(*memdriver.Backend, context.Context, driver.PutRequest) (config.Entry, error)) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		h.put = func(ctx context.Context, r driver.PutRequest) (config.Entry, error) { return f(b, ctx, r) }
	})
}

func onDelete(f func(*memdriver.Backend, context.Context, driver.DeleteRequest) (config.Entry, error)) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		h.remove = func(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) { return f(b, ctx, r) }
	})
}

func onBatch(f func(*memdriver.Backend, context.Context, []config.ID) ([]driver.Result, error)) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		h.batch = func(ctx context.Context, ids []config.ID) ([]driver.Result, error) { return f(b, ctx, ids) }
	})
}

func onHistory(f func(*memdriver.Backend, context.Context, driver.HistoryRequest) (driver.Page, error)) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		h.history = func(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) { return f(b, ctx, r) }
	})
}

type emit = func(driver.Event) error

func onWatch(f func(*memdriver.Backend, context.Context, driver.WatchRequest, emit) error) func(*memdriver.Backend) driver.Backend {
	return hook(func(h *hooked, b *memdriver.Backend) {
		h.watch = func(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
			return f(b, ctx, r, emit)
		}
	})
}

// meet holds the first of two callers until the second comes, or a moment.
type meet struct{ other chan struct{} }

func (m meet) wait() {
	timer := time.NewTimer(5 * time.Millisecond)
	defer timer.Stop()
	select {
	case m.other <- struct{}{}:
	case <-m.other:
	case <-timer.C:
	}
}

func newMeet() meet { return meet{make(chan struct{})} }

func notFound(id config.ID) error { return config.Errorf(config.NotFound, "not found").WithKey(id.Key) }

// bad is one deliberately wrong backend.
type bad struct {
	does   string // what it does wrong
	caught string // the case that has to fail
	says   string // part of what that case reports; alternatives are parted by " | "
	make   func(*memdriver.Backend) driver.Backend
	// open is for those whose fault is not in one backend's methods.
	open func() *Harness
	caps *Caps
	// good opens the good backend for the same case and caps, where memdriver
	// is not it.
	good func() *Harness
}

var badBackends = []bad{
	// C1
	{
		does: "joins tenant, service and key by '/'", caught: "isolation/crafted-ids", says: "met a value of another ID",
		make: moved(func(id config.ID) config.ID {
			name := strings.Join([]string{id.Tenant.String(), id.Service.String(), id.Key.String()}, "/")
			return config.ID{Tenant: owner("all"), Key: must(config.ParseKey(strings.ReplaceAll(name, "//", "/")))}
		}),
	},
	{
		does: "joins tenant and service by '-'", caught: "isolation/crafted-ids", says: "met a value of another ID",
		make: moved(func(id config.ID) config.ID {
			name := strings.TrimSuffix(id.Tenant.String()+"-"+id.Service.String(), "-") + "/" + id.Key.String()
			return config.ID{Tenant: owner("all"), Key: must(config.ParseKey(name))}
		}),
	},
	{
		does: "reads another tenant's value where there is none", caught: "isolation/foreign-tenant", says: "got no error",
		make: readsElsewhere(func(id config.ID) config.ID { id.Tenant = owner(acme); return id }),
	},
	{
		does: "reads the tenant-wide value for a service", caught: "isolation/foreign-service", says: "got no error",
		make: readsElsewhere(func(id config.ID) config.ID { id.Service = config.Service{}; return id }),
	},
	{
		does: "reads the shared value for every tenant", caught: "isolation/shared-tenant", says: "got no error",
		make: readsElsewhere(func(id config.ID) config.ID { id.Tenant = config.Shared(); return id }),
	},
	{
		does: "lists the sibling services", caught: "isolation/sibling-list", says: "another scope",
		make: listsToo(func(r driver.ListRequest) []driver.ListRequest {
			if !r.Service.IsZero() {
				return nil
			}
			r.Service = must(config.ParseService(order))
			return []driver.ListRequest{r}
		}),
	},
	{
		does: "lists tenants whose name begins alike", caught: "isolation/sibling-list", says: "another scope",
		make: listsToo(func(r driver.ListRequest) []driver.ListRequest {
			if r.Tenant.String() != "acme" {
				return nil
			}
			r.Tenant = owner("acme-corp")
			return []driver.ListRequest{r}
		}),
	},
	{
		does: "deletes for every tenant", caught: "isolation/foreign-writes", says: "another tenant's key",
		make: onDelete(func(b *memdriver.Backend, ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
			r.ID.Tenant = owner(acme)
			return b.Delete(ctx, r)
		}),
	},
	{
		does: "shows the history of any tenant", caught: "isolation/foreign-versions", says: "got no error",
		make: onHistory(func(b *memdriver.Backend, ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
			r.ID.Tenant = owner(acme)
			return b.History(ctx, r)
		}),
	},
	{
		does: "forgets the service in a batch", caught: "isolation/foreign-batch", says: "BatchGet of",
		make: onBatch(func(b *memdriver.Backend, ctx context.Context, ids []config.ID) ([]driver.Result, error) {
			ids = slices.Clone(ids)
			for i := range ids {
				ids[i].Service = config.Service{}
			}
			return b.BatchGet(ctx, ids)
		}),
	},
	{
		does: "watches the tenant-wide keys beside a service's", caught: "isolation/foreign-watch", says: "emitted put of",
		make: onWatch(func(b *memdriver.Backend, ctx context.Context, r driver.WatchRequest, emit emit) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			var mu sync.Mutex
			locked := func(e driver.Event) error {
				mu.Lock()
				defer mu.Unlock()
				return emit(e)
			}
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			subscribed := make(chan struct{})
			wg.Go(func() {
				wide := r
				wide.Service = config.Service{}
				_ = b.Watch(ctx, wide, func(e driver.Event) error {
					if e.Kind == driver.EventSync {
						close(subscribed)
						return nil
					}
					return locked(e)
				})
			})
			<-subscribed
			return b.Watch(ctx, r, locked)
		}),
	},

	// C2
	{
		does: "folds the case of keys", caught: "identity/case", says: "met a value of another ID",
		make: moved(func(id config.ID) config.ID {
			id.Key = must(config.ParseKey(strings.ToLower(id.Key.String())))
			return id
		}),
	},
	{
		does: "writes '.' and '-' the same", caught: "identity/similar-keys", says: "met a value of another ID",
		make: moved(func(id config.ID) config.ID {
			id.Key = must(config.ParseKey(strings.ReplaceAll(id.Key.String(), ".", "-")))
			return id
		}),
	},
	{
		does: "cuts keys at 255 bytes", caught: "identity/long-keys", says: "met a value of another ID",
		make: moved(func(id config.ID) config.ID {
			key := id.Key.String()
			id.Key = must(config.ParseKey(key[:min(len(key), 255)]))
			return id
		}),
	},

	// C3
	{
		does: "says that a key was deleted", caught: "read/missing-text", says: "can be told from",
		make: onGet(func(b *memdriver.Backend, ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
			e, err := b.Get(ctx, id, v)
			if _, past := b.History(ctx, driver.HistoryRequest{ID: id}); err != nil && past == nil {
				return e, config.Errorf(config.NotFound, "it was deleted").WithKey(id.Key)
			}
			return e, err
		}),
	},
	{
		does: "answers a deleted key with its tombstone", caught: "read/missing", says: "got no error",
		make: onGet(func(b *memdriver.Backend, ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
			e, err := b.Get(ctx, id, v)
			if page, past := b.History(ctx, driver.HistoryRequest{ID: id}); err != nil && past == nil {
				return page.Entries[0], nil
			}
			return e, err
		}),
	},
	{
		does: "answers a missing key with a zero entry and no error", caught: "read/missing", says: "got no error",
		make: onGet(func(b *memdriver.Backend, ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
			e, err := b.Get(ctx, id, v)
			if errors.Is(err, config.NotFound) {
				err = nil
			}
			return e, err
		}),
	},

	// C4
	{
		does: "loses the author", caught: "read/latest", says: "the author is",
		make: edits(func(e *config.Entry) { e.UpdatedBy = "" }),
	},
	{
		does: "escapes the message", caught: "read/metadata", says: "the message is",
		make: edits(func(e *config.Entry) { e.Message = strings.ReplaceAll(e.Message, "<", "&lt;") }),
	},
	{
		does: "makes values valid UTF-8", caught: "read/binary-value", says: "the value is",
		make: edits(func(e *config.Entry) { e.Value = bytes.ToValidUTF8(e.Value, []byte("\uFFFD")) }),
	},
	{
		does: "reads what was there before the latest Put", caught: "read/latest", says: "the value is",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			var mu sync.Mutex
			cached := map[config.ID]config.Entry{}
			h.get = func(ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
				mu.Lock()
				defer mu.Unlock()
				if e, ok := cached[id]; ok {
					return e.Clone(), nil
				}
				e, err := b.Get(ctx, id, v)
				if err == nil {
					cached[id] = e.Clone()
				}
				return e, err
			}
		}),
	},

	// C5
	{
		does: "answers every version with the latest", caught: "read/versions", says: "which is not there",
		make: onGet(func(b *memdriver.Backend, ctx context.Context, id config.ID, _ uint64) (config.Entry, error) {
			return b.Get(ctx, id, 0)
		}),
	},

	// C6
	{
		does: "makes an empty value nil", caught: "read/empty-value", says: "want an empty, non-nil slice",
		make: edits(func(e *config.Entry) {
			if len(e.Value) == 0 {
				e.Value = nil
			}
		}),
	},
	{
		does: "takes an empty value for a missing one", caught: "read/empty-value", says: "not found",
		make: onGet(func(b *memdriver.Backend, ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
			e, err := b.Get(ctx, id, v)
			if err == nil && len(e.Value) == 0 {
				return config.Entry{}, notFound(id)
			}
			return e, err
		}),
	},

	// C7
	{
		does: "lists in the order of writing", caught: "list/order", says: "List of",
		make: onList(func(b *memdriver.Backend, ctx context.Context, r driver.ListRequest) (driver.Page, error) {
			page, err := b.List(ctx, r)
			slices.SortFunc(page.Entries, func(x, y config.Entry) int { return x.UpdatedAt.Compare(y.UpdatedAt) })
			return page, err
		}),
	},
	{
		does: "lists without regard to case", caught: "list/order", says: "List of",
		make: onList(func(b *memdriver.Backend, ctx context.Context, r driver.ListRequest) (driver.Page, error) {
			page, err := b.List(ctx, r)
			slices.SortStableFunc(page.Entries, func(x, y config.Entry) int {
				return cmp.Compare(strings.ToLower(x.ID.Key.String()), strings.ToLower(y.ID.Key.String()))
			})
			return page, err
		}),
	},
	{
		does: "begins a page with the last entry of the one before", caught: "list/pages", says: "List of",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			ends := map[string]config.Entry{}
			h.list = func(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
				page, err := b.List(ctx, r)
				if last, ok := ends[r.PageToken]; ok && r.PageSize > len(page.Entries) {
					page.Entries = append([]config.Entry{last}, page.Entries...)
				}
				if n := len(page.Entries); n > 0 && page.NextPageToken != "" {
					ends[page.NextPageToken] = page.Entries[n-1]
				}
				return page, err
			}
		}),
	},
	{
		does: "leaves out the first entry of every later page", caught: "list/pages", says: "List of",
		make: onList(func(b *memdriver.Backend, ctx context.Context, r driver.ListRequest) (driver.Page, error) {
			page, err := b.List(ctx, r)
			if r.PageToken != "" && len(page.Entries) > 0 {
				page.Entries = page.Entries[1:]
			}
			return page, err
		}),
	},
	{
		does: "takes a prefix for a folder", caught: "list/prefix", says: "List of",
		make: onList(func(b *memdriver.Backend, ctx context.Context, r driver.ListRequest) (driver.Page, error) {
			page, err := b.List(ctx, r)
			page.Entries = slices.DeleteFunc(page.Entries, func(e config.Entry) bool {
				return r.KeyPrefix != "" && !strings.HasPrefix(e.ID.Key.String()+"/", strings.TrimSuffix(r.KeyPrefix, "/")+"/")
			})
			return page, err
		}),
	},
	{
		does: "lists deleted keys", caught: "list/live", says: "List of",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			h.remove = func(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
				e, err := b.Delete(ctx, r)
				if err == nil {
					h.list = func(ctx context.Context, lr driver.ListRequest) (driver.Page, error) {
						page, err := b.List(ctx, lr)
						page.Entries = append([]config.Entry{e}, page.Entries...)
						return page, err
					}
				}
				return e, err
			}
		}),
	},
	{
		does: "pages by offset", caught: "list/while-changing", says: "while",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			h.list = func(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
				size, err := driver.CheckPageSize(r.PageSize)
				if err != nil {
					return driver.Page{}, err
				}
				at := 0
				_, _ = fmt.Sscan(r.PageToken, &at)
				all, err := everything(ctx, b, r)
				all = all[min(at, len(all)):]
				// A key comes and another goes between any two pages.
				first := config.ID{Tenant: r.Tenant, Service: r.Service, Key: must(config.ParseKey(fmt.Sprintf("a%d-go", at)))}
				if _, err := b.Put(ctx, driver.PutRequest{ID: first, Value: []byte(`1`)}); err != nil {
					return driver.Page{}, err
				}
				if len(all) <= size {
					return driver.Page{Entries: all}, err
				}
				return driver.Page{Entries: all[:size], NextPageToken: fmt.Sprint(at + size)}, err
			}
		}),
	},

	// C8
	{
		does: "returns everything as one page", caught: "list/page-size", says: "want at most",
		make: onList(func(b *memdriver.Backend, ctx context.Context, r driver.ListRequest) (driver.Page, error) {
			all, err := everything(ctx, b, r)
			return driver.Page{Entries: all}, err
		}),
	},
	{
		does: "cuts a page size that is too large", caught: "list/page-size", says: "List with page size 1001",
		make: onList(func(b *memdriver.Backend, ctx context.Context, r driver.ListRequest) (driver.Page, error) {
			r.PageSize = min(r.PageSize, driver.MaxPageSize)
			return b.List(ctx, r)
		}),
	},
	{
		does: "has no bound on the bytes of a page", caught: "list/page-bytes", says: "bytes of values, the limit is",
		make: ownTokens(
			func(token string, _ driver.ListRequest) (string, error) { return token, nil },
			func(last string, _ driver.ListRequest) string { return last }),
	},
	{
		does: "leaves out an entry that does not fit its page", caught: "list/page-bytes", says: "List of",
		make: onList(func(b *memdriver.Backend, ctx context.Context, r driver.ListRequest) (driver.Page, error) {
			page, err := b.List(ctx, r)
			if page.NextPageToken != "" && len(page.Entries) > 1 {
				page.Entries = page.Entries[:len(page.Entries)-1]
			}
			return page, err
		}),
	},

	// C9
	{
		does: "starts anew with a token that it can not read", caught: "token/forged", says: "a forged token",
		make: onList(func(b *memdriver.Backend, ctx context.Context, r driver.ListRequest) (driver.Page, error) {
			page, err := b.List(ctx, r)
			if r.PageToken != "" && errors.Is(err, config.InvalidArgument) {
				r.PageToken = ""
				return b.List(ctx, r)
			}
			return page, err
		}),
	},
	{
		does: "has the last key for a token", caught: "token/forged", says: "a forged token",
		make: ownTokens(
			func(token string, _ driver.ListRequest) (string, error) { return token, nil },
			func(last string, _ driver.ListRequest) string { return last }),
	},
	func() bad {
		s := driver.NewSealer(driver.NewTokenKey())
		return bad{
			does: "seals tokens without their scope", caught: "token/foreign", says: "the token of",
			make: ownTokens(
				func(token string, _ driver.ListRequest) (string, error) { return s.Open(token) },
				func(last string, _ driver.ListRequest) string { return s.Seal(last) }),
		}
	}(),
	func() bad {
		s := driver.NewSealer(driver.NewTokenKey())
		return bad{
			does: "seals tokens without their prefix", caught: "token/foreign", says: "the token of prefix",
			make: ownTokens(
				func(token string, r driver.ListRequest) (string, error) {
					return s.Open(token, r.Tenant.String(), r.Service.String())
				},
				func(last string, r driver.ListRequest) string {
					return s.Seal(last, r.Tenant.String(), r.Service.String())
				}),
		}
	}(),
	{
		does: "ignores a token of List in History", caught: "token/another-call", says: "History with a token of List",
		make: onHistory(func(b *memdriver.Backend, ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
			page, err := b.History(ctx, r)
			if r.PageToken != "" && errors.Is(err, config.InvalidArgument) {
				r.PageToken = ""
				return b.History(ctx, r)
			}
			return page, err
		}),
	},

	// C10
	{
		does: "counts from 1 again after a delete", caught: "write/version-count", says: "made version 1",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			base := map[config.ID]uint64{}
			h.put = func(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
				e, err := b.Put(ctx, r)
				e.Version -= base[r.ID]
				return e, err
			}
			h.get = func(ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
				e, err := b.Get(ctx, id, v)
				e.Version -= base[id]
				return e, err
			}
			h.remove = func(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
				e, err := b.Delete(ctx, r)
				n := e.Version
				e.Version -= base[r.ID]
				base[r.ID] = n
				return e, err
			}
		}),
	},
	{
		does: "does not count a Put of the same value", caught: "write/version-count", says: "Put of the same value made version 1",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			if e, err := b.Get(ctx, r.ID, 0); err == nil && bytes.Equal(e.Value, r.Value) {
				e.Value = nil
				return e, nil
			}
			return b.Put(ctx, r)
		}),
	},

	// C11
	{
		does: "compares before it writes, not while", caught: "write/race-update", says: "succeeded, want 1",
		make: checkThenWrite,
	},
	{
		does: "compares before it creates, not while", caught: "write/race-create", says: "succeeded, want 1",
		make: checkThenWrite,
	},
	{
		does: "loses updates", caught: "write/race-count", says: "Get of",
		make: checkThenWrite,
	},

	// C12
	{
		does: "does not create what was deleted", caught: "write/absent-after-delete", says: "Put that expects an absent key after Delete",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			if page, err := b.History(ctx, driver.HistoryRequest{ID: r.ID}); err == nil && r.Expect == driver.Absent() {
				return config.Entry{}, config.Errorf(config.Conflict, "it exists").WithVersion(page.Entries[0].Version)
			}
			return b.Put(ctx, r)
		}),
	},
	{
		does: "does not say which version won", caught: "write/put-expect", says: "names version 0 as the current one",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			e, err := b.Put(ctx, r)
			if errors.Is(err, config.Conflict) {
				err = config.Errorf(config.Conflict, "another version won")
			}
			return e, err
		}),
	},
	{
		does: "takes a later version for a match", caught: "write/put-expect", says: "got no error",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			e, err := b.Put(ctx, r)
			var conflict *config.Error
			if want, _ := r.Expect.Value(); errors.As(err, &conflict) && conflict.Code == config.Conflict && want > conflict.Version {
				r.Expect = driver.Any()
				return b.Put(ctx, r)
			}
			return e, err
		}),
	},
	{
		does: "deletes whatever version is there", caught: "write/delete-expect", says: "got no error",
		make: onDelete(func(b *memdriver.Backend, ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
			r.Expect = driver.Any()
			return b.Delete(ctx, r)
		}),
	},

	// C13
	{
		does: "lists what was there a write ago", caught: "write/visible", says: "List after Put",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			var old driver.Page
			h.put = func(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
				old, _ = b.List(ctx, driver.ListRequest{Tenant: r.ID.Tenant, Service: r.ID.Service})
				return b.Put(ctx, r)
			}
			h.list = func(context.Context, driver.ListRequest) (driver.Page, error) { return old, nil }
		}),
	},
	{
		does: "forgets everything when it closes", caught: "write/durable", says: "Get of",
		open: func() *Harness {
			return openReopenable(func(*memdriver.Backend) driver.Backend { return memdriver.New() })
		},
	},
	{
		does: "reads another store than its peer writes", caught: "write/visible-to-peer", says: "Get of",
		open: func() *Harness { return &Harness{Backend: memdriver.New(), Peer: memdriver.New()} },
	},

	// C14
	{
		does: "returns the value from Put", caught: "write/answer", says: "want nil",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			e, err := b.Put(ctx, r)
			e.Value = bytes.Clone(r.Value)
			return e, err
		}),
	},
	{
		does: "returns local time", caught: "write/answer", says: "want a time in UTC",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			e, err := b.Put(ctx, r)
			e.UpdatedAt = e.UpdatedAt.In(time.FixedZone("CET", 3600))
			return e, err
		}),
	},
	{
		does: "lets time go back", caught: "write/time-order", says: "version 1 before it",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			e, err := b.Put(ctx, r)
			e.UpdatedAt = time.Unix(1<<20-int64(e.Version), 0).UTC()
			return e, err
		}),
	},

	// C15
	{
		does: "deletes what is not there", caught: "write/delete-missing", says: "got no error",
		make: onDelete(func(b *memdriver.Backend, ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
			e, err := b.Delete(ctx, r)
			if errors.Is(err, config.NotFound) {
				return config.Entry{ID: r.ID, Deleted: true}, nil
			}
			return e, err
		}),
	},
	{
		does: "forgets the versions of a deleted key", caught: "write/history-after-delete", says: "History after Delete",
		make: onHistory(func(b *memdriver.Backend, ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
			page, err := b.History(ctx, r)
			if err == nil && page.Entries[0].Deleted {
				page.Entries = page.Entries[:1]
			}
			return page, err
		}),
	},

	// C16
	{
		does: "takes a value that is too large", caught: "write/oversize", says: "one byte more than Caps.MaxValue",
		open: func() *Harness { return &Harness{Backend: memdriver.New(memdriver.WithMaxValue(2 << 20))} },
	},
	{
		does: "refuses the largest value", caught: "write/max-value", says: "the limit is",
		open: func() *Harness { return &Harness{Backend: memdriver.New(memdriver.WithMaxValue(1<<20 - 1))} },
	},
	{
		does: "refuses a large value when it has written it", caught: "write/oversize", says: "made version",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			e, err := b.Put(ctx, r)
			if errors.Is(err, config.InvalidArgument) {
				r.Value = r.Value[:10]
				_, _ = b.Put(ctx, r)
			}
			return e, err
		}),
	},

	// C17
	{
		does: "has one revision for everything", caught: "write/revisions", says: "the same revision",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			e, err := b.Put(ctx, r)
			e.Revision = "constant"
			return e, err
		}),
	},
	{
		does: "has no revision", caught: "write/revisions", says: "has no revision",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			e, err := b.Put(ctx, r)
			e.Revision = ""
			return e, err
		}),
	},

	// C18
	{
		does: "keeps the caller's slice", caught: "memory/in", says: "\"####",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			kept := map[config.ID][]byte{}
			h.put = func(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
				kept[r.ID] = r.Value
				return b.Put(ctx, r)
			}
			h.get = func(ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
				e, err := b.Get(ctx, id, v)
				e.Value = kept[id]
				return e, err
			}
		}),
	},
	{
		does: "gives the same slice to everybody", caught: "memory/out", says: "after the caller changed",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			given := map[config.ID][]byte{}
			h.get = func(ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
				e, err := b.Get(ctx, id, v)
				if given[id] == nil {
					given[id] = e.Value
				}
				e.Value = given[id]
				return e, err
			}
		}),
	},
	{
		does: "gives both of a batch the same slice", caught: "memory/out", says: "after the caller changed",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			var once []driver.Result
			h.batch = func(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
				if once != nil {
					return once, nil
				}
				var err error
				once, err = b.BatchGet(ctx, ids)
				return once, err
			}
		}),
	},

	// C19
	{
		does: "does not look at its context when it reads", caught: "context/canceled-before", says: "Get with a canceled context",
		make: onGet(func(b *memdriver.Backend, ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
			return b.Get(context.WithoutCancel(ctx), id, v)
		}),
	},
	{
		does: "writes on a canceled context", caught: "context/canceled-before", says: "Get of",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			e, err := b.Put(context.WithoutCancel(ctx), r)
			if ctx.Err() != nil {
				return config.Entry{}, ctx.Err()
			}
			return e, err
		}),
	},
	{
		does: "takes its time when its context is done", caught: "context/canceled-before", says: "List returned",
		make: onList(func(b *memdriver.Backend, ctx context.Context, r driver.ListRequest) (driver.Page, error) {
			if ctx.Err() != nil {
				<-time.After(prompt + prompt/4)
			}
			return b.List(ctx, r)
		}),
	},
	{
		does: "calls a deadline an outage", caught: "context/deadline-before", says: "Get with a deadline",
		make: onGet(func(b *memdriver.Backend, ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
			e, err := b.Get(ctx, id, v)
			if ctx.Err() != nil {
				err = config.Errorf(config.Unavailable, "the store is away")
			}
			return e, err
		}),
	},
	{
		does: "fails with a code of its own when it is canceled midway", caught: "context/canceled-during", says: "that was canceled meanwhile",
		make: onGet(func(b *memdriver.Backend, ctx context.Context, id config.ID, v uint64) (config.Entry, error) {
			select {
			case <-ctx.Done():
				return config.Entry{}, config.Errorf(config.Internal, "the connection broke")
			case <-time.After(3 * time.Millisecond):
			}
			return b.Get(ctx, id, v)
		}),
	},

	// C20
	{
		does: "drops a write that meets another call", caught: "concurrency/everything", says: "acknowledged writes of",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			var busy atomic.Int32
			m := newMeet()
			h.put = func(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
				defer busy.Add(-1)
				if busy.Add(1) > 1 {
					m.wait()
					if e, err := b.Get(ctx, r.ID, 0); err == nil {
						e.Value = nil
						return e, nil
					}
				}
				m.wait()
				return b.Put(ctx, r)
			}
		}),
	},

	// C21
	{
		does: "can not be closed twice", caught: "close/again", says: "Close",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			var closed atomic.Bool
			h.close = func() error {
				if closed.Swap(true) {
					return config.Errorf(config.FailedPrecondition, "it is closed")
				}
				return b.Close()
			}
		}),
	},
	{
		does: "goes on after Close", caught: "close/later-calls", says: "after Close",
		make: hook(func(h *hooked, _ *memdriver.Backend) { h.close = func() error { return nil } }),
	},
	{
		does: "waits for receivers when it closes", caught: "close/with-watch", says: "has not returned",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			var watches sync.WaitGroup
			h.watch = func(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
				watches.Add(1)
				defer watches.Done()
				return b.Watch(ctx, r, emit)
			}
			h.close = func() error {
				err := b.Close()
				watches.Wait()
				return err
			}
		}),
	},

	// C22
	{
		does: "watches without declaring it", caught: "capabilities/undeclared", says: "Watch, which is not claimed",
		make: hook(func(h *hooked, _ *memdriver.Backend) { h.declares.Watch = false }),
		caps: &Caps{Batch: true, History: true, Ping: true, Idempotent: true, Size: true},
	},
	{
		does: "honours idempotency keys without declaring it", caught: "capabilities/undeclared", says: "the version of",
		make: hook(func(h *hooked, _ *memdriver.Backend) { h.declares.Idempotent = false }),
		caps: &Caps{Batch: true, History: true, Ping: true, Watch: true, Size: true},
	},
	{
		does: "declares more than is claimed", caught: "capabilities/declared", says: "Caps claims",
		make: hook(func(*hooked, *memdriver.Backend) {}),
		caps: &Caps{Batch: true, History: true},
	},
	{
		does: "declares a History that answers Unimplemented", caught: "capabilities/declared-works", says: "History is claimed and failed",
		make: onHistory(func(*memdriver.Backend, context.Context, driver.HistoryRequest) (driver.Page, error) {
			return driver.Page{}, config.Errorf(config.Unimplemented, "no history here")
		}),
	},
	{
		does: "can not be pinged", caught: "capabilities/ping", says: "Ping",
		make: hook(func(h *hooked, _ *memdriver.Backend) {
			h.ping = func(context.Context) error { return config.Errorf(config.Unavailable, "no answer") }
		}),
	},
	{
		does: "counts tombstones as entries", caught: "capabilities/size", says: "Size.Entries",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			h.size = func(ctx context.Context) (driver.Size, error) {
				s, err := b.Size(ctx)
				s.Entries = s.Versions
				return s, err
			}
		}),
	},

	// C23
	{
		does: "answers a batch in order of key", caught: "batch/order", says: "result 0",
		make: onBatch(func(b *memdriver.Backend, ctx context.Context, ids []config.ID) ([]driver.Result, error) {
			ids = slices.Clone(ids)
			slices.SortFunc(ids, func(x, y config.ID) int { return cmp.Compare(x.Encode(), y.Encode()) })
			return b.BatchGet(ctx, ids)
		}),
	},
	{
		does: "answers duplicates of a batch once", caught: "batch/order", says: "results",
		make: onBatch(func(b *memdriver.Backend, ctx context.Context, ids []config.ID) ([]driver.Result, error) {
			return b.BatchGet(ctx, slices.Compact(slices.SortedFunc(slices.Values(ids), func(x, y config.ID) int { return cmp.Compare(x.Encode(), y.Encode()) })))
		}),
	},
	{
		does: "fails a batch whole for one missing key", caught: "batch/partial", says: "failed whole",
		make: onBatch(func(b *memdriver.Backend, ctx context.Context, ids []config.ID) ([]driver.Result, error) {
			results, err := b.BatchGet(ctx, ids)
			for _, r := range results {
				err = errors.Join(err, r.Err)
			}
			return results, err
		}),
	},
	{
		does: "refuses an empty batch", caught: "batch/empty", says: "failed whole",
		make: onBatch(func(b *memdriver.Backend, ctx context.Context, ids []config.ID) ([]driver.Result, error) {
			if len(ids) == 0 {
				return nil, config.Errorf(config.InvalidArgument, "no ids")
			}
			return b.BatchGet(ctx, ids)
		}),
	},
	{
		does: "ends a batch at the bytes of one page", caught: "batch/large", says: "results",
		make: onBatch(func(b *memdriver.Backend, ctx context.Context, ids []config.ID) ([]driver.Result, error) {
			results, err := b.BatchGet(ctx, ids)
			n := 0
			for i, r := range results {
				if n += len(r.Entry.Value); n > driver.MaxPageBytes {
					return results[:i], err
				}
			}
			return results, err
		}),
	},

	// C24
	{
		does: "shows the oldest version first", caught: "history/order", says: "History, entry 0",
		make: onHistory(func(b *memdriver.Backend, ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
			page, err := b.History(ctx, r)
			slices.Reverse(page.Entries)
			return page, err
		}),
	},
	{
		does: "leaves tombstones out of History", caught: "history/order", says: "History has 6 versions, want 8",
		make: onHistory(func(b *memdriver.Backend, ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
			page, err := b.History(ctx, r)
			page.Entries = slices.DeleteFunc(page.Entries, func(e config.Entry) bool { return e.Deleted })
			return page, err
		}),
	},
	{
		does: "shows versions without their values", caught: "history/order", says: "the value is nil",
		make: onHistory(func(b *memdriver.Backend, ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
			page, err := b.History(ctx, r)
			for i := range page.Entries {
				page.Entries[i].Value = nil
			}
			return page, err
		}),
	},
	{
		does: "has one page of History", caught: "history/pages", says: "at most 1 were asked for",
		make: onHistory(func(b *memdriver.Backend, ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
			r.PageSize = 0
			return b.History(ctx, r)
		}),
	},
	{
		does: "has an empty History of what never was", caught: "history/missing", says: "got no error",
		make: onHistory(func(b *memdriver.Backend, ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
			page, err := b.History(ctx, r)
			if errors.Is(err, config.NotFound) {
				err = nil
			}
			return page, err
		}),
	},
	{
		does: "pages through History by offset", caught: "history/while-writing", says: "History from before",
		make: onHistory(func(b *memdriver.Backend, ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
			at := 0
			_, _ = fmt.Sscan(r.PageToken, &at)
			page, err := b.History(ctx, driver.HistoryRequest{ID: r.ID})
			size := cmp.Or(r.PageSize, driver.DefaultPageSize)
			all := page.Entries[min(at, len(page.Entries)):]
			if len(all) <= size {
				return driver.Page{Entries: all}, err
			}
			return driver.Page{Entries: all[:size], NextPageToken: fmt.Sprint(at + size)}, err
		}),
	},

	// C25
	{
		does: "takes a snapshot, then begins to listen", caught: "watch/gap-free", says: "follows version | has not emitted the last version",
		make: onWatch(func(b *memdriver.Backend, ctx context.Context, r driver.WatchRequest, emit emit) error {
			page, err := b.List(ctx, driver.ListRequest{Tenant: r.Tenant, Service: r.Service, KeyPrefix: r.KeyPrefix})
			if err != nil {
				return err
			}
			before, _ := b.Size(ctx)
			for range 100 { // until a few changes were missed
				<-time.After(time.Millisecond)
				if now, _ := b.Size(ctx); now.Versions > before.Versions+4 {
					break
				}
			}
			snapshot := true
			return b.Watch(ctx, r, func(e driver.Event) error {
				if snapshot && e.Kind == driver.EventSync {
					snapshot = false
					for _, old := range page.Entries {
						if err := emit(driver.Event{Kind: driver.EventPut, Entry: old, Position: e.Position}); err != nil {
							return err
						}
					}
				}
				if snapshot {
					return nil
				}
				return emit(e)
			})
		}),
	},
	{
		does: "emits changes twice", caught: "watch/stream", says: "Watch:",
		make: eachEvent(func(e driver.Event, emit emit) error {
			if err := emit(e); err != nil || e.Kind == driver.EventSync {
				return err
			}
			return emit(e)
		}),
	},
	{
		does: "leaves deletes out", caught: "watch/stream", says: "Watch:",
		make: eachEvent(func(e driver.Event, emit emit) error {
			if e.Kind == driver.EventDelete {
				return nil
			}
			return emit(e)
		}),
	},
	{
		does: "has no sync event", caught: "watch/snapshot", says: "has not emitted its sync event",
		make: eachEvent(func(e driver.Event, emit emit) error {
			if e.Kind == driver.EventSync {
				return nil
			}
			return emit(e)
		}),
	},
	{
		does: "watches without regard to the prefix", caught: "watch/prefix", says: "Watch of prefix",
		make: onWatch(func(b *memdriver.Backend, ctx context.Context, r driver.WatchRequest, emit emit) error {
			r.KeyPrefix = ""
			return b.Watch(ctx, r, emit)
		}),
	},
	{
		does: "emits only the newest of several changes", caught: "watch/gap-free", says: "follows version",
		make: eachEvent(func(e driver.Event, emit emit) error {
			if e.Entry.Version%7 == 3 {
				return nil
			}
			return emit(e)
		}),
	},

	// C26
	{
		does: "ignores the resume point", caught: "watch/resume", says: "Watch resumed behind",
		make: onWatch(func(b *memdriver.Backend, ctx context.Context, r driver.WatchRequest, emit emit) error {
			r.After = ""
			return b.Watch(ctx, r, emit)
		}),
	},
	{
		does: "resumes with the change itself", caught: "watch/resume", says: "Watch resumed behind",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			var mu sync.Mutex
			events := map[string]driver.Event{}
			h.watch = func(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
				mu.Lock()
				again, ok := events[r.After]
				mu.Unlock()
				if ok {
					if err := emit(again); err != nil {
						return err
					}
				}
				return b.Watch(ctx, r, func(e driver.Event) error {
					mu.Lock()
					if e.Kind != driver.EventSync {
						events[e.Position] = e
					}
					mu.Unlock()
					return emit(e)
				})
			}
		}),
	},
	{
		does: "has no position in a snapshot", caught: "watch/positions", says: "has no position",
		make: onWatch(func(b *memdriver.Backend, ctx context.Context, r driver.WatchRequest, emit emit) error {
			snapshot := r.After == ""
			return b.Watch(ctx, r, func(e driver.Event) error {
				if snapshot = snapshot && e.Kind != driver.EventSync; snapshot {
					e.Position = ""
				}
				return emit(e)
			})
		}),
	},
	{
		does: "starts anew from a position that it can not read", caught: "watch/forged-position", says: "a forged position",
		make: startsAnewOn(config.InvalidArgument),
	},
	{
		does: "starts anew from another scope's position", caught: "watch/foreign-position", says: "the position of",
		make: startsAnewOn(config.InvalidArgument),
	},
	{
		does: "skips the changes that it does not keep any more", caught: "watch/out-of-range", says: "before the changes that are kept",
		make: startsAnewOn(config.OutOfRange),
	},

	// C27
	{
		does: "does not listen to its receiver's error", caught: "watch/emit-error", says: "Watch",
		make: eachEvent(func(e driver.Event, emit emit) error {
			_ = emit(e)
			if e.Kind == driver.EventSync || e.Entry.Version > 1 {
				return config.Errorf(config.Unavailable, "the stream broke")
			}
			return nil
		}),
	},
	{
		does: "returns nil when it is canceled", caught: "watch/cancel", says: "Watch that was canceled",
		make: onWatch(func(b *memdriver.Backend, ctx context.Context, r driver.WatchRequest, emit emit) error {
			_ = b.Watch(ctx, r, emit)
			return nil
		}),
	},
	{
		does: "writes only when every receiver has taken the last change", caught: "watch/slow-receiver", says: "Put of",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			var receiving sync.RWMutex
			h.watch = func(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
				return b.Watch(ctx, r, func(e driver.Event) error {
					receiving.RLock()
					defer receiving.RUnlock()
					return emit(e)
				})
			}
			h.put = func(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
				if !receiving.TryLock() {
					return config.Entry{}, config.Errorf(config.Unavailable, "a receiver is busy")
				}
				defer receiving.Unlock()
				return b.Put(ctx, r)
			}
		}),
	},
	{
		does: "emits from several goroutines at once", caught: "watch/one-at-a-time", says: "another call of it had not returned",
		make: onWatch(func(b *memdriver.Backend, ctx context.Context, r driver.WatchRequest, emit emit) error {
			var wg sync.WaitGroup
			defer wg.Wait()
			return b.Watch(ctx, r, func(e driver.Event) error {
				wg.Go(func() { _ = emit(e) })
				return nil
			})
		}),
	},

	// C28
	{
		does: "ignores idempotency keys", caught: "idempotency/replay", says: "compared with the first",
		make: onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
			r.IdempotencyKey = ""
			return b.Put(ctx, r)
		}),
	},
	{
		does: "repeats the first answer to another write", caught: "idempotency/mismatch", says: "got no error",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			answers := map[string]config.Entry{}
			h.put = func(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
				if e, ok := answers[r.IdempotencyKey]; ok && r.IdempotencyKey != "" {
					return e, nil
				}
				e, err := b.Put(ctx, r)
				if err == nil {
					answers[r.IdempotencyKey] = e
				}
				return e, err
			}
		}),
	},
	{
		does: "has one set of idempotency keys for all tenants", caught: "idempotency/tenants", says: "Put of",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			used := map[string]config.Tenant{}
			h.put = func(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
				if first, ok := used[r.IdempotencyKey]; ok && r.IdempotencyKey != "" && first != r.ID.Tenant {
					return config.Entry{}, config.Errorf(config.AlreadyExists, "the key was used")
				}
				used[r.IdempotencyKey] = r.ID.Tenant
				return b.Put(ctx, r)
			}
		}),
	},
	{
		does: "keeps the refusal of a write for its retries", caught: "idempotency/refused", says: "Put of",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			refused := map[string]error{}
			h.put = func(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
				if err := refused[r.IdempotencyKey]; err != nil {
					return config.Entry{}, err
				}
				e, err := b.Put(ctx, r)
				if r.IdempotencyKey != "" {
					refused[r.IdempotencyKey] = err
				}
				return e, err
			}
		}),
	},
	{
		does: "forgets idempotency keys when it closes", caught: "idempotency/durable", says: "compared with the first",
		open: func() *Harness {
			return openReopenable(onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
				r.IdempotencyKey = ""
				return b.Put(ctx, r)
			}))
		},
	},
	{
		does: "looks the idempotency key up before it writes, not while", caught: "idempotency/race", says: "compared with the first",
		make: hook(func(h *hooked, b *memdriver.Backend) {
			var mu sync.Mutex
			answers := map[string]config.Entry{}
			m := newMeet()
			h.put = func(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
				mu.Lock()
				e, ok := answers[r.IdempotencyKey]
				mu.Unlock()
				if ok && r.IdempotencyKey != "" {
					return e, nil
				}
				m.wait()
				key := r.IdempotencyKey
				r.IdempotencyKey = ""
				e, err := b.Put(ctx, r)
				mu.Lock()
				defer mu.Unlock()
				answers[key] = e
				return e, err
			}
		}),
	},
}

// checkThenWrite lets other writes come between its comparison and its write.
func checkThenWrite(b *memdriver.Backend) driver.Backend {
	m := newMeet()
	return onPut(func(b *memdriver.Backend, ctx context.Context, r driver.PutRequest) (config.Entry, error) {
		e, err := b.Get(ctx, r.ID, 0)
		if !r.Expect.Match(e.Version, err == nil) {
			return config.Entry{}, config.Errorf(config.Conflict, "another version won").WithVersion(e.Version)
		}
		m.wait()
		r.Expect = driver.Any()
		return b.Put(ctx, r)
	})(b)
}

// eachEvent lets f decide what becomes of each event.
func eachEvent(f func(driver.Event, emit) error) func(*memdriver.Backend) driver.Backend {
	return onWatch(func(b *memdriver.Backend, ctx context.Context, r driver.WatchRequest, emit emit) error {
		return b.Watch(ctx, r, func(e driver.Event) error { return f(e, emit) })
	})
}

// startsAnewOn takes a position that is refused with a code for none at all.
func startsAnewOn(code config.Code) func(*memdriver.Backend) driver.Backend {
	return onWatch(func(b *memdriver.Backend, ctx context.Context, r driver.WatchRequest, emit emit) error {
		err := b.Watch(ctx, r, emit)
		if r.After != "" && errors.Is(err, code) {
			r.After = ""
			return b.Watch(ctx, r, emit)
		}
		return err
	})
}

// TestWrongBackendIsCaught holds the suite itself to its promise: each wrong
// backend fails the case that names its fault, with the text of the clause,
// and the good one passes it.
func TestWrongBackendIsCaught(t *testing.T) {
	byName := map[string]Case{}
	for _, c := range Cases() {
		byName[c.Name] = c
	}
	var table strings.Builder
	caught := 0
	for _, bad := range badBackends {
		t.Run(strings.ReplaceAll(bad.does, " ", "-"), func(t *testing.T) {
			c, ok := byName[bad.caught]
			if !ok {
				t.Fatalf("there is no case %q", bad.caught)
			}
			report := observe(t, func(t testing.TB) {
				var h *Harness
				if bad.open != nil {
					h = bad.open()
				} else {
					h = openGood(t)
					h.Backend = bad.make(h.Backend.(*memdriver.Backend))
				}
				defer h.Backend.Close()
				caps := goodCaps
				if bad.caps != nil {
					caps = *bad.caps
				}
				c.check(t, caps, h, impatience)
			})
			if !report.Failed() {
				t.Fatalf("%s does not notice it", c.Name)
			}
			for _, want := range []string{bad.says, c.Clause + ": ", wrap(driver.Clause(c.Clause))} {
				says := func(alternative string) bool { return strings.Contains(report.text(), alternative) }
				if !slices.ContainsFunc(strings.Split(want, " | "), says) {
					t.Errorf("the report of %s does not say %q:\n%s", c.Name, want, report.text())
				}
			}
			if t.Failed() {
				return
			}
			caught++
			fmt.Fprintf(&table, "\n%-4s %-28s %s", c.Clause, c.Name, bad.does)
			report = observe(t, func(t testing.TB) {
				h := openGood(t)
				if c.NeedsReopen {
					h = openReopenable(func(b *memdriver.Backend) driver.Backend { return b })
				}
				caps := goodCaps
				if bad.good != nil {
					h, caps = bad.good(), *bad.caps
				}
				defer h.Backend.Close()
				c.Check(t, caps, h)
			})
			if report.Failed() {
				t.Errorf("the good backend fails %s:\n%s", c.Name, report.text())
			}
		})
	}
	t.Logf("%d of %d wrong backends are caught by the case that names their fault:%s", caught, len(badBackends), table.String())
}

// TestEveryClauseIsHeld checks that no clause is without a case, nor without a
// wrong backend that breaks it.
func TestEveryClauseIsHeld(t *testing.T) {
	clauses := map[string]string{}
	held, broken := map[string]bool{}, map[string]bool{}
	for _, c := range Cases() {
		if clauses[c.Name] != "" {
			t.Errorf("two cases are called %s", c.Name)
		}
		clauses[c.Name] = c.Clause
		held[c.Clause] = true
	}
	for _, bad := range badBackends {
		broken[clauses[bad.caught]] = true
	}
	for _, clause := range driver.Clauses() {
		if !held[clause] {
			t.Errorf("clause %s has no case", clause)
		}
		if !broken[clause] {
			t.Errorf("clause %s has no wrong backend", clause)
		}
		delete(held, clause)
	}
	for clause := range maps.Keys(held) {
		t.Errorf("there is no clause %s", clause)
	}
}

// TestFuzzCatches checks that the seeds of Fuzz alone tell a wrong backend.
func TestFuzzCatches(t *testing.T) {
	for _, does := range []string{
		"joins tenant, service and key by '/'", "reads the tenant-wide value for a service", "counts from 1 again after a delete",
		"makes an empty value nil", "deletes what is not there", "answers a batch in order of key", "leaves tombstones out of History",
		"repeats the first answer to another write",
	} {
		t.Run(strings.ReplaceAll(does, " ", "-"), func(t *testing.T) {
			i := slices.IndexFunc(badBackends, func(b bad) bool { return b.does == does })
			caught := false
			for _, seed := range fuzzSeeds() {
				report := observe(t, func(t testing.TB) { compare(t, badBackends[i].make(memdriver.New()), seed) })
				caught = caught || report.Failed()
			}
			if !caught {
				t.Errorf("no seed shows it")
			}
		})
	}
	for _, seed := range fuzzSeeds() {
		compare(t, memdriver.New(), seed)
	}
}
