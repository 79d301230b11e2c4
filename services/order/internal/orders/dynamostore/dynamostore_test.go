package dynamostore_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go/logging"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/services/order/internal/orders"
	"github.com/tagstore/tagstore/services/order/internal/orders/dynamostore"
	"github.com/tagstore/tagstore/services/order/internal/orders/storetest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	// What the tests' own clients keep idle is no leak of the store.
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// use points the SDK to an endpoint.
func use(t *testing.T, endpoint string) {
	t.Helper()
	for _, set := range emulators.Environ(endpoint) {
		name, value, _ := strings.Cut(set, "=")
		t.Setenv(name, value)
	}
}

// tableOf is the table of a place that one test names.
func tableOf(place string) string {
	sum := sha256.Sum256([]byte(fmt.Sprint(place, os.Getpid(), started)))
	return "tagstore-order-" + hex.EncodeToString(sum[:8])
}

// started tells one run of the tests from others on the same emulator.
var started = time.Now().UnixNano()

func open(t *testing.T, place string) orders.Store {
	t.Helper()
	table := tableOf(place)
	s, err := dynamostore.Open(t.Context(), dynamostore.Options{Table: table, CreateTable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		_, _ = raw(t).DeleteTable(context.Background(), &dynamodb.DeleteTableInput{TableName: &table}) // the emulator outlives the test
	})
	return s
}

// raw is the SDK's own client of the endpoint in use.
func raw(t *testing.T) *dynamodb.Client {
	t.Helper()
	cfg, err := sdkconfig.LoadDefaultConfig(context.Background(), sdkconfig.WithHTTPClient(http.DefaultClient), sdkconfig.WithLogger(logging.Nop{}))
	if err != nil {
		t.Fatal(err)
	}
	return dynamodb.NewFromConfig(cfg)
}

func TestStore(t *testing.T) {
	for name, endpoint := range map[string]func(testing.TB) string{"DynamoDB Local": emulators.DynamoDBLocal, "moto": emulators.Moto} {
		t.Run(name, func(t *testing.T) {
			use(t, endpoint(t))
			storetest.Run(t, open)
		})
	}
}

// local is a store in DynamoDB Local with a proxy in front.
func local(t *testing.T) (orders.Store, *proxy) {
	t.Helper()
	p := newProxy(t, emulators.DynamoDBLocal(t))
	use(t, p.server.URL)
	return open(t, t.TempDir()), p
}

func once(key string) orders.Once { return orders.Once{Key: key, Fingerprint: [32]byte{1}} }

// What a network and a busy table do to a write.
func TestCreateUnderFaults(t *testing.T) {
	const put, transact, get = "PutItem", "TransactWriteItems", "GetItem"
	conflict := `,"CancellationReasons":[{"Code":"TransactionConflict"},{"Code":"None"}]`
	throttle := `,"CancellationReasons":[{"Code":"None"},{"Code":"ThrottlingError"}]`
	for name, tc := range map[string]struct {
		key    string
		faults []fault
		want   config.Code // Unknown: Create succeeds
		stored bool
		sent   int // how often the write is sent
	}{
		"an answer is lost":              {"", []fault{lost(put)}, config.Unknown, true, 2},
		"an answer of two is lost":       {"k", []fault{lost(transact)}, config.Unknown, true, 2},
		"a request is dropped":           {"", []fault{dropped(put)}, config.Unknown, true, 2},
		"a request of two is dropped":    {"k", []fault{dropped(transact)}, config.Unknown, true, 2},
		"carried out and failed":         {"", []fault{failed(put)}, config.Unknown, true, 2},
		"carried out and failed, of two": {"k", []fault{failed(transact)}, config.Unknown, true, 2},
		"all answers are lost":           {"", times(4, lost(put)), config.Unknown, true, 4},
		"all answers of two are lost":    {"k", times(4, lost(transact)), config.Unknown, true, 4},
		"all are dropped":                {"", times(4, dropped(put)), config.OutcomeUnknown, false, 4},
		"all of two are dropped":         {"k", times(4, dropped(transact)), config.OutcomeUnknown, false, 4},
		"nobody can tell": {
			"k", append(times(4, lost(transact)), refused(get, 400, "AccessDeniedException", "")),
			config.OutcomeUnknown, true, 4,
		},
		"lost, then throttled": {"", append([]fault{lost(put)}, times(3, refused(put, 400, "ThrottlingException", ""))...), config.Unknown, true, 4},
		"others write the same": {
			"k", times(2, refused(transact, 400, "TransactionCanceledException", conflict)), config.Unknown, true, 3,
		},
		"others write the same for long": {
			"k", times(4, refused(transact, 400, "TransactionCanceledException", conflict)), config.Unavailable, false, 4,
		},
		"others write the item":     {"", []fault{refused(put, 400, "TransactionConflictException", "")}, config.Unknown, true, 2},
		"a transaction is too many": {"k", times(4, refused(transact, 400, "TransactionCanceledException", throttle)), config.ResourceExhausted, false, 4},
		"the table is busy":         {"", times(4, refused(put, 400, "ProvisionedThroughputExceededException", "")), config.ResourceExhausted, false, 4},
		"the table is gone":         {"", []fault{refused(put, 400, "ResourceNotFoundException", "")}, config.FailedPrecondition, false, 1},
		"access is denied":          {"k", []fault{refused(transact, 400, "AccessDeniedException", "")}, config.FailedPrecondition, false, 1},
		"credentials have expired":  {"", []fault{refused(put, 400, "ExpiredTokenException", "")}, config.FailedPrecondition, false, 1},
		"the form is refused":       {"", []fault{refused(put, 400, "ValidationException", "")}, config.Internal, false, 1},
		"an error that nobody knows": {
			"", []fault{refused(put, 418, "TeapotException", "")}, config.Unavailable, false, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := local(t)
			p.next(tc.faults...)
			o := storetest.NewOrder(t, "acme-corp", 0)
			_, replayed, err := s.Create(t.Context(), o, orders.Once{Key: tc.key})
			switch {
			case tc.want == config.Unknown && (err != nil || replayed):
				t.Errorf("Create returned replayed %v, %v", replayed, err)
			case tc.want != config.Unknown && !errors.Is(err, tc.want):
				t.Errorf("Create returned %v, want code %v", err, tc.want)
			}
			discreet(t, err)
			write := put
			if tc.key != "" {
				write = transact
			}
			if n := p.count(write); n != tc.sent {
				t.Errorf("the write was sent %d times, want %d", n, tc.sent)
			}
			if _, err := s.Get(t.Context(), o.Tenant, o.ID); (err == nil) != tc.stored {
				t.Errorf("Get returned %v, want an order: %v", err, tc.stored)
			}
		})
	}
}

// discreet checks that an error's text names nothing of the account.
func discreet(t *testing.T, err error) {
	t.Helper()
	if err != nil && (strings.Contains(err.Error(), "arn:") || strings.Contains(err.Error(), "acme") || strings.Contains(err.Error(), "123456789012")) {
		t.Errorf("the error says too much: %v", err)
	}
}

// Two services get one request at once, and the second's answer is lost.
func TestLostAnswerToTheSecondOfTwo(t *testing.T) {
	s, p := local(t)
	first, second := storetest.NewOrder(t, "acme-corp", 0), storetest.NewOrder(t, "acme-corp", 1)
	p.next(during("TransactWriteItems", func() {
		if _, replayed, err := s.Create(t.Context(), first, once("k")); err != nil || replayed {
			t.Errorf("the first Create returned replayed %v, %v", replayed, err)
		}
	}))
	got, replayed, err := s.Create(t.Context(), second, once("k"))
	if err != nil || !replayed || got.ID != first.ID {
		t.Errorf("Create returned %v, replayed %v, %v; want the first order", got.ID, replayed, err)
	}
	// The same, with every answer of the second lost: what stands there says
	// that it was not stored.
	third := storetest.NewOrder(t, "acme-corp", 2)
	p.next(times(4, lost("TransactWriteItems"))...)
	got, replayed, err = s.Create(t.Context(), third, once("k"))
	if err != nil || !replayed || got.ID != first.ID {
		t.Errorf("Create returned %v, replayed %v, %v; want the first order", got.ID, replayed, err)
	}
	p.next(times(4, lost("TransactWriteItems"))...)
	if _, _, err = s.Create(t.Context(), third, orders.Once{Key: "k"}); !errors.Is(err, config.AlreadyExists) {
		t.Errorf("Create of another order returned %v, want code already_exists", err)
	}
	if _, err := s.Get(t.Context(), third.Tenant, third.ID); !errors.Is(err, config.NotFound) {
		t.Errorf("Get of what was not created returned %v", err)
	}
}

// A caller that goes away while its order is on the way learns nothing; the
// order is there, or is not, and Create says so where it can.
func TestCallerGoesAway(t *testing.T) {
	s, p := local(t)
	o := storetest.NewOrder(t, "acme-corp", 0)
	ctx, cancel := context.WithCancel(t.Context())
	p.next(fault{"TransactWriteItems", func(p *proxy, _ http.ResponseWriter, r *http.Request, body []byte) {
		p.forward(r, body)
		cancel()
		<-r.Context().Done()
	}})
	if _, replayed, err := s.Create(ctx, o, once("k")); err != nil || replayed {
		t.Errorf("Create of what was stored returned replayed %v, %v", replayed, err)
	}

	late := storetest.NewOrder(t, "acme-corp", 1)
	ctx, cancel = context.WithCancel(t.Context())
	p.next(fault{"PutItem", func(_ *proxy, _ http.ResponseWriter, r *http.Request, _ []byte) {
		cancel()
		<-r.Context().Done()
	}})
	if _, _, err := s.Create(ctx, late, orders.Once{}); !errors.Is(err, config.OutcomeUnknown) {
		t.Errorf("Create of what may still arrive returned %v, want code outcome_unknown", err)
	}
}

// No call waits for ever on a table that does not answer.
func TestSilentTable(t *testing.T) {
	s, p := local(t)
	silent := func(operation string) []fault {
		return times(4, fault{operation, func(_ *proxy, _ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() }})
	}
	o := storetest.NewOrder(t, "acme-corp", 0)
	p.next(silent("GetItem")[:3]...) // the fourth attempt finds no time
	began := time.Now()
	_, err := s.Get(t.Context(), o.Tenant, o.ID)
	if !errors.Is(err, config.Unavailable) {
		t.Errorf("Get returned %v, want code unavailable", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Get took %v", took)
	}
	p.next(silent("Query")[:1]...)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.List(ctx, o.Tenant, orders.ID{}, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("List returned %v, want the caller's deadline", err)
	}
}

// A table that fails is not made busier: the retries of many calls have a
// budget.
func TestRetriesHaveABudget(t *testing.T) {
	s, p := local(t)
	const calls = 60
	tenant := storetest.Tenant(t, "acme-corp")
	before := p.count("GetItem")
	faults := times(calls+15, refused("GetItem", 500, "InternalServerError", ""))
	p.next(faults...)
	for range calls {
		if _, err := s.Get(t.Context(), tenant, orders.NewID(time.Now())); !errors.Is(err, config.Unavailable) {
			t.Errorf("Get returned %v, want code unavailable", err)
		}
	}
	if n := p.count("GetItem") - before; n != calls+15 {
		t.Errorf("%d calls were %d requests, want %d", calls, n, calls+15)
	}
}

// A replay costs one read beside the write, and a key with another order none.
func TestReadsOfAReplay(t *testing.T) {
	s, p := local(t)
	o := storetest.NewOrder(t, "acme-corp", 0)
	if _, _, err := s.Create(t.Context(), o, once("k")); err != nil {
		t.Fatal(err)
	}
	again := storetest.NewOrder(t, "acme-corp", 1)
	before := p.count("GetItem")
	if got, replayed, err := s.Create(t.Context(), again, once("k")); err != nil || !replayed || got.ID != o.ID {
		t.Fatalf("the second Create returned %v, replayed %v, %v", got.ID, replayed, err)
	}
	if n := p.count("GetItem") - before; n != 1 {
		t.Errorf("a replay read %d items, want 1", n)
	}
	if _, _, err := s.Create(t.Context(), again, orders.Once{Key: "k"}); !errors.Is(err, config.AlreadyExists) {
		t.Fatalf("Create returned %v, want code already_exists", err)
	}
	if n := p.count("GetItem") - before; n != 1 {
		t.Errorf("another order with the key read %d items, want none", n-1)
	}
}

// The shape of the items is what other readers of the table rely on.
func TestItems(t *testing.T) {
	s, _ := local(t)
	o := storetest.NewOrder(t, "acme-corp", 7)
	if _, _, err := s.Create(t.Context(), o, once("a key of the client's own")); err != nil {
		t.Fatal(err)
	}
	all := scan(t, s)
	sum := sha256.Sum256([]byte("a key of the client's own"))
	wantKeys := []string{"ONCE#" + hex.EncodeToString(sum[:]), "ORDER#" + o.ID.String()}
	var keys []string
	for _, it := range all {
		keys = append(keys, textOf(it["sk"]))
		if textOf(it["pk"]) != "TENANT#acme-corp" || textOf(it["tenant"]) != "acme-corp" {
			t.Errorf("an item is in partition %q of tenant %q", textOf(it["pk"]), textOf(it["tenant"]))
		}
	}
	if diff := cmp.Diff(wantKeys, keys); diff != "" {
		t.Fatalf("sort keys (-want +got):\n%s", diff)
	}
	order := all[1]
	total, _ := order["total"].(*types.AttributeValueMemberN)
	if total == nil || total.Value != "9007199254740990" {
		t.Errorf("the total is %v, want the number 9007199254740990", order["total"])
	}
}

func textOf(v types.AttributeValue) string {
	s, _ := v.(*types.AttributeValueMemberS)
	if s == nil {
		return ""
	}
	return s.Value
}

// scan returns all items of the store's table in the order of their sort keys;
// the test has one tenant.
func scan(t *testing.T, s orders.Store) []map[string]types.AttributeValue {
	t.Helper()
	out, err := raw(t).Scan(t.Context(), &dynamodb.ScanInput{TableName: aws.String(dynamostore.TableOf(s)), ConsistentRead: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	return out.Items
}

// rewrite changes the stored order as somebody with access to the table may.
func rewrite(t *testing.T, s orders.Store, o orders.Order, change func(map[string]types.AttributeValue)) {
	t.Helper()
	for _, it := range scan(t, s) {
		if textOf(it["sk"]) != "ORDER#"+o.ID.String() {
			continue
		}
		change(it)
		if _, err := raw(t).PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(dynamostore.TableOf(s)), Item: it}); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("the order is not in the table")
}

// Damage is for its order alone; more attributes are no damage.
func TestDamage(t *testing.T) {
	number := func(n string) types.AttributeValue { return &types.AttributeValueMemberN{Value: n} }
	text := func(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
	for name, tc := range map[string]struct {
		change func(map[string]types.AttributeValue)
		intact bool
	}{
		"more attributes": {func(it map[string]types.AttributeValue) {
			it["note"], it["expires"] = text("by an auditor"), number("7")
		}, true},
		"no total":          {func(it map[string]types.AttributeValue) { delete(it, "total") }, false},
		"a fraction":        {func(it map[string]types.AttributeValue) { it["total"] = number("12.5") }, false},
		"beyond 64 bits":    {func(it map[string]types.AttributeValue) { it["total"] = number("9223372036854775808") }, false},
		"total as text":     {func(it map[string]types.AttributeValue) { it["total"] = text("1250") }, false},
		"another's order":   {func(it map[string]types.AttributeValue) { it["tenant"] = text("globex-inc") }, false},
		"lines are no list": {func(it map[string]types.AttributeValue) { it["lines"] = text("[]") }, false},
		"a line is no map": {func(it map[string]types.AttributeValue) {
			it["lines"] = &types.AttributeValueMemberL{Value: []types.AttributeValue{text("A")}}
		}, false},
		"no gateway": {func(it map[string]types.AttributeValue) { delete(it, "gateway") }, false},
		"a reference as set": {func(it map[string]types.AttributeValue) {
			it["reference"] = &types.AttributeValueMemberSS{Value: []string{"a"}}
		}, false},
		"a key that is none": {func(it map[string]types.AttributeValue) {
			d := it["decisions"].(*types.AttributeValueMemberL).Value[0].(*types.AttributeValueMemberM)
			d.Value["key"] = text("Not A Key")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := local(t)
			var made []orders.Order
			for i := range 3 {
				o := storetest.NewOrder(t, "acme-corp", i)
				if _, _, err := s.Create(t.Context(), o, once(fmt.Sprint(i))); err != nil {
					t.Fatal(err)
				}
				made = append(made, o)
			}
			rewrite(t, s, made[1], tc.change)
			_, got := s.Get(t.Context(), made[1].Tenant, made[1].ID)
			_, found := s.Find(t.Context(), made[1].Tenant, once("1"))
			_, listed := s.List(t.Context(), made[1].Tenant, orders.ID{}, 10)
			for call, err := range map[string]error{"Get": got, "Find": found, "List": listed} {
				if (err == nil) != tc.intact || err != nil && !errors.Is(err, config.DataLoss) {
					t.Errorf("%s returned %v", call, err)
				}
				discreet(t, err)
			}
			for i, before := range map[int]orders.ID{0: made[1].ID, 2: {}} {
				if _, err := s.Get(t.Context(), made[i].Tenant, made[i].ID); err != nil {
					t.Errorf("Get of another order returned %v", err)
				}
				if page, err := s.List(t.Context(), made[i].Tenant, before, 1); err != nil || len(page) != 1 || page[0].ID != made[i].ID {
					t.Errorf("a page without the damaged order is %v, %v", page, err)
				}
			}
		})
	}
}

// The record of a key whose order is gone, or which is none.
func TestDamagedMark(t *testing.T) {
	for name, change := range map[string]func(map[string]types.AttributeValue){
		"no order": func(it map[string]types.AttributeValue) { delete(it, "order") },
		"a lost order": func(it map[string]types.AttributeValue) {
			it["order"] = &types.AttributeValueMemberS{Value: orders.NewID(time.Now()).String()}
		},
		"no fingerprint": func(it map[string]types.AttributeValue) {
			it["fingerprint"] = &types.AttributeValueMemberB{Value: []byte("short")}
		},
		"another's": func(it map[string]types.AttributeValue) {
			it["tenant"] = &types.AttributeValueMemberS{Value: "globex-inc"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := local(t)
			o := storetest.NewOrder(t, "acme-corp", 0)
			if _, _, err := s.Create(t.Context(), o, once("k")); err != nil {
				t.Fatal(err)
			}
			mark := scan(t, s)[0]
			change(mark)
			if _, err := raw(t).PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(dynamostore.TableOf(s)), Item: mark}); err != nil {
				t.Fatal(err)
			}
			_, found := s.Find(t.Context(), o.Tenant, once("k"))
			_, _, created := s.Create(t.Context(), storetest.NewOrder(t, "acme-corp", 1), once("k"))
			for call, err := range map[string]error{"Find": found, "Create": created} {
				if !errors.Is(err, config.DataLoss) {
					t.Errorf("%s returned %v, want code data_loss", call, err)
				}
				discreet(t, err)
			}
			if _, err := s.Get(t.Context(), o.Tenant, o.ID); err != nil {
				t.Errorf("Get of the order returned %v", err)
			}
		})
	}
}

// An order as large as a request can make it fits; one that can not be kept is
// refused before it is sent.
func TestSize(t *testing.T) {
	s, p := local(t)
	o := storetest.NewOrder(t, "acme-corp", 0)
	o.Lines = nil
	for range orders.MaxLines {
		o.Lines = append(o.Lines, orders.Line{SKU: strings.Repeat("s", orders.MaxSKU), Quantity: orders.MaxAmount, UnitPrice: orders.MaxAmount})
	}
	if _, _, err := s.Create(t.Context(), o, once("k")); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(t.Context(), o.Tenant, o.ID)
	if err != nil || len(got.Lines) != orders.MaxLines {
		t.Errorf("Get returned %d lines, %v", len(got.Lines), err)
	}
	// Pages above DynamoDB's 1 MB are read in parts.
	const n = 12
	for i := range n {
		more := o
		more.ID = storetest.NewOrder(t, "acme-corp", 1+i).ID
		if _, _, err := s.Create(t.Context(), more, orders.Once{}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := s.List(t.Context(), o.Tenant, orders.ID{}, n+5)
	if err != nil || len(page) != n+1 {
		t.Errorf("List returned %d orders, %v", len(page), err)
	}
	if sent := p.count("Query"); sent < 2 {
		t.Errorf("the page took %d queries", sent)
	}

	sent := p.count("PutItem")
	o.ID = orders.NewID(o.CreatedAt)
	for range 4 {
		o.Lines = append(o.Lines, o.Lines[:orders.MaxLines]...)
	}
	if _, _, err := s.Create(t.Context(), o, orders.Once{}); !errors.Is(err, config.InvalidArgument) {
		t.Errorf("Create of what is too large returned %v, want code invalid_argument", err)
	}
	if p.count("PutItem") != sent {
		t.Error("what is too large was sent")
	}
}

// What is counted is not less than what DynamoDB counts: the largest order that
// passes is taken.
func TestSizeIsNotUnderestimated(t *testing.T) {
	s, _ := local(t)
	o := storetest.NewOrder(t, "acme-corp", 0)
	o.Lines = []orders.Line{{}}
	for low, high := 1, 500<<10; ; {
		n := (low + high) / 2
		o.ID, o.CreatedBy = orders.NewID(o.CreatedAt), strings.Repeat("é", n/2)
		_, _, err := s.Create(t.Context(), o, orders.Once{})
		switch {
		case err == nil:
			low = n
		case errors.Is(err, config.InvalidArgument):
			high = n
		default:
			t.Fatalf("an order of about %d bytes: %v", n, err)
		}
		if high-low <= 2 {
			if low < 390<<10 {
				t.Errorf("orders above %d bytes are refused", low)
			}
			return
		}
	}
}
