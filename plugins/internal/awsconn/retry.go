package awsconn

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// The retry budget: n calls make at most n/20 + 10 retries, which from 200 calls
// on is a tenth.
const (
	budgetTokens = 200
	retryCost    = 20
	successGain  = 1
)

// The delay before a retry is random between 0 and its base, which doubles with
// every attempt up to maxDelay.
const (
	baseDelay     = 50 * time.Millisecond
	throttleDelay = 200 * time.Millisecond
	maxDelay      = time.Second
)

// maxRetryAfter bounds what a server may ask callers to wait.
const maxRetryAfter = 5 * time.Minute

// budget is a token bucket that only a success refills. The SDK's own gives a
// retry's tokens back when the retry succeeds, which under half failed calls
// comes to one retry per call.
type budget struct{ *ratelimit.TokenRateLimit }

// GetToken takes the tokens of one retry, for good.
func (b budget) GetToken(ctx context.Context, cost uint) (func() error, error) {
	if _, err := b.TokenRateLimit.GetToken(ctx, cost); err != nil {
		return nil, err
	}
	return func() error { return nil }, nil
}

// retryer is the SDK's standard one with this package's budget and delays.
type retryer struct {
	*retry.Standard
	once bool // never repeat what may have been carried out
}

func newRetryer(maxAttempts int) *retryer {
	return &retryer{Standard: retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = maxAttempts
		o.MaxBackoff = maxDelay
		o.RateLimiter = budget{ratelimit.NewTokenRateLimit(budgetTokens)}
		o.RetryCost, o.RetryTimeoutCost, o.ThrottlingRetryCost = retryCost, retryCost, retryCost
		o.NoRetryIncrement = successGain
		o.Backoff = retry.BackoffDelayerFunc(delay)
		o.Retryables = append(o.Retryables, retry.IsErrorRetryableFunc(func(err error) aws.Ternary {
			if status, _ := statusOf(err); isThrottle(apiCode(err), status) {
				return aws.TrueTernary
			}
			return aws.UnknownTernary
		}))
	})}
}

// onlyOnce returns a copy for Conn.Once, which shares the budget.
func (r *retryer) onlyOnce() *retryer { return &retryer{Standard: r.Standard, once: true} }

// IsErrorRetryable is the SDK's answer, but for what must not be carried out
// twice.
func (r *retryer) IsErrorRetryable(err error) bool {
	if r.once && mayHaveArrived(err) {
		return false
	}
	return r.Standard.IsErrorRetryable(err)
}

// GetRetryToken refuses a retry for which the caller's time does not suffice:
// the reason of the failure is worth more than a deadline's.
func (r *retryer) GetRetryToken(ctx context.Context, err error) (func(error) error, error) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < base(err) {
		return nil, errors.New("no time is left for a retry")
	}
	return r.Standard.GetRetryToken(ctx, err)
}

func base(err error) time.Duration {
	if status, _ := statusOf(err); isThrottle(apiCode(err), status) {
		return throttleDelay
	}
	return baseDelay
}

// delay returns how long to wait before the next attempt, at least what the
// server asked for. If that is longer than a call should take it returns err:
// the caller is told to come back instead.
func delay(attempt int, err error) (time.Duration, error) {
	most := min(maxDelay, base(err)<<min(max(attempt-1, 0), 10))
	wait := rand.N(most) //nolint:gosec // jitter needs no secrecy
	if asked := retryAfter(err); asked > maxDelay {
		return 0, err
	} else if asked > wait {
		wait = asked
	}
	return wait, nil
}

// retryAfter returns what the server's answer asks its client to wait, 0 if it
// does not say.
func retryAfter(err error) time.Duration {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.Response == nil || answer.Response.Response == nil {
		return 0
	}
	header := answer.Response.Header
	var wait time.Duration
	if ms, err := strconv.ParseUint(header.Get("X-Amz-Retry-After"), 10, 31); err == nil {
		wait = time.Duration(ms) * time.Millisecond
	}
	if text := header.Get("Retry-After"); text != "" {
		if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
			wait = max(wait, time.Duration(seconds)*time.Second)
		} else if at, err := http.ParseTime(text); err == nil {
			wait = max(wait, time.Until(at))
		}
	}
	return min(max(wait, 0), maxRetryAfter)
}
