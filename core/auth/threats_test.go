package auth_test

import (
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/config"
)

// A threat is one way to attack a verifier, by its row in the threat model.
type threat struct {
	row  int
	name string
	run  func(t *testing.T, w *world)
}

// forged is a threat that is a token; want is the code that it is refused with
// by a verifier that accepts the good token it was made from.
func forged(row int, name string, want config.Code, forge func(t *testing.T, w *world) string) threat {
	return threat{row, name, func(t *testing.T, w *world) {
		v := w.verifier(t, nil)
		wantAccepted(t, v, w.sign(t, nil, w.claims(nil)))
		wantRefused(t, v, forge(t, w), want)
	}}
}

// header is a token with a good payload and signature under another header.
func header(row int, name string, change map[string]any) threat {
	return forged(row, name, config.Unauthenticated, func(t *testing.T, w *world) string {
		return w.sign(t, changed(w.issuer.Header(), change), w.claims(nil))
	})
}

// claims is a token with other claims under a genuine signature.
func claims(row int, name string, want config.Code, change map[string]any) threat {
	return forged(row, name, want, func(t *testing.T, w *world) string { return w.sign(t, nil, w.claims(change)) })
}

// rawClaims is claims with text put in front of the JSON's members.
func rawClaims(row int, name, front string) threat {
	return forged(row, name, config.Unauthenticated, func(t *testing.T, w *world) string {
		return w.sign(t, nil, spliced(t, front, w.claims(nil)))
	})
}

func spliced(t *testing.T, front string, members map[string]any) string {
	t.Helper()
	data, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return "{" + front + string(data[1:])
}

func wantAccepted(t *testing.T, v *auth.Verifier, token string) auth.Principal {
	t.Helper()
	p, err := v.Verify(t.Context(), token)
	if err != nil {
		t.Fatalf("a good token was refused: %v", err)
	}
	return p
}

// wantRefused checks the code, that nothing of the token is in the text, and
// that asking again changes nothing.
func wantRefused(t *testing.T, v *auth.Verifier, token string, want config.Code) {
	t.Helper()
	for range 2 {
		p, err := v.Verify(t.Context(), token)
		if !errors.Is(err, want) {
			t.Errorf("got %v, %v, want the code %v", p, err, want)
			return
		}
		if p != (auth.Principal{}) {
			t.Errorf("a principal came with the error: %v", p)
		}
		wantSilent(t, err, token)
	}
}

func wantSilent(t *testing.T, err error, token string) {
	t.Helper()
	var e *config.Error
	if !errors.As(err, &e) || e.Op == "" || e.Hint == "" {
		t.Errorf("not a *config.Error with op and hint: %#v", err)
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 && strings.Contains(err.Error(), part) {
			t.Errorf("the text repeats the token: %v", err)
		}
	}
	for _, canary := range []string{"victim", "canary", "etc/passwd"} {
		if strings.Contains(err.Error(), canary) {
			t.Errorf("the text holds %q: %v", canary, err)
		}
	}
}

func encode(data string) string { return base64.RawURLEncoding.EncodeToString([]byte(data)) }

// respell replaces the header of token and its signature by what sign makes of
// the rest.
func respell(token, header string, sign func(input string) string) string {
	parts := strings.Split(token, ".")
	input := encode(header) + "." + parts[1]
	return input + "." + sign(input)
}

func unsigned(string) string { return "" }

func hs256(secret []byte) func(string) string {
	return func(input string) string {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		return encode(string(mac.Sum(nil)))
	}
}

// TestThreatRows holds rows 1 to 20 of the threat model against the verifier:
// for each at least one attack, and what has to become of it.
func TestThreatRows(t *testing.T) {
	rows := slices.Concat(
		bearerRows(), algorithmRows(), jwksRows(), headerRows(), floodRows(), timeRows(), addresseeRows(),
		tenantRows(), spellingRows(), roleRows(), sizeRows(), otherFormatRows(), serverRows(),
	)
	w := newWorld(t)
	covered := map[int]bool{}
	for _, threat := range rows {
		covered[threat.row] = true
		t.Run(fmt.Sprintf("row %02d/%s", threat.row, threat.name), func(t *testing.T) {
			w.clock.set(start)
			threat.run(t, w)
		})
	}
	for row := 1; row <= 20; row++ {
		if !covered[row] {
			t.Errorf("row %d has no attack", row)
		}
	}
}

// Row 1: no, empty or two authorization values, no "Bearer ".
func bearerRows() []threat {
	refused := func(name string, values ...string) threat {
		return threat{1, name, func(t *testing.T, _ *world) {
			token, err := auth.BearerToken(values)
			if token != "" || !errors.Is(err, config.Unauthenticated) {
				t.Fatalf("got %q, %v, want Unauthenticated", token, err)
			}
			wantSilent(t, err, strings.Join(values, ""))
		}}
	}
	accepted := func(name, value string) threat {
		return threat{1, name, func(t *testing.T, _ *world) {
			if token, err := auth.BearerToken([]string{value}); token != "a.b.c" || err != nil {
				t.Errorf("got %q, %v", token, err)
			}
		}}
	}
	return []threat{
		refused("none"),
		refused("empty", ""),
		refused("two", "Bearer a.b.c", "Bearer a.b.c"),
		refused("two, one empty", "", "Bearer a.b.c"),
		refused("two in one", "Bearer a.b.c, Bearer a.b.c"),
		refused("two in one without blanks", "Bearer a.b.c,d.e.f"),
		refused("no scheme", "a.b.c"),
		refused("scheme alone", "Bearer"),
		refused("no token", "Bearer "),
		refused("two blanks", "Bearer  a.b.c"),
		refused("blank in front", " Bearer a.b.c"),
		refused("blank behind", "Bearer a.b.c "),
		refused("tab", "Bearer\ta.b.c"),
		refused("another scheme", "Basic YTpi"),
		refused("longer scheme", "Bearers a.b.c"),
		accepted("control", "Bearer a.b.c"),
		accepted("scheme in lower case", "bearer a.b.c"),
	}
}

// Rows 2 and 3: alg none, and a MAC keyed with what is public.
func algorithmRows() []threat {
	var all []threat
	for _, alg := range []string{"none", "None", "nOnE", "NONE", "", "rs256", "RS384", "RS512", "PS256", "ES256", "HS256"} {
		all = append(all,
			forged(2, "alg "+alg+" without signature", config.Unauthenticated, func(t *testing.T, w *world) string {
				head, err := json.Marshal(changed(w.issuer.Header(), map[string]any{"alg": alg}))
				if err != nil {
					t.Fatal(err)
				}
				return respell(w.sign(t, nil, w.claims(nil)), string(head), unsigned)
			}),
			header(2, "alg "+alg+" over a genuine RS256 signature", map[string]any{"alg": alg}))
	}
	all = append(all,
		header(2, "no alg", map[string]any{"alg": nil}),
		header(2, "alg array", map[string]any{"alg": []string{"RS256"}}),
		forged(2, "RS256 with empty signature", config.Unauthenticated, func(t *testing.T, w *world) string {
			token := w.sign(t, nil, w.claims(nil))
			return token[:strings.LastIndexByte(token, '.')+1]
		}),
		forged(2, "RS256 with one bit of the signature changed", config.Unauthenticated, func(t *testing.T, w *world) string {
			token := []byte(w.sign(t, nil, w.claims(nil)))
			at := len(token) - 10
			token[at] = map[bool]byte{true: 'B', false: 'A'}[token[at] == 'A']
			return string(token)
		}),
		forged(2, "claims changed under the signature of others", config.Unauthenticated, func(t *testing.T, w *world) string {
			mine := strings.Split(w.sign(t, nil, w.claims(nil)), ".")
			theirs := strings.Split(w.sign(t, nil, w.claims(map[string]any{"custom:tenantId": "globex-inc"})), ".")
			return mine[0] + "." + theirs[1] + "." + mine[2]
		}),
		forged(2, "RS512 signature under alg RS256", config.Unauthenticated, func(t *testing.T, w *world) string {
			token := w.sign(t, nil, w.claims(nil))
			input := token[:strings.LastIndexByte(token, '.')]
			sum := crypto.SHA512.New()
			sum.Write([]byte(input))
			signature, err := rsa.SignPKCS1v15(nil, sharedKeys()[0], crypto.SHA512, sum.Sum(nil))
			if err != nil {
				t.Fatal(err)
			}
			return input + "." + encode(string(signature))
		}))

	public := func() map[string][]byte {
		key := &sharedKeys()[0].PublicKey
		pkix, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			panic(err)
		}
		return map[string][]byte{
			"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix}), "DER": pkix,
			"PKCS1": x509.MarshalPKCS1PublicKey(key), "n": key.N.Bytes(),
		}
	}
	for _, form := range slices.Sorted(maps.Keys(public())) {
		for _, alg := range []string{"HS256", "RS256"} {
			all = append(all, forged(3, "MAC keyed with the public key's "+form+" as "+alg, config.Unauthenticated, func(t *testing.T, w *world) string {
				head := fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, w.issuer.Header()["kid"])
				return respell(w.sign(t, nil, w.claims(nil)), head, hs256(public()[form]))
			}))
		}
	}
	return all
}

// Row 4: the header fits, the JWK does not.
func jwksRows() []threat {
	// served replaces members of the JWK of the key that signs; a key that is
	// good stands beside it, so that the document is usable.
	served := func(name string, want config.Code, change map[string]any) threat {
		return threat{4, name, func(t *testing.T, w *world) {
			signer := changed(publicJWK(&sharedKeys()[0].PublicKey), change)
			server := serveJWKS(t, signer, publicJWK(&sharedKeys()[1].PublicKey))
			v := w.verifier(t, func(o *auth.Options) { o.JWKSURL = server.URL })
			token := w.sign(t, nil, w.claims(nil))
			if want == config.Unknown {
				wantAccepted(t, v, token)
				return
			}
			wantRefused(t, v, token, want)
		}}
	}
	const refused, accepted = config.Unauthenticated, config.Unknown
	small := map[string]any{"n": encode(strings.Repeat("\xff", 128))}
	huge := map[string]any{"n": encode(strings.Repeat("\xff", 1025))}
	return []threat{
		served("control", accepted, nil),
		served("without use and alg", accepted, map[string]any{"use": nil, "alg": nil}),
		served("kty EC", refused, map[string]any{"kty": "EC", "crv": "P-256", "x": encode("x"), "y": encode("y")}),
		served("kty oct", refused, map[string]any{"kty": "oct", "k": encode("secret")}),
		served("kty in lower case", refused, map[string]any{"kty": "rsa"}),
		served("use enc", refused, map[string]any{"use": "enc"}),
		served("use array", refused, map[string]any{"use": []string{"sig"}}),
		served("alg PS256", refused, map[string]any{"alg": "PS256"}),
		served("alg RS512", refused, map[string]any{"alg": "RS512"}),
		served("alg RSA-OAEP", refused, map[string]any{"alg": "RSA-OAEP"}),
		served("1024 bits", refused, small),
		served("8200 bits", refused, huge),
		served("even modulus", refused, map[string]any{"n": encode(strings.Repeat("\xfe", 256))}),
		served("modulus not base64url", refused, map[string]any{"n": "++//"}),
		served("exponent 1", refused, map[string]any{"e": encode("\x01")}),
		served("exponent even", refused, map[string]any{"e": encode("\x04")}),
		served("exponent of 40 bits", refused, map[string]any{"e": encode("\x01\x00\x00\x00\x01")}),
		served("private part published", refused, map[string]any{"d": encode("d")}),
		served("no kid", refused, map[string]any{"kid": nil}),
		served("kid of another", refused, map[string]any{"kid": "other"}),
	}
}

func publicJWK(key *rsa.PublicKey) map[string]any {
	return map[string]any{
		"kid": devissuer.KeyID(key), "kty": "RSA", "use": "sig", "alg": "RS256",
		"n": encode(string(key.N.Bytes())), "e": "AQAB",
	}
}

func jwksOf(jwks ...map[string]any) []byte {
	data, err := json.Marshal(map[string]any{"keys": jwks})
	if err != nil {
		panic(err)
	}
	return data
}

func serveJWKS(t *testing.T, jwks ...map[string]any) *httptest.Server {
	t.Helper()
	document := jwksOf(jwks...)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(document) }))
	t.Cleanup(server.Close)
	return server
}

// Rows 5 and 6: header members that bring or point to a key, and key ids that
// hope to be used for more than a look-up in a map.
func headerRows() []threat {
	var all []threat
	for _, name := range []string{"jku", "x5u"} {
		all = append(all, threat{5, name, func(t *testing.T, w *world) {
			var calls atomic.Int64
			trap := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				w.issuer.ServeHTTP(rw, r)
			}))
			t.Cleanup(trap.Close)
			header(5, name, map[string]any{name: trap.URL + "/.well-known/jwks.json"}).run(t, w)
			header(5, name, map[string]any{name: trap.URL + "/.well-known/jwks.json", "kid": "elsewhere"}).run(t, w)
			if n := calls.Load(); n != 0 {
				t.Errorf("the URL in the header was called %d times", n)
			}
		}})
	}
	for name, value := range map[string]any{
		"jwk":  publicJWK(&sharedKeys()[2].PublicKey),
		"x5c":  []string{"MIIB"},
		"x5t":  "abc",
		"crit": []string{"exp"},
		"b64":  false,
		"cty":  "JWT",
		"nope": "x",
		"Alg":  "none",
		"KID":  "x",
	} {
		all = append(all, header(5, name, map[string]any{name: value}))
	}
	all = append(all, forged(5, "jwk of the attacker's, signed with it", config.Unauthenticated, func(t *testing.T, w *world) string {
		mallory := newIssuer(t, devissuer.Options{Key: sharedKeys()[2]})
		head := changed(mallory.Header(), map[string]any{"jwk": publicJWK(&sharedKeys()[2].PublicKey)})
		token, err := mallory.Sign(head, w.claims(nil))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}))
	for name, kid := range map[string]any{
		"path": "../../dev/null", "file": "/etc/passwd", "SQL": "' OR 1=1 --", "NUL": "a\x00b", "10 KB": strings.Repeat("k", 10<<10),
		"129 bytes": strings.Repeat("k", 129), "empty": "", "missing": nil, "array": []string{"a"}, "number": 1, "object": map[string]any{"a": 1},
		"false": false, "URL": "http://127.0.0.1:1/jwks.json", "format": "%s%n", "template": "{{.}}",
	} {
		all = append(all, header(6, "kid "+name, map[string]any{"kid": kid}))
	}
	all = append(all, forged(6, "kid null", config.Unauthenticated, func(t *testing.T, w *world) string {
		return w.sign(t, `{"alg":"RS256","kid":null}`, w.claims(nil))
	}), forged(6, "kid of another published key", config.Unauthenticated, func(t *testing.T, w *world) string {
		mallory := newIssuer(t, devissuer.Options{Key: sharedKeys()[2]})
		token, err := mallory.Sign(w.issuer.Header(), w.claims(nil))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}))
	return all
}

// Rows 7 and 8 run in fake time; see keyset_test.go.
func floodRows() []threat {
	return []threat{
		{7, "unknown key ids cost the issuer a request in 10 s", func(t *testing.T, _ *world) { testFlood(t) }},
		{8, "a fresh key is accepted within 15 s under that flood", func(t *testing.T, _ *world) { testRotationUnderFlood(t, 0) }},
		{8, "the same with a JWKS that takes 3.9 s to answer", func(t *testing.T, _ *world) { testRotationUnderFlood(t, 3900*time.Millisecond) }},
	}
}

// Row 9: exp, nbf and iat, to the second.
func timeRows() []threat {
	at := start.Unix()
	good := func(name string, change map[string]any) threat {
		return threat{9, name, func(t *testing.T, w *world) {
			wantAccepted(t, w.verifier(t, nil), w.sign(t, nil, w.claims(change)))
		}}
	}
	bad := func(name string, change map[string]any) threat {
		return claims(9, name, config.Unauthenticated, change)
	}
	all := []threat{
		good("exp in 1 s", map[string]any{"exp": at + 1}),
		bad("exp now", map[string]any{"exp": at}),
		bad("exp 1 s ago", map[string]any{"exp": at - 1}),
		bad("exp missing", map[string]any{"exp": nil}),
		bad("exp 0", map[string]any{"exp": 0}),
		bad("exp negative", map[string]any{"exp": -1}),
		good("exp with a fraction", map[string]any{"exp": float64(at) + 1.5}),
		bad("exp with a fraction of this second", map[string]any{"exp": float64(at) + 0.5}),
		good("exp at the end of the year 9999", map[string]any{"exp": 253402300799}),
		bad("exp beyond the year 9999", map[string]any{"exp": 253402300800}),
		bad("exp far beyond", map[string]any{"exp": 1e300}),
		bad("iat negative", map[string]any{"iat": -1}),
		bad("exp string", map[string]any{"exp": fmt.Sprint(at + 60)}),
		bad("exp array", map[string]any{"exp": []int64{at + 60}}),
		bad("exp object", map[string]any{"exp": map[string]any{}}),
		bad("exp true", map[string]any{"exp": true}),
		good("iat 60 s ahead", map[string]any{"iat": at + 60}),
		bad("iat 61 s ahead", map[string]any{"iat": at + 61}),
		bad("iat missing", map[string]any{"iat": nil}),
		bad("iat string", map[string]any{"iat": fmt.Sprint(at)}),
		good("nbf in the past", map[string]any{"nbf": at - 1}),
		good("nbf 60 s ahead", map[string]any{"nbf": at + 60}),
		bad("nbf 61 s ahead", map[string]any{"nbf": at + 61}),
		bad("nbf string", map[string]any{"nbf": "0"}),
	}
	for _, raw := range []string{"1e400", "-1e400", "null", "1e9999999999"} {
		for _, name := range []string{"exp", "iat", "nbf"} {
			all = append(all, forged(9, name+" "+raw, config.Unauthenticated, func(t *testing.T, w *world) string {
				return w.sign(t, nil, spliced(t, fmt.Sprintf("%q:%s,", name, raw), w.claims(map[string]any{name: nil})))
			}))
		}
	}
	return all
}

// Rows 10 to 12: another issuer, another app client, another type of token.
func addresseeRows() []threat {
	var all []threat
	for name, spell := range map[string]func(string) any{
		"another":      func(string) any { return "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_other" },
		"with a slash": func(iss string) any { return iss + "/" },
		"upper case":   func(iss string) any { return strings.ToUpper(iss) },
		"https":        func(iss string) any { return strings.Replace(iss, "http:", "https:", 1) },
		"suffix":       func(iss string) any { return iss + ".evil.example" },
		"prefix":       func(iss string) any { return iss[:len(iss)-1] },
		"user info":    func(iss string) any { return iss + "@evil.example" },
		"blank":        func(iss string) any { return iss + " " },
		"empty":        func(string) any { return "" },
		"missing":      func(string) any { return nil },
		"array":        func(iss string) any { return []string{iss} },
	} {
		all = append(all, forged(10, "iss "+name, config.Unauthenticated, func(t *testing.T, w *world) string {
			return w.sign(t, nil, w.claims(map[string]any{"iss": spell(w.issuer.Issuer())}))
		}))
	}
	for name, client := range map[string]any{
		"another": "billing", "empty": "", "missing": nil, "upper case": "WEB", "array": []string{"web"},
		"array with another": []string{"web", "billing"}, "number": 1, "longer": "web2",
	} {
		all = append(all,
			claims(11, "aud "+name, config.Unauthenticated, map[string]any{"aud": client, "client_id": "web"}),
			accessOnly(11, "client_id "+name, config.Unauthenticated, nil, map[string]any{"client_id": client, "aud": "web"}))
	}
	second := map[string]any{"aud": "mobile"}
	all = append(all, threat{11, "control: the second client", func(t *testing.T, w *world) {
		wantAccepted(t, w.verifier(t, nil), w.sign(t, nil, w.claims(second)))
	}})

	all = append(all,
		forged(12, "access token for ID", config.Unauthenticated, func(t *testing.T, w *world) string {
			return w.sign(t, nil, w.issuer.AccessClaims("victim", "canary", auth.RoleAdmin, time.Hour))
		}),
		threat{12, "ID token for access", func(t *testing.T, w *world) {
			v := w.verifier(t, func(o *auth.Options) { o.TokenUse = auth.UseAccess })
			wantRefused(t, v, w.sign(t, nil, w.claims(map[string]any{"client_id": "web"})), config.Unauthenticated)
		}},
		claims(12, "refresh token", config.Unauthenticated, map[string]any{"token_use": "refresh"}),
		claims(12, "token_use missing", config.Unauthenticated, map[string]any{"token_use": nil}),
		claims(12, "token_use empty", config.Unauthenticated, map[string]any{"token_use": ""}),
		claims(12, "token_use in upper case", config.Unauthenticated, map[string]any{"token_use": "ID"}),
		claims(12, "token_use array", config.Unauthenticated, map[string]any{"token_use": []string{"id"}}),
		header(12, "typ at+jwt on an ID token", map[string]any{"typ": "at+jwt"}),
		header(12, "typ another", map[string]any{"typ": "logout+jwt"}),
		header(12, "typ empty", map[string]any{"typ": ""}),
		header(12, "typ array", map[string]any{"typ": []string{"JWT"}}),
		accessOnly(12, "typ another on an access token", config.Unauthenticated, map[string]any{"typ": "secevent+jwt"}, nil),
		accessOnly(12, "control: typ at+jwt on an access token", config.Unknown, map[string]any{"typ": "at+jwt"}, nil),
		accessOnly(12, "control: typ JWT on an access token", config.Unknown, map[string]any{"typ": "JWT"}, nil),
		threat{12, "control: typ JWT on an ID token", func(t *testing.T, w *world) {
			wantAccepted(t, w.verifier(t, nil), w.sign(t, changed(w.issuer.Header(), map[string]any{"typ": "JWT"}), w.claims(nil)))
		}})
	return all
}

// accessOnly is an attack on a deployment that takes access tokens; with want
// Unknown it is a control that has to be accepted.
func accessOnly(row int, name string, want config.Code, head, change map[string]any) threat {
	return threat{row, name, func(t *testing.T, w *world) {
		v := w.verifier(t, func(o *auth.Options) { o.TokenUse = auth.UseAccess })
		members := w.issuer.AccessClaims("victim", "canary", auth.RoleEditor, time.Hour)
		wantAccepted(t, v, w.sign(t, nil, members))
		token := w.sign(t, changed(w.issuer.Header(), head), changed(members, change))
		if want == config.Unknown {
			wantAccepted(t, v, token)
			return
		}
		wantRefused(t, v, token, want)
	}}
}

// Row 13: a tenant that is none. Nothing takes its place.
func tenantRows() []threat {
	var all []threat
	for name, tenant := range map[string]any{
		"absent": nil, "empty": "", "array": []string{"victim"}, "number": 7, "true": true, "object": map[string]any{"a": "victim"},
		"64 bytes": strings.Repeat("a", 64), "slash": "vic/tim", "hash": "vic#tim", "pipe": "vic|tim", "control": "vic\x01tim",
		"newline": "victim\n", "upper case": "Victim", "not ASCII": "víctim", "dot": "..", "blank": "victim ", "wildcard": "*",
		"shared": config.Shared().String(), "two": "victim,globex-inc",
	} {
		all = append(all, claims(13, "tenant "+name, config.PermissionDenied, map[string]any{"custom:tenantId": tenant}))
	}
	for _, other := range []string{"tenantId", "tenant", "custom:tenant", "custom:tenant_id"} {
		all = append(all, claims(13, "tenant as "+other, config.PermissionDenied, map[string]any{"custom:tenantId": nil, other: "victim"}))
	}
	return append(all, forged(13, "tenant null", config.PermissionDenied, func(t *testing.T, w *world) string {
		return w.sign(t, nil, spliced(t, `"custom:tenantId":null,`, w.claims(map[string]any{"custom:tenantId": nil})))
	}))
}

// Row 14: names that stand twice or in another case.
func spellingRows() []threat {
	all := []threat{
		rawClaims(14, "tenant twice", `"custom:tenantId":"globex-inc",`),
		rawClaims(14, "tenant twice, once escaped", `"custom:tenant\u0049d":"globex-inc",`),
		rawClaims(14, "tenant twice, the same", `"custom:tenantId":"victim",`),
		rawClaims(14, "a claim nobody reads twice", `"x":1,"x":1,`),
		rawClaims(14, "twice inside another claim", `"x":{"y":1,"y":2},`),
		rawClaims(14, "twice inside an array", `"x":[{"y":1,"y":2}],`),
		rawClaims(14, "nested too deep", `"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`,`),
		rawClaims(14, "objects nested too deep", `"x":`+strings.Repeat(`{"a":`, 100)+"1"+strings.Repeat("}", 100)+`,`),
		rawClaims(14, "not UTF-8", "\"x\":\"\xff\","),
		rawClaims(14, "long s for s", `"iſs":"x",`),
	}
	for _, name := range []string{"CUSTOM:TENANTID", "custom:tenantid", "Custom:TenantId", "ISS", "Exp", "Aud", "TOKEN_USE", "Cognito:Groups", "Sub"} {
		all = append(all, rawClaims(14, name, fmt.Sprintf(`%q:"globex-inc",`, name)))
	}
	for name, change := range map[string]func(string) string{
		"text behind the claims":  func(s string) string { return s + "{}" },
		"comma behind the claims": func(s string) string { return s + "," },
		"claims in an array":      func(s string) string { return "[" + s + "]" },
		"claims cut short":        func(s string) string { return s[:len(s)-1] },
		"comma too many":          func(s string) string { return s[:len(s)-1] + ",}" },
		"byte order mark":         func(s string) string { return "\ufeff" + s },
		"null":                    func(string) string { return "null" },
		"nothing":                 func(string) string { return "" },
	} {
		all = append(all, forged(14, name, config.Unauthenticated, func(t *testing.T, w *world) string {
			return w.sign(t, nil, change(spliced(t, "", w.claims(nil))))
		}))
	}
	for name, raw := range map[string]string{
		"alg twice": `{"alg":"none","alg":"RS256","kid":%q}`, "kid twice": `{"alg":"RS256","kid":"x","kid":%q}`,
		"ALG besides": `{"alg":"RS256","ALG":"none","kid":%q}`, "text behind the header": `{"alg":"RS256","kid":%q}{}`,
	} {
		all = append(all, forged(14, name, config.Unauthenticated, func(t *testing.T, w *world) string {
			return w.sign(t, fmt.Sprintf(raw, w.issuer.Header()["kid"]), w.claims(nil))
		}))
	}
	return all
}

// Row 15: an attribute that its user can write.
func roleRows() []threat {
	admin := map[string]any{"custom:role": "admin"}
	with := func(name string, source auth.RoleClaim, want auth.Role, change map[string]any) threat {
		return threat{15, name, func(t *testing.T, w *world) {
			v := w.verifier(t, func(o *auth.Options) { o.RoleClaim = source })
			token := w.sign(t, nil, w.claims(change))
			if want == "" {
				wantRefused(t, v, token, config.PermissionDenied)
				return
			}
			if p := wantAccepted(t, v, token); p.Role != want {
				t.Errorf("got role %q, want %q", p.Role, want)
			}
		}}
	}
	groups := func(names ...any) map[string]any { return map[string]any{"cognito:groups": names} }
	return []threat{
		with("custom:role does not raise", auth.RoleFromGroups, auth.RoleEditor, admin),
		with("custom:role does not stand in", auth.RoleFromGroups, "", map[string]any{"custom:role": "admin", "cognito:groups": nil}),
		with("no known group", auth.RoleFromGroups, "", groups("admins", "tagstore-Admin", "tagstore-", "admin", "tagstore-refresher")),
		with("no group", auth.RoleFromGroups, "", groups()),
		with("groups as one string", auth.RoleFromGroups, "", map[string]any{"cognito:groups": "tagstore-admin"}),
		with("groups with a number", auth.RoleFromGroups, "", groups("tagstore-admin", 7)),
		with("reader", auth.RoleFromGroups, auth.RoleReader, groups("x", "tagstore-reader")),
		with("the highest group wins", auth.RoleFromGroups, auth.RoleAdmin, groups("tagstore-reader", "tagstore-admin", "tagstore-editor")),
		with("by setting", auth.RoleFromAttribute, auth.RoleAdmin, admin),
		with("by setting, groups do not count", auth.RoleFromAttribute, "", groups("tagstore-admin")),
		with("by setting, unknown", auth.RoleFromAttribute, "", map[string]any{"custom:role": "root"}),
		with("by setting, refresher", auth.RoleFromAttribute, "", map[string]any{"custom:role": "refresher"}),
		with("by setting, array", auth.RoleFromAttribute, "", map[string]any{"custom:role": []string{"admin"}}),
	}
}

// Row 16: tokens that are costly to look at.
func sizeRows() []threat {
	return []threat{
		{16, "1 MB of dots costs at most 64 KB", func(t *testing.T, w *world) {
			v := w.verifier(t, nil)
			wantAccepted(t, v, w.sign(t, nil, w.claims(nil)))
			dots := strings.Repeat(".", 1<<20)
			const rounds = 64
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range rounds {
				if _, err := v.Verify(t.Context(), dots); !errors.Is(err, config.Unauthenticated) {
					t.Fatalf("got %v, want Unauthenticated", err)
				}
			}
			runtime.ReadMemStats(&after)
			if each := (after.TotalAlloc - before.TotalAlloc) / rounds; each > 64<<10 {
				t.Errorf("each costs %d bytes", each)
			}
		}},
		forged(16, "8 KiB of dots", config.Unauthenticated, func(*testing.T, *world) string { return strings.Repeat(".", auth.MaxToken) }),
		forged(16, "one byte too long", config.Unauthenticated, func(t *testing.T, w *world) string { return tokenOfLength(t, w, auth.MaxToken+1) }),
		{16, "control: the longest", func(t *testing.T, w *world) {
			wantAccepted(t, w.verifier(t, nil), tokenOfLength(t, w, auth.MaxToken))
		}},
	}
}

// tokenOfLength returns a good token of so many bytes.
func tokenOfLength(t *testing.T, w *world, length int) string {
	t.Helper()
	members := w.claims(nil)
	for pad := length * 3 / 4; pad > 0; pad-- {
		members["pad"] = strings.Repeat("x", pad)
		data, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		head, err := json.Marshal(w.issuer.Header())
		if err != nil {
			t.Fatal(err)
		}
		signature := base64.RawURLEncoding.EncodedLen(256)
		got := base64.RawURLEncoding.EncodedLen(len(head)) + base64.RawURLEncoding.EncodedLen(len(data)) + signature + 2
		if got == length {
			return w.sign(t, nil, members)
		}
		// Three bytes in four characters leave gaps; a longer header moves them.
		if got < length {
			break
		}
	}
	members["pad"] = ""
	for pad := length; pad > 0; pad-- {
		members["pad"] = strings.Repeat("x", pad)
		token := w.sign(t, `{"typ":"JWT","alg":"RS256","kid":"`+w.issuer.Header()["kid"].(string)+`"}`, members)
		if len(token) == length {
			return token
		}
		if len(token) < length {
			break
		}
	}
	t.Fatalf("no token of %d bytes can be made", length)
	return ""
}

// Row 17: what is no signed JWT, and shapes that are not quite one.
func otherFormatRows() []threat {
	jwe := func(head string) string {
		return strings.Join([]string{encode(head), encode("key"), encode("iv-iv-iv-iv-"), encode("ciphertext"), encode("tag-tag-tag-tag-")}, ".")
	}
	fixed := func(name, token string) threat {
		return forged(17, name, config.Unauthenticated, func(*testing.T, *world) string { return token })
	}
	edited := func(name string, edit func(token string) string) threat {
		return forged(17, name, config.Unauthenticated, func(t *testing.T, w *world) string { return edit(w.sign(t, nil, w.claims(nil))) })
	}
	return []threat{
		fixed("JWE", jwe(`{"alg":"RSA-OAEP","enc":"A256GCM"}`)),
		fixed("PBES2 bomb", jwe(`{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","p2s":"c2FsdA","p2c":2147483647}`)),
		header(17, "enc", map[string]any{"enc": "A256GCM"}),
		header(17, "p2c", map[string]any{"alg": "PBES2-HS256+A128KW", "p2c": 1 << 31}),
		header(17, "zip", map[string]any{"zip": "DEF"}),
		forged(17, "nested JWT", config.Unauthenticated, func(t *testing.T, w *world) string {
			return w.sign(t, nil, w.sign(t, nil, w.claims(nil)))
		}),
		forged(17, "nested JWT with cty", config.Unauthenticated, func(t *testing.T, w *world) string {
			return w.sign(t, changed(w.issuer.Header(), map[string]any{"cty": "JWT"}), `"`+w.sign(t, nil, w.claims(nil))+`"`)
		}),
		edited("JSON serialization", func(token string) string {
			parts := strings.Split(token, ".")
			return fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, parts[0], parts[1], parts[2])
		}),
		edited("detached payload", func(token string) string {
			parts := strings.Split(token, ".")
			return parts[0] + ".." + parts[2]
		}),
		fixed("empty", ""),
		fixed("two dots", ".."),
		edited("fourth part", func(token string) string { return token + ".x" }),
		edited("empty fourth part", func(token string) string { return token + "." }),
		edited("dot in front", func(token string) string { return "." + token }),
		edited("padding", func(token string) string { return token + "==" }),
		edited("newline, which base64 decoders skip", func(token string) string { return token + "\n" }),
		edited("newline inside", func(token string) string { return token[:20] + "\r\n" + token[20:] }),
		edited("NUL behind", func(token string) string { return token + "\x00" }),
		edited("standard alphabet", func(token string) string {
			return strings.NewReplacer("-", "+", "_", "/").Replace(token) + "+"
		}),
		edited("stray bits in the last character", func(token string) string {
			// 256 bytes end in a character with four bits to spare.
			alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
			last := strings.IndexByte(alphabet, token[len(token)-1])
			return token[:len(token)-1] + string(alphabet[last|1])
		}),
		claims(17, "no subject", config.Unauthenticated, map[string]any{"sub": nil}),
		claims(17, "empty subject", config.Unauthenticated, map[string]any{"sub": ""}),
		claims(17, "subject with a newline", config.Unauthenticated, map[string]any{"sub": "a\nb"}),
		claims(17, "subject of 256 bytes", config.Unauthenticated, map[string]any{"sub": strings.Repeat("s", 256)}),
	}
}

// Rows 18 to 20 are the server's to enforce; here is what it builds on. Row 18:
// Principal.Expires is when a stream has to end, and the moment from which the
// token is refused even where it was accepted before. Row 19: what Verify
// returns depends on the token alone, it sees no header and no body. Row 20: a
// machine's token never yields a tenant or a person's role, nor the reverse;
// the table of methods then refuses it.
func serverRows() []threat {
	of := func(role auth.Role, claims func(*world) map[string]any) func(string, config.Code, map[string]any) threat {
		return func(name string, want config.Code, change map[string]any) threat {
			return threat{20, name, func(t *testing.T, w *world) {
				v := w.verifier(t, nil)
				token := w.sign(t, nil, changed(claims(w), change))
				if want != config.Unknown {
					wantRefused(t, v, token, want)
					return
				}
				if p := wantAccepted(t, v, token); p.Role != role || !p.Tenant.IsZero() {
					t.Errorf("got %+v, want a %s without a tenant", p, role)
				}
			}}
		}
	}
	machine := of(auth.RoleRefresher, func(w *world) map[string]any { return w.issuer.RefresherClaims(time.Hour) })
	operator := of(auth.RoleOperator, func(w *world) map[string]any { return w.issuer.OperatorClaims(time.Hour) })
	return []threat{
		{18, "a token that was accepted is refused from exp on", func(t *testing.T, w *world) {
			v := w.verifier(t, nil)
			token := w.sign(t, nil, w.claims(nil))
			p := wantAccepted(t, v, token)
			if want := start.Add(time.Hour); !p.Expires.Equal(want) {
				t.Errorf("Expires is %v, want %v", p.Expires, want)
			}
			w.clock.set(p.Expires.Add(-time.Nanosecond))
			wantAccepted(t, v, token)
			w.clock.set(p.Expires)
			wantRefused(t, v, token, config.Unauthenticated)
		}},
		{19, "the tenant is the token's", func(t *testing.T, w *world) {
			v := w.verifier(t, nil)
			ctx := auth.ContextWithPrincipal(t.Context(), auth.Principal{Subject: "someone else", Role: auth.RoleAdmin})
			p, err := v.Verify(ctx, w.sign(t, nil, w.claims(nil)))
			if err != nil {
				t.Fatal(err)
			}
			if p.Tenant.String() != "victim" || p.Subject != "canary-subject" || p.Role != auth.RoleEditor {
				t.Errorf("got %+v", p)
			}
		}},
		machine("control: a machine", config.Unknown, nil),
		machine("a machine with more scopes", config.Unknown, map[string]any{"scope": "a/b tagstore/refresh c/d"}),
		machine("a machine with a tenant and a group is still none's", config.Unknown, map[string]any{
			"custom:tenantId": "victim", "cognito:groups": []string{"tagstore-admin"},
		}),
		machine("a machine without the scope", config.Unauthenticated, map[string]any{"scope": "tagstore/read"}),
		machine("a scope that only starts alike", config.Unauthenticated, map[string]any{"scope": "tagstore/refresh2 xtagstore/refresh"}),
		machine("scope array", config.Unauthenticated, map[string]any{"scope": []string{"tagstore/refresh"}}),
		machine("no scope", config.Unauthenticated, map[string]any{"scope": nil}),
		machine("another client", config.Unauthenticated, map[string]any{"client_id": "billing"}),
		machine("a person with the scope", config.Unauthenticated, map[string]any{"username": "ann"}),
		machine("a person with the scope, by the other name", config.Unauthenticated, map[string]any{"cognito:username": "ann"}),
		machine("an ID token with the scope is a person's, and names no tenant", config.PermissionDenied, map[string]any{"token_use": "id", "aud": "web"}),
		machine("expired", config.Unauthenticated, map[string]any{"exp": start.Unix()}),
		{20, "a person's access token with the scope stays a person's", func(t *testing.T, w *world) {
			v := w.verifier(t, func(o *auth.Options) { o.TokenUse = auth.UseAccess })
			members := w.issuer.AccessClaims("victim", "ann", auth.RoleReader, time.Hour)
			p := wantAccepted(t, v, w.sign(t, nil, changed(members, map[string]any{"scope": auth.RefreshScope})))
			if p.Role != auth.RoleReader || p.Tenant.String() != "victim" {
				t.Errorf("got %+v", p)
			}
		}},
		machine("an operator's scope beside it", config.PermissionDenied, map[string]any{"scope": "tagstore/refresh tagstore/operate"}),
		operator("control: an operator", config.Unknown, nil),
		operator("an operator with a tenant and a group is still none's", config.Unknown, map[string]any{
			"custom:tenantId": "victim", "cognito:groups": []string{"tagstore-admin"},
		}),
		operator("an operator without the scope", config.Unauthenticated, map[string]any{"scope": "tagstore/operate2 xtagstore/operate"}),
		operator("a person with an operator's scope", config.Unauthenticated, map[string]any{"username": "ann"}),
		operator("an ID token with an operator's scope", config.PermissionDenied, map[string]any{"token_use": "id", "aud": "web"}),
		operator("another client, with an operator's scope", config.Unauthenticated, map[string]any{"client_id": "billing"}),
		{20, "a machine without the scope is no person", func(t *testing.T, w *world) {
			v := w.verifier(t, func(o *auth.Options) { o.TokenUse = auth.UseAccess })
			token := w.sign(t, nil, changed(w.issuer.RefresherClaims(time.Hour), map[string]any{"scope": "other/scope"}))
			wantRefused(t, v, token, config.PermissionDenied)
		}},
		{20, "no role of a person includes the machine's, nor the reverse", func(t *testing.T, _ *world) {
			for _, machine := range []auth.Role{auth.RoleRefresher, auth.RoleOperator} {
				for _, other := range []auth.Role{auth.RoleReader, auth.RoleEditor, auth.RoleAdmin, auth.RoleRefresher, auth.RoleOperator, ""} {
					if other != machine && (other.AtLeast(machine) || machine.AtLeast(other)) {
						t.Errorf("%q and the %s stand in an order", other, machine)
					}
				}
			}
		}},
	}
}
