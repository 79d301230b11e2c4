package secretsbackend

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// gatherMost is how many secrets one scope may have for List to put them in
// order: ListSecrets has only the order of creation, so every page gathers the
// names of all, 100 per call.
const gatherMost = 10_000

const namesPerCall = 100

// List returns one page of the live entries of a scope. The names come from
// ListSecrets, which may be five minutes behind what other writers made; what
// this Store wrote or refreshed is always among them. The values come from
// BatchGetSecretValue. A secret that can not be read fails the call with the
// secret's key: no entry is left out in silence.
func (s *Store) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	const op = "secretsmanager.List"
	page, err := s.list(ctx, r)
	if err != nil {
		return driver.Page{}, config.AsError(s.orClosed(err), op, config.Key{})
	}
	return page, nil
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
	scope := []string{"list", r.Tenant.String(), r.Service.String(), r.KeyPrefix}
	after := ""
	if r.PageToken != "" {
		if after, err = s.tokens.Open(r.PageToken, scope...); err != nil {
			return driver.Page{}, err
		}
	}
	ids, err := s.gather(ctx, r)
	if err != nil {
		return driver.Page{}, err
	}
	ids = slices.DeleteFunc(ids, func(id config.ID) bool { return id.Key.String() <= after })
	page, last, err := s.fill(ctx, ids, size)
	if err != nil {
		return driver.Page{}, err
	}
	if last != "" {
		page.NextPageToken = s.tokens.Seal(last, scope...)
	}
	return page, nil
}

// gather returns the IDs of a scope and key prefix, in order of key.
func (s *Store) gather(ctx context.Context, r driver.ListRequest) ([]config.ID, error) {
	start, ok := s.names.NamePrefix(r.KeyPrefix)
	if !ok {
		return nil, nil
	}
	folder, _ := s.names.Folder(r.Tenant, r.Service)
	prefix := folder + start
	if len(prefix) > maxName {
		return nil, nil
	}
	found := map[config.ID]bool{}
	add := func(name string) error {
		// The filter may match more than it should, and others may put
		// anything there.
		id, ok := s.names.ID(name)
		if !ok || id.Tenant != r.Tenant || id.Service != r.Service || !strings.HasPrefix(id.Key.String(), r.KeyPrefix) {
			return nil
		}
		if found[id] = true; len(found) > gatherMost {
			return errTooMany()
		}
		return nil
	}
	for _, name := range s.memory.live(prefix, s.now()) {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	in := &secretsmanager.ListSecretsInput{
		MaxResults: aws.Int32(namesPerCall),
		Filters:    []types.Filter{{Key: types.FilterNameStringTypeName, Values: []string{prefix}}},
	}
	for seen := 0; ; {
		out, err := s.listPage(ctx, r.Tenant, in)
		if err != nil {
			return nil, s.readError(ctx, err)
		}
		for _, secret := range out.SecretList {
			if err := add(aws.ToString(secret.Name)); err != nil {
				return nil, err
			}
		}
		if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
			break
		}
		if seen += namesPerCall; seen > 2*gatherMost { // mostly names that no key has
			return nil, errTooMany()
		}
	}
	ids := make([]config.ID, 0, len(found))
	for id := range found {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b config.ID) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return ids, nil
}

func (s *Store) listPage(ctx context.Context, tenant config.Tenant, in *secretsmanager.ListSecretsInput) (*secretsmanager.ListSecretsOutput, error) {
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	return s.api.ListSecrets(ctx, in, s.as(tenant))
}

// fill reads as many of ids as make a page, and returns the key of the last one
// that it looked at, "" if that was the end.
func (s *Store) fill(ctx context.Context, ids []config.ID, size int) (driver.Page, string, error) {
	var page driver.Page
	values, last := 0, ""
	for len(ids) > 0 {
		n := min(len(ids), batchSize, max(size-len(page.Entries), 1))
		for i, r := range s.batch(ctx, ids[:n]) {
			switch {
			case ctx.Err() != nil:
				return driver.Page{}, "", ended(ctx, false)
			case config.CodeOf(r.Err) == config.NotFound && r.Err != nil:
			case r.Err != nil:
				return driver.Page{}, "", config.AsError(s.orClosed(r.Err), "", ids[i].Key)
			default:
				values += len(r.Entry.Value)
				if len(page.Entries) == size || values > driver.MaxPageBytes && len(page.Entries) > 0 {
					return page, last, nil
				}
				page.Entries = append(page.Entries, r.Entry)
			}
			last = ids[i].Key.String()
		}
		if ids = ids[n:]; len(page.Entries) == size && len(ids) > 0 {
			return page, last, nil
		}
	}
	return page, "", nil
}

func errTooMany() *config.Error {
	return config.Errorf(config.ResourceExhausted, "there are more than %d secrets to put in order", gatherMost).
		WithHint("list with a longer key prefix")
}
