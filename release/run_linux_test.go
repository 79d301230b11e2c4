package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

const clientID = "tagstore-images"

// newIssuer serves the keys of tokens until the test ends.
func newIssuer(t *testing.T) *devissuer.Issuer {
	t.Helper()
	issuer, err := devissuer.New(devissuer.Options{ClientID: clientID})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(issuer)
	t.Cleanup(server.Close)
	issuer.SetURL(server.URL)
	return issuer
}

func token(t *testing.T, issuer *devissuer.Issuer, tenant string, role auth.Role) string {
	t.Helper()
	text, err := issuer.ID(tenant, "somebody", role, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// imageOf returns how an image of the layouts is run, with these settings beside
// its own.
func imageOf(t *testing.T, o output, service string, env ...string) container {
	t.Helper()
	for _, i := range images() {
		if i.service == service {
			c := i.config(settings{})
			return container{
				Root: rootOf(o.dir, service, runtime.GOARCH), Writable: append(append([]string{"/tmp"}, i.volumes...), i.data...), User: nonroot,
				Args: c.Entrypoint, Env: append(c.Env, env...),
			}
		}
	}
	t.Fatalf("there is no image of %s", service)
	return container{}
}

func configImage(t *testing.T, o output, issuer *devissuer.Issuer) container {
	t.Helper()
	return imageOf(t, o, "config", "TAGSTORE_MANIFEST_KEY="+o.publicKey(t), "TAGSTORE_LISTEN=127.0.0.1:0", "TAGSTORE_MANAGEMENT_LISTEN=127.0.0.1:0",
		"TAGSTORE_JWT_ISSUER="+issuer.Issuer(), "TAGSTORE_JWT_CLIENT_IDS="+clientID, "TAGSTORE_JWKS_URL="+issuer.JWKSURL(), "TAGSTORE_DRAIN_DELAY=0s")
}

// The images' trees run as they will: as user 65532 on a read-only root without
// capabilities, the configuration service with its plugins, the order service
// on it, and both ask for their own health.
func TestImagesRun(t *testing.T) {
	t.Parallel()
	o, issuer := theImages(t), newIssuer(t)
	service := configImage(t, o, issuer)
	configService := service.start(t)
	at := configService.ready(t)

	for field, want := range map[string]string{"Uid": "65532 65532 65532 65532", "Gid": "65532 65532 65532 65532", "Groups": "", "CapEff": "0000000000000000", "CapBnd": "0000000000000000"} {
		if got := status(t, configService.cmd.Process.Pid, field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	rootIsReadOnly(t, configService.cmd.Process.Pid)
	plugins := children(t, configService.cmd.Process.Pid)
	if len(plugins) != 2 {
		t.Errorf("it has the processes %v, want two plugins", plugins)
	}
	for _, pid := range plugins {
		if got := status(t, pid, "Uid"); got != "65532 65532 65532 65532" {
			t.Errorf("a plugin runs as %s", got)
		}
	}
	healthy(t, service, "TAGSTORE_MANAGEMENT_LISTEN="+at["management"], 0)
	healthy(t, service, "TAGSTORE_MANAGEMENT_LISTEN=127.0.0.1:1", 1) // where nobody is

	c, err := client.New(at["grpc"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	editor := token(t, issuer, "acme-corp", auth.RoleEditor)
	for name, value := range map[string]string{
		"tenant_config_payment-gateway": `{"providers":[{"name":"Stripe","apiEndpoint":"https://api.stripe.com"}]}`,
		"tenant_config_order-limits":    `{"minAmount":500,"maxAmount":1000000,"maxItems":50}`,
		"param_config_currency":         `"USD"`,
	} {
		key, err := config.ParseKey(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Put(client.ContextWithToken(t.Context(), editor), client.PutRequest{Key: key, Value: []byte(value)}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}

	orders := imageOf(t, o, "order", "ORDER_LISTEN=127.0.0.1:0", "ORDER_MANAGEMENT_LISTEN=127.0.0.1:0", "ORDER_DATA=/var/lib/tagstore/orders.db", "ORDER_CONFIG_TARGET="+at["grpc"],
		"ORDER_JWT_ISSUER="+issuer.Issuer(), "ORDER_JWT_CLIENT_IDS="+clientID, "ORDER_JWKS_URL="+issuer.JWKSURL(), "ORDER_DRAIN_DELAY=0s")
	orderService := orders.start(t)
	orderAt := orderService.ready(t)
	rootIsReadOnly(t, orderService.cmd.Process.Pid)
	healthy(t, orders, "ORDER_MANAGEMENT_LISTEN="+orderAt["management"], 0)

	placed := order(t, orderAt["http"], editor, http.StatusCreated)
	if placed["total"] != 2500.0 || placed["currency"] != "USD" || fmt.Sprint(placed["paymentGateway"]) != "map[apiEndpoint:https://api.stripe.com name:Stripe]" {
		t.Errorf("the order is %v", placed)
	}
	if other := order(t, orderAt["http"], token(t, issuer, "globex-inc", auth.RoleEditor), http.StatusUnprocessableEntity); other["key"] == nil {
		t.Errorf("an order of a tenant without configuration: %v", other)
	}
	orderService.stop(t)
	configService.stop(t)
}

// order places an order and returns the answer, which has to have this status.
func order(t *testing.T, at, token string, status int) map[string]any {
	t.Helper()
	body := `{"items":[{"sku":"A-1","quantity":2,"unitPrice":1250}],"currency":"USD"}`
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+at+"/v1/orders", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", "once")
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: deadline}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	answer := map[string]any{}
	if err := json.Unmarshal(text, &answer); err != nil || resp.StatusCode != status {
		t.Fatalf("%s %s, %v", resp.Status, text, err)
	}
	return answer
}

// healthy runs the health check of an image, with one of its settings changed.
func healthy(t *testing.T, c container, setting string, want int) {
	t.Helper()
	name, _, _ := strings.Cut(setting, "=")
	env := []string{setting}
	for _, e := range c.Env {
		if !strings.HasPrefix(e, name+"=") {
			env = append(env, e)
		}
	}
	c.Args, c.Env = append(c.Args[:1:1], "-healthcheck"), env
	r := c.start(t)
	if code := r.end(t); code != want {
		t.Errorf("-healthcheck with %s ends with %d, want %d\n%s", setting, code, want, r.out)
	}
}

func rootIsReadOnly(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 5 && f[4] == "/" {
			if options := "," + f[5] + ","; !strings.Contains(options, ",ro,") {
				t.Errorf("the root is mounted %s", f[5])
			}
			return
		}
	}
	t.Errorf("there is no root in\n%s", text)
}

// children are the processes that pid started.
func children(t *testing.T, pid int) []int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("the children of %d: %v, %v", pid, files, err)
	}
	var all []int
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // a thread that has ended
		}
		for _, field := range strings.Fields(string(text)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err != nil {
				t.Fatal(err)
			}
			all = append(all, child)
		}
	}
	return all
}

// One bit of a plugin, of the manifest or of its signature, and the service does
// not start; nor does it as root.
func TestImageRefuses(t *testing.T) {
	t.Parallel()
	o, issuer := theImages(t), newIssuer(t)
	for name, c := range map[string]struct {
		flip string
		user int
		says []string
	}{
		"a plugin":      {flip: "etc/tagstore/plugins/tagstore-plugin-local", user: nonroot, says: []string{"/etc/tagstore/tagstore.yaml:", "the plugin's bytes have the sha256 "}},
		"the manifest":  {flip: "etc/tagstore/tagstore.yaml", user: nonroot, says: []string{"is not what was signed"}},
		"the signature": {flip: "etc/tagstore/tagstore.yaml.sig", user: nonroot, says: []string{"/etc/tagstore/tagstore.yaml"}},
		"root":          {user: 0, says: []string{"runs as root", "TAGSTORE_ALLOW_ROOT"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := configImage(t, o, issuer)
			service.User = c.user
			if c.flip != "" {
				service.Root = flipped(t, service.Root, c.flip)
			}
			r := service.start(t)
			if code := r.end(t); code != 1 {
				t.Errorf("it ends with %d\n%s", code, r.out)
			}
			for _, says := range c.says {
				if !strings.Contains(r.out.String(), says) {
					t.Errorf("it does not say %q:\n%s", says, r.out)
				}
			}
			if strings.Contains(r.out.String(), `"msg":"ready"`) {
				t.Errorf("it was ready:\n%s", r.out)
			}
		})
	}
}

// flipped is a copy of a tree with one bit of a file changed.
func flipped(t *testing.T, root, name string) string {
	t.Helper()
	// Not t.TempDir, which is closed to others.
	to, err := os.MkdirTemp(dir, "flipped")
	if err == nil {
		err = os.Chmod(to, 0o755)
	}
	if err == nil {
		err = os.CopyFS(to, os.DirFS(root))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(to) })
	at := filepath.Join(to, name)
	text, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(text)
	changed[len(changed)/2] ^= 1
	if err := os.WriteFile(at, changed, 0o555); err != nil {
		t.Fatal(err)
	}
	return to
}

// metrics is what a service tells at /metrics.
func metrics(t *testing.T, at string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: deadline}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
