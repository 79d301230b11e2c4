package awsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/tagstore/tagstore/core/config"
)

// fakeSTS makes sessions of an hour by the clock of its synctest bubble.
type fakeSTS struct {
	mu     sync.Mutex
	calls  map[config.Tenant]int
	takes  time.Duration
	err    error
	flying int
	most   int
}

func (f *fakeSTS) assume(ctx context.Context, tenant config.Tenant) (aws.Credentials, error) {
	f.mu.Lock()
	f.calls[tenant]++
	n, takes, err := f.calls[tenant], f.takes, f.err
	f.flying++
	f.most = max(f.most, f.flying)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.flying--
		f.mu.Unlock()
	}()
	expires := time.Now().Add(time.Hour)
	timer := time.NewTimer(takes)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return aws.Credentials{}, ctx.Err()
	}
	if err != nil {
		return aws.Credentials{}, err
	}
	return aws.Credentials{AccessKeyID: fmt.Sprintf("%s-%d", tenant, n), SecretAccessKey: "s", CanExpire: true, Expires: expires}, nil
}

func (f *fakeSTS) called(tenant config.Tenant) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[tenant]
}

func (f *fakeSTS) set(takes time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takes, f.err = takes, err
}

// withTenants runs a test in a bubble, whose clock moves only when it waits.
func withTenants(t *testing.T, most int, test func(t *testing.T, all *tenants, sts *fakeSTS)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		sts := &fakeSTS{calls: map[config.Tenant]int{}}
		all := makeTenants(most, time.Now, sts.assume)
		defer all.close()
		test(t, all, sts)
	})
}

func wantKey(t *testing.T, all *tenants, owner config.Tenant, want string) {
	t.Helper()
	got, err := all.retrieve(t.Context(), owner)
	if err != nil || got.AccessKeyID != want {
		t.Fatalf("got %q, %v, want %q", got.AccessKeyID, err, want)
	}
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
	synctest.Wait()
}

func TestTenantSessionsAreRenewed(t *testing.T) {
	withTenants(t, 10, func(t *testing.T, all *tenants, sts *fakeSTS) {
		acme, other := tenant(t, "acme"), tenant(t, "acme-corp")
		wantKey(t, all, acme, "acme-1")
		wantKey(t, all, other, "acme-corp-1")
		wait(t, 48*time.Minute-time.Second)
		wantKey(t, all, acme, "acme-1")
		wait(t, time.Second) // 80 % of an hour
		sts.set(5*time.Second, nil)
		for range 10 {
			wantKey(t, all, acme, "acme-1") // nobody waits while the old one is good
		}
		wait(t, 5*time.Second)
		wantKey(t, all, acme, "acme-2")
		if n := sts.called(acme); n != 2 {
			t.Errorf("STS was called %d times for one tenant", n)
		}
		wait(t, 2*time.Hour) // unused until long after its end
		wantKey(t, all, acme, "acme-3")
	})
}

func TestTenantSessionNeverUsedAtItsEnd(t *testing.T) {
	withTenants(t, 10, func(t *testing.T, all *tenants, sts *fakeSTS) {
		acme := tenant(t, "acme")
		wantKey(t, all, acme, "acme-1")
		refused := errors.New("STS is down")
		sts.set(0, refused)
		wait(t, time.Hour-expiryMargin-time.Second)
		wantKey(t, all, acme, "acme-1") // a failed renewal costs nothing while the old one is good
		wait(t, 2*time.Second)
		if _, err := all.retrieve(t.Context(), acme); !errors.Is(err, refused) {
			t.Errorf("within the last %s: %v", expiryMargin, err)
		}
	})
}

func TestTenantSingleFlight(t *testing.T) {
	withTenants(t, 10, func(t *testing.T, all *tenants, sts *fakeSTS) {
		acme := tenant(t, "acme")
		sts.set(time.Second, nil)
		// The first caller gives up before the flight is over: the others do
		// not notice.
		first, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := all.retrieve(first, acme); !errors.Is(err, context.DeadlineExceeded) || !canceled(err) {
				t.Errorf("the caller who gave up got %v", err)
			}
		})
		synctest.Wait()
		for range 200 {
			wg.Go(func() {
				if got, err := all.retrieve(t.Context(), acme); err != nil || got.AccessKeyID != "acme-1" {
					t.Errorf("got %q, %v", got.AccessKeyID, err)
				}
			})
		}
		wg.Wait()
		if n := sts.called(acme); n != 1 {
			t.Errorf("STS was called %d times", n)
		}
	})
}

func TestTenantFailureIsNotKept(t *testing.T) {
	withTenants(t, 10, func(t *testing.T, all *tenants, sts *fakeSTS) {
		acme, other := tenant(t, "acme"), tenant(t, "other")
		refused := errors.New("refused")
		sts.set(0, refused)
		for range 50 {
			_, err := all.retrieve(t.Context(), acme)
			if !errors.Is(err, refused) || !errors.As(err, new(*credentialsError)) {
				t.Fatalf("got %v", err)
			}
		}
		if n := sts.called(acme); n != 1 {
			t.Errorf("STS was called %d times within a second", n)
		}
		sts.set(0, nil)
		wantKey(t, all, other, "other-1") // one tenant's failure is not another's
		wait(t, assumeAgain)
		wantKey(t, all, acme, "acme-2")
	})
}

func TestTenantsAreBounded(t *testing.T) {
	withTenants(t, 3, func(t *testing.T, all *tenants, sts *fakeSTS) {
		for _, name := range []string{"a", "b", "c", "a", "d", "a"} {
			if _, err := all.retrieve(t.Context(), tenant(t, name)); err != nil {
				t.Fatal(err)
			}
		}
		if len(all.byName) != 3 || all.recent.Len() != 3 {
			t.Errorf("%d and %d sessions are kept", len(all.byName), all.recent.Len())
		}
		for name, want := range map[string]int{"a": 1, "b": 1, "c": 1, "d": 1} {
			if n := sts.called(tenant(t, name)); n != want {
				t.Errorf("%s: STS was called %d times", name, n)
			}
		}
		wantKey(t, all, tenant(t, "b"), "b-2") // it was unused for longest
		wantKey(t, all, tenant(t, "a"), "a-1")
	})
}

func TestTenantFlightsAreBounded(t *testing.T) {
	withTenants(t, 1000, func(t *testing.T, all *tenants, sts *fakeSTS) {
		sts.set(time.Second, nil)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				if _, err := all.retrieve(t.Context(), tenant(t, fmt.Sprintf("t%d", i))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if sts.most != maxAssuming {
			t.Errorf("%d calls of STS were under way at once, want %d", sts.most, maxAssuming)
		}
	})
}

func TestTenantFlightEnds(t *testing.T) {
	withTenants(t, 10, func(t *testing.T, all *tenants, sts *fakeSTS) {
		sts.set(time.Hour, nil)
		_, err := all.retrieve(t.Context(), tenant(t, "acme"))
		if canceled(err) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("STS that does not answer: %v", err)
		}
		if got := Error("store.Get", config.Key{}, err, true, nil); config.CodeOf(got) != config.Unavailable {
			t.Errorf("STS that does not answer: %v", got)
		}
		wait(t, assumeAgain)
		done := make(chan error, 1)
		go func() {
			_, err := all.retrieve(t.Context(), tenant(t, "acme"))
			done <- err
		}()
		synctest.Wait()
		all.close()
		if err := <-done; err == nil {
			t.Error("a caller was not told of the close")
		}
		if _, err := all.retrieve(t.Context(), tenant(t, "acme")); !errors.Is(err, errTenantsClosed) {
			t.Errorf("after close: %v", err)
		}
	})
}

func TestSessionName(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"a", "b", "0", "aa", "a-a", "_shared", "shared", strings.Repeat("x", 63)} {
		got := sessionName(tenant(t, name))
		if len(got) < 2 || len(got) > 64 || strings.Trim(got, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Errorf("the session of %q is named %q", name, got)
		}
		if other, taken := seen[got]; taken {
			t.Errorf("%q and %q share the name %q", name, other, got)
		}
		seen[got] = name
	}
}

const role = "arn:aws:iam::123456789012:role/tenant"

// stsServer answers AssumeRole, counts it, and lets check see its parameters.
// Everything else is the store's.
func stsServer(t *testing.T, assumed *atomic.Int64, check func(url.Values), store http.HandlerFunc) string {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Amz-Target") != "" {
			store(w, r)
			return
		}
		assumed.Add(1)
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		check(r.Form)
		w.Header().Set("Content-Type", "text/xml")
		fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>`+
			`<AccessKeyId>ASIA%s</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>token-of-%[1]s</SessionToken><Expiration>%s</Expiration>`+
			`</Credentials></AssumeRoleResult></AssumeRoleResponse>`, r.Form.Get("RoleSessionName"), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}).URL
}

// TestCredentials makes calls of a store under many tenants at once and checks
// that each is signed with its own tenant's session.
func TestCredentials(t *testing.T) {
	var assumed, wrong atomic.Int64
	endpoint := stsServer(t, &assumed, func(form url.Values) {
		name := form.Get("RoleSessionName")
		if form.Get("RoleArn") != role || form.Get("DurationSeconds") != "1800" ||
			form.Get("Tags.member.1.Key") != "tenant" || sessionName(tenant(t, form.Get("Tags.member.1.Value"))) != name || form.Has("Tags.member.2.Key") {
			t.Errorf("AssumeRole was called with %v", form)
		}
	}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		owner := strings.TrimPrefix(r.Header.Get("X-Amz-Security-Token"), "token-of-")
		if owner == "" || !strings.Contains(string(body), `"`+owner+`"`) || !strings.Contains(r.Header.Get("Authorization"), "Credential=ASIA"+owner+"/") {
			wrong.Add(1)
		}
		succeed(w, r)
	})
	conn := openAt(t, endpoint, Options{TenantRole: role, TenantRoleDuration: "30m"})
	counted := conn.CountCalls()
	ddb := dynamodb.NewFromConfig(conn.Config())
	names := []string{"acme", "acme-corp", "a", "_shared"}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			owner := tenant(t, names[i%len(names)])
			p := conn.Credentials(owner)
			_, err := ddb.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: aws.String(sessionName(owner)), Key: item()},
				func(o *dynamodb.Options) { o.Credentials = p })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if wrong.Load() != 0 {
		t.Errorf("%d calls were signed with another tenant's session", wrong.Load())
	}
	if assumed.Load() != int64(len(names)) || counted.Logical("AssumeRole") != len(names) || counted.Attempts("GetItem") != 200 {
		t.Errorf("STS was called %d times for %d tenants; counted: %s", assumed.Load(), len(names), counted)
	}
	without := openAt(t, endpoint, Options{})
	if p := without.Credentials(tenant(t, "acme")); p != nil {
		t.Errorf("without tenant_role the credentials are %v", p)
	}
}

// TestCredentialsRefused checks what a caller is told when STS refuses or is
// away.
func TestCredentialsRefused(t *testing.T) {
	refuse := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/xml")
			w.WriteHeader(status)
			fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>`, code, secrets)
		}
	}
	for name, c := range map[string]struct {
		sts  http.HandlerFunc
		want config.Code
		hint string
	}{
		"denied":    {refuse(403, "AccessDenied"), config.PermissionDenied, "sts:TagSession"},
		"too long":  {refuse(400, "ValidationError"), config.FailedPrecondition, "tenant_role_duration"},
		"throttled": {refuse(400, "Throttling"), config.ResourceExhausted, "retry"},
		"down":      {refuse(500, "InternalFailure"), config.Unavailable, "retry"},
		"reset":     {reset, config.Unavailable, "retry"},
		"expired":   {refuse(403, "ExpiredToken"), config.Unauthenticated, "expired"},
		"region":    {refuse(403, "RegionDisabledException"), config.FailedPrecondition, "AWS_REGION"},
		"empty":     {plain(200, `<AssumeRoleResponse><AssumeRoleResult></AssumeRoleResult></AssumeRoleResponse>`), config.Unknown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var stored atomic.Int64
			endpoint := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Amz-Target") != "" {
					stored.Add(1)
				}
				c.sts(w, r)
			}).URL
			conn := openAt(t, endpoint, Options{TenantRole: role})
			ddb := dynamodb.NewFromConfig(conn.Config())
			err := put(t.Context(), ddb, func(o *dynamodb.Options) { o.Credentials = conn.Credentials(tenant(t, "acme")) })
			check(t, "put", err, true, c.want, c.hint)
			if stored.Load() != 0 {
				t.Errorf("the store was called %d times", stored.Load())
			}
		})
	}
}
