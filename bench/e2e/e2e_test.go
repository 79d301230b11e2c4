// Package e2e tests the real system from outside: the binaries, started as a
// user starts them, over the network, with processes killed in mid-flight.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	acme   = "acme-corp"
	globex = "globex-inc"
)

// Two tenants use the same keys at the same time and never see each other.
func TestTenantsNeverSeeEachOther(t *testing.T) {
	s := stack.Start(t)
	users := []*user{newUser(t, s, acme, "editor"), newUser(t, s, globex, "editor")}
	const keys, writes = 20, 10
	var wg sync.WaitGroup
	for _, u := range users {
		wg.Go(func() {
			for n := range writes {
				for i := range keys {
					k := key(t, "tenant_config_shared-name/%d", i)
					if _, err := u.put(k, n); err != nil {
						t.Errorf("put: %v", err)
						return
					}
					if got, err := u.get(k); err != nil || got != n {
						t.Errorf("%s reads %d of its own write %d: %v", u.tenant, got, n, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()

	for _, u := range users {
		count := 0
		for e, err := range u.client.All(u.ctx, client.ListRequest{KeyPrefix: "tenant_config_shared-name/", PageSize: 7}) {
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.check(e); err != nil {
				t.Error(err)
			}
			count++
		}
		if count != keys {
			t.Errorf("%s lists %d of its %d keys", u.tenant, count, keys)
		}
	}

	// What one tenant has is, to the other, exactly what nobody has.
	only := key(t, "tenant_config_only-acme")
	_, before := users[1].get(only)
	if _, err := users[0].put(only, 1); err != nil {
		t.Fatal(err)
	}
	_, after := users[1].get(only)
	if !errors.Is(before, config.NotFound) || before.Error() != after.Error() {
		t.Errorf("a key of another tenant answers %q, an absent one %q", after, before)
	}
}

// A reader never learns of the other tenant through a watch either.
func TestWatchCarriesOneTenantOnly(t *testing.T) {
	s := stack.Start(t)
	mine, theirs := newUser(t, s, acme, "editor"), newUser(t, s, globex, "editor")
	ctx, cancel := context.WithTimeout(mine.ctx, 20*time.Second)
	defer cancel()
	const writes = 50
	done := errors.New("all seen")
	synced := make(chan struct{})
	seen := make(chan error, 1)
	go func() {
		next := 0
		seen <- mine.client.Watch(ctx, client.WatchRequest{KeyPrefix: "tenant_config_watched/"}, func(e client.Event) error {
			switch e.Kind {
			case client.EventSync:
				close(synced)
			case client.EventPut:
				n, err := mine.check(e.Entry)
				if err != nil {
					return err
				}
				if n != next {
					return fmt.Errorf("event %d came where %d was due", n, next)
				}
				if next++; next == writes {
					return done
				}
			}
			return nil
		})
	}()
	select {
	case <-synced:
	case err := <-seen:
		t.Fatal(err)
	}
	for n := range writes {
		for _, u := range []*user{theirs, mine} {
			if _, err := u.put(key(t, "tenant_config_watched/k"), n); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := <-seen; !errors.Is(err, done) {
		t.Fatal(err)
	}
}

// The order service decides by the caller's own configuration.
func TestOrdersFollowTheTenantsConfiguration(t *testing.T) {
	s := stack.Start(t)
	const order = `{"items":[{"sku":"book","quantity":2,"unitPrice":15000}]}` // 300.00
	accepted, body := postOrder(t, s, globex, "editor", order)
	if accepted != http.StatusCreated {
		t.Fatalf("globex's order of 300.00 answers %d: %s", accepted, body)
	}
	var placed struct{ ID, Tenant string }
	if err := json.Unmarshal(body, &placed); err != nil || placed.ID == "" {
		t.Fatalf("the order has no id: %v\n%s", err, body)
	}
	if !strings.Contains(string(body), "PayPal") {
		t.Errorf("globex pays through PayPal, its order says %s", body)
	}
	refused, body := postOrder(t, s, acme, "editor", order)
	if refused != http.StatusUnprocessableEntity || !strings.Contains(string(body), "tenant_config_order-limits") {
		t.Errorf("acme's order of 300.00 is below its minimum, but answers %d: %s", refused, body)
	}
	if strings.Contains(string(body), "PayPal") {
		t.Errorf("acme's answer holds what is globex's: %s", body)
	}

	// Changed configuration decides orders, with no restart, as soon as the
	// watch of the order service has told it.
	u := newUser(t, s, acme, "editor")
	ctx, cancel := context.WithTimeout(u.ctx, 5*time.Second)
	defer cancel()
	if _, err := u.client.Put(ctx, client.PutRequest{
		Key: key(t, "tenant_config_order-limits"), Value: []byte(`{"minAmount":1,"maxAmount":100000000,"maxItems":50}`),
	}); err != nil {
		t.Fatal(err)
	}
	status, body := postOrder(t, s, acme, "editor", order)
	for status == http.StatusUnprocessableEntity && ctx.Err() == nil {
		status, body = postOrder(t, s, acme, "editor", order)
	}
	if status != http.StatusCreated {
		t.Errorf("after the change acme's order answers %d: %s", status, body)
	}

	// Another tenant's order is an absent one, to the byte. The absent one's id
	// differs in one character.
	other := []byte(placed.ID)
	if other[len(other)-2]++; other[len(other)-2] > '9' {
		other[len(other)-2] = '1'
	}
	foreign, theirs := get(t, s, acme, "/v1/orders/"+placed.ID)
	absent, nobodys := get(t, s, acme, "/v1/orders/"+string(other))
	if foreign != http.StatusNotFound || absent != http.StatusNotFound || !bytes.Equal(theirs, nobodys) {
		t.Errorf("a foreign order answers %d %s, an absent one %d %s", foreign, theirs, absent, nobodys)
	}
}

// Readers do not notice that a plugin is killed, twenty times over.
func TestPluginKilledUnderReaders(t *testing.T) {
	s := stack.Start(t)
	u := newUser(t, s, acme, "editor")
	k := key(t, "tenant_config_under-fire")
	if _, err := u.put(k, 7); err != nil {
		t.Fatal(err)
	}
	admin := newUser(t, s, acme, "admin")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var reads, failed atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				n, err := u.get(k)
				if ctx.Err() == nil && (err != nil || n != 7) {
					failed.Add(1)
					t.Errorf("read %d: %v", n, err)
				}
				reads.Add(1)
			}
		})
	}
	const kills = 20
	for range kills {
		before := admin.backend(t, "tenants")
		if err := syscall.Kill(int(before.PID), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		seenReads := reads.Load()
		waitFor(t, "the plugin to serve again", func() bool {
			now := admin.backend(t, "tenants")
			return now.State == client.BackendServing && now.Generation > before.Generation && reads.Load() > seenReads+16
		})
	}
	stop()
	wg.Wait()
	t.Logf("%d kills, %d reads, %d failed", kills, reads.Load(), failed.Load())
}

// Whatever was acknowledged is there after every process was killed at once.
func TestAcknowledgedWritesSurviveKillOfEverything(t *testing.T) {
	s := stack.Start(t)
	const rounds, writers = 3, 8
	acked := map[config.Key]int{}
	orders := map[string]bool{}
	for round := range rounds {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for w := range writers {
			u := newUser(t, s, acme, "editor")
			k := key(t, "tenant_config_durable/%d-%d", round, w)
			wg.Go(func() {
				for n := 0; ; n++ {
					if _, err := u.put(k, n); err != nil {
						return // the kill
					}
					mu.Lock()
					acked[k] = n
					mu.Unlock()
				}
			})
		}
		if status, body := postOrder(t, s, globex, "editor", `{"items":[{"sku":"book","quantity":2,"unitPrice":15000}]}`); status == http.StatusCreated {
			var placed struct{ ID string }
			if err := json.Unmarshal(body, &placed); err != nil {
				t.Fatal(err)
			}
			orders[placed.ID] = true
		} else {
			t.Errorf("order: %d %s", status, body)
		}
		waitFor(t, "some acknowledgements", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acked) == writers*(round+1)
		})
		s.Kill(t)
		wg.Wait()
		s.Boot(t)
	}
	u := newUser(t, s, acme, "reader")
	for k, n := range acked {
		// A write that was not acknowledged may have happened too.
		if got, err := u.get(k); err != nil || got < n {
			t.Errorf("%s was acknowledged at %d and reads %d: %v", k, n, got, err)
		}
	}
	for id := range orders {
		if status, body := get(t, s, globex, "/v1/orders/"+id); status != http.StatusOK {
			t.Errorf("an acknowledged order answers %d: %s", status, body)
		}
	}
	t.Logf("%d keys and %d orders were acknowledged before %d kills, all are there", len(acked), len(orders), rounds)
}

// A system that was stopped comes back with what it had. How long both starts
// took is logged, not judged: machines differ.
func TestStopAndStartAgainKeepsEverything(t *testing.T) {
	s := stack.Start(t)
	first := s.StartedIn
	k := key(t, "tenant_config_kept")
	if _, err := newUser(t, s, acme, "editor").put(k, 5); err != nil {
		t.Fatal(err)
	}
	s.Stop(t)
	s.Boot(t)
	if n, err := newUser(t, s, acme, "reader").get(k); err != nil || n != 5 {
		t.Errorf("after the restart it reads %d: %v", n, err)
	}
	t.Logf("start to ready: %v with seeding, %v on existing data", first, s.StartedIn)
}

func (u *user) backend(t *testing.T, name string) client.Backend {
	t.Helper()
	ctx, cancel := context.WithTimeout(u.ctx, 5*time.Second)
	defer cancel()
	all, err := u.client.ListBackends(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		if b.Name == name {
			return b
		}
	}
	t.Fatalf("there is no backend %q among %v", name, all)
	return client.Backend{}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func postOrder(t *testing.T, s *stack.Stack, tenant, role, body string) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.OrderHTTP+"/v1/orders", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+s.Token(t, tenant, role))
	return read(t, r)
}

func get(t *testing.T, s *stack.Stack, tenant, path string) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.OrderHTTP+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.Token(t, tenant, "reader"))
	return read(t, r)
}

func read(t *testing.T, r *http.Request) (int, []byte) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}
