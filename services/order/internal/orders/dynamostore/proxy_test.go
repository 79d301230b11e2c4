package dynamostore_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// proxy stands in front of an emulator, and makes of its answers what a network
// and a busy service make of them.
type proxy struct {
	t        *testing.T
	upstream string
	server   *httptest.Server

	mu       sync.Mutex
	faults   []fault
	requests map[string]int // by operation
}

// fault is what becomes of one request of an operation.
type fault struct {
	operation string
	do        func(p *proxy, w http.ResponseWriter, r *http.Request, body []byte)
}

func newProxy(t *testing.T, upstream string) *proxy {
	t.Helper()
	p := &proxy{t: t, upstream: upstream, requests: map[string]int{}}
	p.server = httptest.NewServer(p)
	t.Cleanup(func() {
		p.server.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.faults) > 0 {
			t.Errorf("%d faults were not met", len(p.faults))
		}
	})
	return p
}

// next lets these faults befall the next requests of their operations, in order.
func (p *proxy) next(faults ...fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, faults...)
}

func (p *proxy) count(operation string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests[operation]
}

// operations are those that were called.
func (p *proxy) operations() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.requests))
}

func (p *proxy) take(operation string) *fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests[operation]++
	for i, f := range p.faults {
		if f.operation == operation {
			p.faults = append(p.faults[:i:i], p.faults[i+1:]...)
			return &f
		}
	}
	return nil
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if f := p.take(operation); f != nil {
		f.do(p, w, r, body)
		return
	}
	p.pass(w, r, body)
}

// pass is a request without a fault.
func (p *proxy) pass(w http.ResponseWriter, r *http.Request, body []byte) {
	a := p.forward(r, body)
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.text) // the client may have gone away
}

// answer is what the emulator says.
type answer struct {
	status int
	header http.Header
	text   []byte
}

func (p *proxy) forward(r *http.Request, body []byte) answer {
	// The emulator carries out what has arrived, whoever went away.
	out, err := http.NewRequest(r.Method, p.upstream+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		p.t.Error(err)
		panic(http.ErrAbortHandler)
	}
	out.Header = r.Header.Clone()
	out.Header.Del("Accept-Encoding")
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		p.t.Error(err)
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Error(err)
		panic(http.ErrAbortHandler)
	}
	return answer{resp.StatusCode, resp.Header, text}
}

// lost is a request that is carried out and whose answer does not come.
func lost(operation string) fault {
	return fault{operation, func(p *proxy, _ http.ResponseWriter, r *http.Request, body []byte) {
		p.forward(r, body)
		panic(http.ErrAbortHandler) // closes the connection
	}}
}

// dropped is a request that does not arrive.
func dropped(operation string) fault {
	return fault{operation, func(*proxy, http.ResponseWriter, *http.Request, []byte) { panic(http.ErrAbortHandler) }}
}

// refused is a request that gets this error and is not carried out.
func refused(operation string, status int, code, more string) fault {
	return fault{operation, func(_ *proxy, w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"of arn:aws:dynamodb:us-east-1:123456789012:table/secret"%s}`, code, more)
	}}
}

// failed is a request that is carried out, and answered with a server's error.
func failed(operation string) fault {
	return fault{operation, func(p *proxy, w http.ResponseWriter, r *http.Request, body []byte) {
		p.forward(r, body)
		refused(operation, http.StatusInternalServerError, "InternalServerError", "").do(p, w, r, body)
	}}
}

// during is a request that is carried out once f has returned.
func during(operation string, f func()) fault {
	return fault{operation, func(p *proxy, w http.ResponseWriter, r *http.Request, body []byte) {
		f()
		p.pass(w, r, body)
	}}
}

func times(n int, f fault) []fault {
	all := make([]fault, n)
	for i := range all {
		all[i] = f
	}
	return all
}
