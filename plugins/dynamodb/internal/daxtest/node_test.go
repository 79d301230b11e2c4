package daxtest

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-dax-go-v2/dax"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go/metrics"
)

func (w *world) wantValue(t *testing.T, what, table, pk, want string, change ...func(*dynamodb.GetItemInput)) {
	t.Helper()
	if got := text(w.get(t, table, pkItem(pk), change...)["v"]); got != want {
		t.Errorf("%s: got %s, want %s", what, got, want)
	}
}

// TestStaleness is what a cache in front of a table does to its readers.
func TestStaleness(t *testing.T) {
	var passed atomic.Int64
	now := func() time.Time { return time.Unix(1_700_000_000, passed.Load()) }
	advance := func(d time.Duration) { passed.Add(int64(d)) }
	everywhere(t, Options{TTL: time.Minute, Now: now}, func(t *testing.T, w *world) {
		table := w.table(t, "pk:S")
		put := func(pk, v string) { w.put(t, table, pkItem(pk, "v", str(v))) }
		past := func(pk, v string) { w.putPast(t, table, pkItem(pk, "v", str(v))) }

		past("a", "1")
		w.wantValue(t, "the first read", table, "a", "1")
		past("a", "2")
		w.wantValue(t, "after a write past the node", table, "a", "1")
		w.wantValue(t, "a consistent read", table, "a", "2", consistent)
		w.wantValue(t, "a consistent read is not cached", table, "a", "1")
		advance(time.Minute - 1)
		w.wantValue(t, "before the end of its time", table, "a", "1")
		advance(1)
		w.wantValue(t, "after the end of its time", table, "a", "2")
		put("a", "3")
		w.wantValue(t, "after a write through the node", table, "a", "3")

		w.wantValue(t, "an item that is missing", table, "b", "nothing")
		past("b", "1")
		w.wantValue(t, "that it is missing is cached", table, "b", "nothing")
		w.wantValue(t, "a consistent read finds it", table, "b", "1", consistent)
		put("b", "2")
		w.wantValue(t, "a write through the node ends that", table, "b", "2")

		query := func() int {
			t.Helper()
			out, err := w.dax.Query(t.Context(), &dynamodb.QueryInput{
				TableName: &table, KeyConditionExpression: aws.String("pk = :p"), ExpressionAttributeValues: Item{":p": str("c")},
			})
			if err != nil {
				t.Fatal(err)
			}
			return int(out.Count)
		}
		if n := query(); n != 0 {
			t.Errorf("a query found %d items", n)
		}
		put("c", "1")
		if n := query(); n != 0 {
			t.Errorf("a write through the node changed a cached query: %d items", n)
		}
		advance(time.Minute)
		if n := query(); n != 1 {
			t.Errorf("after its time, the query found %d items", n)
		}

		past("d", "1")
		w.wantValue(t, "before the restart", table, "d", "1")
		past("d", "2")
		if err := w.Restart(); err != nil {
			t.Fatal(err)
		}
		w.dax = w.client(t, testCredentials)
		w.wantValue(t, "after the restart", table, "d", "2")
	})
}

func one(t *testing.T, o Options) (*world, string) {
	t.Helper()
	o.DynamoDB = endpoints["dynamodb-local"](t)
	w := newWorld(t, o)
	table := w.table(t, "pk:S")
	w.putPast(t, table, pkItem("a", "v", str("1")))
	return w, table
}

func TestTLS(t *testing.T) {
	w, table := one(t, Options{TLS: true})
	if !strings.HasPrefix(w.Endpoint(), "daxs://") {
		t.Errorf("endpoint %s", w.Endpoint())
	}
	w.wantValue(t, "with the node's authority", table, "a", "1")

	others, _ := NewRoots(t)
	for name, roots := range map[string]*tls.Config{"another authority": {RootCAs: others}, "the system's authorities": {}} {
		calls := w.Calls(Any)
		cfg := dax.Config{RequestTimeout: time.Second}
		cfg.Region, cfg.HostPorts, cfg.MeterProvider = "us-east-1", []string{w.Endpoint()}, metrics.NopMeterProvider{}
		cfg.Credentials = credentials.StaticCredentialsProvider{Value: testCredentials}
		cfg.ClusterUpdateInterval, cfg.ClientHealthCheckInterval, cfg.IdleConnectionReapDelay = time.Hour, time.Hour, time.Hour
		roots.MinVersion = tls.VersionTLS12
		cfg.DialContext = (&tls.Dialer{Config: roots}).DialContext
		_, err := open(t, cfg).GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &table, Key: pkItem("a")})
		if err == nil || !strings.Contains(err.Error(), "no routes found") {
			t.Errorf("%s: %v", name, err)
		}
		if n := w.Calls(Any); n != calls {
			t.Errorf("%s: %d requests", name, n-calls)
		}
	}
}

// TestAuthentication lets clients with right and wrong credentials ask. A
// wrong one is told with the answer to its next request.
func TestAuthentication(t *testing.T) {
	right := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "right", SessionToken: "token"}
	w, table := one(t, Options{Credentials: right})
	ask := func(c aws.Credentials) error {
		// The client asks for the nodes before anything else. The answer to that
		// is for everybody, so that the request under test is the read.
		heal := w.Fail(Endpoints, Fault{Raw: mustEndpoints(t, w)})
		defer heal()
		_, err := w.client(t, c).GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &table, Key: pkItem("a")})
		return err
	}
	if err := ask(right); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(c *aws.Credentials){
		"secret": func(c *aws.Credentials) { c.SecretAccessKey = "wrong" },
		"key":    func(c *aws.Credentials) { c.AccessKeyID = "AKIDOTHER" },
		"token":  func(c *aws.Credentials) { c.SessionToken = "wrong" },
		"none":   func(c *aws.Credentials) { c.SessionToken = "" },
	} {
		c := right
		change(&c)
		err := ask(c)
		want := UnknownKey
		if name == "secret" {
			want = InvalidSignature
		}
		if err == nil || !strings.Contains(err.Error(), want.Message) {
			t.Errorf("a wrong %s: %v, want %q", name, err, want.Message)
		}
	}
	authorized := 0
	for _, c := range w.Connections() {
		authorized += c.Authorized
		if c.Authorized == 0 && c.Calls[GetItem] > 0 && c.Calls[AuthorizeConnection] == 0 {
			t.Error("a request came before any authorization")
		}
	}
	if authorized == 0 {
		t.Error("no connection was authorized")
	}
}

func mustEndpoints(t *testing.T, w *world) []byte {
	t.Helper()
	b, err := w.endpoints(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSignatureIsChecked goes through the parts of a signature that can be
// wrong while its key is right.
func TestSignatureIsChecked(t *testing.T) {
	c := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "right"}
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	// Made with another implementation of Signature Version 4.
	const (
		goodStringToSign = "AWS4-HMAC-SHA256\n20260501T120000Z\n20260501/us-east-1/dax/aws4_request\n101aedd930fe8e512d9f48d672808b4f21c72b899e6324ad1f5c5da686faad83"
		goodSignature    = "117586b5ee12d994747035a266ddb8a7ed858c569b86daf07281073fa967f0ab"
	)
	good := []any{"AKIDEXAMPLE", goodSignature, []byte(goodStringToSign), nil, "agent"}
	if f := authorize(c, "us-east-1", now, good); f != nil {
		t.Fatalf("the right signature: %v", f)
	}
	for name, is := range map[string]struct {
		args   []any
		region string
		now    time.Time
	}{
		"too old":           {good, "us-east-1", now.Add(clockSkew + time.Second)},
		"from the future":   {good, "us-east-1", now.Add(-clockSkew - time.Second)},
		"another region":    {good, "eu-west-1", now},
		"not a signature":   {[]any{"AKIDEXAMPLE", "00", []byte(goodStringToSign), nil, nil}, "us-east-1", now},
		"another request":   {[]any{"AKIDEXAMPLE", goodSignature, []byte(strings.Replace(goodStringToSign, "\n101a", "\n201a", 1)), nil, nil}, "us-east-1", now},
		"no string to sign": {[]any{"AKIDEXAMPLE", goodSignature, []byte("x"), nil, nil}, "us-east-1", now},
		"other types":       {[]any{1, 2, 3, 4, 5}, "us-east-1", now},
	} {
		if f := authorize(c, is.region, is.now, is.args); f == nil {
			t.Errorf("%s: authorized", name)
		}
	}
}

func get(t *testing.T, w *world, table string) error {
	t.Helper()
	return getWithin(t, w, table, 30*time.Second)
}

func getWithin(t *testing.T, w *world, table string, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, err := w.dax.GetItem(ctx, &dynamodb.GetItemInput{TableName: &table, Key: pkItem("a")})
	return err
}

// TestFailures injects each failure and wants the error of DynamoDB that the
// client makes of it.
func TestFailures(t *testing.T) {
	w, table := one(t, Options{})
	if err := get(t, w, table); err != nil {
		t.Fatal(err)
	}
	for name := range last {
		heal := w.Fail(GetItem, Fault{Failure: Fail(name, "injected")})
		if err := get(t, w, table); code(err) != name {
			t.Errorf("%s: got %v", name, err)
		}
		heal()
	}
	defer w.Fail(GetItem, Fault{Failure: NotImplemented, Times: 1})()
	if err := get(t, w, table); code(err) != "NotImplemented" {
		t.Errorf("got %v", err)
	}
	if err := get(t, w, table); err != nil {
		t.Errorf("a fault that hits once hit twice: %v", err)
	}
	_, err := w.dax.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: aws.String("daxtest-none"), Key: pkItem("a")})
	var missing *types.ResourceNotFoundException
	if !errors.As(err, &missing) {
		t.Errorf("a table that is not there: %v", err)
	}
}

// TestFaults injects what a connection can suffer. The library has no retry
// here: each fault costs one request, and the next is answered.
func TestFaults(t *testing.T) {
	for name, is := range map[string]struct {
		fault    Fault
		contains string
		slow     bool
	}{
		"dropped before":   {Fault{Drop: DropBefore}, "EOF", false},
		"dropped after":    {Fault{Drop: DropAfter}, "EOF", false},
		"dropped midway":   {Fault{Drop: DropMidway}, "EOF", false},
		"garbage":          {Fault{Raw: []byte("garbage")}, "", false},
		"hang":             {Fault{Hang: true}, "", true},
		"delay":            {Fault{Delay: time.Minute}, "", true},
		"delay and answer": {Fault{Delay: time.Millisecond}, "no error", false},
	} {
		t.Run(name, func(t *testing.T) {
			w, table := one(t, Options{})
			if err := get(t, w, table); err != nil {
				t.Fatal(err)
			}
			is.fault.Times = 1
			w.Fail(GetItem, is.fault)
			limit := 30 * time.Second
			if is.slow {
				limit = 300 * time.Millisecond
			}
			err := getWithin(t, w, table, limit)
			if is.contains == "no error" {
				if err != nil {
					t.Fatal(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), is.contains) {
				t.Errorf("got %v, want something about %q", err, is.contains)
			}
			if err := get(t, w, table); err != nil {
				t.Errorf("the request after: %v", err)
			}
		})
	}
}

// TestLie shows that the client takes any answer to a GetItem for the item
// that it asked for, but not that of a BatchGetItem.
func TestLie(t *testing.T) {
	w, table := one(t, Options{})
	w.putPast(t, table, pkItem("b", "v", str("of b")))
	defer w.Fail(Any, Fault{Instead: pkItem("b")})()
	got := w.get(t, table, pkItem("a"))
	if text(got["v"]) != "of b" || text(got["pk"]) != "a" {
		t.Errorf("got %v", got)
	}
	out, err := w.dax.BatchGetItem(t.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{table: {Keys: []Item{pkItem("a")}}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := out.Responses[table][0]; text(got["pk"]) != "b" {
		t.Errorf("got %v", got)
	}
}

// TestRestart restarts the node on its port. Every pooled connection costs the
// client one error; that is what the real one does too.
func TestRestart(t *testing.T) {
	w, table := one(t, Options{})
	if err := get(t, w, table); err != nil {
		t.Fatal(err)
	}
	endpoint := w.Endpoint()
	w.Down()
	if err := get(t, w, table); err == nil {
		t.Error("a node that is down answered")
	}
	if err := w.Up(); err != nil {
		t.Fatal(err)
	}
	if w.Endpoint() != endpoint {
		t.Errorf("it moved from %s to %s", endpoint, w.Endpoint())
	}
	for tries := 0; get(t, w, table) != nil; tries++ {
		if tries == 20 {
			t.Fatal("no answer after the restart")
		}
	}
	w.DropConnections()
	if err := get(t, w, table); err == nil || !strings.Contains(err.Error(), "EOF") {
		t.Errorf("the first request on a dropped connection: %v", err)
	}
	for tries := 0; get(t, w, table) != nil; tries++ {
		if tries == 20 {
			t.Fatal("no answer after the drop")
		}
	}
	if n := w.Calls(GetItem); n < 3 {
		t.Errorf("%d calls", n)
	}
	total := 0
	for _, c := range w.Connections() {
		total += c.Calls[GetItem]
		if !strings.HasPrefix(c.UserAgent, "DaxGoV2Client") && len(c.Calls) > 0 {
			t.Errorf("user agent %q", c.UserAgent)
		}
	}
	if total != w.Calls(GetItem) {
		t.Errorf("%d calls on all connections, %d in all", total, w.Calls(GetItem))
	}
}

// TestEndpoints sends the client elsewhere.
func TestEndpoints(t *testing.T) {
	w, table := one(t, Options{})
	other := Start(t, Options{DynamoDB: w.o.DynamoDB})
	w.SetEndpoints(other.Address())
	w.dax = w.client(t, testCredentials)
	w.wantValue(t, "from the other node", table, "a", "1")
	if other.Calls(GetItem) != 1 || w.Calls(GetItem) != 0 {
		t.Errorf("the other node had %d calls, this one %d", other.Calls(GetItem), w.Calls(GetItem))
	}
	w.SetEndpoints(freePort(t))
	w.dax = w.client(t, testCredentials)
	if err := get(t, w, table); err == nil {
		t.Error("a dead address answered")
	}
	w.SetEndpoints("not an address")
	w.dax = w.client(t, testCredentials)
	if err := get(t, w, table); err == nil || !strings.Contains(err.Error(), "no routes") {
		t.Errorf("got %v", err)
	}
}

// TestNotAClient connects with something else.
func TestNotAClient(t *testing.T) {
	w, _ := one(t, Options{})
	for name, hello := range map[string]string{"HTTP": "GET / HTTP/1.1\r\n\r\n", "another magic": "\x63abc\x00\x61\x30\xa0\x00", "an unknown method": "\x67J7yne5G\x00\x61\x30\xa0\x00\x01\x18\x63"} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", w.Address())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(hello)); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		conn.Close()
	}
}
