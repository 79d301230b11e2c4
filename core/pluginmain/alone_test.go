package pluginmain_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/handshake"
)

// alone is a plugin that no host started.
type alone struct {
	*exec.Cmd
	socket string
	ended  chan error

	mu  sync.Mutex
	log bytes.Buffer
}

func (a *alone) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log.Write(p)
}

func (a *alone) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log.String()
}

func runAlone(t *testing.T, socket string) *alone {
	t.Helper()
	a := &alone{Cmd: exec.Command(os.Args[0]), socket: socket, ended: make(chan error, 1)}
	a.Env = []string{role + "=plugin", handshake.SocketVariable + "=" + socket}
	a.Stderr = a
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { a.ended <- a.Wait() }()
	t.Cleanup(func() { _ = a.Process.Kill() })
	return a
}

// end waits for the end and returns the exit code.
func (a *alone) end(t *testing.T) int {
	t.Helper()
	select {
	case <-a.ended: //nolint:errcheck // the exit code says it
		return a.ProcessState.ExitCode()
	case <-time.After(20 * time.Second):
		t.Fatalf("it did not end; its log:\n%s", a.said())
		return -1
	}
}

// serves waits until the plugin answers its health check, and returns a
// connection to it.
func (a *alone) serves(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+a.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: "plugin"}, grpc.WaitForReady(true))
	if err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health is %v, %v; its log:\n%s", r, err, a.said())
	}
	return conn
}

func socketIn(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "p")
}

func TestR34ServesOnASocket(t *testing.T) {
	for name, signal := range map[string]os.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": os.Interrupt} {
		t.Run(name, func(t *testing.T) {
			a := runAlone(t, socketIn(t))
			c := backendv1.NewBackendServiceClient(a.serves(t))
			if info, err := os.Lstat(a.socket); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("the socket is %v, %v", info, err)
			}
			if _, err := c.Configure(t.Context(), &backendv1.ConfigureRequest{}); err != nil {
				t.Fatal(err)
			}
			stream, err := c.Watch(t.Context(), &backendv1.WatchRequest{Tenant: "t"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
			if err := a.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
				t.Errorf("the watch ended with %v", err)
			}
			if code := a.end(t); code != 0 {
				t.Errorf("it exits with %d; its log:\n%s", code, a.said())
			}
			if _, err := os.Lstat(a.socket); err == nil {
				t.Error("the socket is still there")
			}
			if !strings.Contains(a.said(), `"msg":"plugin serves"`) || !strings.Contains(a.said(), "unix://"+a.socket) {
				t.Errorf("its log is:\n%s", a.said())
			}
		})
	}
}

// What a killed one leaves behind keeps no other from starting.
func TestR34DeadSocketIsTakenOver(t *testing.T) {
	socket := socketIn(t)
	first := runAlone(t, socket)
	first.serves(t)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.end(t)
	if _, err := os.Lstat(socket); err != nil {
		t.Fatal("there is nothing to take over")
	}
	runAlone(t, socket).serves(t)
}

func TestR34TakenSocketIsRefused(t *testing.T) {
	t.Run("live", func(t *testing.T) {
		first := runAlone(t, socketIn(t))
		first.serves(t)
		second := runAlone(t, first.socket)
		if code := second.end(t); code != 1 || !strings.Contains(second.said(), "another process listens there") {
			t.Errorf("it exits with %d and says:\n%s", code, second.said())
		}
		first.serves(t)
	})
	t.Run("a file", func(t *testing.T) {
		socket := socketIn(t)
		if err := os.WriteFile(socket, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		a := runAlone(t, socket)
		if code := a.end(t); code != 1 || !strings.Contains(a.said(), "something else than a socket") {
			t.Errorf("it exits with %d and says:\n%s", code, a.said())
		}
		if left, _ := os.ReadFile(socket); string(left) != "precious" {
			t.Errorf("the file is %q", left)
		}
	})
}

// A host's cookie comes first: what it launches talks to it over its own socket.
func TestR34LaunchedPluginIgnoresTheVariable(t *testing.T) {
	socket := socketIn(t)
	c := program(t, role+"=plugin", cookie, handshake.SocketVariable+"="+socket)
	if line := firstLines(t, c, 1)[0]; !strings.HasPrefix(line, "1|1|unix|") || strings.Contains(line, socket) {
		t.Errorf("the handshake is %q", line)
	}
	if conn, err := net.Dial("unix", socket); err == nil {
		conn.Close()
		t.Error("it serves there too")
	}
}
