package plugintest

import (
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
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

// Attached has the program run by the test instead of by the plugin host, which
// then finds it at a socket, as it would find one in a container of its own.
func Attached() Option { return func(t *target) { t.attached = true } }

// AWS gives the plugin the AWS variables of the test's environment, as aws: true
// in the manifest would.
func AWS() Option { return func(t *target) { t.aws = true } }

// Unary has the host send each call as one of its own, as it does for a plugin
// that can not exchange.
func Unary() Option { return func(t *target) { t.unary = true } }

type target struct {
	program func(testing.TB) string // its path
	options func(testing.TB) any
	durable bool
	shared  bool
	changes int
	env     []string

	attached bool
	aws      bool
	unary    bool
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
	return open(func(t testing.TB) string { return Build(t, mainPkg) }, options, opts)
}

// RunBinary is Run for a program that is there already, be it written in Go or
// not. A path that is not absolute is one of the test's folder.
func RunBinary(t *testing.T, path string, options func(testing.TB) any, caps drivertest.Caps, opts ...Option) {
	t.Helper()
	drivertest.Run(t, caps, OpenBinary(path, options, opts...))
}

// OpenBinary is Open for a program that is there already.
func OpenBinary(path string, options func(testing.TB) any, opts ...Option) drivertest.Open {
	return open(func(t testing.TB) string {
		t.Helper()
		absolute, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		return absolute
	}, options, opts)
}

func open(program func(testing.TB) string, options func(testing.TB) any, opts []Option) drivertest.Open {
	target := target{program: program, options: options}
	for _, set := range opts {
		set(&target)
	}
	return target.open
}

func (c target) open(t testing.TB) *drivertest.Harness {
	t.Helper()
	binary := c.program(t)
	options, err := json.Marshal(c.options(t))
	if err != nil {
		t.Fatal(err)
	}
	sockets := socketFolder(t)
	start := func() (driver.Backend, error) {
		if c.attached {
			return c.attach(t, binary, options)
		}
		p, err := pluginhost.Start(t.Context(),
			pluginhost.Plugin{Name: "under-test", Path: binary, Options: options, Env: c.env, AWS: c.aws},
			pluginhost.Options{SocketDir: sockets, Dev: true, Unary: c.unary, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
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

// attach runs the program and connects to it.
func (c target) attach(t testing.TB, binary string, options json.RawMessage) (driver.Backend, error) {
	s := RunAlone(t, binary, filepath.Join(socketFolder(t), "plugin"), c.env...)
	p, err := pluginhost.Start(t.Context(),
		pluginhost.Plugin{Name: "under-test", Address: s.Address(), Options: options},
		pluginhost.Options{SocketDir: socketFolder(t), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		return nil, err
	}
	return &attached{p, s}, nil
}

// attached is a plugin whose program ends with the connection to it.
type attached struct {
	*pluginhost.Process
	program *Alone
}

// Close implements driver.Backend.
func (a *attached) Close() error {
	return errors.Join(a.Process.Close(), a.program.Stop())
}
