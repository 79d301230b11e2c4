package pluginhost_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/wire"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// BenchmarkGet: one value of 1 KiB through the host, beside a plain gRPC client
// on the same socket of the same process. The two take turns, round by round;
// ratio is the median of the rounds. cpu-ratio is the same of the processor time
// of both processes, on which a busy machine has less of an influence.
func BenchmarkGet(b *testing.B) {
	sockets := socketDir(b)
	p := start(b, plugin(b), pluginhost.Options{SocketDir: sockets})
	key := id(b, "probe/bytes-1024")
	plain := plainClient(b, sockets)
	request := &backendv1.GetRequest{Id: wire.ID(key)}
	for name, callers := range map[string]int{"callers=1": 1, "callers=64": 64} {
		b.Run(name, func(b *testing.B) {
			const rounds = 20
			chunk := max(callers, b.N/rounds)
			var ratios, bases []float64
			var cpu, plainCPU time.Duration
			cpuOf := func(run func() time.Duration, into *time.Duration) time.Duration {
				before := processorTime(b, p.Status().PID)
				took := run()
				*into += processorTime(b, p.Status().PID) - before
				return took
			}
			host := func(ctx context.Context) error { _, err := p.Get(ctx, key, 0); return err }
			direct := func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, pluginhost.DefaultCallTimeout)
				defer cancel()
				_, err := plain.Get(ctx, request)
				return err
			}
			inTurn(b, callers, chunk, direct)
			inTurn(b, callers, chunk, host)
			b.ReportAllocs()
			b.ResetTimer()
			b.StopTimer()
			for done := 0; done < b.N; done += chunk {
				base := cpuOf(func() time.Duration { return inTurn(b, callers, chunk, direct) }, &plainCPU)
				mine := cpuOf(func() time.Duration {
					b.StartTimer()
					defer b.StopTimer()
					return inTurn(b, callers, chunk, host)
				}, &cpu)
				ratios = append(ratios, float64(mine)/float64(base))
				bases = append(bases, float64(base)/float64(chunk))
			}
			slices.Sort(ratios)
			slices.Sort(bases)
			b.ReportMetric(ratios[len(ratios)/2], "ratio")
			b.ReportMetric(bases[len(bases)/2], "plain-ns/op")
			b.ReportMetric(float64(cpu)/float64(plainCPU), "cpu-ratio")
		})
	}
}

// processorTime is what this process and that one have used so far.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		b.Fatal(err)
	}
	total := time.Duration(self.Utime.Nano() + self.Stime.Nano())
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		b.Fatal(err, "no such process")
	}
	for _, path := range threads {
		var ran int64
		if text, err := os.ReadFile(path); err == nil {
			_, _ = fmt.Sscan(string(text), &ran)
			total += time.Duration(ran)
		}
	}
	return total
}

func inTurn(b *testing.B, callers, n int, call func(context.Context) error) time.Duration {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for range callers {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				if err := call(b.Context()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begin)
}

// plainClient connects to the only socket in there, with nothing of the host's.
func plainClient(t testing.TB, sockets string) backendv1.BackendServiceClient {
	t.Helper()
	for _, dir := range launchDirs(t, sockets) {
		found, _ := filepath.Glob(filepath.Join(dir, "plugin*"))
		for _, path := range found {
			if info, err := os.Stat(path); err != nil || info.Mode()&os.ModeSocket == 0 {
				continue
			}
			conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			return backendv1.NewBackendServiceClient(conn)
		}
	}
	t.Fatal("no socket")
	return nil
}
