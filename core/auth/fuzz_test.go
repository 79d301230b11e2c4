package auth_test

import (
	"crypto/rsa"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/golang-jwt/jwt/v5"

	"github.com/tagstore/tagstore/core/auth"
)

// FuzzVerify throws text at a verifier: it must not panic, and must accept
// nothing but the tokens that the issuer made.
func FuzzVerify(f *testing.F) {
	w := newWorld(f)
	v := w.verifier(f, nil)
	id := w.sign(f, nil, w.claims(nil))
	refresher := w.sign(f, nil, w.issuer.RefresherClaims(time.Hour))
	operator := w.sign(f, nil, w.issuer.OperatorClaims(time.Hour))
	genuine := map[string]bool{id: true, refresher: true, operator: true}
	for token := range genuine {
		if _, err := v.Verify(f.Context(), token); err != nil {
			f.Fatal(err)
		}
		f.Add(token)
		parts := strings.Split(token, ".")
		f.Add(parts[0] + "." + parts[1] + ".")
		f.Add(encode(`{"alg":"none"}`) + "." + parts[1] + ".")
		f.Add(parts[1] + "." + parts[0] + "." + parts[2])
		f.Add(token + "\n")
	}
	for _, seed := range []string{"", ".", "..", "...", "a.b.c", unknown("x"), strings.Repeat(".", 9<<10), strings.Repeat("A", 9<<10)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if p, err := v.Verify(t.Context(), token); err == nil && !genuine[token] {
			t.Fatalf("%q was accepted as %+v", token, p)
		}
	})
}

// FuzzClaims signs arbitrary header and claims genuinely. What the verifier
// accepts, two other libraries must accept too, and read the same out of it.
func FuzzClaims(f *testing.F) {
	w := newWorld(f)
	v := w.verifier(f, nil)
	good, err := json.Marshal(w.claims(nil))
	if err != nil {
		f.Fatal(err)
	}
	machine, err := json.Marshal(w.issuer.RefresherClaims(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	head, err := json.Marshal(w.issuer.Header())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(head), string(good))
	f.Add(string(head), string(machine))
	f.Add(string(head), `{"CUSTOM:TENANTID":"globex-inc",`+string(good[1:]))
	f.Add(string(head), `{"custom:tenantId":"globex-inc",`+string(good[1:]))
	f.Add(string(head), `{"nbf":1e400,`+string(good[1:]))
	f.Add(string(head), " \t"+string(good)+"\n")
	f.Add(`{"typ":"JWT",`+string(head[1:]), string(good))
	f.Add(`{"crit":[],`+string(head[1:]), string(good))
	f.Fuzz(func(t *testing.T, head, body string) {
		token, err := w.issuer.Sign(head, body)
		if err != nil {
			t.Fatal(err)
		}
		p, err := v.Verify(t.Context(), token)
		if err != nil {
			return
		}
		key := &sharedKeys()[0].PublicKey
		wantSame(t, p, readJose(t, token, key))
		wantSame(t, p, readGolangJWT(t, w, token, key))
	})
}

// wantSame compares a principal with the claims that another library read.
func wantSame(t *testing.T, p auth.Principal, read map[string]any) {
	t.Helper()
	if !p.Role.IsMachine() && read["custom:tenantId"] != p.Tenant.String() {
		t.Errorf("tenant is %q here and %q there", p.Tenant, read["custom:tenantId"])
	}
	if read["sub"] != p.Subject {
		t.Errorf("subject is %q here and %q there", p.Subject, read["sub"])
	}
	exp, ok := read["exp"].(float64)
	if !ok || int64(exp) != p.Expires.Unix() {
		t.Errorf("exp is %v here and %v there", p.Expires.Unix(), read["exp"])
	}
}

func readJose(t *testing.T, token string, key *rsa.PublicKey) map[string]any {
	t.Helper()
	parsed, err := josejwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatalf("go-jose refuses what was accepted: %v", err)
	}
	read := map[string]any{}
	if err := parsed.Claims(key, &read); err != nil {
		t.Fatalf("go-jose refuses what was accepted: %v", err)
	}
	return read
}

func readGolangJWT(t *testing.T, w *world, token string, key *rsa.PublicKey) map[string]any {
	t.Helper()
	read := jwt.MapClaims{}
	_, err := jwt.NewParser(
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithStrictDecoding(), jwt.WithIssuer(w.issuer.Issuer()),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(time.Minute), jwt.WithTimeFunc(w.clock.now),
	).ParseWithClaims(token, read, func(*jwt.Token) (any, error) { return key, nil })
	if err != nil {
		t.Fatalf("golang-jwt refuses what was accepted: %v", err)
	}
	return read
}
