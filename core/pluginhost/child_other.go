//go:build unix && !linux

package pluginhost

import "syscall"

// processAttributes gives the plugin a process group of its own. There is no
// parent-death signal here: a plugin that loses its host notices by itself.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// awaitExit leaves the waiting to the reaping.
func awaitExit(int) {}

// renouncePrivileges is for Linux only.
func renouncePrivileges() error { return nil }

// restrain is for Linux only: elsewhere a process can not limit another.
func restrain(int, Limits) error { return nil }
