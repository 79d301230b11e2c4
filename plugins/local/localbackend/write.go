package localbackend

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"go.etcd.io/bbolt"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// The bounds of the writer. A write that finds the queue full waits as long as
// its context lets it.
const (
	queueLength = 256
	batchWrites = 256
	batchBytes  = 8 << 20
)

// How much old matter one write clears away at most: more than it makes, so
// that a lowered limit takes effect over the next writes.
const (
	trimVersions = 4
	trimChanges  = 4
)

// write is one Put or Delete on its way through the writer.
type write struct {
	op     string
	id     config.ID
	key    []byte // id.Encode
	expect driver.Expect
	record record
	// encoded is record.encode with its head still to be written. It is the
	// writer's own: nothing of the caller's memory is in it.
	encoded     []byte
	idempotency []byte // key of the idempotency table, or nil
	fingerprint [fingerprintSize]byte

	place  atomic.Int32
	answer chan answer // of capacity 1
}

// Where a write is: waiting until either the writer takes it or its caller
// abandons it, whoever comes first.
const (
	waiting int32 = iota
	taken
	abandoned
)

type answer struct {
	entry config.Entry
	err   error
}

// Put writes a new version; it has been fsynced when Put returns nil.
//
// A call whose context ends while it waits its turn writes nothing and says so.
// One whose context ends later returns at once as well, with Canceled or
// DeadlineExceeded, and its write may or may not be made.
//
// ResourceExhausted: the disk is full; nothing was written, and writes succeed
// again once there is room. Unavailable: nothing was written. OutcomeUnknown:
// the disk failed during the last step; the write may be there after a restart.
// FailedPrecondition: the disk failed before, and no writes are taken until the
// plugin is restarted.
func (s *Store) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	const op = "local.Put"
	if len(r.Value) > s.maxValue {
		err := config.Errorf(config.InvalidArgument, "the value has %d bytes, the limit is %d", len(r.Value), s.maxValue).
			WithHint("store less, or raise max_value")
		return config.Entry{}, config.AsError(err, op, r.ID.Key)
	}
	if r.ContentType == "" {
		r.ContentType = config.ContentTypeJSON
	}
	return s.write(ctx, &write{
		op: op, id: r.ID, expect: r.Expect,
		record: record{contentType: r.ContentType, updatedBy: r.UpdatedBy, message: r.Message, value: r.Value},
	}, r.IdempotencyKey)
}

// Delete writes a tombstone, under the rules of Put.
func (s *Store) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	return s.write(ctx, &write{
		op: "local.Delete", id: r.ID, expect: r.Expect,
		record: record{deleted: true, updatedBy: r.UpdatedBy, message: r.Message},
	}, r.IdempotencyKey)
}

func (s *Store) write(ctx context.Context, w *write, idempotencyKey string) (config.Entry, error) {
	e, err := s.submit(ctx, w, idempotencyKey)
	if err != nil {
		return config.Entry{}, config.AsError(err, w.op, w.id.Key)
	}
	return e, nil
}

func (s *Store) submit(ctx context.Context, w *write, idempotencyKey string) (config.Entry, error) {
	if err := s.usable(ctx); err != nil {
		return config.Entry{}, err
	}
	if w.id.IsZero() {
		return config.Entry{}, errNoID()
	}
	w.key = []byte(w.id.Encode())
	if idempotencyKey != "" {
		w.idempotency = idempotencyRecordKey(w.id.Tenant, idempotencyKey)
		w.fingerprint = fingerprint(w)
	}
	w.encoded = w.record.encode()
	w.record.value = nil // the caller's
	w.answer = make(chan answer, 1)

	select {
	case s.queue <- w:
	case <-ctx.Done():
		return config.Entry{}, notWritten(ctx)
	case <-s.closed:
		return config.Entry{}, errClosed()
	}
	select {
	case a := <-w.answer:
		return a.entry, a.err
	case <-ctx.Done():
		if w.place.CompareAndSwap(waiting, abandoned) {
			return config.Entry{}, notWritten(ctx)
		}
		return config.Entry{}, maybeWritten(ctx)
	case <-s.ended:
		select {
		case a := <-w.answer: // the last thing that the writer did
			return a.entry, a.err
		default:
			return config.Entry{}, errClosed()
		}
	}
}

func notWritten(ctx context.Context) *config.Error {
	e := contextError(ctx)
	e.Message += " before the write began: nothing was written"
	return e
}

func maybeWritten(ctx context.Context) *config.Error {
	e := contextError(ctx)
	e.Message += " during the write: it may or may not have been made"
	return e.WithHint("read before writing again, or write again with the same idempotency key")
}

// writer is the goroutine that writes. Close ends it.
func (s *Store) writer() {
	defer close(s.ended)
	debug.SetPanicOnFault(true)
	for {
		select {
		case <-s.closed: // even if writes wait
			return
		default:
		}
		select {
		case <-s.closed:
			return
		case w := <-s.queue:
			s.commit(s.gather(w))
		}
	}
}

// gather takes first and what else waits, within the bounds of one commit.
func (s *Store) gather(first *write) []*write {
	// Those that the last commit answered are only now about to bring their
	// next write: let them, or every other commit goes without them.
	runtime.Gosched()
	var batch []*write
	var size int
	for w := first; ; {
		if w.place.CompareAndSwap(waiting, taken) {
			batch = append(batch, w)
			size += len(w.encoded)
		}
		if len(batch) == batchWrites || size >= batchBytes {
			return batch
		}
		select {
		case w = <-s.queue:
		default:
			return batch
		}
	}
}

// commit applies a batch in one transaction and answers each write when that is
// on disk. Where the commit fails, so does every write of it: one whose
// condition failed may have failed for a write that now never was.
func (s *Store) commit(batch []*write) {
	if len(batch) == 0 {
		return
	}
	answers, err := s.transact(batch)
	for i, w := range batch {
		if err != nil {
			w.answer <- answer{err: err}
			continue
		}
		w.answer <- answers[i]
	}
}

func (s *Store) transact(batch []*write) (answers []answer, err error) {
	if e := s.readOnly.Load(); e != nil {
		return nil, e
	}
	if err := s.sameFile(); err != nil {
		return nil, err
	}
	var tx *bbolt.Tx
	defer func() {
		if r := recover(); r != nil {
			e := unreadable(r)
			s.stopWrites(e)
			s.abandon(tx)
			answers, err = nil, e
		}
	}()
	s.stuck.Store(true) // until bbolt has let go of its lock
	tx, err = s.db.Begin(true)
	if err != nil {
		s.stuck.Store(false)
		return nil, s.readError(err, "")
	}
	t, err := beginTxn(s, tx)
	if err != nil {
		s.abandon(tx)
		return nil, s.readError(err, "")
	}
	answers = make([]answer, len(batch))
	for i, w := range batch {
		answers[i].entry, answers[i].err = t.apply(w)
		if t.err != nil {
			s.abandon(tx)
			return nil, config.Errorf(config.Internal, "the write could not be applied").WithCause(t.err)
		}
	}
	if !t.wrote {
		s.abandon(tx)
		return answers, nil
	}
	if err := t.finish(); err != nil {
		s.abandon(tx)
		return nil, config.Errorf(config.Internal, "the write could not be applied").WithCause(err)
	}
	id := tx.ID()
	if err := tx.Commit(); err != nil {
		s.stuck.Store(false)
		return nil, s.commitFailed(err, id)
	}
	s.stuck.Store(false)
	s.commits.Add(1)
	s.acked.Store(t.state.seq)
	s.news.announce()
	return answers, nil
}

// abandon ends a transaction that is not to be committed, as well as bbolt can
// after a panic.
func (s *Store) abandon(tx *bbolt.Tx) {
	if tx == nil {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			s.stopWrites(unreadable(r))
		}
	}()
	_ = tx.Rollback() // fails only for a transaction that has ended
	s.stuck.Store(false)
}

// commitFailed says what a failed commit means, and takes no more writes unless
// it is certain that no fsync failed. After a failed fsync the kernel may have
// dropped what it could not write, and call the next fsync a success.
func (s *Store) commitFailed(err error, txid int) *config.Error {
	made := s.newest() >= txid
	var path *fs.PathError
	pages := errors.As(err, &path) && path.Op == "write"          // bbolt's WriteAt
	grow := strings.HasPrefix(err.Error(), "file resize error: ") // bbolt's Truncate, of which it keeps the text
	if !made && (pages || grow) {
		if outOfSpace(err) {
			return config.Errorf(config.ResourceExhausted, "there is no room for the write: nothing was written").
				WithCause(err).WithHint("free some space or raise the quota or file size limit; writes go on by themselves then")
		}
		return config.Errorf(config.Unavailable, "the data file can not be written: nothing was written").WithCause(err)
	}
	slog.Error("a commit failed: no more writes until a restart", "file", s.path, "error", err)
	s.stopWrites(config.Errorf(config.FailedPrecondition, "the disk failed during an earlier write: no writes are taken until the plugin is restarted").
		WithCause(err).WithHint("check the disk, then restart the plugin"))
	if made {
		return config.Errorf(config.OutcomeUnknown, "the disk failed while the write was made: it may or may not be there after a restart").
			WithCause(err).WithHint("check the disk, restart the plugin and read before writing again")
	}
	return config.Errorf(config.Unavailable, "the disk failed: nothing was written").
		WithCause(err).WithHint("check the disk, then restart the plugin")
}

// newest returns the number of the newest transaction that is in the file as
// far as this process can see, acknowledged or not.
func (s *Store) newest() (id int) {
	_ = s.db.View(func(tx *bbolt.Tx) error { // fails only where nothing can be seen
		id = tx.ID()
		return nil
	})
	return id
}

func (s *Store) stopWrites(why *config.Error) { s.readOnly.CompareAndSwap(nil, why) }

// txn is the writer's transaction.
type txn struct {
	s           *Store
	meta        *bbolt.Bucket
	state       state
	versions    table
	current     table
	changes     table
	idempotency table
	now         int64 // nanoseconds since 1970
	wrote       bool
	remembered  int // idempotency keys that were added
	// err is set when a write was applied in part: the transaction must not
	// be committed.
	err error
}

func beginTxn(s *Store, tx *bbolt.Tx) (*txn, error) {
	t := &txn{s: s, meta: tx.Bucket([]byte(tableMeta)), now: s.now().UnixNano()}
	content, err := unseal(tableMeta, keyState, t.meta.Get(keyState))
	if err != nil {
		return nil, err
	}
	if t.state, err = decodeState(content); err != nil {
		return nil, err
	}
	for i, to := range []*table{&t.versions, &t.current, &t.changes, &t.idempotency} {
		*to = table{name: tallied[i], bucket: tx.Bucket([]byte(tallied[i])), tally: &t.state.tally[i]}
	}
	// Changes are only ever added behind the last: leave no room between.
	t.changes.bucket.FillPercent = 0.95
	return t, nil
}

// finish writes what goes with the batch as a whole.
func (t *txn) finish() error {
	if err := t.forgetExpired(); err != nil {
		return err
	}
	content := t.state.encode()
	return t.meta.Put(keyState, seal(tableMeta, keyState, content))
}

// apply makes one write, or refuses it without a trace.
func (t *txn) apply(w *write) (config.Entry, error) {
	if w.idempotency != nil {
		if e, done, err := t.repeated(w); done || err != nil {
			return e, err
		}
	}
	content, _, err := t.current.get(w.key)
	if err != nil {
		return config.Entry{}, t.s.readError(err, "")
	}
	var old pointer
	if content != nil {
		if old, err = decodePointer(content); err != nil {
			return config.Entry{}, t.s.readError(err, "")
		}
	}
	switch {
	case w.record.deleted && !old.live():
		return config.Entry{}, errNotFound()
	case !w.expect.Match(old.version, old.live()):
		return config.Entry{}, config.Errorf(config.Conflict, "the value was changed: its version is %d", old.version).
			WithVersion(old.version).WithHint("read it and decide again")
	}
	if t.err = t.store(w, old); t.err != nil {
		return config.Entry{}, t.err
	}
	return w.record.metadata(w.id, old.version+1, t.s.rev), nil
}

// store adds a version behind old and clears away what nobody needs now.
func (t *txn) store(w *write, old pointer) error {
	t.wrote = true
	t.state.seq++
	w.record.seq = t.state.seq
	w.record.updatedAt = max(t.now, old.updatedAt) // a clock that was set back does not show
	w.record.encodeHead(w.encoded)
	next := pointer{version: old.version + 1, seq: t.state.seq, updatedAt: w.record.updatedAt, deleted: w.record.deleted}
	if old.live() {
		t.state.live--
	}
	if next.live() {
		t.state.live++
	}
	logged := change{version: next.version, id: w.key}
	if err := errors.Join(
		t.versions.put(versionKey(w.key, next.version), w.encoded),
		t.current.put(w.key, next.encode()),
		t.changes.put(changeKey(next.seq), logged.encode()),
	); err != nil {
		return err
	}
	if w.idempotency != nil {
		if err := t.remember(w, next.version); err != nil {
			return err
		}
	}
	return errors.Join(t.trimLog(), t.trimHistory(w.key, next.version))
}

// trimHistory drops the oldest versions of an ID that neither history nor the
// change log needs. A version goes only once the next one is acknowledged, so
// that reads, which see acknowledged changes only, always find one.
func (t *txn) trimHistory(id []byte, latest uint64) error {
	for range trimVersions {
		k, sealed := t.versions.bucket.Cursor().Seek(versionKey(id, 0))
		owner, oldest, ok := splitVersionKey(k)
		if !ok || string(owner) != string(id) || t.s.kept(oldest, latest) || !t.spent(id, oldest, sealed) {
			return nil
		}
		if err := t.versions.remove(k); err != nil {
			return err
		}
	}
	return nil
}

// spent reports whether the log is done with a version and the next one is
// acknowledged. A damaged version is: it can not be read either way.
func (t *txn) spent(id []byte, version uint64, sealed []byte) bool {
	if seq, ok := sequenceOf(versionKey(id, version), sealed); ok && seq > t.state.floor {
		return false
	}
	following := versionKey(id, version+1)
	seq, ok := sequenceOf(following, t.versions.bucket.Get(following))
	return !ok || seq <= t.s.acked.Load()
}

func sequenceOf(key, sealed []byte) (uint64, bool) {
	content, err := unseal(tableVersions, key, sealed)
	if err != nil {
		return 0, false
	}
	r, err := decodeRecord(content)
	return r.seq, err == nil
}

// trimLog drops the oldest changes over the limit, and the versions that stayed
// only for them.
func (t *txn) trimLog() error {
	for range trimChanges {
		if t.changes.tally.count <= t.s.changeLimit {
			return nil
		}
		oldest := changeKey(t.state.floor + 1)
		content, ok, err := t.changes.get(oldest)
		t.state.floor++
		if err := t.changes.remove(oldest); err != nil {
			return err
		}
		if err != nil || !ok {
			continue // a damaged reference: what it named goes when its key is written
		}
		c, err := decodeChange(content)
		if err != nil {
			continue
		}
		if err := t.dropVersion(c); err != nil {
			return err
		}
	}
	return nil
}

// dropVersion removes the version of a change that left the log, if history is
// done with it too.
func (t *txn) dropVersion(c change) error {
	content, ok, err := t.current.get(c.id)
	if err != nil || !ok {
		return nil //nolint:nilerr // a damaged pointer: keep every version that it may need
	}
	p, err := decodePointer(content)
	if err != nil || t.s.kept(c.version, p.version) {
		return nil //nolint:nilerr // the same
	}
	k := versionKey(c.id, c.version)
	if sealed := t.versions.bucket.Get(k); sealed == nil || !t.spent(c.id, c.version, sealed) {
		return nil
	}
	return t.versions.remove(k)
}
