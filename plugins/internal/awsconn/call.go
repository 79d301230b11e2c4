package awsconn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
)

// repeatedError is the error of a call of which an earlier attempt may have
// been carried out, whatever the last one says.
type repeatedError struct{ err error }

// Error returns the last attempt's text.
func (e *repeatedError) Error() string { return e.err.Error() }

// Unwrap returns the last attempt's error.
func (e *repeatedError) Unwrap() error { return e.err }

// Repeated reports whether an earlier attempt of the call that failed with err
// may have been carried out. A condition that the last attempt found broken may
// then be broken by the very write that asks.
func Repeated(err error) bool {
	var r *repeatedError
	return errors.As(err, &r)
}

type attemptsKey struct{}

// attempts is what became of the attempts of one call before its last.
type attempts struct {
	last    error
	arrived bool // one before the last may have been carried out
}

// instrument adds to every call of a client what Calls and Repeated need.
func (c *Conn) instrument(stack *middleware.Stack) error {
	if _, ok := stack.Finalize.Get("Retry"); !ok {
		return nil // presigning: nothing is sent
	}
	err := stack.Initialize.Add(middleware.InitializeMiddlewareFunc("TagstoreCall", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (middleware.InitializeOutput, middleware.Metadata, error) {
		c.counting(func(calls *Calls) { calls.add(awsmiddleware.GetOperationName(ctx), 1, 0) })
		a := &attempts{}
		out, metadata, err := next.HandleInitialize(context.WithValue(ctx, attemptsKey{}, a), in)
		if err != nil && a.arrived {
			err = &repeatedError{err}
		}
		return out, metadata, err
	}), middleware.Before)
	if err != nil {
		return err
	}
	err = stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("TagstoreAttempt", func(
		ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
	) (middleware.FinalizeOutput, middleware.Metadata, error) {
		a, _ := ctx.Value(attemptsKey{}).(*attempts)
		if a != nil && a.last != nil && mayHaveArrived(a.last) {
			a.arrived = true
		}
		out, metadata, err := next.HandleFinalize(ctx, in)
		if a != nil {
			a.last = err
		}
		return out, metadata, err
	}), "Retry", middleware.After)
	if err != nil {
		return err
	}
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("TagstoreSend", func(
		ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
	) (middleware.DeserializeOutput, middleware.Metadata, error) {
		c.counting(func(calls *Calls) { calls.add(awsmiddleware.GetOperationName(ctx), 0, 1) })
		return next.HandleDeserialize(ctx, in)
	}), middleware.Before)
}

func (c *Conn) counting(f func(*Calls)) {
	if all := c.calls.Load(); all != nil {
		for _, calls := range *all {
			f(calls)
		}
	}
}

// CountCalls returns a counter of all calls from now on, those of clients that
// exist already included. It counts until the Conn is closed, so it is for tests
// and benchmarks.
func (c *Conn) CountCalls() *Calls {
	calls := &Calls{counts: map[string]Count{}}
	for {
		old := c.calls.Load()
		var all []*Calls
		if old != nil {
			all = slices.Clone(*old)
		}
		all = append(all, calls)
		if c.calls.CompareAndSwap(old, &all) {
			return calls
		}
	}
}

// Calls counts API calls by operation, such as "GetParameter". It may be read
// while it counts.
type Calls struct {
	mu     sync.Mutex
	counts map[string]Count
}

// Count is how often one operation was called.
type Count struct {
	Logical  int // calls of the SDK's method
	Attempts int // requests that were handed to the transport, retries included
}

func (c *Calls) add(operation string, logical, attempts int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.counts[operation]
	n.Logical += logical
	n.Attempts += attempts
	c.counts[operation] = n
}

// Of returns the count of these operations, of all if none is named.
func (c *Calls) Of(operations ...string) Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sum Count
	for operation, n := range c.counts {
		if len(operations) == 0 || slices.Contains(operations, operation) {
			sum.Logical += n.Logical
			sum.Attempts += n.Attempts
		}
	}
	return sum
}

// Attempts returns the HTTP requests of these operations, of all if none is
// named.
func (c *Calls) Attempts(operations ...string) int { return c.Of(operations...).Attempts }

// Logical returns the calls of these operations, of all if none is named.
func (c *Calls) Logical(operations ...string) int { return c.Of(operations...).Logical }

// Reset starts all counts anew.
func (c *Calls) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.counts)
}

// String lists the counts, for a test's message.
func (c *Calls) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for i, operation := range slices.Sorted(maps.Keys(c.counts)) {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %d/%d", operation, c.counts[operation].Logical, c.counts[operation].Attempts)
	}
	return b.String()
}
