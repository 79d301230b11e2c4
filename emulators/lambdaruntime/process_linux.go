package lambdaruntime

import "syscall"

// processAttributes makes the kernel end the program when this process dies
// (PR_SET_PDEATHSIG in prctl(2)). A group of its own keeps a Ctrl-C from it.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
