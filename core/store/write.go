package store

import (
	"context"
	"fmt"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// PutRequest is one write. Its value is not kept: the caller may reuse it when
// Put has returned.
type PutRequest struct {
	Scope       Scope
	Key         config.Key
	Actor       string // who writes, as a verified token says
	Value       []byte
	ContentType string // "": config.ContentTypeJSON
	Expect      driver.Expect
	Message     string
	// IdempotencyKey marks the retries of one write. With a backend that can
	// not honour it the write is refused rather than made twice.
	IdempotencyKey string
}

// Put writes a new version into the layer that the scope names and returns its
// entry without the value. Before anything is written, the value is held to
// the route's size, to its content type (JSON must be valid, in UTF-8, without
// duplicate keys, and at most MaxJSONDepth deep) and to the route's schema.
func (s *Store) Put(ctx context.Context, r PutRequest) (_ config.Entry, err error) {
	const op = "store.Put"
	defer s.observe(ctx, op, time.Now(), &err)
	c, id, err := s.writing(op, r.Scope, r.Key, r.Message, r.IdempotencyKey)
	if err != nil {
		return config.Entry{}, err
	}
	return c.put(ctx, driver.PutRequest{
		ID: id, Value: r.Value, ContentType: r.ContentType, Expect: r.Expect,
		UpdatedBy: r.Actor, Message: r.Message, IdempotencyKey: r.IdempotencyKey,
	})
}

// writing finds the one ID that a write is about and checks what all writes
// have.
func (s *Store) writing(op string, sc Scope, k config.Key, message, idempotencyKey string) (call, config.ID, error) {
	c, err := s.on(op, k)
	if err != nil {
		return call{}, config.ID{}, err
	}
	p, err := sc.place(c.route)
	if err != nil {
		return call{}, config.ID{}, c.refused(err)
	}
	if err := checkText(message, idempotencyKey); err != nil {
		return call{}, config.ID{}, c.refused(err)
	}
	if _, ok := driver.AsIdempotent(c.route.Backend); idempotencyKey != "" && !ok {
		return call{}, config.ID{}, c.unable("honour idempotency keys")
	}
	return c, p.id(k), nil
}

// put checks the value and writes it.
func (c call) put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	contentType, err := checkValue(c.route, r.ContentType, r.Value)
	if err != nil {
		return config.Entry{}, c.refused(err)
	}
	r.ContentType = contentType
	e, err := c.route.Backend.Put(ctx, r)
	if err != nil {
		return config.Entry{}, c.failed(ctx, err)
	}
	if wrong := wrongLive(e, r.ID); wrong != "" {
		return config.Entry{}, c.violation(ctx, wrong)
	}
	e.Value = nil
	return e, nil
}

// DeleteRequest is one deletion.
type DeleteRequest struct {
	Scope          Scope
	Key            config.Key
	Actor          string
	Expect         driver.Expect // not driver.Absent
	Message        string
	IdempotencyKey string // as in PutRequest
	// Permanent consents to losing the key's history. It has to be there for a
	// backend that can not keep it (driver.Caveats.PermanentDelete), and must
	// not be for any other.
	Permanent bool
}

// Delete makes the key absent in the layer that the scope names and returns
// the tombstone. A less specific layer's value becomes the effective one. A
// key that is not live there is NotFound.
func (s *Store) Delete(ctx context.Context, r DeleteRequest) (_ config.Entry, err error) {
	const op = "store.Delete"
	defer s.observe(ctx, op, time.Now(), &err)
	c, id, err := s.writing(op, r.Scope, r.Key, r.Message, r.IdempotencyKey)
	if err != nil {
		return config.Entry{}, err
	}
	if v, set := r.Expect.Value(); set && v == 0 {
		return config.Entry{}, c.refused(config.Errorf(config.InvalidArgument, "what is absent can not be deleted").
			WithHint("expect a version, or nothing"))
	}
	switch forgets := driver.CaveatsOf(c.route.Backend).PermanentDelete; {
	case forgets && !r.Permanent:
		return config.Entry{}, c.refused(config.Errorf(config.FailedPrecondition, "the store of %s forgets the history of what it deletes", c.route.Prefix).
			WithHint("say permanent to delete it with its history"))
	case !forgets && r.Permanent:
		return config.Entry{}, c.refused(config.Errorf(config.InvalidArgument, "the store of %s keeps the history of what it deletes", c.route.Prefix).
			WithHint("delete it without permanent"))
	}
	e, err := c.route.Backend.Delete(ctx, driver.DeleteRequest{
		ID: id, Expect: r.Expect, UpdatedBy: r.Actor, Message: r.Message, IdempotencyKey: r.IdempotencyKey, Permanent: r.Permanent,
	})
	if err != nil {
		return config.Entry{}, c.failed(ctx, err)
	}
	if wrong := foreign(e.ID, id); wrong != "" {
		return config.Entry{}, c.violation(ctx, wrong)
	}
	if !e.Deleted {
		return config.Entry{}, c.violation(ctx, "deletion without tombstone")
	}
	e.Value = nil
	return e, nil
}

// RestoreRequest asks to undo a deletion. Expect, unless it is driver.Any,
// must be the version of the tombstone.
type RestoreRequest struct {
	Scope   Scope
	Key     config.Key
	Actor   string
	Expect  driver.Expect
	Message string // "": a text that names the version
}

// Restore writes the last value before a deletion as a new version. It
// happens only if the deletion is still the latest change at that moment: a
// lost race is Conflict with the version that won. A key that is live is
// FailedPrecondition, and so is one whose earlier versions are no longer kept.
// The value is held to the route's present limits and schema.
func (s *Store) Restore(ctx context.Context, r RestoreRequest) (_ config.Entry, err error) {
	const op = "store.Restore"
	defer s.observe(ctx, op, time.Now(), &err)
	c, id, err := s.writing(op, r.Scope, r.Key, r.Message, "")
	if err != nil {
		return config.Entry{}, err
	}
	past, err := c.past(id)
	if err != nil {
		return config.Entry{}, err
	}
	latest, found, err := past.next(ctx)
	switch {
	case err != nil:
		return config.Entry{}, err
	case !found:
		return config.Entry{}, c.notFound()
	case !r.Expect.Match(latest.Version, !latest.Deleted):
		return config.Entry{}, c.conflict(latest.Version)
	case !latest.Deleted:
		return config.Entry{}, c.refused(config.Errorf(config.FailedPrecondition, "the value is not deleted").
			WithHint("Rollback returns to an earlier version"))
	}
	for {
		e, found, err := past.next(ctx)
		switch {
		case err != nil:
			return config.Entry{}, err
		case !found:
			return config.Entry{}, c.refused(config.Errorf(config.FailedPrecondition, "no earlier version is kept").
				WithHint("Put the value anew"))
		case e.Deleted:
			continue
		}
		return c.again(ctx, e, latest, r.Actor, r.Message, "restore of version %d")
	}
}

// RollbackRequest asks for an earlier value to be current again.
type RollbackRequest struct {
	Scope     Scope
	Key       config.Key
	Actor     string
	ToVersion uint64
	// Expect is checked against the latest version, tombstone included.
	Expect  driver.Expect
	Message string // "": a text that names the version
}

// Rollback writes the value of version ToVersion as a new version, also over a
// deletion. It happens only if the version that was the latest when Rollback
// looked still is: a lost race is Conflict with the version that won.
//
// A version that does not exist or is no longer kept is NotFound, one that is
// a deletion InvalidArgument. The version that is current already is
// FailedPrecondition: there is nothing to roll back, and a rollback that is
// repeated after a lost answer should not look like another change. The value
// is held to the route's present limits and schema.
func (s *Store) Rollback(ctx context.Context, r RollbackRequest) (_ config.Entry, err error) {
	const op = "store.Rollback"
	defer s.observe(ctx, op, time.Now(), &err)
	c, id, err := s.writing(op, r.Scope, r.Key, r.Message, "")
	if err != nil {
		return config.Entry{}, err
	}
	if r.ToVersion == 0 {
		return config.Entry{}, c.refused(noVersion())
	}
	past, err := c.past(id)
	if err != nil {
		return config.Entry{}, err
	}
	latest, found, err := past.next(ctx)
	switch {
	case err != nil:
		return config.Entry{}, err
	case !found:
		return config.Entry{}, c.notFound()
	case !r.Expect.Match(latest.Version, !latest.Deleted):
		return config.Entry{}, c.conflict(latest.Version)
	}
	e := latest
	for e.Version > r.ToVersion {
		if e, found, err = past.next(ctx); err != nil {
			return config.Entry{}, err
		} else if !found {
			return config.Entry{}, c.notFound()
		}
	}
	switch {
	case e.Version != r.ToVersion:
		return config.Entry{}, c.notFound()
	case e.Deleted:
		return config.Entry{}, c.refused(config.Errorf(config.InvalidArgument, "version %d is a deletion", r.ToVersion).
			WithHint("name a version with a value, or use Delete"))
	case e.Version == latest.Version:
		return config.Entry{}, c.refused(config.Errorf(config.FailedPrecondition, "version %d is the current one already", r.ToVersion))
	}
	return c.again(ctx, e, latest, r.Actor, r.Message, "rollback to version %d")
}

// again writes an old entry's value over the latest version, if that still is
// the latest.
func (c call) again(ctx context.Context, old, latest config.Entry, actor, message, format string) (config.Entry, error) {
	if latest.Version == 0 {
		return config.Entry{}, c.unable("count versions")
	}
	if message == "" {
		message = fmt.Sprintf(format, old.Version)
	}
	return c.put(ctx, driver.PutRequest{
		ID: old.ID, Value: old.Value, ContentType: old.ContentType, Expect: driver.Version(latest.Version),
		UpdatedBy: actor, Message: message,
	})
}
