package ssmbackend

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// Store is a driver.Backend on Parameter Store.
type Store struct {
	settings
	conn     *awsconn.Conn
	client   *ssm.Client
	tokens   *driver.Sealer
	folders  chan struct{} // bounds how many folders are read at once
	outlines *outlines
	creates  atomic.Uint64 // how many parameters this store has made
	closed   atomic.Bool
}

var (
	_ driver.Backend   = (*Store)(nil)
	_ driver.Batcher   = (*Store)(nil)
	_ driver.Historian = (*Store)(nil)
	_ driver.Pinger    = (*Store)(nil)
	_ driver.Qualified = (*Store)(nil)
)

// Open checks the options, finds region and credentials, and asks Parameter
// Store for one parameter, to be sure of the connection and the permission.
// What is wrong with options, region and credentials is reported at once.
//
// InvalidArgument: the options are wrong. FailedPrecondition: no region or no
// credentials. PermissionDenied: they do not allow reading. Unavailable:
// Parameter Store does not answer.
func Open(ctx context.Context, o Options) (driver.Backend, error) {
	s, err := open(ctx, o)
	if err != nil {
		return nil, config.AsError(err, "ssm.Open", config.Key{})
	}
	return s, nil
}

func open(ctx context.Context, o Options) (*Store, error) {
	set, wrong := o.parse()
	conn, err := awsconn.OpenWith(ctx, o.Options, wrong)
	if err != nil {
		return nil, err
	}
	s := newStore(set, conn, o)
	if err := s.probe(ctx, "ssm.Open"); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

// foldersAtOnce bounds the calls that a burst of List makes, and the memory
// that they take.
const foldersAtOnce = 8

func newStore(set settings, conn *awsconn.Conn, o Options) *Store {
	c := conn.Config()
	path := o.layout().Template
	// A page token protects against confusion, not against an attacker, and has
	// to be good in every process that serves this store: its key is made of
	// what makes it this store.
	key := sha256.Sum256([]byte(strings.Join([]string{"tagstore ssm page tokens", c.Region, path, o.Env, o.KeyPrefix, o.NoService}, "\x00")))
	return &Store{
		settings: set,
		conn:     conn,
		client:   ssm.NewFromConfig(c),
		tokens:   driver.NewSealer(key[:]),
		folders:  make(chan struct{}, foldersAtOnce),
		outlines: newOutlines(time.Now),
	}
}

// Close makes every later call FailedPrecondition. It waits for nothing.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.conn.Close()
}

// Caveats are what Parameter Store can not keep by its nature.
func (s *Store) Caveats() driver.Caveats {
	return driver.Caveats{
		LooseCompareAndSet: true,
		PermanentDelete:    true,
		Unattributed:       true,
		InferredType:       true,
		NonEmpty:           true,
		TextOnly:           true,
	}
}

// Ping asks for one parameter, of whatever value, and decrypts nothing.
func (s *Store) Ping(ctx context.Context) error {
	const op = "ssm.Ping"
	err := s.probe(ctx, op)
	if err == nil {
		return nil
	}
	e := config.AsError(err, op, config.Key{})
	switch e.Code {
	case config.Canceled, config.DeadlineExceeded, config.FailedPrecondition:
		if s.closed.Load() || ctx.Err() != nil {
			return e
		}
	}
	e.Code = config.Unavailable
	return e
}

// probe asks for one parameter from the folder above all tenants, or where each
// tenant has a role, from the shared tenant's: no other is sure to be allowed.
func (s *Store) probe(ctx context.Context, op string) error {
	c := call{op: op}
	path := s.root
	if s.conn.Credentials(config.Shared()) != nil {
		c.id.Tenant = config.Shared()
		path = s.names.TenantRoot(config.Shared())
	}
	_, err := do(ctx, s, c, s.client.GetParametersByPath, &ssm.GetParametersByPathInput{
		Path:       aws.String(folderPath(path)),
		MaxResults: aws.Int32(1),
	})
	return err
}

// folderPath is how the API takes a folder: without the slash at its end,
// unless it is the root.
func folderPath(folder string) string {
	if folder == "/" {
		return folder
	}
	return strings.TrimSuffix(folder, "/")
}

// call says what a request to Parameter Store is made for.
type call struct {
	op    string
	id    config.ID // its tenant may stand alone, its key may be missing
	write bool
}

// do makes one API call: with a deadline, with the credentials of its tenant,
// and with the error mapped. What the SDK said is in the error's tree.
func do[In, Out any](ctx context.Context, s *Store, c call,
	method func(context.Context, *In, ...func(*ssm.Options)) (*Out, error), in *In,
) (*Out, error) {
	if s.closed.Load() {
		return nil, config.AsError(errClosed(), c.op, c.id.Key)
	}
	if ctx.Err() != nil {
		return nil, config.AsError(contextError(ctx), c.op, c.id.Key)
	}
	limited, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	out, err := method(limited, in, func(o *ssm.Options) {
		if !c.id.Tenant.IsZero() {
			if p := s.conn.Credentials(c.id.Tenant); p != nil {
				o.Credentials = p
			}
		}
		if c.write {
			o.Retryer = s.conn.Once()
		}
	})
	switch {
	case err == nil:
		return out, nil
	case s.closed.Load() && !c.write: // which ends every connection
		return nil, config.AsError(errClosed().WithCause(err), c.op, c.id.Key)
	}
	return nil, mapped(ctx, c, err)
}
