package pluginhost_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tagstore/tagstore/core/pluginhost"
)

// The bytes are sealed: not even this user can change them once they were
// verified.
func TestR12BytesAreSealed(t *testing.T) {
	pl, raw := pinned(t, pluginPath(t))
	start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	for _, fd := range sealedDescriptors(t) {
		f, err := os.OpenFile(fd, os.O_RDWR, 0)
		if errors.Is(err, syscall.ETXTBSY) { // it is being executed as well
			f, err = os.Open(fd)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
		if want := unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL; err != nil || seals&want != want {
			t.Errorf("its seals are %#x, %v", seals, err)
		}
		held, err := io.ReadAll(f)
		if err != nil || !bytes.Equal(held, raw) {
			t.Errorf("it holds %d bytes, %v", len(held), err)
		}
	}
}

// sealedDescriptors returns the paths of this process's descriptors of programs.
func sealedDescriptors(t testing.TB) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, fd := range all {
		if link, _ := os.Readlink(fd); strings.HasPrefix(link, "/memfd:") {
			out = append(out, fd)
		}
	}
	if len(out) == 0 {
		t.Fatal("no sealed file is open")
	}
	return out
}

// Each launch, the first and the next, is held to the limits.
func TestR17Limits(t *testing.T) {
	t.Parallel()
	pl := plugin(t)
	pl.Args = []string{"greedy"}
	pl.Limits = pluginhost.Limits{Memory: 256 << 20, CPUs: 2, OpenFiles: 333}
	p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t)})
	for n := range uint64(2) {
		pid := p.Status().PID
		read := func(name string) string {
			t.Helper()
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			if err != nil {
				t.Fatal(err)
			}
			return strings.Join(strings.Fields(string(text)), " ")
		}
		if status := read("status"); !strings.Contains(status, "NoNewPrivs: 1") {
			t.Errorf("status is %s", status)
		}
		limits := read("limits")
		for _, want := range []string{"Max open files 333 333 files", "Max core file size 0 0 bytes"} {
			if !strings.Contains(limits, want) {
				t.Errorf("limits have no %q: %s", want, limits)
			}
		}
		if got := read("oom_score_adj"); got != strconv.Itoa(ahead(t)) {
			t.Errorf("oom_score_adj is %s", got)
		}
		if got := probe(t, p, "pgid"); got != strconv.Itoa(pid) {
			t.Errorf("process group %s of %d", got, pid)
		}
		_, pairs := environment(t, p)
		for _, want := range []string{"GOMEMLIMIT=268435456", "GOMAXPROCS=2"} {
			if !slices.Contains(pairs, want) {
				t.Errorf("environment has no %s: %v", want, pairs)
			}
		}
		if n == 0 {
			kill(t, pid)
			restarted(t, p, 1)
		}
	}
	// The host keeps what it had.
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil || own.Cur == 333 {
		t.Errorf("this process's limit is %+v, %v", own, err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, err := os.ReadFile("/proc/thread-self/status")
	if err != nil || !strings.Contains(string(thread), "NoNewPrivs:\t0") {
		t.Error("this process gave up privileges, too")
	}
}

// Without limits in the manifest the process has its host's.
func TestR17NoLimits(t *testing.T) {
	t.Parallel()
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	names, _ := environment(t, p)
	if slices.Contains(names, "GOMEMLIMIT") || slices.Contains(names, "GOMAXPROCS") {
		t.Errorf("environment is %v", names)
	}
	var own, its unix.Rlimit
	if err := errors.Join(unix.Getrlimit(unix.RLIMIT_NOFILE, &own), unix.Prlimit(p.Status().PID, unix.RLIMIT_NOFILE, nil, &its)); err != nil {
		t.Fatal(err)
	}
	if its.Max != own.Max {
		t.Errorf("its limit is %+v, this process's %+v", its, own)
	}
}
