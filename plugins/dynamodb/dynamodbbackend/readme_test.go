package dynamodbbackend

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

// The options table names every option in the order of the code, its default and
// its bounds.
func TestReadmeOptions(t *testing.T) {
	s, wrong := Options{Table: "some-table"}.parse()
	if wrong != nil {
		t.Fatal(wrong)
	}
	defaults := map[string]string{
		"table":                "none, required",
		"key_prefix":           "none",
		"consistent_reads":     fmt.Sprintf("`%t`", s.consistent),
		"dax_endpoint":         "none",
		"history_limit":        "all",
		"history_ttl":          "forever",
		"ttl_attribute":        "`" + s.ttlAttribute + "`",
		"max_value":            fmt.Sprintf("`%d`", s.maxValue),
		"idempotency_window":   fmt.Sprintf("`%gh`", s.idempotencyWindow.Hours()),
		"create_table":         fmt.Sprintf("`%t`", s.createTable),
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
	for _, bound := range []string{
		fmt.Sprint(maxHistoryLimit), fmt.Sprint(maxMaxValue), fmt.Sprintf("%gh", maxHistoryTTL.Hours()), fmt.Sprintf("%gh", maxIdempotencyWindow.Hours()),
	} {
		if !strings.Contains(text, bound) {
			t.Errorf("the bound %s is not in the table", bound)
		}
	}
}

// The errors table names codes that exist, and every code that DynamoDB's errors
// are mapped to.
func TestReadmeErrors(t *testing.T) {
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

func TestReadmeCaveats(t *testing.T) {
	var got []string
	for _, m := range regexp.MustCompile("\\(`([a-z_]+)`\\)").FindAllStringSubmatch(section(t, "Consistency"), -1) {
		got = append(got, m[1])
	}
	if diff := cmp.Diff((&Store{floors: newFloors(1)}).Caveats().Names(), got); diff != "" {
		t.Errorf("caveats (-code +README):\n%s", diff)
	}
	if names := (&Store{}).Caveats().Names(); len(names) > 0 {
		t.Errorf("with consistent reads there are the caveats %q", names)
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
			s, wrong := o.parse()
			if wrong != nil {
				t.Errorf("manifest %d, %s: %q", i+1, b.Name, wrong)
			}
			for _, r := range m.Routes {
				if _, err := (keymap{s.keyPrefix}).current(id(t, "acme-corp", "api", r.Prefix+"endpoint")); err != nil {
					t.Errorf("manifest %d: the route of %s leads to a store that does not take it: %v", i+1, r.Prefix, err)
				}
			}
		}
	}
}

// The item that the README shows is read as it says.
func TestReadmeItem(t *testing.T) {
	var shown map[string]any
	if err := json.Unmarshal([]byte(blocks(t, "json item")[0]), &shown); err != nil {
		t.Fatal(err)
	}
	got := item{}
	for name, value := range shown {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		got[name], _, _ = native(text)
	}
	want := patternItem()
	delete(want, "costCenter")
	for name := range want {
		if plain(got[name]) != plain(want[name]) {
			t.Errorf("%s is %s, want %s", name, plain(got[name]), plain(want[name]))
		}
	}
}

const (
	tableARN = "arn:aws:dynamodb:eu-central-1:123456789012:table/tenant-config"
	roleARN  = "arn:aws:iam::123456789012:role/config-tenant"
	cacheARN = "arn:aws:dax:eu-central-1:123456789012:cache/tenant-config"
)

func policy(t *testing.T, kind string) iamtest.Policy {
	t.Helper()
	p, err := iamtest.Parse([]byte(blocks(t, "json "+kind)[0]))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantAllowed(t *testing.T, what string, p iamtest.Policy, r iamtest.Request, want bool) {
	t.Helper()
	if got := p.Allows(r); (got == iamtest.Allow) != want {
		t.Errorf("%s: %s on %s for tenant %q with keys %q is %v, want allowed: %t",
			what, r.Action, r.Resource, r.PrincipalTags["tenant"], r.Context["dynamodb:LeadingKeys"], got, want)
	}
}

// itemActions are those of the items of this package's calls. A transaction
// needs those of its items.
var itemActions = []string{"GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem", "DeleteItem"}

// requests are what the calls of this package ask IAM for, with these partition
// keys.
func requests(tenant string, keys ...string) []iamtest.Request {
	var all []iamtest.Request
	for _, action := range itemActions {
		r := iamtest.Request{Action: "dynamodb:" + action, Resource: tableARN, Context: map[string][]string{"dynamodb:LeadingKeys": keys}}
		if tenant != "" {
			r.PrincipalTags = map[string]string{"tenant": tenant}
		}
		all = append(all, r)
	}
	return all
}

// The policies allow what the plugin does and nothing else; in a tenant's session
// nothing of another tenant.
func TestReadmePolicies(t *testing.T) {
	service, session, own, dax := policy(t, "iam-service"), policy(t, "iam-tenant"), policy(t, "iam-plugin"), policy(t, "iam-dax")
	key := func(tenant, service string) string {
		k, err := keymap{}.current(id(t, tenant, service, "k"))
		if err != nil {
			t.Fatal(err)
		}
		return k.pk
	}
	for _, keys := range [][]string{{key("acme", "")}, {key("acme", "order")}, {key("acme", ""), key("acme", "order"), key("acme", "b")}} {
		for i, r := range requests("", keys...) {
			wantAllowed(t, "service", service, r, true)
			wantAllowed(t, "plugin", own, r, false)
			wantAllowed(t, "a session without a tag", session, r, false)
			wantAllowed(t, "session", session, requests("acme", keys...)[i], true)
		}
	}
	for _, keys := range [][]string{
		{key("acme-corp", "")},
		{key("acme-corp", "order")},
		{key("globex", "")},
		{key("_shared", "")},
		{key("acm", "")},
		{key("acme", ""), key("globex", "")},
		{key("acme", "order"), key("acme-corp", "order")},
		{"TENANT#*"},
		{"TENANT#"},
		{"acme"},
		nil,
	} {
		for _, r := range requests("acme", keys...) {
			wantAllowed(t, "session", session, r, false)
		}
	}
	for _, r := range requests("*", key("acme", "")) {
		wantAllowed(t, "a session tagged *", session, r, false)
	}
	for _, action := range []string{"DescribeTable", "DescribeTimeToLive"} {
		r := iamtest.Request{Action: "dynamodb:" + action, Resource: tableARN}
		wantAllowed(t, "service", service, r, true)
		wantAllowed(t, "plugin", own, r, true)
	}
	for _, action := range []string{"Scan", "PartiQLSelect", "DeleteTable", "UpdateTable", "CreateTable", "UpdateTimeToLive", "BatchWriteItem", "ExportTableToPointInTime"} {
		for what, p := range map[string]iamtest.Policy{"service": service, "session": session, "plugin": own, "dax": dax} {
			r := iamtest.Request{Action: "dynamodb:" + action, Resource: tableARN, PrincipalTags: map[string]string{"tenant": "acme"}}
			wantAllowed(t, what, p, r, false)
			r.Context = map[string][]string{"dynamodb:LeadingKeys": {key("acme", "")}}
			wantAllowed(t, what, p, r, false)
		}
	}
	for _, resource := range []string{tableARN + "/index/by-name", tableARN + "-2", "*"} {
		for i, r := range requests("acme", key("acme", "")) {
			r.Resource = resource
			wantAllowed(t, "session "+itemActions[i], session, r, false)
			wantAllowed(t, "service "+itemActions[i], service, r, false)
		}
	}
	for _, action := range []string{"AssumeRole", "TagSession"} {
		wantAllowed(t, "plugin", own, iamtest.Request{Action: "sts:" + action, Resource: roleARN}, true)
		wantAllowed(t, "plugin", own, iamtest.Request{Action: "sts:" + action, Resource: roleARN + "-2"}, false)
	}
	// What the DAX client's handshake and reads ask for.
	for _, action := range []string{"BatchGetItem", "DefineAttributeList", "DefineAttributeListId", "DefineKeySchema", "Endpoints"} {
		wantAllowed(t, "dax", dax, iamtest.Request{Action: "dax:" + action, Resource: cacheARN}, true)
	}
	for _, action := range []string{"PutItem", "UpdateItem", "DeleteItem", "Query", "Scan"} {
		wantAllowed(t, "dax", dax, iamtest.Request{Action: "dax:" + action, Resource: cacheARN}, false)
	}
}

// What this package asks of DynamoDB is what the policies are tested with.
func TestPoliciesCoverAllCalls(t *testing.T) {
	calls := map[string][]string{
		"GetItem": {"GetItem"}, "BatchGetItem": {"BatchGetItem"}, "Query": {"Query"}, "TransactWriteItems": {"PutItem", "UpdateItem", "DeleteItem"},
		"DescribeTable": nil, "DescribeTimeToLive": nil, "CreateTable": nil, "UpdateTimeToLive": nil,
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`s\.(?:store\.)?db\.([A-Z]\w+)|store\.db\.([A-Z]\w+)`).FindAllStringSubmatch(string(text), -1) {
			name := m[1] + m[2]
			actions, ok := calls[name]
			if !ok {
				t.Errorf("%s calls %s", f.Name(), name)
			}
			for _, a := range actions {
				if !slices.Contains(itemActions, a) {
					t.Errorf("%s needs %s", name, a)
				}
			}
		}
	}
}
