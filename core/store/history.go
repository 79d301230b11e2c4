package store

import (
	"context"
	"strconv"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// HistoryRequest asks for one page of the versions of a key.
type HistoryRequest struct {
	Scope     Scope
	Key       config.Key
	PageSize  int // as in driver.ListRequest
	PageToken string
}

// History returns the versions that are kept of the layer that the scope
// names, newest first, deletions included. NotFound where the key never was.
// A page token is good for the same key and scope only.
func (s *Store) History(ctx context.Context, r HistoryRequest) (_ driver.Page, err error) {
	const op = "store.History"
	defer s.observe(ctx, op, time.Now(), &err)
	c, err := s.on(op, r.Key)
	if err != nil {
		return driver.Page{}, err
	}
	p, err := r.Scope.place(c.route)
	if err != nil {
		return driver.Page{}, c.refused(err)
	}
	past, err := c.past(p.id(r.Key))
	if err != nil {
		return driver.Page{}, err
	}
	if past.size, err = driver.CheckPageSize(r.PageSize); err != nil {
		return driver.Page{}, c.refused(err)
	}
	seal := []string{"history", c.route.BackendName, past.id.Encode()}
	if r.PageToken != "" {
		payload, err := s.tokens.Open(r.PageToken, seal...)
		if err != nil {
			return driver.Page{}, c.refused(err)
		}
		past.resume(payload)
	}
	if err := past.fetch(ctx); err != nil {
		return driver.Page{}, err
	}
	if past.missing {
		return driver.Page{}, c.notFound()
	}
	page := driver.Page{Entries: past.page}
	if past.token != "" {
		page.NextPageToken = s.tokens.Seal(past.position(), seal...)
	}
	return page, nil
}

// past walks the versions of one ID, newest first.
type past struct {
	call
	from    driver.Historian
	id      config.ID
	size    int
	page    []config.Entry // fetched and not walked over
	token   string         // of the next page, "" if there is none
	last    uint64         // version that was fetched last, 0 before the first
	begun   bool
	missing bool // the ID never existed
}

func (c call) past(id config.ID) (*past, error) {
	h, ok := driver.AsHistorian(c.route.Backend)
	if !ok {
		return nil, c.unable("tell the history of a value")
	}
	return &past{call: c, from: h, id: id, size: driver.DefaultPageSize}, nil
}

// position and resume carry a walk over to another call.
func (p *past) position() string { return strconv.FormatUint(p.last, 10) + " " + p.token }

func (p *past) resume(position string) {
	for i := range len(position) {
		if position[i] == ' ' {
			p.last, _ = strconv.ParseUint(position[:i], 10, 64) // sealed, so it is what position wrote
			p.token, p.begun = position[i+1:], true
			return
		}
	}
}

// next returns the next older version; found is false behind the oldest.
func (p *past) next(ctx context.Context) (e config.Entry, found bool, err error) {
	for len(p.page) == 0 {
		if p.begun && p.token == "" {
			return config.Entry{}, false, nil
		}
		if err := p.fetch(ctx); err != nil {
			return config.Entry{}, false, err
		}
	}
	e, p.page = p.page[0], p.page[1:]
	return e, true, nil
}

// fetch gets the next page and checks every version of it.
func (p *past) fetch(ctx context.Context) error {
	got, err := p.from.History(ctx, driver.HistoryRequest{ID: p.id, PageSize: p.size, PageToken: p.token})
	if err != nil && config.CodeOf(err) == config.NotFound && !p.begun {
		p.begun, p.missing = true, true
		return nil
	}
	switch {
	case err != nil:
		return p.failed(ctx, err)
	case len(got.Entries) > p.size:
		return p.violation(ctx, "page too long")
	case len(got.NextPageToken) > maxBackendToken || got.NextPageToken != "" && got.NextPageToken == p.token:
		return p.violation(ctx, "bad page token")
	}
	for i, e := range got.Entries {
		if wrong := foreign(e.ID, p.id); wrong != "" {
			return p.violation(ctx, wrong)
		}
		if p.last != 0 && e.Version >= p.last {
			return p.violation(ctx, "versions out of order")
		}
		p.last = e.Version
		got.Entries[i] = filled(e)
	}
	p.page, p.token, p.begun = got.Entries, got.NextPageToken, true
	return nil
}
