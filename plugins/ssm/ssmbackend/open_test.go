package ssmbackend

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)

// noAWS takes every source of a region and of credentials away.
func noAWS(t *testing.T) {
	t.Helper()
	moto(t)
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

// All that is wrong at the start is said at once.
func TestOpenSaysEverything(t *testing.T) {
	noAWS(t)
	_, err := Open(t.Context(), Options{Path: "/x/{tenant}", Tier: "gold", Secure: true, KMSKeyID: "no key", Options: awsconn.Options{Timeout: "soon"}})
	wantCode(t, err, config.InvalidArgument)
	for _, say := range []string{"{name}", "tier", "kms_key_id", "timeout", "region", "credentials"} {
		if !strings.Contains(err.Error(), say) {
			t.Errorf("the error does not say %q: %v", say, err)
		}
	}
	_, err = Open(t.Context(), Options{})
	wantCode(t, err, config.FailedPrecondition)
	for _, say := range []string{"region", "credentials"} {
		if !strings.Contains(err.Error(), say) {
			t.Errorf("the error does not say %q: %v", say, err)
		}
	}
}

// Access that is denied is found at the start, not at the first request.
func TestOpenIsDenied(t *testing.T) {
	p := newProxy(t)
	t.Setenv("AWS_ENDPOINT_URL", p.url)
	p.refuse("GetParametersByPath", 1, http.StatusBadRequest, "AccessDeniedException",
		"User: arn:aws:iam::123456789012:user/x is not authorized to perform: ssm:GetParametersByPath on resource: arn:aws:ssm:us-east-1:123456789012:parameter/x")
	p.refuse("GetParametersByPath", 1, http.StatusBadRequest, "UnrecognizedClientException", "The security token included in the request is invalid: arn:aws:iam::123456789012:user/x")
	for _, want := range []config.Code{config.PermissionDenied, config.Unauthenticated} {
		_, err := Open(t.Context(), at(folder(t)))
		wantCode(t, err, want)
		if strings.Contains(err.Error(), "123456789012") {
			t.Errorf("the error repeats an account: %v", err)
		}
	}
}

func TestOpenWithoutAnswer(t *testing.T) {
	moto(t)
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	_, err := Open(t.Context(), Options{Options: awsconn.Options{MaxAttempts: 1}})
	wantCode(t, err, config.Unavailable)
}

// Ping is Unavailable for whatever reason it is.
func TestPing(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	s := p.behind(openStore(t, at(folder(t))))
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	p.refuse("GetParametersByPath", 1, http.StatusBadRequest, "AccessDeniedException", "no")
	wantCode(t, s.Ping(t.Context()), config.Unavailable)
	p.refuse("GetParametersByPath", 1, http.StatusForbidden, "ExpiredTokenException", "no")
	wantCode(t, s.Ping(t.Context()), config.Unavailable)
	closeIt(t, s)
	wantCode(t, s.Ping(t.Context()), config.FailedPrecondition)
}

// With a role for each tenant every call is made in a session of its tenant,
// and no call in the plugin's own: that of the start and of Ping too.
func TestTenantRole(t *testing.T) {
	p := newProxy(t)
	t.Setenv("AWS_ENDPOINT_URL", p.url)
	root := folder(t)
	o := at(root)
	o.TenantRole = "arn:aws:iam::123456789012:role/tenant"
	s := openStore(t, o)

	seen := map[string]string{} // path -> access key
	p.watch(func(operation, name, accessKey string) {
		owner, _, _ := strings.Cut(strings.TrimPrefix(name, root+"/"), "/")
		if accessKey == os.Getenv("AWS_ACCESS_KEY_ID") {
			t.Errorf("%s is called with the plugin's own credentials", operation)
		}
		if k, ok := seen[owner]; ok && k != accessKey {
			t.Errorf("%s of %q is called with another tenant's credentials", operation, owner)
		}
		seen[owner] = accessKey
	})
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	var ids []config.ID
	for _, owner := range []string{"acme", "globex", "_shared"} {
		k := id(t, owner, "api", "k")
		ids = append(ids, k, id(t, owner, "", "k"))
		put(t, s, k, `"`+owner+`"`)
		put(t, s, k, `"`+owner+`"`)
		wantValue(t, s, k, 0, `"`+owner+`"`)
		if got := list(t, s, k, "", 0); len(got) != 1 {
			t.Errorf("list: %q", got)
		}
		if _, err := s.History(t.Context(), driver.HistoryRequest{ID: k}); err != nil {
			t.Error(err)
		}
	}
	results, err := s.BatchGet(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if i%2 == 0 && (r.Err != nil || string(r.Entry.Value) != `"`+ids[i].Tenant.String()+`"`) || i%2 == 1 && config.CodeOf(r.Err) != config.NotFound {
			t.Errorf("result %d: %+v", i, r)
		}
	}
	if n := p.count("GetParameters"); n != 3 {
		t.Errorf("a batch of three tenants makes %d calls, want 3", n)
	}
	for _, k := range ids[:1] {
		if _, err := s.Delete(t.Context(), driver.DeleteRequest{ID: k, Permanent: true}); err != nil {
			t.Error(err)
		}
	}
	keys := map[string]bool{}
	for _, k := range seen {
		keys[k] = true
	}
	if len(seen) != 3 || len(keys) != 3 {
		t.Errorf("sessions: %v, want one for each of three tenants", seen)
	}
}
