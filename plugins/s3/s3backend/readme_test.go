package s3backend

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
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

// The options table names every option in the order of the code, its default
// and its bound.
func TestReadmeOptions(t *testing.T) {
	t.Parallel()
	o := Options{Bucket: "example"}
	s, err := o.parse()
	if err != nil {
		t.Fatal(err)
	}
	if got := o.keypath(); got.Template != keypath.ObjectTemplate || got.NoService != keypath.ObjectNoService {
		t.Errorf("the default is %+v", got)
	}
	defaults := map[string]string{
		"bucket":               "none, required",
		"path":                 "`" + keypath.ObjectTemplate + "`",
		"env":                  "none",
		"key_prefix":           "none",
		"no_service":           "`" + keypath.ObjectNoService + "` if `path` has `{service}`",
		"kms_key_id":           "the bucket's default encryption",
		"max_value":            fmt.Sprintf("`%d`", s.maxValue),
		"history_limit":        fmt.Sprintf("`%d`", s.historyLimit),
		"path_style":           fmt.Sprintf("`%t`", s.pathStyle),
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
	for _, bound := range []int{maxMaxValue, maxHistoryLimit} {
		if !strings.Contains(text, fmt.Sprintf("1 to %d", bound)) {
			t.Errorf("the bound %d is not in the table", bound)
		}
	}
	if !strings.Contains(section(t, "Limits"), "1,400 bytes together") || maxText != 1400 {
		t.Errorf("the limit of author and message is %d", maxText)
	}
}

// The errors table names codes that exist, and every code that S3's errors are
// mapped to.
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

// The README claims the contract in full, and so does the code.
func TestReadmeCaveats(t *testing.T) {
	t.Parallel()
	if got := driver.CaveatsOf(&Store{}); got != (driver.Caveats{}) || !strings.Contains(section(t, "Consistency"), "this store has no caveats") {
		t.Errorf("the caveats are %v", got.Names())
	}
}

// Every manifest is one, and its options are ones that the plugin takes.
func TestReadmeManifests(t *testing.T) {
	t.Parallel()
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
			settings, err := o.parse()
			if err != nil {
				t.Errorf("manifest %d, %s: %v", i+1, b.Name, err)
				continue
			}
			s := &Store{settings: settings}
			for _, r := range m.Routes {
				if _, err := s.path(id("acme-corp", "shop", r.Prefix+"catalog/2026.json")); err != nil {
					t.Errorf("manifest %d: the route of %s leads to a store that does not take it: %v", i+1, r.Prefix, err)
				}
			}
		}
	}
}

// The keys that the description shows are those that the store makes.
func TestReadmeKeys(t *testing.T) {
	t.Parallel()
	s := &Store{settings: must(Options{Bucket: "example", KeyPrefix: "blob_config_"}.parse())}
	for service, want := range map[string]string{"shop": "\nacme-corp/shop/catalog/2026.json\n", "": "`acme-corp/_/catalog/2026.json`"} {
		path := must(s.path(id("acme-corp", service, "blob_config_catalog/2026.json")))
		if strings.Trim(want, "\n`") != path || !strings.Contains(section(t, "Description"), want) {
			t.Errorf("service %q: the store has %q", service, path)
		}
	}
}

// The lifecycle rule is one that S3 takes, and keeps versions by their number.
func TestReadmeLifecycle(t *testing.T) {
	t.Parallel()
	var rules types.BucketLifecycleConfiguration
	d := json.NewDecoder(strings.NewReader(blocks(t, "json lifecycle")[0]))
	d.DisallowUnknownFields()
	if err := d.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	if len(rules.Rules) != 1 || aws.ToInt32(rules.Rules[0].NoncurrentVersionExpiration.NewerNoncurrentVersions) == 0 || rules.Rules[0].Expiration != nil {
		t.Errorf("the rule would let keys begin anew: %+v", rules.Rules)
	}
	bucket := newBucket(t)
	if _, err := raw(t).PutBucketLifecycleConfiguration(t.Context(), &s3.PutBucketLifecycleConfigurationInput{Bucket: &bucket, LifecycleConfiguration: &rules}); err != nil {
		t.Error(err)
	}
}

const bucketARN = "arn:aws:s3:::example-config"

// requests are what the calls of this package ask IAM for, for one ID.
func requests(t *testing.T, s settings, k config.ID) []iamtest.Request {
	t.Helper()
	path, err := s.paths.Path(k)
	if err != nil {
		t.Fatal(err)
	}
	folder, _ := s.paths.Folder(k.Tenant, k.Service)
	var all []iamtest.Request
	for _, action := range []string{
		"GetObject", "GetObjectVersion", "GetObjectTagging", "GetObjectVersionTagging", "PutObject", "PutObjectVersionTagging", "DeleteObject", "DeleteObjectVersion",
	} {
		all = append(all, iamtest.Request{Action: "s3:" + action, Resource: bucketARN + "/" + path})
	}
	return append(all,
		iamtest.Request{Action: "s3:ListBucketVersions", Resource: bucketARN, Context: map[string][]string{"s3:prefix": {path}}},
		iamtest.Request{Action: "s3:ListBucket", Resource: bucketARN, Context: map[string][]string{"s3:prefix": {folder}}},
		iamtest.Request{Action: "s3:ListBucket", Resource: bucketARN, Context: map[string][]string{"s3:prefix": {folder + "a"}}},
	)
}

func policy(t *testing.T, kind string) iamtest.Policy {
	t.Helper()
	p, err := iamtest.Parse([]byte(blocks(t, "json "+kind)[0]))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The policies allow what the plugin does, and nothing outside its bucket, or
// in a tenant's session outside the tenant's part of it.
func TestReadmePolicies(t *testing.T) {
	t.Parallel()
	s := must(Options{Bucket: "example-config"}.parse())
	service, session, own := policy(t, "iam-service"), policy(t, "iam-tenant"), policy(t, "iam-plugin")
	in := func(r iamtest.Request, tenant string) iamtest.Request {
		r.PrincipalTags = map[string]string{"tenant": tenant}
		return r
	}
	check := func(what string, p iamtest.Policy, r iamtest.Request, want bool) {
		t.Helper()
		if got := p.Allows(r); (got == iamtest.Allow) != want {
			t.Errorf("%s: %s on %s (%v) for tenant %q is %v, want allowed: %t", what, r.Action, r.Resource, r.Context, r.PrincipalTags["tenant"], got, want)
		}
	}
	mine := []config.ID{id("acme", "api", "endpoint"), id("acme", "", "endpoint"), id("acme", "", "a/b")}
	others := []config.ID{id("acme-corp", "api", "endpoint"), id("globex", "", "endpoint"), id("_shared", "api", "endpoint"), id("a", "", "cme")}
	for _, k := range mine {
		for _, r := range requests(t, s, k) {
			check("service", service, r, true)
			check("session", session, in(r, "acme"), true)
			check("a session without a tag", session, r, false)
		}
	}
	for _, k := range others {
		for _, r := range requests(t, s, k) {
			check("service", service, r, true)
			check("session", session, in(r, "acme"), false)
		}
	}
	for _, k := range append(mine, others...) {
		for _, r := range requests(t, s, k) {
			check("plugin", own, r, r.Action == "s3:ListBucket")
			r.Resource = strings.Replace(r.Resource, "example-config", "example-config-2", 1)
			check("service", service, r, false)
			check("session", session, in(r, "acme"), false)
		}
	}
	for _, prefix := range []map[string][]string{nil, {"s3:prefix": {""}}, {"s3:prefix": {"acme"}}, {"s3:prefix": {"a"}}, {"s3:prefix": {"acme-corp/"}}} {
		for _, action := range []string{"s3:ListBucket", "s3:ListBucketVersions"} {
			check("session", session, in(iamtest.Request{Action: action, Resource: bucketARN, Context: prefix}, "acme"), false)
		}
	}
	for _, action := range []string{"s3:GetBucketVersioning", "s3:ListBucket"} { // the start and each ping
		check("service", service, iamtest.Request{Action: action, Resource: bucketARN}, true)
		check("plugin", own, iamtest.Request{Action: action, Resource: bucketARN}, true)
	}
	for _, action := range []string{"s3:PutBucketVersioning", "s3:DeleteBucket", "s3:PutBucketPolicy", "s3:BypassGovernanceRetention", "s3:PutObjectAcl"} {
		for _, resource := range []string{bucketARN, bucketARN + "/acme/_/x"} {
			check("service", service, iamtest.Request{Action: action, Resource: resource}, false)
			check("session", session, in(iamtest.Request{Action: action, Resource: resource}, "acme"), false)
		}
	}
	for _, action := range []string{"sts:AssumeRole", "sts:TagSession"} {
		check("plugin", own, iamtest.Request{Action: action, Resource: "arn:aws:iam::123456789012:role/config-tenant"}, true)
		check("plugin", own, iamtest.Request{Action: action, Resource: "arn:aws:iam::123456789012:role/admin"}, false)
	}
	for _, action := range []string{"kms:Decrypt", "kms:GenerateDataKey"} {
		r := iamtest.Request{
			Action: action, Resource: "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
			Context: map[string][]string{"kms:ViaService": {"s3.eu-central-1.amazonaws.com"}},
		}
		check("service", service, r, true)
		check("session", session, in(r, "acme"), true)
		r.Context = nil
		check("service", service, r, false)
	}
}
