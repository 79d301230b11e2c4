package secretsbackend

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
func blocks(t *testing.T, kind string, want int) []string {
	t.Helper()
	var all []string
	for _, m := range regexp.MustCompile("(?ms)^```"+kind+"\n(.*?)^```$").FindAllStringSubmatch(readme(t), -1) {
		all = append(all, m[1])
	}
	if len(all) != want {
		t.Fatalf("%d blocks of %s, want %d", len(all), kind, want)
	}
	return all
}

func TestReadmeSections(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	s, err := Options{}.parse()
	if err != nil {
		t.Fatal(err)
	}
	defaults := map[string]string{
		"path":                 "`" + keypath.SecretTemplate + "`",
		"env":                  "none",
		"key_prefix":           "none",
		"no_service":           "none",
		"kms_key_id":           "the account's `aws/secretsmanager`",
		"recovery_window_days": fmt.Sprintf("`%d`", s.days),
		"max_value":            fmt.Sprintf("`%d`", s.maxValue),
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
	for _, bounds := range []string{
		fmt.Sprintf("%d to %d |", minRecoveryWindowDays, maxRecoveryWindowDays), fmt.Sprintf("1 to %d |", maxMaxValue),
	} {
		if !strings.Contains(text, bounds) {
			t.Errorf("the bounds %q are not in the table", bounds)
		}
	}
}

// The errors table names codes that exist, and every code that the SDK's errors
// are mapped to.
func TestReadmeErrors(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, c := range config.Codes() {
		known[c.String()] = true
	}
	said := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z_`, ]+) \\|").FindAllStringSubmatch(section(t, "Errors"), -1) {
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
	t.Parallel()
	var got []string
	for _, m := range regexp.MustCompile("\\(`([a-z_]+)`\\)").FindAllStringSubmatch(section(t, "Consistency"), -1) {
		got = append(got, m[1])
	}
	slices.Sort(got)
	if diff := cmp.Diff((*Store)(nil).Caveats().Names(), got); diff != "" {
		t.Errorf("caveats (-code +README):\n%s", diff)
	}
}

// The bounds that the README speaks of are those of the code.
func TestReadmeLimits(t *testing.T) {
	t.Parallel()
	text := strings.Join(strings.Fields(section(t, "Limits")), " ")
	for _, limit := range []string{
		"up to 65,536 bytes", fmt.Sprintf("up to %d characters", maxName), fmt.Sprintf("one call per %d secrets", batchSize), "at most 10,000",
		fmt.Sprintf("%d per call", namesPerCall), fmt.Sprintf("%d at a time", parallel), fmt.Sprintf("newest %d versions", keptVersions),
	} {
		if !strings.Contains(text, limit) {
			t.Errorf("Limits does not say %q", limit)
		}
	}
	if gatherMost != 10_000 || maxMaxValue != 65_536 || rememberFor.Minutes() != 10 || scheduling.Seconds() != 3 {
		t.Error("a bound has changed that the README names in words")
	}
	if !strings.Contains(section(t, "Description"), tombstone) {
		t.Error("the README does not say what other tools see of a deletion")
	}
	example := regexp.MustCompile(`tagstore-v[0-9a-f-]+`).FindString(section(t, "Description"))
	if got := readStamp(example); !got.own || got.number != 12 {
		t.Errorf("the example of a version's ID, %q, is none", example)
	}
}

// Every manifest is one, and its options are ones that the plugin takes.
func TestReadmeManifests(t *testing.T) {
	t.Parallel()
	for i, text := range blocks(t, "yaml", 2) {
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
				if _, err := s.names.Path(id(t, "acme-corp", "order", r.Prefix+"db")); err != nil {
					t.Errorf("manifest %d: the route of %s leads to a store that does not take it: %v", i+1, r.Prefix, err)
				}
			}
		}
	}
}

const (
	secretARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:"
	keyARN    = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	roleARN   = "arn:aws:iam::123456789012:role/tagstore-tenant"
)

// perSecret are the actions that this package's calls need, secret by secret.
var perSecret = []string{
	"DescribeSecret", "GetSecretValue", "ListSecretVersionIds", "CreateSecret", "PutSecretValue", "UpdateSecretVersionStage", "DeleteSecret", "RestoreSecret",
}

func TestReadmePolicies(t *testing.T) {
	t.Parallel()
	var policies []iamtest.Policy
	for _, name := range []string{"iam-service", "iam-tenant", "iam-plugin", "iam-key"} {
		policy, err := iamtest.Parse([]byte(blocks(t, "json "+name, 1)[0]))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		policies = append(policies, policy)
	}
	own, tenants, sessions, key := policies[0], policies[1], policies[2], policies[3]
	ask := func(p iamtest.Policy, action, resource, tenant string, context map[string][]string, want bool) {
		t.Helper()
		r := iamtest.Request{Action: action, Resource: resource, Context: context}
		if tenant != "" {
			r.PrincipalTags = map[string]string{"tenant": tenant}
		}
		if got := p.Allows(r); (got == iamtest.Allow) != want {
			t.Errorf("%s on %s for %q: %s, want allowed %t", action, resource, tenant, got, want)
		}
	}
	for _, action := range perSecret {
		action = "secretsmanager:" + action
		ask(own, action, secretARN+"tagstore/acme-corp/order/db-AbCdEf", "", nil, true)
		ask(own, action, secretARN+"other/db-AbCdEf", "", nil, false)
		ask(tenants, action, secretARN+"acme-corp/order/db-AbCdEf", "acme-corp", nil, true)
		ask(tenants, action, secretARN+"_shared/_/db-AbCdEf", "_shared", nil, true)
		ask(tenants, action, secretARN+"acme-corp/order/db-AbCdEf", "acme", nil, false)
		ask(tenants, action, secretARN+"acme/order/db-AbCdEf", "acme-corp", nil, false)
		ask(tenants, action, secretARN+"globex-inc/order/db-AbCdEf", "acme-corp", nil, false)
		ask(tenants, action, secretARN+"acme-corp/order/db-AbCdEf", "", nil, false)
		ask(sessions, action, secretARN+"acme-corp/order/db-AbCdEf", "", nil, false)
	}
	for _, action := range []string{"secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets"} {
		ask(own, action, "*", "", nil, true)
		ask(tenants, action, "*", "acme-corp", nil, true)
	}
	for _, action := range []string{"secretsmanager:PutResourcePolicy", "secretsmanager:UpdateSecret", "secretsmanager:RotateSecret", "secretsmanager:TagResource"} {
		ask(own, action, secretARN+"tagstore/acme-corp/order/db-AbCdEf", "", nil, false)
		ask(tenants, action, secretARN+"acme-corp/order/db-AbCdEf", "acme-corp", nil, false)
	}
	for _, action := range []string{"sts:AssumeRole", "sts:TagSession"} {
		ask(sessions, action, roleARN, "", nil, true)
		ask(sessions, action, roleARN+"-2", "", nil, false)
	}
	for _, action := range []string{"kms:Decrypt", "kms:GenerateDataKey"} {
		context := func(via, secret string) map[string][]string {
			return map[string][]string{"kms:ViaService": {via}, "kms:EncryptionContext:SecretARN": {secret}}
		}
		const via = "secretsmanager.eu-central-1.amazonaws.com"
		ask(key, action, keyARN, "acme-corp", context(via, secretARN+"acme-corp/order/db-AbCdEf"), true)
		ask(key, action, keyARN, "acme-corp", context(via, secretARN+"globex-inc/order/db-AbCdEf"), false)
		ask(key, action, keyARN, "acme-corp", context("ssm.eu-central-1.amazonaws.com", secretARN+"acme-corp/order/db-AbCdEf"), false)
		ask(key, action, keyARN, "acme-corp", context(via, "RequestToValidateKeyAccess"), true)
		ask(key, action, keyARN, "acme-corp", nil, false)
	}
	// The list here is what the code calls.
	calls := map[string]bool{}
	for _, file := range []string{"store.go", "batch.go", "list.go", "write.go", "window.go", "read.go", "history.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\.api\.([A-Z][A-Za-z]+)\(`).FindAllStringSubmatch(string(text), -1) {
			calls[m[1]] = true
		}
	}
	want := map[string]bool{"BatchGetSecretValue": true, "ListSecrets": true}
	for _, action := range perSecret {
		want[action] = true
	}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("actions (-policies +code):\n%s", diff)
	}
}
