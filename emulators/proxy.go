package emulators

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"
	"time"
)

// maxBody bounds what the proxy holds of one request, and of one answer.
const maxBody = 64 << 20

// Proxy is an HTTP server in front of an emulator. It passes every call on
// unchanged, counts it, and puts the faults in the way that a test asked for:
// those that AWS knows and no emulator makes. All methods may be called at any
// time from any goroutine.
type Proxy struct {
	// URL is the base URL of the proxy, without a slash at its end.
	URL string

	target  *url.URL
	forward *http.Transport
	done    context.Context // over when the test is

	mu     sync.Mutex
	counts map[call]int
	faults []*Injection
	// changed is closed and made anew with every call that is counted.
	changed chan struct{}
}

// A Fault is what happens to calls of one operation. Its zero value does
// nothing to any call.
type Fault struct {
	// Operation says which calls: an operation as AWS names it ("GetItem",
	// "GetParametersByPath", "AssumeRole", "PutObject"), "METHOD /path" with
	// path.Match's wildcards and an optional /** at the end, or "" for all.
	Operation string
	// Skip is how many of them go through first.
	Skip int
	// Times is how many of them it happens to after that; 0 is all.
	Times int
	// Delay holds the call up before anything else is done with it.
	Delay time.Duration
	// Until holds the call up until it is closed; nil does not.
	Until <-chan struct{}
	// Then is what is done with the call.
	Then Action
	// Answer is what Reply answers.
	Answer Answer
}

// Action is what a fault does with a call.
type Action int

const (
	// Forward passes the call on, after the fault's delay.
	Forward Action = iota
	// Reply sends the fault's Answer. The emulator does not see the call.
	Reply
	// DropBefore closes the connection. The emulator does not see the call.
	DropBefore
	// DropAfter passes the call on, and closes the connection when the emulator
	// has done it: the client does not learn what became of its call.
	DropAfter
	// DropDuring passes the call on, and closes the connection in the middle of
	// the emulator's answer.
	DropDuring
)

// Answer is an HTTP response.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// JSONError is the answer by which the services with a JSON protocol (SSM,
// DynamoDB, Secrets Manager, Cloud Map) report an error.
func JSONError(status int, code, message string) Answer {
	body, _ := json.Marshal(map[string]string{"__type": code, "message": message}) // two strings
	return Answer{Status: status, Body: body, Header: http.Header{
		"Content-Type":     {"application/x-amz-json-1.1"},
		"X-Amzn-Requestid": {"00000000-0000-0000-0000-000000000000"},
	}}
}

// XMLError is the answer by which S3 reports an error.
func XMLError(status int, code, message string) Answer {
	body, _ := xml.Marshal(struct { // three strings
		XMLName   xml.Name `xml:"Error"`
		Code      string
		Message   string
		RequestID string `xml:"RequestId"`
	}{Code: code, Message: message, RequestID: "0000000000000000"})
	return Answer{Status: status, Body: body, Header: http.Header{"Content-Type": {"application/xml"}}}
}

// QueryError is the answer by which the services with a query protocol (STS)
// report an error.
func QueryError(status int, code, message string) Answer {
	type inner struct{ Type, Code, Message string }
	body, _ := xml.Marshal(struct { // five strings
		XMLName   xml.Name `xml:"ErrorResponse"`
		Error     inner
		RequestID string `xml:"RequestId"`
	}{Error: inner{"Sender", code, message}, RequestID: "00000000-0000-0000-0000-000000000000"})
	return Answer{Status: status, Body: body, Header: http.Header{"Content-Type": {"text/xml"}}}
}

// NewProxy starts a proxy in front of target, a base URL. It ends with the
// test, with all its connections and goroutines.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		t.Fatalf("not the base URL of a server: %q", target)
	}
	done, end := context.WithCancel(context.Background())
	p := &Proxy{
		target: u, done: done,
		// As it comes, as it goes: nothing is compressed or unpacked on the way.
		forward: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
		counts:  map[call]int{},
		changed: make(chan struct{}),
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	server.Config.BaseContext = func(net.Listener) context.Context { return done }
	server.Start()
	p.URL = server.URL
	t.Cleanup(func() {
		end()
		server.CloseClientConnections()
		server.Close() // waits for every call that is under way
		p.forward.CloseIdleConnections()
	})
	return p
}

// Injection is a fault that is in the way.
type Injection struct {
	p     *Proxy
	fault Fault
	seen  int
	hits  int
}

// Inject puts a fault in the way, until it was removed or happened as often as
// it says. Of several faults that mean the same call, the first that is due
// happens.
func (p *Proxy) Inject(f Fault) *Injection {
	if f.Then == Reply && f.Answer.Status == 0 {
		panic("emulators: a fault that replies needs an Answer")
	}
	if method, pattern, ok := strings.Cut(f.Operation, " "); ok {
		if _, err := path.Match(pattern, ""); err != nil || method == "" || !strings.HasPrefix(pattern, "/") {
			panic(fmt.Sprintf("emulators: not a METHOD and a path: %q", f.Operation))
		}
	}
	i := &Injection{p: p, fault: f}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, i)
	return i
}

// Hits returns to how many calls the fault happened.
func (i *Injection) Hits() int {
	i.p.mu.Lock()
	defer i.p.mu.Unlock()
	return i.hits
}

// Remove takes the fault out of the way. Calls to which it happens already are
// not spared.
func (i *Injection) Remove() {
	i.p.mu.Lock()
	defer i.p.mu.Unlock()
	for at, other := range i.p.faults {
		if other == i {
			i.p.faults = append(i.p.faults[:at:at], i.p.faults[at+1:]...)
			return
		}
	}
}

// Clear takes every fault out of the way.
func (p *Proxy) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Calls returns how many calls have arrived that pattern means, as in
// [Fault.Operation], since the start or the last ResetCalls. A call that a
// client repeats counts each time.
func (p *Proxy) Calls(pattern string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.callsLocked(pattern)
}

func (p *Proxy) callsLocked(pattern string) int {
	sum := 0
	for c, n := range p.counts {
		if c.matches(pattern) {
			sum += n
		}
	}
	return sum
}

// Operations returns how many calls have arrived by operation. A call whose
// operation is not known stands under its method and path.
func (p *Proxy) Operations() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	sums := map[string]int{}
	for c, n := range p.counts {
		name := c.operation
		if name == "" {
			name = c.method + " " + c.path
		}
		sums[name] += n
	}
	return sums
}

// ResetCalls begins to count anew.
func (p *Proxy) ResetCalls() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.counts)
}

// Await returns when at least n calls have arrived that pattern means, and
// fails the test if that takes longer than ten seconds.
func (p *Proxy) Await(t testing.TB, pattern string, n int) {
	t.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for {
		p.mu.Lock()
		have, changed := p.callsLocked(pattern), p.changed
		p.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("%d calls of %q arrived, not %d", have, pattern, n)
		}
	}
}

// arrived counts a call and returns the fault that happens to it.
func (p *Proxy) arrived(c call) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[c]++
	close(p.changed)
	p.changed = make(chan struct{})
	for _, i := range p.faults {
		if !c.matches(i.fault.Operation) || i.fault.Times > 0 && i.hits == i.fault.Times {
			continue
		}
		if i.seen++; i.seen > i.fault.Skip {
			i.hits++
			return i.fault
		}
	}
	return Fault{}
}

// serve passes one call on, with the fault that happens to it.
func (p *Proxy) serve(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxBody))
	if err != nil {
		panic(http.ErrAbortHandler) // the client has gone, or sends without end
	}
	fault := p.arrived(call{operation: operation(q, body), method: q.Method, path: q.URL.Path})
	if !held(q.Context(), fault) {
		panic(http.ErrAbortHandler)
	}
	switch fault.Then {
	case Forward:
		p.pass(q, body).write(w)
	case Reply:
		fault.Answer.write(w)
	case DropBefore:
		panic(http.ErrAbortHandler)
	case DropAfter:
		p.pass(q, body)
		panic(http.ErrAbortHandler)
	case DropDuring:
		answer := p.pass(q, body)
		whole := len(answer.Body)
		answer.Header = answer.Header.Clone()
		answer.Header.Set("Content-Length", fmt.Sprint(max(whole, 1)))
		answer.Body = answer.Body[:whole/2]
		answer.write(w)
		_ = http.NewResponseController(w).Flush() // the half is to arrive
		panic(http.ErrAbortHandler)
	}
}

// held waits as long as the fault says, and returns whether the client and the
// test are still there.
func held(ctx context.Context, f Fault) bool {
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	}
	if f.Until != nil {
		select {
		case <-f.Until:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// pass makes the call at the emulator: the same method, path, query, headers
// (Host too, which a signature covers) and body.
func (p *Proxy) pass(q *http.Request, body []byte) Answer {
	to := *q.URL
	to.Scheme, to.Host = p.target.Scheme, p.target.Host
	// A client that leaves does not undo what it asked for: the call ends with
	// the test, not with its client.
	out, err := http.NewRequestWithContext(p.done, q.Method, to.String(), bytes.NewReader(body)) //nolint:gosec // to the target, whatever the client says
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	out.URL, out.Host = &to, q.Host
	out.Header = q.Header.Clone()
	for _, name := range []string{"Connection", "Keep-Alive", "Expect", "Te", "Upgrade"} {
		out.Header.Del(name) // of this connection, not of the call
	}
	if _, named := out.Header["User-Agent"]; !named {
		out.Header.Set("User-Agent", "") // else the transport adds its own
	}
	in, err := p.forward.RoundTrip(out)
	if err != nil {
		// As if there were no proxy: the client's connection breaks as ours did.
		panic(http.ErrAbortHandler)
	}
	defer in.Body.Close()
	got, err := io.ReadAll(io.LimitReader(in.Body, maxBody+1))
	if err != nil || len(got) > maxBody {
		panic(http.ErrAbortHandler)
	}
	in.Header.Del("Connection")
	if q.Method != http.MethodHead { // whose length is that of what it does not send
		in.Header.Del("Content-Length")
	}
	return Answer{Status: in.StatusCode, Header: in.Header, Body: got}
}

// write sends the answer.
func (a Answer) write(w http.ResponseWriter) {
	for name, values := range a.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // the client may have gone
}
