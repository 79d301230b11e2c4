package daxread

import "errors"

// The reasons why a read has no answer. Programs use errors.Is. Any other
// error of a read is the caller's context ending, or an error of the DynamoDB
// API that the cluster passed on, such as that there is no such table.
var (
	// ErrUnavailable: the cluster gave no answer that can be used. Read from
	// DynamoDB instead. ErrWrongItem and ErrClosed are kinds of it.
	ErrUnavailable = errors.New("dax: the cluster is not available")
	// ErrWrongItem: the cluster answered with something that was not asked for.
	ErrWrongItem = errors.New("dax: the cluster answered with an item that was not asked for")
	// ErrClosed: the Client was closed.
	ErrClosed = errors.New("dax: the client is closed")
	// ErrThrottled: the cluster or the table behind it has reached a limit. A
	// read from DynamoDB would add to the load where the table's limit was it.
	ErrThrottled = errors.New("dax: throttled")
	// ErrUnsupported: the input asks for something that this package does not
	// do. It is a mistake in the program.
	ErrUnsupported = errors.New("dax: unsupported read")
)

// readError is one of the errors above with what is known about it. Its text
// holds nothing that came from the cluster: that is the cause's, for a log.
type readError struct {
	kind  error
	why   string
	cause error
}

func (e *readError) Error() string { return e.kind.Error() + ": " + e.why }

func (e *readError) Unwrap() error { return e.cause }

func (e *readError) Is(target error) bool {
	return target == e.kind || (target == ErrUnavailable && (e.kind == ErrWrongItem || e.kind == ErrClosed))
}
