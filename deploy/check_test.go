package main_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cognitoidentityprovider"
	cognito "github.com/aws/aws-sdk-go-v2/service/cognitoidentityprovider/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/emulators"
)

// orders stands for a stack's edge and all behind it: it decides by the table, and can
// be wrong in the ways that test.sh is there to find.
type orders struct {
	t      *testing.T
	tables *dynamodb.Client
	table  string

	mu     sync.Mutex
	placed map[string]string // id by tenant and key
	owner  map[string]string
	roles  map[string]bool
	// leaks, tells and stale are ways to be wrong.
	leaks, tells, stale, twice bool
}

func (o *orders) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/dev")
	if path == "/openapi.json" {
		fmt.Fprintln(w, "{}")
		return
	}
	var claims struct {
		Tenant string   `json:"custom:tenantId"`
		Groups []string `json:"cognito:groups"`
	}
	parts := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
	if len(parts) == 3 {
		text, _ := base64.RawURLEncoding.DecodeString(parts[1])
		_ = json.Unmarshal(text, &claims) // what is no token has no tenant
	}
	if claims.Tenant == "" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	for _, g := range claims.Groups {
		o.roles[g] = true
	}
	id, one := strings.CutPrefix(path, "/v1/orders/")
	switch {
	case r.Method == http.MethodPost:
		o.place(w, r, claims.Tenant)
	case one && o.owner[id] != "" && (o.owner[id] == claims.Tenant || o.leaks):
		fmt.Fprintf(w, `{"id":%q}`, id)
	case one:
		w.WriteHeader(http.StatusNotFound)
		if o.tells && o.owner[id] != "" {
			fmt.Fprint(w, "it is somebody else's")
		}
	default:
		var mine []string
		for id, owner := range o.owner {
			if owner == claims.Tenant {
				mine = append(mine, id)
			}
		}
		_ = json.NewEncoder(w).Encode(mine) // who reads it complains
	}
}

func (o *orders) place(w http.ResponseWriter, r *http.Request, tenant string) {
	var order struct {
		Items []struct {
			UnitPrice int64 `json:"unitPrice"`
		} `json:"items"`
	}
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil || len(order.Items) != 1 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	key := tenant + " " + r.Header.Get("Idempotency-Key")
	if id := o.placed[key]; id != "" && !o.twice {
		w.Header().Set("Idempotency-Replayed", "true")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"id":%q}`, id)
		return
	}
	got, err := o.tables.GetItem(r.Context(), &dynamodb.GetItemInput{TableName: &o.table, Key: limitsKey(tenant)})
	if err != nil {
		o.t.Error(err)
		return
	}
	lowest, _ := strconv.ParseInt(got.Item["config"].(*types.AttributeValueMemberM).Value["minAmount"].(*types.AttributeValueMemberN).Value, 10, 64)
	if order.Items[0].UnitPrice < lowest && !o.stale {
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	}
	id := fmt.Sprintf("%s-%d2", strings.ToLower(shortName()), len(o.owner))
	o.placed[key], o.owner[id] = id, tenant
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"id":%q}`, id)
}

func limitsKey(tenant string) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: "TENANT#" + tenant}, "sk": &types.AttributeValueMemberS{Value: "CONFIG#order-limits"}}
}

// A stack is asked with tokens of users that are made for it, and what it does wrong is
// found.
func TestTestScript(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	c := a.config()
	c.BaseEndpoint = sdk.String(emulators.Moto(t))
	ctx := t.Context()
	pools := cognitoidentityprovider.NewFromConfig(c)
	pool := must(pools.CreateUserPool(ctx, &cognitoidentityprovider.CreateUserPoolInput{
		PoolName: sdk.String(a.name()), UsernameAttributes: []cognito.UsernameAttributeType{"email"},
		Schema: []cognito.SchemaAttributeType{{Name: sdk.String("tenantId"), AttributeDataType: "String"}},
	}))(t).UserPool.Id
	must(pools.CreateGroup(ctx, &cognitoidentityprovider.CreateGroupInput{UserPoolId: pool, GroupName: sdk.String("editor")}))(t)
	client := must(pools.CreateUserPoolClient(ctx, &cognitoidentityprovider.CreateUserPoolClientInput{UserPoolId: pool, ClientName: sdk.String("app")}))(t).UserPoolClient.ClientId
	tables, table := dynamodb.NewFromConfig(c), a.name()+"-config"
	must(tables.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName: &table, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: sdk.String("pk"), AttributeType: "S"}, {AttributeName: sdk.String("sk"), AttributeType: "S"}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: sdk.String("pk"), KeyType: "HASH"}, {AttributeName: sdk.String("sk"), KeyType: "RANGE"}},
	}))(t)
	o := &orders{t: t, tables: tables, table: table, placed: map[string]string{}, owner: map[string]string{}, roles: map[string]bool{}}
	server := httptest.NewServer(o)
	t.Cleanup(server.Close)
	args := []string{"dev", "--set", "Project=" + a.project}
	has(t, a.run(t, "", "test", args...), 3, "there is no stack "+a.name(), "deploy/deploy.sh dev")
	a.newStack("CREATE_COMPLETE")
	has(t, a.run(t, "", "test", args...), 1, "says neither where it is nor where its table is")
	a.outputs["Url"], a.outputs["ConfigTable"], a.outputs["UserPoolId"], a.outputs["AppClientId"] = server.URL+"/dev", table, *pool, *client
	has(t, a.run(t, "", "test", args...), 1, "has no order limits in the table", "deploy/seed.sh")

	for _, tenant := range []string{"acme-corp", "globex-inc"} {
		item := limitsKey(tenant)
		item["config"] = &types.AttributeValueMemberM{Value: map[string]types.AttributeValue{"minAmount": &types.AttributeValueMemberN{Value: "100"}, "maxAmount": &types.AttributeValueMemberN{Value: "900"}}}
		must(tables.PutItem(ctx, &dynamodb.PutItemInput{TableName: &table, Item: item}))(t)
	}
	has(t, a.run(t, "", "test", args...), 0, "brought back, it accepts them after")
	o.mu.Lock()
	if !o.roles["editor"] || len(o.roles) != 1 {
		t.Errorf("the tokens have the roles %v", o.roles)
	}
	o.mu.Unlock()
	for _, tc := range []struct {
		wrong *bool
		want  string
	}{
		{&o.leaks, "the order of another tenant: answered 200"},
		{&o.tells, "another tenant's order is told apart from one that never was"},
		{&o.twice, "the same request again is the same order"},
		{&o.stale, "a change in the table has not decided orders for"},
	} {
		o.mu.Lock()
		*tc.wrong = true
		o.mu.Unlock()
		r := a.run(t, "", "test", append(args, "--within", "200ms")...)
		if r.code == 0 || !strings.Contains(r.err, tc.want) {
			t.Errorf("want %q: %v", tc.want, r)
		}
		o.mu.Lock()
		*tc.wrong = false
		o.mu.Unlock()
		got := must(tables.GetItem(ctx, &dynamodb.GetItemInput{TableName: &table, Key: limitsKey("acme-corp")}))(t)
		if n := got.Item["config"].(*types.AttributeValueMemberM).Value["minAmount"].(*types.AttributeValueMemberN).Value; n != "100" || got.Item["checkBefore"] != nil {
			t.Errorf("the limit is left at %s", n)
		}
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("not.a.token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	has(t, a.run(t, "", "test", append(args, "--token-file-a", file)...), 1, "tenant A places an order: answered 401")
}
