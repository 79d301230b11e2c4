package dynamostore

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/tagstore/tagstore/core/config"
)

// throttledWait is what a caller is asked to wait when the table is busy.
const throttledWait = time.Second

// classify returns the error of an API call that has changed nothing. What AWS
// says itself may hold ARNs and is kept for the log only.
//
// What is wrong with this process's own access is FailedPrecondition, since the
// codes of access mean the buyer.
func classify(ctx context.Context, op string, err error) *config.Error {
	if known := (*config.Error)(nil); errors.As(err, &known) {
		return config.AsError(known, op, config.Key{})
	}
	if ctx.Err() != nil {
		return config.AsError(ctx.Err(), op, config.Key{})
	}
	e := reason(err).WithCause(err)
	e.Op = op
	return e
}

func reason(err error) *config.Error {
	switch cancellation(err) {
	case canceledBusy:
		return config.Errorf(config.Unavailable, "others are writing the same order")
	case canceledThrottled:
		return throttled()
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		if errors.Is(err, context.DeadlineExceeded) {
			return config.Errorf(config.Unavailable, "the table did not answer in time")
		}
		return config.Errorf(config.Unavailable, "the table can not be reached")
	}
	switch api.ErrorCode() {
	case "ResourceNotFoundException":
		return config.Errorf(config.FailedPrecondition, "the table does not exist").
			WithHint("create it, or name another one; AWS_REGION says where it is looked for")
	case "AccessDeniedException":
		return config.Errorf(config.FailedPrecondition, "this service's AWS credentials do not allow this use of the table").
			WithHint("the README's IAM policy lists what they must allow")
	case "UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignatureException", "IncompleteSignature",
		"MissingAuthenticationToken", "MissingAuthenticationTokenException", "ExpiredTokenException", "ExpiredToken", "InvalidClientTokenId":
		return config.Errorf(config.FailedPrecondition, "AWS does not accept this service's credentials").
			WithHint("check that they are of this account, have not expired, and that this machine's clock is right")
	case "ProvisionedThroughputExceededException", "ThrottlingException", "Throttling", "RequestLimitExceeded", "LimitExceededException":
		return throttled()
	case "ValidationException", "SerializationException":
		return config.Errorf(config.Internal, "the table refuses the form of the call")
	}
	if api.ErrorFault() == smithy.FaultServer || isServerError(err) {
		return config.Errorf(config.Unavailable, "the table can not be used right now")
	}
	return config.Errorf(config.Unavailable, "the table refuses the call")
}

func isServerError(err error) bool {
	var internal *types.InternalServerError
	var answer interface{ HTTPStatusCode() int }
	return errors.As(err, &internal) || errors.As(err, &answer) && answer.HTTPStatusCode() >= 500
}

func throttled() *config.Error {
	e := config.Errorf(config.ResourceExhausted, "the table has no capacity left").
		WithHint("raise the table's capacity, or use on-demand capacity")
	e.RetryAfter = throttledWait
	return e
}

func damaged() *config.Error {
	return config.Errorf(config.DataLoss, "a stored order is damaged").WithHint("restore the item from a backup")
}

func absent() *config.Error { return config.Errorf(config.NotFound, "there is no such order") }
