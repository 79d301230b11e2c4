package s3backend

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// nextSecond waits until the emulator's clock shows another second: it lists
// versions and delete markers of one second in no order.
func nextSecond(t testing.TB) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now().Unix(); time.Now().Unix() == began; {
		<-tick.C
	}
}

// Objects of other tools are served as they are, and count as versions.
func TestOtherToolsObjects(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{})
	foreign(t, s, path, "one")
	wantEntry(t, s, key, 1, "one")
	foreign(t, s, path, "two")
	wantEntry(t, s, key, 2, "two")
	e := must(s.Get(t.Context(), key, 0))
	if e.ContentType != "text/plain" || e.UpdatedBy != "" || e.Message != "" || e.Revision == "" || e.UpdatedAt.IsZero() {
		t.Errorf("%+v", e)
	}
	if got := put(t, s, key, "three"); got.Version != 3 {
		t.Errorf("a put made version %d, want 3", got.Version)
	}
	foreign(t, s, path, "four")
	foreign(t, s, path, "five")
	wantEntry(t, s, key, 5, "five")
	_, err := s.Put(t.Context(), driver.PutRequest{ID: key, Value: []byte("no"), Expect: driver.Version(4)})
	wantCode(t, err, config.Conflict)
	if got := remove(t, s, key); got.Version != 6 {
		t.Errorf("a delete made version %d, want 6", got.Version)
	}
	foreign(t, s, path, "seven")
	wantEntry(t, s, key, 7, "seven")
	if got, want := past(t, s, key), "7 seven, 6 deleted, 5 five, 4 four, 3 three, 2 two, 1 one"; got != want {
		t.Errorf("history %q, want %q", got, want)
	}
	for version, want := range map[uint64]string{1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 7: "seven"} {
		e, err := s.Get(t.Context(), key, version)
		if err != nil || e.Version != version || string(e.Value) != want {
			t.Errorf("get of version %d: version %d with %q (%v)", version, e.Version, e.Value, err)
		}
	}
	page := must(s.List(t.Context(), driver.ListRequest{Tenant: key.Tenant, Service: key.Service}))
	if len(page.Entries) != 1 || page.Entries[0].Version != 7 {
		t.Errorf("list: %v", page.Entries)
	}
}

// A delete marker of another tool is a version without an author.
func TestOtherToolsDeletions(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{})
	put(t, s, key, "one")
	foreignDelete(t, s, path)
	_, err := s.Get(t.Context(), key, 0)
	wantCode(t, err, config.NotFound)
	_, err = s.Delete(t.Context(), driver.DeleteRequest{ID: key})
	wantCode(t, err, config.NotFound)
	foreignDelete(t, s, path) // once more, which changes nothing
	_, err = s.Put(t.Context(), driver.PutRequest{ID: key, Value: []byte("no"), Expect: driver.Version(1)})
	wantCode(t, err, config.Conflict)
	nextSecond(t)
	e, err := s.Put(t.Context(), driver.PutRequest{ID: key, Value: []byte("three"), Expect: driver.Version(2)})
	if err != nil || e.Version != 3 {
		t.Fatalf("put: version %d (%v)", e.Version, err)
	}
	remove(t, s, key)
	foreignDelete(t, s, path)
	nextSecond(t)
	if e := put(t, s, key, "five"); e.Version != 5 {
		t.Errorf("a put after a deleted deletion made version %d, want 5", e.Version)
	}
	if got, want := past(t, s, key), "5 five, 4 deleted, 3 three, 2 deleted, 1 one"; got != want {
		t.Errorf("history %q, want %q", got, want)
	}
	never := id("acme", "order", "never")
	foreignDelete(t, s, "acme/order/never")
	_, err = s.History(t.Context(), driver.HistoryRequest{ID: never})
	wantCode(t, err, config.NotFound)
	if e := put(t, s, never, "1"); e.Version != 1 {
		t.Errorf("the first put made version %d", e.Version)
	}
}

func copyObject(t testing.TB, s *Store, from, versionID, to string) {
	t.Helper()
	source := s.bucket + "/" + from
	if versionID != "" {
		source += "?versionId=" + versionID
	}
	in := &s3.CopyObjectInput{Bucket: &s.bucket, Key: &to, CopySource: &source}
	if from == to && versionID == "" {
		in.StorageClass = types.StorageClassStandardIa // a copy onto itself has to change something
	}
	if _, err := raw(t).CopyObject(t.Context(), in); err != nil {
		t.Fatal(err)
	}
}

func versionIDs(t testing.TB, s *Store, path string) (ids []string) {
	t.Helper()
	c, err := s.chainOf(t.Context(), key.Tenant, path, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range c.lines {
		ids = append(ids, line.id)
	}
	return ids
}

// A tool that copies an object takes record and tag along. On another key the
// record is not one; on its own key the copy is a new version of that tool's.
func TestCopiesOfOtherTools(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{})
	for _, v := range []string{"one", "two", "three", "four"} {
		put(t, s, key, v, func(r *driver.PutRequest) { r.UpdatedBy = "me" })
	}
	copyObject(t, s, path, "", "acme/order/other")
	e := must(s.Get(t.Context(), id("acme", "order", "other"), 0))
	if e.Version != 1 || string(e.Value) != "four" || e.UpdatedBy != "" {
		t.Errorf("the copy on another key: %+v", e)
	}
	// Past the time within which a tagged object is believed.
	for limit := time.Now().Add(prompt + 2*time.Second); time.Now().Before(limit); {
		nextSecond(t)
	}
	ids := versionIDs(t, s, path)
	copyObject(t, s, path, ids[2], path) // "two" again
	for _, s := range []*Store{s, openStore(t, Options{Bucket: s.bucket})} {
		wantEntry(t, s, key, 5, "two")
		if got, want := past(t, s, key), "5 two, 4 four, 3 three, 2 two, 1 one"; got != want {
			t.Errorf("history %q, want %q", got, want)
		}
	}
	_, err := s.Put(t.Context(), driver.PutRequest{ID: key, Value: []byte("no"), Expect: driver.Version(2)})
	wantCode(t, err, config.Conflict)
	if e := put(t, s, key, "six"); e.Version != 6 {
		t.Errorf("the next put made version %d", e.Version)
	}
	wantEntry(t, openStore(t, Options{Bucket: s.bucket}), key, 6, "six")
}

// Whatever else lies in the bucket is not seen, and one object more than
// max_value fails what includes it, with its key.
func TestOtherThingsInTheBucket(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{MaxValue: 100})
	put(t, s, key, "1")
	for _, path := range []string{
		"acme/order/", "acme/order/a b", "acme/order/ü", "acme/order/a%2Fb", "acme/order/x//y", "acme/order/../k", "acme", "acme/", "/acme/order/k", "Acme/order/k",
		"acme/order/<&>", "acme/order/k\U0010ffff", "acme/order/" + strings.Repeat("x", 513),
	} {
		foreign(t, s, path, "not ours")
	}
	list := func() ([]config.Entry, error) {
		page, err := s.List(t.Context(), driver.ListRequest{Tenant: key.Tenant, Service: key.Service})
		return page.Entries, err
	}
	if entries, err := list(); err != nil || len(entries) != 1 || entries[0].ID != key {
		t.Errorf("list: %v (%v)", entries, err)
	}
	big := id("acme", "order", "z-big")
	foreign(t, s, "acme/order/z-big", strings.Repeat("x", 101))
	_, err := s.Get(t.Context(), big, 0)
	wantCode(t, err, config.FailedPrecondition)
	if e := config.AsError(err, "", config.Key{}); e.Key != big.Key || !strings.Contains(e.Error(), "max_value") {
		t.Errorf("the error does not say what is wrong: %v", err)
	}
	results := must(s.BatchGet(t.Context(), []config.ID{key, big, key}))
	if results[0].Err != nil || results[2].Err != nil || config.CodeOf(results[1].Err) != config.FailedPrecondition {
		t.Errorf("batch: %v", results)
	}
	_, err = list()
	wantCode(t, err, config.FailedPrecondition)
	if e := config.AsError(err, "", config.Key{}); e.Key != big.Key {
		t.Errorf("the error does not name the key: %v", err)
	}
	if e := put(t, s, big, "small"); e.Version != 2 {
		t.Errorf("a put over it made version %d", e.Version)
	}
	if entries, err := list(); err != nil || len(entries) != 2 {
		t.Errorf("list: %v (%v)", entries, err)
	}
}

// Without a segment for "no service" a tenant's own keys lie beside the folders
// of its services.
func TestFlatScope(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{NoService: aws.String("")})
	var want []string
	for i := range 7 {
		name := fmt.Sprintf("k%d", i)
		put(t, s, id("acme", "", name), name)
		want = append(want, name)
		for j := range 5 {
			put(t, s, id("acme", fmt.Sprintf("k%d-svc", i), fmt.Sprintf("deep/k%d", j)), "service")
		}
	}
	_, err := s.Put(t.Context(), driver.PutRequest{ID: id("acme", "", "deep/k"), Value: []byte("1")})
	wantCode(t, err, config.InvalidArgument)
	for _, size := range []int{0, 1, 2, 3, 7} {
		var got []string
		r := driver.ListRequest{Tenant: key.Tenant, PageSize: size}
		for {
			page, err := s.List(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Entries {
				got = append(got, e.ID.Key.String())
			}
			if r.PageToken = page.NextPageToken; r.PageToken == "" {
				break
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("page size %d: %q, want %q", size, got, want)
		}
	}
}
