package dynamostore_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/services/order/internal/orders"
	"github.com/tagstore/tagstore/services/order/internal/orders/dynamostore"
	"github.com/tagstore/tagstore/services/order/internal/orders/storetest"
)

// The README's policy allows exactly what the store calls.
func TestPolicyIsWhatIsCalled(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(readme), "```json\n{\n  \"Version\": \"2012-10-17\"")
	text, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("the README has no IAM policy")
	}
	var policy struct {
		Statement []struct {
			Effect, Resource string
			Action           []string
		}
	}
	if err := json.Unmarshal([]byte("{\"Version\":\"\""+text), &policy); err != nil {
		t.Fatal(err)
	}
	if len(policy.Statement) != 1 || policy.Statement[0].Effect != "Allow" || strings.HasSuffix(policy.Statement[0].Resource, "*") {
		t.Fatalf("the policy is %+v, want one statement for one table", policy)
	}

	created, p := local(t)
	s, err := dynamostore.Open(t.Context(), dynamostore.Options{Table: dynamostore.TableOf(created)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	o := storetest.NewOrder(t, "acme-corp", 0)
	for _, once := range []orders.Once{once("k"), once("k"), {}} {
		if _, _, err := s.Create(t.Context(), o, once); err != nil {
			t.Fatal(err)
		}
		o.ID = orders.NewID(o.CreatedAt)
	}
	if _, err := s.Find(t.Context(), o.Tenant, once("k")); err != nil {
		t.Fatal(err)
	}
	if page, err := s.List(t.Context(), o.Tenant, orders.ID{}, 5); err != nil || len(page) != 2 {
		t.Fatalf("List returned %d orders, %v", len(page), err)
	}
	var want []string
	for _, operation := range p.operations() {
		switch operation {
		case "TransactWriteItems":
			operation = "PutItem" // a transaction needs what its parts need
		case "CreateTable":
			continue // for development only
		}
		want = append(want, "dynamodb:"+operation)
	}
	slices.Sort(want)
	if diff := cmp.Diff(slices.Compact(want), policy.Statement[0].Action); diff != "" {
		t.Errorf("the policy's actions (-called +allowed):\n%s", diff)
	}
}
