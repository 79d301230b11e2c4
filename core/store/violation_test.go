package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/store"
)

// errDone ends a Watch from within.
var errDone = errors.New("done")

const canary = "canary-of-globex"

func foreignTenant(e config.Entry) config.Entry {
	e.ID.Tenant, e.Value = globex.Tenant, []byte(canary)
	return e
}

func foreignService(e config.Entry) config.Entry {
	e.ID.Service, e.Value = must(config.ParseService("billing")), []byte(canary)
	return e
}

func otherKey(e config.Entry) config.Entry {
	e.ID.Key, e.Value = key("param_config_zz"), []byte(canary)
	return e
}

func outsidePrefix(e config.Entry) config.Entry {
	e.ID.Key, e.Value = key("secret_config_a"), []byte(canary)
	return e
}

func deleted(e config.Entry) config.Entry {
	e.Deleted, e.Value = true, []byte(canary)
	return e
}

// inPage changes one entry of every page.
func inPage(i int, change func(config.Entry) config.Entry) func(driver.Page) driver.Page {
	return func(p driver.Page) driver.Page {
		if i < len(p.Entries) {
			p.Entries[i] = change(p.Entries[i])
		}
		return p
	}
}

// A backend that lies gets an alarm, and its caller an error without any of it.
func TestLyingBackends(t *testing.T) {
	k := key("param_config_a")
	get := func(f *fixture) error { _, err := f.Get(t.Context(), acme, k, store.Want{}); return err }
	version := func(f *fixture) error { _, err := f.GetVersion(t.Context(), acme, k, 1); return err }
	batch := func(f *fixture) error {
		r, err := f.BatchGet(t.Context(), acme, []config.Key{k}, store.Want{})
		if err != nil {
			return err
		}
		if len(r[0].Entry.Value) > 0 {
			t.Errorf("the batch has a value: %s", r[0].Entry.Value)
		}
		return r[0].Err
	}
	list := func(f *fixture) error {
		a, err := f.List(t.Context(), store.ListRequest{Scope: acme, KeyPrefix: "param_config_"})
		if len(a.Entries) > 0 {
			t.Errorf("the list has entries: %v", a.Entries)
		}
		return err
	}
	small := func(f *fixture) error {
		_, err := f.List(t.Context(), store.ListRequest{Scope: acme, KeyPrefix: "param_config_", PageSize: 1})
		return err
	}
	history := func(f *fixture) error {
		_, err := f.History(t.Context(), store.HistoryRequest{Scope: acme, Key: k})
		return err
	}
	rollback := func(f *fixture) error {
		_, err := f.Rollback(t.Context(), store.RollbackRequest{Scope: acme, Key: k, ToVersion: 1})
		return err
	}
	restore := func(f *fixture) error {
		_, err := f.Restore(t.Context(), store.RestoreRequest{Scope: acme, Key: k})
		return err
	}
	put := func(f *fixture) error {
		_, err := f.Put(t.Context(), store.PutRequest{Scope: acme, Key: k, Value: []byte(`1`)})
		return err
	}
	watch := func(f *fixture) error {
		return f.Watch(t.Context(), store.WatchRequest{Scope: acme, KeyPrefix: "param_config_"}, func(e store.Event) error {
			if strings.Contains(string(e.Entry.Value), canary) || e.Entry.ID.Tenant == globex.Tenant {
				t.Errorf("the watch emitted %v", e)
			}
			if e.Kind == store.EventSync {
				return errDone
			}
			return nil
		})
	}
	inEvent := func(change func(config.Entry) config.Entry) func(driver.Event) driver.Event {
		return func(e driver.Event) driver.Event {
			if e.Kind == driver.EventPut {
				e.Entry = change(e.Entry)
			}
			return e
		}
	}
	gets := func(change func(config.Entry) config.Entry) spy {
		return spy{
			get: func(_ config.ID, e config.Entry) config.Entry { return change(e) },
			batch: func(r []driver.Result) ([]driver.Result, error) {
				r[0].Entry = change(r[0].Entry)
				return r, nil
			},
		}
	}
	for _, c := range []struct {
		what string
		lie  spy
		call func(*fixture) error
	}{
		{"foreign tenant", gets(foreignTenant), get},
		{"foreign service", gets(foreignService), get},
		{"other key", gets(otherKey), get},
		{"deleted value", gets(deleted), get},
		{"foreign tenant", gets(func(config.Entry) config.Entry { return config.Entry{} }), get},
		{"foreign tenant", gets(func(e config.Entry) config.Entry { e.ID.Tenant = config.Shared(); return e }), get},
		{"foreign tenant", gets(foreignTenant), batch},
		{"foreign service", gets(foreignService), batch},
		{"other key", gets(otherKey), batch},
		{"deleted value", gets(deleted), batch},
		{"wrong number of results", spy{batch: func([]driver.Result) ([]driver.Result, error) { return nil, nil }}, batch},
		{"wrong number of results", spy{batch: func(r []driver.Result) ([]driver.Result, error) { return append(r, r...), nil }}, batch},
		{"batch not found", spy{batch: func([]driver.Result) ([]driver.Result, error) {
			return nil, config.Errorf(config.NotFound, canary)
		}}, batch},
		{"foreign tenant", gets(foreignTenant), version},
		{"other version", gets(func(e config.Entry) config.Entry { e.Version++; return e }), version},

		{"foreign tenant", spy{list: inPage(1, foreignTenant)}, list},
		{"foreign service", spy{list: inPage(1, foreignService)}, list},
		{"key outside the prefix", spy{list: inPage(1, outsidePrefix)}, list},
		{"key outside the prefix", spy{list: inPage(1, func(e config.Entry) config.Entry { e.ID.Key = config.Key{}; return e })}, list},
		{"deleted value", spy{list: inPage(1, deleted)}, list},
		{"keys out of order", spy{list: func(p driver.Page) driver.Page { slices.Reverse(p.Entries); return p }}, list},
		{"keys out of order", spy{list: func(p driver.Page) driver.Page { p.Entries = append(p.Entries, p.Entries...); return p }}, list},
		{"page too long", spy{list: func(p driver.Page) driver.Page { p.Entries = append(p.Entries, p.Entries...); return p }}, small},
		{"bad page token", spy{list: func(p driver.Page) driver.Page { p.NextPageToken = strings.Repeat("x", 8<<10); return p }}, list},

		{"foreign tenant", spy{history: inPage(1, foreignTenant)}, history},
		{"foreign service", spy{history: inPage(1, foreignService)}, history},
		{"other key", spy{history: inPage(0, otherKey)}, history},
		{"versions out of order", spy{history: func(p driver.Page) driver.Page { slices.Reverse(p.Entries); return p }}, history},
		{"versions out of order", spy{history: inPage(1, func(e config.Entry) config.Entry { e.Version++; return e })}, history},
		{"bad page token", spy{history: func(p driver.Page) driver.Page { p.NextPageToken = strings.Repeat("x", 8<<10); return p }}, history},
		{"page too long", spy{history: func(p driver.Page) driver.Page {
			p.Entries = slices.Repeat(p.Entries, 100)
			return p
		}}, history},
		{"foreign tenant", spy{history: inPage(1, foreignTenant)}, rollback},
		{"foreign tenant", spy{history: inPage(0, foreignTenant)}, restore},

		{"foreign tenant", spy{put: foreignTenant}, put},
		{"other key", spy{put: otherKey}, put},
		{"deleted value", spy{put: deleted}, put},

		{"foreign tenant", spy{event: inEvent(foreignTenant)}, watch},
		{"foreign service", spy{event: inEvent(foreignService)}, watch},
		{"key outside the prefix", spy{event: inEvent(outsidePrefix)}, watch},
		{"event that contradicts its entry", spy{event: inEvent(deleted)}, watch},
		{"keys out of order", spy{event: inEvent(func(e config.Entry) config.Entry { e.ID.Key = k; return e })}, watch},
		{"bad position", spy{event: func(e driver.Event) driver.Event { e.Position = ""; return e }}, watch},
		{"bad position", spy{event: func(e driver.Event) driver.Event { e.Position = strings.Repeat("x", 8<<10); return e }}, watch},
		{"unknown kind of event", spy{event: func(e driver.Event) driver.Event { e.Kind = 9; return e }}, watch},
		{"deletion in a snapshot", spy{event: func(e driver.Event) driver.Event {
			e.Kind, e.Entry.Deleted = driver.EventDelete, true
			return e
		}}, watch},
	} {
		t.Run(c.what, func(t *testing.T) {
			b := memdriver.New()
			honest := on(t, b)
			for _, name := range []string{"param_config_a", "param_config_a", "param_config_b"} {
				honest.put(t, acme, name, `"acme"`)
			}
			liar := c.lie
			liar.Backend = b
			f := on(t, &liar)
			e := errorOf(t, c.call(f), config.Internal)
			if text := e.Error() + f.logs.String(); strings.Contains(text, canary) || strings.Contains(text, "globex") {
				t.Errorf("what the backend said got out: %s", text)
			}
			alarms := f.violations()
			if len(alarms) != 1 || alarms[0].What != c.what || alarms[0].Backend != "params" || alarms[0].Op != e.Op {
				t.Errorf("alarms are %+v, want one of %q by %s", alarms, c.what, e.Op)
			}
			if !strings.Contains(f.logs.String(), `"level":"ERROR"`) {
				t.Errorf("no line at ERROR in the log: %s", f.logs)
			}
		})
	}
}

// A delete without a tombstone, or with somebody else's, is one more lie.
func TestLyingDelete(t *testing.T) {
	for want, change := range map[string]func(config.Entry) config.Entry{
		"deletion without tombstone": func(e config.Entry) config.Entry { e.Deleted = false; return e },
		"foreign tenant":             foreignTenant,
	} {
		b := memdriver.New()
		on(t, b).put(t, acme, "param_config_a", `1`)
		f := on(t, lyingDelete{b, change})
		_, err := f.Delete(t.Context(), store.DeleteRequest{Scope: acme, Key: key("param_config_a")})
		wantCode(t, err, config.Internal)
		if a := f.violations(); len(a) != 1 || a[0].What != want {
			t.Errorf("alarms are %+v, want %q", a, want)
		}
	}
}
