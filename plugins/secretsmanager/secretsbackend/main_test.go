package secretsbackend

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
)

// motoURL is moto itself, awsURL moto held to the rules of AWS, where the
// environment sends every client of this process and of the programs it starts.
var motoURL, awsURL string

func TestMain(m *testing.M) {
	var err error
	if motoURL, err = emulators.MotoURL(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 64
	server := newRules(motoURL)
	awsURL = server.URL
	if err := emulators.Setenv(awsURL); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // failures are made here on purpose
	code := m.Run()
	if err := sweep(context.Background()); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "sweeping up:", err)
		code = 1
	}
	server.Close()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// root is where the names of all secrets of this process begin.
var root = "tagstore-" + strings.ToLower(rand.Text()[:12])

// folder returns a root for the names of one test's secrets.
func folder(testing.TB) string { return root + "/" + strings.ToLower(rand.Text()[:12]) }

// sweep deletes the secrets of this process: moto is shared, and is slower the
// more it holds.
func sweep(ctx context.Context) error {
	cfg, err := sdkconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	client := secretsmanager.NewFromConfig(cfg, func(o *secretsmanager.Options) {
		o.BaseEndpoint, o.HTTPClient = &motoURL, &http.Client{Transport: emulators.PlainBody{RoundTripper: http.DefaultTransport}}
	})
	for {
		out, err := client.ListSecrets(ctx, &secretsmanager.ListSecretsInput{
			MaxResults: aws.Int32(100), IncludePlannedDeletion: aws.Bool(true),
			Filters: []types.Filter{{Key: types.FilterNameStringTypeName, Values: []string{root + "/"}}},
		})
		if err != nil || len(out.SecretList) == 0 {
			return err
		}
		for _, s := range out.SecretList {
			if _, err := client.DeleteSecret(ctx, &secretsmanager.DeleteSecretInput{SecretId: s.Name, ForceDeleteWithoutRecovery: aws.Bool(true)}); err != nil {
				return err
			}
		}
	}
}

func testOptions(t testing.TB) Options {
	t.Helper()
	return Options{Path: folder(t) + "/{tenant}/{service}/{name}", NoService: "_"}
}

func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := open(t.Context(), o)
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

// at opens a store whose calls go to another endpoint.
func at(t *testing.T, endpoint string, o Options) *Store {
	t.Helper()
	s := openStore(t, o)
	s.api = secretsmanager.New(s.api.Options(), func(o *secretsmanager.Options) { o.BaseEndpoint = &endpoint })
	return s
}

// through opens a store whose calls go by way of a proxy.
func through(t *testing.T, p *emulators.Proxy, o Options) *Store {
	t.Helper()
	return at(t, p.URL, o)
}

// raw is the SDK as another tool would use it.
func raw(t testing.TB) *secretsmanager.Client {
	t.Helper()
	cfg, err := sdkconfig.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: emulators.PlainBody{RoundTripper: http.DefaultTransport}}
	return secretsmanager.NewFromConfig(cfg, func(o *secretsmanager.Options) { o.HTTPClient = client })
}

func id(t testing.TB, tenant, service, key string) config.ID {
	t.Helper()
	owner, err := config.ParseOwner(tenant)
	if err != nil {
		t.Fatal(err)
	}
	sv, err := config.ParseService(service)
	if err != nil {
		t.Fatal(err)
	}
	k, err := config.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return config.ID{Tenant: owner, Service: sv, Key: k}
}

func nameOf(t testing.TB, s *Store, id config.ID) string {
	t.Helper()
	name, err := s.path(id)
	if err != nil {
		t.Fatal(err)
	}
	return name
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

func wantValue(t testing.TB, s driver.Backend, id config.ID, version uint64, want string) config.Entry {
	t.Helper()
	e, err := s.Get(t.Context(), id, version)
	if err != nil {
		t.Fatalf("get version %d: %v", version, err)
	}
	if string(e.Value) != want || e.ID != id || !e.Secret {
		t.Fatalf("get version %d: got %q, secret %t, want %q", version, e.Value, e.Secret, want)
	}
	return e
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

func wantMissing(t testing.TB, s driver.Backend, id config.ID) {
	t.Helper()
	_, err := s.Get(t.Context(), id, 0)
	wantCode(t, err, config.NotFound)
}

// history returns all versions, as "3:value" and "4:deleted".
func history(t testing.TB, s *Store, id config.ID) []string {
	t.Helper()
	var all []string
	for token := ""; ; {
		page, err := s.History(t.Context(), driver.HistoryRequest{ID: id, PageToken: token})
		if err != nil {
			t.Fatalf("history: %v", err)
		}
		for _, e := range page.Entries {
			text := string(e.Value)
			if e.Deleted {
				text = "deleted"
			}
			all = append(all, fmt.Sprintf("%d:%s", e.Version, text))
		}
		if token = page.NextPageToken; token == "" {
			return all
		}
	}
}

func describe(t testing.TB, name string) *secretsmanager.DescribeSecretOutput {
	t.Helper()
	out, err := raw(t).DescribeSecret(t.Context(), &secretsmanager.DescribeSecretInput{SecretId: &name})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// labelled returns the ID of the version that has a label, "" for none.
func labelled(t testing.TB, name, label string) string {
	t.Helper()
	for version, labels := range describe(t, name).VersionIdsToStages {
		if strings.Contains(strings.Join(labels, " "), label) {
			return version
		}
	}
	return ""
}

func putRaw(t testing.TB, name, value string, labels ...string) string {
	t.Helper()
	out, err := raw(t).PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &name, SecretString: &value, VersionStages: labels})
	if err != nil {
		t.Fatal(err)
	}
	return aws.ToString(out.VersionId)
}

func createRaw(t testing.TB, name, value string) string {
	t.Helper()
	out, err := raw(t).CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: &name, SecretString: &value})
	if err != nil {
		t.Fatal(err)
	}
	return aws.ToString(out.VersionId)
}

func moveRaw(t testing.TB, name, label, from, to string) {
	t.Helper()
	in := &secretsmanager.UpdateSecretVersionStageInput{SecretId: &name, VersionStage: &label}
	if from != "" {
		in.RemoveFromVersionId = &from
	}
	if to != "" {
		in.MoveToVersionId = &to
	}
	if _, err := raw(t).UpdateSecretVersionStage(t.Context(), in); err != nil {
		t.Fatal(err)
	}
}
