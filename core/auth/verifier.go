package auth

import (
	"context"
	"crypto/rsa"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tagstore/tagstore/core/config"
)

// TokenUse is the type of token that a deployment takes.
type TokenUse string

// The types of token, by the value of their token_use.
const (
	// UseID tokens name their app client in aud.
	UseID TokenUse = "id"
	// UseAccess tokens name it in client_id. Cognito puts custom:tenantId into
	// them only with a pre-token-generation trigger of version 2 or later.
	UseAccess TokenUse = "access"
)

// RoleClaim says where a person's role comes from.
type RoleClaim string

// The sources of a role.
const (
	// RoleFromGroups takes the highest of the groups tagstore-reader,
	// tagstore-editor and tagstore-admin in cognito:groups. Only an
	// administrator of the user pool can put a user into a group.
	RoleFromGroups RoleClaim = "groups"
	// RoleFromAttribute takes "reader", "editor" or "admin" from custom:role.
	// It is safe only where no app client may write that attribute (its
	// WriteAttributes): else every user can make itself an admin.
	RoleFromAttribute RoleClaim = "custom:role"
)

// leeway is how far ahead of our clock an issuer's may be.
const leeway = time.Minute

// maxSubject is the longest sub that OpenID Connect Core, 2 allows.
const maxSubject = 255

// Options say whose tokens a Verifier accepts.
type Options struct {
	// Issuer is what iss has to be, byte for byte. Required.
	Issuer string
	// ClientIDs are the app clients whose tokens are accepted. At least one is
	// required.
	ClientIDs []string
	// JWKSURL is where the issuer's keys are: https, or http on loopback.
	// Default: Issuer + "/.well-known/jwks.json".
	JWKSURL string
	// TokenUse is the type of token that is accepted from people. Default:
	// UseID. Machines always come with an access token.
	TokenUse TokenUse
	// RoleClaim is where roles come from. Default: RoleFromGroups.
	RoleClaim RoleClaim
	// HTTPClient fetches the JWKS; it is copied, and the copy follows no
	// redirect. Default: one with a transport of its own.
	HTTPClient *http.Client
	// Now tells the time that tokens are judged by. Default: time.Now.
	Now func() time.Time
	// Logger gets what happens to the keys, and nothing about any token.
	// Default: slog.Default().
	Logger *slog.Logger
}

// Verifier verifies tokens. Its methods may be called concurrently.
type Verifier struct {
	issuer    string
	clientIDs []string
	use       TokenUse
	roleClaim RoleClaim
	now       func() time.Time
	keys      *keySet
	seen      seen
	close     func()
}

// NewVerifier returns a Verifier and starts to fetch the issuer's keys in the
// background; it does not wait for them, so an issuer that is away does not
// keep a service from starting. Close ends the fetching. The error has code
// InvalidArgument and names the option that is wrong.
func NewVerifier(o Options) (*Verifier, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	client := *o.HTTPClient
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	v := &Verifier{
		issuer: o.Issuer, clientIDs: slices.Clone(o.ClientIDs), use: o.TokenUse, roleClaim: o.RoleClaim,
		now: o.Now, keys: newKeySet(o.JWKSURL, &client, o.Logger),
	}
	ctx, cancel := context.WithCancel(context.Background())
	var fetching sync.WaitGroup
	fetching.Go(func() { v.keys.run(ctx) })
	v.close = sync.OnceFunc(func() {
		cancel()
		fetching.Wait()
		client.CloseIdleConnections()
	})
	return v, nil
}

// complete checks the options and fills in the defaults.
func (o *Options) complete() error {
	refuse := func(message, hint string) error {
		return &config.Error{Op: "auth.NewVerifier", Code: config.InvalidArgument, Message: message, Hint: hint}
	}
	if o.Issuer == "" {
		return refuse("there is no issuer", "set it to the iss of the tokens to accept")
	}
	if len(o.ClientIDs) == 0 || slices.Contains(o.ClientIDs, "") {
		return refuse("there are no client ids, or one is empty", "list the app clients whose tokens to accept")
	}
	if o.JWKSURL == "" {
		o.JWKSURL = strings.TrimSuffix(o.Issuer, "/") + "/.well-known/jwks.json"
	}
	u, err := url.Parse(o.JWKSURL)
	if err != nil || u.Host == "" || (u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname()))) {
		return refuse("the JWKS URL is neither https nor http on loopback", "set it to the https URL of the issuer's keys")
	}
	switch o.TokenUse {
	case "":
		o.TokenUse = UseID
	case UseID, UseAccess:
	default:
		return refuse("the token use is not known", "set it to id or access")
	}
	switch o.RoleClaim {
	case "":
		o.RoleClaim = RoleFromGroups
	case RoleFromGroups, RoleFromAttribute:
	default:
		return refuse("the role claim is not known", "set it to groups or custom:role")
	}
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
			IdleConnTimeout: time.Minute,
		}}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// Close ends the fetching of keys and waits until it has ended. From then on
// Verify answers Unavailable. Close may be called more than once.
func (v *Verifier) Close() { v.close() }

// Ready returns nil once there are keys to verify with, else an error with
// code Unavailable. A Verifier that was ready stays so until Close.
func (v *Verifier) Ready() error {
	if v.keys.current.Load() == nil {
		return errNoKeys("auth.Ready")
	}
	return nil
}

// Verify returns the principal of token, the text behind "Bearer ". The
// package comment says what is accepted and with which codes tokens are
// refused.
//
// Verify blocks only for a token whose key is not known, and then until a
// refresh of the keys ends, a few seconds at most, or ctx does, which is
// Canceled or DeadlineExceeded. A token that was accepted before costs a hash
// and a look-up until it expires or its key is revoked.
func (v *Verifier) Verify(ctx context.Context, token string) (Principal, error) {
	if len(token) > MaxToken {
		return Principal{}, tooLong()
	}
	// What is remembered was looked at in full when it came first, and the hash
	// is over all of it.
	sum := sumOf(token)
	if p, ok := v.seen.get(&sum, v.now(), v.isCurrent); ok {
		return p, nil
	}
	if err := checkShape(token); err != nil {
		return Principal{}, err
	}
	t, err := parseToken(token)
	if err != nil {
		return Principal{}, err
	}
	key, err := v.keys.find(ctx, t.keyID)
	if err != nil {
		return Principal{}, err
	}
	if jwt.SigningMethodRS256.Verify(t.signed, t.signature, key) != nil {
		return Principal{}, unauthenticated("the token's signature is wrong")
	}
	p, err := v.judge(t)
	if err != nil {
		return Principal{}, err
	}
	v.seen.put(verified{sum: sum, keyID: t.keyID, key: key, principal: p})
	return p, nil
}

func (v *Verifier) isCurrent(id string, key *rsa.PublicKey) bool { return v.keys.lookup(id) == key }

// judge decides on the claims of a token whose signature is good.
func (v *Verifier) judge(t token) (Principal, error) {
	if issuer, ok := t.claims.text("iss"); !ok || issuer != v.issuer {
		return Principal{}, unauthenticated("the token is of another issuer")
	}
	role, machine := machineRole(t.claims)
	use, err := v.checkUse(t, machine)
	if err != nil {
		return Principal{}, err
	}
	if err := v.checkClient(t.claims, use); err != nil {
		return Principal{}, err
	}
	expires, err := v.checkTimes(t.claims)
	if err != nil {
		return Principal{}, err
	}
	subject, ok := t.claims.text("sub")
	if !ok || !validSubject(subject) {
		return Principal{}, unauthenticated("the token has no usable subject")
	}
	p := Principal{Subject: subject, Role: role, Expires: expires}
	if machine && role == "" {
		return Principal{}, denied("the token carries the scopes of two roles", "ask for one of them, or give each machine a client of its own")
	}
	if machine {
		return p, nil
	}
	tenant, ok := t.claims.text("custom:tenantId")
	if !ok {
		return Principal{}, denied("the token names no tenant", "have custom:tenantId set for this user")
	}
	if p.Tenant, err = config.ParseTenant(tenant); err != nil {
		return Principal{}, denied("the token's tenant is not valid", "have custom:tenantId set to a valid tenant for this user")
	}
	if p.Role, ok = v.role(t.claims); !ok {
		return Principal{}, denied("the token carries no role", "have this user put into one of the tagstore groups")
	}
	return p, nil
}

// machineRole reports whether the claims are those of a machine that has a role,
// and which: an access token of the client-credentials grant, so without a user,
// with the scope for it. The role is "" where there are the scopes of two: of the
// two neither contains the other, and a principal has one.
func machineRole(claims object) (Role, bool) {
	use, _ := claims.text("token_use")
	if use != string(UseAccess) || claims.has("username") || claims.has("cognito:username") {
		return "", false
	}
	scope, _ := claims.text("scope")
	scopes := strings.Fields(scope)
	refresher, operator := slices.Contains(scopes, RefreshScope), slices.Contains(scopes, OperateScope)
	switch {
	case refresher && operator:
		return "", true
	case refresher:
		return RoleRefresher, true
	case operator:
		return RoleOperator, true
	default:
		return "", false
	}
}

// checkUse decides on the type of the token, RFC 8725, 3.11 and 3.12.
func (v *Verifier) checkUse(t token, machine bool) (TokenUse, error) {
	text, _ := t.claims.text("token_use")
	use := TokenUse(text)
	fits := use == v.use || machine
	switch t.typ {
	case "", "JWT":
	case "at+jwt": // RFC 9068, 2.1
		fits = fits && use == UseAccess
	default:
		fits = false
	}
	if !fits {
		return "", unauthenticated("the token is of another type").
			WithHint("send the %s token", v.use)
	}
	return use, nil
}

// checkClient decides on the app client. An aud with several clients is
// refused: Cognito never issues one.
func (v *Verifier) checkClient(claims object, use TokenUse) error {
	name := "client_id"
	if use == UseID {
		name = "aud"
	}
	if client, ok := claims.text(name); !ok || !slices.Contains(v.clientIDs, client) {
		return unauthenticated("the token is of another app client")
	}
	return nil
}

func (v *Verifier) checkTimes(claims object) (expires time.Time, err error) {
	now := v.now()
	expires, ok := claims.time("exp")
	if !ok {
		return time.Time{}, unauthenticated("the token does not say when it expires")
	}
	if !now.Before(expires) {
		return time.Time{}, unauthenticated("the token is expired")
	}
	latest := now.Add(leeway)
	if issued, ok := claims.time("iat"); !ok || issued.After(latest) {
		return time.Time{}, unauthenticated("the token does not say when it was issued, or was issued in the future").
			WithHint("check both clocks")
	}
	if !claims.has("nbf") {
		return expires, nil
	}
	if from, ok := claims.time("nbf"); !ok || from.After(latest) {
		return time.Time{}, unauthenticated("the token is not valid yet").WithHint("check both clocks")
	}
	return expires, nil
}

// validSubject keeps out what could not be logged or stored as it is.
func validSubject(s string) bool {
	unprintable := func(r rune) bool { return r < ' ' || r > '~' }
	return s != "" && len(s) <= maxSubject && strings.IndexFunc(s, unprintable) < 0
}

// role returns the role of a person, false if the claims hold none.
func (v *Verifier) role(claims object) (Role, bool) {
	if v.roleClaim == RoleFromAttribute {
		text, _ := claims.text("custom:role")
		role := Role(text)
		return role, role.rank() > 0
	}
	groups, _ := claims.texts("cognito:groups")
	for _, role := range []Role{RoleAdmin, RoleEditor, RoleReader} {
		if slices.Contains(groups, role.Group()) {
			return role, true
		}
	}
	return "", false
}
