package dynamostore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/order/internal/orders"
)

var _ orders.Store = (*Store)(nil)

// resolveTimeout is how long Create looks for what became of a write whose
// answer was lost. The caller may be gone by then.
const resolveTimeout = time.Second

// isNew is the condition that nothing has an item's key.
var isNew = aws.String("attribute_not_exists(" + partitionKey + ")")

// Store is an orders.Store in a DynamoDB table.
type Store struct {
	conn  *conn
	table string

	// Calls at work hold it for reading.
	mu     sync.RWMutex
	closed bool
}

// Close ends the store after the calls at work, each of which has a deadline.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.conn.close()
	return nil
}

// enter begins a call, or says why there can be none. The caller calls done
// once it has returned nil.
func (s *Store) enter(ctx context.Context, op string) (done func(), err error) {
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return nil, &config.Error{Op: op, Code: config.FailedPrecondition, Message: "the store is closed"}
	}
	if err := ctx.Err(); err != nil {
		s.mu.RUnlock()
		return nil, config.AsError(err, op, config.Key{})
	}
	return s.mu.RUnlock, nil
}

// Create is orders.Store's. An order that would not fit into an item is
// InvalidArgument; none that orders.NewDraft lets pass is.
//
// A write whose answer was lost is sent again, and then looked for: only where
// it is not to be seen either, and might still arrive, is the code
// OutcomeUnknown.
func (s *Store) Create(ctx context.Context, o orders.Order, once orders.Once) (stored orders.Order, replayed bool, err error) {
	const op = "dynamostore.Create"
	done, err := s.enter(ctx, op)
	if err != nil {
		return orders.Order{}, false, err
	}
	defer done()
	c := creation{Store: s, order: o, once: once}
	_, _ = rand.Read(c.write[:]) // never fails: crypto/rand's documentation
	if stored, replayed, err = c.run(ctx); err != nil {
		return orders.Order{}, false, classify(ctx, op, err)
	}
	return stored, replayed, nil
}

// creation is one call of Create.
type creation struct {
	*Store
	order orders.Order
	once  orders.Once
	write write
}

func (c *creation) run(ctx context.Context) (stored orders.Order, replayed bool, err error) {
	record := encodeOrder(c.order, c.write)
	if sizeOf(record) > maxItemSize {
		return stored, false, config.Errorf(config.InvalidArgument, "the order is larger than the %d KiB that are kept of one", maxItemSize>>10)
	}
	watched, requests := watchAttempts(ctx)
	orderFound, onceFound, err := c.put(watched, record)
	switch {
	case err == nil:
		return c.order, false, nil
	case cancellation(err) == canceledByCondition:
		if orderFound != nil || onceFound != nil {
			return c.judge(ctx, orderFound, onceFound)
		}
		// The answer did not say what stands in the way.
		return c.resolve(ctx, config.Errorf(config.Internal, "the table refuses a new order and has none in its place"))
	case requests.arrived.Load():
		lost := &config.Error{Code: config.OutcomeUnknown, Message: "the order may or may not have been stored", Err: err}
		return c.resolve(ctx, lost)
	default:
		return stored, false, err
	}
}

// put writes the order and the record of its key, or nothing. With an error of
// a condition it returns the items that stand in the way.
func (c *creation) put(ctx context.Context, record item) (orderFound, onceFound item, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if c.once.Key == "" {
		_, err = c.conn.PutItem(ctx, &dynamodb.PutItemInput{
			TableName: &c.table, Item: record, ConditionExpression: isNew,
			ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
		})
		if taken := (*types.ConditionalCheckFailedException)(nil); errors.As(err, &taken) {
			orderFound = taken.Item
		}
		return orderFound, nil, err
	}
	put := func(it item) types.TransactWriteItem {
		return types.TransactWriteItem{Put: &types.Put{
			TableName: &c.table, Item: it, ConditionExpression: isNew,
			ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
		}}
	}
	_, err = c.conn.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{
		TransactItems:      []types.TransactWriteItem{put(record), put(encodeMark(c.order, c.once, c.write))},
		ClientRequestToken: aws.String(hex.EncodeToString(c.write[:])),
	})
	if broken := (*types.TransactionCanceledException)(nil); errors.As(err, &broken) && len(broken.CancellationReasons) == 2 {
		orderFound, onceFound = broken.CancellationReasons[0].Item, broken.CancellationReasons[1].Item
	}
	return orderFound, onceFound, err
}

// judge says what it means that one of these items was there.
func (c *creation) judge(ctx context.Context, orderFound, onceFound item) (stored orders.Order, replayed bool, err error) {
	switch {
	case writeOf(onceFound) == c.write || writeOf(orderFound) == c.write:
		return c.order, false, nil // an earlier request of this very call
	case onceFound != nil:
		stored, err = c.replay(ctx, c.order.Tenant, c.once, onceFound)
		return stored, err == nil, err
	default:
		return stored, false, config.Errorf(config.Internal, "the id of a new order is taken")
	}
}

// resolve looks for what became of the write, which made both items or none,
// and returns otherwise if there is nothing to be seen.
func (c *creation) resolve(ctx context.Context, otherwise *config.Error) (stored orders.Order, replayed bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTimeout)
	defer cancel()
	var orderFound, onceFound item
	if c.once.Key != "" {
		onceFound, err = c.read(ctx, c.order.Tenant, onceSort(c.once.Key))
	}
	if err == nil && onceFound == nil {
		orderFound, err = c.read(ctx, c.order.Tenant, orderSort(c.order.ID.String()))
	}
	if err != nil || orderFound == nil && onceFound == nil {
		return stored, false, otherwise
	}
	return c.judge(ctx, orderFound, onceFound)
}

// Find is orders.Store's.
func (s *Store) Find(ctx context.Context, tenant config.Tenant, once orders.Once) (orders.Order, error) {
	const op = "dynamostore.Find"
	done, err := s.enter(ctx, op)
	if err != nil {
		return orders.Order{}, err
	}
	defer done()
	found, err := s.read(ctx, tenant, onceSort(once.Key))
	if err != nil {
		return orders.Order{}, classify(ctx, op, err)
	}
	if found == nil {
		return orders.Order{}, &config.Error{Op: op, Code: config.NotFound, Message: "no order was made with this key"}
	}
	o, err := s.replay(ctx, tenant, once, found)
	if err != nil {
		return orders.Order{}, classify(ctx, op, err)
	}
	return o, nil
}

// replay returns the order that the record of a key names.
func (s *Store) replay(ctx context.Context, tenant config.Tenant, once orders.Once, found item) (orders.Order, error) {
	m, err := decodeMark(found, tenant)
	if err != nil {
		return orders.Order{}, err
	}
	if m.fingerprint != once.Fingerprint {
		return orders.Order{}, config.Errorf(config.AlreadyExists, "the key was used before for another order").
			WithHint("use a new key for a new order")
	}
	o, err := s.get(ctx, tenant, m.order)
	if errors.Is(err, config.NotFound) {
		return orders.Order{}, damaged()
	}
	return o, err
}

// Get is orders.Store's.
func (s *Store) Get(ctx context.Context, tenant config.Tenant, id orders.ID) (orders.Order, error) {
	const op = "dynamostore.Get"
	done, err := s.enter(ctx, op)
	if err != nil {
		return orders.Order{}, err
	}
	defer done()
	o, err := s.get(ctx, tenant, id)
	if err != nil {
		return orders.Order{}, classify(ctx, op, err)
	}
	return o, nil
}

func (s *Store) get(ctx context.Context, tenant config.Tenant, id orders.ID) (orders.Order, error) {
	found, err := s.read(ctx, tenant, orderSort(id.String()))
	if err != nil {
		return orders.Order{}, err
	}
	if found == nil {
		return orders.Order{}, absent()
	}
	return decodeOrder(found, tenant)
}

// read returns one item as the last write has left it, nil if there is none.
func (s *Store) read(ctx context.Context, tenant config.Tenant, sort string) (item, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := s.conn.GetItem(ctx, &dynamodb.GetItemInput{
		TableName: &s.table, Key: keyOf(tenant, sort), ConsistentRead: aws.Bool(true),
	})
	if err != nil {
		return nil, err
	}
	return answer.Item, nil
}

// List is orders.Store's. A damaged order is DataLoss for the pages that it
// belongs to, so that nobody takes the rest for all; every other order and page
// is as it was.
func (s *Store) List(ctx context.Context, tenant config.Tenant, before orders.ID, limit int) ([]orders.Order, error) {
	const op = "dynamostore.List"
	done, err := s.enter(ctx, op)
	if err != nil {
		return nil, err
	}
	defer done()
	bound := newestBound
	if !before.IsZero() {
		bound = boundBelow(before)
	}
	query := &dynamodb.QueryInput{
		TableName: &s.table, ConsistentRead: aws.Bool(true), ScanIndexForward: aws.Bool(false),
		KeyConditionExpression: aws.String(partitionKey + " = :tenant AND " + sortKey + " BETWEEN :oldest AND :bound"),
		ExpressionAttributeValues: item{
			":tenant": text(tenantPrefix + tenant.String()), ":oldest": text(orderPrefix), ":bound": text(bound),
		},
	}
	var page []orders.Order
	for len(page) < limit {
		query.Limit = aws.Int32(int32(min(limit-len(page), maxQuery)))
		answer, err := s.query(ctx, query)
		if err != nil {
			return nil, classify(ctx, op, err)
		}
		for _, it := range answer.Items {
			o, err := decodeOrder(it, tenant)
			if err != nil {
				return nil, classify(ctx, op, err)
			}
			page = append(page, o)
		}
		// An answer of 1 MB ends early, even with nothing in it.
		if len(answer.LastEvaluatedKey) == 0 {
			break
		}
		query.ExclusiveStartKey = answer.LastEvaluatedKey
	}
	return page, nil
}

// maxQuery is how many orders one API call is asked for.
const maxQuery = 1000

func (s *Store) query(ctx context.Context, query *dynamodb.QueryInput) (*dynamodb.QueryOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.conn.Query(ctx, query)
}
