package pluginhost

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxImageName is below what memfd_create(2) takes.
const maxImageName = 200

// newSealable returns an empty file without a name whose bytes can be sealed.
// It fails where the system has none that can be executed.
func newSealable(name string) (*os.File, error) {
	name = clip(name, maxImageName)
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 each can be executed
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// seal makes f what it is for good: nobody, root and this process included, can
// write to it, change its size or take the seals off.
func seal(f *os.File) error {
	if err := f.Chmod(0o500); err != nil {
		return err
	}
	_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	return os.NewSyscallError("fcntl F_ADD_SEALS", err)
}

// descriptorPath is a path that a child of this process executes f by.
func descriptorPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }
