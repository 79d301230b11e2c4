package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/services/order/internal/app"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const clientID = "test-client"

// issuerKey is made once: it takes a while.
var issuerKey = sync.OnceValues(devissuer.GenerateKey)

// configService is a configuration service over gRPC that holds its values in
// memory. It verifies tokens as the real one does, and takes the tenant from
// them alone.
type configService struct {
	tagstorev1.UnimplementedConfigServiceServer
	verifier *auth.Verifier

	mu     sync.Mutex
	values map[string]*tagstorev1.Entry // tenant/service/key; tenant _shared is the shared layer
	fault  func(ctx context.Context, keys []string) error
	calls  int
	last   metadata.MD // of the last call
	// told is closed, and another one taken, with every change; nil: there
	// are no watches, as in a service that does not have them.
	told chan struct{}
}

// Watch tells the state of the keys that start with the prefix, and tells it
// again, behind a gap, whenever anything has changed.
func (c *configService) Watch(r *tagstorev1.WatchRequest, stream grpc.ServerStreamingServer[tagstorev1.WatchResponse]) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	token, err := auth.BearerToken(md.Get("authorization"))
	if err != nil {
		return err
	}
	p, err := c.verifier.Verify(stream.Context(), token)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		c.mu.Lock()
		told := c.told
		var events []*tagstorev1.WatchResponse
		if !first {
			events = append(events, &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Gap{Gap: &tagstorev1.WatchGap{}}})
		}
		for _, layer := range []string{"_shared/", p.Tenant.String() + "/", p.Tenant.String() + "/" + r.GetService()} { // the narrowest is the last
			for at, e := range c.values {
				if strings.HasPrefix(at, layer+"/"+r.GetKeyPrefix()) {
					events = append(events, &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Put{Put: e}})
				}
			}
		}
		c.mu.Unlock()
		if told == nil {
			return config.Errorf(config.Unimplemented, "there are no watches")
		}
		events = append(events, &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Sync{Sync: &tagstorev1.WatchSync{}}})
		for _, e := range events {
			e.ResumeToken = "t"
			if err := stream.Send(e); err != nil {
				return err
			}
		}
		select {
		case <-told:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// watchable lets the service have watches.
func (c *configService) watchable() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = make(chan struct{})
}

func (c *configService) BatchGet(ctx context.Context, r *tagstorev1.BatchGetRequest) (*tagstorev1.BatchGetResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	token, err := auth.BearerToken(md.Get("authorization"))
	if err != nil {
		return nil, err
	}
	p, err := c.verifier.Verify(ctx, token)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.calls++
	c.last = md
	fault := c.fault
	c.mu.Unlock()
	if fault != nil {
		if err := fault(ctx, r.GetKeys()); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	resp := &tagstorev1.BatchGetResponse{}
	for _, key := range r.GetKeys() {
		result := &tagstorev1.BatchGetResult{Key: key}
		for _, layer := range []string{p.Tenant.String() + "/" + r.GetService(), p.Tenant.String() + "/", "_shared/"} {
			if e := c.values[layer+"/"+key]; e != nil {
				result.Outcome = &tagstorev1.BatchGetResult_Entry{Entry: e}
				break
			}
		}
		if result.GetEntry() == nil {
			st := errgrpc.ToStatus(config.Errorf(config.NotFound, "there is no such key")).Proto()
			result.Outcome = &tagstorev1.BatchGetResult_Error{Error: &tagstorev1.Status{Code: st.GetCode(), Message: st.GetMessage(), Details: st.GetDetails()}}
		}
		resp.Results = append(resp.Results, result)
	}
	return resp, nil
}

// put writes a new version; the tenant _shared is the shared layer, and an
// empty value removes.
func (c *configService) put(tenant, service, key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.told != nil {
		close(c.told)
		c.told = make(chan struct{})
	}
	at := tenant + "/" + service + "/" + key
	if value == "" {
		delete(c.values, at)
		return
	}
	version := c.values[at].GetVersion() + 1
	c.values[at] = &tagstorev1.Entry{
		Key: key, Service: service, Shared: tenant == "_shared", Value: []byte(value), ContentType: "application/json", Version: version,
	}
}

// replace is put for a while: restore brings back what was there.
func (c *configService) replace(tenant, service, key, value string) (version uint64, restore func()) {
	at := tenant + "/" + service + "/" + key
	c.mu.Lock()
	old := c.values[at]
	c.mu.Unlock()
	c.put(tenant, service, key, value)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values[at].GetVersion(), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.values[at] = old
	}
}

func (c *configService) setFault(fault func(ctx context.Context, keys []string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = fault
}

func (c *configService) callCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// stack is the order service and what it needs, as real servers on loopback.
type stack struct {
	t       testing.TB
	issuer  *devissuer.Issuer
	config  *configService
	grpc    *grpc.Server
	target  string
	data    string
	environ []string
	log     *logBuffer

	url, management string
	stop            func() error
}

// start boots everything for the two tenants of the tests:
//
//	acme-corp   Stripe,  500 to 1000000, 50 items, USD
//	globex-inc  PayPal,  100 to 20000,   3 items,  EUR by the shared layer
func start(t testing.TB, extra ...string) *stack {
	t.Helper()
	s := &stack{t: t, data: filepath.Join(t.TempDir(), "orders.db"), log: &logBuffer{}}
	key, err := issuerKey()
	if err != nil {
		t.Fatal(err)
	}
	if s.issuer, err = devissuer.New(devissuer.Options{ClientID: clientID, Key: key}); err != nil {
		t.Fatal(err)
	}
	jwks := httptest.NewServer(s.issuer)
	t.Cleanup(jwks.Close)
	s.issuer.SetURL(jwks.URL)

	verifier, err := auth.NewVerifier(auth.Options{Issuer: s.issuer.Issuer(), ClientIDs: []string{clientID}, JWKSURL: s.issuer.JWKSURL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)
	s.config = &configService{verifier: verifier, values: map[string]*tagstorev1.Entry{}}
	s.config.put("acme-corp", "", "tenant_config_payment-gateway",
		`{"providers":[{"name":"Old","enabled":false},{"name":"Stripe","apiEndpoint":"https://api.stripe.com","retryPolicy":"exponential"},{"name":"Next"}]}`)
	s.config.put("acme-corp", "order", "tenant_config_order-limits", `{"minAmount":500,"maxAmount":1000000,"maxItems":50,"note":"for others"}`)
	s.config.put("acme-corp", "", "param_config_currency", `{"code":"USD","exponent":2}`)
	s.config.put("globex-inc", "", "tenant_config_payment-gateway", `{"providers":[{"name":"PayPal","enabled":true}]}`)
	s.config.put("globex-inc", "", "tenant_config_order-limits", `{"minAmount":100,"maxAmount":20000,"maxItems":3}`)
	s.config.put("_shared", "", "param_config_currency", `"EUR"`)
	s.serveConfig("127.0.0.1:0")
	t.Cleanup(func() { s.grpc.Stop() })

	s.environ = append([]string{
		"ORDER_LISTEN=127.0.0.1:0", "ORDER_MANAGEMENT_LISTEN=127.0.0.1:0", "ORDER_CONFIG_TARGET=" + s.target, "ORDER_DATA=" + s.data,
		"ORDER_JWT_ISSUER=" + s.issuer.Issuer(), "ORDER_JWT_CLIENT_IDS=" + clientID, "ORDER_JWKS_URL=" + s.issuer.JWKSURL(),
	}, extra...)
	if slices.Contains(extra, "ORDER_STORE=dynamodb") {
		s.environ = slices.DeleteFunc(s.environ, func(set string) bool { return strings.HasPrefix(set, "ORDER_DATA=") })
	}
	s.run()
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("Run returned %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

// onEachStore runs a test on each kind of store.
func onEachStore(t *testing.T, test func(*testing.T, *stack)) {
	t.Helper()
	t.Run("bolt", func(t *testing.T) { test(t, start(t)) })
	t.Run("dynamodb", func(t *testing.T) { test(t, start(t, dynamoDB(t)...)) })
}

// dynamoDB returns the settings of a table of the test's own.
func dynamoDB(t *testing.T) []string {
	t.Helper()
	for _, set := range emulators.Environ(emulators.DynamoDBLocal(t)) {
		name, value, _ := strings.Cut(set, "=")
		t.Setenv(name, value)
	}
	environ := []string{"ORDER_STORE=dynamodb", "ORDER_DYNAMODB_TABLE=" + emulators.Name(t, "order"), "ORDER_DYNAMODB_CREATE_TABLE=true"}
	t.Cleanup(func() { dropTable(t, environ) })
	return environ
}

// dropTable deletes the table of these settings, if it is there.
func dropTable(t *testing.T, environ []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // t's own is done in a cleanup
	defer cancel()
	cfg, err := sdkconfig.LoadDefaultConfig(ctx, sdkconfig.WithHTTPClient(http.DefaultClient))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(environ[1], "=")
	_, err = dynamodb.NewFromConfig(cfg).DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &table})
	if gone := (*types.ResourceNotFoundException)(nil); err != nil && !errors.As(err, &gone) {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// serveConfig starts the configuration service at an address.
func (s *stack) serveConfig(address string) {
	s.t.Helper()
	lis, err := new(net.ListenConfig).Listen(s.t.Context(), "tcp", address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.target = lis.Addr().String()
	s.grpc = grpc.NewServer(grpc.UnaryInterceptor(errgrpc.UnaryServer), grpc.StreamInterceptor(errgrpc.StreamServer))
	tagstorev1.RegisterConfigServiceServer(s.grpc, s.config)
	server := s.grpc
	go func() { _ = server.Serve(lis) }() // ends by Stop, which goleak sees to
}

// run starts the order service and waits until it serves and can verify
// tokens. stop ends it.
func (s *stack) run() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s.log.reset()
	go func() { done <- app.Run(ctx, app.Options{Version: "test", Environ: s.environ, Out: s.log}) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	var ready struct{ HTTP, Management string }
	s.wait("the ready line", func() bool {
		select {
		case err := <-done:
			s.t.Fatalf("Run returned %v", err)
		default:
		}
		for _, line := range s.log.lines() {
			if strings.Contains(line, `"msg":"ready"`) {
				return json.Unmarshal([]byte(line), &ready) == nil
			}
		}
		return false
	})
	s.url, s.management = "http://"+ready.HTTP, "http://"+ready.Management
	s.wait("readiness", func() bool {
		resp, err := http.Get(s.management + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// wait polls until done, or fails the test.
func (s *stack) wait(what string, done func() bool) {
	s.t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			s.t.Fatalf("%s did not come", what)
		case <-tick.C:
		}
	}
}

func (s *stack) token(tenant string, role auth.Role) string {
	s.t.Helper()
	token, err := s.issuer.ID(tenant, "user-of-"+tenant, role, time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// reply is an answer, read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

// do sends one request; headers come in pairs.
func (s *stack) do(method, path, token, body string, headers ...string) reply {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
		if headers[i] == "Content-Type" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	// A redirect is an answer like any other.
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return reply{status: resp.StatusCode, header: resp.Header, body: string(text)}
}

// order is the part of an order that the tests look at.
type order struct {
	ID             string `json:"id"`
	Total          int64  `json:"total"`
	Currency       string `json:"currency"`
	Exponent       int64  `json:"currencyExponent"`
	PaymentGateway struct {
		Name        string `json:"name"`
		APIEndpoint string `json:"apiEndpoint"`
	} `json:"paymentGateway"`
	DecidedBy []decision `json:"decidedBy"`
}

type decision struct {
	Key     string `json:"key"`
	Layer   string `json:"layer"`
	Version uint64 `json:"version"`
}

type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Rule      string `json:"rule"`
	Key       string `json:"key"`
	Version   uint64 `json:"version"`
	RequestID string `json:"requestId"`
}

func parse[T any](t testing.TB, r reply, status int) T {
	t.Helper()
	var out T
	if r.status != status {
		t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	if err := json.Unmarshal([]byte(r.body), &out); err != nil {
		t.Fatalf("%v: %s", err, r.body)
	}
	return out
}

// refusal checks the form that all problems share.
func refusal(t testing.TB, r reply, status int, name string) problem {
	t.Helper()
	p := parse[problem](t, r, status)
	if kind := r.header.Get("Content-Type"); kind != "application/problem+json" {
		t.Errorf("the problem has Content-Type %q", kind)
	}
	if !strings.HasSuffix(p.Type, "#"+name) || p.Title == "" || p.Status != status {
		t.Errorf("problem %+v, want type %s and status %d", p, name, status)
	}
	if id := r.header.Get("X-Request-Id"); id == "" || (status != http.StatusNotFound && p.RequestID != id) {
		t.Errorf("the body has request id %q, the header %q", p.RequestID, id)
	}
	return p
}

// logBuffer keeps log lines.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Reset()
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) lines() []string { return strings.Split(b.String(), "\n") }
