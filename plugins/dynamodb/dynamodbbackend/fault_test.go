package dynamodbbackend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// behind opens a store that reaches its table through a proxy, for the faults
// that AWS knows and no emulator makes.
func behind(t testing.TB, endpoint string, o Options) (*Store, *emulators.Proxy) {
	t.Helper()
	p := emulators.NewProxy(t, endpoint)
	o.Table = table(t, endpoint)
	at(t, p.URL)
	if o.Timeout == "" {
		o.Timeout = "1s"
	}
	s := openStore(t, o)
	p.ResetCalls()
	return s, p
}

// reply is an answer of DynamoDB.
func reply(status int, body any) emulators.Fault {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return emulators.Fault{Then: emulators.Reply, Answer: emulators.Answer{
		Status: status, Body: text, Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}},
	}}
}

func refusal(code, message string) emulators.Fault {
	return emulators.Fault{Then: emulators.Reply, Answer: emulators.JSONError(400, "com.amazonaws.dynamodb.v20120810#"+code, message)}
}

// canceled is the answer to a transaction of which one item was the reason.
func canceled(at, of int, code, message string) emulators.Fault {
	reasons := make([]map[string]string, of)
	for i := range reasons {
		reasons[i] = map[string]string{"Code": "None"}
	}
	reasons[at] = map[string]string{"Code": code, "Message": message}
	return reply(400, map[string]any{
		"__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException", "Message": "Transaction cancelled", "CancellationReasons": reasons,
	})
}

func on(operation string, f emulators.Fault, times int) emulators.Fault {
	f.Operation, f.Times = operation, times
	return f
}

// An answer that is lost behind the write is found again: the write happened
// once, and its caller is told so.
func TestLostAnswers(t *testing.T) {
	for name, endpoint := range map[string]string{"DynamoDB Local": emulators.DynamoDBLocal(t), "moto": emulators.Moto(t)} {
		for what, f := range map[string]emulators.Fault{
			"lost":           {Then: emulators.DropAfter},
			"cut off":        {Then: emulators.DropDuring},
			"never sent":     {Then: emulators.DropBefore},
			"lost each time": {Then: emulators.DropAfter, Times: 3},
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				s, p := behind(t, endpoint, Options{})
				put(t, s, limits(t), `1`)
				f.Operation, f.Times = "TransactWriteItems", max(f.Times, 1)
				fault := p.Inject(f)
				e, err := s.Put(t.Context(), driver.PutRequest{ID: limits(t), Value: []byte(`2`), Expect: driver.Version(1)})
				if err != nil || e.Version != 2 {
					t.Fatalf("put: %+v, %v", e, err)
				}
				if fault.Hits() != f.Times {
					t.Errorf("%d faults", fault.Hits())
				}
				got := get(t, s, limits(t))
				wantValue(t, got, 2, `2`)
				if got.Revision != e.Revision || !got.UpdatedAt.Equal(e.UpdatedAt) || len(history(t, s, limits(t))) != 2 {
					t.Errorf("the answer %+v is not the write %+v", e, got)
				}
			})
		}
	}
}

// A write that can not be told to have happened is called so, and its retry with
// the same idempotency key settles it.
func TestOutcomeUnknown(t *testing.T) {
	s, p := behind(t, local(t), Options{})
	p.Inject(emulators.Fault{Operation: "TransactWriteItems", Then: emulators.DropAfter, Times: 3})
	read := p.Inject(emulators.Fault{Operation: "GetItem", Then: emulators.DropBefore})
	r := driver.PutRequest{ID: limits(t), Value: []byte(`1`), IdempotencyKey: "once"}
	_, err := s.Put(t.Context(), r)
	wantCode(t, err, config.OutcomeUnknown)
	read.Remove()
	e, err := s.Put(t.Context(), r)
	if err != nil || e.Version != 1 {
		t.Fatalf("the retry: %+v, %v", e, err)
	}
	wantValue(t, get(t, s, limits(t)), 1, `1`)

	// It did not happen, but nobody can know.
	p.Inject(emulators.Fault{Operation: "TransactWriteItems", Then: emulators.DropBefore, Times: 3})
	_, err = s.Put(t.Context(), driver.PutRequest{ID: limits(t), Value: []byte(`2`), Expect: driver.Version(1)})
	if code := config.CodeOf(err); code != config.OutcomeUnknown && code != config.Unavailable {
		t.Errorf("got %v", err)
	}
	wantValue(t, get(t, s, limits(t)), 1, `1`)

	// It can not have happened any more: another write made that version.
	at(t, local(t))
	other := openStore(t, Options{Table: s.table})
	made := make(chan struct{})
	p.ResetCalls()
	p.Inject(emulators.Fault{Operation: "TransactWriteItems", Then: emulators.DropBefore, Times: 2})
	p.Inject(emulators.Fault{Operation: "TransactWriteItems", Then: emulators.DropBefore, Times: 1, Until: made})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err = s.Put(t.Context(), driver.PutRequest{ID: limits(t), Value: []byte(`2`), Expect: driver.Version(1)})
	})
	p.Await(t, "TransactWriteItems", 3)
	put(t, other, limits(t), `"theirs"`)
	close(made)
	wg.Wait()
	wantCode(t, err, config.Conflict)
	wantValue(t, get(t, s, limits(t)), 2, `"theirs"`)
}

// A hanging store costs the time that the options allow, and no more.
func TestHangingStore(t *testing.T) {
	s, p := behind(t, local(t), Options{Options: awsconn.Options{Timeout: "300ms"}})
	put(t, s, limits(t), `1`)
	open := make(chan struct{})
	defer close(open)
	fault := p.Inject(emulators.Fault{Until: open})
	began := time.Now()
	_, err := s.Get(t.Context(), limits(t), 0)
	wantCode(t, err, config.Unavailable)
	_, err = s.Put(t.Context(), driver.PutRequest{ID: limits(t), Value: []byte(`2`), Expect: driver.Version(1)})
	wantCode(t, err, config.OutcomeUnknown)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = s.Put(ctx, driver.PutRequest{ID: limits(t), Value: []byte(`2`), Expect: driver.Version(1)})
	wantCode(t, err, config.DeadlineExceeded)
	fault.Remove()
}

// endsLate is a DAX client whose end takes as long as the calls that it has.
type endsLate struct {
	eventualReader
	ending chan struct{}
	end    <-chan struct{}
}

func (e *endsLate) Close() error {
	close(e.ending)
	<-e.end
	return nil
}

// A write whose caller gives up while the store is being closed may be made all
// the same: that the store is closed would say that it was not.
func TestCallerGivesUpWhileTheStoreIsClosed(t *testing.T) {
	s, p := behind(t, local(t), Options{Options: awsconn.Options{Timeout: "1m"}})
	put(t, s, limits(t), `1`)
	end := make(chan struct{})
	dax := &endsLate{ending: make(chan struct{}), end: end}
	s.dax = dax
	p.Inject(emulators.Fault{Operation: "TransactWriteItems", Until: end})
	p.ResetCalls()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.Put(ctx, driver.PutRequest{ID: limits(t), Value: []byte(`2`), Expect: driver.Version(1)})
		done <- err
	}()
	p.Await(t, "TransactWriteItems", 1)
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	<-dax.ending
	cancel()
	wantCode(t, <-done, config.Canceled)
	close(end)
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// Reasons of a canceled transaction, and errors of a request, each with its code.
func TestRefusedWrites(t *testing.T) {
	for name, c := range map[string]struct {
		fault emulators.Fault
		want  config.Code
	}{
		"throttled":           {canceled(0, 2, "ThrottlingError", "Throughput exceeds"), config.ResourceExhausted},
		"provisioned":         {canceled(1, 2, "ProvisionedThroughputExceeded", "The level of configured"), config.ResourceExhausted},
		"collection":          {canceled(1, 2, "ItemCollectionSizeLimitExceeded", "Collection size exceeded"), config.ResourceExhausted},
		"oversize":            {canceled(0, 2, "ValidationError", "Item size to update has exceeded the maximum allowed size"), config.InvalidArgument},
		"validation":          {canceled(0, 2, "ValidationError", "One or more parameter values were invalid"), config.Internal},
		"an unknown reason":   {canceled(0, 2, "SomethingNew", "what"), config.Unavailable},
		"reasons of another":  {canceled(0, 3, "ConditionalCheckFailed", "The conditional request failed"), config.Internal},
		"request throttled":   {refusal("ThrottlingException", "Rate exceeded"), config.ResourceExhausted},
		"request provisioned": {refusal("ProvisionedThroughputExceededException", "The level of configured"), config.ResourceExhausted},
		"denied":              {refusal("AccessDeniedException", "User: arn:aws:sts::123456789012:assumed-role/x is not authorized"), config.PermissionDenied},
		"table gone":          {refusal("ResourceNotFoundException", "Requested resource not found"), config.FailedPrecondition},
		"token mismatch":      {refusal("IdempotentParameterMismatchException", "mismatch"), config.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := behind(t, local(t), Options{})
			put(t, s, limits(t), `"before"`)
			p.Inject(on("TransactWriteItems", c.fault, 0))
			_, err := s.Put(t.Context(), driver.PutRequest{ID: limits(t), Value: []byte(`"after"`), Expect: driver.Version(1)})
			wantCode(t, err, c.want)
			if text := err.Error(); strings.Contains(text, "arn:") || strings.Contains(text, "123456789012") || strings.Contains(text, "acme-corp") || strings.Contains(text, "after") {
				t.Errorf("the text says too much: %s", text)
			}
			var e *config.Error
			if errors.As(err, &e); c.want == config.ResourceExhausted && e.RetryAfter == 0 && name != "collection" {
				t.Error("no RetryAfter")
			}
			p.Clear()
			wantValue(t, get(t, s, limits(t)), 1, `"before"`)
		})
	}
}

// A transaction that meets another one is made again, with jitter and a bound.
func TestTransactionConflicts(t *testing.T) {
	s, p := behind(t, local(t), Options{})
	put(t, s, limits(t), `1`)
	p.Inject(on("TransactWriteItems", canceled(0, 2, "TransactionConflict", "Transaction is ongoing for the item"), 5))
	e, err := s.Put(t.Context(), driver.PutRequest{ID: limits(t), Value: []byte(`2`), Expect: driver.Version(1)})
	if err != nil || e.Version != 2 {
		t.Fatalf("put: %+v, %v", e, err)
	}
	p.Inject(on("TransactWriteItems", refusal("TransactionInProgressException", "in progress"), 2))
	if e, err = s.Put(t.Context(), driver.PutRequest{ID: limits(t), Value: []byte(`3`), Expect: driver.Version(2)}); err != nil || e.Version != 3 {
		t.Fatalf("put: %+v, %v", e, err)
	}
	p.Inject(on("TransactWriteItems", canceled(0, 2, "TransactionConflict", "Transaction is ongoing for the item"), 0))
	p.ResetCalls()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = s.Put(ctx, driver.PutRequest{ID: limits(t), Value: []byte(`4`), Expect: driver.Version(3)})
	wantCode(t, err, config.Unavailable)
	if n := p.Calls("TransactWriteItems"); n != maxTries {
		t.Errorf("%d calls", n)
	}
}

// Under throttling the table gets hardly more calls than the callers make.
func TestAmplification(t *testing.T) {
	const calls = 400
	s, p := behind(t, local(t), Options{})
	put(t, s, limits(t), `1`)
	p.Inject(on("GetItem", refusal("ProvisionedThroughputExceededException", "The level of configured"), 0))
	p.Inject(on("TransactWriteItems", canceled(0, 2, "ThrottlingError", "Throughput exceeds"), 0))
	p.ResetCalls()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range calls / 8 {
				_, err := s.Get(t.Context(), limits(t), 0)
				if config.CodeOf(err) != config.ResourceExhausted {
					t.Errorf("get: %v", err)
				}
				_, err = s.Put(t.Context(), driver.PutRequest{ID: limits(t), Value: []byte(`2`), Expect: driver.Version(1)})
				if config.CodeOf(err) != config.ResourceExhausted {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := p.Calls(""); n > 2*calls*11/10+15 {
		t.Errorf("%d calls arrived for %d", n, 2*calls)
	}
}

// Keys that an answer leaves out are asked for again; those that never come are
// errors of their keys, and nothing is missing in silence.
func TestUnprocessedKeys(t *testing.T) {
	s, p := behind(t, local(t), Options{Options: awsconn.Options{Timeout: "500ms"}})
	var ids []config.ID
	for i := range 6 {
		ids = append(ids, id(t, "acme-corp", "", fmt.Sprintf("k%d", i)))
		put(t, s, ids[i], fmt.Sprint(i))
	}
	entries := func(from, to int) (items, keys []any) {
		for i := from; i < to; i++ {
			key := map[string]any{"pk": map[string]string{"S": acmePK}, "sk": map[string]string{"S": "CONFIG#" + ids[i].Key.String()}}
			keys = append(keys, key)
			items = append(items, map[string]any{"pk": key["pk"], "sk": key["sk"], "config": map[string]string{"N": fmt.Sprint(i)}})
		}
		return items, keys
	}
	answer := func(answered, left int) emulators.Fault {
		items, _ := entries(0, answered)
		_, keys := entries(left, 6)
		return on("BatchGetItem", reply(200, map[string]any{
			"Responses": map[string]any{s.table: items}, "UnprocessedKeys": map[string]any{s.table: map[string]any{"Keys": keys}},
		}), 1)
	}
	check := func(failed int) {
		t.Helper()
		results, err := s.BatchGet(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if i >= failed {
				wantCode(t, r.Err, config.ResourceExhausted)
			} else if r.Err != nil || string(r.Entry.Value) != fmt.Sprint(i) {
				t.Errorf("result %d: %q, %v", i, r.Entry.Value, r.Err)
			}
		}
	}
	p.Inject(answer(0, 0)) // all left out, then there
	check(6)
	p.Inject(answer(2, 2))
	check(6)
	if n := p.Calls("BatchGetItem"); n != 4 {
		t.Errorf("%d calls", n)
	}
	p.Inject(answer(2, 2))
	stuck := answer(0, 2)
	stuck.Times = 0
	fault := p.Inject(stuck)
	check(2)
	fault.Remove()

	// Keys that come in neither list do not exist.
	items, _ := entries(0, 2)
	p.Inject(on("BatchGetItem", reply(200, map[string]any{"Responses": map[string]any{s.table: items}}), 1))
	results, err := s.BatchGet(t.Context(), ids)
	if err != nil || results[1].Err != nil {
		t.Fatalf("%+v, %v", results, err)
	}
	wantCode(t, results[2].Err, config.NotFound)

	// Nothing at all: the call fails as a whole.
	p.Inject(on("BatchGetItem", refusal("AccessDeniedException", "no"), 0))
	_, err = s.BatchGet(t.Context(), ids)
	wantCode(t, err, config.PermissionDenied)
}

// DynamoDB answers 16 MB at a time and leaves the rest out: here it does so
// itself.
func TestBatchOverSixteenMegabytes(t *testing.T) {
	s, other := fresh(t, Options{})
	value := strings.Repeat("v", defaults.MaxValue)
	var ids []config.ID
	for i := range 48 { // 17 MB
		ids = append(ids, id(t, "acme-corp", "", fmt.Sprintf("large%02d", i)))
		other.put(item{attrPK: str(acmePK), attrSK: str("CONFIG#" + ids[i].Key.String()), attrConfig: str(value)})
	}
	calls := s.conn.CountCalls()
	results, err := s.BatchGet(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if r.Err != nil || r.Entry.ID != ids[i] || len(r.Entry.Value) != len(value)+2 { // as JSON text
			t.Fatalf("key %d: %d bytes, %v", i, len(r.Entry.Value), r.Err)
		}
	}
	if n := calls.Logical("BatchGetItem"); n < 2 {
		t.Errorf("%d calls: nothing was left out", n)
	}
}

// An answer with another item than was asked for is an error, never an answer.
func TestForeignAnswers(t *testing.T) {
	s, p := behind(t, local(t), Options{})
	put(t, s, limits(t), `1`)
	theirs := func(sk string) map[string]any {
		return map[string]any{"pk": map[string]string{"S": "TENANT#globex-inc"}, "sk": map[string]string{"S": sk}, "config": map[string]string{"S": "secret"}}
	}
	bare := map[string]any{"config": map[string]string{"S": "secret"}}
	for _, foreign := range []map[string]any{theirs(limitsSK), bare} {
		p.Inject(on("GetItem", reply(200, map[string]any{"Item": foreign}), 0))
		_, err := s.Get(t.Context(), limits(t), 0)
		wantCode(t, err, config.Internal)
		_, err = s.Get(t.Context(), limits(t), 1)
		wantCode(t, err, config.Internal)
		p.Clear()
		p.Inject(on("BatchGetItem", reply(200, map[string]any{"Responses": map[string]any{s.table: []any{foreign}}}), 1))
		_, err = s.BatchGet(t.Context(), []config.ID{limits(t)})
		wantCode(t, err, config.Internal)
		p.Inject(on("Query", reply(200, map[string]any{"Items": []any{foreign}, "Count": 1}), 0))
		_, err = s.List(t.Context(), driver.ListRequest{Tenant: limits(t).Tenant})
		wantCode(t, err, config.Internal)
		_, err = s.History(t.Context(), driver.HistoryRequest{ID: limits(t)})
		wantCode(t, err, config.Internal)
		p.Clear()
	}
	// A record of the same key, but of another version's place.
	wrong := map[string]any{"pk": map[string]string{"S": acmePK}, "sk": map[string]string{"S": "HISTORY#limits#0000000002"}, "config": map[string]string{"S": "x"}}
	p.Inject(on("GetItem", reply(200, map[string]any{"Item": wrong}), 1))
	_, err := s.Get(t.Context(), limits(t), 1)
	wantCode(t, err, config.Internal)
	// The item that a broken condition is answered with.
	reasons := canceled(0, 2, "ConditionalCheckFailed", "The conditional request failed")
	var body map[string]any
	if err := json.Unmarshal(reasons.Answer.Body, &body); err != nil {
		t.Fatal(err)
	}
	body["CancellationReasons"].([]any)[0].(map[string]any)["Item"] = theirs(limitsSK)
	p.Inject(on("TransactWriteItems", reply(400, body), 1))
	_, err = s.Put(t.Context(), driver.PutRequest{ID: limits(t), Value: []byte(`2`), Expect: driver.Version(1)})
	wantCode(t, err, config.Internal)
	wantValue(t, get(t, s, limits(t)), 1, `1`)
}

func TestPing(t *testing.T) {
	s, p := behind(t, local(t), Options{})
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]emulators.Fault{
		"denied":   refusal("AccessDeniedException", "no"),
		"gone":     refusal("ResourceNotFoundException", "no"),
		"dropped":  {Then: emulators.DropBefore},
		"deleting": reply(200, map[string]any{"Table": map[string]any{"TableStatus": "DELETING"}}),
	} {
		p.Inject(on("DescribeTable", f, 0))
		if err := s.Ping(t.Context()); config.CodeOf(err) != config.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		p.Clear()
	}
}
