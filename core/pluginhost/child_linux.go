package pluginhost

import (
	"errors"
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
