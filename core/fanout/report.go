package fanout

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// maxNamed bounds how many replicas the text of an error names.
const maxNamed = 10

// Outcome is what came of asking one replica.
type Outcome struct {
	Replica Replica
	// AnsweredAs is what the replica calls itself, where that is not its ID: it
	// may have taken the address of one that is gone. It acknowledged all the
	// same.
	AnsweredAs string
	// Receipts has one for each target, in the order asked; none if the replica
	// did not answer.
	Receipts []client.RefreshReceipt
	// Took is the time from the first question to the last answer.
	Took time.Duration
	// Err is nil if and only if the replica acknowledged every target.
	Err error
}

// Report is what came of asking all replicas, in order of their ID.
type Report struct{ Outcomes []Outcome }

// Err returns nil if and only if every replica acknowledged every target. Its
// text names the replicas that did not, and the code of each; its code is
// theirs if they have the same, else Unavailable.
func (r Report) Err() error {
	var failed []Outcome
	for _, o := range r.Outcomes {
		if o.Err != nil {
			failed = append(failed, o)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	code := config.CodeOf(failed[0].Err)
	names, causes := make([]string, 0, maxNamed+1), make([]error, len(failed))
	for i, o := range failed {
		if config.CodeOf(o.Err) != code {
			code = config.Unavailable
		}
		if i < maxNamed {
			names = append(names, fmt.Sprintf("%s (%s)", o.Replica.name(), config.CodeOf(o.Err)))
		}
		causes[i] = fmt.Errorf("%s: %w", o.Replica.name(), o.Err)
	}
	if more := len(failed) - maxNamed; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return (&config.Error{
		Op: "fanout.Refresh", Code: code,
		Message: fmt.Sprintf("%d of %d replicas did not acknowledge: %s", len(failed), len(r.Outcomes), strings.Join(names, ", ")),
	}).WithCause(errors.Join(causes...))
}

// unapplied returns nil if every target was refreshed, else the error of a
// replica that answered and has receipts with errors.
func unapplied(receipts []client.RefreshReceipt) error {
	var causes []error
	for _, r := range receipts {
		if r.Err != nil {
			causes = append(causes, r.Err)
		}
	}
	if len(causes) == 0 {
		return nil
	}
	// The text of a receipt's error comes from the service, which names neither
	// a value nor a tenant.
	return config.Errorf(config.CodeOf(causes[0]), "%d of %d targets were not refreshed, the first: %v",
		len(causes), len(receipts), causes[0]).WithCause(errors.Join(causes...))
}
