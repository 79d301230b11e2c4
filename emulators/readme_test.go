package emulators_test

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/emulators"
)

// begin: example
func TestWriteIsRepeatedWhenThrottled(t *testing.T) {
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	name := "/" + emulators.Name(t, "throttled") + "/limit"
	proxy.Inject(emulators.Fault{
		Operation: "PutParameter", Times: 2,
		Then: emulators.Reply, Answer: emulators.JSONError(400, "ThrottlingException", "Rate exceeded"),
	})

	put(t, proxy.URL, name, "250")

	if calls := proxy.Calls("PutParameter"); calls != 3 {
		t.Errorf("%d calls, not 3", calls)
	}
}

// end: example

// put is what the example tests: a write that is repeated when it was throttled.
func put(t *testing.T, endpoint, name, value string) {
	t.Helper()
	for range 5 {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint+"/", strings.NewReader(
			`{"Name":"`+name+`","Value":"`+value+`","Type":"String"}`))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("X-Amz-Target", "AmazonSSM.PutParameter")
		q.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=emulator/20200101/us-east-1/ssm/aws4_request, SignedHeaders=host, Signature=0")
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		a, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(a.Body)
		a.Body.Close()
		switch {
		case err != nil:
			t.Fatal(err)
		case a.StatusCode == http.StatusOK:
			return
		case !strings.Contains(string(text), "ThrottlingException"):
			t.Fatalf("%d %s", a.StatusCode, text)
		}
	}
	t.Fatal("throttled five times")
}

func TestReadme(t *testing.T) {
	readme := file(t, "README.md")

	source := file(t, "readme_test.go")
	_, example, _ := strings.Cut(source, "// begin: example\n")
	example, _, _ = strings.Cut(example, "\n// end: example")
	if len(example) < 100 || !strings.Contains(readme, "```go\n"+example+"```\n") {
		t.Errorf("the example in README.md is not the test of that name:\n%s", example)
	}

	for name, pattern := range map[string]string{
		"requirements.txt": `moto\[server\]==(\S+)`,
		"pom.xml":          `<artifactId>DynamoDBLocal</artifactId>\s*<version>(\S+)</version>`,
	} {
		pin := regexp.MustCompile(pattern).FindStringSubmatch(file(t, name))
		if pin == nil || !strings.Contains(readme, "| "+pin[1]+" |") {
			t.Errorf("README.md does not name the version %v of %s", pin, name)
		}
	}

	// What it says of the package is there.
	sources := file(t, "emulators.go") + file(t, "name.go") + file(t, "proxy.go") + file(t, "body.go")
	for _, name := range regexp.MustCompile("`([A-Z][A-Za-z]+)`").FindAllStringSubmatch(readme, -1) {
		if !regexp.MustCompile(`\b` + name[1] + `\b`).MatchString(sources) {
			t.Errorf("README.md names %s, which is not there", name[1])
		}
	}
}

func file(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
