package daxtest

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// same compares items: numbers by what they are, since the client has them
// with exponents, and sets without their order.
var same = cmp.Options{
	cmpopts.IgnoreUnexported(
		types.AttributeValueMemberS{}, types.AttributeValueMemberB{}, types.AttributeValueMemberBOOL{}, types.AttributeValueMemberNULL{},
		types.AttributeValueMemberL{}, types.AttributeValueMemberM{}, types.AttributeValueMemberSS{}, types.AttributeValueMemberBS{},
	),
	cmp.Transformer("number", func(n *types.AttributeValueMemberN) string { return exact(n.Value) }),
	cmp.Transformer("numbers", func(n *types.AttributeValueMemberNS) map[string]bool {
		set := map[string]bool{}
		for _, v := range n.Value {
			set[exact(v)] = true
		}
		return set
	}),
	cmpopts.SortSlices(func(a, b string) bool { return a < b }),
	cmpopts.SortSlices(func(a, b []byte) bool { return string(a) < string(b) }),
	cmpopts.EquateEmpty(),
}

func exact(number string) string {
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return "not a number: " + number
	}
	return r.RatString()
}

var numbers = []string{
	"0", "1", "-1", "23", "24", "255", "256", "65535", "65536", "4294967295", "4294967296", "-24", "-25", "3.25", "-0.5", "0.001", "100",
	"9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "18446744073709551615", "18446744073709551616",
	"-18446744073709551616", "-18446744073709551617", "12345678901234567890123456789012345678", "-12345678901234567890123456789012345678",
	"1.2345678901234567890123456789012345678", "0.00000000000000000000000000000000000001", "1E30", "1E-30", "-1.5E+20",
}

// everything is an item with every type.
func everything() Item {
	item := Item{
		"s": str("grüße"), "s-empty": str(""), "s-long": str(strings.Repeat("x", 70_000)),
		"b": bin("\x00\xff"), "b-empty": bin(""),
		"true": &types.AttributeValueMemberBOOL{Value: true}, "false": &types.AttributeValueMemberBOOL{},
		"null": &types.AttributeValueMemberNULL{Value: true},
		"ss":   &types.AttributeValueMemberSS{Value: []string{"a", "b"}},
		"ns":   &types.AttributeValueMemberNS{Value: []string{"1", "-2.5", "18446744073709551616"}},
		"bs":   &types.AttributeValueMemberBS{Value: [][]byte{{0}, {1, 2}}},
	}
	list := &types.AttributeValueMemberL{}
	for i, n := range numbers {
		item[fmt.Sprintf("n%02d", i)] = num(n)
		list.Value = append(list.Value, num(n))
	}
	item["l"], item["l-empty"] = list, &types.AttributeValueMemberL{}
	item["m"] = &types.AttributeValueMemberM{Value: Item{
		"deep": &types.AttributeValueMemberM{Value: Item{"deeper": &types.AttributeValueMemberL{Value: []types.AttributeValue{
			str("x"), num("-0.25"), &types.AttributeValueMemberNULL{Value: true}, &types.AttributeValueMemberSS{Value: []string{"in"}},
			&types.AttributeValueMemberM{Value: Item{}},
		}}}},
	}}
	return item
}

// TestEveryType writes an item through the node and past it, and reads it both
// ways, twice: from DynamoDB and from the cache.
func TestEveryType(t *testing.T) {
	everywhere(t, Options{}, func(t *testing.T, w *world) {
		table := w.table(t, "pk:S")
		want := everything()
		want["pk"] = str("through")
		w.put(t, table, want)
		past, err := w.past.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &table, Key: pkItem("through")})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, past.Item, same); diff != "" {
			t.Errorf("written through the node, read past it (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, w.get(t, table, pkItem("through")), same); diff != "" {
			t.Errorf("from the cache, written through (-want +got):\n%s", diff)
		}
		want["pk"] = str("past")
		w.putPast(t, table, want)
		for _, from := range []string{"from DynamoDB", "from the cache"} {
			if diff := cmp.Diff(want, w.get(t, table, pkItem("past")), same); diff != "" {
				t.Errorf("%s (-want +got):\n%s", from, diff)
			}
		}
		if w.Hits() != 2 || w.Misses() != 1 {
			t.Errorf("%d hits and %d misses, want 2 and 1", w.Hits(), w.Misses())
		}
		w.put(t, table, pkItem("no attributes"))
		if diff := cmp.Diff(pkItem("no attributes"), w.get(t, table, pkItem("no attributes")), same); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestEveryKey does put, get, batch get, query and delete with every type of
// key.
func TestEveryKey(t *testing.T) {
	values := map[string][]types.AttributeValue{
		"S": {str("a"), str("grüße"), str(strings.Repeat("k", 300))},
		"N": {num("0"), num("7"), num("-7"), num("3.25"), num("-0.001"), num("12345678901234567890123456789012345678"), num("1E60")},
		"B": {bin("\x00"), bin("\xff\xfe"), bin(strings.Repeat("\x80", 300))},
	}
	everywhere(t, Options{}, func(t *testing.T, w *world) {
		for _, hash := range []string{"S", "N", "B"} {
			for _, rng := range []string{"", "S", "N", "B"} {
				t.Run(hash+rng, func(t *testing.T) {
					definition, keys := []string{"hash:" + hash}, []Item{}
					for _, h := range values[hash] {
						if rng == "" {
							keys = append(keys, Item{"hash": h})
							continue
						}
						for _, r := range values[rng] {
							keys = append(keys, Item{"hash": h, "range": r})
						}
					}
					if rng != "" {
						definition = append(definition, "range:"+rng)
					}
					testKeys(t, w, w.table(t, definition...), keys)
				})
			}
		}
	})
}

func testKeys(t *testing.T, w *world, table string, keys []Item) {
	with := func(key Item, v string) Item {
		item := Item{"v": str(v)}
		for name, a := range key {
			item[name] = a
		}
		return item
	}
	for i, key := range keys {
		if i%2 == 0 {
			w.put(t, table, with(key, fmt.Sprint(i)))
		} else {
			w.putPast(t, table, with(key, fmt.Sprint(i)))
		}
		if diff := cmp.Diff(with(key, fmt.Sprint(i)), w.get(t, table, key), same); diff != "" {
			t.Errorf("get (-want +got):\n%s", diff)
		}
		out, err := w.dax.Query(t.Context(), &dynamodb.QueryInput{
			TableName: &table, KeyConditionExpression: aws.String("#h = :h"), ConsistentRead: aws.Bool(true),
			ExpressionAttributeNames: map[string]string{"#h": "hash"}, ExpressionAttributeValues: Item{":h": key["hash"]},
		})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, item := range out.Items {
			found = found || cmp.Equal(with(key, fmt.Sprint(i)), item, same)
		}
		if !found {
			t.Errorf("query of %s: %d items, none of them item %d", text(key["hash"]), len(out.Items), i)
		}
	}
	batch, err := w.dax.BatchGetItem(t.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{table: {Keys: keys}}})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(batch.Responses[table]); n != len(keys) {
		t.Errorf("a batch of %d keys has %d items", len(keys), n)
	}
	for _, key := range keys {
		if _, err := w.dax.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: &table, Key: key}); err != nil {
			t.Fatal(err)
		}
		if item := w.get(t, table, key); item != nil {
			t.Errorf("deleted, and still there: %v", item)
		}
	}
}

// TestKeysAndValuesSurvive encodes and decodes what the client never sends.
func TestKeysAndValuesSurvive(t *testing.T) {
	number := rapid.StringMatching(`-?[1-9][0-9]{0,37}([eE]-?[0-9]{1,2})?`)
	key := schema{{AttributeName: aws.String("h"), AttributeType: types.ScalarAttributeTypeN}, {AttributeName: aws.String("r"), AttributeType: types.ScalarAttributeTypeN}}
	rapid.Check(t, func(t *rapid.T) {
		want := Item{"h": num(number.Draw(t, "hash")), "r": num(number.Draw(t, "range"))}
		b, err := key.encode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := key.decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, same); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		w := &wire{}
		if err := w.value(want["h"]); err != nil {
			t.Fatal(err)
		}
		var v any
		if err := cbor.Unmarshal(w.b, &v); err != nil {
			t.Fatal(err)
		}
		if back, err := attribute(v); err != nil || !cmp.Equal(want["h"], back, same) {
			t.Fatalf("%s became %s, %v", text(want["h"]), text(back), err)
		}
	})
}

// TestSortableNumbersSort: the bytes of number keys sort as the numbers do.
func TestSortableNumbersSort(t *testing.T) {
	number := rapid.StringMatching(`-?[0-9]{1,38}([eE]-?[0-9]{1,2})?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		sortable := func(s string) string {
			mantissa, exponent, err := parseNumber(s)
			if err != nil {
				t.Fatal(err)
			}
			for ten, rest := big.NewInt(10), new(big.Int); mantissa.Sign() != 0; exponent++ {
				quotient, _ := new(big.Int).QuoRem(mantissa, ten, rest)
				if rest.Sign() != 0 {
					break
				}
				mantissa = quotient // one form for each number
			}
			return string(appendSortable(nil, mantissa, exponent))
		}
		x, _ := new(big.Rat).SetString(a)
		y, _ := new(big.Rat).SetString(b)
		if got, want := strings.Compare(sortable(a), sortable(b)), x.Cmp(y); got != want {
			t.Fatalf("%s and %s compare as %d, their keys as %d", a, b, want, got)
		}
	})
}

func TestWhatIsNotANumber(t *testing.T) {
	for _, s := range []string{"", "x", "1E", "1Ex", "1.2.3"} {
		if err := new(wire).number(s); err == nil {
			t.Errorf("%q was written", s)
		}
	}
	if _, err := numberText(big.NewInt(1), 100_000); err == nil {
		t.Error("a number of 100000 digits was written")
	}
	if _, err := attribute(cbor.Tag{Number: 99}); err == nil {
		t.Error("an unknown tag was read")
	}
	var f *Failure
	if errors.As(failure(errors.New("x")), &f); f.Codes[4] != 47 {
		t.Errorf("an unknown error became %v", f.Codes)
	}
}
