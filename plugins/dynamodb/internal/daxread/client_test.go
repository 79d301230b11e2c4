package daxread

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/plugins/dynamodb/internal/daxtest"
)

var noState = cmpopts.IgnoreUnexported(
	types.AttributeValueMemberS{}, types.AttributeValueMemberN{}, types.AttributeValueMemberB{}, types.AttributeValueMemberBOOL{},
	types.AttributeValueMemberNULL{}, types.AttributeValueMemberL{}, types.AttributeValueMemberM{},
	types.AttributeValueMemberSS{}, types.AttributeValueMemberNS{}, types.AttributeValueMemberBS{},
)

func TestGetItem(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	w.want(t, "TENANT#a", "CONFIG#x", "1")
	w.put(t, "TENANT#a", "CONFIG#x", "2")
	w.want(t, "TENANT#a", "CONFIG#x", "1") // eventually consistent: the cluster still has the old one
	out, err := w.GetItem(t.Context(), w.input("TENANT#a", "CONFIG#none"))
	if err != nil || out.Item != nil {
		t.Fatalf("got %v, %v, want no item", out, err)
	}
	if got := w.Calls(daxtest.GetItem); got != 0 {
		t.Errorf("%d requests whose answer has no key, want none", got)
	}
}

// TestAnswersAreDynamoDBs reads items with every type through the cluster and
// past it, and wants no difference.
func TestAnswersAreDynamoDBs(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	numbers := []string{
		"0", "1", "-1", "3.25", "-0.5", "100", "1.50", "0.001", "18446744073709551615", "18446744073709551616", "-18446744073709551617",
		"12345678901234567890123456789012345678", "-1.2345678901234567890123456789012345678", "1E125", "1E-130", "-9.9E125", "12e3", "1e0",
	}
	item := key("TENANT#a", "CONFIG#types")
	list := &types.AttributeValueMemberL{}
	set := &types.AttributeValueMemberNS{}
	for i, n := range numbers {
		item[fmt.Sprintf("n%02d", i)] = num(n)
		list.Value = append(list.Value, num(n))
	}
	set.Value = []string{"2.5", "-7", "1E30"}
	item["s"], item["empty"] = str("grüße"), str("")
	item["b"] = &types.AttributeValueMemberB{Value: []byte{0, 0xff}}
	item["t"] = &types.AttributeValueMemberBOOL{Value: true}
	item["nil"] = &types.AttributeValueMemberNULL{Value: true}
	item["l"], item["ns"] = list, set
	item["ss"] = &types.AttributeValueMemberSS{Value: []string{"a", "b"}}
	item["bs"] = &types.AttributeValueMemberBS{Value: [][]byte{{1}, {2, 3}}}
	item["m"] = &types.AttributeValueMemberM{Value: daxtest.Item{"deep": &types.AttributeValueMemberL{Value: []types.AttributeValue{num("0.25"), set}}, "none": &types.AttributeValueMemberM{Value: daxtest.Item{}}}}
	w.putItem(t, item)

	want, err := w.past.GetItem(t.Context(), w.input("TENANT#a", "CONFIG#types"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.GetItem(t.Context(), w.input("TENANT#a", "CONFIG#types"))
	if err != nil {
		t.Fatal(err)
	}
	// DynamoDB Local keeps the text of numbers inside of lists, maps and sets,
	// where DynamoDB has them in one form.
	for _, name := range []string{"l", "m", "ns"} {
		if err := plainNumbers(want.Item[name]); err != nil {
			t.Fatal(err)
		}
	}
	sorted := cmpopts.SortSlices(func(a, b string) bool { return a < b }) // sets have no order, and the list's numbers are all different
	bytes := cmpopts.SortSlices(func(a, b []byte) bool { return string(a) < string(b) })
	if diff := cmp.Diff(want.Item, got.Item, noState, sorted, bytes); diff != "" {
		t.Errorf("the cluster's item differs from DynamoDB's (-want +got):\n%s", diff)
	}
}

func TestBatchGetItem(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	var keys []daxtest.Item
	want := map[string]string{}
	for i := range 100 {
		sk := fmt.Sprintf("CONFIG#%03d", i)
		keys = append(keys, key("TENANT#a", sk))
		if i%3 == 0 {
			continue // a missing one
		}
		w.put(t, "TENANT#a", sk, fmt.Sprint(i))
		want[sk] = fmt.Sprint(i)
	}
	for range 20 { // the library's search for duplicates depends on the order
		rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		out, err := w.BatchGetItem(t.Context(), w.batch(keys...))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, item := range out.Responses[w.table] {
			got[text(item["sk"])] = text(item["v"])
		}
		if diff := cmp.Diff(want, got); diff != "" || len(out.UnprocessedKeys) != 0 {
			t.Fatalf("%d unprocessed, items (-want +got):\n%s", len(out.UnprocessedKeys), diff)
		}
	}
	// More where the machine was busy and the library asked again.
	if hits := w.Hits(); hits < 1900 {
		t.Errorf("the cluster answered %d reads from its cache, want 1900", hits)
	}
}

func TestUnprocessedKeys(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	w.put(t, "TENANT#a", "CONFIG#1", "1")
	w.put(t, "TENANT#a", "CONFIG#2", "2")
	defer w.Fail(daxtest.BatchGetItem, daxtest.Fault{Unprocessed: 1})()
	out, err := w.BatchGetItem(t.Context(), w.batch(key("TENANT#a", "CONFIG#1"), key("TENANT#a", "CONFIG#2")))
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Responses[w.table]) != 1 || text(out.Responses[w.table][0]["v"]) != "1" {
		t.Errorf("got %v, want the first item", out.Responses)
	}
	if diff := cmp.Diff([]daxtest.Item{key("TENANT#a", "CONFIG#2")}, out.UnprocessedKeys[w.table].Keys, noState); diff != "" {
		t.Errorf("unprocessed (-want +got):\n%s", diff)
	}
	_, err = w.GetItem(t.Context(), w.input("TENANT#a", "CONFIG#1"))
	wantError(t, err, ErrThrottled)
}

func TestProjection(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	item := key("TENANT#a", "CONFIG#x")
	item["v"], item["n"], item["big"] = str("1"), num("2.50"), str(strings.Repeat("x", 1000))
	w.putItem(t, item)
	in := w.input("TENANT#a", "CONFIG#x")
	in.ProjectionExpression, in.ExpressionAttributeNames = aws.String("#p, sk, n"), map[string]string{"#p": "pk"}
	out, err := w.GetItem(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	want := key("TENANT#a", "CONFIG#x")
	want["n"] = num("2.5")
	if diff := cmp.Diff(want, out.Item, noState); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUnsupportedInputs(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	get := func(change func(*dynamodb.GetItemInput)) func() error {
		return func() error {
			in := w.input("TENANT#a", "CONFIG#x")
			change(in)
			_, err := w.GetItem(t.Context(), in)
			return err
		}
	}
	batch := func(in *dynamodb.BatchGetItemInput) func() error {
		return func() error {
			_, err := w.BatchGetItem(t.Context(), in)
			return err
		}
	}
	for name, read := range map[string]func() error{
		"no input":           func() error { _, err := w.GetItem(t.Context(), nil); return err },
		"no table":           get(func(in *dynamodb.GetItemInput) { in.TableName = nil }),
		"no key":             get(func(in *dynamodb.GetItemInput) { in.Key = nil }),
		"a nil attribute":    get(func(in *dynamodb.GetItemInput) { in.Key["sk"] = nil }),
		"a boolean key":      get(func(in *dynamodb.GetItemInput) { in.Key["sk"] = &types.AttributeValueMemberBOOL{} }),
		"a strange number":   get(func(in *dynamodb.GetItemInput) { in.Key["sk"] = num("1E999999999") }),
		"a consistent read":  get(func(in *dynamodb.GetItemInput) { in.ConsistentRead = aws.Bool(true) }),
		"legacy projection":  get(func(in *dynamodb.GetItemInput) { in.AttributesToGet = []string{"v"} }),
		"blind projection":   get(func(in *dynamodb.GetItemInput) { in.ProjectionExpression = aws.String("pk, v") }),
		"consumed capacity":  get(func(in *dynamodb.GetItemInput) { in.ReturnConsumedCapacity = types.ReturnConsumedCapacityTotal }),
		"no batch":           batch(nil),
		"an empty batch":     batch(&dynamodb.BatchGetItemInput{}),
		"a batch of no keys": batch(w.batch()),
		"a key twice":        batch(w.batch(key("TENANT#a", "CONFIG#x"), key("TENANT#a", "CONFIG#x"))),
		"different keys":     batch(w.batch(key("TENANT#a", "CONFIG#x"), daxtest.Item{"pk": str("TENANT#a")})),
	} {
		t.Run(name, func(t *testing.T) { wantError(t, read(), ErrUnsupported) })
	}
	if n := w.Calls(daxtest.BatchGetItem); n != 0 {
		t.Errorf("%d requests reached the cluster", n)
	}
}

func TestDynamoDBsErrorsArePassedOn(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	in := w.input("TENANT#a", "CONFIG#x")
	in.TableName = aws.String("daxread-no-such-table")
	for range 2 * failuresToOpen {
		_, err := w.GetItem(t.Context(), in)
		var missing *types.ResourceNotFoundException
		if !errors.As(err, &missing) || errors.Is(err, ErrUnavailable) {
			t.Fatalf("got %v, want DynamoDB's error", err)
		}
	}
	if opened(w.Client) != 0 {
		t.Error("an error about the request opened the circuit")
	}
}

func TestTLS(t *testing.T) {
	w := newWorld(t, daxtest.Options{TLS: true}, Options{})
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	w.want(t, "TENANT#a", "CONFIG#x", "1")

	others, _ := daxtest.NewRoots(t)
	for name, o := range map[string]Options{
		"roots of somebody else": {Endpoint: w.Endpoint(), RootCAs: others},
		"roots of the system":    {Endpoint: w.Endpoint()},
		"no TLS at all":          {Endpoint: strings.Replace(w.Endpoint(), "daxs:", "dax:", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.Calls(daxtest.Any)
			c := open(t, o)
			_, err := c.GetItem(t.Context(), w.input("TENANT#a", "CONFIG#x"))
			wantError(t, err, ErrUnavailable)
			if after := w.Calls(daxtest.BatchGetItem); after != 1 {
				t.Errorf("%d requests in all, %d before", after, before)
			}
		})
	}
}

func TestAuthentication(t *testing.T) {
	right := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "right", SessionToken: "token"}
	provider := func(c aws.Credentials) aws.CredentialsProvider {
		return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil })
	}
	w := newWorld(t, daxtest.Options{Credentials: right}, Options{Credentials: provider(right)})
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	w.want(t, "TENANT#a", "CONFIG#x", "1")

	wrong := right
	wrong.SecretAccessKey = "wrong"
	c := open(t, Options{Endpoint: w.Endpoint(), Credentials: provider(wrong)})
	_, err := c.GetItem(t.Context(), w.input("TENANT#a", "CONFIG#x"))
	wantError(t, err, ErrUnavailable)

	none := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return aws.Credentials{}, errors.New("no role") })
	c = open(t, Options{Endpoint: w.Endpoint(), Credentials: none})
	_, err = c.GetItem(t.Context(), w.input("TENANT#a", "CONFIG#x"))
	wantError(t, err, ErrUnavailable)
}

func TestOpenNamesEveryProblem(t *testing.T) {
	_, err := Open(Options{Endpoint: "http://x", RequestTimeout: time.Hour})
	if config.CodeOf(err) != config.InvalidArgument {
		t.Fatalf("got %v", err)
	}
	for _, part := range []string{`"dax://"`, "region", "credentials", "timeout"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q says nothing about %s", err, part)
		}
	}
}

// opened is how often the circuit opened.
func opened(c *Client) int {
	c.breaker.mu.Lock()
	defer c.breaker.mu.Unlock()
	return c.breaker.opened
}
