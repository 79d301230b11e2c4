package events

import (
	"encoding/json"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/keypath"
	"github.com/tagstore/tagstore/core/storemap"
)

// records reads a payload of Records, which are all of one source.
func (p Parser) records(text json.RawMessage) (Event, error) {
	var records []json.RawMessage
	if err := json.Unmarshal(text, &records); err != nil {
		return Event{}, malformed("the event's Records are not a list")
	}
	if len(records) == 0 {
		return Event{}, malformed("the event has no Records")
	}
	var source string
	for i, r := range records {
		var head struct {
			Source string `json:"eventSource"`
		}
		if err := json.Unmarshal(r, &head); err != nil {
			return Event{}, malformed("record %d of the event: %s", i, describe(err))
		}
		if i > 0 && head.Source != source {
			return Event{}, malformed("the event's records are of %s and of %s", storemap.Quote(source), storemap.Quote(head.Source))
		}
		source = head.Source
	}
	switch source {
	case "aws:dynamodb":
		return p.stream(records)
	case "aws:s3":
		return p.notifications(records)
	default:
		return Event{}, malformed("the records of %s are unknown: send only the events that the README lists", storemap.Quote(source))
	}
}

// streamARN is arn:PARTITION:dynamodb:REGION:ACCOUNT:table/TABLE/stream/LABEL.
var streamARN = regexp.MustCompile(`^arn:[a-z-]+:dynamodb:[a-z0-9-]+:([0-9]{12}):table/([A-Za-z0-9_.-]{3,255})/stream/[^/]+$`)

// sequenceNumber is the form of a record's number.
var sequenceNumber = regexp.MustCompile(`^[0-9]{1,40}$`)

// stream reads a batch. A record without a number can not be reported as failed,
// so it fails the whole.
func (p Parser) stream(records []json.RawMessage) (Event, error) {
	event := Event{Source: "aws:dynamodb", Type: "stream", Stream: true}
	passed := 0
	for i, r := range records {
		var head struct {
			DynamoDB struct {
				Sequence string `json:"SequenceNumber"`
			} `json:"dynamodb"`
		}
		if err := json.Unmarshal(r, &head); err != nil || !sequenceNumber.MatchString(head.DynamoDB.Sequence) {
			return Event{}, malformed("record %d of the stream has no SequenceNumber", i)
		}
		change, ignored, err := p.streamRecord(r)
		switch {
		case err != nil:
			change = Change{Err: malformed("record %s of the stream: %s", head.DynamoDB.Sequence, describe(err))}
		case ignored:
			passed++
			continue
		}
		change.Sequence = head.DynamoDB.Sequence
		event.Changes = append(event.Changes, change)
	}
	if len(event.Changes) == 0 {
		event.Ignored = strconv.Itoa(passed) + " records of versions and other items, which are no current values"
	}
	return event, nil
}

// attribute is one attribute of an item in a stream's record, as far as it is
// looked at: texts and numbers.
type attribute struct {
	S *string `json:"S"`
	N *string `json:"N"`
}

func (p Parser) streamRecord(text json.RawMessage) (Change, bool, error) {
	var r struct {
		EventName string `json:"eventName"`
		SourceARN string `json:"eventSourceARN"`
		DynamoDB  struct {
			At   json.Number `json:"ApproximateCreationDateTime"`
			Keys struct {
				PK *attribute `json:"pk"`
				SK *attribute `json:"sk"`
			} `json:"Keys"`
			NewImage struct {
				Version json.RawMessage `json:"version"`
			} `json:"NewImage"`
		} `json:"dynamodb"`
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return Change{}, false, err
	}
	arn := streamARN.FindStringSubmatch(r.SourceARN)
	if arn == nil {
		return Change{}, false, problemf("its eventSourceARN %s is not a table's stream", storemap.Quote(r.SourceARN))
	}
	if err := p.account(arn[1], "it"); err != nil {
		return Change{}, false, err
	}
	switch r.EventName {
	case "INSERT", "MODIFY", "REMOVE":
	default:
		return Change{}, false, problemf("its eventName %s is unknown", storemap.Quote(r.EventName))
	}
	keys := r.DynamoDB.Keys
	if keys.PK == nil || keys.PK.S == nil || keys.SK == nil || keys.SK.S == nil {
		return Change{}, false, problemf("its Keys are not the texts pk and sk")
	}
	if keypath.KindOf(*keys.SK.S) != keypath.ItemCurrent {
		return Change{}, true, nil
	}
	return Change{
		Kind: storemap.Items, Container: arn[2], Name: *keys.PK.S, SortKey: *keys.SK.S,
		At: epoch(r.DynamoDB.At), Version: version(r.DynamoDB.NewImage.Version),
	}, false, nil
}

// epoch reads seconds since 1970; zero for what is not such a time.
func epoch(n json.Number) time.Time {
	seconds, err := n.Float64()
	if err != nil || !(seconds > 0 && seconds < 1<<40) {
		return time.Time{}
	}
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9)).UTC()
}

// version reads the attribute version of an item. Other tools write what they
// like there, so what is no version is no error: it is a hint that is missing.
func version(text json.RawMessage) uint64 {
	var a attribute
	if len(text) == 0 || json.Unmarshal(text, &a) != nil || a.N == nil {
		return 0
	}
	v, err := strconv.ParseUint(*a.N, 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// notifications reads what S3 sends without EventBridge between. It tells no
// account.
func (p Parser) notifications(records []json.RawMessage) (Event, error) {
	const source = "aws:s3"
	if err := p.account("", "the event of S3 itself"); err != nil {
		return Event{}, err
	}
	event := Event{Source: source, Type: "notification"}
	for i, text := range records {
		var r struct {
			EventName string `json:"eventName"`
			Time      string `json:"eventTime"`
			S3        *struct {
				Bucket struct {
					Name string `json:"name"`
				} `json:"bucket"`
				Object struct {
					Key string `json:"key"`
				} `json:"object"`
			} `json:"s3"`
		}
		if err := json.Unmarshal(text, &r); err != nil {
			return Event{}, malformed("record %d of %s: %s", i, source, describe(err))
		}
		if !strings.HasPrefix(r.EventName, "ObjectCreated:") && !strings.HasPrefix(r.EventName, "ObjectRemoved:") && !strings.HasPrefix(r.EventName, "LifecycleExpiration:") {
			return Event{}, malformed("record %d of %s: the event %s is unknown", i, source, storemap.Quote(r.EventName))
		}
		if r.S3 == nil || r.S3.Bucket.Name == "" || r.S3.Object.Key == "" {
			return Event{}, malformed("record %d of %s names no bucket and key", i, source)
		}
		key, err := url.QueryUnescape(r.S3.Object.Key) // so they are written here, and only here
		if err != nil {
			return Event{}, malformed("record %d of %s has a key that is not URL-encoded", i, source)
		}
		at, err := time.Parse(time.RFC3339, r.Time)
		if err != nil {
			return Event{}, malformed("record %d of %s has no eventTime that is one", i, source)
		}
		event.Changes = append(event.Changes, Change{Kind: storemap.Objects, Container: r.S3.Bucket.Name, Name: key, At: at})
	}
	return event, nil
}
