package latency

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// joinState is how many values of 1 KiB those who come in BenchmarkJoin are told.
const joinState = 100

// BenchmarkJoin: up to 1,000 watchers of one prefix come at once, as the clients of
// a replica do at another one when theirs has gone, until each of them has the state
// of 100 values, beside plain gRPC that sends the same to as many streams. The
// percentiles are those of single watchers, the time of an operation is that until
// the last one is up to date and all have left. "peak" is the most memory that the
// service and its plugin had, the smaller crowds' included. "local" is a store that
// is watched itself, "view" one that can not be.
func BenchmarkJoin(b *testing.B) {
	site := stack.NewSite(b)
	echo := startEchoTCP(b)
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	onView, _ := onFiles(b, site, "files")
	for _, store := range []struct{ name, manifest, plugin string }{
		{"local", onLocal(b, site, "joined"), site.LocalPlugin(b)}, {"view", onView, filepath.Base(self)},
	} {
		b.Run(store.name, func(b *testing.B) {
			replica := site.Start(b, store.name, store.manifest, fmt.Sprintf("TAGSTORE_WATCHES_PER_TENANT=%d", 2*slices.Max(crowds)))
			plugin, err := childOf(replica.PID(), filepath.Join(site.Dir, store.plugin))
			if err != nil {
				b.Fatal(err)
			}
			prepareState(b, site, replica)
			for _, watchers := range crowds {
				b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
					got := newSamples(2 * watchers * (b.N + 100))
					compare(b, 1, joinReplica(b, site, replica, watchers, got), joinEcho(b, echo, watchers))
					got.report(b) // in place of those of whole operations
					for name, pid := range map[string]int{"service": replica.PID(), "plugin": plugin} {
						peak, err := memoryOf(pid, "VmHWM:")
						if err != nil {
							b.Fatal(err)
						}
						b.ReportMetric(peak/1e6, name+"-peak-MB")
					}
				})
			}
		})
	}
}

// prepareState writes what is watched.
func prepareState(b *testing.B, site *stack.Site, replica *stack.Replica) {
	b.Helper()
	c := newClient(b, replica.Address)
	ctx := client.ContextWithToken(b.Context(), site.Token(b, tenant, auth.RoleEditor))
	for i := range joinState {
		if _, err := c.Put(ctx, client.PutRequest{Key: benchKey(b, i).Key, Value: value(i)}); err != nil {
			b.Fatal(err)
		}
	}
}

// join has so many come at once, each of whom is told the state and says with
// synced how much of it there was, and leaves when all have it.
func join(watchers int, got *samples, watch func(ctx context.Context, n int, synced func(values int) error) error) op {
	return func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		all := make(chan struct{})
		var have atomic.Int64
		began := time.Now()
		for n := range watchers {
			g.Go(func() error {
				err := watch(ctx, n, func(values int) error {
					if values != joinState {
						return fmt.Errorf("watcher %d was told %d values, there are %d", n, values, joinState)
					}
					got.add(time.Since(began))
					if have.Add(1) == int64(watchers) {
						close(all)
					}
					select {
					case <-all:
						return errAllHave
					case <-ctx.Done():
						return ctx.Err()
					}
				})
				if errors.Is(err, errAllHave) {
					return nil
				}
				return fmt.Errorf("watcher %d: %w", n, err)
			})
		}
		return g.Wait()
	}
}

var errAllHave = errors.New("all have the state")

// joinReplica has them come to a replica, with the client that users have.
func joinReplica(b *testing.B, site *stack.Site, replica *stack.Replica, watchers int, got *samples) op {
	b.Helper()
	clients := watchClients(b, replica, watchers)
	reader := site.Token(b, tenant, auth.RoleReader)
	return join(watchers, got, func(ctx context.Context, n int, synced func(int) error) error {
		values := 0
		return clients[n%len(clients)].Watch(client.ContextWithToken(ctx, reader), client.WatchRequest{KeyPrefix: "tenant_config_"}, func(e client.Event) error {
			switch e.Kind {
			case client.EventPut:
				values++
			case client.EventSync:
				return synced(values)
			case client.EventHeartbeat:
			default:
				return fmt.Errorf("the event is %v", e.Kind)
			}
			return nil
		})
	})
}

// joinEcho has them come to plain gRPC.
func joinEcho(b *testing.B, address string, watchers int) op {
	b.Helper()
	stubs := watchStubs(b, address, watchers)
	return join(watchers, nil, func(ctx context.Context, n int, synced func(int) error) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := stubs[n%len(stubs)].Watch(ctx, &tagstorev1.WatchRequest{KeyPrefix: strconv.Itoa(joinState)})
		if err != nil {
			return err
		}
		for values := 0; ; values++ {
			event, err := stream.Recv()
			if err != nil {
				return err
			}
			if event.GetSync() != nil {
				return synced(values)
			}
		}
	})
}
