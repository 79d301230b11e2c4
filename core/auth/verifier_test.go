package auth_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
)

func TestNewVerifierRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*auth.Options)
		want   string
	}{
		{"no issuer", func(o *auth.Options) { o.Issuer = "" }, "no issuer"},
		{"no clients", func(o *auth.Options) { o.ClientIDs = nil }, "no client ids"},
		{"an empty client", func(o *auth.Options) { o.ClientIDs = []string{"web", ""} }, "one is empty"},
		{"issuer that is no URL", func(o *auth.Options) { o.Issuer = "me" }, "JWKS URL"},
		{"plain http", func(o *auth.Options) { o.JWKSURL = "http://issuer.example/jwks.json" }, "JWKS URL"},
		{"plain http by default", func(o *auth.Options) { o.Issuer = "http://issuer.example" }, "JWKS URL"},
		{"loopback in the name only", func(o *auth.Options) { o.JWKSURL = "http://127.0.0.1.evil.example/" }, "JWKS URL"},
		{"loopback as user", func(o *auth.Options) { o.JWKSURL = "http://localhost@evil.example/" }, "JWKS URL"},
		{"file", func(o *auth.Options) { o.JWKSURL = "file:///etc/passwd" }, "JWKS URL"},
		{"no host", func(o *auth.Options) { o.JWKSURL = "https:///jwks.json" }, "JWKS URL"},
		{"token use", func(o *auth.Options) { o.TokenUse = "refresh" }, "token use"},
		{"role claim", func(o *auth.Options) { o.RoleClaim = "scope" }, "role claim"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := auth.Options{Issuer: "https://issuer.example/pool", ClientIDs: []string{"web"}}
			test.change(&o)
			v, err := auth.NewVerifier(o)
			if err == nil {
				v.Close()
			}
			if !errors.Is(err, config.InvalidArgument) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want InvalidArgument about %q", err, test.want)
			}
		})
	}
}

func TestLoopbackJWKSByDefault(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, func(o *auth.Options) { o.JWKSURL, o.HTTPClient = "", nil })
	wantAccepted(t, v, w.sign(t, nil, w.claims(nil)))
}

func TestConcurrentVerify(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, nil)
	tenants := []string{"acme-corp", "globex-inc", "initech"}
	tokens := make([]string, len(tenants))
	for i, tenant := range tenants {
		tokens[i] = w.sign(t, nil, w.claims(map[string]any{"custom:tenantId": tenant}))
	}
	var all sync.WaitGroup
	for caller := range 8 {
		all.Go(func() {
			for n := range 200 {
				i := (caller + n) % len(tenants)
				p, err := v.Verify(t.Context(), tokens[i])
				if err != nil || p.Tenant.String() != tenants[i] {
					t.Errorf("got %v, %v, want tenant %q", p, err, tenants[i])
					return
				}
			}
		})
	}
	all.Wait()
}

func TestAcceptedBeforeIsCheap(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, nil)
	token := w.sign(t, nil, w.claims(nil))
	wantAccepted(t, v, token)
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 1 { // the bytes to hash
		t.Errorf("%v allocations for a token that was accepted before", allocs)
	}
}

func TestRoles(t *testing.T) {
	ranks := []auth.Role{auth.RoleReader, auth.RoleEditor, auth.RoleAdmin}
	for i, role := range ranks {
		for j, other := range ranks {
			if got := role.AtLeast(other); got != (i >= j) {
				t.Errorf("%s.AtLeast(%s) is %v", role, other, got)
			}
		}
		for _, none := range []auth.Role{"", "root", "Admin"} {
			if role.AtLeast(none) || none.AtLeast(role) || none.AtLeast(none) {
				t.Errorf("%q stands in an order", none)
			}
		}
	}
	if !auth.RoleRefresher.AtLeast(auth.RoleRefresher) || !auth.RoleOperator.AtLeast(auth.RoleOperator) {
		t.Error("a machine's role does not include itself")
	}
	for role, want := range map[auth.Role]string{
		auth.RoleReader: "tagstore-reader", auth.RoleAdmin: "tagstore-admin", auth.RoleRefresher: "", auth.RoleOperator: "", "": "",
	} {
		if got := role.Group(); got != want {
			t.Errorf("%q.Group() is %q, want %q", role, got, want)
		}
	}
}

func TestContext(t *testing.T) {
	if p, ok := auth.FromContext(t.Context()); ok {
		t.Errorf("an empty context carries %v", p)
	}
	want := auth.Principal{Subject: "ann", Role: auth.RoleReader, Expires: time.Unix(1, 0)}
	if got, ok := auth.FromContext(auth.ContextWithPrincipal(t.Context(), want)); !ok || got != want {
		t.Errorf("got %v, %v", got, ok)
	}
}

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	v := w.verifier(b, nil)
	known := w.sign(b, nil, w.claims(nil))
	if _, err := v.Verify(b.Context(), known); err != nil {
		b.Fatal(err)
	}
	dots := strings.Repeat(".", 1<<20)
	for _, bench := range []struct {
		name, token string
		ok          bool
	}{{"accepted before", known, true}, {"bad signature", known[:len(known)-4] + "AAAA", false}, {"1 MB of dots", dots, false}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(b.Context(), bench.token); (err == nil) != bench.ok {
					b.Fatal(err)
				}
			}
		})
	}
}
