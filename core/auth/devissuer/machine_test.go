package devissuer_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/config"
)

var machine = devissuer.Machine{ClientID: "the-machine", Secret: "s3cr3t+/ %"}

// served returns an issuer with a machine, and a verifier that takes its
// tokens.
func served(t *testing.T) (*devissuer.Issuer, *auth.Verifier) {
	t.Helper()
	i, err := devissuer.New(devissuer.Options{ClientID: "web", Machine: machine, Key: sharedKeys()[0]})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(i)
	t.Cleanup(server.Close)
	i.SetURL(server.URL)
	v, err := auth.NewVerifier(auth.Options{Issuer: i.Issuer(), ClientIDs: []string{"web", machine.ClientID}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return i, v
}

// fetch asks for a token with this form, and with these credentials in the
// header unless they are zero.
func fetch(t *testing.T, i *devissuer.Issuer, header devissuer.Machine, form url.Values) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/oauth2/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if header != (devissuer.Machine{}) {
		r.SetBasicAuth(url.QueryEscape(header.ClientID), url.QueryEscape(header.Secret))
	}
	w := httptest.NewRecorder()
	i.ServeHTTP(w, r)
	return w
}

var grant = url.Values{"grant_type": {"client_credentials"}}

func with(name, value string) url.Values {
	form := url.Values{"grant_type": {"client_credentials"}}
	form.Set(name, value)
	return form
}

// A machine gets a token that a service takes for a refresher's, with its
// credentials where Cognito takes them: in the header or the body.
func TestMachineToken(t *testing.T) {
	i, verifier := served(t)
	inBody := with("client_id", machine.ClientID)
	inBody.Set("client_secret", machine.Secret)
	for name, w := range map[string]*httptest.ResponseRecorder{
		"header": fetch(t, i, machine, grant),
		"scope":  fetch(t, i, machine, with("scope", auth.RefreshScope)),
		"body":   fetch(t, i, devissuer.Machine{}, inBody),
	} {
		var got struct {
			Token   string `json:"access_token"`
			Type    string `json:"token_type"`
			Expires int    `json:"expires_in"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", name, w.Code, w.Body)
		}
		if got.Type != "Bearer" || got.Expires != 3600 || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: type %q, expires in %d, cache control %q", name, got.Type, got.Expires, w.Header().Get("Cache-Control"))
		}
		var principal auth.Principal
		// The verifier fetches the keys in the background.
		for deadline := time.Now().Add(10 * time.Second); ; {
			var err error
			if principal, err = verifier.Verify(t.Context(), got.Token); err == nil {
				break
			} else if !errors.Is(err, config.Unavailable) || time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		principal.Expires = time.Time{}
		if diff := cmp.Diff(auth.Principal{Subject: machine.ClientID, Role: auth.RoleRefresher}, principal, cmp.AllowUnexported(config.Tenant{})); diff != "" {
			t.Errorf("%s: principal (-want +got):\n%s", name, diff)
		}
	}
	var found map[string]any
	get(t, i, "/.well-known/openid-configuration", &found)
	if found["token_endpoint"] != i.TokenURL() || !strings.HasSuffix(i.TokenURL(), "/oauth2/token") {
		t.Errorf("the token endpoint is %v, TokenURL %q", found["token_endpoint"], i.TokenURL())
	}
}

func TestMachineTokenRefuses(t *testing.T) {
	i, _ := served(t)
	for name, test := range map[string]struct {
		header devissuer.Machine
		form   url.Values
		status int
		want   string
	}{
		"no credentials": {devissuer.Machine{}, grant, 401, "invalid_client"},
		"another secret": {devissuer.Machine{ClientID: machine.ClientID, Secret: "guess"}, grant, 401, "invalid_client"},
		"another client": {devissuer.Machine{ClientID: "web", Secret: machine.Secret}, grant, 401, "invalid_client"},
		"another grant":  {machine, url.Values{"grant_type": {"password"}}, 400, "unsupported_grant_type"},
		"another scope":  {machine, with("scope", "openid"), 400, "invalid_scope"},
		"a huge form":    {machine, with("scope", strings.Repeat("x", 1<<20)), 400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			w := fetch(t, i, test.header, test.form)
			var got map[string]string
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != test.status || got["error"] != test.want {
				t.Errorf("got %d %s, want %d %s", w.Code, w.Body, test.status, test.want)
			}
		})
	}
	w := httptest.NewRecorder()
	i.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/oauth2/token", http.NoBody))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "POST" {
		t.Errorf("GET: %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
}

// An issuer without a machine has no such endpoint, and half a machine is none.
func TestNoMachine(t *testing.T) {
	i := newIssuer(t)
	if w := fetch(t, i, devissuer.Machine{}, grant); w.Code != http.StatusNotFound || i.TokenURL() != "" {
		t.Errorf("got %d, TokenURL %q", w.Code, i.TokenURL())
	}
	for _, half := range []devissuer.Machine{{ClientID: "m"}, {Secret: "s"}} {
		if _, err := devissuer.New(devissuer.Options{ClientID: "web", Machine: half}); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("New returned %v, want code invalid_argument", err)
		}
	}
}
