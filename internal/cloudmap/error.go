package cloudmap

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"

	"github.com/tagstore/tagstore/core/config"
)

// failed says what an error of the SDK means. Its own text stays out: it holds
// account ids and host names.
func (r *Registry) failed(op string, err error) error {
	var ours *config.Error
	if errors.As(err, &ours) {
		return config.AsError(err, op, config.Key{})
	}
	e := (&config.Error{Op: op, Code: config.Unavailable, Message: "AWS Cloud Map did not answer", Hint: "check the network and AWS_ENDPOINT_URL"}).WithCause(err)
	var api smithy.APIError
	switch {
	case errors.Is(err, context.Canceled):
		e.Code, e.Message, e.Hint = config.Canceled, "the call of AWS Cloud Map was given up", ""
	case errors.Is(err, context.DeadlineExceeded):
		e.Code, e.Message = config.DeadlineExceeded, "AWS Cloud Map did not answer in time"
	case errors.As(err, &api):
		r.refused(e, api.ErrorCode())
	}
	return e
}

func (r *Registry) refused(e *config.Error, code string) {
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	switch {
	case throttled:
		e.Code, e.Message, e.Hint = config.ResourceExhausted, "AWS Cloud Map throttles", "retry later"
		return
	case code == "InternalFailure", code == "InternalServerError", code == "ServiceUnavailable":
		e.Message, e.Hint = "AWS Cloud Map failed", "retry"
		return
	}
	e.Code = config.FailedPrecondition
	switch code {
	case "NamespaceNotFound", "ServiceNotFound":
		e.Message = "Cloud Map has no service " + r.o.Service + " in the namespace " + r.o.Namespace
		e.Hint = "check both names, AWS_REGION and the account"
	case "InstanceNotFound":
		e.Code, e.Message, e.Hint = config.NotFound, "Cloud Map has no such instance", ""
	case "AccessDenied", "AccessDeniedException", "UnauthorizedOperation":
		e.Code, e.Message, e.Hint = config.PermissionDenied, "AWS denied the call of Cloud Map", "allow the role the actions that the documentation lists"
	case "InvalidInput":
		e.Code, e.Message, e.Hint = config.InvalidArgument, "Cloud Map does not accept the request", "check the names of namespace and service, and the replica's id and address"
	case "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredTokenException", "InvalidSignatureException":
		e.Code, e.Message, e.Hint = config.Unauthenticated, "AWS does not accept the credentials", "check that they are of this account and not expired, and this machine's clock"
	default:
		e.Message, e.Hint = "AWS Cloud Map refused the call", ""
	}
}
