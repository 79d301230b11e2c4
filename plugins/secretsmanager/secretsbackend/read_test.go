package secretsbackend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
)

// What the calls of this package cost in calls of AWS.
func TestCallCounts(t *testing.T) {
	t.Parallel()
	s := openStore(t, testOptions(t))
	var ids []config.ID
	for i := range 40 {
		ids = append(ids, id(t, "acme", "order", fmt.Sprintf("k%02d", i)))
		put(t, s, ids[i], "one")
	}
	k := ids[0]
	foreign := id(t, "acme", "order", "foreign")
	createRaw(t, nameOf(t, s, foreign), "one")
	calls := s.conn.CountCalls()
	for _, c := range []struct {
		name string
		do   func() error
		want string
	}{
		{"get", func() error { _, err := s.Get(t.Context(), k, 0); return err }, "GetSecretValue 1/1"},
		{"get of the latest by its number", func() error { _, err := s.Get(t.Context(), k, 1); return err }, "GetSecretValue 1/1"},
		{"get of what another tool wrote", func() error { _, err := s.Get(t.Context(), foreign, 0); return err }, "GetSecretValue 1/1, ListSecretVersionIds 1/1"},
		{"batch of 20", func() error { _, err := s.BatchGet(t.Context(), ids[:20]); return err }, "BatchGetSecretValue 1/1"},
		{"batch of 20, twice each", func() error { _, err := s.BatchGet(t.Context(), append(ids[:20:20], ids[:20]...)); return err }, "BatchGetSecretValue 1/1"},
		{"batch of 40", func() error { _, err := s.BatchGet(t.Context(), ids); return err }, "BatchGetSecretValue 2/2"},
		{"refresh", func() error { _, err := s.Refresh(t.Context(), []config.ID{k, k}); return err }, "DescribeSecret 1/1, GetSecretValue 1/1"},
		{
			"put", func() error { _, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("two")}); return err },
			"DescribeSecret 1/1, PutSecretValue 1/1, UpdateSecretVersionStage 1/1",
		},
		{"put that conflicts", func() error {
			if _, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("x"), Expect: driver.Version(1)}); config.CodeOf(err) != config.Conflict {
				return fmt.Errorf("no conflict: %w", err)
			}
			return nil
		}, "DescribeSecret 1/1"},
		{"first put", func() error {
			_, err := s.Put(t.Context(), driver.PutRequest{ID: id(t, "acme", "order", "new"), Value: []byte("one")})
			return err
		}, "CreateSecret 1/1, DescribeSecret 1/1"},
		{"history of 2", func() error { _, err := s.History(t.Context(), driver.HistoryRequest{ID: k}); return err }, "GetSecretValue 2/2, ListSecretVersionIds 1/1"},
		{"list of 10", func() error {
			_, err := s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service, KeyPrefix: "k", PageSize: 10})
			return err
		}, "BatchGetSecretValue 1/1, ListSecrets 1/1"},
		{
			"delete", func() error { _, err := s.Delete(t.Context(), driver.DeleteRequest{ID: k}); return err },
			"DeleteSecret 1/1, DescribeSecret 2/2, PutSecretValue 1/1, UpdateSecretVersionStage 1/1",
		},
		{"get of what is deleted", func() error {
			if _, err := s.Get(t.Context(), k, 0); config.CodeOf(err) != config.NotFound {
				return fmt.Errorf("it is there: %w", err)
			}
			return nil
		}, "GetSecretValue 1/1"},
		{
			"put over a deletion", func() error {
				_, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("four")})
				return err
			},
			"DescribeSecret 1/1, PutSecretValue 1/1, RestoreSecret 1/1, UpdateSecretVersionStage 1/1",
		},
		{"ping", func() error { return s.Ping(t.Context()) }, "DescribeSecret 1/1"},
	} {
		calls.Reset()
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := calls.String(); got != c.want {
			t.Errorf("%s takes %q, want %q", c.name, got, c.want)
		}
	}
}

// moto answers a batch with versions that are not current any more: what does not
// carry AWSCURRENT is read by itself.
func TestBatchThatIsNotCurrent(t *testing.T) {
	t.Parallel()
	s := openStore(t, testOptions(t))
	k := id(t, "acme", "order", "key")
	put(t, s, k, "one")
	put(t, s, k, "two")
	bare := openStore(t, testOptions(t))
	bare.settings = s.settings
	p := emulators.NewProxy(t, motoURL)
	bare.api = through(t, p, testOptions(t)).api
	results, err := bare.BatchGet(t.Context(), []config.ID{k})
	if err != nil || string(results[0].Entry.Value) != "two" {
		t.Fatalf("batch: %v, %v", results, err)
	}
	if p.Calls("BatchGetSecretValue") != 1 || p.Calls("GetSecretValue") != 1 {
		t.Errorf("it took %v", p.Operations())
	}
}

func secretValue(name, version, value string, labels ...string) map[string]any {
	return map[string]any{
		"ARN": "arn:aws:secretsmanager:us-east-1:123456789012:secret:" + name + "-abcdef", "Name": name, "VersionId": version,
		"SecretString": value, "VersionStages": labels, "CreatedDate": 1.7e9,
	}
}

func jsonAnswer(t *testing.T, v any) emulators.Answer {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return emulators.Answer{Status: 200, Body: body, Header: map[string][]string{"Content-Type": {"application/x-amz-json-1.1"}}}
}

// The answers of a batch come in any order, over several pages, with errors of
// their own, and with what was not asked for.
func TestBatchAnswers(t *testing.T) {
	t.Parallel()
	p := emulators.NewProxy(t, awsURL)
	s := through(t, p, testOptions(t))
	var ids []config.ID
	var names []string
	for _, key := range []string{"a", "b", "denied", "broken", "gone", "throttled"} {
		k := id(t, "acme", "order", key)
		ids, names = append(ids, k), append(names, nameOf(t, s, k))
	}
	version := func(i int) string { return newStamp(uint64(i), false, s.now(), "").id }
	failure := func(name, code string) map[string]any {
		return map[string]any{"SecretId": name, "ErrorCode": code, "Message": "arn:aws:secretsmanager:us-east-1:123456789012:secret:globex/key: the-secret"}
	}
	p.Inject(emulators.Fault{Operation: "BatchGetSecretValue", Then: emulators.Reply, Times: 1, Answer: jsonAnswer(t, map[string]any{
		"SecretValues": []any{secretValue(names[1], version(2), "B", labelCurrent), secretValue("globex/key", version(9), "the-secret", labelCurrent)},
		"Errors":       []any{failure(names[2], "AccessDeniedException"), failure("globex/other", "AccessDeniedException")},
		"NextToken":    "next",
	})})
	p.Inject(emulators.Fault{Operation: "BatchGetSecretValue", Then: emulators.Reply, Times: 1, Answer: jsonAnswer(t, map[string]any{
		"SecretValues": []any{secretValue(names[0], version(1), "A", labelCurrent)},
		"Errors": []any{
			failure(names[3], "DecryptionFailure"), failure(names[4], "ResourceNotFoundException"), failure(names[5], "ThrottlingException"),
		},
	})})
	asked := append(ids[:6:6], ids[0], ids[1], ids[2])
	results, err := s.BatchGet(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, r := range results {
		if r.Err != nil {
			harmless(t, r.Err, "the-secret")
			if !strings.Contains(r.Err.Error(), asked[i].Key.String()) {
				t.Errorf("the error of %s does not name it: %v", asked[i].Key, r.Err)
			}
			got = append(got, config.CodeOf(r.Err).String())
			continue
		}
		got = append(got, fmt.Sprintf("%s=%s %d", r.Entry.ID.Key, r.Entry.Value, r.Entry.Version))
	}
	want := []string{"a=A 1", "b=B 2", "permission_denied", "failed_precondition", "not_found", "resource_exhausted", "a=A 1", "b=B 2", "permission_denied"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

// An answer about another secret is no answer.
func TestForeignAnswers(t *testing.T) {
	t.Parallel()
	p := emulators.NewProxy(t, awsURL)
	s := through(t, p, testOptions(t))
	k := id(t, "acme", "order", "key")
	put(t, s, k, "one")
	version := newStamp(1, false, s.now(), "").id
	foreign := jsonAnswer(t, secretValue("globex/key", version, "the-secret", labelCurrent))
	for _, operation := range []string{"GetSecretValue", "DescribeSecret", "ListSecretVersionIds", "PutSecretValue", "UpdateSecretVersionStage"} {
		p.Inject(emulators.Fault{Operation: operation, Then: emulators.Reply, Answer: foreign})
		for what, do := range map[string]func() error{
			"get":     func() error { _, err := s.Get(t.Context(), k, 0); return err },
			"version": func() error { _, err := s.Get(t.Context(), k, 7); return err },
			"history": func() error { _, err := s.History(t.Context(), driver.HistoryRequest{ID: k}); return err },
			"refresh": func() error { _, err := s.Refresh(t.Context(), []config.ID{k}); return err },
			"put":     func() error { _, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("x")}); return err },
		} {
			concerned := map[string]string{
				"GetSecretValue": "get version history refresh", "DescribeSecret": "refresh put", "ListSecretVersionIds": "version history",
				"PutSecretValue": "put", "UpdateSecretVersionStage": "put",
			}[operation]
			if !strings.Contains(concerned, what) {
				continue
			}
			err := do()
			wantCode(t, err, config.Internal)
			harmless(t, err, "the-secret")
		}
		p.Clear()
	}
}

// Reads that are older than what this store wrote or refreshed are asked again,
// until they are not.
func TestOldAnswers(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	p := emulators.NewProxy(t, awsURL)
	s, other := through(t, p, o), openStore(t, o)
	k, fresh := id(t, "acme", "order", "key"), id(t, "acme", "order", "fresh")
	name := nameOf(t, s, k)
	first := put(t, s, k, "one")
	arn := describe(t, name).ARN
	old := secretValue(name, string(first.Revision), "one", labelCurrent)
	old["ARN"] = arn
	put(t, s, k, "two")
	notFound := emulators.JSONError(400, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")

	p.Inject(emulators.Fault{Operation: "GetSecretValue", Then: emulators.Reply, Times: 3, Answer: jsonAnswer(t, old)})
	wantValue(t, s, k, 0, "two")
	p.Clear()
	p.Inject(emulators.Fault{Operation: "GetSecretValue", Then: emulators.Reply, Times: 2, Answer: notFound})
	wantValue(t, s, k, 0, "two")
	p.Clear()
	p.Inject(emulators.Fault{Operation: "BatchGetSecretValue", Then: emulators.Reply, Times: 1, Answer: jsonAnswer(t, map[string]any{"SecretValues": []any{old}})})
	results, err := s.BatchGet(t.Context(), []config.ID{k})
	if err != nil || string(results[0].Entry.Value) != "two" {
		t.Errorf("batch: %v, %v", results, err)
	}
	p.Clear()
	p.Inject(emulators.Fault{Operation: "GetSecretValue", Then: emulators.Reply, Answer: jsonAnswer(t, old)})
	_, err = s.Get(t.Context(), k, 0)
	wantCode(t, err, config.Unavailable)
	p.Clear()

	// A write is not misled either.
	stale := map[string]any{"ARN": arn, "Name": name, "VersionIdsToStages": map[string]any{string(first.Revision): []string{labelCurrent}}}
	p.Inject(emulators.Fault{Operation: "DescribeSecret", Then: emulators.Reply, Times: 2, Answer: jsonAnswer(t, stale)})
	if e, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("three"), Expect: driver.Version(2)}); err != nil || e.Version != 3 {
		t.Errorf("put made version %d, error %v", e.Version, err)
	}
	p.Clear()

	// What a Refresh found counts as well as what was written here.
	put(t, other, k, "four")
	if r, err := s.Refresh(t.Context(), []config.ID{k}); err != nil || r[0].Entry.Version != 4 {
		t.Fatalf("refresh: %v, %v", r, err)
	}
	p.Inject(emulators.Fault{Operation: "GetSecretValue", Then: emulators.Reply, Times: 1, Answer: jsonAnswer(t, old)})
	wantValue(t, s, k, 0, "four")
	p.Clear()

	// ListSecrets is behind: what was written here is in the list all the same.
	put(t, s, fresh, "fresh")
	p.Inject(emulators.Fault{Operation: "ListSecrets", Then: emulators.Reply, Answer: jsonAnswer(t, map[string]any{"SecretList": []any{map[string]any{"Name": name}}})})
	page, err := s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service})
	if err != nil || len(page.Entries) != 2 || page.Entries[0].ID != fresh {
		t.Errorf("list: %v, %v", page.Entries, err)
	}
}

var arnOrAccount = regexp.MustCompile(`arn:|[0-9]{12}|globex`)

// harmless checks that an error's text holds neither a value nor anything of
// another tenant or of the account.
func harmless(t *testing.T, err error, secret string) {
	t.Helper()
	if err == nil {
		return
	}
	if text := err.Error(); strings.Contains(text, secret) || arnOrAccount.MatchString(text) || strings.Contains(text, "tagstore-v") {
		t.Errorf("the error's text gives something away: %q", text)
	}
}

// No value comes near a log or an error, whatever fails.
func TestValuesAreNowhereElse(t *testing.T) { //nolint:paralleltest // it takes the process's logger
	const value = "the-secret-value-7f3a"
	var mu sync.Mutex
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(b)
	}), &slog.HandlerOptions{Level: slog.LevelDebug - 4})))
	defer slog.SetDefault(before)

	echo := emulators.JSONError(400, "InvalidParameterException", "you sent "+value+" to arn:aws:secretsmanager:us-east-1:123456789012:secret:globex/key")
	operations := []string{
		"DescribeSecret", "CreateSecret", "PutSecretValue", "UpdateSecretVersionStage", "GetSecretValue", "BatchGetSecretValue", "ListSecretVersionIds",
		"ListSecrets", "DeleteSecret", "RestoreSecret",
	}
	failed := 0
	for _, operation := range operations {
		for _, fault := range []emulators.Fault{{Then: emulators.Reply, Answer: echo}, {Then: emulators.DropAfter}, {Then: emulators.DropDuring}} {
			fault.Operation = operation
			o := testOptions(t)
			o.Timeout, o.MaxAttempts = "1s", 1
			p := emulators.NewProxy(t, awsURL)
			s, clean := through(t, p, o), openStore(t, o)
			k, gone, fresh := id(t, "acme", "order", "key"), id(t, "acme", "order", "gone"), id(t, "acme", "order", "fresh")
			put(t, clean, k, value)
			put(t, clean, gone, value)
			remove(t, clean, gone)
			p.Inject(fault)
			var errs []error
			note := func(err error) { errs = append(errs, err) }
			_, err := s.Get(t.Context(), k, 0)
			note(err)
			_, err = s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte(value + "2")})
			note(err)
			_, err = s.Put(t.Context(), driver.PutRequest{ID: fresh, Value: []byte(value)})
			note(err)
			results, err := s.BatchGet(t.Context(), []config.ID{k})
			note(err)
			for _, r := range results {
				note(r.Err)
			}
			_, err = s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service})
			note(err)
			for _, k := range []config.ID{k, gone} {
				_, err = s.History(t.Context(), driver.HistoryRequest{ID: k})
				note(err)
			}
			_, err = s.Delete(t.Context(), driver.DeleteRequest{ID: k})
			note(err)
			for _, err := range errs {
				if err != nil {
					failed++
					harmless(t, err, value)
				}
			}
		}
	}
	if failed < 2*len(operations) {
		t.Errorf("only %d calls failed", failed)
	}
	mu.Lock()
	defer mu.Unlock()
	if text := log.String(); strings.Contains(text, value) || arnOrAccount.MatchString(text) {
		t.Errorf("the log gives something away:\n%s", text)
	}
	if log.Len() == 0 {
		t.Error("nothing was logged: the test does not see the log")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
