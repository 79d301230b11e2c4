package s3backend

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// Every option that is wrong is named, and all of them at once.
func TestOptionsThatAreWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options Options
		says    []string
	}{
		"none":   {Options{}, []string{"bucket is missing"}},
		"an ARN": {Options{Bucket: "arn:aws:s3:::x"}, []string{"no bucket's name"}},
		"all": {
			Options{
				Bucket: "UPPER", Path: "{service}/{name}", Env: "x", KeyPrefix: "/", KMSKeyID: "a b", MaxValue: maxMaxValue + 1, HistoryLimit: -1,
				Options: awsconn.Options{Timeout: "soon", TenantRole: "me", MaxAttempts: -1},
			},
			[]string{"bucket", "{tenant}", "env", "key_prefix", "kms_key_id", "max_value", "history_limit", "timeout", "tenant_role", "max_attempts"},
		},
		"directory bucket":    {Options{Bucket: "x--use1-az4--x-s3"}, []string{"directory bucket"}},
		"a service's segment": {Options{Bucket: "example", NoService: aws.String("shared")}, []string{"no_service"}},
		"no use of a segment": {Options{Bucket: "example", Path: "{tenant}/{name}", NoService: aws.String("_")}, []string{"no_service"}},
	} {
		_, err := Open(t.Context(), c.options)
		if config.CodeOf(err) != config.InvalidArgument {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range c.says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not speak of %s", name, err, want)
			}
		}
		if strings.Contains(err.Error(), "template") {
			t.Errorf("%s: %v speaks of an option that there is not", name, err)
		}
	}
}

// So are region and credentials that are missing beside them.
func TestOpenSaysEverything(t *testing.T) {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, "")
	}
	_, err := Open(t.Context(), Options{MaxValue: -1})
	wantCode(t, err, config.InvalidArgument)
	for _, want := range []string{"bucket is missing", "max_value", "region", "credentials"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not speak of %s", err, want)
		}
	}
}

func TestNoService(t *testing.T) {
	t.Parallel()
	wide, of := id("acme", "", "folder/doc"), id("acme", "order", "folder/doc")
	for options, want := range map[string][2]string{
		`{"bucket":"example"}`:                                          {"acme/_/folder/doc", "acme/order/folder/doc"},
		`{"bucket":"example","no_service":"-"}`:                         {"acme/-/folder/doc", "acme/order/folder/doc"},
		`{"bucket":"example","no_service":""}`:                          {"", "acme/order/folder/doc"},
		`{"bucket":"example","path":"{tenant}/{name}"}`:                 {"acme/folder/doc", ""},
		`{"bucket":"example","path":"{env}/{tenant}/{name}","env":"p"}`: {"p/acme/folder/doc", ""},
		`{"bucket":"example","key_prefix":"folder/"}`:                   {"acme/_/doc", "acme/order/doc"},
	} {
		var o Options
		if err := json.Unmarshal([]byte(options), &o); err != nil {
			t.Fatal(err)
		}
		settings, err := o.parse()
		if err != nil {
			t.Errorf("%s: %v", options, err)
			continue
		}
		s := &Store{settings: settings}
		for i, k := range []config.ID{wide, of} {
			if got, err := s.path(k); got != want[i] || (err == nil) != (want[i] != "") {
				t.Errorf("%s: %v is at %q (%v), want %q", options, k, got, err, want[i])
			}
		}
	}
	long := &Store{settings: must(Options{Bucket: "example", Path: strings.Repeat("x/", 300) + "{tenant}/{service}/{name}"}.parse())}
	_, err := long.path(id("acme", "order", strings.Repeat("k", 500)))
	wantCode(t, err, config.InvalidArgument)
}

// A bucket that would lose values is refused, with the command that mends it.
func TestBucketsThatAreRefused(t *testing.T) {
	t.Parallel()
	c := raw(t)
	never, suspended := emulators.Name(t, "s3"), emulators.Name(t, "s3")
	makeBucket(t, c, never)
	makeBucket(t, c, suspended)
	setVersioning(t, c, suspended, types.BucketVersioningStatusEnabled)
	setVersioning(t, c, suspended, types.BucketVersioningStatusSuspended)
	for bucket, says := range map[string][]string{
		never:                     {"never enabled", "aws s3api put-bucket-versioning --bucket " + never},
		suspended:                 {"suspended", "aws s3api put-bucket-versioning --bucket " + suspended},
		emulators.Name(t, "none"): {"does not exist", "create it"},
	} {
		_, err := Open(t.Context(), Options{Bucket: bucket})
		wantCode(t, err, config.FailedPrecondition)
		for _, want := range says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not speak of %q", err, want)
			}
		}
	}
}

// What is wrong with a bucket is told in one go.
func TestProblemsOfABucket(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{})
	proxy := emulators.NewProxy(t, emulators.Moto(t))
	other := through(t, s, proxy.URL)
	region := emulators.Answer{Status: 301, Header: map[string][]string{"X-Amz-Bucket-Region": {"eu-west-3"}}}
	for name, c := range map[string]struct {
		versioning, head emulators.Answer
		code             config.Code
		says             []string
	}{
		"denied both": {
			emulators.XMLError(403, "AccessDenied", "arn:aws:iam::123456789012:user/me"),
			emulators.Answer{Status: 403},
			config.PermissionDenied,
			[]string{"s3:GetBucketVersioning", "s3:ListBucket"},
		},
		"another region": {region, region, config.FailedPrecondition, []string{"another region", "eu-west-3"}},
		"unversioned and denied": {
			emulators.Answer{Status: 200, Body: []byte(`<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>`)},
			emulators.Answer{Status: 403},
			config.FailedPrecondition,
			[]string{"put-bucket-versioning", "s3:ListBucket"},
		},
	} {
		proxy.Clear()
		proxy.Inject(emulators.Fault{Operation: "GetBucketVersioning", Then: emulators.Reply, Answer: c.versioning})
		proxy.Inject(emulators.Fault{Operation: "HeadBucket", Then: emulators.Reply, Answer: c.head})
		err := other.inspect(t.Context())
		if config.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
			continue
		}
		for _, want := range c.says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not speak of %s", name, err, want)
			}
		}
		if strings.Contains(err.Error(), "123456789012") {
			t.Errorf("%s: %v says too much", name, err)
		}
		var e *config.Error
		if err := other.Ping(t.Context()); !errors.As(err, &e) || e.Code != config.Unavailable {
			t.Errorf("%s: ping: %v", name, err)
		}
	}
}

// A bucket whose versioning is suspended later takes no more writes for good.
func TestVersioningSuspendedWhileInUse(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{})
	put(t, s, key, "one")
	setVersioning(t, raw(t), s.bucket, types.BucketVersioningStatusSuspended)
	_, err := s.Put(t.Context(), driver.PutRequest{ID: key, Value: []byte("two")})
	wantCode(t, err, config.FailedPrecondition)
	if !strings.Contains(err.Error(), "put-bucket-versioning") {
		t.Errorf("%v", err)
	}
}

// A call that is made in the bucket's encryption says so.
func TestEncryption(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{KMSKeyID: "alias/config"})
	put(t, s, key, "1")
	out, err := raw(t).HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &s.bucket, Key: aws.String(path)})
	if err != nil {
		t.Fatal(err)
	}
	if out.ServerSideEncryption != types.ServerSideEncryptionAwsKms || aws.ToString(out.SSEKMSKeyId) != "alias/config" {
		t.Errorf("encrypted with %q, key %q", out.ServerSideEncryption, aws.ToString(out.SSEKMSKeyId))
	}
}

// With a role per tenant each call is made in the session of its own tenant.
func TestTenantRole(t *testing.T) {
	t.Parallel()
	o := Options{Bucket: newBucket(t), Options: awsconn.Options{TenantRole: "arn:aws:iam::123456789012:role/config-tenant"}}
	s := openStore(t, o)
	var mu sync.Mutex
	signers := map[string]map[string]bool{} // by tenant, the first segment of the key or prefix
	url := editing(t, func(r *http.Response) error {
		where := r.Request.URL.Query().Get("prefix")
		if where == "" {
			_, where, _ = strings.Cut(strings.TrimPrefix(r.Request.URL.Path, "/"), "/")
		}
		tenant, _, _ := strings.Cut(where, "/")
		_, credential, _ := strings.Cut(r.Request.Header.Get("Authorization"), "Credential=")
		signer, _, _ := strings.Cut(credential, "/")
		mu.Lock()
		defer mu.Unlock()
		if signers[tenant] == nil {
			signers[tenant] = map[string]bool{}
		}
		signers[tenant][signer] = true
		return nil
	})
	options := s.client.Options()
	options.BaseEndpoint = aws.String(url)
	s.client = s3.New(options)
	seen := map[string]string{}
	for _, tenant := range []string{"acme", "globex", "_shared"} {
		k := id(tenant, "order", "k")
		put(t, s, k, "1")
		put(t, s, k, "2")
		wantEntry(t, s, k, 2, "2")
		must(s.List(t.Context(), driver.ListRequest{Tenant: k.Tenant, Service: k.Service}))
		must(s.History(t.Context(), driver.HistoryRequest{ID: k}))
		must(s.Get(t.Context(), k, 1))
		must(s.BatchGet(t.Context(), []config.ID{k}))
		remove(t, s, k)
		if len(signers[tenant]) != 1 {
			t.Errorf("the calls of %s have %d signers", tenant, len(signers[tenant]))
		}
		for signer := range signers[tenant] {
			if other, ok := seen[signer]; ok {
				t.Errorf("%s and %s have one signer", tenant, other)
			}
			seen[signer] = tenant
		}
	}
}
