package emulators

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/emulators/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBothServe(t *testing.T) {
	if a := post(t, Moto(t), "ssm", "AmazonSSM.DescribeParameters", `{"MaxResults":1}`); a.status != http.StatusOK {
		t.Errorf("moto answers %d %s", a.status, a.body)
	}
	if a := post(t, DynamoDBLocal(t), "dynamodb", "DynamoDB_20120810.DescribeLimits", `{}`); a.status != http.StatusOK {
		t.Errorf("DynamoDB Local answers %d %s", a.status, a.body)
	}
}

// A variable names another server, which has to be one of the right kind.
func TestVariablesNameAnother(t *testing.T) {
	moto, dynamodb := Moto(t), DynamoDBLocal(t)
	t.Chdir(t.TempDir()) // no clone: only the variables are left
	t.Setenv("TAGSTORE_MOTO_URL", moto+"/")
	t.Setenv("TAGSTORE_DYNAMODB_LOCAL_URL", dynamodb)
	if got := Moto(t); got != moto {
		t.Errorf("moto is at %q, not %q", got, moto)
	}
	if got := DynamoDBLocal(t); got != dynamodb {
		t.Errorf("DynamoDB Local is at %q, not %q", got, dynamodb)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	for _, named := range []string{"127.0.0.1:8000", "ftp://127.0.0.1", other.URL, "http://127.0.0.1:1"} {
		t.Setenv("TAGSTORE_MOTO_URL", named)
		if got, err := MotoURL(t.Context()); err == nil || !strings.Contains(err.Error(), "TAGSTORE_MOTO_URL") {
			t.Errorf("TAGSTORE_MOTO_URL=%s: %q, %v", named, got, err)
		}
	}
}

func TestNotRunning(t *testing.T) {
	t.Setenv("TAGSTORE_MOTO_URL", "")
	t.Setenv("TAGSTORE_DYNAMODB_LOCAL_URL", "")
	ended := httptest.NewServer(http.NotFoundHandler())
	ended.Close()
	const say = "the AWS emulators are not running: run `make emulators`"
	for _, c := range []struct {
		name    string
		root    bool
		running state.State
		want    string
	}{
		{name: "never started", root: true, want: say},
		{name: "ended", root: true, running: state.State{
			"moto": {Endpoint: ended.URL}, "dynamodb-local": {Endpoint: ended.URL},
		}, want: say},
		{name: "outside a clone", want: "not in a clone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			at := filepath.Join(root, "plugins", "one")
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			if c.root {
				if err := os.WriteFile(filepath.Join(root, "go.work"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if c.running != nil {
				dir := filepath.Join(root, state.Dir)
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := c.running.Write(dir); err != nil {
					t.Fatal(err)
				}
			}
			t.Chdir(at)
			if got, err := MotoURL(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("moto: %q, %v", got, err)
			}
			if got, err := DynamoDBLocalURL(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("DynamoDB Local: %q, %v", got, err)
			}
		})
	}
}

// What a process was given before must not reach past Environ, and Setenv must
// do the same in this process.
func TestEnviron(t *testing.T) {
	environ := Environ("http://127.0.0.1:1234")
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		t.Setenv(name, "the user's own") // and puts it back afterwards
	}
	for _, want := range []string{
		"AWS_ENDPOINT_URL=http://127.0.0.1:1234", "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull, "AWS_PROFILE=", "AWS_SESSION_TOKEN=",
	} {
		if !slices.Contains(environ, want) {
			t.Errorf("%s is not among %q", want, environ)
		}
	}
	if err := Setenv("http://127.0.0.1:1234"); err != nil {
		t.Fatal(err)
	}
	for _, variable := range environ {
		name, want, _ := strings.Cut(variable, "=")
		if got, set := os.LookupEnv(name); got != want || set != (want != "") {
			t.Errorf("%s is %q (set: %t), not %q", name, got, set, want)
		}
	}
}

func TestName(t *testing.T) {
	valid := regexp.MustCompile(`^[a-z](-?[a-z0-9])+$`)
	given := map[string]bool{}
	for _, prefix := range []string{
		"", "orders", "Orders/Über alles", "aws", "ssm-plugin", "amzn-x", "sthree", "xn--x", "42", "-", "___",
		strings.Repeat("long", 30), strings.Repeat("-", 30) + "x",
	} {
		t.Run(prefix, func(t *testing.T) {
			for range 100 {
				name := Name(t, prefix)
				if !valid.MatchString(name) || len(name) < 12 || len(name) > 63 {
					t.Fatalf("%q (%d characters)", name, len(name))
				}
				for _, no := range []string{"aws", "ssm", "amzn-", "sthree-", "xn-"} {
					if strings.HasPrefix(name, no) {
						t.Fatalf("%q begins as AWS's own do", name)
					}
				}
				if given[name] {
					t.Fatalf("%q twice", name)
				}
				given[name] = true
			}
		})
	}
	if name := Name(t, "orders"); !strings.HasPrefix(name, "orders-testname-") {
		t.Errorf("%q does not say where it is from", name)
	}
}
