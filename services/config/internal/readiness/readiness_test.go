package readiness_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/services/config/internal/readiness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const service = "tagstore.v1.ConfigService"

// backend is a backend that a test turns on and off.
type backend struct{ up atomic.Bool }

func (b *backend) state() (string, bool) {
	if b.up.Load() {
		return "serving", true
	}
	return "restarting", false
}

func setUp() (m *readiness.Monitor, tenants, params *backend, all []readiness.Backend) {
	tenants, params = &backend{}, &backend{}
	tenants.up.Store(true)
	params.up.Store(true)
	return readiness.NewMonitor(service), tenants, params, []readiness.Backend{
		{Name: "params", Prefixes: []string{"param_config_", "param_extra_"}, State: params.state},
		{Name: "tenants", Prefixes: []string{"tenant_config_"}, State: tenants.state},
	}
}

func yes() bool { return true }

// health returns what the gRPC health service says of each name.
func health(t *testing.T, m *readiness.Monitor) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, name := range []string{"", service, "param_config_", "param_extra_", "tenant_config_"} {
		resp, err := m.Health().Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
		switch {
		case status.Code(err) == codes.NotFound:
			out[name] = "unknown"
		case err != nil:
			t.Fatal(err)
		default:
			out[name] = resp.GetStatus().String()
		}
	}
	return out
}

func expect(t *testing.T, m *readiness.Monitor, process, params, tenants string) {
	t.Helper()
	want := map[string]string{
		"": process, service: process, "param_config_": params, "param_extra_": params, "tenant_config_": tenants,
	}
	if diff := cmp.Diff(want, health(t, m)); diff != "" {
		t.Errorf("health (-want +got):\n%s", diff)
	}
}

const up, down, unknown = "SERVING", "NOT_SERVING", "unknown"

// The health of a prefix is that of its backend, no older than the interval,
// and touches neither other prefixes nor the process.
func TestHealthFollowsBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, tenants, params, all := setUp()
		expect(t, m, down, unknown, unknown)
		params.up.Store(false)
		m.Serve(all, yes)
		expect(t, m, up, down, up)

		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.Run(ctx, 250*time.Millisecond)
		}()
		params.up.Store(true)
		<-time.After(251 * time.Millisecond)
		synctest.Wait()
		expect(t, m, up, up, up)

		tenants.up.Store(false)
		<-time.After(250 * time.Millisecond)
		synctest.Wait()
		expect(t, m, up, up, down)

		m.Drain()
		expect(t, m, down, down, down)
		tenants.up.Store(true)
		<-time.After(time.Second)
		synctest.Wait()
		expect(t, m, down, down, down)
		cancel()
		<-done
	})
}

func TestServeAfterDrainDoesNothing(t *testing.T) {
	m, _, _, all := setUp()
	m.Drain()
	m.Serve(all, yes)
	expect(t, m, down, unknown, unknown)
}

// After a reload the prefixes are those of the new manifest.
func TestUpdate(t *testing.T) {
	m, tenants, params, all := setUp()
	m.Update(all)
	expect(t, m, down, unknown, unknown) // it does not serve yet
	m.Serve(all[:1], yes)
	expect(t, m, up, up, unknown)
	tenants.up.Store(false)
	m.Update(all[1:])
	got := health(t, m)
	for name, want := range map[string]string{"": up, "param_config_": "SERVICE_UNKNOWN", "param_extra_": "SERVICE_UNKNOWN", "tenant_config_": down} {
		if got[name] != want {
			t.Errorf("%q is %s, want %s", name, got[name], want)
		}
	}
	if _, report := get(t, m.Readyz); report.Ready || len(report.Backends) != 1 {
		t.Errorf("the report is %+v", report)
	}
	params.up.Store(false)
	m.Update(all)
	expect(t, m, up, down, down)
	m.Drain()
	m.Update(all[:1])
	expect(t, m, down, down, down)
}

// A backend that is not required is shown, and takes its prefixes out of
// service when it is down, but not the process.
func TestR31OptionalBackendsDoNotDecide(t *testing.T) {
	m, tenants, params, all := setUp()
	all[1].Optional = true
	tenants.up.Store(false)
	m.Serve(all, yes)
	expect(t, m, up, up, down)
	code, report := get(t, m.Readyz)
	if b := report.Backends[1]; code != http.StatusOK || !report.Ready || b.Serving || b.Required || b.State != "restarting" {
		t.Errorf("%d, %+v", code, report)
	}
	params.up.Store(false)
	if code, report = get(t, m.Readyz); code != http.StatusServiceUnavailable || report.Ready {
		t.Errorf("a required one is down: %d, %+v", code, report)
	}
}

func get(t *testing.T, h http.HandlerFunc) (int, readiness.Report) {
	t.Helper()
	w := httptest.NewRecorder()
	h(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	var r readiness.Report
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		t.Fatalf("%q: %v", w.Body, err)
	}
	return w.Code, r
}

func TestReadyz(t *testing.T) {
	m, tenants, _, all := setUp()
	code, report := get(t, m.Readyz)
	if diff := cmp.Diff(readiness.Report{Phase: "starting", Backends: []readiness.BackendReport{}}, report); code != 503 || diff != "" {
		t.Errorf("starting: %d (-want +got):\n%s", code, diff)
	}
	var keys atomic.Bool
	m.Serve(all, keys.Load)
	if code, report = get(t, m.Readyz); code != 503 || report.Ready || report.Tokens {
		t.Errorf("without keys: %d %+v", code, report)
	}
	keys.Store(true)
	code, report = get(t, m.Readyz)
	want := readiness.Report{Ready: true, Phase: "serving", Tokens: true, Backends: []readiness.BackendReport{
		{Name: "params", State: "serving", Serving: true, Required: true, Prefixes: []string{"param_config_", "param_extra_"}},
		{Name: "tenants", State: "serving", Serving: true, Required: true, Prefixes: []string{"tenant_config_"}},
	}}
	if diff := cmp.Diff(want, report); code != 200 || diff != "" {
		t.Errorf("serving: %d (-want +got):\n%s", code, diff)
	}
	tenants.up.Store(false)
	if code, report = get(t, m.Readyz); code != 503 || report.Ready || report.Backends[1].State != "restarting" {
		t.Errorf("a backend is down: %d %+v", code, report)
	}
	tenants.up.Store(true)
	m.Drain()
	if code, report = get(t, m.Readyz); code != 503 || report.Phase != "draining" {
		t.Errorf("draining: %d %+v", code, report)
	}
	if code, _ := get(t, m.Healthz); code != 200 {
		t.Errorf("healthz answers %d while draining", code)
	}
}
