package dynamostore

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
)

// createTimeout is how long Open waits for a new table to be ready.
const createTimeout = time.Minute

// tableName is what DynamoDB takes. A table's ARN would do as well, but is left
// out: it would name an account.
var tableName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{3,255}$`)

// Options say which table a Store is in. Region, credentials and endpoint are
// found where the AWS SDK looks for them.
type Options struct {
	Table string
	// CreateTable makes a table that does not exist, with on-demand capacity
	// and nothing else that a table for real orders should have, such as
	// backups and protection against deletion.
	CreateTable bool
}

// Open returns the store in a table that must exist and have the key of this
// package. It reports all that is missing, a *config.Error for each, joined: so
// much as can be known without calling AWS, or what is wrong with the table.
func Open(ctx context.Context, o Options) (*Store, error) {
	conn, problems := dial(ctx)
	if !tableName.MatchString(o.Table) {
		problems = append(problems, config.Errorf(config.InvalidArgument, "the table's name is not valid").
			WithHint("give 3 to 255 of a-z, A-Z, 0-9, '_', '-' and '.'"))
	}
	if len(problems) == 0 {
		problems = checkTable(ctx, conn, o)
	}
	if len(problems) > 0 {
		conn.close()
		joined := make([]error, len(problems))
		for i, p := range problems {
			joined[i] = config.AsError(p, "dynamostore.Open", config.Key{})
		}
		return nil, errors.Join(joined...)
	}
	return &Store{conn: conn, table: o.Table}, nil
}

func checkTable(ctx context.Context, conn *conn, o Options) []*config.Error {
	table, err := describe(ctx, conn, o.Table)
	missing := (*types.ResourceNotFoundException)(nil)
	if o.CreateTable && (errors.As(err, &missing) || err == nil && table.TableStatus == types.TableStatusCreating) {
		table, err = create(ctx, conn, o.Table)
	}
	if err != nil {
		return []*config.Error{classify(ctx, "", err)}
	}
	problems := checkKey(table)
	switch table.TableStatus {
	case types.TableStatusActive, types.TableStatusUpdating:
	case types.TableStatusCreating:
		problems = append(problems, config.Errorf(config.FailedPrecondition, "the table is still being created").WithHint("start again in a minute"))
	case types.TableStatusInaccessibleEncryptionCredentials:
		problems = append(problems, config.Errorf(config.FailedPrecondition, "the table's encryption key can not be used").
			WithHint("enable the KMS key again, or restore its policy"))
	default:
		problems = append(problems, config.Errorf(config.FailedPrecondition, "the table is being deleted or archived").WithHint("name another table"))
	}
	return problems
}

// checkKey says what is wrong with the table's key, part by part.
func checkKey(table *types.TableDescription) []*config.Error {
	var problems []*config.Error
	for _, part := range []struct {
		kind       types.KeyType
		what, name string
	}{{types.KeyTypeHash, "partition", partitionKey}, {types.KeyTypeRange, "sort", sortKey}} {
		named := slices.ContainsFunc(table.KeySchema, func(e types.KeySchemaElement) bool {
			return e.KeyType == part.kind && e.AttributeName != nil && *e.AttributeName == part.name
		})
		typed := slices.ContainsFunc(table.AttributeDefinitions, func(d types.AttributeDefinition) bool {
			return d.AttributeName != nil && *d.AttributeName == part.name && d.AttributeType == types.ScalarAttributeTypeS
		})
		if !named || !typed {
			problems = append(problems, config.Errorf(config.FailedPrecondition, "the table's %s key is not %q of type string", part.what, part.name).
				WithHint("name a table that was made for orders"))
		}
	}
	return problems
}

func describe(ctx context.Context, conn *conn, name string) (*types.TableDescription, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := conn.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &name})
	if err != nil {
		return nil, err
	}
	return answer.Table, nil
}

// create makes the table, or waits for who else does.
func create(ctx context.Context, conn *conn, name string) (*types.TableDescription, error) {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	pk, sk := partitionKey, sortKey
	_, err := conn.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName: &name, BillingMode: types.BillingModePayPerRequest,
		KeySchema: []types.KeySchemaElement{
			{AttributeName: &pk, KeyType: types.KeyTypeHash}, {AttributeName: &sk, KeyType: types.KeyTypeRange},
		},
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: &pk, AttributeType: types.ScalarAttributeTypeS}, {AttributeName: &sk, AttributeType: types.ScalarAttributeTypeS},
		},
	})
	if exists := (*types.ResourceInUseException)(nil); err != nil && !errors.As(err, &exists) {
		return nil, err
	}
	waiter := dynamodb.NewTableExistsWaiter(conn, func(o *dynamodb.TableExistsWaiterOptions) {
		o.MinDelay, o.MaxDelay = 200*time.Millisecond, 2*time.Second
	})
	answer, err := waiter.WaitForOutput(ctx, &dynamodb.DescribeTableInput{TableName: &name}, createTimeout)
	if err != nil {
		return nil, err
	}
	return answer.Table, nil
}
