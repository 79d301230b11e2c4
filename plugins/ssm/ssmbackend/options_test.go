package ssmbackend

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

func TestOptionDefaults(t *testing.T) {
	s, err := Options{}.parse()
	if err != nil {
		t.Fatal(err)
	}
	name, err := s.names.Path(id(t, "acme-corp", "api", "param_config_endpoint"))
	if err != nil || name != "/config-service/acme-corp/api/param_config_endpoint" {
		t.Errorf("the default path is %q, %v", name, err)
	}
	if s.root != "/config-service/" || s.secure || s.kmsKeyID != "" || s.tier != types.ParameterTierStandard || s.maxValue != MaxStandard {
		t.Errorf("defaults: %+v", s)
	}
}

func TestTierSetsTheLimit(t *testing.T) {
	for tier, want := range map[string]int{"standard": 4096, "advanced": 8192, "intelligent": 8192} {
		if s, err := (Options{Tier: tier}).parse(); err != nil || s.maxValue != want {
			t.Errorf("%s: limit %d, error %v, want %d", tier, s.maxValue, err, want)
		}
		if _, err := (Options{Tier: tier, MaxValue: want + 1}).parse(); config.CodeOf(err) != config.InvalidArgument {
			t.Errorf("%s with max_value %d: error %v, want invalid_argument", tier, want+1, err)
		}
	}
}

func TestKMSKeys(t *testing.T) {
	for key, good := range map[string]bool{
		"alias/config":                         true,
		"alias/aws/ssm":                        true,
		"1234abcd-12ab-34cd-56ef-1234567890ab": true,
		"mrk-1234abcd12ab34cd56ef1234567890ab": true,
		"arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab":            true,
		"arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab": true,
		"arn:aws:kms:us-east-1:123456789012:alias/config":                                        true,
		"config":    false,
		"alias/":    false,
		"alias/a b": false,
		"1234abcd":  false,
		"arn:aws:kms:us-east-1:1234:key/1234abcd-12ab-34cd-56ef-1234567890ab": false,
		"arn:aws:iam::123456789012:role/x":                                    false,
		" alias/config":                                                       false,
		"alias/config\n":                                                      false,
	} {
		_, err := Options{Secure: true, KMSKeyID: key}.parse()
		if good != (err == nil) {
			t.Errorf("%q: error %v, want one: %t", key, err, !good)
		}
		if err != nil && strings.Contains(err.Error(), "123456789012") {
			t.Errorf("the error repeats an account: %v", err)
		}
	}
}

// Everything that is wrong is said at once.
func TestOptionProblems(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		say     []string
	}{
		"template":                     {Options{Path: "/x/{tenant}"}, []string{"path: ", "{name}"}},
		"no slash":                     {Options{Path: "x/{tenant}/{service}/{name}"}, []string{"start with '/'"}},
		"env":                          {Options{Path: "/{env}/{tenant}/{name}"}, []string{"env is missing"}},
		"reserved":                     {Options{Path: "/aws-config/{tenant}/{service}/{name}"}, []string{`"aws" or "ssm"`}},
		"reserved, by the environment": {Options{Path: "/{env}/{tenant}/{service}/{name}", Env: "SSMtest"}, []string{`"aws" or "ssm"`}},
		"deep":                         {Options{Path: strings.Repeat("/x", 14) + "/{tenant}/{name}"}, []string{"16 levels"}},
		"key without secure":           {Options{KMSKeyID: "alias/config"}, []string{"secure is not"}},
		"no_service":                   {Options{NoService: "api"}, []string{"no_service"}},
		"all": {
			Options{
				Path: "/x/{tenant}", KeyPrefix: "a b", Tier: "gold", MaxValue: -1, KMSKeyID: "no key",
				Options: awsconn.Options{Timeout: "soon", MaxAttempts: -1, TenantRole: "me"},
			},
			[]string{"{name}", "key_prefix", "tier", "max_value", "kms_key_id is set", "kms_key_id is not a key", "timeout", "max_attempts", "tenant_role"},
		},
	} {
		_, err := c.options.parse()
		if config.CodeOf(err) != config.InvalidArgument {
			t.Errorf("%s: error %v, want invalid_argument", name, err)
			continue
		}
		for _, say := range c.say {
			if !strings.Contains(err.Error(), say) {
				t.Errorf("%s: the error does not say %q: %v", name, say, err)
			}
		}
	}
}
