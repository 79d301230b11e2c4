package localbackend

import (
	"bytes"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
)

func BenchmarkStore(b *testing.B) { drivertest.Bench(b, inProcess) }

// BenchmarkDurablePut measures fsynced writes of 512 bytes beside what bare
// bbolt takes for one after the other on the same disk in the same run:
// "ratio" is the time per write over that of bare bbolt, so 0.1 with 64 callers
// is ten times its rate. "writes/commit" says how many shared an fsync.
func BenchmarkDurablePut(b *testing.B) {
	value := bytes.Repeat([]byte("v"), 512)
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := openStore(b, Options{Path: tempFile(b)})
			ids := make([]config.ID, callers)
			for i := range ids {
				ids[i] = id(b, "acme", fmt.Sprint("k", i))
				put(b, s, ids[i], "")
			}
			bare := bareBolt(b, value)
			before := s.commits.Load()
			var calls atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for i := range callers {
				wg.Go(func() {
					for calls.Add(1) <= int64(b.N) {
						if _, err := s.Put(b.Context(), driver.PutRequest{ID: ids[i], Value: value}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			perWrite := b.Elapsed() / time.Duration(b.N)
			b.ReportMetric(float64(perWrite)/float64(bare), "ratio")
			b.ReportMetric(float64(b.N)/float64(s.commits.Load()-before), "writes/commit")
		})
	}
}

// bareBolt returns the time that one durable write takes with bbolt alone.
func bareBolt(b *testing.B, value []byte) time.Duration {
	b.Helper()
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "bare.db"), 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer closeIt(b, db)
	const writes = 200
	begun := time.Now()
	for i := range writes {
		err := db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("bucket"))
			if err != nil {
				return err
			}
			return bucket.Put(fmt.Append(nil, i), value)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(begun) / writes
}

// BenchmarkOpen measures the look through a whole file that Open takes, in
// bytes of the file per second.
func BenchmarkOpen(b *testing.B) {
	path := tempFile(b)
	s := openStore(b, Options{Path: path})
	for i := range 64 {
		put(b, s, id(b, "acme", fmt.Sprint("k", i)), string(bytes.Repeat([]byte("v"), 512<<10)))
	}
	size, err := s.Size(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	closeIt(b, s)
	b.SetBytes(size.Bytes)
	for b.Loop() {
		s, err := Open(b.Context(), Options{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		closeIt(b, s)
	}
}
