package store_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	acme   = store.Scope{Tenant: must(config.ParseTenant("acme-corp"))}
	globex = store.Scope{Tenant: must(config.ParseTenant("globex-inc"))}
	orders = must(config.ParseService("order"))
	// acmeOrders is what acme-corp's order service sees.
	acmeOrders = store.Scope{Tenant: acme.Tenant, Service: orders}

	threeLayers = []manifest.Layer{manifest.LayerService, manifest.LayerTenant, manifest.LayerShared}
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func key(s string) config.Key { return must(config.ParseKey(s)) }

// fixture is a Store over the given routes with its alarms.
type fixture struct {
	*store.Store
	routes *router.Router
	logs   *lockedBuffer

	mu     sync.Mutex
	alarms []store.Violation
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newStore(t testing.TB, o store.Options, routes ...router.Route) *fixture {
	t.Helper()
	table, err := router.NewTable(routes)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{routes: router.New(table), logs: &lockedBuffer{}}
	o.Logger = slog.New(slog.NewJSONHandler(f.logs, nil))
	o.OnViolation = func(_ context.Context, v store.Violation) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.alarms = append(f.alarms, v)
	}
	f.Store = store.New(f.routes, o)
	return f
}

// on is a Store with the one route param_config_ of three layers.
func on(t testing.TB, b driver.Backend) *fixture {
	t.Helper()
	return newStore(t, store.Options{}, router.Route{
		Prefix: "param_config_", BackendName: "params", Backend: b, Layers: threeLayers,
	})
}

func (f *fixture) violations() []store.Violation {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]store.Violation(nil), f.alarms...)
}

// put writes through the store and returns the version.
func (f *fixture) put(t testing.TB, sc store.Scope, k, value string) uint64 {
	t.Helper()
	e, err := f.Put(t.Context(), store.PutRequest{Scope: sc, Key: key(k), Value: []byte(value), Actor: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	return e.Version
}

func (f *fixture) delete(t testing.TB, sc store.Scope, k string) uint64 {
	t.Helper()
	e, err := f.Delete(t.Context(), store.DeleteRequest{Scope: sc, Key: key(k), Actor: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	return e.Version
}

// share writes into the shared layer, as only an operator's tools do.
func share(t testing.TB, b driver.Backend, k, value string) {
	t.Helper()
	_, err := b.Put(t.Context(), driver.PutRequest{ID: config.ID{Tenant: config.Shared(), Key: key(k)}, Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, want config.Code) {
	t.Helper()
	_ = errorOf(t, err, want)
}

// errorOf is err, which must have this code.
func errorOf(t testing.TB, err error, want config.Code) *config.Error {
	t.Helper()
	var e *config.Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %v, want a *config.Error with code %s", err, want)
	}
	if e.Code != want {
		t.Fatalf("error is %q with code %s, want %s", e, e.Code, want)
	}
	return e
}

// plain has no capabilities beside those that every backend must have.
type plain struct{ driver.Backend }

// spy lets a test change what a real backend answers, or look before it does.
// A nil hook changes nothing.
type spy struct {
	*memdriver.Backend
	onGet     func(context.Context, config.ID, uint64) error
	get       func(config.ID, config.Entry) config.Entry
	batch     func([]driver.Result) ([]driver.Result, error)
	list      func(driver.Page) driver.Page
	history   func(driver.Page) driver.Page
	put       func(config.Entry) config.Entry
	beforePut func(driver.PutRequest) error
	event     func(driver.Event) driver.Event
}

func (s *spy) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	if s.onGet != nil {
		if err := s.onGet(ctx, id, version); err != nil {
			return config.Entry{}, err
		}
	}
	e, err := s.Backend.Get(ctx, id, version)
	if err == nil && s.get != nil {
		e = s.get(id, e)
	}
	return e, err
}

func (s *spy) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	r, err := s.Backend.BatchGet(ctx, ids)
	if err == nil && s.batch != nil {
		return s.batch(r)
	}
	return r, err
}

func (s *spy) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	p, err := s.Backend.List(ctx, r)
	if err == nil && s.list != nil {
		p = s.list(p)
	}
	return p, err
}

func (s *spy) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	p, err := s.Backend.History(ctx, r)
	if err == nil && s.history != nil {
		p = s.history(p)
	}
	return p, err
}

func (s *spy) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	if s.beforePut != nil {
		if err := s.beforePut(r); err != nil {
			return config.Entry{}, err
		}
	}
	e, err := s.Backend.Put(ctx, r)
	if err == nil && s.put != nil {
		e = s.put(e)
	}
	return e, err
}

func (s *spy) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	if s.event == nil {
		return s.Backend.Watch(ctx, r, emit)
	}
	return s.Backend.Watch(ctx, r, func(e driver.Event) error { return emit(s.event(e)) })
}

// dead answers nothing.
type dead struct{ driver.Backend }

func (dead) Get(context.Context, config.ID, uint64) (config.Entry, error) {
	return config.Entry{}, config.Errorf(config.Unavailable, "canary-endpoint refused the connection")
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("%s did not happen", what)
		case <-tick.C:
		}
	}
}

type lyingDelete struct {
	driver.Backend
	change func(config.Entry) config.Entry
}

func (l lyingDelete) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	e, err := l.Backend.Delete(ctx, r)
	return l.change(e), err
}
