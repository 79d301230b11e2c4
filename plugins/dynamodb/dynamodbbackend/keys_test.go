package dynamodbbackend

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/keypath"
)

func TestKeysOfThePattern(t *testing.T) {
	for _, c := range []struct {
		prefix string
		id     config.ID
		want   itemKey
	}{
		{"tenant_config_", id(t, "acme-corp", "", "tenant_config_payment-gateway"), itemKey{"TENANT#acme-corp", "CONFIG#payment-gateway"}},
		{"tenant_config_", id(t, "acme-corp", "order-service", "tenant_config_payment-gateway"), itemKey{"TENANT#acme-corp|SERVICE#order-service", "CONFIG#payment-gateway"}},
		{"", id(t, "_shared", "", "tenant_config_a/b"), itemKey{"TENANT#_shared", "CONFIG#tenant_config_a/b"}},
	} {
		got, err := keymap{c.prefix}.current(c.id)
		if err != nil || got != c.want {
			t.Errorf("%v: %v, %v", c.id, got, err)
		}
		if again, ok := (keymap{c.prefix}).id(c.id.Tenant, c.id.Service, got.sk); !ok || again != c.id {
			t.Errorf("%v is read back as %v, %t", c.id, again, ok)
		}
	}
	for _, wrong := range []string{"param_config_x", "tenant_config_", "tenant_config", "tenant_config_/x", "tenant_config_.."} {
		key, err := config.ParseKey(wrong)
		if err == nil {
			_, err = keymap{"tenant_config_"}.current(config.ID{Tenant: config.Shared(), Key: key})
		}
		wantCode(t, err, config.InvalidArgument)
	}
	for _, sk := range []string{"CONFIG#", "CONFIG#a b", "CONFIG#..", "HISTORY#a", "CONFIG#a#b", "AUDIT#x", "CONFIG", ""} {
		if got, ok := (keymap{}).id(config.Shared(), config.Service{}, sk); ok {
			t.Errorf("%q is read as %v", sk, got)
		}
	}
}

// No two IDs, or versions of one, share an item, and none has another's prefix.
func TestKeysAreInjective(t *testing.T) {
	label := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?`)
	key := rapid.StringMatching(`[A-Za-z0-9_-]{1,4}(/[A-Za-z0-9_-]{1,4}){0,2}`)
	draw := rapid.Custom(func(t *rapid.T) config.ID {
		tenant, err := config.ParseTenant(label.Draw(t, "tenant"))
		if err != nil {
			t.Fatal(err)
		}
		service, err := config.ParseService(rapid.OneOf(rapid.Just(""), label).Draw(t, "service"))
		if err != nil {
			t.Fatal(err)
		}
		k, err := config.ParseKey(key.Draw(t, "key"))
		if err != nil {
			t.Fatal(err)
		}
		return config.ID{Tenant: tenant, Service: service, Key: k}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw.Draw(t, "a"), draw.Draw(t, "b")
		keyA, _ := keymap{}.current(a)
		keyB, _ := keymap{}.current(b)
		if a != b && keyA == keyB {
			t.Fatalf("%v and %v share %v", a, b, keyA)
		}
		if again, ok := (keymap{}).id(a.Tenant, a.Service, keyA.sk); !ok || again != a {
			t.Fatalf("%v is read back as %v", a, again)
		}
		m, n := rapid.Uint64Min(1).Draw(t, "m"), rapid.Uint64Min(1).Draw(t, "n")
		recordA, recordB := historyKey(keyA, m), historyKey(keyB, n)
		if (a != b || m != n) && recordA == recordB {
			t.Fatalf("version %d of %v and %d of %v share %v", m, a, n, b, recordA)
		}
		if keyA.pk == keyB.pk && keyA != keyB && strings.HasPrefix(recordB.sk, historyFolder(keyA)) {
			t.Fatalf("a version of %v lies among those of %v", b, a)
		}
		if (m < n) != (keypath.PadVersion(m) < keypath.PadVersion(n)) {
			t.Fatalf("%d and %d sort as %s and %s", m, n, keypath.PadVersion(m), keypath.PadVersion(n))
		}
		if v, ok := versionOf(historyFolder(keyA), recordA.sk); !ok || v != m {
			t.Fatalf("%s is read as version %d", recordA.sk, v)
		}
	})
}

func TestKeyPrefixAndList(t *testing.T) {
	s, other := fresh(t, Options{KeyPrefix: "tenant_config_"})
	in := id(t, "acme-corp", "", "tenant_config_a")
	put(t, s, in, `1`)
	put(t, s, id(t, "acme-corp", "", "tenant_config_b/c"), `2`)
	other.put(item{attrPK: str(acmePK), attrSK: str("CONFIG#not a key"), attrConfig: str("x")})
	other.put(item{attrPK: str(acmePK), attrSK: str("AUDIT#a"), attrConfig: str("x")})
	for prefix, want := range map[string]string{
		"": "tenant_config_a tenant_config_b/c", "tenant": "tenant_config_a tenant_config_b/c", "tenant_config_": "tenant_config_a tenant_config_b/c",
		"tenant_config_b": "tenant_config_b/c", "tenant_config_c": "", "param": "", "tenantx": "",
	} {
		page, err := s.List(t.Context(), driver.ListRequest{Tenant: in.Tenant, KeyPrefix: prefix})
		var keys []string
		for _, e := range page.Entries {
			keys = append(keys, e.ID.Key.String())
		}
		if got := strings.Join(keys, " "); err != nil || got != want {
			t.Errorf("prefix %q: %q, %v, want %q", prefix, got, err, want)
		}
	}
	_, err := s.Get(t.Context(), id(t, "acme-corp", "", "param_config_a"), 0)
	wantCode(t, err, config.InvalidArgument)
	results, err := s.BatchGet(t.Context(), []config.ID{id(t, "acme-corp", "", "param_config_a"), in})
	if err != nil || config.CodeOf(results[0].Err) != config.InvalidArgument || results[1].Err != nil {
		t.Errorf("batch with a key of another prefix: %+v, %v", results, err)
	}
}
