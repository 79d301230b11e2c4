package s3backend

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// maxListings bounds the requests of one page, where much of what they show is
// no value of the scope.
const maxListings = 10

// List returns one page of the live entries of a scope. S3 lists keys in byte
// order, with their sizes, so a page fetches what it returns and little more.
// An object that can not be read fails the call with its key: no entry is left
// out in silence. Objects whose keys are no IDs of this store are not seen.
func (s *Store) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	const op = "s3.List"
	page, err := s.list(ctx, r)
	if err != nil {
		return driver.Page{}, fail(op, config.Key{}, err, false)
	}
	return page, nil
}

// A page token holds the key behind which to go on, or S3's own token where
// the page ended at the end of a listing. The first byte tells them apart.
const (
	behindKey  = 'k'
	continuing = 's'
)

// listing is what one call of List works on.
type listing struct {
	s       *Store
	r       driver.ListRequest
	scope   []string // of the token
	size    int
	prefix  string // of the object keys
	flat    bool
	page    driver.Page
	bytes   int
	through string // key of the last object that the page is done with
	full    bool
}

func (s *Store) list(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	if err := s.begin(ctx); err != nil {
		return driver.Page{}, err
	}
	if r.Tenant.IsZero() {
		return driver.Page{}, config.Errorf(config.InvalidArgument, "the request has no tenant")
	}
	if _, err := config.ParseKeyPrefix(r.KeyPrefix); err != nil {
		return driver.Page{}, err
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, err
	}
	l := &listing{s: s, r: r, size: size, scope: []string{"list", r.Tenant.String(), r.Service.String(), r.KeyPrefix}}
	in := &s3.ListObjectsV2Input{Bucket: &s.bucket, EncodingType: types.EncodingTypeUrl}
	if r.PageToken != "" {
		payload, err := s.tokens.Open(r.PageToken, l.scope...)
		if err != nil {
			return driver.Page{}, err
		}
		if payload[0] == behindKey { // sealed below
			in.StartAfter = aws.String(payload[1:])
		} else {
			in.ContinuationToken = aws.String(payload[1:])
		}
	}
	name, ok := s.paths.NamePrefix(r.KeyPrefix)
	if !ok {
		return driver.Page{}, nil // no key of this store starts so
	}
	folder, flat := s.paths.Folder(r.Tenant, r.Service)
	l.prefix, l.flat = folder+name, flat
	in.Prefix = &l.prefix
	if flat {
		in.Delimiter = aws.String("/") // deeper keys are those of the services
	}
	return l.run(ctx, in)
}

func (l *listing) run(ctx context.Context, in *s3.ListObjectsV2Input) (driver.Page, error) {
	for n := 1; ; n++ {
		in.MaxKeys = aws.Int32(int32(l.size - len(l.page.Entries)))
		if l.flat {
			in.MaxKeys = aws.Int32(1000) // a service takes a place too
		}
		out, err := l.request(ctx, in)
		if err != nil {
			return driver.Page{}, err
		}
		found := l.candidates(out.Contents)
		for len(found) > 0 && !l.full {
			taken, err := l.take(ctx, found)
			if err != nil {
				return driver.Page{}, err
			}
			found = found[taken:]
		}
		truncated := aws.ToBool(out.IsTruncated)
		switch {
		case !truncated && len(found) == 0:
			return l.page, nil
		case l.full || len(found) > 0:
			return l.end(behindKey, l.through), nil
		case n == maxListings:
			return l.end(continuing, aws.ToString(out.NextContinuationToken)), nil
		}
		in.StartAfter, in.ContinuationToken = nil, out.NextContinuationToken
	}
}

func (l *listing) request(ctx context.Context, in *s3.ListObjectsV2Input) (*s3.ListObjectsV2Output, error) {
	ctx, cancel := l.s.conn.WithTimeout(ctx)
	defer cancel()
	return l.s.client.ListObjectsV2(ctx, in, l.s.as(l.r.Tenant))
}

func (l *listing) end(kind byte, position string) driver.Page {
	l.page.NextPageToken = l.s.tokens.Seal(string(kind)+position, l.scope...)
	return l.page
}

// candidate is an object whose key is an ID of the scope.
type candidate struct {
	id   config.ID
	path string
	size int64
}

func (l *listing) candidates(contents []types.Object) []candidate {
	found := make([]candidate, 0, len(contents))
	for _, o := range contents {
		path, err := url.QueryUnescape(aws.ToString(o.Key))
		if err != nil {
			continue
		}
		id, ok := l.s.paths.ID(path)
		if !ok || id.Tenant != l.r.Tenant || id.Service != l.r.Service || !strings.HasPrefix(id.Key.String(), l.r.KeyPrefix) {
			continue
		}
		found = append(found, candidate{id, path, aws.ToInt64(o.Size)})
	}
	return found
}

// take reads as many objects as fit into the page by what the listing says of
// their sizes, one at least if the page is empty, and returns how many it is
// done with.
func (l *listing) take(ctx context.Context, found []candidate) (int, error) {
	n, expected := 0, int64(l.bytes)
	for n < len(found) && n < l.size-len(l.page.Entries) {
		expected += found[n].size
		if expected > driver.MaxPageBytes && (n > 0 || len(l.page.Entries) > 0) {
			break
		}
		n++
	}
	if n == 0 {
		l.full = true
		return 0, nil
	}
	entries := make([]config.Entry, n)
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, c := range found[:n] {
		g.Go(func() error {
			e, err := l.s.get(ctx, c.id, 0)
			switch {
			case errors.Is(err, config.NotFound): // deleted since it was listed
				return nil
			case err != nil:
				return fail("", c.id.Key, err, false)
			}
			entries[i] = e
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	for i, e := range entries {
		if !e.ID.IsZero() {
			if l.bytes+len(e.Value) > driver.MaxPageBytes && len(l.page.Entries) > 0 {
				l.full = true // it has grown since it was listed
				return i, nil
			}
			l.page.Entries = append(l.page.Entries, e)
			l.bytes += len(e.Value)
		}
		l.through = found[i].path
	}
	l.full = len(l.page.Entries) == l.size
	return n, nil
}
