package auth_test

import (
	"crypto/rsa"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sharedKeys are made once: it is slow under the race detector.
var sharedKeys = sync.OnceValue(func() (keys [3]*rsa.PrivateKey) {
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			key, err := devissuer.GenerateKey()
			if err != nil {
				panic(err)
			}
			keys[i] = key
		})
	}
	all.Wait()
	return keys
})

// world is one issuer, its JWKS served for real, and a clock to turn.
type world struct {
	issuer  *devissuer.Issuer
	clock   *clock
	fetches *atomic.Int64 // requests for the JWKS
}

type clock struct{ unix atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(0, c.unix.Load()) }

func (c *clock) set(t time.Time) { c.unix.Store(t.UnixNano()) }

var start = time.Unix(1_800_000_000, 0)

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{clock: new(clock), fetches: new(atomic.Int64)}
	w.clock.set(start)
	w.issuer = newIssuer(tb, devissuer.Options{Now: w.clock.now})
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.fetches.Add(1)
		w.issuer.ServeHTTP(rw, r)
	}))
	tb.Cleanup(server.Close)
	w.issuer.SetURL(server.URL)
	return w
}

func newIssuer(tb testing.TB, o devissuer.Options) *devissuer.Issuer {
	tb.Helper()
	if o.ClientID == "" {
		o.ClientID = "web"
	}
	if o.Key == nil {
		o.Key = sharedKeys()[0]
	}
	i, err := devissuer.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return i
}

// verifier returns a Verifier of the world's tokens, changed by change.
func (w *world) verifier(tb testing.TB, change func(*auth.Options)) *auth.Verifier {
	tb.Helper()
	o := auth.Options{
		Issuer: w.issuer.Issuer(), ClientIDs: []string{"mobile", w.issuer.ClientID()}, JWKSURL: w.issuer.JWKSURL(),
		Now: w.clock.now, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	v, err := auth.NewVerifier(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(v.Close)
	return v
}

// sign returns a token of these claims and header; nil is the good header.
func (w *world) sign(tb testing.TB, header, claims any) string {
	tb.Helper()
	if header == nil {
		header = w.issuer.Header()
	}
	token, err := w.issuer.Sign(header, claims)
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

// claims returns good ID claims with each of change applied: a nil value takes
// the claim out.
func (w *world) claims(change map[string]any) map[string]any {
	return changed(w.issuer.IDClaims("victim", "canary-subject", auth.RoleEditor, time.Hour), change)
}

func changed(members, change map[string]any) map[string]any {
	for name, value := range change {
		if value == nil {
			delete(members, name)
		} else {
			members[name] = value
		}
	}
	return members
}
