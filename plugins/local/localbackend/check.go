package localbackend

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// This file reads bbolt's format (version 2) on its own, with every bound
// checked. bbolt follows what it finds through a memory map: on a damaged file
// it faults, loops, or returns something else than what was stored, and none of
// that can be repaired from outside. What this reader accepts, bbolt reads as
// it was written.

// The layout of a page, in the machine's byte order.
//
//	page    id u64, flags u16, count u16, overflow u32, then elements and data
//	leaf    flags u32, offset u32, key size u32, value size u32
//	branch  offset u32, key size u32, page u64
//	bucket  root page u64 (0: an inline page follows), sequence u64
//	meta    magic u32, version u32, page size u32, flags u32, root bucket,
//	        freelist u64, pages u64, transaction u64, checksum u64
const (
	pageHead       = 16
	leafElement    = 16
	branchElement  = 16
	bucketHead     = 16
	metaSize       = 64
	metaChecksumAt = 56

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10

	elementBucket = 0x01

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = ^uint64(0)
	longList    = 0xFFFF // the count is the first element instead

	minPageSize = 1 << 10
	maxPageSize = 1 << 16
	// maxDepth is far over what 64-bit page numbers can need.
	maxDepth = 64
)

var native = binary.NativeEndian

// errForeign says that a file is no bbolt file at all.
var errForeign = errors.New("the file is not a data file of the local store")

// leafVisit is called for each key of each bucket, in order. Its slices are
// valid until it returns.
type leafVisit func(bucket string, key, value []byte) error

// inspect reads the whole file once and calls visit for each key in it. It
// returns an error for a file that bbolt could not be trusted with, and what
// visit returned as soon as that is an error.
//
// Both of the two meta pages must be whole. bbolt would go on with the other
// one, and so drop the last transaction without a word. It takes the damaged one
// for a write that was cut short, but a meta is written into a single sector,
// which is there or not.
func inspect(r io.ReaderAt, size int64, visit leafVisit) error {
	first, err := readMeta(r, 0)
	if err != nil {
		return err
	}
	second, err := readMeta(r, int64(first.pageSize))
	if err != nil {
		return err
	}
	m := first
	if second.txid > first.txid {
		m = second
	}
	if second.pageSize != first.pageSize {
		return errors.New("the two meta pages differ in their page size")
	}
	if have := uint64(size) / uint64(m.pageSize); m.pages > have {
		return fmt.Errorf("the file is cut short: %d of %d pages are there", have, m.pages)
	}
	in := &inspector{r: r, meta: m, visit: visit, claimed: make([]uint64, m.pages/64+1)}
	in.claim(0)
	in.claim(1)
	if err := in.buckets(); err != nil {
		return err
	}
	return in.freelist()
}

type meta struct {
	pageSize uint32
	root     uint64
	freelist uint64
	pages    uint64
	txid     uint64
}

func readMeta(r io.ReaderAt, at int64) (meta, error) {
	var b [pageHead + metaSize]byte
	if _, err := r.ReadAt(b[:], at); err != nil {
		if at == 0 && errors.Is(err, io.EOF) {
			return meta{}, errForeign
		}
		return meta{}, fmt.Errorf("a meta page can not be read: %w", err)
	}
	raw := b[pageHead:]
	if native.Uint32(raw) != boltMagic && at == 0 {
		return meta{}, errForeign
	}
	h := fnv.New64a()
	h.Write(raw[:metaChecksumAt])
	m := meta{
		pageSize: native.Uint32(raw[8:]),
		root:     native.Uint64(raw[16:]),
		freelist: native.Uint64(raw[32:]),
		pages:    native.Uint64(raw[40:]),
		txid:     native.Uint64(raw[48:]),
	}
	switch {
	case native.Uint32(raw) != boltMagic,
		native.Uint64(raw[metaChecksumAt:]) != h.Sum64(),
		native.Uint32(raw[4:]) != boltVersion,
		m.pageSize < minPageSize || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0,
		m.pages < 4:
		return meta{}, errors.New("a meta page is damaged")
	}
	return m, nil
}

type inspector struct {
	r       io.ReaderAt
	meta    meta
	visit   leafVisit
	claimed []uint64 // one bit per page: something refers to it
}

// claim marks a page as referred to, and reports whether it was not before.
func (in *inspector) claim(id uint64) bool {
	word, bit := id/64, uint64(1)<<(id%64)
	if in.claimed[word]&bit != 0 {
		return false
	}
	in.claimed[word] |= bit
	return true
}

// page reads a page with its overflow and claims all of it.
func (in *inspector) page(id uint64) ([]byte, error) {
	if id < 2 || id >= in.meta.pages {
		return nil, fmt.Errorf("page %d is out of bounds", id)
	}
	size := int64(in.meta.pageSize)
	var head [pageHead]byte
	if _, err := in.r.ReadAt(head[:], int64(id)*size); err != nil {
		return nil, fmt.Errorf("page %d can not be read: %w", id, err)
	}
	if native.Uint64(head[:]) != id {
		return nil, fmt.Errorf("page %d is not where it belongs", id)
	}
	n := 1 + uint64(native.Uint32(head[12:]))
	if n > in.meta.pages-id {
		return nil, fmt.Errorf("page %d is out of bounds", id)
	}
	for i := range n {
		if !in.claim(id + i) {
			return nil, fmt.Errorf("page %d is used twice", id+i)
		}
	}
	p := make([]byte, int64(n)*size)
	if _, err := in.r.ReadAt(p, int64(id)*size); err != nil {
		return nil, fmt.Errorf("page %d can not be read: %w", id, err)
	}
	return p, nil
}

// buckets walks the root, whose leaves are the buckets, and each of them.
func (in *inspector) buckets() error {
	return in.tree(in.meta.root, nil, nil, 0, func(flags uint32, key, value []byte) error {
		if flags != elementBucket || len(value) < bucketHead {
			return errors.New("a bucket's entry is damaged")
		}
		name := string(key)
		each := func(flags uint32, key, value []byte) error {
			if flags != 0 {
				return fmt.Errorf("bucket %q has an element of an unknown kind", name)
			}
			return in.visit(name, key, value)
		}
		if root := native.Uint64(value); root != 0 {
			return in.tree(root, nil, nil, 0, each)
		}
		inline := value[bucketHead:]
		if len(inline) < pageHead || native.Uint16(inline[8:]) != flagLeaf {
			return fmt.Errorf("bucket %q is damaged", name)
		}
		return leaf(inline, nil, nil, each)
	})
}

type elementVisit func(flags uint32, key, value []byte) error

// tree walks one tree: all its keys are at or over low and under high, where
// those are not nil.
func (in *inspector) tree(id uint64, low, high []byte, depth int, visit elementVisit) error {
	if depth > maxDepth {
		return errors.New("a tree is too deep")
	}
	p, err := in.page(id)
	if err != nil {
		return err
	}
	switch native.Uint16(p[8:]) {
	case flagLeaf:
		return leaf(p, low, high, visit)
	case flagBranch:
		return in.branch(p, low, high, depth, visit)
	default:
		return fmt.Errorf("page %d is of the wrong kind", id)
	}
}

func (in *inspector) branch(p, low, high []byte, depth int, visit elementVisit) error {
	count := int(native.Uint16(p[10:]))
	if count == 0 || pageHead+count*branchElement > len(p) {
		return fmt.Errorf("page %d has a wrong count", native.Uint64(p))
	}
	key := func(i int) ([]byte, bool) {
		at := pageHead + i*branchElement
		return cut(p, at, native.Uint32(p[at:]), native.Uint32(p[at+4:]))
	}
	first, ok := key(0)
	if !ok || !within(first, low, high) {
		return fmt.Errorf("page %d has a key that is out of place", native.Uint64(p))
	}
	from := first
	for i := range count {
		to := high
		if i+1 < count {
			if to, ok = key(i + 1); !ok || bytes.Compare(from, to) >= 0 || !within(to, low, high) {
				return fmt.Errorf("page %d has a key that is out of place", native.Uint64(p))
			}
		}
		child := native.Uint64(p[pageHead+i*branchElement+8:])
		if err := in.tree(child, from, to, depth+1, visit); err != nil {
			return err
		}
		from = to
	}
	return nil
}

func leaf(p, low, high []byte, visit elementVisit) error {
	count := int(native.Uint16(p[10:]))
	if pageHead+count*leafElement > len(p) {
		return fmt.Errorf("page %d has a wrong count", native.Uint64(p))
	}
	var last []byte
	for i := range count {
		at := pageHead + i*leafElement
		element := p[at : at+leafElement]
		offset, ksize, vsize := native.Uint32(element[4:]), native.Uint32(element[8:]), native.Uint32(element[12:])
		key, ok := cut(p, at, offset, ksize)
		if !ok || !within(key, low, high) || last != nil && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("page %d has a key that is out of place", native.Uint64(p))
		}
		// The sum does not overflow: cut has held both to the page's length.
		value, ok := cut(p, at, offset+ksize, vsize)
		if !ok {
			return fmt.Errorf("page %d has a value that is out of bounds", native.Uint64(p))
		}
		if err := visit(native.Uint32(element), key, value); err != nil {
			return err
		}
		last = key
	}
	return nil
}

// cut returns the n bytes of p that start offset behind at. No key is empty.
func cut(p []byte, at int, offset, n uint32) ([]byte, bool) {
	from := uint64(at) + uint64(offset)
	to := from + uint64(n)
	if to > uint64(len(p)) {
		return nil, false
	}
	return p[from:to:to], true
}

func within(key, low, high []byte) bool {
	return len(key) > 0 && (low == nil || bytes.Compare(key, low) >= 0) && (high == nil || bytes.Compare(key, high) < 0)
}

// freelist checks that no page is both free and in use: bbolt would write over
// it. A page that is neither is only lost room.
func (in *inspector) freelist() error {
	if in.meta.freelist == noFreelist {
		return errors.New("the file has no list of free pages")
	}
	p, err := in.page(in.meta.freelist)
	if err != nil {
		return err
	}
	if native.Uint16(p[8:]) != flagFreelist {
		return errors.New("the list of free pages is damaged")
	}
	count, ids := uint64(native.Uint16(p[10:])), p[pageHead:]
	if count == longList {
		count, ids = native.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return errors.New("the list of free pages is damaged")
	}
	for i := range count {
		id := native.Uint64(ids[8*i:])
		if id < 2 || id >= in.meta.pages || !in.claim(id) {
			return errors.New("the list of free pages is damaged")
		}
	}
	return nil
}
