package events_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/storemap"
	"github.com/tagstore/tagstore/refresh-lambda/internal/events"
)

const (
	account = "123456789012"
	folder  = "../../testdata/events/"
)

func sample(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(folder + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var at = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// Every sample is here: a new one without an expectation fails.
func TestSamples(t *testing.T) {
	parameter := events.Change{Kind: storemap.Parameters, Name: "/config-service/acme-corp/api/endpoint", At: at}
	secret := events.Change{Kind: storemap.Secrets, Name: "tagstore/acme-corp/payments-key", At: at}
	object := events.Change{Kind: storemap.Objects, Container: "tagstore-config", Name: "config/acme-corp/_/terms.txt", At: at}
	item := func(n int, pk, sk string, version uint64) events.Change {
		return events.Change{
			Kind: storemap.Items, Container: "tagstore-config", Name: pk, SortKey: sk, Version: version,
			At: time.Unix(1772600767, 0).UTC(), Sequence: fmt.Sprintf("442158450000000000000%d", n),
		}
	}
	one := func(c events.Change) []events.Change { return []events.Change{c} }
	want := map[string]struct {
		changes []events.Change
		ignored string
	}{
		"ssm-create": {changes: one(parameter)}, "ssm-update": {changes: one(parameter)},
		"ssm-delete": {changes: one(parameter)}, "ssm-label": {changes: one(parameter)},
		"secret-label-current": {changes: one(secret)}, "secret-label-other": {ignored: "label other than AWSCURRENT"},
		"secret-put": {changes: one(secret)}, "secret-put-pending": {ignored: "label other than AWSCURRENT"},
		"secret-update": {changes: one(secret)}, "secret-create": {changes: one(secret)}, "secret-delete": {changes: one(secret)},
		"secret-restore": {changes: one(secret)}, "secret-stage": {changes: one(secret)}, "secret-rotated": {changes: one(secret)},
		"secret-stage-other": {ignored: "label other than AWSCURRENT"}, "secret-denied": {ignored: "the call failed"},
		"s3-created": {changes: one(object)}, "s3-deleted": {changes: one(object)}, "s3-expired": {changes: one(object)},
		"s3-test": {ignored: "tries out"},
		"s3-notification": {changes: one(events.Change{
			Kind: storemap.Objects, Container: "tagstore-config", Name: "config/acme-corp/_/terms of/use.txt", At: at.Add(123 * time.Millisecond),
		})},
		"dynamodb-batch": {changes: []events.Change{
			item(2, "TENANT#acme-corp", "CONFIG#payment-gateway", 7),
			item(3, "TENANT#acme-corp|SERVICE#order", "CONFIG#limits", 0),
			item(4, "TENANT#acme-corp", "CONFIG#old-limits", 0),
		}},
		"dynamodb-expired": {changes: one(item(4, "TENANT#acme-corp", "CONFIG#old-limits", 0))},
		"dynamodb-history": {ignored: "2 records"},
	}
	files, err := filepath.Glob(folder + "*.json")
	if err != nil || len(files) != len(want) {
		t.Fatalf("there are %d samples, want %d (%v)", len(files), len(want), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			w, ok := want[name]
			if !ok {
				t.Fatal("nobody says what this sample means")
			}
			p := events.Parser{Account: account}
			if strings.HasPrefix(name, "s3-notification") {
				p.Account = "" // which it does not tell
			}
			got, err := p.Parse(sample(t, name))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(w.changes, got.Changes); diff != "" {
				t.Errorf("the changes differ (-want +got):\n%s", diff)
			}
			if !strings.Contains(got.Ignored, w.ignored) || (got.Ignored == "") != (len(got.Changes) > 0) {
				t.Errorf("ignored %q, want %q", got.Ignored, w.ignored)
			}
			if got.Stream != strings.HasPrefix(name, "dynamodb") || got.Source == "" || got.Type == "" {
				t.Errorf("stream %t, source %q, type %q", got.Stream, got.Source, got.Type)
			}
		})
	}
}

// with returns a sample with one field changed; a nil value takes it away.
func with(t *testing.T, name string, value any, path ...string) string {
	t.Helper()
	var whole map[string]any
	if err := json.Unmarshal(sample(t, name), &whole); err != nil {
		t.Fatal(err)
	}
	at := whole
	for _, step := range path[:len(path)-1] {
		at = at[step].(map[string]any)
	}
	if last := path[len(path)-1]; value == nil {
		delete(at, last)
	} else {
		at[last] = value
	}
	text, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRefused(t *testing.T) {
	const canary = "canary-5f1e"
	for _, c := range []struct {
		name, payload, want string
		code                config.Code // InvalidArgument if zero
	}{
		{name: "nothing", payload: "", want: "not JSON"},
		{name: "not JSON", payload: `{"` + canary, want: "not JSON"},
		{name: "no object", payload: `"` + canary + `"`, want: "a JSON string, not an object"},
		{name: "null", payload: `null`, want: "neither a source"},
		{name: "two values", payload: `{} {}`, want: "not JSON"},
		{name: "a console's test", payload: `{"key1":"` + canary + `"}`, want: "neither a source and detail-type nor Records"},
		{name: "too large", payload: `{"source":"` + strings.Repeat("x", 6<<20) + `"}`, want: "delivers 6291456 at most"},
		{name: "larger than an event", payload: with(t, "ssm-update", strings.Repeat("x", 256<<10), "detail", "description"), want: "delivers 262144 at most"},

		{name: "unknown type", payload: with(t, "ssm-update", "Parameter Store Policy Action", "detail-type"), want: `"Parameter Store Policy Action" of "aws.ssm" is unknown`},
		{name: "other source", payload: with(t, "ssm-update", "aws.s3", "source"), want: `of "aws.s3" is unknown`},
		{name: "one's own source", payload: with(t, "ssm-update", "acme.ssm", "source"), want: `of "acme.ssm" is unknown`},
		{name: "source of a wrong type", payload: with(t, "ssm-update", 5, "source"), want: `the field "source" is a number`},
		{name: "other account", payload: with(t, "ssm-update", "999999999999", "account"), want: `of account "999999999999"`, code: config.PermissionDenied},
		{name: "no account", payload: with(t, "s3-created", nil, "account"), want: `of account ""`, code: config.PermissionDenied},
		{name: "no time", payload: with(t, "ssm-update", nil, "time"), want: "no time"},
		{name: "no detail", payload: with(t, "ssm-update", nil, "detail"), want: "has no detail"},
		{name: "detail is null", payload: strings.Replace(string(sample(t, "ssm-label")), `"detail": {`, `"detail": null, "x": {`, 1), want: "has no detail"},
		{name: "detail is a list", payload: with(t, "ssm-update", []int{1}, "detail"), want: "it is a JSON array, not an object"},

		{name: "parameter without a name", payload: with(t, "ssm-update", nil, "detail", "name"), want: "no detail.name"},
		{name: "parameter's name a number", payload: with(t, "ssm-update", 5, "detail", "name"), want: `the field "name" is a number`},
		{name: "operation", payload: with(t, "ssm-update", "Rename", "detail", "operation"), want: `operation "Rename" is unknown`},
		{name: "no operation", payload: with(t, "ssm-update", nil, "detail", "operation"), want: `operation "" is unknown`},

		{name: "secret without a name", payload: with(t, "secret-label-current", nil, "detail", "name"), want: "no detail.name"},
		{name: "secret without a label", payload: with(t, "secret-label-current", nil, "detail", "labelUpdated"), want: "no detail.labelUpdated"},
		{name: "call of another service", payload: with(t, "secret-put", "ssm.amazonaws.com", "detail", "eventSource"), want: "is not Secrets Manager"},
		{name: "call that reads", payload: with(t, "secret-put", "GetSecretValue", "detail", "eventName"), want: `"GetSecretValue" changes no secret's value`},
		{name: "call without a request", payload: with(t, "secret-put", nil, "detail", "requestParameters"), want: "no detail.requestParameters"},
		{name: "call that names nothing", payload: with(t, "secret-create", map[string]any{}, "detail", "requestParameters"), want: "names no secret"},
		{name: "partial ARN", payload: with(t, "secret-restore", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:a/b", "detail", "requestParameters", "secretId"), want: "lacks the six characters"},
		{name: "ARN of another thing", payload: with(t, "secret-restore", "arn:aws:ssm:eu-central-1:123456789012:parameter/x", "detail", "requestParameters", "secretId"), want: "not a secret's ARN"},
		{name: "secret id of a wrong type", payload: with(t, "secret-restore", true, "detail", "requestParameters", "secretId"), want: `"requestParameters.secretId" is a bool`},
		{name: "rotation that failed", payload: with(t, "secret-rotated", "RotationFailed", "detail", "eventName"), want: `"RotationFailed" changes no`},
		{name: "rotation of nothing", payload: with(t, "secret-rotated", nil, "detail", "additionalEventData"), want: "no detail.additionalEventData"},

		{name: "no bucket", payload: with(t, "s3-created", nil, "detail", "bucket"), want: "no detail.bucket"},
		{name: "no object's key", payload: with(t, "s3-created", nil, "detail", "object", "key"), want: "no detail.object.key"},
		{name: "bucket is text", payload: with(t, "s3-created", canary, "detail", "bucket"), want: `"bucket" is a string`},

		{name: "no records", payload: `{"Records":[]}`, want: "no Records"},
		{name: "records are no list", payload: `{"Records":{}}`, want: "not a list"},
		{name: "record of a wrong type", payload: `{"Records":[5]}`, want: "record 0 of the event"},
		{name: "record of nobody", payload: `{"Records":[{}]}`, want: `records of "" are unknown`},
		{name: "records of a queue", payload: `{"Records":[{"eventSource":"aws:sqs","body":"` + canary + `"}]}`, want: `records of "aws:sqs" are unknown`},
		{name: "records of two", payload: `{"Records":[{"eventSource":"aws:s3"},{"eventSource":"aws:dynamodb"}]}`, want: `of "aws:s3" and of "aws:dynamodb"`},
		{name: "record without a number", payload: strings.ReplaceAll(string(sample(t, "dynamodb-batch")), "SequenceNumber", "Sequence"), want: "no SequenceNumber"},
		{name: "notification with an account to check", payload: string(sample(t, "s3-notification")), want: `of account ""`, code: config.PermissionDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := events.Parser{Account: account}.Parse([]byte(c.payload))
			if err == nil {
				t.Fatalf("it is accepted as %+v", got)
			}
			if want := max(c.code, config.InvalidArgument); config.CodeOf(err) != want {
				t.Errorf("code %s, want %s", config.CodeOf(err), want)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q does not say %q", err, c.want)
			}
			if strings.Contains(err.Error(), canary) || len(err.Error()) > 2000 {
				t.Errorf("the error repeats the event: %.2000s", err)
			}
		})
	}
}

// A record that can not be used fails by its own number; the others are read.
func TestRecordsFailByThemselves(t *testing.T) {
	text := string(sample(t, "dynamodb-batch"))
	for name, c := range map[string]struct{ from, to, want string }{
		"another account":    {":123456789012:table", ":999999999999:table", `of account "999999999999"`},
		"no stream":          {"/stream/", "/index/", "not a table's stream"},
		"unknown event":      {`"MODIFY"`, `"RENAME"`, `eventName "RENAME"`},
		"keys of one's own":  {`"pk"`, `"id"`, "not the texts pk and sk"},
		"key that is binary": {`"Keys": {`, `"Keys": {"pk": {"S": "TENANT#a"}, "sk": {"B": "AA=="}}, "Old": {`, "not the texts pk and sk"},
		"key of wrong type":  {`"Keys": {`, `"Keys": {"sk": {"S": 5}}, "Old": {`, `Keys.sk.S" is a number`},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.ReplaceAll(text, c.from, c.to)
			if c.from == `"MODIFY"` {
				changed = strings.Replace(text, c.from, c.to, 1)
			}
			if changed == text {
				t.Fatal("the sample has nothing to change")
			}
			got, err := events.Parser{Account: account}.Parse([]byte(changed))
			if err != nil {
				t.Fatal(err)
			}
			failed := 0
			for _, change := range got.Changes {
				if change.Err == nil {
					continue
				}
				failed++
				if !strings.Contains(change.Err.Error(), c.want) || !strings.Contains(change.Err.Error(), change.Sequence) || change.Sequence == "" || change.Name != "" {
					t.Errorf("%+v: %q does not say %q", change, change.Err, c.want)
				}
			}
			if failed == 0 {
				t.Errorf("nothing failed: %+v", got.Changes)
			}
			if c.from == `"MODIFY"` && (failed != 1 || len(got.Changes) != 3) {
				t.Errorf("%d of %d failed, want 1 of 3", failed, len(got.Changes))
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(folder + "*.json")
	if err != nil || len(files) == 0 {
		f.Fatal("no samples", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, p := range []events.Parser{{}, {Account: account}} {
			got, err := p.Parse(payload)
			if err != nil {
				if code := config.CodeOf(err); code != config.InvalidArgument && code != config.PermissionDenied {
					t.Fatalf("code %s: %v", code, err)
				}
				if len(err.Error()) > 4000 {
					t.Fatalf("the error has %d bytes", len(err.Error()))
				}
				continue
			}
			if (len(got.Changes) == 0) != (got.Ignored != "") || got.Source == "" {
				t.Fatalf("neither a change nor a reason: %+v", got)
			}
			for _, c := range got.Changes {
				switch {
				case got.Stream != (c.Sequence != ""):
					t.Fatalf("stream %t with sequence %q", got.Stream, c.Sequence)
				case c.Err != nil && c != (events.Change{Sequence: c.Sequence, Err: c.Err}):
					t.Fatalf("a record that failed says %+v", c)
				case c.Err == nil && (c.Name == "" && c.SortKey == "" || c.Kind == 0):
					t.Fatalf("a change of nothing: %+v", c)
				case c.Err == nil && (c.Kind == storemap.Objects || c.Kind == storemap.Items) != (c.Container != ""):
					t.Fatalf("a change of no container: %+v", c)
				}
			}
		}
	})
}
