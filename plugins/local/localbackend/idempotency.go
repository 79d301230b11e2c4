package localbackend

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/tagstore/tagstore/core/config"
)

const fingerprintSize = sha256.Size

// How many remembered writes one commit looks at to find expired ones: more
// than it can add itself, so that the table stays within twice of what it must
// remember.
const (
	sweepPerCommit = 16
	sweepPerKey    = 2
)

// idempotencyRecordKey is a key of bounded length, whatever the caller's is,
// that no other tenant's can equal.
func idempotencyRecordKey(t config.Tenant, key string) []byte {
	sum := sha256.Sum256([]byte(key))
	return append([]byte(config.EncodeScope(t, config.Service{})), sum[:]...)
}

// fingerprint covers everything that a write asks for. It is called while the
// record still has its value.
func fingerprint(w *write) (sum [fingerprintSize]byte) {
	h := sha256.New()
	var n [8]byte
	number := func(v uint64) {
		binary.LittleEndian.PutUint64(n[:], v)
		h.Write(n[:])
	}
	field := func(b []byte) {
		number(uint64(len(b)))
		h.Write(b)
	}
	number(uint64(oneIf(w.record.deleted)))
	field(w.key)
	version, set := w.expect.Value()
	number(uint64(oneIf(set)))
	number(version)
	field([]byte(w.record.contentType))
	field([]byte(w.record.updatedBy))
	field([]byte(w.record.message))
	field(w.record.value)
	h.Sum(sum[:0])
	return sum
}

// repeated reports whether a write was made before under the same idempotency
// key, with its result, or refuses it because another one was.
func (t *txn) repeated(w *write) (config.Entry, bool, error) {
	content, ok, err := t.idempotency.get(w.idempotency)
	if err != nil {
		return config.Entry{}, false, t.s.readError(err, "")
	}
	if !ok {
		return config.Entry{}, false, nil
	}
	m, err := decodeRemembered(content)
	switch {
	case err != nil:
		return config.Entry{}, false, t.s.readError(err, "")
	case m.expires <= t.now:
		return config.Entry{}, false, nil
	case m.fingerprint != w.fingerprint:
		return config.Entry{}, false, config.Errorf(config.AlreadyExists, "the idempotency key was used for another write").
			WithHint("use a new key for each write, and the same one only to retry it")
	}
	return m.result.metadata(w.id, m.version, t.s.rev), true, nil
}

// remember keeps what a write asked for and what came of it. Only writes that
// were made are remembered: one that was refused may be tried again.
func (t *txn) remember(w *write, version uint64) error {
	t.remembered++
	m := remembered{
		expires:     t.now + t.s.idempotencyWindow.Nanoseconds(),
		fingerprint: w.fingerprint,
		version:     version,
		result:      w.record,
	}
	return t.idempotency.put(w.idempotency, m.encode())
}

// forgetExpired looks at the next few remembered writes and drops those that
// are over, going round and round.
func (t *txn) forgetExpired() error {
	c := t.idempotency.bucket.Cursor()
	k, sealed := c.Seek(t.s.sweep)
	var over [][]byte
	for n := sweepPerCommit + sweepPerKey*t.remembered; n > 0 && k != nil; n-- {
		content, err := unseal(tableIdempotency, k, sealed)
		if err == nil {
			if m, err := decodeRemembered(content); err == nil && m.expires <= t.now {
				over = append(over, bytes.Clone(k))
			}
		}
		k, sealed = c.Next()
	}
	t.s.sweep = bytes.Clone(k) // nil at the end: from the beginning
	for _, k := range over {
		if err := t.idempotency.remove(k); err != nil {
			return err
		}
	}
	return nil
}
