package auth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/config"
)

// The tests in this file run in the fake time of synctest, so hours pass in
// milliseconds and a bound of 15 seconds is exact. A real network does not
// work there, hence transport: the HTTP client's last step is a function call.

// transport answers requests with what serve makes of them, takes delay for
// it, and notes when it was called.
type transport struct {
	mu     sync.Mutex
	serve  http.HandlerFunc
	delay  time.Duration
	called []time.Time
}

var errNoRoute = errors.New("no route to host")

// down is a server that is not there.
var down http.HandlerFunc

func (tr *transport) set(serve http.HandlerFunc, delay time.Duration) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.serve, tr.delay = serve, delay
}

func (tr *transport) calls() []time.Time {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]time.Time(nil), tr.called...)
}

func (tr *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	tr.mu.Lock()
	tr.called = append(tr.called, time.Now())
	serve, delay := tr.serve, tr.delay
	tr.mu.Unlock()
	if !after(r.Context(), delay) {
		return nil, r.Context().Err()
	}
	if serve == nil {
		return nil, errNoRoute
	}
	w := httptest.NewRecorder()
	serve(w, r)
	return w.Result(), nil
}

// after waits for d and reports whether ctx let it.
func after(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// bubble runs a test in fake time with an issuer behind a transport.
func bubble(t *testing.T, run func(t *testing.T, w *fakeWorld)) {
	t.Helper()
	sharedKeys() // real work, before the fake time
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, devissuer.Options{})
		i.SetURL("https://issuer.test")
		run(t, &fakeWorld{issuer: i, transport: &transport{serve: i.ServeHTTP}})
	})
}

type fakeWorld struct {
	issuer    *devissuer.Issuer
	transport *transport
}

func (w *fakeWorld) start(t *testing.T) *auth.Verifier {
	t.Helper()
	v, err := auth.NewVerifier(auth.Options{
		Issuer: w.issuer.Issuer(), ClientIDs: []string{"web"},
		HTTPClient: &http.Client{Transport: w.transport}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// token returns a good one that is good for days.
func (w *fakeWorld) token(t *testing.T) string {
	t.Helper()
	token, err := w.issuer.ID("acme-corp", "ann", auth.RoleReader, 100*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// unknown returns a token as an attacker makes it, with the key id given.
func unknown(id string) string {
	return encode(`{"alg":"RS256","kid":"`+id+`"}`) + "." + encode(`{"iss":"x"}`) + "." + encode("signature")
}

// flood sends tokens with unknown key ids, 1000 a second, until stop is called.
func flood(t *testing.T, v *auth.Verifier) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for sender := range 10 {
		all.Go(func() {
			for n := 0; after(ctx, 10*time.Millisecond); n++ {
				_, err := v.Verify(ctx, unknown(string(rune('a'+sender))+strings.Repeat("x", n%100)))
				if ctx.Err() == nil && !errors.Is(err, config.Unauthenticated) {
					t.Errorf("got %v, want Unauthenticated", err)
					return
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// wantSpaced checks that no two calls are closer together than 10 seconds.
func wantSpaced(t *testing.T, calls []time.Time) {
	t.Helper()
	for i := 1; i < len(calls); i++ {
		if gap := calls[i].Sub(calls[i-1]); gap < 10*time.Second {
			t.Errorf("requests %d and %d are %v apart", i-1, i, gap)
		}
	}
}

// testFlood is row 7.
func testFlood(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		v := w.start(t)
		good := w.token(t)
		wantAccepted(t, v, good)
		stop := flood(t, v)
		for range 20 {
			<-time.After(time.Second)
			before := time.Now()
			wantAccepted(t, v, good)
			if waited := time.Since(before); waited != 0 {
				t.Errorf("a good token waited %v", waited)
			}
		}
		stop()
		calls := w.transport.calls()
		wantSpaced(t, calls)
		if len(calls) > 3 {
			t.Errorf("20 s of flood made %d requests", len(calls))
		}
	})
}

// testRotationUnderFlood is row 8, with a JWKS that takes delay to answer.
func testRotationUnderFlood(t *testing.T, delay time.Duration) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		w.transport.set(w.issuer.ServeHTTP, delay)
		v := w.start(t)
		wantAccepted(t, v, w.token(t))
		stop := flood(t, v)
		// The flood has just brought a refresh about when the key changes, so
		// the next one is as far away as it gets.
		before := len(w.transport.calls())
		for len(w.transport.calls()) == before {
			<-time.After(time.Millisecond)
		}
		<-time.After(delay + time.Millisecond)
		w.issuer.RotateTo(sharedKeys()[1])
		rotated := time.Now()
		fresh := w.token(t)
		for {
			if _, err := v.Verify(t.Context(), fresh); err == nil {
				break
			} else if !errors.Is(err, config.Unauthenticated) {
				t.Fatal(err)
			}
			if time.Since(rotated) > 15*time.Second {
				t.Fatal("the fresh key is not accepted after 15 s")
			}
			<-time.After(100 * time.Millisecond)
		}
		stop()
		wantSpaced(t, w.transport.calls())
	})
}

// Fault 29: the JWKS is away when the service starts.
func TestJWKSDownAtBoot(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		w.transport.set(down, 0)
		v := w.start(t)
		good := w.token(t)
		for range 100 {
			if _, err := v.Verify(t.Context(), good); !errors.Is(err, config.Unavailable) {
				t.Fatalf("got %v, want Unavailable", err)
			}
			if err := v.Ready(); !errors.Is(err, config.Unavailable) {
				t.Fatalf("ready without keys: %v", err)
			}
			<-time.After(time.Second)
		}
		// 250 ms, doubling to 10 s: 6 tries in 7.75 s and then one in 10 s.
		if n := len(w.transport.calls()); n > 17 {
			t.Errorf("%d requests in 100 s", n)
		}
		w.transport.set(w.issuer.ServeHTTP, 0)
		<-time.After(10 * time.Second)
		wantAccepted(t, v, good)
		if err := v.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

// The first requests wait for the first keys.
func TestVerifyWaitsForTheFirstKeys(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		w.transport.set(w.issuer.ServeHTTP, 2*time.Second)
		v := w.start(t)
		good := w.token(t)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if _, err := v.Verify(t.Context(), good); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := len(w.transport.calls()); n != 1 {
			t.Errorf("100 callers made %d requests", n)
		}
	})
}

// A fresh key is fetched at once when the last refresh is a while ago.
func TestFreshKeyIsFetchedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		v := w.start(t)
		wantAccepted(t, v, w.token(t))
		<-time.After(11 * time.Second)
		w.issuer.RotateTo(sharedKeys()[1])
		wantAccepted(t, v, w.token(t))
	})
}

// A key that is published while a refresh is in flight, too late for it, is
// fetched by the next one, without anybody asking again.
func TestKeyPublishedDuringARefresh(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		before := jwksOf(publicJWK(&sharedKeys()[0].PublicKey))
		w.transport.set(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(before) }, time.Second)
		v := w.start(t)
		synctest.Wait()
		w.issuer.RotateTo(sharedKeys()[1])
		fresh := w.token(t)
		if _, err := v.Verify(t.Context(), fresh); !errors.Is(err, config.Unauthenticated) {
			t.Fatalf("got %v, want Unauthenticated", err)
		}
		w.transport.set(w.issuer.ServeHTTP, 0)
		<-time.After(time.Minute)
		if n := len(w.transport.calls()); n != 2 {
			t.Errorf("%d requests were made, want 2", n)
		}
		wantAccepted(t, v, fresh)
	})
}

// A token that can not name a published key does not bring a refresh about.
func TestImpossibleKeyIDsAskForNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		v := w.start(t)
		wantAccepted(t, v, w.token(t))
		<-time.After(11 * time.Second)
		for _, head := range []string{
			`{"alg":"RS256"}`, `{"alg":"RS256","kid":""}`, `{"alg":"RS256","kid":7}`, `{"alg":"none","kid":"x"}`,
			`{"alg":"RS256","kid":"` + strings.Repeat("k", 129) + `"}`, `{"alg":"RS256","kid":"x","jku":"https://issuer.test/"}`,
		} {
			wantRefused(t, v, encode(head)+"."+encode("{}")+"."+encode("signature"), config.Unauthenticated)
		}
		if n := len(w.transport.calls()); n != 1 {
			t.Errorf("%d requests were made, want the first alone", n)
		}
		wantRefused(t, v, unknown(strings.Repeat("k", 128)), config.Unauthenticated)
		if n := len(w.transport.calls()); n != 2 {
			t.Errorf("%d requests were made for a possible id, want one more", n)
		}
	})
}

// Fault 30: a day without a JWKS.
func TestJWKSDownForADay(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		v := w.start(t)
		wantAccepted(t, v, w.token(t))
		w.transport.set(down, 0)
		for range 24 * 12 {
			<-time.After(5 * time.Minute)
			wantAccepted(t, v, w.token(t))
		}
		if err := v.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	})
}

// Fault 31: answers that are no JWKS leave the last good keys alone.
func TestBadJWKSKeepsTheLastGood(t *testing.T) {
	write := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
	}
	stranger := publicJWK(&sharedKeys()[1].PublicKey)
	big := bytes.Repeat([]byte(" "), 4<<20)
	var followed atomic.Int64
	tests := map[string]http.HandlerFunc{
		"HTML":           write("<html>hello</html>"),
		"nothing":        write(""),
		"null":           write("null"),
		"array":          write("[]"),
		"no keys":        write("{}"),
		"empty keys":     write(`{"keys":[]}`),
		"keys null":      write(`{"keys":null}`),
		"keys string":    write(`{"keys":"x"}`),
		"keys twice":     write(`{"keys":[],` + string(jwksOf(stranger)[1:])),
		"only nulls":     write(`{"keys":[null,1,"x",[]]}`),
		"same id twice":  write(string(jwksOf(stranger, stranger))),
		"cut short":      write(string(jwksOf(stranger)[:100])),
		"more behind it": write(string(jwksOf(stranger)) + "{}"),
		"over 1 MiB":     write(string(jwksOf(stranger)) + strings.Repeat(" ", 1<<20)),
		"4 MiB":          func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(big) },
		"status 202": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			_, _ = w.Write(jwksOf(stranger))
		},
		"status 500": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write(jwksOf(stranger))
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				followed.Add(1)
				_, _ = w.Write(jwksOf(stranger))
				return
			}
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		},
	}
	for name, serve := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *fakeWorld) {
				v := w.start(t)
				wantAccepted(t, v, w.token(t))
				w.transport.set(serve, 0)
				<-time.After(20 * time.Minute)
				if n := len(w.transport.calls()); n < 2 {
					t.Fatal("nothing was fetched")
				}
				wantAccepted(t, v, w.token(t))
				if _, err := v.Verify(t.Context(), unknown("x")); !errors.Is(err, config.Unauthenticated) {
					t.Errorf("got %v, want Unauthenticated", err)
				}
			})
		})
	}
	if n := followed.Load(); n != 0 {
		t.Errorf("the redirect was followed %d times", n)
	}
}

// Fault 31, the server that answers a byte at a time: the fetch is given up
// after seconds, and nobody with a known key notices.
func TestDrippingJWKS(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		v := w.start(t)
		good := w.token(t)
		wantAccepted(t, v, good)
		w.transport.set(w.issuer.ServeHTTP, time.Hour)
		<-time.After(time.Minute)
		before := time.Now()
		if _, err := v.Verify(t.Context(), unknown("x")); !errors.Is(err, config.Unauthenticated) {
			t.Errorf("got %v, want Unauthenticated", err)
		}
		if waited := time.Since(before); waited > 5*time.Second {
			t.Errorf("an unknown key waited %v", waited)
		}
		wantAccepted(t, v, good)
	})
}

// Fault 32: keys rotated with overlap, without, and revoked.
func TestRotationAndRevocation(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		v := w.start(t)
		old := w.token(t)
		wantAccepted(t, v, old)
		<-time.After(time.Minute)

		w.issuer.RotateTo(sharedKeys()[1])
		wantAccepted(t, v, w.token(t))
		<-time.After(time.Hour)
		wantAccepted(t, v, old)

		second := w.token(t)
		wantAccepted(t, v, second)
		w.issuer.RotateTo(sharedKeys()[2])
		w.issuer.Revoke()
		revoked := time.Now()
		for {
			if _, err := v.Verify(t.Context(), second); err != nil {
				break
			}
			if time.Since(revoked) > 15*time.Minute {
				t.Fatal("a revoked key is accepted after 15 min")
			}
			<-time.After(time.Second)
		}
		wantRefused(t, v, old, config.Unauthenticated)
		wantAccepted(t, v, w.token(t))
	})
}

// A remembered token is refused from the very moment at which one that was never
// seen is: when its key is no longer among the issuer's.
func TestRememberedTokenEndsWithItsKey(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		v := w.start(t)
		const step = 5 * time.Second
		var unseen []string
		for i := range int(15*time.Minute/step) + 1 {
			token, err := w.issuer.ID("acme-corp", fmt.Sprint("user-", i), auth.RoleReader, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			unseen = append(unseen, token)
		}
		remembered := w.token(t)
		wantAccepted(t, v, remembered)
		w.issuer.RotateTo(sharedKeys()[1])
		w.issuer.Revoke()
		for _, other := range unseen {
			_, err := v.Verify(t.Context(), remembered)
			_, otherErr := v.Verify(t.Context(), other)
			if config.CodeOf(err) != config.CodeOf(otherErr) {
				t.Fatalf("remembered: %v; never seen: %v", err, otherErr)
			}
			if err != nil {
				wantRefused(t, v, remembered, config.Unauthenticated)
				return
			}
			<-time.After(step)
		}
		t.Error("a revoked key is accepted after 15 min")
	})
}

// A key id that comes back with another key does not bring old tokens back.
func TestKeyReplacedUnderItsID(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		v := w.start(t)
		old := w.token(t)
		wantAccepted(t, v, old)
		replaced := changed(publicJWK(&sharedKeys()[1].PublicKey), map[string]any{"kid": w.issuer.Header()["kid"]})
		w.transport.set(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(jwksOf(replaced)) }, 0)
		<-time.After(15 * time.Minute)
		wantRefused(t, v, old, config.Unauthenticated)
	})
}

func TestCallersThatWait(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		w.transport.set(w.issuer.ServeHTTP, 3*time.Second)
		v := w.start(t)
		good := w.token(t)

		canceled, cancel := context.WithCancel(t.Context())
		late, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := v.Verify(canceled, good); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want context.Canceled", err)
			}
		})
		all.Go(func() {
			if _, err := v.Verify(late, good); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want context.DeadlineExceeded", err)
			}
		})
		synctest.Wait()
		cancel()
		all.Wait()

		// So many may wait; who comes later gets an answer at once.
		const most, more = 1024, 50
		var accepted, unavailable atomic.Int64
		for range most + more {
			all.Go(func() {
				_, err := v.Verify(t.Context(), good)
				switch {
				case err == nil:
					accepted.Add(1)
				case errors.Is(err, config.Unavailable):
					unavailable.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if got := unavailable.Load(); got != more {
			t.Errorf("%d callers got an answer at once, want %d", got, more)
		}
		all.Wait()
		if got := accepted.Load(); got != most {
			t.Errorf("%d callers were accepted after the wait, want %d", got, most)
		}
	})
}

func TestClose(t *testing.T) {
	bubble(t, func(t *testing.T, w *fakeWorld) {
		w.transport.set(w.issuer.ServeHTTP, 3*time.Second)
		v := w.start(t)
		good := w.token(t)
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if _, err := v.Verify(t.Context(), good); !errors.Is(err, config.Unavailable) {
				t.Errorf("got %v, want Unavailable", err)
			}
		})
		synctest.Wait()
		v.Close()
		waiting.Wait()
		v.Close()
		if err := v.Ready(); !errors.Is(err, config.Unavailable) {
			t.Errorf("ready after Close: %v", err)
		}
	})
	bubble(t, func(t *testing.T, w *fakeWorld) {
		v := w.start(t)
		good := w.token(t)
		wantAccepted(t, v, good)
		v.Close()
		wantRefused(t, v, good, config.Unavailable)
	})
}
