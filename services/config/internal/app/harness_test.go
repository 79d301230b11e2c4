package app_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/plugintest"
	"github.com/tagstore/tagstore/services/config/internal/app"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tenantA  = "acme-corp"
	tenantB  = "globex-inc"
	clientID = "tagstore-test"
)

// machine is the replicas' own identity.
var machine = devissuer.Machine{ClientID: "tagstore-test-machine", Secret: "s3cr3t-of-the-machine"}

// localPlugin is the package of the plugin that the tests run.
const localPlugin = "github.com/tagstore/tagstore/plugins/local"

var signingKey = sync.OnceValues(devissuer.GenerateKey)

// output collects log lines.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// records returns the log lines with this message.
func (o *output) records(t *testing.T, msg string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range strings.Lines(o.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("not a JSON line: %q", line)
		}
		if r["msg"] == msg {
			out = append(out, r)
		}
	}
	return out
}

// deployment is a folder with a manifest and plugins, and an issuer.
type deployment struct {
	dir     string
	issuer  *devissuer.Issuer
	environ []string
}

// manifestText has the layout of a real one: two backends, two routes.
const manifestText = `version: 1
backends:
  tenants:
    plugin: ./plugins/tagstore-plugin-local
    options: { path: data/tenants.db }
  params:
    plugin: ./plugins/tagstore-plugin-local
    options: { path: data/params.db }
routes:
  - prefix: tenant_config_
    backend: tenants
    layers: ["{tenant}/{service}", "{tenant}"]
  - prefix: param_config_
    backend: params
    layers: ["{tenant}/{service}", "{tenant}", "shared"]
    schema: schemas/param.json
    cache: { mode: event, max_staleness: 60s }
`

const schemaText = `{"type": ["string", "object"]}`

// deploy lays out a deployment with this manifest.
func deploy(t *testing.T, text string) *deployment {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, text := range map[string]string{"tagstore.yaml": text, "schemas/param.json": schemaText} {
		write(t, filepath.Join(dir, name), []byte(text), 0o600)
	}
	for _, sub := range []string{"data", "sockets"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(text, "tagstore-plugin-local") {
		binary, err := os.ReadFile(plugintest.Build(t, localPlugin))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "plugins", "tagstore-plugin-local"), binary, 0o755)
	}
	key, err := signingKey()
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := devissuer.New(devissuer.Options{ClientID: clientID, Machine: machine, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	served := httptest.NewServer(issuer)
	t.Cleanup(served.Close)
	issuer.SetURL(served.URL)
	return &deployment{dir: dir, issuer: issuer, environ: []string{
		"TAGSTORE_MANIFEST=" + filepath.Join(dir, "tagstore.yaml"),
		"TAGSTORE_LISTEN=127.0.0.1:0",
		"TAGSTORE_MANAGEMENT_LISTEN=127.0.0.1:0",
		"TAGSTORE_JWT_ISSUER=" + issuer.Issuer(),
		"TAGSTORE_JWT_CLIENT_IDS=" + clientID,
		"TAGSTORE_DEV=true",
		"TAGSTORE_ALLOW_ROOT=true", // for the tests without DEV
		"TAGSTORE_SOCKET_DIR=" + filepath.Join(dir, "sockets"),
		"TAGSTORE_DRAIN_DELAY=0s",
		"TAGSTORE_PLUGIN_START_TIMEOUT=30s", // emulators may be busy
		"TAGSTORE_LOG_LEVEL=DEBUG",
	}}
}

func write(t *testing.T, path string, text []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, mode); err != nil {
		t.Fatal(err)
	}
}

// sign signs the manifest as it is, and returns the setting that vouches for it.
func (d *deployment) sign(t *testing.T) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.dir, "tagstore.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, manifest.SignaturePath(path), manifest.Signature(text, private), 0o600)
	return "TAGSTORE_MANIFEST_KEY=" + base64.StdEncoding.EncodeToString(public)
}

// pin writes the checksums that production asks for, and signs.
func (d *deployment) pin(t *testing.T) string {
	t.Helper()
	path := filepath.Join(d.dir, "tagstore.yaml")
	pinned, _, err := manifest.Pin(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, pinned, 0o600)
	return d.sign(t)
}

// set returns the environment with these items changed; an item that ends
// with "=" is taken out.
func (d *deployment) set(items ...string) []string {
	out := append([]string(nil), d.environ...)
	for _, item := range items {
		name, value, _ := strings.Cut(item, "=")
		kept := out[:0]
		for _, old := range out {
			if !strings.HasPrefix(old, name+"=") {
				kept = append(kept, old)
			}
		}
		if out = kept; value != "" {
			out = append(out, item)
		}
	}
	return out
}

// service is a running app.Run.
type service struct {
	*deployment
	grpc, management string
	out              *output
	stop             context.CancelFunc
	force            chan struct{}
	hangup           chan os.Signal
	done             chan error
}

// run runs the service, with these items of its environment changed, until the
// test ends, and waits until it is ready.
func (d *deployment) run(t *testing.T, items ...string) *service {
	t.Helper()
	environ := d.set(items...)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	s := &service{deployment: d, out: &output{}, stop: stop, force: make(chan struct{}), hangup: make(chan os.Signal, 1), done: make(chan error, 1)}
	go func() {
		s.done <- app.Run(ctx, app.Options{Version: "1.2.3", Environ: environ, Out: s.out, Force: s.force, Reload: s.hangup})
	}()
	t.Cleanup(func() {
		stop()
		s.wait(t)
		if t.Failed() {
			t.Logf("log:\n%s", s.out)
		}
	})
	eventually(t, "the service is ready", func() bool {
		select {
		case err := <-s.done:
			s.done <- err
			t.Fatalf("Run returned %v\n%s", err, s.out)
		default:
		}
		return len(s.out.records(t, "ready")) > 0
	})
	ready := s.out.records(t, "ready")[0]
	s.grpc, _ = ready["grpc"].(string)
	s.management, _ = ready["management"].(string)
	return s
}

// wait returns what Run returned, which has to be soon.
func (s *service) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-s.done:
		s.done <- err
		if err != nil {
			t.Errorf("Run returned %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("Run does not return")
	}
}

func (s *service) client(t *testing.T, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(s.grpc, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// as returns the test's context with a token.
func (d *deployment) as(t *testing.T, tenant string, role auth.Role) context.Context {
	t.Helper()
	token, err := d.issuer.ID(tenant, "ann", role, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return client.ContextWithToken(t.Context(), token)
}

func (s *service) health(t *testing.T, creds credentials.TransportCredentials) healthv1.HealthClient {
	t.Helper()
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return healthv1.NewHealthClient(conn)
}

// serving reports what the health service says of a name.
func serving(t *testing.T, h healthv1.HealthClient, name string) string {
	t.Helper()
	resp, err := h.Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
	if err != nil {
		return err.Error()
	}
	return resp.GetStatus().String()
}

func (s *service) get(t *testing.T, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.management+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func key(t *testing.T, s string) config.Key {
	t.Helper()
	k, err := config.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.NewTimer(15 * time.Second)
	defer timeout.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-timeout.C:
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

// refused reports whether nobody listens at the address any more.
func refused(t *testing.T, address string) bool {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	return err != nil
}
