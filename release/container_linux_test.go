package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// deadline is far beyond what anything here takes.
const deadline = 60 * time.Second

// containerVariable has a container as JSON: the test program that finds it set
// becomes what runs in there.
const containerVariable = "TAGSTORE_TEST_CONTAINER"

func init() {
	if text := os.Getenv(containerVariable); text != "" {
		var c container
		err := json.Unmarshal([]byte(text), &c)
		if err == nil {
			err = c.enter()
		}
		fmt.Fprintln(os.Stderr, "container:", err)
		os.Exit(125)
	}
}

// container is a tree that runs as an engine would run it: with mounts and
// processes of its own, the root read-only, without any capability.
type container struct {
	Root string
	// Writable are the folders that something is mounted on, with the owner and
	// the mode that the tree has there, as a new volume gets them.
	Writable []string
	User     int
	Args     []string
	Env      []string
}

// enter becomes the container's first process. It returns only if that fails.
func (c container) enter() error {
	runtime.LockOSThread()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private: %w", err)
	}
	if err := syscall.Mount(c.Root, c.Root, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	for _, dir := range c.Writable {
		at := filepath.Join(c.Root, dir)
		var stat syscall.Stat_t
		if err := syscall.Stat(at, &stat); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		options := fmt.Sprintf("mode=%o,uid=%d,gid=%d", stat.Mode&0o7777, stat.Uid, stat.Gid)
		if err := syscall.Mount("tmpfs", at, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, options); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	if err := syscall.Mount("proc", filepath.Join(c.Root, "proc"), "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	if err := syscall.Mount("tmpfs", filepath.Join(c.Root, "dev"), "tmpfs", syscall.MS_NOSUID, "mode=755"); err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	for _, device := range []string{"null", "urandom"} {
		at := filepath.Join(c.Root, "dev", device)
		if err := os.WriteFile(at, nil, 0o600); err != nil {
			return err
		}
		if err := syscall.Mount("/dev/"+device, at, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", device, err)
		}
	}
	if err := syscall.Mount("", c.Root, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("read-only: %w", err)
	}
	if err := syscall.Chroot(c.Root); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	const dropFromBounds = 24 // PR_CAPBSET_DROP, for this thread, which is the one that goes on
	for capability := uintptr(0); ; capability++ {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, dropFromBounds, capability, 0); errno == syscall.EINVAL {
			break // behind the last one
		} else if errno != 0 {
			return fmt.Errorf("capabilities: %w", errno)
		}
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(c.User), syscall.Setuid(c.User)); err != nil {
		return fmt.Errorf("user: %w", err)
	}
	return fmt.Errorf("%s: %w", c.Args[0], syscall.Exec(c.Args[0], c.Args, c.Env))
}

// running is a container that was started.
type running struct {
	container
	cmd    *exec.Cmd
	out    *lines
	exited chan struct{}
	err    error // once exited
}

// lines is what a process has printed so far.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// start starts a container, which ends with the test at the latest. It needs
// root: where there is none the test is skipped, or fails where CI=true.
func (c container) start(t *testing.T) *running {
	t.Helper()
	if os.Geteuid() != 0 {
		unable(t, "only root can run a tree as another user")
	}
	spec, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{container: c, out: &lines{}, exited: make(chan struct{})}
	r.cmd = exec.Command("/proc/self/exe")
	r.cmd.Env = []string{containerVariable + "=" + string(spec)}
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL}
	// The signal of a parent's death is of the thread that started it.
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := r.cmd.Start()
		started <- err
		if err == nil {
			r.err = r.cmd.Wait()
			close(r.exited)
		}
	}()
	if err := <-started; errors.Is(err, syscall.EPERM) {
		unable(t, "this root can make no container")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // with all that is in there; it has ended, if all was well
		<-r.exited
	})
	return r
}

func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why + ", so this test shows nothing here")
	}
	t.Skip(why)
}

// end waits until the container's first process ends, and returns its exit code.
func (r *running) end(t *testing.T) int {
	t.Helper()
	select {
	case <-r.exited:
		return r.cmd.ProcessState.ExitCode()
	case <-time.After(deadline):
		t.Fatalf("%s does not end\n%s", r.Args[0], r.out)
		return 0
	}
}

// stop has it end as an engine does.
func (r *running) stop(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if code := r.end(t); code != 0 {
		t.Errorf("%s ends with %d\n%s", r.Args[0], code, r.out)
	}
}

// ready waits for the log line with the bound addresses and returns these.
func (r *running) ready(t *testing.T) map[string]string {
	t.Helper()
	for began := time.Now(); time.Since(began) < deadline; {
		for line := range strings.Lines(r.out.String()) {
			fields := map[string]any{}
			if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == "ready" {
				addresses := map[string]string{}
				for name, v := range fields {
					addresses[name] = fmt.Sprint(v)
				}
				return addresses
			}
		}
		select {
		case <-r.exited:
			t.Fatalf("%s ended: %v\n%s", r.Args[0], r.err, r.out)
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Fatalf("%s is not ready\n%s", r.Args[0], r.out)
	return nil
}

// status returns a field of /proc/PID/status.
func status(t *testing.T, pid int, field string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); name == field {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	t.Fatalf("process %d has no %s", pid, field)
	return ""
}
