package s3backend

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/tagstore/tagstore/core/config"
)

// object is one version of one object, as GET and HEAD describe it.
type object struct {
	id          string // S3's version id
	etag        string
	size        int64
	modified    time.Time // when S3 stored it, in whole seconds
	contentType string
	record      record
	ours        bool // it has a record of this key
	tagged      bool
	served      time.Time // when S3 answered, by its clock
}

func (o object) revision() string { return revisionOf(o.id, o.etag) }

// revisionOf makes a version id one text of ours. The ETag is in it because
// all objects from before a bucket's versioning have the id "null".
func revisionOf(id, etag string) string {
	sum := sha256.Sum256([]byte(id + "\n" + etag))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// prompt bounds the time, by S3's clock, between what a write is based on and
// the write, for the object to be settled by its tag.
const prompt = 5 * time.Second

// settled reports whether the object is known, from itself alone, to be the
// version that its record says. Its writer looked at the version list, and
// then tagged it. A copy of such an object has the tag and the record too, but
// S3 stored it later than the record says.
func (o object) settled() bool {
	if !o.ours || !o.tagged {
		return false
	}
	took := o.modified.Sub(o.record.at)
	return took >= -time.Second && took <= prompt
}

// describe fills in what GET and HEAD answer alike.
func describe(path string, id, etag, contentType *string, size *int64, modified *time.Time, metadata map[string]string, tags *int32, served middleware.Metadata) object {
	o := object{
		id: aws.ToString(id), etag: unquoted(aws.ToString(etag)), contentType: aws.ToString(contentType), size: aws.ToInt64(size),
		modified: aws.ToTime(modified).UTC().Truncate(time.Second), tagged: aws.ToInt32(tags) > 0,
	}
	if o.id == "" {
		o.id = "null"
	}
	if o.contentType == "" {
		o.contentType = "binary/octet-stream" // what S3 calls it
	}
	o.served = serverTime(served)
	if text, ok := metadata[metaKey]; ok {
		o.record, o.ours = decodeRecord(path, text)
	}
	return o
}

// serverTime returns when S3 answered, by its own clock.
func serverTime(m middleware.Metadata) time.Time {
	if t, ok := awsmiddleware.GetServerTime(m); ok && !t.IsZero() {
		return t.UTC()
	}
	return time.Now().UTC() // S3 always says
}

// unquoted returns an ETag without the quotes that it has in some places.
func unquoted(etag string) string { return strings.Trim(etag, `"`) }

func quoted(etag string) *string { return aws.String(`"` + etag + `"`) }

func versionParameter(id string) *string {
	if id == "" {
		return nil
	}
	return &id
}

// head describes one version of an object, the current one for id "". The
// error is the SDK's.
func (s *Store) head(ctx context.Context, tenant config.Tenant, path, id string) (object, error) {
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &path, VersionId: versionParameter(id)}, s.as(tenant))
	if err != nil {
		return object{}, err
	}
	return describe(path, out.VersionId, out.ETag, out.ContentType, out.ContentLength, out.LastModified, out.Metadata, out.TagCount, out.ResultMetadata), nil
}

// readAttempts is how often a body is asked for that came damaged or cut off.
const readAttempts = 2

// read returns one version of an object with its bytes, the current one for
// id "". The error is the SDK's or ours: DataLoss if the bytes do not match
// their checksum, FailedPrecondition if there are more than max_value.
func (s *Store) read(ctx context.Context, tenant config.Tenant, path, id string) (o object, value []byte, err error) {
	for range readAttempts {
		var again bool
		if o, value, again, err = s.readOnce(ctx, tenant, path, id); !again || ctx.Err() != nil {
			return o, value, err
		}
	}
	return o, value, err
}

func (s *Store) readOnce(ctx context.Context, tenant config.Tenant, path, id string) (o object, value []byte, again bool, err error) {
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &s.bucket, Key: &path, VersionId: versionParameter(id), ChecksumMode: types.ChecksumModeEnabled,
	}, s.as(tenant))
	if err != nil {
		return object{}, nil, false, err
	}
	defer out.Body.Close()
	o = describe(path, out.VersionId, out.ETag, out.ContentType, out.ContentLength, out.LastModified, out.Metadata, out.TagCount, out.ResultMetadata)
	if o.size > int64(s.maxValue) {
		return object{}, nil, false, s.oversized(o.size)
	}
	value = make([]byte, 0, o.size)
	value, err = appendAll(value, io.LimitReader(out.Body, int64(s.maxValue)+1))
	switch {
	case len(value) > s.maxValue: // the answer did not say its length
		return object{}, nil, false, s.oversized(int64(len(value)))
	case err == nil:
		return o, value, false, nil
	case ctx.Err() != nil:
		return object{}, nil, false, ctx.Err()
	case out.ContentLength != nil && int64(len(value)) == o.size && !errors.Is(err, io.ErrUnexpectedEOF):
		// All bytes came, so it is not the connection that fails: the SDK
		// compares the checksum at the end of the body.
		return object{}, nil, true, errDamaged.WithCause(err)
	}
	return object{}, nil, true, config.Errorf(config.Unavailable, "the object's bytes came only in part").WithHint("retry").WithCause(err)
}

// appendAll is io.ReadAll into a slice that has the right size already.
func appendAll(b []byte, r io.Reader) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

func (s *Store) oversized(n int64) error {
	e := config.Errorf(config.FailedPrecondition, "the object has %d bytes, and max_value is %d", n, s.maxValue)
	if s.maxValue < maxMaxValue && n <= maxMaxValue {
		return e.WithHint("raise max_value")
	}
	return e.WithHint("keep objects of this size outside of the store's paths")
}

// entryOf makes an object an entry.
func entryOf(id config.ID, o object, version uint64, value []byte) config.Entry {
	e := config.Entry{
		ID: id, Value: value, ContentType: o.contentType, Version: version, Revision: config.Revision(o.revision()), UpdatedAt: o.modified,
	}
	if o.ours {
		e.UpdatedBy, e.Message = o.record.updatedBy, o.record.message
	}
	return e
}
