package secretsbackend

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Get returns the latest version in one call of GetSecretValue, where tagstore
// wrote it. For one that another tool wrote it takes ListSecretVersionIds too,
// and so it does for every version but the latest.
func (s *Store) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	const op = "secretsmanager.Get"
	e, err := s.get(ctx, id, version)
	if err != nil {
		return config.Entry{}, config.AsError(s.orClosed(err), op, id.Key)
	}
	return e, nil
}

func (s *Store) get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	if err := s.begin(ctx); err != nil {
		return config.Entry{}, err
	}
	name, err := s.path(id)
	if err != nil {
		return config.Entry{}, err
	}
	e, err := s.latest(ctx, id, name)
	if version == 0 || err == nil && e.Version == version {
		return e, err
	}
	if err != nil && config.CodeOf(err) != config.NotFound {
		return config.Entry{}, err
	}
	return s.earlier(ctx, id, name, version)
}

// latest returns the current version's entry.
func (s *Store) latest(ctx context.Context, id config.ID, name string) (config.Entry, error) {
	return settled(ctx, s, func() (config.Entry, bool, error) {
		v, err := s.getSecretValue(ctx, id.Tenant, name, "")
		if isAbsent(err) || isScheduled(err) {
			return config.Entry{}, s.stale(name, "", 0), errNotFound()
		}
		if err != nil {
			return config.Entry{}, false, s.readError(ctx, err)
		}
		e, err := s.current(ctx, id, name, v)
		if err != nil && config.CodeOf(err) != config.NotFound || !s.stale(name, v.arn, e.Version) {
			return e, false, err
		}
		// It may be that somebody moved AWSCURRENT back: that shows here.
		if _, e := s.stateOnce(ctx, id.Tenant, name); e != nil {
			return config.Entry{}, false, e
		}
		return e, s.stale(name, v.arn, e.Version), err
	})
}

// current makes the current version, which was read, an answer. Its error for a
// deletion is NotFound and comes with the deletion's entry.
func (s *Store) current(ctx context.Context, id config.ID, name string, v secret) (config.Entry, error) {
	r := rung{id: v.id, own: v.own, number: v.number, deleted: v.deleted, at: v.at}
	if !v.own {
		all, _, err := s.listVersions(ctx, id.Tenant, name)
		if err != nil {
			if isAbsent(err) {
				return config.Entry{}, errNotFound()
			}
			return config.Entry{}, s.readError(ctx, err)
		}
		steps := rungs(all)
		i := slices.IndexFunc(steps, func(r rung) bool { return r.id == v.id })
		if i < 0 { // it was replaced while we looked, and not by tagstore
			return config.Entry{}, config.Errorf(config.Unavailable, "the secret changed while it was read").WithHint("retry")
		}
		r = steps[i]
		r.at = v.created
	}
	e := entry(id, r, v.value)
	if r.deleted {
		return e, errNotFound()
	}
	return e, nil
}

// earlier returns one version by its number.
func (s *Store) earlier(ctx context.Context, id config.ID, name string, version uint64) (config.Entry, error) {
	all, _, err := s.listVersions(ctx, id.Tenant, name)
	if isAbsent(err) {
		return config.Entry{}, errNotFound()
	}
	if err != nil {
		return config.Entry{}, s.readError(ctx, err)
	}
	steps := rungs(all)
	i := slices.IndexFunc(steps, func(r rung) bool { return r.number == version })
	if i < 0 || steps[i].deleted {
		return config.Entry{}, errNotFound()
	}
	values, err := s.values(ctx, id, name, steps[0], steps[i:i+1])
	if config.CodeOf(err) == config.FailedPrecondition && isScheduled(err) {
		return config.Entry{}, errNotFound() // deleted by another tool
	}
	if err != nil {
		return config.Entry{}, err
	}
	return entry(id, steps[i], values[0]), nil
}

// Refresh reads past what may be behind: DescribeSecret is what AWS names as the
// more recent source, and a version that it names is read by its ID. No later
// read of this Store answers older.
func (s *Store) Refresh(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	const op = "secretsmanager.Refresh"
	return s.each(ctx, op, ids, func(ctx context.Context, id config.ID) (config.Entry, error) {
		name, err := s.path(id)
		if err != nil {
			return config.Entry{}, err
		}
		st, err := s.state(ctx, id.Tenant, name)
		if err != nil {
			return config.Entry{}, err
		}
		if !st.live() {
			if st.deleted {
				s.note(name, st.arn, st.current, st.number, false)
			}
			return config.Entry{}, errNotFound()
		}
		v, err := s.getSecretValue(ctx, id.Tenant, name, st.current)
		if isScheduled(err) || isAbsent(err) { // a deletion came between
			return config.Entry{}, errNotFound()
		}
		if err != nil {
			return config.Entry{}, s.readError(ctx, err)
		}
		s.note(name, st.arn, st.current, st.number, true)
		r := rung{id: v.id, number: st.number, at: v.created}
		if v.own {
			r.at = v.at
		}
		return entry(id, r, v.value), nil
	})
}

// state is where a secret stands, without its value.
type state struct {
	exists    bool
	arn       string
	scheduled bool   // it is in its recovery window
	current   string // ID of the version that is current, "" for none
	empty     bool   // it has no version at all
	stamp            // of the current version
	previous  uint64 // number of the version that was current before, if it is known
}

// live reports whether there is a value.
func (st state) live() bool { return st.exists && !st.scheduled && st.current != "" && !st.deleted }

// next is the number of the version to come.
func (st state) next() uint64 { return max(st.number, st.previous) + 1 }

// state asks DescribeSecret, and for a version that another tool wrote
// ListSecretVersionIds too.
func (s *Store) state(ctx context.Context, tenant config.Tenant, name string) (state, error) {
	st, err := settled(ctx, s, func() (state, bool, error) {
		st, err := s.stateOnce(ctx, tenant, name)
		switch {
		case err != nil:
			return state{}, false, err
		case !st.exists:
			return state{}, s.stale(name, "", 0), errNotFound()
		}
		return st, s.stale(name, st.arn, st.number), nil
	})
	if config.CodeOf(err) == config.NotFound {
		err = nil
	}
	return st, err
}

// stateOnce is state, however old. Where the version that is remembered was
// replaced, by an older one even, it remembers that instead.
func (s *Store) stateOnce(ctx context.Context, tenant config.Tenant, name string) (state, error) {
	out, err := s.describeSecret(ctx, tenant, name)
	if isAbsent(err) {
		return state{}, nil
	}
	if err != nil {
		return state{}, s.readError(ctx, err)
	}
	st := state{exists: true, arn: aws.ToString(out.ARN), scheduled: out.DeletedDate != nil, empty: len(out.VersionIdsToStages) == 0}
	previous := ""
	for v, labels := range out.VersionIdsToStages {
		if slices.Contains(labels, labelCurrent) {
			st.current, st.stamp = v, readStamp(v)
		}
		if slices.Contains(labels, labelPrevious) {
			previous = v
		}
	}
	st.previous = readStamp(previous).number
	if f, ok := s.memory.of(name, s.now()); ok && previous != "" && previous == f.id {
		if s.memory.forget(name); st.own && st.number > f.number {
			s.note(name, st.arn, st.current, st.number, st.live())
		}
	}
	if st.current == "" || st.own {
		return st, nil
	}
	all, _, err := s.listVersions(ctx, tenant, name)
	if err != nil {
		return state{}, s.readError(ctx, err)
	}
	steps := rungs(all)
	if len(steps) == 0 || steps[0].id != st.current {
		return state{}, config.Errorf(config.Unavailable, "the secret changed while it was read").WithHint("retry")
	}
	st.number, st.at, st.previous = steps[0].number, steps[0].at, 0
	return st, nil
}

// readError maps the error of a call that reads.
func (s *Store) readError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ended(ctx, false)
	}
	return fail(err, false)
}
