package dynamodbbackend

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// signers notes with which access key each request was signed that names a
// tenant's partition.
type signers struct {
	mu   sync.Mutex
	keys map[string]map[string]bool // tenant to access keys
	own  map[string]bool            // operations signed with the plugin's own key
}

var (
	accessKey   = regexp.MustCompile(`Credential=([^/]+)/`)
	tenantNamed = regexp.MustCompile(`TENANT#([a-z-]+)`)
)

func (s *signers) note(r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	key := accessKey.FindStringSubmatch(r.Header.Get("Authorization"))
	if key == nil {
		return errors.New("the request is not signed")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, operation, ok := strings.Cut(r.Header.Get("X-Amz-Target"), "."); ok && key[1] == "emulator" {
		s.own[operation] = true
	}
	for _, tenant := range tenantNamed.FindAllStringSubmatch(string(body), -1) {
		if s.keys[tenant[1]] == nil {
			s.keys[tenant[1]] = map[string]bool{}
		}
		s.keys[tenant[1]][key[1]] = true
	}
	return nil
}

// With a tenant role every call is made with a session of exactly one tenant, a
// batch over several tenants too.
func TestTenantRole(t *testing.T) {
	moto := emulators.Moto(t)
	target, err := url.Parse(moto)
	if err != nil {
		t.Fatal(err)
	}
	seen := &signers{keys: map[string]map[string]bool{}, own: map[string]bool{}}
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.Transport = &http.Transport{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := seen.note(r); err != nil {
			t.Error(err)
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		proxy.Close()
		forward.Transport.(*http.Transport).CloseIdleConnections()
	})
	name := table(t, moto)
	at(t, proxy.URL)
	s := openStore(t, Options{Table: name, Options: awsconn.Options{TenantRole: someRole}})
	var ids []config.ID
	for _, tenant := range []string{"acme-corp", "globex-inc", "initech"} {
		in := id(t, tenant, "order", "limits")
		ids = append(ids, in)
		_, err := s.Put(t.Context(), driver.PutRequest{ID: in, Value: []byte(`"` + tenant + `"`), IdempotencyKey: "once"})
		if err != nil {
			t.Fatal(err)
		}
		get(t, s, in)
		history(t, s, in)
		if _, err := s.List(t.Context(), driver.ListRequest{Tenant: in.Tenant, Service: in.Service}); err != nil {
			t.Fatal(err)
		}
		remove(t, s, id(t, tenant, "order", "limits"))
		put(t, s, in, `"`+tenant+`"`)
	}
	results, err := s.BatchGet(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if r.Err != nil || string(r.Entry.Value) != `"`+ids[i].Tenant.String()+`"` {
			t.Errorf("%s: %+v", ids[i].Tenant, r)
		}
	}
	used := map[string]string{}
	for tenant, keys := range seen.keys {
		if len(keys) != 1 {
			t.Errorf("requests of %s were signed with %d keys", tenant, len(keys))
		}
		for key := range keys {
			if other, ok := used[key]; ok || key == "emulator" {
				t.Errorf("%s shares its key with %q", tenant, other)
			}
			used[key] = tenant
		}
	}
	if len(seen.keys) != 3 {
		t.Errorf("requests named the tenants %v", seen.keys)
	}
	for operation := range seen.own {
		if operation != "DescribeTable" && operation != "DescribeTimeToLive" {
			t.Errorf("%s was made with the plugin's own credentials", operation)
		}
	}
}
