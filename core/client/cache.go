package client

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// What a CacheOptions field stands for that is not set, and bounds that have
// no field.
const (
	defaultMaxStaleness = 10 * time.Second
	defaultStaleIfError = 5 * time.Minute
	defaultPatience     = 500 * time.Millisecond
	defaultMaxBytes     = 64 << 20
	defaultMaxKeys      = 10_000
	defaultMaxSessions  = 64
	defaultIdleTimeout  = 10 * time.Minute
	// maxFeeds is how many pairs of a prefix and a service one session watches.
	maxFeeds = 16
	// evictable is how long a session has to have been idle to give way to
	// another token: else many tokens would drive each other out.
	evictable = 30 * time.Second
	// probeEvery is how often a service that did not answer is asked again
	// while something held stands in for its answers.
	probeEvery = 250 * time.Millisecond
	// overhead is what an entry takes beside its key and value, about.
	overhead = 320
)

// CacheOptions say what a Cache holds and how old it may be.
type CacheOptions struct {
	// Prefixes are the beginnings of the keys that are held; each must select a
	// single route, as in WatchRequest. All that starts with one is kept in
	// memory once one such key was read: choose them as narrow as what is read.
	// Other keys are read from the service each time. At least one is required.
	Prefixes []string
	// MaxStaleness is the greatest lag that an answer from memory has without
	// the service being asked first; 0 is 10 s. A healthy watch says something
	// every 5 s at least.
	MaxStaleness time.Duration
	// StaleIfError is how far behind an answer may be that stands in for a
	// service which does not answer; it is marked. 0 is 5 min, below 0 none is.
	StaleIfError time.Duration
	// Patience is how long the service is waited for while something is held
	// that may stand in; 0 is 500 ms.
	Patience time.Duration
	// MaxBytes bounds what all sessions hold together, about; 0 is 64 MiB. What
	// does not fit is read from the service each time.
	MaxBytes int64
	// MaxKeys bounds the keys that one session knows of; 0 is 10,000.
	MaxKeys int
	// MaxSessions bounds the tokens that values are held for; 0 is 64. Reads
	// with further ones go to the service. Each takes one stream of the
	// connection for each prefix and service that it reads.
	MaxSessions int
	// IdleTimeout ends a session that nobody reads from; 0 is 10 min.
	IdleTimeout time.Duration
	// Secrets lets values that are secrets be held in memory.
	Secrets bool
	// OnError, if set, is told what goes wrong where no caller waits for it: a
	// watch that ends, a snapshot that can not be written or read. It is called
	// from several goroutines and must not block.
	OnError func(error)
}

// complete fills in what is not set, and refuses what can not be meant.
func (o CacheOptions) complete() (CacheOptions, error) {
	invalid := func(message string) error {
		return (&config.Error{Op: "client.NewCache", Code: config.InvalidArgument, Message: message}).
			WithHint("see client.CacheOptions")
	}
	if len(o.Prefixes) == 0 {
		return o, invalid("no key prefix is named")
	}
	for _, p := range o.Prefixes {
		if _, err := config.ParseKeyPrefix(p); err != nil || p == "" {
			return o, invalid("a key prefix is not the beginning of a key")
		}
	}
	if o.MaxStaleness < 0 || o.Patience < 0 || o.MaxBytes < 0 || o.MaxKeys < 0 || o.MaxSessions < 0 || o.IdleTimeout < 0 {
		return o, invalid("a bound is below 0")
	}
	o.MaxStaleness = cmp.Or(o.MaxStaleness, defaultMaxStaleness)
	o.StaleIfError = cmp.Or(o.StaleIfError, defaultStaleIfError)
	o.Patience = cmp.Or(o.Patience, defaultPatience)
	o.MaxBytes = cmp.Or(o.MaxBytes, defaultMaxBytes)
	o.MaxKeys = cmp.Or(o.MaxKeys, defaultMaxKeys)
	o.MaxSessions = cmp.Or(o.MaxSessions, defaultMaxSessions)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, defaultIdleTimeout)
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
	return o, nil
}

// Cache answers reads from memory. What it holds is held for one token and
// never answers another one: whoever comes with a token has its own session.
//
// For each session, prefix and service one Watch keeps what is held right, over
// breaks and from one replica to another. The lag is the time since that watch
// was last heard of (Answer.Lag, Session.Lag); an answer without a mark is not
// older than the last change that the watched replica had acknowledged that
// long before, and one more time on the wire. A replica that did not answer the
// write itself has a change when the write's answer names it, else within its
// route's max_staleness.
//
// A session never goes back to an older version of a layer, and sees its own
// writes, if they are made through the Cache or the Session.
//
// What an answer holds is shared: its Value must not be changed.
type Cache struct {
	client  *Client
	options CacheOptions
	began   time.Time
	ctx     context.Context //nolint:containedctx // it is the life of the watches, which no call owns
	cancel  context.CancelFunc
	running sync.WaitGroup
	bytes   atomic.Int64

	mu       sync.Mutex
	sessions map[string]*Session
	closed   bool
}

// NewCache returns a cache in front of c, which stays the caller's. Close ends
// it.
func NewCache(c *Client, o CacheOptions) (*Cache, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	cache := &Cache{client: c, options: o, began: time.Now(), sessions: map[string]*Session{}}
	cache.ctx, cache.cancel = context.WithCancel(context.Background())
	cache.running.Go(cache.sweep)
	return cache, nil
}

// Close ends all sessions and their watches, and writes their snapshots a last
// time. Reads behind it go to the service.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	sessions := c.sessions
	c.sessions = map[string]*Session{}
	c.mu.Unlock()
	for _, s := range sessions {
		s.saveLast()
		s.end()
	}
	c.cancel()
	c.running.Wait()
	return nil
}

// now is the time on the cache's clock, which no change of the machine's moves.
func (c *Cache) now() int64 { return int64(time.Since(c.began)) }

// sweep ends the sessions that nobody reads from.
func (c *Cache) sweep() {
	tick := time.NewTicker(max(c.options.IdleTimeout/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		idle := c.now() - int64(c.options.IdleTimeout)
		for _, s := range c.all() {
			if s.used.Load() < idle && s.snapshot == nil {
				s.end()
			}
		}
	}
}

func (c *Cache) all() []*Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*Session, 0, len(c.sessions))
	for _, s := range c.sessions {
		all = append(all, s)
	}
	return all
}

// SessionOption says more of a session.
type SessionOption func(*sessionOptions)

type sessionOptions struct {
	expires  time.Time
	snapshot *Snapshot
}

// Expires says when the session's token expires: then what is held under it is
// dropped, whether the service can be reached or not. Where the token is a JWT
// the time in it is used, too.
func Expires(at time.Time) SessionOption {
	return func(o *sessionOptions) { o.expires = at }
}

// WithSnapshot keeps what the session holds in a file as well, and begins with
// what is in it.
func WithSnapshot(s Snapshot) SessionOption {
	return func(o *sessionOptions) { o.snapshot = &s }
}

// Session returns the session of a token, and begins it if there is none; the
// options are those of its beginning. The code is ResourceExhausted where there
// are too many, InvalidArgument for a snapshot that can not be meant, and
// Canceled behind Close. A snapshot that can not be read is none: OnError says
// so.
func (c *Cache) Session(token string, opts ...SessionOption) (*Session, error) {
	const op = "client.Session"
	var o sessionOptions
	for _, set := range opts {
		set(&o)
	}
	if o.snapshot != nil {
		if err := o.snapshot.check(); err != nil {
			return nil, config.AsError(err, op, config.Key{})
		}
	}
	expires := int64(math.MaxInt64)
	for _, at := range []time.Time{o.expires, expiryOf(token)} {
		if now, left := c.now(), int64(time.Until(at)); !at.IsZero() && left < math.MaxInt64-now { // else it is further than the clock goes
			expires = min(expires, now+left)
		}
	}
	c.mu.Lock()
	if s := c.sessions[token]; s != nil {
		c.mu.Unlock()
		<-s.begun // a read before that would begin without the snapshot
		return s, nil
	}
	if c.closed {
		c.mu.Unlock()
		return nil, &config.Error{Op: op, Code: config.Canceled, Message: "the cache is closed"}
	}
	var gone *Session
	if len(c.sessions) >= c.options.MaxSessions {
		if gone = c.idlest(); gone == nil {
			c.mu.Unlock()
			return nil, (&config.Error{Op: op, Code: config.ResourceExhausted, Message: "values are held for as many tokens as may be"}).
				WithHint("raise CacheOptions.MaxSessions, or read without a session")
		}
	}
	s := newSession(c, token, expires, o.snapshot)
	c.sessions[token] = s
	c.mu.Unlock()
	if gone != nil {
		gone.end()
	}
	s.begin()
	return s, nil
}

// idlest is the session that gives way to another, nil if all are in use.
func (c *Cache) idlest() *Session {
	var least *Session
	for _, s := range c.sessions {
		if s.snapshot == nil && (least == nil || s.used.Load() < least.used.Load()) {
			least = s
		}
	}
	if least == nil || least.used.Load() > c.now()-int64(evictable) {
		return nil
	}
	delete(c.sessions, least.token)
	return least
}

// session is that of ctx's token, nil if it has none.
func (c *Cache) session(ctx context.Context) *Session {
	token, ok := ctx.Value(tokenKey{}).(string)
	if !ok {
		return nil
	}
	c.mu.Lock()
	s := c.sessions[token]
	c.mu.Unlock()
	if s == nil {
		s, _ = c.Session(token) // without one the service answers
		return s
	}
	select {
	case <-s.begun:
		return s
	case <-ctx.Done():
		return nil
	}
}

// Get is Client.Get with the session of ctx's token. A Session that is kept
// spares looking for it.
func (c *Cache) Get(ctx context.Context, key config.Key, service config.Service, opts ...GetOption) (Answer, error) {
	if s := c.session(ctx); s != nil {
		return s.Get(ctx, key, service, opts...)
	}
	return c.client.Get(ctx, key, service, opts...)
}

// BatchGet is Client.BatchGet with the session of ctx's token: what is not held
// is read in one call.
func (c *Cache) BatchGet(ctx context.Context, keys []config.Key, service config.Service, opts ...GetOption) ([]Result, error) {
	if s := c.session(ctx); s != nil {
		return s.BatchGet(ctx, keys, service, opts...)
	}
	return c.client.BatchGet(ctx, keys, service, opts...)
}

// wrote is told of a write by ctx's token.
func (c *Cache) wrote(ctx context.Context, key config.Key, service config.Service, e Entry) {
	if s := c.session(ctx); s != nil {
		s.wrote(key, service, e)
	}
}

// Put is Client.Put; reads of the same token through this cache that begin
// behind its return see it.
func (c *Cache) Put(ctx context.Context, r PutRequest, opts ...WriteOption) (Entry, error) {
	e, err := c.client.Put(ctx, r, opts...)
	c.wrote(ctx, r.Key, r.Service, e)
	return e, err
}

// Delete is Client.Delete, as Put.
func (c *Cache) Delete(ctx context.Context, r DeleteRequest, opts ...WriteOption) (Entry, error) {
	e, err := c.client.Delete(ctx, r, opts...)
	c.wrote(ctx, r.Key, r.Service, e)
	return e, err
}

// Restore is Client.Restore, as Put.
func (c *Cache) Restore(ctx context.Context, r RestoreRequest, opts ...WriteOption) (Entry, error) {
	e, err := c.client.Restore(ctx, r, opts...)
	c.wrote(ctx, r.Key, r.Service, e)
	return e, err
}

// Rollback is Client.Rollback, as Put.
func (c *Cache) Rollback(ctx context.Context, r RollbackRequest, opts ...WriteOption) (Entry, error) {
	e, err := c.client.Rollback(ctx, r, opts...)
	c.wrote(ctx, r.Key, r.Service, e)
	return e, err
}

// covers reports whether a prefix is one of those that are held.
func (c *Cache) covers(prefix string) bool { return slices.Contains(c.options.Prefixes, prefix) }

// expiryOf is when a token says that it expires, zero if it says nothing that
// is understood. Nobody has verified it, and nobody needs to: it can only make
// a session shorter.
func expiryOf(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Expires <= 0 || claims.Expires > math.MaxInt32*1000 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Expires), 0)
}
