package cloudformation

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The evaluator itself: what is known of IAM, statement by statement.
func TestEvaluator(t *testing.T) {
	statement := func(effect, action, resource string, condition map[string]any) map[string]any {
		s := map[string]any{"Effect": effect, "Action": action, "Resource": resource}
		if condition != nil {
			s["Condition"] = condition
		}
		return s
	}
	cond := func(operator, key string, values ...any) map[string]any {
		return map[string]any{operator: map[string]any{key: values}}
	}
	for name, c := range map[string]struct {
		statements []any
		request    Request
		want       bool
	}{
		"nothing":                  {nil, Request{Action: "a:B", Resource: "x"}, false},
		"allow":                    {[]any{statement("Allow", "a:B", "x", nil)}, Request{Action: "a:B", Resource: "x"}, true},
		"deny wins":                {[]any{statement("Allow", "a:B", "x", nil), statement("Deny", "a:*", "*", nil)}, Request{Action: "a:B", Resource: "x"}, false},
		"actions know no case":     {[]any{statement("Allow", "A:b", "x", nil)}, Request{Action: "a:B", Resource: "x"}, true},
		"resources do":             {[]any{statement("Allow", "a:B", "X", nil)}, Request{Action: "a:B", Resource: "x"}, false},
		"star":                     {[]any{statement("Allow", "a:Get*", "t/*", nil)}, Request{Action: "a:GetItem", Resource: "t/1/2"}, true},
		"star is anchored":         {[]any{statement("Allow", "a:Get*", "t/*", nil)}, Request{Action: "a:PutGet", Resource: "t/1"}, false},
		"question mark":            {[]any{statement("Allow", "a:B", "t?", nil)}, Request{Action: "a:B", Resource: "t"}, false},
		"dots are dots":            {[]any{statement("Allow", "a:B", "t.x", nil)}, Request{Action: "a:B", Resource: "t-x"}, false},
		"variable":                 {[]any{statement("Allow", "a:B", "t/${aws:PrincipalTag/tenant}/*", nil)}, Request{Action: "a:B", Resource: "t/acme/1", Context: map[string][]string{"aws:principaltag/tenant": {"acme"}}}, true},
		"variable of another":      {[]any{statement("Allow", "a:B", "t/${aws:PrincipalTag/tenant}/*", nil)}, Request{Action: "a:B", Resource: "t/acme-corp/1", Context: map[string][]string{"aws:principaltag/tenant": {"acme"}}}, false},
		"variable without a value": {[]any{statement("Allow", "a:B", "t/${aws:PrincipalTag/tenant}*", nil)}, Request{Action: "a:B", Resource: "t/acme"}, false},
		"star in a value":          {[]any{statement("Allow", "a:B", "t/${aws:PrincipalTag/tenant}", nil)}, Request{Action: "a:B", Resource: "t/acme", Context: map[string][]string{"aws:principaltag/tenant": {"*"}}}, false},
		"equals":                   {[]any{statement("Allow", "a:B", "*", cond("StringEquals", "k", "v", "w"))}, Request{Action: "a:B", Resource: "x", Context: map[string][]string{"k": {"w"}}}, true},
		"equals is not like":       {[]any{statement("Allow", "a:B", "*", cond("StringEquals", "k", "*"))}, Request{Action: "a:B", Resource: "x", Context: map[string][]string{"k": {"w"}}}, false},
		"absent key":               {[]any{statement("Allow", "a:B", "*", cond("StringLike", "k", "*"))}, Request{Action: "a:B", Resource: "x"}, false},
		"for all":                  {[]any{statement("Allow", "a:B", "*", cond("ForAllValues:StringLike", "k", "v*"))}, Request{Action: "a:B", Resource: "x", Context: map[string][]string{"k": {"v1", "w"}}}, false},
		"for all of none":          {[]any{statement("Allow", "a:B", "*", cond("ForAllValues:StringLike", "k", "v*"))}, Request{Action: "a:B", Resource: "x"}, true},
		"for any":                  {[]any{statement("Allow", "a:B", "*", cond("ForAnyValue:StringEquals", "k", "v"))}, Request{Action: "a:B", Resource: "x", Context: map[string][]string{"k": {"w", "v"}}}, true},
		"null":                     {[]any{statement("Allow", "a:B", "*", cond("Null", "k", "false"))}, Request{Action: "a:B", Resource: "x"}, false},
		"bool":                     {[]any{statement("Allow", "a:B", "*", cond("Bool", "k", "false"))}, Request{Action: "a:B", Resource: "x", Context: map[string][]string{"k": {"true"}}}, false},
	} {
		all, err := Statements(map[string]any{"Version": "2012-10-17", "Statement": c.statements})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := Allowed(all, c.request); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, unknown := range []map[string]any{
		{"Effect": "Allow", "NotAction": "a:B", "Resource": "*"},
		{"Effect": "Allow", "Action": "a:B", "NotResource": "*"},
		{"Effect": "Allow", "Action": "a:B", "Resource": "*", "Condition": cond("IpAddress", "k", "10.0.0.0/8")},
		{"Effect": "Allow", "Action": "a:B", "Resource": "*", "Condition": cond("ForSome:StringLike", "k", "x")},
		{"Action": "a:B", "Resource": "*"},
	} {
		if _, err := Statements(map[string]any{"Version": "2012-10-17", "Statement": unknown}); err == nil {
			t.Errorf("evaluated without an error: %v", unknown)
		}
	}
}

// A pattern matches what the regular expression of the same meaning does: every
// pattern and every text of up to four letters of a small alphabet.
func TestPatterns(t *testing.T) {
	texts := func(alphabet string) []string {
		all := []string{""}
		for from, n := 0, 0; n < 4; n++ {
			end := len(all)
			for _, before := range all[from:end] {
				for _, c := range alphabet {
					all = append(all, before+string(c))
				}
			}
			from = end
		}
		return all
	}
	values := texts("ab")
	for _, pattern := range texts("ab*?") {
		re := regexp.MustCompile("^" + strings.NewReplacer("*", ".*", "?", ".").Replace(pattern) + "$")
		for _, value := range values {
			if got, want := matches(pattern, value, nil), re.MatchString(value); got != want {
				t.Errorf("%q matches %q: %v", pattern, value, got)
			}
		}
	}
}

const (
	ssmARN    = "arn:aws:ssm:eu-central-1:123456789012:parameter"
	secretARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:"
	keyARN    = "arn:aws:kms:eu-central-1:123456789012:key/"
	region    = ".eu-central-1.amazonaws.com"
)

// world has the names of what a stack's roles may be asked for.
type world struct {
	project, bucket, config, orders, dataKey string
}

func worldOf(s *Stack) world {
	w := world{project: "tagstore-" + text(s.Parameters["Environment"])}
	w.config = "arn:aws:dynamodb:eu-central-1:123456789012:table/" + w.project + "-config"
	w.orders = "arn:aws:dynamodb:eu-central-1:123456789012:table/" + w.project + "-orders"
	w.bucket = "arn:aws:s3:::" + w.project + "-config-123456789012-eu-central-1"
	w.dataKey = keyARN + "Data-DataKey"
	return w
}

func (w world) path() string { return "tagstore/" + strings.TrimPrefix(w.project, "tagstore-") }

func with(r Request, pairs ...string) Request {
	context := maps.Clone(r.Context)
	if context == nil {
		context = map[string][]string{}
	}
	for i := 0; i < len(pairs); i += 2 {
		context[strings.ToLower(pairs[i])] = append(context[strings.ToLower(pairs[i])], pairs[i+1])
	}
	return Request{Action: r.Action, Resource: r.Resource, Context: context}
}

// dataOf returns every way to a tenant's data that the plugins go, by what their
// READMEs say that a tenant's session needs: read and write, of the tenant itself
// and of its service.
func (w world) dataOf(t *testing.T, tenant string, s3, secrets bool) map[string]Request {
	t.Helper()
	all := map[string]Request{}
	// one calls f with each action of one service that a plugin needs.
	one := func(plugin, policy, service string, f func(action string)) {
		t.Helper()
		n := 0
		for _, action := range actions(needs(t, plugin, policy)) {
			if a, ok := strings.CutPrefix(action, service+":"); ok {
				a, _, _ = strings.Cut(a, "@")
				f(a)
				n++
			}
		}
		if n < 2 {
			t.Fatalf("%s needs %d actions of %s", plugin, n, service)
		}
	}
	one("dynamodb", "iam-tenant", "dynamodb", func(action string) {
		for _, pk := range []string{"TENANT#" + tenant, "TENANT#" + tenant + "|SERVICE#order"} {
			all["dynamodb "+action+" "+pk] = with(Request{Action: "dynamodb:" + action, Resource: w.config}, "dynamodb:LeadingKeys", pk)
		}
	})
	root := ssmARN + "/" + w.path() + "/" + tenant
	one("ssm", "iam-tenant", "ssm", func(action string) {
		if action == "GetParametersByPath" {
			all["ssm "+action] = Request{Action: "ssm:" + action, Resource: root}
			return
		}
		all["ssm "+action] = Request{Action: "ssm:" + action, Resource: root + "/currency"}
		all["ssm "+action+" of a service"] = Request{Action: "ssm:" + action, Resource: root + "/order/currency"}
	})
	one("ssm", "iam-tenant", "kms", func(action string) {
		all["kms "+action+" of a SecureString"] = with(Request{Action: "kms:" + action, Resource: w.dataKey}, "kms:ViaService", "ssm"+region, "kms:EncryptionContext:PARAMETER_ARN", root+"/currency")
	})
	if s3 {
		one("s3", "iam-tenant", "s3", func(action string) {
			if strings.HasPrefix(action, "ListBucket") {
				all["s3 "+action] = with(Request{Action: "s3:" + action, Resource: w.bucket}, "s3:prefix", "config/"+tenant+"/")
				return
			}
			all["s3 "+action] = Request{Action: "s3:" + action, Resource: w.bucket + "/config/" + tenant + "/_/catalog.json"}
		})
	}
	if secrets {
		secret := secretARN + w.path() + "/" + tenant + "/order/password-AbCdEf"
		one("secretsmanager", "iam-tenant", "secretsmanager", func(action string) {
			if action != "ListSecrets" && action != "BatchGetSecretValue" { // which know no resources
				all["secretsmanager "+action] = Request{Action: "secretsmanager:" + action, Resource: secret}
			}
		})
		one("secretsmanager", "iam-key", "kms", func(action string) {
			all["kms "+action+" of a secret"] = with(Request{Action: "kms:" + action, Resource: w.dataKey}, "kms:ViaService", "secretsmanager"+region, "kms:EncryptionContext:SecretARN", secret)
		})
	}
	return all
}

func hasTenantRole(s *Stack) bool { return s.Parameters["UseTenantRole"] == "true" }
func hasS3(s *Stack) bool         { return s.Parameters["UseS3"] == "true" }
func hasSecrets(s *Stack) bool    { return s.Parameters["UseSecretsManager"] == "true" }

func rolesOf(t *testing.T, s *Stack) map[string]*Role {
	t.Helper()
	roles, err := s.Roles()
	if err != nil {
		t.Fatal(err)
	}
	return roles
}

// A tenant's session reaches all of that tenant's data, whichever way the plugins
// go, and nothing of any other tenant: none whose name begins alike, none that
// all share, nothing of the stack's own.
func TestTenantCredentialsReachOneTenant(t *testing.T) {
	each(t, hasTenantRole, func(t *testing.T, s *Stack) {
		roles, w := rolesOf(t, s), worldOf(s)
		asked, refused := 0, 0
		tenants := []string{"acme", "acme-corp", "globex-inc", "a", "_shared"}
		for _, tenant := range tenants {
			session, ok := Assume(roles["ConfigTaskRole"], roles["TenantRole"], map[string]string{"tenant": tenant}, nil)
			if !ok {
				t.Fatalf("there is no session of %s", tenant)
			}
			for _, owner := range tenants {
				for what, r := range w.dataOf(t, owner, hasS3(s), hasSecrets(s)) {
					asked++
					got := session(r)
					if got != (owner == tenant) {
						t.Errorf("%s to %s's: %s: %v", tenant, owner, what, got)
					}
					if !got {
						refused++
					}
				}
			}
			for what, r := range map[string]Request{
				"two tenants in one batch":  with(Request{Action: "dynamodb:BatchGetItem", Resource: w.config}, "dynamodb:LeadingKeys", "TENANT#"+tenant, "dynamodb:LeadingKeys", "TENANT#other"),
				"a scan":                    {Action: "dynamodb:Scan", Resource: w.config},
				"a read without a key":      {Action: "dynamodb:Query", Resource: w.config},
				"PartiQL":                   with(Request{Action: "dynamodb:PartiQLSelect", Resource: w.config}, "dynamodb:LeadingKeys", "TENANT#"+tenant),
				"an index":                  with(Request{Action: "dynamodb:Query", Resource: w.config + "/index/x"}, "dynamodb:LeadingKeys", "TENANT#"+tenant),
				"the stream":                {Action: "dynamodb:GetRecords", Resource: w.config + "/stream/1"},
				"an order":                  with(Request{Action: "dynamodb:GetItem", Resource: w.orders}, "dynamodb:LeadingKeys", "TENANT#"+tenant),
				"the folder of all":         {Action: "ssm:GetParametersByPath", Resource: ssmARN + "/" + w.path()},
				"all parameters":            {Action: "ssm:DescribeParameters", Resource: "*"},
				"the whole bucket":          with(Request{Action: "s3:ListBucket", Resource: w.bucket}, "s3:prefix", ""),
				"all objects":               with(Request{Action: "s3:ListBucket", Resource: w.bucket}, "s3:prefix", "config/"),
				"a bucket without a prefix": {Action: "s3:ListBucket", Resource: w.bucket},
				"the key of tokens":         {Action: "secretsmanager:GetSecretValue", Resource: secretARN + w.project + "-token-key-AbCdEf"},
				"a machine's secret":        {Action: "secretsmanager:GetSecretValue", Resource: secretARN + w.project + "-refresh-client-AbCdEf"},
				"the key, directly":         {Action: "kms:Decrypt", Resource: w.dataKey},
				"a machine's secret's key":  with(Request{Action: "kms:Decrypt", Resource: w.dataKey}, "kms:ViaService", "secretsmanager"+region, "kms:EncryptionContext:SecretARN", secretARN+w.project+"-token-key-AbCdEf"),
				"another session":           {Action: "sts:AssumeRole", Resource: roles["TenantRole"].ARN},
				"another role":              {Action: "sts:AssumeRole", Resource: roles["ConfigTaskRole"].ARN},
			} {
				asked++
				if session(r) {
					t.Errorf("%s: a session of %s may have %s", w.project, tenant, what)
				} else {
					refused++
				}
			}
		}
		t.Logf("%s: %d requests of %d tenants, %d refused", roles["TenantRole"].ARN, asked, len(tenants), refused)
	})
}

// A session names exactly one tenant, only the configuration service gets one,
// and what a session's own policy leaves out is out.
func TestSessions(t *testing.T) {
	each(t, hasTenantRole, func(t *testing.T, s *Stack) {
		roles, w := rolesOf(t, s), worldOf(s)
		for name, tags := range map[string]map[string]string{
			"no tag": nil, "an empty tenant": {"tenant": ""}, "another tag": {"team": "x"}, "two tags": {"tenant": "acme", "admin": "true"},
		} {
			if _, ok := Assume(roles["ConfigTaskRole"], roles["TenantRole"], tags, nil); ok {
				t.Errorf("a session with %s", name)
			}
		}
		for name, role := range roles {
			_, ok := Assume(role, roles["TenantRole"], map[string]string{"tenant": "acme"}, nil)
			if ok != (name == "ConfigTaskRole") {
				t.Errorf("%s gets a session of a tenant: %v", name, ok)
			}
		}
		get := with(Request{Action: "dynamodb:GetItem", Resource: w.config}, "dynamodb:LeadingKeys", "TENANT#acme")
		put := with(Request{Action: "dynamodb:PutItem", Resource: w.config}, "dynamodb:LeadingKeys", "TENANT#acme")
		readOnly, err := Statements(map[string]any{"Version": "2012-10-17", "Statement": map[string]any{"Effect": "Allow", "Action": "dynamodb:Get*", "Resource": "*"}})
		if err != nil {
			t.Fatal(err)
		}
		session, ok := Assume(roles["ConfigTaskRole"], roles["TenantRole"], map[string]string{"tenant": "acme"}, readOnly)
		if !ok || !session(get) || session(put) {
			t.Errorf("a session with a policy that reads: %v", ok)
		}
	})
}

// With the tenants' role the configuration service's own role reaches nobody's
// data. Without it, by choice, it reaches everybody's: that is what the choice means.
// No other role ever does.
func TestWhoReachesConfiguration(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		roles, w := rolesOf(t, s), worldOf(s)
		for _, name := range slices.Sorted(maps.Keys(roles)) {
			if name == "TenantRole" {
				continue
			}
			for what, r := range w.dataOf(t, "acme", hasS3(s), hasSecrets(s)) {
				want := name == "ConfigTaskRole" && !hasTenantRole(s)
				switch {
				case what == "s3 ListBucket" && name == "ConfigTaskRole":
					want = true // the plugin looks at its bucket; that shows names, and no object
				case name == "DaxRole" && (strings.HasPrefix(what, "dynamodb GetItem") || strings.HasPrefix(what, "dynamodb BatchGetItem")):
					want = true // DAX reads the table for whoever may call it
				}
				if got := Allowed(roles[name].Statements, r); got != want {
					t.Errorf("%s: %s: %v", name, what, got)
				}
			}
		}
	})
}

// What each role may do at all, from a list of what there is to do.
func TestWhatEachRoleMayDo(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		roles, w := rolesOf(t, s), worldOf(s)
		logs := "arn:aws:logs:eu-central-1:123456789012:log-group:/" + w.path() + "/"
		sqs := "arn:aws:sqs:eu-central-1:123456789012:" + w.project
		function := "arn:aws:lambda:eu-central-1:123456789012:function:" + w.project + "-refresh"
		discover := with(Request{Action: "servicediscovery:DiscoverInstances", Resource: "*"}, "servicediscovery:NamespaceName", s.Parameters["Environment"].(string)+".tagstore.local", "servicediscovery:ServiceName", "config")
		every := map[string]Request{
			"the replicas":                discover,
			"another service's replicas":  with(Request{Action: discover.Action, Resource: "*"}, "servicediscovery:NamespaceName", "other", "servicediscovery:ServiceName", "config"),
			"registering":                 {Action: "servicediscovery:RegisterInstance", Resource: "arn:aws:servicediscovery:eu-central-1:123456789012:service/x"},
			"the config table's shape":    {Action: "dynamodb:DescribeTable", Resource: w.config},
			"the stream":                  {Action: "dynamodb:GetRecords", Resource: w.config + "/stream/2026-01-01T00:00:00.000"},
			"another stream":              {Action: "dynamodb:GetRecords", Resource: w.orders + "/stream/2026-01-01T00:00:00.000"},
			"streams' names":              {Action: "dynamodb:ListStreams", Resource: "*"},
			"an order":                    with(Request{Action: "dynamodb:GetItem", Resource: w.orders}, "dynamodb:LeadingKeys", "TENANT#acme"),
			"placing an order":            with(Request{Action: "dynamodb:PutItem", Resource: w.orders}, "dynamodb:LeadingKeys", "TENANT#acme"),
			"deleting an order":           with(Request{Action: "dynamodb:DeleteItem", Resource: w.orders}, "dynamodb:LeadingKeys", "TENANT#acme"),
			"deleting the table":          {Action: "dynamodb:DeleteTable", Resource: w.config},
			"scanning":                    {Action: "dynamodb:Scan", Resource: w.config},
			"orders' key":                 with(Request{Action: "kms:Decrypt", Resource: w.dataKey}, "kms:ViaService", "dynamodb"+region, "kms:EncryptionContext:aws:dynamodb:tableName", w.project+"-orders"),
			"configuration's key":         with(Request{Action: "kms:Decrypt", Resource: w.dataKey}, "kms:ViaService", "dynamodb"+region, "kms:EncryptionContext:aws:dynamodb:tableName", w.project+"-config"),
			"the function's settings":     with(Request{Action: "kms:Decrypt", Resource: w.dataKey}, "kms:EncryptionContext:aws:lambda:FunctionArn", function),
			"the key, directly":           {Action: "kms:Decrypt", Resource: w.dataKey},
			"another key":                 {Action: "kms:Decrypt", Resource: keyARN + "other"},
			"what failed":                 {Action: "sqs:SendMessage", Resource: sqs + "-refresh-failures"},
			"reading what failed":         {Action: "sqs:ReceiveMessage", Resource: sqs + "-refresh-failures"},
			"the refresh log":             {Action: "logs:PutLogEvents", Resource: logs + "refresh:log-stream:x"},
			"the config log":              {Action: "logs:PutLogEvents", Resource: logs + "config:log-stream:x"},
			"the order log":               {Action: "logs:PutLogEvents", Resource: logs + "order:log-stream:x"},
			"the flow log":                {Action: "logs:PutLogEvents", Resource: logs + "flow:log-stream:x"},
			"metrics":                     {Action: "logs:PutLogEvents", Resource: logs + "metrics:log-stream:x"},
			"reading a log":               {Action: "logs:GetLogEvents", Resource: logs + "config:log-stream:x"},
			"a session of a tenant":       with(Request{Action: "sts:AssumeRole", Resource: "arn:aws:iam::123456789012:role/" + w.project + "-tenant"}, "aws:RequestTag/tenant", "acme"),
			"any other role":              {Action: "sts:AssumeRole", Resource: "arn:aws:iam::123456789012:role/admin"},
			"passing a role":              {Action: "iam:PassRole", Resource: "arn:aws:iam::123456789012:role/admin"},
			"the key of tokens":           {Action: "secretsmanager:GetSecretValue", Resource: secretARN + w.project + "-token-key-AbCdEf"},
			"the key of cursors":          {Action: "secretsmanager:GetSecretValue", Resource: secretARN + w.project + "-cursor-key-AbCdEf"},
			"the replicas' secret":        {Action: "secretsmanager:GetSecretValue", Resource: secretARN + w.project + "-peers-client-AbCdEf"},
			"the function's secret":       {Action: "secretsmanager:GetSecretValue", Resource: secretARN + w.project + "-refresh-client-AbCdEf"},
			"the config image":            {Action: "ecr:BatchGetImage", Resource: "arn:aws:ecr:eu-central-1:123456789012:repository/tagstore/config"},
			"the order image":             {Action: "ecr:BatchGetImage", Resource: "arn:aws:ecr:eu-central-1:123456789012:repository/tagstore/order"},
			"pushing an image":            {Action: "ecr:PutImage", Resource: "arn:aws:ecr:eu-central-1:123456789012:repository/tagstore/order"},
			"the registry":                {Action: "ecr:GetAuthorizationToken", Resource: "*"},
			"interfaces":                  {Action: "ec2:CreateNetworkInterface", Resource: "*"},
			"interfaces from the code":    with(Request{Action: "ec2:CreateNetworkInterface", Resource: "*"}, "lambda:SourceFunctionArn", function),
			"the DAX cluster":             {Action: "dax:BatchGetItem", Resource: "arn:aws:dax:eu-central-1:123456789012:cache/" + w.project},
			"writing through DAX":         {Action: "dax:PutItem", Resource: "arn:aws:dax:eu-central-1:123456789012:cache/" + w.project},
			"the account's other bucket":  {Action: "s3:GetObject", Resource: "arn:aws:s3:::other/config/acme/x"},
			"objects beside values":       {Action: "s3:GetObject", Resource: w.bucket + "/other/acme/x"},
			"the bucket's versioning":     {Action: "s3:GetBucketVersioning", Resource: w.bucket},
			"turning versioning off":      {Action: "s3:PutBucketVersioning", Resource: w.bucket},
			"parameters of another stack": {Action: "ssm:GetParameter", Resource: ssmARN + "/tagstore/other/acme/x"},
			"secrets' names":              {Action: "secretsmanager:ListSecrets", Resource: "*"},
			"making users":                {Action: "cognito-idp:AdminCreateUser", Resource: "arn:aws:cognito-idp:eu-central-1:123456789012:userpool/x"},
		}
		configTask := []string{"the replicas", "the config table's shape", "metrics"}
		switch {
		case hasTenantRole(s):
			configTask = append(configTask, "a session of a tenant")
		default:
			configTask = append(configTask, "configuration's key")
			if hasSecrets(s) {
				configTask = append(configTask, "secrets' names")
			}
		}
		if hasS3(s) {
			configTask = append(configTask, "the bucket's versioning")
		}
		tenant := []string{"configuration's key"}
		if hasSecrets(s) {
			tenant = append(tenant, "secrets' names")
		}
		if s.Parameters["UseDax"] == "true" {
			configTask = append(configTask, "the DAX cluster")
		}
		may := map[string][]string{
			"ConfigTaskRole":      configTask,
			"TenantRole":          tenant,
			"OrderTaskRole":       {"an order", "placing an order", "orders' key", "metrics"},
			"ConfigExecutionRole": {"the key of tokens", "the replicas' secret", "the config image", "the registry", "the config log"},
			"OrderExecutionRole":  {"the key of cursors", "the order image", "the registry", "the order log"},
			"RefreshRole":         {"the replicas", "the stream", "streams' names", "configuration's key", "the function's settings", "what failed", "the refresh log", "interfaces"},
			"DaxRole":             {"the config table's shape", "configuration's key"},
			"FlowLogRole":         {"the flow log"},
			"ApiGatewayRole":      {"the refresh log", "the config log", "the order log", "the flow log", "metrics", "reading a log"},
		}
		for _, name := range slices.Sorted(maps.Keys(roles)) {
			expected, known := may[name]
			if !known {
				t.Errorf("nothing is said of %s: say what it may do", name)
				continue
			}
			for what, r := range every {
				// The tenant's session is asked in TestTenantCredentialsReachOneTenant; here it has no tag.
				if got, want := Allowed(roles[name].Statements, r), slices.Contains(expected, what); got != want {
					t.Errorf("%s: %s: %v", name, what, got)
				}
			}
		}
	})
}

// Who may be each role: one service, and the tenants' role the configuration
// service alone, which its own policy lets take it.
func TestWhoMayBeEachRole(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		roles := rolesOf(t, s)
		services := map[string]string{
			"ConfigTaskRole": "ecs-tasks.amazonaws.com", "OrderTaskRole": "ecs-tasks.amazonaws.com", "ConfigExecutionRole": "ecs-tasks.amazonaws.com",
			"OrderExecutionRole": "ecs-tasks.amazonaws.com", "RefreshRole": "lambda.amazonaws.com", "DaxRole": "dax.amazonaws.com",
			"FlowLogRole": "vpc-flow-logs.amazonaws.com", "ApiGatewayRole": "apigateway.amazonaws.com",
		}
		for name, role := range roles {
			want := map[string][]string{"Service": {services[name]}}
			if name == "TenantRole" {
				want = map[string][]string{"AWS": {roles["ConfigTaskRole"].ARN}}
				take := with(Request{Action: "sts:AssumeRole", Resource: role.ARN}, "aws:RequestTag/tenant", "acme")
				if !Allowed(roles["ConfigTaskRole"].Statements, take) {
					t.Error("the configuration service may not take the tenants' role")
				}
			}
			if len(role.Trust) != 1 || !maps.EqualFunc(role.Trust[0].Principals, want, slices.Equal[[]string]) {
				t.Errorf("%s: %+v may be it, not %v", name, role.Trust, want)
			}
		}
	})
}

// The refresh function's role does nothing but its job: these actions, no others.
func TestRefreshRoleDoesItsJobAlone(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		may := map[string]bool{}
		for _, st := range rolesOf(t, s)["RefreshRole"].Statements {
			if st.Effect == "Allow" {
				for _, a := range st.Actions {
					may[a] = true
				}
			}
		}
		want := []string{
			"dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams",
			"ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
			"kms:Decrypt", "logs:CreateLogStream", "logs:PutLogEvents", "servicediscovery:DiscoverInstances", "sqs:SendMessage",
		}
		if got := slices.Sorted(maps.Keys(may)); !slices.Equal(got, want) {
			t.Errorf("it may %v\nnot %v", got, want)
		}
	})
}

// A statement about all resources has its reason beside it, and every reason a statement.
func TestStarsHaveReasons(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		for name, role := range rolesOf(t, s) {
			for _, statement := range role.Statements {
				if slices.Contains(statement.Resources, "*") && len(role.Stars[statement.Sid]) < 20 {
					t.Errorf("%s: %s is about all resources, and Metadata.StarResource does not say why", name, statement.Sid)
				}
				for _, action := range statement.Actions {
					if statement.Effect == "Allow" && (action == "*" || strings.HasSuffix(action, ":*")) {
						t.Errorf("%s: %s allows %s", name, statement.Sid, action)
					}
				}
				if !statement.statesResource || statement.hasPrincipal {
					t.Errorf("%s: %s is no statement of an identity", name, statement.Sid)
				}
			}
			for sid := range role.Stars {
				// A statement of something that is off leaves its reason behind.
				if !slices.ContainsFunc(role.Statements, func(st Statement) bool { return st.Sid == sid && slices.Contains(st.Resources, "*") }) && sid != "SecretNames" {
					t.Errorf("%s: there is a reason for %s, and no such statement", name, sid)
				}
			}
		}
		// Policies of things: who is named, and of what. A key's own policy says "*" of the key itself.
		for _, stack := range s.All() {
			for name, r := range stack.Resources {
				for _, property := range []string{"KeyPolicy", "PolicyDocument"} {
					document, ok := r.Properties[property]
					if !ok || r.Type == "AWS::IAM::Policy" {
						continue
					}
					statements, err := Statements(document)
					if err != nil {
						t.Errorf("%s: %v", name, err)
					}
					for _, st := range statements {
						if _, everybody := st.Principals["*"]; everybody && st.Effect == "Allow" && len(st.Condition) == 0 {
							t.Errorf("%s: %s lets everybody in", name, st.Sid)
						}
						if slices.Contains(st.Resources, "*") && r.Type != "AWS::KMS::Key" && at(r.Metadata, "StarResource", st.Sid) == nil {
							t.Errorf("%s: %s is about all resources, and Metadata.StarResource does not say why", name, st.Sid)
						}
						for _, service := range st.Principals["Service"] {
							if st.Effect == "Allow" && len(st.Condition) == 0 {
								t.Errorf("%s: %s lets %s in for whoever asks it", name, st.Sid, service)
							}
						}
					}
				}
			}
		}
	})
}

// The list of what was evaluated.
func TestPolicies(t *testing.T) {
	for _, name := range []string{"dev, one role", "prod, tenants' role", "prod, DAX"} {
		roles := rolesOf(t, variants(t)[name])
		for _, role := range slices.Sorted(maps.Keys(roles)) {
			var statements []string
			for _, s := range roles[role].Statements {
				statements = append(statements, fmt.Sprintf("%s %s (%d actions, %d resources, %d conditions)", s.Effect, s.Sid, len(s.Actions), len(s.Resources), len(s.Condition)))
			}
			if len(statements) == 0 {
				t.Errorf("%s: %s may do nothing", name, role)
			}
			t.Logf("policy: %s: %s: %s", name, role, strings.Join(statements, "; "))
		}
	}
}
