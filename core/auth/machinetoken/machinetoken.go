// Package machinetoken fetches the tokens of a machine: the client credentials
// grant of RFC 6749, 4.4, as Amazon Cognito's /oauth2/token answers it.
//
// The grant itself is golang.org/x/oauth2's. What this package adds is when to
// ask: one request at a time whoever waits for it, a new token when 80 % of the
// old one's life is over (a little earlier, at random, so that machines that
// started together do not ask together), the old one while it lasts if the
// endpoint is away, and at most one request a second to an endpoint that fails.
//
// Errors name the host of the endpoint, and neither the secret, a token nor
// anything that the endpoint sent.
package machinetoken

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/settings"
)

const (
	op = "machinetoken.Token"
	// defaultTimeout bounds one request, unless Options say otherwise.
	defaultTimeout = 5 * time.Second
	// maxBody is far above what an endpoint answers.
	maxBody = 64 << 10
	// defaultLife is that of a token whose endpoint does not say how long it
	// lasts, which RFC 6749, 5.1 allows.
	defaultLife = time.Minute
	// retryAfter is the time between two requests of which the first failed.
	retryAfter = time.Second
	// margin is how long before its end a token is no longer handed out: it has
	// to reach the service, whose clock may differ.
	margin = 5 * time.Second
)

// Options describe a Source.
type Options struct {
	// TokenURL is the endpoint: https, or http on loopback. Required.
	TokenURL string
	// ClientID and ClientSecret are the machine's. Required.
	ClientID     string
	ClientSecret settings.Secret
	// Scopes are asked for. Default: auth.RefreshScope.
	Scopes []string
	// Timeout bounds one request. Default: 5 s.
	Timeout time.Duration
	// HTTPClient sends the requests; it is copied, and the copy follows no
	// redirect. Default: one with a transport of its own.
	HTTPClient *http.Client
	// Logger gets failures that a token that still lasts hides. Nil is silent.
	Logger *slog.Logger
}

// Source has the machine's token. It may be used concurrently.
type Source struct {
	host    string
	grant   clientcredentials.Config
	client  *http.Client
	timeout time.Duration
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup // Add under mu, and only while not closed

	mu     sync.Mutex
	closed bool
	token  string
	renew  time.Time // from then on a new token is fetched
	end    time.Time // from then on token is not handed out
	flight *flight   // the request under way, nil if none is
	failed error     // of the last request
	again  time.Time // after failed, no request before
}

type flight struct{ done chan struct{} }

// New returns a Source. It asks for nothing. The error has code
// InvalidArgument. Close ends what the Source does.
func New(o Options) (*Source, error) {
	refuse := func(message, hint string) error {
		return &config.Error{Op: "machinetoken.New", Code: config.InvalidArgument, Message: message, Hint: hint}
	}
	u, err := url.Parse(o.TokenURL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return nil, refuse("the token URL is neither https nor http on loopback", "set it to the https URL of the issuer's /oauth2/token")
	case u.User != nil:
		return nil, refuse("the token URL holds credentials", "set them as client id and client secret")
	case o.ClientID == "":
		return nil, refuse("there is no client id", "set it to the machine's app client")
	case o.ClientSecret.IsZero():
		return nil, refuse("there is no client secret", "set it to that of the machine's app client")
	case o.Timeout < 0:
		return nil, refuse("the timeout is below 0", "leave it at 0 for 5 s")
	case o.Timeout == 0:
		o.Timeout = defaultTimeout
	}
	if len(o.Scopes) == 0 {
		o.Scopes = []string{auth.RefreshScope}
	}
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: 1, IdleConnTimeout: time.Minute,
			TLSHandshakeTimeout: o.Timeout, ResponseHeaderTimeout: o.Timeout, MaxResponseHeaderBytes: maxBody,
			DialContext: (&net.Dialer{Timeout: o.Timeout}).DialContext,
		}}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	client := *o.HTTPClient
	// A redirect would take the secret elsewhere.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client.Transport = bounded{client.Transport}
	s := &Source{
		host: u.Host, client: &client, timeout: o.Timeout, log: o.Logger,
		grant: clientcredentials.Config{
			ClientID: o.ClientID, ClientSecret: o.ClientSecret.Reveal(), TokenURL: o.TokenURL, Scopes: o.Scopes,
			// Left open, the library would try the other style after any failure.
			AuthStyle: oauth2.AuthStyleInHeader,
		},
	}
	s.ctx, s.cancel = context.WithCancel(context.WithValue(context.Background(), oauth2.HTTPClient, s.client))
	return s, nil
}

// Close ends the request under way and waits for it. From then on Token is
// FailedPrecondition. Close may be called again.
func (s *Source) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.running.Wait()
	s.client.CloseIdleConnections()
	return nil
}

// Token returns a token that lasts for a few seconds at least. It waits for
// the endpoint where there is none, until ctx is done; the request goes on for
// the others then.
//
// Unauthenticated means that the endpoint does not accept the client id and
// secret, PermissionDenied that it does not grant the scope, Unavailable that
// there is no answer that makes sense.
func (s *Source) Token(ctx context.Context) (string, error) {
	for {
		token, flight, err := s.look()
		if flight == nil {
			return token, err
		}
		select {
		case <-flight.done:
		case <-ctx.Done():
			return "", config.AsError(ctx.Err(), op, config.Key{})
		}
	}
}

// look returns the token or the error to return now, or else the request to
// wait for. It starts one if need be.
func (s *Source) look() (string, *flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	lasts := s.token != "" && now.Before(s.end)
	waiting := s.failed != nil && now.Before(s.again)
	switch {
	case s.closed:
		return "", nil, &config.Error{Op: op, Code: config.FailedPrecondition, Message: "the source of tokens is closed"}
	case lasts && (now.Before(s.renew) || waiting):
		return s.token, nil, nil
	case waiting:
		return "", nil, s.failed
	}
	if s.flight == nil {
		f := &flight{done: make(chan struct{})}
		s.flight = f
		s.running.Go(func() {
			defer close(f.done)
			s.fetch()
		})
	}
	if lasts {
		return s.token, nil, nil // the new one is for the next
	}
	return "", s.flight, nil
}

// fetch asks the endpoint and keeps what comes of it.
func (s *Source) fetch() {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	began := time.Now()
	token, err := s.grant.Token(ctx)
	failed := s.explain(token, err)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight = nil
	if failed != nil {
		s.failed, s.again = failed, time.Now().Add(retryAfter)
		if s.token != "" && time.Now().Before(s.end) {
			s.log.Warn("no new token", slog.String("error", failed.Error()), slog.Time("old_one_ends", s.end))
		}
		return
	}
	life := defaultLife
	if !token.Expiry.IsZero() {
		life = token.Expiry.Sub(began)
	}
	s.token, s.failed = token.AccessToken, nil
	s.renew = began.Add(time.Duration(float64(life) * (0.8 - 0.1*rand.Float64()))) //nolint:gosec // jitter is no secret
	s.end = began.Add(max(life-margin, life/2))
}

// explain returns what is wrong with an answer, nil for nothing. The library's
// own error is not kept: it holds the body, and the URL as it was set.
func (s *Source) explain(token *oauth2.Token, err error) error {
	refused := new(oauth2.RetrieveError)
	var timeout net.Error
	switch {
	case errors.As(err, &refused):
		return s.refusal(refused)
	case errors.Is(err, context.Canceled):
		return s.error(config.Canceled, "the request to %s was ended")
	case errors.As(err, &timeout) && timeout.Timeout():
		return s.error(config.Unavailable, "%s does not answer in time")
	case errors.As(err, new(*url.Error)):
		return s.error(config.Unavailable, "%s can not be reached").WithCause(errors.Unwrap(err))
	case err != nil:
		return s.error(config.Unavailable, "%s answered something else than a token").
			WithHint("check that the token URL is that of the issuer's /oauth2/token")
	case !strings.EqualFold(token.Type(), "Bearer"), len(token.AccessToken) > auth.MaxToken, !plain(token.AccessToken):
		return s.error(config.Unavailable, "%s answered a token that can not be sent")
	case !token.Expiry.IsZero() && !token.Expiry.After(time.Now()):
		return s.error(config.Unavailable, "%s answered a token that has ended")
	}
	return nil
}

func (s *Source) refusal(e *oauth2.RetrieveError) error {
	status := e.Response.StatusCode
	switch {
	case e.ErrorCode == "invalid_client":
		return s.error(config.Unauthenticated, "%s does not accept the client id and secret").
			WithHint("check them; the app client has to have a secret")
	case e.ErrorCode == "invalid_scope", e.ErrorCode == "unauthorized_client":
		return s.error(config.PermissionDenied, "%s does not grant the scope").
			WithHint("allow the app client the client credentials grant with the scope %s", strings.Join(s.grant.Scopes, " "))
	case status == http.StatusTooManyRequests, status >= http.StatusInternalServerError:
		return s.error(config.Unavailable, "%s answered with status %d", status)
	}
	return s.error(config.FailedPrecondition, "%s refused with status %d", status).
		WithHint("check that the token URL is that of the issuer's /oauth2/token")
}

func (s *Source) error(code config.Code, format string, args ...any) *config.Error {
	e := config.Errorf(code, format, append([]any{s.host}, args...)...)
	e.Op = op
	return e
}

// plain reports whether a token is what RFC 6750, 2.1 allows in a header.
func plain(token string) bool {
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return false
		}
	}
	return true
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// bounded is a transport whose bodies end after maxBody.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	next := b.RoundTripper
	if next == nil {
		next = http.DefaultTransport
	}
	resp, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxBody), resp.Body}
	return resp, nil
}

// CloseIdleConnections is what http.Client looks for.
func (b bounded) CloseIdleConnections() {
	if c, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
