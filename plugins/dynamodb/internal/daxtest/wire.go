package daxtest

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// The methods by name, as Server.Fail and Server.Calls take them.
const (
	AuthorizeConnection   = "authorizeConnection"
	Endpoints             = "endpoints"
	DefineKeySchema       = "defineKeySchema"
	DefineAttributeListID = "defineAttributeListId"
	DefineAttributeList   = "defineAttributeList"
	GetItem               = "getItem"
	BatchGetItem          = "batchGetItem"
	PutItem               = "putItem"
	UpdateItem            = "updateItem"
	DeleteItem            = "deleteItem"
	Query                 = "query"
	Scan                  = "scan"
	BatchWriteItem        = "batchWriteItem"
	TransactGetItems      = "transactGetItems"
	TransactWriteItems    = "transactWriteItems"
	// Any stands for every method but authorizeConnection, which has no answer.
	Any = "*"
)

// method is how a request is read and answered.
type method struct {
	name string
	args int // CBOR items after the method's number
	run  func(s *Server, args []any) ([]byte, error)
}

// methods by the number that the wire has.
var methods = map[int64]method{
	1489122155:  {AuthorizeConnection, 5, nil},
	455855874:   {Endpoints, 0, (*Server).endpoints},
	-742646399:  {DefineKeySchema, 1, (*Server).defineKeySchema},
	-1230579644: {DefineAttributeListID, 1, (*Server).defineAttributeListID},
	670678385:   {DefineAttributeList, 1, (*Server).defineAttributeList},
	263244906:   {GetItem, 3, (*Server).getItem},
	-697851100:  {BatchGetItem, 2, (*Server).batchGetItem},
	-2106490455: {PutItem, 4, (*Server).putItem},
	1425579023:  {UpdateItem, 3, (*Server).updateItem},
	1013539361:  {DeleteItem, 3, (*Server).deleteItem},
	-931250863:  {Query, 3, (*Server).query},
	-1875390620: {Scan, 2, (*Server).scan},
	116217951:   {BatchWriteItem, 2, (*Server).batchWriteItem},
	1866287579:  {TransactGetItems, 4, (*Server).transactGetItems},
	-1160037738: {TransactWriteItems, 9, (*Server).transactWriteItems},
}

// The major types of CBOR.
const (
	majorPositive = iota
	majorNegative
	majorBytes
	majorText
	majorArray
	majorMap
	majorTag
)

// The tags that DAX uses beside those of CBOR itself.
const (
	tagPositiveBig = 2
	tagNegativeBig = 3
	tagDecimal     = 4
	tagStringSet   = 3321
	tagNumberSet   = 3322
	tagBinarySet   = 3323
	tagListIndex   = 3324
)

// wire is an answer being written. DAX needs control over headers and the
// order of map entries, which is why it is not made by an encoder.
type wire struct{ b []byte }

func (w *wire) head(major byte, n uint64) {
	switch {
	case n < 24:
		w.b = append(w.b, major<<5|byte(n))
	case n < 1<<8:
		w.b = append(w.b, major<<5|24, byte(n))
	case n < 1<<16:
		w.b = append(w.b, major<<5|25, byte(n>>8), byte(n))
	case n < 1<<32:
		w.b = append(w.b, major<<5|26, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	default:
		w.b = append(w.b, major<<5|27, byte(n>>56), byte(n>>48), byte(n>>40), byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
}

func (w *wire) integer(n int64) {
	if n < 0 {
		w.head(majorNegative, uint64(-(n + 1)))
		return
	}
	w.head(majorPositive, uint64(n))
}

func (w *wire) bytes(b []byte) {
	w.head(majorBytes, uint64(len(b)))
	w.b = append(w.b, b...)
}

func (w *wire) text(s string) {
	w.head(majorText, uint64(len(s)))
	w.b = append(w.b, s...)
}

func (w *wire) array(n int)    { w.head(majorArray, uint64(n)) }
func (w *wire) mapping(n int)  { w.head(majorMap, uint64(n)) }
func (w *wire) tag(n uint64)   { w.head(majorTag, n) }
func (w *wire) null()          { w.b = append(w.b, 0xf6) }
func (w *wire) boolean(b bool) { w.b = append(w.b, map[bool]byte{false: 0xf4, true: 0xf5}[b]) }

// textOrNull writes null for the empty text.
func (w *wire) textOrNull(s string) {
	if s == "" {
		w.null()
		return
	}
	w.text(s)
}

// ok is the answer that has nothing to say.
func ok() *wire { return &wire{b: []byte{0x80}} }

// items splits a byte string that holds CBOR items one after the other.
func items(b []byte) ([]any, error) {
	dec := cbor.NewDecoder(bytes.NewReader(b))
	var all []any
	for dec.NumBytesRead() < len(b) {
		var v any
		if err := dec.Decode(&v); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// as is v as a T, or an error that says what was expected.
func as[T any](v any, what string) (T, error) {
	t, is := v.(T)
	if !is {
		return t, fmt.Errorf("daxtest: %s is a %T", what, v)
	}
	return t, nil
}

// integer is the number that the decoder has as one of several types.
func integer(v any, what string) (int64, error) {
	switch n := v.(type) {
	case uint64:
		return int64(n), nil
	case int64:
		return n, nil
	}
	return 0, fmt.Errorf("daxtest: %s is a %T, not an integer", what, v)
}
