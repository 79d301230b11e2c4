// Package devissuer issues tokens in the shape of Amazon Cognito, for
// development and tests on one machine. It is no identity provider: whoever
// can call it gets any token that it asks for. Nothing that serves customers
// may trust it.
//
// An Issuer is an http.Handler that publishes its keys and, for a machine that
// knows its secret, hands out tokens. Beside well-formed tokens it signs whatever a test hands it, so that a verifier can be shown
// what an attacker would send.
package devissuer

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
)

const (
	jwksPath      = "/.well-known/jwks.json"
	discoveryPath = "/.well-known/openid-configuration"
)

// Options describe an Issuer.
type Options struct {
	// Issuer is the iss of the tokens. Default: the URL of SetURL.
	Issuer string
	// ClientID is the app client that tokens are issued to. Required.
	ClientID string
	// Machine may fetch tokens with the scope to refresh at /oauth2/token. The
	// zero value is nobody: then there is no such endpoint.
	Machine Machine
	// Key signs the tokens. Default: a new one, which takes a while to make, so
	// tests that need many issuers share keys.
	Key *rsa.PrivateKey
	// Now tells the time that tokens are issued at. Default: time.Now.
	Now func() time.Time
}

// Issuer issues tokens. Its methods may be called concurrently.
type Issuer struct {
	clientID string
	machine  Machine
	now      func() time.Time

	mu     sync.RWMutex
	issuer string            // "" means url
	url    string            // where the Issuer is served
	keys   []*rsa.PrivateKey // published; the last one signs
}

// New returns an Issuer. The error has code InvalidArgument where the options
// are at fault, else Internal.
func New(o Options) (*Issuer, error) {
	if o.ClientID == "" {
		return nil, &config.Error{Op: "devissuer.New", Code: config.InvalidArgument, Message: "there is no client id", Hint: "set one"}
	}
	if (o.Machine.ClientID == "") != (o.Machine.Secret == "") {
		return nil, &config.Error{
			Op: "devissuer.New", Code: config.InvalidArgument,
			Message: "the machine has a client id or a secret, but not both", Hint: "set both",
		}
	}
	if o.Key == nil {
		key, err := GenerateKey()
		if err != nil {
			return nil, err
		}
		o.Key = key
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Issuer{clientID: o.ClientID, machine: o.Machine, now: o.Now, issuer: o.Issuer, keys: []*rsa.PrivateKey{o.Key}}, nil
}

// SetURL says where the Issuer is served, such as "http://127.0.0.1:4000". A
// slash at the end is taken off.
func (i *Issuer) SetURL(url string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.url = strings.TrimSuffix(url, "/")
}

// Issuer returns the iss of the tokens.
func (i *Issuer) Issuer() string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if i.issuer != "" {
		return i.issuer
	}
	return i.url
}

// JWKSURL returns where the keys are published.
func (i *Issuer) JWKSURL() string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.url + jwksPath
}

// ClientID returns the app client that tokens are issued to.
func (i *Issuer) ClientID() string { return i.clientID }

// Rotate makes a new key and signs with it from now on. The keys before it
// stay published, so tokens that they signed stay good; Revoke ends that.
func (i *Issuer) Rotate() error {
	key, err := GenerateKey()
	if err != nil {
		return err
	}
	i.RotateTo(key)
	return nil
}

// RotateTo is Rotate with a key that the caller has.
func (i *Issuer) RotateTo(key *rsa.PrivateKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = append(slices.Clone(i.keys), key)
}

// Revoke ends the publication of all keys but the one that signs.
func (i *Issuer) Revoke() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = i.keys[len(i.keys)-1:]
}

// ID returns an ID token of a person of tenant, in the group of role, that
// expires ttl from now; a ttl below 0 makes one that is expired.
func (i *Issuer) ID(tenant, subject string, role auth.Role, ttl time.Duration) (string, error) {
	return i.Sign(i.Header(), i.IDClaims(tenant, subject, role, ttl))
}

// Access returns an access token of the same person, with the tenant in it as
// a pre-token-generation trigger would put it there.
func (i *Issuer) Access(tenant, subject string, role auth.Role, ttl time.Duration) (string, error) {
	return i.Sign(i.Header(), i.AccessClaims(tenant, subject, role, ttl))
}

// Refresher returns an access token of a machine that may call Refresh.
func (i *Issuer) Refresher(ttl time.Duration) (string, error) {
	return i.Sign(i.Header(), i.RefresherClaims(ttl))
}

// Operator returns an access token of a machine of those who run the service.
func (i *Issuer) Operator(ttl time.Duration) (string, error) {
	return i.Sign(i.Header(), i.OperatorClaims(ttl))
}

// Header returns the header of every well-formed token, for changing.
func (i *Issuer) Header() map[string]any {
	return map[string]any{"alg": "RS256", "kid": KeyID(&i.signer().PublicKey)}
}

// IDClaims returns the claims of an ID token, for changing.
func (i *Issuer) IDClaims(tenant, subject string, role auth.Role, ttl time.Duration) map[string]any {
	claims := i.claims(subject, ttl)
	claims["token_use"] = "id"
	claims["aud"] = i.clientID
	claims["cognito:username"] = subject
	claims["cognito:groups"] = groups(role)
	claims["custom:tenantId"] = tenant
	return claims
}

// AccessClaims returns the claims of an access token, for changing.
func (i *Issuer) AccessClaims(tenant, subject string, role auth.Role, ttl time.Duration) map[string]any {
	claims := i.claims(subject, ttl)
	claims["token_use"] = "access"
	claims["client_id"] = i.clientID
	claims["username"] = subject
	claims["scope"] = "openid"
	claims["cognito:groups"] = groups(role)
	claims["custom:tenantId"] = tenant
	return claims
}

// RefresherClaims returns the claims of a Refresher's token, for changing.
func (i *Issuer) RefresherClaims(ttl time.Duration) map[string]any {
	return i.machineClaims(i.clientID, auth.RefreshScope, ttl)
}

// OperatorClaims returns the claims of an Operator's token, for changing.
func (i *Issuer) OperatorClaims(ttl time.Duration) map[string]any {
	return i.machineClaims(i.clientID, auth.OperateScope, ttl)
}

func (i *Issuer) machineClaims(clientID, scope string, ttl time.Duration) map[string]any {
	claims := i.claims(clientID, ttl)
	claims["token_use"] = "access"
	claims["client_id"] = clientID
	claims["scope"] = scope
	return claims
}

func (i *Issuer) claims(subject string, ttl time.Duration) map[string]any {
	now := i.now()
	return map[string]any{
		"iss": i.Issuer(), "sub": subject, "jti": rand.Text(),
		"iat": now.Unix(), "auth_time": now.Unix(), "exp": now.Add(ttl).Unix(),
	}
}

func groups(role auth.Role) []string {
	if group := role.Group(); group != "" {
		return []string{group}
	}
	return []string{}
}

// Sign returns a token of this header and these claims with a genuine RS256
// signature of the current key, whatever they say. Each is either raw JSON, as
// string, []byte or json.RawMessage, which is taken over byte for byte, or
// anything that json.Marshal takes.
func (i *Issuer) Sign(header, claims any) (string, error) {
	head, err := part(header)
	if err != nil {
		return "", err
	}
	body, err := part(claims)
	if err != nil {
		return "", err
	}
	signature, err := jwt.SigningMethodRS256.Sign(head+"."+body, i.signer())
	if err != nil {
		return "", &config.Error{Op: "devissuer.Sign", Code: config.Internal, Message: "the token can not be signed", Err: err}
	}
	return head + "." + body + "." + encode(signature), nil
}

func part(v any) (string, error) {
	switch typed := v.(type) {
	case string:
		return encode([]byte(typed)), nil
	case []byte:
		return encode(typed), nil
	case json.RawMessage:
		return encode(typed), nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return "", &config.Error{Op: "devissuer.Sign", Code: config.InvalidArgument, Message: "header or claims are not JSON", Err: err}
	}
	return encode(data), nil
}

func encode(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func (i *Issuer) signer() *rsa.PrivateKey {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.keys[len(i.keys)-1]
}

// KeyID returns the id under which a key is published: its thumbprint of RFC
// 7638, so a key that is kept keeps its id.
func KeyID(key *rsa.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"e":"` + encode(exponent(key)) + `","kty":"RSA","n":"` + encode(key.N.Bytes()) + `"}`))
	return encode(sum[:])
}

func exponent(key *rsa.PublicKey) []byte { return big.NewInt(int64(key.E)).Bytes() }

type jwk struct {
	KeyID     string `json:"kid"`
	Type      string `json:"kty"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	Modulus   string `json:"n"`
	Exponent  string `json:"e"`
}

type discovery struct {
	Issuer     string   `json:"issuer"`
	JWKSURL    string   `json:"jwks_uri"`
	Algorithms []string `json:"id_token_signing_alg_values_supported"`
	Responses  []string `json:"response_types_supported"`
	Subjects   []string `json:"subject_types_supported"`
	TokenURL   string   `json:"token_endpoint,omitempty"`
}

// ServeHTTP serves /.well-known/jwks.json and a minimal
// /.well-known/openid-configuration, for GET and HEAD, and, if there is a
// Machine, POST /oauth2/token.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var document any
	switch r.URL.Path {
	case tokenPath:
		i.serveToken(w, r)
		return
	case jwksPath:
		document = map[string]any{"keys": i.published()}
	case discoveryPath:
		document = discovery{
			Issuer: i.Issuer(), JWKSURL: i.JWKSURL(), Algorithms: []string{"RS256"},
			Responses: []string{"token"}, Subjects: []string{"public"}, TokenURL: i.TokenURL(),
		}
	default:
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	answer(w, http.StatusOK, document)
}

func answer(w http.ResponseWriter, status int, document any) {
	data, err := json.Marshal(document)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A client that went away needs no answer.
	_, _ = w.Write(data)
}

func (i *Issuer) published() []jwk {
	i.mu.RLock()
	defer i.mu.RUnlock()
	all := make([]jwk, len(i.keys))
	for n, key := range i.keys {
		public := &key.PublicKey
		all[n] = jwk{
			KeyID: KeyID(public), Type: "RSA", Use: "sig", Algorithm: "RS256",
			Modulus: encode(public.N.Bytes()), Exponent: encode(exponent(public)),
		}
	}
	return all
}
