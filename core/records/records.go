// Package records makes a whole driver.Backend, with history, out of a table of
// versions: three methods that the author of a small plugin writes. It does what
// is the same for all stores: conditions, version numbers, tombstones, pages and
// their tokens, copies, and calls after the end.
//
// It reads all versions of a key for each call on it and all of a scope for each
// page of a List. A store whose keys have long histories, or whose scopes are
// large, implements driver.Backend itself.
package records

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Table holds every version of every key. Its methods may be called at once from
// any number of goroutines, and end when their context does. What they are given
// and what they return is theirs: it is copied on this side. An error that is a
// *config.Error, such as one with code Unavailable, reaches the caller as it is.
type Table interface {
	// Versions returns the versions of one key, oldest first, tombstones
	// included, or none for a key that never was. Older ones may be missing; the
	// latest may not.
	Versions(ctx context.Context, id config.ID) ([]config.Entry, error)
	// Append stores a version. In one step, which no other Append to that key
	// can come between, it compares the version of the latest, 0 if there is
	// none, with e.Version-1: unless they are the same it stores nothing and
	// returns false.
	Append(ctx context.Context, e config.Entry) (stored bool, err error)
	// Latest returns the latest version of every key of one tenant and service
	// that starts with prefix, in any order. It may leave tombstones out.
	Latest(ctx context.Context, tenant config.Tenant, service config.Service, prefix string) ([]config.Entry, error)
	// Close is called once, when no other call runs any more.
	Close() error
}

// Options are what a Backend on a Table can be told. The zero value is usable.
type Options struct {
	// MaxValue is the largest value in bytes; 0 is no limit but the protocol's.
	MaxValue int
	// TokenKey seals page tokens. A store that several processes share, or that
	// is to take up a List after a restart, gives each the same; nil is a new
	// one.
	TokenKey []byte
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Backend keeps the driver contract on a Table. It has History.
type Backend struct {
	table    Table
	tokens   *driver.Sealer
	maxValue int
	now      func() time.Time

	mu     sync.RWMutex // held for reading by every call
	closed bool
}

var (
	_ driver.Backend   = (*Backend)(nil)
	_ driver.Historian = (*Backend)(nil)
)

// New returns a Backend on t, which it closes with itself.
func New(t Table, o Options) *Backend {
	if o.TokenKey == nil {
		o.TokenKey = driver.NewTokenKey()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Backend{table: t, tokens: driver.NewSealer(o.TokenKey), maxValue: o.MaxValue, now: o.Now}
}

// begin lets a call in, or says why not. Whoever gets nil calls b.mu.RUnlock.
func (b *Backend) begin(ctx context.Context, op string, key config.Key) error {
	if err := ctx.Err(); err != nil {
		return config.AsError(err, op, key)
	}
	b.mu.RLock()
	if b.closed {
		b.mu.RUnlock()
		return &config.Error{Op: op, Key: key, Code: config.FailedPrecondition, Message: "the backend is closed"}
	}
	return nil
}

func notFound(op string, key config.Key) error {
	return &config.Error{Op: op, Key: key, Code: config.NotFound}
}

// Get implements driver.Backend.
func (b *Backend) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	const op = "records.Get"
	if err := b.begin(ctx, op, id.Key); err != nil {
		return config.Entry{}, err
	}
	defer b.mu.RUnlock()
	versions, err := b.table.Versions(ctx, id)
	if err != nil {
		return config.Entry{}, config.AsError(err, op, id.Key)
	}
	for _, e := range slices.Backward(versions) {
		if version != 0 && e.Version != version {
			continue
		}
		if e.Deleted {
			break
		}
		return copied(e), nil
	}
	return config.Entry{}, notFound(op, id.Key)
}

// copied is a copy whose empty value is not nil: an empty value is one.
func copied(e config.Entry) config.Entry {
	e = e.Clone()
	if e.Value == nil && !e.Deleted {
		e.Value = []byte{}
	}
	return e
}

// List implements driver.Backend.
func (b *Backend) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	const op = "records.List"
	if err := b.begin(ctx, op, config.Key{}); err != nil {
		return driver.Page{}, err
	}
	defer b.mu.RUnlock()
	scope := []string{"list", r.Tenant.String(), r.Service.String(), r.KeyPrefix}
	size, last, err := b.position(r.PageSize, r.PageToken, scope)
	if err != nil {
		return driver.Page{}, config.AsError(err, op, config.Key{})
	}
	found, err := b.table.Latest(ctx, r.Tenant, r.Service, r.KeyPrefix)
	if err != nil {
		return driver.Page{}, config.AsError(err, op, config.Key{})
	}
	left := slices.DeleteFunc(slices.Clone(found), func(e config.Entry) bool {
		return e.Deleted || r.PageToken != "" && e.ID.Key.String() <= last
	})
	slices.SortFunc(left, func(x, y config.Entry) int { return strings.Compare(x.ID.Key.String(), y.ID.Key.String()) })
	return b.page(left, size, scope, func(e config.Entry) string { return e.ID.Key.String() }), nil
}

// History implements driver.Historian.
func (b *Backend) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	const op = "records.History"
	if err := b.begin(ctx, op, r.ID.Key); err != nil {
		return driver.Page{}, err
	}
	defer b.mu.RUnlock()
	scope := []string{"history", r.ID.Encode()}
	size, last, err := b.position(r.PageSize, r.PageToken, scope)
	if err != nil {
		return driver.Page{}, config.AsError(err, op, r.ID.Key)
	}
	versions, err := b.table.Versions(ctx, r.ID)
	if err != nil {
		return driver.Page{}, config.AsError(err, op, r.ID.Key)
	}
	if len(versions) == 0 {
		return driver.Page{}, notFound(op, r.ID.Key)
	}
	left := slices.Clone(versions)
	slices.Reverse(left)
	if r.PageToken != "" {
		n, err := strconv.ParseUint(last, 10, 64)
		if err != nil {
			return driver.Page{}, &config.Error{Op: op, Code: config.Internal, Message: "an own token can not be read", Err: err}
		}
		left = slices.DeleteFunc(left, func(e config.Entry) bool { return e.Version >= n })
	}
	return b.page(left, size, scope, func(e config.Entry) string { return strconv.FormatUint(e.Version, 10) }), nil
}

// position reads what a request says about its page.
func (b *Backend) position(pageSize int, token string, scope []string) (size int, last string, err error) {
	if size, err = driver.CheckPageSize(pageSize); err != nil || token == "" {
		return size, "", err
	}
	last, err = b.tokens.Open(token, scope...)
	return size, last, err
}

// page is the first entries that fit one, with a token if some are left.
func (b *Backend) page(left []config.Entry, size int, scope []string, name func(config.Entry) string) driver.Page {
	var page driver.Page
	bytes := 0
	for _, e := range left {
		bytes += len(e.Value)
		if n := len(page.Entries); n == size || n > 0 && bytes > driver.MaxPageBytes {
			page.NextPageToken = b.tokens.Seal(name(page.Entries[n-1]), scope...)
			return page
		}
		page.Entries = append(page.Entries, copied(e))
	}
	return page
}

// Put implements driver.Backend.
func (b *Backend) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	const op = "records.Put"
	if b.maxValue > 0 && len(r.Value) > b.maxValue {
		return config.Entry{}, config.AsError(
			config.Errorf(config.InvalidArgument, "the value has %d bytes, the limit is %d", len(r.Value), b.maxValue), op, r.ID.Key)
	}
	if r.ContentType == "" {
		r.ContentType = config.ContentTypeJSON
	}
	return b.write(ctx, op, r.Expect, config.Entry{
		ID: r.ID, Value: append([]byte{}, r.Value...), ContentType: r.ContentType, UpdatedBy: r.UpdatedBy, Message: r.Message,
	})
}

// Delete implements driver.Backend.
func (b *Backend) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	return b.write(ctx, "records.Delete", r.Expect, config.Entry{ID: r.ID, Deleted: true, UpdatedBy: r.UpdatedBy, Message: r.Message})
}

// write makes next the latest version. A write that came between is met by
// deciding anew: each turn that fails is one that another writer won.
func (b *Backend) write(ctx context.Context, op string, expect driver.Expect, next config.Entry) (config.Entry, error) {
	key := next.ID.Key
	if err := b.begin(ctx, op, key); err != nil {
		return config.Entry{}, err
	}
	defer b.mu.RUnlock()
	if next.ID.IsZero() {
		return config.Entry{}, &config.Error{Op: op, Key: key, Code: config.InvalidArgument, Message: "the id has no tenant or no key"}
	}
	for {
		versions, err := b.table.Versions(ctx, next.ID)
		if err != nil {
			return config.Entry{}, config.AsError(err, op, key)
		}
		var latest config.Entry
		if n := len(versions); n > 0 {
			latest = versions[n-1]
		}
		live := len(versions) > 0 && !latest.Deleted
		if next.Deleted && !live {
			return config.Entry{}, notFound(op, key)
		}
		if !expect.Match(latest.Version, live) {
			return config.Entry{}, &config.Error{
				Op: op, Key: key, Code: config.Conflict, Version: latest.Version,
				Message: "the expected version is not the current one", Hint: "read it again and decide anew",
			}
		}
		next.Version = latest.Version + 1
		next.Revision = config.Revision(strconv.FormatUint(next.Version, 10))
		next.UpdatedAt = b.now().UTC().Round(0)
		if next.UpdatedAt.Before(latest.UpdatedAt) {
			next.UpdatedAt = latest.UpdatedAt
		}
		stored, err := b.table.Append(ctx, next.Clone())
		switch {
		case err != nil:
			return config.Entry{}, config.AsError(err, op, key)
		case stored:
			next.Value = nil
			return next, nil
		case ctx.Err() != nil:
			return config.Entry{}, config.AsError(ctx.Err(), op, key)
		}
	}
}

// Close implements driver.Backend. It waits for the calls that run.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	if err := b.table.Close(); err != nil {
		return fmt.Errorf("records: close: %w", err)
	}
	return nil
}
