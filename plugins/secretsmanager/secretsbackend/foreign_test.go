package secretsbackend

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Secrets that other tools wrote are served as they are, and written on.
func TestSecretsOfOtherTools(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	s, other := openStore(t, o), openStore(t, o)
	k := id(t, "acme", "order", "key")
	name := nameOf(t, s, k)
	first := createRaw(t, name, "one")
	if e := wantValue(t, s, k, 0, "one"); e.Version != 1 || string(e.Revision) != first || e.UpdatedAt.IsZero() || e.ContentType != "text/plain; charset=utf-8" {
		t.Errorf("it is %+v", e)
	}
	putRaw(t, name, "two")
	third := putRaw(t, name, `{"three":3}`)
	if e := wantValue(t, s, k, 0, `{"three":3}`); e.Version != 3 || string(e.Revision) != third || e.ContentType != config.ContentTypeJSON {
		t.Errorf("it is %+v", e)
	}
	wantValue(t, s, k, 1, "one")
	wantValue(t, s, k, 2, "two")
	if diff := cmp.Diff([]string{`3:{"three":3}`, "2:two", "1:one"}, history(t, s, k)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	_, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("x"), Expect: driver.Version(2)})
	wantCode(t, err, config.Conflict)
	if e, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("four"), Expect: driver.Version(3)}); err != nil || e.Version != 4 {
		t.Fatalf("put made version %d, error %v", e.Version, err)
	}
	results, err := other.BatchGet(t.Context(), []config.ID{k})
	if err != nil || results[0].Entry.Version != 4 {
		t.Errorf("batch: %v, %v", results, err)
	}
	putRaw(t, name, "five")
	for what, read := range map[string]func() (config.Entry, error){
		"get": func() (config.Entry, error) { return s.Get(t.Context(), k, 0) },
		"batch": func() (config.Entry, error) {
			r, _ := s.BatchGet(t.Context(), []config.ID{k})
			return r[0].Entry, r[0].Err
		},
		"refresh": func() (config.Entry, error) {
			r, _ := s.Refresh(t.Context(), []config.ID{k})
			return r[0].Entry, r[0].Err
		},
		"list": func() (config.Entry, error) {
			p, err := s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service})
			if err != nil || len(p.Entries) != 1 {
				return config.Entry{}, fmt.Errorf("%d entries, %w", len(p.Entries), err)
			}
			return p.Entries[0], nil
		},
	} {
		if e, err := read(); err != nil || e.Version != 5 || string(e.Value) != "five" {
			t.Errorf("%s: version %d with %q, error %v, want 5", what, e.Version, e.Value, err)
		}
	}
	if diff := cmp.Diff([]string{"5:five", "4:four", `3:{"three":3}`, "2:two", "1:one"}, history(t, s, k)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	if e := remove(t, s, k); e.Version != 6 {
		t.Errorf("delete made version %d, want 6", e.Version)
	}
	wantMissing(t, other, k)
	if e := put(t, other, k, "seven"); e.Version != 7 {
		t.Errorf("put made version %d, want 7", e.Version)
	}
}

// A rotation makes its version first and makes it current in the end. Until then
// it is not there, and it is in nobody's way.
func TestRotation(t *testing.T) {
	t.Parallel()
	s := openStore(t, testOptions(t))
	k := id(t, "acme", "order", "key")
	name := nameOf(t, s, k)
	put(t, s, k, "one")
	put(t, s, k, "two")
	rotated := putRaw(t, name, "rotated", labelRotation)
	if e := wantValue(t, s, k, 0, "two"); e.Version != 2 {
		t.Errorf("version %d is current", e.Version)
	}
	if diff := cmp.Diff([]string{"2:two", "1:one"}, history(t, s, k)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	_, err := s.Get(t.Context(), k, 3)
	wantCode(t, err, config.NotFound)

	moveRaw(t, name, labelCurrent, labelled(t, name, labelCurrent), rotated)
	if e := wantValue(t, s, k, 0, "rotated"); e.Version != 3 || string(e.Revision) != rotated {
		t.Errorf("version %d is current", e.Version)
	}
	if diff := cmp.Diff([]string{"3:rotated", "2:two", "1:one"}, history(t, s, k)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	// A writer that expects the version before the rotation is refused.
	_, err = s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("x"), Expect: driver.Version(2)})
	wantCode(t, err, config.Conflict)
	put(t, s, k, "four")

	// A write while a rotation is under way.
	late := putRaw(t, name, "late", labelRotation)
	if e := put(t, s, k, "five"); e.Version != 5 {
		t.Errorf("put during a rotation made version %d, want 5", e.Version)
	}
	if labelled(t, name, labelRotation) != late {
		t.Error("the write took the rotation's label")
	}
	moveRaw(t, name, labelCurrent, labelled(t, name, labelCurrent), late)
	if e := wantValue(t, s, k, 0, "late"); e.Version != 6 {
		t.Errorf("the rotation that ended late made version %d, want 6", e.Version)
	}
}

// Names that no key has, and those of neighbours, are left alone.
func TestForeignNames(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.KeyPrefix = "secret_config_"
	s := openStore(t, o)
	k := id(t, "acme", "order", "secret_config_key")
	folder := strings.TrimSuffix(nameOf(t, s, k), "acme/order/key")
	for _, name := range []string{"acme/order/with+plus", "acme/order/a@b", "acme/order//x", "acme/order/", "acme/Order/key", "acme/order-2/key", "acme/x", "acme2/order/key"} {
		createRaw(t, folder+name, "foreign")
	}
	put(t, s, k, "mine")
	page, err := s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service})
	if err != nil || len(page.Entries) != 1 || page.Entries[0].ID != k {
		t.Errorf("list: %+v, %v", page.Entries, err)
	}
	_, err = s.Get(t.Context(), id(t, "acme", "order", "other_key"), 0)
	wantCode(t, err, config.InvalidArgument)
	page, err = s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service, KeyPrefix: "other_"})
	if err != nil || len(page.Entries) != 0 {
		t.Errorf("list of another prefix: %+v, %v", page.Entries, err)
	}
	page, err = s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service, KeyPrefix: "secret_"})
	if err != nil || len(page.Entries) != 1 {
		t.Errorf("list of the beginning of the prefix: %+v, %v", page.Entries, err)
	}
}
