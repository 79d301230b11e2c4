// Package memdriver is the reference implementation of the driver contract: a
// store in memory that keeps every clause, is the oracle of the conformance
// suite and the backend of unit tests. It is meant to be read: where it could
// be faster or plainer, it is plainer. It is not durable.
package memdriver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Backend is a store in memory. Use New.
type Backend struct {
	now         func() time.Time
	maxValue    int
	historySize int
	changeSize  int
	window      time.Duration
	tokens      *driver.Sealer

	mu      sync.Mutex
	closed  bool
	keys    map[config.ID]*record
	changes []change // the newest changeSize, in order
	last    uint64   // sequence number of the newest change, ever
	writes  map[writeKey]write
	changed chan struct{} // closed and replaced with every change, and by Close
}

// record is all that is known of one ID.
type record struct {
	latest  config.Entry   // its tombstone, if it is deleted
	history []config.Entry // oldest first, latest included
}

type change struct {
	seq   uint64
	entry config.Entry
}

type writeKey struct {
	tenant config.Tenant
	key    string
}

// write is a write that carried an idempotency key.
type write struct {
	asked   [sha256.Size]byte
	result  config.Entry
	expires time.Time
}

// Option changes what New does.
type Option func(*Backend)

// WithNow sets the clock; the default is time.Now.
func WithNow(now func() time.Time) Option { return func(b *Backend) { b.now = now } }

// WithMaxValue sets the largest value in bytes; the default is 1 MiB.
func WithMaxValue(n int) Option { return func(b *Backend) { b.maxValue = n } }

// WithHistory sets how many versions of a key are kept; the default is 1000.
func WithHistory(n int) Option { return func(b *Backend) { b.historySize = n } }

// WithChanges sets how many changes, of all scopes together, are kept for a
// Watch that resumes or is slow; the default is 10,000.
func WithChanges(n int) Option { return func(b *Backend) { b.changeSize = n } }

// New returns an empty store.
func New(opts ...Option) *Backend {
	b := &Backend{
		now: time.Now, maxValue: 1 << 20, historySize: 1000, changeSize: 10_000, window: time.Hour,
		tokens: driver.NewSealer(driver.NewTokenKey()),
		keys:   map[config.ID]*record{}, writes: map[writeKey]write{}, changed: make(chan struct{}),
	}
	for _, set := range opts {
		set(b)
	}
	return b
}

var (
	_ driver.Backend    = (*Backend)(nil)
	_ driver.Batcher    = (*Backend)(nil)
	_ driver.Historian  = (*Backend)(nil)
	_ driver.Watcher    = (*Backend)(nil)
	_ driver.Pinger     = (*Backend)(nil)
	_ driver.Idempotent = (*Backend)(nil)
	_ driver.Sizer      = (*Backend)(nil)
)

// begin locks b for a call, or says why the call can not be made. Whoever gets
// nil unlocks.
func (b *Backend) begin(ctx context.Context, op string, key config.Key) error {
	if err := ctx.Err(); err != nil {
		return config.AsError(err, op, key)
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return &config.Error{Op: op, Key: key, Code: config.FailedPrecondition, Message: "the backend is closed"}
	}
	return nil
}

// checkID refuses the zero values: what has no tenant belongs to nobody.
func checkID(op string, id config.ID) error {
	if id.IsZero() {
		return &config.Error{Op: op, Key: id.Key, Code: config.InvalidArgument, Message: "the id has no tenant or no key"}
	}
	return nil
}

func notFound(op string, key config.Key) *config.Error {
	return &config.Error{Op: op, Key: key, Code: config.NotFound}
}

// Get implements driver.Backend.
func (b *Backend) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	const op = "mem.Get"
	if err := b.begin(ctx, op, id.Key); err != nil {
		return config.Entry{}, err
	}
	defer b.mu.Unlock()
	return b.get(op, id, version)
}

func (b *Backend) get(op string, id config.ID, version uint64) (config.Entry, error) {
	if err := checkID(op, id); err != nil {
		return config.Entry{}, err
	}
	r := b.keys[id]
	if r == nil {
		return config.Entry{}, notFound(op, id.Key)
	}
	found := r.latest
	if version != 0 {
		i := slices.IndexFunc(r.history, func(e config.Entry) bool { return e.Version == version })
		if i < 0 {
			return config.Entry{}, notFound(op, id.Key)
		}
		found = r.history[i]
	}
	if found.Deleted {
		return config.Entry{}, notFound(op, id.Key)
	}
	return found.Clone(), nil
}

// BatchGet implements driver.Batcher.
func (b *Backend) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	const op = "mem.BatchGet"
	if err := b.begin(ctx, op, config.Key{}); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	results := make([]driver.Result, len(ids))
	for i, id := range ids {
		// The text is Get's: a batch is many Gets.
		results[i].Entry, results[i].Err = b.get("mem.Get", id, 0)
	}
	return results, nil
}

// List implements driver.Backend.
func (b *Backend) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	const op = "mem.List"
	if err := b.begin(ctx, op, config.Key{}); err != nil {
		return driver.Page{}, err
	}
	defer b.mu.Unlock()
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, config.AsError(err, op, config.Key{})
	}
	scope := []string{"list", r.Tenant.String(), r.Service.String(), r.KeyPrefix}
	left := b.live(r.Tenant, r.Service, r.KeyPrefix)
	if r.PageToken != "" {
		last, err := b.tokens.Open(r.PageToken, scope...)
		if err != nil {
			return driver.Page{}, config.AsError(err, op, config.Key{})
		}
		left = slices.DeleteFunc(left, func(e config.Entry) bool { return e.ID.Key.String() <= last })
	}
	page, more := cut(left, size)
	if more {
		page.NextPageToken = b.tokens.Seal(page.Entries[len(page.Entries)-1].ID.Key.String(), scope...)
	}
	return page, nil
}

// live returns the live entries of a scope whose keys start with prefix, in
// order of key. They are the store's own: clone before they leave it.
func (b *Backend) live(t config.Tenant, s config.Service, prefix string) []config.Entry {
	var found []config.Entry
	for id, r := range b.keys {
		if id.Tenant == t && id.Service == s && !r.latest.Deleted && strings.HasPrefix(id.Key.String(), prefix) {
			found = append(found, r.latest)
		}
	}
	slices.SortFunc(found, func(x, y config.Entry) int { return strings.Compare(x.ID.Key.String(), y.ID.Key.String()) })
	return found
}

// cut returns copies of the first entries that fit a page, and whether some
// are left.
func cut(entries []config.Entry, size int) (page driver.Page, more bool) {
	bytes := 0
	for _, e := range entries {
		bytes += len(e.Value)
		if len(page.Entries) == size || (len(page.Entries) > 0 && bytes > driver.MaxPageBytes) {
			return page, true
		}
		page.Entries = append(page.Entries, e.Clone())
	}
	return page, false
}

// History implements driver.Historian.
func (b *Backend) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	const op = "mem.History"
	if err := b.begin(ctx, op, r.ID.Key); err != nil {
		return driver.Page{}, err
	}
	defer b.mu.Unlock()
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, config.AsError(err, op, r.ID.Key)
	}
	found := b.keys[r.ID]
	if found == nil {
		return driver.Page{}, notFound(op, r.ID.Key)
	}
	scope := []string{"history", r.ID.Encode()}
	left := slices.Clone(found.history)
	slices.Reverse(left)
	if r.PageToken != "" {
		last, err := b.openNumber(op, r.PageToken, scope)
		if err != nil {
			return driver.Page{}, err
		}
		left = slices.DeleteFunc(left, func(e config.Entry) bool { return e.Version >= last })
	}
	page, more := cut(left, size)
	if more {
		page.NextPageToken = b.sealNumber(page.Entries[len(page.Entries)-1].Version, scope)
	}
	return page, nil
}

func (b *Backend) sealNumber(n uint64, scope []string) string {
	return b.tokens.Seal(strconv.FormatUint(n, 10), scope...)
}

func (b *Backend) openNumber(op, token string, scope []string) (uint64, error) {
	payload, err := b.tokens.Open(token, scope...)
	if err != nil {
		return 0, config.AsError(err, op, config.Key{})
	}
	n, err := strconv.ParseUint(payload, 10, 64)
	if err != nil {
		return 0, &config.Error{Op: op, Code: config.Internal, Message: "an own token can not be read", Err: err}
	}
	return n, nil
}

// Put implements driver.Backend.
func (b *Backend) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	const op = "mem.Put"
	if err := b.begin(ctx, op, r.ID.Key); err != nil {
		return config.Entry{}, err
	}
	defer b.mu.Unlock()
	if len(r.Value) > b.maxValue {
		return config.Entry{}, config.AsError(
			config.Errorf(config.InvalidArgument, "the value has %d bytes, the limit is %d", len(r.Value), b.maxValue), op, r.ID.Key)
	}
	if r.ContentType == "" {
		r.ContentType = config.ContentTypeJSON
	}
	asked := fingerprint("put", r.ID, r.Expect, r.UpdatedBy, r.Message, r.ContentType, string(r.Value))
	return b.write(op, r.IdempotencyKey, asked, r.Expect, config.Entry{
		ID: r.ID, Value: append([]byte{}, r.Value...), ContentType: r.ContentType, UpdatedBy: r.UpdatedBy, Message: r.Message,
	})
}

// Delete implements driver.Backend.
func (b *Backend) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	const op = "mem.Delete"
	if err := b.begin(ctx, op, r.ID.Key); err != nil {
		return config.Entry{}, err
	}
	defer b.mu.Unlock()
	asked := fingerprint("delete", r.ID, r.Expect, r.UpdatedBy, r.Message)
	return b.write(op, r.IdempotencyKey, asked, r.Expect, config.Entry{
		ID: r.ID, Deleted: true, UpdatedBy: r.UpdatedBy, Message: r.Message,
	})
}

// write makes next the latest version of its ID, unless it was made before or
// what is expected does not hold.
func (b *Backend) write(op, idempotencyKey string, asked [sha256.Size]byte, expect driver.Expect, next config.Entry) (config.Entry, error) {
	if err := checkID(op, next.ID); err != nil {
		return config.Entry{}, err
	}
	now := b.now().UTC().Round(0) // without the monotonic reading, which no other process could read
	slot := writeKey{next.ID.Tenant, idempotencyKey}
	if first, ok := b.writes[slot]; ok && idempotencyKey != "" && now.Before(first.expires) {
		if first.asked != asked {
			return config.Entry{}, &config.Error{
				Op: op, Key: next.ID.Key, Code: config.AlreadyExists,
				Message: "the idempotency key was used for another write", Hint: "use a new one for each write",
			}
		}
		return first.result, nil
	}
	r := b.keys[next.ID]
	var latest config.Entry
	if r != nil {
		latest = r.latest
	}
	live := r != nil && !latest.Deleted
	switch {
	case next.Deleted && !live:
		return config.Entry{}, notFound(op, next.ID.Key)
	case !expect.Match(latest.Version, live):
		return config.Entry{}, &config.Error{
			Op: op, Key: next.ID.Key, Code: config.Conflict, Version: latest.Version,
			Message: "the expected version is not the current one", Hint: "read it again and decide anew",
		}
	case r == nil:
		r = &record{}
		b.keys[next.ID] = r
	}
	b.last++
	next.Version = latest.Version + 1
	next.Revision = config.Revision(strconv.FormatUint(b.last, 10))
	next.UpdatedAt = now
	if now.Before(latest.UpdatedAt) {
		next.UpdatedAt = latest.UpdatedAt
	}
	r.latest = next
	r.history = keepNewest(append(r.history, next), b.historySize)
	b.changes = keepNewest(append(b.changes, change{b.last, next}), b.changeSize)
	result := next
	result.Value = nil
	if idempotencyKey != "" {
		if len(b.writes)%sweepEvery == sweepEvery-1 {
			maps.DeleteFunc(b.writes, func(_ writeKey, w write) bool { return !now.Before(w.expires) })
		}
		b.writes[slot] = write{asked: asked, result: result, expires: now.Add(b.window)}
	}
	close(b.changed)
	b.changed = make(chan struct{})
	return result, nil
}

// sweepEvery is how many remembered writes there are between two searches for
// those that have expired.
const sweepEvery = 1024

// keepNewest drops all but the last n. The dropped ones are cleared for the
// garbage collector; append leaves their room behind when it next grows.
func keepNewest[T any](all []T, n int) []T {
	drop := max(0, len(all)-n)
	clear(all[:drop])
	return all[drop:]
}

// fingerprint tells two writes apart by everything that they ask for.
func fingerprint(kind string, id config.ID, expect driver.Expect, rest ...string) [sha256.Size]byte {
	var text bytes.Buffer
	version, set := expect.Value()
	parts := append([]string{kind, id.Encode(), strconv.FormatUint(version, 10), strconv.FormatBool(set)}, rest...)
	for _, part := range parts {
		text.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		text.WriteString(part)
	}
	return sha256.Sum256(text.Bytes())
}

// Ping implements driver.Pinger.
func (b *Backend) Ping(ctx context.Context) error {
	if err := b.begin(ctx, "mem.Ping", config.Key{}); err != nil {
		return err
	}
	b.mu.Unlock()
	return nil
}

// IdempotencyWindow implements driver.Idempotent.
func (b *Backend) IdempotencyWindow() time.Duration { return b.window }

// Size implements driver.Sizer. Bytes is -1: there is no disk.
func (b *Backend) Size(ctx context.Context) (driver.Size, error) {
	if err := b.begin(ctx, "mem.Size", config.Key{}); err != nil {
		return driver.Size{}, err
	}
	defer b.mu.Unlock()
	size := driver.Size{Bytes: -1, Changes: int64(len(b.changes))}
	for _, r := range b.keys {
		size.Versions += int64(len(r.history))
		if !r.latest.Deleted {
			size.Entries++
		}
	}
	return size, nil
}

// Close implements driver.Backend. It ends every Watch.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		close(b.changed)
		b.changed = make(chan struct{})
	}
	return nil
}
