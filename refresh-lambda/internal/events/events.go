// Package events reads what AWS tells of changes in its stores: events of
// EventBridge (Parameter Store, Secrets Manager, S3), batches of a DynamoDB
// stream, and S3's own notifications.
//
// An event is a hint that something has a new value, never the value: nothing
// but names, times and a version number is read out of one, and values do not
// even get into memory that outlives Parse.
//
// The shapes are AWS's documented ones: the user guides of Systems Manager
// ("Monitoring Parameter Store with EventBridge"), Secrets Manager ("Secret
// Label Updated", and the CloudTrail entries), S3 ("EventBridge event message
// structure") and the Lambda developer guide ("Using Lambda with DynamoDB").
package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/storemap"
)

const (
	// maxEvent is the largest event that EventBridge delivers.
	maxEvent = 256 << 10
	// maxBatch is the largest payload that Lambda hands to a function, which a
	// batch of a stream may fill.
	maxBatch = 6 << 20
)

// Change says that one thing in a store may have a new value.
type Change struct {
	Kind storemap.Kind
	// Container is the bucket or table, "" for parameters and secrets.
	Container string
	// Name is that of the parameter or secret, the object's key, or the item's
	// partition key, whose SortKey stands beside.
	Name, SortKey string
	// At is when the store says that it happened, to a second; zero if it does
	// not say.
	At time.Time
	// Version is the version that the change made, as far as the event tells; 0
	// if not. It is a hint: what the store holds now decides.
	Version uint64
	// Sequence is the number of the stream's record, "" outside of streams.
	Sequence string
	// Err says what is wrong with this record of a stream's batch. Nothing else
	// but Sequence is set then.
	Err error
}

// Event is what one invocation is about.
type Event struct {
	// Source is who it came from, such as "aws.ssm" or "aws:dynamodb".
	Source string
	// Type is what it is, such as "Parameter Store Change".
	Type string
	// Stream: it is a batch of a stream. Its failures are reported by record.
	Stream bool
	// Changes is what may have changed, in the order of the event. It is empty if
	// and only if Ignored is set.
	Changes []Change
	// Ignored is why an event that is understood changes no current value.
	Ignored string
}

// Parser reads events. The zero value takes events of every account.
type Parser struct {
	// Account is the account that events have to be of, "" for any. S3's own
	// notifications do not tell theirs, and are refused if it is set.
	Account string
}

// envelope is the outside of all shapes at once.
type envelope struct {
	Source     string          `json:"source"`
	DetailType string          `json:"detail-type"`
	Account    string          `json:"account"`
	Time       string          `json:"time"`
	Detail     json.RawMessage `json:"detail"`

	Records json.RawMessage `json:"Records"`

	// Of the message by which S3 tries a notification out.
	Event   string `json:"Event"`
	Service string `json:"Service"`
}

// Parse reads one event. The error has code InvalidArgument for what is no event
// or an unknown one, and PermissionDenied for one of another account; it names
// the event and what is wrong, and holds no value.
//
// Of a batch of a stream, single records may be wrong: see Change.Err.
func (p Parser) Parse(payload []byte) (Event, error) {
	if len(payload) > maxBatch {
		return Event{}, malformed("the event has %d bytes, and Lambda delivers %d at most", len(payload), maxBatch)
	}
	var e envelope
	if err := json.Unmarshal(payload, &e); err != nil {
		return Event{}, malformed("the event is not one: %s", describe(err))
	}
	switch {
	case len(e.Records) > 0 && string(e.Records) != "null":
		return p.records(e.Records)
	case e.Event == "s3:TestEvent" && e.Service == "Amazon S3":
		return Event{Source: "aws:s3", Type: e.Event, Ignored: "S3 tries out its notification"}, nil
	case e.Source == "" && e.DetailType == "":
		return Event{}, malformed("the event has neither a source and detail-type nor Records: it is of no kind that changes a store")
	case len(payload) > maxEvent:
		return Event{}, malformed("%s has %d bytes, and EventBridge delivers %d at most", e.name(), len(payload), maxEvent)
	}
	if err := p.account(e.Account, e.name()); err != nil {
		return Event{}, err
	}
	read, known := readers[e.Source+"/"+e.DetailType]
	if !known {
		return Event{}, malformed("%s is unknown: send only the events that the README lists", e.name())
	}
	if len(e.Detail) == 0 || string(e.Detail) == "null" {
		return Event{}, malformed("%s has no detail", e.name())
	}
	at, err := time.Parse(time.RFC3339, e.Time)
	if err != nil {
		return Event{}, malformed("%s has no time that is one", e.name())
	}
	event := Event{Source: e.Source, Type: e.DetailType}
	change, ignored, err := read(e.Detail)
	if err != nil {
		return Event{}, malformed("%s: %s", e.name(), describe(err))
	}
	if ignored != "" {
		event.Ignored = ignored
		return event, nil
	}
	change.At = at
	event.Changes = []Change{change}
	return event, nil
}

// name names the event for people.
func (e envelope) name() string {
	return fmt.Sprintf("the event %s of %s", storemap.Quote(e.DetailType), storemap.Quote(e.Source))
}

func (p Parser) account(of, event string) error {
	if p.Account == "" || of == p.Account {
		return nil
	}
	return &config.Error{
		Op: "events.Parse", Code: config.PermissionDenied,
		Message: fmt.Sprintf("%s is of account %s, not of the one that is configured", event, storemap.Quote(of)),
		Hint:    "correct the rule that sends it, or TAGSTORE_ACCOUNT",
	}
}

func malformed(format string, args ...any) error {
	return &config.Error{Op: "events.Parse", Code: config.InvalidArgument, Message: fmt.Sprintf(format, args...)}
}

// describe says what is wrong with a JSON text without repeating any of it but
// the name of a field.
func describe(err error) string {
	var wrongType *json.UnmarshalTypeError
	var problem problem
	var refused *config.Error
	switch {
	case errors.As(err, &refused):
		return refused.Message
	case errors.As(err, &problem):
		return string(problem)
	case errors.As(err, &wrongType) && wrongType.Field == "":
		return fmt.Sprintf("it is a JSON %s, not an object", kind(wrongType.Value))
	case errors.As(err, &wrongType):
		return fmt.Sprintf("the field %s is a %s", storemap.Quote(wrongType.Field), kind(wrongType.Value))
	default:
		return "it is not JSON"
	}
}

// kind cuts the number out of "number 12".
func kind(value string) string {
	first, _, _ := strings.Cut(value, " ")
	return first
}

// problem is what a reader finds wrong, as text that can be shown.
type problem string

func (p problem) Error() string { return string(p) }

func problemf(format string, args ...any) error { return problem(fmt.Sprintf(format, args...)) }

// text is a field whose absence is told from "".
func text(s *string, field string) (string, error) {
	if s == nil || *s == "" {
		return "", problemf("it has no %s", field)
	}
	return *s, nil
}
