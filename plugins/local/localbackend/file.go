package localbackend

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// lockPoll is how often a held lock is tried again. flock has no wait with a
// bound.
const lockPoll = 20 * time.Millisecond

// openLocked returns the data file, open and locked for this process alone. It
// makes the file if there is none.
func openLocked(ctx context.Context, path string, wait time.Duration) (*os.File, error) {
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return nil, fileError(err, "the folder of %s can not be made", path)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(path); err != nil {
			return nil, fileError(err, "the data file %s can not be made", path)
		}
	case err != nil:
		return nil, fileError(err, "the data file %s can not be opened", path)
	case !info.Mode().IsRegular():
		return nil, config.Errorf(config.InvalidArgument, "%s is not a regular file", path).
			WithHint("let path name a file, not a folder or a device")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0) // 0: it is there
	if err != nil {
		return nil, fileError(err, "the data file %s can not be opened", path)
	}
	if err := lock(ctx, f, wait); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lock takes the lock that bbolt takes as well, so that nobody writes while the
// file is looked through. bbolt finds it held by its own descriptor.
func lock(ctx context.Context, f *os.File, wait time.Duration) error {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fileError(err, "the data file %s can not be locked", f.Name())
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			return config.Errorf(config.FailedPrecondition, "%s holds %s", holder(f), f.Name()).
				WithHint("stop it or choose another path")
		case <-ctx.Done():
			return contextError(ctx)
		}
	}
}

// holder names the process that holds the lock, as far as /proc/locks tells.
func holder(f *os.File) string {
	const unknown = "another process"
	info, err := f.Stat()
	if err != nil {
		return unknown
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return unknown
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return unknown
	}
	defer locks.Close()
	// "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF": process, then device
	// and inode (proc_locks(5)).
	dev := uint64(st.Dev) //nolint:unconvert // it is of another type on other systems
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	file := fmt.Sprintf("%02x:%02x:%d", major, minor, st.Ino)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || fields[5] != file {
			continue
		}
		switch pid, err := strconv.Atoi(fields[4]); {
		case err != nil || pid <= 0:
			return unknown
		case pid == os.Getpid():
			return "this process already"
		default:
			return fmt.Sprintf("another process (%d)", pid)
		}
	}
	return unknown
}

// create makes a complete, empty store under another name and links it to
// path: path is there whole or not at all, and of two processes one wins.
func create(path string) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	defer tmp.Close()
	db, err := bbolt.Open(tmp.Name(), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	err = errors.Join(db.Update(initialise), db.Close())
	if err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(dir)
}

// initialise writes what every data file has.
func initialise(tx *bbolt.Tx) error {
	for _, name := range tallied {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	b, err := tx.CreateBucket([]byte(tableMeta))
	if err != nil {
		return err
	}
	format := le.AppendUint32(nil, formatVersion)
	format = append(format, driver.NewTokenKey()[:fileIDSize]...)
	var empty state
	for _, r := range []struct{ key, content []byte }{
		{keyFormat, format},
		{keyTokens, driver.NewTokenKey()},
		{keyState, empty.encode()},
	} {
		if err := b.Put(r.key, seal(tableMeta, r.key, r.content)); err != nil {
			return err
		}
	}
	return nil
}

// makeFolder makes dir and what is missing over it, each durable.
func makeFolder(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeFolder(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(parent)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// contents is what the file holds, as far as Open needs it.
type contents struct {
	fileID   string
	tokenKey []byte
	state    state
	damaged  int // records whose content alone is damaged
}

// examine looks through the whole file and returns its contents, or an error
// for a file that is not to be used.
func examine(name string, r io.ReaderAt, size int64) (contents, error) {
	refuse := func(why error) error {
		return config.Errorf(config.DataLoss, "the data file %s is damaged: %w", name, why).
			WithHint("restore it from a backup; to start empty instead, move it away")
	}
	var (
		c     contents
		metas = make(map[string][]byte)
		found [len(tallied)]tally
	)
	err := inspect(r, size, func(bucket string, key, value []byte) error {
		content, err := unseal(tableName(bucket), key, value)
		if bucket == string(tableMeta) {
			if err != nil {
				return err
			}
			metas[string(key)] = append([]byte(nil), content...)
			return nil
		}
		for i, table := range tallied {
			if bucket == string(table) {
				found[i].add(key)
			}
		}
		if err != nil {
			c.damaged++
		}
		return nil
	})
	if errors.Is(err, errForeign) {
		return contents{}, config.Errorf(config.FailedPrecondition, "%s is empty, cut short, or no data file of the local store", name).
			WithHint("let path name another file; if it held data, restore it from a backup")
	}
	if err != nil {
		return contents{}, refuse(err)
	}
	format := metas[string(keyFormat)]
	switch {
	case len(metas) == 0:
		return contents{}, config.Errorf(config.FailedPrecondition, "%s is a bbolt file without the settings of the local store: another program's, or damaged", name).
			WithHint("let path name another file; if it was this store's, restore it from a backup")
	case len(format) < 4:
		return contents{}, refuse(errDamaged)
	case le.Uint32(format) != formatVersion:
		return contents{}, config.Errorf(config.FailedPrecondition, "%s has format %d, and this plugin reads format %d", name, le.Uint32(format), formatVersion).
			WithHint("use the version of the plugin that wrote it")
	case len(format) != 4+fileIDSize:
		return contents{}, refuse(errDamaged)
	}
	c.fileID = fmt.Sprintf("%x", format[4:])
	if c.tokenKey = metas[string(keyTokens)]; len(c.tokenKey) != driver.TokenKeySize {
		return contents{}, refuse(errDamaged)
	}
	if c.state, err = decodeState(metas[string(keyState)]); err != nil {
		return contents{}, refuse(err)
	}
	for i, want := range c.state.tally {
		if found[i] != want {
			return contents{}, refuse(fmt.Errorf("the keys of table %s are not those that were written", tallied[i]))
		}
	}
	return c, nil
}

// fileError classifies what the operating system said about the file.
func fileError(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	var ours *config.Error
	switch {
	case errors.As(err, &ours):
		return err
	case outOfSpace(err):
		return config.Errorf(config.ResourceExhausted, "%s: there is no room: %w", what, err).
			WithHint("free some space or raise the quota or file size limit")
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return config.Errorf(config.FailedPrecondition, "%s: it is not writable for user %d: %w", what, os.Geteuid(), err).
			WithHint("give that user write access to the file and its folder, or choose another path")
	default:
		return config.Errorf(config.FailedPrecondition, "%s: %w", what, err).WithHint("choose another path")
	}
}

// outOfSpace reports whether err is one of the errors of a full disk. bbolt
// keeps only the text of an error where it grows the file.
func outOfSpace(err error) bool {
	for _, no := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, no) || strings.HasSuffix(err.Error(), no.Error()) {
			return true
		}
	}
	return false
}
