package ssmbackend

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

func parsed(t testing.TB, o Options) *Store {
	t.Helper()
	set, err := o.parse()
	if err != nil {
		t.Fatal(err)
	}
	return &Store{settings: set}
}

func TestNameLimits(t *testing.T) {
	plain := parsed(t, Options{})
	bare := parsed(t, Options{Path: "/{tenant}/{service}/{name}"})
	long := parsed(t, Options{Path: "/" + strings.Repeat("x", 500) + "/{tenant}/{service}/{name}"})
	for name, c := range map[string]struct {
		s    *Store
		id   config.ID
		want config.Code // 0: it is taken
		say  string
	}{
		"plain":            {plain, id(t, "acme", "api", "endpoint"), 0, ""},
		"15 levels":        {plain, id(t, "acme", "api", "1/2/3/4/5/6/7/8/9/10/11/12"), 0, ""},
		"16 levels":        {plain, id(t, "acme", "api", "1/2/3/4/5/6/7/8/9/10/11/12/13"), config.InvalidArgument, "16 levels"},
		"longest key":      {plain, id(t, "acme", "api", strings.Repeat("k", config.MaxKey)), 0, ""},
		"too long":         {long, id(t, "acme", "api", strings.Repeat("k", 450)), config.InvalidArgument, "characters"},
		"reserved":         {bare, id(t, "aws-team", "api", "x"), config.InvalidArgument, `"aws" or "ssm"`},
		"reserved, ssm":    {bare, id(t, "ssm", "api", "x"), config.InvalidArgument, `"aws" or "ssm"`},
		"aws further in":   {plain, id(t, "aws-team", "ssm", "aws"), 0, ""},
		"like a service's": {plain, id(t, "acme", "", "api/endpoint"), config.InvalidArgument, "no_service"},
	} {
		got, err := c.s.nameToWrite(c.id)
		if c.want == 0 {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if read, err := c.s.nameToRead(c.id); err != nil || read != got {
				t.Errorf("%s: to read it is %q, %v", name, read, err)
			}
			continue
		}
		if e := wantError(t, err, c.want); !strings.Contains(err.Error(), c.say) || e.Hint == "" {
			t.Errorf("%s: the error does not say %q or how to mend it: %v", name, c.say, err)
		}
		// Nothing can be there, so nothing is.
		_, err = c.s.nameToRead(c.id)
		wantCode(t, err, config.NotFound)
	}
}

// Where a tenant's names stand is decided by the tenant alone, whatever
// service and key say: nothing maps out of the tenant's folder, or into
// another's.
func TestNothingLeavesItsTenant(t *testing.T) {
	stores := []*Store{
		parsed(t, Options{}),
		parsed(t, Options{NoService: "_"}),
		parsed(t, Options{Path: "/{tenant}/{name}"}),
		parsed(t, Options{Path: "/cfg/{env}/{tenant}/x/{service}/y/{name}", Env: "prod", KeyPrefix: "param_config_"}),
	}
	label := rapid.SampledFrom([]string{"a", "b", "acme", "acme-corp", "acme-cor", "x", "y", "prod", "cfg", "config-service", "0"})
	word := rapid.SampledFrom([]string{"a", "acme", "acme-corp", "x", "y", "_", "_shared", "...", "..a", "config-service", "A", "param_config_a", "prod"})
	mapped := 0
	defer func() {
		if mapped < 20 {
			t.Errorf("only %d ids had a name", mapped)
		}
	}()
	rapid.Check(t, func(rt *rapid.T) {
		s := stores[rapid.IntRange(0, len(stores)-1).Draw(rt, "store")]
		owner := rapid.OneOf(label, rapid.Just("_shared"), rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?`)).Draw(rt, "tenant")
		service := rapid.OneOf(label, rapid.Just("")).Draw(rt, "service")
		key := strings.Join(rapid.SliceOfN(rapid.OneOf(word, rapid.StringMatching(`[A-Za-z0-9._-]{1,9}`)), 1, 5).Draw(rt, "key"), "/")
		if rapid.Bool().Draw(rt, "prefixed") {
			key = "param_config_" + key
		}
		k, err := config.ParseKey(key)
		if err != nil {
			rt.Skip("no key")
		}
		i := id(t, owner, service, "k")
		i.Key = k
		name, err := s.nameToWrite(i)
		if err != nil {
			return
		}
		mapped++
		root := s.names.TenantRoot(i.Tenant)
		if !strings.HasPrefix(name, root) {
			rt.Fatalf("%q of %q lies at %q, outside %q", key, owner, name, root)
		}
		for _, segment := range strings.Split(name[1:], "/") {
			if segment == "" || segment == "." || segment == ".." {
				rt.Fatalf("%q of %q lies at %q, which has a segment that leads elsewhere", key, owner, name)
			}
		}
		if strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/") != "" {
			rt.Fatalf("%q has bytes that Parameter Store reads otherwise", name)
		}
		other := id(t, label.Draw(rt, "other tenant"), "", "k").Tenant
		if other != i.Tenant && strings.HasPrefix(name, s.names.TenantRoot(other)) {
			rt.Fatalf("%q of %q lies at %q, in the folder of %q", key, owner, name, other)
		}
		if back, ok := s.names.ID(name); !ok || back != i {
			rt.Fatalf("%q is read back as %+v", name, back)
		}
		if in, ok := s.region(driver.ListRequest{Tenant: i.Tenant, Service: i.Service, KeyPrefix: key[:rapid.IntRange(0, len(key)).Draw(rt, "cut")]}); !ok || !strings.HasPrefix(name, in.folder) || !strings.HasPrefix(in.folder, root) {
			rt.Fatalf("%q is not in the folder %q that a list of its prefix reads", name, in.folder)
		}
	})
}
