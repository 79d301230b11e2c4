package ssmbackend

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// writeTries is how often a write begins anew because the parameter was made or
// deleted while it was about to.
const writeTries = 4

// Put writes a new version.
//
// Absent is exact. Version(n) is compared with the current version first and
// with the version that was made afterwards: where another write came between
// the two, both are in the history, this one's value is the latest, and the
// error is Conflict with the version that this one was made over.
//
// FailedPrecondition: the oldest of 100 versions has a label; nothing was
// written. OutcomeUnknown: the answer was lost; the version may have been made.
func (s *Store) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	const op = "ssm.Put"
	e, err := s.put(ctx, call{op: op, id: r.ID}, r)
	if err != nil {
		return config.Entry{}, config.AsError(err, op, r.ID.Key)
	}
	return e, nil
}

func (s *Store) put(ctx context.Context, c call, r driver.PutRequest) (config.Entry, error) {
	if err := s.usable(ctx); err != nil {
		return config.Entry{}, err
	}
	name, err := s.nameToWrite(r.ID)
	if err != nil {
		return config.Entry{}, err
	}
	if err := s.checkValue(r); err != nil {
		return config.Entry{}, err
	}
	in := ssm.PutParameterInput{
		Name:  aws.String(name),
		Value: aws.String(string(r.Value)),
		// Always set, even if empty: a version inherits what is not.
		Description: aws.String(writeDescription(r.Message, r.UpdatedBy)),
	}
	version, conditional := r.Expect.Value()
	for range writeTries {
		var e config.Entry
		if conditional && version == 0 {
			e, err = s.create(ctx, c, in)
		} else {
			e, err = s.update(ctx, c, in, version)
		}
		if !errors.Is(err, errMoved) {
			if err != nil {
				return config.Entry{}, err
			}
			e.ContentType = driver.InferType(r.Value)
			e.UpdatedBy, e.Message = r.UpdatedBy, r.Message
			return e, nil
		}
	}
	return config.Entry{}, config.Errorf(config.Unavailable, "the parameter was made and deleted again and again meanwhile: nothing was written").
		WithHint("write again")
}

func (s *Store) checkValue(r driver.PutRequest) error {
	switch {
	case len(r.Value) == 0:
		return config.Errorf(config.InvalidArgument, "the value is empty, which Parameter Store does not take").
			WithHint(`write a value that says so, such as "" or null in JSON, or delete the key`)
	case len(r.Value) > s.maxValue:
		hint := "store less, or use another store"
		if s.maxValue < MaxAdvanced {
			hint = "store less, raise max_value or tier, or use another store"
		}
		return config.Errorf(config.InvalidArgument, "the value has %d bytes, the limit is %d", len(r.Value), s.maxValue).WithHint("%s", hint)
	case !utf8.Valid(r.Value):
		return config.Errorf(config.InvalidArgument, "the value is not UTF-8 text, and Parameter Store takes nothing else").
			WithHint("encode it, with Base64 for example, or use another store")
	}
	return driver.CheckInferredType(r.ContentType)
}

// errMoved says that a parameter came or went between two calls of a write that
// has written nothing.
var errMoved = config.Errorf(config.Unavailable, "the parameter came or went meanwhile")

// create makes version 1, or Conflict with the version that is there.
func (s *Store) create(ctx context.Context, c call, in ssm.PutParameterInput) (config.Entry, error) {
	e, err := s.make(ctx, c, in)
	if !errors.Is(err, errMoved) {
		return e, err
	}
	p, err := s.parameter(ctx, c, aws.ToString(in.Name), 0, false)
	switch {
	case errors.Is(err, config.NotFound):
		return config.Entry{}, errMoved
	case err != nil:
		return config.Entry{}, err
	}
	return config.Entry{}, errConflict(uint64(p.Version))
}

// make makes version 1. errMoved: there is one.
func (s *Store) make(ctx context.Context, c call, in ssm.PutParameterInput) (config.Entry, error) {
	in.Overwrite = aws.Bool(false)
	in.Type, in.Tier = types.ParameterTypeString, s.tier
	if s.secure {
		in.Type = types.ParameterTypeSecureString
		if s.kmsKeyID != "" {
			in.KeyId = aws.String(s.kmsKeyID)
		}
	}
	out, err := s.send(ctx, c, &in)
	var exists *types.ParameterAlreadyExists
	if errors.As(err, &exists) {
		return config.Entry{}, errMoved
	}
	if err != nil {
		return config.Entry{}, err
	}
	return s.made(ctx, c, &in, out, time.Time{})
}

// update writes over the current version, which has to be expected unless that
// is 0. Where there is none it makes one, if none is expected.
func (s *Store) update(ctx context.Context, c call, in ssm.PutParameterInput, expected uint64) (config.Entry, error) {
	versions, err := s.versions(ctx, c, aws.ToString(in.Name), false)
	switch {
	case errors.Is(err, config.NotFound) && expected == 0:
		return s.make(ctx, c, in)
	case errors.Is(err, config.NotFound):
		return config.Entry{}, errConflict(0)
	case err != nil:
		return config.Entry{}, err
	}
	current := versions[len(versions)-1]
	if expected > 0 && uint64(current.Version) != expected {
		return config.Entry{}, errConflict(uint64(current.Version))
	}
	s.keep(&in, current)
	out, err := s.send(ctx, c, &in)
	if err != nil {
		return config.Entry{}, err
	}
	if got := uint64(out.Version); expected > 0 && got != expected+1 {
		return config.Entry{}, errLostRace(expected, got)
	}
	return s.made(ctx, c, &in, out, aws.ToTime(current.LastModifiedDate))
}

// keep names again what the parameter is, so that a write changes its value and
// nothing else.
func (s *Store) keep(in *ssm.PutParameterInput, current types.ParameterHistory) {
	in.Overwrite = aws.Bool(true)
	in.Type = current.Type
	in.Tier = current.Tier
	if len(aws.ToString(in.Value)) > MaxStandard && in.Tier != types.ParameterTierAdvanced {
		in.Tier = s.tier // not standard: checkValue
	}
	in.DataType = current.DataType
	in.AllowedPattern = current.AllowedPattern
	if current.Type == types.ParameterTypeSecureString {
		in.KeyId = current.KeyId
	}
}

// errLostRace is for a write that was made over another version than it
// expected.
func errLostRace(expected, got uint64) *config.Error {
	if got <= expected {
		return config.Errorf(config.Conflict, "the key was deleted and put anew meanwhile, and this value was written as version %d of the new one", got).
			WithVersion(got - 1).WithHint("read the history, and write again what is to stand")
	}
	return config.Errorf(config.Conflict, "another write came first, as version %d; this value was written over it as version %d, and the history has both", expected+1, got).
		WithVersion(got - 1).WithHint("read the history, and write again what is to stand")
}

// send makes the version.
func (s *Store) send(ctx context.Context, c call, in *ssm.PutParameterInput) (*ssm.PutParameterOutput, error) {
	c.write = true
	out, err := do(ctx, s, c, s.client.PutParameter, in)
	if err == nil {
		if out.Version < 1 {
			return nil, config.Errorf(config.OutcomeUnknown, "Parameter Store took the value and named no version").WithHint("read before writing again")
		}
		if out.Version == 1 {
			s.creates.Add(1) // before anybody is told: no later page may miss it
		}
		return out, nil
	}
	// Which values Parameter Store takes for references it does not tell.
	if value := aws.ToString(in.Value); errors.Is(err, config.InvalidArgument) && strings.Contains(value, "{{") && strings.Contains(value, "}}") {
		return nil, config.AsError(err, c.op, c.id.Key).WithHint("Parameter Store takes no value with {{...}} in it: write it another way, or use another store")
	}
	return nil, err
}

// made returns the entry of a version that was made. Its time is Parameter
// Store's, and takes one more call to learn. Where that call fails the version
// is there all the same: its time is then that of the answer to the write, to
// the second, and its revision is one that no later answer has.
func (s *Store) made(ctx context.Context, c call, in *ssm.PutParameterInput, out *ssm.PutParameterOutput, before time.Time) (config.Entry, error) {
	p, err := s.parameter(ctx, c, aws.ToString(in.Name), uint64(out.Version), false)
	if err == nil {
		return stamp(c.id, out.Version, p.LastModifiedDate, p.Type), nil
	}
	if ctx.Err() != nil {
		e := contextError(ctx)
		e.Message += " when the write had been made"
		return config.Entry{}, e
	}
	e := stamp(c.id, out.Version, aws.Time(serverTime(out.ResultMetadata, before)), in.Type)
	e.Revision += "-unread"
	return e, nil
}

// serverTime is when an answer was given, and not earlier than before.
func serverTime(m middleware.Metadata, before time.Time) time.Time {
	t, ok := awsmiddleware.GetServerTime(m)
	if !ok || t.Before(before) {
		return before
	}
	return t
}

// Delete removes the parameter, its history, labels and tags, for good: the
// next Put is version 1. It does so only with r.Permanent.
//
// The expected version is compared before the deletion. What is written between
// the two is deleted with the rest.
func (s *Store) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	const op = "ssm.Delete"
	e, err := s.remove(ctx, call{op: op, id: r.ID}, r)
	if err != nil {
		return config.Entry{}, config.AsError(err, op, r.ID.Key)
	}
	return e, nil
}

func (s *Store) remove(ctx context.Context, c call, r driver.DeleteRequest) (config.Entry, error) {
	if err := s.usable(ctx); err != nil {
		return config.Entry{}, err
	}
	if !r.Permanent {
		return config.Entry{}, config.Errorf(config.FailedPrecondition,
			"Parameter Store keeps nothing of a parameter that is deleted: all its versions, labels and tags would be lost for good; nothing was changed").
			WithHint("consent to that if it is what is wanted, as tagctl rm --permanent does")
	}
	name, err := s.nameToRead(r.ID)
	if err != nil {
		return config.Entry{}, err
	}
	current, err := s.parameter(ctx, c, name, 0, false)
	if err != nil {
		return config.Entry{}, err
	}
	if !r.Expect.Match(uint64(current.Version), true) {
		return config.Entry{}, errConflict(uint64(current.Version))
	}
	c.write = true
	out, err := do(ctx, s, c, s.client.DeleteParameter, &ssm.DeleteParameterInput{Name: aws.String(name)})
	if err != nil {
		return config.Entry{}, err
	}
	at := serverTime(out.ResultMetadata, aws.ToTime(current.LastModifiedDate))
	e := stamp(r.ID, current.Version+1, &at, current.Type)
	e.Revision += "-deleted-" + revision(uint64(current.Version), aws.ToTime(current.LastModifiedDate))
	e.Deleted, e.UpdatedBy, e.Message = true, r.UpdatedBy, r.Message
	return e, nil
}
