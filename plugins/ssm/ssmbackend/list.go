package ssmbackend

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// The bounds of one listing.
const (
	// maxFolder is how many parameters of one folder a page of List looks at.
	// It is as many as an account has in the standard tier.
	maxFolder = 10_000
	// folderPage is how many GetParametersByPath returns at most.
	folderPage = 10
	// maxCalls ends a listing that has pages and no end: a page may be empty
	// and still have a successor.
	maxCalls = 4 * maxFolder / folderPage
)

// List returns one page of the scope's keys in byte order. Parameter Store
// promises no order, so the first page reads the whole folder: n parameters are
// n/10 calls. A later page that comes soon enough reads its own entries only.
// FailedPrecondition where the folder holds more than 10,000 parameters.
func (s *Store) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	const op = "ssm.List"
	page, err := s.list(ctx, op, r)
	if err != nil {
		return driver.Page{}, config.AsError(err, op, config.Key{})
	}
	return page, nil
}

func (s *Store) list(ctx context.Context, op string, r driver.ListRequest) (driver.Page, error) {
	if err := s.usable(ctx); err != nil {
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
	scope := []string{"list", r.Tenant.String(), r.Service.String(), r.KeyPrefix}
	last := ""
	if r.PageToken != "" {
		if last, err = s.tokens.Open(r.PageToken, scope...); err != nil {
			return driver.Page{}, err
		}
	}
	in, ok := s.region(r)
	if !ok {
		return driver.Page{}, nil // no parameter can lie there
	}
	creates := s.creates.Load()
	if r.PageToken != "" {
		if keys, ok := s.outlines.get(scope, creates); ok {
			return s.later(ctx, op, r, scope, keys, last, size)
		}
	}
	found, keys, err := s.gather(ctx, op, in, last, size+1)
	if err != nil {
		return driver.Page{}, err
	}
	page := driver.Page{Entries: fit(found, size)}
	if n := len(page.Entries); n < len(found) {
		page.NextPageToken = s.tokens.Seal(page.Entries[n-1].ID.Key.String(), scope...)
		s.outlines.put(scope, keys, creates)
	}
	return page, nil
}

// fit returns the entries that a page of this size takes (clause C8).
func fit(entries []config.Entry, size int) []config.Entry {
	values := 0
	for i, e := range entries {
		values += len(e.Value)
		if i == size || i > 0 && values > driver.MaxPageBytes {
			return entries[:i]
		}
	}
	return entries
}

// region is a part of the hierarchy that holds every key of a listing.
type region struct {
	request driver.ListRequest
	folder  string // ends with "/"
	flat    bool   // only direct children count
}

// region returns the smallest folder that holds all keys of the scope that
// start with the prefix, and false where there is none.
func (s *Store) region(r driver.ListRequest) (region, bool) {
	prefix, ok := s.names.NamePrefix(r.KeyPrefix)
	if !ok || !r.Service.IsZero() && !s.names.HasService() {
		return region{}, false
	}
	folder, flat := s.names.Folder(r.Tenant, r.Service)
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		if flat {
			return region{}, false
		}
		folder += prefix[:i+1]
	}
	if reserved(folder) || strings.Count(folder, "/") > maxLevels || len(folder) > maxName {
		return region{}, false
	}
	return region{request: r, folder: folder, flat: flat}, true
}

// gather reads the whole folder and returns the entries of its smallest keys
// behind last, at most n of them, and all keys that there are, sorted.
func (s *Store) gather(ctx context.Context, op string, in region, last string, n int) ([]config.Entry, []string, error) {
	select {
	case s.folders <- struct{}{}:
		defer func() { <-s.folders }()
	case <-ctx.Done():
		return nil, nil, contextError(ctx)
	}
	c := call{op: op, id: config.ID{Tenant: in.request.Tenant}}
	request := &ssm.GetParametersByPathInput{
		Path:           aws.String(folderPath(in.folder)),
		Recursive:      aws.Bool(!in.flat),
		WithDecryption: aws.Bool(true),
		MaxResults:     aws.Int32(folderPage),
	}
	var found []config.Entry
	var keys []string
	seen := 0
	for range maxCalls {
		out, err := do(ctx, s, c, s.client.GetParametersByPath, request)
		if err != nil {
			return nil, nil, err
		}
		if seen += len(out.Parameters); seen > maxFolder {
			return nil, nil, config.Errorf(config.FailedPrecondition, "the folder holds more than %d parameters, which is as many as a listing reads", maxFolder).
				WithHint("list with a key prefix that ends in '/', or spread the keys over services or folders")
		}
		for i := range out.Parameters {
			e, ok, err := s.listed(in, &out.Parameters[i])
			if err != nil {
				return nil, nil, err
			}
			if !ok {
				continue
			}
			key := e.ID.Key.String()
			keys = append(keys, key)
			if key > last {
				found = append(found, e)
			}
		}
		if len(found) > 2*n { // so that a page's worth is held, not a folder's
			found = smallest(found, n)
		}
		token := aws.ToString(out.NextToken)
		if token == "" {
			slices.Sort(keys)
			return smallest(found, n), slices.Compact(keys), nil
		}
		request.NextToken = aws.String(token)
	}
	return nil, nil, config.Errorf(config.Internal, "Parameter Store does not end the pages of a folder")
}

// smallest returns the first n entries in order of key, each key once: while
// parameters change, one may come on two pages. The newer stays.
func smallest(entries []config.Entry, n int) []config.Entry {
	slices.SortFunc(entries, func(a, b config.Entry) int {
		return cmp.Or(strings.Compare(a.ID.Key.String(), b.ID.Key.String()), cmp.Compare(b.Version, a.Version))
	})
	entries = slices.CompactFunc(entries, func(a, b config.Entry) bool { return a.ID == b.ID })
	clear(entries[min(n, len(entries)):])
	return entries[:min(n, len(entries))]
}

// listed returns the entry of a parameter of the folder, and false where it is
// none of the listing's: of another scope, of another prefix, or of no ID at
// all, since others may keep parameters in the same folder. A parameter from
// outside the folder is Internal.
func (s *Store) listed(in region, p *types.Parameter) (config.Entry, bool, error) {
	name := aws.ToString(p.Name)
	if !strings.HasPrefix(name, in.folder) {
		return config.Entry{}, false, errForeign()
	}
	id, ok := s.names.ID(name)
	if !ok || id.Tenant != in.request.Tenant || id.Service != in.request.Service || !strings.HasPrefix(id.Key.String(), in.request.KeyPrefix) {
		return config.Entry{}, false, nil
	}
	e, err := entryOf(id, name, p)
	return e, err == nil, err
}
