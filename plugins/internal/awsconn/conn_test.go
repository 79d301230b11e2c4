package awsconn

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/tagstore/tagstore/core/config"
)

func TestOptionsCheck(t *testing.T) {
	for _, o := range []Options{
		{},
		{TenantRole: role},
		{TenantRole: "arn:aws-cn:iam::123456789012:role/service/tenant@x", TenantRoleDuration: "15m", Timeout: "100ms", MaxAttempts: 1},
		{TenantRole: "arn:aws:iam::123456789012:role/x", TenantRoleDuration: "12h", Timeout: "1m", MaxAttempts: 10},
	} {
		if wrong := o.Check(); len(wrong) != 0 {
			t.Errorf("%+v: %q", o, wrong)
		}
	}
	for name, c := range map[string]struct {
		o    Options
		want []string
	}{
		"all at once":         {Options{TenantRole: "x", TenantRoleDuration: "y", Timeout: "z", MaxAttempts: -1}, []string{"tenant_role_duration is", "timeout", "tenant_role is", "max_attempts"}},
		"duration alone":      {Options{TenantRoleDuration: "1h"}, []string{"both or neither"}},
		"too short":           {Options{TenantRole: role, TenantRoleDuration: "14m59s", Timeout: "99ms"}, []string{"tenant_role_duration", "timeout"}},
		"too long":            {Options{TenantRole: role, TenantRoleDuration: "12h1s", Timeout: "61s", MaxAttempts: 11}, []string{"tenant_role_duration", "timeout", "max_attempts"}},
		"part of a second":    {Options{TenantRole: role, TenantRoleDuration: "15m0.5s"}, []string{"whole"}},
		"no role":             {Options{TenantRole: "arn:aws:iam::123456789012:user/x"}, []string{"tenant_role"}},
		"no account":          {Options{TenantRole: "arn:aws:iam::12345:role/x"}, []string{"tenant_role"}},
		"slash at the end":    {Options{TenantRole: "arn:aws:iam::123456789012:role/x/"}, []string{"tenant_role"}},
		"another line":        {Options{TenantRole: role + "\n"}, []string{"tenant_role"}},
		"a wildcard for role": {Options{TenantRole: "arn:aws:iam::123456789012:role/*"}, []string{"tenant_role"}},
	} {
		t.Run(name, func(t *testing.T) {
			wrong := c.o.Check()
			if len(wrong) != len(c.want) {
				t.Fatalf("got %q, want %d problems", wrong, len(c.want))
			}
			for i, part := range c.want {
				if !strings.Contains(wrong[i], part) || strings.Contains(wrong[i], "123456789012") {
					t.Errorf("problem %d is %q, want one with %q", i, wrong[i], part)
				}
			}
			_, err := Open(t.Context(), c.o)
			if config.CodeOf(err) != config.InvalidArgument {
				t.Errorf("Open: %v", err)
			}
		})
	}
}

// bare is an environment in which the SDK finds nothing, not even a metadata
// endpoint that says so.
func bare(t *testing.T) {
	t.Helper()
	noFiles(t)
	hole := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", hole.URL)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
}

func refusedOpen(t *testing.T, o Options, want ...string) {
	t.Helper()
	began := time.Now()
	conn, err := Open(t.Context(), o)
	if err == nil {
		conn.Close()
		t.Fatal("it opened")
	}
	if took := time.Since(began); took > credentialsTimeout+30*time.Second {
		t.Errorf("Open took %s", took)
	}
	if config.CodeOf(err) != config.FailedPrecondition {
		t.Errorf("got %s: %v", config.CodeOf(err), err)
	}
	for _, part := range append(want, "env list") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

// TestOpenNamesWhatIsMissing checks that both problems are told at once, in
// time, although the instance's metadata endpoint swallows what it is asked.
func TestOpenNamesWhatIsMissing(t *testing.T) {
	bare(t)
	refusedOpen(t, Options{}, "no AWS region", "no AWS credentials", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_WEB_IDENTITY_TOKEN_FILE")
}

func TestOpenWithWrongOptions(t *testing.T) {
	wrong := config.Errorf(config.InvalidArgument, "table is missing").WithHint("name it")
	t.Run("and nothing else", func(t *testing.T) {
		setenv(t, "http://127.0.0.1:1")
		if _, err := OpenWith(t.Context(), Options{Timeout: "soon"}, wrong); !errors.Is(err, wrong) || err.Error() != wrong.Error() {
			t.Errorf("got %v", err)
		}
	})
	t.Run("and no region", func(t *testing.T) {
		bare(t)
		_, err := OpenWith(t.Context(), Options{Timeout: "soon"}, wrong)
		if config.CodeOf(err) != config.InvalidArgument {
			t.Fatalf("got %v", err)
		}
		for _, want := range []string{"table is missing", "name it", "no AWS region", "no AWS credentials", "AWS_REGION"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not speak of %s", err, want)
			}
		}
		if strings.Contains(wrong.Error(), "region") {
			t.Errorf("the plugin's own error was changed: %v", wrong)
		}
	})
	t.Run("and all is well", func(t *testing.T) {
		setenv(t, "http://127.0.0.1:1")
		c, err := OpenWith(t.Context(), Options{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, c := range map[string]struct {
		env  map[string]string
		o    Options
		want []string
	}{
		"no region":            {map[string]string{"AWS_REGION": ""}, Options{}, []string{"no AWS region"}},
		"half a key":           {map[string]string{"AWS_SECRET_ACCESS_KEY": ""}, Options{}, []string{"AWS_SECRET_ACCESS_KEY is not"}},
		"no such profile":      {map[string]string{"AWS_PROFILE": "nobody"}, Options{}, []string{"can not be read", "AWS_PROFILE"}},
		"no such certificates": {map[string]string{"AWS_CA_BUNDLE": "/nowhere"}, Options{}, []string{"can not be read", "AWS_CA_BUNDLE"}},
		"container out of reach": {
			map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": gone.URL},
			Options{},
			[]string{"container's credentials endpoint"},
		},
		"no such token": {
			map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere", "AWS_ROLE_ARN": role},
			Options{},
			[]string{"AWS_WEB_IDENTITY_TOKEN_FILE"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			setenv(t, gone.URL)
			for variable, value := range c.env {
				t.Setenv(variable, value)
			}
			refusedOpen(t, c.o, c.want...)
		})
	}
	t.Run("no region's name", func(t *testing.T) {
		setenv(t, gone.URL)
		t.Setenv("AWS_REGION", "evil.example/#")
		_, err := Open(t.Context(), Options{})
		if config.CodeOf(err) != config.FailedPrecondition || !strings.Contains(err.Error(), "no region's name") || strings.Contains(err.Error(), "evil") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("chained too long", func(t *testing.T) {
		setenv(t, gone.URL)
		t.Setenv("AWS_SESSION_TOKEN", "temporary")
		_, err := Open(t.Context(), Options{TenantRole: role, TenantRoleDuration: "61m"})
		if config.CodeOf(err) != config.FailedPrecondition || !strings.Contains(err.Error(), "1h") {
			t.Errorf("got %v", err)
		}
		conn, err := Open(t.Context(), Options{TenantRole: role, TenantRoleDuration: "1h"})
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
	t.Run("canceled", func(t *testing.T) {
		bare(t)
		t.Setenv("AWS_REGION", "us-east-1")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		if _, err := Open(ctx, Options{}); err == nil || time.Since(began) > credentialsTimeout {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
	})
}

// TestOpenFinds checks the sources that answer by HTTP.
func TestOpenFinds(t *testing.T) {
	const answer = `{"Code": "Success", "AccessKeyId": "ASIAFOUND", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}`
	t.Run("instance", func(t *testing.T) {
		noFiles(t)
		t.Setenv("AWS_REGION", "eu-central-1")
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", serve(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/api/token"):
				w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
				_, _ = io.WriteString(w, "token")
			case strings.HasSuffix(r.URL.Path, "/security-credentials/"):
				_, _ = io.WriteString(w, "plugin")
			default:
				_, _ = io.WriteString(w, answer)
			}
		}).URL)
		wantFound(t, "eu-central-1")
	})
	t.Run("container", func(t *testing.T) {
		noFiles(t)
		t.Setenv("AWS_REGION", "us-gov-west-1")
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }).URL)
		wantFound(t, "us-gov-west-1")
	})
	t.Run("file", func(t *testing.T) {
		noFiles(t)
		file := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(file, []byte("[profile p]\nregion = us-west-2\naws_access_key_id = ASIAFOUND\naws_secret_access_key = s\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("AWS_CONFIG_FILE", file)
		t.Setenv("AWS_PROFILE", "p")
		wantFound(t, "us-west-2")
	})
}

func wantFound(t *testing.T, region string) {
	t.Helper()
	conn, err := Open(t.Context(), Options{})
	if err != nil {
		t.Fatalf("%v: %v", err, errors.Unwrap(err))
	}
	defer conn.Close()
	got, err := conn.Config().Credentials.Retrieve(t.Context())
	if err != nil || got.AccessKeyID != "ASIAFOUND" || conn.Config().Region != region {
		t.Errorf("found %q, %v in %q", got.AccessKeyID, err, conn.Config().Region)
	}
}

// TestOwnCredentialsEnd checks that a call whose credentials can not be renewed
// is told so, and that a caller's own deadline stays one.
func TestOwnCredentialsEnd(t *testing.T) {
	var broken atomic.Bool
	store := serve(t, succeed)
	setenv(t, store.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"code": "NoRole", "message": "`+secrets+`"}`)
			return
		}
		// They end within the SDK's five minutes, so it asks anew every time.
		fmt.Fprintf(w, `{"AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "t", "Expiration": %q}`, time.Now().Add(time.Minute).UTC().Format(time.RFC3339))
	}).URL)
	conn, err := Open(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ddb := dynamodb.NewFromConfig(conn.Config())
	if err := get(t.Context(), ddb); err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	check(t, "put", put(t.Context(), ddb), true, config.Unauthenticated, "container")
}

func TestCABundle(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(succeed))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CA_BUNDLE", file)
	ddb := dynamodb.NewFromConfig(openAt(t, server.URL, Options{}).Config())
	if err := get(t.Context(), ddb); err != nil {
		t.Error(err)
	}
}

// TestConnectionsAreKept checks that 256 callers at once use the same
// connections again.
func TestConnectionsAreKept(t *testing.T) {
	const callers = 256
	var made atomic.Int64
	var together sync.WaitGroup
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		together.Done()
		together.Wait() // so that every caller needs a connection of its own
		succeed(w, r)
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			made.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	ddb := dynamodb.NewFromConfig(openAt(t, server.URL, Options{Timeout: "30s"}).Config())
	for range 3 {
		together.Add(callers)
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				if err := get(t.Context(), ddb); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	// The transport may dial for a caller who is then served by a connection
	// that came free.
	if n := made.Load(); n > callers*5/4 {
		t.Errorf("%d callers made %d connections", callers, n)
	}
}

// TestClose checks that Close ends the calls that wait, at once.
func TestClose(t *testing.T) {
	arrived := make(chan struct{}, 1)
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	conn := openAt(t, server.URL, Options{Timeout: "1m"})
	ddb := dynamodb.NewFromConfig(conn.Config())
	failed := make(chan error, 1)
	go func() { failed <- put(t.Context(), ddb, func(o *dynamodb.Options) { o.Retryer = conn.Once() }) }()
	<-arrived
	began := time.Now()
	for range 2 {
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	check(t, "put", <-failed, true, config.OutcomeUnknown, "")
	check(t, "get", get(t.Context(), ddb), false, config.Unavailable, "")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestWithTimeout(t *testing.T) {
	conn := openAt(t, serve(t, succeed).URL, Options{Timeout: "30s"})
	ctx, cancel := conn.WithTimeout(t.Context())
	defer cancel()
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 30*time.Second || time.Until(deadline) < 29*time.Second {
		t.Errorf("the deadline is in %s", time.Until(deadline))
	}
}

// TestRedirect checks that no request, which is signed and may hold a value, is
// sent to another host.
func TestRedirect(t *testing.T) {
	var elsewhere atomic.Int64
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		elsewhere.Add(1)
		succeed(w, r)
	})
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, status) })
		ddb := dynamodb.NewFromConfig(openAt(t, server.URL, Options{}).Config())
		check(t, "put", put(t.Context(), ddb), true, config.FailedPrecondition, "AWS_REGION")
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests went to another host", n)
	}
}

func TestCountCalls(t *testing.T) {
	endpoint, _ := flaky(t, answer(400, "ThrottlingException"))
	conn := openAt(t, endpoint, Options{})
	ddb := dynamodb.NewFromConfig(conn.Config())
	all := conn.CountCalls() // of a client that was there before
	if err := get(t.Context(), ddb); err != nil {
		t.Fatal(err)
	}
	late := conn.CountCalls()
	if err := put(t.Context(), ddb); err != nil {
		t.Fatal(err)
	}
	if s := all.String(); s != "GetItem 1/2, PutItem 1/1" {
		t.Errorf("counted: %s", s)
	}
	if s := late.String(); s != "PutItem 1/1" {
		t.Errorf("counted late: %s", s)
	}
	if got := all.Of("GetItem", "Scan"); got != (Count{Logical: 1, Attempts: 2}) {
		t.Errorf("got %+v", got)
	}
	all.Reset()
	if got := all.Of(); got != (Count{}) {
		t.Errorf("after Reset: %+v", got)
	}
}
