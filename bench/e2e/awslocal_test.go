package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/config"
)

const exampleFolder = "../../examples/aws-local"

// example is the system of examples/aws-local on the emulators that run, with
// names of its own in them.
type example struct {
	*stack.Stack
	t      *testing.T
	python string
	rename *strings.Replacer // of the example's names
	files  string            // the example's files with those names
}

// startExample does what `make run-aws-local` does, the events included.
func startExample(t *testing.T) *example {
	t.Helper()
	return startExampleWith(t, filepath.Join(stack.Build(t), "tagstore-local-events"))
}

// startExampleWith runs another program in place of that of the events, "" for
// none, with changes to the example's manifest as strings.NewReplacer takes
// them.
func startExampleWith(t *testing.T, also string, changes ...string) *example {
	t.Helper()
	name := fmt.Sprintf("tagstore-e2e-%d-%d", os.Getpid(), time.Now().UnixNano())
	e := &example{
		t: t, files: t.TempDir(),
		rename: strings.NewReplacer("tagstore-example", name, "/config-service/", "/"+name+"/"),
	}
	awsLocal(t, e)
	bin := stack.Build(t)
	if err := os.Mkdir(filepath.Join(e.files, "plugins"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, store := range []string{"dynamodb", "ssm", "s3", "secretsmanager"} {
		plugin := "tagstore-plugin-" + store
		text, err := os.ReadFile(filepath.Join(bin, "plugins", plugin))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(e.files, "plugins", plugin), text, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(exampleFolder, "tagstore.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(e.files, "tagstore.yaml")
	if err := os.WriteFile(manifest, []byte(e.rename.Replace(strings.NewReplacer(changes...).Replace(string(text)))), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := e.seed(); got != "added 4 items, 7 parameters, 2 objects, 2 secrets" {
		t.Errorf("seed.py says %q", got)
	}
	t.Cleanup(func() { e.remove(name) })
	t.Setenv("TAGSTORE_MANIFEST", manifest)
	t.Setenv("ORDER_DYNAMODB_TABLE", e.rename.Replace("tagstore-example-orders"))
	t.Setenv("TAGCTL_CLOUDMAP", e.cloudMap())
	t.Setenv("TAGCTL_REPLICAS", "3")
	t.Setenv("TAGCTL_ALSO", also)
	e.Stack = stack.Start(t)
	return e
}

// awsLocal sends every SDK of this process to the emulators, as examples/aws-local/env
// does for a shell.
func awsLocal(t *testing.T, e *example) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(exampleFolder, "env")).Output()
	if err != nil {
		t.Fatalf("the AWS emulators are not running: run `make emulators` (%v)", err)
	}
	for line := range strings.Lines(string(out)) {
		if variable, unset := strings.CutPrefix(strings.TrimSpace(line), "unset "); unset {
			t.Setenv(variable, "") // which also brings it back
			if err := os.Unsetenv(variable); err != nil {
				t.Fatal(err)
			}
			continue
		}
		variable, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if !ok {
			t.Fatalf("examples/aws-local/env prints %q", line)
		}
		t.Setenv(variable, value)
	}
	e.python = os.Getenv("PYTHON")
}

// cloudMap is the Cloud Map service of the replicas.
func (e *example) cloudMap() string { return e.rename.Replace("tagstore-example/config") }

// seed runs the example's seed.py and returns what it says.
func (e *example) seed() string {
	e.t.Helper()
	return strings.TrimSpace(e.run(filepath.Join(exampleFolder, "seed.py"), filepath.Join(e.files, "tagstore.yaml"), e.rename.Replace("tagstore-example-orders"), e.cloudMap()))
}

// boto runs Python with boto3, with the example's names replaced, and returns
// what it prints.
func (e *example) boto(script string) string {
	e.t.Helper()
	return strings.TrimSpace(e.run("-c", "import boto3, json\n"+e.rename.Replace(script)))
}

func (e *example) run(args ...string) string {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own is done in a cleanup
	defer cancel()
	out, err := exec.CommandContext(ctx, e.python, append([]string{"-I"}, args...)...).CombinedOutput()
	if err != nil {
		e.t.Fatalf("python: %v\n%s", err, out)
	}
	return string(out)
}

// remove takes the test's own resources out of the emulators.
func (e *example) remove(name string) {
	e.boto(`
dynamodb, ssm, secrets = boto3.client("dynamodb"), boto3.client("ssm"), boto3.client("secretsmanager")
for table in ("tagstore-example-config", "tagstore-example-orders"):
    dynamodb.delete_table(TableName=table)
for page in ssm.get_paginator("get_parameters_by_path").paginate(Path="/` + name + `", Recursive=True):
    for parameter in page["Parameters"]:
        ssm.delete_parameter(Name=parameter["Name"])
for tenant in ("acme-corp", "globex-inc"):
    secrets.delete_secret(SecretId=f"tagstore-example/{tenant}/payments-key", ForceDeleteWithoutRecovery=True)
cloud_map = boto3.client("servicediscovery")
for namespace in cloud_map.list_namespaces()["Namespaces"]:
    if namespace["Name"] == "tagstore-example":
        for service in cloud_map.list_services()["Services"]:
            if cloud_map.get_service(Id=service["Id"])["Service"]["NamespaceId"] == namespace["Id"]:
                for instance in cloud_map.list_instances(ServiceId=service["Id"])["Instances"]:  # of a system that was killed
                    cloud_map.deregister_instance(ServiceId=service["Id"], InstanceId=instance["Id"])
                cloud_map.delete_service(Id=service["Id"])
        cloud_map.delete_namespace(Id=namespace["Id"])
bucket = boto3.resource("s3").Bucket("tagstore-example-blobs")
bucket.object_versions.delete()
bucket.delete()
`)
}

// The example's README works, pasted from top to bottom.
func TestAWSLocalReadme(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(exampleFolder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if got := blocksOf(string(text), "sh run"); len(got) != 1 || strings.TrimSpace(got[0]) != "make run-aws-local" {
		t.Fatalf("the README starts the system with %q", got)
	}
	typed := blocksOf(string(text), "sh")
	if len(typed) != 6 {
		t.Fatalf("the README has %d blocks to type, want 6", len(typed))
	}
	e := startExample(t)
	out := shell(t, e.Stack, e.rename.Replace(strings.Join(typed, "echo '== next'\n")))
	t.Log(out)
	parts := strings.Split(out, "== next\n")
	for i, wants := range [][]string{
		{"Stripe", "PayPal", "https://api.acme-corp.example", "postgres://db.acme-corp.example/orders", "480000", "acme-payments-key"},
		{"https://api2.acme-corp.example"},
		{strings.Repeat("https://api2.acme-corp.example\n", 3)},
		{"https://api2.acme-corp.example", "rolled back to version 1: now at version 3", "\nhttps://api.acme-corp.example\n"},
		{"now at version 2", "'reviewedBy': 'sales'", "now at version 3", "lower the minimum"},
		{`"PayPal"`, `"rule":"min-amount"`, "TENANT#globex-inc ORDER#", "TENANT#globex-inc ONCE#"},
	} {
		for _, want := range wants {
			if !strings.Contains(parts[i], want) {
				t.Errorf("block %d does not print %q:\n%s", i+1, want, parts[i])
			}
		}
	}
	if n := strings.Count(parts[5], "TENANT#globex-inc ORDER#"); n != 1 || strings.Contains(parts[5], "TENANT#acme-corp") {
		t.Errorf("one request made %d orders:\n%s", n, parts[5])
	}
	if strings.Contains(parts[0], "acme-api-key") {
		t.Error("a SecureString was listed in the clear")
	}
	if got := e.seed(); got != "added 0 items, 0 parameters, 0 objects, 0 secrets" {
		t.Errorf("seed.py says %q when it runs again", got)
	}
}

// The shapes that others' tools have written are read, listed, changed and
// rolled back; what tagstore does not know stays, and so does every other
// tenant's.
func TestAWSLocalForeignShapes(t *testing.T) {
	e := startExample(t)
	e.boto(`
table = boto3.resource("dynamodb").Table("tagstore-example-config")
table.update_item(Key={"pk": "TENANT#acme-corp", "sk": "CONFIG#payment-gateway"},
    UpdateExpression="SET costCenter = :c, flags = :f", ExpressionAttributeValues={":c": "4711", ":f": {"a", "b"}})
# An item of another kind in the same partition is nobody's configuration.
table.put_item(Item={"pk": "TENANT#acme-corp", "sk": "METADATA#plan", "plan": "gold"})
`)
	dump := `
table = boto3.resource("dynamodb").Table("tagstore-example-config")
ssm, s3, secrets = boto3.client("ssm"), boto3.client("s3"), boto3.client("secretsmanager")
found = [i for i in table.scan(ConsistentRead=True)["Items"] if i["pk"].startswith("TENANT#globex-inc") or i["sk"].startswith("METADATA#")]
found += [(p["Name"], p["Value"], p["Version"], p["Type"]) for page in ssm.get_paginator("get_parameters_by_path").paginate(
    Path="/config-service/globex-inc", Recursive=True, WithDecryption=True) for p in page["Parameters"]]
found += [(v["Key"], v["VersionId"]) for v in s3.list_object_versions(Bucket="tagstore-example-blobs", Prefix="config/globex-inc/")["Versions"]]
found += [sorted(secrets.describe_secret(SecretId="tagstore-example/globex-inc/payments-key")["VersionIdsToStages"])]
print(json.dumps(found, default=str, sort_keys=True))
`
	others := e.boto(dump)

	asAcme := e.as(acme)
	for _, tc := range []struct {
		key, service, old, new, kind string
		version                      uint64
	}{
		{"tenant_config_payment-gateway", "", `"Stripe"`, `{"providers":[{"name":"Adyen"}]}`, config.ContentTypeJSON, 2},
		{"param_config_endpoint", "api", "https://api.acme-corp.example", "https://api3.acme-corp.example", "text/plain", 1},
		{"param_config_connection-string", "database", "postgres://db.acme-corp.example/orders", "postgres://db3.acme-corp.example/orders", "text/plain", 1},
		{"blob_config_terms.txt", "", "The terms of acme-corp.", "New terms.", "text/plain", 1},
		{"secret_config_payments-key", "", "acme-payments-key", "acme-payments-key-2", "text/plain", 1},
	} {
		t.Run(tc.key, func(t *testing.T) {
			ask := func(args ...string) string {
				t.Helper()
				if tc.service != "" {
					args = append(args, "--service", tc.service)
				}
				return asAcme(t, args...)
			}
			if got := ask("get", tc.key, "--raw", "--reveal"); !strings.Contains(got, tc.old) {
				t.Errorf("it reads %.200q, want %q in it", got, tc.old)
			}
			if got := ask("get", tc.key, "-o", "json"); !strings.Contains(strings.ReplaceAll(got, " ", ""), fmt.Sprintf(`"version":%d`, tc.version)) {
				t.Errorf("it is %.300s, want version %d", got, tc.version)
			}
			prefix, _, _ := strings.Cut(tc.key, "config_")
			if got := ask("ls", prefix+"config_", "-o", "name"); !strings.Contains(got, tc.key) {
				t.Errorf("the list is %q, want %s in it", got, tc.key)
			}
			ask("set", tc.key, tc.new, "--type", tc.kind)
			if got := ask("get", tc.key, "--raw", "--reveal"); strings.TrimSpace(got) != tc.new {
				t.Errorf("changed, it reads %.200q, want %q", got, tc.new)
			}
			ask("rollback", tc.key, "--to", fmt.Sprint(tc.version))
			if got := ask("get", tc.key, "--raw", "--reveal"); !strings.Contains(got, tc.old) {
				t.Errorf("rolled back, it reads %.200q, want %q in it", got, tc.old)
			}
		})
	}

	// The item as its other users see it.
	var item map[string]any
	if err := json.Unmarshal([]byte(e.boto(`
item = boto3.resource("dynamodb").Table("tagstore-example-config").get_item(
    Key={"pk": "TENANT#acme-corp", "sk": "CONFIG#payment-gateway"}, ConsistentRead=True)["Item"]
print(json.dumps(item, default=lambda v: sorted(v) if isinstance(v, set) else v.value.hex() if hasattr(v, "value") else str(v)))
`)), &item); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"costCenter": `"4711"`, "flags": `["a","b"]`, "isActive": "true", "createdAt": `"2024-01-15T10:30:00Z"`, "version": `"4"`,
		"config": `{"providers":[{"apiEndpoint":"https://api.stripe.com","name":"Stripe","retryPolicy":"exponential"}]}`,
	} {
		if got, err := json.Marshal(item[name]); err != nil || string(got) != want {
			t.Errorf("attribute %s is %s, want %s", name, got, want)
		}
	}
	// The parameters as their other users see them: a SecureString is one still.
	if got := e.boto(`
p = boto3.client("ssm").get_parameter(Name="/config-service/acme-corp/database/connection-string", WithDecryption=True)["Parameter"]
print(p["Type"], p["Version"], p["Value"])
`); got != "SecureString 3 postgres://db.acme-corp.example/orders" {
		t.Errorf("the SecureString is %q", got)
	}

	if now := e.boto(dump); now != others {
		t.Errorf("what is another tenant's changed:\n%s\nwas\n%s", now, others)
	}
	// And none of it is to be seen by this one.
	for _, prefix := range []string{"tenant_config_", "param_config_", "blob_config_", "secret_config_"} {
		for _, service := range []string{"", "api", "database"} {
			args := []string{"ls", prefix, "-o", "json", "--reveal"}
			if service != "" {
				args = append(args, "--service", service)
			}
			if got := asAcme(t, args...); strings.Contains(got, "globex") || strings.Contains(got, "PayPal") || strings.Contains(got, "gold") {
				t.Errorf("%v shows another's: %s", args, got)
			}
		}
	}
}

// Orders in the table outlive the system; the plugins' stores do, too.
func TestAWSLocalRestart(t *testing.T) {
	e := startExample(t)
	asAcme := e.as(acme)
	asAcme(t, "set", "tenant_config_order-limits", `{"minAmount":1,"maxAmount":5000000,"maxItems":20}`)
	place := func() (status int, replayed, body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.OrderHTTP+"/v1/orders",
			bytes.NewReader([]byte(`{"items":[{"sku":"book","quantity":1,"unitPrice":15000}]}`)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+e.Token(t, acme, "editor"))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", "once")
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Idempotency-Replayed"), string(text)
	}
	status, replayed, first := place()
	if status != http.StatusCreated || replayed != "" {
		t.Fatalf("the order was answered %d %s", status, first)
	}
	e.Kill(t)
	e.Boot(t)
	if status, replayed, again := place(); status != http.StatusCreated || replayed != "true" || again != first {
		t.Errorf("after a restart the same request was answered %d %s, it was %s", status, again, first)
	}
	if got := asAcme(t, "get", "tenant_config_order-limits", "--raw"); !strings.Contains(got, `"minAmount":1`) {
		t.Errorf("after a restart the limits are %s", got)
	}
}

// as returns tagctl for one tenant's editor.
func (e *example) as(tenant string) func(t *testing.T, args ...string) string {
	return func(t *testing.T, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, e.Bin("tagctl"), append(args, "--tenant", tenant)...)
		cmd.Env = append(os.Environ(), "TAGSTORE_DEV_DIR="+e.Dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("tagctl %v: %v\n%s", args, err, stderr.String())
		}
		return string(out)
	}
}
