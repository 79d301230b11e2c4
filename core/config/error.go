package config

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code is one of a closed list: programs act on a code, people read the text.
// A Code is itself an error, so errors.Is(err, config.NotFound) works.
type Code uint8

// The codes. Their numbers are on the wire: never reorder or reuse one.
const (
	// Unknown is an error that nobody classified.
	Unknown Code = 0
	// NotFound: there is no such value for this caller, be it that it never
	// was, is deleted, or belongs to somebody else.
	NotFound Code = 1
	// InvalidArgument: the request can never succeed as it stands.
	InvalidArgument Code = 2
	// Conflict: the expected version is not the current one; Error.Version
	// carries the version that won.
	Conflict Code = 3
	// AlreadyExists: an idempotency key was used before with other content.
	AlreadyExists Code = 4
	// PermissionDenied: the caller is known and may not do this.
	PermissionDenied Code = 5
	// Unauthenticated: the caller is not known.
	Unauthenticated Code = 6
	// ResourceExhausted: a limit or quota; RetryAfter may say when to retry.
	ResourceExhausted Code = 7
	// FailedPrecondition: the system is not in the state that this needs, and
	// retrying alone will not bring it there.
	FailedPrecondition Code = 8
	// OutOfRange: a resume point lies before the history that is kept.
	OutOfRange Code = 9
	// Unimplemented: the backend does not have this capability.
	Unimplemented Code = 10
	// Internal: a bug or a backend that broke its contract.
	Internal Code = 11
	// Unavailable: nothing was changed, retrying may succeed.
	Unavailable Code = 12
	// OutcomeUnknown: a write may or may not have happened; read before
	// retrying, or retry with the same idempotency key.
	OutcomeUnknown Code = 13
	// DataLoss: stored data is damaged.
	DataLoss Code = 14
	// Canceled: the caller gave up. errors.Is(err, context.Canceled) holds.
	Canceled Code = 15
	// DeadlineExceeded: time ran out. errors.Is(err, context.DeadlineExceeded)
	// holds. A write that ends so may or may not have happened.
	DeadlineExceeded Code = 16
)

var codeNames = [...]string{
	Unknown: "unknown", NotFound: "not_found", InvalidArgument: "invalid_argument", Conflict: "conflict",
	AlreadyExists: "already_exists", PermissionDenied: "permission_denied", Unauthenticated: "unauthenticated",
	ResourceExhausted: "resource_exhausted", FailedPrecondition: "failed_precondition", OutOfRange: "out_of_range",
	Unimplemented: "unimplemented", Internal: "internal", Unavailable: "unavailable", OutcomeUnknown: "outcome_unknown",
	DataLoss: "data_loss", Canceled: "canceled", DeadlineExceeded: "deadline_exceeded",
}

// Codes lists every code, in order of its number.
func Codes() []Code {
	all := make([]Code, len(codeNames))
	for i := range all {
		all[i] = Code(i)
	}
	return all
}

// String returns the code's name in snake_case, as logs and the CLI show it.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code(%d)", uint8(c))
}

// Error makes a Code usable as a sentinel.
func (c Code) Error() string { return strings.ReplaceAll(c.String(), "_", " ") }

// Error is the one error type that crosses tagstore's boundaries. Its text is
// written for people and holds neither a value, a token nor the name of a
// tenant. Err is for logs and errors.Is on this side only: it never crosses
// the wire.
type Error struct {
	Op      string // the operation that failed, such as "local.Put"
	Key     Key    // the key it was about, if one
	Code    Code
	Message string // what is wrong
	Hint    string // how to mend it, if that is known
	// Version is the current version of the key, with Conflict, and with
	// Unavailable where a newer one was asked for than is here.
	Version uint64
	// RetryAfter is the least time to wait before a retry, 0 if not known.
	RetryAfter time.Duration
	Err        error
}

// Errorf returns an Error with this code and message. A %w in the format keeps
// that error as Err and leaves its text in the message: use it only with
// errors whose text may be shown.
func Errorf(code Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: wrapped.Error(), Err: errors.Unwrap(wrapped)}
}

// WithHint returns a copy of e that says how to mend it.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// WithKey returns a copy of e that names the key.
func (e *Error) WithKey(k Key) *Error {
	c := *e
	c.Key = k
	return &c
}

// WithVersion returns a copy of e that carries the current version.
func (e *Error) WithVersion(v uint64) *Error {
	c := *e
	c.Version = v
	return &c
}

// WithCause returns a copy of e whose Err is err. The text stays as it is, so
// a cause that may hold anything can be kept for the log.
func (e *Error) WithCause(err error) *Error {
	c := *e
	c.Err = err
	return &c
}

// Error returns "op: key: message (hint)", leaving out what is not set.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op)
		b.WriteString(": ")
	}
	if !e.Key.IsZero() {
		b.WriteString(e.Key.String())
		b.WriteString(": ")
	}
	if e.Message != "" {
		b.WriteString(e.Message)
	} else {
		b.WriteString(e.Code.Error())
	}
	if e.Hint != "" {
		b.WriteString(" (")
		b.WriteString(e.Hint)
		b.WriteByte(')')
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is work with a Code and, for the two codes that mean it,
// with the context errors. What the With methods return is a copy, so it is not
// the Error that they were called on: a sentinel is returned as it is, or wrapped.
func (e *Error) Is(target error) bool {
	switch target {
	case context.Canceled:
		return e.Code == Canceled
	case context.DeadlineExceeded:
		return e.Code == DeadlineExceeded
	}
	code, ok := target.(Code)
	return ok && code == e.Code
}

// CodeOf returns the code of the first Error or Code in err's tree, the codes
// of the two context errors, and Unknown for every other error. CodeOf(nil)
// is Unknown: ask only about errors.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	var c Code
	if errors.As(err, &c) {
		return c
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	}
	return Unknown
}

// AsError returns err as an *Error that names op and, if it is not zero, key:
// a copy of the Error in err's tree where there is one (its own Op and Key
// win), else a new one with the code of CodeOf. The text of an unclassified
// error is not taken over, since it may hold anything; it is kept as Err.
func AsError(err error, op string, key Key) *Error {
	var e *Error
	if errors.As(err, &e) {
		c := *e
		if c.Op == "" {
			c.Op = op
		}
		if c.Key.IsZero() {
			c.Key = key
		}
		return &c
	}
	code := CodeOf(err)
	return &Error{Op: op, Key: key, Code: code, Message: code.Error(), Err: err}
}
