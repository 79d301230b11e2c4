package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/emulators"
)

// program is the tagstore-stack that the scripts run.
var program string

func TestMain(m *testing.M) { os.Exit(setUp(m)) }

func setUp(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tagstore-stack")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "tagstore-stack")
	if out, err := exec.CommandContext(context.Background(), "go", "build", "-ldflags", "-X main.version=v0-test", "-o", program, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	status := m.Run()
	if status == 0 {
		status = documented()
	}
	if err := goleak.Find(); status == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// called are the operations of all tests.
var called sync.Map

// documented looks whether docs/deploy.md lists every call that was made as one that a
// deployment has to be allowed. S3's have no names on the wire.
func documented() int {
	text, err := os.ReadFile(page)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := 0
	called.Range(func(key, _ any) bool {
		operation := key.(string)
		if !strings.Contains(operation, "/") && !strings.Contains(string(text), "`"+operation+"`") {
			fmt.Fprintf(os.Stderr, "%s does not list the permission to call %s\n", page, operation)
			status = 1
		}
		return true
	})
	return status
}

func shortName() string { return strings.ToLower(rand.Text()[:8]) }

// noAccount is an environment in which there is no account.
func noAccount() []string {
	env := []string{"TAGSTORE_STACK=" + program, "PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	return append(env, "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull)
}

// ran is how a script ended.
type ran struct {
	code     int
	out, err string
}

func (r ran) String() string { return fmt.Sprintf("status %d\n%s%s", r.code, r.out, r.err) }

// script runs one of the entry points to its end, with lines for it to read.
func script(t *testing.T, env []string, input, name string, args ...string) ran {
	t.Helper()
	return start(t, env, input, name, args...)(nil)
}

// start starts one and returns what waits for its end; kill, if not nil, is given the
// process first.
func start(t *testing.T, env []string, input, name string, args ...string) func(kill func(*os.Process)) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	cmd := exec.CommandContext(ctx, "./"+name+".sh", args...)
	cmd.Env, cmd.Stdin = env, strings.NewReader(input)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	return func(kill func(*os.Process)) ran {
		defer cancel()
		if kill != nil {
			kill(cmd.Process)
		}
		err := cmd.Wait()
		code := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		return ran{code, out.String(), errOut.String()}
	}
}

// env is an environment that is logged in to the account.
func (a *aws) env() []string {
	env := append(noAccount(), emulators.Environ(a.server.URL)...)
	return slices.DeleteFunc(env, func(v string) bool { return strings.HasSuffix(v, "=") })
}

// run runs a script in the account. What the test has set before is seen by those who
// answer, and what they have done by the test afterwards.
func (a *aws) run(t *testing.T, input, name string, args ...string) ran {
	t.Helper()
	a.settle()
	defer a.settle()
	return script(t, a.env(), input, name, args...)
}

// settle waits until no call is being answered.
func (a *aws) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.answering > 0 {
		a.idle.Wait()
	}
}

const (
	digest      = "@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	otherDigest = "@sha256:0000000000000000000000000000000000000000000000000000000000000000"
)

// given writes a parameters file with all that has to be given, and a package.
func given(t *testing.T, project string) (file string) {
	t.Helper()
	dir := t.TempDir()
	zip := filepath.Join(dir, "refresh.zip")
	file = filepath.Join(dir, "dev.env")
	for name, text := range map[string]string{
		zip: "PK\x03\x04 and so on " + project,
		file: "# of a test\nProject=" + project + "\nInternalDomain=internal.example.com\nCertificateArn=arn:aws:acm:us-east-1:123456789012:certificate/1\nDomainPrefix=example\n" +
			"ConfigImage=config" + digest + "\nOrderImage=order" + digest + "\nCollectorImage=collector" + digest +
			"\nManifestKey=" + strings.Repeat("A", 43) + "=\nPackage=" + zip + "\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// serving starts what stands for the edge of a stack, and returns its URL.
func serving(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dev/openapi.json", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "{}") })
	mux.HandleFunc("POST /dev/v1/orders", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL + "/dev"
}

func has(t *testing.T, r ran, status int, wants ...string) {
	t.Helper()
	if r.code != status {
		t.Fatalf("want status %d: %v", status, r)
	}
	for _, want := range wants {
		if !strings.Contains(r.out+r.err, want) {
			t.Errorf("it does not say %q: %v", want, r)
		}
	}
}

// writes are the calls that change something.
func writes(calls []string) []string {
	var all []string
	for _, call := range calls {
		_, operation, _ := strings.Cut(call, ":")
		if !slices.ContainsFunc([]string{"Describe", "List", "Get", "GET ", "HEAD ", "Scan"}, func(read string) bool { return strings.HasPrefix(operation, read) }) {
			all = append(all, call)
		}
	}
	return all
}

// What is wrong with the parameters is said before any call, all of it at once.
func TestWrongParameters(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		args  []string
		code  int
		wants []string
	}{
		{"nothing is given", []string{"dev"}, 6, []string{"InternalDomain is missing", "CertificateArn is missing", "DomainPrefix is missing", "ConfigImage is missing", "OrderImage is missing", "CollectorImage is missing", "ManifestKey is missing"}},
		{"no package", []string{"dev", "--set", "Package="}, 6, []string{"Package is missing"}},
		{"no environment", nil, 2, []string{"give one environment: dev, staging or prod"}},
		{"another environment", []string{"test"}, 2, []string{`"test" is no environment`}},
		{"two environments", []string{"dev", "prod"}, 2, []string{"give one environment"}},
		{"an image by tag", []string{"dev", "--set", "ConfigImage=tagstore/config:latest"}, 6, []string{"ConfigImage does not have the form", "name the image by digest"}},
		{"a name that there is not", []string{"dev", "--set", "Colour=red"}, 6, []string{"there is no parameter Colour"}},
		{"no number", []string{"dev", "--set", "SpotWeight=many"}, 6, []string{"SpotWeight is no number"}},
		{"a number out of its bounds", []string{"dev", "--set", "SpotWeight=101"}, 6, []string{"SpotWeight is out of its bounds"}},
		{"none of the values", []string{"dev", "--set", "UseDax=yes"}, 6, []string{"UseDax is none of true, false"}},
		{"a rule of the template", []string{"dev", "--set", "UseDax=true"}, 6, []string{"UseDax and UseTenantRole exclude one another"}},
		{"another region's certificate", []string{"dev", "--set", "Region=eu-west-1", "--set", "CertificateArn=arn:aws:acm:us-east-1:1:certificate/1"}, 6, []string{"CertificateArn is of the region us-east-1, and the stack would be in eu-west-1"}},
		{"a package and where it is", []string{"dev", "--set", "CodeKey=y"}, 6, []string{"Package and CodeKey are both given"}},
		{"no such file", []string{"dev", "--parameters", "nowhere.env"}, 6, []string{"nowhere.env"}},
		{"a flag that there is not", []string{"dev", "--force"}, 2, []string{"-force", "see 'deploy/deploy.sh -h'"}},
		{"another environment's parameters", []string{"dev", "--set", "Environment=prod"}, 6, []string{"for the environment prod, and dev is asked for"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := script(t, noAccount(), "", "deploy", tc.args...)
			has(t, r, tc.code, tc.wants...)
			if r.out != "" || !strings.Contains(r.err, "Hint: ") {
				t.Errorf("on standard output, or without a hint: %v", r)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "bad.env")
	if err := os.WriteFile(file, []byte("Project\nDomainPrefix=a\nDomainPrefix=b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	has(t, script(t, noAccount(), "", "deploy", "dev", "--parameters", file), 6, "line 1: not Name=Value", "line 3: DomainPrefix stands there twice")
}

// Who is nobody, or somebody else, or somewhere else, changes nothing.
func TestWrongAccount(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	file := given(t, a.project)
	has(t, script(t, append(noAccount(), "AWS_REGION=us-east-1"), "", "deploy", "dev", "--parameters", file), 4, "there are no credentials of AWS", "aws sso login")
	has(t, script(t, noAccount(), "", "deploy", "dev", "--parameters", file), 6, "there is no region")
	has(t, a.run(t, "", "deploy", "dev", "--parameters", file, "--set", "Region=eu-west-1", "--set", "CertificateArn=arn:aws:acm:eu-west-1:1:certificate/1"), 6,
		"the parameters are for the region eu-west-1, and AWS is set to us-east-1")
	has(t, a.run(t, "", "deploy", "dev", "--parameters", file, "--set", "Account=999999999999"), 6, "for the account 999999999999, and the credentials are of 123456789012")
	has(t, a.run(t, "", "deploy", "dev", "--parameters", file, "--set", "Package=nowhere.zip"), 6, "package can not be read", "make lambda")
	for refusal, want := range map[string]string{
		"ExpiredToken: The security token included in the request is expired":       "AWS does not take these credentials",
		"AccessDenied: User: somebody is not authorized to perform: DescribeStacks": "these credentials may not call CloudFormation:DescribeStacks",
	} {
		a.mu.Lock()
		a.refuse["cloudformation:DescribeStacks"] = refusal
		a.mu.Unlock()
		has(t, a.run(t, "", "deploy", "dev", "--parameters", file, "--yes"), 4, want, "Hint: ")
	}
	if got := writes(a.calls); len(got) > 0 {
		t.Errorf("it has made calls that write: %v", got)
	}
}

// A deployment makes the stack; the same again changes nothing and is no error; other
// parameters change it. What is done is shown and asked about.
func TestDeploy(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	a.outputs["Url"] = serving(t)
	file := given(t, a.project)
	args := []string{"dev", "--parameters", file, "--poll", "20ms"}

	r := a.run(t, "", "deploy", append(args, "--dry-run")...)
	has(t, r, 0, a.name()+" is not there yet", "Dry run: nothing was changed.")
	r = a.run(t, "yes\nno\n", "deploy", args...)
	has(t, r, 1, a.project+"-artifacts: the change set", "add      ConfigRepository (AWS::ECR::Repository)", "templates: 8 of 8 uploaded", "not confirmed: nothing was changed")
	if a.stack.status != "REVIEW_IN_PROGRESS" || len(a.stack.sets) != 0 {
		t.Fatalf("the stack was made, and nobody has confirmed it: %+v", a.stack)
	}

	r = a.run(t, "yes\n", "deploy", args...)
	has(t, r, 0, "add      Services (AWS::CloudFormation::Stack)", "modify   ConfigTask (AWS::ECS::TaskDefinition): replaced by a new one",
		"Type yes to go on", "CREATE_COMPLETE", "recorded as release 1", "smoke test: passed")
	if got := a.stack.parameters; got["Environment"] != "dev" || got["CodeVersion"] == "" || !strings.HasPrefix(got["CodeKey"], "packages/refresh-") {
		t.Errorf("the stack was given %v", got)
	}

	r = a.run(t, "", "deploy", args...)
	has(t, r, 0, a.project+"-artifacts: no changes", a.name()+": no changes", "package: s3://", "is there already", "templates: 0 of 8 uploaded", "this is release 1, as before")
	if n := len(a.stack.sets); n != 0 {
		t.Errorf("%d change sets are left", n)
	}

	r = a.run(t, "no\n", "deploy", append(args, "--set", "SpotWeight=1")...)
	has(t, r, 1, "not confirmed")
	if a.stack.parameters["SpotWeight"] != "" || len(a.stack.sets) != 0 {
		t.Errorf("it was changed, or a change set is left: %+v", a.stack)
	}
	has(t, a.run(t, "yes\n", "deploy", append(args, "--set", "SpotWeight=1")...), 0, "recorded as release 2")
	if a.stack.parameters["SpotWeight"] != "1" {
		t.Errorf("the stack was given %v", a.stack.parameters)
	}
}

// What is uploaded is a stack: main.yaml names the others by addresses of their own.
func TestUploadedTemplates(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	a.outputs["Url"] = serving(t)
	has(t, a.run(t, "", "deploy", "dev", "--parameters", given(t, a.project), "--poll", "20ms", "--yes"), 0)
	u := a.stack.template
	base := fmt.Sprintf("https://%s-artifacts-%s-us-east-1.s3.us-east-1.amazonaws.com/", a.project, account)
	if !strings.HasPrefix(u, base+"templates/") || !strings.HasSuffix(u, "/main.yaml") {
		t.Fatalf("the template is at %s", u)
	}
	main := a.object(t, strings.TrimPrefix(u, base))
	folder := strings.TrimSuffix(u, "main.yaml")
	for _, nested := range []string{"network", "data", "identity", "services", "refresh", "edge", "observability"} {
		if !strings.Contains(main, "TemplateURL: "+folder+nested+".yaml\n") {
			t.Errorf("main.yaml does not name %s", nested)
		}
		want, err := os.ReadFile("../cloudformation/" + nested + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if got := a.object(t, strings.TrimPrefix(folder, base)+nested+".yaml"); got != string(want) {
			t.Errorf("%s is not what was uploaded", nested)
		}
	}
}

// A dry run makes no call that writes, whatever is there.
func TestDryRunsWriteNothing(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	file := given(t, a.project)
	a.mu.Lock()
	a.newStack("UPDATE_COMPLETE")
	a.mu.Unlock()
	a.outputs["Url"], a.outputs["ConfigTable"] = "https://nowhere.example", "t"
	for _, words := range [][]string{
		{"deploy", "dev"}, {"cleanup", "dev"}, {"cleanup", "dev", "--delete-data", "--artifacts"}, {"rollback", "dev", "--continue"}, {"seed", "dev"}, {"test", "dev"},
	} {
		r := a.run(t, "", words[0], append(words[1:], "--parameters", file, "--dry-run", "--yes")...)
		if !strings.Contains(r.out, "Dry run: ") && !strings.Contains(r.err, "there is no rollback to go on with") {
			t.Errorf("%v: %v", words, r)
		}
	}
	has(t, a.run(t, "", "rollback", "dev", "--parameters", file, "--dry-run"), 1, "no release of this stack is recorded")
	if got := writes(a.calls); len(got) > 0 || len(a.calls) < 10 {
		t.Errorf("of %d calls these write: %v", len(a.calls), got)
	}
}

// In each state that a stack can be in, what happens is said, and what to do.
func TestStates(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status string
		code   int
		wants  []string
	}{
		{"ROLLBACK_COMPLETE", 1, []string{"is in the state ROLLBACK_COMPLETE", "can only be removed", "deploy/cleanup.sh dev", "ConfigService (AWS::ECS::Service): ECS Deployment Circuit Breaker"}},
		{"CREATE_FAILED", 1, []string{"can only be removed"}},
		{"UPDATE_ROLLBACK_FAILED", 1, []string{"going back failed half-way", "deploy/rollback.sh dev --continue"}},
		{"DELETE_FAILED", 1, []string{"its removal failed half-way", "deploy/cleanup.sh dev"}},
		{"SOMETHING_NEW", 1, []string{"does not know how to go on from there"}},
		{"REVIEW_IN_PROGRESS", 0, []string{"CREATE_COMPLETE"}},
		{"UPDATE_ROLLBACK_COMPLETE", 0, []string{"UPDATE_COMPLETE"}},
	} {
		t.Run(tc.status, func(t *testing.T) {
			t.Parallel()
			a := newAWS(t)
			a.outputs["Url"] = serving(t)
			s := a.newStack(tc.status)
			s.happened(a.name()+"-Services", "ConfigService", "AWS::ECS::Service", "CREATE_FAILED", "ECS Deployment Circuit Breaker was triggered")
			s.happened(a.name()+"-Services", "Other", "AWS::ECS::Service", "CREATE_FAILED", "Resource creation cancelled")
			r := a.run(t, "", "deploy", "dev", "--parameters", given(t, a.project), "--poll", "20ms", "--yes")
			has(t, r, tc.code, tc.wants...)
			if strings.Contains(r.err, "creation cancelled") {
				t.Errorf("what was only cancelled is told as a reason: %v", r)
			}
			if tc.code != 0 && len(writes(a.calls)) > 0 {
				t.Errorf("it has made calls that write: %v", writes(a.calls))
			}
		})
	}
}

// A change that fails says what failed, and with what status it ended.
func TestFailedChange(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	file := given(t, a.project)
	a.outcome = "ROLLBACK_COMPLETE"
	r := a.run(t, "", "deploy", "dev", "--parameters", file, "--poll", "20ms", "--yes")
	has(t, r, 1, "ended in the state ROLLBACK_COMPLETE", "/ConfigService (AWS::ECS::Service): ECS Deployment Circuit Breaker was triggered")
	if strings.Contains(r.err, "OrderService") {
		t.Errorf("what was only cancelled is told as a reason: %v", r)
	}
	// UPDATE_ROLLBACK_FAILED is gone on with.
	a.outcome, a.stack.status = "", "UPDATE_ROLLBACK_FAILED"
	has(t, a.run(t, "", "rollback", "dev", "--continue", "--parameters", file, "--poll", "20ms", "--yes"), 0, "UPDATE_ROLLBACK_COMPLETE")
	has(t, a.run(t, "", "rollback", "dev", "--continue", "--parameters", file, "--yes"), 1, "there is no rollback to go on with")
	// A stack that is there and does not serve.
	a.outputs["Url"] = ""
	has(t, a.run(t, "", "deploy", "dev", "--parameters", file, "--poll", "20ms", "--yes"), 1, "no output Url", "deploy/rollback.sh dev")
}

// Another change that is under way is waited for, and then this one is made.
func TestBusyStackIsWaitedFor(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	a.outputs["Url"] = serving(t)
	s := a.newStack("UPDATE_IN_PROGRESS")
	a.patience = 3
	s.then = func() { s.status = "UPDATE_COMPLETE" }
	r := a.run(t, "", "deploy", "dev", "--parameters", given(t, a.project), "--poll", "20ms", "--yes")
	has(t, r, 0, "something is at work on it already (UPDATE_IN_PROGRESS); waiting for it", "recorded as release 1")
}

// killedAt runs a script and kills it as soon as it makes the n-th call of this kind.
func (a *aws) killedAt(t *testing.T, call string, n int, name string, args ...string) {
	t.Helper()
	reached, killed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	a.mu.Lock()
	a.at = func(got string) {
		if !strings.HasPrefix(got, call) {
			return
		}
		a.mu.Lock()
		n--
		last := n == 0
		a.mu.Unlock()
		if last {
			once.Do(func() { close(reached) })
			<-killed
		}
	}
	a.mu.Unlock()
	r := start(t, a.env(), "", name, args...)(func(p *os.Process) {
		select {
		case <-reached:
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
		case <-time.After(3 * time.Minute):
			t.Errorf("%s was never called", call)
		}
	})
	close(killed)
	a.settle()
	a.mu.Lock()
	a.at = nil
	a.mu.Unlock()
	if r.code != -1 {
		t.Fatalf("it ended before it was killed: %v", r)
	}
}

// A deployment that was killed at any step is mended by running it again. The call at
// which it was killed has reached AWS.
func TestKilledDeployment(t *testing.T) {
	t.Parallel()
	for _, at := range []struct {
		call string
		n    int
	}{
		// Later, at the stack of artifacts, moto would make a second stack of the same name.
		{"s3:PUT /", 1}, // the package
		{"s3:PUT /", 5}, // a template
		{"cloudformation:CreateChangeSet", 2},
		{"cloudformation:ExecuteChangeSet", 2},
		{"cloudformation:DescribeStackEvents", 3},
		{"s3:PUT /", 10}, // the release
	} {
		t.Run(fmt.Sprintf("%s %d", at.call, at.n), func(t *testing.T) {
			t.Parallel()
			a := newAWS(t)
			a.outputs["Url"] = serving(t)
			args := []string{"dev", "--parameters", given(t, a.project), "--poll", "20ms", "--yes"}
			a.killedAt(t, at.call, at.n, "deploy", args...)
			has(t, a.run(t, "", "deploy", args...), 0, "release 1", "smoke test: passed")
			if a.stack.status != "CREATE_COMPLETE" || len(a.stack.sets) != 0 {
				t.Errorf("the stack is %+v", a.stack)
			}
			has(t, a.run(t, "", "deploy", args...), 0, "no changes", "this is release 1, as before")
		})
	}
}

// Ctrl-C stops a deployment at once, and says how to go on.
func TestInterruptedDeployment(t *testing.T) {
	t.Parallel()
	a := newAWS(t)
	a.outputs["Url"] = serving(t)
	a.patience = 1 << 30
	args := []string{"dev", "--parameters", given(t, a.project), "--poll", "20ms", "--yes"}
	waiting := make(chan struct{})
	var once sync.Once
	a.mu.Lock()
	a.at = func(call string) {
		if call == "cloudformation:DescribeStackEvents" {
			once.Do(func() { close(waiting) })
		}
	}
	a.mu.Unlock()
	r := start(t, a.env(), "", "deploy", args...)(func(p *os.Process) {
		select {
		case <-waiting:
		case <-time.After(3 * time.Minute):
			t.Error("it never waited")
		}
		if err := p.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
	})
	has(t, r, 130, "interrupted", "run the same again")
	a.mu.Lock()
	a.patience = a.stack.looks + 3
	a.mu.Unlock()
	has(t, a.run(t, "", "deploy", args...), 0, "something is at work on it already", "recorded as release 1")
}
