package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tagstore/tagstore/cli/internal/command"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// now is when every test of this package runs.
var now = time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)

// service answers with what a test sets, and keeps what it was asked.
type service struct {
	tagstorev1.UnimplementedConfigServiceServer
	tagstorev1.UnimplementedAdminServiceServer
	err error // of every call, if set

	entries  []*tagstorev1.Entry // of Get (the first), List, History
	events   []*tagstorev1.WatchResponse
	backends []*tagstorev1.Backend
	replicas []*tagstorev1.ReplicaStatus // of every write
	receipts []*tagstorev1.RefreshReceipt
	reload   *tagstorev1.ReloadManifestResponse

	mu     sync.Mutex
	get    *tagstorev1.GetRequest
	fresh  *tagstorev1.RefreshRequest
	put    *tagstorev1.PutRequest
	del    *tagstorev1.DeleteRequest
	roll   *tagstorev1.RollbackRequest
	watch  *tagstorev1.WatchRequest
	tokens []string
}

func (s *service) see(ctx context.Context, keep func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	s.tokens = append(s.tokens, md.Get("authorization")...)
	if keep != nil {
		keep()
	}
	return s.err
}

func (s *service) Get(ctx context.Context, r *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
	if err := s.see(ctx, func() { s.get = r }); err != nil {
		return nil, err
	}
	return &tagstorev1.GetResponse{Entry: s.entries[0], Freshness: &tagstorev1.Freshness{
		Source: tagstorev1.Source_SOURCE_STORE, State: tagstorev1.FreshnessState_FRESHNESS_STATE_FRESH, Age: durationpb.New(1500 * time.Millisecond),
	}}, nil
}

// List and History answer in pages of one.
func (s *service) page(token string) (entries []*tagstorev1.Entry, next string) {
	at := len(token)
	if at >= len(s.entries) {
		return nil, ""
	}
	if at+1 < len(s.entries) {
		next = strings.Repeat("x", at+1)
	}
	return s.entries[at : at+1], next
}

func (s *service) List(ctx context.Context, r *tagstorev1.ListRequest) (*tagstorev1.ListResponse, error) {
	if err := s.see(ctx, nil); err != nil {
		return nil, err
	}
	entries, next := s.page(r.GetPageToken())
	return &tagstorev1.ListResponse{Entries: entries, NextPageToken: next}, nil
}

func (s *service) History(ctx context.Context, r *tagstorev1.HistoryRequest) (*tagstorev1.HistoryResponse, error) {
	if err := s.see(ctx, nil); err != nil {
		return nil, err
	}
	entries, next := s.page(r.GetPageToken())
	return &tagstorev1.HistoryResponse{Entries: entries, NextPageToken: next}, nil
}

func (s *service) Put(ctx context.Context, r *tagstorev1.PutRequest) (*tagstorev1.PutResponse, error) {
	if err := s.see(ctx, func() { s.put = r }); err != nil {
		return nil, err
	}
	return &tagstorev1.PutResponse{Entry: written(r.GetKey(), r.GetService()), Replicas: s.replicas}, nil
}

func (s *service) Delete(ctx context.Context, r *tagstorev1.DeleteRequest) (*tagstorev1.DeleteResponse, error) {
	if err := s.see(ctx, func() { s.del = r }); err != nil {
		return nil, err
	}
	e := written(r.GetKey(), r.GetService())
	e.Deleted = true
	return &tagstorev1.DeleteResponse{Entry: e}, nil
}

func (s *service) Restore(ctx context.Context, r *tagstorev1.RestoreRequest) (*tagstorev1.RestoreResponse, error) {
	if err := s.see(ctx, nil); err != nil {
		return nil, err
	}
	return &tagstorev1.RestoreResponse{Entry: written(r.GetKey(), r.GetService())}, nil
}

func (s *service) Rollback(ctx context.Context, r *tagstorev1.RollbackRequest) (*tagstorev1.RollbackResponse, error) {
	if err := s.see(ctx, func() { s.roll = r }); err != nil {
		return nil, err
	}
	return &tagstorev1.RollbackResponse{Entry: written(r.GetKey(), r.GetService())}, nil
}

func (s *service) ReloadManifest(ctx context.Context, _ *tagstorev1.ReloadManifestRequest) (*tagstorev1.ReloadManifestResponse, error) {
	return s.reload, s.see(ctx, nil)
}

func (s *service) Watch(r *tagstorev1.WatchRequest, stream grpc.ServerStreamingServer[tagstorev1.WatchResponse]) error {
	if err := s.see(stream.Context(), func() { s.watch = r }); err != nil {
		return err
	}
	for _, e := range s.events {
		if err := stream.Send(e); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (s *service) ListBackends(ctx context.Context, _ *tagstorev1.ListBackendsRequest) (*tagstorev1.ListBackendsResponse, error) {
	if err := s.see(ctx, nil); err != nil {
		return nil, err
	}
	return &tagstorev1.ListBackendsResponse{Backends: s.backends}, nil
}

func (s *service) Refresh(ctx context.Context, r *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
	if err := s.see(ctx, func() { s.fresh = r }); err != nil {
		return nil, err
	}
	return &tagstorev1.RefreshResponse{Replica: "config-1", Receipts: s.receipts}, nil
}

// written is what the fake's writes answer with.
func written(key, service string) *tagstorev1.Entry {
	return &tagstorev1.Entry{
		Key: key, Service: service, ContentType: "application/json", Version: 4, Revision: "r4",
		UpdatedAt: timestamppb.New(now), UpdatedBy: "editor@acme-corp", Message: "why",
	}
}

// serve starts s and returns its address.
func serve(t *testing.T, s *service) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(errgrpc.UnaryServer), grpc.StreamInterceptor(errgrpc.StreamServer))
	tagstorev1.RegisterConfigServiceServer(server, s)
	tagstorev1.RegisterAdminServiceServer(server, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends by Stop
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return listener.Addr().String()
}

// result is what a run of tagctl leaves behind.
type result struct {
	status         int
	stdout, stderr string
}

func run(t *testing.T, p command.Process) result {
	t.Helper()
	return runContext(t.Context(), p)
}

func runContext(ctx context.Context, p command.Process) result {
	var stdout, stderr bytes.Buffer
	p.Version, p.Now = "v1.2.3", func() time.Time { return now }
	if p.Stdin == nil {
		p.Stdin = strings.NewReader("")
	}
	if p.Stdout == nil {
		p.Stdout = &stdout
	}
	p.Stderr = &stderr
	status := command.Run(ctx, p)
	return result{status, stdout.String(), stderr.String()}
}

// to is the environment of somebody who works with the service at address.
func to(address string, more ...string) []string {
	return append([]string{"TAGCTL_ADDRESS=" + address, "TAGCTL_TOKEN=tok"}, more...)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("output is not %s (-want +got):\n%s", path, diff)
	}
}

func sample() *service {
	at := func(ago time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-ago)) }
	return &service{
		entries: []*tagstorev1.Entry{
			{
				Key: "tenant_config_a", Value: []byte(`{"limit":9007199254740993,"html":"<&>","name":"é"}`), ContentType: "application/json",
				Version: 3, Revision: "r3", UpdatedAt: at(90 * time.Second), UpdatedBy: "ann", Message: "raise\tit",
			},
			{Key: "tenant_config_a", ContentType: "application/json", Version: 2, Revision: "r2", UpdatedAt: at(3 * time.Hour), UpdatedBy: "bob", Deleted: true},
			{Key: "tenant_config_a", Value: []byte("plain \x1b[31mred\nnext"), ContentType: "text/plain", Version: 1, Revision: "r1", UpdatedAt: at(72 * time.Hour)},
		},
		backends: []*tagstorev1.Backend{
			{
				Name: "params", Prefixes: []string{"param_config_"}, State: tagstorev1.BackendState_BACKEND_STATE_SERVING,
				PluginName: "local", PluginVersion: "v1", Capabilities: []string{"batch", "watch"}, Caveats: []string{"permanent_delete"}, Pid: 42, Generation: 2, Restarts: 1,
				StartedAt: at(time.Minute), Size: &tagstorev1.BackendSize{Bytes: 4096, Entries: 7, Versions: 9, Changes: -1},
				Circuit: tagstorev1.BackendCircuit_BACKEND_CIRCUIT_HALF_OPEN, InFlight: 3, Waiting: 4, LatencyP50: durationpb.New(123456 * time.Nanosecond),
				LatencyP99: durationpb.New(98765 * time.Microsecond), Sha256: strings.Repeat("9f", 32), ResidentBytes: 20 << 20,
				LastError: "signal: killed", LastLines: "panic: \x1b[31mred\ngoroutine 1\n",
			},
			{Name: "tenants", State: tagstorev1.BackendState_BACKEND_STATE_FAILED, LastError: "exit status 1"},
		},
	}
}

// The formats that programs read, and those that people do.
func TestOutput(t *testing.T) {
	list := sample()
	list.entries[1] = &tagstorev1.Entry{Key: "tenant_config_b", Shared: true, Value: []byte("hunter2"), ContentType: "text/plain", Version: 1, Secret: true}
	list.entries[2] = &tagstorev1.Entry{Key: "tenant_config_c", Service: "order", Value: []byte{0xff, 0}, ContentType: "application/octet-stream", Version: 1}
	secret := &service{entries: []*tagstorev1.Entry{{Key: "tenant_config_s", Value: []byte(`"hunter2"`), ContentType: "application/json", Version: 1, Secret: true}}}
	for _, c := range []struct {
		name string
		on   *service
		args string
	}{
		{"get-table", sample(), "get tenant_config_a"},
		{"get-json", sample(), "get tenant_config_a -o json"},
		{"get-raw", sample(), "get tenant_config_a --raw"},
		{"get-secret-table", secret, "get tenant_config_s"},
		{"get-secret-json", secret, "get tenant_config_s -o json"},
		{"get-secret-reveal", secret, "get tenant_config_s -o json --reveal"},
		{"get-secret-raw-reveal", secret, "get tenant_config_s --raw --reveal"},
		{"ls-table", list, "ls tenant_config_ --service order"},
		{"ls-long", list, "ls tenant_config_ --service order -l"},
		{"ls-json", list, "ls tenant_config_ --service order -o json"},
		{"ls-name", list, "ls tenant_config_ --service order -o name"},
		{"ls-empty-json", &service{}, "ls tenant_config_ -o json"},
		{"ls-empty-table", &service{}, "ls tenant_config_"},
		{"history-table", sample(), "history tenant_config_a"},
		{"history-json", sample(), "history tenant_config_a -o json"},
		{"set-table", sample(), "set tenant_config_a 1"},
		{"set-json", sample(), "set tenant_config_a 1 -o json"},
		{"rm-table", sample(), "rm tenant_config_a"},
		{"rm-json", sample(), "rm tenant_config_a -o json"},
		{"restore-table", sample(), "restore tenant_config_a"},
		{"rollback-table", sample(), "rollback tenant_config_a --to 1"},
		{"backends-table", sample(), "backends"},
		{"backends-json", sample(), "backends -o json"},
		{"plugin-ls-table", sample(), "plugin ls"},
		{"plugin-ls-json", sample(), "plugin ls -o json"},
		{"plugin-ls-name", sample(), "plugin ls -o name"},
		{"plugin-info-table", sample(), "plugin info params"},
		{"plugin-info-failed", sample(), "plugin info tenants"},
		{"plugin-info-json", sample(), "plugin info params -o json"},
		{"plugin-reload-table", reloaded(), "plugin reload"},
		{"plugin-reload-json", reloaded(), "plugin reload -o json"},
		{"get-freshness", sample(), "get tenant_config_a --show-freshness"},
		{"set-await-table", spread(), "set tenant_config_a 1 --await-replicas"},
		{"set-await-json", spread(), "set tenant_config_a 1 --await-replicas -o json"},
		{"refresh-table", applied(7, false, 1), "refresh acme-corp tenant_config_a"},
		{"refresh-json", applied(7, false, 1), "refresh acme-corp tenant_config_a -o json"},
		{"refresh-absent", applied(0, true, 0), "refresh acme-corp tenant_config_a"},
		{"refresh-uncounted", applied(0, false, 1), "refresh acme-corp tenant_config_a"},
		{"refresh-prefix", applied(0, false, 12), "refresh acme-corp --prefix tenant_config_"},
		{"exit-codes", &service{}, "help exit-codes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := run(t, command.Process{Args: strings.Fields(c.args), Environ: to(serve(t, c.on))})
			if got.status != 0 {
				t.Fatalf("exit status %d, stderr:\n%s", got.status, got.stderr)
			}
			golden(t, c.name, got.stdout)
		})
	}
}

// reloaded is a service that has taken a manifest.
func reloaded() *service {
	return &service{reload: &tagstorev1.ReloadManifestResponse{
		Replica: "config-7", Applied: true, Generation: 3, Took: durationpb.New(1234567 * time.Microsecond),
		Backends: []*tagstorev1.ReloadedBackend{
			{Name: "flags", Action: tagstorev1.ReloadAction_RELOAD_ACTION_STARTED, Pid: 43},
			{Name: "old", Action: tagstorev1.ReloadAction_RELOAD_ACTION_REMOVED},
			{Name: "params", Action: tagstorev1.ReloadAction_RELOAD_ACTION_KEPT, Pid: 42},
		},
		Routes: []*tagstorev1.ReloadedRoute{{Prefix: "flag_", Change: tagstorev1.RouteChange_ROUTE_CHANGE_ADDED}},
	}}
}

// A refusal is told on both outputs, and by the exit status.
func TestReloadThatIsRefused(t *testing.T) {
	s := &service{reload: &tagstorev1.ReloadManifestResponse{
		Generation: 2, Took: durationpb.New(5 * time.Millisecond),
		Backends: []*tagstorev1.ReloadedBackend{{
			Name: "params", Action: tagstorev1.ReloadAction_RELOAD_ACTION_REFUSED, Pid: 42, Reason: "it ended \x1b[31mat once",
		}},
		Problems: []string{"tagstore.yaml:7: unknown field", "plugin params: it ended \x1b[31mat once"},
	}}
	for _, format := range []string{"table", "json"} {
		got := run(t, command.Process{Args: []string{"plugin", "reload", "-o", format}, Environ: to(serve(t, s))})
		if got.status != 6 {
			t.Errorf("%s: exit status %d", format, got.status)
		}
		golden(t, "plugin-reload-refused-"+format, got.stdout)
		golden(t, "plugin-reload-refused-"+format+"-stderr", got.stderr)
	}
}

// spread is a service with two other replicas.
func spread() *service {
	return &service{replicas: []*tagstorev1.ReplicaStatus{
		{Replica: "config-2"}, {Replica: "config-3\x1b[31m", Error: &tagstorev1.Status{Code: 4, Message: "it did not answer in time"}},
	}}
}

// applied is a service whose Refresh says this.
func applied(version uint64, absent bool, values uint32) *service {
	return &service{receipts: []*tagstorev1.RefreshReceipt{{Outcome: &tagstorev1.RefreshReceipt_Applied{
		Applied: &tagstorev1.RefreshApplied{Version: version, Absent: absent, Values: values},
	}}}}
}

// What the flags ask for is what is sent, and nothing that they do not.
func TestFreshnessFlags(t *testing.T) {
	s := sample()
	s.receipts = applied(9, false, 1).receipts
	environ := to(serve(t, s))
	for _, args := range []string{
		"get tenant_config_a --min-version 7 --max-staleness 0s", "set tenant_config_a 1", "refresh _shared tenant_config_a --min-version 9",
	} {
		if got := run(t, command.Process{Args: strings.Fields(args), Environ: environ}); got.status != 0 {
			t.Fatalf("%s: exit status %d, stderr:\n%s", args, got.status, got.stderr)
		}
	}
	if s.get.GetMinVersion() != 7 || s.get.MaxStaleness == nil || s.get.GetMaxStaleness().AsDuration() != 0 {
		t.Errorf("get sent %v", s.get)
	}
	if s.put.GetAwaitReplicas() {
		t.Errorf("set sent %v", s.put)
	}
	if target := s.fresh.GetTargets()[0]; len(s.fresh.GetTargets()) != 1 || target.GetTenant() != "_shared" || target.GetKey() != "tenant_config_a" || target.GetMinVersion() != 9 {
		t.Errorf("refresh sent %v", s.fresh)
	}
	if got := run(t, command.Process{Args: []string{"get", "tenant_config_a"}, Environ: environ}); got.status != 0 || s.get.MinVersion != nil || s.get.MaxStaleness != nil {
		t.Errorf("get without flags sent %v", s.get)
	}
	// A target that failed is the command's failure.
	s.receipts = []*tagstorev1.RefreshReceipt{{Outcome: &tagstorev1.RefreshReceipt_Error{Error: &tagstorev1.Status{Code: 14, Message: "the store is out of reach"}}}}
	if got := run(t, command.Process{Args: []string{"refresh", "acme-corp", "tenant_config_a"}, Environ: environ}); got.status != 7 || got.stdout != "" || !strings.Contains(got.stderr, "out of reach") {
		t.Errorf("refresh of a store that is down: %+v", got)
	}
}

// What is written to a terminal holds nothing that a terminal would act on.
func TestTablesAreSafeToShow(t *testing.T) {
	hostile := "\x1b]0;owned\x07\u009b31m\r\b"
	s := sample()
	for _, e := range s.entries {
		e.Message, e.UpdatedBy, e.ContentType, e.Value, e.Deleted = hostile, hostile, "text/"+hostile, []byte(hostile), false
	}
	s.backends[0].LastError = hostile
	address := serve(t, s)
	for _, args := range []string{"get tenant_config_a", "ls tenant_config_ -l", "history tenant_config_a", "backends", "plugin ls", "plugin info params"} {
		got := run(t, command.Process{Args: strings.Fields(args), Environ: to(address)})
		if got.status != 0 || strings.ContainsAny(got.stdout, "\x1b\x07\u009b\r\b") {
			t.Errorf("%s: exit status %d, output %q", args, got.status, got.stdout)
		}
	}
}

// Each code ends with the status that `help exit-codes` gives it, standard
// output stays empty, and the error says the next step.
func TestErrors(t *testing.T) {
	status := map[config.Code]int{
		config.NotFound: 3, config.Unauthenticated: 4, config.PermissionDenied: 4, config.Conflict: 5, config.AlreadyExists: 5,
		config.InvalidArgument: 6, config.Unavailable: 7, config.DeadlineExceeded: 7, config.ResourceExhausted: 7, config.OutcomeUnknown: 7,
	}
	for _, code := range config.Codes() {
		t.Run(code.String(), func(t *testing.T) {
			want, known := status[code]
			if !known {
				want = 1
			}
			environ := to(serve(t, &service{err: config.Errorf(code, "what is wrong").WithVersion(3)}))
			got := run(t, command.Process{Args: []string{"get", "tenant_config_a", "-o", "json"}, Environ: environ})
			if got.status != want || got.stdout != "" {
				t.Errorf("exit status %d, want %d; standard output %q", got.status, want, got.stdout)
			}
			var object struct {
				Code, Message, Hint string
				RequestID           string `json:"request_id"`
			}
			if err := json.Unmarshal([]byte(got.stderr), &object); err != nil || strings.Count(got.stderr, "\n") != 1 {
				t.Fatalf("standard error is not one JSON object in one line: %v\n%s", err, got.stderr)
			}
			if object.Code != code.String() || !strings.Contains(object.Message, "what is wrong") || object.Hint == "" {
				t.Errorf("error is %+v", object)
			}
			if (object.RequestID == "") != (code == config.NotFound) {
				t.Errorf("request id is %q", object.RequestID)
			}
			plain := run(t, command.Process{Args: []string{"get", "tenant_config_a"}, Environ: environ})
			if plain.status != want || plain.stdout != "" || !strings.HasPrefix(plain.stderr, "Error: ") || !strings.Contains(plain.stderr, "\nHint: ") {
				t.Errorf("plain: exit status %d, standard output %q, standard error:\n%s", plain.status, plain.stdout, plain.stderr)
			}
		})
	}
}

// Every command line that can not be understood ends with 2, says so in the
// format that was asked for, and calls nobody.
func TestUsage(t *testing.T) {
	s := sample()
	address := serve(t, s)
	for _, args := range [][]string{
		{"frobnicate"},
		{"get"},
		{"get", "a", "b"},
		{"get", "a", "--bogus"},
		{"get", "a", "--version", "x"},
		{"get", "a", "--version", "0"},
		{"get", "a", "--raw", "-o", "json"},
		{"get", "a", "-o", "yaml"},
		{"get", "a", "-o", "name"},
		{"get", "a", "--timeout", "0s"},
		{"get", "a", "--token", ""},
		{"get", "a", "--token", "with blank"},
		{"get", "a", "--token", "t", "--token-file", "f"},
		{"get", "a", "--token-file", "does-not-exist"},
		{"get", "a", "--tenant", "globex-inc"},
		{"get", "a", "--role", "admin"},
		{"get", "a", "--address", "192.0.2.1:1"},
		{"get", "a", "--tls-cert", "f"},
		{"get", "a", "--tls", "--insecure"},
		{"get", "a", "--tls-ca", "does-not-exist"},
		{"set", "a"},
		{"set", "a", "@does-not-exist"},
		{"set", "a", "1", "--if-version", "-1"},
		{"rollback", "a"},
		{"rollback", "a", "--to", "0"},
		{"ls"},
		{"seed"},
		{"seed", "--manifest", "m", "does-not-exist"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			got := run(t, command.Process{Args: args, Environ: to(address)})
			if got.status != 2 || got.stdout != "" || !strings.Contains(got.stderr, "--help") {
				t.Errorf("exit status %d, standard output %q, standard error:\n%s", got.status, got.stdout, got.stderr)
			}
			got = run(t, command.Process{Args: append([]string{"-o", "json"}, args...), Environ: to(address)})
			if wrongFormat := strings.Contains(strings.Join(args, " "), "-o "); !wrongFormat && !strings.HasPrefix(got.stderr, `{"code":"usage",`) {
				t.Errorf("with -o json standard error is:\n%s", got.stderr)
			}
		})
	}
	if len(s.tokens) > 0 {
		t.Errorf("the service was called %d times", len(s.tokens))
	}
}

// A key that is not valid never reaches the service.
func TestBadNames(t *testing.T) {
	s := sample()
	environ := to(serve(t, s))
	for _, key := range []string{"", "a//b", "../a", "a#b", "a|b", "a\x00b", "ä", strings.Repeat("a", 600)} {
		for _, args := range [][]string{{"get", key}, {"set", key, "1"}, {"rm", key}, {"restore", key}, {"history", key}, {"rollback", key, "--to", "1"}} {
			if got := run(t, command.Process{Args: args, Environ: environ}); got.status != 6 || got.stdout != "" {
				t.Errorf("%q: exit status %d, standard output %q", args, got.status, got.stdout)
			}
		}
	}
	if len(s.tokens) > 0 {
		t.Errorf("the service was called %d times", len(s.tokens))
	}
}

// set sends the bytes that it was given, and refuses to guess.
func TestSetValue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte("{\"a\": 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		args   []string
		stdin  string
		status int
		want   string
	}{
		{"object", []string{`{"a": 1}`}, "", 0, `{"a": 1}`},
		{"number", []string{"17"}, "", 0, "17"},
		{"quoted word", []string{`"Stripe"`}, "", 0, `"Stripe"`},
		{"bare word", []string{"Stripe"}, "", 6, ""},
		{"empty", []string{""}, "", 6, ""},
		{"cut short", []string{`{"a":`}, "", 6, ""},
		{"two values", []string{"1 2"}, "", 6, ""},
		{"file", []string{"@" + file}, "", 0, "{\"a\": 1}\n"},
		{"standard input", []string{"-"}, "[1]", 0, "[1]"},
		{"too long", []string{"-"}, strings.Repeat(" ", 9<<20), 6, ""},
		{"text", []string{"Stripe", "--type", "text/plain"}, "", 0, "Stripe"},
		{"no text", []string{"", "--type", "text/plain"}, "", 0, ""},
		{"a dash first", []string{"--", "-5"}, "", 0, "-5"},
		{"JSON by another name", []string{"Stripe", "--type", "application/problem+json; charset=utf-8"}, "", 6, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &service{}
			got := run(t, command.Process{
				Args: append([]string{"set", "tenant_config_a"}, c.args...), Environ: to(serve(t, s)), Stdin: strings.NewReader(c.stdin),
			})
			if got.status != c.status {
				t.Fatalf("exit status %d, want %d; standard error:\n%s", got.status, c.status, got.stderr)
			}
			if (s.put == nil) != (c.status != 0) {
				t.Fatalf("request is %v", s.put)
			}
			if s.put != nil && string(s.put.GetValue()) != c.want {
				t.Errorf("sent %q, want %q", s.put.GetValue(), c.want)
			}
			if strings.Contains(got.stderr, "Stripe") && c.name == "bare word" && !strings.Contains(got.stderr, `'"Stripe"'`) {
				t.Errorf("the error shows the value:\n%s", got.stderr)
			}
		})
	}
}

// A condition that is not given is not sent: 0 means something else.
func TestConditions(t *testing.T) {
	s := &service{}
	environ := to(serve(t, s))
	for _, c := range []struct {
		flags []string
		want  *uint64
	}{
		{nil, nil},
		{[]string{"--if-version", "0"}, new(uint64)},
		{[]string{"--if-version", "7"}, ptr(uint64(7))},
	} {
		for _, verb := range [][]string{{"set", "k", "1"}, {"rm", "k"}, {"rollback", "k", "--to", "2"}} {
			args := append(append(verb, c.flags...), "-m", "why", "--service", "order")
			if got := run(t, command.Process{Args: args, Environ: environ}); got.status != 0 {
				t.Fatalf("%q: exit status %d: %s", args, got.status, got.stderr)
			}
		}
		for name, got := range map[string]*uint64{"set": s.put.ExpectedVersion, "rm": s.del.ExpectedVersion, "rollback": s.roll.ExpectedVersion} {
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s %v: expected version (-want +got):\n%s", name, c.flags, diff)
			}
		}
	}
	if s.put.GetMessage() != "why" || s.put.GetService() != "order" || s.roll.GetToVersion() != 2 {
		t.Errorf("requests are %v and %v", s.put, s.roll)
	}
}

// Consent to losing the history is given by the flag and by nothing else.
func TestPermanent(t *testing.T) {
	s := &service{}
	environ := to(serve(t, s))
	for _, flags := range [][]string{nil, {"--permanent"}} {
		args := append([]string{"rm", "k"}, flags...)
		if got := run(t, command.Process{Args: args, Environ: environ}); got.status != 0 {
			t.Fatalf("%q: exit status %d: %s", args, got.status, got.stderr)
		}
		if got, want := s.del.GetPermanent(), len(flags) > 0; got != want {
			t.Errorf("%q: permanent is %t, want %t", args, got, want)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// notifying tells when it holds a text.
type notifying struct {
	text  []byte
	until string
	held  func()
}

func (n *notifying) Write(p []byte) (int, error) {
	n.text = append(n.text, p...)
	if bytes.Contains(n.text, []byte(n.until)) {
		n.held()
	}
	return len(p), nil
}

func TestWatch(t *testing.T) {
	s := sample()
	s.events = []*tagstorev1.WatchResponse{
		{Event: &tagstorev1.WatchResponse_Put{Put: s.entries[0]}, ResumeToken: "t1"},
		{Event: &tagstorev1.WatchResponse_Sync{Sync: &tagstorev1.WatchSync{}}, ResumeToken: "t2"},
		{Event: &tagstorev1.WatchResponse_Heartbeat{Heartbeat: &tagstorev1.WatchHeartbeat{}}, ResumeToken: "t3"},
		{Event: &tagstorev1.WatchResponse_SourceDown{SourceDown: &tagstorev1.WatchSourceDown{}}, ResumeToken: "t3"},
		{Event: &tagstorev1.WatchResponse_Gap{Gap: &tagstorev1.WatchGap{}}, ResumeToken: "t3"},
		{Event: &tagstorev1.WatchResponse_Sync{Sync: &tagstorev1.WatchSync{}}, ResumeToken: "t3"},
		{Event: &tagstorev1.WatchResponse_SourceUp{SourceUp: &tagstorev1.WatchSourceUp{}}, ResumeToken: "t3"},
		{Event: &tagstorev1.WatchResponse_Delete{Delete: &tagstorev1.Entry{Key: "tenant_config_a", Version: 4, Deleted: true, UpdatedAt: timestamppb.New(now)}}, ResumeToken: "t4"},
	}
	environ := to(serve(t, s))
	for _, c := range []struct{ name, args, until string }{
		{"watch-table", "watch tenant_config_", "(deleted)"},
		{"watch-json", "watch tenant_config_ -o json --resume t0", "t4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			out := &notifying{until: c.until, held: interrupt}
			got := runContext(ctx, command.Process{Args: strings.Fields(c.args), Environ: environ, Stdout: out})
			if got.status != 130 {
				t.Errorf("exit status %d, want 130; standard error:\n%s", got.status, got.stderr)
			}
			golden(t, c.name, string(out.text))
			for _, note := range []string{"out of reach", "may have been missed", "is back"} {
				if strings.Contains(got.stderr, note) != (c.name == "watch-table") {
					t.Errorf("%q is, or is not, on standard error:\n%s", note, got.stderr)
				}
			}
		})
	}
	if s.watch.GetResumeToken() != "t0" {
		t.Errorf("the resume token that was sent is %q", s.watch.GetResumeToken())
	}
}

// broken is a standard output that nobody reads.
type broken struct{}

var errClosed = errors.New("closed")

func (broken) Write([]byte) (int, error) { return 0, errClosed }

// Output that can not be written is an error, and ends a watch.
func TestOutputThatFails(t *testing.T) {
	s := sample()
	s.events = []*tagstorev1.WatchResponse{{Event: &tagstorev1.WatchResponse_Put{Put: s.entries[0]}, ResumeToken: "t1"}}
	environ := to(serve(t, s))
	for _, args := range []string{"get tenant_config_a", "get tenant_config_a -o json", "watch tenant_config_", "watch tenant_config_ -o json"} {
		if got := run(t, command.Process{Args: strings.Fields(args), Environ: environ, Stdout: broken{}}); got.status != 1 {
			t.Errorf("%s: exit status %d, want 1", args, got.status)
		}
	}
}

func TestInterruptedCall(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	got := runContext(ctx, command.Process{Args: []string{"set", "tenant_config_a", "1"}, Environ: to(serve(t, &service{}))})
	if got.status != 130 || got.stdout != "" {
		t.Errorf("exit status %d, standard output %q, standard error:\n%s", got.status, got.stdout, got.stderr)
	}
}

func TestVersion(t *testing.T) {
	want(t, run(t, command.Process{Args: []string{"version"}, Commit: "79c74d5"}), 0, "tagctl v1.2.3 (commit 79c74d5, go1.", runtime.GOOS+"/"+runtime.GOARCH)
	want(t, run(t, command.Process{Args: []string{"version", "-o", "json"}, Commit: "79c74d5"}), 0, `"version": "v1.2.3"`, `"commit": "79c74d5"`, `"go": "go1.`)
	// A test is built without one.
	want(t, run(t, command.Process{Args: []string{"version"}}), 0, "commit unknown")
}
