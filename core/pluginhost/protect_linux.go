package pluginhost

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Protect is for the start of a program that holds secrets and runs plugins. It
// closes the process to others of the same user, its plugins above all: they can
// not read its environment or its memory, and it leaves no core dump. What it
// creates from now on is for its user alone (umask 077).
//
// Nothing of this holds against root.
func Protect() error {
	syscall.Umask(0o077)
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_DUMPABLE", err)
	}
	return os.NewSyscallError("setrlimit RLIMIT_CORE", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
}
