package secretsbackend

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// Store is the driver of AWS Secrets Manager. Open makes one; it is safe for
// concurrent use.
type Store struct {
	settings
	conn   *awsconn.Conn
	api    *secretsmanager.Client
	tokens *driver.Sealer
	memory *memory
	locks  keyLocks
	now    func() time.Time

	mu     sync.RWMutex // held for reading while a write is added to writes
	shut   bool
	closed chan struct{}
	writes sync.WaitGroup
	close  func() error
}

var (
	_ driver.Backend   = (*Store)(nil)
	_ driver.Batcher   = (*Store)(nil)
	_ driver.Historian = (*Store)(nil)
	_ driver.Pinger    = (*Store)(nil)
	_ driver.Refresher = (*Store)(nil)
	_ driver.Qualified = (*Store)(nil)
)

// Open checks all options, looks for region and credentials, and asks Secrets
// Manager whether it answers; see Ping. What is wrong with options, region and
// credentials is reported at once.
//
// InvalidArgument: the options are wrong. FailedPrecondition: no region or no
// credentials. Unauthenticated: AWS does not accept them. Unavailable: AWS does
// not answer.
//
// Page tokens are sealed with a key that is derived from the region and from how
// names are made: they are good in every process with the same options. They keep
// requests from being confused with one another; they hide nothing.
func Open(ctx context.Context, o Options) (driver.Backend, error) {
	s, err := open(ctx, o)
	if err != nil {
		return nil, config.AsError(err, "secretsmanager.Open", config.Key{})
	}
	return s, nil
}

func open(ctx context.Context, o Options) (*Store, error) {
	o.Path = o.layout().Template
	set, wrong := o.parse()
	conn, err := awsconn.OpenWith(ctx, o.Options, wrong)
	if err != nil {
		return nil, err
	}
	cfg := conn.Config()
	key := sha256.Sum256(fmt.Appendf(nil, "tagstore secretsmanager %q %q %q %q %q", cfg.Region, o.Path, o.Env, o.KeyPrefix, o.NoService))
	s := &Store{
		settings: set, conn: conn, api: secretsmanager.NewFromConfig(cfg), tokens: driver.NewSealer(key[:]),
		memory: newMemory(), now: time.Now, closed: make(chan struct{}),
	}
	s.close = sync.OnceValue(s.shutdown)
	if err := s.probe(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close takes no more calls and ends every connection, and with them the calls
// that wait for an answer.
func (s *Store) Close() error { return s.close() }

func (s *Store) shutdown() error {
	s.mu.Lock()
	s.shut = true
	s.mu.Unlock()
	close(s.closed)
	err := s.conn.Close()
	s.writes.Wait() // they end with the connections
	return err
}

// Caveats declares what Secrets Manager can not keep: it stores neither content
// types nor authors and messages, takes no empty values, and its documentation
// calls every one of its operations eventually consistent.
func (s *Store) Caveats() driver.Caveats {
	return driver.Caveats{Unattributed: true, InferredType: true, NonEmpty: true, EventualReads: true}
}

// Ping asks for a secret that need not exist. That AWS answers at all, if only
// that this role may not ask, shows that the store can be reached.
func (s *Store) Ping(ctx context.Context) error {
	const op = "secretsmanager.Ping"
	if err := s.begin(ctx); err != nil {
		return config.AsError(err, op, config.Key{})
	}
	err := s.probe(ctx)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return config.AsError(ended(ctx, false), op, config.Key{})
	}
	e := config.AsError(s.orClosed(err), op, config.Key{})
	if e.Code != config.FailedPrecondition || !s.isClosed() {
		e.Code = config.Unavailable
	}
	return e
}

func (s *Store) probe(ctx context.Context) error {
	_, err := s.describeSecret(ctx, config.Shared(), s.names.TenantRoot(config.Shared())+"tagstore-ping")
	if err == nil || isAbsent(err) || config.CodeOf(fail(err, false)) == config.PermissionDenied {
		return nil
	}
	return s.readError(ctx, err)
}

// begin refuses a call that may not start.
func (s *Store) begin(ctx context.Context) error {
	if s.isClosed() {
		return errClosed()
	}
	if ctx.Err() != nil {
		return ended(ctx, false)
	}
	return nil
}

func (s *Store) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// orClosed tells the end of the store from the failures that it causes. That a
// caller gave up is none of them, and says of a write that it may have been made.
func (s *Store) orClosed(err error) error {
	if err != nil && s.isClosed() {
		switch config.CodeOf(err) {
		case config.Unavailable, config.FailedPrecondition:
			return errClosed().WithCause(err)
		}
	}
	return err
}

// path returns the name of the secret that an ID lies in.
func (s *Store) path(id config.ID) (string, error) {
	if id.IsZero() {
		return "", errNoID()
	}
	name, err := s.names.Path(id)
	if err != nil {
		return "", err
	}
	if len(name) > maxName {
		return "", config.Errorf(config.InvalidArgument, "the secret's name would have %d characters, and Secrets Manager allows %d", len(name), maxName).
			WithHint("use a shorter key, or set key_prefix to the prefix of the route so that it is not part of the name")
	}
	return name, nil
}

// as makes a call with the credentials of a tenant.
func (s *Store) as(tenant config.Tenant) func(*secretsmanager.Options) {
	p := s.conn.Credentials(tenant)
	return func(o *secretsmanager.Options) {
		if p != nil {
			o.Credentials = p
		}
	}
}

// once makes a call that must not be carried out twice.
func (s *Store) once(o *secretsmanager.Options) { o.Retryer = s.conn.Once() }

func (s *Store) describeSecret(ctx context.Context, tenant config.Tenant, name string) (*secretsmanager.DescribeSecretOutput, error) {
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	out, err := s.api.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &name}, s.as(tenant))
	if err == nil && aws.ToString(out.Name) != name {
		return nil, errForeign()
	}
	return out, err
}

// getSecretValue reads the current version, or the one with this ID.
func (s *Store) getSecretValue(ctx context.Context, tenant config.Tenant, name, version string) (secret, error) {
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	in := &secretsmanager.GetSecretValueInput{SecretId: &name}
	if version == "" {
		in.VersionStage = aws.String(labelCurrent)
	} else {
		in.VersionId = &version
	}
	out, err := s.api.GetSecretValue(ctx, in, s.as(tenant))
	if err != nil {
		return secret{}, err
	}
	got := aws.ToString(out.VersionId)
	if aws.ToString(out.Name) != name || got == "" || version != "" && got != version {
		return secret{}, errForeign()
	}
	return secret{
		arn: aws.ToString(out.ARN), stamp: readStamp(got), created: aws.ToTime(out.CreatedDate), value: content(out.SecretString, out.SecretBinary),
	}, nil
}

// listVersions returns every version that is kept, in the service's order, and
// the ARN of the secret.
func (s *Store) listVersions(ctx context.Context, tenant config.Tenant, name string) (all []kept, arn string, err error) {
	in := &secretsmanager.ListSecretVersionIdsInput{SecretId: &name, IncludeDeprecated: aws.Bool(true), MaxResults: aws.Int32(100)}
	for range maxVersionPages {
		out, err := s.listVersionPage(ctx, tenant, in)
		if err != nil {
			return nil, "", err
		}
		if aws.ToString(out.Name) != name {
			return nil, "", errForeign()
		}
		for _, v := range out.Versions {
			all = append(all, kept{stamp: readStamp(aws.ToString(v.VersionId)), created: aws.ToTime(v.CreatedDate), labels: v.VersionStages})
		}
		if aws.ToString(out.NextToken) == "" {
			return all, aws.ToString(out.ARN), nil
		}
		in.NextToken = out.NextToken
	}
	return nil, "", config.Errorf(config.Internal, "Secrets Manager lists the versions of a secret without end")
}

// maxVersionPages bounds the walk over a secret's versions; more than one page is
// rare.
const maxVersionPages = 100

func (s *Store) listVersionPage(ctx context.Context, tenant config.Tenant, in *secretsmanager.ListSecretVersionIdsInput) (*secretsmanager.ListSecretVersionIdsOutput, error) {
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	return s.api.ListSecretVersionIds(ctx, in, s.as(tenant))
}

// secret is one version with its value.
type secret struct {
	arn string
	stamp
	created time.Time
	value   []byte
}

// content returns the value of a version; never nil.
func content(text *string, binary []byte) []byte {
	if text != nil {
		return []byte(*text)
	}
	if binary == nil {
		return []byte{}
	}
	return binary
}

// entry makes a version an answer. Everything here is a secret.
func entry(id config.ID, r rung, value []byte) config.Entry {
	e := config.Entry{
		ID: id, Version: r.number, Revision: config.Revision(r.id), UpdatedAt: r.at.UTC(), Secret: true, Deleted: r.deleted,
	}
	if !r.deleted {
		e.Value, e.ContentType = value, driver.InferType(value)
	}
	return e
}

// pause waits between two looks at something that is to change soon.
func (s *Store) pause(ctx context.Context, attempt int) error {
	t := time.NewTimer(min(50*time.Millisecond<<attempt, 400*time.Millisecond))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.closed:
		return errClosed()
	case <-ctx.Done():
		return ended(ctx, false)
	}
}
