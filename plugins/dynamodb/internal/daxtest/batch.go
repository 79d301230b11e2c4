package daxtest

import (
	"fmt"
	"maps"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// batchWriteItem writes through like putItem and deleteItem. What DynamoDB
// leaves unprocessed is answered so, and is not cached.
func (s *Server) batchWriteItem(args []any) ([]byte, error) {
	r := requestOf(args)
	tables, err := as[map[any]any](args[0], "the tables of a batch")
	if err != nil {
		return nil, err
	}
	in := &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{}}
	unprocessed := map[string][]any{} // pairs of key and attributes, as they came
	written := map[string]Item{}
	for v, request := range tables {
		table, err := as[string](v, "a table's name")
		if err != nil {
			return nil, err
		}
		pairs, err := as[[]any](request, "the writes of a batch")
		if err != nil {
			return nil, err
		}
		k, err := s.schema(r, table)
		if err != nil {
			return nil, err
		}
		left := 2 * min(r.Unprocessed, len(pairs)/2)
		if left > 0 {
			unprocessed[table] = pairs[len(pairs)-left:]
		}
		for i := 0; i+1 < len(pairs)-left; i += 2 {
			t, err := k.target(table, pairs[i])
			if err != nil {
				return nil, err
			}
			write, item, err := s.write(t, pairs[i+1])
			if err != nil {
				return nil, err
			}
			in.RequestItems[table] = append(in.RequestItems[table], write)
			written[t.cacheKey()] = item
		}
	}
	if len(in.RequestItems) > 0 {
		out, err := s.dynamodb.BatchWriteItem(r, in)
		if err != nil {
			return nil, err
		}
		if len(out.UnprocessedItems) > 0 {
			return nil, Fail("ProvisionedThroughputExceededException", "the table behind the node left writes unprocessed")
		}
	}
	for key, item := range written {
		s.items.put(key, item)
	}
	w := ok()
	w.mapping(len(unprocessed))
	for table, pairs := range unprocessed {
		w.text(table)
		w.array(len(pairs))
		for _, part := range pairs {
			if part == nil {
				w.null()
				continue
			}
			b, err := as[[]byte](part, "a write")
			if err != nil {
				return nil, err
			}
			w.bytes(b)
		}
	}
	w.array(0)   // consumed capacity
	w.mapping(0) // item collection metrics
	return w.b, nil
}

// write is one write of a batch, and the item that it leaves behind.
func (s *Server) write(t target, attributes any) (types.WriteRequest, Item, error) {
	if attributes == nil {
		return types.WriteRequest{DeleteRequest: &types.DeleteRequest{Key: t.key}}, nil, nil
	}
	item, err := s.attributesOf(attributes)
	if err != nil {
		return types.WriteRequest{}, nil, err
	}
	maps.Copy(item, t.key)
	return types.WriteRequest{PutRequest: &types.PutRequest{Item: item}}, item, nil
}

// transactGetItems passes through: the cache is neither read nor written.
func (s *Server) transactGetItems(args []any) ([]byte, error) {
	r := requestOf(args)
	lists, err := columns(args[:3])
	if err != nil {
		return nil, err
	}
	in := &dynamodb.TransactGetItemsInput{}
	targets := make([]target, len(lists[0]))
	paths := make([][]path, len(lists[0]))
	for i := range lists[0] {
		if targets[i], err = s.target([]any{lists[0][i], lists[1][i], map[any]any{}, r}); err != nil {
			return nil, err
		}
		if paths[i], err = projection(lists[2][i]); err != nil {
			return nil, err
		}
		in.TransactItems = append(in.TransactItems, types.TransactGetItem{Get: &types.Get{TableName: &targets[i].table, Key: targets[i].key}})
	}
	out, err := s.dynamodb.TransactGetItems(r, in)
	if err != nil {
		return nil, err
	}
	w := ok()
	w.array(2)
	w.array(len(out.Responses))
	for i, response := range out.Responses {
		switch {
		case response.Item == nil:
			w.null()
		case paths[i] != nil:
			err = w.project(response.Item, paths[i])
		default:
			err = w.attributes(s, response.Item, targets[i].schema)
		}
		if err != nil {
			return nil, err
		}
	}
	w.array(0) // consumed capacity
	return w.b, nil
}

// The operations of a transaction, by the number that the wire has.
const (
	transactPut    = 2
	transactDelete = 7
	transactUpdate = 9
	transactCheck  = 12
)

// transactWriteItems writes through; what it wrote is read again.
func (s *Server) transactWriteItems(args []any) ([]byte, error) {
	r := requestOf(args)
	lists, err := columns([]any{args[0], args[1], args[2], args[3], args[5], args[6], args[7]})
	if err != nil {
		return nil, err
	}
	opt, err := optionsOf(args[8])
	if err != nil {
		return nil, err
	}
	in := &dynamodb.TransactWriteItemsInput{}
	if token, is := opt[optToken].(string); is {
		in.ClientRequestToken = &token
	}
	targets := make([]target, len(lists[0]))
	for i := range lists[0] {
		if targets[i], err = s.target([]any{lists[1][i], lists[2][i], map[any]any{}, r}); err != nil {
			return nil, err
		}
		op, err := integer(lists[0][i], "an operation")
		if err != nil {
			return nil, err
		}
		item, err := s.transactItem(op, targets[i], lists[3][i], lists[4][i], lists[5][i], lists[6][i])
		if err != nil {
			return nil, err
		}
		in.TransactItems = append(in.TransactItems, item)
	}
	if _, err := s.dynamodb.TransactWriteItems(r, in); err != nil {
		return nil, err
	}
	for i, t := range targets {
		if in.TransactItems[i].ConditionCheck != nil {
			continue
		}
		if err := s.refill(r, t); err != nil {
			return nil, err
		}
	}
	w := ok()
	w.array(3)
	w.array(0)   // returned values
	w.array(0)   // consumed capacity
	w.mapping(0) // item collection metrics
	return w.b, nil
}

func (s *Server) transactItem(op int64, t target, values, onFailure, conditionTree, updateTree any) (types.TransactWriteItem, error) {
	var none types.TransactWriteItem
	var e expression
	condition, err := e.condition(conditionTree)
	if err != nil {
		return none, err
	}
	update, err := e.update(updateTree)
	if err != nil {
		return none, err
	}
	var old types.ReturnValuesOnConditionCheckFailure
	if onFailure == uint64(2) {
		old = types.ReturnValuesOnConditionCheckFailureAllOld
	}
	switch op {
	case transactPut:
		item, err := s.attributesOf(values)
		if err != nil {
			return none, err
		}
		maps.Copy(item, t.key)
		return types.TransactWriteItem{Put: &types.Put{
			TableName: &t.table, Item: item, ConditionExpression: condition,
			ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values, ReturnValuesOnConditionCheckFailure: old,
		}}, nil
	case transactDelete:
		return types.TransactWriteItem{Delete: &types.Delete{
			TableName: &t.table, Key: t.key, ConditionExpression: condition,
			ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values, ReturnValuesOnConditionCheckFailure: old,
		}}, nil
	case transactUpdate:
		return types.TransactWriteItem{Update: &types.Update{
			TableName: &t.table, Key: t.key, ConditionExpression: condition, UpdateExpression: update,
			ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values, ReturnValuesOnConditionCheckFailure: old,
		}}, nil
	case transactCheck:
		return types.TransactWriteItem{ConditionCheck: &types.ConditionCheck{
			TableName: &t.table, Key: t.key, ConditionExpression: condition,
			ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values, ReturnValuesOnConditionCheckFailure: old,
		}}, nil
	}
	return none, fmt.Errorf("daxtest: operation %d of a transaction is not known", op)
}

// columns are the parts of a transaction, each a list with one element per
// operation.
func columns(args []any) ([][]any, error) {
	all, err := convert(args, func(v any) ([]any, error) { return as[[]any](v, "a list of a transaction") })
	if err != nil {
		return nil, err
	}
	for _, list := range all {
		if len(list) != len(all[0]) {
			return nil, fmt.Errorf("daxtest: lists of %d and %d elements in a transaction", len(all[0]), len(list))
		}
	}
	return all, nil
}
