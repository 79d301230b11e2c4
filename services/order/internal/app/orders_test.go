package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
)

// body is a valid order of quantity units at this price.
func body(quantity, unitPrice int64) string {
	return fmt.Sprintf(`{"items":[{"sku":"A-1","quantity":%d,"unitPrice":%d}]}`, quantity, unitPrice)
}

// Each tenant's own configuration decides, from the first request on and
// however the tenants' requests are mixed.
func TestTwoTenants(t *testing.T) {
	s := start(t)
	acme, globex := s.token("acme-corp", auth.RoleEditor), s.token("globex-inc", auth.RoleEditor)
	for range 3 {
		a := parse[order](t, s.do("POST", "/v1/orders", acme, body(2, 1250)), http.StatusCreated)
		if a.Total != 2500 || a.Currency != "USD" || a.Exponent != 2 || a.PaymentGateway.Name != "Stripe" || a.PaymentGateway.APIEndpoint != "https://api.stripe.com" {
			t.Errorf("acme-corp's order is %+v", a)
		}
		want := []decision{
			{"tenant_config_payment-gateway", "tenant", 1}, {"tenant_config_order-limits", "service", 1}, {"param_config_currency", "tenant", 1},
		}
		if diff := cmp.Diff(want, a.DecidedBy); diff != "" {
			t.Errorf("acme-corp's order was decided by (-want +got):\n%s", diff)
		}
		g := parse[order](t, s.do("POST", "/v1/orders", globex, body(3, 100)), http.StatusCreated)
		if g.Total != 300 || g.Currency != "EUR" || g.Exponent != 2 || g.PaymentGateway.Name != "PayPal" || g.DecidedBy[2].Layer != "shared" {
			t.Errorf("globex-inc's order is %+v", g)
		}
		// 300 is below acme-corp's minimum, and 4 items above globex-inc's.
		p := refusal(t, s.do("POST", "/v1/orders", acme, body(3, 100)), http.StatusUnprocessableEntity, "order-refused")
		if p.Rule != "min-amount" || p.Key != "tenant_config_order-limits" || p.Version != 1 {
			t.Errorf("acme-corp's refusal is %+v", p)
		}
		p = refusal(t, s.do("POST", "/v1/orders", globex, body(4, 100)), http.StatusUnprocessableEntity, "order-refused")
		if p.Rule != "max-items" || p.Version != 1 {
			t.Errorf("globex-inc's refusal is %+v", p)
		}
	}
	if strings.Contains(s.log.String(), acme) || strings.Contains(s.log.String(), "A-1") {
		t.Error("the log holds a token or a body")
	}
}

// A change of the configuration decides the next order, and the refusal names
// the version that did.
func TestRules(t *testing.T) {
	s := start(t)
	token := s.token("acme-corp", auth.RoleEditor)
	usd := func(n int64) string { return `{"currency":"USD",` + body(1, n)[1:] }
	for _, tc := range []struct {
		name, service, key, value string
		body, rule                string
		version                   uint64
	}{
		{name: "at the minimum", body: body(1, 500)},
		{name: "below it", body: body(1, 499), rule: "min-amount", key: "tenant_config_order-limits", version: 1},
		{name: "at the maximum", body: body(1, 1000000)},
		{name: "above it", body: body(1, 1000001), rule: "max-amount", key: "tenant_config_order-limits", version: 1},
		{name: "at the most items", body: body(50, 100)},
		{name: "above them", body: body(51, 100), rule: "max-items", key: "tenant_config_order-limits", version: 1},
		{name: "the currency", body: usd(500)},
		{name: "another", body: `{"currency":"EUR",` + body(1, 500)[1:], rule: "currency", key: "param_config_currency", version: 1},
		{
			name: "a new minimum", service: "order", key: "tenant_config_order-limits", value: `{"minAmount":600,"maxAmount":1000000,"maxItems":50}`,
			body: body(1, 599), rule: "min-amount", version: 2,
		},
		{
			name: "a new currency", key: "param_config_currency", value: `{"code":"JPY","exponent":0}`,
			body: usd(600), rule: "currency", version: 2,
		},
		{
			name: "all providers off", key: "tenant_config_payment-gateway", value: `{"providers":[{"name":"Stripe","enabled":false}]}`,
			body: body(1, 600), rule: "payment-gateway", version: 2,
		},
		{
			name: "no providers", key: "tenant_config_payment-gateway", value: `{"providers":[]}`,
			body: body(1, 600), rule: "payment-gateway", version: 3,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.value != "" {
				s.config.put("acme-corp", tc.service, tc.key, tc.value)
			}
			r := s.do("POST", "/v1/orders", token, tc.body)
			if tc.rule == "" {
				parse[order](t, r, http.StatusCreated)
				return
			}
			p := refusal(t, r, http.StatusUnprocessableEntity, "order-refused")
			if p.Rule != tc.rule || p.Key != tc.key || p.Version != tc.version {
				t.Errorf("refused by %s of %s version %d, want %s of %s version %d", p.Rule, p.Key, p.Version, tc.rule, tc.key, tc.version)
			}
		})
	}
}

// There is no default for anything: without its value no order is taken.
func TestMissingConfiguration(t *testing.T) {
	for _, key := range []string{"tenant_config_payment-gateway", "tenant_config_order-limits", "param_config_currency"} {
		t.Run(key, func(t *testing.T) {
			s := start(t)
			token := s.token("acme-corp", auth.RoleEditor)
			s.config.put("acme-corp", "", key, "")
			s.config.put("acme-corp", "order", key, "")
			s.config.put("_shared", "", key, "")
			p := refusal(t, s.do("POST", "/v1/orders", token, body(1, 500)), http.StatusUnprocessableEntity, "configuration-missing")
			if p.Rule != "configured" || p.Key != key || p.Version != 0 {
				t.Errorf("the refusal is %+v", p)
			}
			nothingAccepted(t, s, token)
		})
	}
}

func nothingAccepted(t *testing.T, s *stack, token string) {
	t.Helper()
	page := parse[struct{ Orders []order }](t, s.do("GET", "/v1/orders", token, ""), http.StatusOK)
	if len(page.Orders) != 0 {
		t.Errorf("%d orders were accepted", len(page.Orders))
	}
}

// A value that orders can not understand decides nothing and is not shown.
func TestDamagedConfiguration(t *testing.T) {
	const gateway, limits, currency = "tenant_config_payment-gateway", "tenant_config_order-limits", "param_config_currency"
	s := start(t)
	token := s.token("globex-inc", auth.RoleEditor)
	for _, tc := range []struct{ key, value string }{
		{gateway, `canary`},
		{gateway, `"canary"`},
		{gateway, `{"providers":{"name":"canary"}}`},
		{gateway, `{"providers":[{"enabled":true}]}`},
		{gateway, `{"providers":[{"name":""}]}`},
		{gateway, `{"providers":[{"name":"canary","enabled":"yes"}]}`},
		{gateway, `{"providers":[{"name":"ok"},{"name":"canary","apiEndpoint":"http://plain.example"}]}`},
		{gateway, `{"providers":[{"name":"canary","apiEndpoint":"https://user:canary@x.example"}]}`},
		{gateway, `{"providers":[{"name":"a","name":"canary"}]}`},
		{gateway, `{"provider":[]}`},
		{limits, `{"minAmount":1,"maxAmount":2}`},
		{limits, `{"minAmount":"1","maxAmount":2,"maxItems":3}`},
		{limits, `{"minAmount":1.5,"maxAmount":2,"maxItems":3}`},
		{limits, `{"minAmount":-1,"maxAmount":2,"maxItems":3}`},
		{limits, `{"minAmount":3,"maxAmount":2,"maxItems":3}`},
		{limits, `{"minAmount":1,"maxAmount":9007199254740992,"maxItems":3}`},
		{limits, `{"minAmount":1,"maxAmount":2,"maxItems":0}`},
		{currency, `"usd"`},
		{currency, `"DOLLAR"`},
		{currency, `{"code":"USD"}`},
		{currency, `{"code":"USD","exponent":5}`},
		{currency, `["USD"]`},
		{currency, `null`},
	} {
		t.Run(tc.value, func(t *testing.T) {
			version, restore := s.config.replace("globex-inc", "", tc.key, tc.value)
			defer restore()
			r := s.do("POST", "/v1/orders", token, body(1, 100))
			p := refusal(t, r, http.StatusServiceUnavailable, "configuration-unavailable")
			if p.Key != tc.key || p.Version != version || r.header.Get("Retry-After") == "" {
				t.Errorf("the problem is %+v, Retry-After %q; want key %s, version %d", p, r.header.Get("Retry-After"), tc.key, version)
			}
			if strings.Contains(r.body, "canary") {
				t.Errorf("the problem shows the value: %s", r.body)
			}
		})
	}
	if strings.Contains(s.log.String(), "canary") {
		t.Error("the log shows a value")
	}
	nothingAccepted(t, s, token)
}

// Nothing is accepted while the configuration can not be had, and everything
// works again once it can.
func TestConfigurationServiceAway(t *testing.T) {
	s := start(t)
	token := s.token("acme-corp", auth.RoleEditor)
	away := func(t *testing.T, wantAtLeast string) {
		t.Helper()
		r := s.do("POST", "/v1/orders", token, body(1, 500))
		p := refusal(t, r, http.StatusServiceUnavailable, "configuration-unavailable")
		if got := r.header.Get("Retry-After"); got < wantAtLeast {
			t.Errorf("Retry-After is %q, want %s: %+v", got, wantAtLeast, p)
		}
		nothingAccepted(t, s, token)
	}
	faults := map[string]func(context.Context, []string) error{
		"unavailable": func(context.Context, []string) error { return status.Error(codes.Unavailable, "no") },
		"internal":    func(context.Context, []string) error { return config.Errorf(config.Internal, "no") },
		"unknown":     func(context.Context, []string) error { return errors.New("no") },
		"exhausted":   func(context.Context, []string) error { return config.Errorf(config.ResourceExhausted, "no") },
		"slow": func(ctx context.Context, _ []string) error {
			<-ctx.Done()
			return ctx.Err()
		},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			s.config.setFault(fault)
			defer s.config.setFault(nil)
			away(t, "1")
		})
	}
	t.Run("says when to retry", func(t *testing.T) {
		s.config.setFault(func(context.Context, []string) error {
			return &config.Error{Code: config.ResourceExhausted, Message: "quota", RetryAfter: 6500 * time.Millisecond}
		})
		defer s.config.setFault(nil)
		away(t, "7")
	})
	t.Run("denied is no outage", func(t *testing.T) {
		s.config.setFault(func(context.Context, []string) error { return config.Errorf(config.PermissionDenied, "not for you") })
		defer s.config.setFault(nil)
		refusal(t, s.do("POST", "/v1/orders", token, body(1, 500)), http.StatusForbidden, "forbidden")
	})
	t.Run("token refused there", func(t *testing.T) {
		s.config.setFault(func(context.Context, []string) error {
			return config.Errorf(config.Unauthenticated, "the token has expired")
		})
		defer s.config.setFault(nil)
		refusal(t, s.do("POST", "/v1/orders", token, body(1, 500)), http.StatusUnauthorized, "unauthenticated")
	})
	t.Run("gone", func(t *testing.T) {
		address := s.target
		s.grpc.Stop()
		away(t, "1")
		s.serveConfig(address)
		s.wait("an order after the restart", func() bool {
			return s.do("POST", "/v1/orders", token, body(1, 500)).status == http.StatusCreated
		})
	})
}

// Another tenant's order is, to the byte, one that never was.
func TestAnothersOrderIsAbsent(t *testing.T) { onEachStore(t, anothersOrderIsAbsent) }

func anothersOrderIsAbsent(t *testing.T, s *stack) {
	acme, globex := s.token("acme-corp", auth.RoleEditor), s.token("globex-inc", auth.RoleAdmin)
	o := parse[order](t, s.do("POST", "/v1/orders", acme, body(1, 500)), http.StatusCreated)
	own := s.do("GET", "/v1/orders/"+o.ID, acme, "")
	if got := parse[order](t, own, http.StatusOK); got.ID != o.ID || got.PaymentGateway.Name != "Stripe" {
		t.Errorf("the tenant's own order came as %s", own.body)
	}
	other := o.ID[:len(o.ID)-6] + "000000"
	want := s.do("GET", "/v1/orders/"+other, globex, "", "X-Request-Id", "same")
	refusal(t, want, http.StatusNotFound, "not-found")
	for name, path := range map[string]string{
		"foreign": o.ID, "not an id": "x", "upper case": strings.ToUpper(o.ID), "longer": o.ID + "0",
	} {
		got := s.do("GET", "/v1/orders/"+path, globex, "", "X-Request-Id", "same", "X-Tenant-Id", "acme-corp")
		want.header.Del("Date")
		got.header.Del("Date")
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(reply{})); diff != "" {
			t.Errorf("%s tells more than absent (-absent +got):\n%s", name, diff)
		}
	}
	nothingAccepted(t, s, globex)
}

func TestList(t *testing.T) { onEachStore(t, pagesOfList) }

func pagesOfList(t *testing.T, s *stack) {
	acme, globex := s.token("acme-corp", auth.RoleEditor), s.token("globex-inc", auth.RoleEditor)
	const n = 7
	var want []string
	for i := range n {
		want = append(want, parse[order](t, s.do("POST", "/v1/orders", acme, body(1, 500+int64(i))), http.StatusCreated).ID)
		parse[order](t, s.do("POST", "/v1/orders", globex, body(1, 100)), http.StatusCreated)
	}
	// Orders of one millisecond come in any order.
	slices.Sort(want)
	slices.Reverse(want)
	type page struct {
		Orders     []order `json:"orders"`
		NextCursor string  `json:"nextCursor"`
	}
	var got []string
	var cursors []string
	for path := "/v1/orders?limit=3"; ; {
		p := parse[page](t, s.do("GET", path, acme, ""), http.StatusOK)
		for _, o := range p.Orders {
			got = append(got, o.ID)
		}
		if p.NextCursor == "" {
			break
		}
		cursors = append(cursors, p.NextCursor)
		path = "/v1/orders?limit=3&cursor=" + p.NextCursor
	}
	if diff := cmp.Diff(want, got); diff != "" || len(cursors) != 2 {
		t.Errorf("listed with %d cursors (-want +got):\n%s", len(cursors), diff)
	}
	cursor := cursors[0]
	flipped := []byte(cursor)
	flipped[3] ^= 1
	for name, tc := range map[string]struct{ token, query string }{
		"another tenant's": {globex, "cursor=" + cursor},
		"changed":          {acme, "cursor=" + string(flipped)},
		"cut":              {acme, "cursor=" + cursor[:len(cursor)-2]},
		"an order id":      {acme, "cursor=" + want[0]},
		"not base64":       {acme, "cursor=%00"},
		"empty":            {acme, "cursor="},
		"limit 0":          {acme, "limit=0"},
		"limit 101":        {acme, "limit=101"},
		"limit text":       {acme, "limit=x"},
		"limit twice":      {acme, "limit=1&limit=2"},
		"unknown":          {acme, "tenantId=globex-inc"},
		"broken query":     {acme, "limit=%zz"},
	} {
		t.Run(name, func(t *testing.T) {
			refusal(t, s.do("GET", "/v1/orders?"+tc.query, tc.token, ""), http.StatusBadRequest, "invalid-request")
		})
	}
}

func TestIdempotencyKey(t *testing.T) { onEachStore(t, idempotencyKey) }

func idempotencyKey(t *testing.T, s *stack) {
	token := s.token("acme-corp", auth.RoleEditor)
	place := func(token, key, body string) reply {
		t.Helper()
		return s.do("POST", "/v1/orders", token, body, "Idempotency-Key", key)
	}
	// A refused request leaves its key free.
	refusal(t, place(token, "k1", body(1, 1)), http.StatusUnprocessableEntity, "order-refused")
	first := place(token, "k1", body(1, 500))
	o := parse[order](t, first, http.StatusCreated)
	if first.header.Get("Location") != "/v1/orders/"+o.ID || first.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("the first answer has the headers %v", first.header)
	}
	again := place(token, "k1", ` {"items": [ {"unitPrice":500, "sku":"A-1", "quantity":1} ] }`)
	if again.status != http.StatusCreated || again.body != first.body || again.header.Get("Location") != first.header.Get("Location") || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the replay is %+v, the first answer was %+v", again, first)
	}
	refusal(t, place(token, "k1", body(1, 501)), http.StatusConflict, "idempotency-key-reused")
	// A key is its tenant's own.
	if g := parse[order](t, place(s.token("globex-inc", auth.RoleEditor), "k1", body(1, 500)), http.StatusCreated); g.ID == o.ID || g.PaymentGateway.Name != "PayPal" {
		t.Errorf("another tenant's request with the same key got %+v", g)
	}
	// A replay needs no configuration, survives a restart, and is not decided
	// again by what the configuration says now.
	s.config.setFault(func(context.Context, []string) error { return status.Error(codes.Unavailable, "no") })
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.run()
	if again = place(token, "k1", body(1, 500)); again.status != http.StatusCreated || again.body != first.body {
		t.Errorf("the replay after a restart is %d %s", again.status, again.body)
	}
	for name, headers := range map[string][]string{
		"empty":      {"Idempotency-Key", " "},
		"blank":      {"Idempotency-Key", "a b"},
		"long":       {"Idempotency-Key", strings.Repeat("k", 129)},
		"not ASCII":  {"Idempotency-Key", "ké"},
		"two values": {"Idempotency-Key", "a", "Idempotency-Key", "b"},
	} {
		t.Run(name, func(t *testing.T) {
			refusal(t, s.do("POST", "/v1/orders", token, body(1, 500), headers...), http.StatusBadRequest, "invalid-request")
		})
	}
}

// Of requests with one key that come at once, one is decided; the others wait
// and get its order.
func TestIdempotencyKeyAtOnce(t *testing.T) { onEachStore(t, idempotencyKeyAtOnce) }

func idempotencyKeyAtOnce(t *testing.T, s *stack) {
	token := s.token("acme-corp", auth.RoleEditor)
	const n = 16
	replies := make([]reply, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { replies[i] = s.do("POST", "/v1/orders", token, body(1, 500), "Idempotency-Key", "same") })
	}
	wg.Wait()
	made := 0
	for _, r := range replies {
		parse[order](t, r, http.StatusCreated)
		if r.body != replies[0].body {
			t.Errorf("two answers differ: %s and %s", r.body, replies[0].body)
		}
		if r.header.Get("Idempotency-Replayed") == "" {
			made++
		}
	}
	if made != 1 || s.config.callCount() != 1 {
		t.Errorf("%d orders were made with %d reads of the configuration, want 1 and 1", made, s.config.callCount())
	}
}

// Orders that were answered are there after a restart, whole.
func TestOrdersSurviveRestart(t *testing.T) { onEachStore(t, ordersSurviveRestart) }

func ordersSurviveRestart(t *testing.T, s *stack) {
	token := s.token("acme-corp", auth.RoleEditor)
	placed := s.do("POST", "/v1/orders", token, `{"items":[{"sku":"A","quantity":2,"unitPrice":0},{"sku":"B","quantity":1,"unitPrice":777}],"currency":"USD","reference":"é <&> ☕"}`)
	o := parse[order](t, placed, http.StatusCreated)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.run()
	if got := s.do("GET", "/v1/orders/"+o.ID, token, ""); got.body != placed.body {
		t.Errorf("after the restart the order is %s, it was %s", got.body, placed.body)
	}
	var whole map[string]any
	if err := json.Unmarshal([]byte(placed.body), &whole); err != nil || whole["reference"] != "é <&> ☕" || whole["createdBy"] != "user-of-acme-corp" {
		t.Errorf("the order is %s", placed.body)
	}
}

// Several services with one table are one service: what one has taken the
// other shows, and of requests with one key that both get at once one is an
// order.
func TestTwoServicesOnOneTable(t *testing.T) {
	s := start(t, dynamoDB(t)...)
	second := *s
	second.log = &logBuffer{}
	second.run()
	t.Cleanup(func() {
		if err := second.stop(); err != nil {
			t.Errorf("the second service's Run returned %v", err)
		}
	})
	token := s.token("acme-corp", auth.RoleEditor)
	const n = 8
	replies := make([]reply, 2*n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			replies[2*i] = s.do("POST", "/v1/orders", token, body(1, 500), "Idempotency-Key", fmt.Sprint(i))
		})
		wg.Go(func() {
			replies[2*i+1] = second.do("POST", "/v1/orders", token, body(1, 500), "Idempotency-Key", fmt.Sprint(i))
		})
	}
	wg.Wait()
	for i := range n {
		here, there := replies[2*i], replies[2*i+1]
		o := parse[order](t, here, http.StatusCreated)
		if there.body != here.body || (here.header.Get("Idempotency-Replayed") == "") == (there.header.Get("Idempotency-Replayed") == "") {
			t.Errorf("one key made %s and %s", here.body, there.body)
		}
		for name, at := range map[string]*stack{"first": s, "second": &second} {
			if got := at.do("GET", "/v1/orders/"+o.ID, token, ""); got.body != here.body {
				t.Errorf("the %s service shows %d %s", name, got.status, got.body)
			}
		}
	}
	if total := s.do("GET", "/v1/orders?limit=100", token, ""); strings.Count(total.body, `"id":`) != n {
		t.Errorf("the orders are %s, want %d of them", total.body, n)
	}
}

// A table that goes away is a 503, and nothing else of the service stops.
func TestTableGoesAway(t *testing.T) {
	table := dynamoDB(t)
	s := start(t, table...)
	token := s.token("acme-corp", auth.RoleEditor)
	o := parse[order](t, s.do("POST", "/v1/orders", token, body(1, 500)), http.StatusCreated)
	dropTable(t, table)
	for path, r := range map[string]reply{
		"POST": s.do("POST", "/v1/orders", token, body(1, 500), "Idempotency-Key", "k"),
		"GET":  s.do("GET", "/v1/orders/"+o.ID, token, ""),
		"list": s.do("GET", "/v1/orders", token, ""),
	} {
		if p := refusal(t, r, http.StatusServiceUnavailable, "unavailable"); strings.Contains(r.body, "able does") {
			t.Errorf("%s says %+v", path, p)
		}
	}
	if !strings.Contains(s.log.String(), "the table does not exist") {
		t.Error("the log does not say what is wrong")
	}
}
