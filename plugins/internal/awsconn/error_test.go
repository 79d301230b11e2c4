package awsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go"
	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/config"
)

// secrets is what the servers of these tests put into all that they say, and
// what no text may repeat.
const secrets = "User: arn:aws:sts::123456789012:assumed-role/plugin/acme-corp is not authorized on arn:aws:ssm:eu-central-1:123456789012:parameter/config-service/acme-corp/limit"

var leak = regexp.MustCompile(`arn:|[0-9]{6}|acme|config-service|/|127\.0\.0\.1|AKID|secret|configs`)

// checkText fails if the text of err holds what must not cross.
func checkText(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if found := leak.FindString(err.Error()); found != "" {
		t.Errorf("the text %q holds %q", err, found)
	}
	var e *config.Error
	if !errors.As(err, &e) || e.Message == "" || e.Op == "" {
		t.Errorf("%#v has no operation or no message", err)
	}
}

func answer(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fail(w, status, code, secrets) }
}

// reset takes the whole request and then breaks the connection.
func reset(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

func TestError(t *testing.T) {
	for name, c := range map[string]struct {
		handler     http.HandlerFunc
		read, write config.Code
		hint        string // a part of it
	}{
		"denied":               {answer(400, "AccessDeniedException"), config.PermissionDenied, config.PermissionDenied, "IAM"},
		"denied, S3's":         {answer(403, "AccessDenied"), config.PermissionDenied, config.PermissionDenied, "IAM"},
		"denied by a proxy":    {plain(403, "<html>no</html>"), config.PermissionDenied, config.PermissionDenied, "IAM"},
		"unknown client":       {answer(400, "UnrecognizedClientException"), config.Unauthenticated, config.Unauthenticated, "account"},
		"expired":              {answer(400, "ExpiredTokenException"), config.Unauthenticated, config.Unauthenticated, "expired"},
		"expired, S3's":        {answer(400, "ExpiredToken"), config.Unauthenticated, config.Unauthenticated, "expired"},
		"signature":            {answer(400, "InvalidSignatureException"), config.Unauthenticated, config.Unauthenticated, "clock"},
		"throttled":            {answer(400, "ThrottlingException"), config.ResourceExhausted, config.ResourceExhausted, "retry"},
		"throughput":           {answer(400, "ProvisionedThroughputExceededException"), config.ResourceExhausted, config.ResourceExhausted, "capacity"},
		"request limit":        {answer(400, "RequestLimitExceeded"), config.ResourceExhausted, config.ResourceExhausted, "retry"},
		"too many":             {plain(429, ""), config.ResourceExhausted, config.ResourceExhausted, "retry"},
		"slow down":            {answer(503, "SlowDown"), config.ResourceExhausted, config.ResourceExhausted, "retry"},
		"no such thing":        {answer(400, "ResourceNotFoundException"), config.FailedPrecondition, config.FailedPrecondition, "AWS_REGION"},
		"invalid":              {answer(400, "ValidationException"), config.InvalidArgument, config.InvalidArgument, ""},
		"server":               {answer(500, "InternalServerError"), config.Unavailable, config.OutcomeUnknown, "retry"},
		"server of no name":    {plain(502, "<html>bad gateway</html>"), config.Unavailable, config.OutcomeUnknown, "retry"},
		"server gone":          {plain(503, ""), config.Unavailable, config.OutcomeUnknown, "retry"},
		"wrong region":         {answer(400, "AuthorizationHeaderMalformed"), config.FailedPrecondition, config.FailedPrecondition, "AWS_REGION"},
		"redirect":             {plain(301, ""), config.FailedPrecondition, config.FailedPrecondition, "AWS_REGION"},
		"scoped elsewhere":     {says(400, "InvalidSignatureException", "Credential should be scoped to a valid region"), config.FailedPrecondition, config.FailedPrecondition, "AWS_REGION"},
		"skew":                 {answer(403, "RequestTimeTooSkewed"), config.FailedPrecondition, config.FailedPrecondition, "clock"},
		"skew by text":         {says(400, "InvalidSignatureException", "Signature expired: 2020 is now earlier than 2021"), config.FailedPrecondition, config.FailedPrecondition, "clock"},
		"skew by date":         {dated(400, "SignatureDoesNotMatch", -time.Hour), config.FailedPrecondition, config.FailedPrecondition, "clock"},
		"no JSON":              {plain(200, "<html>sign in</html>"), config.Internal, config.OutcomeUnknown, ""},
		"cut answer":           {short200, config.Unavailable, config.OutcomeUnknown, "retry"},
		"reset":                {reset, config.Unavailable, config.OutcomeUnknown, "retry"},
		"a code of no table":   {answer(400, "BrandNewException"), config.Unknown, config.Unknown, ""},
		"a code that leaks":    {answer(400, "acme-corp"), config.Unknown, config.Unknown, ""},
		"a code of the store":  {answer(400, "ConditionalCheckFailedException"), config.Conflict, config.Conflict, ""},
		"in progress, earlier": {answer(400, "TransactionInProgressException"), config.ResourceExhausted, config.OutcomeUnknown, "retry"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := openAt(t, serve(t, c.handler).URL, Options{MaxAttempts: 1})
			ddb, params := dynamodb.NewFromConfig(conn.Config()), ssm.NewFromConfig(conn.Config())
			for call, err := range map[string]error{"get": get(t.Context(), ddb), "parameter": parameter(t.Context(), params)} {
				check(t, call, err, false, c.read, c.hint)
			}
			check(t, "put", put(t.Context(), ddb), true, c.write, "")
		})
	}
}

var ddbCodes = Codes{"ConditionalCheckFailedException": config.Conflict}

func check(t *testing.T, call string, cause error, write bool, want config.Code, hint string) {
	t.Helper()
	if cause == nil {
		t.Fatalf("%s did not fail", call)
	}
	err := Error("store."+call, key(t, "tenant_config_limit"), cause, write, ddbCodes)
	checkText(t, err)
	var e *config.Error
	if !errors.As(err, &e) || e.Code != want || !strings.Contains(e.Hint, hint) {
		t.Errorf("%s: got %s, %q, want %s and a hint with %q; cause: %v", call, config.CodeOf(err), err, want, hint, cause)
		return
	}
	if !errors.Is(err, cause) {
		t.Errorf("%s: the cause is lost", call)
	}
	if want == config.ResourceExhausted && e.RetryAfter != throttledWait {
		t.Errorf("%s: RetryAfter is %v", call, e.RetryAfter)
	}
}

func plain(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func says(status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fail(w, status, code, message) }
}

func dated(status int, code string, off time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
		fail(w, status, code, secrets)
	}
}

func short200(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	w.WriteHeader(200)
	_, _ = io.WriteString(w, `{"Item": {"pk": {"S": "TENANT#acme`)
}

// TestErrorNothingSent checks the failures before a request leaves: a write's
// outcome is known then.
func TestErrorNothingSent(t *testing.T) {
	refused := httptest.NewServer(nil)
	refused.Close()
	untrusted := httptest.NewUnstartedServer(http.HandlerFunc(succeed))
	untrusted.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // it says of every client that it does not trust it
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	for name, c := range map[string]struct {
		endpoint string
		want     config.Code
	}{
		"connection refused": {refused.URL, config.Unavailable},
		"no such host":       {"http://tagstore-test.invalid", config.Unavailable},
		"not trusted":        {untrusted.URL, config.FailedPrecondition},
		"no TLS there":       {"https" + strings.TrimPrefix(serve(t, succeed).URL, "http"), config.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			ddb := dynamodb.NewFromConfig(openAt(t, c.endpoint, Options{MaxAttempts: 1}).Config())
			check(t, "get", get(t.Context(), ddb), false, c.want, "AWS_ENDPOINT_URL")
			check(t, "put", put(t.Context(), ddb), true, c.want, "AWS_ENDPOINT_URL")
		})
	}
	t.Run("not a valid input", func(t *testing.T) {
		ddb := dynamodb.NewFromConfig(openAt(t, refused.URL, Options{}).Config())
		_, err := ddb.PutItem(t.Context(), &dynamodb.PutItemInput{})
		check(t, "put", err, true, config.Internal, "")
	})
}

func TestErrorEnded(t *testing.T) {
	arrived := make(chan struct{}, 100)
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	conn := openAt(t, server.URL, Options{Timeout: "200ms"})
	ddb := dynamodb.NewFromConfig(conn.Config())
	for _, write := range []bool{false, true} {
		call := get
		if write {
			call = put
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		check(t, "deadline", call(ctx, ddb), write, config.DeadlineExceeded, "")
		cancel()
		<-arrived

		ctx, cancel = context.WithCancel(t.Context())
		go func() {
			<-arrived
			cancel()
		}()
		check(t, "cancel", call(ctx, ddb), write, config.Canceled, "")

		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		check(t, "canceled before", call(ctx, ddb), write, config.Canceled, "")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("a call whose context is done took %s", took)
		}
	}
	// The transport's own patience ends before the call's: that is no deadline
	// of the caller.
	check(t, "no answer", get(t.Context(), ddb), false, config.Unavailable, "retry")
	check(t, "no answer", put(t.Context(), ddb, func(o *dynamodb.Options) { o.Retryer = conn.Once() }), true, config.OutcomeUnknown, "")
}

func TestErrorOfOwn(t *testing.T) {
	if err := Error("store.Get", config.Key{}, nil, true, nil); err != nil {
		t.Errorf("Error of nil is %v", err)
	}
	own := config.Errorf(config.InvalidArgument, "the key has not the prefix")
	err := Error("store.Get", key(t, "k"), fmt.Errorf("path: %w", own), true, nil)
	if config.CodeOf(err) != config.InvalidArgument || err.Error() != "store.Get: k: the key has not the prefix" {
		t.Errorf("an error of tagstore's own became %v", err)
	}
	if err := Error("store.Get", config.Key{}, io.ErrClosedPipe, false, nil); config.CodeOf(err) != config.Unknown || strings.Contains(err.Error(), "pipe") {
		t.Errorf("a foreign error became %v", err)
	}
	// A store's table wins over this package's.
	gone := &smithy.GenericAPIError{Code: "ResourceNotFoundException", Message: secrets}
	if err := Error("store.Get", config.Key{}, gone, false, Codes{"ResourceNotFoundException": config.NotFound}); config.CodeOf(err) != config.NotFound {
		t.Errorf("extra was not asked: %v", err)
	}
}

func TestErrorRetryAfter(t *testing.T) {
	for name, c := range map[string]struct {
		header, value string
		least, most   time.Duration
	}{
		"seconds":      {"Retry-After", "7", 7 * time.Second, 7 * time.Second},
		"date":         {"Retry-After", time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat), 80 * time.Second, 90 * time.Second},
		"milliseconds": {"X-Amz-Retry-After", "2500", 2500 * time.Millisecond, 2500 * time.Millisecond},
		"too much":     {"Retry-After", "86400", maxRetryAfter, maxRetryAfter},
		"past":         {"Retry-After", "Mon, 02 Jan 2006 15:04:05 GMT", throttledWait, throttledWait},
		"nonsense":     {"Retry-After", "-5 acme", throttledWait, throttledWait},
		"overflow":     {"Retry-After", "99999999999999999999", throttledWait, throttledWait},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				n++
				w.Header().Set(c.header, c.value)
				fail(w, 400, "ThrottlingException", secrets)
			})
			ddb := dynamodb.NewFromConfig(openAt(t, server.URL, Options{MaxAttempts: 2}).Config())
			err := Error("store.Get", config.Key{}, get(t.Context(), ddb), false, nil)
			checkText(t, err)
			var e *config.Error
			if !errors.As(err, &e) || e.Code != config.ResourceExhausted || e.RetryAfter < c.least || e.RetryAfter > c.most {
				t.Errorf("got %v with RetryAfter %v", err, e.RetryAfter)
			}
			if want := 2 - min(1, int(c.most/(2*time.Second))); n != want {
				t.Errorf("the call was sent %d times, want %d: what a server asks for is waited for, or not at all", n, want)
			}
		})
	}
}

// TestErrorTexts puts hostile codes and messages through every form of error
// that the SDK has.
func TestErrorTexts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hostile := rapid.SampledFrom([]string{
			secrets, "arn:aws:iam::123456789012:role/x", "acme-corp", "acme", "123456789012", "config-service/acme", "", "AccessDenied", "ThrottlingException",
			"InternalError", "PermanentRedirect", "ExpiredToken", "ValidationException", "SlowDown",
		})
		code, message := hostile.Draw(t, "code"), hostile.Draw(t, "message")
		var err error = &smithy.GenericAPIError{Code: code, Message: message}
		for _, wrap := range rapid.SliceOfN(rapid.IntRange(0, 6), 0, 4).Draw(t, "wraps") {
			switch wrap {
			case 0:
				err = &smithy.OperationError{ServiceID: "SSM", OperationName: "GetParameter", Err: err}
			case 1:
				err = &sendError{err: err, wrote: rapid.Bool().Draw(t, "wrote")}
			case 2:
				err = &credentialsError{tenant: rapid.Bool().Draw(t, "tenant"), err: err}
			case 3:
				err = &repeatedError{err}
			case 4:
				err = fmt.Errorf("%s: %w", secrets, err)
			case 5:
				err = &smithy.DeserializationError{Err: err, Snapshot: []byte(secrets)}
			case 6:
				err = &smithy.CanceledError{Err: err}
			}
		}
		extra := Codes{}
		if rapid.Bool().Draw(t, "extra") {
			extra[code] = config.Codes()[rapid.IntRange(0, len(config.Codes())-1).Draw(t, "meaning")]
		}
		out := Error("store.Get", config.Key{}, err, rapid.Bool().Draw(t, "write"), extra)
		if found := leak.FindString(out.Error()); found != "" {
			t.Fatalf("the text %q holds %q", out, found)
		}
	})
}
