package secretsbackend

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// The error codes of Secrets Manager that this package acts on.
const (
	codeAbsent    = "ResourceNotFoundException"
	codeExists    = "ResourceExistsException"
	codeRequest   = "InvalidRequestException"
	codeParameter = "InvalidParameterException"
	codeDecrypt   = "DecryptionFailure"
	codeEncrypt   = "EncryptionFailure"
	codeLimit     = "LimitExceededException"
)

// codes are what the error codes of Secrets Manager mean.
var codes = awsconn.Codes{
	codeAbsent:                         config.NotFound,
	codeExists:                         config.FailedPrecondition,
	codeRequest:                        config.FailedPrecondition,
	codeParameter:                      config.InvalidArgument,
	codeDecrypt:                        config.FailedPrecondition,
	codeEncrypt:                        config.FailedPrecondition,
	codeLimit:                          config.ResourceExhausted,
	"PreconditionNotMetException":      config.FailedPrecondition,
	"MalformedPolicyDocumentException": config.FailedPrecondition,
	"InternalServiceError":             config.Unavailable,
	"InvalidNextTokenException":        config.Unavailable,
}

var hints = map[string]string{
	codeDecrypt: "check that the KMS key of the secret is enabled and that its policy allows kms:Decrypt to the role",
	codeEncrypt: "check that the KMS key is enabled and that its policy allows kms:GenerateDataKey and kms:Decrypt to the role",
	codeLimit:   "a secret has about 100 versions and none of the last 24 hours is dropped: write it less often than every 10 minutes on the whole",
	codeRequest: "the secret may be rotating, a replica, or managed by another AWS service",
}

// fail makes an error of the SDK into one of the contract.
func fail(err error, write bool) error {
	if err == nil {
		return nil
	}
	mapped := awsconn.Error("", config.Key{}, err, write, codes)
	var e *config.Error
	if hint := hints[apiCode(err)]; hint != "" && errors.As(mapped, &e) && e.Hint == "" {
		return e.WithHint("%s", hint)
	}
	return mapped
}

func apiCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func isAbsent(err error) bool { return apiCode(err) == codeAbsent }

// isScheduled reports whether a call was refused because the secret is in its
// recovery window. The code alone does not tell.
func isScheduled(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && scheduledText(api.ErrorCode(), api.ErrorMessage())
}

func scheduledText(code, message string) bool {
	if code != codeRequest {
		return false
	}
	message = strings.ToLower(message)
	for _, part := range []string{"marked for deletion", "marked deleted", "scheduled for deletion"} {
		if strings.Contains(message, part) {
			return true
		}
	}
	return false
}

// ended makes the end of a context into an error of the contract.
func ended(ctx context.Context, write bool) error {
	code, what := config.DeadlineExceeded, "the time ran out"
	if errors.Is(ctx.Err(), context.Canceled) {
		code, what = config.Canceled, "the call was canceled"
	}
	if write {
		what += "; the write may have been made"
	}
	return config.Errorf(code, "%s", what).WithCause(ctx.Err())
}

// errNotFound has one text for a secret that never was, one that is deleted and
// one that is somebody else's (clause C3).
func errNotFound() *config.Error {
	return config.Errorf(config.NotFound, "there is no such value")
}

func errNoID() *config.Error {
	return config.Errorf(config.InvalidArgument, "the request lacks a tenant or a key")
}

func errClosed() *config.Error {
	return config.Errorf(config.FailedPrecondition, "the secret store is closed")
}

func errConflict(current uint64) *config.Error {
	return config.Errorf(config.Conflict, "the current version is %d", current).WithVersion(current)
}

// errForeign is for an answer that is not what was asked for.
func errForeign() *config.Error {
	return config.Errorf(config.Internal, "the answer of AWS is about another secret than was asked for").
		WithHint("check AWS_ENDPOINT_URL and what stands between")
}

func errStale() *config.Error {
	return config.Errorf(config.Unavailable, "Secrets Manager still answers older than what was written").WithHint("retry")
}

// errDeletedElsewhere is for the versions of a secret that another tool deleted.
func errDeletedElsewhere() *config.Error {
	return config.Errorf(config.FailedPrecondition, "another tool has scheduled the secret for deletion, and until that is canceled nobody can read it").
		WithHint("cancel it with the RestoreSecret action, or put a new value")
}

// errUnscheduled is for a deletion that was made without its recovery window.
func errUnscheduled(version uint64, cause error) error {
	why := "AWS did not answer"
	var e *config.Error
	if errors.As(cause, &e) && e.Code != config.OutcomeUnknown {
		why = fmt.Sprintf("%s: %s", e.Code, e.Message)
	}
	return config.Errorf(config.OutcomeUnknown, "the value is deleted as version %d, but its secret was not scheduled for deletion (%s)", version, why).
		WithCause(cause).WithHint("delete it again once that is mended: that only schedules it, and answers not_found")
}
