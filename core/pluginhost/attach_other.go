//go:build unix && !linux

package pluginhost

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// peerOf returns who owns the socket's file. Here there is no one way to ask the
// kernel who listens; whoever can replace the file owns the one that is there.
func peerOf(_ *net.UnixConn, path string) (uid, pid int, err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, errors.ErrUnsupported
	}
	return int(stat.Uid), 0, nil
}
