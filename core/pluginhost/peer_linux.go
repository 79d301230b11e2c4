package pluginhost

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// checkPeer refuses a connection whose other end was not opened by this user
// and, unless group is 0, by a process of that group (unix(7), SO_PEERCRED).
func checkPeer(conn net.Conn, group int) error {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return &foreignError{}
	}
	uid, pid, err := peerOf(socket, "")
	if err != nil {
		return os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	if uid != os.Geteuid() {
		return &foreignError{pid, uid}
	}
	if group != 0 && pid != group {
		if of, err := unix.Getpgid(pid); err != nil || of != group {
			return &foreignError{pid, uid}
		}
	}
	return nil
}
