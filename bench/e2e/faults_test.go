package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/plugintest"
)

// load is readers of cached keys, who note what they see.
type load struct {
	reads, failed, stale atomic.Int64
	slowest              atomic.Int64
}

func (l *load) read(t *testing.T, b *cache.Backend, key config.ID) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	begin := time.Now()
	answer, err := b.Read(ctx, key, cache.Want{})
	took := int64(time.Since(begin))
	for slowest := l.slowest.Load(); took > slowest && !l.slowest.CompareAndSwap(slowest, took); slowest = l.slowest.Load() {
	}
	l.reads.Add(1)
	if err != nil || answer.Absent {
		l.failed.Add(1)
		t.Errorf("a read of a cached key: absent %v, %v", answer.Absent, err)
	}
	if answer.Outdated {
		l.stale.Add(1)
	}
}

// testPlugin is a store that does on request what a plugin can do wrong.
const testPlugin = "github.com/tagstore/tagstore/core/pluginhost/internal/testplugin"

func send(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

// Whatever happens to a plugin's process, what the cache holds of its store is
// answered, and the plugin is back in time.
func TestFaultsUnderLoad(t *testing.T) {
	const keys, readers, maxFailures = 64, 16, 8
	pl := pluginhost.Plugin{Name: "tenants", Path: plugintest.Build(t, testPlugin), CallTimeout: 2 * time.Second}
	binary := filepath.Join(t.TempDir(), "plugin")
	link := func(to string) {
		t.Helper()
		if err := os.Remove(binary); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := os.Symlink(to, binary); err != nil {
			t.Fatal(err)
		}
	}
	mended := pl.Path
	link(mended)
	pl.Path, pl.Options = binary, json.RawMessage(fmt.Sprintf(`{"seed": %d}`, keys))
	quiet := slog.New(slog.DiscardHandler)
	sockets, err := os.MkdirTemp("", "ts") // short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	p, err := pluginhost.Start(t.Context(), pl, pluginhost.Options{SocketDir: sockets, MaxFailures: maxFailures, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := cache.New(cache.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	b := c.Wrap(p, cache.Policy{Prefix: "seed/", MaxStaleness: 200 * time.Millisecond, StaleIfError: time.Minute})
	tenant, err := config.ParseTenant("acme-corp") // whose keys the plugin has
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]config.ID, keys)
	var l load
	for i := range ids {
		ids[i] = config.ID{Tenant: tenant, Key: key(t, "seed/%d", i)}
		l.read(t, b, ids[i])
	}

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for r := range readers {
		wg.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for i := r; ctx.Err() == nil; i++ {
				l.read(t, b, ids[i%keys])
				<-tick.C
			}
		})
	}
	phase := func(name string, limit time.Duration, fault func() (recovered func() bool)) {
		t.Helper()
		reads, failed, stale := l.reads.Load(), l.failed.Load(), l.stale.Load()
		l.slowest.Store(0)
		begin := time.Now()
		recovered := fault()
		waitFor(t, name+": recovery", recovered)
		took := time.Since(begin)
		now := l.reads.Load()
		waitFor(t, name+": some reads", func() bool { return l.reads.Load() > now+4*readers })
		t.Logf("%-28s %8v; reads %6d, failed %d, stale %5d, slowest %v", name, took.Round(time.Millisecond),
			l.reads.Load()-reads, l.failed.Load()-failed, l.stale.Load()-stale, time.Duration(l.slowest.Load()).Round(time.Millisecond))
		if took > limit {
			t.Errorf("%s: it took %v; the status is %+v", name, took, p.Status())
		}
	}
	servedByOther := func(pid int) func() bool {
		return func() bool {
			s := p.Status()
			return s.State == pluginhost.StateServing && s.PID != pid
		}
	}
	phase("kill -9", 3*time.Second, func() func() bool {
		pid := p.Status().PID
		send(t, pid, syscall.SIGKILL)
		return servedByOther(pid)
	})
	phase("SIGSTOP", 5*time.Second, func() func() bool {
		pid := p.Status().PID
		send(t, pid, syscall.SIGSTOP)
		return servedByOther(pid)
	})
	phase("a fork holds stderr, kill -9", 3*time.Second, func() func() bool {
		e, err := p.Get(t.Context(), config.ID{Tenant: tenant, Key: key(t, "probe/grandchild")}, 0)
		if err != nil {
			t.Fatal(err)
		}
		grandchild, err := strconv.Atoi(string(e.Value))
		if err != nil {
			t.Fatal(err)
		}
		pid := p.Status().PID
		send(t, pid, syscall.SIGKILL)
		return func() bool { return servedByOther(pid)() && syscall.Kill(grandchild, 0) != nil }
	})
	phase("crash loop, until given up", 10*time.Second, func() func() bool {
		link("/bin/false")
		send(t, p.Status().PID, syscall.SIGKILL)
		return func() bool { return p.Status().State == pluginhost.StateFailed }
	})
	stale := l.stale.Load()
	waitFor(t, "what is held stands in for the plugin", func() bool { return l.stale.Load() > stale+4*keys })
	phase("mended and rearmed", 3*time.Second, func() func() bool {
		link(mended)
		p.Rearm()
		return servedByOther(0)
	})
	cancel()
	wg.Wait()
	if l.failed.Load() > 0 {
		t.Errorf("%d of %d reads failed", l.failed.Load(), l.reads.Load())
	}
}
