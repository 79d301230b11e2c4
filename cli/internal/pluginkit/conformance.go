package pluginkit

import (
	"context"
	"log/slog"
	"regexp"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// Suite holds a plugin to the driver contract. What the plugin has to be able to
// do is what it declares, no less and no more.
type Suite struct {
	Target
	// Durable says that the store outlives its process, Shared that two
	// processes can be on it at once: there are cases for both.
	Durable, Shared bool
	MaxValue        int // drivertest.Caps.MaxValue
	Patience        time.Duration
	Only            *regexp.Regexp // of the cases' names; nil is all of them
}

// Run calls each for every case as it ends, and returns what the plugin says of
// itself. An error is one of the plugin that could not be started at all.
func (s Suite) Run(ctx context.Context, each func(drivertest.Verdict)) (pluginhost.Description, error) {
	d, err := Inspect(ctx, s.Target, true, slog.New(slog.DiscardHandler))
	if err != nil {
		return d, err
	}
	e := drivertest.Examination{Caps: claim(d, s.MaxValue), Patience: s.Patience}
	if s.Only != nil {
		e.Only = func(c drivertest.Case) bool { return s.Only.MatchString(c.Name) }
	}
	return d, drivertest.Examine(ctx, e, s.open, each)
}

func claim(d pluginhost.Description, maxValue int) drivertest.Caps {
	c := d.Capabilities
	return drivertest.Caps{
		Batch: c.Batch, History: c.History, Watch: c.Watch, Ping: c.Ping, Idempotent: c.Idempotent, Size: c.Size, Refresh: c.Refresh,
		Caveats: d.Caveats, MaxValue: maxValue,
	}
}

// open gives a case a store and a process of its own.
func (s Suite) open(t testing.TB) *drivertest.Harness {
	store, err := s.newStore(slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.remove(); err != nil {
			t.Errorf("what the store left behind can not be removed: %v", err)
		}
	})
	start := func() (driver.Backend, error) {
		p, err := store.open(t.Context())
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	backend, err := start()
	if err != nil {
		t.Fatalf("the plugin does not start: %v", err)
	}
	h := &drivertest.Harness{Backend: backend}
	if s.Shared {
		if h.Peer, err = start(); err != nil {
			t.Fatalf("a second process on the same store does not start: %v", err)
		}
		t.Cleanup(func() {
			if err := h.Peer.Close(); err != nil {
				t.Errorf("Close of the peer: %v", err)
			}
		})
	}
	if s.Durable {
		h.Reopen = start
	}
	return h
}
