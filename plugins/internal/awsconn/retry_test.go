package awsconn

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/tagstore/tagstore/core/config"
)

// storm makes calls from 16 goroutines and returns how many failed.
func storm(t *testing.T, calls int, call func(context.Context) error) (failed int) {
	t.Helper()
	var (
		wg   sync.WaitGroup
		left atomic.Int64
		bad  atomic.Int64
	)
	left.Store(int64(calls))
	for range 16 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if call(t.Context()) != nil {
					bad.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(bad.Load())
}

// TestRetryStorm checks the bound on amplification against a server that counts
// what reaches it: everything fails, everything is cut, or every second or
// fifth request fails, which the budget must not pay back.
func TestRetryStorm(t *testing.T) {
	const calls = 300
	for name, c := range map[string]struct {
		handler   func(n int64) http.HandlerFunc
		succeeded int // calls at least
	}{
		"throttled":    {func(int64) http.HandlerFunc { return answer(400, "ThrottlingException") }, 0},
		"slow down":    {func(int64) http.HandlerFunc { return answer(503, "SlowDown") }, 0},
		"server error": {func(int64) http.HandlerFunc { return answer(500, "InternalServerError") }, 0},
		"reset":        {func(int64) http.HandlerFunc { return reset }, 0},
		"every second": {func(n int64) http.HandlerFunc {
			if n%2 == 0 {
				return answer(400, "ProvisionedThroughputExceededException")
			}
			return succeed
		}, calls/2 - 20},
		"every twentieth": {func(n int64) http.HandlerFunc {
			if n%20 == 0 {
				return answer(500, "InternalServerError")
			}
			return succeed
		}, calls},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			server := serve(t, func(w http.ResponseWriter, r *http.Request) { c.handler(n.Add(1))(w, r) })
			conn := openAt(t, server.URL, Options{Timeout: "30s"})
			counted := conn.CountCalls()
			ddb, params := dynamodb.NewFromConfig(conn.Config()), ssm.NewFromConfig(conn.Config())
			failed := storm(t, calls/2, func(ctx context.Context) error { return get(ctx, ddb) })
			failed += storm(t, calls/2, func(ctx context.Context) error { return parameter(ctx, params) })
			if sent := int(n.Load()); sent > calls*11/10 || sent < calls {
				t.Errorf("%d calls were sent %d times", calls, sent)
			}
			if got := counted.Attempts(); got != int(n.Load()) || counted.Logical() != calls {
				t.Errorf("%s were counted, and %d requests came", counted, n.Load())
			}
			if calls-failed < c.succeeded {
				t.Errorf("%d of %d calls succeeded, want %d or more", calls-failed, calls, c.succeeded)
			}
			if c.succeeded == 0 && failed != calls {
				t.Errorf("%d of %d calls failed", failed, calls)
			}
			t.Logf("%d calls, %d requests, %d failed", calls, n.Load(), failed)
		})
	}
}

// flaky fails the first n requests and then succeeds.
func flaky(t *testing.T, first ...http.HandlerFunc) (endpoint string, sent *atomic.Int64) {
	t.Helper()
	sent = new(atomic.Int64)
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n := int(sent.Add(1)); n <= len(first) {
			first[n-1](w, r)
			return
		}
		succeed(w, r)
	}).URL, sent
}

func TestRetryOccasional(t *testing.T) {
	for name, first := range map[string][]http.HandlerFunc{
		"throttled":       {answer(400, "ThrottlingException")},
		"throttled twice": {answer(400, "ProvisionedThroughputExceededException"), answer(503, "SlowDown")},
		"by status":       {plain(429, "")},
		"server":          {answer(500, "InternalServerError"), answer(503, "ServiceUnavailable")},
		"reset":           {reset},
		// The SDK learns the difference from the answer and signs anew.
		"clock": {dated(400, "InvalidSignatureException", time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint, sent := flaky(t, first...)
			ddb := dynamodb.NewFromConfig(openAt(t, endpoint, Options{}).Config())
			if err := get(t.Context(), ddb); err != nil {
				t.Errorf("get: %v", err)
			}
			if got := int(sent.Load()); got != len(first)+1 {
				t.Errorf("%d requests came, want %d", got, len(first)+1)
			}
		})
	}
}

func TestRetryNot(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"denied":    answer(400, "AccessDeniedException"),
		"condition": answer(400, "ConditionalCheckFailedException"),
		"invalid":   answer(400, "ValidationException"),
		"absent":    answer(400, "ResourceNotFoundException"),
	} {
		t.Run(name, func(t *testing.T) {
			endpoint, sent := flaky(t, handler, handler, handler, handler)
			ddb := dynamodb.NewFromConfig(openAt(t, endpoint, Options{}).Config())
			if err := get(t.Context(), ddb); err == nil || sent.Load() != 1 {
				t.Errorf("%d requests came, error %v", sent.Load(), err)
			}
		})
	}
}

func TestMaxAttempts(t *testing.T) {
	t.Setenv("AWS_MAX_ATTEMPTS", "9") // the option wins
	for _, most := range []int{1, 2, 4} {
		bad := answer(500, "InternalServerError")
		endpoint, sent := flaky(t, bad, bad, bad, bad, bad, bad)
		ddb := dynamodb.NewFromConfig(openAt(t, endpoint, Options{MaxAttempts: most}).Config())
		if err := get(t.Context(), ddb); err == nil || int(sent.Load()) != most {
			t.Errorf("max_attempts %d: %d requests came, error %v", most, sent.Load(), err)
		}
	}
}

// TestOnce checks that a write that must not be carried out twice is sent again
// only when it surely was not carried out.
func TestOnce(t *testing.T) {
	for name, c := range map[string]struct {
		first http.HandlerFunc
		sent  int
		want  config.Code // of the error, 0 for success
	}{
		"throttled":    {answer(400, "ThrottlingException"), 2, 0},
		"slow down":    {answer(503, "SlowDown"), 2, 0},
		"reset":        {reset, 1, config.OutcomeUnknown},
		"server error": {answer(500, "InternalServerError"), 1, config.OutcomeUnknown},
		"cut answer":   {short200, 1, config.OutcomeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint, sent := flaky(t, c.first)
			conn := openAt(t, endpoint, Options{})
			ddb := dynamodb.NewFromConfig(conn.Config())
			err := put(t.Context(), ddb, func(o *dynamodb.Options) { o.Retryer = conn.Once() })
			if int(sent.Load()) != c.sent {
				t.Errorf("%d requests came, want %d", sent.Load(), c.sent)
			}
			if err := Error("store.Put", config.Key{}, err, true, nil); (c.want == 0) != (err == nil) || err != nil && config.CodeOf(err) != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestRepeated checks that a write whose first attempt may have been carried
// out is not reported as what its second attempt met.
func TestRepeated(t *testing.T) {
	for name, c := range map[string]struct {
		first, second http.HandlerFunc
		repeated      bool
		want          config.Code
	}{
		"reset, then condition":     {reset, answer(400, "ConditionalCheckFailedException"), true, config.OutcomeUnknown},
		"server, then denied":       {answer(500, "InternalServerError"), answer(400, "AccessDeniedException"), true, config.OutcomeUnknown},
		"throttled, then condition": {answer(400, "ThrottlingException"), answer(400, "ConditionalCheckFailedException"), false, config.Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint, _ := flaky(t, c.first, c.second, c.second)
			ddb := dynamodb.NewFromConfig(openAt(t, endpoint, Options{MaxAttempts: 2}).Config())
			err := put(t.Context(), ddb)
			if err == nil || Repeated(err) != c.repeated {
				t.Fatalf("Repeated is %t of %v", Repeated(err), err)
			}
			if got := Error("store.Put", config.Key{}, err, true, ddbCodes); config.CodeOf(got) != c.want {
				t.Errorf("a write: %v, want %s", got, c.want)
			}
			if got := Error("store.Get", config.Key{}, err, false, ddbCodes); config.CodeOf(got) == config.OutcomeUnknown {
				t.Errorf("a read: %v", got)
			}
		})
	}
}

// TestRetryDeadline checks that a call that has no time for a retry tells what
// happened and not that the time ran out.
func TestRetryDeadline(t *testing.T) {
	endpoint, sent := flaky(t, answer(400, "ThrottlingException"), answer(400, "ThrottlingException"))
	ddb := dynamodb.NewFromConfig(openAt(t, endpoint, Options{}).Config())
	ctx, cancel := context.WithTimeout(t.Context(), throttleDelay*3/4)
	defer cancel()
	err := Error("store.Get", config.Key{}, get(ctx, ddb), false, nil)
	if config.CodeOf(err) != config.ResourceExhausted || sent.Load() != 1 {
		t.Errorf("got %v after %d requests", err, sent.Load())
	}
}

func TestDelay(t *testing.T) {
	failure := errors.New("failed")
	for attempt, most := range map[int]time.Duration{1: baseDelay, 2: 2 * baseDelay, 3: 4 * baseDelay, 9: maxDelay, 1000: maxDelay} {
		longest, shortest := time.Duration(0), time.Hour
		for range 300 {
			d, err := delay(attempt, failure)
			if err != nil || d < 0 || d >= most {
				t.Fatalf("delay of attempt %d is %s, %v", attempt, d, err)
			}
			longest, shortest = max(longest, d), min(shortest, d)
		}
		if longest < most*3/4 || shortest > most/4 {
			t.Errorf("attempt %d: the delays lie from %s to %s of %s", attempt, shortest, longest, most)
		}
	}
}
