package dynamodbbackend

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	mathrand "math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// maxTries bounds the transactions of one write. Each but the first is made
// because another writer came between.
const maxTries = 30

// The delay before a transaction is made again is random between 0 and its
// base, which doubles up to the most.
const (
	contendedDelay    = 10 * time.Millisecond
	contendedMaxDelay = 500 * time.Millisecond
)

// write is one Put or Delete.
type write struct {
	op          string
	id          config.ID
	at          itemKey
	deleted     bool
	expect      driver.Expect
	contentType string
	updatedBy   string
	message     string
	forms       []document // of the value, best first
	idempotency string
	digest      []byte // of the request, if idempotency is set
	// revision is that of the version that this write makes, and its own mark in
	// the table.
	revision config.Revision
}

// Put writes a new version in one transaction: the current item and its record
// in history.
func (s *Store) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	const op = "dynamodb.Put"
	if err := s.begin(ctx, op, r.ID.Key); err != nil {
		return config.Entry{}, err
	}
	w := &write{
		op: op, id: r.ID, expect: r.Expect, contentType: r.ContentType, updatedBy: r.UpdatedBy, message: r.Message, idempotency: r.IdempotencyKey,
	}
	if w.contentType == "" {
		w.contentType = config.ContentTypeJSON
	}
	if len(r.Value) > s.maxValue {
		err := config.Errorf(config.InvalidArgument, "the value has %d bytes, the limit is %d", len(r.Value), s.maxValue).
			WithHint("large documents belong in another store, such as S3; max_value can be raised up to %d", maxMaxValue)
		return config.Entry{}, config.AsError(err, op, r.ID.Key)
	}
	w.forms = encodeDocument(r.Value, w.contentType)
	if r.IdempotencyKey != "" {
		w.digest = requestDigest(w, r.Value)
	}
	return s.write(ctx, w)
}

// Delete writes a tombstone. The item keeps its last value beside isActive:
// false, as other tools that delete softly expect.
func (s *Store) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	const op = "dynamodb.Delete"
	if err := s.begin(ctx, op, r.ID.Key); err != nil {
		return config.Entry{}, err
	}
	w := &write{
		op: op, id: r.ID, deleted: true, expect: r.Expect, updatedBy: r.UpdatedBy, message: r.Message, idempotency: r.IdempotencyKey,
		forms: []document{{}},
	}
	if r.IdempotencyKey != "" {
		w.digest = requestDigest(w, nil)
	}
	return s.write(ctx, w)
}

func (s *Store) write(ctx context.Context, w *write) (config.Entry, error) {
	e, err := s.make(ctx, w)
	if code := config.CodeOf(err); err != nil && w.idempotency != "" && (code == config.NotFound || code == config.Conflict) {
		// What a condition says of the state after the write's first time must not
		// hide its result.
		e, err = s.remembered(ctx, w, err)
	}
	if err != nil {
		return config.Entry{}, s.fail(ctx, err, w.op, w.id.Key)
	}
	return e, nil
}

func (s *Store) make(ctx context.Context, w *write) (config.Entry, error) {
	var err error
	if w.at, err = s.keymap.current(w.id); err != nil {
		return config.Entry{}, err
	}
	if !utf8.ValidString(w.updatedBy) || !utf8.ValidString(w.message) || !utf8.ValidString(w.contentType) {
		return config.Entry{}, config.Errorf(config.InvalidArgument, "author, message or content type is not UTF-8 text")
	}
	w.revision = newRevision()
	p, err := s.plan(ctx, w)
	if err != nil {
		return config.Entry{}, err
	}
	for try := range maxTries {
		if try > 1 || p.contended { // else it follows at once: it knows better than the first
			most := min(contendedDelay<<min(try, 10), contendedMaxDelay)
			if err := pause(ctx, mathrand.N(most)); err != nil { //nolint:gosec // jitter needs no secrecy
				return config.Entry{}, err
			}
		}
		e, done, err := s.try(ctx, w, p)
		if done || err != nil {
			return e, err
		}
	}
	return config.Entry{}, config.Errorf(config.Unavailable, "too many others are writing this key at the same time: nothing was written").
		WithHint("retry, or let fewer writers share a key")
}

// newRevision returns a random mark. Its 128 bits are enough for no two writes
// ever to share one.
func newRevision() config.Revision {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand's documentation
	return config.Revision(hex.EncodeToString(b[:]))
}

// plan is what a write believes to find, and what it makes of it.
type plan struct {
	base state
	// seen: base was read, with its item. Else it is a guess of its version and
	// of whether it is there at all.
	seen bool
	// above is the highest version in history where that is known to matter.
	above uint64
	// form is which of the write's forms is sent.
	form int
	// keepAll: the version before has no record that could expire.
	keepAll bool
	// contended: another transaction was running on the same items.
	contended bool
}

// plan makes the first guess, so that most writes take one call: what the
// caller expects, else what this process saw last, else that the key is new.
// Where a guess would hardly be right it reads.
func (s *Store) plan(ctx context.Context, w *write) (*plan, error) {
	hint, hinted := s.hints.get(w.id)
	version, set := w.expect.Value()
	guess := state{exists: true}
	switch {
	case version == noVersion, hinted && hint.foreign, w.deleted && version == 0 && (set || !hinted || !hint.live):
		return s.read(ctx, w, &plan{})
	case version > 0:
		guess.version = version
	case !hinted, set && hint.live:
		guess = state{}
	default:
		guess.version = hint.version
	}
	guess.live, guess.wrote = w.deleted, guess.version
	if guess.version == noVersion {
		return s.read(ctx, w, &plan{})
	}
	return &plan{base: guess}, nil
}

// read replaces the plan's base by what is there.
func (s *Store) read(ctx context.Context, w *write, p *plan) (*plan, error) {
	st, err := s.current(ctx, w.id, w.at)
	if err != nil {
		return nil, err
	}
	return p, s.adopt(ctx, w, p, st)
}

// adopt takes a state that was seen as the base, or refuses the write.
func (s *Store) adopt(ctx context.Context, w *write, p *plan, st state) error {
	var latest uint64
	if st.exists {
		latest = st.version
	}
	live := st.exists && st.live
	switch {
	case w.deleted && !live:
		return errNotFound()
	case !w.expect.Match(latest, live):
		return errConflict(latest)
	case latest >= noVersion-1:
		return config.Errorf(config.FailedPrecondition, "the item's version has reached the highest number there is").
			WithHint("another tool wrote it: correct the version attribute")
	}
	p.base, p.seen = st, true
	if st.exists && st.foreign && st.wrote == 0 && p.above == 0 {
		// Whoever replaced the item may have started to count anew.
		return s.look(ctx, w, p)
	}
	return nil
}

func errConflict(latest uint64) *config.Error {
	return config.Errorf(config.Conflict, "the value was changed: its version is %d", latest).
		WithVersion(latest).WithHint("read it and decide again")
}

// look finds the highest version in history.
func (s *Store) look(ctx context.Context, w *write, p *plan) error {
	q := query{store: s, tenant: w.id.Tenant, pk: w.at.pk, prefix: historyFolder(w.at)}
	page := pager{size: 1}
	_, err := q.run(ctx, &page, func(key itemKey, _ map[string]types.AttributeValue) error {
		if version, ok := versionOf(q.prefix, key.sk); ok {
			p.above = max(p.above, version)
			return page.add(config.Entry{})
		}
		return nil
	})
	return err
}

// versions returns the version as which a foreign base is recorded, 0 if it is
// not, and the one that the write makes.
func (p *plan) versions() (foreign, next uint64) {
	switch {
	case !p.base.exists:
		return 0, p.above + 1
	case p.base.foreign:
		foreign = max(p.base.version, p.above+1)
		next = foreign + 1
		if p.base.damage != nil {
			foreign = 0 // there is no value to record
		}
		return foreign, next
	default:
		return 0, max(p.base.version, p.above) + 1
	}
}

// try makes one transaction and learns from its failure: done is false where
// the plan was changed and another try may succeed.
func (s *Store) try(ctx context.Context, w *write, p *plan) (e config.Entry, done bool, err error) {
	tx, err := s.transaction(w, p)
	if err != nil {
		return config.Entry{}, false, err
	}
	reasons, err := s.send(ctx, w.id.Tenant, tx.input)
	repeated := awsconn.Repeated(err)
	switch {
	case err == nil:
		return s.made(w, tx), true, nil
	case reasons == nil && oversized(err):
		return config.Entry{}, false, w.nextForm(p, err)
	case reasons == nil:
		failed := writeError(ctx, err)
		if failed.Code != config.OutcomeUnknown || ctx.Err() != nil {
			return config.Entry{}, false, failed
		}
		// The record in history tells whether it was carried out, if it was.
		if mine, there, err := s.recorded(ctx, w, tx.next); err == nil && mine {
			return s.made(w, tx), true, nil
		} else if err != nil || !there {
			return config.Entry{}, false, failed
		}
		// Another write made this version: this one never can.
		_, err = s.read(ctx, w, p)
		return config.Entry{}, false, err
	case len(reasons) != len(tx.roles):
		return config.Entry{}, false, config.Errorf(config.Internal, "DynamoDB gave reasons for another transaction than was sent").WithCause(err)
	}
	failures := tx.failures(reasons)
	if replayed, ok := failures[roleOnce]; ok {
		e, err := s.replay(w, replayed.Item)
		return e, err == nil, err
	}
	if repeated || owns(failures[roleVersion].Item, w.revision) || owns(failures[roleCurrent].Item, w.revision) {
		// An earlier attempt of this very call may have been carried out.
		mine, _, err := s.recorded(ctx, w, tx.next)
		if err != nil {
			return config.Entry{}, false, config.Errorf(config.OutcomeUnknown, "the write was sent, and it can not be told whether it was carried out").
				WithHint("read the value before you retry").WithCause(err)
		}
		if mine {
			return s.made(w, tx), true, nil
		}
	}
	return config.Entry{}, false, s.learn(ctx, w, p, reasons, failures, err)
}

// learn changes the plan by the reasons for which a transaction was canceled, or
// returns the error that the write ends with.
func (s *Store) learn(ctx context.Context, w *write, p *plan, reasons []types.CancellationReason, failures map[role]types.CancellationReason, cause error) error {
	if err := fatal(reasons, cause); err != nil {
		if isOversize(reasons) {
			return w.nextForm(p, cause)
		}
		return err
	}
	current, moved := failures[roleCurrent]
	_, taken := failures[roleVersion]
	_, takenForeign := failures[roleForeign]
	_, unrecorded := failures[roleExpire]
	if unrecorded {
		p.keepAll = true
	}
	switch {
	case moved:
		item, err := checked(current.Item, w.at)
		if err != nil {
			return err
		}
		st, err := stateOf(item)
		if err != nil {
			return err
		}
		s.hints.saw(w.id, st)
		p.above, p.keepAll = 0, false
		return s.adopt(ctx, w, p, st)
	case taken, takenForeign:
		// History is ahead of the item: another tool set it back or removed it.
		return s.look(ctx, w, p)
	}
	p.contended = !unrecorded
	return nil
}

// owns reports whether an item is what this very write made.
func owns(item map[string]types.AttributeValue, revision config.Revision) bool {
	own, ok := item[attrOwn].(*types.AttributeValueMemberM)
	return ok && text(own.Value[ownRevision]) == string(revision)
}

// recorded reports whether there is a record of a version in history, and
// whether it is of this write.
func (s *Store) recorded(ctx context.Context, w *write, version uint64) (mine, there bool, err error) {
	item, err := s.item(ctx, w.id.Tenant, historyKey(w.at, version), true)
	if err != nil {
		return false, false, err
	}
	return owns(item, w.revision), item != nil, nil
}

// made is what follows a write that was carried out.
func (s *Store) made(w *write, tx *transaction) config.Entry {
	s.hints.wrote(w.id, tx.next, !w.deleted)
	if s.floors != nil {
		s.floors.wrote(w.id, tx.next)
	}
	return w.entry(tx.next, w.revision, tx.now)
}

func (w *write) entry(version uint64, revision config.Revision, updatedAt time.Time) config.Entry {
	return config.Entry{
		ID: w.id, ContentType: w.contentType, Version: version, Revision: revision,
		UpdatedAt: updatedAt, UpdatedBy: w.updatedBy, Message: w.message, Deleted: w.deleted,
	}
}

// send makes a transaction. The SDK keeps its token over its own attempts, so
// that DynamoDB carries it out once; reasons are set where it was canceled.
func (s *Store) send(ctx context.Context, t config.Tenant, in *dynamodb.TransactWriteItemsInput) (reasons []types.CancellationReason, err error) {
	for try := 0; ; try++ {
		_, err = call(ctx, s, t, in, s.db.TransactWriteItems)
		var running *types.TransactionInProgressException
		if !errors.As(err, &running) || try == 5 {
			break
		}
		// An earlier attempt of this transaction is still being carried out: its
		// token asks what became of it.
		if pause(ctx, contendedDelay<<try) != nil {
			break
		}
	}
	var canceled *types.TransactionCanceledException
	if errors.As(err, &canceled) && canceled.CancellationReasons != nil {
		return canceled.CancellationReasons, err
	}
	return nil, err
}

// writeError is readError for a write: one whose own time ran out may have been
// carried out.
func writeError(ctx context.Context, err error) *config.Error {
	var running *types.TransactionInProgressException
	e := config.AsError(awsconn.Error("", config.Key{}, err, true, codes), "", config.Key{})
	if e.Code == config.DeadlineExceeded && ctx.Err() == nil || errors.As(err, &running) {
		e.Code, e.Message = config.OutcomeUnknown, "DynamoDB did not say in time whether the write was carried out"
		e.Hint = "read the value before you retry"
	}
	return e
}

// The codes of cancellation reasons.
const (
	reasonNone      = "None"
	reasonCondition = "ConditionalCheckFailed"
	reasonConflict  = "TransactionConflict"
)

// fatal returns the error of a transaction that was canceled for a reason that
// another try would meet again.
func fatal(reasons []types.CancellationReason, cause error) error {
	for _, r := range reasons {
		switch aws.ToString(r.Code) {
		case "", reasonNone, reasonCondition, reasonConflict:
		case "ThrottlingError", "ProvisionedThroughputExceeded", "ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded":
			e := config.Errorf(config.ResourceExhausted, "the table is throttled: nothing was written").WithHint("give it more write capacity, or retry later").WithCause(cause)
			e.RetryAfter = time.Second
			return e
		case "ItemCollectionSizeLimitExceeded":
			return config.Errorf(config.ResourceExhausted, "the tenant's items have reached the 10 GB that a table with a local secondary index allows: nothing was written").WithCause(cause)
		case "ValidationError":
			return config.Errorf(config.Internal, "DynamoDB does not accept the write").WithCause(cause)
		case "AccessDenied", "AccessDeniedException":
			return config.Errorf(config.PermissionDenied, "AWS does not allow the write").WithHint("compare this plugin's role with the policy of its README").WithCause(cause)
		default:
			return config.Errorf(config.Unavailable, "DynamoDB canceled the write: nothing was written").WithCause(cause)
		}
	}
	return nil
}

// nextForm makes the plan send a smaller form of the value, if there is one.
func (w *write) nextForm(p *plan, cause error) error {
	if p.form+1 == len(w.forms) {
		return errOversize().WithCause(cause)
	}
	p.form++
	return nil
}

// isOversize reports whether an item would have become too large, which only the
// text tells: as the reason of a transaction, or of a request as a whole.
func isOversize(reasons []types.CancellationReason) bool {
	for _, r := range reasons {
		if aws.ToString(r.Code) == "ValidationError" && strings.Contains(aws.ToString(r.Message), oversizeText) {
			return true
		}
	}
	return false
}

func oversized(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == "ValidationException" && strings.Contains(api.ErrorMessage(), oversizeText)
}

// oversizeText is in "Item size has exceeded the maximum allowed size" and
// "Item size to update has exceeded …".
const oversizeText = "Item size"

func errOversize() *config.Error {
	return config.Errorf(config.InvalidArgument, "the item would be larger than the %d bytes that DynamoDB allows, with its keys, its metadata and the attributes of other tools", maxItem).
		WithHint("store less in one value, or use another store, such as S3")
}
