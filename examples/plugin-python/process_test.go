package pluginpython

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/pluginhost"
)

const patience = 30 * time.Second

func eventually(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !done(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, limit)
		}
		<-tick.C
	}
}

func id(t testing.TB, key string) config.ID {
	t.Helper()
	tenant, err := config.ParseTenant("acme-corp")
	if err != nil {
		t.Fatal(err)
	}
	k, err := config.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return config.ID{Tenant: tenant, Key: k}
}

// socketDir is not t.TempDir: the path of a socket must be short.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pluginOn(t testing.TB, options any) pluginhost.Plugin {
	t.Helper()
	return pluginhost.Plugin{Name: "under-test", Path: program(t), Options: marshal(t, options)}
}

func start(t *testing.T, p pluginhost.Plugin, sockets string) *pluginhost.Process {
	t.Helper()
	process, err := pluginhost.Start(t.Context(), p, pluginhost.Options{
		SocketDir: sockets, StartTimeout: patience, Dev: true, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		MaxFailures: -1, // they are the tests'
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := process.Close(); err != nil {
			t.Error(err)
		}
	})
	return process
}

func put(t *testing.T, b driver.Backend, key, value string) config.Entry {
	t.Helper()
	e, err := b.Put(t.Context(), driver.PutRequest{ID: id(t, key), Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// sockets returns the sockets below dir.
func socketsIn(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSocket != 0 {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// R33, R4: kill -9 under readers. No read fails, and what was acknowledged is there.
func TestR33KillUnderReaders(t *testing.T) {
	t.Parallel()
	const kills, readers = 10, 16
	sockets := socketDir(t)
	pl := pluginOn(t, suiteOptions(t))
	pl.CallTimeout = patience
	p := start(t, pl, sockets)
	put(t, p, "k", "v")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var reads, failed atomic.Int64
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			for ctx.Err() == nil {
				var err error
				switch i % 3 {
				case 0:
					_, err = p.Get(t.Context(), id(t, "k"), 0)
				case 1:
					_, err = p.List(t.Context(), driver.ListRequest{Tenant: id(t, "k").Tenant})
				default:
					_, err = p.BatchGet(t.Context(), []config.ID{id(t, "k"), id(t, "l")})
				}
				reads.Add(1)
				if err != nil {
					failed.Add(1)
					t.Errorf("a read failed: %v (%v)", err, errors.Unwrap(err))
					return
				}
			}
		})
	}
	var longest time.Duration
	for n := range kills {
		pid := 0
		eventually(t, patience, "the plugin serves", func() bool { pid = p.Status().PID; return pid != 0 })
		value := strconv.Itoa(n)
		written := put(t, p, "written", value)
		now := reads.Load()
		eventually(t, patience, "some reads", func() bool { return reads.Load() > now+readers })
		begin := time.Now()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		got, err := p.Get(t.Context(), id(t, "written"), 0)
		if err != nil || string(got.Value) != value || got.Version != written.Version {
			t.Errorf("behind a kill: %q, version %d, %v; want %q, version %d", got.Value, got.Version, err, value, written.Version)
		}
		eventually(t, patience, "another process serves", func() bool { now := p.Status().PID; return now != 0 && now != pid })
		longest = max(longest, time.Since(begin))
	}
	cancel()
	wg.Wait()
	if left := socketsIn(t, sockets); len(left) != 1 {
		t.Errorf("the sockets are %v", left)
	}
	t.Logf("%d of %d reads failed over %d kills; back within %v", failed.Load(), reads.Load(), kills, longest)
}

// R33: the end is prompt and orderly, with a watch open, and leaves nothing.
func TestR33CloseIsPromptAndLeavesNoSocket(t *testing.T) {
	t.Parallel()
	const limit, tries = 500 * time.Millisecond, 5
	best := time.Duration(1<<63 - 1)
	for range tries { // a busy machine delays some of them
		sockets := socketDir(t)
		p := start(t, pluginOn(t, suiteOptions(t)), sockets)
		put(t, p, "k", "v")
		synced, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- p.Watch(t.Context(), driver.WatchRequest{Tenant: id(t, "k").Tenant}, func(e driver.Event) error {
				if e.Kind == driver.EventSync {
					close(synced)
				}
				return nil
			})
		}()
		select {
		case <-synced:
		case err := <-ended:
			t.Fatalf("the watch ended: %v", err)
		}
		if n := len(socketsIn(t, sockets)); n != 1 {
			t.Fatalf("%d sockets while it serves", n)
		}
		pid := p.Status().PID
		begin := time.Now()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(begin))
		if err := <-ended; err == nil {
			t.Error("the watch ended without an error")
		}
		if left := socketsIn(t, sockets); len(left) > 0 {
			t.Errorf("sockets are left: %v", left)
		}
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is left: %v", pid, err)
		}
		if best < limit {
			t.Logf("Close took %v", best)
			return
		}
	}
	t.Errorf("Close took %v at best, the limit is %v", best, limit)
}

// R33, R5: a plugin that is stopped is taken for stuck and replaced.
func TestR33StoppedPluginIsReplaced(t *testing.T) {
	t.Parallel()
	pl := pluginOn(t, suiteOptions(t))
	pl.CallTimeout = patience
	p := start(t, pl, socketDir(t))
	put(t, p, "k", "v")
	pid := p.Status().PID
	begin := time.Now()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if e, err := p.Get(t.Context(), id(t, "k"), 0); err != nil || string(e.Value) != "v" {
		t.Errorf("the read behind it: %q, %v", e.Value, err)
	}
	if now := p.Status().PID; now == pid || now == 0 {
		t.Errorf("process %d serves, it was %d", now, pid)
	}
	t.Logf("served again within %v", time.Since(begin))
}

// R33, R8, R10, R28: a plugin is replaced under load, ten times: the next
// process opens the same store while this one serves, calls move over, this one
// drains. No call fails, and a watch sees each change once.
func TestR33ReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	const swaps, workers, writesEach = 10, 16, 20
	options, sockets := suiteOptions(t), socketDir(t)
	options.(map[string]any)["change_limit"] = 100_000
	pl := pluginOn(t, options)
	pl.CallTimeout = patience

	// What the service's table of routes does: who holds a reference is waited for.
	type mounted struct {
		*pluginhost.Process
		users sync.WaitGroup
	}
	var mu sync.Mutex
	current := &mounted{Process: start(t, pl, sockets)}
	hold := func() *mounted {
		mu.Lock()
		defer mu.Unlock()
		current.users.Add(1)
		return current
	}
	with := func(f func(*pluginhost.Process) error) error {
		m := hold()
		defer m.users.Done()
		return f(m.Process)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var calls atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := with(func(p *pluginhost.Process) error {
					_, err := p.Get(t.Context(), id(t, "other"), 0)
					if errors.Is(err, config.NotFound) {
						err = nil
					}
					return err
				})
				calls.Add(1)
				if err != nil {
					t.Errorf("a call failed: %v", err)
					return
				}
			}
		})
	}

	const total = swaps * writesEach
	var seen []uint64
	var position string
	watched := make(chan error, 1)
	go func() {
		for len(seen) < total {
			mu.Lock()
			p := current.Process
			mu.Unlock()
			err := p.Watch(ctx, driver.WatchRequest{Tenant: id(t, "k").Tenant, KeyPrefix: "counted", After: position}, func(e driver.Event) error {
				position = e.Position
				if e.Kind == driver.EventPut {
					seen = append(seen, e.Entry.Version)
				}
				if len(seen) == total {
					return errEnough
				}
				return nil
			})
			// The watch of a process that ends is resumed on the next.
			if !errors.Is(err, errEnough) && !errors.Is(err, config.Unavailable) && !errors.Is(err, config.FailedPrecondition) {
				watched <- err
				return
			}
		}
		watched <- nil
	}()

	for range swaps {
		for range writesEach {
			if err := with(func(p *pluginhost.Process) error {
				_, err := p.Put(t.Context(), driver.PutRequest{ID: id(t, "counted"), Value: []byte("x")})
				return err
			}); err != nil {
				t.Fatalf("a write failed: %v", err)
			}
		}
		next := &mounted{Process: start(t, pl, sockets)}
		mu.Lock()
		old := current
		current = next
		mu.Unlock()
		old.users.Wait()
		if err := old.Close(); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-watched:
		if err != nil {
			t.Errorf("the watch: %v", err)
		}
	case <-time.After(patience):
		t.Error("the watch did not see everything")
		cancel()
		t.Logf("it ended with %v", <-watched)
	}
	cancel()
	wg.Wait()
	for i, version := range seen {
		if version != uint64(i)+1 {
			t.Fatalf("the watch saw version %d as number %d", version, i+1)
		}
	}
	t.Logf("%d calls and %d writes over %d replacements, %d changes seen", calls.Load(), total, swaps, len(seen))
}

var errEnough = errors.New("enough")

// R33: pinned by its digest, the one file of the plugin runs as any program does.
func TestR33PinnedProgram(t *testing.T) {
	t.Parallel()
	pl := pluginOn(t, suiteOptions(t))
	content, err := os.ReadFile(pl.Path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	pl.SHA256 = hex.EncodeToString(sum[:])
	p := start(t, pl, socketDir(t))
	put(t, p, "k", "v")

	pl.SHA256 = strings.Repeat("0", len(pl.SHA256))
	other, err := pluginhost.Start(t.Context(), pl, pluginhost.Options{SocketDir: socketDir(t), Dev: true, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, config.FailedPrecondition) {
		t.Errorf("with another digest: %v, %v", other, err)
	}
}

// R33: values near the message limit cross, and a batch of them in several answers.
func TestR33LargeValues(t *testing.T) {
	t.Parallel()
	p := start(t, pluginOn(t, map[string]any{"path": filepath.Join(t.TempDir(), "store.db"), "max_value": 8 << 20}), socketDir(t))
	large := strings.Repeat("v", 8<<20)
	put(t, p, "large", large)
	var ids []config.ID
	for i := range 4 {
		key := fmt.Sprint("k", i)
		put(t, p, key, large[:2<<20])
		ids = append(ids, id(t, key))
	}
	if e, err := p.Get(t.Context(), id(t, "large"), 0); err != nil || string(e.Value) != large {
		t.Errorf("%d bytes, %v", len(e.Value), err)
	}
	results, err := p.BatchGet(t.Context(), ids)
	if err != nil || len(results) != len(ids) {
		t.Fatalf("%d results, %v", len(results), err)
	}
	for _, r := range results {
		if r.Err != nil || len(r.Entry.Value) != 2<<20 {
			t.Errorf("%d bytes, %v", len(r.Entry.Value), r.Err)
		}
	}
	_, err = p.Put(t.Context(), driver.PutRequest{ID: id(t, "large"), Value: []byte(large + "v")})
	if err == nil {
		t.Error("a value above the limit was taken")
	}
}

// R33, R23: what is wrong with the options, or the file, is said in full.
func TestR33StartErrors(t *testing.T) {
	t.Parallel()
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(damaged, bytes.Repeat([]byte("not a database, "), 1024), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		options string
		code    config.Code
		says    []string
	}{
		"all at once": {`{"pth": "secret-value", "max_value": "large", "history_limit": 0}`, config.InvalidArgument, []string{
			`unknown option "pth"`, `option "path" is missing`, `option "max_value" must be a whole number`, `option "history_limit" must be between 1 and 1000000`,
		}},
		"twice":          {`{"path": "a", "path": "b"}`, config.InvalidArgument, []string{`option "path" stands twice`}},
		"true is no one": {`{"path": "a", "max_value": true}`, config.InvalidArgument, []string{`must be a whole number`}},
		"no such folder": {`{"path": "/nonexistent/store.db"}`, config.FailedPrecondition, []string{"can not be opened"}},
		"damaged":        {string(marshal(t, map[string]any{"path": damaged})), config.DataLoss, []string{"damaged"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := pluginhost.Start(t.Context(), pluginhost.Plugin{Name: "under-test", Path: program(t), Options: []byte(c.options)},
				pluginhost.Options{SocketDir: socketDir(t), StartTimeout: patience, Dev: true, Logger: slog.New(slog.DiscardHandler)})
			if err == nil {
				p.Close()
				t.Fatal("it started")
			}
			if !errors.Is(err, c.code) {
				t.Errorf("code %s: %v", config.CodeOf(err), err)
			}
			for _, text := range c.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q is not in: %v", text, err)
				}
			}
			if strings.Contains(err.Error(), "secret-value") {
				t.Errorf("a value is shown: %v", err)
			}
		})
	}
}

// byHand starts the program as a host does, without one, and returns it behind
// its first line.
func byHand(t *testing.T, command func(ctx context.Context, program string) *exec.Cmd) (*exec.Cmd, string, *bufio.Reader) {
	t.Helper()
	dir := socketDir(t)
	cmd := command(t.Context(), program(t))
	cmd.Env = []string{"TAGSTORE_PLUGIN_COOKIE=4f0c3b1e-backend", "PLUGIN_PROTOCOL_VERSIONS=1", "PLUGIN_UNIX_SOCKET_DIR=" + dir}
	cmd.Stderr = t.Output()
	cmd.WaitDelay = patience
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadString('\n')
	parts := strings.Split(strings.TrimSuffix(line, "\n"), "|")
	if err != nil || len(parts) != 6 || strings.Join(parts[:3], "|") != "1|1|unix" || filepath.Dir(parts[3]) != dir || parts[4] != "grpc" || parts[5] != "" {
		t.Fatalf("the handshake is %q, %v", line, err)
	}
	if info, err := os.Stat(parts[3]); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	return cmd, parts[3], lines
}

func directly(ctx context.Context, program string) *exec.Cmd {
	return exec.CommandContext(ctx, program)
}

// R33: the plugin ends with 0 and takes its socket along, when it is asked to in
// either way.
func TestR33EndsWhenTold(t *testing.T) {
	t.Parallel()
	for name, tell := range map[string]func(*testing.T, *exec.Cmd, string){
		"SIGTERM": func(t *testing.T, cmd *exec.Cmd, _ string) {
			t.Helper()
			// Ctrl-C is the host's to handle.
			for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
				if err := cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
			}
		},
		"Shutdown": func(t *testing.T, _ *exec.Cmd, socket string) {
			t.Helper()
			conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.Invoke(t.Context(), "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd, socket, _ := byHand(t, directly)
			tell(t, cmd, socket)
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
			if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the socket is left: %v", err)
			}
		})
	}
}

// R33, R18: a plugin whose host is gone ends by itself.
func TestR33OrphanEnds(t *testing.T) {
	t.Parallel()
	host, socket, stdout := byHand(t, func(ctx context.Context, program string) *exec.Cmd {
		return exec.CommandContext(ctx, "/bin/sh", "-c", `"$0" & wait`, program)
	})
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	// Both held the other end of this pipe.
	if rest, err := stdout.ReadString(0); rest != "" {
		t.Errorf("behind the handshake it printed %q, %v", rest, err)
	}
	took := time.Since(begin)
	var exit *exec.ExitError
	if err := host.Wait(); !errors.As(err, &exit) {
		t.Errorf("the host ended with %v", err)
	}
	if limit := 10 * time.Second; took > limit { // it looks every second; the machine may be busy
		t.Errorf("it ended within %v, the limit is %v", took, limit)
	}
	t.Logf("ended %v behind its host, which had %s", took, filepath.Base(socket))
}

// R33: started by anybody but a host, it says what it is.
func TestR33StartedByHand(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env  []string
		code int
		says string
	}{
		"no cookie":       {nil, 2, `storage plugin 'sqlite'`},
		"another cookie":  {[]string{"TAGSTORE_PLUGIN_COOKIE=x"}, 2, `storage plugin 'sqlite'`},
		"no folder":       {[]string{"TAGSTORE_PLUGIN_COOKIE=4f0c3b1e-backend"}, 1, "PLUGIN_UNIX_SOCKET_DIR is not set"},
		"mutual TLS":      {[]string{"TAGSTORE_PLUGIN_COOKIE=4f0c3b1e-backend", "PLUGIN_CLIENT_CERT=x"}, 1, "mutual TLS"},
		"a path too long": {[]string{"TAGSTORE_PLUGIN_COOKIE=4f0c3b1e-backend", "PLUGIN_UNIX_SOCKET_DIR=/" + strings.Repeat("x", 100)}, 1, "the system's limit is"},
		"a relative path": {[]string{"TAGSTORE_PLUGIN_SOCKET=x.sock"}, 1, "not an absolute path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), program(t))
			cmd.Env = append([]string{}, c.env...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			var exit *exec.ExitError
			if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != c.code {
				t.Errorf("it ended with %v, want exit code %d", err, c.code)
			}
			if stdout.Len() > 0 {
				t.Errorf("on standard output it printed %q", stdout.String())
			}
			if !strings.Contains(stderr.String(), c.says) {
				t.Errorf("%q is not in %q", c.says, stderr.String())
			}
		})
	}
}

// message returns one of the protocol's messages with fields set.
func message(t *testing.T, name string, fields map[string]any) *dynamicpb.Message {
	t.Helper()
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("tagstore.backend.v1." + name))
	if err != nil {
		t.Fatal(err)
	}
	m := dynamicpb.NewMessage(d.(protoreflect.MessageDescriptor))
	for field, value := range fields {
		m.Set(m.Descriptor().Fields().ByName(protoreflect.Name(field)), protoreflect.ValueOf(value))
	}
	return m
}

// R33, R34: run by somebody else, it serves on the socket that it is told, for
// whoever comes with the same options, and takes over from a process that died.
func TestR33Standalone(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(socketDir(t), "alone.sock")
	alone := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), program(t))
		cmd.Env = []string{"TAGSTORE_PLUGIN_SOCKET=" + socket}
		cmd.WaitDelay = patience
		return cmd
	}
	serve := func() (*exec.Cmd, func(method string, request, answer proto.Message) error) {
		cmd := alone()
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		t.Cleanup(cancel)
		check, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: "plugin"}, grpc.WaitForReady(true))
		if err != nil || check.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Fatalf("its health is %v, %v", check, err)
		}
		return cmd, func(method string, request, answer proto.Message) error {
			return conn.Invoke(ctx, "/tagstore.backend.v1.BackendService/"+method, request, answer)
		}
	}
	first, _ := serve()
	var exit *exec.ExitError
	if out, err := alone().CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "another process listens") {
		t.Errorf("a second one: %v, %s", err, out)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); !errors.As(err, &exit) {
		t.Errorf("the first ended with %v", err)
	}
	cmd, call := serve() // where the first one's socket is left

	d := message(t, "DescribeResponse", nil)
	if err := call("Describe", message(t, "DescribeRequest", nil), d); err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(d); !strings.Contains(text, `features:"reconfigure"`) || !strings.Contains(text, `name:"sqlite"`) {
		t.Errorf("it describes itself as %s", text)
	}
	path := filepath.Join(t.TempDir(), "store.db")
	configure := func(options string) codes.Code {
		return status.Code(call("Configure", message(t, "ConfigureRequest", map[string]any{"options": []byte(options)}), message(t, "ConfigureResponse", nil)))
	}
	for _, c := range []struct {
		options string
		want    codes.Code
	}{
		{`{}`, codes.InvalidArgument},
		{fmt.Sprintf(`{"path": %q, "max_value": 10}`, path), codes.OK}, // behind one that failed
		{fmt.Sprintf(`{ "max_value":10, "path":%q}`, path), codes.OK},
		{fmt.Sprintf(`{"path": %q}`, path), codes.FailedPrecondition},
		{fmt.Sprintf(`{"path": %q, "max_value": 11}`, path), codes.FailedPrecondition},
	} {
		if got := configure(c.options); got != c.want {
			t.Errorf("Configure with %s: %v, want %v", c.options, got, c.want)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}
