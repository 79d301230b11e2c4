package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/order/internal/orders"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func tenant(t testing.TB, s string) config.Tenant {
	t.Helper()
	v, err := config.ParseTenant(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// schema is as much of JSON Schema as openapi.json uses for fields.
type schema struct {
	Properties map[string]json.RawMessage
	Required   []string
}

type document struct {
	Paths      map[string]map[string]struct{ Security []json.RawMessage }
	Components struct{ Schemas map[string]schema }
}

func openAPIDocument(t *testing.T) document {
	t.Helper()
	var d document
	if err := json.Unmarshal(openAPI, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The document has the routes of the server, no more and no fewer, and says of
// each whether it needs a token.
func TestOpenAPIHasTheRoutes(t *testing.T) {
	var want, got []string
	for _, r := range (&server{}).routes() {
		want = append(want, strings.ToLower(r.method)+" "+r.path+" open="+map[bool]string{true: "yes", false: "no"}[r.role == ""])
	}
	for path, methods := range openAPIDocument(t).Paths {
		for method, op := range methods {
			open := "no"
			if op.Security != nil && len(op.Security) == 0 {
				open = "yes"
			}
			got = append(got, method+" "+path+" open="+open)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes (-server +openapi.json):\n%s", diff)
	}
}

// The document has the fields of what is sent, and requires those that are
// always there.
func TestOpenAPIHasTheFieldsSent(t *testing.T) {
	schemas := openAPIDocument(t).Components.Schemas
	for name, v := range map[string]any{
		"Order": orderJSON{}, "Item": itemJSON{}, "PaymentGateway": gatewayJSON{}, "Decision": decisionJSON{},
		"OrderPage": pageJSON{}, "Problem": problem{},
	} {
		var fields, required []string
		for f := range reflect.TypeOf(v).Fields() {
			tag, ok := f.Tag.Lookup("json")
			if !ok {
				continue
			}
			field, options, _ := strings.Cut(tag, ",")
			fields = append(fields, field)
			if options != "omitempty" {
				required = append(required, field)
			}
		}
		same(t, name+" fields", fields, keys(schemas[name].Properties))
		same(t, name+" required", required, schemas[name].Required)
	}
}

// What the document says of a new order is what the decoder takes: every field
// of it, none without those required, and any without the others.
func TestOpenAPIHasTheFieldsTaken(t *testing.T) {
	values := map[string]any{
		"sku": "A", "quantity": 1, "unitPrice": 1, "currency": "USD", "reference": "r",
	}
	schemas := openAPIDocument(t).Components.Schemas
	sample := func(s schema, without string) map[string]any {
		out := map[string]any{}
		for field := range s.Properties {
			if field != without {
				out[field] = values[field]
			}
		}
		return out
	}
	decodes := func(v any) error {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		_, err = decodeDraft(text)
		return err
	}
	order, item := schemas["NewOrder"], schemas["NewItem"]
	for field := range item.Properties {
		values["items"] = []any{sample(item, field)}
		if err := decodes(sample(order, "")); (err != nil) != slices.Contains(item.Required, field) {
			t.Errorf("an item without %s: %v", field, err)
		}
	}
	values["items"] = []any{sample(item, "")}
	for field := range order.Properties {
		if err := decodes(sample(order, field)); (err != nil) != slices.Contains(order.Required, field) {
			t.Errorf("an order without %s: %v", field, err)
		}
	}
	if err := decodes(sample(order, "")); err != nil {
		t.Errorf("an order with every field: %v", err)
	}
}

// Every type of problem and every setting's group has its place in the README.
func TestReadmeExplainsEveryProblem(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	types := regexp.MustCompile(`\ttype[A-Z]\w+ += "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(types) < 10 {
		t.Fatalf("only %d types were found", len(types))
	}
	for _, m := range types {
		if !strings.Contains(string(readme), "\n#### "+m[1]+"\n") {
			t.Errorf("the README has no heading %q", m[1])
		}
	}
}

func keys(m map[string]json.RawMessage) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	return out
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	want, got = slices.Clone(want), slices.Clone(got)
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-code +openapi.json):\n%s", what, diff)
	}
}

func TestCursorIsItsTenantsOwn(t *testing.T) {
	c := cursors{key: make([]byte, CursorKeySize)}
	acme, globex := tenant(t, "acme-corp"), tenant(t, "globex-inc")
	id, ok := orders.ParseID("0123456789abcdefghijklmno0")
	if !ok {
		t.Fatal("not an id")
	}
	sealed := c.seal(acme, id)
	if got, err := c.open(acme, sealed); err != nil || got != id {
		t.Errorf("open returned %v, %v", got, err)
	}
	if _, err := c.open(globex, sealed); err == nil {
		t.Error("another tenant opened the cursor")
	}
	if _, err := (cursors{key: []byte(strings.Repeat("k", CursorKeySize))}).open(acme, sealed); err == nil {
		t.Error("another key opened the cursor")
	}
}

func FuzzCursor(f *testing.F) {
	c := cursors{key: make([]byte, CursorKeySize)}
	f.Add("")
	f.Add(strings.Repeat("A", 78))
	f.Fuzz(func(t *testing.T, cursor string) {
		acme := tenant(t, "acme-corp")
		if id, err := c.open(acme, cursor); err == nil && c.seal(acme, id) != cursor {
			t.Fatalf("%q opens and is not what seal makes", cursor)
		}
	})
}

// Whatever is decoded keeps the bounds of an order, and everything else is
// refused as the client's fault.
func FuzzDecodeDraft(f *testing.F) {
	for _, seed := range []string{
		`{"items":[{"sku":"A-1","quantity":1,"unitPrice":1250}],"currency":"USD","reference":"r"}`,
		`{"items":[{"sku":"A","quantity":9007199254740991,"unitPrice":2}]}`,
		`{"items":[{"sku":"A","quantity":1,"unitPrice":1e1}]}`, `{"items":[],"items":[]}`, `{"Items":null}`, "\xff", `"\ud800"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := decodeDraft(text)
		if err != nil {
			if p := problemOf(context.Background(), err); p.Status != http.StatusBadRequest {
				t.Fatalf("status %d for %v", p.Status, err)
			}
			return
		}
		// The standard library reads the same, and big.Int would sum the same.
		var whole struct{ Items []orders.Line }
		if err := json.Unmarshal(text, &whole); err != nil || len(whole.Items) == 0 {
			t.Fatalf("accepted, but encoding/json says %v and %d items", err, len(whole.Items))
		}
		total := 0.0
		for _, l := range whole.Items {
			total += float64(l.Quantity) * float64(l.UnitPrice)
		}
		if total > orders.MaxAmount*1.001 {
			t.Fatalf("accepted a total of %g", total)
		}
	})
}

// verifier lets everybody in, after wait.
type verifier struct{ wait func() }

func (v verifier) Verify(context.Context, string) (auth.Principal, error) {
	v.wait()
	return auth.Principal{}, config.Errorf(config.Unauthenticated, "nobody is known")
}

func newTestServer(t *testing.T, v Verifier) http.Handler {
	t.Helper()
	return New(Options{
		Verifier: v, CursorKey: make([]byte, CursorKeySize), Logger: slog.New(slog.DiscardHandler),
		MeterProvider: metricnoop.NewMeterProvider(), TracerProvider: tracenoop.NewTracerProvider(),
	})
}

func get(h http.Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/v1/orders", nil)
	r.Header.Set("Authorization", "Bearer x")
	h.ServeHTTP(w, r)
	return w
}

// A panic is one request's, and says nothing of itself.
func TestPanicIsOneRequests(t *testing.T) {
	first := true
	h := newTestServer(t, verifier{wait: func() {
		if first {
			first = false
			panic("canary")
		}
	}})
	if w := get(h); w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "canary") {
		t.Errorf("a panic was answered %d %s", w.Code, w.Body)
	}
	if w := get(h); w.Code != http.StatusUnauthorized {
		t.Errorf("the request after a panic was answered %d", w.Code)
	}
}

// More requests than there are slots are refused at once, and those that have
// one are not harmed.
func TestTooManyRequests(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	h := newTestServer(t, verifier{wait: func() {
		arrived <- struct{}{}
		<-release
	}})
	answered := make(chan int)
	for range maxInFlight {
		go func() { answered <- get(h).Code }()
		<-arrived
	}
	if w := get(h); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more was answered %d", w.Code)
	}
	close(release)
	for range maxInFlight {
		if code := <-answered; code != http.StatusUnauthorized {
			t.Errorf("one with a slot was answered %d", code)
		}
	}
}

// byTenant lets everybody in as an editor of the tenant that the token names.
type byTenant struct{}

func (byTenant) Verify(_ context.Context, token string) (auth.Principal, error) {
	tenant, err := config.ParseTenant(token)
	return auth.Principal{Tenant: tenant, Role: auth.RoleEditor}, err
}

// stalled is a body that breaks off once release is closed.
type stalled struct {
	arrived chan<- struct{}
	release <-chan struct{}
}

func (s stalled) Read([]byte) (int, error) {
	s.arrived <- struct{}{}
	<-s.release
	return 0, io.ErrUnexpectedEOF
}

// A tenant that sends all its bodies slowly takes no slot that others need.
func TestSlowTenantLeavesRoom(t *testing.T) {
	h := newTestServer(t, byTenant{})
	post := func(tenant string, body io.Reader) int {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/v1/orders", body)
		r.Header.Set("Authorization", "Bearer "+tenant)
		r.Header.Set("Content-Type", "application/json")
		h.ServeHTTP(w, r)
		return w.Code
	}
	arrived, release, answered := make(chan struct{}), make(chan struct{}), make(chan int)
	waiting := 0
	for range maxInFlight {
		go func() { answered <- post("acme-corp", stalled{arrived, release}) }()
		select {
		case <-arrived:
			waiting++
		case code := <-answered:
			if code != http.StatusServiceUnavailable {
				t.Errorf("one more of the slow tenant was answered %d", code)
			}
		}
	}
	const badBody = http.StatusBadRequest // as far as a request gets here
	if code := post("globex-inc", strings.NewReader("{")); code != badBody {
		t.Errorf("another tenant was answered %d", code)
	}
	close(release)
	for range waiting {
		if code := <-answered; code != badBody {
			t.Errorf("one of the slow tenant was answered %d", code)
		}
	}
	if code := post("acme-corp", strings.NewReader("{")); code != badBody {
		t.Errorf("the slow tenant was answered %d afterwards", code)
	}
}

// Every code of config.Error has its answer, and none shows what is inside.
func TestProblemOfEveryCode(t *testing.T) {
	want := map[config.Code]int{
		config.Unknown: 500, config.NotFound: 404, config.InvalidArgument: 400, config.Conflict: 500, config.AlreadyExists: 409,
		config.PermissionDenied: 403, config.Unauthenticated: 401, config.ResourceExhausted: 503, config.FailedPrecondition: 503,
		config.OutOfRange: 500, config.Unimplemented: 500, config.Internal: 500, config.Unavailable: 503, config.OutcomeUnknown: 503,
		config.DataLoss: 500, config.Canceled: 503, config.DeadlineExceeded: 503,
	}
	for _, code := range config.Codes() {
		err := config.Errorf(code, "what is wrong").WithCause(errors.New("canary"))
		p := problemOf(t.Context(), err)
		if p.Status != want[code] {
			t.Errorf("%v is answered %d, want %d", code, p.Status, want[code])
		}
		w := httptest.NewRecorder()
		p.write(w, "id")
		if strings.Contains(w.Body.String(), "canary") {
			t.Errorf("the answer to %v shows its cause: %s", code, w.Body)
		}
		if (w.Header().Get("Retry-After") != "") != (want[code] == 503) {
			t.Errorf("the answer to %v has Retry-After %q", code, w.Header().Get("Retry-After"))
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if p := problemOf(gone, config.Errorf(config.Canceled, "x")); p.Status != statusClientClosed {
		t.Errorf("a client that went away is answered %d", p.Status)
	}
}
