// Package boltstore keeps orders in one bbolt file. Every order is synced to
// disk before Create returns.
//
// One process at a time has the file. Keys start with the tenant, its length
// first, so a scan of one tenant can not meet another's; every record also
// names its tenant and is checked against it when read.
package boltstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/order/internal/orders"
)

var _ orders.Store = (*Store)(nil)

// lockWait is how long Open waits for another process to let go of the file: a
// little, since one that is just ending may still have it.
const lockWait = time.Second

// format is what the file's meta bucket says; another format is refused.
const format = "tagstore-orders/1"

var (
	metaBucket   = []byte("meta")
	formatKey    = []byte("format")
	ordersBucket = []byte("orders") // scope + order id -> record
	onceBucket   = []byte("once")   // scope + request key -> fingerprint + order id
)

// Store is an orders.Store in a file.
type Store struct{ db *bbolt.DB }

// Open opens the file at path, or makes it, with mode 0600, in a folder that
// must exist. The error names the path and says how to mend it.
func Open(path string) (*Store, error) {
	const op = "boltstore.Open"
	fail := func(code config.Code, cause error, what, mend string) error {
		e := config.Errorf(code, "%s %s", path, what).WithHint("%s", mend).WithCause(cause)
		e.Op = op
		return e
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fail(config.FailedPrecondition, err, "is in use by another process", "stop that process or choose another file")
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return nil, fail(config.DataLoss, err, "is damaged or is no bbolt file", "restore it from a backup or choose another file")
	case errors.Is(err, os.ErrNotExist):
		return nil, fail(config.FailedPrecondition, err, "is in a folder that does not exist", "make the folder")
	case errors.Is(err, os.ErrPermission):
		return nil, fail(config.FailedPrecondition, err, "can not be written by this user", "change the permissions of the file and its folder")
	case err != nil:
		// What bbolt and the operating system say here is about the path only.
		return nil, fail(config.FailedPrecondition, err, "can not be opened: "+err.Error(), "choose a file on a writable disk")
	}
	s := &Store{db: db}
	if err := s.prepare(path, fail); err != nil {
		_ = db.Close() // the first error is the one to mend
		return nil, err
	}
	return s, nil
}

func (s *Store) prepare(path string, fail func(config.Code, error, string, string) error) error {
	foreign := false
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if meta := tx.Bucket(metaBucket); meta != nil {
			foreign = string(meta.Get(formatKey)) != format
			return nil
		}
		if first, _ := tx.Cursor().First(); first != nil {
			foreign = true
			return nil
		}
		for _, name := range [][]byte{ordersBucket, onceBucket} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		return meta.Put(formatKey, []byte(format))
	})
	switch {
	case err != nil:
		return fail(config.Unavailable, err, "can not be written: "+err.Error(), "free disk space or choose another file")
	case foreign:
		return fail(config.FailedPrecondition, nil, "holds something other than orders of this version", "choose another file")
	}
	// A file that was just made is only safe when its name is, too.
	folder, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(folder.Sync(), folder.Close())
	}
	if err != nil {
		return fail(config.Unavailable, err, "is in a folder that can not be synced", "choose a file on a local disk")
	}
	return nil
}

// Close ends the store after the transactions at work.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return broken("boltstore.Close", config.Unavailable, "the file could not be closed", err)
	}
	return nil
}

// Create is orders.Store's.
func (s *Store) Create(ctx context.Context, o orders.Order, once orders.Once) (stored orders.Order, replayed bool, err error) {
	const op = "boltstore.Create"
	record, err := encode(o)
	if err != nil {
		return orders.Order{}, false, broken(op, config.Internal, "the order can not be encoded", err)
	}
	committing := false
	err = s.db.Update(func(tx *bbolt.Tx) error {
		// The wait for the file's one writer may have been long.
		if err := ctx.Err(); err != nil {
			return config.AsError(err, op, config.Key{})
		}
		if once.Key != "" {
			first, err := find(tx, o.Tenant, once)
			if err == nil {
				stored, replayed = first, true
				return nil
			}
			if !errors.Is(err, config.NotFound) {
				return err
			}
		}
		all := tx.Bucket(ordersBucket)
		key := recordKey(o.Tenant, o.ID.String())
		if all.Get(key) != nil {
			return config.Errorf(config.Internal, "the id of a new order is taken")
		}
		if err := all.Put(key, record); err != nil {
			return err
		}
		if once.Key != "" {
			mark := append(once.Fingerprint[:], o.ID.String()...)
			if err := tx.Bucket(onceBucket).Put(recordKey(o.Tenant, once.Key), mark); err != nil {
				return err
			}
		}
		stored = o
		committing = true
		return nil
	})
	switch {
	case err == nil:
		return stored, replayed, nil
	case committing && s.has(o):
		return orders.Order{}, false, broken(op, config.OutcomeUnknown, "the order may or may not have been stored", err)
	default:
		return orders.Order{}, false, classify(op, err)
	}
}

// has reports whether o can be read after its commit failed. A commit ends with
// the page that makes it visible: where it is not, as on a full disk, nothing
// was stored; where it is, only the disk knows whether it will stay.
func (s *Store) has(o orders.Order) bool {
	visible := true
	err := s.db.View(func(tx *bbolt.Tx) error {
		visible = tx.Bucket(ordersBucket).Get(recordKey(o.Tenant, o.ID.String())) != nil
		return nil
	})
	return visible || err != nil
}

// Find is orders.Store's.
func (s *Store) Find(ctx context.Context, tenant config.Tenant, once orders.Once) (o orders.Order, err error) {
	err = s.view(ctx, "boltstore.Find", func(tx *bbolt.Tx) error {
		o, err = find(tx, tenant, once)
		return err
	})
	return o, err
}

func find(tx *bbolt.Tx, tenant config.Tenant, once orders.Once) (orders.Order, error) {
	mark := tx.Bucket(onceBucket).Get(recordKey(tenant, once.Key))
	size := len(once.Fingerprint)
	switch {
	case mark == nil:
		return orders.Order{}, config.Errorf(config.NotFound, "no order was made with this key")
	case len(mark) <= size:
		return orders.Order{}, damaged(nil)
	case !bytes.Equal(mark[:size], once.Fingerprint[:]):
		return orders.Order{}, config.Errorf(config.AlreadyExists, "the key was used before for another order").
			WithHint("use a new key for a new order")
	}
	id, ok := orders.ParseID(string(mark[size:]))
	if !ok {
		return orders.Order{}, damaged(nil)
	}
	o, err := get(tx, tenant, id)
	if errors.Is(err, config.NotFound) {
		return orders.Order{}, damaged(err)
	}
	return o, err
}

// Get is orders.Store's.
func (s *Store) Get(ctx context.Context, tenant config.Tenant, id orders.ID) (o orders.Order, err error) {
	err = s.view(ctx, "boltstore.Get", func(tx *bbolt.Tx) error {
		o, err = get(tx, tenant, id)
		return err
	})
	return o, err
}

func get(tx *bbolt.Tx, tenant config.Tenant, id orders.ID) (orders.Order, error) {
	record := tx.Bucket(ordersBucket).Get(recordKey(tenant, id.String()))
	if record == nil {
		return orders.Order{}, config.Errorf(config.NotFound, "there is no such order")
	}
	return decode(record, tenant, id.String())
}

// List is orders.Store's.
func (s *Store) List(ctx context.Context, tenant config.Tenant, before orders.ID, limit int) ([]orders.Order, error) {
	var page []orders.Order
	err := s.view(ctx, "boltstore.List", func(tx *bbolt.Tx) error {
		scope := recordKey(tenant, "")
		c := tx.Bucket(ordersBucket).Cursor()
		// Seek finds the first key that is not below; the one before it is
		// the greatest below. No order id starts with a byte above 'z'.
		bound := recordKey(tenant, "\xff")
		if !before.IsZero() {
			bound = recordKey(tenant, before.String())
		}
		step := c.Prev
		if key, _ := c.Seek(bound); key == nil {
			step = c.Last
		}
		key, record := step()
		for ; bytes.HasPrefix(key, scope) && len(page) < limit; key, record = c.Prev() {
			o, err := decode(record, tenant, string(key[len(scope):]))
			if err != nil {
				return err
			}
			page = append(page, o)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

func (s *Store) view(ctx context.Context, op string, read func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return config.AsError(err, op, config.Key{})
	}
	if err := s.db.View(read); err != nil {
		return classify(op, err)
	}
	return nil
}

// recordKey is injective: no two pairs of tenant and rest share a key.
func recordKey(tenant config.Tenant, rest string) []byte {
	return []byte(config.EncodeScope(tenant, config.Service{}) + rest)
}

// classify returns err as a *config.Error; what bbolt says itself means that
// nothing was written.
func classify(op string, err error) error {
	var known *config.Error
	switch {
	case errors.As(err, &known):
		return config.AsError(err, op, config.Key{})
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return broken(op, config.FailedPrecondition, "the store is closed", err)
	default:
		return broken(op, config.Unavailable, "the file can not be used", err)
	}
}

func broken(op string, code config.Code, what string, cause error) error {
	return &config.Error{Op: op, Code: code, Message: what, Err: cause}
}

func damaged(cause error) error {
	return config.Errorf(config.DataLoss, "a stored order is damaged").WithHint("restore the file from a backup").WithCause(cause)
}

// record is an Order as it stands in the file.
type record struct {
	ID        string     `json:"id"`
	Tenant    string     `json:"tenant"`
	CreatedAt int64      `json:"createdAt"` // milliseconds since 1970
	CreatedBy string     `json:"createdBy"`
	Lines     []line     `json:"lines"`
	Total     int64      `json:"total"`
	Currency  string     `json:"currency"`
	Exponent  int64      `json:"exponent"`
	Reference string     `json:"reference,omitempty"`
	Gateway   gateway    `json:"gateway"`
	Decisions []decision `json:"decisions"`
}

type line struct {
	SKU       string `json:"sku"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unitPrice"`
}

type gateway struct {
	Name        string `json:"name"`
	Endpoint    string `json:"endpoint,omitempty"`
	RetryPolicy string `json:"retryPolicy,omitempty"`
}

type decision struct {
	Key     string `json:"key"`
	Layer   string `json:"layer"`
	Version uint64 `json:"version"`
}

func encode(o orders.Order) ([]byte, error) {
	r := record{
		ID: o.ID.String(), Tenant: o.Tenant.String(), CreatedAt: o.CreatedAt.UnixMilli(), CreatedBy: o.CreatedBy,
		Total: o.Total, Currency: o.Currency.Code, Exponent: o.Currency.Exponent, Reference: o.Reference,
		Gateway: gateway(o.Gateway),
	}
	for _, l := range o.Lines {
		r.Lines = append(r.Lines, line(l))
	}
	for _, d := range o.Decisions {
		r.Decisions = append(r.Decisions, decision{Key: d.Key.String(), Layer: string(d.Layer), Version: d.Version})
	}
	return json.Marshal(r)
}

// decode refuses a record that is not the one that was asked for.
func decode(data []byte, tenant config.Tenant, id string) (orders.Order, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return orders.Order{}, damaged(err)
	}
	parsed, ok := orders.ParseID(r.ID)
	if !ok || r.ID != id || r.Tenant != tenant.String() {
		return orders.Order{}, damaged(nil)
	}
	o := orders.Order{
		ID: parsed, Tenant: tenant, CreatedAt: time.UnixMilli(r.CreatedAt).UTC(), CreatedBy: r.CreatedBy,
		Total: r.Total, Currency: orders.Currency{Code: r.Currency, Exponent: r.Exponent}, Reference: r.Reference,
		Gateway: orders.Gateway(r.Gateway),
	}
	for _, l := range r.Lines {
		o.Lines = append(o.Lines, orders.Line(l))
	}
	for _, d := range r.Decisions {
		key, err := config.ParseKey(d.Key)
		if err != nil {
			return orders.Order{}, damaged(err)
		}
		o.Decisions = append(o.Decisions, orders.Decision{Key: key, Layer: orders.Layer(d.Layer), Version: d.Version})
	}
	return o, nil
}
