package ssmbackend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
)

// proxy stands between a store and the emulator and does what the emulator
// does not: refuse, hang up, answer strangely.
type proxy struct {
	url string

	mu    sync.Mutex
	rules []*rule
	seen  map[string]int // operation -> requests
	look  func(operation, name, accessKey string)
}

// rule is what happens to the next requests of one operation.
type rule struct {
	operation string
	times     int // negative: always
	act       func(w http.ResponseWriter, r *http.Request, forward http.Handler)
}

func newProxy(t testing.TB) *proxy {
	t.Helper()
	target, err := url.Parse(moto(t))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	forward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport,
	}
	p := &proxy{seen: map[string]int{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.show(r)
		if act := p.take(operation(r)); act != nil {
			act(w, r, forward)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		transport.CloseIdleConnections()
	})
	p.url = server.URL
	return p
}

func operation(r *http.Request) string {
	_, name, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	return name
}

func (p *proxy) take(operation string) func(http.ResponseWriter, *http.Request, http.Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[operation]++
	for _, r := range p.rules {
		if r.operation == operation && r.times != 0 {
			r.times--
			return r.act
		}
	}
	return nil
}

// watch calls look for every request of Parameter Store: with the name or path
// that it is about and the access key that it is signed with.
func (p *proxy) watch(look func(operation, name, accessKey string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.look = look
}

func (p *proxy) show(r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.look == nil || operation(r) == "" {
		return
	}
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	var request struct {
		Name, Path string
		Names      []string
	}
	if err == nil {
		err = json.Unmarshal(body, &request)
	}
	if err != nil {
		panic(err)
	}
	_, credential, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	accessKey, _, _ := strings.Cut(credential, "/")
	for _, name := range append(request.Names, request.Name+request.Path) {
		if name != "" {
			p.look(operation(r), name, accessKey)
		}
	}
}

func (p *proxy) count(operation string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[operation]
}

func (p *proxy) on(operation string, times int, act func(w http.ResponseWriter, r *http.Request, forward http.Handler)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, &rule{operation, times, act})
}

// refuse answers with an error of the API.
func (p *proxy) refuse(operation string, times int, status int, code, message string) {
	p.on(operation, times, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"__type":%q,"message":%q}`, code, message)
	})
}

// hangUp makes the request and loses the answer.
func (p *proxy) hangUp(operation string, times int) {
	p.on(operation, times, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		forward.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
}

// before does something ahead of a request.
func (p *proxy) before(operation string, times int, do func()) {
	p.on(operation, times, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		do()
		forward.ServeHTTP(w, r)
	})
}

// answer replaces the answers to an operation: fn gets the request's body and
// returns what is sent as JSON.
func (p *proxy) answer(operation string, times int, fn func(request map[string]any) any) {
	p.on(operation, times, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		body, err := io.ReadAll(r.Body)
		var request map[string]any
		if err == nil {
			err = json.NewDecoder(bytes.NewReader(body)).Decode(&request)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		if err := json.NewEncoder(w).Encode(fn(request)); err != nil {
			panic(err)
		}
	})
}

// behind sends a store's requests through the proxy.
func (p *proxy) behind(s *Store) *Store {
	s.client = ssm.New(s.client.Options(), func(o *ssm.Options) { o.BaseEndpoint = aws.String(p.url) })
	return s
}
