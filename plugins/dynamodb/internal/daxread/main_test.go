package daxread

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/plugins/dynamodb/internal/daxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testCredentials = credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "not a secret", "")

// world is a node, a table, a client of this package and one that goes past it.
type world struct {
	*daxtest.Server
	*Client
	past  *dynamodb.Client
	table string
}

// newWorld takes the real client's timeouts unless the options say otherwise.
func newWorld(t *testing.T, node daxtest.Options, o Options) *world {
	t.Helper()
	w := newNode(t, node)
	o.Endpoint, o.RootCAs = w.Endpoint(), w.Roots()
	w.Client = open(t, o)
	return w
}

// newNode is a world without a client.
func newNode(t *testing.T, node daxtest.Options) *world {
	t.Helper()
	node.DynamoDB = emulators.DynamoDBLocal(t)
	transport := &http.Transport{MaxIdleConnsPerHost: 32}
	t.Cleanup(transport.CloseIdleConnections)
	w := &world{table: unique(), past: dynamodb.New(dynamodb.Options{
		BaseEndpoint: &node.DynamoDB, Region: "us-east-1", Credentials: testCredentials, HTTPClient: &http.Client{Transport: emulators.PlainBody{RoundTripper: transport}},
	})}
	_, err := w.past.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: &w.table, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String("pk"), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String("sk"), AttributeType: types.ScalarAttributeTypeS},
		},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String("pk"), KeyType: types.KeyTypeHash},
			{AttributeName: aws.String("sk"), KeyType: types.KeyTypeRange},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := w.past.DeleteTable(context.Background(), &dynamodb.DeleteTableInput{TableName: &w.table}); err != nil {
			t.Error(err)
		}
	})
	w.Server = daxtest.Start(t, node)
	return w
}

func open(t *testing.T, o Options) *Client {
	t.Helper()
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.Credentials == nil {
		o.Credentials = testCredentials
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = MaxRequestTimeout // the machine of a test run may be busy
	}
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func unique() string {
	b := make([]byte, 6)
	if _, err := rand.Read(b); err != nil {
		panic(err)
	}
	return "daxread-" + hex.EncodeToString(b)
}

func str(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func num(s string) types.AttributeValue { return &types.AttributeValueMemberN{Value: s} }

func key(pk, sk string) daxtest.Item { return daxtest.Item{"pk": str(pk), "sk": str(sk)} }

func (w *world) put(t testing.TB, pk, sk, value string) {
	t.Helper()
	item := key(pk, sk)
	item["v"] = str(value)
	w.putItem(t, item)
}

func (w *world) putItem(t testing.TB, item daxtest.Item) {
	t.Helper()
	if _, err := w.past.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &w.table, Item: item}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) input(pk, sk string) *dynamodb.GetItemInput {
	return &dynamodb.GetItemInput{TableName: &w.table, Key: key(pk, sk)}
}

func (w *world) batch(keys ...daxtest.Item) *dynamodb.BatchGetItemInput {
	return &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{w.table: {Keys: keys}}}
}

// value reads an item's value through the cluster.
func (w *world) value(ctx context.Context, pk, sk string) (string, error) {
	out, err := w.GetItem(ctx, w.input(pk, sk))
	if err != nil {
		return "", err
	}
	return text(out.Item["v"]), nil
}

func (w *world) want(t testing.TB, pk, sk, want string) {
	t.Helper()
	if got, err := w.value(t.Context(), pk, sk); err != nil || got != want {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

func text(v types.AttributeValue) string {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return v.Value
	case *types.AttributeValueMemberN:
		return v.Value
	}
	return ""
}

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}
