package check_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/check"
	"github.com/tagstore/tagstore/bench/check/fault"
	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/bench/check/system"
	"github.com/tagstore/tagstore/bench/check/workload"
	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/plugintest"
)

// programs builds what the tests below run, once.
func programs(t *testing.T) check.Programs {
	t.Helper()
	return check.Programs{
		Config: plugintest.Build(t, "github.com/tagstore/tagstore/services/config"),
		Plugin: plugintest.Build(t, "github.com/tagstore/tagstore/bench/check/plugin"),
	}
}

// The real processes keep the promise, too, while they are killed and stopped.
func TestTheProcessesAreConsistent(t *testing.T) {
	seed := uint64(time.Now().UnixNano()) % (1 << 32)
	r, err := check.InProcesses(t.Context(), check.Processes, programs(t), 3, seed, short)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	judged(t, r)
	if r.Told == 0 {
		t.Error("no put was known to another replica at its answer")
	}
}

// Clients that answer from caches of their own keep what those promise: not
// older than their replica by more than the lag that they tell, never back, and
// their own writes at once.
func TestClientsWithCachesAreConsistent(t *testing.T) {
	seed := uint64(time.Now().UnixNano()) % (1 << 32)
	r, err := check.InProcesses(t.Context(), check.ProcessesLocal, programs(t), 3, seed, short)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	judged(t, r)
	if r.Local < r.Gets/10 {
		t.Errorf("%d of %d answers came from a client's memory: that proves nothing", r.Local, r.Gets)
	}
}

// longEnv says how long the plugin is away in the test below.
const longEnv = "CHECK_PLUGIN_AWAY"

// While its plugin is away, a replica goes on answering every key that it has
// in memory, with the mark that is due, and says at once that it can not answer
// the others.
func TestPluginAway(t *testing.T) {
	away := 5 * time.Second
	if text := os.Getenv(longEnv); text != "" {
		var err error
		if away, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", longEnv, err)
		}
	}
	ids := workload.IDs(32)
	p, values := started(t, fault.New(1, 0), ids, cache.Policy{
		MaxStaleness: away / 2, StaleIfError: time.Hour, NegativeTTL: 0,
	}, "WARN")
	for _, id := range ids {
		if a, err := p.Get(deadline(t), 0, id, system.Want{}); err != nil || a.Mark != history.Fresh {
			t.Fatalf("before: %+v, %v", a, err)
		}
	}
	release, err := p.HoldPlugin(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	asked := 0
	marks := map[history.Mark]int{}
	var slowest, slowestMiss time.Duration
	for time.Since(began) < away {
		for _, id := range ids {
			at := time.Now()
			a, err := p.Get(deadline(t), 0, id, system.Want{})
			took := time.Since(at)
			asked++
			slowest = max(slowest, took)
			if err != nil || a.Absent || values.Check(id, 1, a.Value).Bad() {
				t.Fatalf("%v after the plugin went: %+v, %v", time.Since(began), a, err)
			}
			marks[a.Mark]++
			// The age at which the mark changes has a tenth to either side.
			if since := time.Since(began); a.Mark == history.Fresh && since > away*2/3 {
				t.Fatalf("%v after the plugin went an answer says that it is fresh", since)
			}
		}
		other := ids[0]
		other.Key, _ = config.ParseKey(system.Prefix + "never-asked-for")
		at := time.Now()
		_, err := p.Get(deadline(t), 0, other, system.Want{})
		if time.Since(began) > away/2 { // it takes some refusals to know that it is away
			slowestMiss = max(slowestMiss, time.Since(at))
		}
		if !errors.Is(err, config.Unavailable) {
			t.Fatalf("a key that is not held: %v, want code unavailable", err)
		}
		_ = system.Wait(t.Context(), 50*time.Millisecond)
	}
	t.Logf("%d of %d gets answered in %v: %v; slowest %v, slowest refusal in the second half %v", asked, asked, away, marks, slowest, slowestMiss)
	if marks[history.Stale] == 0 {
		t.Errorf("no answer was marked stale: %v", marks)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	for fresh := false; !fresh; {
		a, err := p.Get(deadline(t), 0, ids[0], system.Want{})
		fresh = err == nil && a.Mark == history.Fresh
		if time.Since(began) > away+time.Minute {
			t.Fatalf("the plugin is allowed again, but the answer is %+v, %v", a, err)
		}
		_ = system.Wait(t.Context(), 10*time.Millisecond)
	}
}

// started is one replica over a store that holds the first version of ids.
func started(t *testing.T, backend driver.Backend, ids []config.ID, policy cache.Policy, level string) (*system.Processes, history.Canaries) {
	t.Helper()
	values := history.NewCanaries()
	var tenants []config.Tenant
	for _, id := range ids {
		if _, err := backend.Put(t.Context(), driver.PutRequest{ID: id, Value: values.Value(id, 1)}); err != nil {
			t.Fatal(err)
		}
		tenants = append(tenants, id.Tenant)
	}
	built := programs(t)
	p, err := system.StartProcesses(t.Context(), system.ProcessOptions{
		Replicas: 1, Backend: backend, Policy: policy, Config: built.Config, Plugin: built.Plugin, Tenants: tenants, LogLevel: level,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, values
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// secretive marks everything that it answers as secret.
type secretive struct{ *fault.Store }

func hidden(e config.Entry, err error) (config.Entry, error) {
	e.Secret = true
	return e, err
}

func (s secretive) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	return hidden(s.Store.Get(ctx, id, version))
}

func (s secretive) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	return hidden(s.Store.Put(ctx, r))
}

func (s secretive) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	return hidden(s.Store.Delete(ctx, r))
}

func (s secretive) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	got, err := s.Store.BatchGet(ctx, ids)
	for i := range got {
		got[i].Entry.Secret = true
	}
	return got, err
}

func (s secretive) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	page, err := s.Store.List(ctx, r)
	for i := range page.Entries {
		page.Entries[i].Secret = true
	}
	return page, err
}

func (s secretive) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	page, err := s.Store.History(ctx, r)
	for i := range page.Entries {
		page.Entries[i].Secret = true
	}
	return page, err
}

// A secret is answered to whoever may have it, and is nowhere else: not in the
// logs, at the level that tells most, not in the metrics, not in an error.
func TestSecretsLeaveNoTrace(t *testing.T) {
	store := secretive{fault.New(1, 0)}
	ids := workload.IDs(8)
	p, values := started(t, store, ids, cache.Policy{MaxStaleness: time.Minute, StaleIfError: time.Hour, NegativeTTL: time.Second}, "DEBUG")
	var said strings.Builder
	seen := 0
	note := func(a system.Answer, id config.ID, version uint64, err error) {
		if err != nil {
			said.WriteString(err.Error() + "\n")
			return
		}
		if values.Check(id, version, a.Value) == history.Own {
			seen++
		}
	}
	watching, unwatch := context.WithCancel(t.Context())
	defer unwatch()
	synced, over := make(chan struct{}), make(chan error, 1)
	go func() {
		over <- p.Watch(watching, 0, system.Watch{Tenant: ids[0].Tenant, Prefix: system.Prefix + "tenant/"}, func(e system.Event) error {
			if e.Kind == history.Synced {
				close(synced)
			}
			return nil
		})
	}()
	select {
	case <-synced:
	case err := <-over:
		t.Fatal(err)
	}
	for i, id := range ids {
		for range 3 {
			a, err := p.Get(deadline(t), 0, id, system.Want{})
			note(a, id, 1, err)
		}
		_, err := p.Put(deadline(t), 0, id, 1, values.Value(id, 2))
		note(system.Answer{}, id, 0, err)
		_, err = p.Put(deadline(t), 0, id, 1, values.Value(id, 2)) // a conflict
		note(system.Answer{}, id, 0, err)
		_, err = p.Refresh(deadline(t), 0, id, 2)
		note(system.Answer{}, id, 0, err)
		up := func() {}
		if i%2 == 0 {
			up = store.Down()
		}
		a, err := p.Get(deadline(t), 0, id, system.Want{})
		note(a, id, 2, err)
		up()
	}
	unwatch()
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	metrics, err := p.Metrics(deadline(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	if seen < 3*len(ids) {
		t.Fatalf("only %d answers had the secret: the test proves nothing\n%s", seen, said.String())
	}
	logs := p.Logs(0)
	if !strings.Contains(logs, `"level":"DEBUG"`) || !strings.Contains(metrics, "tagstore") || said.Len() == 0 {
		t.Fatalf("there is nothing to search: %d bytes of logs, %d of metrics, %d of errors", len(logs), len(metrics), said.Len())
	}
	for _, id := range ids {
		for version := range uint64(3) {
			secret := values.Mac(id, version)
			for name, text := range map[string]string{"the logs": logs, "the metrics": metrics, "an error": said.String()} {
				if strings.Contains(text, secret) {
					t.Errorf("version %d of %s is in %s", version, id.Key, name)
				}
			}
		}
	}
}

// spy is a table that remembers the costs of what it is given.
type spy struct {
	cache.Table
	sets chan<- int64
}

func (s spy) Set(hash uint64, r *cache.Record, cost int64) bool {
	s.sets <- cost
	return s.Table.Set(hash, r, cost)
}

// Nothing of a secret is put into the table, whatever is done with it.
func TestSecretsAreNeverInTheTable(t *testing.T) {
	store := secretive{fault.New(1, 0)}
	sets := make(chan int64, 10_000)
	s, err := system.NewStore(system.StoreOptions{
		Replicas: 1, Backend: store, Policy: cache.Policy{MaxStaleness: time.Minute, StaleIfError: time.Hour}, Network: system.NewNetwork(1),
		Table: func(maxCost int64) (cache.Table, error) {
			table, err := cache.NewRistretto(maxCost)
			return spy{table, sets}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	values := history.NewCanaries()
	for _, id := range workload.IDs(8) {
		for version := range uint64(3) {
			if _, err := s.Put(t.Context(), 0, id, version, values.Value(id, version+1)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Refresh(t.Context(), 0, id, version+1); err != nil {
				t.Fatal(err)
			}
			if a, err := s.Get(t.Context(), 0, id, system.Want{}); err != nil || values.Check(id, version+1, a.Value).Bad() {
				t.Fatalf("%+v, %v", a, err)
			}
		}
	}
	if len(sets) > 0 {
		t.Errorf("%d records of secrets were put into the table", len(sets))
	}
}
