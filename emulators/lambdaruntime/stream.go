package lambdaruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Record is one record of a stream.
type Record struct {
	// Sequence is its number, decimal digits. Numbers rise within a shard.
	Sequence string
	// Data is the record as the function gets it, one JSON object.
	Data json.RawMessage
}

// Mapping is how a stream's batches come to a function: an event source mapping
// with the function response type ReportBatchItemFailures.
type Mapping struct {
	// MaximumRetryAttempts is how often a batch is tried again without getting
	// further; below 0: without end.
	MaximumRetryAttempts int
	// RetryDelay is the pause before each. Lambda's grows; it is not documented.
	RetryDelay time.Duration
}

// Deliver hands the function a batch of one shard, and returns when the shard
// may go on: all records are done, or the batch was given up, was given to
// OnFailure and is the error.
//
// A function that answers with batchItemFailures gets the records from the
// lowest of these numbers on again; one that fails, or answers what names no
// record of the batch, gets all of them again
// (https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-batchfailurereporting.html).
func (f *Function) Deliver(ctx context.Context, m Mapping, records []Record) error {
	retries := 0
	for len(records) > 0 {
		payload, err := batch(records)
		if err != nil {
			return err
		}
		answer, err := f.Invoke(ctx, payload)
		var failed *FunctionError
		from := 0
		switch {
		case err == nil:
			from = checkpoint(answer, records)
			err = fmt.Errorf("the function failed on %d of %d records", len(records)-from, len(records))
		case !errors.As(err, &failed):
			return err
		}
		if from > 0 {
			records, retries = records[from:], 0
			if len(records) == 0 {
				return nil
			}
		} else if retries++; m.MaximumRetryAttempts >= 0 && retries > m.MaximumRetryAttempts {
			f.fail(Failure{Payload: payload, Tries: retries, Err: err})
			return fmt.Errorf("the batch was given up after %d tries: %w", retries, err)
		}
		if !pause(ctx, m.RetryDelay) {
			return ctx.Err()
		}
	}
	return nil
}

func batch(records []Record) ([]byte, error) {
	all := make([]json.RawMessage, len(records))
	for i, r := range records {
		all[i] = r.Data
	}
	return json.Marshal(struct {
		Records []json.RawMessage
	}{all})
}

// checkpoint returns the index of the first record that was not done, the number
// of records if all were.
func checkpoint(answer []byte, records []Record) int {
	var a *struct {
		Failures []struct {
			ID *string `json:"itemIdentifier"`
		} `json:"batchItemFailures"`
	}
	if len(answer) == 0 {
		return len(records)
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return 0
	}
	if a == nil {
		return len(records)
	}
	lowest := len(records)
	for _, failure := range a.Failures {
		at := -1
		for i, r := range records {
			if failure.ID != nil && Compare(r.Sequence, *failure.ID) == 0 {
				at = i
				break
			}
		}
		if at < 0 {
			return 0
		}
		lowest = min(lowest, at)
	}
	return lowest
}

// Compare compares two sequence numbers as numbers.
func Compare(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}
