package dynamodbbackend

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
)

// createTimeout bounds how long Open waits for a table that is being made.
const createTimeout = time.Minute

// pollTable is how often it looks, on average.
const pollTable = 500 * time.Millisecond

// checkTable reports everything that is wrong with the table.
func (s *Store) checkTable(ctx context.Context) error {
	table, err := s.describe(ctx)
	if s.createTable && (isMissing(err) || err == nil && table.TableStatus == types.TableStatusCreating) {
		if isMissing(err) {
			if err := s.create(ctx); err != nil {
				return err
			}
		}
		table, err = s.awaitTable(ctx)
	}
	switch {
	case isMissing(err):
		return config.Errorf(config.FailedPrecondition, "there is no table %q in this account and region", s.table).WithCause(err).
			WithHint("create it with the text keys pk (HASH) and sk (RANGE), correct the option table, or check AWS_REGION; in development, set create_table")
	case err != nil:
		e := config.AsError(readError(ctx, err), "", config.Key{})
		if e.Code == config.PermissionDenied {
			return e.WithHint("allow this plugin's role dynamodb:DescribeTable on the table, and what else the README's policy has")
		}
		return e
	}
	var wrong []string
	if problem := keySchema(table); problem != "" {
		wrong = append(wrong, problem)
	}
	switch table.TableStatus {
	case types.TableStatusActive, types.TableStatusUpdating:
	default:
		wrong = append(wrong, "it is not active: its status is "+string(table.TableStatus))
	}
	if len(wrong) > 0 {
		return config.Errorf(config.FailedPrecondition, "the table %q can not be used: %s", s.table, strings.Join(wrong, "; ")).
			WithHint("its keys must be pk (HASH) and sk (RANGE), both text (S); a table that is being made is active after some seconds")
	}
	s.checkExpiry(ctx)
	return nil
}

func keySchema(table *types.TableDescription) string {
	kinds := map[string]types.ScalarAttributeType{}
	for _, a := range table.AttributeDefinitions {
		kinds[aws.ToString(a.AttributeName)] = a.AttributeType
	}
	var have []string
	ok := len(table.KeySchema) == 2
	for i, k := range table.KeySchema {
		name := aws.ToString(k.AttributeName)
		have = append(have, name+" ("+string(k.KeyType)+", "+string(kinds[name])+")")
		want, kind := attrPK, types.KeyTypeHash
		if k.KeyType == types.KeyTypeRange {
			want, kind = attrSK, types.KeyTypeRange
		}
		ok = ok && i < 2 && name == want && k.KeyType == kind && kinds[name] == types.ScalarAttributeTypeS
	}
	if ok {
		return ""
	}
	return "its keys are " + strings.Join(have, " and ") + ", not pk (HASH, S) and sk (RANGE, S)"
}

// checkExpiry looks whether the table removes what is no longer needed. Nothing
// depends on it but the bill, so it only warns.
func (s *Store) checkExpiry(ctx context.Context) {
	out, err := call(ctx, s, config.Tenant{}, &dynamodb.DescribeTimeToLiveInput{TableName: s.tableRef()}, s.db.DescribeTimeToLive)
	switch {
	case err != nil:
		slog.Warn("cannot tell whether the table's time to live is on", "hint", "allow dynamodb:DescribeTimeToLive on the table")
	case out.TimeToLiveDescription == nil,
		out.TimeToLiveDescription.TimeToLiveStatus != types.TimeToLiveStatusEnabled && out.TimeToLiveDescription.TimeToLiveStatus != types.TimeToLiveStatusEnabling,
		aws.ToString(out.TimeToLiveDescription.AttributeName) != s.ttlAttribute:
		slog.Warn("the table's time to live is not on for the attribute of the option ttl_attribute: what has expired stays in the table",
			"ttl_attribute", s.ttlAttribute)
	}
}

func isMissing(err error) bool {
	var missing *types.ResourceNotFoundException
	return errors.As(err, &missing)
}

// describe may be made by any tenant's process: it is made with the plugin's own
// credentials.
func (s *Store) describe(ctx context.Context) (*types.TableDescription, error) {
	out, err := call(ctx, s, config.Tenant{}, &dynamodb.DescribeTableInput{TableName: s.tableRef()}, s.db.DescribeTable)
	if err != nil {
		return nil, err
	}
	if out.Table == nil {
		return &types.TableDescription{}, nil
	}
	return out.Table, nil
}

// create makes the table. Another process may do so at the same time.
func (s *Store) create(ctx context.Context) error {
	_, err := call(ctx, s, config.Tenant{}, &dynamodb.CreateTableInput{
		TableName:   s.tableRef(),
		BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String(attrPK), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String(attrSK), AttributeType: types.ScalarAttributeTypeS},
		},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String(attrPK), KeyType: types.KeyTypeHash},
			{AttributeName: aws.String(attrSK), KeyType: types.KeyTypeRange},
		},
	}, s.db.CreateTable)
	var inUse *types.ResourceInUseException
	if err != nil && !errors.As(err, &inUse) {
		return readError(ctx, err)
	}
	return nil
}

// awaitTable waits for a new table to become active, and turns its time to live
// on.
func (s *Store) awaitTable(ctx context.Context) (*types.TableDescription, error) {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	for {
		table, err := s.describe(ctx)
		if err != nil && !isMissing(err) { // a new table may not be seen at once
			return nil, err
		}
		if err == nil && table.TableStatus != types.TableStatusCreating {
			s.enableExpiry(ctx)
			return table, nil
		}
		if err := pause(ctx, pollTable/2+rand.N(pollTable)); err != nil { //nolint:gosec // jitter needs no secrecy
			return nil, config.Errorf(config.Unavailable, "the table %q was not active in time", s.table).WithHint("start again")
		}
	}
}

// enableExpiry does nothing where it is on already, as it is when two processes
// make the table.
func (s *Store) enableExpiry(ctx context.Context) {
	_, err := call(ctx, s, config.Tenant{}, &dynamodb.UpdateTimeToLiveInput{
		TableName:               s.tableRef(),
		TimeToLiveSpecification: &types.TimeToLiveSpecification{AttributeName: aws.String(s.ttlAttribute), Enabled: aws.Bool(true)},
	}, s.db.UpdateTimeToLive)
	if err != nil {
		slog.Info("the time to live of the new table was not turned on by this process", "error", config.CodeOf(readError(ctx, err)))
	}
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// Ping asks for the table's description.
func (s *Store) Ping(ctx context.Context) error {
	const op = "dynamodb.Ping"
	if err := s.begin(ctx, op, config.Key{}); err != nil {
		return err
	}
	table, err := s.describe(ctx)
	switch {
	case err != nil:
		e := config.AsError(s.fail(ctx, readError(ctx, err), op, config.Key{}), op, config.Key{})
		if ctx.Err() == nil && !s.closed.Load() {
			e.Code = config.Unavailable // whatever it is, nothing can be read or written now
		}
		return e
	case table.TableStatus != types.TableStatusActive && table.TableStatus != types.TableStatusUpdating:
		return &config.Error{Op: op, Code: config.Unavailable, Message: "the table is not active", Hint: "its status is " + string(table.TableStatus)}
	}
	return nil
}
