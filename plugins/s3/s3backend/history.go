package s3backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// History returns one page of the versions of an ID that the bucket keeps, up
// to history_limit of them over all pages.
func (s *Store) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	const op = "s3.History"
	page, err := s.history(ctx, r)
	if err != nil {
		return driver.Page{}, fail(op, r.ID.Key, err, false)
	}
	return page, nil
}

// position is where a page of History ended.
type position struct {
	version uint64 // of its last entry
	shown   int    // entries so far
	id      string // S3's version id of that entry
}

func (p position) String() string { return fmt.Sprintf("%d %d %s", p.version, p.shown, p.id) }

func parsePosition(text string) (p position, err error) {
	_, err = fmt.Sscanf(text, "%d %d %s", &p.version, &p.shown, &p.id)
	return p, err
}

func (s *Store) history(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	if err := s.begin(ctx); err != nil {
		return driver.Page{}, err
	}
	path, err := s.path(r.ID)
	if err != nil {
		return driver.Page{}, err
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, err
	}
	scope := []string{"history", r.ID.Tenant.String(), r.ID.Service.String(), r.ID.Key.String()}
	var from position
	if r.PageToken != "" {
		payload, err := s.tokens.Open(r.PageToken, scope...)
		if err != nil {
			return driver.Page{}, err
		}
		if from, err = parsePosition(payload); err != nil {
			return driver.Page{}, config.Errorf(config.Internal, "a page token of this store can not be read")
		}
	}
	var h *pastOf
	err = steadily(func() error {
		h = &pastOf{s: s, id: r.ID, path: path, size: size, at: from}
		return h.run(ctx)
	})
	switch {
	case err != nil:
		return driver.Page{}, err
	case from.version == 0 && len(h.page.Entries) == 0:
		return driver.Page{}, errNotFound()
	case h.more:
		h.page.NextPageToken = s.tokens.Seal(h.at.String(), scope...)
	}
	return h.page, nil
}

// pastOf is what one call of History works on.
type pastOf struct {
	s     *Store
	id    config.ID
	path  string
	size  int
	at    position
	page  driver.Page
	bytes int
	more  bool
}

func (h *pastOf) run(ctx context.Context) error {
	c, err := h.s.chainOf(ctx, h.id.Tenant, h.path, h.at.id, min(2*h.size+firstLines, moreLines))
	if h.at.id != "" && err != nil && statusOf(err) == 400 {
		// The version that the token names is no longer there: its number will do.
		c, err = h.s.chainOf(ctx, h.id.Tenant, h.path, "", moreLines)
	}
	if err != nil {
		return err
	}
	for i := 0; ; {
		ok, err := c.has(ctx, i)
		if errors.Is(err, errUnlisted) && len(h.page.Entries) > 0 {
			h.more = true
			return nil
		}
		if err != nil || !ok {
			return err
		}
		n, err := h.fetch(ctx, c, i)
		if err != nil {
			return err
		}
		for ; n > 0; n, i = n-1, i+1 {
			full, err := h.show(ctx, c, i)
			if err != nil || full {
				return err
			}
		}
	}
}

// fetch reads the objects of the next lines, as many as fit into the page, and
// returns how many lines that are, one at least.
func (h *pastOf) fetch(ctx context.Context, c *chain, from int) (int, error) {
	n, expected := 0, int64(h.bytes)
	for from+n < len(c.lines) && n < 2*parallel {
		expected += c.lines[from+n].size
		if n > 0 && expected > driver.MaxPageBytes {
			break
		}
		n++
	}
	if expected > driver.MaxPageBytes && len(h.page.Entries) > 0 {
		return n, nil // the page is full if this line is a version
	}
	objects, values := make([]object, n), make([][]byte, n)
	var g errgroup.Group
	g.SetLimit(parallel)
	for k, line := range c.lines[from : from+n] {
		if line.marker {
			continue
		}
		g.Go(func() (err error) {
			objects[k], values[k], err = h.s.read(ctx, h.id.Tenant, h.path, line.id)
			if err != nil && absent(err) {
				return errVanished
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	for k := range n {
		if !c.lines[from+k].marker {
			c.know(from+k, objects[k])
			c.values[from+k] = values[k]
		}
	}
	return n, nil
}

// show puts a line on the page if it is a version, and reports whether the page
// is full without it.
func (h *pastOf) show(ctx context.Context, c *chain, i int) (full bool, err error) {
	p, err := c.place(ctx, i)
	if err != nil {
		return false, err
	}
	if p.void || p.same || p.version == 0 || h.at.version > 0 && p.version >= h.at.version {
		return false, nil
	}
	if h.at.shown == h.s.historyLimit {
		return true, nil
	}
	value, read := c.values[i]
	if len(h.page.Entries) == h.size || len(h.page.Entries) > 0 && (h.bytes+int(c.lines[i].size) > driver.MaxPageBytes && !p.deleted || !read && !c.lines[i].marker) {
		h.more = true
		return true, nil
	}
	var e config.Entry
	switch {
	case c.lines[i].marker:
		e = config.Entry{
			ID: h.id, Version: p.version, Revision: config.Revision(c.lines[i].revision()), UpdatedAt: c.lines[i].modified.UTC().Truncate(time.Second), Deleted: true,
		}
	case p.deleted:
		e = entryOf(h.id, c.objects[i], p.version, nil)
		e.ContentType, e.Deleted = "", true
	default:
		e = entryOf(h.id, c.objects[i], p.version, value)
		h.bytes += len(value)
	}
	delete(c.values, i)
	h.page.Entries = append(h.page.Entries, e)
	h.at = position{version: p.version, shown: h.at.shown + 1, id: c.lines[i].id}
	return false, nil
}
