package daxtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// The keys of a request's optional parameters.
const (
	optProjection     = 0
	optConsistentRead = 2
	optCondition      = 4
	optReturnValues   = 7
	optUpdate         = 8
	optStartKey       = 9
	optFilter         = 10
	optIndex          = 11
	optLimit          = 13
	optForward        = 14
	optSelect         = 15
	optSegment        = 16
	optTotalSegments  = 17
	optToken          = 19
)

// The keys of an answer's parts.
const (
	partItem         = 0
	partAttributes   = 2
	partItems        = 7
	partCount        = 8
	partLastKey      = 9
	partScannedCount = 10
)

var returnValues = map[int64]types.ReturnValue{
	2: types.ReturnValueAllOld, 3: types.ReturnValueUpdatedOld, 4: types.ReturnValueAllNew, 5: types.ReturnValueUpdatedNew,
}

// options are a request's optional parameters by number.
type options map[int64]any

func optionsOf(v any) (options, error) {
	m, err := as[map[any]any](v, "optional parameters")
	if err != nil {
		return nil, err
	}
	o := make(options, len(m))
	for k, v := range m {
		n, err := integer(k, "an optional parameter's number")
		if err != nil {
			return nil, err
		}
		o[n] = v
	}
	return o, nil
}

// flag is a parameter that some requests have as a boolean and some as 0 or 1.
func (o options) flag(n int64) bool {
	switch v := o[n].(type) {
	case bool:
		return v
	case uint64:
		return v != 0
	}
	return false
}

func (o options) number(n int64) (int32, bool) {
	v, is := o[n].(uint64)
	return int32(v), is
}

// defineKeySchema answers a table's primary key, its hash attribute first.
func (s *Server) defineKeySchema(args []any) ([]byte, error) {
	table, err := tableOf(args[0])
	if err != nil {
		return nil, err
	}
	k, err := s.schema(requestOf(args), table)
	if err != nil {
		return nil, err
	}
	w := ok()
	w.mapping(len(k))
	for _, def := range k {
		w.text(*def.AttributeName)
		w.text(string(def.AttributeType))
	}
	return w.b, nil
}

func tableOf(v any) (string, error) {
	b, err := as[[]byte](v, "a table's name")
	return string(b), err
}

func (s *Server) schema(r request, table string) (schema, error) {
	s.mu.Lock()
	k, is := s.schemas[table]
	s.mu.Unlock()
	if is {
		return k, nil
	}
	out, err := s.dynamodb.DescribeTable(r, &dynamodb.DescribeTableInput{TableName: &table})
	if err != nil {
		return nil, err
	}
	for _, role := range []types.KeyType{types.KeyTypeHash, types.KeyTypeRange} {
		for _, e := range out.Table.KeySchema {
			if e.KeyType != role {
				continue
			}
			i := slices.IndexFunc(out.Table.AttributeDefinitions, func(d types.AttributeDefinition) bool { return *d.AttributeName == *e.AttributeName })
			if i < 0 {
				return nil, fmt.Errorf("daxtest: table %q does not define its key", table)
			}
			k = append(k, out.Table.AttributeDefinitions[i])
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.schemas[table] = k
	return k, nil
}

// defineAttributeListID answers the number of a list of names.
func (s *Server) defineAttributeListID(args []any) ([]byte, error) {
	list, err := as[[]any](args[0], "a list of names")
	if err != nil {
		return nil, err
	}
	names, err := convert(list, func(v any) (string, error) { return as[string](v, "a name") })
	if err != nil {
		return nil, err
	}
	w := ok()
	w.integer(s.listID(names))
	return w.b, nil
}

func (s *Server) listID(names []string) int64 {
	if len(names) == 0 {
		return 1
	}
	var key strings.Builder
	for _, name := range names {
		fmt.Fprintf(&key, "%d:%s", len(name), name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, is := s.listIDs[key.String()]
	if !is {
		id = int64(len(s.lists))
		s.listIDs[key.String()] = id
		s.lists = append(s.lists, names)
	}
	return id
}

// defineAttributeList answers the names of a list.
func (s *Server) defineAttributeList(args []any) ([]byte, error) {
	id, err := integer(args[0], "an attribute list's number")
	if err != nil {
		return nil, err
	}
	names, err := s.list(id)
	if err != nil {
		return nil, err
	}
	w := ok()
	w.array(len(names))
	for _, name := range names {
		w.text(name)
	}
	return w.b, nil
}

func (s *Server) list(id int64) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id < 1 || id >= int64(len(s.lists)) {
		return nil, Fail("ValidationException", "no such attribute list")
	}
	return s.lists[id], nil
}

// attributes writes an item without its key.
func (w *wire) attributes(s *Server, item Item, k schema) error {
	names := sortedNames(item, k.names()...)
	inner := &wire{}
	inner.integer(s.listID(names))
	for _, name := range names {
		if err := inner.value(item[name]); err != nil {
			return err
		}
	}
	w.bytes(inner.b)
	return nil
}

// attributesOf is the inverse of attributes.
func (s *Server) attributesOf(v any) (Item, error) {
	b, err := as[[]byte](v, "attributes")
	if err != nil {
		return nil, err
	}
	all, err := items(b)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("daxtest: attributes without their list")
	}
	id, err := integer(all[0], "an attribute list's number")
	if err != nil {
		return nil, err
	}
	names, err := s.list(id)
	if err != nil {
		return nil, err
	}
	if len(names) != len(all)-1 {
		return nil, fmt.Errorf("daxtest: %d values for %d names", len(all)-1, len(names))
	}
	item := make(Item, len(names))
	for i, name := range names {
		if item[name], err = attribute(all[i+1]); err != nil {
			return nil, err
		}
	}
	return item, nil
}

// target is what most requests start with: a table and a key of it.
type target struct {
	table  string
	schema schema
	raw    []byte // the key as it came
	key    Item
	opt    options
}

func (s *Server) target(args []any) (target, error) {
	table, err := tableOf(args[0])
	if err != nil {
		return target{}, err
	}
	r := requestOf(args)
	k, err := s.schema(r, table)
	if err != nil {
		return target{}, err
	}
	t, err := k.target(table, args[1])
	if err != nil {
		return target{}, err
	}
	t.opt, err = optionsOf(args[len(args)-2])
	return t, err
}

func (k schema) target(table string, raw any) (target, error) {
	b, err := as[[]byte](raw, "a key")
	if err != nil {
		return target{}, err
	}
	key, err := k.decode(b)
	return target{table: table, schema: k, raw: b, key: key}, err
}

func (t target) cacheKey() string { return t.table + "\x00" + string(t.raw) }

// instead is the target that a lying node answers with.
func (t target) instead(f Fault) (target, error) {
	if f.Instead == nil {
		return t, nil
	}
	raw, err := t.schema.encode(f.Instead)
	return target{table: t.table, schema: t.schema, raw: raw, key: f.Instead, opt: t.opt}, err
}

// getItem answers an item without its key: the client adds the key that it
// asked for.
func (s *Server) getItem(args []any) ([]byte, error) {
	t, err := s.target(args)
	if err != nil {
		return nil, err
	}
	r := requestOf(args)
	if t, err = t.instead(r.Fault); err != nil {
		return nil, err
	}
	paths, err := projection(t.opt[optProjection])
	if err != nil {
		return nil, err
	}
	item, err := s.readItem(r, t, t.opt.flag(optConsistentRead))
	if err != nil {
		return nil, err
	}
	w := ok()
	if item == nil {
		w.null()
		return w.b, nil
	}
	w.mapping(1)
	w.integer(partItem)
	if paths != nil {
		err = w.project(item, paths)
	} else {
		err = w.attributes(s, item, t.schema)
	}
	return w.b, err
}

// readItem returns an item, nil if there is none, from the cache unless it has
// to be the newest.
func (s *Server) readItem(r request, t target, consistent bool) (Item, error) {
	if !consistent {
		if item, is := s.items.get(t.cacheKey()); is {
			return item, nil
		}
	}
	out, err := s.dynamodb.GetItem(r, &dynamodb.GetItemInput{TableName: &t.table, Key: t.key, ConsistentRead: &consistent})
	if err != nil {
		return nil, err
	}
	if !consistent {
		s.items.put(t.cacheKey(), out.Item)
	}
	return out.Item, nil
}

// batchGetItem answers items with their keys, or their projections alone.
func (s *Server) batchGetItem(args []any) ([]byte, error) {
	r := requestOf(args)
	tables, err := as[map[any]any](args[0], "the tables of a batch")
	if err != nil {
		return nil, err
	}
	answers, unprocessed := &wire{}, &wire{}
	left := 0
	for _, v := range tables {
		list, err := as[[]any](v, "a table of a batch")
		if err != nil {
			return nil, err
		}
		if len(list) != 3 {
			return nil, fmt.Errorf("daxtest: a table of a batch with %d parts", len(list))
		}
	}
	for v, request := range tables {
		table, err := as[string](v, "a table's name")
		if err != nil {
			return nil, err
		}
		n, err := s.batchGetTable(r, table, request.([]any), answers, unprocessed)
		if err != nil {
			return nil, err
		}
		left += n
	}
	w := ok()
	w.array(2)
	w.mapping(len(tables))
	w.b = append(w.b, answers.b...)
	if left > 0 {
		w.mapping(len(tables))
		w.b = append(w.b, unprocessed.b...)
	} else {
		w.mapping(0)
	}
	w.array(0) // consumed capacity
	return w.b, nil
}

func (s *Server) batchGetTable(r request, table string, parts []any, answers, unprocessed *wire) (left int, err error) {
	consistent, _ := parts[0].(bool)
	paths, err := projection(parts[1])
	if err != nil {
		return 0, err
	}
	keys, err := as[[]any](parts[2], "the keys of a batch")
	if err != nil {
		return 0, err
	}
	k, err := s.schema(r, table)
	if err != nil {
		return 0, err
	}
	left = min(r.Unprocessed, len(keys))
	found := &wire{}
	n := 0
	for _, raw := range keys[:len(keys)-left] {
		t, err := k.target(table, raw)
		if err != nil {
			return 0, err
		}
		if t, err = t.instead(r.Fault); err != nil {
			return 0, err
		}
		item, err := s.readItem(r, t, consistent)
		if err != nil {
			return 0, err
		}
		if item == nil {
			continue
		}
		n++
		if paths != nil {
			err = found.project(item, paths)
		} else {
			n++
			found.bytes(t.raw)
			err = found.attributes(s, item, k)
		}
		if err != nil {
			return 0, err
		}
	}
	answers.text(table)
	answers.array(n)
	answers.b = append(answers.b, found.b...)
	unprocessed.text(table)
	unprocessed.array(left)
	for _, raw := range keys[len(keys)-left:] {
		unprocessed.bytes(raw.([]byte))
	}
	return left, nil
}

// putItem writes through: DynamoDB first, then the cache.
func (s *Server) putItem(args []any) ([]byte, error) {
	t, err := s.target(args)
	if err != nil {
		return nil, err
	}
	item, err := s.attributesOf(args[2])
	if err != nil {
		return nil, err
	}
	maps.Copy(item, t.key)
	var e expression
	condition, err := e.condition(t.opt[optCondition])
	if err != nil {
		return nil, err
	}
	out, err := s.dynamodb.PutItem(requestOf(args), &dynamodb.PutItemInput{
		TableName: &t.table, Item: item, ConditionExpression: condition,
		ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values, ReturnValues: t.opt.returnValues(),
	})
	if err != nil {
		return nil, err
	}
	s.items.put(t.cacheKey(), item)
	return s.writeAnswer(t, out.Attributes)
}

func (o options) returnValues() types.ReturnValue {
	n, _ := o[optReturnValues].(uint64)
	return returnValues[int64(n)]
}

func (s *Server) deleteItem(args []any) ([]byte, error) {
	t, err := s.target(args)
	if err != nil {
		return nil, err
	}
	var e expression
	condition, err := e.condition(t.opt[optCondition])
	if err != nil {
		return nil, err
	}
	out, err := s.dynamodb.DeleteItem(requestOf(args), &dynamodb.DeleteItemInput{
		TableName: &t.table, Key: t.key, ConditionExpression: condition,
		ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values, ReturnValues: t.opt.returnValues(),
	})
	if err != nil {
		return nil, err
	}
	s.items.put(t.cacheKey(), nil)
	return s.writeAnswer(t, out.Attributes)
}

func (s *Server) updateItem(args []any) ([]byte, error) {
	t, err := s.target(args)
	if err != nil {
		return nil, err
	}
	r := requestOf(args)
	var e expression
	condition, err := e.condition(t.opt[optCondition])
	if err != nil {
		return nil, err
	}
	update, err := e.update(t.opt[optUpdate])
	if err != nil {
		return nil, err
	}
	out, err := s.dynamodb.UpdateItem(r, &dynamodb.UpdateItemInput{
		TableName: &t.table, Key: t.key, ConditionExpression: condition, UpdateExpression: update,
		ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values, ReturnValues: t.opt.returnValues(),
	})
	if err != nil {
		return nil, err
	}
	if err := s.refill(r, t); err != nil {
		return nil, err
	}
	return s.writeAnswer(t, out.Attributes)
}

// refill caches what a write left behind when the request does not show it.
func (s *Server) refill(r request, t target) error {
	out, err := s.dynamodb.GetItem(r, &dynamodb.GetItemInput{TableName: &t.table, Key: t.key, ConsistentRead: aws.Bool(true)})
	if err != nil {
		return err
	}
	s.items.put(t.cacheKey(), out.Item)
	return nil
}

// writeAnswer is the answer to a write: nothing, or attributes. Whole items
// come without their key; parts of one as values by their position in a list.
func (s *Server) writeAnswer(t target, attributes Item) ([]byte, error) {
	w := ok()
	if attributes == nil {
		w.null()
		return w.b, nil
	}
	w.mapping(1)
	w.integer(partAttributes)
	switch t.opt.returnValues() {
	case types.ReturnValueUpdatedNew, types.ReturnValueUpdatedOld:
		names := sortedNames(attributes)
		inner := &wire{}
		inner.integer(s.listID(names))
		inner.mapping(len(names))
		for i, name := range names {
			inner.integer(int64(i))
			if err := inner.value(attributes[name]); err != nil {
				return nil, err
			}
		}
		w.bytes(inner.b)
		return w.b, nil
	default:
		err := w.attributes(s, attributes, t.schema)
		return w.b, err
	}
}
