package latency

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/fanout"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// tenant is that of benchID.
const tenant = "bench"

// cachedRoute is a manifest of one cached route to a store.
func cachedRoute(plugin, args, options string) string {
	return fmt.Sprintf(`version: 1
backends:
  store: { plugin: ./%s, args: [%s], options: { path: %s } }
routes:
  - prefix: tenant_config_
    backend: store
    layers: ["{tenant}"]
    cache: { mode: event, max_staleness: 60s, stale_if_error: 1h, negative_ttl: 2s }
`, plugin, args, options)
}

// onLocal is cachedRoute for the local store, which can be watched, in a file of
// that name.
func onLocal(b *testing.B, site *stack.Site, name string) string {
	b.Helper()
	return cachedRoute(site.LocalPlugin(b), "", name+".db")
}

// onFiles is cachedRoute for a store of files in a folder of that name, which
// replicas share and which can not be watched. It returns the store, too.
func onFiles(b *testing.B, site *stack.Site, name string) (string, driver.Backend) {
	b.Helper()
	dir := filepath.Join(site.Dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		b.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	store, err := openFiles(b.Context(), filesOptions{Path: dir})
	if err != nil {
		b.Fatal(err)
	}
	return cachedRoute(site.Plugin(b, self), filesRole, dir), store
}

func newClient(b *testing.B, address string, opts ...client.Option) *client.Client {
	b.Helper()
	c, err := client.New(address, opts...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

func benchKey(b *testing.B, i int) config.ID {
	b.Helper()
	id, err := benchID(i)
	if err != nil {
		b.Fatal(err)
	}
	return id
}

// BenchmarkCachedGet: an authenticated Get of a value of 1 KiB that the service
// has in memory, over gRPC, beside plain gRPC that answers the same payload from
// another process. "client" calls as users do, "stub" as plain gRPC does, with
// the token in the call's metadata: the difference is core/client's. "tokens" is
// "stub" beside an echo that verifies the token of each call, and TokenEcho what
// that takes.
func BenchmarkCachedGet(b *testing.B) {
	site := stack.NewSite(b)
	replica := site.Start(b, "replica", onLocal(b, site, "replica"))
	c := newClient(b, replica.Address)
	id := benchKey(b, 0)
	editor := client.ContextWithToken(b.Context(), site.Token(b, tenant, auth.RoleEditor))
	if _, err := c.Put(editor, client.PutRequest{Key: id.Key, Value: value(0)}); err != nil {
		b.Fatal(err)
	}
	token := site.Token(b, tenant, auth.RoleReader)
	stub := tagstorev1.NewConfigServiceClient(dial(b, replica.Address))
	echo := dialEcho(b, startEchoTCP(b))
	request := &tagstorev1.GetRequest{Key: id.Key.String()}
	bare := func(ctx context.Context) error { _, err := echo.Get(ctx, request); return err }
	calls := map[string]op{
		"client": func(ctx context.Context) error {
			a, err := c.Get(client.ContextWithToken(ctx, token), id.Key, config.Service{})
			return errors.Join(err, is(err != nil || a.Freshness.Source == config.SourceCache, "the value is not in memory"))
		},
		"stub": func(ctx context.Context) error {
			a, err := stub.Get(bearer(ctx, token), request)
			return errors.Join(err, is(err != nil || a.GetFreshness().GetSource() == tagstorev1.Source_SOURCE_CACHE, "the value is not in memory"))
		},
	}
	verified := startTokenEcho(b, site.Verifier(), token)
	for _, callers := range []int{1, 64} {
		for _, by := range []string{"client", "stub"} {
			b.Run(fmt.Sprintf("%s/callers=%d", by, callers), func(b *testing.B) { compare(b, callers, calls[by], bare) })
		}
		b.Run(fmt.Sprintf("tokens/callers=%d", callers), func(b *testing.B) {
			compare(b, callers, calls["stub"], func(ctx context.Context) error {
				_, err := verified.Get(bearer(ctx, token), request)
				return err
			})
		})
	}
}

// BenchmarkTokenEcho: plain gRPC that verifies the token of each call, which it
// remembers, beside the same without tokens.
func BenchmarkTokenEcho(b *testing.B) {
	site := stack.NewSite(b)
	token := site.Token(b, tenant, auth.RoleReader)
	echo, verified := dialEcho(b, startEchoTCP(b)), startTokenEcho(b, site.Verifier(), token)
	request := &tagstorev1.GetRequest{Key: keyName(0)}
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			compare(b, callers, func(ctx context.Context) error {
				_, err := verified.Get(bearer(ctx, token), request)
				return err
			}, func(ctx context.Context) error { _, err := echo.Get(ctx, request); return err })
		})
	}
}

// BenchmarkStreamedGet: the same value over a stream that stays open
// (client.WithStreams), beside a Get of its own of the same service by plain gRPC,
// which is the faster of the two that CachedGet has. "echo" is beside the bare
// echo, and "client" beside a Get of its own by core/client.
func BenchmarkStreamedGet(b *testing.B) {
	site := stack.NewSite(b)
	replica := site.Start(b, "replica", onLocal(b, site, "replica"))
	id := benchKey(b, 0)
	plain, streamed := newClient(b, replica.Address), newClient(b, replica.Address, client.WithStreams())
	editor := client.ContextWithToken(b.Context(), site.Token(b, tenant, auth.RoleEditor))
	if _, err := plain.Put(editor, client.PutRequest{Key: id.Key, Value: value(0)}); err != nil {
		b.Fatal(err)
	}
	token := site.Token(b, tenant, auth.RoleReader)
	by := func(c *client.Client) op {
		return func(ctx context.Context) error {
			a, err := c.Get(client.ContextWithToken(ctx, token), id.Key, config.Service{})
			return errors.Join(err, is(err != nil || a.Freshness.Source == config.SourceCache, "the value is not in memory"))
		}
	}
	stub := tagstorev1.NewConfigServiceClient(dial(b, replica.Address))
	echo := dialEcho(b, startEchoTCP(b))
	request := &tagstorev1.GetRequest{Key: id.Key.String()}
	for _, callers := range []int{1, 64} {
		for _, beside := range []struct {
			name string
			call op
		}{
			{"", func(ctx context.Context) error {
				_, err := stub.Get(bearer(ctx, token), request)
				return err
			}},
			{"client/", by(plain)},
			{"echo/", func(ctx context.Context) error { _, err := echo.Get(ctx, request); return err }},
		} {
			b.Run(fmt.Sprintf("%scallers=%d", beside.name, callers), func(b *testing.B) { compare(b, callers, by(streamed), beside.call) })
		}
	}
}

// BenchmarkBatchPerKey: a BatchGet of 64 values that the service has in memory,
// beside a Get of one of them from the same service. "x-cheaper" is how many
// times less a key costs.
func BenchmarkBatchPerKey(b *testing.B) {
	site := stack.NewSite(b)
	replica := site.Start(b, "replica", onLocal(b, site, "replica"))
	c := newClient(b, replica.Address)
	editor := client.ContextWithToken(b.Context(), site.Token(b, tenant, auth.RoleEditor))
	keys := make([]string, batch)
	for i := range keys {
		id := benchKey(b, i)
		if _, err := c.Put(editor, client.PutRequest{Key: id.Key, Value: value(i)}); err != nil {
			b.Fatal(err)
		}
		keys[i] = id.Key.String()
	}
	token := site.Token(b, tenant, auth.RoleReader)
	stub := tagstorev1.NewConfigServiceClient(dial(b, replica.Address))
	authorized := func(ctx context.Context) context.Context { return bearer(ctx, token) }
	b.Run(fmt.Sprintf("keys=%d", batch), func(b *testing.B) {
		perCall, single := compare(b, 1, func(ctx context.Context) error {
			a, err := stub.BatchGet(authorized(ctx), &tagstorev1.BatchGetRequest{Keys: keys})
			if err != nil {
				return err
			}
			for _, r := range a.GetResults() {
				if len(r.GetEntry().GetValue()) != valueSize {
					return errors.New("a value is missing")
				}
			}
			return is(len(a.GetResults()) == batch, "results are missing")
		}, func(ctx context.Context) error {
			_, err := stub.Get(authorized(ctx), &tagstorev1.GetRequest{Key: keys[0]})
			return err
		})
		b.ReportMetric(perCall*single/batch, "per-key-ns")
		b.ReportMetric(batch/perCall, "x-cheaper")
	})
}

// crowds are how many watchers BenchmarkWatch and BenchmarkJoin have.
var crowds = []int{1, 100, 1000}

// watchConns is how many connections this many watchers share, of which one
// carries up to 200.
func watchConns(watchers int) int { return max(8, (watchers+199)/200) }

// watchClients are what this many watchers of a replica share.
func watchClients(b *testing.B, replica *stack.Replica, watchers int) []*client.Client {
	b.Helper()
	clients := make([]*client.Client, watchConns(watchers))
	for i := range clients {
		clients[i] = newClient(b, replica.Address)
	}
	return clients
}

// watchStubs are the same of plain gRPC.
func watchStubs(b *testing.B, address string, watchers int) []tagstorev1.ConfigServiceClient {
	b.Helper()
	stubs := make([]tagstorev1.ConfigServiceClient, watchConns(watchers))
	for i := range stubs {
		stubs[i] = tagstorev1.NewConfigServiceClient(dial(b, address))
	}
	return stubs
}

// BenchmarkWatch: from the call of a Put until each of up to 1,000 watchers of
// its prefix has the value, through one replica, beside plain gRPC that sends the
// same to as many streams. The percentiles are those of single watchers, the
// time of an operation is that until the last one has it. "local" is a store
// that is watched itself, "view" one that can not be.
func BenchmarkWatch(b *testing.B) {
	site := stack.NewSite(b)
	echo := startEchoTCP(b)
	onView, _ := onFiles(b, site, "files")
	for _, store := range []struct{ name, manifest string }{{"local", onLocal(b, site, "watched")}, {"view", onView}} {
		b.Run(store.name, func(b *testing.B) {
			replica := site.Start(b, store.name, store.manifest, fmt.Sprintf("TAGSTORE_WATCHES_PER_TENANT=%d", 2*slices.Max(crowds)))
			for _, watchers := range crowds {
				b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
					watchMany(b, site, replica, echo, watchers)
				})
			}
		})
	}
}

// watchMany measures changes that so many watchers are told of.
func watchMany(b *testing.B, site *stack.Site, replica *stack.Replica, echo string, watchers int) {
	b.Helper()
	subject, baseline := watchReplica(b, site, replica, watchers), watchEcho(b, echo, watchers)
	subject.got, baseline.got = newSamples(2*watchers*(b.N+100)), newSamples(2*watchers*(b.N+100))
	compare(b, 1, subject.change, baseline.change)
	subject.got.report(b) // in place of those of whole operations
	p50, baseline50 := subject.got.percentile(500), baseline.got.percentile(500)
	b.ReportMetric(float64(baseline50.Nanoseconds()), "baseline-p50-ns")
	b.ReportMetric(float64(baseline.got.percentile(990).Nanoseconds()), "baseline-p99-ns")
	b.ReportMetric(float64(p50)/float64(baseline50), "p50-ratio")
}

// crowd is many watchers of one key, and who changes it.
type crowd struct {
	watchers int
	put      func(ctx context.Context) error
	got      *samples
	mu       sync.Mutex
	left     int           // watchers that do not have the change yet
	all      chan struct{} // closed when none is left
	at       time.Time     // of the change
}

// change returns when every watcher has a new change.
func (c *crowd) change(ctx context.Context) error {
	all := make(chan struct{})
	c.mu.Lock()
	c.left, c.all, c.at = c.watchers, all, time.Now()
	c.mu.Unlock()
	if err := c.put(ctx); err != nil {
		return err
	}
	select {
	case <-all:
		return nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Errorf("%d watchers were not told: %w", c.left, ctx.Err())
	}
}

// told is what a watcher calls for every change that it gets.
func (c *crowd) told() error {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left--
	c.got.add(now.Sub(c.at))
	switch {
	case c.left == 0:
		close(c.all)
	case c.left < 0:
		return errors.New("a watcher was told of a change that was not made")
	}
	return nil
}

// gather starts the watchers, and returns when all have the state of before.
// They end with the benchmark.
func gather(b *testing.B, watchers int, watch func(ctx context.Context, n int, synced func()) error) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var work, present sync.WaitGroup
	var stopped atomic.Bool
	present.Add(watchers)
	failed := make(chan error, watchers)
	for n := range watchers {
		work.Go(func() {
			if err := watch(ctx, n, sync.OnceFunc(present.Done)); !stopped.Load() {
				failed <- fmt.Errorf("watcher %d ended: %w", n, err)
			}
		})
	}
	b.Cleanup(func() {
		stopped.Store(true)
		cancel()
		work.Wait()
		select {
		case err := <-failed:
			b.Error(err)
		default:
		}
	})
	all := make(chan struct{})
	go func() { present.Wait(); close(all) }()
	select {
	case <-all:
	case err := <-failed:
		b.Fatal(err)
	case <-time.After(time.Minute):
		b.Fatal("the watchers did not get the present state")
	}
}

// watchReplica is a crowd at a replica, with the client that users have. Every
// watcher holds what it is told to the version of the Put.
func watchReplica(b *testing.B, site *stack.Site, replica *stack.Replica, watchers int) *crowd {
	b.Helper()
	id := benchKey(b, 0)
	clients := watchClients(b, replica, watchers)
	reader, editor := site.Token(b, tenant, auth.RoleReader), site.Token(b, tenant, auth.RoleEditor)
	c := &crowd{watchers: watchers, put: func(ctx context.Context) error {
		_, err := clients[0].Put(client.ContextWithToken(ctx, editor), client.PutRequest{Key: id.Key, Value: value(0)})
		return err
	}}
	if err := c.put(b.Context()); err != nil {
		b.Fatal(err)
	}
	gather(b, watchers, func(ctx context.Context, n int, synced func()) error {
		version := uint64(0)
		return clients[n%len(clients)].Watch(client.ContextWithToken(ctx, reader), client.WatchRequest{KeyPrefix: id.Key.String()}, func(e client.Event) error {
			switch {
			case e.Kind == client.EventSync:
				synced()
			case e.Kind == client.EventHeartbeat:
			case e.Kind != client.EventPut:
				return fmt.Errorf("the event is %v", e.Kind)
			case version == 0:
				version = e.Entry.Version
			case e.Entry.Version != version+1:
				return fmt.Errorf("version %d came behind %d", e.Entry.Version, version)
			default:
				version++
				return c.told()
			}
			return nil
		})
	})
	return c
}

// watchEcho is a crowd at plain gRPC.
func watchEcho(b *testing.B, address string, watchers int) *crowd {
	b.Helper()
	stubs := watchStubs(b, address, watchers)
	request := &tagstorev1.PutRequest{Key: keyName(0), Value: value(0)}
	c := &crowd{watchers: watchers, put: func(ctx context.Context) error {
		_, err := stubs[0].Put(ctx, request)
		return err
	}}
	gather(b, watchers, func(ctx context.Context, n int, synced func()) error {
		stream, err := stubs[n%len(stubs)].Watch(ctx, &tagstorev1.WatchRequest{})
		if err != nil {
			return err
		}
		for {
			event, err := stream.Recv()
			switch {
			case err != nil:
				return err
			case event.GetSync() != nil:
				synced()
			default:
				if err := c.told(); err != nil {
					return err
				}
			}
		}
	})
	return c
}

const replicas = 3

// threeReplicas are replicas of the service on one store, and what asks all of
// them to refresh.
func threeReplicas(b *testing.B) (running []*stack.Replica, store driver.Backend, all *fanout.Fanout) {
	b.Helper()
	site := stack.NewSite(b)
	text, store := onFiles(b, site, "files")
	var known []fanout.Replica
	for i := range replicas {
		name := fmt.Sprintf("replica-%d", i+1)
		r := site.Start(b, name, text, "TAGSTORE_REFRESHES_PER_TENANT=1000000")
		running, known = append(running, r), append(known, fanout.Replica{ID: name, Address: r.Address})
	}
	all, err := fanout.New(fanout.Options{Discoverer: fanout.Static(known...), Tokens: fixedToken(site.Refresher(b))})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := all.Close(); err != nil {
			b.Error(err)
		}
	})
	return running, store, all
}

type fixedToken string

func (t fixedToken) Token(context.Context) (string, error) { return string(t), nil }

// BenchmarkRefresh: a value of 1 KiB is changed in the store by somebody else,
// and three replicas are asked to refresh it: until all have said that they have
// the new version. Beside it, plain gRPC that sends the same to three processes.
func BenchmarkRefresh(b *testing.B) {
	_, store, all := threeReplicas(b)
	id := benchKey(b, 0)
	echoes := make([]tagstorev1.ConfigServiceClient, replicas)
	for i := range echoes {
		echoes[i] = dialEcho(b, startEchoTCP(b))
	}
	b.Run("replicas=3", func(b *testing.B) {
		compare(b, 1, refresh(store, id, all, func(r fanout.Report) error { return r.Err() }), func(ctx context.Context) error {
			var calls errgroup.Group
			for _, echo := range echoes {
				calls.Go(func() error {
					_, err := echo.Get(ctx, &tagstorev1.GetRequest{Key: id.Key.String()})
					return err
				})
			}
			return calls.Wait()
		})
	})
}

// refresh changes a value and has all replicas refresh it, each of which must
// have the new version or be refused by judge.
func refresh(store driver.Backend, id config.ID, all *fanout.Fanout, judge func(fanout.Report) error) op {
	return func(ctx context.Context) error {
		e, err := store.Put(ctx, driver.PutRequest{ID: id, Value: value(0), UpdatedBy: "somebody else"})
		if err != nil {
			return err
		}
		report, err := all.Refresh(ctx, []client.RefreshTarget{{Tenant: id.Tenant, Key: id.Key, MinVersion: e.Version}})
		if err != nil {
			return err
		}
		for _, o := range report.Outcomes {
			if o.Err == nil && o.Receipts[0].Version != e.Version {
				return fmt.Errorf("%s has version %d, want %d", o.Replica.ID, o.Receipts[0].Version, e.Version)
			}
		}
		return errors.Join(is(len(report.Outcomes) == replicas, "replicas are missing"), judge(report))
	}
}

// BenchmarkRefreshOneStopped: the same while one of the replicas is stopped,
// which must end in time, with an error that names it and no other.
func BenchmarkRefreshOneStopped(b *testing.B) {
	running, store, all := threeReplicas(b)
	do := refresh(store, benchKey(b, 0), all, func(r fanout.Report) error { return r.Err() })
	run(b, 1, 3, do, nil)
	stopped := refresh(store, benchKey(b, 0), all, namesAlone("replica-2"))
	running[1].Freeze(b)
	b.Cleanup(func() { running[1].Thaw(b) })
	b.Run("replicas=3", func(b *testing.B) {
		taken := newSamples(1)
		run(b, 1, 1, stopped, taken) // once, whatever b.N is: it takes seconds
		b.ReportMetric(0, "ns/op")
		taken.report(b)
	})
	running[1].Thaw(b)
	run(b, 1, 1, do, nil) // and it is all right again
}

// namesAlone judges a report whose error must name this replica and no other.
func namesAlone(replica string) func(fanout.Report) error {
	return func(r fanout.Report) error {
		err := r.Err()
		if err == nil {
			return errors.New("the report has no error")
		}
		for _, o := range r.Outcomes {
			if named := strings.Contains(err.Error(), o.Replica.ID); named != (o.Replica.ID == replica) {
				return fmt.Errorf("the error should name %s alone: %w", replica, err)
			}
		}
		return nil
	}
}
