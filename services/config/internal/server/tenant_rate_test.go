package server_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/store"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// clock moves when it is told to.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Duration      { return time.Duration(c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

// limited is a server with a rate of one key a second for each tenant, and what
// its clock and metrics are.
func limited(t *testing.T) (*fixture, *clock, *metric.ManualReader) {
	t.Helper()
	c, meters := &clock{}, metric.NewManualReader()
	f := start(t, func(o *server.Options) {
		o.Limits.TenantRate = 1
		server.SetNow(o, c.now)
		o.MeterProvider = metric.NewMeterProvider(metric.WithReader(meters))
	})
	return f, c, meters
}

// spent takes so many of the 1,000 keys that a tenant has at once.
func (f *fixture) spent(t *testing.T, tenant string, keys int) {
	t.Helper()
	batch := make([]string, keys)
	for i := range batch {
		batch[i] = fmt.Sprintf("tenant_config_%d", i)
	}
	if _, err := f.config.BatchGet(f.as(t, tenant, auth.RoleReader), &tagstorev1.BatchGetRequest{Keys: batch}); err != nil {
		t.Fatal(err)
	}
}

func refusals(t *testing.T, meters *metric.ManualReader) int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := meters.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "tagstore.server.tenant.refused" {
				if len(sum.DataPoints) != 1 || sum.DataPoints[0].Attributes.Len() != 0 {
					t.Fatalf("the counter has labels: %v", sum.DataPoints)
				}
				return sum.DataPoints[0].Value
			}
		}
	}
	t.Fatal("there is no counter of refusals")
	return 0
}

// A tenant over its rate is refused whatever it asks for, before anything is done
// for it, and told how long to wait; another gets all of its answers meanwhile;
// and who has waited goes on.
func TestTenantRate(t *testing.T) {
	f, c, meters := limited(t)
	f.put(t, tenantA, "tenant_config_a", `1`)
	f.put(t, tenantB, "tenant_config_a", `2`)
	admin, neighbour := f.as(t, tenantA, auth.RoleAdmin), f.as(t, tenantB, auth.RoleReader)
	session, _ := f.session(f.as(t, tenantA, auth.RoleReader), t)
	key := "tenant_config_a"
	get := func(ctx context.Context) error {
		_, err := f.config.Get(ctx, &tagstorev1.GetRequest{Key: key})
		return err
	}
	calls := map[string]func() error{
		"Get": func() error { return get(admin) },
		"BatchGet": func() error {
			_, err := f.config.BatchGet(admin, &tagstorev1.BatchGetRequest{Keys: []string{key, key}})
			return err
		},
		"List": func() error {
			_, err := f.config.List(admin, &tagstorev1.ListRequest{KeyPrefix: "tenant_config_"})
			return err
		},
		"History": func() error { _, err := f.config.History(admin, &tagstorev1.HistoryRequest{Key: key}); return err },
		"Put": func() error {
			_, err := f.config.Put(admin, &tagstorev1.PutRequest{Key: key, Value: []byte("3")})
			return err
		},
		"Delete":  func() error { _, err := f.config.Delete(admin, &tagstorev1.DeleteRequest{Key: key}); return err },
		"Restore": func() error { _, err := f.config.Restore(admin, &tagstorev1.RestoreRequest{Key: key}); return err },
		"Rollback": func() error {
			_, err := f.config.Rollback(admin, &tagstorev1.RollbackRequest{Key: key, ToVersion: 1})
			return err
		},
		"ListBackends": func() error {
			_, err := f.admin.ListBackends(admin, &tagstorev1.ListBackendsRequest{})
			return err
		},
		"Watch": func() error {
			stream, err := f.config.Watch(admin, &tagstorev1.WatchRequest{KeyPrefix: key})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"Session": func() error {
			stream, err := f.config.Session(admin)
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"a call of a Session": func() error {
			ask(t, session, getCall(1, key))
			s := answered(t, session, 1)[1].GetError()
			return status.FromProto(&spb.Status{Code: s.GetCode(), Message: s.GetMessage(), Details: s.GetDetails()}).Err()
		},
	}
	f.spent(t, tenantA, store.DefaultMaxBatch-1) // and one for the session
	for name, call := range calls {
		e := config.AsError(errgrpc.FromError(call()), "", config.Key{})
		most := time.Second
		if name == "BatchGet" {
			most = 2 * time.Second
		}
		if e.Code != config.ResourceExhausted || e.RetryAfter != most || e.Hint == "" || strings.Contains(e.Error(), tenantA) {
			t.Errorf("%s: %v, to wait %v", name, e, e.RetryAfter)
		}
		if err := get(neighbour); err != nil {
			t.Errorf("the neighbour beside %s: %v", name, err)
		}
	}
	if got, want := refusals(t, meters), int64(len(calls)); got != want {
		t.Errorf("%d calls are counted as refused, want %d", got, want)
	}
	if got := f.history(t, tenantA, key); got != "1" {
		t.Errorf("the refused calls have left the versions %s", got)
	}
	if n := strings.Count(f.log.String(), "a tenant asks for more keys"); n != 1 {
		t.Errorf("the log tells of the tenant %d times", n)
	}
	if _, err := f.refresh(t, keyTarget(tenantA, key)); err != nil {
		t.Errorf("a machine has no tenant's rate: %v", err)
	}
	if _, err := healthv1.NewHealthClient(f.conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("a probe has no tenant's rate: %v", err)
	}
	for range 3 {
		c.advance(time.Second)
		if err := get(admin); err != nil {
			t.Errorf("after the wait: %v", err)
		}
		if err := get(admin); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("and at once again: %v", err)
		}
	}
	c.advance(time.Second)
	ask(t, session, getCall(2, key), getCall(3, key))
	got := answered(t, session, 2)
	if got[2].GetGet() == nil || codes.Code(got[3].GetError().GetCode()) != codes.ResourceExhausted {
		t.Errorf("two calls of the session after the wait for one: %v", got)
	}
}

// A page counts what it holds: who reads the next one waits for this one.
func TestTenantRateOfPages(t *testing.T) {
	f, c, _ := limited(t)
	for i := range 5 {
		f.put(t, tenantA, "tenant_config_a", fmt.Sprint(i))
		f.put(t, tenantA, fmt.Sprintf("tenant_config_a%d", i), `1`)
	}
	reader := f.as(t, tenantA, auth.RoleReader)
	for name, page := range map[string]func() (int, error){
		"List": func() (int, error) {
			r, err := f.config.List(reader, &tagstorev1.ListRequest{KeyPrefix: "tenant_config_a"})
			return len(r.GetEntries()), err
		},
		"History": func() (int, error) {
			r, err := f.config.History(reader, &tagstorev1.HistoryRequest{Key: "tenant_config_a"})
			return len(r.GetEntries()), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.advance(time.Hour)
			f.spent(t, tenantA, store.DefaultMaxBatch-1)
			n, err := page()
			if err != nil || n < 5 {
				t.Fatalf("%d entries, %v", n, err)
			}
			_, err = page()
			if e := config.AsError(errgrpc.FromError(err), "", config.Key{}); e.Code != config.ResourceExhausted || e.RetryAfter != time.Duration(n)*time.Second {
				t.Errorf("the next page: %v, to wait %v, want %d s", e, e.RetryAfter, n)
			}
		})
	}
}

// A batch that is larger than any may be is told so, not to wait.
func TestTenantRateOfLargestBatch(t *testing.T) {
	f, _, _ := limited(t)
	_, err := f.config.BatchGet(f.as(t, tenantA, auth.RoleReader), &tagstorev1.BatchGetRequest{Keys: make([]string, store.DefaultMaxBatch+1)})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
}
