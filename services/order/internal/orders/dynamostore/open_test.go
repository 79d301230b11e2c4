package dynamostore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/services/order/internal/orders/dynamostore"
)

// Everything that keeps a store from opening is said at once, with its mend.
func TestOpenSaysWhatToMend(t *testing.T) {
	endpoint := emulators.DynamoDBLocal(t)
	use(t, endpoint)
	wrong := tableOf(t.TempDir())
	if _, err := raw(t).CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: &wrong, BillingMode: types.BillingModePayPerRequest,
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String("pk"), KeyType: types.KeyTypeHash}, {AttributeName: aws.String("other"), KeyType: types.KeyTypeRange},
		},
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String("pk"), AttributeType: types.ScalarAttributeTypeN},
			{AttributeName: aws.String("other"), AttributeType: types.ScalarAttributeTypeS},
		},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := raw(t).DeleteTable(t.Context(), &dynamodb.DeleteTableInput{TableName: &wrong}); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	absent := tableOf(t.TempDir() + "absent")
	none := []string{
		"AWS_REGION=", "AWS_DEFAULT_REGION=", "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_PROFILE=",
		"AWS_CONFIG_FILE=/nonexistent", "AWS_SHARED_CREDENTIALS_FILE=/nonexistent", "AWS_EC2_METADATA_DISABLED=true",
	}
	for name, tc := range map[string]struct {
		table   string
		create  bool
		environ []string
		want    []string
	}{
		"nothing at all": {"x", false, none, []string{
			"dynamostore.Open: no AWS region is set (set AWS_REGION)", "\ndynamostore.Open: there are no AWS credentials (", "\ndynamostore.Open: the table's name is not valid (",
		}},
		"no such table":    {absent, false, nil, []string{"dynamostore.Open: the table does not exist (create it"}},
		"another's table":  {wrong, true, nil, []string{`the table's partition key is not "pk" of type string`, "\n" + `dynamostore.Open: the table's sort key is not "sk" of type string (`}},
		"no name":          {"", true, nil, []string{"the table's name is not valid"}},
		"an ARN":           {"arn:aws:dynamodb:us-east-1:123456789012:table/orders", true, nil, []string{"the table's name is not valid"}},
		"nobody there":     {absent, true, []string{"AWS_ENDPOINT_URL=http://127.0.0.1:1"}, []string{"the table can not be reached"}},
		"no configuration": {absent, true, []string{"AWS_PROFILE=none", "AWS_CONFIG_FILE=/nonexistent"}, []string{"the AWS configuration can not be read (check AWS_PROFILE"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, set := range tc.environ {
				variable, value, _ := strings.Cut(set, "=")
				t.Setenv(variable, value)
			}
			began := time.Now()
			s, err := dynamostore.Open(t.Context(), dynamostore.Options{Table: tc.table, CreateTable: tc.create})
			if err == nil {
				_ = s.Close()
				t.Fatal("Open returned nil")
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("Open took %v", took)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Open returned:\n%v\nwant %q in it", err, want)
				}
			}
			discreet(t, err)
		})
	}
}

func TestOpenOfATableThatIsNotReady(t *testing.T) {
	p := newProxy(t, emulators.DynamoDBLocal(t))
	use(t, p.server.URL)
	describe := func(status string) fault {
		return refused("DescribeTable", 200, "x", `,"Table":{"TableStatus":"`+status+`","KeySchema":[{"AttributeName":"pk","KeyType":"HASH"},{"AttributeName":"sk","KeyType":"RANGE"}],`+
			`"AttributeDefinitions":[{"AttributeName":"pk","AttributeType":"S"},{"AttributeName":"sk","AttributeType":"S"}]}`)
	}
	for status, want := range map[string]string{
		"CREATING": "is still being created", "DELETING": "is being deleted", "ARCHIVED": "is being deleted or archived",
		"INACCESSIBLE_ENCRYPTION_CREDENTIALS": "the table's encryption key can not be used",
	} {
		p.next(describe(status))
		_, err := dynamostore.Open(t.Context(), dynamostore.Options{Table: "orders"})
		if !errors.Is(err, config.FailedPrecondition) || !strings.Contains(err.Error(), want) {
			t.Errorf("Open of a table that is %s returned %v", status, err)
		}
	}
	p.next(refused("DescribeTable", 400, "AccessDeniedException", ""))
	_, err := dynamostore.Open(t.Context(), dynamostore.Options{Table: "orders"})
	if !errors.Is(err, config.FailedPrecondition) || !strings.Contains(err.Error(), "do not allow") {
		t.Errorf("Open without access returned %v", err)
	}
	discreet(t, err)
	// UPDATING is a table at work; one that is being created is waited for by
	// who may create it.
	p.next(describe("UPDATING"), describe("CREATING"), refused("CreateTable", 400, "ResourceInUseException", ""), describe("CREATING"), describe("ACTIVE"))
	for _, create := range []bool{false, true} {
		s, err := dynamostore.Open(t.Context(), dynamostore.Options{Table: "orders", CreateTable: create})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
