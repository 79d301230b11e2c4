package secretsbackend

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/router"
	"github.com/tagstore/tagstore/core/store"
)

// Restore and Rollback of core/store, which are what tagctl calls, work on what
// the recovery window hides, and find nothing in this store's answers that breaks
// the contract.
func TestRestoreAndRollback(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.KeyPrefix = "secret_config_"
	s := openStore(t, o)
	table, err := router.NewTable([]router.Route{{Prefix: "secret_config_", BackendName: "secrets", Backend: s}})
	if err != nil {
		t.Fatal(err)
	}
	above := store.New(router.New(table), store.Options{
		OnViolation: func(_ context.Context, v store.Violation) { t.Errorf("the store breaks the contract: %+v", v) },
	})
	k := id(t, "acme", "order", "secret_config_db")
	scope := store.Scope{Tenant: k.Tenant, Service: k.Service}
	put(t, s, k, `"one"`)
	put(t, s, k, `"two"`)
	remove(t, s, k)

	e, err := above.Restore(t.Context(), store.RestoreRequest{Scope: scope, Key: k.Key, Actor: "me", Expect: driver.Version(3)})
	if err != nil || e.Version != 4 {
		t.Fatalf("restore made version %d, error %v, want 4", e.Version, err)
	}
	wantValue(t, s, k, 0, `"two"`)
	if daysLeft(t, nameOf(t, s, k)) != 0 {
		t.Error("the restored secret is scheduled for deletion")
	}
	_, err = above.Restore(t.Context(), store.RestoreRequest{Scope: scope, Key: k.Key, Actor: "me"})
	wantCode(t, err, config.FailedPrecondition)
	remove(t, s, k)
	if e, err = above.Rollback(t.Context(), store.RollbackRequest{Scope: scope, Key: k.Key, Actor: "me", ToVersion: 1}); err != nil || e.Version != 6 {
		t.Fatalf("rollback made version %d, error %v, want 6", e.Version, err)
	}
	want := []string{`6:"one"`, "5:deleted", `4:"two"`, "3:deleted", `2:"two"`, `1:"one"`}
	if diff := cmp.Diff(want, history(t, s, k)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}
