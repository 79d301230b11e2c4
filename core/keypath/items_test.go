package keypath_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/keypath"
)

func TestItems(t *testing.T) {
	m := keypath.Items{KeyPrefix: "tenant_config_"}
	for _, c := range []struct{ tenant, service, key, pk, sk string }{
		{"acme-corp", "", "tenant_config_payment-gateway", "TENANT#acme-corp", "CONFIG#payment-gateway"},
		{"acme-corp", "order", "tenant_config_a/b", "TENANT#acme-corp|SERVICE#order", "CONFIG#a/b"},
		{"_shared", "", "tenant_config_a", "TENANT#_shared", "CONFIG#a"},
	} {
		want := id(t, c.tenant, c.service, c.key)
		if sk, err := m.SortKey(want); err != nil || sk != c.sk || keypath.Partition(want.Tenant, want.Service) != c.pk {
			t.Errorf("%v lies at %q %q, %v", want, keypath.Partition(want.Tenant, want.Service), sk, err)
		}
		if got, ok := m.ID(c.pk, c.sk); !ok || got != want {
			t.Errorf("%q %q is %v, %t", c.pk, c.sk, got, ok)
		}
	}
	for _, c := range [][2]string{
		{"TENANT#acme|SERVICE#", "CONFIG#a"},
		{"TENANT#acme|SERVICE#_shared", "CONFIG#a"},
		{"TENANT#acme|SERVICE#a|SERVICE#b", "CONFIG#a"},
		{"TENANT#", "CONFIG#a"},
		{"TENANT#Acme", "CONFIG#a"},
		{"tenant#acme", "CONFIG#a"},
		{"acme", "CONFIG#a"},
		{"", ""},
		{"TENANT#acme", "CONFIG#"},
		{"TENANT#acme", "CONFIG#.."},
		{"TENANT#acme", "CONFIG#a/../b"},
		{"TENANT#acme", "HISTORY#a#0000000001"},
		{"TENANT#acme", "a"},
	} {
		if got, ok := m.ID(c[0], c[1]); ok || !got.IsZero() {
			t.Errorf("%q is read as %v, %t", c, got, ok)
		}
	}
	for sk, want := range map[string]keypath.ItemKind{
		"CONFIG#a": keypath.ItemCurrent, keypath.HistoryFolder("CONFIG#a") + keypath.PadVersion(1): keypath.ItemHistory,
		keypath.OnceSortKey("x"): keypath.ItemOnce, "METADATA#plan": keypath.ItemOther, "": keypath.ItemOther,
	} {
		if got := keypath.KindOf(sk); got != want {
			t.Errorf("%q is of kind %d, want %d", sk, got, want)
		}
	}
}

// ID and ParsePartition accept exactly what Partition and SortKey make.
func TestItemsInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := keypath.Items{KeyPrefix: rapid.SampledFrom([]string{"", "p_", "a/"}).Draw(t, "prefix")}
		if want := drawID(t, m.KeyPrefix, "made"); !want.IsZero() {
			sk, err := m.SortKey(want)
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := m.ID(keypath.Partition(want.Tenant, want.Service), sk); !ok || got != want {
				t.Fatalf("%v is read back as %v, %t", want, got, ok)
			}
		}
		pk := rapid.StringMatching(`(TENANT#)?[a_-]{0,2}(shared)?(\|SERVICE#[a_|#-]{0,2})?`).Draw(t, "pk")
		sk := rapid.StringMatching(`(CONFIG#)?[a./# ]{0,4}`).Draw(t, "sk")
		if got, ok := m.ID(pk, sk); ok {
			again, err := m.SortKey(got)
			if err != nil || again != sk || keypath.Partition(got.Tenant, got.Service) != pk {
				t.Fatalf("%q %q is read as %v, which lies at %q %q, %v", pk, sk, got, keypath.Partition(got.Tenant, got.Service), again, err)
			}
		}
	})
}

func TestStockTemplates(t *testing.T) {
	empty, none := "", "none!"
	for name, c := range map[string]struct{ got, want keypath.Options }{
		"parameters":          {keypath.Parameters(keypath.Options{KeyPrefix: "p_"}), keypath.Options{Template: "/config-service/{tenant}/{service}/{name}", KeyPrefix: "p_"}},
		"secrets":             {keypath.Secrets(keypath.Options{}), keypath.Options{Template: "{tenant}/{service}/{name}"}},
		"objects":             {keypath.Objects(keypath.Options{}, nil), keypath.Options{Template: "{tenant}/{service}/{name}", NoService: "_"}},
		"objects, left out":   {keypath.Objects(keypath.Options{}, &empty), keypath.Options{Template: "{tenant}/{service}/{name}"}},
		"objects, as set":     {keypath.Objects(keypath.Options{}, &none), keypath.Options{Template: "{tenant}/{service}/{name}", NoService: "none!"}},
		"objects, no service": {keypath.Objects(keypath.Options{Template: "{tenant}/{name}"}, nil), keypath.Options{Template: "{tenant}/{name}"}},
		"a template of one's": {keypath.Parameters(keypath.Options{Template: "/{tenant}/{name}"}), keypath.Options{Template: "/{tenant}/{name}"}},
	} {
		if c.got != c.want {
			t.Errorf("%s: %+v, want %+v", name, c.got, c.want)
		}
	}
}
