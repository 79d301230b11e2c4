package secretsbackend

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

func TestOptionsAreRefusedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), Options{
		Path: "{service}/{oops}", Env: "prod", KeyPrefix: "/", NoService: "order", KMSKeyID: "a key", RecoveryWindowDays: 6, MaxValue: 65_537,
		Options: awsconn.Options{TenantRole: "x", Timeout: "1", MaxAttempts: -1},
	})
	wantCode(t, err, config.InvalidArgument)
	for _, part := range []string{
		"{tenant}", "{name}", "{oops}", "env is set", "key_prefix", "no_service", "kms_key_id", "recovery_window_days is 6", "max_value is 65537",
		"tenant_role", "timeout", "max_attempts",
	} {
		if part == "{oops}" {
			part = "unknown placeholder"
		}
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error says nothing of %s: %v", part, err)
		}
	}
	for _, days := range []int{-1, 1, 6, 31} {
		_, err := Options{RecoveryWindowDays: days}.parse()
		wantCode(t, err, config.InvalidArgument)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	s, err := Options{}.parse()
	if err != nil {
		t.Fatal(err)
	}
	if s.days != 30 || s.maxValue != 65_536 || s.kmsKeyID != "" {
		t.Errorf("the defaults are %+v", s)
	}
	name, err := s.names.Path(id(t, "acme-corp", "order", "secret_config_db"))
	if err != nil || name != "acme-corp/order/secret_config_db" {
		t.Errorf("the name is %q, error %v", name, err)
	}
}

func TestOpenWithoutRegion(t *testing.T) { //nolint:paralleltest // it sets the environment
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, "")
	}
	_, err := Open(t.Context(), Options{})
	wantCode(t, err, config.FailedPrecondition)
	if text := err.Error(); !strings.Contains(text, "region") || !strings.Contains(text, "credentials") {
		t.Errorf("the error does not name both: %v", err)
	}
	_, err = Open(t.Context(), Options{MaxValue: -1})
	wantCode(t, err, config.InvalidArgument)
	if text := err.Error(); !strings.Contains(text, "max_value") || !strings.Contains(text, "region") || !strings.Contains(text, "credentials") {
		t.Errorf("the error does not name all that is wrong: %v", err)
	}
}

// What would fail every call is found at the start.
func TestOpenAsksSecretsManager(t *testing.T) { //nolint:paralleltest // it sets the environment
	p := emulators.NewProxy(t, awsURL)
	t.Setenv("AWS_ENDPOINT_URL", p.URL)
	for code, want := range map[string]config.Code{
		"UnrecognizedClientException": config.Unauthenticated,
		"ExpiredTokenException":       config.Unauthenticated,
		"InternalServiceError":        config.Unavailable,
	} {
		fault := p.Inject(emulators.Fault{Then: emulators.Reply, Answer: emulators.JSONError(400, code, "arn:aws:iam::123456789012:user/x")})
		_, err := Open(t.Context(), testOptions(t))
		fault.Remove()
		wantCode(t, err, want)
		if strings.Contains(err.Error(), "123456789012") {
			t.Errorf("the error repeats an account: %v", err)
		}
	}
	p.Inject(emulators.Fault{Times: 1, Then: emulators.Reply, Answer: emulators.JSONError(400, "AccessDeniedException", "not this one")})
	openStore(t, testOptions(t)) // the role may be for others only
}

func TestKMSKeyOfNewSecrets(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.KMSKeyID = "alias/secrets"
	s := openStore(t, o)
	k := id(t, "acme", "order", "key")
	put(t, s, k, "one")
	put(t, s, k, "two")
	if got := aws.ToString(describe(t, nameOf(t, s, k)).KmsKeyId); got != "alias/secrets" {
		t.Errorf("the key is %q", got)
	}
}

// Page tokens are good in another process with the same options, and in none with
// others.
func TestPageTokensOutliveTheProcess(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	first := openStore(t, o)
	for _, key := range []string{"a", "b", "c"} {
		put(t, first, id(t, "acme", "order", key), `1`)
	}
	r := driver.ListRequest{Tenant: id(t, "acme", "order", "a").Tenant, Service: id(t, "acme", "order", "a").Service, PageSize: 2}
	page, err := first.List(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	r.PageToken = page.NextPageToken
	if page, err = openStore(t, o).List(t.Context(), r); err != nil || len(page.Entries) != 1 || page.Entries[0].ID.Key.String() != "c" {
		t.Errorf("the second page is %v, error %v", page.Entries, err)
	}
	_, err = openStore(t, testOptions(t)).List(t.Context(), r)
	wantCode(t, err, config.InvalidArgument)
}

func TestPing(t *testing.T) {
	t.Parallel()
	p := emulators.NewProxy(t, awsURL)
	o := testOptions(t)
	o.Timeout, o.MaxAttempts = "1s", 1
	s := through(t, p, o)
	for _, c := range []struct {
		name  string
		fault emulators.Fault
		want  config.Code
	}{
		{"it answers", emulators.Fault{}, config.Unknown},
		{"it answers that this role may not ask", emulators.Fault{Then: emulators.Reply, Answer: emulators.JSONError(400, "AccessDeniedException", "no")}, config.Unknown},
		{"it does not know the credentials", emulators.Fault{Then: emulators.Reply, Answer: emulators.JSONError(400, "UnrecognizedClientException", "no")}, config.Unavailable},
		{"it fails", emulators.Fault{Then: emulators.Reply, Answer: emulators.JSONError(500, "InternalServiceError", "no")}, config.Unavailable},
		{"it is not there", emulators.Fault{Then: emulators.DropBefore}, config.Unavailable},
		{"it hangs", emulators.Fault{Delay: time.Minute}, config.Unavailable},
	} {
		fault := p.Inject(c.fault)
		err := s.Ping(t.Context())
		fault.Remove()
		if c.want == config.Unknown {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err == nil || config.CodeOf(err) != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

func TestCloseEndsCalls(t *testing.T) {
	t.Parallel()
	p := emulators.NewProxy(t, awsURL)
	s := through(t, p, testOptions(t))
	k := id(t, "acme", "order", "key")
	put(t, s, k, "one")
	p.Inject(emulators.Fault{Delay: time.Minute})
	p.ResetCalls()
	done := make(chan error, 2)
	go func() { _, err := s.Get(t.Context(), k, 0); done <- err }()
	go func() {
		_, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("two")})
		done <- err
	}()
	p.Await(t, "", 2)
	began := time.Now()
	closeIt(t, s)
	for range 2 {
		wantCode(t, <-done, config.FailedPrecondition)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A write whose caller gives up while the store is being closed may be made all
// the same: that the store is closed would say that it was not.
func TestCallerGivesUpWhileTheStoreIsClosed(t *testing.T) {
	t.Parallel()
	p := emulators.NewProxy(t, awsURL)
	s := through(t, p, testOptions(t))
	k := id(t, "acme", "order", "key")
	put(t, s, k, "one")
	open := make(chan struct{})
	defer close(open)
	p.Inject(emulators.Fault{Operation: "UpdateSecretVersionStage", Until: open})
	p.ResetCalls()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.Put(ctx, driver.PutRequest{ID: k, Value: []byte("two")})
		done <- err
	}()
	p.Await(t, "UpdateSecretVersionStage", 1)
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	<-s.closed
	cancel()
	switch err := <-done; config.CodeOf(err) {
	case config.Canceled, config.OutcomeUnknown:
	default:
		t.Errorf("got %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

var accessKey = regexp.MustCompile(`Credential=([^/]+)/`)

// With a tenant role every call is made in the session of the tenant that it is
// about, and a batch has calls for each tenant.
func TestTenantRole(t *testing.T) {
	t.Parallel()
	target, err := url.Parse(awsURL)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var seen []string // "operation key"
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, operation, _ := strings.Cut(q.Header.Get("X-Amz-Target"), ".")
		mu.Lock()
		seen = append(seen, operation+" "+accessKey.FindStringSubmatch(q.Header.Get("Authorization"))[1])
		mu.Unlock()
		proxy.ServeHTTP(w, q)
	}))
	defer server.Close()
	o := testOptions(t)
	o.TenantRole = "arn:aws:iam::123456789012:role/tagstore-tenant"
	s := at(t, server.URL, o)
	ids := []config.ID{id(t, "acme", "order", "key"), id(t, "globex", "order", "key"), id(t, "_shared", "", "key")}
	keys := map[string]bool{}
	for _, k := range ids {
		mu.Lock()
		seen = nil
		mu.Unlock()
		put(t, s, k, "one")
		put(t, s, k, "two")
		wantValue(t, s, k, 0, "two")
		remove(t, s, k)
		history(t, s, k)
		put(t, s, k, "four")
		if _, err := s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Refresh(t.Context(), []config.ID{k}); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		own := map[string]bool{}
		for _, call := range seen {
			_, key, _ := strings.Cut(call, " ")
			own[key], keys[key] = true, true
		}
		if len(own) != 1 || own["emulator"] {
			t.Errorf("the calls for one tenant are %q", seen)
		}
		mu.Unlock()
	}
	if len(keys) != len(ids) {
		t.Errorf("%d tenants have %d sessions", len(ids), len(keys))
	}
	mu.Lock()
	seen = nil
	mu.Unlock()
	if _, err := s.BatchGet(t.Context(), append(ids, ids...)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	used := map[string]bool{}
	for _, call := range seen {
		used[call] = true
	}
	want := map[string]bool{}
	for key := range keys {
		want["BatchGetSecretValue "+key] = true
	}
	if diff := cmp.Diff(want, used); diff != "" || len(seen) != len(ids) {
		t.Errorf("the calls of a batch (-want +got):\n%s", diff)
	}
}

// The options of every AWS plugin stand beside this one's own.
func TestOptionNames(t *testing.T) {
	t.Parallel()
	var o Options
	if err := json.Unmarshal([]byte(`{"path":"p/{tenant}/{name}","kms_key_id":"alias/a","tenant_role":"r","timeout":"2s"}`), &o); err != nil {
		t.Fatal(err)
	}
	if o.Path != "p/{tenant}/{name}" || o.KMSKeyID != "alias/a" || o.TenantRole != "r" || o.Timeout != "2s" {
		t.Errorf("the options are %+v", o)
	}
}
