package driver_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

func TestExpect(t *testing.T) {
	const highest = ^uint64(0)
	for _, c := range []struct {
		name    string
		expect  driver.Expect
		latest  uint64
		live    bool
		matches bool
	}{
		{"any, never put", driver.Any(), 0, false, true},
		{"any, live", driver.Any(), 3, true, true},
		{"any, deleted", driver.Any(), 3, false, true},
		{"zero value, live", driver.Expect{}, 3, true, true},
		{"absent, never put", driver.Absent(), 0, false, true},
		{"absent, deleted", driver.Absent(), 3, false, true},
		{"absent, live", driver.Absent(), 3, true, false},
		{"version 0, deleted", driver.Version(0), 3, false, true},
		{"version 0, live", driver.Version(0), 1, true, false},
		{"version, latest", driver.Version(3), 3, true, true},
		{"version, latest is a tombstone", driver.Version(3), 3, false, true},
		{"version, older", driver.Version(2), 3, true, false},
		{"version, newer", driver.Version(4), 3, true, false},
		{"version, never put", driver.Version(1), 0, false, false},
		{"highest version", driver.Version(highest), highest - 1, true, false},
	} {
		if got := c.expect.Match(c.latest, c.live); got != c.matches {
			t.Errorf("%s: Match = %t, want %t", c.name, got, c.matches)
		}
	}
	for name, c := range map[string]struct {
		expect  driver.Expect
		version uint64
		ok      bool
	}{
		"any": {driver.Any(), 0, false}, "absent": {driver.Absent(), 0, true}, "version": {driver.Version(7), 7, true},
	} {
		if v, ok := c.expect.Value(); v != c.version || ok != c.ok {
			t.Errorf("%s: Value = %d, %t, want %d, %t", name, v, ok, c.version, c.ok)
		}
	}
	if driver.Version(0) != driver.Absent() {
		t.Error("Version(0) is not Absent")
	}
}

func TestCheckPageSize(t *testing.T) {
	for n, want := range map[int]int{0: driver.DefaultPageSize, 1: 1, 7: 7, driver.MaxPageSize: driver.MaxPageSize} {
		if got, err := driver.CheckPageSize(n); err != nil || got != want {
			t.Errorf("CheckPageSize(%d) = %d, %v, want %d", n, got, err, want)
		}
	}
	for _, n := range []int{-1, driver.MaxPageSize + 1, -1 << 31, 1<<31 - 1} {
		if _, err := driver.CheckPageSize(n); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("CheckPageSize(%d): got error %v, want code invalid_argument", n, err)
		}
	}
}

// plain is a Backend without any optional interface.
type plain struct{ driver.Backend }

// full has the methods of all optional interfaces.
type full struct{ plain }

func (full) BatchGet(context.Context, []config.ID) ([]driver.Result, error) { return nil, nil }
func (full) History(context.Context, driver.HistoryRequest) (driver.Page, error) {
	return driver.Page{}, nil
}

func (full) Watch(context.Context, driver.WatchRequest, func(driver.Event) error) error { return nil }

func (full) Ping(context.Context) error { return nil }

func (full) IdempotencyWindow() time.Duration { return time.Hour }

func (full) Size(context.Context) (driver.Size, error) { return driver.Size{}, nil }

// proxy has all methods and honours some.
type proxy struct {
	full
	honours driver.Capabilities
}

func (p proxy) Capabilities() driver.Capabilities { return p.honours }

// claimsAll declares everything and has nothing.
type claimsAll struct{ plain }

func (claimsAll) Capabilities() driver.Capabilities { return all }

var all = driver.Capabilities{Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true}

func TestCapabilities(t *testing.T) {
	some := driver.Capabilities{History: true, Ping: true}
	for name, c := range map[string]struct {
		backend  driver.Backend
		declares driver.Capabilities
		is       driver.Capabilities
	}{
		"no optional interface":             {plain{}, driver.Capabilities{}, driver.Capabilities{}},
		"all optional interfaces":           {full{}, all, all},
		"Limited to none":                   {proxy{}, driver.Capabilities{}, driver.Capabilities{}},
		"Limited to some":                   {proxy{honours: some}, some, some},
		"Limited to all":                    {proxy{honours: all}, all, all},
		"declares what it has no method of": {claimsAll{}, all, driver.Capabilities{}},
	} {
		if got := driver.CapabilitiesOf(c.backend); got != c.declares {
			t.Errorf("%s: CapabilitiesOf = %+v, want %+v", name, got, c.declares)
		}
		var is driver.Capabilities
		_, is.Batch = driver.AsBatcher(c.backend)
		_, is.History = driver.AsHistorian(c.backend)
		_, is.Watch = driver.AsWatcher(c.backend)
		_, is.Ping = driver.AsPinger(c.backend)
		_, is.Idempotent = driver.AsIdempotent(c.backend)
		_, is.Size = driver.AsSizer(c.backend)
		if is != c.is {
			t.Errorf("%s: AsBatcher and its siblings find %+v, want %+v", name, is, c.is)
		}
	}
}

func TestEventKindNames(t *testing.T) {
	for kind, want := range map[driver.EventKind]string{
		driver.EventPut: "put", driver.EventDelete: "delete", driver.EventSync: "sync", driver.EventProgress: "progress", 0: "unknown", 99: "unknown",
	} {
		if got := kind.String(); got != want {
			t.Errorf("event kind %d is %q, want %q", kind, got, want)
		}
	}
}

func TestClauses(t *testing.T) {
	names := driver.Clauses()
	if len(names) != 30 {
		t.Errorf("there are %d clauses, want 30", len(names))
	}
	for i, name := range names {
		if want := fmt.Sprintf("C%d", i+1); name != want {
			t.Errorf("clause %d is called %s, want %s", i+1, name, want)
		}
		text := driver.Clause(name)
		if !strings.HasPrefix(text, name+": ") || !strings.HasSuffix(text, ".") || strings.ContainsAny(text, "\n#/") {
			t.Errorf("the text of %s is %q", name, text)
		}
	}
	if got, want := driver.Clause("C6"), "C6: An empty value is a value. It comes back as an empty, non-nil slice."; got != want {
		t.Errorf("the text of C6 is %q, want %q", got, want)
	}
	for _, name := range []string{"", "C0", "C31", "C", "Words"} {
		if got := driver.Clause(name); got != "" {
			t.Errorf("there is no clause %q, and its text is %q", name, got)
		}
	}
}
