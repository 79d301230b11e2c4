package store

import (
	"context"
	"time"

	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Get returns the effective value of a key. A layer that can not be read is an
// error even if a less specific one could be: falling back would answer with a
// value that is not the effective one.
//
// What w asks that can not be had is Unavailable, or Unimplemented where the
// backend never can: it has no versions, or does not know how old its answers
// are. A bound that nobody can mean is InvalidArgument.
//
// A hit in a route's cache costs no allocation and is not part of the duration
// metric, which would cost more than the hit: the cache counts it.
func (s *Store) Get(ctx context.Context, sc Scope, k config.Key, w Want) (a Answer, err error) {
	if w == (Want{}) {
		at := held{id: config.ID{Key: k}}
		if s.held(ctx, &sc, &at) {
			at.Entry(&at.id, &a.Entry)
			a.Freshness = at.freshness
			return a, nil
		}
	}
	began := time.Now()
	a, err = s.get(ctx, sc, k, w)
	s.observe(ctx, opGet, began, &err)
	return a, err
}

// Held is Get, for one who asks nothing of the answer, from memory alone and in
// the form that cache.Options.Prepare gave it: with the same checks, against the
// entry that the form was made of. ok is false where Get has to be asked. The
// form belongs to the cache and must not be changed.
func (s *Store) Held(ctx context.Context, sc Scope, k config.Key) (form []byte, f config.Freshness, ok bool) {
	at := held{id: config.ID{Key: k}}
	if !s.held(ctx, &sc, &at) {
		return nil, f, false
	}
	form = at.Form()
	return form, at.freshness, form != nil
}

// held is what was found in memory, and where.
type held struct {
	cache.Held
	id        config.ID
	freshness config.Freshness // of this and of the absences before it
}

// held looks for at.id.Key in memory alone, with the checks of every other read.
// It reports false where that can not be done, for whatever reason: the long way
// finds it.
func (s *Store) held(ctx context.Context, sc *Scope, at *held) bool {
	r, _, err := s.routes.Load().Match(at.id.Key)
	if err != nil || sc.check() != nil {
		return false
	}
	b, ok := r.Backend.(*cache.Backend)
	if !ok {
		return false
	}
	at.freshness.State = config.StateFresh
	for _, l := range r.Layers {
		p, takesPart := sc.at(l)
		if !takesPart {
			continue
		}
		at.id.Tenant, at.id.Service = p.tenant, p.service
		if !b.Peek(ctx, &at.id, &at.Held) {
			return false
		}
		at.freshness = worse(at.Freshness, at.freshness)
		if !at.Absent() {
			return at.Live(&at.id)
		}
	}
	return false
}

const opGet = "store.Get"

func (s *Store) get(ctx context.Context, sc Scope, k config.Key, w Want) (Answer, error) {
	c, err := s.on(opGet, k)
	if err != nil {
		return Answer{}, err
	}
	if err := w.check(); err != nil {
		return Answer{}, c.refused(err)
	}
	c.want = w.cached()
	var found places
	if err := sc.places(c.route, &found); err != nil {
		return Answer{}, c.refused(err)
	}
	look := found.all()
	if w.MinVersion > 0 {
		first, err := sc.place(c.route)
		if err != nil {
			return Answer{}, c.refused(err)
		}
		r, err := c.awaited(ctx, first.id(k), w.MinVersion, patience)
		if err != nil || r.found {
			return Answer{Entry: r.entry, Freshness: r.freshness}, err
		}
		look = look[1:] // the layer that the scope names is the most specific one
	}
	r, at, err := c.effective(ctx, k, look)
	switch {
	case err != nil:
		return Answer{}, err
	case at < 0:
		return Answer{}, c.gone(r)
	}
	return Answer{Entry: r.entry, Freshness: r.freshness}, nil
}

// GetVersion returns one version of the layer that the scope names. A version
// that does not exist, is no longer kept or is a deletion is NotFound; version
// 0 is InvalidArgument.
func (s *Store) GetVersion(ctx context.Context, sc Scope, k config.Key, version uint64) (_ Answer, err error) {
	const op = "store.GetVersion"
	defer s.observe(ctx, op, time.Now(), &err)
	c, err := s.on(op, k)
	if err != nil {
		return Answer{}, err
	}
	if version == 0 {
		return Answer{}, c.refused(noVersion())
	}
	p, err := sc.place(c.route)
	if err != nil {
		return Answer{}, c.refused(err)
	}
	e, err := c.route.Backend.Get(ctx, p.id(k), version)
	e, found, err := c.believe(ctx, p.id(k), version, driver.Result{Entry: e, Err: err})
	switch {
	case err != nil:
		return Answer{}, err
	case !found:
		return Answer{}, c.notFound()
	}
	return Answer{Entry: e, Freshness: fresh()}, nil
}

func noVersion() error {
	return config.Errorf(config.InvalidArgument, "version 0 is no version").WithHint("versions count from 1; History lists them")
}
