package dynamodbbackend

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/plugins/dynamodb/internal/daxread"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// Store is a backend on one DynamoDB table. It is safe for concurrent use, and
// any number of processes may use the table at once.
type Store struct {
	settings
	keymap keymap
	conn   *awsconn.Conn
	db     *dynamodb.Client
	dax    eventualReader // nil without a DAX endpoint
	tokens *driver.Sealer
	hints  hints
	floors *floors // nil with consistent reads
	now    func() time.Time
	closed atomic.Bool
}

// eventualReader answers eventually consistent reads by key in front of the
// table. Any error means: read the table instead.
type eventualReader interface {
	GetItem(ctx context.Context, in *dynamodb.GetItemInput) (*dynamodb.GetItemOutput, error)
	BatchGetItem(ctx context.Context, in *dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemOutput, error)
	Close() error
}

var (
	_ driver.Batcher    = (*Store)(nil)
	_ driver.Historian  = (*Store)(nil)
	_ driver.Pinger     = (*Store)(nil)
	_ driver.Idempotent = (*Store)(nil)
	_ driver.Refresher  = (*Store)(nil)
	_ driver.Limited    = (*Store)(nil)
	_ driver.Qualified  = (*Store)(nil)
)

// Open checks options, region, credentials and table, and reports everything
// that is wrong with them at once.
func Open(ctx context.Context, o Options) (driver.Backend, error) {
	s, err := open(ctx, o, time.Now)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func open(ctx context.Context, o Options, now func() time.Time) (*Store, error) {
	const op = "dynamodb.Open"
	settings, wrong := o.parse()
	conn, err := awsconn.OpenWith(ctx, o.Options, wrong)
	if err != nil {
		return nil, config.AsError(err, op, config.Key{})
	}
	cfg := conn.Config()
	s := &Store{
		settings: settings,
		keymap:   keymap{settings.keyPrefix},
		conn:     conn,
		db:       dynamodb.NewFromConfig(cfg),
		tokens:   driver.NewSealer(tokenKey(settings, cfg.Region)),
		hints:    newHints(),
		now:      now,
	}
	if err := s.checkTable(ctx); err != nil {
		_ = conn.Close() // which returns nil
		return nil, config.AsError(err, op, config.Key{})
	}
	if settings.dax != "" {
		dax, err := daxread.Open(daxread.Options{Endpoint: settings.dax, Region: cfg.Region, Credentials: cfg.Credentials})
		if err != nil {
			_ = conn.Close() // which returns nil
			return nil, config.AsError(err, op, config.Key{})
		}
		s.dax = dax
	}
	if !settings.consistent {
		s.floors = newFloors(maxFloors)
	}
	return s, nil
}

// tokenKey derives the key of page tokens from what names the store, so that
// all processes on it read each other's tokens and a restart keeps them good.
// It is no secret: a token only leads to what its own scope could list anyway.
// What it guards against is a token that ends up in another place.
func tokenKey(s settings, region string) []byte {
	h := sha256.New()
	for _, part := range []string{"tagstore dynamodb page token 1", region, s.table, s.keyPrefix} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return h.Sum(nil)
}

// Capabilities implements driver.Limited.
func (s *Store) Capabilities() driver.Capabilities {
	return driver.Capabilities{Batch: true, History: true, Ping: true, Idempotent: true, Refresh: s.floors != nil}
}

// Caveats implements driver.Qualified.
func (s *Store) Caveats() driver.Caveats { return driver.Caveats{EventualReads: s.floors != nil} }

// IdempotencyWindow is for how long a write's idempotency key is remembered.
func (s *Store) IdempotencyWindow() time.Duration { return s.idempotencyWindow }

// Close ends every connection, and with them the calls that still wait.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	if s.dax != nil {
		if err := s.dax.Close(); err != nil {
			slog.Warn("the DAX client did not close cleanly", "error", err)
		}
	}
	return s.conn.Close()
}

// begin refuses calls on a closed store and with a context that is done.
func (s *Store) begin(ctx context.Context, op string, key config.Key) error {
	if s.closed.Load() {
		return config.AsError(errClosed(), op, key)
	}
	if ctx.Err() != nil {
		return contextError(ctx, op, key)
	}
	return nil
}

// fail returns err as an error of one operation. After Close every error is that
// of a closed store, since it is what ended the call; once the caller's time is
// up it is the context's, which says of a write that it may have been made.
func (s *Store) fail(ctx context.Context, err error, op string, key config.Key) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && config.CodeOf(err) != config.Canceled && config.CodeOf(err) != config.DeadlineExceeded:
		return contextError(ctx, op, key)
	case s.closed.Load() && ctx.Err() == nil && config.CodeOf(err) != config.OutcomeUnknown:
		return config.AsError(errClosed(), op, key)
	}
	return config.AsError(err, op, key)
}

func contextError(ctx context.Context, op string, key config.Key) error {
	return config.AsError(context.Cause(ctx), op, key)
}

func errClosed() *config.Error {
	return config.Errorf(config.FailedPrecondition, "the store is closed")
}

// errNotFound has one text for a key that never was and one that is deleted
// (clause C3).
func errNotFound() *config.Error {
	return config.Errorf(config.NotFound, "there is no such value")
}

// errForeignItem is for an answer with another item than was asked for.
func errForeignItem() *config.Error {
	return config.Errorf(config.Internal, "the table's answer holds an item that was not asked for").
		WithHint("check AWS_ENDPOINT_URL and what stands between")
}

// codes are the codes of DynamoDB that awsconn does not know.
var codes = awsconn.Codes{
	"ResourceNotFoundException":                config.FailedPrecondition,
	"ResourceInUseException":                   config.Unavailable,
	"ReplicatedWriteConflictException":         config.Unavailable,
	"ItemCollectionSizeLimitExceededException": config.ResourceExhausted,
	"IdempotentParameterMismatchException":     config.Internal,
}

// as returns the options of a call for one tenant. For the zero tenant it is
// made with the plugin's own credentials.
func (s *Store) as(t config.Tenant) []func(*dynamodb.Options) {
	if t.IsZero() {
		return nil
	}
	p := s.conn.Credentials(t)
	if p == nil {
		return nil
	}
	return []func(*dynamodb.Options){func(o *dynamodb.Options) { o.Credentials = p }}
}

// call makes one API call within its time.
func call[In, Out any](ctx context.Context, s *Store, t config.Tenant, in *In,
	do func(context.Context, *In, ...func(*dynamodb.Options)) (*Out, error),
) (*Out, error) {
	limited, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	out, err := do(limited, in, s.as(t)...)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// readError turns what a read got into an error. Its own time running out is
// the store's failure, not the caller's.
func readError(ctx context.Context, err error) error {
	e := config.AsError(awsconn.Error("", config.Key{}, err, false, codes), "", config.Key{})
	if e.Code == config.DeadlineExceeded && ctx.Err() == nil {
		e.Code, e.Hint = config.Unavailable, "retry, or give a call more time with the option timeout"
	}
	return e
}

func (s *Store) tableRef() *string { return aws.String(s.table) }
