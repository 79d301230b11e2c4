package localbackend

import (
	"encoding/binary"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// All numbers in records are little-endian; those in keys are big-endian, so
// that keys sort as the numbers do.
var le = binary.LittleEndian

// formatVersion is the version of everything in this file. A file of another
// version is refused.
const formatVersion = 1

// The keys of the meta table.
var (
	keyFormat = []byte("format") // formatVersion, then the file's own name
	keyTokens = []byte("tokens") // the key of page and resume tokens
	keyState  = []byte("state")  // state, written by every commit
)

// fileIDSize is the length of the random name that a file is made with. It is
// part of every revision, so that no revision of one file is one of another.
const fileIDSize = 8

// state is what every commit changes.
type state struct {
	seq   uint64 // the last change
	floor uint64 // the last change that the log no longer has
	live  uint64 // live entries
	tally [len(tallied)]tally
}

const stateSize = 8 * (3 + 2*len(tallied))

func (s *state) encode() []byte {
	b := make([]byte, 0, stateSize+crcSize)
	b = le.AppendUint64(b, s.seq)
	b = le.AppendUint64(b, s.floor)
	b = le.AppendUint64(b, s.live)
	for _, t := range s.tally {
		b = le.AppendUint64(b, t.count)
		b = le.AppendUint64(b, t.sum)
	}
	return b
}

func decodeState(b []byte) (state, error) {
	var s state
	if len(b) != stateSize {
		return s, errDamaged
	}
	next := func() uint64 {
		n := le.Uint64(b)
		b = b[8:]
		return n
	}
	s.seq, s.floor, s.live = next(), next(), next()
	for i := range s.tally {
		s.tally[i] = tally{count: next(), sum: next()}
	}
	return s, nil
}

// pointer is a record of the current table.
type pointer struct {
	version   uint64
	seq       uint64
	updatedAt int64 // nanoseconds since 1970
	deleted   bool
}

const pointerSize = 8 + 8 + 8 + 1

func (p pointer) live() bool { return p.version > 0 && !p.deleted }

func (p pointer) encode() []byte {
	b := make([]byte, 0, pointerSize+crcSize)
	b = le.AppendUint64(b, p.version)
	b = le.AppendUint64(b, p.seq)
	b = le.AppendUint64(b, uint64(p.updatedAt))
	return append(b, oneIf(p.deleted))
}

func decodePointer(b []byte) (pointer, error) {
	if len(b) != pointerSize || b[24] > 1 {
		return pointer{}, errDamaged
	}
	return pointer{
		version:   le.Uint64(b),
		seq:       le.Uint64(b[8:]),
		updatedAt: int64(le.Uint64(b[16:])),
		deleted:   b[24] == 1,
	}, nil
}

func oneIf(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// record is a record of the versions table. Its slice belongs to whoever gave
// it.
type record struct {
	seq         uint64
	updatedAt   int64
	deleted     bool
	contentType string
	updatedBy   string
	message     string
	value       []byte
}

// recordHead is what of a record is known only once its turn has come: it is
// written into the room that encode leaves in front.
const recordHead = 8 + 8 + 1

// encode returns the record with room behind it for the checksum.
func (r record) encode() []byte {
	n := recordHead + 4*4 + len(r.contentType) + len(r.updatedBy) + len(r.message) + len(r.value)
	b := make([]byte, recordHead, n+crcSize)
	r.encodeHead(b)
	for _, s := range []string{r.contentType, r.updatedBy, r.message} {
		b = le.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	b = le.AppendUint32(b, uint32(len(r.value)))
	return append(b, r.value...)
}

// encodeHead writes the head of r over the beginning of what encode returned.
func (r record) encodeHead(b []byte) {
	le.PutUint64(b, r.seq)
	le.PutUint64(b[8:], uint64(r.updatedAt))
	b[16] = oneIf(r.deleted)
}

// decodeRecord reads what encode wrote and refuses everything else. The value
// points into b.
func decodeRecord(b []byte) (record, error) {
	if len(b) < recordHead || b[16] > 1 {
		return record{}, errDamaged
	}
	r := record{
		seq:       le.Uint64(b),
		updatedAt: int64(le.Uint64(b[8:])),
		deleted:   b[16] == 1,
	}
	rest := b[recordHead:]
	field := func() []byte {
		if len(rest) < 4 {
			rest = nil
			return nil
		}
		n := uint64(le.Uint32(rest))
		rest = rest[4:]
		if n > uint64(len(rest)) {
			rest = nil
			return nil
		}
		f := rest[:n:n]
		rest = rest[n:]
		return f
	}
	r.contentType = string(field())
	r.updatedBy = string(field())
	r.message = string(field())
	r.value = field()
	if rest == nil || len(rest) > 0 || r.deleted && len(r.value) > 0 {
		return record{}, errDamaged
	}
	return r, nil
}

// entry returns the record as the entry of an ID, sharing no memory with it.
func (r record) entry(id config.ID, version uint64, rev revisions) config.Entry {
	e := r.metadata(id, version, rev)
	if !r.deleted {
		e.Value = append(make([]byte, 0, len(r.value)), r.value...)
	}
	return e
}

// metadata returns the entry without its value.
func (r record) metadata(id config.ID, version uint64, rev revisions) config.Entry {
	return config.Entry{
		ID:          id,
		ContentType: r.contentType,
		Version:     version,
		Revision:    rev.of(version),
		UpdatedAt:   time.Unix(0, r.updatedAt).UTC(),
		UpdatedBy:   r.updatedBy,
		Message:     r.message,
		Deleted:     r.deleted,
	}
}

// versionKey is the key of a version: no key of an ID has a NUL in it, so that
// no ID's versions run into another's.
func versionKey(id []byte, version uint64) []byte {
	k := make([]byte, 0, len(id)+9)
	k = append(k, id...)
	k = append(k, 0)
	return binary.BigEndian.AppendUint64(k, version)
}

// splitVersionKey undoes versionKey.
func splitVersionKey(k []byte) (id []byte, version uint64, ok bool) {
	n := len(k) - 9
	if n < 0 || k[n] != 0 {
		return nil, 0, false
	}
	return k[:n], binary.BigEndian.Uint64(k[n+1:]), true
}

func changeKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64(nil, seq)
}

// change is a record of the changes table: a reference to a version.
type change struct {
	version uint64
	id      []byte // config.ID.Encode
}

func (c change) encode() []byte {
	b := make([]byte, 0, 8+len(c.id)+crcSize)
	b = le.AppendUint64(b, c.version)
	return append(b, c.id...)
}

func decodeChange(b []byte) (change, error) {
	if len(b) <= 8 {
		return change{}, errDamaged
	}
	return change{version: le.Uint64(b), id: b[8:]}, nil
}

// remembered is a record of the idempotency table: what a write asked for,
// and the version that it made.
type remembered struct {
	expires     int64 // nanoseconds since 1970
	fingerprint [fingerprintSize]byte
	version     uint64
	result      record // without a value
}

const rememberedHead = 8 + fingerprintSize + 8

func (m remembered) encode() []byte {
	result := m.result.encode()
	b := make([]byte, 0, rememberedHead+len(result)+crcSize)
	b = le.AppendUint64(b, uint64(m.expires))
	b = append(b, m.fingerprint[:]...)
	b = le.AppendUint64(b, m.version)
	return append(b, result...)
}

func decodeRemembered(b []byte) (remembered, error) {
	if len(b) < rememberedHead {
		return remembered{}, errDamaged
	}
	result, err := decodeRecord(b[rememberedHead:])
	if err != nil || len(result.value) > 0 {
		return remembered{}, errDamaged
	}
	m := remembered{
		expires: int64(le.Uint64(b)),
		version: le.Uint64(b[8+fingerprintSize:]),
		result:  result,
	}
	copy(m.fingerprint[:], b[8:])
	return m, nil
}
