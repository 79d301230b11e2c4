package localbackend

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/fnv"

	"go.etcd.io/bbolt"
)

// tableName names a table: it is its bucket's name and part of its records'
// checksums.
type tableName string

const (
	tableVersions    tableName = "versions"
	tableCurrent     tableName = "current"
	tableChanges     tableName = "changes"
	tableIdempotency tableName = "idempotency"
	// tableMeta holds the settings of the file. It has no tally: each of its
	// records is named in the code and required.
	tableMeta tableName = "meta"
)

// tallied lists the tables that have a tally, in the order in which the state
// record holds them.
var tallied = [...]tableName{tableVersions, tableCurrent, tableChanges, tableIdempotency}

// errDamaged says that a record's content is not what was written. It never
// leaves the package as it is: damaged wraps it in an answer.
var errDamaged = errors.New("record checksum or form is wrong")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const crcSize = 4

// seal appends the checksum of one record to its content, in place where the
// capacity is there.
func seal(t tableName, key, content []byte) []byte {
	return binary.LittleEndian.AppendUint32(content, checksum(t, key, content))
}

// unseal returns the content of what seal returned, without copying it.
func unseal(t tableName, key, sealed []byte) ([]byte, error) {
	n := len(sealed) - crcSize
	if n < 0 || binary.LittleEndian.Uint32(sealed[n:]) != checksum(t, key, sealed[:n]) {
		return nil, errDamaged
	}
	return sealed[:n:n], nil
}

// checksum covers the table and the length of the key, so that no record
// passes in another place.
func checksum(t tableName, key, content []byte) uint32 {
	head := make([]byte, 0, 16)
	head = append(head, t...)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(key)))
	sum := crc32.Update(0, castagnoli, head)
	sum = crc32.Update(sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, content)
}

// tally sums up the keys of one table: two tables with the same tally have the
// same keys, as far as accidents go. It does not depend on the order in which
// keys came and went.
type tally struct {
	count uint64
	sum   uint64
}

func (t *tally) add(key []byte) {
	t.count++
	t.sum += keyHash(key)
}

func (t *tally) remove(key []byte) {
	t.count--
	t.sum -= keyHash(key)
}

func keyHash(key []byte) uint64 {
	h := fnv.New64a()
	h.Write(key)
	// FNV leaves its last bytes in the low bits; spread them, since sums are
	// what is compared.
	x := h.Sum64()
	x ^= x >> 32
	x *= 0xd6e8feb86659fd93
	x ^= x >> 32
	return x
}

// table is one table inside one transaction.
type table struct {
	name   tableName
	bucket *bbolt.Bucket
	tally  *tally // nil in a read transaction
}

// get returns the content of a record. It is valid as long as the transaction
// is, and must not be changed.
func (t table) get(key []byte) (content []byte, ok bool, err error) {
	sealed := t.bucket.Get(key)
	if sealed == nil {
		return nil, false, nil
	}
	content, err = unseal(t.name, key, sealed)
	return content, true, err
}

// put stores content, which it takes over.
func (t table) put(key, content []byte) error {
	if t.bucket.Get(key) == nil {
		t.tally.add(key)
	}
	return t.bucket.Put(key, seal(t.name, key, content))
}

// remove deletes a record that is there, damaged or not.
func (t table) remove(key []byte) error {
	if t.bucket.Get(key) == nil {
		return nil
	}
	t.tally.remove(key)
	return t.bucket.Delete(key)
}
