package ssmbackend

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/keypath"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
	"github.com/tagstore/tagstore/plugins/internal/awsconn/iamtest"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section returns the text below one heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(readme(t), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("no section %s", heading)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

// blocks returns the fenced blocks of one kind.
func blocks(t *testing.T, kind string) []string {
	t.Helper()
	var all []string
	for _, m := range regexp.MustCompile("(?ms)^```"+kind+"\n(.*?)^```$").FindAllStringSubmatch(readme(t), -1) {
		all = append(all, m[1])
	}
	if len(all) == 0 {
		t.Fatalf("no block of %s", kind)
	}
	return all
}

func TestReadmeSections(t *testing.T) {
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(readme(t), -1) {
		got = append(got, m[1])
	}
	want := []string{"Name", "Description", "Options", "IAM", "Consistency", "Limits", "Errors", "Examples"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sections (-want +got):\n%s", diff)
	}
}

// The options table names every option in the order of the code, and its
// default.
func TestReadmeOptions(t *testing.T) {
	s, err := Options{}.parse()
	if err != nil {
		t.Fatal(err)
	}
	defaults := map[string]string{
		"path":                 "`" + keypath.ParameterTemplate + "`",
		"env":                  "none",
		"key_prefix":           "none",
		"no_service":           "none",
		"secure":               fmt.Sprintf("`%t`", s.secure),
		"kms_key_id":           "the account's own key",
		"tier":                 "`" + defaults.Tier + "`",
		"max_value":            "what the tier holds",
		"tenant_role":          "none",
		"tenant_role_duration": fmt.Sprintf("`%gh`", awsconn.DefaultTenantRoleDuration.Hours()),
		"timeout":              "`" + awsconn.Defaults.Timeout + "`",
		"max_attempts":         fmt.Sprintf("`%d`", awsconn.Defaults.MaxAttempts),
	}
	var want, got [][2]string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Options]()) {
		if name := f.Tag.Get("json"); !f.Anonymous {
			want = append(want, [2]string{name, defaults[name]})
		}
	}
	text := section(t, "Options")
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(text, -1) {
		got = append(got, [2]string{m[1], m[2]})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options (-code +README):\n%s", diff)
	}
	for _, number := range []int{MaxStandard, MaxAdvanced} {
		if !strings.Contains(text, fmt.Sprint(number)) {
			t.Errorf("the limit %d is not in the table", number)
		}
	}
}

// The errors table names codes that exist, and every code that the SDK's
// errors are mapped to.
func TestReadmeErrors(t *testing.T) {
	known := map[string]bool{}
	for _, c := range config.Codes() {
		known[c.String()] = true
	}
	rows := regexp.MustCompile("(?m)^\\| (`[a-z_`, ]+) \\|").FindAllStringSubmatch(section(t, "Errors"), -1)
	said := map[string]bool{}
	for _, row := range rows {
		for name := range strings.SplitSeq(row[1], ", ") {
			name = strings.Trim(name, "`")
			said[name] = true
			if !known[name] {
				t.Errorf("%s is no code", name)
			}
		}
	}
	for from, code := range codes {
		if !said[code.String()] {
			t.Errorf("%s, which %s becomes, is not in the table", code, from)
		}
	}
}

// The caveats that the store declares are those that the README owns up to.
func TestReadmeCaveats(t *testing.T) {
	text := section(t, "Consistency")
	var got []string
	for _, m := range regexp.MustCompile("\\(`([a-z_]+)`\\)").FindAllStringSubmatch(text, -1) {
		got = append(got, m[1])
	}
	slices.Sort(got)
	if diff := cmp.Diff((*Store)(nil).Caveats().Names(), got); diff != "" {
		t.Errorf("caveats (-code +README):\n%s", diff)
	}
}

// Every manifest is one, and its options are ones that the plugin takes.
func TestReadmeManifests(t *testing.T) {
	for i, text := range blocks(t, "yaml") {
		m, err := manifest.Parse([]byte(text), "tagstore.yaml")
		if err != nil {
			t.Errorf("manifest %d: %v", i+1, err)
			continue
		}
		for _, b := range m.Backends {
			var o Options
			d := json.NewDecoder(strings.NewReader(string(b.Options)))
			d.DisallowUnknownFields()
			if err := d.Decode(&o); err != nil {
				t.Errorf("manifest %d, %s: %v", i+1, b.Name, err)
				continue
			}
			s, err := o.parse()
			if err != nil {
				t.Errorf("manifest %d, %s: %v", i+1, b.Name, err)
				continue
			}
			for _, r := range m.Routes {
				if _, err := s.names.Path(id(t, "acme-corp", "api", r.Prefix+"endpoint")); err != nil {
					t.Errorf("manifest %d: the route of %s leads to a store that does not take it: %v", i+1, r.Prefix, err)
				}
			}
		}
	}
}

// arn is a parameter's, or with kms a key's.
const (
	parameterARN = "arn:aws:ssm:eu-central-1:123456789012:parameter"
	keyARN       = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
)

// requests are what the calls of this package ask IAM for, for one ID.
func requests(t *testing.T, s settings, k config.ID) []iamtest.Request {
	t.Helper()
	name, err := s.names.Path(k)
	if err != nil {
		t.Fatal(err)
	}
	folder, _ := s.names.Folder(k.Tenant, k.Service)
	var all []iamtest.Request
	for _, action := range []string{"GetParameter", "GetParameters", "GetParameterHistory", "PutParameter", "DeleteParameter"} {
		all = append(all, iamtest.Request{Action: "ssm:" + action, Resource: parameterARN + name})
	}
	for _, path := range []string{folderPath(folder), folderPath(s.names.TenantRoot(k.Tenant))} {
		all = append(all, iamtest.Request{Action: "ssm:GetParametersByPath", Resource: parameterARN + path})
	}
	for _, action := range []string{"Decrypt", "Encrypt", "GenerateDataKey"} {
		all = append(all, iamtest.Request{Action: "kms:" + action, Resource: keyARN, Context: map[string][]string{
			"kms:ViaService":                      {"ssm.eu-central-1.amazonaws.com"},
			"kms:EncryptionContext:PARAMETER_ARN": {parameterARN + name},
		}})
	}
	return all
}

func policy(t *testing.T, kind string) iamtest.Policy {
	t.Helper()
	p, err := iamtest.Parse([]byte(blocks(t, "json "+kind)[0]))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The policies allow what the plugin does, and nothing outside its tree, or in
// a tenant's session outside the tenant's.
func TestReadmePolicies(t *testing.T) {
	s, err := Options{}.parse()
	if err != nil {
		t.Fatal(err)
	}
	service, session, own := policy(t, "iam-service"), policy(t, "iam-tenant"), policy(t, "iam-plugin")
	mine := []config.ID{id(t, "acme", "api", "endpoint"), id(t, "acme", "", "endpoint"), id(t, "acme", "api", "a/b")}
	others := []config.ID{id(t, "acme-corp", "api", "endpoint"), id(t, "globex", "", "endpoint"), id(t, "_shared", "api", "endpoint"), id(t, "a", "", "cme")}
	in := func(r iamtest.Request, tenant string) iamtest.Request {
		if tenant != "" {
			r.PrincipalTags = map[string]string{"tenant": tenant}
		}
		return r
	}
	check := func(what string, p iamtest.Policy, r iamtest.Request, want bool) {
		t.Helper()
		if got := p.Allows(r); (got == iamtest.Allow) != want {
			t.Errorf("%s: %s on %s for tenant %q is %v, want allowed: %t", what, r.Action, r.Resource, r.PrincipalTags["tenant"], got, want)
		}
	}
	for _, k := range mine {
		for _, r := range requests(t, s, k) {
			check("service", service, r, true)
			check("session", session, in(r, "acme"), true)
			check("a session without a tag", session, r, false)
			check("plugin", own, r, false)
		}
	}
	for _, k := range others {
		for _, r := range requests(t, s, k) {
			check("service", service, r, true)
			check("session", session, in(r, "acme"), false)
		}
	}
	for _, path := range []string{"", "/", "/config-servic", "/config-service-2", "/config-service-2/acme/api/x", "/other/acme/x"} {
		r := iamtest.Request{Action: "ssm:GetParametersByPath", Resource: parameterARN + path}
		check("service", service, r, false)
		check("session", session, in(r, "acme"), false)
	}
	root := iamtest.Request{Action: "ssm:GetParametersByPath", Resource: parameterARN + folderPath(s.root)}
	check("service", service, root, true)
	check("session", session, in(root, "acme"), false)
	// Whatever names everybody's parameters.
	for _, action := range []string{"ssm:DescribeParameters", "ssm:DeleteParameters", "ssm:SendCommand", "kms:ScheduleKeyDeletion"} {
		for _, resource := range []string{"*", parameterARN + "/config-service/acme/x", keyARN} {
			check("service", service, iamtest.Request{Action: action, Resource: resource}, false)
			check("session", session, in(iamtest.Request{Action: action, Resource: resource}, "acme"), false)
		}
	}
	for _, action := range []string{"sts:AssumeRole", "sts:TagSession"} {
		check("plugin", own, iamtest.Request{Action: action, Resource: "arn:aws:iam::123456789012:role/config-tenant"}, true)
		check("plugin", own, iamtest.Request{Action: action, Resource: "arn:aws:iam::123456789012:role/admin"}, false)
	}
}
