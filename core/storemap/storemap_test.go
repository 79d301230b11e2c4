package storemap_test

import (
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/storemap"
)

func parse(t testing.TB, yaml string) *manifest.Manifest {
	t.Helper()
	m, err := manifest.Parse([]byte(yaml), "/nowhere/tagstore.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const four = `
version: 1
backends:
  tenants: { plugin: ./plugins/tagstore-plugin-dynamodb, options: { table: cfg-table, key_prefix: tenant_config_ } }
  params: { plugin: ./plugins/tagstore-plugin-ssm, options: { key_prefix: param_config_, secure: true } }
  blobs: { plugin: ./plugins/tagstore-plugin-s3, options: { bucket: cfg-bucket, path: "config/{tenant}/{service}/{name}" } }
  secrets: { plugin: ./plugins/tagstore-plugin-secretsmanager, options: { path: "{env}/{tenant}/{name}", env: prod } }
  local: { plugin: ./plugins/tagstore-plugin-local, options: { path: data/x.db } }
routes:
  - { prefix: tenant_config_, backend: tenants }
  - { prefix: param_config_, backend: params, layers: ["{tenant}/{service}", "{tenant}", shared] }
  - { prefix: param_config_special_, backend: local }
  - { prefix: blob_config_, backend: blobs }
  - { prefix: secret_config_, backend: secrets }
`

func TestNamesOfAManifest(t *testing.T) {
	m, err := storemap.New(parse(t, four))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Others(); len(got) != 1 || got[0] != "local" {
		t.Errorf("the others are %q", got)
	}
	parameter := func(name string) ([]config.ID, error) { return m.Parameter(name) }
	secret := func(name string) ([]config.ID, error) { return m.Secret(name) }
	object := func(name string) ([]config.ID, error) {
		bucket, key, _ := strings.Cut(name, ":")
		return m.Object(bucket, key)
	}
	item := func(name string) ([]config.ID, error) {
		parts := strings.SplitN(name, ":", 3)
		return m.Item(parts[0], parts[1], parts[2])
	}
	for _, c := range []struct {
		of   func(string) ([]config.ID, error)
		name string
		want string // tenant service key, or a part of the error
	}{
		{parameter, "/config-service/acme-corp/api/endpoint", "acme-corp api param_config_endpoint"},
		{parameter, "/config-service/_shared/currency", "_shared  param_config_currency"},
		{parameter, "/config-service/acme-corp/api/special_x", "no route leads"},
		{parameter, "/config-service/_shared/api/endpoint", "no such layer"},
		{item, "cfg-table:TENANT#_shared:CONFIG#limits", "no such layer"},
		{parameter, "/other/acme-corp/api/endpoint", "outside"},
		{parameter, "/config-service/acme-corp/../globex-inc/x", "outside"},
		{parameter, "/config-service/" + strings.Repeat("a", 300_000), "(300016 bytes)"},
		{secret, "prod/acme-corp/secret_config_a", "acme-corp  secret_config_a"},
		{secret, "prod/acme-corp/other_a", "no route leads"},
		{secret, "test/acme-corp/secret_config_a", "outside"},
		{object, "cfg-bucket:config/acme-corp/_/blob_config_a/b", "acme-corp  blob_config_a/b"},
		{object, "other:config/acme-corp/_/blob_config_a", `no backend of the manifest keeps an object in "other"`},
		{item, "cfg-table:TENANT#acme-corp|SERVICE#order:CONFIG#limits", "acme-corp order tenant_config_limits"},
		{item, "cfg-table:TENANT#acme-corp:HISTORY#limits#0000000001", "outside"},
		{item, "cfg-table:TENANT#acme-corp|SERVICE#:CONFIG#limits", "outside"},
		{item, "x:TENANT#acme-corp:CONFIG#limits", `in "x"`},
	} {
		ids, err := c.of(c.name)
		got := ""
		for _, id := range ids {
			got += id.Tenant.String() + " " + id.Service.String() + " " + id.Key.String()
		}
		if err != nil {
			if config.CodeOf(err) != config.NotFound || len(err.Error()) > 1000 {
				t.Errorf("%.80s: code %s, %d bytes", c.name, config.CodeOf(err), len(err.Error()))
			}
			got = err.Error()
		}
		if err == nil && got != c.want || err != nil && !strings.Contains(got, c.want) {
			t.Errorf("%.80s is %q, want %q", c.name, got, c.want)
		}
	}
}

// Two backends may read one parameter by different keys: both are told.
func TestOneThingOfTwoKeys(t *testing.T) {
	m, err := storemap.New(parse(t, `
version: 1
backends:
  a: { plugin: ./plugins/tagstore-plugin-ssm, options: { key_prefix: a_ } }
  b: { plugin: ./plugins/tagstore-plugin-ssm, options: { key_prefix: b_ } }
routes:
  - { prefix: a_, backend: a }
  - { prefix: b_, backend: b }
`))
	if err != nil {
		t.Fatal(err)
	}
	ids, err := m.Parameter("/config-service/acme/x")
	if err != nil || len(ids) != 2 || ids[0].Key.String() != "a_x" || ids[1].Key.String() != "b_x" {
		t.Errorf("%v, %v", ids, err)
	}
}

func TestRootOfAStore(t *testing.T) {
	m, err := storemap.New(parse(t, four))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range m.Stores() {
		got = append(got, s.Kind.String()+" "+s.Container+" "+s.Root())
	}
	if text := strings.Join(got, "\n"); text != "item cfg-table \nparameter  /config-service/\nobject cfg-bucket config/\nsecret  prod/" {
		t.Errorf("the stores are\n%s", text)
	}
	if !m.HasTable("cfg-table") || m.HasTable("cfg-bucket") {
		t.Error("HasTable does not tell the table")
	}
}

func TestWrongOptionsAreNamed(t *testing.T) {
	_, err := storemap.New(parse(t, `
version: 1
backends:
  a: { plugin: ./plugins/tagstore-plugin-ssm, options: { path: "/x/{name}" } }
  b: { plugin: ./plugins/tagstore-plugin-s3 }
  c: { plugin: ./plugins/tagstore-plugin-dynamodb, options: { key_prefix: c_ } }
  d: { plugin: ./plugins/tagstore-plugin-secretsmanager, options: { path: 5 } }
routes:
  - { prefix: a_, backend: a }
  - { prefix: b_, backend: b }
  - { prefix: c_, backend: c }
  - { prefix: d_, backend: d }
`))
	if config.CodeOf(err) != config.InvalidArgument {
		t.Fatalf("code %s: %v", config.CodeOf(err), err)
	}
	for _, want := range []string{"backend a: the option path", "{tenant}", "backend b: the option bucket is missing", "backend c", "table", "backend d: the option path is a number, want text"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}
