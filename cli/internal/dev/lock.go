package dev

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tagstore/tagstore/core/config"
)

// runPrefix is what the names of temporary folders of a system start with.
const runPrefix = "tagstore-dev-"

// owner is what the lock file says of its holder.
type owner struct {
	PID int `json:"pid"`
	// Run is the temporary folder for sockets.
	Run string `json:"run"`
}

// lock is the exclusive right to a folder. The kernel gives it back when the
// process ends, however it ends, so a lock is never stale.
type lock struct {
	file *os.File
	run  string
}

// acquire takes the lock of a folder and makes a temporary folder, short
// enough for sockets. What an earlier holder left of its own is removed.
func acquire(dir string) (*lock, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unusable(dir, err)
	}
	var before owner
	text, _ := io.ReadAll(io.LimitReader(f, 4<<10))
	_ = json.Unmarshal(text, &before) // a new file is empty
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, unusable(dir, err)
		}
		return nil, config.Errorf(config.FailedPrecondition, "tagctl dev already runs on %s, as process %d", dir, before.PID).
			WithHint("use that one, stop it with Ctrl-C, or set %s to another folder", DirVariable)
	}
	l := &lock{file: f}
	if strings.HasPrefix(filepath.Base(before.Run), runPrefix) {
		_ = os.RemoveAll(before.Run) // its owner was killed; what can not be removed is not ours any more
	}
	if err := l.claim(); err != nil {
		l.release()
		return nil, unusable(dir, err)
	}
	return l, nil
}

func (l *lock) claim() error {
	run, err := os.MkdirTemp("", runPrefix)
	if err != nil {
		return err
	}
	l.run = run
	text, err := json.Marshal(owner{PID: os.Getpid(), Run: run})
	if err != nil {
		return err
	}
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err = l.file.WriteAt(append(text, '\n'), 0)
	return err
}

// release removes the temporary folder and gives the lock back. The file
// stays: a file that is removed and made anew could be locked twice.
func (l *lock) release() {
	if l.run != "" {
		_ = os.RemoveAll(l.run)
	}
	l.file.Close()
}

func unusable(dir string, err error) error {
	return config.Errorf(config.FailedPrecondition, "the folder %s can not be used: %v", dir, err).
		WithHint("make it writable, or set %s to another folder", DirVariable).WithCause(err)
}
