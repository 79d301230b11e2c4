package server_test

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/fanout"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
	"github.com/tagstore/tagstore/services/config/internal/peers"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// registry is what the replicas find each other in.
type registry struct {
	mu       sync.Mutex
	replicas []fanout.Replica
}

func (r *registry) Discover(context.Context) ([]fanout.Replica, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.replicas), nil
}

func (r *registry) add(replica fanout.Replica) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replicas = append(r.replicas, replica)
}

// machine is the replicas' own identity.
type machine struct{ issuer *devissuer.Issuer }

func (m machine) Token(context.Context) (string, error) { return m.issuer.Refresher(time.Hour) }

// replicas starts replicas of one store, each with a cache of its own, that
// tell each other of changes; one named alone tells nobody.
func replicas(t *testing.T, names ...string) (map[string]*fixture, *registry) {
	t.Helper()
	shared, r := memdriver.New(), &registry{}
	t.Cleanup(func() { _ = shared.Close() })
	all := map[string]*fixture{}
	for _, name := range names {
		all[name] = start(t, func(o *server.Options) {
			held, err := cache.New(cache.Options{Logger: o.Logger, MeterProvider: o.MeterProvider})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = held.Close() })
			table, err := router.NewTable([]router.Route{{
				Prefix: "param_config_", BackendName: "mem", Layers: []manifest.Layer{manifest.LayerService, manifest.LayerTenant},
				Backend: held.Wrap(shared, cache.Policy{Prefix: "param_config_", MaxStaleness: time.Hour}),
			}})
			if err != nil {
				t.Fatal(err)
			}
			o.Store = store.New(router.New(table), store.Options{Logger: o.Logger, TokenKey: driver.NewTokenKey()})
			o.Replica = name
			if first := all[names[0]]; first != nil {
				o.Verifier = first.verifier
			}
			if name == "alone" {
				return
			}
			o.Peers, err = peers.New(peers.Options{
				Self: name, Discoverer: r, Tokens: lateMachine{all, names[0]}, Wait: 5 * time.Second, Logger: o.Logger, MeterProvider: o.MeterProvider,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = o.Peers.Close() })
		})
		r.add(fanout.Replica{ID: name, Address: all[name].address})
	}
	return all, r
}

// lateMachine is the machine of an issuer that starts with the first replica.
type lateMachine struct {
	all   map[string]*fixture
	first string
}

func (m lateMachine) Token(ctx context.Context) (string, error) {
	return machine{m.all[m.first].issuer}.Token(ctx)
}

// told shows the statuses of a write: "b" for a replica that has it, "b: what"
// for one that may not.
func told(statuses []*tagstorev1.ReplicaStatus) string {
	var out []string
	for _, s := range statuses {
		text := s.GetReplica()
		if s.GetError() != nil {
			text += ": " + s.GetError().GetMessage()
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// Every kind of write that one replica has acknowledged is what the others that
// its answer names say from then on, from memory. A replica that nobody tells
// shows that it is the telling.
func TestWritesReachTheOtherReplicas(t *testing.T) {
	all, _ := replicas(t, "a", "b", "c")
	alone, _ := replicas(t, "a", "alone")
	a := all["a"]
	const key = "param_config_x"
	ctx := a.as(t, tenantA, auth.RoleEditor)
	get := func(f *fixture) string {
		t.Helper()
		resp, err := f.config.Get(ctx, &tagstorev1.GetRequest{Key: key, Service: "order"})
		if err != nil {
			return "none"
		}
		if source := resp.GetFreshness().GetSource(); source != tagstorev1.Source_SOURCE_CACHE && f != a {
			t.Errorf("the answer comes from %v, want the cache", source)
		}
		return string(resp.GetEntry().GetValue())
	}
	var version uint64
	for _, write := range []struct {
		name, want string
		do         func() (*tagstorev1.Entry, []*tagstorev1.ReplicaStatus, error)
	}{
		{"put", `"1"`, func() (*tagstorev1.Entry, []*tagstorev1.ReplicaStatus, error) {
			resp, err := a.config.Put(ctx, &tagstorev1.PutRequest{Key: key, Service: "order", Value: []byte(`"1"`)})
			return resp.GetEntry(), resp.GetReplicas(), err
		}},
		{"put again", `"2"`, func() (*tagstorev1.Entry, []*tagstorev1.ReplicaStatus, error) {
			resp, err := a.config.Put(ctx, &tagstorev1.PutRequest{Key: key, Service: "order", Value: []byte(`"2"`), AwaitReplicas: true})
			return resp.GetEntry(), resp.GetReplicas(), err
		}},
		{"delete", "none", func() (*tagstorev1.Entry, []*tagstorev1.ReplicaStatus, error) {
			resp, err := a.config.Delete(ctx, &tagstorev1.DeleteRequest{Key: key, Service: "order"})
			return resp.GetEntry(), resp.GetReplicas(), err
		}},
		{"restore", `"2"`, func() (*tagstorev1.Entry, []*tagstorev1.ReplicaStatus, error) {
			resp, err := a.config.Restore(ctx, &tagstorev1.RestoreRequest{Key: key, Service: "order"})
			return resp.GetEntry(), resp.GetReplicas(), err
		}},
		{"rollback", `"1"`, func() (*tagstorev1.Entry, []*tagstorev1.ReplicaStatus, error) {
			resp, err := a.config.Rollback(ctx, &tagstorev1.RollbackRequest{Key: key, Service: "order", ToVersion: 1})
			return resp.GetEntry(), resp.GetReplicas(), err
		}},
	} {
		entry, statuses, err := write.do()
		if err != nil {
			t.Fatalf("%s: %v", write.name, err)
		}
		if got := told(statuses); got != "b, c" {
			t.Errorf("%s: the answer names %q, want b and c", write.name, got)
		}
		if version++; entry.GetVersion() != version {
			t.Errorf("%s: version %d, want %d", write.name, entry.GetVersion(), version)
		}
		for _, name := range []string{"a", "b", "c"} {
			if got := get(all[name]); got != write.want {
				t.Errorf("%s: replica %s says %s, want %s", write.name, name, got, write.want)
			}
		}
	}

	// Nobody tells this one: what it has read it goes on saying.
	one, untold := alone["a"], alone["alone"]
	ctx = one.as(t, tenantA, auth.RoleEditor)
	for _, value := range []string{`"1"`, `"2"`} {
		resp, err := untold.config.Put(ctx, &tagstorev1.PutRequest{Key: key, Value: []byte(value)})
		if err != nil || len(resp.GetReplicas()) != 0 {
			t.Fatalf("a replica without peers names %v, %v", resp.GetReplicas(), err)
		}
		got, err := one.config.Get(ctx, &tagstorev1.GetRequest{Key: key})
		if err != nil || string(got.GetEntry().GetValue()) != `"1"` {
			t.Fatalf("the replica that nobody told says %s, %v", got.GetEntry().GetValue(), err)
		}
	}
}

// A replica that is not there is named, and the write is the same.
func TestAWriteNamesTheReplicasThatDoNotAnswer(t *testing.T) {
	all, r := replicas(t, "a", "b", "c")
	a := all["a"]
	all["c"].server.Stop()
	r.add(fanout.Replica{ID: "d", Address: "127.0.0.1:1"})
	ctx := a.as(t, tenantA, auth.RoleEditor)
	for _, await := range []bool{false, true} {
		resp, err := a.config.Put(ctx, &tagstorev1.PutRequest{Key: "param_config_x", Value: []byte(`"1"`), AwaitReplicas: await})
		if err != nil {
			t.Fatal(err)
		}
		got := resp.GetReplicas()
		slices.SortFunc(got, func(a, b *tagstorev1.ReplicaStatus) int { return cmp.Compare(a.GetReplica(), b.GetReplica()) })
		if len(got) != 3 || got[0].GetError() != nil || got[1].GetError().GetCode() != 14 || got[2].GetError().GetCode() != 14 {
			t.Errorf("await %t: %q, want b, and c and d unavailable", await, told(got))
		}
		if strings.Contains(told(got), tenantA) {
			t.Errorf("the answer names the tenant: %s", told(got))
		}
	}
}

// The other replicas' logs have a change under the id of the call that made it.
func TestAWriteIsToldUnderItsRequestID(t *testing.T) {
	all, _ := replicas(t, "a", "b")
	ctx := metadata.AppendToOutgoingContext(all["a"].as(t, tenantA, auth.RoleEditor), "x-request-id", "the-write")
	var header metadata.MD
	if _, err := all["a"].config.Put(ctx, &tagstorev1.PutRequest{Key: "param_config_x", Value: []byte(`"1"`)}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other's log has it", func() bool {
		return slices.ContainsFunc(strings.Split(all["b"].log.String(), "\n"), func(line string) bool {
			return strings.Contains(line, "AdminService/Refresh") && strings.Contains(line, "the-write")
		})
	})
}
