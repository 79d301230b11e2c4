package daxtest

import (
	"errors"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
)

// Failure is an error as DAX answers it: a sequence of numbers that the client
// maps to an error of DynamoDB, and the name of the error, by which it tells
// throttling.
type Failure struct {
	Codes   []int
	Code    string
	Message string
	Status  int

	reasons []types.CancellationReason
}

// Error makes a Failure an error.
func (f *Failure) Error() string { return f.Code + ": " + f.Message }

// The first number says who is at fault and whether to retry.
const (
	retryable = 1
	client    = 4
)

// last is the last number of a failure that DynamoDB itself knows.
var last = map[string]int{
	"ProvisionedThroughputExceededException": 40, "ResourceNotFoundException": 41, "ConditionalCheckFailedException": 43,
	"ResourceInUseException": 45, "ValidationException": 46, "InternalServerError": 47,
	"ItemCollectionSizeLimitExceededException": 48, "LimitExceededException": 49, "ThrottlingException": 50,
	"TransactionConflictException": 57, "TransactionCanceledException": 58, "TransactionInProgressException": 59,
	"IdempotentParameterMismatchException": 60,
}

// Fail returns the failure that the client maps to DynamoDB's error code, such
// as "ThrottlingException". It panics if DAX has no such failure.
func Fail(code, message string) *Failure {
	n, is := last[code]
	if !is {
		panic("daxtest: DAX has no failure " + code)
	}
	f := &Failure{Codes: []int{client, 37, 38, 39, n}, Code: code, Message: message, Status: 400}
	if code == "InternalServerError" {
		f.Codes[0], f.Status = retryable, 500
	}
	return f
}

// The failures that are DAX's own.
var (
	// NotImplemented is the answer to what the node can not do.
	NotImplemented = &Failure{Codes: []int{client, 37, 38, 44}, Code: "NotImplemented", Message: "this node does not do that", Status: 400}
	// AuthenticationRequired is the answer on a connection that did not
	// authorize itself, or whose authorization has ended.
	AuthenticationRequired = &Failure{Codes: []int{client, 23, 31, 33}, Code: "MissingAuthenticationTokenException", Message: "authorize the connection", Status: 400}
	// InvalidSignature is the answer after an authorization with a wrong secret.
	InvalidSignature = &Failure{Codes: []int{client, 23, 31, 32}, Code: "InvalidSignatureException", Message: "the signature does not match", Status: 400}
	// UnknownKey is the answer after an authorization with a wrong access key.
	UnknownKey = &Failure{Codes: []int{client, 23, 31, 34}, Code: "UnrecognizedClientException", Message: "the access key is not known", Status: 400}
)

// failure is what DAX answers for an error of DynamoDB or of this package.
func failure(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	var canceled *types.TransactionCanceledException
	if errors.As(err, &canceled) {
		f = Fail("TransactionCanceledException", canceled.ErrorMessage())
		f.reasons = canceled.CancellationReasons
		return f
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		if _, is := last[api.ErrorCode()]; is {
			return Fail(api.ErrorCode(), api.ErrorMessage())
		}
	}
	return Fail("InternalServerError", err.Error())
}

// encode writes the failure. Reasons carry the item that a condition failed on
// without its key, which the client fills in.
func (f *Failure) encode(s *Server) ([]byte, error) {
	w := &wire{}
	w.array(len(f.Codes))
	for _, c := range f.Codes {
		w.integer(int64(c))
	}
	w.text(f.Message)
	if len(f.reasons) == 0 {
		w.array(3)
	} else {
		w.array(4)
	}
	w.null() // the request's id
	w.textOrNull(f.Code)
	w.integer(int64(f.Status))
	if len(f.reasons) > 0 {
		w.array(3 * len(f.reasons))
		for _, r := range f.reasons {
			w.textOrNull(deref(r.Code))
			w.textOrNull(deref(r.Message))
			if len(r.Item) == 0 {
				w.null()
				continue
			}
			if err := w.attributes(s, r.Item, nil); err != nil {
				return nil, err
			}
		}
	}
	return w.b, nil
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
