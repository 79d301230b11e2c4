package secretsbackend

import (
	"context"
	"log/slog"
	"math"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/tagstore/tagstore/core/config"
)

// The recovery window. DeleteSecret and RestoreSecret have no condition, so the
// two must not decide anything: a secret is deleted because its current version
// says so. What has to be kept out is a DeleteSecret that arrives after somebody
// wrote a new value:
//
//   - In one Store, a secret has one writer at a time.
//   - DeleteSecret is sent once, and a writer elsewhere that finds a deletion
//     without its window waits until it has one or is too old to get one.
//   - Whoever sent DeleteSecret looks afterwards, and takes the secret out again
//     if it is not the deletion any more that is current.

// scheduling is how long after a deletion its DeleteSecret may still be on its
// way, beyond the timeout of one call.
const scheduling = 3 * time.Second

// schedule starts the recovery window of a secret whose current version is this
// deletion, and ends it again if that is not current any more.
func (w writer) schedule(deletion string, days int) error {
	err := w.deleteSecret(days)
	if isScheduled(err) {
		err = nil
	}
	st, e := w.state(w.writing, w.id.Tenant, w.name)
	switch {
	case e != nil: // then what DeleteSecret itself said counts
		return err
	case !st.exists, st.scheduled && st.current == deletion:
		return nil
	case st.scheduled:
		return w.restoreSecret()
	case st.current == deletion && err == nil:
		return nil // it is not seen yet
	case st.current == deletion:
		return err
	}
	return nil // another writer has it
}

func (w writer) scheduleFailed(err error) {
	slog.WarnContext(w.writing, "a deleted secret could not be scheduled for deletion", "code", config.CodeOf(fail(err, false)).String())
}

// revive takes a secret out of its recovery window, for a new version. It waits
// for a deletion that is under way. It reports whether it did anything.
func (w writer) revive(st state) (bool, error) {
	if !st.scheduled {
		return w.awaitWindow(st)
	}
	return true, w.restoreSecret()
}

// awaitWindow waits until a deletion without its window has one, and takes the
// secret out of it, or until it is too late for that.
func (w writer) awaitWindow(st state) (bool, error) {
	ctx, cancel := w.conn.WithTimeout(w.writing)
	defer cancel()
	deadline, _ := ctx.Deadline()
	limit := st.at.Add(time.Until(deadline) + scheduling)
	for attempt := 0; w.now().Before(limit); attempt++ {
		if err := w.pause(w.reading, min(attempt, 2)); err != nil {
			return false, err
		}
		now, err := w.state(w.reading, w.id.Tenant, w.name)
		if err != nil {
			return false, err
		}
		if now.current != st.current {
			return false, nil // the commit will tell
		}
		if now.scheduled {
			return true, w.restoreSecret()
		}
	}
	return false, nil
}

func (w writer) deleteSecret(days int) error {
	ctx, cancel := w.conn.WithTimeout(w.writing)
	defer cancel()
	out, err := w.api.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{
		SecretId: &w.name, RecoveryWindowInDays: aws.Int64(int64(days)),
	}, w.as(w.id.Tenant), w.once)
	if err == nil && aws.ToString(out.Name) != w.name {
		return errForeign()
	}
	return err
}

// restoreSecret takes the secret out of its recovery window. It may be repeated.
func (w writer) restoreSecret() error {
	ctx, cancel := w.conn.WithTimeout(w.writing)
	defer cancel()
	out, err := w.api.RestoreSecret(ctx, &secretsmanager.RestoreSecretInput{SecretId: &w.name}, w.as(w.id.Tenant))
	switch {
	case err == nil && aws.ToString(out.Name) != w.name:
		return errForeign()
	case err == nil, apiCode(err) == codeAbsent: // its window is over: the commit will tell
		return nil
	}
	// Whatever came of it, no value has changed.
	return config.Errorf(config.Unavailable, "the secret could not be taken out of its recovery window").WithCause(err).
		WithHint("check that the role may secretsmanager:RestoreSecret, and retry")
}

// readDeleted reads versions of a secret that tagstore deleted: it takes the
// secret out of its recovery window, reads, and starts the window again, to end
// no sooner than before and no sooner than in 7 days. Its readers notice nothing,
// since the current version is the deletion all the while.
func (s *Store) readDeleted(ctx context.Context, id config.ID, name string, steps []rung) ([][]byte, error) {
	return alone(ctx, s, name, false, func(reading, writing context.Context) ([][]byte, error) {
		w := writer{Store: s, id: id, name: name, reading: reading, writing: writing}
		out, err := s.describeSecret(reading, id.Tenant, name)
		if isAbsent(err) {
			return nil, errNotFound()
		}
		if err != nil {
			return nil, s.readError(reading, err)
		}
		current := ""
		for v, labels := range out.VersionIdsToStages {
			for _, label := range labels {
				if label == labelCurrent {
					current = v
				}
			}
		}
		deletion := readStamp(current)
		if !deletion.deleted { // a new value came meanwhile, from elsewhere
			return s.read(reading, id, name, steps)
		}
		if reading.Err() != nil {
			return nil, ended(reading, false)
		}
		days := s.days
		if out.DeletedDate != nil {
			left := math.Ceil(out.DeletedDate.Sub(s.now()).Hours() / 24)
			days = int(min(max(left, minRecoveryWindowDays), maxRecoveryWindowDays))
			if err := w.restoreSecret(); err != nil {
				return nil, err
			}
		}
		values, err := w.readSoon(steps)
		if e := w.schedule(current, days); e != nil {
			w.scheduleFailed(e)
			if err == nil {
				err = errUnwindowed(e)
			}
		}
		return values, err
	})
}

// errUnwindowed is for a history that was read and whose secret stayed out of
// its recovery window: the caller has to know, more than to see the history.
func errUnwindowed(err error) error {
	e := config.AsError(fail(err, false), "", config.Key{})
	return config.Errorf(e.Code, "the deleted secret was taken out of its recovery window to be read, and could not be scheduled for deletion again: %s", e.Message).
		WithCause(err).WithHint("delete it again: that only schedules it, and answers not_found")
}

// readSoon reads versions of a secret that was just taken out of its window,
// which may not be seen everywhere yet.
func (w writer) readSoon(steps []rung) ([][]byte, error) {
	for attempt := 0; ; attempt++ {
		values, err := w.read(w.writing, w.id, w.name, steps)
		if !isScheduled(err) || attempt == commitTries {
			return values, err
		}
		if err := w.pause(w.writing, attempt); err != nil {
			return nil, err
		}
	}
}
