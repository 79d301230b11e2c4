package dynamodbbackend

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

const someRole = "arn:aws:iam::123456789012:role/tenant"

func wantTexts(t testing.TB, err error, want ...string) {
	t.Helper()
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q is not in: %v", text, err)
		}
	}
}

// Everything that is wrong is told at once.
func TestOpenReportsAllProblems(t *testing.T) {
	at(t, local(t))
	bad := Options{
		Table: "x", KeyPrefix: "a b", HistoryLimit: -1, HistoryTTL: "soon", TTLAttribute: "config", MaxValue: 1 << 30, IdempotencyWindow: "-1s",
		DAXEndpoint: "http://x", ConsistentReads: aws.Bool(true), Options: awsconn.Options{TenantRole: someRole, Timeout: "never", MaxAttempts: 99},
	}
	_, err := Open(t.Context(), bad)
	wantCode(t, err, config.InvalidArgument)
	wantTexts(t, err, "table is no table's name", "key_prefix", "history_limit", "history_ttl", "ttl_attribute", "max_value", "idempotency_window",
		"dax_endpoint is not", "dax_endpoint and tenant_role", "dax_endpoint and consistent_reads", "timeout", "max_attempts")
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	_, err = Open(t.Context(), Options{HistoryLimit: -1})
	wantCode(t, err, config.InvalidArgument)
	wantTexts(t, err, "table is missing", "history_limit", "region", "credentials")
	_, err = Open(t.Context(), Options{Table: "some-table"})
	wantCode(t, err, config.FailedPrecondition)
	wantTexts(t, err, "region", "credentials", "AWS_REGION")
}

func TestDAXAndTenantRoleExcludeOneAnother(t *testing.T) {
	_, wrong := Options{Table: "some-table", DAXEndpoint: "dax://x:8111", Options: awsconn.Options{TenantRole: someRole}}.parse()
	wantCode(t, wrong, config.InvalidArgument)
	wantTexts(t, wrong, "DAX reads the table with its own role")
	for _, good := range []string{"dax://x:8111", "daxs://my.cluster", "dax://127.0.0.1:8111/"} {
		if _, wrong := (Options{Table: "some-table", DAXEndpoint: good}).parse(); wrong != nil {
			t.Errorf("%s: %v", good, wrong)
		}
	}
	for _, bad := range []string{"x:8111", "dax://", "dax://user@x", "dax://x/path", "dax://x?y", "://"} {
		_, wrong := Options{Table: "some-table", DAXEndpoint: bad}.parse()
		wantCode(t, wrong, config.InvalidArgument)
		wantTexts(t, wrong, "dax_endpoint is not")
	}
}

func TestOpenChecksTheTable(t *testing.T) {
	endpoint := local(t)
	at(t, endpoint)
	missing := emulators.Name(t, "ddb")
	_, err := Open(t.Context(), Options{Table: missing})
	wantCode(t, err, config.FailedPrecondition)
	wantTexts(t, err, missing, "create_table")

	for _, c := range []struct {
		pk, sk string
		kind   types.ScalarAttributeType
	}{{"id", "sk", "S"}, {"pk", "range", "S"}, {"pk", "sk", "N"}, {"sk", "pk", "S"}} {
		name := emulators.Name(t, "ddb")
		makeTable(t, endpoint, name, c.pk, c.sk, c.kind)
		_, err := Open(t.Context(), Options{Table: name})
		wantCode(t, err, config.FailedPrecondition)
		wantTexts(t, err, name, c.pk+" (HASH", c.sk+" (RANGE, "+string(c.kind)+")", "pk (HASH, S) and sk (RANGE, S)")
	}
	hashOnly := emulators.Name(t, "ddb")
	db := client(t, endpoint)
	_, err = db.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: aws.String(hashOnly), BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("pk"), AttributeType: "S"}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("pk"), KeyType: types.KeyTypeHash}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dropTable(t, endpoint, hashOnly) })
	_, err = Open(t.Context(), Options{Table: hashOnly})
	wantCode(t, err, config.FailedPrecondition)

	p := emulators.NewProxy(t, endpoint)
	at(t, p.URL)
	for name, c := range map[string]struct {
		fault emulators.Fault
		want  config.Code
		text  string
	}{
		"denied":    {refusal("AccessDeniedException", "arn:aws:x"), config.PermissionDenied, "dynamodb:DescribeTable"},
		"deleting":  {reply(200, map[string]any{"Table": map[string]any{"TableStatus": "DELETING"}}), config.FailedPrecondition, "DELETING"},
		"throttled": {refusal("ThrottlingException", "Rate exceeded"), config.ResourceExhausted, ""},
		"token":     {refusal("ExpiredTokenException", "expired"), config.Unauthenticated, ""},
	} {
		p.Clear()
		p.Inject(on("DescribeTable", c.fault, 0))
		_, err := Open(t.Context(), Options{Table: missing})
		if config.CodeOf(err) != c.want || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "arn:") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Two processes make the table at the same time, and both get it.
func TestCreateTable(t *testing.T) {
	for name, endpoint := range map[string]string{"DynamoDB Local": emulators.DynamoDBLocal(t), "moto": emulators.Moto(t)} {
		t.Run(name, func(t *testing.T) {
			at(t, endpoint)
			o := Options{Table: emulators.Name(t, "ddb"), CreateTable: true}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					b, err := Open(t.Context(), o)
					if err != nil {
						t.Errorf("open: %v", err)
						return
					}
					defer b.Close()
					put(t, b, limits(t), `1`)
				})
			}
			wg.Wait()
			t.Cleanup(func() { dropTable(t, endpoint, o.Table) })
			put(t, openStore(t, o), limits(t), `1`) // it is there: nothing to make
			db := client(t, endpoint)
			out, err := db.DescribeTimeToLive(context.Background(), &dynamodb.DescribeTimeToLiveInput{TableName: aws.String(o.Table)})
			if err != nil || aws.ToString(out.TimeToLiveDescription.AttributeName) != defaults.TTLAttribute {
				t.Errorf("time to live: %+v, %v", out, err)
			}
		})
	}
}

// A page token is good in every process on the same store, and in no other.
func TestTokensBetweenProcesses(t *testing.T) {
	s, _ := fresh(t, Options{})
	for _, k := range []string{"a", "b", "c"} {
		put(t, s, id(t, "acme-corp", "", k), `1`)
	}
	r := driver.ListRequest{Tenant: limits(t).Tenant, PageSize: 1}
	page, err := s.List(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	r.PageToken = page.NextPageToken
	again := openStore(t, Options{Table: s.table})
	if page, err = again.List(t.Context(), r); err != nil || len(page.Entries) != 1 || page.Entries[0].ID.Key.String() != "b" {
		t.Errorf("%+v, %v", page, err)
	}
	elsewhere, _ := fresh(t, Options{})
	_, err = elsewhere.List(t.Context(), r)
	wantCode(t, err, config.InvalidArgument)
}
