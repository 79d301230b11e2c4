package daxread

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/smithy-go"
)

// reader is one call.
type reader struct {
	ctx     context.Context // the caller's
	session *session
	in      *dynamodb.BatchGetItemInput
	want    asked
	timeout time.Duration
}

// How often one call is tried again, by what went wrong. Each pooled
// connection of a node that restarted costs one attempt; those after the first
// cost microseconds, because the first closed them all.
const (
	maxLost     = 2*maxInside + 8
	maxRefused  = 8 // of several nodes, some may be gone
	maxTimeouts = 2
	maxOther    = 2
)

// timerSlack is how far apart two timers for the same moment may fire.
const timerSlack = 5 * time.Millisecond

// read tries until there is an answer or the time is over.
func (r *reader) read() (*dynamodb.BatchGetItemOutput, verdict, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	tries := map[outcome]int{}
	most := map[outcome]int{lost: maxLost, refused: maxRefused, timedOut: maxTimeouts, other: maxOther}
	for {
		out, err := r.attempt(ctx)
		o := classify(err)
		if o == good && !r.want.check(out) {
			return nil, lied, &readError{kind: ErrWrongItem, why: "the answer is not used"}
		}
		switch o {
		case good:
			return out, answered, nil
		case throttled:
			return nil, answered, &readError{kind: ErrThrottled, why: "a limit was reached", cause: err}
		case passedOn:
			return nil, answered, err
		case panicked:
			r.session.replace()
			return nil, lied, &readError{kind: ErrUnavailable, why: "its answer can not be read", cause: err}
		}
		if deadline, _ := ctx.Deadline(); o == timedOut && time.Until(deadline) < timerSlack {
			<-ctx.Done() // the connection's timer fired before the context's
		}
		if gone := r.ctx.Err(); gone != nil {
			if errors.Is(gone, context.Canceled) || time.Since(start) < r.timeout/4 {
				return nil, nothing, gone
			}
			return nil, failed, gone
		}
		if tries[o]++; ctx.Err() != nil || tries[o] >= most[o] {
			return nil, failed, &readError{kind: ErrUnavailable, why: o.String(), cause: cause(err)}
		}
	}
}

// cause leaves out the ends of contexts that are not the caller's.
func cause(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// stuckAfter is how much longer than its deadline a call may stay inside the
// library before that counts as stuck.
const stuckAfter = 2 * time.Second

var errBusy = errors.New("too many calls are under way")

// attempt makes one call of the library. The library heeds deadlines but not
// cancellation, and waits for some things without heeding either; so the call
// has a goroutine of its own, which the caller does not wait for when its
// context ends.
func (r *reader) attempt(ctx context.Context) (*dynamodb.BatchGetItemOutput, error) {
	deadline, _ := ctx.Deadline()
	if left := time.Until(deadline); left > r.timeout/2 {
		// Leave time for a second attempt, which may meet another node.
		deadline = deadline.Add(-left * 2 / 5)
	}
	s := r.session
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, errBusy
	}
	type result struct {
		out *dynamodb.BatchGetItemOutput
		err error
	}
	done := make(chan result, 1)
	// Not below the caller's context: others wait for what this call loads on
	// its way, such as a key schema, and share its fate.
	inside, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	stuck := time.AfterFunc(time.Until(deadline)+stuckAfter, s.replace)
	go func() {
		defer cancel()
		var res result
		defer func() {
			if p := recover(); p != nil {
				res = result{err: &panicError{p}}
			}
			stuck.Stop()
			<-s.slots
			done <- res
		}()
		res.out, res.err = s.dax.BatchGetItem(inside, r.in)
	}()
	select {
	case res := <-done:
		return res.out, res.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("the library panicked: %v", e.value) }

// outcome is what came of one attempt.
type outcome int

const (
	good outcome = iota
	lost         // the connection was dead
	refused
	timedOut
	throttled
	passedOn // an error of DynamoDB's API about the request
	panicked
	other
)

func (o outcome) String() string {
	switch o {
	case lost:
		return "the connection was lost"
	case refused:
		return "it can not be reached"
	case timedOut:
		return "no answer in time"
	}
	return "it failed"
}

// passOn are the codes of errors that say something about the request, and
// that DynamoDB would answer too.
var passOn = map[string]bool{
	"ResourceNotFoundException": true, "ValidationException": true, "AccessDeniedException": true, "LimitExceededException": true,
}

func classify(err error) outcome {
	if err == nil {
		return good
	}
	var p *panicError
	if errors.As(err, &p) {
		return panicked
	}
	if retry.IsErrorThrottles(retry.DefaultThrottles).IsErrorThrottle(err) == aws.TrueTernary {
		return throttled
	}
	// The library keeps the text of an error of the network and nothing else.
	text := err.Error()
	switch {
	case strings.Contains(text, errConnect.Error()):
		return refused
	case strings.Contains(text, errDeadline.Error()), errors.Is(err, context.DeadlineExceeded), strings.Contains(text, context.DeadlineExceeded.Error()):
		return timedOut
	case strings.Contains(text, errLost.Error()), strings.Contains(text, os.ErrClosed.Error()), errors.Is(err, context.Canceled):
		return lost
	}
	var api smithy.APIError
	switch is := errors.As(err, &api); {
	case is && passOn[api.ErrorCode()]:
		return passedOn
	case strings.Contains(text, "ThrottlingException"), strings.Contains(text, "ProvisionedThroughputExceededException"):
		return throttled // with numbers that the library does not know
	}
	return other
}
