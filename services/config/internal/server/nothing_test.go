package server_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// counted notes how often what is asked of it.
type counted struct {
	*memdriver.Backend
	mu    sync.Mutex
	calls []string
}

func (c *counted) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, what)
}

// taken returns what was asked since the last time.
func (c *counted) taken() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = nil
	return calls
}

func (c *counted) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	c.note("get")
	return c.Backend.Get(ctx, id, version)
}

func (c *counted) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	c.note("batch")
	return c.Backend.BatchGet(ctx, ids)
}

func (c *counted) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	c.note("list")
	return c.Backend.List(ctx, r)
}

func (c *counted) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	c.note("history")
	return c.Backend.History(ctx, r)
}

// What is answered when there is nothing, and what the store was asked for that.
type nothing struct {
	answer []byte
	steps  []string
}

// To be told that there is nothing takes the same steps and comes as the same
// bytes whether a key never was, is another tenant's, was another tenant's or was
// the caller's own: from the store, and from memory, where it takes none.
func TestNothingTakesTheSameSteps(t *testing.T) {
	const key = "tenant_config_payment-gateway"
	look := func(t *testing.T, before func(f *fixture)) map[string]nothing {
		t.Helper()
		f := start(t)
		before(f)
		backend := &counted{Backend: f.backend}
		g := start(t, func(o *server.Options) { cached(t, backend, o) })
		ctx := g.as(t, tenantB, auth.RoleReader)
		out := map[string]nothing{}
		for _, call := range []struct {
			name string
			make func() (proto.Message, error)
		}{
			{"first", func() (proto.Message, error) { return g.config.Get(ctx, &tagstorev1.GetRequest{Key: key}) }},
			{"from memory", func() (proto.Message, error) { return g.config.Get(ctx, &tagstorev1.GetRequest{Key: key}) }},
			{"from the store", func() (proto.Message, error) {
				return g.config.Get(ctx, &tagstorev1.GetRequest{Key: key, MaxStaleness: durationpb.New(0)})
			}},
			{"in a batch", func() (proto.Message, error) {
				return g.config.BatchGet(ctx, &tagstorev1.BatchGetRequest{Keys: []string{key}, MaxStaleness: durationpb.New(0)})
			}},
			{"in a batch from memory", func() (proto.Message, error) {
				return g.config.BatchGet(ctx, &tagstorev1.BatchGetRequest{Keys: []string{key}})
			}},
			{"of a service", func() (proto.Message, error) {
				return g.config.Get(ctx, &tagstorev1.GetRequest{Key: key, Service: "order"})
			}},
			{"in a list", func() (proto.Message, error) {
				return g.config.List(ctx, &tagstorev1.ListRequest{KeyPrefix: key})
			}},
		} {
			backend.taken()
			got, err := call.make()
			n := nothing{steps: backend.taken()}
			if err != nil {
				n.answer = statusBytes(t, err)
			} else if n.answer, err = (proto.MarshalOptions{Deterministic: true}).Marshal(got); err != nil {
				t.Fatal(err)
			}
			out[call.name] = n
		}
		return out
	}
	absent := look(t, func(*fixture) {})
	for name, asks := range map[string]bool{"first": true, "from memory": false, "from the store": true, "in a batch": true, "in a batch from memory": false} {
		if got := len(absent[name].steps) > 0; got != asks {
			t.Errorf("%s: the store is asked for %q", name, absent[name].steps)
		}
	}
	for name, before := range map[string]func(f *fixture){
		"another tenant's": func(f *fixture) { f.put(t, tenantA, key, `1`) },
		"another tenant's, deleted": func(f *fixture) {
			f.put(t, tenantA, key, `1`)
			f.remove(t, tenantA, key)
		},
		"deleted": func(f *fixture) {
			f.put(t, tenantB, key, `1`)
			f.remove(t, tenantB, key)
		},
	} {
		for call, got := range look(t, before) {
			if want := absent[call]; !bytes.Equal(got.answer, want.answer) || !slices.Equal(got.steps, want.steps) {
				t.Errorf("%s, %s: %q after %q, an absent key has %q after %q", name, call, got.answer, got.steps, want.answer, want.steps)
			}
		}
	}
}
