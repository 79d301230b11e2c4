package devissuer

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/url"
	"time"

	"github.com/tagstore/tagstore/core/auth"
)

const (
	tokenPath = "/oauth2/token" //nolint:gosec // a path, as Cognito has it
	// machineLife is Cognito's default.
	machineLife = time.Hour
	// maxForm is far above what a request for a token has.
	maxForm = 16 << 10
)

// Machine is an app client that fetches tokens for itself: the client
// credentials grant of RFC 6749, 4.4.
type Machine struct{ ClientID, Secret string }

// TokenURL returns where a Machine fetches its tokens, "" if there is none.
func (i *Issuer) TokenURL() string {
	if i.machine == (Machine{}) {
		return ""
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.url + tokenPath
}

// oauthError is an error answer in the form of RFC 6749, 5.2.
type oauthError struct {
	Error string `json:"error"`
}

type accessToken struct {
	Token   string `json:"access_token"`
	Type    string `json:"token_type"`
	Expires int64  `json:"expires_in"` // seconds
}

// serveToken answers the client credentials grant.
func (i *Issuer) serveToken(w http.ResponseWriter, r *http.Request) {
	switch {
	case i.machine == (Machine{}):
		http.NotFound(w, r)
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		answer(w, http.StatusBadRequest, oauthError{"invalid_request"})
		return
	}
	id, secret := presented(r)
	scope := r.PostForm.Get("scope")
	switch {
	case !same(id, i.machine.ClientID) || !same(secret, i.machine.Secret):
		w.Header().Set("WWW-Authenticate", "Basic")
		answer(w, http.StatusUnauthorized, oauthError{"invalid_client"})
	case r.PostForm.Get("grant_type") != "client_credentials":
		answer(w, http.StatusBadRequest, oauthError{"unsupported_grant_type"})
	case scope != "" && scope != auth.RefreshScope:
		answer(w, http.StatusBadRequest, oauthError{"invalid_scope"})
	default:
		token, err := i.Sign(i.Header(), i.machineClaims(i.machine.ClientID, auth.RefreshScope, machineLife))
		if err != nil {
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		answer(w, http.StatusOK, accessToken{Token: token, Type: "Bearer", Expires: int64(machineLife / time.Second)})
	}
}

// presented returns the credentials of a request: those of its header, where
// RFC 6749, 2.3.1 has them form-encoded, or else of its body.
func presented(r *http.Request) (id, secret string) {
	id, secret, ok := r.BasicAuth()
	if !ok {
		return r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	}
	id, err := url.QueryUnescape(id)
	if err != nil {
		return "", ""
	}
	secret, err = url.QueryUnescape(secret)
	if err != nil {
		return "", ""
	}
	return id, secret
}

// same compares in a time that tells nothing about either.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
