package s3backend

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

// tries bounds how often one write is made anew because others came first.
const tries = 100

// The wait before such a try, from the third on: random, doubling, up to most.
const (
	leastWait = 5 * time.Millisecond
	mostWait  = 250 * time.Millisecond
)

// The tag that a writer puts on its object once it knows that it came in time.
const (
	tagKey   = "tagstore"
	tagValue = "settled"
)

// The object under a delete marker: its content type, and what its bytes begin
// with, before the eight that tell the write from all others.
const (
	tombstoneType = "application/vnd.tagstore.tombstone"
	tombstoneText = "deleted "
	tombstoneSize = int64(len(tombstoneText) + len(record{}.write))
)

// state is where an object stands.
type state struct {
	version uint64
	live    bool
	etag    string // of the current object, "" if S3 has none
	top     string // revision of the first line of the version list, "" if there is none
	bare    bool   // the current object is a tombstone without its delete marker
	served  time.Time
}

// Put writes a new version.
func (s *Store) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	const op = "s3.Put"
	e, err := s.put(ctx, op, r)
	if err != nil {
		return config.Entry{}, fail(op, r.ID.Key, err, true)
	}
	return e, nil
}

func (s *Store) put(ctx context.Context, op string, r driver.PutRequest) (config.Entry, error) {
	if err := s.begin(ctx); err != nil {
		return config.Entry{}, err
	}
	path, err := s.path(r.ID)
	if err != nil {
		return config.Entry{}, err
	}
	if len(r.Value) > s.maxValue {
		return config.Entry{}, config.Errorf(config.InvalidArgument, "the value has %d bytes, the limit is %d", len(r.Value), s.maxValue)
	}
	if err := checkText(r.UpdatedBy, r.Message); err != nil {
		return config.Entry{}, err
	}
	if r.ContentType == "" {
		r.ContentType = config.ContentTypeJSON
	}
	if err := checkContentType(r.ContentType); err != nil {
		return config.Entry{}, err
	}
	w := write{
		op: op, id: r.ID, path: path, expect: r.Expect, contentType: r.ContentType,
		body:   bytes.Clone(r.Value), // a request that was given up may still read it
		record: record{updatedBy: r.UpdatedBy, message: r.Message},
	}
	made, err := s.write(ctx, w)
	if err != nil {
		return config.Entry{}, err
	}
	e := made.entry(w)
	e.ContentType = r.ContentType
	return e, nil
}

// checkContentType refuses what an HTTP header does not carry unchanged.
func checkContentType(s string) error {
	const most = 255
	bad := len(s) > most || s[0] == ' ' || s[len(s)-1] == ' '
	for i := range len(s) {
		bad = bad || s[i] < ' ' || s[i] > '~'
	}
	if bad {
		return config.Errorf(config.InvalidArgument, "the content type is not one that an HTTP header carries").
			WithHint("use up to %d printable ASCII characters, such as application/json", most)
	}
	return nil
}

// Delete writes a tombstone, and then a delete marker on it, so that the key is
// gone for other tools as well.
func (s *Store) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	const op = "s3.Delete"
	e, err := s.delete(ctx, op, r)
	if err != nil {
		return config.Entry{}, fail(op, r.ID.Key, err, true)
	}
	return e, nil
}

func (s *Store) delete(ctx context.Context, op string, r driver.DeleteRequest) (config.Entry, error) {
	if err := s.begin(ctx); err != nil {
		return config.Entry{}, err
	}
	path, err := s.path(r.ID)
	if err != nil {
		return config.Entry{}, err
	}
	if err := checkText(r.UpdatedBy, r.Message); err != nil {
		return config.Entry{}, err
	}
	w := write{
		op: op, id: r.ID, path: path, expect: r.Expect, contentType: tombstoneType,
		record: record{deleted: true, updatedBy: r.UpdatedBy, message: r.Message},
	}
	made, err := s.write(ctx, w)
	if err != nil {
		return config.Entry{}, err
	}
	// The key is deleted. What is left is for other tools to see it too, and if
	// it fails now, the next Delete or Put mends it.
	if err := s.mark(ctx, w, made.etag); err != nil {
		slog.WarnContext(ctx, "an object was deleted, and its delete marker could not be written", "error", safe(err))
	}
	e := made.entry(w)
	e.Deleted = true
	return e, nil
}

// mark puts a delete marker on a tombstone, and on nothing else: the tombstone's
// bytes, and so its ETag, are like no other object's.
func (s *Store) mark(ctx context.Context, w write, etag string) error {
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &w.path, IfMatch: quoted(etag)}, s.as(w.id.Tenant))
	if err != nil && !overtaken(err) {
		return err
	}
	return nil // or somebody put or deleted the key meanwhile
}

// write is what Put and Delete have in common.
type write struct {
	op          string
	id          config.ID
	path        string
	expect      driver.Expect
	contentType string
	body        []byte
	record      record
}

// made is a write that came in time.
type made struct {
	object
	version uint64
}

func (m made) entry(w write) config.Entry {
	return config.Entry{
		ID: w.id, Version: m.version, Revision: config.Revision(m.revision()), UpdatedAt: m.modified,
		UpdatedBy: w.record.updatedBy, Message: w.record.message,
	}
}

// write makes a version of an object. S3 compares the ETag of what is there
// with the one that was there when this write looked, so it refuses a write
// that comes too late. With one exception: an ETag is a digest of the bytes,
// and those may have come back. Then S3 stores the object where it does not
// belong, and its record says so: the number of its version is not over that
// of what is below it. Every reader looks, so the object is void from its first
// moment; the writer looks too, removes it and starts again.
func (s *Store) write(ctx context.Context, w write) (made, error) {
	wait := leastWait
	for try := range tries {
		if try > 1 {
			if err := pause(ctx, rand.N(wait)); err != nil { //nolint:gosec // any moment will do
				return made{}, err
			}
			wait = min(2*wait, mostWait)
		}
		at, err := s.state(ctx, w.id.Tenant, w.path)
		switch {
		case errors.Is(err, errVanished):
			continue
		case err != nil:
			return made{}, readFirst(err)
		case w.record.deleted && !at.live:
			s.heal(ctx, w, at)
			return made{}, errNotFound()
		case !w.expect.Match(at.version, at.live):
			return made{}, config.Errorf(config.Conflict, "the expected version is not the current one").WithVersion(at.version).
				WithHint("read the value and decide again")
		}
		m, outcome, err := s.send(ctx, w, at)
		switch {
		case err != nil:
			return made{}, err
		case outcome == inTime:
			return m, nil
		}
	}
	return made{}, config.Errorf(config.Unavailable, "too many others write this key").WithHint("retry")
}

// readFirst makes the error of a read that comes before a write one that says
// that nothing was written.
func readFirst(err error) error {
	return fail("", config.Key{}, err, false)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return done(ctx)
	case <-t.C:
		return nil
	}
}

// heal writes the delete marker that an interrupted Delete left out.
func (s *Store) heal(ctx context.Context, w write, at state) {
	if !at.bare {
		return
	}
	if err := s.mark(ctx, w, at.etag); err != nil {
		slog.WarnContext(ctx, "the delete marker of a deleted object could not be written", "error", safe(err))
	}
}

// state finds out where an object stands. The error is the SDK's or ours.
func (s *Store) state(ctx context.Context, tenant config.Tenant, path string) (state, error) {
	o, err := s.head(ctx, tenant, path, "")
	switch {
	case err == nil:
		if version, ok := s.known(path, o); ok {
			gone := o.ours && o.record.deleted
			return state{version: version, live: !gone, bare: gone, etag: o.etag, top: o.revision(), served: o.served}, nil
		}
	case !absent(err) && !denied(err):
		return state{}, err
	}
	refused := err
	c, err := s.chainOf(ctx, tenant, path, "", firstLines)
	switch {
	case err != nil && denied(refused):
		return state{}, refused
	case err != nil:
		return state{}, err
	}
	at := state{served: c.served}
	if ok, err := c.has(ctx, 0); err != nil || !ok {
		return at, err
	}
	if denied(refused) && !c.lines[0].marker {
		return state{}, refused
	}
	at.top = c.lines[0].revision()
	if refused == nil {
		at.etag = c.lines[0].etag
	}
	if c.lines[0].id == o.id {
		c.know(0, o)
	}
	p, i, ok, err := c.below(ctx, -1)
	if err != nil {
		return state{}, err
	}
	if ok {
		at.version, at.live = p.version, !p.deleted
		at.bare = i == 0 && p.deleted && at.etag != ""
	}
	return at, nil
}

// outcome is what became of one request to write.
type outcome int

const (
	inTime  outcome = iota
	tooLate         // nothing was written, or it was void and is gone
)

// send makes one attempt. Its error is final.
func (s *Store) send(ctx context.Context, w write, at state) (made, outcome, error) {
	r := w.record
	r.version, r.write, r.over, r.at = at.version+1, newWrite(), digest(at.etag), at.served
	body := w.body
	if r.deleted {
		body = append([]byte(tombstoneText), r.write[:]...)
	}
	o, err := s.store(ctx, w, r, body, at.etag)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return made{}, 0, err
	case overtaken(err) && !awsconn.Repeated(err):
		return made{}, tooLate, nil
	case overtaken(err), errors.Is(fail(w.op, w.id.Key, err, true), config.OutcomeUnknown):
		// It may have been carried out. If it was, it is there to be found.
		var found object
		var ok bool
		lost := steadily(func() (err error) {
			found, ok, err = s.recover(ctx, w, r, at)
			return err
		})
		switch {
		case lost == nil && ok:
			o = found
		case overtaken(err) && lost == nil:
			return made{}, tooLate, nil
		default:
			return made{}, 0, err
		}
	default:
		return made{}, 0, err
	}
	if o.id == "null" {
		return made{}, 0, errSuspended
	}
	return s.verify(ctx, w, r, o, at)
}

// store sends the object.
func (s *Store) store(ctx context.Context, w write, r record, body []byte, over string) (object, error) {
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	in := &s3.PutObjectInput{
		Bucket: &s.bucket, Key: &w.path, Body: bytes.NewReader(body), ContentType: &w.contentType,
		Metadata:          map[string]string{metaKey: r.encode(w.path)},
		ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
	}
	s.encryption(in)
	if over == "" {
		in.IfNoneMatch = aws.String("*")
	} else {
		in.IfMatch = quoted(over)
	}
	out, err := s.client.PutObject(ctx, in, s.as(w.id.Tenant), func(o *s3.Options) { o.Retryer = s.conn.Once() })
	if err != nil {
		return object{}, err
	}
	o := object{id: aws.ToString(out.VersionId), etag: unquoted(aws.ToString(out.ETag)), record: r, ours: true}
	if o.id == "" {
		o.id = "null"
	}
	o.served = serverTime(out.ResultMetadata)
	return o, nil
}

// recover looks for an object whose request was not answered.
func (s *Store) recover(ctx context.Context, w write, r record, at state) (object, bool, error) {
	c, err := s.chainOf(ctx, w.id.Tenant, w.path, "", firstLines)
	if err != nil {
		return object{}, false, err
	}
	for i := 0; ; i++ {
		ok, err := c.has(ctx, i)
		if err != nil || !ok || c.lines[i].revision() == at.top {
			return object{}, false, err
		}
		if c.lines[i].marker {
			continue
		}
		o, err := c.object(ctx, i)
		if err != nil {
			return object{}, false, err
		}
		if o.ours && o.record.write == r.write {
			return o, true, nil
		}
	}
}

// verify looks whether an object that was stored replaced what it was to
// replace, and removes it if not.
func (s *Store) verify(ctx context.Context, w write, r record, o object, at state) (made, outcome, error) {
	var where place
	var modified time.Time
	err := steadily(func() (err error) {
		where, modified, err = s.placed(ctx, w, o, at)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return made{}, 0, done(ctx)
		}
		e := config.Errorf(config.OutcomeUnknown, "the object was written, and whether in time could not be seen").WithCause(err)
		return made{}, 0, e.WithHint("read the value before you retry")
	}
	if where.void || where.version != r.version {
		s.undo(ctx, w, o)
		return made{}, tooLate, nil
	}
	o.modified = modified.UTC().Truncate(time.Second)
	s.memo.put(seen{w.path, o.revision()}, r.version)
	if !r.deleted {
		s.settle(ctx, w, o)
	}
	return made{object: o, version: r.version}, inTime, nil
}

// placed returns what an object that was just stored is, and when S3 says that
// it stored it.
func (s *Store) placed(ctx context.Context, w write, o object, at state) (place, time.Time, error) {
	c, err := s.chainOf(ctx, w.id.Tenant, w.path, "", firstLines)
	if err != nil {
		return place{}, time.Time{}, err
	}
	i, ok, err := c.find(ctx, o.id)
	if err != nil {
		return place{}, time.Time{}, err
	}
	if !ok {
		return place{}, time.Time{}, errVanished
	}
	o.modified = c.lines[i].modified.Truncate(time.Second)
	ok, err = c.has(ctx, i+1)
	if err != nil {
		return place{}, time.Time{}, err
	}
	if !ok && at.top == "" || ok && c.lines[i+1].revision() == at.top {
		return place{version: o.record.version, deleted: o.record.deleted}, o.modified, nil
	}
	c.know(i, o)
	p, err := c.place(ctx, i)
	return p, o.modified, err
}

// settle tags an object whose writer knows that it came in time, so that a
// reader knows too without a look at the version list. It is worth a request,
// and no more: without the tag, readers look.
func (s *Store) settle(ctx context.Context, w write, o object) {
	o.tagged = true
	if s.untagged.Load() || !o.settled() {
		return
	}
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	_, err := s.client.PutObjectTagging(ctx, &s3.PutObjectTaggingInput{
		Bucket: &s.bucket, Key: &w.path, VersionId: &o.id,
		Tagging: &types.Tagging{TagSet: []types.Tag{{Key: aws.String(tagKey), Value: aws.String(tagValue)}}},
	}, s.as(w.id.Tenant))
	if err != nil && config.CodeOf(fail("", config.Key{}, err, true)) == config.PermissionDenied && !s.untagged.Swap(true) {
		slog.WarnContext(ctx, "S3 denies s3:PutObjectVersionTagging: the first read of each version takes a look at the version list", "error", safe(err))
	}
}

// undo removes an object that came too late. It is void with or without this,
// but other tools would take it for the value.
func (s *Store) undo(ctx context.Context, w write, o object) {
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &w.path, VersionId: &o.id}, s.as(w.id.Tenant))
	if err != nil && !absent(err) {
		slog.WarnContext(ctx, "an object that lost a race could not be removed: other tools see it until the next write", "error", safe(err))
	}
}
