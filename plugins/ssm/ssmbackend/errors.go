package ssmbackend

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// codes are Parameter Store's own error codes.
var codes = awsconn.Codes{
	"ParameterNotFound":                    config.NotFound,
	"ParameterVersionNotFound":             config.NotFound,
	"ParameterAlreadyExists":               config.Conflict,
	"ParameterLimitExceeded":               config.ResourceExhausted,
	"TooManyUpdates":                       config.ResourceExhausted,
	"ParameterMaxVersionLimitExceeded":     config.FailedPrecondition,
	"HierarchyTypeMismatchException":       config.FailedPrecondition,
	"InvalidKeyId":                         config.FailedPrecondition,
	"HierarchyLevelLimitExceededException": config.InvalidArgument,
	"ParameterPatternMismatchException":    config.InvalidArgument,
	"UnsupportedParameterType":             config.InvalidArgument,
	"ValidationException":                  config.InvalidArgument,
}

// errNotFound has one text for a key that never was, one that is deleted and
// one that can not be (clause C3).
func errNotFound() *config.Error {
	return config.Errorf(config.NotFound, "there is no such value")
}

func errNoID() *config.Error {
	return config.Errorf(config.InvalidArgument, "the request lacks a tenant or a key")
}

func errClosed() *config.Error {
	return config.Errorf(config.FailedPrecondition, "the store is closed")
}

// errForeign says that an answer is not of what was asked for.
func errForeign() *config.Error {
	return config.Errorf(config.Internal, "Parameter Store answered with another parameter than was asked for")
}

func errConflict(current uint64) *config.Error {
	if current == 0 {
		return config.Errorf(config.Conflict, "the key does not exist, and a version of it was expected").
			WithHint("write it expecting that it is absent")
	}
	return config.Errorf(config.Conflict, "the current version is %d, not the one that was expected", current).
		WithVersion(current).WithHint("read the current version, and decide again")
}

func contextError(ctx context.Context) *config.Error {
	err := ctx.Err()
	code := config.CodeOf(err)
	text := "the call was canceled"
	if code == config.DeadlineExceeded {
		text = "the call's time ran out"
	}
	return config.Errorf(code, "%s", text).WithCause(err)
}

// mapped returns what the SDK said as an error of ours. The caller's context
// decides first: whatever a call says that was cut off, it was cut off.
func mapped(ctx context.Context, c call, err error) error {
	if ctx.Err() != nil {
		e := contextError(ctx)
		if c.write {
			e.Message += " during the write: it may or may not have been made"
			e = e.WithHint("read before writing again")
		}
		return config.AsError(e.WithCause(err), c.op, c.id.Key)
	}
	e := config.AsError(awsconn.Error(c.op, c.id.Key, err, c.write, codes), c.op, c.id.Key)
	if e.Err == nil {
		e = e.WithCause(err)
	}
	if m, ok := explain(err); ok && e.Code != config.OutcomeUnknown {
		e.Message, e.Hint = m.message, m.hint
	}
	if e.Code == config.ResourceExhausted && e.RetryAfter == 0 {
		e.RetryAfter = time.Second // the quotas are per second
	}
	return e
}

type explanation struct{ message, hint string }

// explain has our words for what Parameter Store alone can refuse.
func explain(err error) (explanation, bool) {
	var (
		missing    *types.ParameterNotFound
		noVersion  *types.ParameterVersionNotFound
		labelled   *types.ParameterMaxVersionLimitExceeded
		tooMany    *types.ParameterLimitExceeded
		pattern    *types.ParameterPatternMismatchException
		changed    *types.HierarchyTypeMismatchException
		key        *types.InvalidKeyId
		concurrent *types.TooManyUpdates
	)
	switch {
	case errors.As(err, &missing), errors.As(err, &noVersion):
		return explanation{errNotFound().Message, ""}, true
	case errors.As(err, &labelled):
		return explanation{
			"the parameter has all the versions that Parameter Store keeps, and the oldest has a label, so it can not make room: nothing was written",
			"move the label to a newer version (LabelParameterVersion), or remove it (UnlabelParameterVersion)",
		}, true
	case errors.As(err, &tooMany):
		return explanation{
			"the account has as many parameters in this region as Parameter Store takes: nothing was written",
			"delete some, or use tier: advanced, which takes more",
		}, true
	case errors.As(err, &pattern):
		return explanation{
			"the value does not match the pattern that the parameter allows",
			"correct the value, or change the parameter's AllowedPattern",
		}, true
	case errors.As(err, &changed):
		return explanation{
			"the parameter's type was changed while it was being written: nothing was written",
			"read it, and write again",
		}, true
	case errors.As(err, &key):
		return explanation{
			"the key that encrypts the parameter is not there, not enabled, or not to be used",
			"check kms_key_id and the key's policy",
		}, true
	case errors.As(err, &concurrent):
		return explanation{
			"Parameter Store is already changing this parameter: nothing was written",
			"write again in a moment",
		}, true
	}
	return explanation{}, false
}
