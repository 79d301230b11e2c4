package latency

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/pluginhost"
)

const (
	batch = 64
	page  = 100
)

func keyName(i int) string { return fmt.Sprintf("tenant_config_bench/%04d", i) }

// BenchmarkGet: one value of 1 KiB through the host and the local plugin,
// beside plain gRPC over a unix socket with the same payload.
func BenchmarkGet(b *testing.B) {
	backend, echo := startLocal(b), startEcho(b)
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			id := seed(b, backend, 1)[0]
			compare(b, callers,
				func(ctx context.Context) error { _, err := backend.Get(ctx, id, 0); return err },
				func(ctx context.Context) error {
					_, err := echo.Get(ctx, &tagstorev1.GetRequest{Key: id.Key.String()})
					return err
				})
		})
	}
}

// BenchmarkBatchGet64: 64 values in one call, beside the same answer from plain
// gRPC.
func BenchmarkBatchGet64(b *testing.B) {
	backend, echo := startLocal(b), startEcho(b)
	batcher, ok := driver.AsBatcher(backend)
	if !ok {
		b.Fatal("the local plugin does not batch")
	}
	ids := seed(b, backend, batch)
	keys := make([]string, batch)
	for i, id := range ids {
		keys[i] = id.Key.String()
	}
	compare(b, 1,
		func(ctx context.Context) error {
			results, err := batcher.BatchGet(ctx, ids)
			if err == nil && len(results) != batch {
				err = fmt.Errorf("%d results for %d keys", len(results), batch)
			}
			return err
		},
		func(ctx context.Context) error {
			_, err := echo.BatchGet(ctx, &tagstorev1.BatchGetRequest{Keys: keys})
			return err
		})
}

// BenchmarkList100: a page of 100 values, beside the same answer from plain
// gRPC.
func BenchmarkList100(b *testing.B) {
	backend, echo := startLocal(b), startEcho(b)
	id := seed(b, backend, page)[0]
	compare(b, 1,
		func(ctx context.Context) error {
			p, err := backend.List(ctx, driver.ListRequest{Tenant: id.Tenant, Service: id.Service, KeyPrefix: "tenant_config_bench/", PageSize: page})
			if err == nil && len(p.Entries) != page {
				err = fmt.Errorf("%d entries on the page, want %d", len(p.Entries), page)
			}
			return err
		},
		func(ctx context.Context) error {
			_, err := echo.List(ctx, &tagstorev1.ListRequest{PageSize: page})
			return err
		})
}

// BenchmarkPut: one durable write of 1 KiB through the host and the local
// plugin, beside a bare bbolt transaction with its fsync on the same disk.
func BenchmarkPut(b *testing.B) {
	backend, bare := startLocal(b), openBare(b)
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			compare(b, callers, put(backend), bare)
		})
	}
}

// BenchmarkPutGroupCommit: how many times the durable writes of one caller 64
// callers reach.
func BenchmarkPutGroupCommit(b *testing.B) {
	speedup(b, 64, put(startLocal(b)))
}

// put writes to a key of its own each time, so that no two calls wait for each
// other's version.
func put(backend driver.Backend) op {
	var n atomic.Int64
	return func(ctx context.Context) error {
		i := int(n.Add(1))
		id, err := benchID(i % 1000)
		if err != nil {
			return err
		}
		_, err = backend.Put(ctx, driver.PutRequest{ID: id, Value: value(i % 1000), UpdatedBy: "bench"})
		return err
	}
}

func benchID(i int) (config.ID, error) {
	tenant, err := config.ParseTenant("bench")
	if err != nil {
		return config.ID{}, err
	}
	key, err := config.ParseKey(keyName(i))
	return config.ID{Tenant: tenant, Key: key}, err
}

// startLocal runs the local plugin's real binary under the real host.
func startLocal(b *testing.B) *pluginhost.Process {
	b.Helper()
	bin := stack.Build(b)
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		b.Fatal(err)
	}
	options, err := json.Marshal(map[string]any{"path": filepath.Join(dir, "bench.db")})
	if err != nil {
		b.Fatal(err)
	}
	process, err := pluginhost.Start(b.Context(), pluginhost.Plugin{
		Name: "local", Path: filepath.Join(bin, "plugins", "tagstore-plugin-local"), Dir: dir, Options: options,
	}, pluginhost.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := process.Close(); err != nil {
			b.Error(err)
		}
		os.RemoveAll(dir)
	})
	return process
}

func seed(b *testing.B, backend driver.Backend, n int) []config.ID {
	b.Helper()
	ids := make([]config.ID, n)
	for i := range ids {
		id, err := benchID(i)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := backend.Put(b.Context(), driver.PutRequest{ID: id, Value: value(i)}); err != nil {
			b.Fatal(err)
		}
		ids[i] = id
	}
	return ids
}

// openBare is bbolt as its documentation shows it: one Update, one fsync.
func openBare(b *testing.B) op {
	b.Helper()
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		b.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(dir, "bare.db"), 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
		os.RemoveAll(dir)
	})
	name := []byte("b")
	if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(name); return err }); err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	return func(context.Context) error {
		i := int(n.Add(1)) % 1000
		return db.Update(func(tx *bbolt.Tx) error {
			return tx.Bucket(name).Put([]byte(keyName(i)), value(i))
		})
	}
}
