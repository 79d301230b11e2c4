package machinetoken_test

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

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/auth/machinetoken"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "s3cr3t+/ %"

var machine = devissuer.Machine{ClientID: "the-machine", Secret: secret}

var signingKey = sync.OnceValues(devissuer.GenerateKey)

func issuer(t testing.TB) *devissuer.Issuer {
	t.Helper()
	key, err := signingKey()
	if err != nil {
		t.Fatal(err)
	}
	i, err := devissuer.New(devissuer.Options{ClientID: "web", Machine: machine, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func source(t testing.TB, url string, change ...func(*machinetoken.Options)) *machinetoken.Source {
	t.Helper()
	o := machinetoken.Options{TokenURL: url, ClientID: machine.ClientID, ClientSecret: settings.NewSecret(machine.Secret)}
	for _, c := range change {
		c(&o)
	}
	s, err := machinetoken.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// What comes over HTTP is what a service takes for a refresher's token.
func TestTokenOfARefresher(t *testing.T) {
	i := issuer(t)
	server := httptest.NewServer(i)
	t.Cleanup(server.Close)
	i.SetURL(server.URL)
	token, err := source(t, i.TokenURL()).Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v, err := auth.NewVerifier(auth.Options{Issuer: i.Issuer(), ClientIDs: []string{machine.ClientID}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	for deadline := time.Now().Add(10 * time.Second); ; {
		p, err := v.Verify(t.Context(), token)
		if errors.Is(err, config.Unavailable) && time.Now().Before(deadline) {
			continue // the keys are fetched in the background
		}
		if err != nil || p.Role != auth.RoleRefresher {
			t.Fatalf("the token is of %+v, %v", p, err)
		}
		return
	}
}

// endpoint is a transport that answers without a network, so that its tests
// can run on a clock of their own.
type endpoint struct {
	calls  atomic.Int32
	answer func(w http.ResponseWriter, r *http.Request)
}

func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	e.calls.Add(1)
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	e.answer(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func (e *endpoint) use(o *machinetoken.Options) { o.HTTPClient = &http.Client{Transport: e} }

// counting answers token-1, token-2 and so on, each good for an hour.
func counting() *endpoint {
	e := &endpoint{}
	e.answer = func(w http.ResponseWriter, _ *http.Request) { grant(w, fmt.Sprintf("token-%d", e.calls.Load()), 3600) }
	return e
}

func grant(w http.ResponseWriter, token string, seconds int) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, token, seconds)
}

const url = "https://issuer.test/oauth2/token"

// A token is used for 70 to 80 % of its life; then the next is fetched while
// the old one still serves.
func TestTokenIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := counting()
		s := source(t, url, e.use)
		want := func(want string, calls int32) {
			t.Helper()
			got, err := s.Token(t.Context())
			synctest.Wait()
			if err != nil || got != want || e.calls.Load() != calls {
				t.Fatalf("after %d requests: %q, %v, want %q after %d", e.calls.Load(), got, err, want, calls)
			}
		}
		want("token-1", 1)
		time.Sleep(41 * time.Minute) //nolint:forbidigo // on the test's own clock
		want("token-1", 1)
		time.Sleep(8 * time.Minute) //nolint:forbidigo // on the test's own clock
		want("token-1", 2)
		want("token-2", 2)
		time.Sleep(2 * time.Hour) //nolint:forbidigo // on the test's own clock
		want("token-3", 3)
	})
}

// Machines that start together do not ask together.
func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []*endpoint
		var sources []*machinetoken.Source
		for range 20 {
			e := counting()
			all, sources = append(all, e), append(sources, source(t, url, e.use))
		}
		renewed := func() (n int) {
			for i, s := range sources {
				if _, err := s.Token(t.Context()); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if all[i].calls.Load() > 1 {
					n++
				}
			}
			return n
		}
		renewed()
		time.Sleep(45 * time.Minute) //nolint:forbidigo // on the test's own clock
		if n := renewed(); n == 0 || n == 20 {
			t.Errorf("half-way between 70 and 80 %% of the token's life, %d of 20 have asked again", n)
		}
	})
}

// However many wait, one request is under way, and one that gives up takes
// nobody with it.
func TestOneRequestAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := counting()
		grantIt := e.answer
		e.answer = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second) //nolint:forbidigo // on the test's own clock
			grantIt(w, r)
		}
		s := source(t, url, e.use)
		hasty, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := s.Token(hasty); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the hasty one got %v", err)
			}
		})
		for range 50 {
			all.Go(func() {
				if got, err := s.Token(t.Context()); err != nil || got != "token-1" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		all.Wait()
		if n := e.calls.Load(); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

// While the old token lasts, an endpoint that is away is only logged; then it
// is an error. It is asked once a second.
func TestEndpointThatGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := counting()
		var log bytes.Buffer
		s := source(t, url, e.use, func(o *machinetoken.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		if _, err := s.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		grantIt := e.answer
		e.answer = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, secret, http.StatusBadGateway) }
		time.Sleep(50 * time.Minute) //nolint:forbidigo // on the test's own clock
		for range 100 {
			if got, err := s.Token(t.Context()); err != nil || got != "token-1" {
				t.Fatalf("while the old token lasts: %q, %v", got, err)
			}
			synctest.Wait()
		}
		if n := e.calls.Load(); n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
		if !strings.Contains(log.String(), "issuer.test answered with status 502") || strings.Contains(log.String(), secret) {
			t.Errorf("the log is %s", log.String())
		}
		time.Sleep(11 * time.Minute) //nolint:forbidigo // on the test's own clock
		for range 100 {
			if _, err := s.Token(t.Context()); !errors.Is(err, config.Unavailable) {
				t.Fatalf("when it has ended: %v, want code unavailable", err)
			}
		}
		if n := e.calls.Load(); n != 3 {
			t.Errorf("%d requests, want 3", n)
		}
		e.answer = grantIt
		time.Sleep(time.Second) //nolint:forbidigo // on the test's own clock
		if got, err := s.Token(t.Context()); err != nil || got != "token-4" {
			t.Errorf("when it is back: %q, %v", got, err)
		}
	})
}

// Every failure has a code and names the host; none shows the secret, the
// client id or what was answered.
func TestFailures(t *testing.T) {
	const canary = "from-the-endpoint"
	status := func(code int, body string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, test := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		want   config.Code
	}{
		"bad credentials":      {status(401, `{"error":"invalid_client","error_description":"`+canary+`"}`), config.Unauthenticated},
		"as Cognito says it":   {status(400, `{"error":"invalid_client"}`), config.Unauthenticated},
		"no such scope":        {status(400, `{"error":"invalid_scope"}`), config.PermissionDenied},
		"no such grant":        {status(400, `{"error":"unauthorized_client"}`), config.PermissionDenied},
		"another path":         {status(404, canary), config.FailedPrecondition},
		"throttled":            {status(429, canary), config.Unavailable},
		"broken":               {status(500, canary), config.Unavailable},
		"an error with 200":    {status(200, `{"error":"`+canary+`"}`), config.FailedPrecondition},
		"a page":               {status(200, "<html>"+canary), config.Unavailable},
		"no token":             {status(200, `{"expires_in":3600}`), config.Unavailable},
		"a huge answer":        {status(200, `{"`+strings.Repeat("x", 1<<20)+`":1,"access_token":"t","token_type":"Bearer"}`), config.Unavailable},
		"a huge token":         {status(200, `{"access_token":"`+strings.Repeat("x", 20<<10)+`","token_type":"Bearer"}`), config.Unavailable},
		"a token of two lines": {status(200, `{"access_token":"`+canary+`\r\nx","token_type":"Bearer"}`), config.Unavailable},
		"another type":         {status(200, `{"access_token":"`+canary+`","token_type":"mac"}`), config.Unavailable},
		"a token of the past":  {status(200, `{"access_token":"`+canary+`","token_type":"Bearer","expires_in":-5}`), config.Unavailable},
		"a redirect": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://"+canary+".test/")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, config.FailedPrecondition},
		"silence": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, config.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &endpoint{answer: test.answer}
				got, err := source(t, url, e.use).Token(t.Context())
				if !errors.Is(err, test.want) || got != "" {
					t.Fatalf("got %q, %v, want code %v", got, err, test.want)
				}
				if n := e.calls.Load(); n != 1 {
					t.Errorf("%d requests, want 1", n)
				}
				for at := err; at != nil; at = errors.Unwrap(at) {
					for _, hidden := range []string{canary, secret, machine.ClientID} {
						if strings.Contains(at.Error(), hidden) {
							t.Errorf("the error shows %q: %v", hidden, at)
						}
					}
				}
				if !strings.Contains(err.Error(), "issuer.test") {
					t.Errorf("the error does not name the host: %v", err)
				}
			})
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		if _, err := source(t, "http://127.0.0.1:1/oauth2/token").Token(t.Context()); !errors.Is(err, config.Unavailable) {
			t.Errorf("got %v, want code unavailable", err)
		}
	})
}

// Close ends a request that hangs, and who waits for it.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}
		s := source(t, url, e.use)
		got := make(chan error, 1)
		go func() {
			_, err := s.Token(t.Context())
			got <- err
		}()
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-got; !errors.Is(err, config.FailedPrecondition) {
			t.Errorf("who waited got %v, want code failed_precondition", err)
		}
	})
}

func TestNewChecksItsOptions(t *testing.T) {
	good := machinetoken.Options{TokenURL: url, ClientID: "c", ClientSecret: settings.NewSecret(secret)}
	for name, change := range map[string]func(*machinetoken.Options){
		"no URL":             func(o *machinetoken.Options) { o.TokenURL = "" },
		"plaintext":          func(o *machinetoken.Options) { o.TokenURL = "http://issuer.test/oauth2/token" },
		"credentials in URL": func(o *machinetoken.Options) { o.TokenURL = "https://c:" + "s@issuer.test/oauth2/token" },
		"no client":          func(o *machinetoken.Options) { o.ClientID = "" },
		"no secret":          func(o *machinetoken.Options) { o.ClientSecret = settings.Secret{} },
		"bad timeout":        func(o *machinetoken.Options) { o.Timeout = -1 },
	} {
		o := good
		change(&o)
		if _, err := machinetoken.New(o); !errors.Is(err, config.InvalidArgument) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: New returned %v, want code invalid_argument", name, err)
		}
	}
}
