package s3backend

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// metaKey is the one piece of user metadata that an object of this store has.
const metaKey = "tagstore"

// S3 takes 2,048 bytes of user metadata, names and values together. The name
// is counted here as it stands in the request, "x-amz-meta-tagstore".
const (
	maxMetadata = 2048
	maxText     = 1400 // of author and message; the test of the longest record holds the two numbers together
)

// record is what this store keeps about a version beside value and content
// type. It is the object's metadata, so one request writes both.
type record struct {
	version uint64
	deleted bool
	// write tells this write from every other one: it is how a writer knows its
	// own object again, and how a copy of an object is known as one.
	write [8]byte
	// over is the digest of the ETag that the write was to replace, that of ""
	// for a key without a current object.
	over [8]byte
	// at is when S3, by its own clock, answered what the write is based on.
	at        time.Time
	updatedBy string
	message   string
}

func newWrite() (w [8]byte) {
	_, _ = rand.Read(w[:]) // never fails: crypto/rand's documentation
	return w
}

func digest(etag string) (d [8]byte) {
	sum := sha256.Sum256([]byte(etag))
	copy(d[:], sum[:])
	return d
}

// checkText refuses what would not fit into the metadata.
func checkText(updatedBy, message string) error {
	if n := len(updatedBy) + len(message); n > maxText {
		return config.Errorf(config.InvalidArgument, "author and message have %d bytes together, this store keeps %d", n, maxText).
			WithHint("shorten the message")
	}
	return nil
}

const (
	recordFormat  = "1"
	recordPut     = "put"
	recordDeleted = "deleted"
)

// encode returns the record as metadata of the object with this key: ASCII,
// its version in plain sight, and at its end a sum that covers the key and all
// of the record. Metadata that was edited, or copied to another key, is none.
//
//	1.put.<version>.<seconds>.<base64 of write, over, author's length, author, message>.<sum>
func (r record) encode(path string) string {
	blob := make([]byte, 0, 18+len(r.updatedBy)+len(r.message))
	blob = append(blob, r.write[:]...)
	blob = append(blob, r.over[:]...)
	blob = binary.BigEndian.AppendUint16(blob, uint16(len(r.updatedBy)))
	blob = append(blob, r.updatedBy...)
	blob = append(blob, r.message...)
	kind := recordPut
	if r.deleted {
		kind = recordDeleted
	}
	text := fmt.Sprintf("%s.%s.%d.%d.%s", recordFormat, kind, r.version, r.at.Unix(), base64.RawURLEncoding.EncodeToString(blob))
	return text + "." + recordSum(path, text)
}

// decodeRecord reads what encode wrote for this key, and nothing else.
func decodeRecord(path, text string) (record, bool) {
	body, sum, ok := cutLast(text, '.')
	if !ok || sum != recordSum(path, body) {
		return record{}, false
	}
	parts := strings.Split(body, ".")
	if len(parts) != 5 || parts[0] != recordFormat || parts[1] != recordPut && parts[1] != recordDeleted {
		return record{}, false
	}
	version, err := strconv.ParseUint(parts[2], 10, 64)
	if err != nil || version == 0 {
		return record{}, false
	}
	seconds, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil {
		return record{}, false
	}
	blob, err := base64.RawURLEncoding.DecodeString(parts[4])
	if err != nil || len(blob) < 18 {
		return record{}, false
	}
	r := record{version: version, deleted: parts[1] == recordDeleted, at: time.Unix(seconds, 0).UTC()}
	copy(r.write[:], blob)
	copy(r.over[:], blob[8:])
	author := int(binary.BigEndian.Uint16(blob[16:]))
	if blob = blob[18:]; author > len(blob) {
		return record{}, false
	}
	r.updatedBy, r.message = string(blob[:author]), string(blob[author:])
	return r, true
}

func recordSum(path, body string) string {
	h := sha256.New()
	fmt.Fprintf(h, "tagstore s3 record\n%d:%s\n%s", len(path), path, body)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

func cutLast(s string, c byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, c)
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}
