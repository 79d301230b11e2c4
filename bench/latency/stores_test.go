package latency

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dynamodbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/pluginhost"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/plugins/dynamodb/dynamodbbackend"
	"github.com/tagstore/tagstore/plugins/s3/s3backend"
	"github.com/tagstore/tagstore/plugins/secretsmanager/secretsbackend"
	"github.com/tagstore/tagstore/plugins/ssm/ssmbackend"
)

const (
	storeBatch = 100 // one BatchGetItem
	storeList  = 495 // parameters: the last page of ten is not full
	prefetch   = 500 // parameters: it is
)

// The stores suite: each AWS plugin's real program under the real host, beside
// the bare SDK call on the same emulator. "InProcess" is the same without host
// and process: what is left of the ratio there is the plugin's own.

// BenchmarkDynamoDB: the plugin on Amazon's DynamoDB Local, beside the bare SDK
// on the same table.
func BenchmarkDynamoDB(b *testing.B) {
	endpoint := emulator(b, emulators.DynamoDBLocalURL)
	db, table := dynamodb.New(dynamodb.Options{BaseEndpoint: &endpoint, Region: region, Credentials: nobody, HTTPClient: sdkClient}), newTable(b, endpoint)
	s := startStore(b, "dynamodb", dynamodbbackend.Open, endpoint, map[string]any{"table": table, "history_limit": 3})
	ids := s.seed(b, storeBatch)
	keys := make([]map[string]dynamodbtypes.AttributeValue, len(ids))
	for i, id := range ids {
		keys[i] = itemKey("CONFIG#" + id.Key.String())
	}
	s.compareGets(b, ids[0], func(ctx context.Context) error {
		out, err := db.GetItem(ctx, &dynamodb.GetItemInput{TableName: &table, Key: keys[0], ConsistentRead: aws.Bool(true)})
		return cmp.Or(err, is(out != nil && len(out.Item) > 0, "the item is not there"))
	})
	b.Run("BatchGet100", func(b *testing.B) {
		compare(b, 1, s.batchGet(ids), func(ctx context.Context) error {
			out, err := db.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{RequestItems: map[string]dynamodbtypes.KeysAndAttributes{
				table: {Keys: keys, ConsistentRead: aws.Bool(true)},
			}})
			return cmp.Or(err, is(out != nil && len(out.Responses[table]) == storeBatch, "items are missing"))
		})
		s.reportCalls(b, s.counted.batchGet(ids))
	})
	b.Run("Put", func(b *testing.B) {
		compare(b, 1, s.put(ids[1]), twoItems(db, table))
		s.reportCalls(b, s.counted.put(ids[2]))
	})
}

// emulator returns the URL of one that runs, and leaves the benchmark out where
// none does: `make bench` starts them.
func emulator(b *testing.B, running func(context.Context) (string, error)) string {
	b.Helper()
	endpoint, err := running(b.Context())
	if err != nil {
		leaveOut(b, err.Error())
	}
	return endpoint
}

// BenchmarkSSM: the plugin on moto, beside the bare SDK on the same parameters.
func BenchmarkSSM(b *testing.B) {
	endpoint := emulator(b, emulators.MotoURL)
	api := ssm.New(ssm.Options{BaseEndpoint: &endpoint, Region: region, Credentials: nobody, HTTPClient: sdkClient})
	root := "/" + emulators.Name(b, "bench")
	s := startStore(b, "ssm", ssmbackend.Open, endpoint, map[string]any{"path": root + "/{tenant}/{service}/{name}"})
	few, many := storeID(b, "few", ""), storeID(b, "many", "")
	parameters(b, api, root, few, storeList)
	parameters(b, api, root, many, prefetch)
	s.compareGets(b, storeID(b, "few", keyName(0)), func(ctx context.Context) error {
		_, err := api.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String(parameterName(root, few, 0)), WithDecryption: aws.Bool(true)})
		return err
	})
	for _, l := range []struct {
		name string
		of   config.ID
		n    int
	}{{"List495", few, storeList}, {"Prefetch500", many, prefetch}} {
		b.Run(l.name, func(b *testing.B) {
			compare(b, 1, s.list(l.of, l.n), func(ctx context.Context) error { return paginate(ctx, api, root, l.of, l.n) })
			s.reportCalls(b, s.counted.list(l.of, l.n))
		})
	}
}

// BenchmarkS3: the plugin on moto, beside the bare SDK on the same object.
func BenchmarkS3(b *testing.B) {
	endpoint := emulator(b, emulators.MotoURL)
	api := s3.New(s3.Options{BaseEndpoint: &endpoint, Region: region, Credentials: nobody, HTTPClient: sdkClient, UsePathStyle: true})
	bucket := newBucket(b, api)
	s := startStore(b, "s3", s3backend.Open, endpoint, map[string]any{"bucket": bucket})
	id := s.seed(b, 1)[0]
	path := strings.Join([]string{id.Tenant.String(), id.Service.String(), id.Key.String()}, "/")
	s.compareGets(b, id, func(ctx context.Context) error {
		out, err := api.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &path})
		if err != nil {
			return err
		}
		body, err := io.ReadAll(out.Body)
		return errors.Join(err, out.Body.Close(), is(len(body) == valueSize, "the object is another"))
	})
}

// BenchmarkSecretsManager: the plugin on moto, beside the bare SDK on the same
// secret.
func BenchmarkSecretsManager(b *testing.B) {
	endpoint := emulator(b, emulators.MotoURL)
	api := secretsmanager.New(secretsmanager.Options{BaseEndpoint: &endpoint, Region: region, Credentials: nobody, HTTPClient: sdkClient})
	root := emulators.Name(b, "bench")
	s := startStore(b, "secretsmanager", secretsbackend.Open, endpoint, map[string]any{"path": root + "/{tenant}/{service}/{name}"})
	id := s.seed(b, 1)[0]
	name := strings.Join([]string{root, id.Tenant.String(), id.Service.String(), id.Key.String()}, "/")
	b.Cleanup(func() {
		if _, err := api.DeleteSecret(context.Background(), &secretsmanager.DeleteSecretInput{SecretId: &name, ForceDeleteWithoutRecovery: aws.Bool(true)}); err != nil {
			b.Error(err)
		}
	})
	s.compareGets(b, id, func(ctx context.Context) error {
		_, err := api.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &name})
		return err
	})
}

const region = "us-east-1"

// sdkClient differs from the SDK's own in PlainBody alone, so that no call is
// made twice.
var sdkClient = &http.Client{Transport: emulators.PlainBody{RoundTripper: &http.Transport{}}}

var nobody = credentials.NewStaticCredentialsProvider("emulator", "emulator", "")

// store is an AWS plugin's real program under the real host.
type store struct {
	driver.Backend
	// counted is the same store by way of a proxy that counts API calls, so that
	// the one that is timed has nothing in its way.
	counted *store
	proxy   *emulators.Proxy
	// inProcess is the same store in this process.
	inProcess *store
}

// startStore starts the plugin of this name, whose package has this Open.
func startStore[Options any](
	b *testing.B, plugin string, open func(context.Context, Options) (driver.Backend, error), endpoint string, options map[string]any,
) *store {
	b.Helper()
	options["timeout"] = "30s" // the emulator may be busy with others
	text, err := json.Marshal(options)
	if err != nil {
		b.Fatal(err)
	}
	s := &store{proxy: emulators.NewProxy(b, endpoint)}
	s.counted = &store{Backend: startPlugin(b, plugin, s.proxy.URL, text)}
	s.Backend = startPlugin(b, plugin, endpoint, text)
	var parsed Options
	if err := json.Unmarshal(text, &parsed); err != nil {
		b.Fatal(err)
	}
	here, err := open(b.Context(), parsed)
	if err != nil {
		b.Fatal(err)
	}
	s.inProcess = &store{Backend: here}
	for _, backend := range []driver.Backend{s.counted, s, here} {
		b.Cleanup(func() {
			if err := backend.Close(); err != nil {
				b.Error(err)
			}
		})
	}
	return s
}

// startPlugin runs a plugin's binary with the environment that sends it, and
// this process, to an emulator.
func startPlugin(b *testing.B, plugin, endpoint string, options []byte) driver.Backend {
	b.Helper()
	for _, variable := range emulators.Environ(endpoint) {
		name, value, _ := strings.Cut(variable, "=")
		b.Setenv(name, value)
	}
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	process, err := pluginhost.Start(b.Context(), pluginhost.Plugin{
		Name: plugin, Path: filepath.Join(stack.Build(b), "plugins", "tagstore-plugin-"+plugin), Dir: dir, Options: options, AWS: true,
	}, pluginhost.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	return process
}

// compareGets measures a Get of one value beside the SDK's call for it.
func (s *store) compareGets(b *testing.B, id config.ID, sdk op) {
	warm(b, sdk, s.get(id), s.inProcess.get(id))
	b.Run("Get", func(b *testing.B) {
		compare(b, 1, s.get(id), sdk)
		s.reportCalls(b, s.counted.get(id))
	})
	b.Run("GetInProcess", func(b *testing.B) { compare(b, 1, s.inProcess.get(id), sdk) })
}

// warmth is for how long an emulator is asked before anything is measured: one
// that has just started answers several times slower than it does later on.
const warmth = time.Second

// warm has an emulator run what is measured for a while, each call in its turn.
func warm(b *testing.B, calls ...op) {
	b.Helper()
	for begun := time.Now(); time.Since(begun) < warmth; {
		for _, call := range calls {
			run(b, 1, 1, call, nil)
		}
	}
}

// reportCalls reports how many API calls one operation makes once the plugin has
// made its first.
func (s *store) reportCalls(b *testing.B, do op) {
	b.Helper()
	const n = 5
	run(b, 1, 1, do, nil)
	s.proxy.ResetCalls()
	run(b, 1, n, do, nil)
	calls := 0
	for _, count := range s.proxy.Operations() {
		calls += count
	}
	b.ReportMetric(float64(calls)/n, "calls/op")
}

// seed puts values of 1 KiB through the plugin.
func (s *store) seed(b *testing.B, n int) []config.ID {
	b.Helper()
	ids := make([]config.ID, n)
	for i := range ids {
		ids[i] = storeID(b, "service", keyName(i))
		if _, err := s.Put(b.Context(), driver.PutRequest{ID: ids[i], Value: value(i), UpdatedBy: "bench"}); err != nil {
			b.Fatal(err)
		}
	}
	return ids
}

func storeID(b *testing.B, service, key string) config.ID {
	b.Helper()
	in, err1 := config.ParseService(service)
	tenant, err2 := config.ParseTenant("bench")
	id := config.ID{Tenant: tenant, Service: in}
	var err3 error
	if key != "" {
		id.Key, err3 = config.ParseKey(key)
	}
	if err := errors.Join(err1, err2, err3); err != nil {
		b.Fatal(err)
	}
	return id
}

func (s *store) get(id config.ID) op {
	return func(ctx context.Context) error { _, err := s.Get(ctx, id, 0); return err }
}

func (s *store) put(id config.ID) op {
	return func(ctx context.Context) error {
		_, err := s.Put(ctx, driver.PutRequest{ID: id, Value: value(1), UpdatedBy: "bench"})
		return err
	}
}

func (s *store) batchGet(ids []config.ID) op {
	return func(ctx context.Context) error {
		batcher, ok := driver.AsBatcher(s.Backend)
		if !ok {
			return errors.New("the plugin does not batch")
		}
		results, err := batcher.BatchGet(ctx, ids)
		for _, r := range results {
			err = cmp.Or(err, r.Err)
		}
		return cmp.Or(err, is(len(results) == len(ids), "results are missing"))
	}
}

// list reads all n keys of a scope in one page, as a process that has nothing in
// its cache does.
func (s *store) list(in config.ID, n int) op {
	return func(ctx context.Context) error {
		page, err := s.List(ctx, driver.ListRequest{Tenant: in.Tenant, Service: in.Service, PageSize: driver.MaxPageSize})
		return cmp.Or(err, is(len(page.Entries) == n, "entries are missing"))
	}
}

func is(right bool, wrong string) error {
	if right {
		return nil
	}
	return errors.New(wrong)
}

func newTable(b *testing.B, endpoint string) string {
	b.Helper()
	name := emulators.Name(b, "bench")
	db := dynamodb.New(dynamodb.Options{BaseEndpoint: &endpoint, Region: region, Credentials: nobody, HTTPClient: sdkClient})
	_, err := db.CreateTable(b.Context(), &dynamodb.CreateTableInput{
		TableName: &name, BillingMode: dynamodbtypes.BillingModePayPerRequest,
		AttributeDefinitions: []dynamodbtypes.AttributeDefinition{
			{AttributeName: aws.String("pk"), AttributeType: dynamodbtypes.ScalarAttributeTypeS},
			{AttributeName: aws.String("sk"), AttributeType: dynamodbtypes.ScalarAttributeTypeS},
		},
		KeySchema: []dynamodbtypes.KeySchemaElement{
			{AttributeName: aws.String("pk"), KeyType: dynamodbtypes.KeyTypeHash},
			{AttributeName: aws.String("sk"), KeyType: dynamodbtypes.KeyTypeRange},
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if _, err := db.DeleteTable(context.Background(), &dynamodb.DeleteTableInput{TableName: &name}); err != nil {
			b.Error(err)
		}
	})
	return name
}

func itemKey(sk string) map[string]dynamodbtypes.AttributeValue {
	return map[string]dynamodbtypes.AttributeValue{
		"pk": &dynamodbtypes.AttributeValueMemberS{Value: "TENANT#bench|SERVICE#service"},
		"sk": &dynamodbtypes.AttributeValueMemberS{Value: sk},
	}
}

// twoItems writes a value and its copy in one transaction, as a store with
// history at least has to.
func twoItems(db *dynamodb.Client, table string) op {
	n := 0
	return func(ctx context.Context) error {
		n++
		var puts []dynamodbtypes.TransactWriteItem
		for _, sk := range []string{"BARE", fmt.Sprintf("BARE#%d", n)} {
			item := itemKey(sk)
			item["value"] = &dynamodbtypes.AttributeValueMemberB{Value: value(1)}
			puts = append(puts, dynamodbtypes.TransactWriteItem{Put: &dynamodbtypes.Put{TableName: &table, Item: item}})
		}
		_, err := db.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{TransactItems: puts})
		return err
	}
}

func parameterName(root string, in config.ID, i int) string {
	return strings.Join([]string{root, in.Tenant.String(), in.Service.String(), keyName(i)}, "/")
}

func parameters(b *testing.B, api *ssm.Client, root string, in config.ID, n int) {
	b.Helper()
	names := make([]string, n)
	for i := range names {
		names[i] = parameterName(root, in, i)
		_, err := api.PutParameter(b.Context(), &ssm.PutParameterInput{
			Name: &names[i], Value: aws.String(string(value(i))), Type: ssmtypes.ParameterTypeString, Overwrite: aws.Bool(true),
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() {
		for at := 0; at < n; at += 10 {
			if _, err := api.DeleteParameters(context.Background(), &ssm.DeleteParametersInput{Names: names[at:min(at+10, n)]}); err != nil {
				b.Error(err)
			}
		}
	})
}

// paginate reads all parameters of a scope as the SDK's own paginator does.
func paginate(ctx context.Context, api *ssm.Client, root string, in config.ID, n int) error {
	pages := ssm.NewGetParametersByPathPaginator(api, &ssm.GetParametersByPathInput{
		Path:      aws.String(strings.Join([]string{root, in.Tenant.String(), in.Service.String()}, "/")),
		Recursive: aws.Bool(true), WithDecryption: aws.Bool(true), MaxResults: aws.Int32(10),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		n -= len(page.Parameters)
	}
	return is(n == 0, "parameters are missing")
}

func newBucket(b *testing.B, api *s3.Client) string {
	b.Helper()
	name := emulators.Name(b, "bench")
	if _, err := api.CreateBucket(b.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		b.Fatal(err)
	}
	_, err := api.PutBucketVersioning(b.Context(), &s3.PutBucketVersioningInput{
		Bucket: &name, VersioningConfiguration: &s3types.VersioningConfiguration{Status: s3types.BucketVersioningStatusEnabled},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx := context.Background()
		out, err := api.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: &name})
		if err != nil {
			b.Error(err)
			return
		}
		for _, v := range out.Versions {
			if _, err := api.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &name, Key: v.Key, VersionId: v.VersionId}); err != nil {
				b.Error(err)
			}
		}
		if _, err := api.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &name}); err != nil {
			b.Error(err)
		}
	})
	return name
}
