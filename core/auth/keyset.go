package auth

import (
	"context"
	"crypto/rsa"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

const (
	// A key that leaves the JWKS is refused at most this much later.
	refreshInterval = 15 * time.Minute
	// The pause after a refresh that failed, with keys at hand.
	retryInterval = 30 * time.Second
	// No two refreshes start closer together than this once there are keys. It
	// and fetchTimeout make up the 15 seconds in which a fresh key is accepted.
	refreshSpacing = 10 * time.Second
	fetchTimeout   = 4 * time.Second
	// The pause after the first refresh that failed, without any keys; it
	// doubles up to refreshSpacing.
	firstRetry = 250 * time.Millisecond

	maxJWKS = 1 << 20
	// So many callers may wait for a refresh; the rest get their answer at once.
	maxWaiting = 1024
)

// keySet holds an issuer's keys and keeps them fresh. One goroutine, run, does
// all the fetching, so callers can only ever ask it to go sooner.
type keySet struct {
	url     string
	client  *http.Client
	log     *slog.Logger
	current atomic.Pointer[keys] // nil until the first good refresh, and after the end
	wanted  chan struct{}        // holds one request for a refresh
	waiting chan struct{}        // holds one item for each caller that waits

	mu       sync.Mutex
	inFlight bool
	earliest time.Time     // when the next refresh may start
	done     chan struct{} // closed when the refresh in flight, or else the next one, is over
}

func newKeySet(url string, client *http.Client, log *slog.Logger) *keySet {
	return &keySet{
		url: url, client: client, log: log,
		wanted: make(chan struct{}, 1), waiting: make(chan struct{}, maxWaiting), done: make(chan struct{}),
	}
}

// lookup returns the key of this id, nil if it is not known.
func (s *keySet) lookup(id string) *rsa.PublicKey {
	if known := s.current.Load(); known != nil {
		return (*known)[id]
	}
	return nil
}

// find is lookup, and for an id that is not known asks for a refresh. It waits
// for that one if it is under way or may start now, and else answers from what
// is known.
func (s *keySet) find(ctx context.Context, id string) (*rsa.PublicKey, error) {
	if key := s.lookup(id); key != nil {
		return key, nil
	}
	done, inFlight := s.request()
	if err := s.await(ctx, done); err != nil {
		return nil, err
	}
	known := s.current.Load()
	if known == nil {
		return nil, errNoKeys("auth.Verify")
	}
	if key := (*known)[id]; key != nil {
		return key, nil
	}
	if inFlight {
		// That one may have been answered before the key was published.
		s.request()
	}
	return nil, unauthenticated("the token is signed with a key that its issuer does not publish")
}

func errNoKeys(op string) *config.Error {
	return &config.Error{
		Op: op, Code: config.Unavailable, Message: "the token issuer's keys could not be fetched yet",
		Hint: "check the JWKS URL and that it can be reached", RetryAfter: time.Second,
	}
}

// request asks for a refresh, unless one is in flight. It returns the channel
// that is closed when it is over, nil if it can not start yet.
func (s *keySet) request() (done <-chan struct{}, inFlight bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight {
		return s.done, true
	}
	select {
	case s.wanted <- struct{}{}:
	default:
	}
	if time.Now().Before(s.earliest) {
		return nil, false
	}
	return s.done, false
}

// await waits until done is closed, if it is not nil and not too many wait
// already. The error is ctx's.
func (s *keySet) await(ctx context.Context, done <-chan struct{}) error {
	if done == nil {
		return nil
	}
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return config.AsError(ctx.Err(), "auth.Verify", config.Key{})
	}
}

// run fetches at once and then whenever it is time, until ctx ends.
func (s *keySet) run(ctx context.Context) {
	defer s.end()
	for failures := 0; ; {
		start := s.begin()
		err := s.refresh(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			s.log.WarnContext(ctx, "JWKS refresh failed", "error", err, "failures", failures, "keys_at_hand", s.current.Load() != nil)
		default:
			failures = 0
		}
		earliest, due := s.schedule(start, failures)
		s.finish(earliest)

		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(due)):
			continue
		case <-s.wanted:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(earliest)):
		}
	}
}

// schedule says when the next refresh may start and when it has to, after one
// that started at start and was the last of so many failures in a row.
func (s *keySet) schedule(start time.Time, failures int) (earliest, due time.Time) {
	switch {
	case s.current.Load() == nil:
		pause := min(refreshSpacing, firstRetry<<min(failures-1, 10))
		return start.Add(pause), start.Add(pause)
	case failures > 0:
		return start.Add(refreshSpacing), start.Add(retryInterval)
	default:
		// Replicas that started together must not fetch together for ever. The
		// upper bound leaves room for one retry within refreshInterval.
		share := 0.8 + 0.15*rand.Float64() //nolint:gosec // jitter guards no secret
		return start.Add(refreshSpacing), start.Add(time.Duration(share * float64(refreshInterval)))
	}
}

// begin notes that a refresh is in flight. It serves every request made so far.
func (s *keySet) begin() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight = true
	select {
	case <-s.wanted:
	default:
	}
	return time.Now()
}

// finish wakes those who waited for the refresh.
func (s *keySet) finish(earliest time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight, s.earliest = false, earliest
	close(s.done)
	s.done = make(chan struct{})
}

// end wakes those who still wait, and lets nobody wait from now on. It drops the
// keys: without refreshes they could not be revoked.
func (s *keySet) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.Store(nil)
	close(s.done)
}

// refresh fetches the JWKS and replaces the keys, or leaves them on an error.
func (s *keySet) refresh(ctx context.Context) error {
	data, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	fresh, err := parseJWKS(data)
	if err != nil {
		return fmt.Errorf("the JWKS is not usable: %w", err)
	}
	added := len(fresh)
	if known := s.current.Load(); known != nil {
		// A key that stays keeps its pointer: verified tokens refer to it.
		for id, key := range *known {
			if same, ok := fresh[id]; ok && key.Equal(same) {
				fresh[id] = key
				added--
			}
		}
	}
	s.current.Store(&fresh)
	if added > 0 {
		s.log.InfoContext(ctx, "JWKS loaded", "keys", len(fresh), "new", added)
	}
	return nil
}

func (s *keySet) fetch(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the JWKS URL answered with status %d", response.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxJWKS+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxJWKS:
		return nil, fmt.Errorf("the JWKS has more than %d bytes", maxJWKS)
	}
	return data, nil
}
