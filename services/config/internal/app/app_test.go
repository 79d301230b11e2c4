package app_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/config/internal/app"
)

// The main job through the real plugin process: every RPC as two tenants see
// it.
func TestService(t *testing.T) {
	s := deploy(t, manifestText).run(t)
	c := s.client(t)
	ctx := s.as(t, tenantA, auth.RoleEditor)
	k := key(t, "tenant_config_payment-gateway")

	first, err := c.Put(ctx, client.PutRequest{Key: k, Value: []byte(`{"p":"a"}`), Message: "first"})
	if err != nil || first.Version != 1 || first.UpdatedBy != "ann" {
		t.Fatalf("put: %+v, %v", first, err)
	}
	if _, err := c.Put(ctx, client.PutRequest{Key: k, Value: []byte(`{"p":"b"}`)}); err != nil {
		t.Fatal(err)
	}
	got, err := c.Get(ctx, k, config.Service{})
	if err != nil || string(got.Entry.Value) != `{"p":"b"}` || got.Freshness.Source != config.SourceStore || got.Freshness.State != config.StateFresh {
		t.Errorf("get: %+v, %v", got, err)
	}
	if _, err := c.Get(s.as(t, tenantB, auth.RoleAdmin), k, config.Service{}); !errors.Is(err, config.NotFound) {
		t.Errorf("the other tenant: %v", err)
	}
	rolled, err := c.Rollback(ctx, client.RollbackRequest{Key: k, ToVersion: 1})
	if err != nil || rolled.Version != 3 {
		t.Errorf("rollback: %+v, %v", rolled, err)
	}
	if _, err := c.Delete(ctx, client.DeleteRequest{Key: k}); err != nil {
		t.Error(err)
	}
	if _, err := c.Restore(ctx, client.RestoreRequest{Key: k}); err != nil {
		t.Error(err)
	}
	history, err := c.History(ctx, client.HistoryRequest{Key: k})
	if err != nil || len(history.Entries) != 5 || history.Entries[0].Version != 5 {
		t.Errorf("history: %+v, %v", history, err)
	}
	batch, err := c.BatchGet(ctx, []config.Key{k, key(t, "param_config_currency")}, config.Service{})
	if err != nil || batch[0].Err != nil || string(batch[0].Answer.Entry.Value) != `{"p":"a"}` || !errors.Is(batch[1].Err, config.NotFound) {
		t.Errorf("batch: %+v, %v", batch, err)
	}
	list, err := c.List(ctx, client.ListRequest{KeyPrefix: "tenant_config_"})
	if err != nil || len(list.Entries) != 1 {
		t.Errorf("list: %+v, %v", list, err)
	}
	// The schema of the route is the manifest's.
	if _, err := c.Put(ctx, client.PutRequest{Key: key(t, "param_config_currency"), Value: []byte(`7`)}); !errors.Is(err, config.InvalidArgument) {
		t.Errorf("a put that breaks the schema: %v", err)
	}
	backends, err := c.ListBackends(s.as(t, tenantA, auth.RoleAdmin))
	if err != nil || len(backends) != 2 || backends[0].Name != "params" || backends[1].State != client.BackendServing ||
		backends[1].PID == 0 || backends[1].PluginName != "local" || !slices.Equal(backends[1].Prefixes, []string{"tenant_config_"}) ||
		backends[1].Size == nil || backends[1].Size.Entries != 1 {
		t.Errorf("backends: %+v, %v", backends, err)
	}
}

// A plugin that dies takes its own prefix out of service and nothing else, a
// Watch on it says so and goes on, and the prefix comes back by itself.
func TestPluginDies(t *testing.T) {
	s := deploy(t, manifestText).run(t, "TAGSTORE_PLUGIN_MAX_FAILURES=0") // it may be away for as long as the test looks
	c := s.client(t)
	ctx := s.as(t, tenantA, auth.RoleAdmin)
	k, other := key(t, "tenant_config_x"), key(t, "param_config_x")
	for _, each := range []config.Key{k, other} {
		if _, err := c.Put(ctx, client.PutRequest{Key: each, Value: []byte(`"1"`)}); err != nil {
			t.Fatal(err)
		}
	}
	h := s.health(t, insecure.NewCredentials())
	expect := func(want map[string]string) bool {
		for name, status := range want {
			if serving(t, h, name) != status {
				return false
			}
		}
		return true
	}
	const up, down = "SERVING", "NOT_SERVING"
	if !expect(map[string]string{"": up, "tagstore.v1.ConfigService": up, "tenant_config_": up, "param_config_": up}) {
		t.Fatal("not everything serves")
	}
	watched := s.watch(t, c, "tenant_config_")
	watched("put tenant_config_x=\"1\"", "sync")
	flips := s.flips(t, h, "tenant_config_")
	stays := s.flips(t, h, "param_config_")

	backends, err := c.ListBackends(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pid := int(backends[1].PID)
	// Without its binary it can not come back before it has been seen away.
	binary := filepath.Join(s.dir, "plugins", "tagstore-plugin-local")
	if err := os.Rename(binary, binary+".away"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the prefix is out of service", func() bool { return slices.Equal(flips(), []string{up, down}) })
	if !expect(map[string]string{"": up, "tagstore.v1.ConfigService": up, "tenant_config_": down, "param_config_": up}) {
		t.Error("the health of something else changed too")
	}
	if code, body := s.get(t, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "restarting") {
		t.Errorf("readyz: %d %s", code, body)
	}
	if err := os.Rename(binary+".away", binary); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the prefix is back", func() bool { return slices.Equal(flips(), []string{up, down, up}) })
	if got := stays(); !slices.Equal(got, []string{up}) {
		t.Errorf("the other prefix went through %v", got)
	}
	for _, each := range []config.Key{k, other} {
		if got, err := c.Get(ctx, each, config.Service{}); err != nil || string(got.Entry.Value) != `"1"` {
			t.Errorf("get %v: %+v, %v", each, got, err)
		}
	}
	if _, err := c.Put(ctx, client.PutRequest{Key: k, Value: []byte(`"2"`)}); err != nil {
		t.Fatal(err)
	}
	// Its stream lives through all of it.
	watched("source down", "source up", "put tenant_config_x=\"2\"")
	backends, err = c.ListBackends(ctx)
	if err != nil || backends[1].Restarts != 1 || int(backends[1].PID) == pid || backends[0].Restarts != 0 {
		t.Errorf("backends: %+v, %v", backends, err)
	}
	if code, body := s.get(t, "/readyz"); code != http.StatusOK {
		t.Errorf("readyz: %d %s", code, body)
	}
}

// A plugin that keeps ending is given up. Its state says so, its prefix fails
// with what no retry will mend, and no other is disturbed.
func TestR02PluginIsGivenUp(t *testing.T) {
	s := deploy(t, manifestText).run(t)
	c := s.client(t)
	ctx := s.as(t, tenantA, auth.RoleAdmin)
	k, other := key(t, "tenant_config_x"), key(t, "param_config_x")
	for _, each := range []config.Key{k, other} {
		if _, err := c.Put(ctx, client.PutRequest{Key: each, Value: []byte(`"1"`)}); err != nil {
			t.Fatal(err)
		}
	}
	backends := func() (params, tenants client.Backend) {
		t.Helper()
		all, err := c.ListBackends(ctx)
		if err != nil || len(all) != 2 {
			t.Fatalf("backends: %+v, %v", all, err)
		}
		return all[0], all[1]
	}
	before, b := backends()
	for range 4 {
		last := b.PID
		if err := syscall.Kill(int(last), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it serves again", func() bool {
			_, b = backends()
			return b.State == client.BackendServing && b.PID != last
		})
	}
	if err := syscall.Kill(int(b.PID), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is given up", func() bool {
		_, b = backends()
		return b.State == client.BackendFailed
	})
	after, _ := backends()
	if b.PID != 0 || b.Generation != 5 || !strings.Contains(b.LastError, "signal 9") || after.PID != before.PID || after.State != client.BackendServing {
		t.Errorf("backends: %+v and %+v", after, b)
	}
	_, err := c.Get(ctx, k, config.Service{})
	if e := new(config.Error); !errors.As(err, &e) || e.Code != config.FailedPrecondition || e.Hint == "" {
		t.Errorf("get: %v", err)
	}
	if got, err := c.Get(ctx, other, config.Service{}); err != nil || string(got.Entry.Value) != `"1"` {
		t.Errorf("get of another prefix: %+v, %v", got, err)
	}
	if code, body := s.get(t, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "failed") {
		t.Errorf("readyz: %d %s", code, body)
	}

	// To load the same manifest once more is to ask for another try.
	if r := s.reload(t); r["applied"] != true {
		t.Errorf("the receipt is %v", r)
	}
	eventually(t, "it serves again", func() bool {
		_, b = backends()
		return b.State == client.BackendServing
	})
	if got, err := c.Get(ctx, k, config.Service{}); err != nil || string(got.Entry.Value) != `"1"` {
		t.Errorf("get: %+v, %v", got, err)
	}
	if after, _ := backends(); after.PID != before.PID {
		t.Errorf("the other plugin was started again: %+v", after)
	}
}

// watch runs a Watch and returns what takes the next events off it: those
// named, in their order, heartbeats and further sync marks apart.
func (s *service) watch(t *testing.T, c *client.Client, prefix string) func(want ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(s.as(t, tenantA, auth.RoleReader))
	events, done := make(chan string, 64), make(chan error, 1)
	go func() {
		done <- c.Watch(ctx, client.WatchRequest{KeyPrefix: prefix}, func(e client.Event) error {
			if e.Kind == client.EventHeartbeat {
				return nil
			}
			text := e.Kind.String()
			if e.Kind == client.EventPut || e.Kind == client.EventDelete {
				text += fmt.Sprintf(" %s=%s", e.Entry.Key, e.Entry.Value)
			}
			events <- text
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, config.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
	})
	return func(want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case got := <-events:
				for got == "sync" && w != "sync" {
					got = <-events
				}
				if got != w {
					t.Fatalf("the watch says %q, want %q", got, w)
				}
			case err := <-done:
				done <- err
				t.Fatalf("the watch ended: %v", err)
			case <-time.After(10 * time.Second):
				t.Fatalf("the watch does not say %q", w)
			}
		}
	}
}

// flips follows the health of a name and returns what says what it went
// through.
func (s *service) flips(t *testing.T, h healthv1.HealthClient, name string) func() []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := h.Watch(ctx, &healthv1.HealthCheckRequest{Service: name})
	if err != nil {
		t.Fatal(err)
	}
	seen, done := make(chan string, 64), make(chan struct{})
	go func() {
		defer close(done)
		for {
			resp, err := stream.Recv()
			if err != nil {
				return
			}
			seen <- resp.GetStatus().String()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	var all []string
	return func() []string {
		for {
			select {
			case status := <-seen:
				all = append(all, status)
			default:
				return all
			}
		}
	}
}

func TestManagement(t *testing.T) {
	s := deploy(t, manifestText).run(t)
	if code, body := s.get(t, "/healthz"); code != http.StatusOK || !strings.Contains(body, "alive") {
		t.Errorf("healthz: %d %s", code, body)
	}
	eventually(t, "ready", func() bool { code, _ := s.get(t, "/readyz"); return code == http.StatusOK })
	_, body := s.get(t, "/readyz")
	var report struct {
		Backends []struct{ Name, State string }
	}
	if err := json.Unmarshal([]byte(body), &report); err != nil || len(report.Backends) != 2 || report.Backends[0].State != "serving" {
		t.Errorf("readyz: %s, %v", body, err)
	}
	if _, err := s.client(t).Get(s.as(t, tenantA, auth.RoleReader), key(t, "tenant_config_x"), config.Service{}); !errors.Is(err, config.NotFound) {
		t.Fatal(err)
	}
	code, metrics := s.get(t, "/metrics")
	for _, want := range []string{"rpc_server_", `ConfigService`, "go_goroutines", `service_version="1.2.3"`} {
		if code != http.StatusOK || !strings.Contains(metrics, want) {
			t.Errorf("metrics: %d without %q", code, want)
		}
	}
	if strings.Contains(metrics, tenantA) {
		t.Error("a tenant's name is in the metrics")
	}
	for path, want := range map[string]int{"/": 404, "/debug/pprof/": 404, "/readyz/../metrics": 307, "/metrics/x": 404} {
		if code, _ := s.get(t, path); code != want && (want != 307 || code != 301) {
			t.Errorf("%s answers %d, want %d", path, code, want)
		}
	}
}

// The caller's trace and request id are in the log line of its call.
func TestTraceAndRequestID(t *testing.T) {
	s := deploy(t, manifestText).run(t)
	const traceID = "0af7651916cd43dd8448eb211c80319c"
	ctx := metadata.AppendToOutgoingContext(s.as(t, tenantA, auth.RoleReader), "traceparent", "00-"+traceID+"-b7ad6b7169203331-01")
	_, err := s.client(t).Get(client.ContextWithRequestID(ctx, "my-request"), key(t, "tenant_config_x"), config.Service{})
	if !errors.Is(err, config.NotFound) || client.RequestID(err) != "my-request" {
		t.Fatal(err)
	}
	for _, r := range s.out.records(t, "call") {
		if r["request_id"] == "my-request" && r["trace_id"] == traceID && r["tenant"] == tenantA && r["method"] == "/tagstore.v1.ConfigService/Get" {
			return
		}
	}
	t.Errorf("no log line has all of it:\n%s", s.out)
}

// A route's cache settings decide where its answers come from.
func TestCacheSettings(t *testing.T) {
	s := deploy(t, manifestText).run(t)
	ctx, c := s.as(t, tenantA, auth.RoleEditor), s.client(t)
	for k, want := range map[string]config.Source{"param_config_x": config.SourceCache, "tenant_config_x": config.SourceStore} {
		if _, err := c.Put(ctx, client.PutRequest{Key: key(t, k), Value: []byte(`"x"`)}); err != nil {
			t.Fatal(err)
		}
		got, err := c.Get(ctx, key(t, k), config.Service{})
		if err != nil || got.Freshness.Source != want || got.Freshness.State != config.StateFresh {
			t.Errorf("%s is %+v, %v; want it fresh from the %s", k, got.Freshness, err, want)
		}
	}
}

// A drain tells probes first, lets a call in flight finish, ends streams so
// that they resume elsewhere, and leaves neither process nor socket.
func TestDrain(t *testing.T) {
	d := deploy(t, manifestText)
	s := d.run(t, "TAGSTORE_DRAIN_DELAY=300ms")
	c := s.client(t)
	ctx := s.as(t, tenantA, auth.RoleAdmin)
	backends, err := c.ListBackends(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h := s.health(t, insecure.NewCredentials())
	flips := s.flips(t, h, "")
	eventually(t, "the probe answers", func() bool { return len(flips()) == 1 })
	begun, ended := make(chan struct{}), make(chan error, 1)
	watching, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() {
		var broke error
		_ = c.Watch(watching, client.WatchRequest{
			KeyPrefix: "tenant_config_",
			OnRetry:   func(err error, _ time.Duration) { broke = err; giveUp() },
		}, func(e client.Event) error {
			if e.Kind == client.EventSync {
				close(begun)
			}
			return nil
		})
		ended <- broke
	}()
	<-begun
	s.stop()
	eventually(t, "probes are told", func() bool { return slices.Equal(flips(), []string{"SERVING", "NOT_SERVING"}) })
	// During the delay those who have not heard yet are still served.
	if _, err := c.Get(ctx, key(t, "tenant_config_x"), config.Service{}); !errors.Is(err, config.NotFound) {
		t.Errorf("a call during the delay: %v", err)
	}
	if code, body := s.get(t, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "draining") {
		t.Errorf("readyz: %d %s", code, body)
	}
	s.wait(t)
	if err := <-ended; !errors.Is(err, config.Unavailable) {
		t.Errorf("the watch ended with %v", err)
	}
	for _, b := range backends {
		if err := syscall.Kill(int(b.PID), 0); err == nil {
			t.Errorf("the plugin of %s still runs", b.Name)
		}
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "sockets")); err != nil || len(left) != 0 {
		t.Errorf("left in the socket folder: %v, %v", left, err)
	}
	for _, address := range []string{s.grpc, s.management} {
		if !refused(t, address) {
			t.Errorf("%s still answers", address)
		}
	}
}

// A second signal does not wait for the delay.
func TestForcedStop(t *testing.T) {
	d := deploy(t, manifestText)
	s := d.run(t, "TAGSTORE_DRAIN_DELAY=1h")
	s.stop()
	eventually(t, "draining", func() bool { return len(s.out.records(t, "draining")) == 1 })
	close(s.force)
	s.wait(t)
}

func TestStopWhileStarting(t *testing.T) {
	d := deploy(t, manifestText)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := app.Run(ctx, app.Options{Environ: d.environ, Out: &output{}}); err != nil {
		t.Errorf("got %v", err)
	}
}

// Everything that keeps the service from starting says what it is and how to
// mend it, one line each, and leaves nothing behind.
func TestStartFailures(t *testing.T) {
	d := deploy(t, manifestText)
	busy, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	script := func(name, text string) string {
		t.Helper()
		write(t, filepath.Join(d.dir, "plugins", name), []byte("#!/bin/sh\n"+text+"\n"), 0o755)
		path := filepath.Join(d.dir, name+".yaml")
		write(t, path, []byte(strings.ReplaceAll(manifestText, "tagstore-plugin-local", name)), 0o600)
		return "TAGSTORE_MANIFEST=" + path
	}
	signed, stranger := d.sign(t), "TAGSTORE_MANIFEST_KEY="+base64.StdEncoding.EncodeToString(make([]byte, 32))
	malformed := filepath.Join(d.dir, "malformed.yaml")
	write(t, malformed, []byte("version: 1\nbackend: {}\n"), 0o600)
	for name, c := range map[string]struct {
		set  []string
		says []string
	}{
		"no settings":                {[]string{"TAGSTORE_MANIFEST=", "TAGSTORE_JWT_ISSUER="}, []string{"TAGSTORE_MANIFEST: is required", "TAGSTORE_JWT_ISSUER: is required"}},
		"unknown setting":            {[]string{"TAGSTORE_LISTNE=:1"}, []string{"TAGSTORE_LISTNE", "TAGSTORE_LISTEN"}},
		"gRPC port in use":           {[]string{"TAGSTORE_LISTEN=" + busy.Addr().String()}, []string{"TAGSTORE_LISTEN", "address already in use"}},
		"management port in use":     {[]string{"TAGSTORE_MANAGEMENT_LISTEN=" + busy.Addr().String()}, []string{"TAGSTORE_MANAGEMENT_LISTEN", "address already in use"}},
		"no manifest":                {[]string{"TAGSTORE_MANIFEST=" + filepath.Join(d.dir, "none.yaml")}, []string{"none.yaml"}},
		"malformed manifest":         {[]string{"TAGSTORE_MANIFEST=" + malformed}, []string{"malformed.yaml:2"}},
		"unsigned manifest":          {[]string{"TAGSTORE_DEV="}, []string{"tagstore.yaml: there is no key", "TAGSTORE_MANIFEST_KEY"}},
		"manifest key that is none":  {[]string{"TAGSTORE_MANIFEST_KEY=%%secret%%"}, []string{"TAGSTORE_MANIFEST_KEY is neither", "tagctl manifest keygen"}},
		"signed by somebody else":    {[]string{"TAGSTORE_DEV=", stranger}, []string{"tagstore.yaml: the manifest is not what was signed"}},
		"plugins without a checksum": {[]string{"TAGSTORE_DEV=", signed}, []string{"tagstore.yaml:3: backend \"tenants\" has no sha256", "schema_sha256"}},
		"plugin that exits":          {[]string{script("exits", "exit 3")}, []string{"plugin tenants", "plugin params"}},
		"plugin of garbage":          {[]string{script("garbage", "echo nonsense; sleep 60")}, []string{"plugin tenants"}},
		"plaintext off loopback":     {[]string{"TAGSTORE_LISTEN=0.0.0.0:0", "TAGSTORE_DEV="}, []string{"TAGSTORE_LISTEN", "TAGSTORE_INSECURE=true"}},
		"plaintext anywhere":         {[]string{"TAGSTORE_LISTEN=:0", "TAGSTORE_DEV="}, []string{"TAGSTORE_LISTEN", "TAGSTORE_INSECURE=true"}},
		"development off loopback":   {[]string{"TAGSTORE_LISTEN=0.0.0.0:0", "TAGSTORE_INSECURE=true"}, []string{"TAGSTORE_DEV"}},
		"address that is none":       {[]string{"TAGSTORE_LISTEN=nonsense"}, []string{"TAGSTORE_LISTEN"}},
		"certificate without key":    {[]string{"TAGSTORE_TLS_CERT=" + malformed}, []string{"TAGSTORE_TLS_KEY"}},
		"key without certificate":    {[]string{"TAGSTORE_TLS_KEY=" + malformed}, []string{"TAGSTORE_TLS_CERT"}},
		"client CA without TLS":      {[]string{"TAGSTORE_TLS_CLIENT_CA=" + malformed}, []string{"TAGSTORE_TLS_CERT"}},
		"certificate that is none":   {[]string{"TAGSTORE_TLS_CERT=" + malformed, "TAGSTORE_TLS_KEY=" + malformed}, []string{"TAGSTORE_TLS_CERT"}},
		"token key too short":        {[]string{"TAGSTORE_TOKEN_KEY=c2VjcmV0"}, []string{"TAGSTORE_TOKEN_KEY", "32 bytes"}},
		"token key not base64":       {[]string{"TAGSTORE_TOKEN_KEY=%%secret%%"}, []string{"TAGSTORE_TOKEN_KEY"}},
		"issuer's keys over http":    {[]string{"TAGSTORE_JWKS_URL=http://example.com/jwks.json"}, []string{"JWKS"}},
		"token use":                  {[]string{"TAGSTORE_JWT_TOKEN_USE=refresh"}, []string{"token use"}},
		"limits": {
			[]string{"TAGSTORE_WATCHES_PER_TENANT=0", "TAGSTORE_STREAMS_PER_CONNECTION=251", "TAGSTORE_REFRESHES_PER_TENANT=0", "TAGSTORE_TENANT_RATE=-1", "TAGSTORE_TENANT_BURST=999", "TAGSTORE_WATCH_HEARTBEAT=6s", "TAGSTORE_WATCH_SEND_TIMEOUT=0s", "TAGSTORE_PLUGIN_START_TIMEOUT=1ms", "TAGSTORE_PLUGIN_MAX_FAILURES=-1", "TAGSTORE_DRAIN_DELAY=-1s", "TAGSTORE_DRAIN_TIMEOUT=0s"},
			[]string{"WATCHES_PER_TENANT", "STREAMS_PER_CONNECTION", "REFRESHES_PER_TENANT", "TENANT_RATE", "TENANT_BURST", "WATCH_HEARTBEAT", "WATCH_SEND_TIMEOUT", "PLUGIN_START_TIMEOUT", "PLUGIN_MAX_FAILURES", "DRAIN_DELAY", "DRAIN_TIMEOUT"},
		},
		"burst without a rate": {[]string{"TAGSTORE_TENANT_BURST=1000"}, []string{"TENANT_BURST", "TENANT_RATE"}},
		"several at once": {
			[]string{"TAGSTORE_MANIFEST=" + malformed, "TAGSTORE_TOKEN_KEY=x", "TAGSTORE_LISTEN=nonsense"},
			[]string{"malformed.yaml:2", "TAGSTORE_TOKEN_KEY", "TAGSTORE_LISTEN"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := app.Run(t.Context(), app.Options{Environ: d.set(c.set...), Out: &output{}})
			if err == nil {
				t.Fatal("it started")
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("it does not say %q:\n%v", want, err)
				}
			}
			if strings.Contains(err.Error(), "secret%%") {
				t.Error("it shows a key")
			}
			if left, err := os.ReadDir(filepath.Join(d.dir, "sockets")); err != nil || len(left) != 0 {
				t.Errorf("left in the socket folder: %v, %v", left, err)
			}
		})
	}
}

// In production the service runs what was signed. A byte of it changes, and it
// does not start.
func TestR11ProductionRunsWhatWasSigned(t *testing.T) {
	d := deploy(t, manifestText)
	signer := d.pin(t)
	s := d.run(t, "TAGSTORE_DEV=", signer)
	if _, err := s.client(t).Put(s.as(t, tenantA, auth.RoleEditor), client.PutRequest{Key: key(t, "param_config_currency"), Value: []byte(`"EUR"`)}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s.wait(t)
	for file, says := range map[string]string{
		"tagstore.yaml":                 "tagstore.yaml: the manifest is not what was signed",
		"plugins/tagstore-plugin-local": "tagstore.yaml:5: the plugin's bytes have the sha256 ",
		"schemas/param.json":            "the schema's bytes have the sha256 ",
	} {
		path := filepath.Join(d.dir, file)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(whole)
		changed[len(changed)/2] ^= 1
		write(t, path, changed, 0o755)
		err = app.Run(t.Context(), app.Options{Environ: d.set("TAGSTORE_DEV=", signer), Out: &output{}})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("with another byte in %s: %v", file, err)
		}
		write(t, path, whole, 0o755)
	}
}

// Root is let in by name or in development only.
func TestR13RootIsRefused(t *testing.T) {
	d := deploy(t, manifestText)
	err := app.Run(t.Context(), app.Options{Environ: d.set("TAGSTORE_DEV=", "TAGSTORE_ALLOW_ROOT="), Out: &output{}})
	if err == nil { // the manifest has no checksums
		t.Fatal("it ran")
	}
	if got := strings.Contains(err.Error(), "runs as root") && strings.Contains(err.Error(), "TAGSTORE_ALLOW_ROOT=true"); got != (os.Geteuid() == 0) {
		t.Errorf("as user %d: %v", os.Geteuid(), err)
	}
	err = app.Run(t.Context(), app.Options{Environ: d.set("TAGSTORE_DEV="), Out: &output{}})
	if err == nil || strings.Contains(err.Error(), "root") {
		t.Errorf("where root is allowed: %v", err)
	}
}

// A running service takes up nothing that is not signed and pinned, and goes on
// with what is.
func TestR11ReloadTakesOnlyWhatIsSigned(t *testing.T) {
	d := deploy(t, manifestText)
	s := d.run(t, "TAGSTORE_DEV=", "TAGSTORE_MANIFEST_WATCH=false", d.pin(t))
	c, k := s.client(t), key(t, "param_config_currency")
	if _, err := c.Put(s.as(t, tenantA, auth.RoleEditor), client.PutRequest{Key: k, Value: []byte(`"EUR"`)}); err != nil {
		t.Fatal(err)
	}
	token, err := d.issuer.Operator(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	operator := client.ContextWithToken(t.Context(), token)
	was := s.pids(t, c)
	for file, says := range map[string]string{
		"tagstore.yaml":                 "tagstore.yaml: the manifest is not what was signed",
		"tagstore.yaml.sig":             "tagstore.yaml",
		"plugins/tagstore-plugin-local": "tagstore.yaml:5: the plugin's bytes have the sha256 ",
		"schemas/param.json":            "the schema's bytes have the sha256 ",
	} {
		path := filepath.Join(d.dir, file)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(whole)
		changed[len(changed)/2] ^= 1
		replaceFile(t, path, changed)
		r, err := c.ReloadManifest(operator)
		if err != nil || r.Applied || !strings.Contains(strings.Join(r.Problems, "\n"), says) {
			t.Errorf("with another byte in %s: %+v, %v", file, r, err)
		}
		if got, err := c.Get(s.as(t, tenantA, auth.RoleReader), k, config.Service{}); err != nil || string(got.Entry.Value) != `"EUR"` {
			t.Errorf("with another byte in %s: what served before answers %v, %v", file, got, err)
		}
		replaceFile(t, path, whole)
	}
	if r, err := c.ReloadManifest(operator); err != nil || !r.Applied {
		t.Errorf("what is signed was refused: %+v, %v", r, err)
	}
	if now := s.pids(t, c); !maps.Equal(was, now) {
		t.Errorf("the processes were %v and are %v", was, now)
	}
}

// replaceFile replaces a file in one step: a program that runs can not be written.
func replaceFile(t *testing.T, path string, text []byte) {
	t.Helper()
	write(t, path+".new", text, 0o755)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// Two services on one folder: the second finds the store in use.
func TestStoreInUse(t *testing.T) {
	s := deploy(t, manifestText).run(t)
	err := app.Run(t.Context(), app.Options{Environ: s.environ, Out: &output{}})
	if err == nil || !strings.Contains(err.Error(), "plugin ") {
		t.Errorf("got %v", err)
	}
	if got := serving(t, s.health(t, insecure.NewCredentials()), "tenant_config_"); got != "SERVING" {
		t.Errorf("the first says %s", got)
	}
}

// A value that was acknowledged is there after a restart, and so is the place
// in a Watch where the token key is a fixed one.
func TestRestart(t *testing.T) {
	d := deploy(t, manifestText)
	const tokenKey = "TAGSTORE_TOKEN_KEY=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	ctx := d.as(t, tenantA, auth.RoleEditor)
	k := key(t, "tenant_config_x")
	token := ""
	watchUntil := func(c *client.Client, last string) {
		t.Helper()
		found := errors.New("found")
		err := c.Watch(ctx, client.WatchRequest{KeyPrefix: "tenant_config_", ResumeToken: token}, func(e client.Event) error {
			if e.ResumeToken != "" {
				token = e.ResumeToken
			}
			if string(e.Entry.Value) == last && e.ResumeToken != "" || last == "" && e.Kind == client.EventSync {
				return found
			}
			return nil
		})
		if !errors.Is(err, found) {
			t.Fatalf("the watch ended with %v", err)
		}
	}
	one := d.run(t, tokenKey)
	watchUntil(one.client(t), "")
	if _, err := one.client(t).Put(ctx, client.PutRequest{Key: k, Value: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	one.stop()
	one.wait(t)

	two := d.run(t, tokenKey)
	c := two.client(t)
	if got, err := c.Get(ctx, k, config.Service{}); err != nil || string(got.Entry.Value) != "1" {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	watchUntil(c, "1")
}
