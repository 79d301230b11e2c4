//go:build unix

package main

import (
	"io/fs"
	"syscall"
)

// owner is the user whom a file belongs to.
func owner(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}
