package s3backend

import (
	"context"
	"errors"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// codes are S3's error codes and those that the SDK makes of the status of an
// answer without a body (HEAD).
var codes = awsconn.Codes{
	"NoSuchKey":                    config.NotFound,
	"NoSuchVersion":                config.NotFound,
	"NotFound":                     config.NotFound,
	"Forbidden":                    config.PermissionDenied,
	"InvalidObjectState":           config.FailedPrecondition,
	"EntityTooLarge":               config.InvalidArgument,
	"KeyTooLongError":              config.InvalidArgument,
	"MetadataTooLarge":             config.InvalidArgument,
	"BadDigest":                    config.Unavailable,
	"XAmzContentChecksumMismatch":  config.Unavailable,
	"KMS.DisabledException":        config.FailedPrecondition,
	"KMS.NotFoundException":        config.FailedPrecondition,
	"KMS.KMSInvalidStateException": config.FailedPrecondition,
	"KMSDisabledException":         config.FailedPrecondition,
	"KMSNotFoundException":         config.FailedPrecondition,
	"KMSInvalidStateException":     config.FailedPrecondition,
}

// hints say how to mend what the codes above mean.
var hints = map[string]string{
	"InvalidObjectState":           "the object is archived: restore it, or keep this store's objects out of archiving lifecycle rules",
	"BadDigest":                    "the value was damaged on its way: nothing was written, retry",
	"XAmzContentChecksumMismatch":  "the value was damaged on its way: nothing was written, retry",
	"KMS.DisabledException":        "enable the KMS key",
	"KMS.NotFoundException":        "check kms_key_id and the bucket's default encryption",
	"KMS.KMSInvalidStateException": "check the state of the KMS key",
	"KMSDisabledException":         "enable the KMS key",
	"KMSNotFoundException":         "check kms_key_id and the bucket's default encryption",
	"KMSInvalidStateException":     "check the state of the KMS key",
}

const deniedHint = "allow the action in IAM and in the bucket's policy: this store's README lists what it needs; " +
	"S3 also says so of an object that is not there, if s3:ListBucket is not allowed"

// fail makes an error of the SDK into one of the contract's.
func fail(op string, key config.Key, err error, write bool) error {
	if err == nil {
		return nil
	}
	mapped := awsconn.Error(op, key, err, write, codes)
	var e *config.Error
	if !errors.As(mapped, &e) {
		return mapped
	}
	switch hint, ok := hints[apiCode(err)]; {
	case ok && e.Hint == "":
		return e.WithHint("%s", hint)
	case e.Code == config.PermissionDenied && apiCode(err) != "":
		return e.WithHint("%s", deniedHint)
	}
	return e
}

// safe is an error of the SDK as a log may show it: what AWS said in words may
// hold ARNs, and paths with a tenant's name.
func safe(err error) error { return fail("", config.Key{}, err, true) }

func apiCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func statusOf(err error) int {
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) && answer.Response != nil && answer.Response.Response != nil {
		return answer.Response.StatusCode
	}
	return 0
}

// absent reports whether S3 said that there is no such object.
func absent(err error) bool {
	return statusOf(err) == http.StatusNotFound && apiCode(err) != "NoSuchBucket"
}

// denied reports whether S3 said that the caller may not, which it also says of
// an object that is not there to a caller who may not list the whole bucket.
func denied(err error) bool {
	code := apiCode(err)
	return statusOf(err) == http.StatusForbidden && (code == "AccessDenied" || code == "Forbidden")
}

// overtaken reports whether a conditional request met another state than it
// was made for: 412 if the condition failed, 404 if the object that it names is
// gone, 409 if another write was under way.
func overtaken(err error) bool {
	switch statusOf(err) {
	case http.StatusPreconditionFailed:
		return true
	case http.StatusConflict:
		return apiCode(err) == "ConditionalRequestConflict" || apiCode(err) == "OperationAborted"
	}
	return absent(err)
}

var (
	errClosed  = config.Errorf(config.FailedPrecondition, "the store is closed")
	errNoID    = config.Errorf(config.InvalidArgument, "the request lacks a tenant or a key")
	errDamaged = config.Errorf(config.DataLoss, "the object's bytes do not match its checksum").
			WithHint("restore an earlier version of the object, or put the value again")
	errRestless = config.Errorf(config.Unavailable, "the object changed each time it was looked at").WithHint("retry")
	errUnlisted = config.Errorf(config.FailedPrecondition, "the object has more versions that other tools wrote than history_limit").
			WithHint("put the value once through this store, or raise history_limit")
	errSuspended = config.Errorf(config.FailedPrecondition, "the bucket's versioning was suspended while in use: the write replaced what was there without a version").
			WithHint("enable it again: aws s3api put-bucket-versioning --bucket <bucket> --versioning-configuration Status=Enabled")
)

// errNotFound has one text for a key that never was and one that is deleted
// (clause C3).
func errNotFound() *config.Error {
	return config.Errorf(config.NotFound, "there is no such value")
}

// done returns the error of a context that is done, nil for any other.
func done(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return config.AsError(ctx.Err(), "", config.Key{})
}

// header returns a header of the answer that err is about.
func header(err error, name string) string {
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) && answer.Response != nil && answer.Response.Response != nil {
		return answer.Response.Header.Get(name)
	}
	return ""
}
