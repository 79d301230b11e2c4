package emulators

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Through a proxy without faults, everything is as without the proxy.
func TestProxyPassesOn(t *testing.T) {
	moto := Moto(t)
	p := NewProxy(t, moto)
	name := "/" + Name(t, "proxy") + "/limit"
	if v := putParameter(t, p.URL, name, "one"); v != 1 {
		t.Errorf("the first write made version %d", v)
	}
	if v := putParameter(t, p.URL, name, "two"); v != 2 {
		t.Errorf("the second write made version %d", v)
	}
	if v := version(t, moto, name); v != 2 {
		t.Errorf("moto has version %d", v)
	}

	// S3, with a key of which every byte counts.
	bucket := "/" + Name(t, "proxy")
	object := bucket + "/a%2Fb/c%20d+e/%E2%82%AC"
	content := bytes.Repeat([]byte{0, 1, 254, 255}, 500_000)
	for _, c := range []struct {
		method, path string
		body         []byte
	}{{http.MethodPut, bucket, nil}, {http.MethodPut, object, content}} {
		if a, err := try(t.Context(), c.method, p.URL+c.path, "s3", nil, c.body); err != nil || a.status != http.StatusOK {
			t.Fatalf("%s %s: %d %s %v", c.method, c.path, a.status, a.body, err)
		}
	}
	direct, err := try(t.Context(), http.MethodGet, moto+object, "s3", nil, nil)
	if err != nil || !bytes.Equal(direct.body, content) {
		t.Fatalf("moto has %d bytes, %v", len(direct.body), err)
	}
	through, err := try(t.Context(), http.MethodGet, p.URL+object, "s3", nil, nil)
	if err != nil || !bytes.Equal(through.body, content) || through.header.Get("Etag") != direct.header.Get("Etag") {
		t.Fatalf("through the proxy: %d bytes, %v, %v", len(through.body), through.header, err)
	}
	head, err := try(t.Context(), http.MethodHead, p.URL+object, "s3", nil, nil)
	if err != nil || head.header.Get("Content-Length") != "2000000" {
		t.Errorf("HEAD: %v, %v", head.header, err)
	}
	unchanged, err := try(t.Context(), http.MethodGet, p.URL+object, "s3", map[string]string{"If-None-Match": direct.header.Get("Etag")}, nil)
	if err != nil || unchanged.status != http.StatusNotModified {
		t.Errorf("If-None-Match: %d, %v", unchanged.status, err)
	}

	want := map[string]int{"PutParameter": 2, "CreateBucket": 1, "PutObject": 1, "GetObject": 2, "HeadObject": 1}
	have := p.Operations()
	for operation, n := range want {
		if have[operation] != n || p.Calls(operation) != n {
			t.Errorf("%d calls of %s were counted, not %d", have[operation], operation, n)
		}
	}
	if len(have) != len(want) {
		t.Errorf("calls of %v were counted", have)
	}
	if n := p.Calls("GET " + bucket + "/**"); n != 2 {
		t.Errorf("%d calls of GET were counted", n)
	}
	p.ResetCalls()
	if n := p.Calls(""); n != 0 {
		t.Errorf("%d calls after a reset", n)
	}
}

// What an emulator sees of a call is what the client sent: a signature would
// still hold.
func TestProxyChangesNothing(t *testing.T) {
	var seen *http.Request
	var body []byte
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		seen = q.Clone(context.Background())
		body, _ = io.ReadAll(q.Body)
		w.Header().Set("X-Amzn-Errortype", "Odd:http://internal/")
		w.WriteHeader(http.StatusTeapot)
	}))
	defer echo.Close()
	p := NewProxy(t, echo.URL)
	a, err := try(t.Context(), http.MethodPatch, p.URL+"/a%2fb//c;d/?x=1;2&y&=z&x=%zz", "ssm",
		map[string]string{"Host": "data-api.example.com", "User-Agent": "", "X-Amz-Date": "20200101T000000Z"}, []byte("body"))
	if err != nil {
		t.Fatal(err)
	}
	if a.status != http.StatusTeapot || a.header.Get("X-Amzn-Errortype") != "Odd:http://internal/" || len(a.body) != 0 {
		t.Errorf("answer: %+v", a)
	}
	if seen.Method != http.MethodPatch || seen.RequestURI != "/a%2fb//c;d/?x=1;2&y&=z&x=%zz" || seen.Host != "data-api.example.com" || string(body) != "body" {
		t.Errorf("%s %s of %s: %q", seen.Method, seen.RequestURI, seen.Host, body)
	}
	want := http.Header{
		"Authorization": {signature("ssm")}, "X-Amz-Date": {"20200101T000000Z"}, "Content-Length": {"4"},
	}
	for name := range seen.Header {
		if seen.Header.Get(name) != want.Get(name) {
			t.Errorf("%s: %q, not %q", name, seen.Header.Get(name), want.Get(name))
		}
	}
	if len(seen.Header) != len(want) {
		t.Errorf("headers: %v", seen.Header)
	}
}

func TestProxyReplies(t *testing.T) {
	moto := Moto(t)
	for _, c := range []struct {
		name   string
		answer Answer
		status int
		body   string
	}{
		{"JSON", JSONError(400, "ThrottlingException", `"slow" down`), 400, `{"__type":"ThrottlingException","message":"\"slow\" down"}`},
		{"XML", XMLError(503, "SlowDown", "a < b"), 503, `<Error><Code>SlowDown</Code><Message>a &lt; b</Message><RequestId>0000000000000000</RequestId></Error>`},
		{"query", QueryError(403, "AccessDenied", "no"), 403, `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error>` +
			`<RequestId>00000000-0000-0000-0000-000000000000</RequestId></ErrorResponse>`},
		{"raw", Answer{Status: 502, Header: http.Header{"Retry-After": {"7"}}}, 502, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := NewProxy(t, moto)
			name := "/" + Name(t, "reply") + "/limit"
			fault := p.Inject(Fault{Operation: "PutParameter", Skip: 1, Times: 2, Then: Reply, Answer: c.answer})
			var statuses []int
			for range 4 {
				a := post(t, p.URL, "ssm", "AmazonSSM.PutParameter", parameter(name, "x"))
				statuses = append(statuses, a.status)
				if a.status == http.StatusOK {
					continue
				}
				if string(a.body) != c.body {
					t.Errorf("body: %s", a.body)
				}
				for name := range c.answer.Header {
					if a.header.Get(name) != c.answer.Header.Get(name) {
						t.Errorf("%s: %q", name, a.header.Get(name))
					}
				}
			}
			if want := []int{200, c.status, c.status, 200}; len(statuses) != 4 || statuses[0] != want[0] || statuses[1] != want[1] || statuses[2] != want[2] || statuses[3] != want[3] {
				t.Errorf("answers %v, not %v", statuses, want)
			}
			if fault.Hits() != 2 || p.Calls("PutParameter") != 4 {
				t.Errorf("%d hits of %d calls", fault.Hits(), p.Calls("PutParameter"))
			}
			// moto saw the other two only.
			if v := version(t, moto, name); v != 2 {
				t.Errorf("moto has version %d", v)
			}
		})
	}
}

func TestProxyDrops(t *testing.T) {
	moto := Moto(t)
	for _, c := range []struct {
		name    string
		then    Action
		err     error
		version int // that moto has of a parameter that was dropped on its second write
	}{
		{"before", DropBefore, io.EOF, 1},
		{"after", DropAfter, io.EOF, 2},
		{"during", DropDuring, io.ErrUnexpectedEOF, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := NewProxy(t, moto)
			name := "/" + Name(t, "drop") + "/limit"
			putParameter(t, p.URL, name, "one")
			fault := p.Inject(Fault{Operation: "PutParameter", Then: c.then})
			a, err := tryPost(t.Context(), p.URL, "ssm", "AmazonSSM.PutParameter", parameter(name, "two"))
			if !errors.Is(err, c.err) {
				t.Errorf("%+v, %v", a, err)
			}
			if c.then == DropDuring && len(a.body) == 0 {
				t.Error("nothing of the answer arrived")
			}
			if v := version(t, moto, name); v != c.version {
				t.Errorf("moto has version %d, not %d", v, c.version)
			}
			fault.Remove()
			if v := putParameter(t, p.URL, name, "three"); v != c.version+1 {
				t.Errorf("without the fault: version %d", v)
			}
			if fault.Hits() != 1 {
				t.Errorf("%d hits", fault.Hits())
			}
		})
	}
}

// A call that is held up arrives when it is let go, and others pass it.
func TestProxyHolds(t *testing.T) {
	moto := Moto(t)
	p := NewProxy(t, moto)
	held, other := "/"+Name(t, "held")+"/a", "/"+Name(t, "other")+"/a"
	gate := make(chan struct{})
	p.Inject(Fault{Operation: "PutParameter", Times: 1, Until: gate})
	var writer sync.WaitGroup
	writer.Go(func() {
		if a, err := tryPost(t.Context(), p.URL, "ssm", "AmazonSSM.PutParameter", parameter(held, "x")); err != nil || a.status != http.StatusOK {
			t.Errorf("the call that was held: %d %s %v", a.status, a.body, err)
		}
	})
	p.Await(t, "PutParameter", 1)
	putParameter(t, p.URL, other, "x")
	if v := version(t, moto, held); v != 0 {
		t.Errorf("moto has version %d of what is held", v)
	}
	close(gate)
	writer.Wait()
	if v := version(t, moto, held); v != 1 {
		t.Errorf("moto has version %d of what was let go", v)
	}
}

func TestProxyDelays(t *testing.T) {
	p := NewProxy(t, Moto(t))
	const delay = 300 * time.Millisecond
	p.Inject(Fault{Operation: "GetParameter", Delay: delay, Times: 1})
	begin := time.Now()
	version(t, p.URL, "/"+Name(t, "delay"))
	if took := time.Since(begin); took < delay {
		t.Errorf("the call took %s", took)
	}

	// A client that waits for less leaves; its call is not made afterwards.
	name := "/" + Name(t, "delay") + "/a"
	p.Inject(Fault{Operation: "PutParameter", Delay: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := tryPost(ctx, p.URL, "ssm", "AmazonSSM.PutParameter", parameter(name, "x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	p.Clear()
	if v := version(t, p.URL, name); v != 0 {
		t.Errorf("moto has version %d", v)
	}
}

// A proxy ends with its test, whatever is under way.
func TestProxyEnds(t *testing.T) {
	var client sync.WaitGroup
	t.Run("test", func(t *testing.T) {
		p := NewProxy(t, Moto(t))
		p.Inject(Fault{Until: make(chan struct{})})
		for range 3 {
			client.Go(func() {
				if a, err := tryPost(context.Background(), p.URL, "ssm", "AmazonSSM.GetParameter", `{"Name":"/a"}`); err == nil {
					t.Errorf("%d %s", a.status, a.body)
				}
			})
		}
		p.Await(t, "", 3)
	})
	client.Wait()
}

// An emulator that is not there looks through the proxy as a broken connection.
func TestProxyWithoutEmulator(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	p := NewProxy(t, gone.URL)
	if a, err := tryPost(t.Context(), p.URL, "ssm", "AmazonSSM.GetParameter", `{}`); !errors.Is(err, io.EOF) {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestProxyAtOnce(t *testing.T) {
	p := NewProxy(t, Moto(t))
	fault := p.Inject(Fault{Operation: "GetParameter", Skip: 10, Times: 20, Then: Reply, Answer: JSONError(500, "InternalServerError", "")})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 10 {
				extra := p.Inject(Fault{Operation: "Nothing"})
				if _, err := tryPost(t.Context(), p.URL, "ssm", "AmazonSSM.GetParameter", `{"Name":"/a"}`); err != nil {
					t.Error(err)
				}
				extra.Remove()
				p.Calls("GetParameter")
				p.Operations()
			}
		})
	}
	callers.Wait()
	if p.Calls("GetParameter") != 80 || fault.Hits() != 20 {
		t.Errorf("%d calls, %d hits", p.Calls("GetParameter"), fault.Hits())
	}
}

func TestProxyRefusesNonsense(t *testing.T) {
	p := NewProxy(t, Moto(t))
	for name, f := range map[string]Fault{
		"no answer":     {Then: Reply},
		"not a path":    {Operation: "GET bucket"},
		"no method":     {Operation: " /bucket"},
		"not a pattern": {Operation: "GET /["},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if said, _ := recover().(string); !strings.HasPrefix(said, "emulators: ") {
					t.Errorf("panic: %q", said)
				}
			}()
			p.Inject(f)
		})
	}
}
