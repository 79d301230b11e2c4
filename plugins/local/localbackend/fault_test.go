package localbackend

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Writing to a file that has lost its name would be acknowledged and then gone.
func TestDeletedFileTakesNoWrites(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"deleted":        os.Remove,
		"folder deleted": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"replaced": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.WriteFile(path, nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data", "store.db")
			s := openStore(t, Options{Path: path})
			a := id(t, "acme", "a")
			put(t, s, a, "1")
			if err := s.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := lose(path); err != nil {
				t.Fatal(err)
			}
			_, err := s.Put(t.Context(), driver.PutRequest{ID: a, Value: []byte("2")})
			wantCode(t, err, config.Unavailable)
			wantCode(t, s.Ping(t.Context()), config.Unavailable)
			wantValue(t, s, a, 0, "1")
		})
	}
}

func TestFileThatCameBackTakesWrites(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	a := id(t, "acme", "a")
	put(t, s, a, "1")
	if err := os.Rename(s.path, s.path+".away"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Put(t.Context(), driver.PutRequest{ID: a, Value: []byte("2")})
	wantCode(t, err, config.Unavailable)
	if err := os.Rename(s.path+".away", s.path); err != nil {
		t.Fatal(err)
	}
	put(t, s, a, "2")
}

// After a failed fsync nothing is acknowledged any more, and reads go on from
// what was.
func TestFailedFsyncEndsWrites(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	a := id(t, "acme", "a")
	for i := range 10 { // so that there are free pages and the file need not grow
		put(t, s, a, fmt.Sprint(i))
	}
	// Writes to /dev/null succeed, and fdatasync of it does not (fdatasync(2),
	// EINVAL).
	heal := replaceFile(t, s.path, "/dev/null")
	_, err := s.Put(t.Context(), driver.PutRequest{ID: a, Value: []byte("lost")})
	heal()
	wantCode(t, err, config.Unavailable)
	for range 2 {
		_, err = s.Put(t.Context(), driver.PutRequest{ID: a, Value: []byte("lost")})
		wantCode(t, err, config.FailedPrecondition)
		if !strings.Contains(err.Error(), "restart") {
			t.Errorf("%v: does not say what to do", err)
		}
	}
	wantCode(t, s.Ping(t.Context()), config.Unavailable)
	wantValue(t, s, a, 0, "9")

	path := s.path
	closeIt(t, s)
	s = openStore(t, Options{Path: path})
	wantValue(t, s, a, 0, "9")
	if e := put(t, s, a, "10"); e.Version != 11 {
		t.Errorf("version is %d, want 11", e.Version)
	}
}

// A page that can not be written, without an fsync that failed, costs that
// write only.
func TestFailedWriteHealsByItself(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	a := id(t, "acme", "a")
	for i := range 10 {
		put(t, s, a, fmt.Sprint(i))
	}
	heal := replaceFile(t, s.path, s.path) // opened for reading only
	_, err := s.Put(t.Context(), driver.PutRequest{ID: a, Value: []byte("lost")})
	wantCode(t, err, config.Unavailable)
	wantValue(t, s, a, 0, "9")
	heal()
	if e := put(t, s, a, "10"); e.Version != 11 {
		t.Errorf("version is %d, want 11", e.Version)
	}
}

// Where the last fsync of a commit fails, the commit is in the file but was
// never acknowledged: its outcome is unknown, and it is not served.
func TestFailedLastFsyncIsOutcomeUnknown(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	a := id(t, "acme", "a")
	put(t, s, a, "1")
	acked := s.acked.Load()
	put(t, s, a, "2")
	s.acked.Store(acked) // as if the commit had returned this error
	wantCode(t, s.commitFailed(syscall.EIO, s.newest()), config.OutcomeUnknown)
	_, err := s.Put(t.Context(), driver.PutRequest{ID: a, Value: []byte("3")})
	wantCode(t, err, config.FailedPrecondition)
	wantValue(t, s, a, 0, "1")
}

// replaceFile puts another file behind the descriptor that bbolt writes to,
// until the returned function is called. What bbolt has mapped stays.
func replaceFile(t *testing.T, path, other string) (heal func()) {
	t.Helper()
	fd := descriptor(t, path)
	saved, err := syscall.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	flags := os.O_RDONLY
	if other != path {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(other, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Dup3(int(f.Fd()), fd, syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := syscall.Dup3(saved, fd, syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		_ = syscall.Close(saved)
	}
}

func descriptor(t *testing.T, path string) int {
	t.Helper()
	const own = "/proc/self/fd"
	all, err := os.ReadDir(own)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if target, err := os.Readlink(filepath.Join(own, e.Name())); err == nil && target == path {
			fd, err := strconv.Atoi(e.Name())
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}
	}
	t.Fatalf("nothing has %s open", path)
	return -1
}
