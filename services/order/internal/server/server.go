package server

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/order/internal/orders"
)

const (
	// requestTimeout is how long one request may take.
	requestTimeout = 5 * time.Second
	// maxInFlight is how many requests are worked on at once.
	maxInFlight = 256
	// maxPerTenant is how many of them may be one tenant's: one that floods, or
	// sends its bodies slowly, leaves room for the others.
	maxPerTenant = maxInFlight / 2
	// defaultPage and maxPage are numbers of orders.
	defaultPage = 20
	maxPage     = 100
	// maxRequestKey is the longest Idempotency-Key in bytes.
	maxRequestKey = 128
)

// openAPI describes the routes below; a test holds the two together.
//
//go:embed openapi.json
var openAPI []byte

// Verifier turns a bearer token into a caller; *auth.Verifier implements it.
type Verifier interface {
	Verify(ctx context.Context, token string) (auth.Principal, error)
}

// Options are what a Server needs. Every field is required.
type Options struct {
	Book           *orders.Book
	Verifier       Verifier
	CursorKey      []byte // CursorKeySize bytes or more
	Logger         *slog.Logger
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider
}

// server serves the routes.
type server struct {
	book     *orders.Book
	verifier Verifier
	cursors  cursors
	logger   *slog.Logger
	slots    chan struct{}
	shares   shares
}

// route is one method of one path.
type route struct {
	method, path string
	role         auth.Role // "" needs no token
	serve        func(http.ResponseWriter, *http.Request, auth.Principal) error
}

func (s *server) routes() []route {
	return []route{
		{http.MethodPost, "/v1/orders", auth.RoleEditor, s.place},
		{http.MethodGet, "/v1/orders", auth.RoleReader, s.list},
		{http.MethodGet, "/v1/orders/{id}", auth.RoleReader, s.get},
		{http.MethodGet, "/openapi.json", "", s.describe},
	}
}

// New returns the handler of the REST API.
func New(o Options) http.Handler {
	if len(o.CursorKey) < CursorKeySize {
		panic("server: cursor key is too short")
	}
	s := &server{
		book: o.Book, verifier: o.Verifier, cursors: cursors{key: bytes.Clone(o.CursorKey)},
		logger: o.Logger, slots: make(chan struct{}, maxInFlight),
	}
	return otelhttp.NewHandler(s.frame(s.mux()), "order",
		otelhttp.WithMeterProvider(o.MeterProvider), otelhttp.WithTracerProvider(o.TracerProvider))
}

func (s *server) mux() *http.ServeMux {
	mux := http.NewServeMux()
	allowed := map[string][]string{}
	for _, r := range s.routes() {
		mux.HandleFunc(r.method+" "+r.path, s.handle(r))
		allowed[r.path] = append(allowed[r.path], r.method)
		if r.method == http.MethodGet { // a GET pattern also takes HEAD
			allowed[r.path] = append(allowed[r.path], http.MethodHead)
		}
	}
	refuse := func(p problem) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, &p) }
	}
	for path, methods := range allowed {
		p := newProblem(http.StatusMethodNotAllowed, typeMethod, "The method is not allowed here", "Use "+strings.Join(methods, ", ")+".")
		p.allow = strings.Join(methods, ", ")
		mux.HandleFunc(path, refuse(*p))
	}
	mux.HandleFunc("/", refuse(*notFound("There is nothing at this path. GET /openapi.json says what there is.")))
	return mux
}

// handle runs one route: the caller first, then the rest.
func (s *server) handle(route route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var caller auth.Principal
		if route.role != "" {
			token, p, err := s.authenticate(r, route.role)
			if err != nil {
				s.fail(w, r, err)
				return
			}
			caller = p
			entryOf(r.Context()).tenant = p.Tenant
			if !s.shares.take(p.Tenant) {
				s.fail(w, r, unavailable(typeUnavailable, "Too many requests of this tenant are at work.", time.Second))
				return
			}
			defer s.shares.giveBack(p.Tenant)
			r = r.WithContext(client.ContextWithToken(r.Context(), token))
		}
		if err := route.serve(w, r, caller); err != nil {
			s.fail(w, r, err)
		}
	}
}

func (s *server) authenticate(r *http.Request, needs auth.Role) (token string, p auth.Principal, err error) {
	if token, err = auth.BearerToken(r.Header.Values("Authorization")); err != nil {
		return "", p, err
	}
	if p, err = s.verifier.Verify(r.Context(), token); err != nil {
		return "", p, err
	}
	if !p.Role.AtLeast(needs) || p.Tenant.IsZero() {
		return "", p, forbidden(fmt.Sprintf("This needs the role %s.", needs))
	}
	return token, p, nil
}

func (s *server) place(w http.ResponseWriter, r *http.Request, caller auth.Principal) error {
	requestKey, err := requestKey(r.Header.Values("Idempotency-Key"))
	if err != nil {
		return err
	}
	if err := noQuery(r.URL); err != nil {
		return err
	}
	draft, err := readDraft(w, r)
	if err != nil {
		return err
	}
	o, replayed, err := s.book.Place(r.Context(), orders.Buyer{Tenant: caller.Tenant, Subject: caller.Subject}, draft, requestKey)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/orders/"+o.ID.String())
	if replayed {
		w.Header().Set("Idempotency-Replayed", "true")
	}
	return answer(w, http.StatusCreated, toJSON(o))
}

func (s *server) get(w http.ResponseWriter, r *http.Request, caller auth.Principal) error {
	if err := noQuery(r.URL); err != nil {
		return err
	}
	id, ok := orders.ParseID(r.PathValue("id"))
	if !ok {
		return config.Errorf(config.NotFound, "there is no such order")
	}
	o, err := s.book.Get(r.Context(), caller.Tenant, id)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, toJSON(o))
}

func (s *server) list(w http.ResponseWriter, r *http.Request, caller auth.Principal) error {
	limit, cursor, err := listQuery(r.URL)
	if err != nil {
		return err
	}
	var before orders.ID
	if cursor != "" {
		if before, err = s.cursors.open(caller.Tenant, cursor); err != nil {
			return err
		}
	}
	// One more than asked for tells whether there is a next page.
	found, err := s.book.List(r.Context(), caller.Tenant, before, limit+1)
	if err != nil {
		return err
	}
	page := pageJSON{Orders: []orderJSON{}}
	if len(found) > limit {
		found = found[:limit]
		page.NextCursor = s.cursors.seal(caller.Tenant, found[limit-1].ID)
	}
	for _, o := range found {
		page.Orders = append(page.Orders, toJSON(o))
	}
	return answer(w, http.StatusOK, page)
}

func (s *server) describe(w http.ResponseWriter, _ *http.Request, _ auth.Principal) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI) // a client that is gone needs no answer
	return nil
}

func answer(w http.ResponseWriter, status int, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return config.Errorf(config.Internal, "the answer can not be encoded").WithCause(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // a client that is gone needs no answer
	return nil
}

// requestKey takes 1 to 128 visible ASCII characters, or none at all.
func requestKey(values []string) (string, error) {
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	visible := strings.IndexFunc(key, func(c rune) bool { return c <= ' ' || c >= 0x7f }) < 0
	if len(values) > 1 || key == "" || len(key) > maxRequestKey || !visible {
		return "", invalidRequest(fmt.Sprintf("Idempotency-Key must be one value of 1 to %d visible ASCII characters.", maxRequestKey))
	}
	return key, nil
}

func noQuery(u *url.URL) error {
	if u.RawQuery != "" {
		return invalidRequest("This path takes no query parameters.")
	}
	return nil
}

func listQuery(u *url.URL) (limit int, cursor string, err error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return 0, "", invalidRequest("The query is not valid.")
	}
	limit = defaultPage
	for name, values := range query {
		if (name != "limit" && name != "cursor") || len(values) != 1 || values[0] == "" {
			return 0, "", invalidRequest("The query takes limit and cursor, each once and not empty.")
		}
	}
	if text := query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxPage {
			return 0, "", invalidRequest(fmt.Sprintf("limit must be from 1 to %d.", maxPage))
		}
	}
	return limit, query.Get("cursor"), nil
}

// entry is what the log will say of a request beside its outcome.
type entry struct {
	id     string
	tenant config.Tenant
	err    error
}

type entryKey struct{}

// entryOf returns the request's entry; frame has put one into every context.
func entryOf(ctx context.Context) *entry {
	e, _ := ctx.Value(entryKey{}).(*entry)
	return e
}

// fail answers with err's problem.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(r.Context(), err)
	e := entryOf(r.Context())
	if p.Status >= http.StatusInternalServerError {
		e.err = err
	}
	p.write(w, e.id)
}

// frame gives every request its id, its deadline, its place among those in
// flight and its line in the log, and survives its panics.
func (s *server) frame(next *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		e := &entry{id: requestID(r.Header.Values("X-Request-Id"))}
		ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), entryKey{}, e), requestTimeout)
		defer cancel()
		ctx = client.ContextWithRequestID(ctx, e.id)
		inner := r.WithContext(ctx)

		h := w.Header()
		h.Set("X-Request-Id", e.id)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		recorder := &recorder{ResponseWriter: w}
		s.guard(recorder, inner, next)

		r.Pattern = inner.Pattern // where otelhttp looks for the route
		s.log(r, e, recorder, time.Since(began))
	})
}

func (s *server) guard(w *recorder, r *http.Request, next *http.ServeMux) {
	defer func() {
		cause := recover()
		switch cause {
		case nil:
		case http.ErrAbortHandler:
			panic(cause)
		default:
			entryOf(r.Context()).err = fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
			if w.status == 0 {
				s.fail(w, r, errors.New("panic"))
			}
		}
	}()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		s.fail(w, r, unavailable(typeUnavailable, "Too many requests are at work.", time.Second))
		return
	}
	// ServeMux would redirect such a path to the cleaned one.
	if p := r.URL.Path; p == "" || p[0] != '/' || (path.Clean(p) != p && path.Clean(p)+"/" != p) {
		s.fail(w, r, invalidRequest("The path has an empty, '.' or '..' segment."))
		return
	}
	next.ServeHTTP(w, r)
}

// shares counts the requests at work by tenant. It holds no more tenants than
// there are requests.
type shares struct {
	mu    sync.Mutex
	taken map[config.Tenant]int
}

// take reports whether the tenant may have one more. The caller gives it back.
func (s *shares) take(t config.Tenant) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[t] == maxPerTenant {
		return false
	}
	if s.taken == nil {
		s.taken = map[config.Tenant]int{}
	}
	s.taken[t]++
	return true
}

func (s *shares) giveBack(t config.Tenant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[t]--; s.taken[t] == 0 {
		delete(s.taken, t)
	}
}

// log writes one line for each request: no body, no header, no query.
func (s *server) log(r *http.Request, e *entry, w *recorder, took time.Duration) {
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("request_id", e.id), slog.String("method", r.Method), slog.String("route", r.Pattern),
		slog.Int("status", w.status), slog.Int64("bytes", w.bytes), slog.Duration("took", took),
	}
	if !e.tenant.IsZero() {
		attrs = append(attrs, slog.String("tenant", e.tenant.String()))
	}
	if e.err != nil {
		level = slog.LevelError
		attrs = append(attrs, slog.String("error", chain(e.err)))
	}
	s.logger.LogAttrs(r.Context(), level, "request", attrs...)
}

// chain shows an error with its causes, which the texts of config.Error leave
// out.
func chain(err error) string {
	var parts []string
	for ; err != nil; err = errors.Unwrap(err) {
		if text := err.Error(); len(parts) == 0 || !strings.Contains(parts[len(parts)-1], text) {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, ": ")
}

// requestID takes over an id that can be logged safely, or makes a new one.
func requestID(values []string) string {
	if len(values) != 1 || values[0] == "" || len(values[0]) > 64 {
		return rand.Text()
	}
	for _, c := range []byte(values[0]) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return rand.Text()
		}
	}
	return values[0]
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}
