package dynamodbbackend

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/keypath"
)

// History returns one page of the versions of an ID that are kept, newest first,
// read with strong consistency. A state that another tool made is the newest,
// though it has no record yet. A record that can not be read fails the call with
// DataLoss.
func (s *Store) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	const op = "dynamodb.History"
	if err := s.begin(ctx, op, r.ID.Key); err != nil {
		return driver.Page{}, err
	}
	page, err := s.history(ctx, r)
	if err != nil {
		return driver.Page{}, s.fail(ctx, err, op, r.ID.Key)
	}
	return page, nil
}

func (s *Store) history(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	at, err := s.keymap.current(r.ID)
	if err != nil {
		return driver.Page{}, err
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, err
	}
	scope := []string{"history", r.ID.Tenant.String(), r.ID.Service.String(), r.ID.Key.String()}
	q := query{store: s, tenant: r.ID.Tenant, pk: at.pk, prefix: historyFolder(at)}
	if r.PageToken != "" {
		if q.after, err = s.tokens.Open(r.PageToken, scope...); err != nil {
			return driver.Page{}, err
		}
	}
	p := pager{size: size}
	first := r.PageToken == ""
	var now state
	if first {
		if now, err = s.current(ctx, r.ID, at); err != nil {
			return driver.Page{}, err
		}
	}
	// The current state stands in front unless the records have it, or are ahead
	// of it already.
	pending := first && now.exists
	lead := func(newest uint64) error {
		if !pending {
			return nil
		}
		pending = false
		if newest >= now.version {
			return nil
		}
		e, err := now.asVersion(r.ID)
		if err != nil {
			return err
		}
		return p.add(e)
	}
	seen := false
	more, err := q.run(ctx, &p, func(key itemKey, item map[string]types.AttributeValue) error {
		version, ok := versionOf(q.prefix, key.sk)
		if !ok || expired(item, s.ttlAttribute, s.now()) {
			return nil
		}
		seen = true
		if err := lead(version); err != nil {
			return err
		}
		e, err := historical(r.ID, version, item)
		if err != nil {
			return err
		}
		return p.add(e)
	})
	if err != nil {
		return driver.Page{}, err
	}
	if !seen {
		if err := lead(0); err != nil {
			return driver.Page{}, err
		}
	}
	switch page := (driver.Page{Entries: p.entries}); {
	case more:
		if q.after == "" { // full before the first record
			q.after = q.prefix + keypath.AfterVersions
		}
		page.NextPageToken = s.tokens.Seal(q.after, scope...)
		return page, nil
	case first && !seen && !now.exists:
		return driver.Page{}, errNotFound()
	default:
		return page, nil
	}
}
