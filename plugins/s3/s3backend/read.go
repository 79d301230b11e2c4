package s3backend

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Get returns the latest live entry of id for version 0, else that version.
// The latest takes one request to S3, unless another tool wrote the object or
// its writer was interrupted.
func (s *Store) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	const op = "s3.Get"
	e, err := s.get(ctx, id, version)
	if err != nil {
		return config.Entry{}, fail(op, id.Key, err, false)
	}
	return e, nil
}

// batchBytes is from how many bytes of values on a batch reads no further: a
// hundred of the largest would take 800 MiB. The plugin protocol sends 3 MiB of a
// batch in one message and asks again for the rest, so its callers never see
// where this ends.
const batchBytes = 32 << 20

func errBatchFull() *config.Error {
	return config.Errorf(config.ResourceExhausted, "the values of this batch before this one have more than %d MiB together", batchBytes>>20).
		WithHint("ask for fewer keys at a time")
}

// BatchGet is as many Gets, a few at once. Keys behind more than 32 MiB of
// values are ResourceExhausted.
func (s *Store) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	const op, each = "s3.BatchGet", "s3.Get" // a batch is many Gets, down to their errors
	if err := s.begin(ctx); err != nil {
		return nil, fail(op, config.Key{}, err, false)
	}
	first := make(map[config.ID]int, len(ids))
	results := make([]driver.Result, len(ids))
	var g errgroup.Group
	g.SetLimit(parallel)
	var bytes atomic.Int64 // of values that were read
	for i, id := range ids {
		if _, ok := first[id]; ok {
			continue
		}
		first[id] = i
		if bytes.Load() > s.batchBytes { // all of keys before this one
			results[i].Err = fail(each, id.Key, errBatchFull(), false)
			continue
		}
		g.Go(func() error {
			e, err := s.get(ctx, id, 0)
			if err != nil {
				results[i].Err = fail(each, id.Key, err, false)
				return nil
			}
			bytes.Add(int64(len(e.Value)))
			results[i].Entry = e
			return nil
		})
	}
	_ = g.Wait() // each has its own result
	if err := done(ctx); err != nil {
		return nil, fail(op, config.Key{}, err, false)
	}
	var before int64
	for i, id := range ids {
		switch from := first[id]; {
		case from == i:
		case before > s.batchBytes:
			results[i].Err = fail(each, id.Key, errBatchFull(), false)
		default:
			results[i] = driver.Result{Entry: results[from].Entry.Clone(), Err: results[from].Err}
		}
		before += int64(len(results[i].Entry.Value))
	}
	return results, nil
}

func (s *Store) get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	if err := s.begin(ctx); err != nil {
		return config.Entry{}, err
	}
	path, err := s.path(id)
	if err != nil {
		return config.Entry{}, err
	}
	var e config.Entry
	err = steadily(func() (err error) {
		if version == 0 {
			e, err = s.latest(ctx, id, path)
		} else {
			e, err = s.version(ctx, id, path, version)
		}
		return err
	})
	return e, err
}

// latest returns the entry behind an object's current version.
func (s *Store) latest(ctx context.Context, id config.ID, path string) (config.Entry, error) {
	o, value, err := s.read(ctx, id.Tenant, path, "")
	switch {
	case err == nil:
	case absent(err), denied(err) && s.unlisted(ctx, id.Tenant, path):
		return config.Entry{}, errNotFound()
	default:
		return config.Entry{}, err
	}
	if version, ok := s.known(path, o); ok {
		if o.ours && o.record.deleted {
			return config.Entry{}, errNotFound()
		}
		return entryOf(id, o, version, value), nil
	}
	c, err := s.chainOf(ctx, id.Tenant, path, "", firstLines)
	if err != nil {
		return config.Entry{}, err
	}
	i, ok, err := c.find(ctx, o.id)
	if err != nil {
		return config.Entry{}, err
	}
	if !ok {
		return config.Entry{}, errVanished
	}
	c.know(i, o)
	p, err := c.place(ctx, i)
	if err != nil {
		return config.Entry{}, err
	}
	if !p.void {
		if p.deleted {
			return config.Entry{}, errNotFound()
		}
		return entryOf(id, o, p.version, value), nil
	}
	p, i, ok, err = c.below(ctx, i)
	switch {
	case err != nil:
		return config.Entry{}, err
	case !ok || p.deleted:
		return config.Entry{}, errNotFound()
	}
	return s.at(ctx, id, path, c.lines[i].id, p.version)
}

// unlisted reports whether the version list shows that there is no current
// object. A caller who may list one tenant's part of the bucket only is denied
// an object that is not there.
func (s *Store) unlisted(ctx context.Context, tenant config.Tenant, path string) bool {
	lines, _, _, err := s.versionsOf(ctx, tenant, path, "", firstLines)
	return err == nil && (len(lines) == 0 || lines[0].marker)
}

// at returns the entry of one version of an object.
func (s *Store) at(ctx context.Context, id config.ID, path, versionID string, version uint64) (config.Entry, error) {
	o, value, err := s.read(ctx, id.Tenant, path, versionID)
	if err != nil {
		if absent(err) {
			return config.Entry{}, errVanished
		}
		return config.Entry{}, err
	}
	return entryOf(id, o, version, value), nil
}

// version returns an entry by its number: the version list is searched for it.
func (s *Store) version(ctx context.Context, id config.ID, path string, version uint64) (config.Entry, error) {
	c, err := s.chainOf(ctx, id.Tenant, path, "", moreLines)
	if err != nil {
		return config.Entry{}, err
	}
	i, ok, err := c.search(ctx, version)
	if err != nil {
		return config.Entry{}, err
	}
	if !ok || c.places[i].deleted {
		return config.Entry{}, errNotFound()
	}
	return s.at(ctx, id, path, c.lines[i].id, version)
}

// search returns the line of a version, marker or not. Numbers fall from line
// to line, so it halves the list; where all versions are there, its first guess
// is right.
func (c *chain) search(ctx context.Context, version uint64) (int, bool, error) {
	top, first, ok, err := c.below(ctx, -1)
	if err != nil || !ok || version > top.version {
		return 0, false, err
	}
	// Every version has a line or more, unless some were removed.
	low, guess := first, first+int(min(top.version-version, uint64(c.s.historyLimit)))
	for c.more && len(c.lines) <= guess && len(c.lines) < c.s.historyLimit {
		if err := c.extend(ctx, moreLines); err != nil {
			return 0, false, err
		}
	}
	high := len(c.lines)
	guess = min(guess, high-1)
	for low < high {
		// The first line from guess on that is not void, if there is one.
		p, i := place{}, guess
		for ; i < high; i++ {
			if p, err = c.place(ctx, i); err != nil {
				return 0, false, err
			}
			if !p.void && !p.same {
				break
			}
		}
		switch {
		case i == high || p.version < version:
			high = guess
		case p.version > version:
			low = i + 1
		default:
			return i, true, nil
		}
		guess = low + (high-low)/2
	}
	return 0, false, nil
}
