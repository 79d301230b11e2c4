package redisbackend

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
)

// shared is the server of the tests that disturb none.
var shared *server

// The kernel ends a server with the thread that started it: this one lives as
// long as the process.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if shared, err = startServer(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	shared.remove()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// server is a redis-server of the tests' own, on a socket and without a port.
type server struct {
	dir    string
	args   []string
	cmd    *exec.Cmd
	output bytes.Buffer
}

// startServer starts a server that keeps what it acknowledged.
func startServer(args ...string) (*server, error) {
	dir, err := os.MkdirTemp("", "tr") // the path of a socket must be short
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, args: args}
	if err := s.start(); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

func (s *server) socket() string  { return filepath.Join(s.dir, "redis.sock") }
func (s *server) address() string { return "unix://" + s.socket() }

// start starts it, again on the same data.
func (s *server) start() error {
	s.cmd = exec.Command("redis-server", append([]string{
		"--port", "0", "--unixsocket", s.socket(), "--unixsocketperm", "700", "--dir", s.dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", "always",
	}, s.args...)...)
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("the tests need redis-server, of the package redis-server: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket(), MaxRetries: -1})
	defer client.Close()
	for tick := time.Tick(5 * time.Millisecond); ; {
		err := client.Ping(ctx).Err()
		if err == nil || redis.HasErrorPrefix(err, "NOAUTH") {
			return nil
		}
		select {
		case <-tick:
		case <-ctx.Done():
			s.kill()
			return fmt.Errorf("redis-server does not answer: %w\n%s", err, s.output.String())
		}
	}
}

func (s *server) signal(sig syscall.Signal) error { return s.cmd.Process.Signal(sig) }

// kill ends it at once.
func (s *server) kill() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

func (s *server) remove() {
	s.kill()
	os.RemoveAll(s.dir)
}

// ownServer is for a test that disturbs it. It starts it on this goroutine, whose
// thread must not end before the test does.
func ownServer(t *testing.T, args ...string) *server {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	s, err := startServer(args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.remove)
	return s
}
