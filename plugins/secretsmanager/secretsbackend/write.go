package secretsbackend

import (
	"bytes"
	"context"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

const (
	// writeBudget bounds a write from its first change on, whatever its caller
	// does.
	writeBudget = 30 * time.Second
	// rounds is how often a write begins anew when others come between. Only one
	// that expects any version, or none, needs more than two.
	rounds = 12
	// commitTries is how often a commit is repeated that Secrets Manager refused
	// although nothing stands in its way, because it does not see the new version
	// yet.
	commitTries = 5
)

// tombstone is what other tools find in the version that a deletion makes, if
// they take the secret out of its recovery window by hand.
const tombstone = `{"tagstore":"deleted"}`

// Put writes a new version, in the three calls that the package documentation
// describes; the first version of a secret takes CreateSecret instead.
func (s *Store) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	const op = "secretsmanager.Put"
	e, err := s.put(ctx, r)
	if err != nil {
		return config.Entry{}, config.AsError(s.orClosed(err), op, r.ID.Key)
	}
	return e, nil
}

func (s *Store) put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	if err := s.begin(ctx); err != nil {
		return config.Entry{}, err
	}
	name, err := s.path(r.ID)
	switch {
	case err != nil:
		return config.Entry{}, err
	case len(r.Value) == 0:
		return config.Entry{}, config.Errorf(config.InvalidArgument, "the value is empty, and Secrets Manager keeps no empty values").
			WithHint(`put one that means nothing to its reader, such as {}`)
	case len(r.Value) > s.maxValue:
		return config.Entry{}, config.Errorf(config.InvalidArgument, "the value has %d bytes, the limit is %d", len(r.Value), s.maxValue)
	}
	if err := driver.CheckInferredType(r.ContentType); err != nil {
		return config.Entry{}, err
	}
	r.Value = bytes.Clone(r.Value) // the write may outlive the call
	return s.write(ctx, name, func(reading, writing context.Context) (config.Entry, error) {
		w := writer{Store: s, id: r.ID, name: name, reading: reading, writing: writing}
		return w.put(r.Value, r.Expect)
	})
}

// Delete writes a version that says so, and then schedules the secret for
// deletion.
func (s *Store) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	const op = "secretsmanager.Delete"
	e, err := s.delete(ctx, r)
	if err != nil {
		return config.Entry{}, config.AsError(s.orClosed(err), op, r.ID.Key)
	}
	return e, nil
}

func (s *Store) delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	if err := s.begin(ctx); err != nil {
		return config.Entry{}, err
	}
	name, err := s.path(r.ID)
	if err != nil {
		return config.Entry{}, err
	}
	return s.write(ctx, name, func(reading, writing context.Context) (config.Entry, error) {
		w := writer{Store: s, id: r.ID, name: name, reading: reading, writing: writing}
		return w.delete(r.Expect)
	})
}

// write runs a write alone among this Store's writes of that secret. Its calls
// that change nothing end with the caller's context. From the first that does it
// runs to its end, so that no caller who gives up leaves half a write behind;
// the caller is let go at once.
func (s *Store) write(ctx context.Context, name string, do func(reading, writing context.Context) (config.Entry, error)) (config.Entry, error) {
	return alone(ctx, s, name, true, do)
}

// alone is write for any answer; writes tells whether a caller who gives up has
// to be told that something may have changed.
func alone[T any](ctx context.Context, s *Store, name string, writes bool, do func(reading, writing context.Context) (T, error)) (T, error) {
	var none T
	unlock, err := s.locks.lock(ctx, s.closed, name)
	if err != nil {
		return none, err
	}
	s.mu.RLock()
	if s.shut {
		s.mu.RUnlock()
		unlock()
		return none, errClosed()
	}
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	s.writes.Go(func() {
		defer unlock()
		writing, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeBudget)
		defer cancel()
		var a answer
		a.value, a.err = do(ctx, writing)
		done <- a
	})
	s.mu.RUnlock()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
		select {
		case a := <-done: // both
			return a.value, a.err
		default:
			return none, ended(ctx, writes)
		}
	}
}

// writer is one write under way.
type writer struct {
	*Store
	id      config.ID
	name    string
	reading context.Context
	writing context.Context
}

// outcome is what became of an attempt to commit.
type outcome int

const (
	lost outcome = iota // another writer was first, and nothing was written
	committed
)

func (w writer) put(value []byte, expect driver.Expect) (config.Entry, error) {
	for round := range rounds {
		st, err := w.look(round)
		if err != nil {
			return config.Entry{}, err
		}
		if !expect.Match(st.number, st.live()) {
			return config.Entry{}, errConflict(st.number)
		}
		restored := false
		if st.exists && (st.scheduled || st.deleted) {
			if restored, err = w.revive(st); err != nil {
				return config.Entry{}, err
			}
		}
		made, out, err := w.commit(st, false, value)
		if err != nil {
			if restored && st.deleted && config.CodeOf(err) != config.OutcomeUnknown {
				_ = w.schedule(st.id, w.days) // as it was; the write's error says more
			}
			return config.Entry{}, err
		}
		if out == committed {
			e := w.answer(made)
			e.ContentType = driver.InferType(value)
			return e, nil
		}
	}
	return config.Entry{}, errBusy()
}

func (w writer) delete(expect driver.Expect) (config.Entry, error) {
	for round := range rounds {
		st, err := w.look(round)
		if err != nil {
			return config.Entry{}, err
		}
		if !st.live() {
			if st.exists && st.deleted && !st.scheduled {
				// What a deletion that was cut short left to do.
				if err := w.schedule(st.id, w.days); err != nil {
					w.scheduleFailed(err)
				}
			}
			return config.Entry{}, errNotFound()
		}
		if !expect.Match(st.number, true) {
			return config.Entry{}, errConflict(st.number)
		}
		made, out, err := w.commit(st, true, []byte(tombstone))
		if err != nil {
			return config.Entry{}, err
		}
		if out == committed {
			if err := w.schedule(made.id, w.days); err != nil {
				w.scheduleFailed(err)
				return config.Entry{}, errUnscheduled(made.number, fail(err, false))
			}
			return w.answer(made), nil
		}
	}
	return config.Entry{}, errBusy()
}

func (w writer) answer(made stamp) config.Entry {
	return config.Entry{
		ID: w.id, Version: made.number, Revision: config.Revision(made.id), UpdatedAt: made.at, Secret: true, Deleted: made.deleted,
	}
}

func errBusy() *config.Error {
	return config.Errorf(config.Unavailable, "other writers came first %d times, and nothing was written", rounds).WithHint("retry")
}

// look reads where the secret stands, after a pause where several rounds were
// lost. The first time, what is there now most often ends the write.
func (w writer) look(round int) (state, error) {
	if round > 1 {
		if err := w.pause(w.reading, min(round-2, 2)); err != nil {
			return state{}, err
		}
	}
	st, err := w.state(w.reading, w.id.Tenant, w.name)
	if err == nil && w.reading.Err() != nil {
		err = ended(w.reading, false)
	}
	return st, err
}

// commit makes a version and makes it current, if what was current still is. The
// error is that of a write that was not made, but for code OutcomeUnknown.
func (w writer) commit(st state, deleted bool, value []byte) (stamp, outcome, error) {
	number := st.next()
	if number > maxNumber {
		return stamp{}, lost, config.Errorf(config.ResourceExhausted, "the secret's versions are used up")
	}
	at := w.now()
	if at.Before(st.at) {
		at = st.at
	}
	made := newStamp(number, deleted, at, st.current)
	if !st.exists {
		out, arn, err := w.create(made, value)
		if out == committed {
			w.note(w.name, arn, made.id, made.number, true)
		}
		return made, out, err
	}
	current, out, err := w.add(made, value, st.empty)
	if err != nil || out == lost {
		return made, lost, err
	}
	if !current { // only the first version of a secret is so by itself
		if out, err = w.promote(st.current, made); err != nil || out == lost {
			return made, lost, err
		}
	}
	w.note(w.name, st.arn, made.id, made.number, !deleted)
	return made, committed, nil
}

// create makes the secret with its first version.
func (w writer) create(made stamp, value []byte) (outcome, string, error) {
	ctx, cancel := w.conn.WithTimeout(w.writing)
	defer cancel()
	in := &secretsmanager.CreateSecretInput{Name: &w.name, ClientRequestToken: &made.id}
	if w.kmsKeyID != "" {
		in.KmsKeyId = &w.kmsKeyID
	}
	in.SecretString, in.SecretBinary = split(value)
	// Repeated freely: the same version's ID and value are the same write.
	out, err := w.api.CreateSecret(ctx, in, w.as(w.id.Tenant))
	switch {
	case err == nil && aws.ToString(out.Name) != w.name:
		return lost, "", errForeign()
	case err == nil:
		return committed, aws.ToString(out.ARN), nil
	case apiCode(err) == codeExists, isScheduled(err):
		if !awsconn.Repeated(err) {
			return lost, "", nil
		}
	case !doubtful(err):
		return lost, "", fail(err, true)
	}
	// It may have been carried out all the same, or still be.
	found, e := w.check(made)
	if e != nil || found.current == "" {
		return lost, "", unknown(err)
	}
	if !found.was {
		return lost, "", nil
	}
	st, e := w.state(w.writing, w.id.Tenant, w.name)
	if e != nil {
		return lost, "", unknown(err)
	}
	return committed, st.arn, nil
}

// add writes the version, under a label that nobody reads. It reports whether
// the version is current already, as the first one of a secret is.
func (w writer) add(made stamp, value []byte, first bool) (current bool, _ outcome, _ error) {
	in := &secretsmanager.PutSecretValueInput{SecretId: &w.name, ClientRequestToken: &made.id, VersionStages: []string{labelPending}}
	in.SecretString, in.SecretBinary = split(value)
	for attempt := 0; ; attempt++ {
		out, err := w.addOnce(in)
		switch {
		case err == nil && (aws.ToString(out.Name) != w.name || aws.ToString(out.VersionId) != made.id):
			return false, lost, errForeign()
		case err == nil:
			return slices.Contains(out.VersionStages, labelCurrent), committed, nil
		case isAbsent(err):
			return false, lost, nil // it went while we looked
		case isScheduled(err):
			// A deletion came between, or the end of one is not seen yet.
			if attempt == commitTries {
				return false, lost, nil
			}
			if err := w.pause(w.writing, attempt); err != nil {
				return false, lost, err
			}
		case first && doubtful(err):
			if found, e := w.check(made); e != nil || !found.was {
				return false, lost, unknown(err)
			}
			return true, committed, nil
		default:
			// Whether the version is there or not, nothing that is read has
			// changed.
			if e := fail(err, false); config.CodeOf(e) != config.DeadlineExceeded && config.CodeOf(e) != config.Canceled {
				return false, lost, e
			}
			return false, lost, config.Errorf(config.Unavailable, "Secrets Manager did not answer in time, and nothing was written").WithCause(err)
		}
	}
}

func (w writer) addOnce(in *secretsmanager.PutSecretValueInput) (*secretsmanager.PutSecretValueOutput, error) {
	ctx, cancel := w.conn.WithTimeout(w.writing)
	defer cancel()
	return w.api.PutSecretValue(ctx, in, w.as(w.id.Tenant))
}

// promote moves AWSCURRENT from the version before to the new one: the commit.
func (w writer) promote(before string, made stamp) (outcome, error) {
	in := &secretsmanager.UpdateSecretVersionStageInput{SecretId: &w.name, VersionStage: aws.String(labelCurrent), MoveToVersionId: &made.id}
	if before != "" {
		in.RemoveFromVersionId = &before
	}
	inDoubt := false
	for attempt := 0; ; attempt++ {
		err := w.promoteOnce(in)
		if err == nil {
			return committed, nil
		}
		inDoubt = inDoubt || doubtful(err)
		switch code := apiCode(err); {
		case inDoubt, code == codeParameter, code == codeAbsent, code == codeRequest:
		default:
			return lost, fail(err, true)
		}
		// What is current now tells whether it was made, and if not, why.
		found, e := w.check(made)
		switch {
		case e != nil && inDoubt:
			return lost, unknown(err)
		case e != nil:
			return lost, e
		case found.was:
			return committed, nil
		case inDoubt && found.maybe:
			return lost, unknown(err)
		case found.current != before:
			return lost, nil
		case attempt == commitTries && inDoubt:
			return lost, unknown(err)
		case attempt == commitTries && isScheduled(err):
			return lost, nil
		case attempt == commitTries:
			return lost, fail(err, true)
		}
		// Nothing stands in its way: it was not carried out, or the new version
		// is not seen yet.
		if e := w.pause(w.writing, attempt); e != nil {
			if inDoubt {
				return lost, unknown(err)
			}
			return lost, e
		}
	}
}

func (w writer) promoteOnce(in *secretsmanager.UpdateSecretVersionStageInput) error {
	ctx, cancel := w.conn.WithTimeout(w.writing)
	defer cancel()
	out, err := w.api.UpdateSecretVersionStage(ctx, in, w.as(w.id.Tenant), w.once)
	if err == nil && aws.ToString(out.Name) != w.name {
		return errForeign()
	}
	return err
}

// found is what became of a version.
type found struct {
	was     bool   // it was current at some time
	maybe   bool   // it can not be told: another tool's version is current
	current string // the version that is current now, "" for none
}

// check looks for a version among those that were current. Where it is not, that
// is certain, but for maybe: its ID is on no path that leads to the current one.
func (w writer) check(made stamp) (found, error) {
	all, _, err := w.listVersions(w.writing, w.id.Tenant, w.name)
	if isAbsent(err) {
		return found{}, nil
	}
	if err != nil {
		return found{}, w.readError(w.writing, err)
	}
	steps := rungs(all)
	if len(steps) == 0 {
		return found{}, nil
	}
	return found{
		was:     slices.ContainsFunc(steps, func(r rung) bool { return r.id == made.id }),
		maybe:   !steps[0].own && steps[0].number > made.number,
		current: steps[0].id,
	}, nil
}

// doubtful reports whether a write may have been carried out although it failed.
func doubtful(err error) bool {
	switch config.CodeOf(fail(err, true)) {
	case config.OutcomeUnknown, config.DeadlineExceeded, config.Canceled:
		return true
	}
	return false
}

func unknown(err error) error {
	return config.Errorf(config.OutcomeUnknown, "Secrets Manager did not say whether the value was written").WithCause(err).
		WithHint("read the value before you retry")
}

// split puts a value where other tools look for it: text as text. U+0000 is text
// that many tools can not read.
func split(value []byte) (text *string, binary []byte) {
	if utf8.Valid(value) && bytes.IndexByte(value, 0) < 0 {
		return aws.String(string(value)), nil
	}
	return nil, value
}
