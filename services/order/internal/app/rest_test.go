package app_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/auth"
)

// Whatever is wrong with a request is said, and changes nothing.
func TestBadRequests(t *testing.T) {
	s := start(t)
	editor := s.token("acme-corp", auth.RoleEditor)
	item := `{"sku":"A","quantity":1,"unitPrice":500}`
	items := func(item string) string { return `{"items":[` + item + `]}` }
	const invalid = "invalid-request"
	for name, tc := range map[string]struct {
		body    string
		headers []string
		status  int
		problem string
		detail  string
	}{
		"empty body":              {body: ``, status: 400, problem: invalid, detail: "not valid JSON"},
		"not JSON":                {body: `{"items":`, status: 400, problem: invalid, detail: "not valid JSON"},
		"trailing data":           {body: items(item) + `{}`, status: 400, problem: invalid, detail: "not valid JSON"},
		"an array":                {body: `[]`, status: 400, problem: invalid, detail: "must be an object"},
		"null":                    {body: `null`, status: 400, problem: invalid, detail: "must be an object"},
		"invalid UTF-8":           {body: "{\"reference\":\"\xff\"}", status: 400, problem: invalid, detail: "UTF-8"},
		"unknown field":           {body: `{"items":[` + item + `],"discount":1}`, status: 400, problem: invalid, detail: `unknown field \"discount\"`},
		"tenantId":                {body: `{"items":[` + item + `],"tenantId":"globex-inc"}`, status: 400, problem: invalid, detail: `unknown field \"tenantId\"`},
		"another case":            {body: `{"Items":[` + item + `]}`, status: 400, problem: invalid, detail: `unknown field \"Items\"`},
		"duplicate field":         {body: `{"items":[` + item + `],"items":[]}`, status: 400, problem: invalid, detail: "twice"},
		"duplicate in an item":    {body: items(`{"sku":"A","sku":"B","quantity":1,"unitPrice":1}`), status: 400, problem: invalid, detail: "items[0] has the field"},
		"no items":                {body: `{}`, status: 400, problem: invalid, detail: "items is required"},
		"zero items":              {body: items(""), status: 400, problem: invalid, detail: "at least 1"},
		"1001 items":              {body: items(strings.Repeat(item+",", 1000) + item), status: 400, problem: invalid, detail: "items has more than 1000"},
		"too deep":                {body: items(strings.Repeat("[", 20000) + strings.Repeat("]", 20000)), status: 400, problem: invalid, detail: "not valid JSON"},
		"deep item":               {body: items(strings.Repeat("[", 1000) + strings.Repeat("]", 1000)), status: 400, problem: invalid, detail: "items[0] must be an object"},
		"no sku":                  {body: items(`{"quantity":1,"unitPrice":1}`), status: 400, problem: invalid, detail: "items[0].sku is required"},
		"empty sku":               {body: items(`{"sku":"","quantity":1,"unitPrice":1}`), status: 400, problem: invalid, detail: "items[0].sku must be"},
		"long sku":                {body: items(`{"sku":"` + strings.Repeat("a", 65) + `","quantity":1,"unitPrice":1}`), status: 400, problem: invalid, detail: "items[0].sku must be"},
		"sku with blank":          {body: items(`{"sku":"a b","quantity":1,"unitPrice":1}`), status: 400, problem: invalid, detail: "items[0].sku must be"},
		"quantity 0":              {body: items(`{"sku":"A","quantity":0,"unitPrice":1}`), status: 400, problem: invalid, detail: "items[0].quantity must be"},
		"quantity negative":       {body: items(`{"sku":"A","quantity":-1,"unitPrice":1}`), status: 400, problem: invalid, detail: "items[0].quantity must be"},
		"quantity text":           {body: items(`{"sku":"A","quantity":"1","unitPrice":1}`), status: 400, problem: invalid, detail: "items[0].quantity must be an integer"},
		"price negative":          {body: items(`{"sku":"A","quantity":1,"unitPrice":-1}`), status: 400, problem: invalid, detail: "items[0].unitPrice must be"},
		"price with fraction":     {body: items(`{"sku":"A","quantity":1,"unitPrice":12.50}`), status: 400, problem: invalid, detail: "items[0].unitPrice must be an integer"},
		"price with exponent":     {body: items(`{"sku":"A","quantity":1,"unitPrice":1e3}`), status: 400, problem: invalid, detail: "items[0].unitPrice must be an integer"},
		"price null":              {body: items(`{"sku":"A","quantity":1,"unitPrice":null}`), status: 400, problem: invalid, detail: "items[0].unitPrice must be an integer"},
		"price above 64 bits":     {body: items(`{"sku":"A","quantity":1,"unitPrice":9223372036854775808}`), status: 400, problem: invalid, detail: "64 bits"},
		"price above the maximum": {body: items(`{"sku":"A","quantity":1,"unitPrice":9007199254740992}`), status: 400, problem: invalid, detail: "unitPrice must be"},
		"product overflows":       {body: items(`{"sku":"A","quantity":4294967296,"unitPrice":4294967296}`), status: 400, problem: invalid, detail: "the total is above"},
		"product wraps to little": {body: items(`{"sku":"A","quantity":4503599627370496,"unitPrice":4096}`), status: 400, problem: invalid, detail: "the total is above"},
		"sum overflows": {
			body:   items(`{"sku":"A","quantity":1,"unitPrice":9007199254740991},{"sku":"B","quantity":1,"unitPrice":1}`),
			status: 400, problem: invalid, detail: "the total is above",
		},
		"units overflow": {
			body:   items(`{"sku":"A","quantity":9007199254740991,"unitPrice":0},{"sku":"B","quantity":1,"unitPrice":0}`),
			status: 400, problem: invalid, detail: "the quantities add up",
		},
		"currency empty":        {body: `{"items":[` + item + `],"currency":""}`, status: 400, problem: invalid, detail: "currency must not be empty"},
		"currency lower case":   {body: `{"items":[` + item + `],"currency":"usd"}`, status: 400, problem: invalid, detail: "currency must be"},
		"currency null":         {body: `{"items":[` + item + `],"currency":null}`, status: 400, problem: invalid, detail: "currency must be a string"},
		"reference control":     {body: `{"items":[` + item + `],"reference":"a\nb"}`, status: 400, problem: invalid, detail: "reference must be"},
		"reference long":        {body: `{"items":[` + item + `],"reference":"` + strings.Repeat("é", 65) + `"}`, status: 400, problem: invalid, detail: "reference must be"},
		"reference broken text": {body: `{"items":[` + item + `],"reference":"\ud800"}`, status: 400, problem: invalid, detail: "reference must be"},
		"body of 64 KiB + 1":    {body: strings.Repeat(" ", 64<<10+1), status: 413, problem: "body-too-large"},
		"body of 1 MB":          {body: strings.Repeat(" ", 1<<20), status: 413, problem: "body-too-large"},
		"no content type":       {body: items(item), headers: []string{"Content-Type", ""}, status: 415, problem: "unsupported-media-type"},
		"text":                  {body: items(item), headers: []string{"Content-Type", "text/plain"}, status: 415, problem: "unsupported-media-type"},
		"form":                  {body: items(item), headers: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 415, problem: "unsupported-media-type"},
		"other charset":         {body: items(item), headers: []string{"Content-Type", "application/json; charset=utf-16"}, status: 415, problem: "unsupported-media-type"},
		"encoded":               {body: items(item), headers: []string{"Content-Encoding", "gzip"}, status: 415, problem: "unsupported-media-type"},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.do("POST", "/v1/orders", editor, tc.body, tc.headers...)
			refusal(t, r, tc.status, tc.problem)
			if !strings.Contains(r.body, tc.detail) {
				t.Errorf("the problem is %s, want %q in it", r.body, tc.detail)
			}
		})
	}
	if n := s.config.callCount(); n != 0 {
		t.Errorf("bad requests made %d reads of the configuration", n)
	}
	nothingAccepted(t, s, editor)
	// What is just within the limits is fine.
	whole := items(item) + strings.Repeat(" ", 64<<10-len(items(item)))
	parse[order](t, s.do("POST", "/v1/orders", editor, whole, "Content-Type", "application/json; charset=UTF-8"), http.StatusCreated)
}

func TestPathsAndMethods(t *testing.T) {
	s := start(t)
	editor := s.token("acme-corp", auth.RoleEditor)
	for _, tc := range []struct {
		method, path string
		status       int
		problem      string
		allow        string
	}{
		{"PUT", "/v1/orders", 405, "method-not-allowed", "POST, GET, HEAD"},
		{"DELETE", "/v1/orders", 405, "method-not-allowed", "POST, GET, HEAD"},
		{"OPTIONS", "/v1/orders", 405, "method-not-allowed", "POST, GET, HEAD"},
		{"POST", "/v1/orders/0123456789abcdefghijklmnop", 405, "method-not-allowed", "GET, HEAD"},
		{"POST", "/openapi.json", 405, "method-not-allowed", "GET, HEAD"},
		{"GET", "/", 404, "not-found", ""},
		{"GET", "/v1", 404, "not-found", ""},
		{"GET", "/v1/orders/", 404, "not-found", ""},
		{"GET", "/v1/orders/a/b", 404, "not-found", ""},
		{"GET", "/V1/orders", 404, "not-found", ""},
		{"GET", "/metrics", 404, "not-found", ""},
		{"GET", "/v1/orders/../", 400, "invalid-request", ""},
		{"GET", "/v1/orders/%2e%2e/orders", 400, "invalid-request", ""},
		{"GET", "//v1/orders", 400, "invalid-request", ""},
		{"GET", "/v1/./orders", 400, "invalid-request", ""},
		{"POST", "/v1/orders?tenantId=globex-inc", 400, "invalid-request", ""},
		{"GET", "/v1/orders/0123456789abcdefghijklmnop?x=1", 400, "invalid-request", ""},
	} {
		t.Run(tc.method+" "+tc.path, func(t *testing.T) {
			r := s.do(tc.method, tc.path, editor, "", "X-HTTP-Method-Override", "GET")
			refusal(t, r, tc.status, tc.problem)
			if got := r.header.Get("Allow"); got != tc.allow {
				t.Errorf("Allow is %q, want %q", got, tc.allow)
			}
		})
	}
	if r := s.do("HEAD", "/v1/orders", editor, ""); r.status != http.StatusOK || r.body != "" {
		t.Errorf("HEAD answered %d %q", r.status, r.body)
	}
	if r := s.do("GET", "/openapi.json", "", ""); r.status != http.StatusOK || !strings.Contains(r.body, `"openapi"`) {
		t.Errorf("/openapi.json answered %d", r.status)
	}
}

// The token says who and whose; headers that claim something else do nothing.
func TestTokensAndRoles(t *testing.T) {
	s := start(t)
	sign := func(tenant string, ttl time.Duration) string {
		token, err := s.issuer.ID(tenant, "somebody", auth.RoleEditor, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	refresher, err := s.issuer.Refresher(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := s.issuer.Operator(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	access, err := s.issuer.Access("acme-corp", "somebody", auth.RoleEditor, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	reader, editor, admin := s.token("acme-corp", auth.RoleReader), s.token("acme-corp", auth.RoleEditor), s.token("acme-corp", auth.RoleAdmin)
	for name, tc := range map[string]struct {
		token     string
		headers   []string
		get, post int
	}{
		"none":         {get: 401, post: 401},
		"garbage":      {token: "garbage", get: 401, post: 401},
		"expired":      {token: sign("acme-corp", -time.Minute), get: 401, post: 401},
		"access token": {token: access, get: 401, post: 401},
		"basic":        {headers: []string{"Authorization", "Basic YTpi"}, get: 401, post: 401},
		"two tokens":   {token: editor, headers: []string{"Authorization", "Bearer " + editor}, get: 401, post: 401},
		"changed":      {token: editor[:len(editor)-8] + "AAAAAAAA", get: 401, post: 401},
		"shared":       {token: sign("_shared", time.Hour), get: 403, post: 403},
		"refresher":    {token: refresher, get: 403, post: 403},
		"operator":     {token: operator, get: 403, post: 403},
		"reader":       {token: reader, get: 200, post: 403},
		"editor":       {token: editor, get: 200, post: 201},
		"admin":        {token: admin, get: 200, post: 201},
	} {
		t.Run(name, func(t *testing.T) {
			for method, want := range map[string]int{"GET": tc.get, "POST": tc.post} {
				r := s.do(method, "/v1/orders", tc.token, body(1, 500), tc.headers...)
				if r.status != want {
					t.Errorf("%s answered %d, want %d: %s", method, r.status, want, r.body)
				}
				switch want {
				case http.StatusUnauthorized:
					refusal(t, r, want, "unauthenticated")
				case http.StatusForbidden:
					refusal(t, r, want, "forbidden")
				}
				if challenged := strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Bearer"); challenged != (want == 401 || want == 403) {
					t.Errorf("%s answered %d with the challenge %q", method, want, r.header.Get("WWW-Authenticate"))
				}
			}
		})
	}
	r := s.do("POST", "/v1/orders", editor, body(1, 500), "X-Tenant-Id", "globex-inc", "X-Amzn-Tenant", "globex-inc")
	if o := parse[order](t, r, http.StatusCreated); o.PaymentGateway.Name != "Stripe" {
		t.Errorf("a header made the tenant another: %+v", o)
	}
}

func TestRequestID(t *testing.T) {
	s := start(t)
	for sent, kept := range map[string]bool{
		"abc-1.2_3": true, strings.Repeat("x", 64): true, strings.Repeat("x", 65): false, "a b": false, `a"b`: false, "é": false,
	} {
		r := s.do("GET", "/v1/orders", "", "", "X-Request-Id", sent)
		p := refusal(t, r, http.StatusUnauthorized, "unauthenticated")
		if (p.RequestID == sent) != kept || p.RequestID == "" {
			t.Errorf("request id %q came back as %q", sent, p.RequestID)
		}
		if !strings.Contains(s.log.String(), `"request_id":"`+p.RequestID+`"`) {
			t.Errorf("the log has no line of request %q", p.RequestID)
		}
	}
}

// The request id and the trace that a client began reach the configuration
// service.
func TestCallsAreTraced(t *testing.T) {
	s := start(t)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	r := s.do("POST", "/v1/orders", s.token("acme-corp", auth.RoleEditor), body(1, 500),
		"Traceparent", "00-"+trace+"-b7ad6b7169203331-01", "X-Request-Id", "from-client")
	parse[order](t, r, http.StatusCreated)
	s.config.mu.Lock()
	defer s.config.mu.Unlock()
	if got := s.config.last.Get("traceparent"); len(got) != 1 || !strings.Contains(got[0], trace) {
		t.Errorf("the configuration service got traceparent %q", got)
	}
	if got := s.config.last.Get("x-request-id"); len(got) != 1 || got[0] != "from-client" {
		t.Errorf("the configuration service got x-request-id %q", got)
	}
	if !strings.Contains(s.log.String(), trace) {
		t.Error("the log does not name the trace")
	}
}

func TestManagement(t *testing.T) {
	s := start(t)
	parse[order](t, s.do("POST", "/v1/orders", s.token("acme-corp", auth.RoleEditor), body(1, 500)), http.StatusCreated)
	api := s.url
	s.url = s.management
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ready", "/metrics": `http_route="/v1/orders"`,
	} {
		if r := s.do("GET", path, "", ""); r.status != http.StatusOK || !strings.Contains(r.body, want) {
			t.Errorf("%s answered %d, without %q: %s", path, r.status, want, r.body)
		}
	}
	if r := s.do("GET", "/metrics", "", ""); strings.Contains(r.body, "acme-corp") {
		t.Error("a metric names a tenant")
	}
	s.url = api
}
