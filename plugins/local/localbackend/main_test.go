package localbackend

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// childRole names the part that the test binary plays when a test starts it
// again as another process.
const childRole = "TAGSTORE_LOCAL_TEST_CHILD"

// children are those parts. Each gets the path of the data file and returns
// its exit code.
var children = map[string]func(path string) int{}

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(children[role](os.Args[1]))
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // damage is logged, and made here on purpose
	goleak.VerifyTestMain(m)
}

func tenant(t testing.TB, s string) config.Tenant {
	t.Helper()
	v, err := config.ParseTenant(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func id(t testing.TB, owner, key string) config.ID {
	t.Helper()
	k, err := config.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return config.ID{Tenant: tenant(t, owner), Key: k}
}

func tempFile(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "store.db")
}

func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	return openAt(t, o, time.Now)
}

func openAt(t testing.TB, o Options, now func() time.Time) *Store {
	t.Helper()
	if o.LockTimeout == "" {
		o.LockTimeout = "100ms"
	}
	s, err := open(context.Background(), o, now)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { closeIt(t, s) })
	return s
}

func closeIt(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func put(t testing.TB, s driver.Backend, id config.ID, value string) config.Entry {
	t.Helper()
	e, err := s.Put(t.Context(), driver.PutRequest{ID: id, Value: []byte(value)})
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	return e
}

func remove(t testing.TB, s driver.Backend, id config.ID) config.Entry {
	t.Helper()
	e, err := s.Delete(t.Context(), driver.DeleteRequest{ID: id})
	if err != nil {
		t.Fatalf("delete: %v", err)
	}
	return e
}

func wantValue(t testing.TB, s driver.Backend, id config.ID, version uint64, want string) {
	t.Helper()
	e, err := s.Get(t.Context(), id, version)
	if err != nil {
		t.Fatalf("get version %d: %v", version, err)
	}
	if string(e.Value) != want {
		t.Fatalf("get version %d: got %q, want %q", version, e.Value, want)
	}
}

func wantCode(t testing.TB, err error, want config.Code) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", want)
	}
	if got := config.CodeOf(err); got != want {
		t.Fatalf("got %s (%v), want %s", got, err, want)
	}
}
