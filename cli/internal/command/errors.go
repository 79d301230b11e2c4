package command

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// The exit statuses. They are an interface: never change the meaning of one.
const (
	exitOK          = 0
	exitOther       = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitAuth        = 4
	exitConflict    = 5
	exitInvalid     = 6
	exitUnavailable = 7
	exitInterrupted = 130
)

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit status of tagctl means",
		Long: `tagctl ends with one of these:

  0    done
  1    another error, or an error of the server
  2    the command line is wrong
  3    not found: no such key for this tenant, be it that it never was, is
       deleted, or is somebody else's
  4    no token, a token that is not valid, or a role that may not do this
  5    conflict: the version is not the one of --if-version, or the
       idempotency key was used for something else
  6    refused as invalid: the key, the value, or what the schema says of it
  7    unavailable, over a limit, or no answer in time: trying again may help;
       a write may have happened, so read before you repeat one
  130  interrupted by Ctrl-C or SIGTERM ('tagctl dev' ends with 0 then)

With -o json an error is one object on standard error:
{"code": "...", "message": "...", "hint": "...", "request_id": "..."}. The
request id finds the call in the service's log; it is left out where there was
no call and where the code is not_found.`,
	}
}

// exitOf maps each code to its exit status.
var exitOf = map[config.Code]int{
	config.Unknown:            exitOther,
	config.NotFound:           exitNotFound,
	config.InvalidArgument:    exitInvalid,
	config.Conflict:           exitConflict,
	config.AlreadyExists:      exitConflict,
	config.PermissionDenied:   exitAuth,
	config.Unauthenticated:    exitAuth,
	config.ResourceExhausted:  exitUnavailable,
	config.FailedPrecondition: exitOther,
	config.OutOfRange:         exitOther,
	config.Unimplemented:      exitOther,
	config.Internal:           exitOther,
	config.Unavailable:        exitUnavailable,
	config.OutcomeUnknown:     exitUnavailable,
	config.DataLoss:           exitOther,
	config.Canceled:           exitOther,
	config.DeadlineExceeded:   exitUnavailable,
}

// nextStep is the hint of an error that brings none.
var nextStep = map[config.Code]string{
	config.Unknown:            "look for the request id in the log of the service",
	config.NotFound:           "see what there is with 'tagctl ls PREFIX', and what there was with 'tagctl history KEY'",
	config.InvalidArgument:    "correct what the message names, then try again",
	config.Conflict:           "read the key again, then repeat with --if-version and the version that you read",
	config.AlreadyExists:      "use a new idempotency key for a new change",
	config.PermissionDenied:   "use a token with a role that may do this; in development add --role editor or --role admin",
	config.Unauthenticated:    "get a new token; in development 'tagctl dev' writes new ones whenever it starts",
	config.ResourceExhausted:  "wait a little and try again, or ask for less",
	config.FailedPrecondition: "mend what the message names, then try again",
	config.OutOfRange:         "start again without --resume",
	config.Unimplemented:      "the store behind this key can not do this; 'tagctl backends' shows what each one can",
	config.Internal:           "look for the request id in the log of the service",
	config.Unavailable:        "try again in a moment; 'tagctl backends --role admin' shows the state of the stores",
	config.OutcomeUnknown:     "read the key before you try again",
	config.DataLoss:           "restore the store from a backup",
	config.Canceled:           "if it was a write, read the key before you try again",
	config.DeadlineExceeded:   "try again with a longer --timeout; if it was a write, read the key first",
}

// usageError is a command line that can not be understood.
type usageError struct {
	err     error
	command string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...), command: cmd.CommandPath()}
}

// errStopped ends a verb that was interrupted and has nothing to report.
var errStopped = errors.New("interrupted")

// report is an error as people and programs get to see it.
type report struct {
	Code      string `json:"code"`
	Message   string `json:"message"`
	Hint      string `json:"hint"`
	RequestID string `json:"request_id,omitempty"`
}

// fail reports err on standard error and returns the exit status for it.
func (a *app) fail(ctx context.Context, err error) int {
	if errors.Is(err, errStopped) {
		return exitInterrupted
	}
	r, status := a.explain(ctx, err)
	if a.global.output == outputJSON || !a.running && wantsJSON(a.process.Args) {
		_ = writeJSON(a.process.Stderr, r, "") // there is nowhere left to report to
		return status
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Error: %s\nHint: %s\n", clean(r.Message), clean(r.Hint))
	if r.RequestID != "" {
		fmt.Fprintf(&b, "Request: %s\n", r.RequestID)
	}
	fmt.Fprint(a.process.Stderr, b.String())
	return status
}

func (a *app) explain(ctx context.Context, err error) (report, int) {
	var usage *usageError
	if errors.As(err, &usage) {
		return report{Code: "usage", Message: usage.Error(), Hint: "see '" + usage.command + " --help'"}, exitUsage
	}
	if all := parts(err); len(all) > 1 {
		first, status := a.explain(ctx, all[0])
		for _, other := range all[1:] {
			r, _ := a.explain(ctx, other)
			first.Message += "\n" + r.Message
		}
		return first, status
	}
	var e *config.Error
	if !errors.As(err, &e) {
		return report{Code: config.Unknown.String(), Message: err.Error(), Hint: "mend what the message names, then try again"}, exitOther
	}
	r := report{Code: e.Code.String(), Message: e.Message, Hint: e.Hint, RequestID: client.RequestID(err)}
	if r.Message == "" {
		r.Message = e.Code.Error()
	}
	if strings.HasPrefix(e.Op, "plugin ") {
		r.Message = e.Op + ": " + r.Message // it says which one
	}
	if !e.Key.IsZero() {
		r.Message = e.Key.String() + ": " + r.Message
	}
	if e.Code == config.Conflict && e.Version > 0 {
		r.Message += fmt.Sprintf("; it is at version %d", e.Version)
	}
	if r.Hint == "" {
		r.Hint = nextStep[e.Code]
	}
	switch {
	case e.Code == config.NotFound:
		// Absent and not yours must not be told apart, and the id of the request
		// would make every answer different.
		r.RequestID = ""
	case e.Code == config.Unavailable && a.dev && r.RequestID != "":
		r.Hint = "is 'tagctl dev' still running? start it again with 'make run' or 'tagctl dev'"
	case e.Code == config.PermissionDenied && a.dev && e.Hint != "":
		r.Hint += "; pick another development token with --role"
	case e.Code == config.Canceled && ctx.Err() != nil:
		r.Message, r.Hint = "interrupted", nextStep[config.Canceled]
		return r, exitInterrupted
	}
	return r, exitOf[e.Code]
}

// parts returns the errors that errors.Join put together. An error around them
// has a text of its own, so only err itself is looked at.
func parts(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, parts(e)...)
	}
	return all
}

// wantsJSON finds -o json in a command line that could not be parsed.
func wantsJSON(args []string) bool {
	for i, arg := range args {
		switch arg {
		case "--":
			return false
		case "-ojson", "-o=json", "--output=json":
			return true
		case "-o", "--output":
			if i+1 < len(args) && args[i+1] == outputJSON {
				return true
			}
		}
	}
	return false
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// local returns an error of this side of the wire.
func local(code config.Code, hint, format string, args ...any) error {
	return &config.Error{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}
