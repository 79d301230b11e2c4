package s3backend

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/config"
)

// How far a chain is read at first and later, in lines of the version list.
const (
	firstLines = 10
	moreLines  = 1000
)

// settledRun is how many records one below the other, each with a smaller
// number than the one above, settle the topmost where no tag does.
const settledRun = 8

// latest bounds, by S3's clock, how long after what it is based on a write of
// this store can still arrive: S3 refuses a request that was signed more than
// 15 minutes ago, and the writer signs at once.
const latest = 16 * time.Minute

// chain is the version list of one object, newest first, and what became of
// each line. S3 lists versions in the order in which it stored them, and that
// order decides:
//
//   - An object of another tool is a version: one more than what is below it.
//   - A delete marker is a version if what is below it is live. Else it says
//     nothing new: it lies on the tombstone of Delete, or on another marker.
//   - An object with a record is the version that the record says if that is
//     more than what is below it. Otherwise its writer came too late (see
//     Store.write) and the object is void: it never was a version. Or it is a
//     copy that some tool made of an earlier version: then it counts as that
//     tool's.
//
// A chain starts at any line and looks down only.
type chain struct {
	s      *Store
	tenant config.Tenant
	path   string
	after  string // the version id above the first line, "" for the top
	served time.Time

	lines   []entry
	more    bool // there are lines below that were not read
	objects map[int]object
	values  map[int][]byte
	places  map[int]place
}

// place is what a line of the version list turned out to be.
type place struct {
	void    bool
	version uint64 // 0 for a delete marker with nothing below
	deleted bool
	// same says that the line is a delete marker which says nothing new.
	same bool
}

// errVanished says that an object was removed while a chain was looked at. It
// is passed on as it is: a copy of it, such as one with a cause, is another error
// to errors.Is.
var errVanished = config.Errorf(config.Unavailable, "a version of the object was removed meanwhile").WithHint("retry")

// looks bounds how often one call looks again at an object that changed while
// it looked.
const looks = 5

// steadily looks again where a version was removed under the look.
func steadily(look func() error) error {
	for range looks {
		if err := look(); !errors.Is(err, errVanished) {
			return err
		}
	}
	return errRestless
}

// chainOf reads the first lines of an object's version list.
func (s *Store) chainOf(ctx context.Context, tenant config.Tenant, path, after string, lines int) (*chain, error) {
	c := &chain{
		s: s, tenant: tenant, path: path, after: after, more: true,
		objects: map[int]object{}, values: map[int][]byte{}, places: map[int]place{},
	}
	return c, c.extend(ctx, lines)
}

// extend reads further lines.
func (c *chain) extend(ctx context.Context, lines int) error {
	after := c.after
	if n := len(c.lines); n > 0 {
		after = c.lines[n-1].id
	}
	found, more, served, err := c.s.versionsOf(ctx, c.tenant, c.path, after, lines)
	if err != nil {
		return err
	}
	c.lines, c.more, c.served = append(c.lines, found...), more && len(found) > 0, served
	return nil
}

// has reports whether there is a line i, and reads on for it. A list with more
// lines than history_limit ends there with an error.
func (c *chain) has(ctx context.Context, i int) (bool, error) {
	for i >= len(c.lines) && c.more {
		if len(c.lines) >= c.s.historyLimit {
			return false, errUnlisted
		}
		if err := c.extend(ctx, moreLines); err != nil {
			return false, err
		}
	}
	return i < len(c.lines), nil
}

// find returns the line of a version id.
func (c *chain) find(ctx context.Context, id string) (int, bool, error) {
	for i := 0; ; i++ {
		ok, err := c.has(ctx, i)
		if !ok || err != nil {
			return 0, false, err
		}
		if c.lines[i].id == id {
			return i, true, nil
		}
	}
}

// know takes over an object that was read otherwise.
func (c *chain) know(i int, o object) { c.objects[i] = o }

// object describes the object at line i, and those below it that it will be
// compared with.
func (c *chain) object(ctx context.Context, i int) (object, error) {
	if o, ok := c.objects[i]; ok {
		return o, nil
	}
	// A line that is asked for below others that say nothing of their own is one
	// of many: the further down, the more are fetched at once.
	ahead := min(1+len(c.objects), parallel)
	var g errgroup.Group
	fetched := make([]object, ahead)
	var wanted []int
	for j := i; j < len(c.lines) && len(wanted) < ahead; j++ {
		if _, ok := c.objects[j]; !ok && !c.lines[j].marker {
			wanted = append(wanted, j)
		}
	}
	for n, j := range wanted {
		g.Go(func() (err error) {
			fetched[n], err = c.s.head(ctx, c.tenant, c.path, c.lines[j].id)
			if err != nil && absent(err) {
				return errVanished
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return object{}, err
	}
	for n, j := range wanted {
		c.objects[j] = fetched[n]
	}
	return c.objects[i], nil
}

// place tells what line i is.
func (c *chain) place(ctx context.Context, i int) (place, error) {
	if p, ok := c.places[i]; ok {
		return p, nil
	}
	p, err := c.look(ctx, i)
	if err != nil {
		return place{}, err
	}
	c.places[i] = p
	if !p.void && !c.lines[i].marker && c.lines[i].id != "null" {
		c.s.memo.put(seen{c.path, c.lines[i].revision()}, p.version)
	}
	return p, nil
}

func (c *chain) look(ctx context.Context, i int) (place, error) {
	if c.lines[i].marker {
		below, _, ok, err := c.below(ctx, i)
		switch {
		case err != nil:
			return place{}, err
		case !ok:
			return place{deleted: true}, nil
		case below.deleted:
			return place{version: below.version, deleted: true, same: true}, nil
		}
		return place{version: below.version + 1, deleted: true}, nil
	}
	o, err := c.object(ctx, i)
	if err != nil {
		return place{}, err
	}
	if version, ok := c.s.known(c.path, o); ok {
		return place{version: version, deleted: o.ours && o.record.deleted}, nil
	}
	if o.ours {
		settled, err := c.run(ctx, i)
		if err != nil {
			return place{}, err
		}
		if settled {
			return place{version: o.record.version, deleted: o.record.deleted}, nil
		}
	}
	below, at, ok, err := c.below(ctx, i)
	switch {
	case err != nil:
		return place{}, err
	case o.ours && (!ok || o.record.version > below.version):
		return place{version: o.record.version, deleted: o.record.deleted}, nil
	case !o.ours && !ok:
		return place{version: 1}, nil
	case !o.ours:
		return place{version: below.version + 1}, nil
	}
	copied, err := c.copied(ctx, i, at)
	if err != nil {
		return place{}, err
	}
	if !copied {
		return place{void: true}, nil
	}
	return place{version: below.version + 1, deleted: o.record.deleted}, nil
}

// known returns the version of an object that needs no look at the list.
func (s *Store) known(path string, o object) (uint64, bool) {
	if o.settled() {
		return o.record.version, true
	}
	if o.id == "null" {
		return 0, false // it can be replaced
	}
	return s.memo.get(seen{path, o.revision()})
}

// run reports whether the object at line i is settled by those below it. If
// it were void, then there would be a version below with a number that is not
// smaller; and all objects down to there would be void too, for they have
// smaller numbers. So many writers do not come too late one after the other,
// with nobody in between who comes in time.
func (c *chain) run(ctx context.Context, i int) (bool, error) {
	o := c.objects[i]
	for n := 1; n < settledRun; n++ {
		if ok, err := c.has(ctx, i+n); err != nil || !ok {
			return false, err
		}
		if c.lines[i+n].marker {
			return false, nil
		}
		next, err := c.object(ctx, i+n)
		if err != nil {
			return false, err
		}
		if !next.ours || next.record.version >= o.record.version {
			return false, nil
		}
		if version, ok := c.s.known(c.path, next); ok {
			return version < o.record.version, nil
		}
		o = next
	}
	return true, nil
}

// below returns the first line under i that is not void, and where it is.
func (c *chain) below(ctx context.Context, i int) (place, int, bool, error) {
	for j := i + 1; ; j++ {
		ok, err := c.has(ctx, j)
		if err != nil || !ok {
			return place{}, 0, false, err
		}
		p, err := c.place(ctx, j)
		if err != nil {
			return place{}, 0, false, err
		}
		if !p.void {
			return p, j, true, nil
		}
	}
}

// copied reports whether the object at line i, whose number is not over that
// of the version at line at below it, is some tool's copy of an earlier
// version, and not a write of this store that came too late.
func (c *chain) copied(ctx context.Context, i, at int) (bool, error) {
	o := c.objects[i]
	creates := o.record.over == digest("") && c.places[at].deleted
	switch {
	case o.modified.Sub(o.record.at) > latest:
		return true, nil
	case !creates && o.record.over != digest(c.lines[i+1].etag):
		return true, nil // it was not made to replace what it replaced
	}
	for j := at; ; j++ {
		ok, err := c.has(ctx, j)
		if err != nil || !ok {
			return false, err
		}
		if c.lines[j].marker {
			continue
		}
		p, err := c.place(ctx, j)
		if err != nil {
			return false, err
		}
		if !p.void && p.version < o.record.version {
			return false, nil
		}
		original, err := c.object(ctx, j)
		if err != nil {
			return false, err
		}
		if original.ours && original.record.write == o.record.write {
			return true, nil
		}
	}
}
