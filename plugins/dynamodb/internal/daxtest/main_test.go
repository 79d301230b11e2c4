package daxtest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/aws/aws-dax-go-v2/dax"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go/metrics"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/emulators"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testCredentials = aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "not a secret"}

// endpoints are the DynamoDB endpoints that tests run against. They differ in
// places: where one of them is not DynamoDB, the test says so.
var endpoints = map[string]func(testing.TB) string{"dynamodb-local": emulators.DynamoDBLocal, "moto": emulators.Moto}

// world is a node, the table endpoint behind it, and the real client.
type world struct {
	*Server
	past *dynamodb.Client // goes past the node
	dax  *dax.Dax
}

// everywhere runs a test against each DynamoDB endpoint.
func everywhere(t *testing.T, o Options, test func(t *testing.T, w *world)) {
	t.Helper()
	for name, endpoint := range endpoints {
		t.Run(name, func(t *testing.T) {
			o.DynamoDB = endpoint(t)
			test(t, newWorld(t, o))
		})
	}
}

func newWorld(t *testing.T, o Options) *world {
	t.Helper()
	w := &world{Server: Start(t, o)}
	w.past = w.dynamodb
	w.dax = w.client(t, testCredentials)
	return w
}

// client is the real client, set up by hand because its own defaults read the
// machine's AWS configuration.
func (w *world) client(t *testing.T, c aws.Credentials) *dax.Dax {
	t.Helper()
	cfg := dax.Config{RequestTimeout: 5 * time.Second}
	cfg.Region = "us-east-1"
	cfg.HostPorts = []string{w.Endpoint()}
	cfg.Credentials = credentials.StaticCredentialsProvider{Value: c}
	cfg.MeterProvider = metrics.NopMeterProvider{}
	cfg.ClusterUpdateInterval, cfg.ClientHealthCheckInterval, cfg.IdleConnectionReapDelay = time.Hour, time.Hour, time.Hour
	if w.Roots() != nil {
		cfg.DialContext = (&tls.Dialer{Config: &tls.Config{RootCAs: w.Roots(), MinVersion: tls.VersionTLS12}}).DialContext
	}
	return open(t, cfg)
}

func open(t *testing.T, cfg dax.Config) *dax.Dax {
	t.Helper()
	client, err := dax.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// table makes a table of the given key attributes, such as "pk:S", "sk:N".
func (w *world) table(t *testing.T, key ...string) string {
	t.Helper()
	name := unique("daxtest-")
	in := &dynamodb.CreateTableInput{TableName: &name, BillingMode: types.BillingModePayPerRequest}
	roles := []types.KeyType{types.KeyTypeHash, types.KeyTypeRange}
	for i, k := range key {
		attribute, typ := k[:len(k)-2], k[len(k)-1:]
		in.AttributeDefinitions = append(in.AttributeDefinitions, types.AttributeDefinition{AttributeName: &attribute, AttributeType: types.ScalarAttributeType(typ)})
		in.KeySchema = append(in.KeySchema, types.KeySchemaElement{AttributeName: &attribute, KeyType: roles[i]})
	}
	if _, err := w.past.CreateTable(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := w.past.DeleteTable(context.Background(), &dynamodb.DeleteTableInput{TableName: &name}); err != nil {
			t.Error(err)
		}
	})
	return name
}

func unique(prefix string) string {
	b := make([]byte, 6)
	if _, err := rand.Read(b); err != nil {
		panic(err)
	}
	return prefix + hex.EncodeToString(b)
}

func str(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func num(s string) types.AttributeValue { return &types.AttributeValueMemberN{Value: s} }

func bin(s string) types.AttributeValue { return &types.AttributeValueMemberB{Value: []byte(s)} }

func pkItem(pk string, attributes ...any) Item {
	item := Item{"pk": str(pk)}
	for i := 0; i < len(attributes); i += 2 {
		item[attributes[i].(string)] = attributes[i+1].(types.AttributeValue)
	}
	return item
}

func (w *world) putPast(t *testing.T, table string, item Item) {
	t.Helper()
	if _, err := w.past.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: item}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) put(t *testing.T, table string, item Item) {
	t.Helper()
	if _, err := w.dax.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: item}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) get(t *testing.T, table string, key Item, change ...func(*dynamodb.GetItemInput)) Item {
	t.Helper()
	in := &dynamodb.GetItemInput{TableName: &table, Key: key}
	for _, f := range change {
		f(in)
	}
	out, err := w.dax.GetItem(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out.Item
}

func consistent(in *dynamodb.GetItemInput) { in.ConsistentRead = aws.Bool(true) }

// freePort is a port where nothing listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func text(v types.AttributeValue) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case *types.AttributeValueMemberS:
		return v.Value
	case *types.AttributeValueMemberN:
		return v.Value
	}
	return fmt.Sprintf("%T", v)
}
