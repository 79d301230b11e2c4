//go:build !linux

package lambdaruntime

import "syscall"

// processAttributes gives the program a group of its own, which keeps a Ctrl-C
// from it.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
