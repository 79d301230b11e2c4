// Wrongplugin is a storage plugin that breaks the driver contract in the one way
// that its options name. The rest of it is package memdriver, which keeps it.
package main

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/pluginmain"
)

type options struct {
	Flaw string `json:"flaw" required:"true" doc:"what is wrong with it"`
}

func main() {
	pluginmain.Serve(pluginmain.Plugin[options]{Name: "wrong", Version: "v0.0.1", Open: open})
}

func open(_ context.Context, o options) (driver.Backend, error) {
	good := memdriver.New()
	switch o.Flaw {
	case "none":
		return good, nil
	case "foreign-tenant":
		return &foreign{Backend: good}, nil
	case "ignores-expect":
		return ignoring{good}, nil
	case "history-order":
		return disordered{good}, nil
	case "skipping-token":
		return skipping{good}, nil
	case "silent-watch":
		return silent{good}, nil
	case "declares-batch":
		return unimplemented{good}, nil
	default:
		return nil, config.Errorf(config.InvalidArgument, "there is no such flaw")
	}
}

// foreign answers from another tenant where the one that asks has nothing.
type foreign struct {
	*memdriver.Backend

	mu  sync.Mutex
	put []config.ID
}

func (f *foreign) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	f.mu.Lock()
	f.put = append(f.put, r.ID)
	f.mu.Unlock()
	return f.Backend.Put(ctx, r)
}

func (f *foreign) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	e, err := f.Backend.Get(ctx, id, version)
	if !errors.Is(err, config.NotFound) {
		return e, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, other := range f.put {
		if other.Service == id.Service && other.Key == id.Key {
			if e, found := f.Backend.Get(ctx, other, version); found == nil {
				e.ID = id // as a store would whose keys lack the tenant
				return e, nil
			}
		}
	}
	return e, err
}

// ignoring writes whatever version is expected.
type ignoring struct{ *memdriver.Backend }

func (i ignoring) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	r.Expect = driver.Any()
	return i.Backend.Put(ctx, r)
}

// disordered shows the oldest version first.
type disordered struct{ *memdriver.Backend }

func (d disordered) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	page, err := d.Backend.History(ctx, r)
	slices.Reverse(page.Entries)
	return page, err
}

// skipping leaves out the last entry of each page that is not the last.
type skipping struct{ *memdriver.Backend }

func (s skipping) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	page, err := s.Backend.List(ctx, r)
	if n := len(page.Entries); err == nil && page.NextPageToken != "" && n > 0 {
		page.Entries = page.Entries[:n-1]
	}
	return page, err
}

// silent declares Watch, and tells nothing.
type silent struct{ *memdriver.Backend }

func (silent) Watch(ctx context.Context, _ driver.WatchRequest, _ func(driver.Event) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// unimplemented declares BatchGet, and does not have it.
type unimplemented struct{ *memdriver.Backend }

func (unimplemented) BatchGet(context.Context, []config.ID) ([]driver.Result, error) {
	return nil, config.Errorf(config.Unimplemented, "not yet")
}
