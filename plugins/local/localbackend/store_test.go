package localbackend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

func TestOptionsAreCheckedAllAtOnce(t *testing.T) {
	_, err := Open(t.Context(), Options{
		HistoryLimit: -1, ChangeLimit: -1, MaxValue: maxMaxValue + 1, IdempotencyWindow: "soon", LockTimeout: "-1s",
	})
	wantCode(t, err, config.InvalidArgument)
	for _, name := range []string{"path", "history_limit", "change_limit", "max_value", "idempotency_window", "lock_timeout"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v: does not name %s", err, name)
		}
	}
	if strings.Contains(err.Error(), "soon") {
		t.Errorf("%v: repeats a value", err)
	}
}

func TestFileAndFolderArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	openStore(t, Options{Path: filepath.Join(dir, "store.db")})
	for path, want := range map[string]os.FileMode{
		filepath.Dir(dir): 0o700, dir: 0o700, filepath.Join(dir, "store.db"): 0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v (%v), want the data file alone", left, err)
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	path := tempFile(t)
	s := openStore(t, Options{Path: path})
	a, b := id(t, "acme", "tenant_config_a"), id(t, "acme", "tenant_config_b")
	put(t, s, a, "1")
	put(t, s, a, "2")
	put(t, s, b, "3")
	remove(t, s, b)
	before := dump(t, s, a, b)
	closeIt(t, s)

	s = openStore(t, Options{Path: path})
	if diff := cmp.Diff(before, dump(t, s, a, b), cmp.AllowUnexported(config.Tenant{}, config.Service{}, config.Key{})); diff != "" {
		t.Fatalf("after a restart (-before +after):\n%s", diff)
	}
	if e := put(t, s, b, "4"); e.Version != 3 {
		t.Fatalf("put after delete and restart made version %d, want 3", e.Version)
	}
}

// dump returns the whole history of each id.
func dump(t *testing.T, s *Store, ids ...config.ID) []config.Entry {
	t.Helper()
	var all []config.Entry
	for _, id := range ids {
		p, err := s.History(t.Context(), driver.HistoryRequest{ID: id})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p.Entries...)
	}
	return all
}

func TestTokensOutliveTheProcess(t *testing.T) {
	path := tempFile(t)
	s := openStore(t, Options{Path: path})
	for i := range 5 {
		put(t, s, id(t, "acme", fmt.Sprint("k", i)), "v")
		put(t, s, id(t, "acme", "k0"), fmt.Sprint(i))
	}
	list := driver.ListRequest{Tenant: tenant(t, "acme"), PageSize: 2}
	page, err := s.List(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	history := driver.HistoryRequest{ID: id(t, "acme", "k0"), PageSize: 2}
	versions, err := s.History(t.Context(), history)
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, s)

	s = openStore(t, Options{Path: path})
	list.PageToken = page.NextPageToken
	page, err = s.List(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	if got := page.Entries[0].ID.Key.String(); got != "k2" {
		t.Errorf("list went on at %s, want k2", got)
	}
	history.PageToken = versions.NextPageToken
	versions, err = s.History(t.Context(), history)
	if err != nil {
		t.Fatal(err)
	}
	if got := versions.Entries[0].Version; got != 4 {
		t.Errorf("history went on at version %d, want 4", got)
	}
}

func TestHistoryLimitKeepsCounting(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t), HistoryLimit: 3, ChangeLimit: 2})
	a := id(t, "acme", "a")
	for i := 1; i <= 20; i++ {
		if e := put(t, s, a, fmt.Sprint(i)); e.Version != uint64(i) {
			t.Fatalf("put %d made version %d", i, e.Version)
		}
	}
	page, err := s.History(t.Context(), driver.HistoryRequest{ID: a})
	if err != nil {
		t.Fatal(err)
	}
	var versions []uint64
	for _, e := range page.Entries {
		versions = append(versions, e.Version)
	}
	if diff := cmp.Diff([]uint64{20, 19, 18}, versions); diff != "" || page.NextPageToken != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	_, err = s.Get(t.Context(), a, 17)
	wantCode(t, err, config.NotFound)
	wantValue(t, s, a, 18, "18")
	size, err := s.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// One more than history shows: a version goes once its successor's successor
	// is made.
	if size.Versions > 4 || size.Changes != 2 || size.Entries != 1 {
		t.Errorf("size is %+v", size)
	}
}

// Versions that only the change log holds go when the log lets go of them.
func TestQuietKeysAreTrimmedByTheLog(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t), HistoryLimit: 1, ChangeLimit: 10})
	a := id(t, "acme", "a")
	for range 10 {
		put(t, s, a, "x")
	}
	for i := range 20 {
		put(t, s, id(t, "acme", fmt.Sprint("b", i)), "y")
	}
	size, err := s.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(21); size.Versions != want {
		t.Errorf("%d versions are kept, want %d", size.Versions, want)
	}
	wantValue(t, s, a, 0, "x")
}

func TestLoweredLimitsTakeEffect(t *testing.T) {
	path := tempFile(t)
	s := openStore(t, Options{Path: path})
	a := id(t, "acme", "a")
	for range 50 {
		put(t, s, a, "x")
	}
	closeIt(t, s)
	s = openStore(t, Options{Path: path, HistoryLimit: 2, ChangeLimit: 2})
	for range 30 {
		put(t, s, a, "y")
	}
	size, err := s.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if size.Versions > 3 || size.Changes != 2 {
		t.Errorf("size is %+v", size)
	}
}

func TestUpdatedAtNeverGoesBack(t *testing.T) {
	path := tempFile(t)
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	s := openAt(t, Options{Path: path}, func() time.Time { return now })
	a := id(t, "acme", "a")
	first := put(t, s, a, "1")
	now = now.Add(-time.Hour)
	second := put(t, s, a, "2")
	closeIt(t, s)
	s = openAt(t, Options{Path: path}, func() time.Time { return now.Add(-time.Hour) })
	third := remove(t, s, a)
	if second.UpdatedAt.Before(first.UpdatedAt) || third.UpdatedAt.Before(second.UpdatedAt) {
		t.Errorf("times are %s, %s, %s", first.UpdatedAt, second.UpdatedAt, third.UpdatedAt)
	}
	if other := put(t, s, id(t, "acme", "b"), "1"); !other.UpdatedAt.Equal(now.Add(-time.Hour)) {
		t.Errorf("another key's time is %s, want the clock's", other.UpdatedAt)
	}
}

func TestIdempotencyOutlivesTheProcess(t *testing.T) {
	path := tempFile(t)
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	s := openAt(t, Options{Path: path, IdempotencyWindow: "1h"}, clock)
	r := driver.PutRequest{ID: id(t, "acme", "a"), Value: []byte("1"), UpdatedBy: "ann", Message: "why", IdempotencyKey: strings.Repeat("k", 100_000)}
	first, err := s.Put(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, s)

	s = openAt(t, Options{Path: path, IdempotencyWindow: "1h"}, clock)
	now = now.Add(time.Hour - 1)
	again, err := s.Put(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again, cmp.AllowUnexported(config.Tenant{}, config.Service{}, config.Key{})); diff != "" {
		t.Errorf("the retry's result (-first +retry):\n%s", diff)
	}
	for name, change := range map[string]func(*driver.PutRequest){
		"key":          func(r *driver.PutRequest) { r.ID = id(t, "acme", "b") },
		"service":      func(r *driver.PutRequest) { r.ID.Service, _ = config.ParseService("order") },
		"value":        func(r *driver.PutRequest) { r.Value = []byte("2") },
		"content type": func(r *driver.PutRequest) { r.ContentType = "text/plain" },
		"expect":       func(r *driver.PutRequest) { r.Expect = driver.Absent() },
		"author":       func(r *driver.PutRequest) { r.UpdatedBy = "bob" },
		"message":      func(r *driver.PutRequest) { r.Message = "" },
	} {
		other := r
		change(&other)
		_, err := s.Put(t.Context(), other)
		if config.CodeOf(err) != config.AlreadyExists {
			t.Errorf("another %s under the same key: got %v, want already exists", name, err)
		}
	}
	_, err = s.Delete(t.Context(), driver.DeleteRequest{ID: r.ID, IdempotencyKey: r.IdempotencyKey})
	wantCode(t, err, config.AlreadyExists)

	now = now.Add(1)
	later, err := s.Put(t.Context(), r)
	if err != nil || later.Version != 2 {
		t.Errorf("after the window: version %d, %v, want a new version", later.Version, err)
	}
}

func TestExpiredIdempotencyKeysAreSwept(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	s := openAt(t, Options{Path: tempFile(t), IdempotencyWindow: "1m"}, func() time.Time { return now })
	a := id(t, "acme", "a")
	for i := range 100 {
		now = now.Add(5 * time.Second)
		if _, err := s.Put(t.Context(), driver.PutRequest{ID: a, IdempotencyKey: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if kept := remembers(t, s); kept > 36 { // 12 are in the window
		t.Errorf("%d keys are kept", kept)
	}
}

func remembers(t *testing.T, s *Store) (n uint64) {
	t.Helper()
	err := s.view(t.Context(), "", func(v *snapshot) error {
		st, err := v.state()
		n = st.tally[3].count
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Nothing that leaves the store tells how much others write.
func TestNothingCountsOtherTenantsChanges(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	a := id(t, "acme", "a")
	first := put(t, s, a, "1")
	for range 7 {
		put(t, s, id(t, "globex", "b"), "x")
	}
	second := put(t, s, a, "2")
	if got, want := second.Revision, s.rev.of(2); got != want {
		t.Errorf("revision is %s, want %s after %s: a count per key", got, want, first.Revision)
	}
	r := driver.WatchRequest{Tenant: a.Tenant}
	plain := s.tokens.Seal(string(le.AppendUint64(nil, 9)), watchScope(r)...)
	sealed := s.tokens.position(9, r)
	if strings.HasSuffix(sealed, plain[len(plain)-6:]) || sealed == plain {
		t.Errorf("the position %s shows its sequence number", sealed)
	}
	if seq, err := s.tokens.sequence(sealed, r); seq != 9 || err != nil {
		t.Errorf("the position reads as %d, %v", seq, err)
	}
}

// Until its commit is acknowledged, a write is not seen by any read, even
// where its pages are in the file already.
func TestReadsSeeAcknowledgedWritesOnly(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t), HistoryLimit: 1, ChangeLimit: 1})
	a, b := id(t, "acme", "a"), id(t, "acme", "b")
	put(t, s, a, "1")
	put(t, s, a, "2")
	acked := s.acked.Load()
	put(t, s, a, "3")
	put(t, s, b, "1")
	s.acked.Store(acked) // as while the last two are being fsynced

	wantValue(t, s, a, 0, "2")
	_, err := s.Get(t.Context(), b, 0)
	wantCode(t, err, config.NotFound)
	_, err = s.Get(t.Context(), a, 3)
	wantCode(t, err, config.NotFound)
	_, err = s.History(t.Context(), driver.HistoryRequest{ID: b})
	wantCode(t, err, config.NotFound)
	batch, err := s.BatchGet(t.Context(), []config.ID{a, b})
	if err != nil || string(batch[0].Entry.Value) != "2" || batch[1].Err == nil {
		t.Errorf("batch: %+v, %v", batch, err)
	}
	list, err := s.List(t.Context(), driver.ListRequest{Tenant: a.Tenant})
	if err != nil || len(list.Entries) != 1 || string(list.Entries[0].Value) != "2" {
		t.Errorf("list: %+v, %v", list, err)
	}
	versions, err := s.History(t.Context(), driver.HistoryRequest{ID: a})
	if err != nil || len(versions.Entries) != 1 || versions.Entries[0].Version != 2 {
		t.Errorf("history: %+v, %v", versions, err)
	}
	done := errors.New("synced")
	err = s.Watch(t.Context(), driver.WatchRequest{Tenant: a.Tenant}, func(e driver.Event) error {
		if e.Kind == driver.EventSync {
			return done
		}
		if e.Entry.Version != 2 {
			t.Errorf("watch showed version %d", e.Entry.Version)
		}
		return nil
	})
	if !errors.Is(err, done) {
		t.Errorf("watch: %v", err)
	}
}

func TestManyWritersShareCommits(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	const callers, each = 64, 10
	release := holdWriter(t, s)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				_, err := s.Put(t.Context(), driver.PutRequest{ID: id(t, "acme", fmt.Sprint("k", c)), Value: fmt.Append(nil, i)})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	release()
	wg.Wait()
	if got := s.commits.Load(); got > callers*each/4 {
		t.Errorf("%d writes took %d commits, want at most a quarter", callers*each, got)
	}
	for c := range callers {
		wantValue(t, s, id(t, "acme", fmt.Sprint("k", c)), 0, fmt.Sprint(each-1))
	}
}

// holdWriter keeps the writer from beginning its next transaction until the
// returned function is called.
func holdWriter(t *testing.T, s *Store) func() {
	t.Helper()
	tx, err := s.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() { _ = tx.Rollback() })
}

// submitHeld sends writes that all wait behind the writer, and returns what
// became of each once it is let go.
func submitHeld(t *testing.T, s *Store, puts ...driver.PutRequest) []answer {
	t.Helper()
	release := holdWriter(t, s)
	defer release()
	first := make(chan answer, 1)
	go func() {
		e, err := s.Put(t.Context(), driver.PutRequest{ID: id(t, "acme", "first")})
		first <- answer{e, err}
	}()
	eventually(t, "the writer takes the first write", s.stuck.Load)
	answers := make([]answer, len(puts))
	var wg sync.WaitGroup
	for i, r := range puts {
		wg.Go(func() { answers[i].entry, answers[i].err = s.Put(t.Context(), r) })
		eventually(t, "the write is queued", func() bool { return len(s.queue) == i+1 })
	}
	release()
	wg.Wait()
	if a := <-first; a.err != nil {
		t.Fatal(a.err)
	}
	return answers
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(5 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

func TestRefusedWriteFailsNoOther(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	a, b := id(t, "acme", "a"), id(t, "acme", "b")
	answers := submitHeld(t, s,
		driver.PutRequest{ID: a, Value: []byte("1"), Expect: driver.Absent()},
		driver.PutRequest{ID: a, Value: []byte("lost"), Expect: driver.Absent()},
		driver.PutRequest{ID: b, Value: []byte("2")},
		driver.PutRequest{ID: a, Value: []byte("3"), Expect: driver.Version(1)},
	)
	if s.commits.Load() != 2 {
		t.Fatalf("%d commits, want one for the first write and one for the batch", s.commits.Load())
	}
	wantCode(t, answers[1].err, config.Conflict)
	var e *config.Error
	if errors.As(answers[1].err, &e); e.Version != 1 {
		t.Errorf("the conflict names version %d, want 1", e.Version)
	}
	for _, i := range []int{0, 2, 3} {
		if answers[i].err != nil {
			t.Errorf("write %d: %v", i, answers[i].err)
		}
	}
	wantValue(t, s, a, 0, "3")
	wantValue(t, s, b, 0, "2")
}

func TestAbandonedWriteIsNotMade(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	release := holdWriter(t, s)
	defer release()
	taken, waiting := id(t, "acme", "taken"), id(t, "acme", "waiting")
	cancelled := func(id config.ID, queued int) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		result := make(chan error, 1)
		go func() {
			_, err := s.Put(ctx, driver.PutRequest{ID: id, Value: []byte("x")})
			result <- err
		}()
		eventually(t, "the write is where it should be", func() bool { return s.stuck.Load() && len(s.queue) == queued })
		cancel()
		return <-result
	}
	err := cancelled(taken, 0)
	wantCode(t, err, config.Canceled)
	if !strings.Contains(err.Error(), "may or may not") {
		t.Errorf("%v: does not say that the outcome is open", err)
	}
	err = cancelled(waiting, 1)
	wantCode(t, err, config.Canceled)
	if !strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("%v: does not say that nothing was written", err)
	}
	release()
	put(t, s, id(t, "acme", "after"), "y")
	wantValue(t, s, taken, 0, "x")
	_, err = s.Get(t.Context(), waiting, 0)
	wantCode(t, err, config.NotFound)
}

func TestCloseAnswersEverybody(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	a := id(t, "acme", "a")
	put(t, s, a, "1")
	release := holdWriter(t, s)
	defer release()
	results := make(chan error, 3)
	for i := range 2 {
		go func() {
			_, err := s.Put(t.Context(), driver.PutRequest{ID: a, Value: []byte("2")})
			results <- err
		}()
		eventually(t, "the write is taken or queued", func() bool { return s.stuck.Load() && len(s.queue) == i })
	}
	watching := make(chan error, 1)
	synced := make(chan struct{})
	go func() {
		watching <- s.Watch(t.Context(), driver.WatchRequest{Tenant: a.Tenant}, func(e driver.Event) error {
			if e.Kind == driver.EventSync {
				close(synced)
			}
			return nil
		})
	}()
	<-synced
	closed := make(chan error, 2)
	for range 2 {
		go func() { closed <- s.Close() }()
	}
	wantCode(t, <-watching, config.FailedPrecondition)
	release()
	for range 2 {
		if err := <-closed; err != nil {
			t.Errorf("close: %v", err)
		}
	}
	// The first was taken and is made; the second still waited.
	if err := <-results; err != nil {
		wantCode(t, err, config.FailedPrecondition)
		if err := <-results; err != nil {
			t.Errorf("the write that was taken: %v", err)
		}
	} else {
		wantCode(t, <-results, config.FailedPrecondition)
	}
	_, err := s.Get(t.Context(), a, 0)
	wantCode(t, err, config.FailedPrecondition)
}

func TestValueLimit(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t), MaxValue: 8})
	a := id(t, "acme", "a")
	put(t, s, a, "12345678")
	_, err := s.Put(t.Context(), driver.PutRequest{ID: a, Value: []byte("123456789")})
	wantCode(t, err, config.InvalidArgument)
	wantValue(t, s, a, 0, "12345678")
}

func TestPagesEndBeforeTheyAreTooLarge(t *testing.T) {
	s := openStore(t, Options{Path: tempFile(t)})
	big := strings.Repeat("x", 1<<20)
	for i := range 5 {
		put(t, s, id(t, "acme", fmt.Sprint("k", i)), big)
	}
	r := driver.ListRequest{Tenant: tenant(t, "acme")}
	var sizes []int
	for {
		page, err := s.List(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(page.Entries))
		if r.PageToken = page.NextPageToken; r.PageToken == "" {
			break
		}
	}
	if diff := cmp.Diff([]int{2, 2, 1}, sizes); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
}
