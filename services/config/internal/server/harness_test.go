package server_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"log/slog"
	"maps"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
	"github.com/tagstore/tagstore/services/config/internal/readiness"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tenantA  = "acme-corp"
	tenantB  = "globex-inc"
	clientID = "tagstore-test"
	subject  = "ann"
)

// signingKey is made once: making one takes longer than most tests.
var signingKey = sync.OnceValues(devissuer.GenerateKey)

// process is an in-memory backend dressed as a plugin process.
type process struct {
	*memdriver.Backend
	status pluginhost.Status
}

func (p process) Status() pluginhost.Status { return p.status }

// reloader reloads by calling itself.
type reloader func(context.Context) (server.Reload, error)

func (r reloader) Reload(ctx context.Context) (server.Reload, error) { return r(ctx) }

// fixture is a server on loopback with two routes on one in-memory backend, and
// an issuer whose tokens it takes.
type fixture struct {
	server   *server.Server
	issuer   *devissuer.Issuer
	backend  *memdriver.Backend
	monitor  *readiness.Monitor
	verifier *auth.Verifier
	log      *safeBuffer
	address  string
	conn     *grpc.ClientConn
	config   tagstorev1.ConfigServiceClient
	admin    tagstorev1.AdminServiceClient
}

// safeBuffer can be read while others write.
type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// start starts a server; change may alter its options.
func start(t *testing.T, change ...func(*server.Options)) *fixture {
	t.Helper()
	f := &fixture{backend: memdriver.New(), log: &safeBuffer{}, monitor: readiness.NewMonitor(server.ServiceNames()...)}
	t.Cleanup(func() { _ = f.backend.Close() })
	f.issue(t)
	verifier, err := auth.NewVerifier(auth.Options{
		Issuer: f.issuer.Issuer(), ClientIDs: []string{clientID}, JWKSURL: f.issuer.JWKSURL(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)
	f.verifier = verifier

	logger := slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o := server.Options{
		Store: newStore(t, f.backend, logger),
		Backends: func() []server.Backend {
			return []server.Backend{{
				Process:  process{f.backend, pluginhost.Status{Name: "mem", State: pluginhost.StateServing, Capabilities: driver.CapabilitiesOf(f.backend), Caveats: driver.Caveats{TextOnly: true}}},
				Prefixes: []string{"tenant_config_", "param_config_"},
			}}
		},
		Health: f.monitor.Health(), Verifier: verifier, Limits: server.DefaultLimits(),
		Reloader: reloader(func(context.Context) (server.Reload, error) { return server.Reload{Applied: true, Generation: 2}, nil }),
		Logger:   logger, MeterProvider: noop.NewMeterProvider(), TracerProvider: tracenoop.NewTracerProvider(),
	}
	for _, c := range change {
		c(&o)
	}
	if f.server, err = server.New(o); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(listener) }()
	t.Cleanup(func() {
		f.server.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	f.address = listener.Addr().String()
	f.conn = f.dial(t, insecure.NewCredentials())
	f.config, f.admin = tagstorev1.NewConfigServiceClient(f.conn), tagstorev1.NewAdminServiceClient(f.conn)
	f.monitor.Serve(nil, func() bool { return true })
	return f
}

func (f *fixture) issue(t *testing.T) {
	t.Helper()
	key, err := signingKey()
	if err != nil {
		t.Fatal(err)
	}
	f.issuer = newIssuer(t, clientID, key)
	served := httptest.NewServer(f.issuer)
	t.Cleanup(served.Close)
	f.issuer.SetURL(served.URL)
}

func newIssuer(t *testing.T, client string, key *rsa.PrivateKey) *devissuer.Issuer {
	t.Helper()
	issuer, err := devissuer.New(devissuer.Options{ClientID: client, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

func newStore(t *testing.T, backend driver.Backend, logger *slog.Logger) *store.Store {
	t.Helper()
	table, err := router.NewTable([]router.Route{
		{Prefix: "tenant_config_", BackendName: "mem", Backend: backend, Layers: []manifest.Layer{manifest.LayerService, manifest.LayerTenant}},
		{Prefix: "param_config_", BackendName: "mem", Backend: backend, Layers: []manifest.Layer{manifest.LayerService, manifest.LayerTenant, manifest.LayerShared}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return store.New(router.New(table), store.Options{Logger: logger, TokenKey: driver.NewTokenKey()})
}

func (f *fixture) dial(t *testing.T, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(f.address, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(32<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// token returns an ID token that lasts for an hour.
func (f *fixture) token(t *testing.T, tenant string, role auth.Role) string {
	t.Helper()
	token, err := f.issuer.ID(tenant, subject, role, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// as returns the test's context with the token of that role.
func (f *fixture) as(t *testing.T, tenant string, role auth.Role) context.Context {
	t.Helper()
	return withToken(t.Context(), f.token(t, tenant, role))
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// put writes a value past the server, as the tenant-wide layer of a tenant.
func (f *fixture) put(t *testing.T, tenant, key, value string) config.Entry {
	t.Helper()
	e, err := f.backend.Put(t.Context(), driver.PutRequest{ID: id(t, tenant, key), Value: []byte(value), UpdatedBy: "seed"})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (f *fixture) remove(t *testing.T, tenant, key string) {
	t.Helper()
	if _, err := f.backend.Delete(t.Context(), driver.DeleteRequest{ID: id(t, tenant, key), UpdatedBy: "seed"}); err != nil {
		t.Fatal(err)
	}
}

func id(t *testing.T, tenant, key string) config.ID {
	t.Helper()
	owner, err := config.ParseOwner(tenant)
	if err != nil {
		t.Fatal(err)
	}
	k, err := config.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return config.ID{Tenant: owner, Key: k}
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-timeout.C:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// with returns a copy of claims with these members changed; nil takes one out.
func with(claims map[string]any, changes map[string]any) map[string]any {
	out := maps.Clone(claims)
	for k, v := range changes {
		if v == nil {
			delete(out, k)
			continue
		}
		out[k] = v
	}
	return out
}
