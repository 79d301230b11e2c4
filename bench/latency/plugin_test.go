package latency

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/spread"
	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/pluginmain"
	"github.com/tagstore/tagstore/emulators"
)

// The plugin suite: what it costs that a store is a process of its own.

// memoryRole makes the test binary serve values from memory as a plugin instead
// of testing: of its calls the way there and back is all that counts.
const memoryRole = "memory"

func serveMemory() {
	pluginmain.Serve(pluginmain.Plugin[struct{}]{
		Name: "memory", Version: "v0.0.0",
		Open: func(context.Context, struct{}) (driver.Backend, error) { return memdriver.New(), nil },
	})
}

// startMemory runs that plugin under the real host.
func startMemory(b *testing.B, unary bool) *pluginhost.Process {
	b.Helper()
	process, err := pluginhost.Start(b.Context(), pluginhost.Plugin{Name: memoryRole, Path: os.Args[0], Args: []string{memoryRole}},
		pluginhost.Options{Logger: slog.New(slog.DiscardHandler), Unary: unary})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := process.Close(); err != nil {
			b.Error(err)
		}
	})
	return process
}

func get(backend driver.Backend, id config.ID) op {
	return func(ctx context.Context) error { _, err := backend.Get(ctx, id, 0); return err }
}

// ways are the two in which the host calls a plugin.
var ways = []struct {
	name  string
	unary bool
}{{"exchange", false}, {"unary", true}}

// BenchmarkPluginGet: one value of 1 KiB through the host and a plugin that has
// it in memory, beside plain gRPC over a unix socket with the same payload.
func BenchmarkPluginGet(b *testing.B) {
	echo := startEcho(b)
	for _, way := range ways {
		backend := startMemory(b, way.unary)
		id := seed(b, backend, 1)[0]
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/callers=%d", way.name, callers), func(b *testing.B) {
				compare(b, callers, get(backend, id), func(ctx context.Context) error {
					_, err := echo.Get(ctx, &tagstorev1.GetRequest{Key: id.Key.String()})
					return err
				})
			})
		}
	}
}

// BenchmarkPluginExchange: the same call over a stream that stays open, beside
// one of its own to the same program.
func BenchmarkPluginExchange(b *testing.B) {
	exchanged, unary := startMemory(b, false), startMemory(b, true)
	id := seed(b, exchanged, batch)[0]
	ids := seed(b, unary, batch)
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			compare(b, callers, get(exchanged, id), get(unary, id))
		})
	}
	b.Run("BatchGet64", func(b *testing.B) {
		ask := func(backend driver.Batcher) op {
			return func(ctx context.Context) error { _, err := backend.BatchGet(ctx, ids); return err }
		}
		compare(b, 1, ask(exchanged), ask(unary))
	})
	b.Run("Value1MB", func(b *testing.B) {
		large, err := benchID(batch)
		if err != nil {
			b.Fatal(err)
		}
		for _, backend := range []driver.Backend{exchanged, unary} {
			if _, err := backend.Put(b.Context(), driver.PutRequest{ID: large, Value: make([]byte, 1e6)}); err != nil {
				b.Fatal(err)
			}
		}
		compare(b, 1, get(exchanged, large), get(unary, large))
	})
}

// BenchmarkPluginLaunch: from nothing to the first answer of the local plugin,
// beside the start and end of the same program, which says only how it is used.
func BenchmarkPluginLaunch(b *testing.B) {
	path := filepath.Join(stack.Build(b), "plugins", "tagstore-plugin-local")
	id, err := benchID(0)
	if err != nil {
		b.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	options, err := json.Marshal(map[string]any{"path": filepath.Join(dir, "bench.db")})
	if err != nil {
		b.Fatal(err)
	}
	var ratios, bare []float64
	b.ResetTimer()
	b.StopTimer()
	for range b.N {
		began := time.Now()
		var exit *exec.ExitError
		if err := exec.CommandContext(b.Context(), path).Run(); !errors.As(err, &exit) {
			b.Fatalf("run by hand it ended with %v", err)
		}
		base := time.Since(began)
		began = time.Now()
		b.StartTimer()
		process, err := pluginhost.Start(b.Context(), pluginhost.Plugin{Name: "local", Path: path, Dir: dir, Options: options},
			pluginhost.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := process.Get(b.Context(), id, 0); !errors.Is(err, config.NotFound) {
			b.Fatal(err)
		}
		b.StopTimer()
		ratios = append(ratios, float64(time.Since(began))/float64(base))
		bare = append(bare, float64(base.Nanoseconds()))
		if err := process.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(spread.Median(ratios), "ratio")
	b.ReportMetric(spread.Median(bare), "baseline-ns/op")
}

// BenchmarkPluginResident: what the local plugin's process takes when it has
// just started, and behind calls of 64 callers.
func BenchmarkPluginResident(b *testing.B) {
	process := startLocal(b)
	id := seed(b, process, 1)[0]
	b.ReportMetric(0, "ns/op") // which means nothing here
	fresh, err := residentSetOf(process.Status().PID)
	if err != nil {
		b.Fatal(err)
	}
	run(b, 64, 20_000, get(process, id), nil)
	loaded, err := residentSetOf(process.Status().PID)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(fresh/1e6, "resident-MB")
	b.ReportMetric(loaded/1e6, "loaded-MB")
}

// threePlugins is a manifest with the routes of `tagctl dev` and a third one.
const threePlugins = `version: 1
backends:
  tenants:
    plugin: ./plugins/tagstore-plugin-local
    options: { path: data/tenants.db }
  params:
    plugin: ./plugins/tagstore-plugin-local
    options: { path: data/params.db }
  third:
    plugin: ./plugins/%s
    options: %s
    aws: %t
routes:
  - prefix: tenant_config_
    backend: tenants
    layers: ["{tenant}/{service}", "{tenant}"]
    cache: { mode: event, max_staleness: 60s }
  - prefix: param_config_
    backend: params
    layers: ["{tenant}/{service}", "{tenant}", "shared"]
    cache: { mode: event, max_staleness: 60s }
  - prefix: third_
    backend: third
`

// BenchmarkPluginSystem: the whole system, three plugins and both services,
// from the start of tagctl until both are ready, and what the five processes
// take then. It is one plugin's program three times, or two and DynamoDB's.
func BenchmarkPluginSystem(b *testing.B) {
	b.Run("local", func(b *testing.B) {
		system(b, fmt.Sprintf(threePlugins, "tagstore-plugin-local", "{ path: data/third.db }", false))
	})
	b.Run("dynamodb", func(b *testing.B) {
		endpoint := emulator(b, emulators.DynamoDBLocalURL)
		table := newTable(b, endpoint)
		for _, variable := range emulators.Environ(endpoint) {
			name, value, _ := strings.Cut(variable, "=")
			b.Setenv(name, value)
		}
		system(b, fmt.Sprintf(threePlugins, "tagstore-plugin-dynamodb", fmt.Sprintf("{ table: %s }", table), true))
	})
}

func system(b *testing.B, manifest string) {
	b.Helper()
	s := stack.Start(b)
	s.Stop(b)
	s.Plugin(b, "tagstore-plugin-dynamodb")
	if err := os.WriteFile(filepath.Join(s.Dir, "tagstore.yaml"), []byte(manifest), 0o600); err != nil {
		b.Fatal(err)
	}
	var ready, resident []float64
	for range rounds {
		s.Boot(b)
		ready = append(ready, float64(s.StartedIn.Nanoseconds()))
		total, processes := 0.0, 0
		for pid, name := range s.Processes(b) {
			if name == "tagctl" {
				continue
			}
			set, err := residentSetOf(pid)
			if err != nil {
				b.Fatal(err)
			}
			total += set
			processes++
		}
		if processes != 5 {
			b.Fatalf("the system has %d processes, want 5: %v", processes, s.Processes(b))
		}
		resident = append(resident, total)
		s.Stop(b)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(spread.Median(ready), "ready-ns")
	b.ReportMetric(spread.Median(resident)/1e6, "resident-MB")
}
