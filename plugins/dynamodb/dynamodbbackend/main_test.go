package dynamodbbackend

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	if url, err := emulators.DynamoDBLocalURL(context.Background()); err == nil {
		if err := emulators.Setenv(url); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// local is where most tests run: TestMain sends the SDK there.
func local(t testing.TB) string {
	t.Helper()
	return emulators.DynamoDBLocal(t)
}

// at sends the SDK to an endpoint for the rest of a test, which can not be
// parallel then.
func at(t testing.TB, endpoint string) {
	t.Helper()
	for _, variable := range emulators.Environ(endpoint) {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
}

// client is a plain client, as another tool has one.
func client(t testing.TB, endpoint string) *dynamodb.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return dynamodb.New(dynamodb.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(endpoint), HTTPClient: &http.Client{Transport: emulators.PlainBody{RoundTripper: transport}},
		Credentials: credentials.NewStaticCredentialsProvider("emulator", "emulator", ""),
	})
}

// table makes a table of this test's own and returns its name.
func table(t testing.TB, endpoint string) string {
	t.Helper()
	name := emulators.Name(t, "ddb")
	makeTable(t, endpoint, name, attrPK, attrSK, types.ScalarAttributeTypeS)
	return name
}

func makeTable(t testing.TB, endpoint, name, pk, sk string, kind types.ScalarAttributeType) {
	t.Helper()
	db := client(t, endpoint)
	_, err := db.CreateTable(context.Background(), &dynamodb.CreateTableInput{
		TableName: aws.String(name), BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String(pk), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String(sk), AttributeType: kind},
		},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String(pk), KeyType: types.KeyTypeHash}, {AttributeName: aws.String(sk), KeyType: types.KeyTypeRange},
		},
	})
	if err != nil {
		t.Fatalf("CreateTable: %v", err)
	}
	t.Cleanup(func() { dropTable(t, endpoint, name) })
}

func dropTable(t testing.TB, endpoint, name string) {
	t.Helper()
	db := client(t, endpoint)
	if _, err := db.DeleteTable(context.Background(), &dynamodb.DeleteTableInput{TableName: aws.String(name)}); err != nil {
		t.Errorf("DeleteTable: %v", err)
	}
}

// openStore opens a store that is closed with the test.
func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	return openAt(t, o, time.Now)
}

func openAt(t testing.TB, o Options, now func() time.Time) *Store {
	t.Helper()
	s, err := open(t.Context(), o, now)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// fresh opens a store on a table of its own, with a client for what other tools
// do.
func fresh(t testing.TB, o Options) (*Store, *foreign) {
	t.Helper()
	o.Table = table(t, local(t))
	return openStore(t, o), &foreign{TB: t, db: client(t, local(t)), table: o.Table}
}

// foreign is another tool on the same table.
type foreign struct {
	testing.TB
	db    *dynamodb.Client
	table string
}

type item = map[string]types.AttributeValue

func (f *foreign) put(i item) {
	f.Helper()
	if _, err := f.db.PutItem(f.Context(), &dynamodb.PutItemInput{TableName: aws.String(f.table), Item: i}); err != nil {
		f.Fatalf("PutItem: %v", err)
	}
}

func (f *foreign) get(pk, sk string) item {
	f.Helper()
	out, err := f.db.GetItem(f.Context(), &dynamodb.GetItemInput{
		TableName: aws.String(f.table), Key: itemKey{pk, sk}.attributes(), ConsistentRead: aws.Bool(true),
	})
	if err != nil {
		f.Fatalf("GetItem: %v", err)
	}
	return out.Item
}

// set changes attributes of an item, as an UpdateItem of another tool does.
func (f *foreign) set(pk, sk string, attributes item) {
	f.Helper()
	x := newExpression()
	var set []string
	for name, a := range attributes {
		set = append(set, x.path(name)+" = "+x.value(name, a))
	}
	_, err := f.db.UpdateItem(f.Context(), &dynamodb.UpdateItemInput{
		TableName: aws.String(f.table), Key: itemKey{pk, sk}.attributes(), UpdateExpression: aws.String("SET " + strings.Join(set, ", ")),
		ExpressionAttributeNames: x.names, ExpressionAttributeValues: x.values,
	})
	if err != nil {
		f.Fatalf("UpdateItem: %v", err)
	}
}

func (f *foreign) remove(pk, sk string) {
	f.Helper()
	_, err := f.db.DeleteItem(f.Context(), &dynamodb.DeleteItemInput{TableName: aws.String(f.table), Key: itemKey{pk, sk}.attributes()})
	if err != nil {
		f.Fatalf("DeleteItem: %v", err)
	}
}

// sortKeys lists what lies in a partition below a prefix.
func (f *foreign) sortKeys(pk, prefix string) []string {
	f.Helper()
	out, err := f.db.Query(f.Context(), &dynamodb.QueryInput{
		TableName: aws.String(f.table), ConsistentRead: aws.Bool(true),
		KeyConditionExpression:    aws.String("pk = :pk AND begins_with(sk, :sk)"),
		ExpressionAttributeValues: item{":pk": str(pk), ":sk": str(prefix)},
	})
	if err != nil {
		f.Fatalf("Query: %v", err)
	}
	var keys []string
	for _, i := range out.Items {
		keys = append(keys, keyOf(i).sk)
	}
	return keys
}

// The ID that most tests use, and where it lies.
const (
	acmePK   = "TENANT#acme-corp"
	limitsSK = "CONFIG#limits"
)

func id(t testing.TB, owner, service, key string) config.ID {
	t.Helper()
	tenant, err := config.ParseOwner(owner)
	if err != nil {
		t.Fatal(err)
	}
	s, err := config.ParseService(service)
	if err != nil {
		t.Fatal(err)
	}
	k, err := config.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return config.ID{Tenant: tenant, Service: s, Key: k}
}

func limits(t testing.TB) config.ID {
	t.Helper()
	return id(t, "acme-corp", "", "limits")
}

func put(t testing.TB, s driver.Backend, id config.ID, value string) config.Entry {
	t.Helper()
	e, err := s.Put(t.Context(), driver.PutRequest{ID: id, Value: []byte(value)})
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	return e
}

func remove(t testing.TB, s driver.Backend, id config.ID) config.Entry {
	t.Helper()
	e, err := s.Delete(t.Context(), driver.DeleteRequest{ID: id})
	if err != nil {
		t.Fatalf("delete: %v", err)
	}
	return e
}

func get(t testing.TB, s driver.Backend, id config.ID) config.Entry {
	t.Helper()
	e, err := s.Get(t.Context(), id, 0)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	return e
}

func history(t testing.TB, s *Store, id config.ID) []config.Entry {
	t.Helper()
	page, err := s.History(t.Context(), driver.HistoryRequest{ID: id, PageSize: driver.MaxPageSize})
	if err != nil {
		t.Fatalf("history: %v", err)
	}
	return page.Entries
}

func wantValue(t testing.TB, e config.Entry, version uint64, value string) {
	t.Helper()
	if e.Version != version || string(e.Value) != value {
		t.Errorf("version %d with %q, want %d with %q", e.Version, e.Value, version, value)
	}
}

func wantCode(t testing.TB, err error, want config.Code) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", want)
	}
	if got := config.CodeOf(err); got != want {
		t.Fatalf("got %s (%v), want %s", got, err, want)
	}
}
