package localbackend

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Store implements driver.Backend and every optional interface on one file.
// Open makes one; it is safe for concurrent use.
type Store struct {
	settings
	db     *bbolt.DB
	info   os.FileInfo // of the file that db has open
	rev    revisions
	tokens tokens
	now    func() time.Time

	queue  chan *write
	closed chan struct{} // Close was called: nothing new begins
	ended  chan struct{} // the writer has ended
	close  func() error

	// acked is the sequence number of the last change that was acknowledged.
	// No read returns anything later.
	acked atomic.Uint64
	news  news
	// readOnly is why no more writes are taken, nil while they are.
	readOnly atomic.Pointer[config.Error]
	// unusable is why nothing works any more, nil while it does.
	unusable atomic.Pointer[config.Error]
	// stuck means that bbolt still holds its writer lock for good.
	stuck atomic.Bool
	// commits counts the transactions that were fsynced.
	commits atomic.Uint64
	sweep   []byte // the writer's place in the idempotency table
}

var (
	_ driver.Backend    = (*Store)(nil)
	_ driver.Batcher    = (*Store)(nil)
	_ driver.Historian  = (*Store)(nil)
	_ driver.Watcher    = (*Store)(nil)
	_ driver.Pinger     = (*Store)(nil)
	_ driver.Idempotent = (*Store)(nil)
	_ driver.Sizer      = (*Store)(nil)
)

// Open opens the store that o describes, and makes it if there is none. It
// reads the whole file once to be sure of it. The error's code is
// InvalidArgument for wrong options, FailedPrecondition for a file that is
// locked, not writable or not of this store, ResourceExhausted for a full disk,
// and DataLoss for a damaged file, which is left as it is.
//
// ctx bounds the wait for the lock, not the life of the store.
func Open(ctx context.Context, o Options) (driver.Backend, error) {
	s, err := open(ctx, o, time.Now)
	if err != nil {
		return nil, config.AsError(err, "local.Open", config.Key{})
	}
	return s, nil
}

func open(ctx context.Context, o Options, now func() time.Time) (_ *Store, err error) {
	// A file that changes under Open's eyes faults.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = unreadable(r)
		}
	}()
	set, err := o.parse()
	if err != nil {
		return nil, err
	}
	if set.path, err = filepath.Abs(set.path); err != nil {
		return nil, fileError(err, "the working directory is gone")
	}
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	f, err := openLocked(ctx, set.path, set.lockTimeout)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fileError(err, "the data file %s can not be read", set.path)
	}
	c, err := examine(set.path, f, info.Size())
	if err != nil {
		f.Close()
		return nil, err
	}
	db, err := bbolt.Open(set.path, 0o600, &bbolt.Options{
		Timeout:      set.lockTimeout,
		FreelistType: bbolt.FreelistMapType,
		// The file that was examined and locked, and no other.
		OpenFile: func(string, int, os.FileMode) (*os.File, error) { return f, nil },
	})
	if err != nil { // bbolt has closed f
		return nil, fileError(err, "the data file %s can not be opened", set.path)
	}
	if err := db.View(hasTables); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if c.damaged > 0 {
		slog.ErrorContext(ctx, "the data file has damaged records: reading them answers data loss", "file", set.path, "records", c.damaged)
	}
	s := &Store{
		settings: set, db: db, info: info, rev: revisions(c.fileID), tokens: newTokens(c.tokenKey), now: now,
		queue:  make(chan *write, queueLength),
		closed: make(chan struct{}),
		ended:  make(chan struct{}),
		news:   news{next: make(chan struct{})},
	}
	s.acked.Store(c.state.seq)
	s.close = sync.OnceValue(s.shutdown)
	go s.writer()
	return s, nil
}

func hasTables(tx *bbolt.Tx) error {
	for _, name := range append(tallied[:], tableMeta) {
		if tx.Bucket([]byte(name)) == nil {
			return config.Errorf(config.DataLoss, "the data file is damaged: table %s is missing", name).
				WithHint("restore it from a backup; to start empty instead, move it away")
		}
	}
	return nil
}

// Close takes no more calls, answers the writes that were taken, ends every
// Watch with FailedPrecondition, and lets go of the file. Writes that still
// wait their turn are not made.
func (s *Store) Close() error { return s.close() }

func (s *Store) shutdown() error {
	close(s.closed)
	<-s.ended
	if s.stuck.Load() {
		// bbolt died inside a transaction and would wait for it here. The lock
		// on the file goes with the process.
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fileError(err, "the data file %s can not be closed", s.path)
	}
	return nil
}

// Ping reports whether reads and writes can be served, without writing.
func (s *Store) Ping(ctx context.Context) error {
	const op = "local.Ping"
	if err := s.usable(ctx); err != nil {
		return config.AsError(err, op, config.Key{})
	}
	err := s.sameFile()
	if e := s.readOnly.Load(); e != nil {
		err = e
	}
	if err == nil {
		return nil
	}
	e := config.AsError(err, op, config.Key{})
	e.Code = config.Unavailable
	return e
}

// IdempotencyWindow is how long an idempotency key is remembered.
func (s *Store) IdempotencyWindow() time.Duration { return s.idempotencyWindow }

// Size reports the file's size and the counts that every commit keeps.
// Versions includes those that only the change log still needs.
func (s *Store) Size(ctx context.Context) (driver.Size, error) {
	var size driver.Size
	err := s.view(ctx, "local.Size", func(v *snapshot) error {
		st, err := v.state()
		if err != nil {
			return err
		}
		size = driver.Size{
			Bytes:    v.tx.Size(),
			Entries:  int64(st.live),
			Versions: int64(st.tally[0].count),
			Changes:  int64(st.tally[2].count),
		}
		return nil
	})
	return size, err
}

// usable reports why a call can not begin, if so.
func (s *Store) usable(ctx context.Context) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	select {
	case <-s.closed:
		return errClosed()
	default:
	}
	if e := s.unusable.Load(); e != nil {
		return e
	}
	return nil
}

// sameFile makes sure that the file is still where it was opened: what is
// written to a file without a name is gone with the process.
func (s *Store) sameFile() error {
	info, err := os.Stat(s.path)
	if err == nil && os.SameFile(info, s.info) {
		return nil
	}
	return config.Errorf(config.Unavailable, "the data file %s was moved, deleted or replaced while in use", s.path).
		WithCause(err).WithHint("put it back, or restart the plugin to begin with what is there now")
}

// snapshot is a read transaction: the state of the store as of one
// acknowledged change.
type snapshot struct {
	tx       *bbolt.Tx
	asOf     uint64
	versions table
	current  table
	changes  table
}

func (v *snapshot) state() (state, error) {
	content, err := unseal(tableMeta, keyState, v.tx.Bucket([]byte(tableMeta)).Get(keyState))
	if err != nil {
		return state{}, err
	}
	return decodeState(content)
}

// view calls fn with a snapshot. Transactions are short, since bbolt reuses no
// page that one of them can see: fn copies a bounded amount and never blocks.
// What fn returns is given the operation's name.
func (s *Store) view(ctx context.Context, op string, fn func(*snapshot) error) (err error) {
	if err := s.usable(ctx); err != nil {
		return config.AsError(err, op, config.Key{})
	}
	began := false
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			e := unreadable(r)
			if !began {
				// bbolt keeps its locks when it panics here.
				s.unusable.Store(e)
				s.stuck.Store(true)
			}
			err = e
		}
		if err != nil {
			err = s.readError(err, op)
		}
	}()
	return s.db.View(func(tx *bbolt.Tx) error {
		began = true
		in := func(name tableName) table {
			return table{name: name, bucket: tx.Bucket([]byte(name))}
		}
		return fn(&snapshot{
			tx: tx,
			// After the transaction began: what was the newest acknowledged
			// change by then is never removed from what it sees.
			asOf:     s.acked.Load(),
			versions: in(tableVersions),
			current:  in(tableCurrent),
			changes:  in(tableChanges),
		})
	})
}

func (s *Store) readError(err error, op string) error {
	switch {
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		err = errClosed()
	case errors.Is(err, berrors.ErrInvalidMapping):
		err = config.Errorf(config.Unavailable, "the data file could not be mapped again when it grew").
			WithHint("give the process more address space and restart the plugin")
	case errors.Is(err, errDamaged):
		err = config.Errorf(config.DataLoss, "the stored record is damaged").
			WithHint("restore the data file from a backup, or read an earlier version")
	}
	return config.AsError(err, op, config.Key{})
}

// unreadable turns a panic of bbolt, or a fault in the memory map, into an
// answer.
func unreadable(r any) *config.Error {
	slog.Error("the data file changed or can not be read", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	return config.Errorf(config.DataLoss, "the data file is damaged, or the disk fails").
		WithHint("stop the plugin and restore the file from a backup")
}

func errClosed() *config.Error {
	return config.Errorf(config.FailedPrecondition, "the store is closed")
}

// contextError is the error of a call whose context is done.
func contextError(ctx context.Context) *config.Error {
	err := ctx.Err()
	code := config.CodeOf(err)
	return config.Errorf(code, "%s", code.Error()).WithCause(err)
}

// revisions makes revisions that no other file's are equal to, and that tell
// nothing of other keys.
type revisions string

func (r revisions) of(version uint64) config.Revision {
	return config.Revision(string(r) + "-" + strconv.FormatUint(version, 10))
}

// tokens seals page tokens and positions. A position holds a sequence number,
// which counts everybody's changes, so it is encrypted as well: a single block,
// and no two positions that differ share one.
type tokens struct {
	*driver.Sealer
	block cipher.Block
}

func newTokens(key []byte) tokens {
	block, err := aes.NewCipher(key) // of driver.TokenKeySize bytes: AES-256
	if err != nil {
		panic(err)
	}
	return tokens{Sealer: driver.NewSealer(key), block: block}
}

func (t tokens) position(seq uint64, r driver.WatchRequest) string {
	var b [aes.BlockSize]byte
	le.PutUint64(b[:], seq)
	t.block.Encrypt(b[:], b[:])
	return t.Seal(string(b[:]), watchScope(r)...)
}

func (t tokens) sequence(position string, r driver.WatchRequest) (uint64, error) {
	payload, err := t.Open(position, watchScope(r)...)
	if err != nil {
		return 0, err
	}
	// Only position makes a token of this scope, so the length is right.
	b := []byte(payload)
	t.block.Decrypt(b, b)
	return le.Uint64(b), nil
}

func watchScope(r driver.WatchRequest) []string {
	return []string{"watch", r.Tenant.String(), r.Service.String(), r.KeyPrefix}
}

// news wakes everybody who waits for the next commit.
type news struct {
	mu   sync.Mutex
	next chan struct{}
}

// wait returns a channel that closes at the next announcement after the call.
func (n *news) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.next
}

func (n *news) announce() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.next)
	n.next = make(chan struct{})
}
