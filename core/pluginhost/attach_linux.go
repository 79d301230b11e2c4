package pluginhost

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerOf returns who is at the other end of a connection, as the kernel noted it
// when that began to listen (unix(7), SO_PEERCRED). A process in another
// namespace has number 0.
func peerOf(conn *net.UnixConn, _ string) (uid, pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var credentials *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); controlErr != nil {
		err = controlErr
	}
	if err != nil {
		return 0, 0, err
	}
	return int(credentials.Uid), int(credentials.Pid), nil
}
