package plugintest

import (
	"encoding/json"
	"log/slog"
	"os"
	"testing"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// Option says more about a plugin's store.
type Option func(*target)

// Durable says that the store outlives its process: opened again with the same
// options, it holds what it held.
func Durable() Option { return func(t *target) { t.durable = true } }

// Shared says that two programs with the same options are on the same store: the
// harness has one as its Peer.
func Shared() Option { return func(t *target) { t.shared = true } }

// Changes is Harness.Changes of package drivertest.
func Changes(n int) Option { return func(t *target) { t.changes = n } }

// Env names variables of the test's environment that the plugin gets, as the
// manifest would.
func Env(names ...string) Option { return func(t *target) { t.env = names } }

type target struct {
	mainPkg string
	options func(testing.TB) any
	durable bool
	shared  bool
	changes int
	env     []string
}

// Run holds the plugin with this main package against the conformance suite,
// through a process of its own for each case. options returns what would stand
// in the manifest, as a value that encoding/json takes, for a store that
// nothing else uses; it may use the testing.TB's TempDir and Cleanup.
func Run(t *testing.T, mainPkg string, options func(testing.TB) any, caps drivertest.Caps, opts ...Option) {
	t.Helper()
	drivertest.Run(t, caps, Open(mainPkg, options, opts...))
}

// Open is what Run gives to package drivertest; its Bench takes it too.
func Open(mainPkg string, options func(testing.TB) any, opts ...Option) drivertest.Open {
	target := target{mainPkg: mainPkg, options: options}
	for _, set := range opts {
		set(&target)
	}
	return target.open
}

func (c target) open(t testing.TB) *drivertest.Harness {
	t.Helper()
	binary := Build(t, c.mainPkg)
	options, err := json.Marshal(c.options(t))
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: the path of a socket must be short.
	sockets, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	start := func() (driver.Backend, error) {
		p, err := pluginhost.Start(t.Context(),
			pluginhost.Plugin{Name: "under-test", Path: binary, Options: options, Env: c.env},
			pluginhost.Options{SocketDir: sockets, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	backend, err := start()
	if err != nil {
		t.Fatal(err)
	}
	h := &drivertest.Harness{Backend: backend, Changes: c.changes}
	if c.shared {
		if h.Peer, err = start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := h.Peer.Close(); err != nil {
				t.Errorf("Close of the peer: %v", err)
			}
		})
	}
	if c.durable {
		h.Reopen = start
	}
	return h
}
