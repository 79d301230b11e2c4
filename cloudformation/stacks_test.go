package cloudformation

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	digest = "@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	// manifestKey is the base64 of 32 zero bytes.
	manifestKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)

// variants returns the stacks that the tests look at: each environment, and each
// way to keep tenants apart or not. They are evaluated once and are not changed.
func variants(t *testing.T) map[string]*Stack {
	t.Helper()
	stacks, err := evaluated()
	if err != nil {
		t.Fatal(err)
	}
	return stacks
}

var evaluated = sync.OnceValues(func() (map[string]*Stack, error) {
	with := func(environment string, more map[string]any) map[string]any {
		p := map[string]any{
			"Environment": environment, "InternalDomain": "internal.example.com", "CertificateArn": "arn:aws:acm:eu-central-1:123456789012:certificate/1",
			"DomainPrefix": "example", "ConfigImage": "config" + digest, "OrderImage": "order" + digest, "CollectorImage": "collector" + digest,
			"CodeBucket": "artifacts", "CodeKey": "refresh.zip", "CodeVersion": "1", "ManifestKey": manifestKey,
		}
		maps.Copy(p, more)
		return p
	}
	stacks := map[string]*Stack{}
	for name, parameters := range map[string]map[string]any{
		"dev, small":             with("dev", map[string]any{"UseS3": "false", "UseSecretsManager": "false", "UseTenantRole": "false", "SpotWeight": "4", "OnDemandWeight": "0"}),
		"dev, one role":          with("dev", map[string]any{"UseTenantRole": "false"}),
		"staging, tenants' role": with("staging", map[string]any{"SpotWeight": "1", "AlarmEmail": "ops@example.com", "CreateTrail": "false"}),
		"staging, DAX":           with("staging", map[string]any{"UseDax": "true", "UseTenantRole": "false", "Architecture": "X86_64"}),
		"prod, tenants' role":    with("prod", nil),
		"prod, without S3":       with("prod", map[string]any{"UseS3": "false", "ManageApiGatewayAccount": "false", "ReservedConcurrency": "0"}),
		"prod, DAX":              with("prod", map[string]any{"UseDax": "true", "UseTenantRole": "false", "SpotWeight": "2"}),
	} {
		s, err := New("main.yaml", parameters)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if refused := s.Refused(); len(refused) > 0 {
			return nil, fmt.Errorf("%s: the template's own rules refuse it: %v", name, refused)
		}
		stacks[name] = s
	}
	return stacks, nil
})

// each calls test with each variant that fits, in order.
func each(t *testing.T, fits func(*Stack) bool, test func(*testing.T, *Stack)) {
	t.Helper()
	all, tested := variants(t), 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if fits == nil || fits(all[name]) {
			tested++
			t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) { test(t, all[name]) })
		}
	}
	if tested == 0 {
		t.Fatal("no variant fits")
	}
}

// resources calls f with all resources of a type, of a stack and those below it.
func resources(s *Stack, kind string, f func(*Stack, Resource)) int {
	n := 0
	for _, stack := range s.All() {
		for _, name := range slices.Sorted(maps.Keys(stack.Resources)) {
			if r := stack.Resources[name]; r.Type == kind {
				n++
				f(stack, r)
			}
		}
	}
	return n
}

// at follows a path of keys through maps; nil is what is not there.
func at(value any, path ...string) any {
	for _, key := range path {
		m, _ := value.(map[string]any)
		value = m[key]
	}
	return value
}

func templates(t *testing.T) map[string]*Template {
	t.Helper()
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) < 9 {
		t.Fatalf("%v, %v", files, err)
	}
	all := map[string]*Template{}
	for _, file := range files {
		tpl, err := Read(file)
		if err != nil {
			t.Fatal(err)
		}
		all[file] = tpl
	}
	return all
}

// Everything that a template refers to is there, outputs of nested stacks included.
func TestReferencesResolve(t *testing.T) {
	all := templates(t)
	nested := func(url string) (*Template, bool) { tpl, ok := all[url]; return tpl, ok }
	for _, tpl := range all {
		for _, line := range tpl.Unresolved(nested) {
			t.Error(line)
		}
	}
}

// What is wrong is seen: each kind of reference, to something that is not there.
func TestReferencesThatDoNotResolve(t *testing.T) {
	text, err := os.ReadFile("testdata/unresolved.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tpl, err := Parse("unresolved.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := Parse("inner.yaml", []byte("Resources: {}\nOutputs: { There: { Value: x } }\n"))
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(tpl.Unresolved(func(string) (*Template, bool) { return inner, true }), "\n")
	for _, missing := range []string{"NoParameter", "NoResource", "NoVariable", "NoSubResource", "NoCondition", "NoIf", "NoMapping", "NoColumn", "NoDependency", "Outputs.NoOutput", "NoOutputCondition"} {
		if !strings.Contains(said, missing) {
			t.Errorf("%s was not missed in:\n%s", missing, said)
		}
	}
	if strings.Contains(said, "Outputs.There") || strings.Contains(said, "Literal") {
		t.Errorf("what is there was missed:\n%s", said)
	}
	for _, twice := range []string{"Resources: {}\nResources: {}\n", "Nonsense: {}\n"} {
		if _, err := Parse("x", []byte(twice)); err == nil {
			t.Errorf("no error for %q", twice)
		}
	}
}

// A nested stack is given exactly the parameters that it declares, and each of
// its outputs is used. Nothing is exported: what one stack has of another is a
// parameter, so that no deletion waits for another stack.
func TestNestedStacksFit(t *testing.T) {
	all := templates(t)
	main := all["main.yaml"]
	used := map[string]bool{}
	calls("", map[string]any{"r": main.Sections["Resources"], "o": main.Sections["Outputs"]}, func(c Call) {
		if pair, ok := c.Argument.([]any); c.Function == "Fn::GetAtt" && ok {
			used[text(pair[0])+"."+text(pair[1])] = true
		}
	})
	inMain := []string{"main.yaml", "artifacts.yaml"} // artifacts comes before
	for name := range main.Sections["Resources"] {
		if main.Type(name) != stackType {
			continue
		}
		r, _ := main.Resource(name)
		url := text(at(r, "Properties", "TemplateURL"))
		inner, ok := all[url]
		if !ok {
			t.Errorf("%s nests %s, which is not there", name, url)
			continue
		}
		inMain = append(inMain, url)
		given, _ := at(r, "Properties", "Parameters").(map[string]any)
		if g, d := slices.Sorted(maps.Keys(given)), slices.Sorted(maps.Keys(inner.Sections["Parameters"])); !slices.Equal(g, d) {
			t.Errorf("%s is given %v and declares %v", url, g, d)
		}
		for output := range inner.Sections["Outputs"] {
			if !used[name+".Outputs."+output] {
				t.Errorf("nobody uses the output %s of %s", output, url)
			}
		}
	}
	slices.Sort(inMain)
	if files := slices.Sorted(maps.Keys(all)); !slices.Equal(files, inMain) {
		t.Errorf("there are %v, and main.yaml has %v", files, inMain)
	}
	for file, tpl := range all {
		for name, output := range tpl.Sections["Outputs"] {
			if at(output, "Export") != nil {
				t.Errorf("%s exports %s", file, name)
			}
		}
		for section, content := range tpl.Sections {
			calls(section, content, func(c Call) {
				if c.Function == "Fn::ImportValue" {
					t.Errorf("%s imports at %s", file, c.Where)
				}
			})
		}
	}
}

// Every parameter of main and every condition decides something.
func TestNothingIsDeclaredInVain(t *testing.T) {
	for file, tpl := range templates(t) {
		used := map[string]bool{}
		for section, content := range tpl.Sections {
			calls(section, content, func(c Call) {
				switch a := c.Argument.(type) {
				case string:
					used[a] = true
					for _, v := range variables(a) {
						used[v] = true
					}
				case []any:
					used[text(a[0])] = true
				}
			})
		}
		for name := range tpl.Sections["Resources"] {
			r, _ := tpl.Resource(name)
			used[text(r["Condition"])] = true
		}
		for _, section := range []string{"Parameters", "Conditions", "Mappings"} {
			for name := range tpl.Sections[section] {
				if !used[name] {
					t.Errorf("%s: nothing uses %s of %s", file, name, section)
				}
			}
		}
	}
}

// The stack can be evaluated in all variants, and DAX with the tenants' role is refused.
func TestVariants(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		n := 0
		for _, stack := range s.All() {
			n += len(stack.Resources)
		}
		t.Logf("%d resources in %d stacks", n, len(s.All()))
	})
	s := variants(t)["prod, tenants' role"]
	s.Parameters["UseDax"] = "true"
	if refused := s.Refused(); len(refused) != 1 || !strings.Contains(refused[0], "exclude") {
		t.Errorf("DAX with the tenants' role: %v", refused)
	}
	if _, err := New("main.yaml", map[string]any{"Environment": "dev"}); err == nil || !strings.Contains(err.Error(), "is not given") {
		t.Errorf("parameters are missing: %v", err)
	}
}
