package latency

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/router"
	corestore "github.com/tagstore/tagstore/core/store"
	"github.com/tagstore/tagstore/emulators/lambdaruntime"
)

// fleet is many replicas in this process, each with a listener, a gRPC server
// and a cache of its own over one store, and the issuer of the tokens that they
// take. A replica is the real core/store with the real core/cache behind the
// real verifier; what services/config has around them is not here.
type fleet struct {
	origin   *memdriver.Backend
	id       config.ID
	issuer   *devissuer.Issuer
	machine  devissuer.Machine
	verifier *auth.Verifier
	replicas []*fleetReplica
}

// fleetReplica is one of them. It answers at once until slow or draining say
// otherwise.
type fleetReplica struct {
	tagstorev1.UnimplementedAdminServiceServer
	fleet   *fleet
	address string
	store   *corestore.Store
	slow    atomic.Int64 // how long it waits before it answers
	drains  atomic.Bool  // it refuses one call, as one that is going down does

	calls, conns atomic.Int64 // since the start of the fleet
	version      atomic.Uint64
	answered     atomic.Int64 // when it last acknowledged, as time.Time.UnixNano
}

// fleetFiles is how many files a fleet of n needs in this process: a listener
// and two connections, the function's and the baseline's, for each, and some
// more.
func fleetFiles(n int) uint64 { return 3*uint64(n) + 256 }

// notRun is how a line begins that says what was left out, for the report.
const notRun = "Not run: "

// mayOpen skips a benchmark for which the machine allows too few open files,
// and says so in the output, where the report finds it.
func mayOpen(b *testing.B, files uint64) {
	b.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	if why := tooFew(limit.Cur, files); why != "" {
		leaveOut(b, why)
	}
}

// leaveOut skips a benchmark that this machine can not run, and says so in the
// output, where the report finds it: its targets are then not met.
func leaveOut(b *testing.B, why string) {
	b.Helper()
	fmt.Fprintf(os.Stdout, "%s%s: %s\n", notRun, b.Name(), why)
	b.Skip(why)
}

// tooFew says that a process that may have this many files open can not have as
// many as it needs, or "".
func tooFew(allowed, needed uint64) string {
	if allowed >= needed {
		return ""
	}
	return fmt.Sprintf("it needs %d open files and may have %d: raise the limit with ulimit -n", needed, allowed)
}

const (
	fleetParameter = "/config-service/acme-corp/api/endpoint"
	fleetEvent     = `{"version":"0","id":"7b1c2a58-90f4-4c0e-9d2e-1f7a3c5b6d80","detail-type":"Parameter Store Change","source":"aws.ssm","account":"123456789012",` +
		`"time":"2026-03-04T05:06:07Z","region":"eu-central-1","resources":["arn:aws:ssm:eu-central-1:123456789012:parameter` + fleetParameter + `"],` +
		`"detail":{"operation":"Update","name":"` + fleetParameter + `","type":"String"}}`
	fleetManifest = `version: 1
backends:
  params: { plugin: ./plugins/tagstore-plugin-ssm, sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef, options: { key_prefix: param_config_ } }
routes:
  - { prefix: param_config_, backend: params }
`
)

// newFleet starts this many replicas, each with the value in its cache.
func newFleet(t testing.TB, n int) *fleet {
	t.Helper()
	tenant, err1 := config.ParseTenant("acme-corp")
	service, err2 := config.ParseService("api")
	key, err3 := config.ParseKey("param_config_endpoint")
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	f := &fleet{
		origin: memdriver.New(memdriver.WithHistory(2), memdriver.WithChanges(2)), id: config.ID{Tenant: tenant, Service: service, Key: key},
		machine: devissuer.Machine{ClientID: "refresh", Secret: "machine-secret-4c1d"},
	}
	var err error
	if f.issuer, err = devissuer.New(devissuer.Options{ClientID: "web", Machine: f.machine}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(f.issuer)
	t.Cleanup(server.Close)
	f.issuer.SetURL(server.URL)
	f.verifier, err = auth.NewVerifier(auth.Options{Issuer: f.issuer.Issuer(), ClientIDs: []string{f.machine.ClientID}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.verifier.Close)
	if _, err := f.change(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range n {
		f.replicas = append(f.replicas, f.start(t))
	}
	return f
}

// change puts a new version into the store, as somebody else would.
func (f *fleet) change(ctx context.Context) (version uint64, err error) {
	e, err := f.origin.Put(ctx, driver.PutRequest{ID: f.id, Value: value(0), ContentType: config.ContentTypeJSON, UpdatedBy: "somebody else"})
	return e.Version, err
}

func (f *fleet) start(t testing.TB) *fleetReplica {
	t.Helper()
	silent, none := slog.New(slog.DiscardHandler), noop.NewMeterProvider()
	c, err := cache.New(cache.Options{Logger: silent, MeterProvider: none, MaxBytes: 1 << 20, TenantShare: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	table, err := router.NewTable([]router.Route{{
		Prefix: "param_config_", BackendName: "params", Layers: []manifest.Layer{manifest.LayerService, manifest.LayerTenant},
		Backend: c.Wrap(f.origin, cache.Policy{Prefix: "param_config_", MaxStaleness: time.Hour, StaleIfError: time.Hour}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	listener := listen(t)
	r := &fleetReplica{
		fleet: f, address: listener.Addr().String(),
		store: corestore.New(router.New(table), corestore.Options{Logger: silent, MeterProvider: none}),
	}
	if _, err := r.store.Get(t.Context(), corestore.Scope{Tenant: f.id.Tenant, Service: f.id.Service}, f.id.Key, corestore.Want{}); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(errgrpc.UnaryServer), grpc.StatsHandler(r))
	tagstorev1.RegisterAdminServiceServer(server, r)
	tagstorev1.RegisterConfigServiceServer(server, &echo{value: []byte("{}")})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// Refresh is what AdminService does: the token and its role, then the store.
func (r *fleetReplica) Refresh(ctx context.Context, req *tagstorev1.RefreshRequest) (*tagstorev1.RefreshResponse, error) {
	r.calls.Add(1)
	bearer := strings.TrimPrefix(strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ""), "Bearer ")
	principal, err := r.fleet.verifier.Verify(ctx, bearer)
	if err != nil {
		return nil, err
	}
	if principal.Role != auth.RoleRefresher {
		return nil, config.Errorf(config.PermissionDenied, "the role is %s", principal.Role)
	}
	if r.drains.CompareAndSwap(true, false) {
		return nil, config.Errorf(config.Unavailable, "the replica is going down")
	}
	if slow := time.Duration(r.slow.Load()); slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	targets := make([]corestore.RefreshTarget, len(req.GetTargets()))
	for i, t := range req.GetTargets() {
		tenant, err1 := config.ParseTenant(t.GetTenant())
		service, err2 := config.ParseService(t.GetService())
		key, err3 := config.ParseKey(t.GetKey())
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, config.Errorf(config.InvalidArgument, "a target can not be read: %v", err)
		}
		targets[i] = corestore.RefreshTarget{Tenant: tenant, Service: service, Key: key, MinVersion: t.GetMinVersion()}
	}
	receipts, err := r.store.Refresh(ctx, targets)
	if err != nil {
		return nil, err
	}
	resp := &tagstorev1.RefreshResponse{Replica: r.address}
	for _, receipt := range receipts {
		if receipt.Err != nil {
			return nil, receipt.Err
		}
		r.version.Store(receipt.Version)
		resp.Receipts = append(resp.Receipts, &tagstorev1.RefreshReceipt{Outcome: &tagstorev1.RefreshReceipt_Applied{
			Applied: &tagstorev1.RefreshApplied{Version: receipt.Version, Values: uint32(receipt.Values)},
		}})
	}
	r.answered.Store(time.Now().UnixNano())
	return resp, nil
}

func (r *fleetReplica) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (r *fleetReplica) HandleRPC(context.Context, stats.RPCStats)                         {}
func (r *fleetReplica) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (r *fleetReplica) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, begins := s.(*stats.ConnBegin); begins {
		r.conns.Add(1)
	}
}

// deadReplica returns an address of somebody who takes a connection and never
// says a word, as a process that is stopped does, and how often one was taken.
func deadReplica(t testing.TB) (address string, taken *atomic.Int64) {
	t.Helper()
	listener, ended := listen(t), make(chan struct{})
	taken = new(atomic.Int64)
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			taken.Add(1) // and all are held until the end
		}
	}()
	t.Cleanup(func() { listener.Close(); <-ended })
	return listener.Addr().String(), taken
}

// goneReplica returns an address where nobody listens.
func goneReplica(t testing.TB) string {
	t.Helper()
	listener := listen(t)
	defer listener.Close()
	return listener.Addr().String()
}

// announcer is the real refresh function, as its own process, that is to tell
// replicas of this fleet, and others that are none.
type announcer struct {
	*lambdaruntime.Function
	fleet  *fleet
	pid    int
	asked  []*fleetReplica
	others int // addresses that will not acknowledge
	drains int // replicas that refuse once, and need not be asked again
}

// The limits of the function. The times are those of cloudformation/refresh.yaml.
const (
	callTimeout     = 2 * time.Second
	functionTimeout = 10 * time.Second
	// functionFiles is a quota of Lambda that can not be raised.
	functionFiles = 1024
)

// announce starts the function. The others take the places of the last replicas.
func (f *fleet) announce(t testing.TB, binary string, call, timeout time.Duration, others ...string) *announcer {
	t.Helper()
	a := &announcer{fleet: f, asked: f.replicas[:len(f.replicas)-len(others)], others: len(others)}
	addresses := make([]string, 0, len(f.replicas))
	for i, r := range a.asked {
		// Spread among those that answer, as they are in what Cloud Map answers.
		for len(others)*(i+1) > (a.others-len(others)+1)*len(a.asked) && len(others) > 0 {
			addresses, others = append(addresses, others[0]), others[1:]
		}
		addresses = append(addresses, r.address)
		if r.drains.Load() {
			a.drains++
		}
	}
	addresses = append(addresses, others...)
	dir := t.TempDir()
	manifestPath := filepath.Join(dir, "tagstore.yaml")
	if err := os.WriteFile(manifestPath, []byte(fleetManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	// A process has 1,024 files in Lambda.
	program, said := filepath.Join(dir, "bootstrap"), bytesBuffer{}
	script := fmt.Sprintf("#!/bin/sh\nulimit -n %d\nexec %q\n", functionFiles, binary)
	err := os.WriteFile(program, []byte(script), 0o700)
	if err != nil {
		t.Fatal(err)
	}
	a.Function, err = lambdaruntime.Start(t.Context(), lambdaruntime.Options{
		Binary: program, Name: "tagstore-refresh", Output: &said, Timeout: timeout, RetryDelays: []time.Duration{},
		Env: []string{
			"TAGSTORE_MANIFEST=" + manifestPath, "TAGSTORE_REPLICAS=" + strings.Join(addresses, ","), "TAGSTORE_CALL_TIMEOUT=" + call.String(),
			"TAGSTORE_MACHINE_TOKEN_URL=" + f.issuer.TokenURL(), "TAGSTORE_MACHINE_CLIENT_ID=" + f.machine.ClientID, "TAGSTORE_MACHINE_CLIENT_SECRET=" + f.machine.Secret,
		},
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	if a.pid, err = childOf(os.Getpid(), binary); err != nil {
		t.Fatal(err)
	}
	return a
}

// round is what came of one change.
type round struct {
	took    time.Duration
	each    []time.Duration // of every replica that has it, from the event on
	err     error           // what the function answered
	retries int64           // calls that a replica got behind its first
	conns   int64           // that were opened to them
	lacked  int             // replicas that answer, and do not have it
	late    bool            // the function ran out of its time, and was killed
}

// tell changes the value and has the function tell of it.
func (a *announcer) tell(ctx context.Context) (round, error) {
	version, err := a.fleet.change(ctx)
	if err != nil {
		return round{}, err
	}
	var r round
	before := make([]int64, len(a.asked))
	for i, replica := range a.asked {
		before[i] = replica.calls.Load()
		r.conns -= replica.conns.Load()
	}
	began := time.Now()
	_, r.err = a.Invoke(ctx, []byte(fleetEvent))
	r.took = time.Since(began)
	var failed *lambdaruntime.FunctionError
	r.late = errors.As(r.err, &failed) && failed.Type == "Sandbox.Timedout"
	for i, replica := range a.asked {
		r.retries += max(0, replica.calls.Load()-before[i]-1)
		r.conns += replica.conns.Load()
		if replica.version.Load() == version {
			r.each = append(r.each, time.Duration(replica.answered.Load()-began.UnixNano()))
		} else {
			r.lacked++
		}
	}
	return r, ctx.Err()
}

// judge is an error unless all acknowledged that can, and the function says how
// many did not. One that has refused is only asked again while it has time.
func (a *announcer) judge(r round) error {
	want := ""
	if a.others+r.lacked > 0 {
		want = fmt.Sprintf("%d of %d replicas did not acknowledge", a.others+r.lacked, len(a.fleet.replicas))
	}
	switch {
	case r.lacked > a.drains:
		return fmt.Errorf("%d replicas that answer do not have the change: %w", r.lacked, r.err)
	case want == "" && r.err != nil:
		return fmt.Errorf("all replicas answer, and the function failed: %w", r.err)
	case want != "" && (r.err == nil || !strings.Contains(r.err.Error(), want)):
		return fmt.Errorf("the function answered %w, and not that %s", r.err, want)
	}
	return nil
}

// bytesBuffer is what a process prints, which another goroutine may read.
type bytesBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *bytesBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *bytesBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// bareRole makes the test binary the baseline of a fan-out: plain gRPC that
// calls the addresses on its first line once for every further line, as many at
// a time as the fan-out does.
const bareRole = "bare-fanout"

const bareAtOnce = 64

func serveBare(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	first, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	var addresses []string
	if err := json.Unmarshal(first, &addresses); err != nil {
		return err
	}
	stubs := make([]tagstorev1.ConfigServiceClient, len(addresses))
	for i, address := range addresses {
		conn, err := plainConn(address)
		if err != nil {
			return err
		}
		defer conn.Close()
		stubs[i] = tagstorev1.NewConfigServiceClient(conn)
	}
	request := &tagstorev1.GetRequest{Key: keyName(0)}
	for {
		if _, err := lines.ReadBytes('\n'); err != nil {
			return nil // the parent is done
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		var calls errgroup.Group
		calls.SetLimit(bareAtOnce)
		for _, stub := range stubs {
			calls.Go(func() error { _, err := stub.Get(ctx, request); return err })
		}
		err := calls.Wait()
		cancel()
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, "done"); err != nil {
			return err
		}
	}
}

// bare starts the baseline, and returns what calls every replica once.
func (f *fleet) bare(b *testing.B) op {
	b.Helper()
	cmd := exec.CommandContext(context.Background(), os.Args[0], bareRole) // ended by the cleanup
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	addresses := make([]string, len(f.replicas))
	for i, r := range f.replicas {
		addresses[i] = r.address
	}
	if err := json.NewEncoder(stdin).Encode(addresses); err != nil {
		b.Fatal(err)
	}
	answers := bufio.NewReader(stdout)
	return func(context.Context) error {
		if _, err := fmt.Fprintln(stdin, "go"); err != nil {
			return err
		}
		_, err := answers.ReadString('\n')
		return err
	}
}

// fleetBinary builds the refresh function's program.
func fleetBinary(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tagstore-refresh")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "lambda.norpc", "-o", path, "github.com/tagstore/tagstore/refresh-lambda")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the function: %v\n%s", err, out)
	}
	return path
}

// plainConn is a connection of gRPC and nothing else.
func plainConn(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
}
