package iamtest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/plugins/internal/awsconn/iamtest"
)

func parse(t testing.TB, document string) iamtest.Policy {
	t.Helper()
	p, err := iamtest.Parse([]byte(document))
	if err != nil {
		t.Fatalf("%v in %s", err, document)
	}
	return p
}

// allow wraps what follows the Effect of one allowing statement.
func allow(rest string) string {
	return `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", ` + rest + `}]}`
}

type question struct {
	ask  iamtest.Request
	want iamtest.Decision
}

func check(t *testing.T, document string, questions map[string]question) {
	t.Helper()
	p := parse(t, document)
	for name, q := range questions {
		if got := p.Allows(q.ask); got != q.want {
			t.Errorf("%s: got %s, want %s", name, got, q.want)
		}
	}
}

// on are the tags of a tenant's session.
func on(tenant string) map[string]string { return map[string]string{"tenant": tenant} }

// TestHomeDirectory is the policy for folders of one's own in a bucket that
// AWS's page on variables shows.
func TestHomeDirectory(t *testing.T) {
	user := func(name string) map[string][]string { return map[string][]string{"aws:username": {name}} }
	list := func(name, prefix string) iamtest.Request {
		return iamtest.Request{Action: "s3:ListBucket", Resource: "arn:aws:s3:::mybucket", Context: map[string][]string{"aws:username": {name}, "s3:prefix": {prefix}}}
	}
	check(t, `{
		"Version": "2012-10-17",
		"Statement": [
			{"Action": ["s3:ListBucket"], "Effect": "Allow", "Resource": ["arn:aws:s3:::mybucket"], "Condition": {"StringLike": {"s3:prefix": ["${aws:username}/*"]}}},
			{"Action": ["s3:GetObject", "s3:PutObject"], "Effect": "Allow", "Resource": ["arn:aws:s3:::mybucket/${aws:username}/*"]}
		]
	}`, map[string]question{
		"own object":             {iamtest.Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::mybucket/David/a", Context: user("David")}, iamtest.Allow},
		"own, deep":              {iamtest.Request{Action: "s3:PutObject", Resource: "arn:aws:s3:::mybucket/David/a/b:c", Context: user("David")}, iamtest.Allow},
		"another's":              {iamtest.Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::mybucket/Eve/a", Context: user("David")}, iamtest.ImplicitDeny},
		"one whose name goes on": {iamtest.Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::mybucket/David2/a", Context: user("David")}, iamtest.ImplicitDeny},
		"other case":             {iamtest.Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::mybucket/david/a", Context: user("David")}, iamtest.ImplicitDeny},
		"no user":                {iamtest.Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::mybucket//a"}, iamtest.ImplicitDeny},
		"the variable's text":    {iamtest.Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::mybucket/${aws:username}/a"}, iamtest.ImplicitDeny},
		"star for a user":        {iamtest.Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::mybucket/Eve/a", Context: user("*")}, iamtest.ImplicitDeny},
		"delete":                 {iamtest.Request{Action: "s3:DeleteObject", Resource: "arn:aws:s3:::mybucket/David/a", Context: user("David")}, iamtest.ImplicitDeny},
		"list own":               {list("David", "David/x"), iamtest.Allow},
		"list all":               {list("David", ""), iamtest.ImplicitDeny},
		"list another's":         {list("David", "Eve/"), iamtest.ImplicitDeny},
		"list without prefix":    {iamtest.Request{Action: "s3:ListBucket", Resource: "arn:aws:s3:::mybucket", Context: user("David")}, iamtest.ImplicitDeny},
	})
}

// TestLeadingKeys is the row-level policy of DynamoDB's guide, with the trap
// that it warns of.
func TestLeadingKeys(t *testing.T) {
	const table = "arn:aws:dynamodb:us-east-1:123456789012:table/configs"
	ask := func(action, tenant string, keys ...string) iamtest.Request {
		return iamtest.Request{Action: action, Resource: table, PrincipalTags: on(tenant), Context: map[string][]string{"dynamodb:LeadingKeys": keys}}
	}
	questions := map[string]question{
		"own":                {ask("dynamodb:GetItem", "acme", "TENANT#acme"), iamtest.Allow},
		"several of its own": {ask("dynamodb:BatchGetItem", "acme", "TENANT#acme", "TENANT#acme"), iamtest.Allow},
		"another's":          {ask("dynamodb:GetItem", "acme", "TENANT#acme-corp"), iamtest.ImplicitDeny},
		"one of another":     {ask("dynamodb:BatchGetItem", "acme", "TENANT#acme", "TENANT#other"), iamtest.ImplicitDeny},
		"no tag":             {iamtest.Request{Action: "dynamodb:GetItem", Resource: table, Context: map[string][]string{"dynamodb:LeadingKeys": {"TENANT#"}}}, iamtest.ImplicitDeny},
		"name in other case": {iamtest.Request{Action: "DYNAMODB:getitem", Resource: table, PrincipalTags: on("acme"), Context: map[string][]string{"DynamoDB:leadingkeys": {"TENANT#acme"}}}, iamtest.Allow},
	}
	const condition = `"Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["TENANT#${aws:PrincipalTag/tenant}"]}}`
	named := allow(`"Action": ["dynamodb:GetItem", "dynamodb:BatchGetItem"], "Resource": "` + table + `", ` + condition)
	check(t, named, questions)
	check(t, named, map[string]question{"scan": {ask("dynamodb:Scan", "acme"), iamtest.ImplicitDeny}})

	// With all actions it is still so for those that have leading keys, and
	// Scan, which has none, reads every tenant.
	trap := allow(`"Action": "dynamodb:*", "Resource": "` + table + `", ` + condition)
	check(t, trap, questions)
	check(t, trap, map[string]question{"scan": {ask("dynamodb:Scan", "acme"), iamtest.Allow}})

	mended := allow(`"Action": "dynamodb:*", "Resource": "` + table + `", "Condition": {` +
		`"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["TENANT#${aws:PrincipalTag/tenant}"]}, "Null": {"dynamodb:LeadingKeys": "false"}}`)
	check(t, mended, questions)
	check(t, mended, map[string]question{"scan": {ask("dynamodb:Scan", "acme"), iamtest.ImplicitDeny}})

	// ForAnyValue lets one own key carry the others.
	check(t, strings.ReplaceAll(named, "ForAllValues", "ForAnyValue"), map[string]question{
		"one of another": {ask("dynamodb:BatchGetItem", "acme", "TENANT#acme", "TENANT#other"), iamtest.Allow},
		"none":           {ask("dynamodb:GetItem", "acme"), iamtest.ImplicitDeny},
	})
}

// TestEvaluation checks deny over allow, and what a statement is about.
func TestEvaluation(t *testing.T) {
	document := `{
		"Version": "2012-10-17",
		"Statement": [
			{"Sid": "all", "Effect": "Allow", "Action": "s3:*", "Resource": "*"},
			{"Sid": "tls", "Effect": "Deny", "Action": "s3:*", "Resource": "*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
			{"Sid": "most", "Effect": "Deny", "NotAction": ["s3:Get*", "s3:List?ucket"], "Resource": "arn:aws:s3:::b/*"},
			{"Sid": "others", "Effect": "Deny", "Action": "s3:GetObject", "NotResource": "arn:aws:s3:::b/*"}
		]
	}`
	get := func(resource string, tls ...string) iamtest.Request {
		return iamtest.Request{Action: "s3:GetObject", Resource: resource, Context: map[string][]string{"aws:SecureTransport": tls}}
	}
	check(t, document, map[string]question{
		"allowed":              {get("arn:aws:s3:::b/x", "true"), iamtest.Allow},
		"plain":                {get("arn:aws:s3:::b/x", "false"), iamtest.ExplicitDeny},
		"plain, as said by Go": {get("arn:aws:s3:::b/x", "False"), iamtest.ExplicitDeny},
		"key absent":           {get("arn:aws:s3:::b/x"), iamtest.Allow},
		"not action":           {iamtest.Request{Action: "s3:PutObject", Resource: "arn:aws:s3:::b/x"}, iamtest.ExplicitDeny},
		"one byte":             {iamtest.Request{Action: "s3:ListBucket", Resource: "arn:aws:s3:::b/x"}, iamtest.Allow},
		"not resource":         {get("arn:aws:s3:::c/x", "true"), iamtest.ExplicitDeny},
		"other service":        {iamtest.Request{Action: "ssm:GetParameter", Resource: "arn:aws:s3:::c/x"}, iamtest.ImplicitDeny},
	})
	if got := (iamtest.Policy{}).Allows(get("arn:aws:s3:::b/x")); got != iamtest.ImplicitDeny {
		t.Errorf("no policy says %s", got)
	}
	a, b := parse(t, allow(`"Action": "s3:GetObject", "Resource": "*"`)), parse(t, strings.Replace(allow(`"Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*"`), "Allow", "Deny", 1))
	both := iamtest.Join(b, a)
	for resource, want := range map[string]iamtest.Decision{"arn:aws:s3:::b/x": iamtest.ExplicitDeny, "arn:aws:s3:::c/x": iamtest.Allow} {
		if got := both.Allows(get(resource)); got != want {
			t.Errorf("joined: %s is %s, want %s", resource, got, want)
		}
	}
}

func TestActionAndResource(t *testing.T) {
	for _, c := range []struct {
		action, resource string // of the policy
		asked, on        string
		want             bool
	}{
		{"*", "*", "ssm:GetParameter", "arn:aws:ssm:eu-central-1:123456789012:parameter/a", true},
		{"ssm:GetParameter", "*", "ssm:GetParameters", "x", false},
		{"ssm:GetParameter*", "*", "ssm:GetParametersByPath", "x", true},
		{"ssm:getparameter", "*", "SSM:GetParameter", "x", true},
		{"ssm:Get?arameter", "*", "ssm:Getarameter", "x", false},
		{"ssm:*", "*", "ssmmessages:OpenDataChannel", "x", false},
		// The examples of AWS's page on Resource.
		{"s3:*", "arn:aws:s3:::b/*/test/*", "s3:GetObject", "arn:aws:s3:::b/1/test/object.jpg", true},
		{"s3:*", "arn:aws:s3:::b/*/test/*", "s3:GetObject", "arn:aws:s3:::b/1/2/3/test/4/object.jpg", true},
		{"s3:*", "arn:aws:s3:::b/*/test/*", "s3:GetObject", "arn:aws:s3:::b//test/", true},
		{"s3:*", "arn:aws:s3:::b/*/test/*", "s3:GetObject", "arn:aws:s3:::b/1-test/object.jpg", false},
		{"s3:*", "arn:aws:s3:::b/*/test/*", "s3:GetObject", "arn:aws:s3:::b/test/object.jpg", false},
		{"ssm:*", "arn:aws:ssm:*:123456789012:parameter/cfg/*", "ssm:GetParameter", "arn:aws:ssm:eu-central-1:123456789012:parameter/cfg/a/b", true},
		{"ssm:*", "arn:aws:ssm:*:123456789012:parameter/cfg/*", "ssm:GetParameter", "arn:aws:ssm:eu-central-1:123456789012:parameter/cfg", false},
		{"ssm:*", "arn:aws:ssm:*:123456789012:parameter/cfg/*", "ssm:GetParameter", "arn:aws:ssm:eu-central-1:210987654321:parameter/cfg/a", false},
		{"ssm:*", "arn:aws:ssm:eu-*-1:123456789012:parameter/a", "ssm:GetParameter", "arn:aws:ssm:eu-central-1:123456789012:parameter/a", true},
		{"ssm:*", "arn:aws:ssm:eu-*-1:123456789012:parameter/a", "ssm:GetParameter", "arn:aws:ssm:eu-x:y-1:123456789012:parameter/a", false},
		{"ssm:*", "arn:aws:ssm:eu?central:1:parameter/a", "ssm:GetParameter", "arn:aws:ssm:eu:central:1:parameter/a", false},
		{"secretsmanager:*", "arn:aws:secretsmanager:*:*:secret:acme/*", "secretsmanager:GetSecretValue", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:acme/api-AbCdEf", true},
		{"secretsmanager:*", "arn:aws:secretsmanager:*:*:secret:acme/*", "secretsmanager:GetSecretValue", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:acme-corp/api-AbCdEf", false},
		// A '*' that ends a part runs past its colon.
		{"secretsmanager:*", "arn:aws:secretsmanager:*:secret:acme", "secretsmanager:GetSecretValue", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:acme", true},
		// In the last part a colon is a byte like others.
		{"s3:*", "arn:aws:s3:::b/*x", "s3:GetObject", "arn:aws:s3:::b/a:x", true},
		{"s3:*", "arn:aws:s3:::b/?x", "s3:GetObject", "arn:aws:s3:::b/:x", true},
		{"ssm:*", "arn:aws:ssm:*:*:parameter/?", "ssm:GetParameter", "arn:aws:ssm:r:1:parameter/ab", false},
		{"ssm:*", "arn:aws:ssm:*:*:parameter/A", "ssm:GetParameter", "arn:aws:ssm:r:1:parameter/a", false},
		{"ssm:*", "*", "ssm:DescribeParameters", "*", true},
		{"ssm:*", "arn:aws:ssm:*:*:parameter/A", "ssm:DescribeParameters", "*", false},
	} {
		p := parse(t, allow(fmt.Sprintf(`"Action": %q, "Resource": %q`, c.action, c.resource)))
		if got := p.Allows(iamtest.Request{Action: c.asked, Resource: c.on}); (got == iamtest.Allow) != c.want {
			t.Errorf("%s on %s: %s on %s is %s", c.action, c.resource, c.asked, c.on, got)
		}
	}
	hostile := parse(t, allow(fmt.Sprintf(`"Action": "s3:*", "Resource": "arn:aws:s3:::%s"`, strings.Repeat("*a", 200))))
	if got := hostile.Allows(iamtest.Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::" + strings.Repeat("a", 2000) + "b"}); got != iamtest.ImplicitDeny {
		t.Errorf("a pattern of many wildcards: %s", got)
	}
}

func TestConditions(t *testing.T) {
	keys := func(pairs ...string) map[string][]string {
		m := map[string][]string{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = append(m[pairs[i]], pairs[i+1])
		}
		return m
	}
	for _, c := range []struct {
		condition string
		context   map[string][]string
		want      bool
	}{
		{`"StringEquals": {"a:k": "v"}`, keys("a:k", "v"), true},
		{`"StringEquals": {"a:k": "v"}`, keys("A:K", "v"), true},
		{`"StringEquals": {"a:k": "v"}`, keys("a:k", "V"), false},
		{`"StringEquals": {"a:k": "v"}`, nil, false},
		{`"StringEquals": {"a:k": ["u", "v"]}`, keys("a:k", "v"), true},
		{`"StringEquals": {"a:k": "v*"}`, keys("a:k", "vv"), false},
		{`"StringEquals": {"a:k": "v*"}`, keys("a:k", "v*"), true},
		{`"StringEquals": {"a:k": "v?"}`, keys("a:k", "v?"), true},
		{`"StringEquals": {"a:k": "v", "a:l": "w"}`, keys("a:k", "v"), false},
		{`"StringEquals": {"a:k": "v"}, "StringLike": {"a:l": "w*"}`, keys("a:k", "v", "a:l", "ww"), true},
		{`"StringEquals": {"a:k": "v"}, "StringLike": {"a:l": "w*"}`, keys("a:k", "v", "a:l", "x"), false},
		{`"StringEqualsIgnoreCase": {"a:k": "v"}`, keys("a:k", "V"), true},
		{`"StringNotEqualsIgnoreCase": {"a:k": "v"}`, keys("a:k", "V"), false},
		{`"StringNotEquals": {"a:k": "v"}`, keys("a:k", "w"), true},
		{`"StringNotEquals": {"a:k": "v"}`, keys("a:k", "v"), false},
		{`"StringNotEquals": {"a:k": "v"}`, nil, true},
		{`"StringNotEquals": {"a:k": ["v", "w"]}`, keys("a:k", "w"), false},
		{`"StringNotEquals": {"a:k": ["v", "w"]}`, keys("a:k", "x"), true},
		{`"StringNotLike": {"a:k": "v*"}`, keys("a:k", "vv"), false},
		{`"StringNotLike": {"a:k": "v*"}`, nil, true},
		{`"StringLike": {"a:k": "v*"}`, keys("a:k", "v:/v"), true},
		{`"StringLike": {"a:k": "v?"}`, keys("a:k", "v"), false},
		{`"StringLike": {"a:k": ""}`, keys("a:k", ""), true},
		{`"StringLike": {"a:k": "v${*}"}`, keys("a:k", "vv"), false},
		{`"StringLike": {"a:k": "v${*}"}`, keys("a:k", "v*"), true},
		{`"StringEquals": {"a:k": "${$}{x}"}`, keys("a:k", "${x}"), true},

		{`"StringEqualsIfExists": {"a:k": "v"}`, nil, true},
		{`"StringEqualsIfExists": {"a:k": "v"}`, keys("a:k", "w"), false},
		{`"StringEqualsIfExists": {"a:k": "v"}`, keys("a:k", "v"), true},
		{`"StringNotEqualsIfExists": {"a:k": "v"}`, keys("a:k", "v"), false},

		{`"Null": {"a:k": "true"}`, nil, true},
		{`"Null": {"a:k": "true"}`, keys("a:k", ""), false},
		{`"Null": {"a:k": false}`, keys("a:k", "v"), true},
		{`"Null": {"a:k": false}`, nil, false},

		{`"Bool": {"a:k": true}`, keys("a:k", "true"), true},
		{`"Bool": {"a:k": "true"}`, keys("a:k", "false"), false},
		{`"Bool": {"a:k": "false"}`, nil, false},
		{`"BoolIfExists": {"a:k": "false"}`, nil, true},

		{`"NumericLessThanEquals": {"a:k": "10"}`, keys("a:k", "10"), true},
		{`"NumericLessThanEquals": {"a:k": 10}`, keys("a:k", "9.5"), true},
		{`"NumericLessThanEquals": {"a:k": 10}`, keys("a:k", "11"), false},
		{`"NumericLessThan": {"a:k": 10}`, keys("a:k", "x"), false},
		{`"NumericNotEquals": {"a:k": 10}`, keys("a:k", "10.0"), false},
		{`"NumericGreaterThan": {"a:k": 10}`, nil, false},
		{`"NumericGreaterThanEquals": {"a:k": 10}`, keys("a:k", "10"), true},
		{`"NumericEquals": {"a:k": 10}`, keys("a:k", "1e1"), true},

		{`"ArnLike": {"a:k": "arn:aws:sns:*:123456789012:*"}`, keys("a:k", "arn:aws:sns:eu-central-1:123456789012:t:sub"), true},
		{`"ArnEquals": {"a:k": "arn:aws:sns:*:123456789012:t"}`, keys("a:k", "arn:aws:sns:eu-central-1:123456789012:t"), true},
		{`"ArnLike": {"a:k": "arn:aws:sns:*::t"}`, keys("a:k", "arn:aws:sns:eu-central-1:123456789012:t"), false},
		{`"ArnLike": {"a:k": "arn:aws:s3:::b/*"}`, keys("a:k", "no arn"), false},
		{`"ArnNotLike": {"a:k": "arn:aws:s3:::b/*"}`, keys("a:k", "arn:aws:s3:::c/x"), true},

		// Sets: the tables of AWS's page on multivalued keys.
		{`"ForAllValues:StringEquals": {"a:k": ["x", "y"]}`, keys("a:k", "x", "a:k", "y"), true},
		{`"ForAllValues:StringEquals": {"a:k": ["x", "y"]}`, keys("a:k", "x", "a:k", "z"), false},
		{`"ForAllValues:StringEquals": {"a:k": ["x", "y"]}`, nil, true},
		{`"ForAllValues:StringEquals": {"a:k": ["x", "y"]}`, map[string][]string{"a:k": {}}, true},
		{`"ForAllValues:StringNotEquals": {"a:k": ["x", "y"]}`, keys("a:k", "z", "a:k", "x"), false},
		{`"ForAllValues:StringNotEquals": {"a:k": ["x", "y"]}`, keys("a:k", "z"), true},
		{`"ForAnyValue:StringEquals": {"a:k": ["x", "y"]}`, keys("a:k", "z", "a:k", "y"), true},
		{`"ForAnyValue:StringEquals": {"a:k": ["x", "y"]}`, keys("a:k", "z"), false},
		{`"ForAnyValue:StringEquals": {"a:k": ["x", "y"]}`, nil, false},
		{`"ForAnyValue:StringNotLike": {"a:k": "x*"}`, keys("a:k", "xx", "a:k", "y"), true},
		{`"ForAnyValue:StringNotLike": {"a:k": "x*"}`, nil, false},
		{`"ForAllValues:StringEqualsIfExists": {"a:k": "x"}`, keys("a:k", "y"), false},

		// Variables.
		{`"StringEquals": {"a:k": "${a:v}"}`, keys("a:k", "x", "a:v", "x"), true},
		{`"StringEquals": {"a:k": "${a:v}"}`, keys("a:k", ""), false},
		{`"StringEquals": {"a:k": "${a:v}"}`, keys("a:k", "${a:v}"), false},
		{`"StringNotEquals": {"a:k": "${a:v}"}`, keys("a:k", "x"), false},
		{`"StringEquals": {"a:k": ["${a:v}", "x"]}`, keys("a:k", "x"), true},
		{`"StringLike": {"a:k": "${a:v}/*"}`, keys("a:k", "x/y", "a:v", "*"), false},
		{`"StringEquals": {"a:k": "${a:v}"}`, keys("a:k", "x", "a:v", "x", "a:v", "y"), false},
		{`"StringEquals": {"a:k": "${a:v, 'd}''s'}"}`, keys("a:k", "d}'s"), true},
		{`"StringEquals": {"a:k": "${a:v,'d'}"}`, keys("a:k", "d", "a:v", "x"), false},
		{`"ForAllValues:StringEquals": {"a:k": "${a:v}"}`, nil, true},
		{`"ForAllValues:StringNotEquals": {"a:k": "${a:v}"}`, nil, true},
		{`"ForAllValues:StringLike": {"a:k": "${A:V}#*"}`, keys("a:k", "x#1", "a:k", "x#2", "a:v", "x"), true},
	} {
		p := parse(t, allow(`"Action": "x:Y", "Resource": "*", "Condition": {`+c.condition+`}`))
		if got := p.Allows(iamtest.Request{Action: "x:Y", Resource: "z", Context: c.context}); (got == iamtest.Allow) != c.want {
			t.Errorf("%s with %v is %s", c.condition, c.context, got)
		}
	}
}

func TestSeveralValuesWithoutSet(t *testing.T) {
	p := parse(t, allow(`"Action": "x:Y", "Resource": "*", "Condition": {"StringEquals": {"a:k": "v"}}`))
	defer func() {
		if recover() == nil {
			t.Error("an outcome that AWS does not define was defined")
		}
	}()
	p.Allows(iamtest.Request{Action: "x:Y", Resource: "z", Context: map[string][]string{"a:k": {"v", "w"}}})
}

// TestTrust is the trust policy that a role for tenants' sessions needs.
func TestTrust(t *testing.T) {
	const plugin = "arn:aws:iam::123456789012:role/plugin"
	ask := func(principal, action string, tags ...string) iamtest.Request {
		return iamtest.Request{Action: action, Principal: principal, Context: map[string][]string{"aws:TagKeys": tags, "aws:RequestTag/tenant": tags}}
	}
	check(t, allow(`"Principal": {"AWS": "`+plugin+`"}, "Action": ["sts:AssumeRole", "sts:TagSession"],
		"Condition": {"ForAllValues:StringEquals": {"aws:TagKeys": ["tenant"]}, "Null": {"aws:RequestTag/tenant": "false"}}`), map[string]question{
		"assume":       {ask(plugin, "sts:AssumeRole", "tenant"), iamtest.Allow},
		"tag":          {ask(plugin, "sts:TagSession", "tenant"), iamtest.Allow},
		"another role": {ask("arn:aws:iam::123456789012:role/plugin2", "sts:AssumeRole", "tenant"), iamtest.ImplicitDeny},
		"no tenant":    {ask(plugin, "sts:AssumeRole"), iamtest.ImplicitDeny},
		"nobody":       {ask("", "sts:AssumeRole", "tenant"), iamtest.ImplicitDeny},
		"more tags":    {iamtest.Request{Action: "sts:AssumeRole", Principal: plugin, Context: map[string][]string{"aws:TagKeys": {"tenant", "admin"}, "aws:RequestTag/tenant": {"a"}}}, iamtest.ImplicitDeny},
	})
	for _, c := range []struct {
		named, asks string
		want        bool
	}{
		{`"*"`, plugin, true},
		{`{"AWS": "*"}`, plugin, true},
		{`{"AWS": "123456789012"}`, plugin, true},
		{`{"AWS": "arn:aws:iam::123456789012:root"}`, plugin, true},
		{`{"AWS": "arn:aws:iam::210987654321:root"}`, plugin, false},
		{`{"Service": ["ec2.amazonaws.com", "ecs-tasks.amazonaws.com"]}`, "ecs-tasks.amazonaws.com", true},
		{`{"Service": "ecs-tasks.amazonaws.com"}`, "lambda.amazonaws.com", false},
	} {
		p := parse(t, allow(`"Principal": `+c.named+`, "Action": "sts:AssumeRole"`))
		if got := p.Allows(iamtest.Request{Action: "sts:AssumeRole", Principal: c.asks}); (got == iamtest.Allow) != c.want {
			t.Errorf("%s: %s is %s", c.named, c.asks, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const good = `"Action": "s3:GetObject", "Resource": "*"`
	for name, document := range map[string]string{
		"nothing":               ``,
		"no object":             `[]`,
		"not JSON":              `{"Version": }`,
		"trailing":              allow(good) + "x",
		"no statement":          `{"Version": "2012-10-17"}`,
		"empty statements":      `{"Version": "2012-10-17", "Statement": []}`,
		"unknown version":       `{"Version": "2012-10-18", "Statement": {"Effect": "Allow", ` + good + `}}`,
		"unknown element":       `{"Version": "2012-10-17", "Statements": []}`,
		"element in other case": allow(`"action": "s3:GetObject", "Resource": "*"`),
		"condition twice":       allow(good + `, "Condition": {"Null": {"a:k": "true"}}, "Condition": {"Null": {"a:k": "true"}}`),
		"operator twice":        allow(good + `, "Condition": {"Null": {"a:k": "true"}, "Null": {"a:l": "true"}}`),
		"key twice by case":     allow(good + `, "Condition": {"StringEquals": {"a:k": "v", "A:K": "w"}}`),
		"effect":                `{"Version": "2012-10-17", "Statement": {"Effect": "allow", ` + good + `}}`,
		"no effect":             `{"Version": "2012-10-17", "Statement": {` + good + `}}`,
		"no action":             allow(`"Resource": "*"`),
		"empty action":          allow(`"Action": [], "Resource": "*"`),
		"action without colon":  allow(`"Action": "GetObject", "Resource": "*"`),
		"action of any service": allow(`"Action": "*:Get*", "Resource": "*"`),
		"both actions":          allow(`"Action": "s3:A", "NotAction": "s3:B", "Resource": "*"`),
		"both resources":        allow(good + `, "NotResource": "*"`),
		"no resource":           allow(`"Action": "s3:GetObject"`),
		"no ARN":                allow(`"Action": "s3:GetObject", "Resource": "bucket/*"`),
		"short ARN":             allow(`"Action": "s3:GetObject", "Resource": "arn:aws:s3:bucket"`),
		"any service":           allow(`"Action": "s3:GetObject", "Resource": "arn:aws:*:::x"`),
		"variable for account":  allow(`"Action": "s3:GetObject", "Resource": "arn:aws:s3:::${a:k}:x", "Condition": {"StringEquals": {"a:k": "${b"}}`),
		"variable in region":    allow(`"Action": "ssm:GetParameter", "Resource": "arn:aws:ssm:${a:k}:1:parameter/x"`),
		"open variable":         allow(`"Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/${aws:PrincipalTag/tenant"`),
		"variable of no key":    allow(`"Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/${tenant}"`),
		"default not quoted":    allow(`"Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/${a:k, x}"`),
		"variable, no version":  `{"Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/${a:k}"}}`,
		"variable, old version": `{"Version": "2008-10-17", "Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/${a:k}"}}`,
		"unknown operator":      allow(good + `, "Condition": {"StringEqual": {"a:k": "v"}}`),
		"unknown set":           allow(good + `, "Condition": {"ForEachValue:StringEquals": {"a:k": "v"}}`),
		"operator not built":    allow(good + `, "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}`),
		"null of a set":         allow(good + `, "Condition": {"ForAllValues:Null": {"a:k": "true"}}`),
		"null if exists":        allow(good + `, "Condition": {"NullIfExists": {"a:k": "true"}}`),
		"no key":                allow(good + `, "Condition": {"StringEquals": {}}`),
		"no values":             allow(good + `, "Condition": {"StringEquals": {"a:k": []}}`),
		"key of no service":     allow(good + `, "Condition": {"StringEquals": {"tenant": "v"}}`),
		"value of object":       allow(good + `, "Condition": {"StringEquals": {"a:k": {"v": 1}}}`),
		"value of null":         allow(good + `, "Condition": {"StringEquals": {"a:k": null}}`),
		"bool of text":          allow(good + `, "Condition": {"Bool": {"a:k": "yes"}}`),
		"number of text":        allow(good + `, "Condition": {"NumericEquals": {"a:k": "ten"}}`),
		"ARN of text":           allow(good + `, "Condition": {"ArnLike": {"a:k": "x*"}}`),
		"number of a variable":  allow(good + `, "Condition": {"NumericEquals": {"a:k": "${a:v}"}}`),
		"principal wildcard":    allow(`"Action": "sts:AssumeRole", "Principal": {"AWS": "arn:aws:iam::123456789012:role/*"}`),
		"principal of no kind":  allow(`"Action": "sts:AssumeRole", "Principal": {"User": "x"}`),
		"not principal":         allow(`"Action": "sts:AssumeRole", "NotPrincipal": {"AWS": "*"}`),
		"nobody":                allow(`"Action": "sts:AssumeRole", "Principal": {}`),
		"Sid twice":             `{"Version": "2012-10-17", "Statement": [{"Sid": "a", "Effect": "Allow", ` + good + `}, {"Sid": "a", "Effect": "Deny", ` + good + `}]}`,
	} {
		if p, err := iamtest.Parse([]byte(document)); err == nil {
			t.Errorf("%s is accepted: %+v", name, p)
		} else if !strings.HasPrefix(err.Error(), "iamtest: ") {
			t.Errorf("%s: the error is %q", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(allow(`"Action": "s3:*", "Resource": ["*", "arn:aws:s3:::b/${aws:PrincipalTag/tenant}/*"], "Condition": {"ForAllValues:StringLike": {"s3:x": ["${a:k, 'd'}*"]}}`)), "x")
	f.Add([]byte(allow(`"NotAction": "s3:Get*", "Principal": "*"`)), "*")
	f.Fuzz(func(t *testing.T, document []byte, resource string) {
		p, err := iamtest.Parse(document)
		if err != nil {
			return
		}
		r := iamtest.Request{Action: "s3:GetObject", Resource: resource, PrincipalTags: on("acme")}
		if first, second := p.Allows(r), p.Allows(r); first != second {
			t.Errorf("asked twice, it says %s and %s", first, second)
		}
	})
}
