package pluginhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

const (
	// maxSocketPath is the longest path of a unix socket: sun_path without its
	// closing NUL (unix(7): 108 bytes; 104 on macOS and the BSDs).
	maxSocketPath = 103
	// socketName is how long the name is that go-plugin gives a socket.
	socketName = len("/plugin1234567890")

	baseName = "tagstore-sockets-"
	lockName = "tagstore-host.lock"
	// unheldName is the lock's until it is held.
	unheldName = lockName + ".new"

	// unlockedAge is how old a folder without a lock must be before it counts as
	// left over: a host that is just starting has one for a moment.
	unlockedAge = time.Minute
)

// socketBase is one host's private folder, which holds a folder for each
// launch. The host holds a lock on a file in it for as long as it lives, so that
// a later host can tell a folder that is left over, however its owner ended.
type socketBase struct {
	dir  string
	lock *os.File
	next atomic.Uint64

	images images // of the pinned programs that run here
}

// newSocketBase makes a base in parent ("" is os.TempDir) and removes those
// that dead hosts of this user left there.
func newSocketBase(parent string) (*socketBase, error) {
	if parent == "" {
		parent = os.TempDir()
	} else if err := makePrivate(parent); err != nil {
		return nil, err
	}
	sweep(parent)
	dir, err := os.MkdirTemp(parent, baseName)
	if err != nil {
		return nil, socketError(parent, err)
	}
	b := &socketBase{dir: dir, images: images{dir: dir}}
	if b.lock, err = lockDir(dir); err == nil {
		err = os.Chmod(dir, 0o700) //nolint:gosec // a folder; MkdirTemp's mode is subject to the umask
	}
	if err != nil {
		return nil, errors.Join(socketError(parent, err), b.remove())
	}
	return b, nil
}

// launchDir makes the folder of one launch.
func (b *socketBase) launchDir(plugin string) (string, error) {
	name := fmt.Sprintf("%.12s-%d", strings.Map(pathSafe, plugin), b.next.Add(1))
	dir := filepath.Join(b.dir, name)
	if n := len(dir) + socketName; n > maxSocketPath {
		return "", config.Errorf(config.FailedPrecondition,
			"the path of a plugin's socket would have %d bytes, the system's limit is %d", n, maxSocketPath).
			WithHint("use a shorter socket folder than %s", filepath.Dir(b.dir))
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", socketError(b.dir, err)
	}
	return dir, os.Chmod(dir, 0o700) //nolint:gosec // a folder
}

func pathSafe(r rune) rune {
	if r < 0x80 && r > ' ' && r != '/' && r != 0x7f {
		return r
	}
	return '_'
}

func (b *socketBase) remove() error {
	err := os.RemoveAll(b.dir)
	if b.lock != nil {
		b.lock.Close()
	}
	return err
}

// makePrivate creates dir, or checks that the one that is there is closed to
// others: whoever can write to it could put a socket of their own in place.
func makePrivate(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // the parents are not ours to close
		return socketError(dir, err)
	}
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = os.Chmod(dir, 0o700) //nolint:gosec // a folder
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return socketError(dir, err)
	}
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return socketError(dir, err)
	case !info.IsDir():
		return config.Errorf(config.FailedPrecondition, "the socket folder %s is not a folder", dir)
	case info.Mode().Perm()&0o077 != 0 || !ours(info):
		return config.Errorf(config.FailedPrecondition, "the socket folder %s is open to other users", dir).
			WithHint("make it this user's, with mode 0700")
	}
	return nil
}

// sweep removes what dead hosts left in parent. What it can not remove does no
// harm, so it reports nothing.
func sweep(parent string) {
	left, _ := filepath.Glob(filepath.Join(parent, baseName+"*"))
	for _, dir := range left {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || !ours(info) {
			continue
		}
		lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|syscall.O_NOFOLLOW, 0)
		if err != nil {
			// A host that died during its first steps leaves no more than this.
			if errors.Is(err, fs.ErrNotExist) && time.Since(info.ModTime()) > unlockedAge {
				_ = os.Remove(filepath.Join(dir, unheldName))
				_ = os.Remove(dir)
			}
			continue
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(dir)
		}
		lock.Close()
	}
}

// lockDir makes the lock of a folder. It gets its name only once it is held:
// another host's sweep would take one that is not for a dead host's.
func lockDir(dir string) (*os.File, error) {
	unheld := filepath.Join(dir, unheldName)
	f, err := os.OpenFile(unheld, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = os.Rename(unheld, filepath.Join(dir, lockName))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func ours(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Getuid()
}

func socketError(dir string, err error) error {
	return config.Errorf(config.FailedPrecondition, "no folder for plugin sockets could be made in %s: %w", dir, err).
		WithHint("it must be writable and on a local disk")
}
