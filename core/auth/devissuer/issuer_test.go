package devissuer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/config"
)

// Making a key is slow under the race detector, so the tests share two.
var sharedKeys = sync.OnceValue(func() [2]*rsa.PrivateKey {
	var keys [2]*rsa.PrivateKey
	for i := range keys {
		key, err := devissuer.GenerateKey()
		if err != nil {
			panic(err)
		}
		keys[i] = key
	}
	return keys
})

var now = time.Unix(1_800_000_000, 0)

func newIssuer(t *testing.T) *devissuer.Issuer {
	t.Helper()
	i, err := devissuer.New(devissuer.Options{ClientID: "web", Key: sharedKeys()[0], Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	i.SetURL("http://issuer.test/")
	return i
}

func get(t *testing.T, i *devissuer.Issuer, path string, into any) {
	t.Helper()
	w := httptest.NewRecorder()
	i.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("GET %s: %d %s", path, w.Code, w.Header().Get("Content-Type"))
	}
	if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
		t.Fatal(err)
	}
}

// Every kind of token verifies with another library against the JWKS as served,
// and has the claims that Cognito's have.
func TestTokens(t *testing.T) {
	i := newIssuer(t)
	var keys jose.JSONWebKeySet
	get(t, i, "/.well-known/jwks.json", &keys)
	common := map[string]any{"iss": "http://issuer.test", "iat": 1.8e9, "auth_time": 1.8e9, "exp": 1.8e9 + 60}
	tests := []struct {
		name  string
		issue func() (string, error)
		want  map[string]any
	}{
		{
			"id", func() (string, error) { return i.ID("acme-corp", "ann", auth.RoleEditor, time.Minute) },
			map[string]any{
				"sub": "ann", "token_use": "id", "aud": "web", "cognito:username": "ann",
				"cognito:groups": []any{"tagstore-editor"}, "custom:tenantId": "acme-corp",
			},
		},
		{
			"access", func() (string, error) { return i.Access("acme-corp", "ann", "", time.Minute) },
			map[string]any{
				"sub": "ann", "token_use": "access", "client_id": "web", "username": "ann", "scope": "openid",
				"cognito:groups": []any{}, "custom:tenantId": "acme-corp",
			},
		},
		{
			"refresher", func() (string, error) { return i.Refresher(time.Minute) },
			map[string]any{"sub": "web", "token_use": "access", "client_id": "web", "scope": "tagstore/refresh"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			token, err := test.issue()
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]any{}
			if err := parsed.Claims(keys.Keys[0], &got); err != nil {
				t.Fatal(err)
			}
			if parsed.Headers[0].KeyID != keys.Keys[0].KeyID {
				t.Errorf("the token names key %q, published is %q", parsed.Headers[0].KeyID, keys.Keys[0].KeyID)
			}
			if got["jti"] == "" || got["jti"] == nil {
				t.Error("the token has no id")
			}
			delete(got, "jti")
			for name, value := range common {
				test.want[name] = value
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("claims, -want +got:\n%s", diff)
			}
		})
	}
}

func TestRotateAndRevoke(t *testing.T) {
	i := newIssuer(t)
	published := func() (ids []string) {
		var keys jose.JSONWebKeySet
		get(t, i, "/.well-known/jwks.json", &keys)
		for _, key := range keys.Keys {
			ids = append(ids, key.KeyID)
		}
		return ids
	}
	first, second := devissuer.KeyID(&sharedKeys()[0].PublicKey), devissuer.KeyID(&sharedKeys()[1].PublicKey)
	i.RotateTo(sharedKeys()[1])
	if diff := cmp.Diff([]string{first, second}, published()); diff != "" {
		t.Errorf("after RotateTo, -want +got:\n%s", diff)
	}
	if got := i.Header()["kid"]; got != second {
		t.Errorf("after RotateTo the key %v signs", got)
	}
	i.Revoke()
	if diff := cmp.Diff([]string{second}, published()); diff != "" {
		t.Errorf("after Revoke, -want +got:\n%s", diff)
	}
	if err := i.Rotate(); err != nil {
		t.Fatal(err)
	}
	if got := published(); len(got) != 2 || got[1] == first || got[1] == second {
		t.Errorf("after Rotate %v is published", got)
	}
}

func TestServe(t *testing.T) {
	i := newIssuer(t)
	var found map[string]any
	get(t, i, "/.well-known/openid-configuration", &found)
	if found["issuer"] != i.Issuer() || found["jwks_uri"] != "http://issuer.test/.well-known/jwks.json" {
		t.Errorf("got %v", found)
	}
	for target, want := range map[string]int{
		"GET /":                       http.StatusNotFound,
		"GET /.well-known/jwks.json/": http.StatusNotFound,
		"POST /.well-known/jwks.json": http.StatusMethodNotAllowed,
		"HEAD /.well-known/jwks.json": http.StatusOK,
	} {
		method, path, _ := strings.Cut(target, " ")
		w := httptest.NewRecorder()
		i.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
		if w.Code != want {
			t.Errorf("%s: got %d, want %d", target, w.Code, want)
		}
	}
}

func TestNewNeedsAClient(t *testing.T) {
	if _, err := devissuer.New(devissuer.Options{}); !errors.Is(err, config.InvalidArgument) {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}

func TestLoadOrCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	var created [4]*rsa.PrivateKey
	var all sync.WaitGroup
	for n := range created {
		all.Go(func() {
			key, err := devissuer.LoadOrCreate(path)
			if err != nil {
				t.Error(err)
			}
			created[n] = key
		})
	}
	all.Wait()
	again, err := devissuer.LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	for n, key := range created {
		if !again.Equal(key) {
			t.Errorf("caller %d got another key", n)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %o", info.Mode().Perm())
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLoadOrCreateRefuses(t *testing.T) {
	der := func(key any) []byte {
		data, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	wrap := func(kind string, data []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}) }
	good := wrap("PRIVATE KEY", der(sharedKeys()[0]))
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{"readable by others", good, 0o644},
		{"writable by group", good, 0o620},
		{"empty", nil, 0o600},
		{"not PEM", []byte("hello"), 0o600},
		{"other PEM", wrap("CERTIFICATE", der(sharedKeys()[0])), 0o600},
		{"cut short", good[:len(good)/2], 0o600},
		{"more behind it", append(append([]byte{}, good...), good...), 0o600},
		{"damaged", wrap("PRIVATE KEY", []byte("hello")), 0o600},
		{"another kind of key", wrap("PRIVATE KEY", der(curve)), 0o600},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key.pem")
			if err := os.WriteFile(path, test.data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil {
				t.Fatal(err)
			}
			if _, err := devissuer.LoadOrCreate(path); !errors.Is(err, config.FailedPrecondition) {
				t.Errorf("got %v, want FailedPrecondition", err)
			}
		})
	}
	t.Run("no such folder", func(t *testing.T) {
		if _, err := devissuer.LoadOrCreate(filepath.Join(t.TempDir(), "no", "key.pem")); !errors.Is(err, config.Unavailable) {
			t.Errorf("got %v, want Unavailable", err)
		}
	})
}
