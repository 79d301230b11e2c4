package dynamostore

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go/logging"

	"github.com/tagstore/tagstore/core/config"
)

// The times that a call may take. A request of the order service has 5 s.
const (
	callTimeout        = 4 * time.Second // one API call with its retries
	answerTimeout      = 1500 * time.Millisecond
	dialTimeout        = time.Second
	credentialsTimeout = 4 * time.Second // where a machine has none, finding out takes a while
)

// The retries. Each takes retryCost tokens of a bucket that a successful
// attempt puts one back into: of n calls at most n/10 + 15 are sent again.
const (
	maxAttempts  = 4
	retryTokens  = 150
	retryCost    = 10
	firstDelay   = 25 * time.Millisecond
	longestDelay = 500 * time.Millisecond
)

// conn is the client of one table's region.
type conn struct {
	*dynamodb.Client
	transport *http.Transport
}

// dial reads region, credentials and endpoint from where the SDK looks for
// them, and returns everything that is missing. It calls nothing but what gives
// credentials.
func dial(ctx context.Context) (*conn, []*config.Error) {
	builder := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.ResponseHeaderTimeout = answerTimeout
		t.TLSHandshakeTimeout = 2 * dialTimeout
		t.MaxIdleConns, t.MaxIdleConnsPerHost, t.MaxConnsPerHost = 64, 64, 512
		t.IdleConnTimeout = 50 * time.Second // shorter than the server's
	})
	dialer := builder.GetDialer()
	dialer.Timeout = dialTimeout
	builder = builder.WithTransportOptions(func(t *http.Transport) { t.DialContext = dialer.DialContext })
	cfg, err := sdkconfig.LoadDefaultConfig(ctx, sdkconfig.WithHTTPClient(builder),
		sdkconfig.WithLogger(logging.Nop{})) // it would write what may hold ARNs
	if err != nil {
		return nil, []*config.Error{
			config.Errorf(config.FailedPrecondition, "the AWS configuration can not be read").WithCause(err).
				WithHint("check AWS_PROFILE, AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE, AWS_CA_BUNDLE and the files that they name"),
		}
	}
	var problems []*config.Error
	if cfg.Region == "" {
		problems = append(problems, config.Errorf(config.FailedPrecondition, "no AWS region is set").WithHint("set AWS_REGION"))
	}
	if problem := tryCredentials(ctx, cfg.Credentials); problem != nil {
		problems = append(problems, problem)
	}
	// The SDK puts AWS_CA_BUNDLE into its own kind of client only, which can
	// not be closed; so its transport is taken out of it.
	if built, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		builder = built
	}
	c := &conn{transport: builder.GetTransport()}
	client := &sender{http.Client{
		Transport:     c.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	retryer := newRetryer()
	cfg.RetryMaxAttempts, cfg.RetryMode = 0, "" // or AWS_MAX_ATTEMPTS would win
	c.Client = dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) {
		o.HTTPClient, o.Retryer = client, retryer
	})
	return c, problems
}

func tryCredentials(ctx context.Context, p aws.CredentialsProvider) *config.Error {
	ctx, cancel := context.WithTimeout(ctx, credentialsTimeout)
	defer cancel()
	problem := config.Errorf(config.FailedPrecondition, "there are no AWS credentials").
		WithHint("give the task or the instance a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
	if p == nil {
		return problem
	}
	if found, err := p.Retrieve(ctx); err != nil || !found.HasKeys() {
		return problem.WithCause(err)
	}
	return nil
}

func (c *conn) close() {
	if c != nil {
		c.transport.CloseIdleConnections()
	}
}

// newRetryer returns the SDK's standard retries with this package's bounds. It
// also repeats a transaction that was canceled because others were at work on
// the same items, or because there were too many.
func newRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = maxAttempts
		o.RateLimiter = budget{ratelimit.NewTokenRateLimit(retryTokens)}
		o.RetryCost, o.RetryTimeoutCost, o.ThrottlingRetryCost = retryCost, retryCost, retryCost
		o.NoRetryIncrement = 1
		o.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) {
			most := min(longestDelay, firstDelay<<min(attempt, 10))
			return most/4 + rand.N(3*most/4), nil //nolint:gosec // jitter needs no secrecy
		})
		o.Retryables = append(o.Retryables, retry.IsErrorRetryableFunc(func(err error) aws.Ternary {
			switch cancellation(err) {
			case canceledBusy, canceledThrottled:
				return aws.TrueTernary
			default:
				return aws.UnknownTernary
			}
		}))
	})
}

// budget is a bucket that a successful attempt refills by one token and a
// successful retry does not give its own back to: with the SDK's, half of all
// calls failing would come to one retry for each.
type budget struct{ *ratelimit.TokenRateLimit }

// GetToken takes the tokens of one retry, for good.
func (b budget) GetToken(ctx context.Context, cost uint) (func() error, error) {
	if _, err := b.TokenRateLimit.GetToken(ctx, cost); err != nil {
		return nil, err
	}
	return func() error { return nil }, nil
}

// Why a write was canceled by others' writes.
type canceled int

const (
	notCanceled canceled = iota
	canceledByCondition
	canceledBusy // others write the same items
	canceledThrottled
	canceledOtherwise
)

func cancellation(err error) canceled {
	var conflict *types.TransactionConflictException
	var transaction *types.TransactionCanceledException
	var condition *types.ConditionalCheckFailedException
	switch {
	case errors.As(err, &condition):
		return canceledByCondition
	case errors.As(err, &conflict):
		return canceledBusy
	case !errors.As(err, &transaction):
		return notCanceled
	}
	why := canceledOtherwise
	for _, reason := range transaction.CancellationReasons {
		switch aws.ToString(reason.Code) {
		case "ConditionalCheckFailed":
			return canceledByCondition // final, whatever became of the other item
		case "ValidationError", "ItemCollectionSizeLimitExceeded":
			return canceledOtherwise
		case "TransactionConflict":
			why = canceledBusy
		case "ThrottlingError", "ProvisionedThroughputExceeded":
			why = canceledThrottled
		}
	}
	return why
}

// attempts is what became of the requests of one call.
type attempts struct{ arrived atomic.Bool }

type attemptsKey struct{}

// watchAttempts returns a context that tells of the call made with it whether
// one of its requests may have been carried out without anybody having heard.
func watchAttempts(ctx context.Context) (context.Context, *attempts) {
	a := &attempts{}
	return context.WithValue(ctx, attemptsKey{}, a), a
}

// sender is the SDK's HTTP client.
type sender struct{ http http.Client }

// Do sends r and notes whether it may have been carried out: when its head was
// sent and nothing came back, and for every answer that is no refusal, since
// what follows its head may still be lost.
func (s *sender) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		// The SDK closes its body as soon as the answer arrives. Through
		// io.WriterTo, net/http would take that for a failed write and cut the
		// connection under the answer; through Read it does not.
		r = r.WithContext(r.Context())
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	a, _ := r.Context().Value(attemptsKey{}).(*attempts)
	if a == nil {
		return s.http.Do(r) //nolint:gosec // the SDK says where to
	}
	var wrote atomic.Bool
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }}))
	response, err := s.http.Do(r) //nolint:gosec // the SDK says where to
	if err != nil && wrote.Load() || err == nil && (response.StatusCode < 300 || response.StatusCode >= 500) {
		a.arrived.Store(true)
	}
	return response, err
}
