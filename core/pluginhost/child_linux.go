package pluginhost

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// processAttributes gives the plugin a process group of its own, and has the
// kernel kill it when the thread that started it ends (prctl(2),
// PR_SET_PDEATHSIG): start it from a thread that lives as long as it may.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitExit returns when the process has ended, and leaves it unreaped, so that
// its number still belongs to its process group and to nobody else.
func awaitExit(pid int) {
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
}

// renouncePrivileges has the kernel grant nothing to what the calling thread
// starts: no set-user-ID bit and no file capability counts (prctl(2),
// PR_SET_NO_NEW_PRIVS). It is inherited, and can not be taken back.
func renouncePrivileges() error {
	return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}

// oomAhead is by how much a plugin is chosen before its host when memory runs
// out (proc_pid_oom_score_adj(5)), oomMost what the kernel takes.
const (
	oomAhead = 500
	oomMost  = 1000
)

// restrain sets the limits of a process. It may be called again.
func restrain(pid int, l Limits) error {
	var failed []error
	if err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil {
		failed = append(failed, os.NewSyscallError("prlimit RLIMIT_CORE", err))
	}
	if l.OpenFiles > 0 {
		var now unix.Rlimit
		err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &now)
		if err == nil {
			most := min(l.OpenFiles, now.Max) // only root may raise it
			err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most}, nil)
		}
		if err != nil {
			failed = append(failed, os.NewSyscallError("prlimit RLIMIT_NOFILE", err))
		}
	}
	host, err := os.ReadFile("/proc/self/oom_score_adj")
	if err == nil {
		own, _ := strconv.Atoi(string(bytes.TrimSpace(host)))
		score := strconv.Itoa(min(own+oomAhead, oomMost))
		err = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(score), 0)
	}
	if err != nil {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}
