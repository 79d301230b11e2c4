package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/emulators/lambdaruntime"
)

// binary is the function's real program.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "refresh")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "bootstrap")
	out, err := exec.CommandContext(context.Background(), "go", "build", "-tags", "lambda.norpc", "-o", binary, ".").CombinedOutput()
	if err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// replica is what a replica of the configuration service is to the function.
type replica struct {
	tagstorev1.UnimplementedAdminServiceServer
	name    string
	address string
	verify  *auth.Verifier
	// changed gets a value with every request that was answered.
	changed chan struct{}

	mu      sync.Mutex
	targets []string
	hangs   bool
}

func (r *replica) Refresh(ctx context.Context, req *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	bearer := strings.TrimPrefix(strings.Join(md.Get("authorization"), ""), "Bearer ")
	principal, err := r.verify.Verify(ctx, bearer)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	hangs := r.hangs
	r.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	resp := &tagstorev1.RefreshResponse{Replica: r.name}
	for _, t := range req.GetTargets() {
		r.targets = append(r.targets, fmt.Sprintf("%s %s/%s/%s@%d", principal.Role, t.GetTenant(), t.GetService(), t.GetKey(), t.GetMinVersion()))
		resp.Receipts = append(resp.Receipts, &tagstorev1.RefreshReceipt{Outcome: &tagstorev1.RefreshReceipt_Applied{
			Applied: &tagstorev1.RefreshApplied{Version: max(t.GetMinVersion(), 1), Values: 1},
		}})
	}
	r.changed <- struct{}{}
	return resp, nil
}

func (r *replica) hang(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hangs = on
}

func (r *replica) asked() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.targets, " ")
}

// system is three replicas, an issuer, and the function.
type system struct {
	*lambdaruntime.Function
	replicas []*replica
	log      *output
	tries    chan lambdaruntime.Try
	failures chan lambdaruntime.Failure
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

const secret = "machine-secret-4c1d"

const testManifest = `
version: 1
backends:
  tenants: { plugin: ./plugins/tagstore-plugin-dynamodb, sha256: ` + sum + `, options: { table: tagstore-config, key_prefix: tenant_config_ } }
  params: { plugin: ./plugins/tagstore-plugin-ssm, sha256: ` + sum + `, options: { key_prefix: param_config_ } }
routes:
  - { prefix: tenant_config_, backend: tenants }
  - { prefix: param_config_, backend: params }
`

const sum = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func start(t *testing.T) *system {
	t.Helper()
	machine := devissuer.Machine{ClientID: "refresh", Secret: secret}
	issuer, err := devissuer.New(devissuer.Options{ClientID: "web", Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(issuer)
	t.Cleanup(server.Close)
	issuer.SetURL(server.URL)
	verifier, err := auth.NewVerifier(auth.Options{Issuer: issuer.Issuer(), ClientIDs: []string{"web", machine.ClientID}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)

	s := &system{log: &output{}, tries: make(chan lambdaruntime.Try, 100), failures: make(chan lambdaruntime.Failure, 100)}
	var addresses []string
	for i := range 3 {
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r := &replica{name: fmt.Sprintf("r%d", i+1), address: listener.Addr().String(), verify: verifier, changed: make(chan struct{}, 100)}
		server := grpc.NewServer()
		tagstorev1.RegisterAdminServiceServer(server, r)
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
		s.replicas = append(s.replicas, r)
		addresses = append(addresses, r.address)
	}
	path := filepath.Join(t.TempDir(), "tagstore.yaml")
	if err := os.WriteFile(path, []byte(testManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Function, err = lambdaruntime.Start(t.Context(), lambdaruntime.Options{
		Binary: binary, Name: "tagstore-refresh", Output: s.log, RetryDelays: []time.Duration{200 * time.Millisecond, 200 * time.Millisecond},
		Env: []string{
			"TAGSTORE_MANIFEST=" + path, "TAGSTORE_REPLICAS=" + strings.Join(addresses, ","), "TAGSTORE_ACCOUNT=123456789012",
			"TAGSTORE_MACHINE_TOKEN_URL=" + issuer.TokenURL(), "TAGSTORE_MACHINE_CLIENT_ID=" + machine.ClientID, "TAGSTORE_MACHINE_CLIENT_SECRET=" + machine.Secret,
			"TAGSTORE_CALL_TIMEOUT=500ms",
		},
		OnTry:     func(try lambdaruntime.Try) { s.tries <- try },
		OnFailure: func(f lambdaruntime.Failure) { s.failures <- f },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(s.log)
		}
		if strings.Contains(s.log.String(), secret) {
			t.Error("the log holds the client secret")
		}
	})
	return s
}

func event(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/events/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTheFunction(t *testing.T) {
	t.Parallel()
	s := start(t)
	if answer, err := s.Invoke(t.Context(), event(t, "ssm-update")); err != nil || string(answer) != "null" {
		t.Fatalf("the event is answered %s, %v", answer, err)
	}
	if answer, err := s.Invoke(t.Context(), event(t, "dynamodb-batch")); err != nil || string(answer) != `{"batchItemFailures":[]}` {
		t.Fatalf("the batch is answered %s, %v", answer, err)
	}
	want := "refresher acme-corp/api/param_config_endpoint@0 refresher acme-corp//tenant_config_payment-gateway@0 " +
		"refresher acme-corp/order/tenant_config_limits@0 refresher acme-corp//tenant_config_old-limits@0"
	for _, r := range s.replicas {
		if got := r.asked(); got != want {
			t.Errorf("%s was asked for %s", r.name, got)
		}
	}
	_, err := s.Invoke(t.Context(), []byte(`{"key1":"value1"}`))
	var failed *lambdaruntime.FunctionError
	if !errors.As(err, &failed) || !strings.Contains(failed.Message, "neither a source and detail-type nor Records") {
		t.Errorf("a console's test event: %v", err)
	}
	for line := range strings.Lines(s.log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("the log has a line that is no JSON: %s", line)
		}
	}
}

// A replica that hangs makes the invocation fail and be tried again; when it is
// back, the next try succeeds.
func TestReplicaThatComesBack(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.replicas[1].hang(true)
	if err := s.Send(event(t, "ssm-update")); err != nil {
		t.Fatal(err)
	}
	first := <-s.tries
	if first.Err == nil || !strings.Contains(first.Err.Error(), "1 of 3 replicas did not acknowledge") || !strings.Contains(first.Err.Error(), s.replicas[1].address) {
		t.Errorf("the first try: %v, want an error that names %s", first.Err, s.replicas[1].address)
	}
	if first.Took > 2*time.Second {
		t.Errorf("it took %v to find out", first.Took)
	}
	s.replicas[1].hang(false)
	second := <-s.tries
	if second.Err != nil {
		t.Errorf("the second try: %v", second.Err)
	}
	if s.replicas[1].asked() == "" {
		t.Error("the replica that came back was not asked")
	}
	select {
	case f := <-s.failures:
		t.Errorf("the event was given up: %v", f.Err)
	default:
	}
}

// A batch is delivered again from the lowest record that failed, until the
// replicas know of all.
func TestStreamGoesOnFromItsCheckpoint(t *testing.T) {
	t.Parallel()
	s := start(t)
	var batch struct{ Records []json.RawMessage }
	if err := json.Unmarshal(event(t, "dynamodb-batch"), &batch); err != nil {
		t.Fatal(err)
	}
	var records []lambdaruntime.Record
	for i, r := range batch.Records {
		records = append(records, lambdaruntime.Record{Sequence: fmt.Sprintf("442158450000000000000%d", i+1), Data: r})
	}
	s.replicas[2].hang(true)
	delivered := make(chan error, 1)
	go func() {
		delivered <- s.Deliver(t.Context(), lambdaruntime.Mapping{MaximumRetryAttempts: 5, RetryDelay: 10 * time.Millisecond}, records)
	}()
	first := <-s.tries
	if string(first.Answer) != `{"batchItemFailures":[{"itemIdentifier":"4421584500000000000002"}]}` {
		t.Errorf("the first try is answered %s, %v", first.Answer, first.Err)
	}
	s.replicas[2].hang(false)
	if err := <-delivered; err != nil {
		t.Error(err)
	}
	if got := s.replicas[2].asked(); !strings.Contains(got, "tenant_config_old-limits") {
		t.Errorf("the replica that came back was asked for %q", got)
	}
}

// What is wrong with the settings is told at the start, all at once, to Lambda.
func TestWrongSettings(t *testing.T) {
	t.Parallel()
	unsigned := filepath.Join(t.TempDir(), "tagstore.yaml")
	if err := os.WriteFile(unsigned, []byte("version: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  []string
		want []string
	}{
		"manifest without the signature that is asked for": {
			[]string{"TAGSTORE_MANIFEST=" + unsigned, "TAGSTORE_MANIFEST_KEY=" + strings.Repeat("A", 43) + "=", "TAGSTORE_MACHINE_TOKEN_URL=https://issuer.example/oauth2/token", "TAGSTORE_MACHINE_CLIENT_ID=a", "TAGSTORE_MACHINE_CLIENT_SECRET=" + secret},
			[]string{"the manifest is not signed: there is no " + unsigned + ".sig"},
		},
		"manifest key that is none": {
			[]string{"TAGSTORE_MANIFEST=" + unsigned, "TAGSTORE_MANIFEST_KEY=/nowhere", "TAGSTORE_MACHINE_TOKEN_URL=https://issuer.example/oauth2/token", "TAGSTORE_MACHINE_CLIENT_ID=a", "TAGSTORE_MACHINE_CLIENT_SECRET=" + secret},
			[]string{"TAGSTORE_MANIFEST_KEY: is neither"},
		},
		"nothing": {nil, []string{"TAGSTORE_MANIFEST: is required", "TAGSTORE_MACHINE_TOKEN_URL", "TAGSTORE_MACHINE_CLIENT_ID", "TAGSTORE_MACHINE_CLIENT_SECRET"}},
		"contradictions": {
			[]string{
				"TAGSTORE_MANIFEST=/nowhere/tagstore.yaml", "TAGSTORE_MACHINE_TOKEN_URL=https://issuer.example/oauth2/token", "TAGSTORE_MACHINE_CLIENT_ID=a", "TAGSTORE_MACHINE_CLIENT_SECRET=" + secret,
				"TAGSTORE_ACCOUNT=12", "TAGSTORE_REPLICAS=10.0.0.1", "TAGSTORE_CLOUDMAP_SERVICE=config", "TAGSTORE_TLS_CA=/nowhere", "TAGSTORE_CALL_TIMEOUT=1h", "TAGSTORE_METRICS_NAMESPACE=",
			},
			[]string{
				"TAGSTORE_MANIFEST: can not be opened", "TAGSTORE_ACCOUNT: is not an account", "TAGSTORE_REPLICAS: is set beside Cloud Map", "not host:port", "TAGSTORE_TLS: is false",
				"TAGSTORE_CALL_TIMEOUT: is not between", "TAGSTORE_METRICS_NAMESPACE: is empty",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := lambdaruntime.Start(t.Context(), lambdaruntime.Options{Binary: binary, Env: c.env})
			if err == nil {
				t.Fatal("it starts")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\ndoes not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), secret) {
				t.Error("the error holds the secret")
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args        []string
		code        int
		out, errOut string
	}{
		{[]string{"-help"}, exitOK, "TAGSTORE_CLOUDMAP_SERVICE", ""},
		{[]string{"-version"}, exitOK, "tagstore-refresh", ""},
		{[]string{"serve"}, exitUsage, "", `unexpected argument "serve"`},
		{nil, exitFailed, "", "TAGSTORE_MANIFEST: is required"},
	} {
		var out, errOut bytes.Buffer
		if code := run(c.args, nil, &out, &errOut); code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errOut.String(), c.errOut) {
			t.Errorf("%q: code %d, %q, %q", c.args, code, &out, &errOut)
		}
	}
}
