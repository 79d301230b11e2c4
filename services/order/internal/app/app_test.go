package app_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/services/order/internal/app"
)

// valid is an environment that starts the service, with some of it changed:
// "NAME=" takes a name away.
func valid(t *testing.T, changes ...string) []string {
	t.Helper()
	environ := []string{
		"ORDER_LISTEN=127.0.0.1:0", "ORDER_MANAGEMENT_LISTEN=127.0.0.1:0", "ORDER_DATA=" + filepath.Join(t.TempDir(), "orders.db"),
		"ORDER_JWT_ISSUER=https://issuer.example", "ORDER_JWT_CLIENT_IDS=a", "PATH=/bin",
	}
	for _, change := range changes {
		name, value, _ := strings.Cut(change, "=")
		environ = slices.DeleteFunc(environ, func(item string) bool { return strings.HasPrefix(item, name+"=") })
		if value != "" {
			environ = append(environ, change)
		}
	}
	return environ
}

// A start that can not be says every reason at once, each on its own line with
// its mend, and leaves nothing behind.
func TestStartSaysWhatIsWrong(t *testing.T) {
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte(strings.Repeat("junk", 10000)), 0o600); err != nil {
		t.Fatal(err)
	}
	// No case may depend on this machine's access to AWS.
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for name, tc := range map[string]struct {
		changes []string
		want    []string
	}{
		"nothing required": {[]string{"ORDER_DATA=", "ORDER_JWT_ISSUER="}, []string{"ORDER_DATA: is required", "ORDER_JWT_ISSUER: is required"}},
		"unknown":          {[]string{"ORDER_DATTA=x"}, []string{"ORDER_DATTA: is not a setting", "did you mean ORDER_DATA?"}},
		"port in use": {
			[]string{"ORDER_LISTEN=" + taken.Addr().String(), "ORDER_MANAGEMENT_LISTEN=" + taken.Addr().String()},
			[]string{"ORDER_LISTEN: listen tcp", "address already in use (free the port", "ORDER_MANAGEMENT_LISTEN: "},
		},
		"not an address":     {[]string{"ORDER_LISTEN=8080"}, []string{"ORDER_LISTEN: is not host:port"}},
		"no folder":          {[]string{"ORDER_DATA=/nonexistent/x.db"}, []string{"ORDER_DATA: /nonexistent/x.db is in a folder that does not exist (make the folder)"}},
		"damaged file":       {[]string{"ORDER_DATA=" + junk}, []string{"ORDER_DATA: ", "is damaged or is no bbolt file (restore it"}},
		"read-only disk":     {[]string{"ORDER_DATA=/proc/orders.db"}, []string{"ORDER_DATA: /proc/orders.db "}},
		"plain HTTP":         {[]string{"ORDER_LISTEN=0.0.0.0:0"}, []string{"ORDER_LISTEN: is not loopback", "ORDER_INSECURE"}},
		"half of TLS":        {[]string{"ORDER_TLS_CERT=" + junk}, []string{"ORDER_TLS_CERT: and TLS_KEY"}},
		"plaintext tokens":   {[]string{"ORDER_CONFIG_TARGET=config.example:7070"}, []string{"ORDER_CONFIG_TARGET: plaintext is allowed to this machine only"}},
		"no target":          {[]string{"ORDER_CONFIG_TARGET=nowhere"}, []string{"ORDER_CONFIG_TARGET: the target is not valid (give it as host:port)"}},
		"TLS and plaintext":  {[]string{"ORDER_CONFIG_TLS=true", "ORDER_CONFIG_INSECURE=true"}, []string{"ORDER_CONFIG_INSECURE: is set together"}},
		"CA without TLS":     {[]string{"ORDER_CONFIG_CA=" + junk}, []string{"ORDER_CONFIG_CA: is set without"}},
		"CA without a PEM":   {[]string{"ORDER_CONFIG_TLS=true", "ORDER_CONFIG_CA=" + junk}, []string{"ORDER_CONFIG_CA: is not a file with PEM"}},
		"short cursor key":   {[]string{"ORDER_CURSOR_KEY=c2hvcnQ="}, []string{"ORDER_CURSOR_KEY: is not base64 of at least 32 bytes"}},
		"drain":              {[]string{"ORDER_DRAIN_TIMEOUT=0s"}, []string{"ORDER_DRAIN_TIMEOUT: is not above 0s"}},
		"token use":          {[]string{"ORDER_JWT_TOKEN_USE=refresh"}, []string{"auth.NewVerifier: "}},
		"plaintext of JWKS":  {[]string{"ORDER_JWKS_URL=http://issuer.example/keys"}, []string{"auth.NewVerifier: "}},
		"three at once":      {[]string{"ORDER_DATA=" + junk, "ORDER_CONFIG_TARGET=nowhere", "ORDER_LISTEN=0.0.0.0:0"}, []string{"ORDER_DATA: ", "ORDER_CONFIG_TARGET: ", "ORDER_LISTEN: "}},
		"no such store":      {[]string{"ORDER_STORE=redis", "ORDER_JWT_ISSUER="}, []string{"ORDER_STORE: is not one of the values", "ORDER_JWT_ISSUER: is required"}},
		"no table":           {[]string{"ORDER_STORE=dynamodb", "ORDER_DATA=", "ORDER_JWT_ISSUER="}, []string{"ORDER_DYNAMODB_TABLE: is required and not set (set it to the name", "ORDER_JWT_ISSUER: is required"}},
		"two stores":         {[]string{"ORDER_STORE=dynamodb", "ORDER_DYNAMODB_TABLE=orders"}, []string{"ORDER_DATA: is set, and the store is dynamodb (unset it"}},
		"another's settings": {[]string{"ORDER_DYNAMODB_TABLE=orders", "ORDER_DYNAMODB_CREATE_TABLE=true"}, []string{"ORDER_DYNAMODB_TABLE: is set, and the store is bolt", "\nORDER_DYNAMODB_CREATE_TABLE: is set"}},
		"no AWS": {
			[]string{"ORDER_STORE=dynamodb", "ORDER_DATA=", "ORDER_DYNAMODB_TABLE=x", "ORDER_CONFIG_TARGET=nowhere"},
			[]string{
				"ORDER_DYNAMODB_TABLE: no AWS region is set (set AWS_REGION)\n", "ORDER_DYNAMODB_TABLE: there are no AWS credentials (give",
				"ORDER_DYNAMODB_TABLE: the table's name is not valid (give 3", "ORDER_CONFIG_TARGET: ",
			},
		},
		"secret not repeated": {[]string{"ORDER_CURSOR_KEY=hunter2!"}, []string{"ORDER_CURSOR_KEY: "}},
	} {
		t.Run(name, func(t *testing.T) {
			err := app.Run(t.Context(), app.Options{Environ: valid(t, tc.changes...), Out: io.Discard})
			if err == nil {
				t.Fatal("Run returned nil")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Run returned:\n%v\nwant %q in it", err, want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error repeats a secret: %v", err)
			}
		})
	}
}

// The file of a running service is refused to a second one.
func TestTwoOnOneFile(t *testing.T) {
	s := start(t)
	err := app.Run(t.Context(), app.Options{Environ: s.environ, Out: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "is in use by another process (stop that process") {
		t.Errorf("a second service on the same file got %v", err)
	}
}

// A request that is at work when the service is told to stop is finished;
// nothing new is taken.
func TestDrain(t *testing.T) {
	s := start(t)
	token := s.token("acme-corp", auth.RoleEditor)
	arrived, release := make(chan struct{}), make(chan struct{})
	s.config.setFault(func(ctx context.Context, _ []string) error {
		close(arrived)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	answered := make(chan reply)
	go func() { answered <- s.do("POST", "/v1/orders", token, body(1, 500)) }()
	<-arrived
	stopped := make(chan error)
	go func() { stopped <- s.stop() }()
	s.wait("the end of listening", func() bool {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	resp, err := http.Get(s.management + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz answered %d while draining", resp.StatusCode)
	}
	close(release)
	if r := <-answered; r.status != http.StatusCreated {
		t.Errorf("the request at work was answered %d %s", r.status, r.body)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if !strings.Contains(s.log.String(), `"msg":"drained"`) {
		t.Error("the log does not say that the service has drained")
	}
}
