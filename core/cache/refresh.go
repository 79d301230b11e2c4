package cache

import (
	"context"
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
//
// With minVersion, an answer that is older is asked for again until ctx is
// done; then the error is Unavailable and names the version that is there,
// which is in place.
func (b *Backend) Renew(ctx context.Context, id config.ID, minVersion uint64) (Answer, error) {
	s := b.spot(id)
	for pause := newPause(); ; {
		began := b.cache.since()
		r, err := b.fetch(ctx, id, s, demand{after: began, exact: true, apply: true})
		if err != nil {
			return Answer{}, err
		}
		if r.absent || r.entry.Version >= minVersion {
			return b.fetched(r, began), nil
		}
		if !pause.wait(ctx) {
			return Answer{}, tooOld(r.entry.Version, minVersion)
		}
	}
}

// maxRenewed is how many values one RenewAll puts in place. Behind it, what is
// held is only given up.
const maxRenewed = 10_000

// RenewAll does the same for everything below a prefix in one scope: it lists
// what there is, then gives up whatever the tenant has in memory and puts what
// was listed in its place. It returns how many values there are.
func (b *Backend) RenewAll(ctx context.Context, t config.Tenant, s config.Service, prefix string) (values int, err error) {
	born, began := b.cache.clock.now(), b.cache.since()
	var listed []*Record
	for token := ""; ; {
		page, err := b.Backend.List(ctx, driver.ListRequest{Tenant: t, Service: s, KeyPrefix: prefix, PageSize: driver.MaxPageSize, PageToken: token})
		b.reported(config.ID{}, err)
		if err != nil {
			return 0, err
		}
		values += len(page.Entries)
		for _, e := range page.Entries {
			if len(listed) < maxRenewed && e.ID.Tenant == t && e.ID.Service == s && !e.Deleted {
				listed = append(listed, b.record(e, false, born, began, true)) // List is never eventual: C30
			}
		}
		if page.NextPageToken == "" || page.NextPageToken == token {
			break
		}
		token = page.NextPageToken
	}
	tenant := b.spot(config.ID{Tenant: t}).tenant
	at, clean := b.cache.clock.invalidateTenant(tenant, born)
	for _, r := range listed {
		spot := b.spot(r.entry.ID)
		// Nothing may have been invalidated since the list began, or what was
		// listed may be the older of the two.
		if clean && b.cache.clock.untouched(spot, born, at) {
			r.born = at
			b.keep(spot, r)
		}
	}
	b.views.renew(ctx, t, s, prefix)
	return values, nil
}
