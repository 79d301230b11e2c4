//go:build unix && !linux

package pluginhost

import "syscall"

// Protect is for the start of a program that holds secrets and runs plugins.
// Here it sees to it that what the program creates is for its user alone (umask
// 077); only on Linux does it close the process to others of the same user.
func Protect() error {
	syscall.Umask(0o077)
	return nil
}
