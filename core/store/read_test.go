package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// layered is every way in which a key can be live or not in three layers, and
// the value that a reader with and without a service gets.
func layered() (cases []layeredCase) {
	for set := range 8 {
		c := layeredCase{service: set&1 != 0, tenant: set&2 != 0, shared: set&4 != 0}
		switch {
		case c.tenant:
			c.wantTenant = `"tenant"`
		case c.shared:
			c.wantTenant = `"shared"`
		}
		c.wantService = c.wantTenant
		if c.service {
			c.wantService = `"service"`
		}
		cases = append(cases, c)
	}
	return cases
}

type layeredCase struct {
	service, tenant, shared bool
	wantService, wantTenant string // "": NotFound
}

func (c layeredCase) key() string {
	return fmt.Sprintf("param_config_s%v_t%v_g%v", c.service, c.tenant, c.shared)
}

// seed makes every case. What is not live was deleted, which must make no
// difference to what never was.
func seed(t *testing.T, f *fixture, b driver.Backend) {
	t.Helper()
	for _, c := range layered() {
		f.put(t, acmeOrders, c.key(), `"service"`)
		if !c.service {
			f.delete(t, acmeOrders, c.key())
		}
		if c.tenant {
			f.put(t, acme, c.key(), `"tenant"`)
		}
		if c.shared {
			share(t, b, c.key(), `"shared"`)
		}
		f.put(t, globex, c.key(), `"globex"`)
		f.put(t, store.Scope{Tenant: acme.Tenant, Service: must(config.ParseService("billing"))}, c.key(), `"billing"`)
	}
}

func TestLayers(t *testing.T) {
	for name, wrap := range map[string]func(driver.Backend) driver.Backend{
		"all capabilities": func(b driver.Backend) driver.Backend { return b },
		"none":             func(b driver.Backend) driver.Backend { return plain{b} },
	} {
		t.Run(name, func(t *testing.T) {
			b := memdriver.New()
			seed(t, on(t, b), b)
			f := on(t, wrap(b))
			for _, reader := range []struct {
				name  string
				scope store.Scope
				want  func(layeredCase) string
			}{
				{"with a service", acmeOrders, func(c layeredCase) string { return c.wantService }},
				{"without", acme, func(c layeredCase) string { return c.wantTenant }},
			} {
				t.Run(reader.name, func(t *testing.T) {
					var keys []config.Key
					want, viaGet, viaBatch, viaList := map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}
					for _, c := range layered() {
						keys = append(keys, key(c.key()))
						if w := reader.want(c); w != "" {
							want[c.key()] = w
						}
						a, err := f.Get(t.Context(), reader.scope, key(c.key()), store.Want{})
						if err == nil {
							viaGet[c.key()] = string(a.Entry.Value)
							if a.Freshness != (config.Freshness{Source: config.SourceStore, State: config.StateFresh}) {
								t.Errorf("freshness is %+v", a.Freshness)
							}
						} else {
							wantCode(t, err, config.NotFound)
						}
					}
					results, err := f.BatchGet(t.Context(), reader.scope, keys, store.Want{})
					if err != nil {
						t.Fatal(err)
					}
					for i, r := range results {
						if r.Err == nil {
							viaBatch[keys[i].String()] = string(r.Entry.Value)
						} else {
							wantCode(t, r.Err, config.NotFound)
						}
					}
					page, err := f.List(t.Context(), store.ListRequest{Scope: reader.scope, KeyPrefix: "param_config_"})
					if err != nil {
						t.Fatal(err)
					}
					for _, e := range page.Entries {
						viaList[e.ID.Key.String()] = string(e.Value)
					}
					for how, got := range map[string]map[string]string{"Get": viaGet, "BatchGet": viaBatch, "List": viaList} {
						if diff := cmp.Diff(want, got); diff != "" {
							t.Errorf("%s (-want +got):\n%s", how, diff)
						}
					}
				})
			}
		})
	}
}

// A layer that can not be read is never passed over.
func TestNoFallbackPastAnError(t *testing.T) {
	b := &spy{Backend: memdriver.New()}
	f := on(t, b)
	f.put(t, acme, "param_config_a", `"tenant"`)
	b.onGet = func(_ context.Context, id config.ID, _ uint64) error {
		if !id.Service.IsZero() {
			return config.Errorf(config.Unavailable, "down")
		}
		return nil
	}
	_, err := f.Get(t.Context(), acmeOrders, key("param_config_a"), store.Want{})
	wantCode(t, err, config.Unavailable)
}

// Which layer a call addresses that names exactly one.
func TestOneLayer(t *testing.T) {
	layers := func(l ...manifest.Layer) []manifest.Layer { return l }
	b := memdriver.New()
	f := newStore(t, store.Options{},
		router.Route{Prefix: "all_", Backend: b, Layers: threeLayers},
		router.Route{Prefix: "tenant_", Backend: b, Layers: layers(manifest.LayerTenant)},
		router.Route{Prefix: "service_", Backend: b, Layers: layers(manifest.LayerService)},
		router.Route{Prefix: "shared_", Backend: b, Layers: layers(manifest.LayerShared)},
	)
	for _, c := range []struct {
		key   string
		scope store.Scope
		ok    bool
	}{
		{"all_x", acme, true},
		{"all_x", acmeOrders, true},
		{"tenant_x", acme, true},
		{"tenant_x", acmeOrders, false},
		{"service_x", acme, false},
		{"service_x", acmeOrders, true},
		{"shared_x", acme, false},
		{"shared_x", acmeOrders, false},
	} {
		calls := map[string]error{}
		_, calls["Put"] = f.Put(t.Context(), store.PutRequest{Scope: c.scope, Key: key(c.key), Value: []byte(`1`)})
		_, calls["GetVersion"] = f.GetVersion(t.Context(), c.scope, key(c.key), 1)
		_, calls["History"] = f.History(t.Context(), store.HistoryRequest{Scope: c.scope, Key: key(c.key)})
		_, calls["Delete"] = f.Delete(t.Context(), store.DeleteRequest{Scope: c.scope, Key: key(c.key)})
		_, calls["Restore"] = f.Restore(t.Context(), store.RestoreRequest{Scope: c.scope, Key: key(c.key)})
		f.put(t, acme, "all_other", `1`)
		_, calls["Rollback"] = f.Rollback(t.Context(), store.RollbackRequest{Scope: c.scope, Key: key(c.key), ToVersion: 1, Expect: driver.Version(3)})
		for name, err := range calls {
			if c.ok && err != nil {
				t.Errorf("%s of %s: %v", name, c.key, err)
			}
			if !c.ok && !errors.Is(err, config.InvalidArgument) {
				t.Errorf("%s of %s: %v, want InvalidArgument", name, c.key, err)
			}
		}
		if c.ok {
			continue
		}
		if got, err := b.History(t.Context(), driver.HistoryRequest{ID: config.ID{Tenant: config.Shared(), Key: key(c.key)}}); err == nil {
			t.Errorf("%s was written into the shared layer: %v", c.key, got)
		}
	}
	if _, err := f.Get(t.Context(), acme, key("service_x"), store.Want{}); !errors.Is(err, config.InvalidArgument) {
		t.Errorf("a read that no layer takes part in: %v", err)
	}
}

// No scope without a tenant, and none with the shared one, gets anywhere.
func TestScopes(t *testing.T) {
	b := memdriver.New()
	f := on(t, b)
	share(t, b, "param_config_a", `"shared"`)
	for name, sc := range map[string]store.Scope{"none": {}, "shared": {Tenant: config.Shared()}} {
		k := key("param_config_a")
		calls := map[string]error{}
		_, calls["Get"] = f.Get(t.Context(), sc, k, store.Want{})
		_, calls["GetVersion"] = f.GetVersion(t.Context(), sc, k, 1)
		_, calls["BatchGet"] = f.BatchGet(t.Context(), sc, []config.Key{k}, store.Want{})
		_, calls["List"] = f.List(t.Context(), store.ListRequest{Scope: sc, KeyPrefix: "param_config_"})
		_, calls["Put"] = f.Put(t.Context(), store.PutRequest{Scope: sc, Key: k, Value: []byte(`1`)})
		_, calls["Delete"] = f.Delete(t.Context(), store.DeleteRequest{Scope: sc, Key: k})
		_, calls["Restore"] = f.Restore(t.Context(), store.RestoreRequest{Scope: sc, Key: k})
		_, calls["History"] = f.History(t.Context(), store.HistoryRequest{Scope: sc, Key: k})
		_, calls["Rollback"] = f.Rollback(t.Context(), store.RollbackRequest{Scope: sc, Key: k, ToVersion: 1})
		calls["Watch"] = f.Watch(t.Context(), store.WatchRequest{Scope: sc, KeyPrefix: "param_config_"}, func(store.Event) error { return nil })
		for call, err := range calls {
			if !errors.Is(err, config.PermissionDenied) {
				t.Errorf("%s with the %s tenant: %v, want PermissionDenied", call, name, err)
			}
		}
	}
}

// Absent, deleted and somebody else's are the same bytes.
func TestNotFoundIsOneText(t *testing.T) {
	b := memdriver.New()
	f := on(t, b)
	k := "param_config_a"
	states := map[string]func(t *testing.T) *fixture{
		"absent":        func(t *testing.T) *fixture { return on(t, memdriver.New()) },
		"another's":     func(t *testing.T) *fixture { s := on(t, memdriver.New()); s.put(t, globex, k, `1`); return s },
		"other service": func(t *testing.T) *fixture { s := on(t, memdriver.New()); s.put(t, acmeOrders, k, `1`); return s },
		"deleted": func(t *testing.T) *fixture {
			s := on(t, memdriver.New())
			s.put(t, acme, k, `1`)
			s.delete(t, acme, k)
			return s
		},
		"deleted, plain": func(t *testing.T) *fixture {
			under := memdriver.New()
			s := on(t, under)
			s.put(t, acme, k, `1`)
			s.delete(t, acme, k)
			return on(t, plain{under})
		},
	}
	calls := map[string]func(*fixture) error{
		"Get":        func(s *fixture) error { _, err := s.Get(t.Context(), acme, key(k), store.Want{}); return err },
		"GetVersion": func(s *fixture) error { _, err := s.GetVersion(t.Context(), acme, key(k), 2); return err },
		"BatchGet": func(s *fixture) error {
			r, err := s.BatchGet(t.Context(), acme, []config.Key{key(k)}, store.Want{})
			if err != nil {
				return err
			}
			return r[0].Err
		},
		"Delete": func(s *fixture) error {
			_, err := s.Delete(t.Context(), store.DeleteRequest{Scope: acme, Key: key(k)})
			return err
		},
	}
	for name, call := range calls {
		want := *errorOf(t, call(f), config.NotFound)
		for state, made := range states {
			if got := *errorOf(t, call(made(t)), config.NotFound); got != want {
				t.Errorf("%s of a key that is %s: %#v, want %#v", name, state, got, want)
			}
		}
	}
	// These tell a deleted key of one's own from an absent one, but nobody
	// else's from either.
	for name, call := range map[string]func(*fixture) error{
		"History": func(s *fixture) error {
			_, err := s.History(t.Context(), store.HistoryRequest{Scope: acme, Key: key(k)})
			return err
		},
		"Restore": func(s *fixture) error {
			_, err := s.Restore(t.Context(), store.RestoreRequest{Scope: acme, Key: key(k)})
			return err
		},
		"Rollback": func(s *fixture) error {
			_, err := s.Rollback(t.Context(), store.RollbackRequest{Scope: acme, Key: key(k), ToVersion: 1})
			return err
		},
	} {
		want := *errorOf(t, call(f), config.NotFound)
		for _, state := range []string{"absent", "another's", "other service"} {
			if got := *errorOf(t, call(states[state](t)), config.NotFound); got != want {
				t.Errorf("%s of a key that is %s: %#v, want %#v", name, state, got, want)
			}
		}
	}
}

// What a backend says reaches the log, and the caller only with codes that the
// caller can act on.
func TestBackendErrors(t *testing.T) {
	const canary = "arn:canary:table/x"
	for _, c := range []struct {
		err  error
		want config.Code
		told bool
	}{
		{config.Errorf(config.InvalidArgument, canary), config.InvalidArgument, true},
		{config.Errorf(config.OutOfRange, canary), config.OutOfRange, true},
		{config.Errorf(config.AlreadyExists, canary), config.AlreadyExists, true},
		{config.Errorf(config.Unavailable, canary), config.Unavailable, false},
		{config.Errorf(config.OutcomeUnknown, canary), config.OutcomeUnknown, false},
		{config.Errorf(config.ResourceExhausted, canary), config.ResourceExhausted, false},
		{config.Errorf(config.FailedPrecondition, canary), config.FailedPrecondition, false},
		{config.Errorf(config.PermissionDenied, canary), config.FailedPrecondition, false},
		{config.Errorf(config.Unauthenticated, canary), config.FailedPrecondition, false},
		{config.Errorf(config.Unimplemented, canary), config.Unimplemented, false},
		{config.Errorf(config.DataLoss, canary), config.DataLoss, false},
		{config.Errorf(config.Internal, canary), config.Internal, false},
		{config.Errorf(config.Unknown, canary), config.Unknown, false},
		{config.Errorf(config.Code(200), canary), config.Code(200), false},
		{config.Errorf(config.Conflict, canary), config.Conflict, false},
		{config.Errorf(config.NotFound, canary), config.NotFound, false},
		{errors.New(canary), config.Unknown, false},
		{fmt.Errorf("%s: %w", canary, io.ErrUnexpectedEOF), config.Unknown, false},
		{fmt.Errorf("%s: %w", canary, context.DeadlineExceeded), config.DeadlineExceeded, false},
	} {
		b := &spy{Backend: memdriver.New(), onGet: func(context.Context, config.ID, uint64) error { return c.err }}
		f := on(t, b)
		_, err := f.Get(t.Context(), acme, key("param_config_a"), store.Want{})
		e := errorOf(t, err, c.want)
		if got := strings.Contains(e.Error(), canary); got != c.told {
			t.Errorf("%v became %q", c.err, e)
		}
		if e.Op != "store.Get" || e.Key != key("param_config_a") || e.Message == "" || e.Err != nil {
			t.Errorf("%v became %#v", c.err, e)
		}
	}
}

func TestHostileErrorTextIsBounded(t *testing.T) {
	b := &spy{Backend: memdriver.New(), onGet: func(context.Context, config.ID, uint64) error {
		return config.Errorf(config.InvalidArgument, "%s", "a\n\x1b[31m\xff"+strings.Repeat("x", 1<<20))
	}}
	_, err := on(t, b).Get(t.Context(), acme, key("param_config_a"), store.Want{})
	e := errorOf(t, err, config.InvalidArgument)
	if len(e.Message) > 600 || strings.ContainsAny(e.Message, "\n\x1b") || !utf8.ValidString(e.Message) {
		t.Errorf("the message has %d bytes and begins %q", len(e.Message), e.Message[:10])
	}
}

func TestGetVersion(t *testing.T) {
	f := on(t, memdriver.New())
	f.put(t, acme, "param_config_a", `1`)
	f.put(t, acme, "param_config_a", `2`)
	f.put(t, acmeOrders, "param_config_a", `"orders"`)
	a, err := f.GetVersion(t.Context(), acme, key("param_config_a"), 1)
	if err != nil || string(a.Entry.Value) != `1` {
		t.Errorf("version 1: %s, %v", a.Entry.Value, err)
	}
	// No fallback to the tenant's layer.
	_, err = f.GetVersion(t.Context(), acmeOrders, key("param_config_a"), 2)
	wantCode(t, err, config.NotFound)
	_, err = f.GetVersion(t.Context(), acme, key("param_config_a"), 0)
	wantCode(t, err, config.InvalidArgument)
}

func TestUnknownPrefix(t *testing.T) {
	f := on(t, memdriver.New())
	_, err := f.Get(t.Context(), acme, key("unknown_a"), store.Want{})
	if e := errorOf(t, err, config.InvalidArgument); !strings.Contains(e.Error(), "param_config_") {
		t.Errorf("%v does not name the prefixes", e)
	}
}

// Metrics tell calls apart by op and code, and by nothing that callers choose.
func TestMetrics(t *testing.T) {
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	b := &spy{Backend: memdriver.New()}
	f := newStore(t, store.Options{MeterProvider: provider},
		router.Route{Prefix: "param_config_", BackendName: "params", Backend: b},
		router.Route{Prefix: "tenant_config_", BackendName: "tenants", Backend: memdriver.New()})
	f.put(t, acme, "param_config_a", `1`)
	if _, err := f.Get(t.Context(), acme, key("param_config_a"), store.Want{}); err != nil {
		t.Fatal(err)
	}
	_, err := f.Get(t.Context(), acme, key("param_config_none"), store.Want{})
	wantCode(t, err, config.NotFound)
	b.get = func(_ config.ID, e config.Entry) config.Entry { e.ID.Tenant = globex.Tenant; return e }
	_, err = f.Get(t.Context(), acme, key("param_config_a"), store.Want{})
	wantCode(t, err, config.Internal)

	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, m := range all.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				got[m.Name+" "+p.Attributes.Encoded(labels{})] = p.Count
			}
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				got[m.Name+" "+p.Attributes.Encoded(labels{})] = uint64(p.Value)
			}
		}
	}
	want := map[string]uint64{
		"tagstore.store.duration code=ok,op=store.Put":        1,
		"tagstore.store.duration code=ok,op=store.Get":        1,
		"tagstore.store.duration code=not_found,op=store.Get": 1,
		"tagstore.store.duration code=internal,op=store.Get":  1,
		"tagstore.store.violations backend=params":            1,
		"tagstore.store.violations backend=tenants":           0, // there before it happens
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}
