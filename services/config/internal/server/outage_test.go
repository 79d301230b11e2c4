package server_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// cable is a backend whose watches can be cut off and stay so.
type cable struct {
	*memdriver.Backend
	mu  sync.Mutex
	cut context.Context // done: out of reach
	end context.CancelFunc
}

func newCable(b *memdriver.Backend) *cable {
	c := &cable{Backend: b}
	c.plug()
	return c
}

func (c *cable) plug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut, c.end = context.WithCancel(context.Background())
}

func (c *cable) unplug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
}

func (c *cable) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	c.mu.Lock()
	cut := c.cut
	c.mu.Unlock()
	unplugged := config.Errorf(config.Unavailable, "unplugged")
	if cut.Err() != nil {
		return unplugged
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(cut, cancel)()
	err := c.Backend.Watch(ctx, r, emit)
	if cut.Err() != nil {
		return unplugged
	}
	return err
}

// A store that is away is told of, heartbeats go on, and nothing is lost.
func TestWatchOverAnOutage(t *testing.T) {
	b := newCable(memdriver.New())
	f := start(t, func(o *server.Options) {
		o.Store = newStore(t, b, slog.New(slog.DiscardHandler))
		o.Limits.Heartbeat = 200 * time.Millisecond // more than the first event takes
	})
	f.backend = b.Backend
	f.put(t, tenantA, "tenant_config_o", "1")
	stream := f.watch(t, f.as(t, tenantA, auth.RoleReader), "tenant_config_o", "")
	expectEvents(t, stream, "put tenant_config_o=1", "sync")
	b.unplug()
	token := expectEvents(t, stream, "source down")
	for range 3 {
		e, err := stream.Recv()
		if err != nil || describe(e) != "heartbeat" || e.GetResumeToken() != token {
			t.Fatalf("%v, %v", e, err)
		}
	}
	f.put(t, tenantA, "tenant_config_o", "2")
	b.plug()
	expectEvents(t, stream, "put tenant_config_o=2", "source up")
	expectEvents(t, f.watch(t, f.as(t, tenantA, auth.RoleReader), "tenant_config_o", token), "put tenant_config_o=2", "sync")
}

// A token that the store can not go on from exactly is answered with a gap and
// everything anew.
func TestWatchGap(t *testing.T) {
	b := memdriver.New(memdriver.WithChanges(2))
	f := start(t, func(o *server.Options) { o.Store = newStore(t, b, slog.New(slog.DiscardHandler)) })
	f.backend = b
	f.put(t, tenantA, "tenant_config_g1", "1")
	f.put(t, tenantA, "tenant_config_g2", "1")
	token := expectEvents(t, f.watch(t, f.as(t, tenantA, auth.RoleReader), "tenant_config_g", ""),
		"put tenant_config_g1=1", "put tenant_config_g2=1", "sync")
	f.remove(t, tenantA, "tenant_config_g1")
	for range 3 {
		f.put(t, tenantB, "tenant_config_g1", "foreign")
	}
	stream := f.watch(t, f.as(t, tenantA, auth.RoleReader), "tenant_config_g", token)
	expectEvents(t, stream, "gap", "put tenant_config_g2=1", "sync")
	f.put(t, tenantA, "tenant_config_g3", "1")
	expectEvents(t, stream, "put tenant_config_g3=1")
}
