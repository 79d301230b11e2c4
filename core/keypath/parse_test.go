package keypath_test

import (
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/keypath"
)

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		o    keypath.Options
		want []string // parts of the text, in any order
		not  []string
	}{
		"nothing":          {keypath.Options{}, []string{"template is missing"}, []string{"{tenant}/{name} "}},
		"no tenant":        {keypath.Options{Template: "/x/{service}/{name}"}, []string{"no {tenant}"}, nil},
		"no name":          {keypath.Options{Template: "/x/{tenant}"}, []string{"no {name}"}, nil},
		"name not last":    {keypath.Options{Template: "/{tenant}/{name}/x"}, []string{"{name} is not the last"}, nil},
		"name first":       {keypath.Options{Template: "{name}/{tenant}"}, []string{"{name} is not the last"}, nil},
		"twice":            {keypath.Options{Template: "/{tenant}/{tenant}/{name}"}, []string{"{tenant} twice"}, nil},
		"name twice":       {keypath.Options{Template: "/{tenant}/{name}/{name}"}, []string{"{name} twice"}, nil},
		"unknown":          {keypath.Options{Template: "/{tenant}/{region}/{name}"}, []string{"unknown placeholder in segment 2", "{env}, {tenant}, {service}, {name}"}, nil},
		"unclosed":         {keypath.Options{Template: "/{tenant}/{service/{name}"}, []string{"unknown placeholder in segment 2"}, nil},
		"not a segment":    {keypath.Options{Template: "/x-{tenant}/{name}"}, []string{"{tenant} must be a segment of its own"}, []string{"no {tenant}"}},
		"two in one":       {keypath.Options{Template: "/{tenant}-{service}/{name}"}, []string{"must be a segment of its own"}, nil},
		"glued to name":    {keypath.Options{Template: "/{tenant}/cfg_{name}"}, []string{"{name} must be a segment of its own"}, []string{"no {name}"}},
		"case":             {keypath.Options{Template: "/{Tenant}/{name}"}, []string{"unknown placeholder", "no {tenant}"}, nil},
		"empty segment":    {keypath.Options{Template: "//{tenant}///{name}"}, []string{"empty segment"}, nil},
		"slash last":       {keypath.Options{Template: "/{tenant}/{name}/"}, []string{"empty segment"}, nil},
		"dots":             {keypath.Options{Template: "/../{tenant}/./{name}"}, []string{"segment 1", "segment 3"}, nil},
		"byte":             {keypath.Options{Template: "/a b/{tenant}/ä/{name}"}, []string{"segment 1", "segment 3"}, []string{"ä"}},
		"service first":    {keypath.Options{Template: "/{service}/{tenant}/{name}"}, []string{"{service} comes before {tenant}"}, nil},
		"no env":           {keypath.Options{Template: "/{env}/{tenant}/{name}"}, []string{"env is missing"}, nil},
		"env unused":       {keypath.Options{Template: "/{tenant}/{name}", Env: "prod"}, []string{"env is set"}, nil},
		"env of two":       {keypath.Options{Template: "/{env}/{tenant}/{name}", Env: "a/b"}, []string{"env has a '/'"}, nil},
		"env dots":         {keypath.Options{Template: "/{env}/{tenant}/{name}", Env: ".."}, []string{"env is not one"}, nil},
		"env a hole":       {keypath.Options{Template: "/{env}/{tenant}/{name}", Env: "{tenant}"}, []string{"env is not one"}, nil},
		"prefix":           {keypath.Options{Template: "/{tenant}/{name}", KeyPrefix: "a#"}, []string{"key_prefix"}, nil},
		"prefix slash":     {keypath.Options{Template: "/{tenant}/{name}", KeyPrefix: "/a"}, []string{"key_prefix"}, nil},
		"a service's name": {keypath.Options{Template: "/{tenant}/{service}/{name}", NoService: "none"}, []string{"no_service could be a service's", `"_"`}, nil},
		"none of none":     {keypath.Options{Template: "/{tenant}/{name}", NoService: "_"}, []string{"no_service is set"}, nil},
		"none of two":      {keypath.Options{Template: "/{tenant}/{service}/{name}", NoService: "_/_"}, []string{"no_service has a '/'"}, nil},
		"none dots":        {keypath.Options{Template: "/{tenant}/{service}/{name}", NoService: "."}, []string{"no_service is not one"}, nil},
		"all at once": {
			keypath.Options{Template: "/a b/{x}/{service}/{env}/{name}/", KeyPrefix: "#", NoService: "svc"},
			[]string{"segment 1", "segment 2", "empty segment", "no {tenant}", "{name} is not the last", "env is missing", "key_prefix", "no_service"},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := keypath.Parse(c.o)
			if err == nil || got != nil {
				t.Fatalf("Parse(%+v) = %v, %v", c.o, got, err)
			}
			if config.CodeOf(err) != config.InvalidArgument {
				t.Errorf("code %s", config.CodeOf(err))
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			for _, part := range c.not {
				if strings.Contains(err.Error(), part) {
					t.Errorf("%q says %q", err, part)
				}
			}
		})
	}
}

// FuzzParse checks that what Parse accepts has the properties of a template,
// and that what it refuses is refused by code and without repeating the text.
func FuzzParse(f *testing.F) {
	f.Add("/config-service/{tenant}/{service}/{name}", "", "param_config_", "")
	f.Add("{env}/{tenant}/{name}", "prod", "", "")
	f.Add("/{tenant}/x/{service}/y/{name}", "", "a/b_", "_")
	f.Add("/{service}/{tenant}-{name}/", "a/b", "/", "svc")
	f.Fuzz(func(t *testing.T, template, env, prefix, noService string) {
		tpl, err := keypath.Parse(keypath.Options{Template: template, Env: env, KeyPrefix: prefix, NoService: noService})
		if err != nil {
			if config.CodeOf(err) != config.InvalidArgument || tpl != nil {
				t.Fatalf("Parse = %v, %v", tpl, err)
			}
			return
		}
		checkPair(t, tpl, id(t, "a", "", prefix+"n"), id(t, "b", "", prefix+"n"))
		checkPair(t, tpl, id(t, "a", "", prefix+"n"), id(t, "a", "n", prefix+"n"))
	})
}
