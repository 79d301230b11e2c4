package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/stack"
)

// entry runs one of the scripts of deploy/ and returns its exit status and what it said.
func entry(t *testing.T, env []string, input, name string, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "../../deploy/"+name+".sh", args...)
	cmd.Env = append(append(os.Environ(), "TAGSTORE_STACK="+stack.Build(t)+"/tagstore-stack"), env...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(out)
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return 0, string(out)
}

// What deploy/test.sh asks of a stack is true of the system of run-aws-local, and what
// is not so is seen.
func TestDeployTestScript(t *testing.T) {
	e := startExample(t)
	test := func(more ...string) (int, string) {
		t.Helper()
		return entry(t, []string{"AWS_ENDPOINT_URL_DYNAMODB="}, "", "test", append([]string{"--local", "--dev-dir", e.Dir, "--within", "2m"}, more...)...)
	}
	limits := func() string {
		return e.boto(`
table = boto3.resource("dynamodb").Table("tagstore-example-config")
item = table.get_item(Key={"pk": "TENANT#acme-corp", "sk": "CONFIG#order-limits"}, ConsistentRead=True)["Item"]
print(item["config"]["minAmount"], item.get("checkBefore"), item["reviewedBy"])
`)
	}
	code, said := test()
	if code != 0 {
		t.Fatalf("status %d: %s\n%s", code, said, e.Printed())
	}
	t.Log(said)
	// It is what docs/deploy.md shows, the times apart.
	page, err := os.ReadFile("../../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, found := strings.Cut(string(page), "    $ deploy/test.sh --local\n")
	shown, _, _ = strings.Cut(shown, "\n\n")
	plain := func(s string) string {
		return took.ReplaceAllString(strings.ReplaceAll(strings.TrimSpace(s), "\n    ", "\n"), "TIME")
	}
	if !found || plain(shown) != plain(said) {
		t.Errorf("docs/deploy.md shows\n%s\nand it says\n%s", plain(shown), plain(said))
	}
	if got := limits(); got != "50000 None sales" {
		t.Errorf("the limits are %s", got)
	}
	// What a run that was killed has left is brought back by the next one.
	e.boto(`
boto3.resource("dynamodb").Table("tagstore-example-config").update_item(Key={"pk": "TENANT#acme-corp", "sk": "CONFIG#order-limits"},
    UpdateExpression="SET config.minAmount = :high, checkBefore = :was, version = version + :one", ExpressionAttributeValues={":high": 5000000, ":was": 50000, ":one": 1})
`)
	if code, said := test(); code != 0 || !strings.Contains(said, "ok    what an earlier test left is brought back") {
		t.Errorf("status %d: %s", code, said)
	}
	if got := limits(); got != "50000 None sales" {
		t.Errorf("the limits are %s", got)
	}
	if code, said := test("--tenant-b", "nobody"); code != 6 || !strings.Contains(said, "no editor's token") {
		t.Errorf("of a tenant that there is not: status %d: %s", code, said)
	}

	// A key goes back to its earlier version, and no further than there is one.
	back := func(input string, args ...string) (int, string) {
		t.Helper()
		return entry(t, []string{"TAGSTORE_DEV_DIR=" + e.Dir}, input, "rollback", append([]string{"config"}, args...)...)
	}
	const key = "tenant_config_payment-gateway"
	e.as(globex)(t, "set", key, `{"providers":[{"name":"Adyen"}]}`)
	of := []string{key, "--", "--tenant", globex}
	if code, said := back("no\n", of...); code != 1 || !strings.Contains(said, "back to version 1") || !strings.Contains(said, "not confirmed") {
		t.Errorf("not confirmed: status %d: %s", code, said)
	}
	if code, said := back("", append([]string{"--dry-run"}, of...)...); code != 0 || !strings.Contains(said, "Dry run: nothing was changed.") {
		t.Errorf("dry run: status %d: %s", code, said)
	}
	if got := e.as(globex)(t, "get", key, "--raw"); !strings.Contains(got, "Adyen") {
		t.Fatalf("it went back, and nobody has confirmed it: %s", got)
	}
	if code, said := back("yes\n", of...); code != 0 || !strings.Contains(said, "rolled back to version 1: now at version 3") {
		t.Errorf("status %d: %s", code, said)
	}
	if got := e.as(globex)(t, "get", key, "--raw"); !strings.Contains(got, "PayPal") {
		t.Errorf("back, it is %s", got)
	}
	if code, said := back("", "--yes", "tenant_config_order-limits", "--", "--tenant", globex); code != 1 || !strings.Contains(said, "is the first one: there is none before it") {
		t.Errorf("without an earlier version: status %d: %s", code, said)
	}
	if code, said := back("", "--yes", "--to", "9", key, "--", "--tenant", globex); code != 3 || !strings.Contains(said, "has no version 9") {
		t.Errorf("a version that there is not: status %d: %s", code, said)
	}
	if code, said := back("", "--yes", "tenant_config_nothing", "--", "--tenant", globex); code != 3 {
		t.Errorf("a key that there is not: status %d: %s", code, said)
	}
}

var took = regexp.MustCompile(`(\d+m)?[\d.]+m?s\b`)

var ofCloudFormation = regexp.MustCompile(`/cloudformation/aws4_request`)

// seed.sh writes first values into the stores that a stack names, and only those that
// were never there.
func TestDeploySeedScript(t *testing.T) {
	e := &example{t: t, rename: strings.NewReplacer("PROJECT", fmt.Sprintf("s%d", time.Now().UnixNano()%1e9))}
	awsLocal(t, e)
	project := e.rename.Replace("PROJECT")
	e.boto(`
boto3.client("dynamodb").create_table(TableName="PROJECT-dev-config", BillingMode="PAY_PER_REQUEST",
    AttributeDefinitions=[{"AttributeName": k, "AttributeType": "S"} for k in ("pk", "sk")],
    KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}])
`)
	t.Cleanup(func() {
		e.boto(`
boto3.client("dynamodb").delete_table(TableName="PROJECT-dev-config")
ssm = boto3.client("ssm")
for page in ssm.get_paginator("get_parameters_by_path").paginate(Path="/PROJECT", Recursive=True):
    for parameter in page["Parameters"]:
        ssm.delete_parameter(Name=parameter["Name"])
`)
	})
	moto, err := url.Parse(os.Getenv("AWS_ENDPOINT_URL"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(moto); r.Out.Host = r.In.Host }}
	account := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ofCloudFormation.MatchString(r.Header.Get("Authorization")) {
			proxy.ServeHTTP(w, r)
			return
		}
		var outputs strings.Builder
		for name, value := range map[string]string{"Url": "http://127.0.0.1:1", "ConfigTable": project + "-dev-config", "ParameterRoot": "/" + project + "/dev", "SecretRoot": project + "/dev"} {
			fmt.Fprintf(&outputs, "<member><OutputKey>%s</OutputKey><OutputValue>%s</OutputValue></member>", name, value)
		}
		_, _ = io.WriteString(w, `<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult><Stacks><member><StackName>x</StackName><StackId>arn:x</StackId><StackStatus>CREATE_COMPLETE</StackStatus><CreationTime>2026-11-27T00:00:00Z</CreationTime><Outputs>`+
			outputs.String()+`</Outputs></member></Stacks></DescribeStacksResult></DescribeStacksResponse>`) // who reads it complains
	}))
	t.Cleanup(account.Close)
	seed := func(more ...string) (int, string) {
		return entry(t, []string{"AWS_ENDPOINT_URL_CLOUDFORMATION=" + account.URL}, "", "seed", append([]string{"dev", "--set", "Project=" + project}, more...)...)
	}
	if code, said := seed("--dry-run"); code != 0 || !strings.Contains(said, "table: "+project+"-dev-config") || !strings.Contains(said, "Dry run: nothing was written.") {
		t.Fatalf("status %d: %s", code, said)
	}
	if code, said := seed(); code != 0 || !strings.Contains(said, "Added 8, left 0 alone.") {
		t.Fatalf("status %d: %s", code, said)
	}
	if code, said := seed(); code != 0 || !strings.Contains(said, "Added 0, left 8 alone.") {
		t.Fatalf("the same again: status %d: %s", code, said)
	}
	got := e.boto(`
print(boto3.resource("dynamodb").Table("PROJECT-dev-config").get_item(Key={"pk": "TENANT#acme-corp", "sk": "CONFIG#order-limits"})["Item"]["config"]["minAmount"])
print(boto3.client("ssm").get_parameter(Name="/PROJECT/dev/acme-corp/currency")["Parameter"]["Value"])
`)
	if !strings.HasPrefix(got, "50000\n") || !strings.Contains(got, "USD") {
		t.Errorf("in the stores is %s", got)
	}
}
