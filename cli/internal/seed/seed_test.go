package seed

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/pluginhost"
)

func TestDemo(t *testing.T) {
	values, err := Demo()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range values {
		got = append(got, v.ID.Tenant.String()+" "+v.ID.Key.String())
	}
	for _, want := range []string{
		"acme-corp tenant_config_payment-gateway", "globex-inc tenant_config_payment-gateway",
		"acme-corp tenant_config_order-limits", "globex-inc tenant_config_order-limits",
		"acme-corp param_config_api/endpoint", "globex-inc param_config_api/endpoint", "_shared param_config_currency",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing", want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                 "",
		"not an array":            `{"tenant": "a"}`,
		"unknown field":           `[{"tenant": "a", "key": "k", "value": 1, "valeu": 2}]`,
		"two arrays":              `[] []`,
		"no tenant":               `[{"key": "k", "value": 1}]`,
		"bad tenant":              `[{"tenant": "_shared", "key": "k", "value": 1}]`,
		"bad service":             `[{"tenant": "a", "service": "Order", "key": "k", "value": 1}]`,
		"bad key":                 `[{"tenant": "a", "key": "a//b", "value": 1}]`,
		"no value":                `[{"tenant": "a", "key": "k"}]`,
		"shared and of a tenant":  `[{"shared": true, "tenant": "a", "key": "k", "value": 1}]`,
		"shared and of a service": `[{"shared": true, "service": "a", "key": "k", "value": 1}]`,
	} {
		if _, err := Read(strings.NewReader(text)); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRoute(t *testing.T) {
	m := &manifest.Manifest{Routes: []manifest.Route{
		{Prefix: "a_", Backend: "short", Layers: []manifest.Layer{manifest.LayerTenant, manifest.LayerShared}},
		{Prefix: "a_b_", Backend: "long", Layers: []manifest.Layer{manifest.LayerService, manifest.LayerTenant}},
	}}
	const tenant, service, shared = `"tenant": "t"`, `"tenant": "t", "service": "s"`, `"shared": true`
	for _, c := range []struct{ owner, key, want string }{
		{tenant, "a_x", "short"},
		{tenant, "a_b_x", "long"},
		{shared, "a_x", "short"},
		{service, "a_b_x", "long"},
		{service, "a_x", ""},
		{shared, "a_b_x", ""},
		{tenant, "b_x", ""},
		{tenant, "a_b_", ""},
		{tenant, "a_..", ""},
	} {
		values, err := Read(strings.NewReader(`[{` + c.owner + `, "key": "` + c.key + `", "value": null}]`))
		if err != nil {
			t.Fatal(err)
		}
		got, err := route(m, values[0].ID)
		if got != c.want || (c.want == "") != errors.Is(err, config.InvalidArgument) {
			t.Errorf("%s of %s goes to %q, %v; want %q", c.key, c.owner, got, err, c.want)
		}
	}
}

// Seeding runs a plugin as the service does: no field of the manifest is lost.
func TestPluginIsTheServices(t *testing.T) {
	b := manifest.Backend{
		Name: "a", Plugin: "/p", Address: "unix:///s", Args: []string{"-v"}, SHA256: "9f", Env: []string{"HOME"}, AWS: true, MTLS: true,
		Isolate: true, Required: true, Concurrency: 3, Limits: manifest.Limits{Memory: 1, CPUs: 2, OpenFiles: 3},
		Options: json.RawMessage(`{}`), CallTimeout: time.Second,
	}
	for v, i := reflect.ValueOf(b), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Fatalf("this test does not know %s", v.Type().Field(i).Name)
		}
	}
	want := pluginhost.Plugin{
		Name: "a", Path: "/p", Address: "unix:///s", Args: []string{"-v"}, SHA256: "9f", Env: []string{"HOME"}, AWS: true, MTLS: true,
		Concurrency: 3, Limits: pluginhost.Limits{Memory: 1, CPUs: 2, OpenFiles: 3}, Options: json.RawMessage(`{}`), CallTimeout: time.Second,
		Dir: "/d",
	}
	if got := plugin(b, "/d"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
