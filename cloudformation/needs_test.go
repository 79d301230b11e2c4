package cloudformation

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// needs returns the policy of a name that stands in a plugin's README. The plugin's
// own tests hold that policy against the calls that it makes.
func needs(t *testing.T, plugin, policy string) []Statement {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "plugins", plugin, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```json "+policy+"\n")
	body, _, closed := strings.Cut(rest, "\n```")
	if !found || !closed {
		t.Fatalf("the README of %s has no policy %s", plugin, policy)
	}
	var document any
	if err := json.Unmarshal([]byte(body), &document); err != nil {
		t.Fatalf("%s: %s: %v", plugin, policy, err)
	}
	statements, err := Statements(document)
	if err != nil {
		t.Fatalf("%s: %s: %v", plugin, policy, err)
	}
	return statements
}

// actions returns what statements allow, sorted: of a key with the service through
// which it may be used.
func actions(statements []Statement) []string {
	var all []string
	for _, s := range statements {
		for _, a := range s.Actions {
			if via := s.Condition["StringEquals"]["kms:ViaService"]; strings.HasPrefix(a, "kms:") && len(via) == 1 {
				service, _, _ := strings.Cut(via[0], ".")
				a += "@" + service
			}
			if s.Effect == "Allow" {
				all = append(all, a)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// The roles by which the plugins reach their stores allow what the plugins' READMEs
// say that they need, to the action, and nothing else of these services.
func TestRolesAreWhatThePluginsNeed(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		plugins := []string{"dynamodb", "ssm"}
		if hasS3(s) {
			plugins = append(plugins, "s3")
		}
		if hasSecrets(s) {
			plugins = append(plugins, "secretsmanager")
		}
		roles := rolesOf(t, s)
		compare := func(role string, own []string, policies ...string) {
			t.Helper()
			var want []Statement
			for _, plugin := range plugins {
				for _, policy := range policies {
					want = append(want, needs(t, plugin, policy)...)
				}
			}
			if hasSecrets(s) && !slices.Contains(policies, "iam-plugin") {
				want = append(want, needs(t, "secretsmanager", "iam-key")...)
			}
			if s.Parameters["UseDax"] == "true" {
				want = append(want, needs(t, "dynamodb", "iam-dax")...)
			}
			expected := slices.Compact(slices.Sorted(slices.Values(append(actions(want), own...))))
			got := slices.DeleteFunc(actions(roles[role].Statements), func(a string) bool {
				service, _, _ := strings.Cut(a, ":")
				return !slices.Contains([]string{"dynamodb", "ssm", "s3", "secretsmanager", "kms", "sts", "dax"}, service)
			})
			if !slices.Equal(got, expected) {
				t.Errorf("%s may\n%v\nand the plugins need\n%v", role, got, expected)
			}
		}
		// The table has a key of the stack's own, of which the README knows nothing.
		table := []string{"kms:Decrypt@dynamodb"}
		if hasTenantRole(s) {
			compare("TenantRole", table, "iam-tenant")
			compare("ConfigTaskRole", nil, "iam-plugin")
		} else {
			compare("ConfigTaskRole", table, "iam-service")
		}
	})
}
