package redisbackend

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// lookAnyway is how often a Watch looks for changes that it was not told of,
// which a connection that breaks can cost.
const lookAnyway = time.Second

// bell tells the watches of this process that a scope has changed. It is one
// subscription for all of them, made for the first; it says when to look, and
// the stream says what there is.
type bell struct {
	mu      sync.Mutex
	sub     *redis.PubSub
	ended   chan struct{} // closed when its goroutine has ended
	closed  bool
	waiting map[string]map[chan struct{}]bool // by scope
}

// listen registers a channel that holds an element whenever the scope may have
// changed, until stop is called.
func (l *bell) listen(b *Backend, scope string) (rings <-chan struct{}, stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sub == nil && !l.closed {
		l.sub, l.ended = b.client.Subscribe(b.life, b.name("bell")), make(chan struct{})
		l.waiting = map[string]map[chan struct{}]bool{}
		go l.pass(l.sub.Channel())
	}
	c := make(chan struct{}, 1)
	if l.closed {
		return c, func() {}
	}
	if l.waiting[scope] == nil {
		l.waiting[scope] = map[chan struct{}]bool{}
	}
	l.waiting[scope][c] = true
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if delete(l.waiting[scope], c); len(l.waiting[scope]) == 0 {
			delete(l.waiting, scope)
		}
	}
}

// pass owns the subscription's channel until close.
func (l *bell) pass(messages <-chan *redis.Message) {
	defer close(l.ended)
	for m := range messages {
		l.mu.Lock()
		for c := range l.waiting[m.Payload] {
			select {
			case c <- struct{}{}:
			default: // it has not looked since the last one
			}
		}
		l.mu.Unlock()
	}
}

func (l *bell) close() {
	l.mu.Lock()
	sub := l.sub
	l.closed = true
	l.mu.Unlock()
	if sub != nil {
		_ = sub.Close() // what is left of it is the client's to close
		<-l.ended
	}
}

// watch is one Watch.
type watch struct {
	b       *Backend
	request driver.WatchRequest
	scope   string   // encoded
	seal    []string // what positions are good for
	emit    func(driver.Event) error
}

// Watch implements driver.Watcher. It emits from the goroutine that called it.
func (b *Backend) Watch(ctx context.Context, r driver.WatchRequest, emit func(driver.Event) error) error {
	const op = "redis.Watch"
	w := watch{
		b: b, request: r, scope: config.EncodeScope(r.Tenant, r.Service),
		seal: []string{"watch", r.Tenant.String(), r.Service.String(), r.KeyPrefix}, emit: emit,
	}
	// Before the first look, so that nothing falls in between.
	rings, stop := b.bell.listen(b, w.scope)
	defer stop()
	var emitted emitError
	err := w.run(ctx, op, rings)
	if errors.As(err, &emitted) {
		return emitted.error
	}
	return err
}

// emitError is what emit returned: it goes back as it is.
type emitError struct{ error }

func (w watch) send(kind driver.EventKind, e config.Entry, at uint64) error {
	if err := w.emit(driver.Event{Kind: kind, Entry: e, Position: w.b.sealNumber(at, w.seal...)}); err != nil {
		return emitError{err}
	}
	return nil
}

func (w watch) run(ctx context.Context, op string, rings <-chan struct{}) error {
	at, began, err := w.begin(ctx, op)
	if err != nil {
		return err
	}
	timer := time.NewTicker(lookAnyway)
	defer timer.Stop()
	for synced := false; ; {
		if !synced && at >= began {
			if err := w.send(driver.EventSync, config.Entry{}, at); err != nil {
				return err
			}
			synced = true
		}
		found, err := answer(ctx, w.b, op, config.Key{}, func(ctx context.Context) ([]logged, error) { return w.changes(ctx, at) })
		if err != nil {
			return err
		}
		for _, c := range found {
			// What came before the Watch stands before its sync event.
			if !synced && c.seq > began {
				if err := w.send(driver.EventSync, config.Entry{}, began); err != nil {
					return err
				}
				synced = true
			}
			if err := w.tell(ctx, op, c); err != nil {
				return err
			}
			at = c.seq
		}
		if len(found) == chunk {
			continue
		}
		if !synced { // everything since the resume point was read
			at = max(at, began)
			continue
		}
		select {
		case <-rings:
		case <-timer.C:
		case <-ctx.Done():
			return config.AsError(ctx.Err(), op, config.Key{})
		case <-w.b.life.Done():
			return &config.Error{Op: op, Code: config.FailedPrecondition, Message: "the backend is closed"}
		}
	}
}

// begin returns the position to go on from and that behind which the sync event
// stands; it emits the snapshot, if there is to be one.
func (w watch) begin(ctx context.Context, op string) (at, began uint64, err error) {
	if w.request.After == "" {
		at, err = w.snapshot(ctx, op)
		return at, at, err
	}
	began, err = answer(ctx, w.b, op, config.Key{}, func(ctx context.Context) (uint64, error) {
		if at, err = w.b.openNumber(w.request.After, w.seal...); err != nil {
			return 0, err
		}
		_, last, err := w.bounds(w.b.client.HMGet(ctx, w.b.name("scope", w.scope), "floor", "last"))
		if err == nil && at > last {
			err = tooLate()
		}
		return last, err
	})
	return at, began, err
}

// snapshot emits the entries that are live at one moment, and returns it.
func (w watch) snapshot(ctx context.Context, op string) (uint64, error) {
	said, err := answer(ctx, w.b, op, config.Key{}, func(ctx context.Context) ([]string, error) {
		if err := checkScope(w.request.Tenant); err != nil {
			return nil, err
		}
		from, to := lexRange(w.request.KeyPrefix)
		return snapshotScript.Run(ctx, w.b.client, []string{w.b.name("index", w.scope), w.b.name("scope", w.scope)},
			from, to, w.b.name("latest", w.scope)).StringSlice()
	})
	if err != nil {
		return 0, err
	}
	var at uint64
	if len(said)%2 != 1 || !parseNumber(said[0], &at) {
		return 0, config.AsError(errDamaged, op, config.Key{})
	}
	for i := 1; i < len(said); i += 2 {
		e, err := answer(ctx, w.b, op, config.Key{}, func(ctx context.Context) (config.Entry, error) {
			return w.live(ctx, said[i], said[i+1])
		})
		if err != nil {
			return 0, err
		}
		if err := w.send(driver.EventPut, e, at); err != nil {
			return 0, err
		}
	}
	return at, nil
}

// live reads a key's version of the snapshot, which may be an older one by now.
func (w watch) live(ctx context.Context, key, number string) (config.Entry, error) {
	id, err := w.id(key)
	if err != nil {
		return config.Entry{}, err
	}
	var version uint64
	if !parseNumber(number, &version) {
		return config.Entry{}, errDamaged
	}
	r, err := w.b.version(ctx, id, version)
	if errors.Is(err, config.NotFound) || err == nil && r.deleted {
		return config.Entry{}, tooLate() // it was overwritten more often than history goes back
	}
	return r.entry(id), err
}

func (w watch) id(key string) (config.ID, error) {
	k, err := config.ParseKey(key)
	if err != nil {
		return config.ID{}, errDamaged
	}
	return config.ID{Tenant: w.request.Tenant, Service: w.request.Service, Key: k}, nil
}

// logged is one change of the scope, as it was logged.
type logged struct {
	seq         uint64
	key, record string
}

// changes returns the first changes of the scope behind a position.
func (w watch) changes(ctx context.Context, after uint64) ([]logged, error) {
	var stream *redis.XMessageSliceCmd
	var state *redis.SliceCmd
	_, err := w.b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		stream = p.XRangeN(ctx, w.b.name("changes", w.scope), "("+strconv.FormatUint(after, 10)+"-0", "+", chunk)
		// Behind it: what was dropped in between shows.
		state = p.HMGet(ctx, w.b.name("scope", w.scope), "floor", "last")
		return nil
	})
	if err != nil {
		return nil, err
	}
	floor, last, err := w.bounds(state)
	if err != nil {
		return nil, err
	}
	if after < floor || after > last {
		return nil, tooLate()
	}
	var found []logged
	for _, m := range stream.Val() {
		c := logged{}
		number, _, _ := strings.Cut(m.ID, "-")
		c.key, _ = m.Values["key"].(string)
		c.record, _ = m.Values["record"].(string)
		if !parseNumber(number, &c.seq) {
			return nil, errDamaged
		}
		found = append(found, c)
	}
	return found, nil
}

// tell emits a change, if it is of the prefix.
func (w watch) tell(ctx context.Context, op string, c logged) error {
	if err := ctx.Err(); err != nil {
		return config.AsError(err, op, config.Key{})
	}
	if !strings.HasPrefix(c.key, w.request.KeyPrefix) {
		return nil
	}
	id, err := w.id(c.key)
	if err != nil {
		return config.AsError(err, op, config.Key{})
	}
	r, err := parseRecord(c.record)
	if err != nil {
		return config.AsError(err, op, id.Key)
	}
	kind := driver.EventPut
	if r.deleted {
		kind = driver.EventDelete
	}
	return w.send(kind, r.entry(id), c.seq)
}

// bounds reads the sequence numbers of the last change that was dropped, and of
// the last one.
func (w watch) bounds(cmd *redis.SliceCmd) (floor, last uint64, err error) {
	got, err := cmd.Result()
	if err != nil {
		return 0, 0, err
	}
	for i, into := range []*uint64{&floor, &last} {
		if text, ok := got[i].(string); ok && !parseNumber(text, into) {
			return 0, 0, errDamaged
		}
	}
	return floor, last, nil
}

func tooLate() error {
	return config.Errorf(config.OutOfRange, "the changes since that position are not kept any more").
		WithHint("start again without a position")
}
