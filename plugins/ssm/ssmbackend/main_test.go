package ssmbackend

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// moto returns the address of the emulator. All of the SDK's own variables
// point at it from then on.
func moto(t testing.TB) string {
	t.Helper()
	endpoint := emulators.Moto(t)
	environment.Do(func() { environmentErr = emulators.Setenv(endpoint) })
	if environmentErr != nil {
		t.Fatal(environmentErr)
	}
	return endpoint
}

var (
	environment    sync.Once
	environmentErr error
)

// folder returns the beginning of a path that no other test uses.
func folder(t testing.TB) string {
	t.Helper()
	return "/" + emulators.Name(t, "test")
}

// raw is the API as other tools use it, past the store.
func raw(t testing.TB) *ssm.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return ssm.New(ssm.Options{
		BaseEndpoint: aws.String(moto(t)),
		Region:       "us-east-1",
		Credentials:  credentials.NewStaticCredentialsProvider("others", "others", ""),
		HTTPClient:   &http.Client{Transport: emulators.PlainBody{RoundTripper: transport}},
	})
}

// rawPut makes one version, past the store.
func rawPut(t testing.TB, c *ssm.Client, name, value string, more ...func(*ssm.PutParameterInput)) int64 {
	t.Helper()
	in := &ssm.PutParameterInput{
		Name: aws.String(name), Value: aws.String(value), Type: types.ParameterTypeString, Overwrite: aws.Bool(true),
	}
	for _, set := range more {
		set(in)
	}
	out, err := c.PutParameter(t.Context(), in)
	if err != nil {
		t.Fatalf("putting a parameter past the store: %v", err)
	}
	return out.Version
}

func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	moto(t)
	b, err := Open(t.Context(), o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { closeIt(t, b) })
	return b.(*Store)
}

// at returns options for a store below root, with the shape of the default.
func at(root string) Options {
	return Options{Path: root + "/{tenant}/{service}/{name}", Options: patient}
}

// patient gives the emulator the time that it needs on a busy machine.
var patient = awsconn.Options{Timeout: "30s"}

func closeIt(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func tenant(t testing.TB, s string) config.Tenant {
	t.Helper()
	v, err := config.ParseOwner(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func id(t testing.TB, owner, service, key string) config.ID {
	t.Helper()
	s, err1 := config.ParseService(service)
	k, err2 := config.ParseKey(key)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return config.ID{Tenant: tenant(t, owner), Service: s, Key: k}
}

func put(t testing.TB, s driver.Backend, id config.ID, value string) config.Entry {
	t.Helper()
	e, err := s.Put(t.Context(), driver.PutRequest{ID: id, Value: []byte(value)})
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	return e
}

func get(t testing.TB, s driver.Backend, id config.ID, version uint64) config.Entry {
	t.Helper()
	e, err := s.Get(context.Background(), id, version)
	if err != nil {
		t.Fatalf("get version %d: %v", version, err)
	}
	return e
}

func wantValue(t testing.TB, s driver.Backend, id config.ID, version uint64, want string) {
	t.Helper()
	if e := get(t, s, id, version); string(e.Value) != want {
		t.Fatalf("get version %d: got %q, want %q", version, e.Value, want)
	}
}

func wantCode(t testing.TB, err error, want config.Code) {
	t.Helper()
	_ = wantError(t, err, want)
}

// wantError is wantCode, for more to be asked of the error.
func wantError(t testing.TB, err error, want config.Code) *config.Error {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", want)
	}
	if got := config.CodeOf(err); got != want {
		t.Fatalf("got %s (%v), want %s", got, err, want)
	}
	return config.AsError(err, "", config.Key{})
}

func wantConflict(t testing.TB, err error, current uint64) {
	t.Helper()
	if e := wantError(t, err, config.Conflict); e.Version != current {
		t.Fatalf("the conflict names version %d, want %d: %v", e.Version, current, err)
	}
}

// list returns all keys of a scope, page by page.
func list(t testing.TB, s driver.Backend, in config.ID, prefix string, size int) []string {
	t.Helper()
	var keys []string
	r := driver.ListRequest{Tenant: in.Tenant, Service: in.Service, KeyPrefix: prefix, PageSize: size}
	for {
		page, err := s.List(t.Context(), r)
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		for _, e := range page.Entries {
			keys = append(keys, e.ID.Key.String())
		}
		if r.PageToken = page.NextPageToken; r.PageToken == "" {
			return keys
		}
	}
}
