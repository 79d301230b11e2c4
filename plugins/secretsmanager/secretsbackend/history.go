package secretsbackend

import (
	"context"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// History returns one page of the versions that were current, newest first.
// Values come from one GetSecretValue each, several at a time.
//
// Secrets Manager shows no version of a secret in its recovery window. Where
// tagstore deleted the secret it is taken out of the window for as long as the
// page is read: readDeleted.
func (s *Store) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	const op = "secretsmanager.History"
	page, err := s.history(ctx, r)
	if err != nil {
		return driver.Page{}, config.AsError(s.orClosed(err), op, r.ID.Key)
	}
	return page, nil
}

func (s *Store) history(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	if err := s.begin(ctx); err != nil {
		return driver.Page{}, err
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, err
	}
	name, err := s.path(r.ID)
	if err != nil {
		return driver.Page{}, err
	}
	scope := []string{"history", r.ID.Tenant.String(), r.ID.Service.String(), r.ID.Key.String()}
	before := ^uint64(0)
	if r.PageToken != "" {
		payload, err := s.tokens.Open(r.PageToken, scope...)
		if err != nil {
			return driver.Page{}, err
		}
		before, _ = strconv.ParseUint(payload, 10, 64) // sealed below
	}
	steps, err := s.steps(ctx, r.ID.Tenant, name)
	if err != nil {
		return driver.Page{}, err
	}
	if len(steps) == 0 {
		return driver.Page{}, errNotFound()
	}
	head := steps[0]
	if i := slices.IndexFunc(steps, func(r rung) bool { return r.number < before }); i >= 0 {
		steps = steps[i:]
	} else {
		steps = nil
	}
	values, err := s.values(ctx, r.ID, name, head, steps[:min(size, len(steps))])
	if err != nil {
		if isScheduled(err) {
			err = errDeletedElsewhere()
		}
		return driver.Page{}, err
	}
	var page driver.Page
	for i, value := range values {
		page.Entries = append(page.Entries, entry(r.ID, steps[i], value))
	}
	if n := len(values); n < len(steps) {
		page.NextPageToken = s.tokens.Seal(strconv.FormatUint(steps[n-1].number, 10), scope...)
	}
	return page, nil
}

// steps returns the versions of a secret that were current, newest first; none
// where there is no such secret.
func (s *Store) steps(ctx context.Context, tenant config.Tenant, name string) ([]rung, error) {
	found, err := settled(ctx, s, func() ([]rung, bool, error) {
		all, arn, err := s.listVersions(ctx, tenant, name)
		if isAbsent(err) {
			return nil, s.stale(name, "", 0), errNotFound()
		}
		if err != nil {
			return nil, false, s.readError(ctx, err)
		}
		steps := rungs(all)
		if len(steps) == 0 {
			return nil, false, nil
		}
		if s.stale(name, arn, steps[0].number) {
			// It may be that somebody moved AWSCURRENT back: that shows here.
			if _, err := s.stateOnce(ctx, tenant, name); err != nil {
				return nil, false, err
			}
		}
		return steps, s.stale(name, arn, steps[0].number), nil
	})
	if config.CodeOf(err) == config.NotFound {
		err = nil
	}
	return found, err
}

// values reads the values of these versions, nil for deletions: of all, or of as
// many from the first as MaxPageBytes has room for. head is the current version. An error for which isScheduled holds says that another tool
// deleted the secret.
func (s *Store) values(ctx context.Context, id config.ID, name string, head rung, steps []rung) ([][]byte, error) {
	if !slices.ContainsFunc(steps, func(r rung) bool { return !r.deleted }) {
		return make([][]byte, len(steps)), nil
	}
	if head.deleted {
		return s.readDeleted(ctx, id, name, steps)
	}
	values, err := s.read(ctx, id, name, steps)
	if isScheduled(err) { // deleted meanwhile, perhaps by tagstore
		if now, e := s.steps(ctx, id.Tenant, name); e == nil && len(now) > 0 && now[0].deleted {
			return s.readDeleted(ctx, id, name, steps)
		}
	}
	return values, err
}

// read reads the values of these versions of a secret that is not in its
// recovery window, as values does.
func (s *Store) read(ctx context.Context, id config.ID, name string, steps []rung) ([][]byte, error) {
	var values [][]byte
	bytes := 0
	for chunk := range slices.Chunk(steps, parallel) {
		got, err := s.readChunk(ctx, id, name, chunk)
		if err != nil {
			return nil, err
		}
		for _, value := range got {
			if bytes += len(value); bytes > driver.MaxPageBytes && len(values) > 0 {
				return values, nil
			}
			values = append(values, value)
		}
	}
	return values, nil
}

func (s *Store) readChunk(ctx context.Context, id config.ID, name string, steps []rung) ([][]byte, error) {
	values := make([][]byte, len(steps))
	g, group := errgroup.WithContext(ctx)
	for i, step := range steps {
		if step.deleted {
			continue
		}
		g.Go(func() error {
			v, err := s.getSecretValue(group, id.Tenant, name, step.id)
			if isAbsent(err) {
				return config.Errorf(config.Unavailable, "a version was dropped while the history was read").WithHint("retry")
			}
			if err != nil {
				return s.readError(ctx, err)
			}
			values[i] = v.value
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return values, nil
}
