package store

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/router"
)

// call is one use of one route's backend: it turns what comes back into what
// the caller may see.
type call struct {
	store *Store
	op    string
	key   config.Key // zero if it is about several
	route *router.Route
	want  cache.Want // of the latest versions
	renew bool       // they are put in place of what is held
	quiet bool       // that the backend is out of reach has been logged
}

// on finds the route of a key.
func (s *Store) on(op string, k config.Key) (call, error) {
	r, _, err := s.routes.Load().Match(k)
	if err != nil {
		return call{}, named(err, op, k)
	}
	return call{store: s, op: op, key: k, route: r}, nil
}

// named puts the call's own name on an error that is meant for the caller.
func named(err error, op string, k config.Key) error {
	e := config.AsError(err, op, k)
	e.Op = op
	return e
}

// refused is an error of the caller's own making.
func (c call) refused(err error) error { return named(err, c.op, c.key) }

// notFound is the one answer to everything that the caller does not have.
func (c call) notFound() error {
	return &config.Error{Op: c.op, Key: c.key, Code: config.NotFound, Message: "there is no such value"}
}

// conflict tells the version that won.
func (c call) conflict(current uint64) error {
	e := &config.Error{
		Op: c.op, Key: c.key, Code: config.Conflict, Version: current,
		Message: "the expected version is not the current one", Hint: "read the value again and decide anew",
	}
	if driver.CaveatsOf(c.route.Backend).LooseCompareAndSet {
		e.Hint = "read the value again and decide anew: this store can not compare and write in one step, and may hold this value too; the history shows it"
	}
	return e
}

// unable says that the backend lacks a capability.
func (c call) unable(what string) error {
	return c.refused(config.Errorf(config.Unimplemented, "backend %s can not %s", c.route.BackendName, what))
}

// failed turns a backend's error into the caller's. The backend's own words
// pass only with codes that tell the caller what to change. Its error is
// logged and not kept as the cause: it may carry a wire status of its own,
// which would be sent in place of this one.
func (c call) failed(ctx context.Context, err error) error {
	code := config.CodeOf(err)
	if code == config.Unknown && ctx.Err() != nil {
		code = config.CodeOf(ctx.Err())
	}
	said := config.AsError(err, c.op, c.key)
	out := &config.Error{Op: c.op, Key: c.key, Code: code, RetryAfter: said.RetryAfter}
	level := slog.LevelWarn
	name := c.route.BackendName
	switch code {
	case config.NotFound:
		return c.notFound()
	case config.Conflict:
		return c.conflict(said.Version)
	case config.Canceled, config.DeadlineExceeded:
		out.Message = code.Error()
		return out
	case config.InvalidArgument, config.AlreadyExists, config.OutOfRange:
		out.Message, out.Hint = clean(said.Message), clean(said.Hint)
		return out
	case config.Unavailable:
		out.Message, out.Hint = "backend "+name+" is out of reach", "retry"
		if c.quiet {
			return out
		}
	case config.OutcomeUnknown:
		out.Message, out.Hint = "backend "+name+" did not say whether the change was made", "read the value before you retry"
	case config.ResourceExhausted:
		out.Message, out.Hint = "backend "+name+" is at its limit", "retry later"
	case config.Unimplemented:
		out.Message = "backend " + name + " can not do this"
	case config.PermissionDenied, config.Unauthenticated:
		// It is this process that was refused, not the caller.
		out.Code, level = config.FailedPrecondition, slog.LevelError
		out.Message = "backend " + name + " was refused by its store"
	case config.FailedPrecondition:
		level = slog.LevelError
		out.Message, out.Hint = "backend "+name+" is not in a state to do this", "its status says what is wrong with it"
		if errors.Is(err, config.Unavailable) { // a plugin that was given up, and may be mended
			out.Err = config.Unavailable
		}
	case config.DataLoss:
		level = slog.LevelError
		out.Message = "backend " + name + " found damaged data"
	default: // Unknown, Internal, and codes that are yet to come
		level = slog.LevelError
		out.Message = "backend " + name + " failed"
	}
	c.store.log.LogAttrs(ctx, level, "a backend call failed", slog.String("backend", name), slog.String("op", c.op),
		slog.String("code", code.String()), slog.Any("error", err))
	return out
}

// clean bounds text that a backend wrote.
func clean(s string) string {
	const most = 512
	if len(s) > most {
		s = s[:most]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// violation raises the alarm that a backend broke its contract, and is what
// the caller gets in place of its answer.
func (c call) violation(ctx context.Context, what string) error {
	name := c.route.BackendName
	c.store.log.LogAttrs(ctx, slog.LevelError, "a backend broke its contract; its answer was not used",
		slog.String("backend", name), slog.String("op", c.op), slog.String("what", what))
	c.store.violations.Add(ctx, 1, metric.WithAttributes(attribute.String("backend", name)))
	c.store.onViolation(ctx, Violation{Backend: name, Op: c.op, What: what})
	return &config.Error{
		Op: c.op, Key: c.key, Code: config.Internal,
		Message: "backend " + name + " gave an answer that does not fit the question; it was not used",
		Hint:    "nothing about the request is wrong; operators have been told",
	}
}

// foreign says what sets the two IDs apart, "" if nothing does.
func foreign(got, want config.ID) string {
	if wrong := outside(got, place{want.Tenant, want.Service}); wrong != "" {
		return wrong
	}
	if got.Key != want.Key {
		return "other key"
	}
	return ""
}

// outside says how an ID lies outside a place, "" if it does not.
func outside(got config.ID, want place) string {
	switch {
	case got.Tenant != want.tenant:
		return "foreign tenant"
	case got.Service != want.service:
		return "foreign service"
	}
	return ""
}

// wrongLive says what is wrong with an entry that should be the live value of
// id, "" if nothing is.
func wrongLive(e config.Entry, id config.ID) string {
	if wrong := foreign(e.ID, id); wrong != "" {
		return wrong
	}
	if e.Deleted {
		return "deleted value"
	}
	return ""
}

// filled makes an empty value one that is not missing.
func filled(e config.Entry) config.Entry {
	if e.Value == nil && !e.Deleted {
		e.Value = []byte{}
	}
	return e
}

// reading is what a layer says of one key.
type reading struct {
	entry     config.Entry
	found     bool
	outdated  bool // as cache.Answer.Outdated has it
	freshness config.Freshness
}

// beside is r, no better than what a more specific layer says.
func (r reading) beside(other reading) reading {
	r.freshness = worse(r.freshness, other.freshness)
	r.outdated = r.outdated || other.outdated
	return r
}

// gone is the error that tells that no layer has a value. That one may have it
// by now can not be marked on it: it is another error then.
func (c call) gone(r reading) error {
	if r.outdated {
		return c.refused(config.Errorf(config.Unavailable, "backend %s is out of reach", c.route.BackendName).WithHint("retry"))
	}
	return c.notFound()
}

// read gets the latest value of one ID.
func (c call) read(ctx context.Context, id config.ID) (reading, error) {
	b, ok := c.route.Backend.(*cache.Backend)
	if !ok {
		return c.readThrough(ctx, id)
	}
	var a cache.Answer
	var err error
	if c.renew {
		a, err = b.Renew(ctx, id)
	} else {
		a, err = b.Read(ctx, id, c.want)
	}
	return c.cached(ctx, id, a, err)
}

// cached checks one answer of a cache about one ID.
func (c call) cached(ctx context.Context, id config.ID, a cache.Answer, err error) (reading, error) {
	if err != nil {
		return reading{}, c.refusedByCache(ctx, err)
	}
	if wrong := foreign(a.Entry.ID, id); wrong != "" {
		return reading{}, c.violation(ctx, wrong)
	}
	switch {
	case a.Absent:
		return reading{freshness: a.Freshness, outdated: a.Outdated}, nil
	case a.Entry.Deleted:
		return reading{}, c.violation(ctx, "deleted value")
	}
	return reading{entry: filled(a.Entry), found: true, freshness: a.Freshness}, nil
}

// refusedByCache is failed, or violation where the cache found one.
func (c call) refusedByCache(ctx context.Context, err error) error {
	if errors.Is(err, cache.ErrBreach) {
		return c.violation(ctx, config.AsError(err, c.op, c.key).Message)
	}
	return c.failed(ctx, err)
}

// readThrough reads from a backend that has no cache before it.
func (c call) readThrough(ctx context.Context, id config.ID) (reading, error) {
	var r driver.Result
	if c.needsRefresh() {
		got, err := c.refreshed(ctx, []config.ID{id})
		if err != nil {
			return reading{}, err
		}
		r = got[0]
	} else {
		r.Entry, r.Err = c.route.Backend.Get(ctx, id, 0)
	}
	return c.through(ctx, id, r)
}

// through checks one answer of such a backend.
func (c call) through(ctx context.Context, id config.ID, r driver.Result) (reading, error) {
	e, found, err := c.believe(ctx, id, 0, r)
	return reading{entry: e, found: found, freshness: c.freshness(e)}, err
}

// believe checks one answer about one ID.
func (c call) believe(ctx context.Context, id config.ID, version uint64, r driver.Result) (e config.Entry, found bool, err error) {
	if r.Err != nil {
		if config.CodeOf(r.Err) == config.NotFound {
			return config.Entry{}, false, nil
		}
		return config.Entry{}, false, c.failed(ctx, r.Err)
	}
	if wrong := wrongLive(r.Entry, id); wrong != "" {
		return config.Entry{}, false, c.violation(ctx, wrong)
	}
	if version != 0 && r.Entry.Version != version {
		return config.Entry{}, false, c.violation(ctx, "other version")
	}
	return filled(r.Entry), true, nil
}

// effective returns what the first place says that has a value, and which that
// is; -1 if none has. It is as fresh as the least fresh of those that were
// looked at: an old absence hides a new value.
func (c call) effective(ctx context.Context, k config.Key, places []place) (r reading, at int, err error) {
	var before reading
	for i, p := range places {
		if r, err = c.read(ctx, p.id(k)); err != nil {
			return reading{}, i, err
		}
		if i > 0 {
			r = r.beside(before)
		}
		if r.found {
			return r, i, nil
		}
		before = r
	}
	return r, -1, nil
}

// worse is f, no better than other.
func worse(f, other config.Freshness) config.Freshness {
	f.Age = max(f.Age, other.Age)
	if f.State != config.StateStale && other.State != config.StateFresh {
		f.State = other.State
	}
	return f
}
