package emulators

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// What the stores' tests take for granted of moto, as it is served here.

// Of several conditional writes at once, one wins: by the condition of an item,
// and by If-None-Match of an object.
func TestConditionalWritesAreAtomic(t *testing.T) {
	moto := Moto(t)
	table, bucket := Name(t, "cas"), Name(t, "cas")
	create := fmt.Sprintf(`{"TableName":%q,"BillingMode":"PAY_PER_REQUEST","AttributeDefinitions":[{"AttributeName":"k","AttributeType":"S"}],`+
		`"KeySchema":[{"AttributeName":"k","KeyType":"HASH"}]}`, table)
	if a := post(t, moto, "dynamodb", "DynamoDB_20120810.CreateTable", create); a.status != http.StatusOK {
		t.Fatalf("CreateTable: %d %s", a.status, a.body)
	}
	if a, err := try(t.Context(), http.MethodPut, moto+"/"+bucket, "s3", nil, nil); err != nil || a.status != http.StatusOK {
		t.Fatalf("CreateBucket: %d %s %v", a.status, a.body, err)
	}
	pad := strings.Repeat("x", 20_000)
	for _, c := range []struct {
		name  string
		write func(round, writer int) (got, error)
		lost  string
	}{
		{name: "DynamoDB", lost: "ConditionalCheckFailed", write: func(round, writer int) (got, error) {
			return tryPost(t.Context(), moto, "dynamodb", "DynamoDB_20120810.PutItem", fmt.Sprintf(
				`{"TableName":%q,"Item":{"k":{"S":"%d"},"by":{"N":"%d"},"pad":{"S":%q}},"ConditionExpression":"attribute_not_exists(k)"}`,
				table, round, writer, pad))
		}},
		{name: "S3", lost: "PreconditionFailed", write: func(round, writer int) (got, error) {
			return try(t.Context(), http.MethodPut, fmt.Sprintf("%s/%s/%d", moto, bucket, round), "s3",
				map[string]string{"If-None-Match": "*"}, fmt.Appendf(nil, "%d%s", writer, pad))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for round := range 10 {
				answers := make([]got, 8)
				errs := make([]error, len(answers))
				var writers sync.WaitGroup
				start := make(chan struct{})
				for writer := range answers {
					writers.Go(func() {
						<-start
						answers[writer], errs[writer] = c.write(round, writer)
					})
				}
				close(start)
				writers.Wait()
				won := 0
				for writer, a := range answers {
					switch {
					case errs[writer] != nil:
						t.Fatal(errs[writer])
					case a.status == http.StatusOK:
						won++
					case !bytes.Contains(a.body, []byte(c.lost)):
						t.Fatalf("%d %s", a.status, a.body)
					}
				}
				if won != 1 {
					t.Fatalf("round %d: %d writers won", round, won)
				}
			}
		})
	}
}

// What moto does not know is said, and does not take the server down.
func TestUnknownOperation(t *testing.T) {
	a, err := try(t.Context(), http.MethodPost, Moto(t)+"/", "sts",
		map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, []byte("Action=NoSuchThing&Version=2011-06-15"))
	if err != nil {
		t.Fatal(err)
	}
	if a.status < 400 || !bytes.Contains(bytes.ToLower(a.body), []byte("nosuchthing")) && !bytes.Contains(a.body, []byte("no_such_thing")) {
		t.Errorf("%d %s", a.status, a.body)
	}
}
