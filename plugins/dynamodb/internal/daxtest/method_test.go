package daxtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-dax-go-v2/dax"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"
)

func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return fmt.Sprint(err)
}

// TestConditions puts every operation of condition expressions through the
// node. A condition that comes out wrong holds where it should not.
func TestConditions(t *testing.T) {
	item := pkItem("a", "n", num("5"), "s", str("hello"), "l", &types.AttributeValueMemberL{Value: []types.AttributeValue{str("x"), num("9")}},
		"m", &types.AttributeValueMemberM{Value: Item{"in": str("y"), "a.b": num("1")}}, "ss", &types.AttributeValueMemberSS{Value: []string{"p", "q"}})
	values := Item{":4": num("4"), ":5": num("5"), ":6": num("6"), ":h": str("he"), ":hello": str("hello"), ":S": str("S"), ":x": str("x"), ":p": str("p")}
	names := map[string]string{"#n": "n", "#dot": "a.b"}
	conditions := map[string]bool{
		"n = :5": true, "n = :6": false, "n <> :6": true, "n < :6": true, "n < :5": false, "n <= :5": true, "n > :4": true, "n >= :6": false,
		"#n = :5": true, "n BETWEEN :4 AND :6": true, "n BETWEEN :6 AND :6": false, "n IN (:4, :5)": true, "n IN (:4)": false,
		"attribute_exists(s)": true, "attribute_exists(z)": false, "attribute_not_exists(z)": true, "attribute_type(s, :S)": true,
		"begins_with(s, :h)": true, "begins_with(s, :x)": false, "contains(ss, :p)": true, "contains(s, :x)": false,
		"size(s) = :5": true, "size(s) > :5": false, "l[0] = :x": true, "l[1] = :x": false, "attribute_exists(m.#dot)": true, "attribute_exists(m.z)": false,
		"NOT n = :6": true, "NOT n = :5": false, "n = :5 AND s = :hello": true, "n = :5 AND s = :x": false, "n = :6 OR s = :hello": true,
		"(n = :6 OR n = :5) AND s = :x": false, "n = :5 OR n = :6 AND s = :x": true, "NOT (n = :5 OR s = :x)": false, "NOT (n = :6 AND s = :x)": true,
	}
	everywhere(t, Options{}, func(t *testing.T, w *world) {
		table := w.table(t, "pk:S")
		w.put(t, table, item)
		for condition, holds := range conditions {
			in := &dynamodb.PutItemInput{TableName: &table, Item: item, ConditionExpression: &condition, ExpressionAttributeValues: Item{}, ExpressionAttributeNames: map[string]string{}}
			for name, v := range values {
				if containsWord(condition, name) {
					in.ExpressionAttributeValues[name] = v
				}
			}
			for name, v := range names {
				if containsWord(condition, name) {
					in.ExpressionAttributeNames[name] = v
				}
			}
			_, err := w.dax.PutItem(t.Context(), in)
			var failed *types.ConditionalCheckFailedException
			if got := err == nil; got != holds || (err != nil && !errors.As(err, &failed)) {
				t.Errorf("%s: %v, want it to hold: %v", condition, err, holds)
			}
		}
	})
}

func containsWord(s, word string) bool {
	return slices.Contains(strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" (),.", r) }), word)
}

// TestWrites puts every kind of update and every kind of returned value
// through the node, and compares with the same request past it.
func TestWrites(t *testing.T) {
	start := Item{
		"n": num("5"), "s": str("x"), "l": &types.AttributeValueMemberL{Value: []types.AttributeValue{str("a"), str("b")}},
		"ss": &types.AttributeValueMemberSS{Value: []string{"p", "q"}}, "m": &types.AttributeValueMemberM{Value: Item{"k": num("1")}},
	}
	updates := map[string]Item{
		"SET s = :v":                          {":v": str("new")},
		"SET n = n + :v":                      {":v": num("2.5")},
		"SET n = n - :v, s = :w":              {":v": num("7"), ":w": str("y")},
		"SET z = if_not_exists(z, :v)":        {":v": str("first")},
		"SET n = if_not_exists(n, :v)":        {":v": num("0")},
		"SET l = list_append(l, :v)":          {":v": &types.AttributeValueMemberL{Value: []types.AttributeValue{num("1")}}},
		"SET m.k = :v":                        {":v": num("-3")},
		"SET l[1] = :v":                       {":v": str("B")},
		"REMOVE s, m.k":                       nil,
		"ADD n :v, c :v":                      {":v": num("3")},
		"ADD ss :v":                           {":v": &types.AttributeValueMemberSS{Value: []string{"r"}}},
		"DELETE ss :v":                        {":v": &types.AttributeValueMemberSS{Value: []string{"p"}}},
		"SET s = :v REMOVE m ADD n :n":        {":v": str("all"), ":n": num("1")},
		"REMOVE l[0] SET z = :v DELETE ss :d": {":v": num("1E10"), ":d": &types.AttributeValueMemberSS{Value: []string{"q"}}},
	}
	returns := []types.ReturnValue{types.ReturnValueNone, types.ReturnValueAllOld, types.ReturnValueAllNew, types.ReturnValueUpdatedOld, types.ReturnValueUpdatedNew}
	everywhere(t, Options{}, func(t *testing.T, w *world) {
		table := w.table(t, "pk:S", "sk:N")
		key := func(pk string) Item { return Item{"pk": str(pk), "sk": num("7")} }
		with := func(pk string) Item {
			item := key(pk)
			for name, v := range start {
				item[name] = v
			}
			return item
		}
		for update, values := range updates {
			for _, returned := range returns {
				w.put(t, table, with("through"))
				w.putPast(t, table, with("past"))
				in := func(pk string) *dynamodb.UpdateItemInput {
					return &dynamodb.UpdateItemInput{TableName: &table, Key: key(pk), UpdateExpression: &update, ExpressionAttributeValues: values, ReturnValues: returned}
				}
				want, err := w.past.UpdateItem(t.Context(), in("past"))
				if err != nil {
					t.Fatalf("%s past the node: %v", update, err)
				}
				got, err := w.dax.UpdateItem(t.Context(), in("through"))
				if err != nil {
					t.Fatalf("%s: %v", update, err)
				}
				for _, a := range []Item{want.Attributes, got.Attributes} {
					delete(a, "pk")
				}
				if (returned == types.ReturnValueUpdatedOld || returned == types.ReturnValueUpdatedNew) && partly(update) {
					// Of paths inside of attributes, the emulators return different parts.
					got.Attributes = want.Attributes
				}
				if diff := cmp.Diff(want.Attributes, got.Attributes, same); diff != "" {
					t.Errorf("%s returning %s (-past +through):\n%s", update, returned, diff)
				}
			}
			want, err := w.past.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &table, Key: key("past"), ConsistentRead: aws.Bool(true)})
			if err != nil {
				t.Fatal(err)
			}
			got := w.get(t, table, key("through"))
			want.Item["pk"] = str("through")
			if diff := cmp.Diff(want.Item, got, same); diff != "" {
				t.Errorf("%s left (-past +through):\n%s", update, diff)
			}
		}

		w.put(t, table, with("through"))
		put, err := w.dax.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: key("through"), ReturnValues: types.ReturnValueAllOld})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(with("through"), put.Attributes, same); diff != "" {
			t.Errorf("put returning the old item (-want +got):\n%s", diff)
		}
		condition := "attribute_exists(s)"
		_, err = w.dax.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: &table, Key: key("through"), ConditionExpression: &condition})
		if code(err) != "ConditionalCheckFailedException" {
			t.Errorf("a delete whose condition does not hold: %v", err)
		}
		w.put(t, table, with("through"))
		deleted, err := w.dax.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: &table, Key: key("through"), ConditionExpression: &condition, ReturnValues: types.ReturnValueAllOld})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(with("through"), deleted.Attributes, same); diff != "" {
			t.Errorf("delete returning the old item (-want +got):\n%s", diff)
		}
		_, err = w.dax.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
			TableName: &table, Key: key("through"), ConditionExpression: &condition, UpdateExpression: aws.String("SET s = :v"), ExpressionAttributeValues: Item{":v": str("x")},
		})
		if code(err) != "ConditionalCheckFailedException" {
			t.Errorf("an update whose condition does not hold: %v", err)
		}
	})
}

// partly reports whether an update changes a part of an attribute.
func partly(update string) bool { return strings.ContainsAny(update, ".[") }

func TestProjections(t *testing.T) {
	everywhere(t, Options{}, func(t *testing.T, w *world) {
		table := w.table(t, "pk:S")
		w.putPast(t, table, pkItem("a", "n", num("5"), "s", str("x"), "l", &types.AttributeValueMemberL{Value: []types.AttributeValue{str("0"), str("1"), str("2")}},
			"m", &types.AttributeValueMemberM{Value: Item{"k": num("1"), "other": num("2")}}))
		for projection, want := range map[string]Item{
			"pk, s":      pkItem("a", "s", str("x")),
			"s, missing": {"s": str("x")},
			"#n, m.k":    {"n": num("5"), "m": &types.AttributeValueMemberM{Value: Item{"k": num("1")}}},
			"l[0], l[2]": {"l": &types.AttributeValueMemberL{Value: []types.AttributeValue{str("0"), str("2")}}},
			"missing":    {},
		} {
			names := map[string]string{}
			if strings.Contains(projection, "#n") {
				names["#n"] = "n"
			}
			got := w.get(t, table, pkItem("a"), func(in *dynamodb.GetItemInput) {
				in.ProjectionExpression, in.ExpressionAttributeNames = &projection, names
			})
			if diff := cmp.Diff(want, got, same); diff != "" {
				t.Errorf("%s (-want +got):\n%s", projection, diff)
			}
			out, err := w.dax.BatchGetItem(t.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{table: {
				Keys: []Item{pkItem("a"), pkItem("none")}, ProjectionExpression: &projection, ExpressionAttributeNames: names,
			}}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]Item{want}, out.Responses[table], same); diff != "" {
				t.Errorf("%s in a batch (-want +got):\n%s", projection, diff)
			}
		}
	})
}

func TestBatches(t *testing.T) {
	everywhere(t, Options{}, func(t *testing.T, w *world) {
		one, two := w.table(t, "pk:S"), w.table(t, "pk:S", "sk:S")
		twoKey := Item{"pk": str("a"), "sk": str("b")}
		in := &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{
			one: {{PutRequest: &types.PutRequest{Item: pkItem("a", "v", num("1"))}}, {PutRequest: &types.PutRequest{Item: pkItem("b", "v", num("2"))}}},
			two: {{PutRequest: &types.PutRequest{Item: Item{"pk": str("a"), "sk": str("b"), "v": num("3")}}}},
		}}
		out, err := w.dax.BatchWriteItem(t.Context(), in)
		if err != nil || len(out.UnprocessedItems) != 0 {
			t.Fatalf("%v, unprocessed %v", err, out.UnprocessedItems)
		}
		read := &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{
			one: {Keys: []Item{pkItem("a"), pkItem("b"), pkItem("none")}}, two: {Keys: []Item{twoKey}},
		}}
		got, err := w.dax.BatchGetItem(t.Context(), read)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string][]Item{one: {pkItem("a", "v", num("1")), pkItem("b", "v", num("2"))}, two: {{"pk": str("a"), "sk": str("b"), "v": num("3")}}}
		if diff := cmp.Diff(want, got.Responses, same); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if w.Hits() != 3 {
			t.Errorf("%d hits, want those 3 that were written through", w.Hits())
		}

		heal := w.Fail(BatchGetItem, Fault{Unprocessed: 1})
		got, err = w.dax.BatchGetItem(t.Context(), read)
		if err != nil {
			t.Fatal(err)
		}
		heal()
		if len(got.UnprocessedKeys) != 2 || !cmp.Equal(got.UnprocessedKeys[two].Keys, []Item{twoKey}, same) || !cmp.Equal(got.UnprocessedKeys[one].Keys, []Item{pkItem("none")}, same) {
			t.Errorf("unprocessed: %v", got.UnprocessedKeys)
		}

		heal = w.Fail(BatchWriteItem, Fault{Unprocessed: 1})
		remove := []types.WriteRequest{{PutRequest: &types.PutRequest{Item: pkItem("c")}}, {DeleteRequest: &types.DeleteRequest{Key: pkItem("a")}}}
		left, err := w.dax.BatchWriteItem(t.Context(), &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{one: remove}})
		heal()
		// The client has no way to tell an unprocessed delete: it takes the null
		// that stands for it, and makes a delete of the key.
		if err != nil || len(left.UnprocessedItems[one]) != 1 || left.UnprocessedItems[one][0].DeleteRequest == nil {
			t.Fatalf("%v, unprocessed %v", err, left.UnprocessedItems)
		}
		if _, err := w.dax.BatchWriteItem(t.Context(), &dynamodb.BatchWriteItemInput{RequestItems: left.UnprocessedItems}); err != nil {
			t.Fatal(err)
		}
		if item := w.get(t, one, pkItem("a")); item != nil {
			t.Errorf("deleted in a batch, and still there: %v", item)
		}
		if item := w.get(t, one, pkItem("c"), consistent); item == nil {
			t.Error("written in a batch, and not there")
		}
	})
}

func TestQueriesAndScans(t *testing.T) {
	everywhere(t, Options{}, func(t *testing.T, w *world) {
		table := w.indexed(t)
		for i := range 10 {
			w.putPast(t, table, Item{"pk": str("a"), "sk": num(fmt.Sprint(i)), "group": str(fmt.Sprint("g", i%2)), "v": num(fmt.Sprint(10 * i))})
		}
		query := func(condition string, change func(*dynamodb.QueryInput)) (all []string, last *dynamodb.QueryOutput) {
			t.Helper()
			in := &dynamodb.QueryInput{TableName: &table, KeyConditionExpression: &condition, ExpressionAttributeValues: Item{":a": str("a")}}
			change(in)
			for pages := dax.NewQueryPaginator(w.dax, in); pages.HasMorePages(); {
				out, err := pages.NextPage(t.Context())
				if err != nil {
					t.Fatalf("%s: %v", condition, err)
				}
				for _, item := range out.Items {
					all = append(all, exact(text(item["sk"])))
				}
				last = out
			}
			return all, last
		}
		want := func(what string, got []string, want string) {
			t.Helper()
			if strings.Join(got, " ") != want {
				t.Errorf("%s: got %v, want %s", what, got, want)
			}
		}
		got, _ := query("pk = :a", func(*dynamodb.QueryInput) {})
		want("all", got, "0 1 2 3 4 5 6 7 8 9")
		got, _ = query("pk = :a", func(in *dynamodb.QueryInput) { in.Limit = aws.Int32(3) })
		want("in pages", got, "0 1 2 3 4 5 6 7 8 9")
		got, _ = query("pk = :a", func(in *dynamodb.QueryInput) { in.Limit, in.ScanIndexForward = aws.Int32(4), aws.Bool(false) })
		want("backwards in pages", got, "9 8 7 6 5 4 3 2 1 0")
		got, _ = query("pk = :a AND sk BETWEEN :x AND :y", func(in *dynamodb.QueryInput) {
			in.ExpressionAttributeValues[":x"], in.ExpressionAttributeValues[":y"] = num("3"), num("5")
		})
		want("between", got, "3 4 5")
		got, out := query("pk = :a", func(in *dynamodb.QueryInput) {
			in.FilterExpression, in.ExpressionAttributeValues[":v"] = aws.String("v > :v"), num("70")
		})
		want("filtered", got, "8 9")
		if out.Count != 2 || out.ScannedCount != 10 {
			t.Errorf("filtered: %d of %d", out.Count, out.ScannedCount)
		}
		_, out = query("pk = :a", func(in *dynamodb.QueryInput) { in.Select = types.SelectCount })
		if out.Count != 10 || len(out.Items) != 0 {
			t.Errorf("counted: %d, with %d items", out.Count, len(out.Items))
		}
		got, out = query("pk = :a", func(in *dynamodb.QueryInput) {
			in.ProjectionExpression, in.Select, in.Limit = aws.String("sk, v"), types.SelectSpecificAttributes, aws.Int32(100)
		})
		want("projected", got, "0 1 2 3 4 5 6 7 8 9")
		if len(out.Items[0]) != 2 {
			t.Errorf("projected: %v", out.Items[0])
		}
		got, _ = query("#g = :a", func(in *dynamodb.QueryInput) {
			in.IndexName, in.Limit, in.ExpressionAttributeNames = aws.String("by-group"), aws.Int32(2), map[string]string{"#g": "group"}
			in.ExpressionAttributeValues[":a"] = str("g1")
		})
		slices.Sort(got)
		want("of an index, in pages", got, "1 3 5 7 9")

		for _, segments := range []int32{1, 3} {
			var all []string
			for segment := range segments {
				in := &dynamodb.ScanInput{TableName: &table, Limit: aws.Int32(4), FilterExpression: aws.String("v < :v"), ExpressionAttributeValues: Item{":v": num("50")}}
				if segments > 1 {
					in.Segment, in.TotalSegments = &segment, &segments
				}
				for pages := dax.NewScanPaginator(w.dax, in); pages.HasMorePages(); {
					out, err := pages.NextPage(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					for _, item := range out.Items {
						all = append(all, text(item["sk"]))
					}
				}
			}
			slices.Sort(all)
			want(fmt.Sprintf("scan of %d segments", segments), slices.Compact(all), "0 1 2 3 4")
		}
	})
}

// indexed makes a table with an index.
func (w *world) indexed(t *testing.T) string {
	t.Helper()
	table := w.table(t, "pk:S", "sk:N")
	_, err := w.past.UpdateTable(t.Context(), &dynamodb.UpdateTableInput{
		TableName: &table, AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String("pk"), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String("sk"), AttributeType: types.ScalarAttributeTypeN},
			{AttributeName: aws.String("group"), AttributeType: types.ScalarAttributeTypeS},
		},
		GlobalSecondaryIndexUpdates: []types.GlobalSecondaryIndexUpdate{{Create: &types.CreateGlobalSecondaryIndexAction{
			IndexName: aws.String("by-group"), Projection: &types.Projection{ProjectionType: types.ProjectionTypeAll},
			KeySchema: []types.KeySchemaElement{{AttributeName: aws.String("group"), KeyType: types.KeyTypeHash}},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestTransactions(t *testing.T) {
	everywhere(t, Options{}, func(t *testing.T, w *world) {
		table := w.table(t, "pk:S")
		w.put(t, table, pkItem("update", "n", num("1")))
		w.put(t, table, pkItem("delete", "n", num("2")))
		w.put(t, table, pkItem("check", "n", num("3")))
		write := func(check string) error {
			_, err := w.dax.TransactWriteItems(t.Context(), &dynamodb.TransactWriteItemsInput{TransactItems: []types.TransactWriteItem{
				{Put: &types.Put{TableName: &table, Item: pkItem("put", "v", str("x")), ConditionExpression: aws.String("attribute_not_exists(pk)")}},
				{Update: &types.Update{TableName: &table, Key: pkItem("update"), UpdateExpression: aws.String("SET n = n + :v"), ExpressionAttributeValues: Item{":v": num("10")}}},
				{Delete: &types.Delete{TableName: &table, Key: pkItem("delete")}},
				{ConditionCheck: &types.ConditionCheck{
					TableName: &table, Key: pkItem("check"), ConditionExpression: aws.String("n = :v"), ExpressionAttributeValues: Item{":v": num(check)},
					ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
				}},
			}})
			return err
		}
		err := write("4")
		var canceled *types.TransactionCanceledException
		if !errors.As(err, &canceled) || len(canceled.CancellationReasons) != 4 {
			t.Fatalf("got %v", err)
		}
		reason := canceled.CancellationReasons[3]
		if deref(canceled.CancellationReasons[0].Code) != "None" || deref(reason.Code) != "ConditionalCheckFailed" {
			t.Errorf("reasons: %v", canceled.CancellationReasons)
		}
		if diff := cmp.Diff(pkItem("check", "n", num("3")), reason.Item, same); diff != "" {
			t.Errorf("the item that the condition failed on (-want +got):\n%s", diff)
		}
		if item := w.get(t, table, pkItem("put"), consistent); item != nil {
			t.Error("a canceled transaction wrote")
		}

		if err := write("3"); err != nil {
			t.Fatal(err)
		}
		for pk, want := range map[string]Item{"put": pkItem("put", "v", str("x")), "update": pkItem("update", "n", num("11")), "delete": nil} {
			if diff := cmp.Diff(want, w.get(t, table, pkItem(pk)), same); diff != "" {
				t.Errorf("%s (-want +got):\n%s", pk, diff)
			}
		}
		w.putPast(t, table, pkItem("update", "n", num("12")))
		out, err := w.dax.TransactGetItems(t.Context(), &dynamodb.TransactGetItemsInput{TransactItems: []types.TransactGetItem{
			{Get: &types.Get{TableName: &table, Key: pkItem("update")}},
			{Get: &types.Get{TableName: &table, Key: pkItem("delete")}},
			{Get: &types.Get{TableName: &table, Key: pkItem("put"), ProjectionExpression: aws.String("v")}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		want := []types.ItemResponse{{Item: pkItem("update", "n", num("12"))}, {}, {Item: Item{"v": str("x")}}}
		for i := range want {
			if diff := cmp.Diff(want[i].Item, out.Responses[i].Item, same); diff != "" {
				t.Errorf("response %d (-want +got):\n%s", i, diff)
			}
		}
	})
}
