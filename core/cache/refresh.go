package cache

import (
	"context"
	"errors"
	"sync"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// each calls do for every index, at most n at a time, and returns when all are
// done.
func each(at []int, n int, do func(int)) {
	var work sync.WaitGroup
	slots := make(chan struct{}, n)
	for _, i := range at {
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	work.Wait()
}

// Renew reads id from the source of truth, by a call that begins after this
// one, puts the answer in place of what is held, and tells the watchers. On an
// error nothing has changed: what is held goes on being served.
func (b *Backend) Renew(ctx context.Context, id config.ID) (Answer, error) {
	return b.now.Load().renew(ctx, id)
}

func (b *mount) renew(ctx context.Context, id config.ID) (Answer, error) {
	began := b.cache.since()
	r, err := b.fetch(ctx, id, b.spot(id), demand{order: b.cache.flights.order(), exact: true, apply: true})
	if err != nil {
		return Answer{}, err
	}
	return b.fetched(r, began), nil
}

// maxRenewed is how many values one RenewAll puts in place. Behind it, what is
// held is only given up.
const maxRenewed = 10_000

// Below is what RenewAll is about: the keys of one scope that start with a
// prefix, and that Owns says are the route's.
type Below struct {
	Tenant  config.Tenant
	Service config.Service
	// AllServices is about every service of the tenant as well. They are not
	// listed, only given up.
	AllServices bool
	Prefix      string
	Owns        func(config.Key) bool
}

// RenewAll is Renew for many: it lists what there is in the scope, then gives up
// whatever this route holds of the tenant and puts what was listed in its place.
// It returns how many values were listed.
func (b *Backend) RenewAll(ctx context.Context, below Below) (values int, err error) {
	for range moves {
		if values, err = b.now.Load().renewAll(ctx, below); !errors.Is(err, ErrMoved) {
			break
		}
	}
	return values, err
}

func (b *mount) renewAll(ctx context.Context, below Below) (values int, err error) {
	born, began := b.cache.clock.now(), b.cache.since()
	var listed []*said
	for token := ""; ; {
		page, err := b.page(ctx, driver.ListRequest{
			Tenant: below.Tenant, Service: below.Service, KeyPrefix: below.Prefix, PageSize: driver.MaxPageSize, PageToken: token,
		})
		if ctx.Err() == nil && !errors.Is(err, ErrMoved) {
			b.reported(config.ID{}, err)
		}
		if err != nil {
			return 0, err
		}
		for _, e := range page.Entries {
			switch {
			case e.ID.Tenant != below.Tenant:
				return 0, breach("foreign tenant")
			case e.ID.Service != below.Service:
				return 0, breach("foreign service")
			case e.Deleted:
				return 0, breach("deleted value")
			case !below.Owns(e.ID.Key):
				continue // another route's
			}
			if values++; values <= maxRenewed {
				listed = append(listed, b.record(e, false, born, began, true)) // List is never eventual: C30
			}
		}
		if page.NextPageToken == "" {
			break
		}
		if page.NextPageToken == token {
			return 0, breach("bad page token")
		}
		token = page.NextPageToken
	}
	at, clean := b.cache.clock.invalidateTenant(b.spot(config.ID{Tenant: below.Tenant}).tenant, born)
	for _, r := range listed {
		// Nothing may have been invalidated since the list began, or what was
		// listed may be the older of the two.
		if s := b.spot(r.entry.ID); clean && b.cache.clock.untouched(s, born, at) {
			r.born = at
			b.keep(s, r)
		}
	}
	b.views.renew(ctx, below)
	return values, nil
}
