package latency

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
)

// filesRole makes the test binary serve files as a plugin instead of testing.
const filesRole = "files"

// filesOptions are those of the plugin.
type filesOptions struct {
	// Path is the folder, which has to be there.
	Path string `json:"path"`
}

// files is a store as the ones of AWS are: several processes can use it at once,
// none is told of what another one changes, and it can not be watched. Each
// value is a file, which a change replaces. It has the required methods only.
type files struct {
	dir    string
	tokens *driver.Sealer // of pages
	closed atomic.Bool
}

func openFiles(_ context.Context, o filesOptions) (driver.Backend, error) {
	if info, err := os.Stat(o.Path); err != nil || !info.IsDir() {
		return nil, config.Errorf(config.InvalidArgument, "path is not a folder").WithHint("make it first")
	}
	return &files{dir: o.Path, tokens: driver.NewSealer(driver.NewTokenKey())}, nil
}

// stored is what a file holds. Its name, a hash, does not tell whose it is.
type stored struct {
	ID                              string // as config.ID.Encode has it
	Value                           []byte
	ContentType, UpdatedBy, Message string
	Version                         uint64
	UpdatedAt                       time.Time
	Deleted                         bool
}

func (s stored) entry(id config.ID) config.Entry {
	return config.Entry{
		ID: id, Value: s.Value, ContentType: s.ContentType, Version: s.Version, Revision: config.Revision(s.UpdatedAt.Format(time.RFC3339Nano)),
		UpdatedAt: s.UpdatedAt, UpdatedBy: s.UpdatedBy, Message: s.Message, Deleted: s.Deleted,
	}
}

func (f *files) path(id config.ID) string {
	sum := sha256.Sum256([]byte(id.Encode()))
	return filepath.Join(f.dir, hex.EncodeToString(sum[:])+valueFile)
}

// valueFile is how the names of values end.
const valueFile = ".value"

// read returns the zero value for a file that never was.
func read(path string) (stored, error) {
	var s stored
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return stored{}, nil
	case err != nil:
		return stored{}, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return stored{}, config.Errorf(config.DataLoss, "the file can not be read")
	}
	if s.Value == nil && !s.Deleted {
		s.Value = []byte{}
	}
	return s, nil
}

// Get implements driver.Backend. Only the latest version is kept.
func (f *files) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	if err := f.open(ctx); err != nil {
		return config.Entry{}, err
	}
	s, err := read(f.path(id))
	switch {
	case err != nil:
		return config.Entry{}, err
	case s.Version == 0 || s.Deleted || version != 0 && version != s.Version:
		return config.Entry{}, config.Errorf(config.NotFound, "there is no such value")
	}
	return s.entry(id), nil
}

// List implements driver.Backend. A page token holds the last key of the page.
func (f *files) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	if err := f.open(ctx); err != nil {
		return driver.Page{}, err
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, err
	}
	scope, last := []string{r.Tenant.String(), r.Service.String(), r.KeyPrefix}, ""
	if r.PageToken != "" {
		if last, err = f.tokens.Open(r.PageToken, scope...); err != nil {
			return driver.Page{}, err
		}
	}
	names, err := os.ReadDir(f.dir)
	if err != nil {
		return driver.Page{}, err
	}
	var all []config.Entry
	for _, n := range names {
		if !strings.HasSuffix(n.Name(), valueFile) {
			continue // the lock, or a value on its way in
		}
		s, err := read(filepath.Join(f.dir, n.Name()))
		if err != nil {
			return driver.Page{}, err
		}
		id, err := config.DecodeID(s.ID)
		if err != nil {
			return driver.Page{}, err
		}
		if !s.Deleted && id.Tenant == r.Tenant && id.Service == r.Service && strings.HasPrefix(id.Key.String(), r.KeyPrefix) && id.Key.String() > last {
			all = append(all, s.entry(id))
		}
	}
	slices.SortFunc(all, func(a, b config.Entry) int { return strings.Compare(a.ID.Key.String(), b.ID.Key.String()) })
	bytes := 0
	var page driver.Page
	for _, e := range all {
		if bytes += len(e.Value); len(page.Entries) == size || len(page.Entries) > 0 && bytes > driver.MaxPageBytes {
			page.NextPageToken = f.tokens.Seal(page.Entries[len(page.Entries)-1].ID.Key.String(), scope...)
			break
		}
		page.Entries = append(page.Entries, e)
	}
	return page, nil
}

// Put implements driver.Backend.
func (f *files) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	if r.ContentType == "" {
		r.ContentType = config.ContentTypeJSON
	}
	return f.write(ctx, r.ID, r.Expect, stored{Value: r.Value, ContentType: r.ContentType, UpdatedBy: r.UpdatedBy, Message: r.Message})
}

// Delete implements driver.Backend.
func (f *files) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	return f.write(ctx, r.ID, r.Expect, stored{UpdatedBy: r.UpdatedBy, Message: r.Message, Deleted: true})
}

// write makes the next version, of one process at a time.
func (f *files) write(ctx context.Context, id config.ID, expect driver.Expect, next stored) (config.Entry, error) {
	lock, err := os.OpenFile(filepath.Join(f.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return config.Entry{}, err
	}
	defer lock.Close() // which unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return config.Entry{}, err
	}
	if err := f.open(ctx); err != nil {
		return config.Entry{}, err
	}
	was, err := read(f.path(id))
	live := was.Version > 0 && !was.Deleted
	switch {
	case err != nil:
		return config.Entry{}, err
	case next.Deleted && !live:
		return config.Entry{}, config.Errorf(config.NotFound, "there is no such value")
	case !expect.Match(was.Version, live):
		return config.Entry{}, config.Errorf(config.Conflict, "the expected version is not the current one").WithVersion(was.Version)
	}
	next.ID, next.Version, next.UpdatedAt = id.Encode(), was.Version+1, time.Now().UTC()
	text, err := json.Marshal(next)
	if err != nil {
		return config.Entry{}, err
	}
	path := f.path(id)
	if err := errors.Join(os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path)); err != nil {
		return config.Entry{}, err
	}
	e := next.entry(id)
	e.Value = nil
	return e, nil
}

// Close implements driver.Backend.
func (f *files) Close() error {
	f.closed.Store(true)
	return nil
}

// open is what every call begins with.
func (f *files) open(ctx context.Context) error {
	if f.closed.Load() {
		return config.Errorf(config.FailedPrecondition, "the store is closed")
	}
	return ctx.Err()
}

// What the freshness suites measure on is a store as the contract has it.
func TestFilesKeepTheContract(t *testing.T) {
	drivertest.Run(t, drivertest.Caps{}, func(t testing.TB) *drivertest.Harness {
		dir := t.TempDir()
		open := func() (driver.Backend, error) { return openFiles(context.Background(), filesOptions{Path: dir}) }
		backend, err1 := open()
		peer, err2 := open()
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return &drivertest.Harness{Backend: backend, Peer: peer, Reopen: open}
	})
}
