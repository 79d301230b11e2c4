package s3backend

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
)

// Delete and Put are several requests. Wherever a writer dies, the key is as it
// was or as it was to be, for every reader, and goes on from there.
func TestWritersThatDie(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, operation string
		then            emulators.Action
		delete          bool
		code            config.Code // of the write that dies
		made            bool        // whether it happened all the same
		bare            bool        // other tools see the tombstone
	}{
		{"put, before it is stored", "PutObject", emulators.DropBefore, false, config.OutcomeUnknown, false, false},
		{"put, looking whether it was in time", "ListObjectVersions", emulators.DropBefore, false, config.OutcomeUnknown, true, false},
		{"put, before the tag", "PutObjectTagging", emulators.DropBefore, false, 0, true, false},
		{"delete, before the tombstone", "PutObject", emulators.DropBefore, true, config.OutcomeUnknown, false, false},
		{"delete, looking whether it was in time", "ListObjectVersions", emulators.DropBefore, true, config.OutcomeUnknown, true, true},
		{"delete, before the marker", "DeleteObject", emulators.DropBefore, true, 0, true, true},
		{"delete, after the marker", "DeleteObject", emulators.DropAfter, true, 0, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			direct := openStore(t, Options{})
			put(t, direct, key, "one")
			proxy := emulators.NewProxy(t, emulators.Moto(t))
			dying := through(t, direct, proxy.URL)
			proxy.Inject(emulators.Fault{Operation: c.operation, Then: c.then})
			var err error
			if c.delete {
				_, err = dying.Delete(t.Context(), driver.DeleteRequest{ID: key, UpdatedBy: "me", Message: "why"})
			} else {
				_, err = dying.Put(t.Context(), driver.PutRequest{ID: key, Value: []byte("two"), UpdatedBy: "me", Message: "why"})
			}
			if c.code == 0 && err != nil {
				t.Errorf("the write: %v", err)
			}
			if c.code != 0 {
				wantCode(t, err, c.code)
			}
			history, next := "1 one", uint64(2)
			switch {
			case c.made && c.delete:
				history, next = "2 deleted, 1 one", 3
			case c.made:
				history, next = "2 two, 1 one", 3
			}
			for _, s := range []*Store{direct, openStore(t, Options{Bucket: direct.bucket})} {
				switch {
				case c.made && c.delete:
					_, err := s.Get(t.Context(), key, 0)
					wantCode(t, err, config.NotFound)
					if page := must(s.List(t.Context(), driver.ListRequest{Tenant: key.Tenant, Service: key.Service})); len(page.Entries) > 0 {
						t.Errorf("list: %v", page.Entries)
					}
				case c.made:
					wantEntry(t, s, key, 2, "two")
				default:
					wantEntry(t, s, key, 1, "one")
				}
				if got := past(t, s, key); got != history {
					t.Errorf("history %q, want %q", got, history)
				}
			}
			value, there := others(t, direct, path)
			if c.bare != (there && strings.HasPrefix(value, "deleted ")) {
				t.Errorf("other tools read %q (%t)", value, there)
			}
			if c.bare {
				// Whoever deletes again mends it.
				_, err := direct.Delete(t.Context(), driver.DeleteRequest{ID: key})
				wantCode(t, err, config.NotFound)
				if value, there := others(t, direct, path); there {
					t.Errorf("other tools still read %q", value)
				}
			}
			e, err := direct.Put(t.Context(), driver.PutRequest{ID: key, Value: []byte("next"), Expect: driver.Version(next - 1)})
			if err != nil || e.Version != next {
				t.Errorf("the next put made version %d (%v), want %d", e.Version, err, next)
			}
			wantEntry(t, openStore(t, Options{Bucket: direct.bucket}), key, next, "next")
		})
	}
}

// A tombstone without its marker is replaced by a put as it is.
func TestPutOverATombstoneWithoutMarker(t *testing.T) {
	t.Parallel()
	direct := openStore(t, Options{})
	put(t, direct, key, "one")
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	dying := through(t, direct, proxy.URL)
	proxy.Inject(emulators.Fault{Operation: "DeleteObject", Then: emulators.DropBefore})
	remove(t, dying, key)
	e, err := openStore(t, Options{Bucket: direct.bucket}).Put(t.Context(), driver.PutRequest{ID: key, Value: []byte("three"), Expect: driver.Absent()})
	if err != nil || e.Version != 3 {
		t.Fatalf("version %d (%v)", e.Version, err)
	}
	if got, want := past(t, direct, key), "3 three, 2 deleted, 1 one"; got != want {
		t.Errorf("history %q, want %q", got, want)
	}
}

// A write whose answer got lost is found again, and not made twice.
func TestLostAnswerOfAWrite(t *testing.T) {
	t.Parallel()
	direct := openStore(t, Options{})
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	s := through(t, direct, proxy.URL)
	for i := range 3 {
		proxy.Inject(emulators.Fault{Operation: "PutObject", Times: 1, Then: emulators.DropAfter})
		e, err := s.Put(t.Context(), driver.PutRequest{ID: key, Value: fmt.Append(nil, i), Expect: driver.Version(uint64(i))})
		if err != nil || e.Version != uint64(i)+1 {
			t.Fatalf("put %d: version %d (%v)", i, e.Version, err)
		}
	}
	proxy.Inject(emulators.Fault{Operation: "PutObject", Times: 1, Then: emulators.DropAfter})
	remove(t, s, key)
	if got, want := past(t, direct, key), "4 deleted, 3 2, 2 1, 1 0"; got != want {
		t.Errorf("history %q, want %q", got, want)
	}
}

// What S3 answers to two conditional writes at once is no end of either.
func TestConditionalRequestConflict(t *testing.T) {
	t.Parallel()
	direct := openStore(t, Options{})
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	s := through(t, direct, proxy.URL)
	fault := proxy.Inject(emulators.Fault{Operation: "PutObject", Times: 3, Then: emulators.Reply, Answer: emulators.XMLError(409, "ConditionalRequestConflict", "x")})
	if e := put(t, s, key, "1"); e.Version != 1 || fault.Hits() != 3 {
		t.Errorf("version %d after %d conflicts", e.Version, fault.Hits())
	}
}

// editing passes requests on to the emulator and lets edit change the answers.
func editing(t *testing.T, edit func(*http.Response) error) string {
	t.Helper()
	target := must(url.Parse(emulators.Moto(t)))
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ModifyResponse: edit, Transport: transport,
	})
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// Bytes that do not match their checksum are never an answer: they are read
// once more, and then the error says so.
func TestDamagedBytes(t *testing.T) {
	t.Parallel()
	direct := openStore(t, Options{})
	put(t, direct, key, strings.Repeat("value ", 1000))
	put(t, direct, id("acme", "order", "other"), "1")
	var left atomic.Int32
	s := through(t, direct, editing(t, func(r *http.Response) error {
		if r.Request.Method != http.MethodGet || !strings.HasSuffix(r.Request.URL.Path, path) || left.Add(-1) < 0 {
			return nil
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		body[len(body)/2] ^= 1
		r.Body = io.NopCloser(bytes.NewReader(body))
		return nil
	}))
	left.Store(1)
	wantEntry(t, s, key, 1, strings.Repeat("value ", 1000))
	for name, call := range map[string]func() error{
		"Get":            func() error { _, err := s.Get(t.Context(), key, 0); return err },
		"Get of version": func() error { _, err := s.Get(t.Context(), key, 1); return err },
		"BatchGet":       func() error { return must(s.BatchGet(t.Context(), []config.ID{key}))[0].Err },
		"List": func() error {
			_, err := s.List(t.Context(), driver.ListRequest{Tenant: key.Tenant, Service: key.Service})
			return err
		},
		"History": func() error { _, err := s.History(t.Context(), driver.HistoryRequest{ID: key}); return err },
	} {
		left.Store(1 << 20)
		err := call()
		if config.CodeOf(err) != config.DataLoss || config.AsError(err, "", config.Key{}).Key != key.Key {
			t.Errorf("%s: %v, want %s with the key", name, err, config.DataLoss)
		}
	}
	left.Store(0)
	wantEntry(t, s, key, 1, strings.Repeat("value ", 1000))
}

// An answer that ends early is asked for again.
func TestBytesThatEndEarly(t *testing.T) {
	t.Parallel()
	direct := openStore(t, Options{})
	put(t, direct, key, strings.Repeat("value ", 1000))
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	s := through(t, direct, proxy.URL)
	proxy.Inject(emulators.Fault{Operation: "GetObject", Times: 1, Then: emulators.DropDuring})
	wantEntry(t, s, key, 1, strings.Repeat("value ", 1000))
	proxy.Inject(emulators.Fault{Operation: "GetObject", Then: emulators.DropDuring})
	_, err := s.Get(t.Context(), key, 0)
	wantCode(t, err, config.Unavailable)
}

func TestErrorsOfS3(t *testing.T) {
	t.Parallel()
	direct := openStore(t, Options{})
	put(t, direct, key, "1")
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	s := through(t, direct, proxy.URL)
	for _, c := range []struct {
		operation string
		status    int
		code      string
		want      config.Code
		hint      string
	}{
		{"GetObject", 403, "AccessDenied", config.PermissionDenied, "s3:ListBucket"},
		{"GetObject", 403, "InvalidObjectState", config.FailedPrecondition, "restore"},
		{"GetObject", 503, "SlowDown", config.ResourceExhausted, "retry later"},
		{"GetObject", 500, "InternalError", config.Unavailable, ""},
		{"GetObject", 301, "PermanentRedirect", config.FailedPrecondition, "AWS_REGION"},
		{"GetObject", 404, "NoSuchBucket", config.FailedPrecondition, ""},
		{"GetObject", 404, "NoSuchKey", config.NotFound, ""},
		{"GetObject", 400, "KMS.DisabledException", config.FailedPrecondition, "KMS"},
		{"GetObject", 403, "ExpiredToken", config.Unauthenticated, ""},
		{"PutObject", 403, "AccessDenied", config.PermissionDenied, "IAM"},
		{"PutObject", 400, "KMS.NotFoundException", config.FailedPrecondition, "kms_key_id"},
		{"PutObject", 400, "EntityTooLarge", config.InvalidArgument, ""},
		{"PutObject", 400, "BadDigest", config.Unavailable, "retry"},
		{"PutObject", 503, "SlowDown", config.ResourceExhausted, ""},
		{"HeadObject", 403, "", config.PermissionDenied, "IAM"},
		{"HeadObject", 503, "", config.Unavailable, ""},
	} {
		fault := proxy.Inject(emulators.Fault{Operation: c.operation, Then: emulators.Reply, Answer: emulators.XMLError(c.status, c.code, "arn:aws:s3:::secret-bucket")})
		if c.operation == "HeadObject" {
			fault.Remove()
			fault = proxy.Inject(emulators.Fault{Operation: c.operation, Then: emulators.Reply, Answer: emulators.Answer{Status: c.status}})
		}
		var err error
		if c.operation == "GetObject" {
			_, err = s.Get(t.Context(), key, 0)
		} else {
			_, err = s.Put(t.Context(), driver.PutRequest{ID: key, Value: []byte("2")})
		}
		fault.Remove()
		switch {
		case config.CodeOf(err) != c.want:
			t.Errorf("%s %d %s: %s (%v), want %s", c.operation, c.status, c.code, config.CodeOf(err), err, c.want)
		case !strings.Contains(err.Error(), c.hint):
			t.Errorf("%s %d %s: %v does not speak of %s", c.operation, c.status, c.code, err, c.hint)
		case strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), s.bucket) || strings.Contains(err.Error(), "acme"):
			t.Errorf("%s %d %s: %v says too much", c.operation, c.status, c.code, err)
		}
	}
	wantEntry(t, s, key, 1, "1")
}

// A caller who may list only a part of the bucket is told 403 of an object that
// is not there. The version list tells the two apart.
func TestDeniedOrNotThere(t *testing.T) {
	t.Parallel()
	direct := openStore(t, Options{})
	there, gone, never := id("acme", "order", "there"), id("acme", "order", "gone"), id("acme", "order", "never")
	put(t, direct, there, "1")
	put(t, direct, gone, "1")
	remove(t, direct, gone)
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	s := through(t, direct, proxy.URL)
	proxy.Inject(emulators.Fault{Operation: "GetObject", Then: emulators.Reply, Answer: emulators.XMLError(403, "AccessDenied", "x")})
	// A read of the current object only: those of versions go on.
	proxy.Inject(emulators.Fault{Operation: "HeadObject", Times: 6, Then: emulators.Reply, Answer: emulators.Answer{Status: 403}})
	for k, want := range map[config.ID]config.Code{there: config.PermissionDenied, gone: config.NotFound, never: config.NotFound} {
		_, err := s.Get(t.Context(), k, 0)
		wantCode(t, err, want)
	}
	_, err := s.Put(t.Context(), driver.PutRequest{ID: there, Value: []byte("2")})
	wantCode(t, err, config.PermissionDenied)
	if e := put(t, s, never, "1"); e.Version != 1 {
		t.Errorf("version %d", e.Version)
	}
	proxy.Inject(emulators.Fault{Operation: "ListObjectVersions", Then: emulators.Reply, Answer: emulators.XMLError(403, "AccessDenied", "x")})
	for _, k := range []config.ID{there, gone} {
		_, err := s.Get(t.Context(), k, 0)
		wantCode(t, err, config.PermissionDenied)
		_, err = s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("2")})
		wantCode(t, err, config.PermissionDenied)
	}
	wantEntry(t, direct, there, 1, "1")
}

// Where S3 denies tags everything works all the same.
func TestWithoutTags(t *testing.T) {
	t.Parallel()
	direct := openStore(t, Options{})
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	s := through(t, direct, proxy.URL)
	fault := proxy.Inject(emulators.Fault{Operation: "PutObjectTagging", Then: emulators.Reply, Answer: emulators.XMLError(403, "AccessDenied", "x")})
	const versions = 30
	for i := range versions {
		if e := put(t, s, key, fmt.Sprint(i)); e.Version != uint64(i)+1 {
			t.Fatalf("version %d", e.Version)
		}
	}
	if fault.Hits() != 1 {
		t.Errorf("%d attempts to tag", fault.Hits())
	}
	fresh := through(t, direct, proxy.URL)
	proxy.ResetCalls()
	wantEntry(t, fresh, key, versions, fmt.Sprint(versions-1))
	if n := proxy.Calls("HeadObject"); n >= 3*settledRun {
		t.Errorf("the first read took %d looks at objects below", n)
	}
	proxy.ResetCalls()
	wantEntry(t, fresh, key, versions, fmt.Sprint(versions-1))
	if n := proxy.Calls(""); n != 1 {
		t.Errorf("the second read took %d requests: %v", n, proxy.Operations())
	}
	e, err := fresh.Get(t.Context(), key, 7)
	if err != nil || string(e.Value) != "6" {
		t.Errorf("version 7: %q (%v)", e.Value, err)
	}
}

// What the calls of the contract cost.
func TestRequests(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{})
	const versions = 40
	for i := range versions {
		put(t, s, key, fmt.Sprint(i))
	}
	for i := range 10 {
		put(t, s, id("acme", "order", fmt.Sprintf("list/%d", i)), "1")
	}
	gone := id("acme", "order", "gone")
	put(t, s, gone, "1")
	remove(t, s, gone)
	for name, c := range map[string]struct {
		call func(*Store) error
		want string
	}{
		"Get":           {func(s *Store) error { _, err := s.Get(t.Context(), key, 0); return err }, "GetObject 1/1"},
		"Get, missing":  {func(s *Store) error { _, _ = s.Get(t.Context(), id("acme", "order", "no"), 0); return nil }, "GetObject 1/1"},
		"Get, deleted":  {func(s *Store) error { _, _ = s.Get(t.Context(), gone, 0); return nil }, "GetObject 1/1"},
		"Get, refused":  {func(s *Store) error { _, _ = s.Get(t.Context(), config.ID{}, 0); return nil }, ""},
		"Get, version":  {func(s *Store) error { _, err := s.Get(t.Context(), key, 7); return err }, "GetObject 1/1, HeadObject 3/3, ListObjectVersions 1/1"},
		"BatchGet of 3": {func(s *Store) error { _, err := s.BatchGet(t.Context(), []config.ID{key, gone, key, key}); return err }, "GetObject 2/2"},
		"List of 10": {func(s *Store) error {
			_, err := s.List(t.Context(), driver.ListRequest{Tenant: key.Tenant, Service: key.Service, KeyPrefix: "list/"})
			return err
		}, "GetObject 10/10, ListObjectsV2 1/1"},
		"History of 40": {func(s *Store) error { _, err := s.History(t.Context(), driver.HistoryRequest{ID: key}); return err }, "GetObject 40/40, ListObjectVersions 1/1"},
		"Ping":          {func(s *Store) error { return s.Ping(t.Context()) }, "HeadBucket 1/1"},
	} {
		fresh := openStore(t, Options{Bucket: s.bucket})
		calls := fresh.conn.CountCalls()
		if err := c.call(fresh); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := calls.String(); got != c.want {
			t.Errorf("%s took %s, want %s", name, got, c.want)
		}
	}
	fresh := openStore(t, Options{Bucket: s.bucket})
	calls := fresh.conn.CountCalls()
	put(t, fresh, key, "2")
	if got, want := calls.String(), "HeadObject 1/1, ListObjectVersions 1/1, PutObject 1/1, PutObjectTagging 1/1"; got != want {
		t.Errorf("Put took %s, want %s", got, want)
	}
	calls.Reset()
	remove(t, fresh, key)
	if got, want := calls.String(), "DeleteObject 1/1, HeadObject 1/1, ListObjectVersions 1/1, PutObject 1/1"; got != want {
		t.Errorf("Delete took %s, want %s", got, want)
	}
}

// A batch of large values does not fill the memory: what comes behind so many
// bytes is not read, and every key before that is.
func TestBatchOfLargeValues(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{})
	s.batchBytes = 8 << 10
	value := strings.Repeat("v", 1<<10)
	var ids []config.ID
	for i := range 2 * parallel {
		ids = append(ids, id("acme", "order", fmt.Sprintf("large/%02d", i)))
		put(t, s, ids[i], value)
	}
	ids = append([]config.ID{ids[0], ids[0]}, append(ids[1:], ids[0])...)
	calls := s.conn.CountCalls()
	results, err := s.BatchGet(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	if n := calls.Logical("GetObject"); n > 9+parallel {
		t.Errorf("%d of %d objects were read", n, len(ids))
	}
	var before int64
	for i, r := range results {
		if before <= s.batchBytes && r.Err != nil {
			t.Errorf("key %d, behind %d bytes: %v", i, before, r.Err)
		}
		if r.Err != nil {
			wantCode(t, r.Err, config.ResourceExhausted)
		}
		before += int64(len(r.Entry.Value))
	}
	if last := results[len(results)-1]; last.Err == nil {
		t.Error("the last key, a copy of the first, was answered")
	}
}

// A caller that gives up while S3 is silent is let go.
func TestSilentS3(t *testing.T) {
	t.Parallel()
	direct := openStore(t, Options{})
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	s := through(t, direct, proxy.URL)
	never := make(chan struct{})
	defer close(never)
	proxy.Inject(emulators.Fault{Until: never})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := s.Put(ctx, driver.PutRequest{ID: key, Value: []byte("1")})
		done <- err
	}()
	proxy.Await(t, "", 1)
	cancel()
	wantCode(t, <-done, config.Canceled)
}
