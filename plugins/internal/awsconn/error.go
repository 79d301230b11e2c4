package awsconn

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/tagstore/tagstore/core/config"
)

// Codes says what AWS's error codes mean to one store, such as
// {"ParameterNotFound": config.NotFound}. It is asked before this package's own
// tables.
type Codes map[string]config.Code

// throttledWait is RetryAfter of a throttled call whose answer does not say: AWS's
// quotas are per second.
const throttledWait = time.Second

// class is one row of the table: codes of AWS that mean the same.
type class struct {
	code    config.Code
	message string // behind the operation's name
	hint    string
	codes   []string
}

var (
	classDenied = class{
		config.PermissionDenied, "was denied by AWS", "allow the action to the role in IAM: this store's README lists what it needs", []string{
			"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AllAccessDisabled", "NotAuthorized", "KMSAccessDeniedException",
		},
	}
	classCredentials = class{
		config.Unauthenticated, "was refused: AWS does not accept the credentials",
		"check that they are of this account, not expired and belong to a region that is enabled, and that this machine's clock is right",
		[]string{
			"UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId", "ExpiredToken", "ExpiredTokenException", "InvalidToken",
			"MissingAuthenticationToken", "MissingAuthenticationTokenException", "TokenRefreshRequired", "IncompleteSignature", "InvalidSignatureException",
			"SignatureDoesNotMatch", "AuthFailure", "InvalidSecurity", "NotSignedUp", "OptInRequired", "InvalidIdentityToken", "IDPRejectedClaim",
		},
	}
	classClock = class{
		config.FailedPrecondition, "was refused: this machine's clock differs from AWS's", "set the clock, with NTP for instance", []string{
			"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture",
		},
	}
	classRegion = class{
		config.FailedPrecondition, "was sent to the wrong region", "set AWS_REGION to the region that the store lies in", []string{
			"PermanentRedirect", "TemporaryRedirect", "Redirect", "MovedPermanently", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException",
			"RegionDisabledException", "InvalidRegion", "IncorrectEndpoint",
		},
	}
	classAbsent = class{
		config.FailedPrecondition, "names something that AWS does not have", "check the store's options, AWS_REGION and the account", []string{
			"ResourceNotFoundException", "ResourceNotFound", "NoSuchBucket", "TableNotFoundException",
		},
	}
	classInvalid = class{config.InvalidArgument, "was refused by AWS as invalid", "", []string{
		"ValidationException", "ValidationError", "InvalidParameterException", "InvalidParameterValue", "InvalidRequestException", "InvalidRequest",
		"SerializationException", "InvalidArgument",
	}}
	classThrottled = class{config.ResourceExhausted, "was throttled by AWS", "retry later, or raise the quota or capacity", nil}
	classServer    = class{config.Unavailable, "failed inside AWS", "retry", []string{"InternalServerError", "InternalFailure", "InternalError", "ServiceUnavailable"}}

	classNet  = class{config.Unavailable, "did not reach AWS", "check the network, the VPC endpoint and AWS_ENDPOINT_URL", nil}
	className = class{config.Unavailable, "did not reach AWS: its host name has no address", "check AWS_REGION, AWS_ENDPOINT_URL and the name service", nil}
	classTLS  = class{
		config.FailedPrecondition, "did not reach AWS: the certificate of the other side is not trusted",
		"set AWS_CA_BUNDLE if a proxy stands between, and check AWS_ENDPOINT_URL", nil,
	}
	classCut        = class{config.Unavailable, "got no whole answer from AWS", "retry", nil}
	classUnreadable = class{config.Internal, "got an answer that is not one of AWS", "check AWS_ENDPOINT_URL and what stands between", nil}
	classNoRegion   = class{config.FailedPrecondition, "has no region to go to", "set AWS_REGION and name it in the env list of this plugin in the manifest", nil}
	classRequest    = class{config.Internal, "could not be made into a request", "", nil}
	classOther      = class{config.Unknown, "was refused by AWS", "", nil}
	classUnknown    = class{config.Unknown, "failed", "", nil}
)

var classes = func() map[string]*class {
	all := map[string]*class{}
	for _, c := range []*class{
		&classDenied, &classCredentials, &classClock, &classRegion, &classAbsent, &classInvalid, &classServer,
	} {
		for _, code := range c.codes {
			all[code] = c
		}
	}
	return all
}()

// throttles are the codes that the SDK does not know as such.
var throttles = map[string]bool{"Throttled": true, "RequestThrottledException": true, "TooManyRequests": true, "SlowDownException": true, "KMSThrottlingException": true}

func isThrottle(code string, status int) bool {
	if _, ok := retry.DefaultThrottleErrorCodes[code]; ok || throttles[code] {
		return true
	}
	return status == 429
}

// showable is the form of the error codes that a text may repeat. No tenant,
// account or ARN has it.
var showable = regexp.MustCompile(`^[A-Z][A-Za-z]{2,63}$`)

// Error turns an error of the SDK into a *config.Error that names op and, if it
// is not zero, key, and nil into nil. An error that is one already keeps its
// code and text. write says that the call was to change something; extra is
// asked first about the error code of AWS.
//
// A write that may have been carried out although it failed, in its last
// attempt or an earlier one, has code OutcomeUnknown, whatever AWS said last. If
// time ran out or the caller gave up that is told by DeadlineExceeded and
// Canceled, for reads and writes alike.
//
// The text holds neither ARN, account, path, tenant nor what AWS said in words;
// err is kept as the cause.
func Error(op string, key config.Key, err error, write bool, extra Codes) error {
	if err == nil {
		return nil
	}
	var ours *config.Error
	if errors.As(err, &ours) {
		return config.AsError(err, op, key)
	}
	e := &config.Error{Op: op, Key: key, Err: err}
	if canceled(err) {
		e.Code = config.Canceled
		if !errors.Is(err, context.Canceled) {
			e.Code = config.DeadlineExceeded
		}
		e.Message = action(err) + " was not answered in time"
		if e.Code == config.Canceled {
			e.Message = action(err) + " was given up by its caller"
		}
		return e
	}
	code := apiCode(err)
	var refused *credentialsError
	switch {
	case errors.As(err, &refused):
		fillCredentials(e, refused)
		return e
	case write && (mayHaveArrived(err) || Repeated(err)):
		e.Code, e.Message = config.OutcomeUnknown, action(err)+" was sent, and AWS did not say whether it was carried out"
		e.Hint = "read the value before you retry"
		e.RetryAfter = retryAfter(err)
		return e
	}
	if mapped, ok := extra[code]; ok && code != "" {
		e.Code, e.Message = mapped, action(err)+": "+mapped.Error()
		if showable.MatchString(code) {
			e.Message += " (" + code + ")"
		}
		e.RetryAfter = retryAfter(err)
		return e
	}
	fill(e, err)
	return e
}

// fill sets code and text by the tables.
func fill(e *config.Error, err error) {
	c := classify(err)
	e.Code, e.Hint = c.code, c.hint
	e.Message = action(err) + " " + c.message
	if code := apiCode(err); showable.MatchString(code) {
		e.Message += " (" + code + ")"
	}
	e.RetryAfter = retryAfter(err)
	if e.Code == config.ResourceExhausted && e.RetryAfter == 0 {
		e.RetryAfter = throttledWait
	}
}

// fillCredentials does so for a call that never left for want of credentials.
func fillCredentials(e *config.Error, refused *credentialsError) {
	if !refused.tenant {
		e.Code, e.Message, e.Hint = config.Unauthenticated, "no AWS credentials could be had", credentialsHint()
		if code := classify(refused.err).code; code == config.Unavailable || code == config.ResourceExhausted || ended(refused.err) {
			e.Code = config.Unavailable // their source does not answer, for now
		}
		return
	}
	fill(e, refused.err)
	e.Message = "the tenant's role can not be assumed: " + e.Message
	if ended(refused.err) {
		e.Code, e.Message, e.Hint = config.Unavailable, "the tenant's role can not be assumed: STS did not answer in time", "retry"
	}
	switch e.Code {
	case config.PermissionDenied:
		e.Hint = "the trust policy of tenant_role must allow this plugin's role sts:AssumeRole and sts:TagSession, and this plugin's role must be allowed both on tenant_role"
	case config.InvalidArgument:
		e.Code = config.FailedPrecondition
		e.Hint = "check tenant_role, and that tenant_role_duration is not over the role's maximum session duration"
	case config.Unknown:
		if errors.Is(refused.err, errTenantsClosed) {
			e.Code, e.Message, e.Hint = config.FailedPrecondition, "the connection to AWS is closed", ""
		}
	}
}

// action names the API operation, which is a name from the SDK's own code.
func action(err error) string {
	var operation *smithy.OperationError
	if errors.As(err, &operation) {
		return operation.ServiceID + " " + operation.OperationName
	}
	return "the call of AWS"
}

// canceled reports whether the caller's context ended the call.
func canceled(err error) bool {
	if errors.As(err, new(*credentialsError)) {
		return false // its own time ran out; that of a caller who waits for it is no such error
	}
	return ended(err)
}

// ended reports whether err is the end of a context. The transport's own
// timeouts say that they are context.DeadlineExceeded too, and are not meant.
func ended(err error) bool {
	var said interface{ CanceledError() bool }
	if errors.As(err, &said) && said.CanceledError() {
		return true
	}
	if errors.As(err, new(*sendError)) {
		return errors.Is(err, context.Canceled)
	}
	var network *net.OpError // an i/o timeout
	return !errors.As(err, &network) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}

// statusOf returns the status of AWS's answer, false if there was none.
func statusOf(err error) (int, bool) {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.Response == nil || answer.Response.Response == nil {
		return 0, false
	}
	status := answer.Response.StatusCode // 0 where the SDK wrapped a transport's error
	return status, status != 0
}

// apiCode returns AWS's error code, "" if there is none.
func apiCode(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() == "UnknownError" {
		return ""
	}
	return api.ErrorCode()
}

// classify finds the row of the table.
func classify(err error) *class {
	if send := (*sendError)(nil); errors.As(err, &send) {
		return classifySend(send)
	}
	if status, answered := statusOf(err); answered {
		return classifyAnswer(err, status)
	}
	switch {
	case errors.As(err, new(*aws.MissingRegionError)):
		return &classNoRegion
	case errors.As(err, new(smithy.InvalidParamsError)), errors.As(err, new(*smithy.SerializationError)):
		return &classRequest
	case apiCode(err) != "":
		return classifyAnswer(err, 400)
	case cut(err):
		return &classCut
	}
	return &classUnknown
}

func classifySend(err *sendError) *class {
	var (
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		name        *net.DNSError
	)
	switch {
	case errors.As(err, &name):
		return &className
	case errors.As(err, &certificate), errors.As(err, &record):
		return &classTLS
	case err.wrote:
		return &classCut
	}
	return &classNet
}

func classifyAnswer(err error, status int) *class {
	code := apiCode(err)
	if isThrottle(code, status) {
		return &classThrottled
	}
	if c, ok := classes[code]; ok {
		switch {
		case c == &classCredentials && clockDiffers(err):
			return &classClock
		case c == &classCredentials && strings.Contains(said(err), "Credential should be scoped to"):
			return &classRegion
		}
		return c
	}
	switch {
	case status >= 500:
		return &classServer
	case status >= 300 && status < 400:
		return &classRegion
	case code != "":
		return &classOther
	case status == 401:
		return &classCredentials
	case status == 403:
		return &classDenied
	case status == 408:
		return &classCut
	case cut(err):
		return &classCut
	}
	return &classUnreadable
}

// cut reports whether an answer ended before its end.
func cut(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.As(err, new(net.Error))
}

func said(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorMessage()
	}
	return ""
}

// clockTolerance is by how much AWS lets a signature's time differ, less a
// minute for what the answer took.
const clockTolerance = 4 * time.Minute

// clockDiffers reports whether it is the clock for which AWS did not accept a
// signature: it says so, or its answer's date is far from now.
func clockDiffers(err error) bool {
	text := said(err)
	if strings.Contains(text, "Signature expired") || strings.Contains(text, "Signature not yet current") {
		return true
	}
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.Response == nil || answer.Response.Response == nil {
		return false
	}
	date, bad := http.ParseTime(answer.Response.Header.Get("Date"))
	return bad == nil && time.Since(date).Abs() > clockTolerance
}
