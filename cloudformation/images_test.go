package cloudformation

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// dockerfile is what the Dockerfile says of one image, by instruction; a test of
// release/ holds the images that are made without it to the same.
func dockerfile(t *testing.T, stage string) map[string]string {
	t.Helper()
	raw, err := os.ReadFile("../release/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(raw), "\nFROM scratch AS "+stage+"\n")
	if !ok {
		t.Fatalf("the Dockerfile has no stage %s", stage)
	}
	rest, _, _ = strings.Cut(rest, "\nFROM ")
	said := map[string]string{}
	for line := range strings.Lines(rest) {
		if instruction, arguments, ok := strings.Cut(strings.TrimSpace(line), " "); ok && instruction == strings.ToUpper(instruction) {
			said[instruction] = arguments
		}
	}
	return said
}

// What the stack expects of an image is where the image has it: its program, its
// user, its port, its manifest and what is mounted over.
func TestImagesFitTheStack(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		seen := 0
		containers(s, func(_ Resource, name string, c map[string]any) {
			if name == "collector" {
				return
			}
			seen++
			image := dockerfile(t, name)
			command, _ := at(c, "HealthCheck", "Command").([]any)
			var quoted []string
			for _, word := range command[1:] {
				quoted = append(quoted, `"`+text(word)+`"`)
			}
			if want := "CMD [" + strings.Join(quoted, ", ") + "]"; !strings.HasSuffix(image["HEALTHCHECK"], " "+want) {
				t.Errorf("%s: the stack asks by %s, the image by %s", name, want, image["HEALTHCHECK"])
			}
			if image["ENTRYPOINT"] != "["+quoted[0]+"]" || c["Command"] != nil || c["EntryPoint"] != nil {
				t.Errorf("%s: the image runs %s, the stack %v %v", name, image["ENTRYPOINT"], c["EntryPoint"], c["Command"])
			}
			if image["USER"] != c["User"] {
				t.Errorf("%s: user %v in the stack, %s in the image", name, c["User"], image["USER"])
			}
			mounts, _ := c["MountPoints"].([]any)
			var paths []string
			for _, m := range mounts {
				paths = append(paths, `"`+text(at(m, "ContainerPath"))+`"`)
			}
			if volume := "[" + strings.Join(paths, ", ") + "]"; image["VOLUME"] != volume && len(paths)+len(image["VOLUME"]) > 0 {
				t.Errorf("%s: %s is mounted, the image has %s", name, volume, image["VOLUME"])
			}
			ports, _ := c["PortMappings"].([]any)
			if port, _, _ := strings.Cut(image["EXPOSE"], "/"); !slices.ContainsFunc(ports, func(p any) bool { return text(at(p, "ContainerPort")) == port }) {
				t.Errorf("%s: port %s is none of %v", name, port, ports)
			}
			values, _ := environment(t, c)
			for pair := range strings.FieldsSeq(image["ENV"]) {
				if key, value, _ := strings.Cut(pair, "="); values[key] != value {
					t.Errorf("%s: %s is %q in the stack, %q in the image", name, key, values[key], value)
				}
			}
		})
		n := resources(s, "AWS::Lambda::Function", func(_ *Stack, r Resource) {
			if got := text(at(r.Properties, "Environment", "Variables", "TAGSTORE_MANIFEST")); got != "" {
				seen++
				if got != "/var/task/tagstore.yaml" || r.Properties["Handler"] != "bootstrap" || r.Properties["Runtime"] != "provided.al2023" {
					t.Errorf("%s does not find what is in the package: %v", r.Name, r.Properties)
				}
			}
		})
		if seen != 3 {
			t.Errorf("looked at %d programs; %d functions", seen, n)
		}
	})
}

// The manifest that images and packages are made with has the stack's names, and
// its paths are where a tenant's session may go.
func TestManifestFitsTheStack(t *testing.T) {
	raw, err := os.ReadFile("../release/tagstore.yaml")
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(s *Stack) bool { return hasTenantRole(s) && hasS3(s) && hasSecrets(s) }, func(t *testing.T, s *Stack) {
		filled := strings.NewReplacer(
			"${PROJECT}", "tagstore", "${ENVIRONMENT}", text(s.Parameters["Environment"]), "${ACCOUNT}", "123456789012", "${REGION}", "eu-central-1",
		).Replace(string(raw))
		if left := regexp.MustCompile(`\$\{.*?\}`).FindString(filled); left != "" {
			t.Fatalf("%s is filled in by nobody", left)
		}
		var m struct {
			Backends map[string]struct {
				Options map[string]string
			}
		}
		if err := yaml.Unmarshal([]byte(filled), &m); err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for kind, property := range map[string]string{"AWS::DynamoDB::Table": "TableName", "AWS::S3::Bucket": "BucketName", "AWS::KMS::Alias": "AliasName"} {
			resources(s, kind, func(_ *Stack, r Resource) { names[kind+" "+text(r.Properties[property])] = true })
		}
		roles, w := rolesOf(t, s), worldOf(s)
		for backend, kinds := range map[string]map[string]string{
			"tenants": {"table": "AWS::DynamoDB::Table"}, "params": nil, // plain ones
			"blobs": {"bucket": "AWS::S3::Bucket"}, "secrets": {"kms_key_id": "AWS::KMS::Alias"},
		} {
			options := m.Backends[backend].Options
			for option, kind := range kinds {
				if !names[kind+" "+options[option]] {
					t.Errorf("%s: the stack has no %s %q, but %v", backend, kind, options[option], names)
				}
			}
			if options["tenant_role"] != roles["TenantRole"].ARN {
				t.Errorf("%s: the role is %s, the stack's %s", backend, options["tenant_role"], roles["TenantRole"].ARN)
			}
		}
		where := func(backend, tenant string) string {
			return strings.NewReplacer("{tenant}", tenant, "{service}", "order", "{name}", "x").Replace(m.Backends[backend].Options["path"])
		}
		for _, tenant := range []string{"acme-corp", "globex-inc"} {
			session, ok := Assume(roles["ConfigTaskRole"], roles["TenantRole"], map[string]string{"tenant": "acme-corp"}, nil)
			if !ok {
				t.Fatal("there is no session")
			}
			for _, r := range []Request{
				{Action: "ssm:GetParameter", Resource: ssmARN + where("params", tenant)},
				{Action: "s3:GetObject", Resource: w.bucket + "/" + where("blobs", tenant)},
				{Action: "secretsmanager:GetSecretValue", Resource: secretARN + where("secrets", tenant) + "-AbCdEf"},
			} {
				if got := session(r); got != (tenant == "acme-corp") {
					t.Errorf("a session of acme-corp: %s of %s: %v", r.Action, r.Resource, got)
				}
			}
		}
	})
}
