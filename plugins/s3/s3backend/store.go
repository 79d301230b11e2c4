package s3backend

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// parallel is how many requests one call of the contract has under way at once.
const parallel = 16

// maxPath is S3's limit of an object's key in bytes.
const maxPath = 1024

// Store is the Backend. See the package documentation.
type Store struct {
	settings
	conn   *awsconn.Conn
	client *s3.Client
	tokens *driver.Sealer
	memo   memo
	closed atomic.Bool
	// batchBytes is the constant; less in tests.
	batchBytes int64
	// untagged is set when S3 refused to tag an object: from then on nobody
	// tries, and readers look at the version list instead.
	untagged atomic.Bool
}

var (
	_ driver.Backend   = (*Store)(nil)
	_ driver.Batcher   = (*Store)(nil)
	_ driver.Historian = (*Store)(nil)
	_ driver.Pinger    = (*Store)(nil)
)

// Open opens the store in a bucket that exists, lies in the configured region
// and has its versioning enabled. Bad options are InvalidArgument, all of them
// at once; what is wrong with the bucket is FailedPrecondition or
// PermissionDenied, all that two requests tell at once.
func Open(ctx context.Context, o Options) (driver.Backend, error) {
	s, err := open(ctx, o)
	if err != nil {
		return nil, config.AsError(err, "s3.Open", config.Key{})
	}
	return s, nil
}

func open(ctx context.Context, o Options) (*Store, error) {
	settings, wrong := o.parse()
	conn, err := awsconn.OpenWith(ctx, o.Options, wrong)
	if err != nil {
		return nil, err
	}
	s := &Store{
		settings: settings,
		conn:     conn,
		client: s3.NewFromConfig(conn.Config(), func(o *s3.Options) {
			o.UsePathStyle = settings.pathStyle
			o.DisableLogOutputChecksumValidationSkipped = true
		}),
		tokens:     driver.NewSealer(settings.tokenKey),
		batchBytes: batchBytes,
	}
	if err := s.inspect(ctx); err != nil {
		_ = conn.Close() // of what never served
		return nil, err
	}
	return s, nil
}

// inspect asks whether the bucket is there, may be used and keeps versions.
func (s *Store) inspect(ctx context.Context) error {
	var problems [2]error
	var g errgroup.Group
	g.Go(func() error {
		ctx, cancel := s.conn.WithTimeout(ctx)
		defer cancel()
		out, err := s.client.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &s.bucket})
		switch {
		case err != nil:
			problems[0] = s.unusable(err, "s3:GetBucketVersioning")
		case out.Status != types.BucketVersioningStatusEnabled:
			state := "was never enabled"
			if out.Status == types.BucketVersioningStatusSuspended {
				state = "is suspended"
			}
			problems[0] = config.Errorf(config.FailedPrecondition, "the bucket's versioning %s, and without it values would be lost", state).
				WithHint("aws s3api put-bucket-versioning --bucket %s --versioning-configuration Status=Enabled", s.bucket)
		}
		return nil
	})
	g.Go(func() error {
		ctx, cancel := s.conn.WithTimeout(ctx)
		defer cancel()
		_, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &s.bucket})
		problems[1] = s.unusable(err, "s3:ListBucket")
		return nil
	})
	_ = g.Wait() // the problems are told together
	return join(problems[:])
}

// unusable says why the bucket can not be used, in the words of its mend.
func (s *Store) unusable(err error, action string) error {
	if err == nil {
		return nil
	}
	status := statusOf(err)
	switch {
	case apiCode(err) == "NoSuchBucket", status == http.StatusNotFound:
		return config.Errorf(config.FailedPrecondition, "the bucket does not exist").WithCause(err).
			WithHint("create it and enable its versioning, or correct bucket, AWS_REGION or the account")
	case status == http.StatusMovedPermanently, status == http.StatusTemporaryRedirect, apiCode(err) == "AuthorizationHeaderMalformed":
		e := config.Errorf(config.FailedPrecondition, "the bucket lies in another region").WithCause(err)
		if region := regionOf(err); region != "" {
			return e.WithHint("set AWS_REGION to %s", region)
		}
		return e.WithHint("set AWS_REGION to the bucket's: aws s3api get-bucket-location --bucket %s", s.bucket)
	case status == http.StatusForbidden && (apiCode(err) == "AccessDenied" || apiCode(err) == "Forbidden"):
		return config.Errorf(config.PermissionDenied, "the bucket may not be used: %s is denied", action).WithCause(err).
			WithHint("allow it in IAM and in the bucket's policy, and check that the bucket is the account's: bucket names are shared by all of AWS")
	}
	return fail("", config.Key{}, err, false)
}

// join makes several problems one error with the code of the first, each text
// once.
func join(problems []error) error {
	var (
		first    *config.Error
		messages []string
		mends    []string
	)
	for _, p := range problems {
		if p == nil {
			continue
		}
		e := config.AsError(p, "", config.Key{})
		if first == nil {
			first = e
		}
		messages, mends = appendOnce(messages, e.Message), appendOnce(mends, e.Hint)
	}
	if first == nil {
		return nil
	}
	e := *first
	e.Message, e.Hint = strings.Join(messages, "; "), strings.Join(mends, "; ")
	return &e
}

func appendOnce(all []string, s string) []string {
	for _, have := range all {
		if have == s {
			return all
		}
	}
	if s == "" {
		return all
	}
	return append(all, s)
}

// Close ends the store. Calls that are under way end by themselves.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.conn.Close()
}

// begin is where every call of the contract starts.
func (s *Store) begin(ctx context.Context) error {
	if s.closed.Load() {
		return errClosed
	}
	return done(ctx)
}

// Ping asks S3 for the bucket. Its error is always Unavailable, apart from a
// context's and a closed store's.
func (s *Store) Ping(ctx context.Context) error {
	const op = "s3.Ping"
	if err := s.begin(ctx); err != nil {
		return config.AsError(err, op, config.Key{})
	}
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	_, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &s.bucket})
	if err == nil {
		return nil
	}
	e := config.AsError(s.unusable(err, "s3:ListBucket"), op, config.Key{})
	if e.Code != config.Canceled && e.Code != config.DeadlineExceeded {
		e.Code = config.Unavailable
	}
	return e
}

// path returns the object key of an ID.
func (s *Store) path(id config.ID) (string, error) {
	if id.IsZero() {
		return "", errNoID
	}
	path, err := s.paths.Path(id)
	if err != nil {
		return "", err
	}
	if len(path) > maxPath {
		return "", config.Errorf(config.InvalidArgument, "the object's key would have %d bytes, S3 takes %d", len(path), maxPath).
			WithHint("use a shorter key, or shorten the option path")
	}
	return path, nil
}

// as returns the options of a call that is made for a tenant.
func (s *Store) as(tenant config.Tenant) func(*s3.Options) {
	credentials := s.conn.Credentials(tenant)
	return func(o *s3.Options) {
		if credentials != nil {
			o.Credentials = credentials
		}
	}
}

func (s *Store) encryption(in *s3.PutObjectInput) {
	if s.kmsKeyID == "" {
		return
	}
	in.ServerSideEncryption = types.ServerSideEncryptionAwsKms
	in.SSEKMSKeyId = &s.kmsKeyID
	in.BucketKeyEnabled = aws.Bool(true) // one request to KMS per bucket and while, not per object
}

// regionOf returns the region that S3 said a bucket lies in, if it said so in
// the form of a region's name.
func regionOf(err error) string {
	region := header(err, "X-Amz-Bucket-Region")
	if len(region) > 32 || strings.ContainsFunc(region, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	}) {
		return ""
	}
	return region
}
