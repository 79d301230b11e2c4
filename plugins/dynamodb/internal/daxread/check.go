package daxread

import (
	"encoding/base64"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// asked is what a call asked for, by table: the names of the key's attributes
// and the keys, each in a form that compares.
type asked map[string]askedTable

type askedTable struct {
	names []string
	keys  map[string]struct{}
}

// unsupported is the error for an input that is not a read by key.
func unsupported(why string) error { return &readError{kind: ErrUnsupported, why: why} }

// request checks the input of a batch and makes the library's own copy of it:
// a call that is given up leaves the library at work on it for a while.
func request(in *dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemInput, asked, error) {
	switch {
	case in == nil || len(in.RequestItems) == 0:
		return nil, nil, unsupported("there is nothing to read")
	case in.ReturnConsumedCapacity != "" && in.ReturnConsumedCapacity != types.ReturnConsumedCapacityNone:
		return nil, nil, unsupported("consumed capacity is not reported")
	}
	own := &dynamodb.BatchGetItemInput{RequestItems: make(map[string]types.KeysAndAttributes, len(in.RequestItems))}
	want := make(asked, len(in.RequestItems))
	for table, list := range in.RequestItems {
		t, keys, err := askFor(list)
		if err != nil {
			return nil, nil, err
		}
		want[table] = t
		own.RequestItems[table] = types.KeysAndAttributes{
			Keys: keys, ProjectionExpression: list.ProjectionExpression, ExpressionAttributeNames: maps.Clone(list.ExpressionAttributeNames),
		}
	}
	return own, want, nil
}

func askFor(list types.KeysAndAttributes) (askedTable, []map[string]types.AttributeValue, error) {
	var t askedTable
	switch {
	case list.ConsistentRead != nil && *list.ConsistentRead:
		return t, nil, unsupported("the cluster has no consistent reads of its own: send them to DynamoDB")
	case len(list.AttributesToGet) > 0:
		return t, nil, unsupported("AttributesToGet is a legacy parameter: use a ProjectionExpression")
	case len(list.Keys) == 0 || len(list.Keys[0]) == 0:
		return t, nil, unsupported("there is nothing to read")
	}
	t = askedTable{names: slices.Sorted(maps.Keys(list.Keys[0])), keys: make(map[string]struct{}, len(list.Keys))}
	own := make([]map[string]types.AttributeValue, len(list.Keys))
	for i, key := range list.Keys {
		if len(key) != len(t.names) {
			return t, nil, unsupported("the keys have different attributes")
		}
		id, is := t.identity(key)
		if !is {
			return t, nil, unsupported("a key has an attribute that is missing or is not a string, a number or bytes")
		}
		if _, twice := t.keys[id]; twice {
			return t, nil, unsupported("a key occurs twice")
		}
		t.keys[id] = struct{}{}
		own[i] = cloneKey(key)
	}
	if list.ProjectionExpression != nil && !selects(*list.ProjectionExpression, list.ExpressionAttributeNames, t.names) {
		return t, nil, unsupported("the projection leaves out a key attribute, without which the answer can not be checked")
	}
	return t, own, nil
}

// identity is the part of an item that makes it the one that was asked for.
func (t askedTable) identity(item map[string]types.AttributeValue) (string, bool) {
	var b strings.Builder
	for _, name := range t.names {
		var kind, value string
		switch v := item[name].(type) {
		case *types.AttributeValueMemberS:
			kind, value = "S", v.Value
		case *types.AttributeValueMemberB:
			kind, value = "B", base64.StdEncoding.EncodeToString(v.Value)
		case *types.AttributeValueMemberN:
			plain, err := plainNumber(v.Value)
			if err != nil {
				return "", false
			}
			kind, value = "N", plain
		default:
			return "", false
		}
		b.WriteString(kind)
		b.WriteString(strconv.Itoa(len(value)))
		b.WriteByte(':')
		b.WriteString(value)
	}
	return b.String(), true
}

func cloneKey(key map[string]types.AttributeValue) map[string]types.AttributeValue {
	own := make(map[string]types.AttributeValue, len(key))
	for name, v := range key {
		switch v := v.(type) {
		case *types.AttributeValueMemberS:
			own[name] = &types.AttributeValueMemberS{Value: v.Value}
		case *types.AttributeValueMemberN:
			own[name] = &types.AttributeValueMemberN{Value: v.Value}
		case *types.AttributeValueMemberB:
			own[name] = &types.AttributeValueMemberB{Value: slices.Clone(v.Value)}
		}
	}
	return own
}

// selects reports whether a projection has every one of these attributes.
func selects(projection string, substitutes map[string]string, names []string) bool {
	selected := map[string]bool{}
	for term := range strings.SplitSeq(projection, ",") {
		term = strings.TrimSpace(term)
		if name, is := substitutes[term]; is {
			term = name
		}
		selected[term] = true
	}
	for _, name := range names {
		if !selected[name] {
			return false
		}
	}
	return true
}

// check reports whether an answer has nothing but what was asked for, each
// item once, and brings its numbers into DynamoDB's form.
func (want asked) check(out *dynamodb.BatchGetItemOutput) bool {
	if out == nil {
		return false
	}
	seen := map[string]map[string]bool{}
	take := func(table string, item map[string]types.AttributeValue) bool {
		t, is := want[table]
		if !is {
			return false
		}
		id, is := t.identity(item)
		if _, was := t.keys[id]; !is || !was || seen[table][id] {
			return false
		}
		if seen[table] == nil {
			seen[table] = map[string]bool{}
		}
		seen[table][id] = true
		return true
	}
	for table, items := range out.Responses {
		for _, item := range items {
			for _, v := range item {
				if plainNumbers(v) != nil {
					return false
				}
			}
			if !take(table, item) {
				return false
			}
		}
	}
	for table, list := range out.UnprocessedKeys {
		for _, key := range list.Keys {
			if !take(table, key) {
				return false
			}
		}
	}
	return true
}
