//go:build unix && !linux

package dev

import "syscall"

// processAttributes puts a process into a group of its own. There is no way
// here to tie its life to this process.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
