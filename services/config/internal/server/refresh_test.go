package server_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/store"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// machine returns the test's context with a token of the machine that
// announces changes.
func (f *fixture) machine(t *testing.T) context.Context {
	t.Helper()
	token, err := f.issuer.Refresher(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return withToken(t.Context(), token)
}

func keyTarget(tenant, key string) *tagstorev1.RefreshTarget {
	return &tagstorev1.RefreshTarget{Tenant: tenant, Scope: &tagstorev1.RefreshTarget_Key{Key: key}}
}

func prefixTarget(tenant, prefix string) *tagstorev1.RefreshTarget {
	return &tagstorev1.RefreshTarget{Tenant: tenant, Scope: &tagstorev1.RefreshTarget_KeyPrefix{KeyPrefix: prefix}}
}

func (f *fixture) refresh(t *testing.T, targets ...*tagstorev1.RefreshTarget) (*tagstorev1.RefreshResponse, error) {
	t.Helper()
	return f.admin.Refresh(f.machine(t), &tagstorev1.RefreshRequest{Targets: targets})
}

// code is that of one receipt, OK for one without an error.
func code(r *tagstorev1.RefreshReceipt) codes.Code { return codes.Code(r.GetError().GetCode()) }

func TestRefreshReceipts(t *testing.T) {
	f := start(t, func(o *server.Options) { o.Replica = "config-7" })
	for i := range 3 {
		f.put(t, tenantA, "tenant_config_a", fmt.Sprint(i))
	}
	f.put(t, tenantA, "param_config_a", `"secret-canary"`)
	f.put(t, tenantB, "param_config_b", `1`)
	f.put(t, "_shared", "param_config_c", `1`)
	f.put(t, tenantA, "tenant_config_gone", `1`)
	f.remove(t, tenantA, "tenant_config_gone")
	awaited := keyTarget(tenantA, "tenant_config_a")
	awaited.MinVersion = 3
	got, err := f.refresh(t,
		keyTarget(tenantA, "tenant_config_a"), awaited, keyTarget(tenantA, "tenant_config_gone"), keyTarget(tenantA, "param_config_b"),
		keyTarget("_shared", "param_config_c"), prefixTarget(tenantA, "param_config_"), &tagstorev1.RefreshTarget{Tenant: tenantA},
		keyTarget(tenantA, "nothing_a"), keyTarget("_shared", "tenant_config_a"), keyTarget(tenantB, "param_config_b"),
	)
	if err != nil {
		t.Fatal(err)
	}
	if got.GetReplica() != "config-7" {
		t.Errorf("the replica calls itself %q", got.GetReplica())
	}
	var said []string
	for _, r := range got.GetReceipts() {
		if r.GetError() != nil {
			said = append(said, code(r).String())
			continue
		}
		a := r.GetApplied()
		said = append(said, fmt.Sprintf("version %d absent %t values %d", a.GetVersion(), a.GetAbsent(), a.GetValues()))
	}
	want := []string{
		"version 3 absent false values 1", "version 3 absent false values 1", "version 0 absent true values 0", "version 0 absent true values 0",
		"version 1 absent false values 1", "version 0 absent false values 1", "version 0 absent false values 2",
		"InvalidArgument", "InvalidArgument", "version 1 absent false values 1",
	}
	if !slices.Equal(said, want) {
		t.Errorf("receipts\n got %q\nwant %q", said, want)
	}
	if strings.Contains(got.String(), "canary") || strings.Contains(f.log.String(), "canary") {
		t.Errorf("a value was shown: %v", got)
	}
}

// A request that is not understood in all its parts refreshes nothing, and the
// error names the part.
func TestRefreshRefusals(t *testing.T) {
	f := start(t)
	good := keyTarget(tenantA, "tenant_config_a")
	versioned := prefixTarget(tenantA, "tenant_config_")
	versioned.MinVersion = 2
	ofService := keyTarget("_shared", "tenant_config_a")
	ofService.Service = "order"
	badService := keyTarget(tenantA, "tenant_config_a")
	badService.Service = "Order!"
	for name, c := range map[string]struct {
		target *tagstorev1.RefreshTarget
		says   string
	}{
		"everything":               {&tagstorev1.RefreshTarget{}, "tenant is empty"},
		"a pattern of tenants":     {&tagstorev1.RefreshTarget{Tenant: "*"}, "tenant has"},
		"a key of no tenant":       {keyTarget("", "tenant_config_a"), "tenant is empty"},
		"an upper-case tenant":     {keyTarget("ACME-CORP", "tenant_config_a"), "tenant has"},
		"a long tenant":            {keyTarget(strings.Repeat("a", 1<<20), "tenant_config_a"), "tenant has 1048576 bytes"},
		"an empty key":             {keyTarget(tenantA, ""), "key"},
		"a key that climbs":        {keyTarget(tenantA, "tenant_config_x/../y"), "key"},
		"an empty prefix":          {prefixTarget(tenantA, ""), "key_prefix is empty"},
		"a prefix that climbs":     {prefixTarget(tenantA, "tenant_config_x/../"), "key"},
		"a service that is none":   {badService, "service has"},
		"a service of all tenants": {ofService, "no services"},
		"a version without a key":  {versioned, "min_version"},
		"a missing target":         {nil, "tenant is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.refresh(t, good, c.target)
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "targets[1]: ") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want it to say %q", err, c.says)
			}
			if err != nil && strings.Contains(err.Error(), tenantA) {
				t.Errorf("the error names a tenant: %v", err)
			}
		})
	}
	for _, n := range []int{0, store.MaxTargets + 1} {
		_, err := f.refresh(t, slices.Repeat([]*tagstorev1.RefreshTarget{good}, n)...)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "1 to 100") {
			t.Errorf("%d targets: %v", n, err)
		}
	}
}

// One tenant's flood is refused with the time to wait, as a whole, and is
// nobody else's.
func TestRefreshRate(t *testing.T) {
	f := start(t, func(o *server.Options) { o.Limits.RefreshesPerTenant = 1 })
	full := slices.Repeat([]*tagstorev1.RefreshTarget{keyTarget(tenantA, "tenant_config_a")}, store.MaxTargets-1)
	got, err := f.refresh(t, append([]*tagstorev1.RefreshTarget{keyTarget(tenantB, "tenant_config_a")}, full...)...)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range got.GetReceipts() {
		if code(r) != codes.OK {
			t.Fatalf("target %d of the first request: %v", i, r)
		}
	}
	got, err = f.refresh(t, full[0], keyTarget(tenantB, "tenant_config_a"), full[0], full[0], full[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range got.GetReceipts() {
		want := codes.ResourceExhausted
		if i == 1 {
			want = codes.OK
		}
		if code(r) != want {
			t.Errorf("target %d: %v, want %v", i, r, want)
		}
	}
	refused := got.GetReceipts()[0].GetError()
	e := config.AsError(errgrpc.FromStatus(status.FromProto(&spb.Status{Code: refused.GetCode(), Message: refused.GetMessage(), Details: refused.GetDetails()})), "", config.Key{})
	if e.RetryAfter <= 0 || e.RetryAfter > 4*time.Second || e.Hint == "" || e.Key.String() != "tenant_config_a" {
		t.Errorf("the refusal is %+v", e)
	}
}
