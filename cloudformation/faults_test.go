package cloudformation

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The faults of the public sample of this stack, each by its name.

// A user who can write an attribute that a tenant or a role is read from chooses
// both. Here the tenant can not be changed by anybody, no app client can write it,
// nobody can sign up alone, and a role is a group.
func TestFaultUserWritableTenantOrRole(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		pools := resources(s, "AWS::Cognito::UserPool", func(_ *Stack, r Resource) {
			if at(r.Properties, "AdminCreateUserConfig", "AllowAdminCreateUserOnly") != true {
				t.Error("users sign up alone")
			}
			schema := policiesOf(r.Properties["Schema"])
			if len(schema) != 1 || schema[0]["Name"] != "tenantId" || schema[0]["Mutable"] != false {
				t.Errorf("the attributes are %v", schema)
			}
		})
		clients := resources(s, "AWS::Cognito::UserPoolClient", func(_ *Stack, r Resource) {
			flows := texts(r.Properties["AllowedOAuthFlows"])
			if slices.Contains(flows, "client_credentials") {
				scopes := texts(r.Properties["AllowedOAuthScopes"])
				want := map[string]string{"RefreshClient": "tagstore/refresh", "PeersClient": "tagstore/refresh", "OperatorClient": "tagstore/operate"}[r.Name]
				if len(scopes) != 1 || scopes[0] != want || r.Properties["GenerateSecret"] != true || slices.Contains(texts(r.Properties["ExplicitAuthFlows"]), "ALLOW_USER_PASSWORD_AUTH") {
					t.Errorf("%s: %v", r.Name, r.Properties)
				}
				return
			}
			// Without the list an app client writes every attribute.
			write, said := r.Properties["WriteAttributes"]
			if !said {
				t.Errorf("%s writes every attribute", r.Name)
			}
			for _, a := range texts(write) {
				if a != "email" && a != "name" {
					t.Errorf("%s writes %s", r.Name, a)
				}
			}
			if !slices.Contains(texts(r.Properties["ReadAttributes"]), "custom:tenantId") {
				t.Errorf("%s does not read the tenant, so no token has it", r.Name)
			}
			for _, flow := range texts(r.Properties["ExplicitAuthFlows"]) {
				if flow == "ALLOW_USER_PASSWORD_AUTH" || flow == "ALLOW_ADMIN_USER_PASSWORD_AUTH" && s.Parameters["Environment"] != "dev" {
					t.Errorf("%s: %s", r.Name, flow)
				}
			}
		})
		groups := resources(s, "AWS::Cognito::UserPoolGroup", func(_ *Stack, r Resource) {
			if r.Properties["RoleArn"] != nil {
				t.Errorf("%s has a role of AWS", r.Name)
			}
		})
		if pools != 1 || clients != 4 || groups != 3 {
			t.Errorf("%d pools, %d clients, %d groups", pools, clients, groups)
		}
		containers(s, func(_ Resource, name string, c map[string]any) {
			values, _ := environment(t, c)
			for key, value := range values {
				if strings.HasSuffix(key, "_JWT_ROLE_CLAIM") && value != "groups" {
					t.Errorf("%s takes the role from %s", name, value)
				}
			}
		})
	})
}

// One role of one task that reads every tenant's data is what IAM can not help
// against. By default here no role does: see TestTenantCredentialsReachOneTenant.
func TestFaultOneTaskRoleForAllTenants(t *testing.T) {
	main := templates(t)["main.yaml"]
	if at(main.Sections["Parameters"]["UseTenantRole"], "Default") != "true" {
		t.Error("the tenants' role is off unless somebody asks for it")
	}
	each(t, nil, func(t *testing.T, s *Stack) {
		roles := map[string]bool{}
		resources(s, "AWS::ECS::TaskDefinition", func(_ *Stack, r Resource) {
			for _, kind := range []string{"TaskRoleArn", "ExecutionRoleArn"} {
				role := text(r.Properties[kind])
				if roles[role] || role == "" {
					t.Errorf("%s: %s is %s, which somebody else has", r.Name, kind, role)
				}
				roles[role] = true
			}
		})
		if !hasTenantRole(s) {
			return
		}
		w := worldOf(s)
		for name, role := range rolesOf(t, s) {
			for what, r := range w.dataOf(t, "acme-corp", hasS3(s), hasSecrets(s)) {
				if strings.Contains(what, "ListBucket") && name == "ConfigTaskRole" {
					continue // names of objects, which the plugin's start looks at
				}
				if Allowed(role.Statements, r) {
					t.Errorf("%s itself: %s", name, what)
				}
			}
		}
	})
}

// A cache in front of an API whose answers depend on the token gives one tenant's
// answer to another. Here nothing is kept, and neither is a decision about a token.
func TestFaultCacheThatMixesTenants(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		stages := resources(s, "AWS::ApiGateway::Stage", func(_ *Stack, r Resource) {
			if r.Properties["CacheClusterEnabled"] != false || r.Properties["CacheClusterSize"] != nil {
				t.Errorf("%s has a cache", r.Name)
			}
			for _, m := range policiesOf(r.Properties["MethodSettings"]) {
				if m["CachingEnabled"] != false {
					t.Errorf("%s: %v", r.Name, m)
				}
			}
		})
		resources(s, "AWS::ApiGateway::Authorizer", func(_ *Stack, r Resource) {
			if text(r.Properties["AuthorizerResultTtlInSeconds"]) != "0" {
				t.Errorf("%s keeps decisions", r.Name)
			}
		})
		open := []string{}
		methods := resources(s, "AWS::ApiGateway::Method", func(_ *Stack, r Resource) {
			if at(r.Properties, "Integration", "CacheKeyParameters") != nil || at(r.Properties, "Integration", "CacheNamespace") != nil {
				t.Errorf("%s has keys of a cache", r.Name)
			}
			if r.Properties["AuthorizationType"] != "COGNITO_USER_POOLS" {
				open = append(open, r.Name)
			}
		})
		if stages != 1 || methods != 4 || !slices.Equal(open, []string{"ShowOpenApi"}) {
			t.Errorf("%d stages, %d methods, open: %v", stages, methods, open)
		}
		for _, stack := range s.All() {
			for _, r := range stack.Resources {
				if strings.HasPrefix(r.Type, "AWS::CloudFront::") {
					t.Errorf("%s: say what it keeps", r.Name)
				}
			}
		}
	})
}

// ":latest" in a repository whose tags can not move is a deployment that fails, and
// in one whose tags can, one that nobody can say the contents of. Images are named
// by digest.
func TestFaultLatestOnImmutableRepositories(t *testing.T) {
	main := templates(t)["main.yaml"]
	for _, image := range []string{"ConfigImage", "OrderImage", "CollectorImage"} {
		p := main.Sections["Parameters"][image]
		pattern, err := regexp.Compile(text(at(p, "AllowedPattern")))
		if err != nil || at(p, "Default") != nil {
			t.Fatalf("%s: %v", image, err)
		}
		for name, ok := range map[string]bool{
			"repo" + digest: true, "repo:1.2.3" + digest: true, "repo:latest": false, "repo": false, "repo:1.2.3": false, "repo@sha256:12": false, digest: false,
		} {
			if pattern.MatchString(name) != ok {
				t.Errorf("%s takes %s: %v", image, name, !ok)
			}
		}
	}
	each(t, nil, func(t *testing.T, s *Stack) {
		containers(s, func(_ Resource, name string, c map[string]any) {
			if !strings.HasSuffix(text(c["Image"]), digest) {
				t.Errorf("%s runs %v", name, c["Image"])
			}
		})
		n := resources(withArtifacts(t, s), "AWS::ECR::Repository", func(_ *Stack, r Resource) {
			if r.Properties["ImageTagMutability"] != "IMMUTABLE" || at(r.Properties, "ImageScanningConfiguration", "ScanOnPush") != true {
				t.Errorf("%s: %v", r.Name, r.Properties)
			}
		})
		if n != 2 {
			t.Errorf("%d repositories", n)
		}
		resources(s, "AWS::Lambda::Function", func(_ *Stack, r Resource) {
			if at(r.Properties, "Code", "S3ObjectVersion") == nil {
				t.Errorf("%s: a new package under the old name is not seen", r.Name)
			}
		})
	})
}

// A cluster with Spot whose services name a launch type never uses it.
func TestFaultSpotNeverUsed(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		resources(s, "AWS::ECS::Cluster", func(_ *Stack, r Resource) {
			if !slices.Contains(texts(r.Properties["CapacityProviders"]), "FARGATE_SPOT") {
				t.Errorf("%s has no Spot", r.Name)
			}
		})
		resources(s, "AWS::ECS::Service", func(_ *Stack, r Resource) {
			if r.Properties["LaunchType"] != nil {
				t.Errorf("%s has a launch type: its capacity providers are ignored", r.Name)
			}
			weights := map[string]string{}
			base := ""
			for _, c := range policiesOf(r.Properties["CapacityProviderStrategy"]) {
				weights[text(c["CapacityProvider"])] = text(c["Weight"])
				if c["CapacityProvider"] == "FARGATE" {
					base = text(c["Base"])
				}
			}
			spot := text(s.Parameters["SpotWeight"])
			if spot == "0" {
				spot = "" // the provider is not named
			}
			if weights["FARGATE_SPOT"] != spot || weights["FARGATE"] != text(s.Parameters["OnDemandWeight"]) {
				t.Errorf("%s: %v, wanted %q on Spot", r.Name, weights, spot)
			}
			// What must not be taken away all at once is not on Spot.
			if base == "" || base == "0" {
				t.Errorf("%s has no task that is sure to stay", r.Name)
			}
		})
		// Nothing is charged for what nobody is told of.
		if alarms := resources(s, "AWS::CloudWatch::Alarm", func(_ *Stack, r Resource) {}); alarms == 0 {
			t.Error("no alarm")
		}
	})
}

// Bodies and tokens in logs are data of tenants where it does not belong.
func TestFaultBodyLogging(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		resources(s, "AWS::ApiGateway::Stage", func(_ *Stack, r Resource) {
			settings := policiesOf(r.Properties["MethodSettings"])
			if len(settings) != 1 || settings[0]["DataTraceEnabled"] != false || settings[0]["LoggingLevel"] == "INFO" || settings[0]["ResourcePath"] != "/*" || settings[0]["HttpMethod"] != "*" {
				t.Errorf("%s: %v", r.Name, settings)
			}
			format := text(at(r.Properties, "AccessLogSetting", "Format"))
			if !strings.Contains(format, "$context.requestId") {
				t.Errorf("%s has no access log", r.Name)
			}
			for _, never := range []string{"$input", "$context.authorizer.claims.email", "uthorization", "header", "body", "$context.path\""} {
				if strings.Contains(format, never) {
					t.Errorf("%s logs %s", r.Name, never)
				}
			}
		})
		resources(s, "AWS::WAFv2::LoggingConfiguration", func(_ *Stack, r Resource) {
			if fields := policiesOf(r.Properties["RedactedFields"]); len(fields) != 1 || at(fields[0], "SingleHeader", "Name") != "authorization" {
				t.Errorf("%s logs tokens: %v", r.Name, fields)
			}
		})
		resources(s, "AWS::WAFv2::WebACL", func(_ *Stack, r Resource) {
			perToken, managed := 0, 0
			for _, rule := range policiesOf(r.Properties["Rules"]) {
				if at(rule, "VisibilityConfig", "SampledRequestsEnabled") != false {
					t.Errorf("%v keeps samples of requests, with their tokens", rule["Name"])
				}
				if at(rule, "Statement", "ManagedRuleGroupStatement") != nil {
					managed++
				}
				for _, key := range policiesOf(at(rule, "Statement", "RateBasedStatement", "CustomKeys")) {
					if at(key, "Header", "Name") == "authorization" {
						perToken++
					}
				}
			}
			if perToken != 1 || managed < 3 {
				t.Errorf("%d rates by token, %d managed groups", perToken, managed)
			}
		})
		containers(s, func(_ Resource, name string, c map[string]any) {
			values, _ := environment(t, c)
			for key, value := range values {
				if strings.HasSuffix(key, "_LOG_LEVEL") && value == "DEBUG" {
					t.Errorf("%s logs every call", name)
				}
			}
		})
	})
}

// A refresh that some replicas did not take is a failure. The function says so by
// an error, which is tried again; the stack keeps what fails to the end, and calls
// somebody when fewer replicas acknowledge than were asked.
func TestFaultPartialRefreshCountedAsSuccess(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		alarms := map[string]Resource{}
		resources(s, "AWS::CloudWatch::Alarm", func(_ *Stack, r Resource) { alarms[r.Name] = r })
		expression := ""
		metrics := map[string]string{}
		for _, m := range policiesOf(alarms["RefreshPartialAlarm"].Properties["Metrics"]) {
			if e := m["Expression"]; e != nil && m["ReturnData"] == true {
				expression = text(e)
			} else {
				metrics[text(m["Id"])] = text(at(m, "MetricStat", "Metric", "MetricName"))
			}
		}
		if expression != "asked - acknowledged" || metrics["asked"] != "ReplicasAsked" || metrics["acknowledged"] != "ReplicasAcknowledged" {
			t.Errorf("%q of %v", expression, metrics)
		}
		for _, name := range []string{"RefreshFailedAlarm", "RefreshErrorsAlarm", "RefreshRefusedAlarm", "DeadLettersAlarm", "FailuresAlarm", "RefreshIteratorAgeAlarm", "StaleAlarm"} {
			if alarms[name].Properties == nil {
				t.Errorf("there is no %s", name)
			}
		}
		resources(s, "AWS::Lambda::EventSourceMapping", func(_ *Stack, r Resource) {
			if !slices.Contains(texts(r.Properties["FunctionResponseTypes"]), "ReportBatchItemFailures") {
				t.Error("Lambda ignores which records failed")
			}
		})
	})
}
