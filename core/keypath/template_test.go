package keypath_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/keypath"
)

func id(t testing.TB, tenant, service, key string) config.ID {
	t.Helper()
	owner, err := config.ParseOwner(tenant)
	if err != nil {
		t.Fatal(err)
	}
	s, err := config.ParseService(service)
	if err != nil {
		t.Fatal(err)
	}
	k, err := config.ParseKey(key)
	if err != nil {
		return config.ID{} // a prefix and a name that make no key together
	}
	return config.ID{Tenant: owner, Service: s, Key: k}
}

func parse(t testing.TB, o keypath.Options) *keypath.Template {
	t.Helper()
	tpl, err := keypath.Parse(o)
	if err != nil {
		t.Fatalf("Parse(%+v): %v", o, err)
	}
	return tpl
}

func TestPath(t *testing.T) {
	const article = "/config-service/{tenant}/{service}/{name}"
	for _, c := range []struct {
		o    keypath.Options
		id   config.ID
		path string
	}{
		{keypath.Options{Template: article, KeyPrefix: "param_config_"}, id(t, "acme-corp", "api", "param_config_endpoint"), "/config-service/acme-corp/api/endpoint"},
		{keypath.Options{Template: article}, id(t, "acme-corp", "api", "param_config_endpoint"), "/config-service/acme-corp/api/param_config_endpoint"},
		{keypath.Options{Template: article}, id(t, "acme", "", "limit"), "/config-service/acme/limit"},
		{keypath.Options{Template: article}, id(t, "acme", "order", "a/b/c"), "/config-service/acme/order/a/b/c"},
		{keypath.Options{Template: article, NoService: "_"}, id(t, "acme", "", "a/b"), "/config-service/acme/_/a/b"},
		{keypath.Options{Template: article, NoService: "_"}, id(t, "_shared", "", "a"), "/config-service/_shared/_/a"},
		{keypath.Options{Template: "{tenant}/{service}/{name}"}, id(t, "acme", "order", "a"), "acme/order/a"},
		{keypath.Options{Template: "{env}/{tenant}/{name}", Env: "prod"}, id(t, "acme", "", "a/b"), "prod/acme/a/b"},
		{keypath.Options{Template: "/{tenant}/x/{service}/{name}"}, id(t, "acme", "", "a"), "/acme/x/a"},
		{keypath.Options{Template: "/{tenant}/x/{service}/{name}"}, id(t, "acme", "x", "a"), "/acme/x/x/a"},
		{keypath.Options{Template: "/{tenant}/{service}/x/{name}"}, id(t, "acme", "", "x"), "/acme/x/x"},
		{keypath.Options{Template: "/{tenant}/{service}/x/{name}"}, id(t, "acme", "x", "x"), "/acme/x/x/x"},
		{keypath.Options{Template: "/a/{env}/{tenant}/b/{service}/c/{name}", Env: "p", KeyPrefix: "k/"}, id(t, "acme", "s", "k/n"), "/a/p/acme/b/s/c/n"},
	} {
		tpl := parse(t, c.o)
		if got, err := tpl.Path(c.id); err != nil || got != c.path {
			t.Errorf("%+v: Path = %q, %v, want %q", c.o, got, err, c.path)
		}
		if got, ok := tpl.ID(c.path); !ok || got != c.id {
			t.Errorf("%+v: ID(%q) = %+v, %t", c.o, c.path, got, ok)
		}
	}
}

func TestPathRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		o    keypath.Options
		id   config.ID
		want string
	}{
		"other prefix":   {keypath.Options{Template: "/{tenant}/{name}", KeyPrefix: "param_config_"}, id(t, "acme", "", "tenant_config_a"), `start with "param_config_"`},
		"prefix only":    {keypath.Options{Template: "/{tenant}/{name}", KeyPrefix: "param_config_"}, id(t, "acme", "", "param_config_"), "nothing behind its prefix"},
		"name of dots":   {keypath.Options{Template: "/{tenant}/{name}", KeyPrefix: "param_config_"}, id(t, "acme", "", "param_config_.."), `segment ".."`},
		"name of slash":  {keypath.Options{Template: "/{tenant}/{name}", KeyPrefix: "param_config_"}, id(t, "acme", "", "param_config_/a"), "empty segment"},
		"dots inside":    {keypath.Options{Template: "/{tenant}/{name}", KeyPrefix: "x"}, id(t, "acme", "", "x./a"), `segment "."`},
		"no place":       {keypath.Options{Template: "/{tenant}/{name}"}, id(t, "acme", "order", "a"), "no {service}"},
		"looks like one": {keypath.Options{Template: "/{tenant}/{service}/{name}"}, id(t, "acme", "", "order/a"), `no_service: "_"`},
		"zero":           {keypath.Options{Template: "/{tenant}/{name}"}, config.ID{}, "no tenant or no key"},
		"no key":         {keypath.Options{Template: "/{tenant}/{name}"}, config.ID{Tenant: config.Shared()}, "no tenant or no key"},
	} {
		t.Run(name, func(t *testing.T) {
			path, err := parse(t, c.o).Path(c.id)
			if path != "" || config.CodeOf(err) != config.InvalidArgument {
				t.Fatalf("Path = %q, %v", path, err)
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "acme") {
				t.Errorf("the text is %q, want %q in it and no tenant", err, c.want)
			}
		})
	}
}

func TestIDRefuses(t *testing.T) {
	withService := parse(t, keypath.Options{Template: "/cfg/{tenant}/{service}/{name}", KeyPrefix: "p_"})
	always := parse(t, keypath.Options{Template: "/cfg/{tenant}/{service}/{name}", NoService: "_"})
	none := parse(t, keypath.Options{Template: "cfg/{tenant}/{name}"})
	deep := parse(t, keypath.Options{Template: "/{tenant}/x/y/{service}/{name}", NoService: "_"})
	long := strings.Repeat("a", config.MaxKey)
	for _, c := range []struct {
		t     *keypath.Template
		paths []string
	}{
		{withService, []string{
			"", "/", "/cfg", "/cfg/", "/cfg/acme", "/cfg/acme/", "/cfg/acme/order/", "/cfg/Acme/a", "/cfg//a", "cfg/acme/a", "/CFG/acme/a", "/cfg/acme/Order/a", "/cfg/acme/order//a",
			"/cfg/acme/order/../a", "/cfg/acme/.", "/cfg/acme/..", "/cfg/acme/_shared/a", "/cfg/acme/a b", "/cfg/acme/a\x00", "/cfg/acme/ä", "//cfg/acme/a", "/cfg/acme/order/a/",
			"/cfg/_Shared/a", "/cfg/__shared/a", "/cfg/acme/" + long, "/cfg/acme/_/a", "/cfg/-a/b",
		}},
		{always, []string{"/cfg/acme/a", "/cfg/acme/_", "/cfg/acme/_/", "/cfg/acme/__/a", "/cfg/acme//a", "/cfg/acme/order", "/cfg/acme/_/" + long + "a"}},
		{deep, []string{"/acme", "/acme/x", "/acme/x/y", "/acme/x/y/_", "/acme/x/y/a", "/acme/_/a", "/acme/x/x/_/a"}},
		{none, []string{"cfg/acme", "/cfg/acme/a", "cfg/acme/", "cfg//a", "cfg/acme/a//b"}},
	} {
		for _, path := range c.paths {
			if got, ok := c.t.ID(path); ok || got != (config.ID{}) {
				t.Errorf("ID(%.60q) = %+v, %t", path, got, ok)
			}
		}
	}
}

func TestFolder(t *testing.T) {
	for _, c := range []struct {
		o      keypath.Options
		scope  config.ID
		folder string
		flat   bool
		root   string
	}{
		{keypath.Options{Template: "/c/{tenant}/{service}/{name}"}, id(t, "acme", "order", "k"), "/c/acme/order/", false, "/c/acme/"},
		{keypath.Options{Template: "/c/{tenant}/{service}/{name}"}, id(t, "acme", "", "k"), "/c/acme/", true, "/c/acme/"},
		{keypath.Options{Template: "/c/{tenant}/{service}/{name}", NoService: "_"}, id(t, "acme", "", "k"), "/c/acme/_/", false, "/c/acme/"},
		{keypath.Options{Template: "{tenant}/{name}"}, id(t, "acme", "", "k"), "acme/", false, "acme/"},
		{keypath.Options{Template: "{tenant}/x/{service}/y/{name}"}, id(t, "acme", "", "k"), "acme/x/y/", true, "acme/"},
		{keypath.Options{Template: "{tenant}/x/{service}/y/{name}"}, id(t, "acme", "s", "k"), "acme/x/s/y/", false, "acme/"},
		{keypath.Options{Template: "{tenant}/{name}"}, id(t, "acme", "s", "k"), "acme//", false, "acme/"},
	} {
		tpl := parse(t, c.o)
		folder, flat := tpl.Folder(c.scope.Tenant, c.scope.Service)
		if folder != c.folder || flat != c.flat || tpl.TenantRoot(c.scope.Tenant) != c.root {
			t.Errorf("%+v: Folder = %q, %t, TenantRoot = %q", c.o, folder, flat, tpl.TenantRoot(c.scope.Tenant))
		}
	}
	tpl := parse(t, keypath.Options{Template: "{tenant}/{name}"})
	if folder, _ := tpl.Folder(config.Tenant{}, config.Service{}); folder != "/" {
		t.Errorf("the zero tenant's folder is %q, in which paths could lie", folder)
	}
}

func TestNamePrefix(t *testing.T) {
	tpl := parse(t, keypath.Options{Template: "/{tenant}/{name}", KeyPrefix: "param_config_"})
	for prefix, want := range map[string]string{"": "", "p": "", "param_config_": "", "param_config_en": "en", "param_config_a/": "a/"} {
		if got, ok := tpl.NamePrefix(prefix); !ok || got != want {
			t.Errorf("NamePrefix(%q) = %q, %t", prefix, got, ok)
		}
	}
	for _, prefix := range []string{"x", "param_configs", "param_confih", "P"} {
		if got, ok := tpl.NamePrefix(prefix); ok {
			t.Errorf("NamePrefix(%q) = %q, true", prefix, got)
		}
	}
}

// checkPair checks everything that the package promises of two IDs. The zero
// ID stands for one that does not exist.
func checkPair(t interface {
	Helper()
	Fatalf(string, ...any)
}, tpl *keypath.Template, a, b config.ID,
) {
	t.Helper()
	var paths [2]string
	ids := [2]config.ID{a, b}
	for i, id := range ids {
		path, err := tpl.Path(id)
		if err != nil {
			if path != "" || !errors.Is(err, config.InvalidArgument) {
				t.Fatalf("Path(%+v) = %q, %v", id, path, err)
			}
			continue
		}
		paths[i] = path
		if back, ok := tpl.ID(path); !ok || back != id {
			t.Fatalf("ID(%q) = %+v, %t, want %+v", path, back, ok, id)
		}
		folder, flat := tpl.Folder(id.Tenant, id.Service)
		name, inside := strings.CutPrefix(path, folder)
		if !inside || flat && strings.Contains(name, "/") || !strings.HasPrefix(folder, tpl.TenantRoot(id.Tenant)) {
			t.Fatalf("%q does not lie in its folder %q (flat %t)", path, folder, flat)
		}
	}
	for i, path := range paths {
		if path == "" {
			continue
		}
		other := ids[1-i]
		if paths[1-i] == path && a != b {
			t.Fatalf("%+v and %+v share the path %q", a, b, path)
		}
		if strings.HasPrefix(path, tpl.TenantRoot(other.Tenant)) != (other.Tenant == ids[i].Tenant) {
			t.Fatalf("%q is of tenant %q, and the root of %q is %q", path, ids[i].Tenant, other.Tenant, tpl.TenantRoot(other.Tenant))
		}
		folder, flat := tpl.Folder(other.Tenant, other.Service)
		name, inside := strings.CutPrefix(path, folder)
		inside = inside && (!flat || !strings.Contains(name, "/"))
		if inside != (other.Tenant == ids[i].Tenant && other.Service == ids[i].Service) {
			t.Fatalf("%q is of %q and %q, and the folder of %q and %q is %q (flat %t)",
				path, ids[i].Tenant, ids[i].Service, other.Tenant, other.Service, folder, flat)
		}
	}
}

// segments are few and alike, so that a draw meets itself in another role.
var segments = []string{"a", "b", "x", "cfg", "a-a", "_", "_shared", "A", "a.b", "p_", "..."}

func drawTemplate(t *rapid.T) keypath.Options {
	literal := rapid.SliceOfN(rapid.SampledFrom(segments), 0, 2)
	var parts []string
	o := keypath.Options{
		KeyPrefix: rapid.SampledFrom([]string{"", "p_", "a/", "a/p_", "a"}).Draw(t, "key prefix"),
	}
	parts = append(parts, literal.Draw(t, "root")...)
	if rapid.Bool().Draw(t, "has env") {
		o.Env = rapid.SampledFrom(segments).Draw(t, "env")
		parts = append(parts, "{env}")
	}
	parts = append(parts, "{tenant}")
	parts = append(parts, literal.Draw(t, "before")...)
	if rapid.Bool().Draw(t, "has service") {
		o.NoService = rapid.SampledFrom([]string{"", "", "_", "_shared", "A", "a.b"}).Draw(t, "no service")
		parts = append(parts, "{service}")
	}
	parts = append(parts, literal.Draw(t, "after")...)
	o.Template = rapid.SampledFrom([]string{"", "/"}).Draw(t, "slash") + strings.Join(append(parts, "{name}"), "/")
	return o
}

func drawID(t *rapid.T, prefix, label string) config.ID {
	owner := rapid.SampledFrom([]string{"a", "b", "x", "cfg", "a-a", "_shared", "shared"}).Draw(t, label+" tenant")
	tenant, err := config.ParseOwner(owner)
	if err != nil {
		t.Fatal(err)
	}
	service, err := config.ParseService(rapid.SampledFrom([]string{"", "", "a", "b", "x", "cfg", "a-a"}).Draw(t, label+" service"))
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Join(rapid.SliceOfN(rapid.SampledFrom(segments), 1, 4).Draw(t, label+" name"), "/")
	key, err := config.ParseKey(prefix + name)
	if err != nil {
		return config.ID{}
	}
	return config.ID{Tenant: tenant, Service: service, Key: key}
}

// TestInjective is the property over templates and IDs that look alike.
func TestInjective(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := drawTemplate(t)
		tpl, err := keypath.Parse(o)
		if err != nil {
			t.Fatalf("Parse(%+v): %v", o, err)
		}
		checkPair(t, tpl, drawID(t, o.KeyPrefix, "one"), drawID(t, o.KeyPrefix, "other"))
	})
}

// TestExactInverse walks from the other side: from any path.
func TestExactInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := drawTemplate(t)
		tpl, err := keypath.Parse(o)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("{env}", o.Env).Replace(o.Template)
		some := rapid.SampledFrom(append([]string{"", ".", "..", "a b"}, segments...))
		for _, hole := range []string{"{tenant}", "{service}"} {
			text = strings.Replace(text, hole, some.Draw(t, hole), 1)
		}
		name := strings.Join(rapid.SliceOfN(some, 0, 3).Draw(t, "name"), "/")
		checkInverse(t, tpl, strings.Replace(text, "{name}", name, 1))
	})
}

func checkInverse(t interface{ Fatalf(string, ...any) }, tpl *keypath.Template, path string) {
	got, ok := tpl.ID(path)
	if !ok {
		if got != (config.ID{}) {
			t.Fatalf("ID(%q) = %+v beside false", path, got)
		}
		return
	}
	if back, err := tpl.Path(got); err != nil || back != path {
		t.Fatalf("ID(%q) = %+v, whose path is %q, %v", path, got, back, err)
	}
}

// FuzzID checks the inverse for any bytes.
func FuzzID(f *testing.F) {
	var templates []*keypath.Template
	for _, o := range []keypath.Options{
		{Template: "/config-service/{tenant}/{service}/{name}", KeyPrefix: "param_config_"},
		{Template: "/config-service/{tenant}/{service}/{name}", NoService: "_"},
		{Template: "{tenant}/{service}/a/{name}"},
		{Template: "{tenant}/{name}", KeyPrefix: "a/"},
		{Template: "{env}/{tenant}/x/{name}", Env: "a"},
	} {
		templates = append(templates, parse(f, o))
	}
	for _, seed := range []string{"/config-service/acme/api/endpoint", "/config-service/acme/_/a/b", "acme/a/a/a", "a/a", "_shared/a", "a//a", "a/../a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		for _, tpl := range templates {
			checkInverse(t, tpl, path)
		}
	})
}
