package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

func dialClient(t *testing.T, target string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Through core/client a Get over a stream is what one of its own is: for two
// tenants by one client, for what is there and what is not, at more callers than
// a stream takes.
func TestClientOverStreams(t *testing.T) {
	f := start(t)
	backend := f.backend
	g := start(t, func(o *server.Options) { cached(t, backend, o) })
	for i := range 10 {
		f.put(t, tenantA, fmt.Sprintf("tenant_config_k%d", i), `"`+tenantA+`"`)
		f.put(t, tenantB, fmt.Sprintf("tenant_config_k%d", i), `"`+tenantB+`"`)
	}
	c, plain := dialClient(t, g.address, client.WithStreams()), dialClient(t, g.address)
	tokens := map[string]string{tenantA: g.token(t, tenantA, auth.RoleReader), tenantB: g.token(t, tenantB, auth.RoleReader)}
	var callers sync.WaitGroup
	for i := range 300 {
		callers.Go(func() {
			tenant := []string{tenantA, tenantB}[i%2]
			ctx, cancel := context.WithTimeout(client.ContextWithToken(t.Context(), tokens[tenant]), patience)
			defer cancel()
			got, err := c.Get(ctx, id(t, tenant, fmt.Sprintf("tenant_config_k%d", i%10)).Key, config.Service{})
			if err != nil || string(got.Entry.Value) != `"`+tenant+`"` {
				t.Errorf("%s got %s, %v", tenant, got.Entry.Value, err)
			}
		})
	}
	callers.Wait()
	refresher, err := g.issuer.Refresher(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	expired, err := g.issuer.ID(tenantA, subject, auth.RoleReader, -time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"reader": tokens[tenantA], "machine": refresher, "expired": expired, "nonsense": "x.y.z"} {
		ctx := client.ContextWithToken(t.Context(), token)
		_, one := c.Get(ctx, id(t, tenantA, "tenant_config_none").Key, config.Service{})
		_, two := plain.Get(ctx, id(t, tenantA, "tenant_config_none").Key, config.Service{})
		var a, b *config.Error
		if !errors.As(one, &a) || !errors.As(two, &b) || a.Error() != b.Error() || a.Code != b.Code || a.Hint != b.Hint || client.RequestID(one) == "" {
			t.Errorf("%s: over a stream %v, as a call of its own %v", name, one, two)
		}
	}
	if !strings.Contains(g.log.String(), `"method":"/tagstore.v1.ConfigService/Session"`) { // those that were refused have ended
		t.Error("there was no stream")
	}
}

// While one of two replicas drains, no Get fails.
func TestNoStreamedGetFailsByADrain(t *testing.T) {
	one := start(t)
	issuer := one.issuer
	verifier, err := auth.NewVerifier(auth.Options{
		Issuer: issuer.Issuer(), ClientIDs: []string{clientID}, JWKSURL: issuer.JWKSURL(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)
	two := start(t, func(o *server.Options) { o.Verifier = verifier })
	for _, f := range []*fixture{one, two} {
		f.put(t, tenantA, "tenant_config_x", "1")
	}
	c := dialClient(t, one.address+","+two.address, client.WithStreams())
	key := id(t, tenantA, "tenant_config_x").Key
	tokens := make([]string, 8) // so that each replica has streams
	for i := range tokens {
		if tokens[i], err = issuer.ID(tenantA, fmt.Sprintf("%s-%d", subject, i), auth.RoleReader, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	// A call without a token goes over no stream: until there is a connection to
	// each, all streams would lead to one.
	eventually(t, "both are connected", func() bool {
		_, _ = c.Get(t.Context(), key, config.Service{})
		return strings.Contains(one.log.String(), `"code":"Unauthenticated"`) && strings.Contains(two.log.String(), `"code":"Unauthenticated"`)
	})
	var done atomic.Int64
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(client.ContextWithToken(t.Context(), tokens[i%len(tokens)]), patience)
				if _, err := c.Get(ctx, key, config.Service{}); err != nil {
					t.Error(err)
				}
				cancel()
				done.Add(1)
			}
		})
	}
	more := func(what string) {
		at := done.Load()
		eventually(t, what, func() bool { return done.Load() > at+200 })
	}
	more("Gets over both")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	one.server.Drain(ctx)
	more("Gets over the other")
	close(stop)
	callers.Wait()
	if ctx.Err() != nil {
		t.Error("draining took its whole time")
	}
	if log := one.log.String(); !strings.Contains(log, `"method":"/tagstore.v1.ConfigService/Session","code":"Unavailable"`) {
		t.Error("the replica that drained had no stream")
	}
}
