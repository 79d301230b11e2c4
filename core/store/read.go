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
func (s *Store) Get(ctx context.Context, sc Scope, k config.Key, w Want) (Answer, error) {
	if w == (Want{}) {
		if a, ok := s.held(ctx, sc, k); ok {
			return a, nil
		}
	}
	began := time.Now()
	answer, err := s.get(ctx, sc, k, w)
	s.observe(ctx, opGet, began, &err)
	return answer, err
}

// held answers from memory alone, with the checks of every other read. ok is
// false where that can not be done, for whatever reason: the long way finds it.
func (s *Store) held(ctx context.Context, sc Scope, k config.Key) (a Answer, ok bool) {
	r, _, err := s.routes.Load().Match(k)
	if err != nil {
		return Answer{}, false
	}
	b, ok := r.Backend.(*cache.Backend)
	if !ok {
		return Answer{}, false
	}
	var look places
	if sc.places(r, &look) != nil {
		return Answer{}, false
	}
	before := config.Freshness{State: config.StateFresh}
	for _, p := range look.all() {
		id := p.id(k)
		e, f, ok := b.Peek(ctx, id)
		if !ok {
			return Answer{}, false
		}
		before = worse(f, before)
		if e == nil {
			continue
		}
		if wrongLive(*e, id) != "" || e.Value == nil {
			return Answer{}, false
		}
		return Answer{Entry: *e, Freshness: before}, true
	}
	return Answer{}, false
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
