// Package readiness keeps the answers to "can you serve?" up to date: the gRPC
// health service, with one entry for each route prefix, and the /healthz and
// /readyz pages of the management listener.
package readiness

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// Backend is what a Monitor watches of one backend.
type Backend struct {
	Name string
	// Prefixes are the route prefixes that lead to it. Each is the name of an
	// entry in the gRPC health service.
	Prefixes []string
	// Optional backends do not decide whether the process is ready.
	Optional bool
	// State names the backend's state and tells whether it serves. It must not
	// block and may be called from several goroutines at once.
	State func() (state string, serving bool)
}

// Monitor turns the states of backends into health. It is safe for concurrent
// use.
type Monitor struct {
	health   *health.Server
	services []string

	mu       sync.Mutex
	phase    phase
	tokens   func() bool
	backends []Backend
	serving  map[string]bool // what the health service says of each prefix
}

// phase is how far the process is in its life.
type phase string

const (
	starting phase = "starting"
	serving  phase = "serving"
	draining phase = "draining"
)

// NewMonitor returns a Monitor of a process that is starting. The services are
// the gRPC services whose health is that of the process as a whole; the empty
// name, by which the health protocol means the server itself, is always one.
func NewMonitor(services ...string) *Monitor {
	m := &Monitor{
		health: health.NewServer(), phase: starting,
		services: append([]string{""}, services...), serving: make(map[string]bool),
	}
	for _, name := range m.services {
		m.health.SetServingStatus(name, healthv1.HealthCheckResponse_NOT_SERVING)
	}
	return m
}

// Health returns the gRPC health service, to be registered on the server.
func (m *Monitor) Health() healthv1.HealthServer { return m.health }

// Serve reports the process as serving, and from now on each prefix of the
// backends as its backend is. tokens tells whether there are keys to verify
// tokens with; it must not block. Serve is called once; after Drain it does
// nothing.
//
// A backend that is down takes its own prefixes out of service and nothing
// else: the process keeps serving the others.
func (m *Monitor) Serve(backends []Backend, tokens func() bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != starting {
		return
	}
	m.phase, m.backends, m.tokens = serving, backends, tokens
	m.look()
	for _, name := range m.services {
		m.health.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	}
}

// Update is Serve's backends as they are after a reload: prefixes that are new
// appear, and those that are gone are unknown to the health service from now on.
// It does nothing before Serve and after Drain.
func (m *Monitor) Update(backends []Backend) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != serving {
		return
	}
	m.backends = backends
	m.look()
	for prefix := range m.serving {
		if !slices.ContainsFunc(backends, func(b Backend) bool { return slices.Contains(b.Prefixes, prefix) }) {
			m.health.SetServingStatus(prefix, healthv1.HealthCheckResponse_SERVICE_UNKNOWN)
			delete(m.serving, prefix)
		}
	}
}

// Run keeps the health of the prefixes no older than interval until ctx is
// done.
func (m *Monitor) Run(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			m.mu.Lock()
			m.look()
			m.mu.Unlock()
		}
	}
}

// look tells the health service what has changed. The caller holds m.mu.
func (m *Monitor) look() {
	for _, b := range m.backends {
		_, up := b.State()
		for _, prefix := range b.Prefixes {
			if was, known := m.serving[prefix]; known && was == up {
				continue
			}
			m.serving[prefix] = up
			status := healthv1.HealthCheckResponse_NOT_SERVING
			if up {
				status = healthv1.HealthCheckResponse_SERVING
			}
			m.health.SetServingStatus(prefix, status)
		}
	}
}

// Drain reports everything as not serving, for good.
func (m *Monitor) Drain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.phase = draining
	m.health.Shutdown()
}

// Report is the body of /readyz.
type Report struct {
	// Ready is true while the process serves, can verify tokens, and every
	// backend of the manifest that is not optional serves.
	Ready    bool            `json:"ready"`
	Phase    string          `json:"phase"`  // starting, serving or draining
	Tokens   bool            `json:"tokens"` // there are keys to verify tokens with
	Backends []BackendReport `json:"backends"`
}

// BackendReport is one backend of a Report.
type BackendReport struct {
	Name     string   `json:"name"`
	State    string   `json:"state"`
	Serving  bool     `json:"serving"`
	Required bool     `json:"required"`
	Prefixes []string `json:"prefixes"`
}

// Report returns how things are at this moment.
func (m *Monitor) Report() Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := Report{
		Phase: string(m.phase), Tokens: m.tokens != nil && m.tokens(),
		Backends: make([]BackendReport, 0, len(m.backends)),
	}
	r.Ready = m.phase == serving && r.Tokens
	for _, b := range m.backends {
		state, up := b.State()
		r.Ready = r.Ready && (up || b.Optional)
		r.Backends = append(r.Backends, BackendReport{Name: b.Name, State: state, Serving: up, Required: !b.Optional, Prefixes: b.Prefixes})
	}
	return r
}

// Healthz answers 200 while the process can answer at all: restarting it would
// not mend what it does not report here.
func (m *Monitor) Healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Status string `json:"status"`
	}{"alive"})
}

// Readyz answers with the Report: 200 when Ready, else 503.
func (m *Monitor) Readyz(w http.ResponseWriter, _ *http.Request) {
	r := m.Report()
	code := http.StatusOK
	if !r.Ready {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, r)
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	// The body always encodes; what fails is the connection, and then there is
	// nobody left to tell.
	_ = json.NewEncoder(w).Encode(body)
}
