package pump_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/storemap"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/emulators/lambdaruntime"
	"github.com/tagstore/tagstore/emulators/pump"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// target keeps what it gets.
type target struct {
	mu      sync.Mutex
	events  []map[string]any
	records []lambdaruntime.Record
}

func (g *target) Send(payload []byte) error {
	var event map[string]any
	if err := json.Unmarshal(payload, &event); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, event)
	return nil
}

func (g *target) Deliver(_ context.Context, _ lambdaruntime.Mapping, records []lambdaruntime.Record) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.records = append(g.records, records...)
	return nil
}

// await returns the next event, which has to come within ten seconds.
func (g *target) await(t *testing.T) map[string]any {
	t.Helper()
	var event map[string]any
	poll(t, "an event", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.events) == 0 {
			return false
		}
		event, g.events = g.events[0], g.events[1:]
		return true
	})
	return event
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(limit) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// emulator returns what leads to the emulators.
func emulator(t *testing.T) aws.Config {
	t.Helper()
	table := emulators.DynamoDBLocal(t)
	for _, v := range append(emulators.Environ(emulators.Moto(t)), "AWS_ENDPOINT_URL_DYNAMODB="+table, "AWS_ENDPOINT_URL_DYNAMODB_STREAMS="+table) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
		if value == "" {
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	// moto keeps no connection, and the test leaves none behind.
	transport := &http.Transport{DisableKeepAlives: true}
	cfg, err := awsconfig.LoadDefaultConfig(t.Context(), awsconfig.WithHTTPClient(&http.Client{Transport: transport}))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// start starts a pump of one store.
func start(t *testing.T, cfg aws.Config, plugin, options string, drop func(string) bool) *target {
	t.Helper()
	m, err := manifest.Parse(fmt.Appendf(nil, "version: 1\nbackends:\n  b: { plugin: ./tagstore-plugin-%s, options: %s }\nroutes:\n  - { prefix: k_, backend: b }\n", plugin, options), "tagstore.yaml")
	if err != nil {
		t.Fatal(err)
	}
	names, err := storemap.New(m)
	if err != nil {
		t.Fatal(err)
	}
	g := &target{}
	o := pump.Options{AWS: cfg, Stores: names.Stores(), Target: g, Interval: 20 * time.Millisecond}
	if drop != nil {
		o.Drop = func(_ storemap.Kind, name string) bool { return drop(name) }
	}
	p, err := pump.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return g
}

// shape returns the paths of all fields, for a comparison with AWS's own events.
func shape(prefix string, value any, into map[string]bool) map[string]bool {
	object, ok := value.(map[string]any)
	if !ok {
		into[prefix] = true
		return into
	}
	for name, v := range object {
		shape(path.Join(prefix, name), v, into)
	}
	return into
}

// check compares an event's fields with those of a sample of AWS's shape.
func check(t *testing.T, event map[string]any, sample string, more ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../refresh-lambda/testdata/events", sample+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	optional := map[string]bool{}
	for _, field := range more {
		optional[field] = true
	}
	documented := shape("", want, map[string]bool{})
	for field := range shape("", event, map[string]bool{}) {
		if !documented[field] && !optional[field] {
			t.Errorf("%s: the field %s is not AWS's", sample, field)
		}
	}
	for _, field := range []string{"source", "detail-type", "account"} {
		if event[field] != want[field] {
			t.Errorf("%s: %s is %v, want %v", sample, field, event[field], want[field])
		}
	}
}

func TestParameters(t *testing.T) {
	cfg := emulator(t)
	root := "/" + emulators.Name(t, "pump")
	client := ssm.NewFromConfig(cfg)
	name := root + "/acme/api/endpoint"
	put := func(value string) {
		t.Helper()
		if _, err := client.PutParameter(t.Context(), &ssm.PutParameterInput{
			Name: &name, Value: &value, Type: ssmtypes.ParameterTypeString, Overwrite: aws.Bool(true),
		}); err != nil {
			t.Fatal(err)
		}
	}
	lose := false
	g := start(t, cfg, "ssm", `{ path: "`+root+`/{tenant}/{service}/{name}" }`, func(string) bool { return lose })
	for _, c := range []struct {
		do              func()
		operation, like string
	}{
		{func() { put("1") }, "Create", "ssm-create"},
		{func() { put("2") }, "Update", "ssm-update"},
		{func() {
			if _, err := client.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: &name}); err != nil {
				t.Fatal(err)
			}
		}, "Delete", "ssm-delete"},
	} {
		c.do()
		event := g.await(t)
		check(t, event, c.like)
		if d := event["detail"].(map[string]any); d["operation"] != c.operation || d["name"] != name {
			t.Errorf("%v, want %s", d, c.operation)
		}
	}
	if got := fmt.Sprint(g.events); strings.Contains(got, "canary") {
		t.Error("a value is in an event")
	}
}

// An event that is dropped on purpose is gone; the next one is not.
func TestDrop(t *testing.T) {
	cfg := emulator(t)
	root := "/" + emulators.Name(t, "drop")
	client := ssm.NewFromConfig(cfg)
	g := start(t, cfg, "ssm", `{ path: "`+root+`/{tenant}/{service}/{name}" }`, func(name string) bool { return strings.HasSuffix(name, "lost") })
	for _, last := range []string{"lost", "kept"} {
		if _, err := client.PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String(root + "/acme/api/" + last), Value: aws.String("x"), Type: ssmtypes.ParameterTypeString}); err != nil {
			t.Fatal(err)
		}
	}
	if name := g.await(t)["detail"].(map[string]any)["name"]; name != root+"/acme/api/kept" {
		t.Errorf("an event of %v came", name)
	}
}

func TestSecrets(t *testing.T) {
	cfg := emulator(t)
	root := emulators.Name(t, "pump")
	client := secretsmanager.NewFromConfig(cfg)
	name := root + "/acme/key"
	g := start(t, cfg, "secretsmanager", `{ path: "`+root+`/{tenant}/{service}/{name}" }`, nil)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		do         func()
		like, call string
	}{
		{func() {
			must(client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: &name, SecretString: aws.String("1")}))
		}, "secret-label-current", ""},
		{func() {
			must(client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &name, SecretString: aws.String("2")}))
		}, "secret-label-current", ""},
		{func() { must(client.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &name})) }, "secret-delete", "DeleteSecret"},
		{func() { must(client.RestoreSecret(t.Context(), &secretsmanager.RestoreSecretInput{SecretId: &name})) }, "secret-restore", "RestoreSecret"},
		{func() {
			must(client.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &name, ForceDeleteWithoutRecovery: aws.Bool(true)}))
		}, "secret-delete", "DeleteSecret"},
	} {
		c.do()
		event := g.await(t)
		check(t, event, c.like, "detail/responseElements/arn", "detail/responseElements/name")
		d := event["detail"].(map[string]any)
		if c.call == "" && d["name"] != name || c.call != "" && (d["eventName"] != c.call || d["responseElements"].(map[string]any)["name"] != name) {
			t.Errorf("%v, want %s of %s", d, c.call, name)
		}
	}
}

func TestObjects(t *testing.T) {
	cfg := emulator(t)
	bucket := emulators.Name(t, "pump")
	client := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}))
	must(client.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket: &bucket, VersioningConfiguration: &s3types.VersioningConfiguration{Status: s3types.BucketVersioningStatusEnabled},
	}))
	g := start(t, cfg, "s3", `{ bucket: `+bucket+`, path: "config/{tenant}/{service}/{name}" }`, nil)
	key := "config/acme/_/a b.txt"
	put := func() {
		must(client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: bytes.NewReader([]byte("1"))}))
	}
	remove := func() { must(client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket, Key: &key})) }
	for _, c := range []struct {
		do   func()
		like string
	}{{put, "s3-created"}, {put, "s3-created"}, {remove, "s3-deleted"}, {put, "s3-created"}} {
		c.do()
		event := g.await(t)
		check(t, event, c.like)
		d := event["detail"].(map[string]any)
		if d["bucket"].(map[string]any)["name"] != bucket || d["object"].(map[string]any)["key"] != key {
			t.Errorf("%v", d)
		}
	}
}

func TestItems(t *testing.T) {
	cfg := emulator(t)
	table := emulators.Name(t, "pump")
	client := dynamodb.NewFromConfig(cfg)
	create := func(name string, stream *dbtypes.StreamSpecification) {
		t.Helper()
		if _, err := client.CreateTable(t.Context(), &dynamodb.CreateTableInput{
			TableName: &name, BillingMode: dbtypes.BillingModePayPerRequest, StreamSpecification: stream,
			AttributeDefinitions: []dbtypes.AttributeDefinition{
				{AttributeName: aws.String("pk"), AttributeType: dbtypes.ScalarAttributeTypeS},
				{AttributeName: aws.String("sk"), AttributeType: dbtypes.ScalarAttributeTypeS},
			},
			KeySchema: []dbtypes.KeySchemaElement{
				{AttributeName: aws.String("pk"), KeyType: dbtypes.KeyTypeHash},
				{AttributeName: aws.String("sk"), KeyType: dbtypes.KeyTypeRange},
			},
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_, _ = client.DeleteTable(context.Background(), &dynamodb.DeleteTableInput{TableName: &name})
		})
	}
	create(table, &dbtypes.StreamSpecification{StreamEnabled: aws.Bool(true), StreamViewType: dbtypes.StreamViewTypeNewImage})
	put := func(sk, version string) {
		t.Helper()
		if _, err := client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: map[string]dbtypes.AttributeValue{
			"pk": &dbtypes.AttributeValueMemberS{Value: "TENANT#acme"}, "sk": &dbtypes.AttributeValueMemberS{Value: sk},
			"version": &dbtypes.AttributeValueMemberN{Value: version},
			"config":  &dbtypes.AttributeValueMemberM{Value: map[string]dbtypes.AttributeValue{"a": &dbtypes.AttributeValueMemberL{Value: []dbtypes.AttributeValue{&dbtypes.AttributeValueMemberBOOL{Value: true}, &dbtypes.AttributeValueMemberB{Value: []byte{1}}}}}},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	put("CONFIG#before", "1")
	g := start(t, cfg, "dynamodb", `{ table: `+table+` }`, func(name string) bool { return strings.HasSuffix(name, "lost") })
	put("CONFIG#a", "1")
	put("CONFIG#lost", "1")
	put("CONFIG#a", "2")
	if _, err := client.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: &table, Key: map[string]dbtypes.AttributeValue{
		"pk": &dbtypes.AttributeValueMemberS{Value: "TENANT#acme"}, "sk": &dbtypes.AttributeValueMemberS{Value: "CONFIG#a"},
	}}); err != nil {
		t.Fatal(err)
	}
	poll(t, "three records", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.records) >= 3
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	var got []string
	for i, r := range g.records {
		if i > 0 && lambdaruntime.Compare(g.records[i-1].Sequence, r.Sequence) >= 0 {
			t.Error("the sequence numbers do not rise")
		}
		var record struct {
			EventName, EventSourceARN string
			DynamoDB                  struct {
				Keys     struct{ SK struct{ S string } }
				NewImage struct {
					Version struct{ N string }
					Config  json.RawMessage
				}
				ApproximateCreationDateTime float64
			}
		}
		if err := json.Unmarshal(r.Data, &record); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(record.EventSourceARN, ":table/"+table+"/stream/") || record.DynamoDB.ApproximateCreationDateTime < 1e9 {
			t.Errorf("the record is %s", r.Data)
		}
		if i == 0 && string(record.DynamoDB.NewImage.Config) != `{"M":{"a":{"L":[{"BOOL":true},{"B":"AQ=="}]}}}` {
			t.Errorf("the image has %s", record.DynamoDB.NewImage.Config)
		}
		got = append(got, record.EventName+" "+record.DynamoDB.Keys.SK.S+" "+record.DynamoDB.NewImage.Version.N)
	}
	if want := "INSERT CONFIG#a 1, MODIFY CONFIG#a 2, REMOVE CONFIG#a "; strings.Join(got, ", ") != want {
		t.Errorf("the stream has %s, want %s", strings.Join(got, ", "), want)
	}

	// A table without a stream is said so, not watched in silence.
	plain := emulators.Name(t, "plain")
	create(plain, nil)
	m, err := manifest.Parse([]byte("version: 1\nbackends:\n  b: { plugin: ./tagstore-plugin-dynamodb, options: { table: "+plain+" } }\nroutes:\n  - { prefix: k_, backend: b }\n"), "tagstore.yaml")
	if err != nil {
		t.Fatal(err)
	}
	names, err := storemap.New(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pump.Start(t.Context(), pump.Options{AWS: cfg, Stores: names.Stores(), Target: g}); err == nil || !strings.Contains(err.Error(), "has no stream") {
		t.Errorf("a table without a stream: %v", err)
	}
}
