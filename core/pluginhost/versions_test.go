package pluginhost_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/plugintest"
	"github.com/tagstore/tagstore/core/router"
)

// speaking returns the test plugin as a release with these versions would have
// it.
func speaking(t testing.TB, versions string) pluginhost.Plugin {
	t.Helper()
	return pluginhost.Plugin{
		Name: "test", Path: plugintest.Build(t, testPlugin, "-tags=tagstore_neighbour"), Args: []string{"serve", "-protocol=" + versions},
	}
}

// The present release's version is N here, and the one before it is N-1. The two
// ends of one version are held to the contract by other tests.
func TestR19Neighbours(t *testing.T) {
	t.Parallel()
	const n = 2
	for _, c := range []struct {
		name   string
		host   []int
		plugin string
		speak  int
	}{
		{"host N, plugin N", []int{n, n - 1}, "2,1", n},
		{"host N, plugin N-1", []int{n, n - 1}, "1", n - 1},
		{"host N-1, plugin N", []int{n - 1}, "2,1", n - 1},
		{"host N-1, plugin N-1", []int{n - 1}, "1", n - 1},
		{"host N alone, plugin N alone", []int{n}, "2", n},
	} {
		t.Run(c.name, func(t *testing.T) {
			pl := speaking(t, c.plugin)
			serve := func(t testing.TB) *drivertest.Harness {
				p, err := pluginhost.Start(t.Context(), pl, pluginhost.Options{
					SocketDir: socketDir(t), Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
				}.WithVersions(c.host...))
				if err != nil {
					t.Fatal(err)
				}
				if got := p.Description().Protocol; got != c.speak {
					t.Errorf("they speak version %d, want %d", got, c.speak)
				}
				return &drivertest.Harness{Backend: p}
			}
			if len(c.host) == len(strings.Split(c.plugin, ",")) {
				b := serve(t).Backend
				t.Cleanup(func() {
					if err := b.Close(); err != nil {
						t.Error(err)
					}
				})
				if _, err := b.Put(t.Context(), driver.PutRequest{ID: id(t, "k"), Value: []byte("v")}); err != nil {
					t.Error(err)
				}
				return
			}
			drivertest.Run(t, drivertest.Caps{
				Batch: true, History: true, Watch: true, Ping: true, Idempotent: true, Size: true, MaxValue: 1 << 20,
			}, serve)
		})
	}
}

// Further apart than neighbours, neither end pretends to understand the other.
func TestR19StrangersAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		host   []int
		plugin string
		says   []string
	}{
		{[]int{3, 2}, "1", []string{`version "1"`, "this host speaks 3, 2", "this plugin speaks 1, its host 3, 2"}},
		{[]int{1}, "3,2", []string{"this host speaks 1", "this plugin speaks 3, 2, its host 1"}},
	} {
		t.Run(fmt.Sprintf("host %v, plugin %s", c.host, c.plugin), func(t *testing.T) {
			t.Parallel()
			p, err := pluginhost.Start(t.Context(), speaking(t, c.plugin),
				pluginhost.Options{SocketDir: socketDir(t), Logger: slog.New(slog.DiscardHandler)}.WithVersions(c.host...))
			if err == nil {
				_ = p.Close()
				t.Fatal("it started")
			}
			wantCode(t, err, config.FailedPrecondition)
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q:\n%v", want, err)
				}
			}
		})
	}
}

func TestR19FeatureBits(t *testing.T) {
	t.Parallel()
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	if s := p.Status(); !slices.Contains(s.Features, "reconfigure") {
		t.Errorf("features are %v", s.Features)
	}
	// One that declares none has none, and serves.
	bare := start(t, raw(t), pluginhost.Options{SocketDir: socketDir(t)})
	if s := bare.Status(); len(s.Features) > 0 || s.State != pluginhost.StateServing {
		t.Errorf("status is %+v", s)
	}
}

// The instance is named with every call, beside what the caller's metadata has.
func TestR24InstanceIsNamed(t *testing.T) {
	t.Parallel()
	pl, marks := marked(t)
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	if got := probe(t, p, "instance"); got != "test" {
		t.Errorf("the instance is %q", got)
	}
	if lines := markLines(t, marks+"opened"); !slices.Equal(lines, []string{"test"}) {
		t.Errorf("Configure came with %q", lines)
	}
	pl.Instance, pl.Options = "test/param_config_", json.RawMessage("{}")
	if got := probe(t, start(t, pl, pluginhost.Options{SocketDir: socketDir(t)}), "instance"); got != "test/param_config_" {
		t.Errorf("the instance is %q", got)
	}
	pl.Instance = "né"
	_, err := pluginhost.Start(t.Context(), pl, pluginhost.Options{SocketDir: socketDir(t)})
	wantCode(t, err, config.InvalidArgument)
}

// A hundred prefixes are one process; a new one is configured before anybody
// gets to it.
func TestR24HundredRoutesAreOneProcess(t *testing.T) {
	t.Parallel()
	pl, marks := marked(t)
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	table := hundredRoutes(t, p)
	read := func() map[string]bool {
		pids := map[string]bool{}
		for i := range 100 {
			k := id(t, fmt.Sprintf("r%d_config_x", i))
			route, _, err := table.Match(k.Key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := route.Backend.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("v")}); err != nil {
				t.Fatalf("route %s: %v", route.Prefix, err)
			}
			e, err := route.Backend.Get(t.Context(), id(t, "probe/pid"), 0)
			if err != nil {
				t.Fatalf("route %s: %v", route.Prefix, err)
			}
			pids[string(e.Value)] = true
		}
		return pids
	}
	first := read()
	kill(t, p.Status().PID)
	eventually(t, 30*time.Second, "the end is seen", func() bool { return p.Status().Restarts == 1 || p.Status().PID == 0 })
	second := read()
	if len(first) != 1 || len(second) != 1 {
		t.Errorf("the routes were answered by %v, and then by %v", first, second)
	}
	if lines := markLines(t, marks+"opened"); len(lines) != 2 {
		t.Errorf("it was configured %d times", len(lines))
	}
}

func markLines(t testing.TB, path string) []string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(raw)), "\n")
}

func hundredRoutes(t testing.TB, b driver.Backend) *router.Table {
	t.Helper()
	var routes []router.Route
	for i := range 100 {
		routes = append(routes, router.Route{Prefix: fmt.Sprintf("r%d_config_", i), BackendName: "test", Backend: b})
	}
	table, err := router.NewTable(routes)
	if err != nil {
		t.Fatal(err)
	}
	return table
}
