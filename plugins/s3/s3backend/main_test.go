package s3backend

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // races are lost here on purpose
	endpoint, err := emulators.MotoURL(context.Background())
	if err == nil {
		err = emulators.Setenv(endpoint)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// raw is S3 as other tools use it, past the store.
func raw(t testing.TB) *s3.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(emulators.Moto(t)),
		Region:       "us-east-1",
		Credentials:  credentials.NewStaticCredentialsProvider("others", "others", ""),
		HTTPClient:   &http.Client{Transport: emulators.PlainBody{RoundTripper: transport}},
		UsePathStyle: true,
	})
}

// newBucket makes a bucket that keeps versions, and takes it away again.
func newBucket(t testing.TB) string {
	t.Helper()
	c, name := raw(t), emulators.Name(t, "s3")
	makeBucket(t, c, name)
	setVersioning(t, c, name, types.BucketVersioningStatusEnabled)
	return name
}

func makeBucket(t testing.TB, c *s3.Client, name string) {
	t.Helper()
	if _, err := c.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dropBucket(t, c, name) })
}

func setVersioning(t testing.TB, c *s3.Client, name string, status types.BucketVersioningStatus) {
	t.Helper()
	_, err := c.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket: &name, VersioningConfiguration: &types.VersioningConfiguration{Status: status},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func dropBucket(t testing.TB, c *s3.Client, name string) {
	ctx := context.WithoutCancel(t.Context())
	for {
		out, err := c.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: &name})
		if err != nil {
			t.Errorf("emptying a bucket: %v", err)
			return
		}
		var all []types.ObjectIdentifier
		for _, v := range out.Versions {
			all = append(all, types.ObjectIdentifier{Key: v.Key, VersionId: v.VersionId})
		}
		for _, m := range out.DeleteMarkers {
			all = append(all, types.ObjectIdentifier{Key: m.Key, VersionId: m.VersionId})
		}
		if len(all) == 0 {
			break
		}
		if _, err := c.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &name, Delete: &types.Delete{Objects: all}}); err != nil {
			t.Errorf("emptying a bucket: %v", err)
			return
		}
	}
	if _, err := c.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &name}); err != nil {
		t.Errorf("removing a bucket: %v", err)
	}
}

// patience is the stores' timeout: the emulator is shared, and may be busy.
const patience = "30s"

// openStore opens a store in a bucket of its own if the options name none.
func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Bucket == "" {
		o.Bucket = newBucket(t)
	}
	o.Timeout = patience
	b, err := Open(t.Context(), o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { closeIt(t, b) })
	return b.(*Store)
}

// through opens a store of the same bucket that reaches S3 by way of url.
func through(t testing.TB, s *Store, url string) *Store {
	t.Helper()
	other := openStore(t, Options{Bucket: s.bucket})
	o := other.client.Options()
	o.BaseEndpoint = aws.String(url)
	other.client = s3.New(o)
	return other
}

func closeIt(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func id(tenant, service, key string) config.ID {
	return config.ID{Tenant: must(config.ParseOwner(tenant)), Service: must(config.ParseService(service)), Key: must(config.ParseKey(key))}
}

func put(t testing.TB, s driver.Backend, id config.ID, value string, more ...func(*driver.PutRequest)) config.Entry {
	t.Helper()
	r := driver.PutRequest{ID: id, Value: []byte(value)}
	for _, set := range more {
		set(&r)
	}
	e, err := s.Put(t.Context(), r)
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

func wantEntry(t testing.TB, s driver.Backend, id config.ID, version uint64, value string) {
	t.Helper()
	e, err := s.Get(t.Context(), id, 0)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	if e.ID != id || e.Version != version || string(e.Value) != value {
		t.Fatalf("get: version %d with value %q, want version %d with %q", e.Version, brief(e.Value), version, value)
	}
}

func brief(b []byte) string { return string(b[:min(len(b), 40)]) }

func wantCode(t testing.TB, err error, want config.Code) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", want)
	}
	if got := config.CodeOf(err); got != want {
		t.Fatalf("got %s (%v), want %s", got, err, want)
	}
}

// past prints the whole history, newest first, as "3 c", "2 deleted", "1 a".
func past(t testing.TB, s *Store, id config.ID) string {
	t.Helper()
	var all []string
	r := driver.HistoryRequest{ID: id}
	for {
		page, err := s.History(t.Context(), r)
		if err != nil {
			t.Fatalf("history: %v", err)
		}
		for _, e := range page.Entries {
			what := brief(e.Value)
			if e.Deleted {
				what = "deleted"
			}
			all = append(all, fmt.Sprintf("%d %s", e.Version, what))
		}
		if r.PageToken = page.NextPageToken; r.PageToken == "" {
			return strings.Join(all, ", ")
		}
	}
}

// foreign puts an object as another tool would.
func foreign(t testing.TB, s *Store, path, value string) string {
	t.Helper()
	out, err := raw(t).PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: &s.bucket, Key: &path, Body: strings.NewReader(value), ContentType: aws.String("text/plain"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return aws.ToString(out.VersionId)
}

// foreignDelete deletes an object as another tool would.
func foreignDelete(t testing.TB, s *Store, path string) {
	t.Helper()
	if _, err := raw(t).DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &path}); err != nil {
		t.Fatal(err)
	}
}

// others returns what a tool that knows nothing of records reads.
func others(t testing.TB, s *Store, path string) (value string, there bool) {
	t.Helper()
	out, err := raw(t).GetObject(t.Context(), &s3.GetObjectInput{Bucket: &s.bucket, Key: &path})
	if absent(err) {
		return "", false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer out.Body.Close()
	b, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), true
}
