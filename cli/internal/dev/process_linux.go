package dev

import "syscall"

// processAttributes puts a process into a group of its own and ties its life
// to this process.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
