package dynamodbbackend

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
)

// maxDepth is how many lists and maps may lie in one another in an attribute.
// DynamoDB speaks of 32 levels without saying which of them count.
const maxDepth = 30

// maxName is the longest name of a map's entry in bytes.
const maxName = 65535

// maxRaw bounds what the copy of a value's bytes may unpack to.
const maxRaw = 8 << 20

// contentBinary is what bytes of unknown origin are.
const contentBinary = "application/octet-stream"

// document is a value as the attributes of an item hold it.
type document struct {
	config      types.AttributeValue // nil where the item has none
	contentType string               // the item's attribute, "" where it has none
	raw         []byte               // packed bytes, nil where config alone gives them back
}

// encodeDocument returns the forms in which a value can be stored, best first:
// as native attributes, with the bytes beside them unless they are what the
// attributes give back, and as bytes alone.
func encodeDocument(value []byte, contentType string) []document {
	if contentType == config.ContentTypeJSON {
		if attribute, canonical, ok := native(value); ok {
			d := document{config: attribute}
			if !bytes.Equal(canonical, value) {
				d.raw = pack(value, canonical)
			}
			return []document{d, bytesOnly(value, contentType)}
		}
	}
	return []document{bytesOnly(value, contentType)}
}

func bytesOnly(value []byte, contentType string) document {
	if isText(contentType) && utf8.Valid(value) {
		return document{config: &types.AttributeValueMemberS{Value: string(value)}, contentType: contentType}
	}
	return document{config: &types.AttributeValueMemberB{Value: append([]byte{}, value...)}, contentType: contentType}
}

func isText(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && strings.HasPrefix(media, "text/")
}

var errNoConfig = errors.New("the item has no config attribute that is a value")

// decode returns the bytes and the content type, and the sum of what they were
// made from. A binary attribute is those bytes, and so is a text one beside a
// content type of text; every other attribute is JSON. The raw copy is used only if trusted, given
// the sum, says so.
func (d document) decode(trusted func(sum []byte) bool) (value []byte, contentType string, sum []byte, err error) {
	switch c := d.config.(type) {
	case nil:
		return nil, "", nil, errNoConfig
	case *types.AttributeValueMemberB:
		contentType = d.contentType
		if contentType == "" {
			contentType = contentBinary
		}
		value = append([]byte{}, c.Value...)
		return value, contentType, d.sum(value), nil
	case *types.AttributeValueMemberS:
		if isText(d.contentType) {
			value = []byte(c.Value)
			return value, d.contentType, d.sum(value), nil
		}
	}
	canonical, err := appendJSON(nil, d.config, 0)
	if err != nil {
		return nil, "", nil, err
	}
	sum = d.sum(canonical)
	if d.raw != nil && trusted(sum) {
		if value, err = unpack(d.raw, canonical); err == nil {
			return value, config.ContentTypeJSON, sum, nil
		}
	}
	return canonical, config.ContentTypeJSON, sum, nil
}

const sumSize = 16

// sum tells one content from another. It is stored with what the plugin wrote:
// where it differs another tool has changed the item since.
func (d document) sum(canonical []byte) []byte {
	h := sha256.New()
	var n [8]byte
	kind := byte('J')
	switch d.config.(type) {
	case *types.AttributeValueMemberB:
		kind = 'B'
	case *types.AttributeValueMemberS:
		kind = 'S'
	}
	h.Write([]byte{kind})
	for _, part := range [][]byte{canonical, []byte(d.contentType), d.raw} {
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	return h.Sum(nil)[:sumSize]
}

// native returns JSON text as an attribute, and the canonical text that the
// attribute gives back; false for what an attribute can not hold.
func native(value []byte) (attribute types.AttributeValue, canonical []byte, ok bool) {
	if !json.Valid(value) {
		return nil, nil, false
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, nil, false
	}
	if attribute, ok = attributeOf(v, 0); !ok {
		return nil, nil, false
	}
	canonical, err := appendJSON(nil, attribute, 0)
	return attribute, canonical, err == nil
}

func attributeOf(v any, depth int) (types.AttributeValue, bool) {
	switch v := v.(type) {
	case nil:
		return &types.AttributeValueMemberNULL{Value: true}, true
	case bool:
		return &types.AttributeValueMemberBOOL{Value: v}, true
	case string:
		return &types.AttributeValueMemberS{Value: v}, true
	case json.Number:
		n, ok := parseDecimal(v.String())
		if !ok || !n.storable() {
			return nil, false
		}
		return &types.AttributeValueMemberN{Value: n.String()}, true
	case []any:
		if depth == maxDepth {
			return nil, false
		}
		list := make([]types.AttributeValue, len(v))
		for i, item := range v {
			a, ok := attributeOf(item, depth+1)
			if !ok {
				return nil, false
			}
			list[i] = a
		}
		return &types.AttributeValueMemberL{Value: list}, true
	case map[string]any:
		if depth == maxDepth {
			return nil, false
		}
		entries := make(map[string]types.AttributeValue, len(v))
		for name, item := range v {
			a, ok := attributeOf(item, depth+1)
			if !ok || name == "" || len(name) > maxName {
				return nil, false
			}
			entries[name] = a
		}
		return &types.AttributeValueMemberM{Value: entries}, true
	}
	return nil, false
}

// maxReadDepth bounds the recursion over what an answer holds.
const maxReadDepth = 100

// appendJSON adds the canonical JSON text of an attribute: no white space,
// names in byte order, numbers as decimal.append writes them. A set is an
// array, bytes inside a document are base64 text. It never changes: packed
// copies of values depend on it.
func appendJSON(b []byte, a types.AttributeValue, depth int) ([]byte, error) {
	if depth > maxReadDepth {
		return nil, errNoConfig
	}
	switch a := a.(type) {
	case *types.AttributeValueMemberNULL:
		return append(b, "null"...), nil
	case *types.AttributeValueMemberBOOL:
		if a.Value {
			return append(b, "true"...), nil
		}
		return append(b, "false"...), nil
	case *types.AttributeValueMemberS:
		return appendString(b, a.Value), nil
	case *types.AttributeValueMemberN:
		return appendNumber(b, a.Value)
	case *types.AttributeValueMemberB:
		return appendString(b, base64.StdEncoding.EncodeToString(a.Value)), nil
	case *types.AttributeValueMemberL:
		return appendArray(b, len(a.Value), func(b []byte, i int) ([]byte, error) { return appendJSON(b, a.Value[i], depth+1) })
	case *types.AttributeValueMemberSS:
		texts := slices.Sorted(slices.Values(a.Value))
		return appendArray(b, len(texts), func(b []byte, i int) ([]byte, error) { return appendString(b, texts[i]), nil })
	case *types.AttributeValueMemberBS:
		sorted := slices.SortedFunc(slices.Values(a.Value), bytes.Compare)
		return appendArray(b, len(sorted), func(b []byte, i int) ([]byte, error) {
			return appendString(b, base64.StdEncoding.EncodeToString(sorted[i])), nil
		})
	case *types.AttributeValueMemberNS:
		return appendNumberSet(b, a.Value)
	case *types.AttributeValueMemberM:
		b = append(b, '{')
		names := make([]string, 0, len(a.Value))
		for name := range a.Value {
			names = append(names, name)
		}
		slices.Sort(names)
		for i, name := range names {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, name), ':')
			var err error
			if b, err = appendJSON(b, a.Value[name], depth+1); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	}
	return nil, errNoConfig
}

func appendArray(b []byte, n int, add func(b []byte, i int) ([]byte, error)) ([]byte, error) {
	b = append(b, '[')
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = add(b, i); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendNumber(b []byte, s string) ([]byte, error) {
	d, ok := parseDecimal(s)
	if !ok || d.magnitude() > 1000 || d.magnitude() < -1000 {
		return nil, errNoConfig
	}
	return d.append(b), nil
}

// appendNumberSet writes a set in the order of its numbers' texts, which is
// one order, whatever order an answer has them in.
func appendNumberSet(b []byte, set []string) ([]byte, error) {
	texts := make([]string, len(set))
	for i, s := range set {
		text, err := appendNumber(nil, s)
		if err != nil {
			return nil, err
		}
		texts[i] = string(text)
	}
	slices.Sort(texts)
	return appendArray(b, len(texts), func(b []byte, i int) ([]byte, error) { return append(b, texts[i]...), nil })
}

// appendString escapes only what JSON demands, as ECMAScript's JSON.stringify
// does.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '"', c == '\\':
			b = append(b, '\\', c)
		case c >= 0x20:
			b = append(b, c)
		case c == '\b':
			b = append(b, `\b`...)
		case c == '\f':
			b = append(b, `\f`...)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		}
	}
	return append(b, '"')
}

// How packed bytes begin.
const (
	packedPlain   = 0
	packedDeflate = 1 // RFC 1951, with the canonical text as the preset dictionary
)

// pack returns value in as few bytes as it takes. What white space and order of
// keys add to the canonical text is mostly little.
func pack(value, canonical []byte) []byte {
	var b bytes.Buffer
	b.WriteByte(packedDeflate)
	if w, err := flate.NewWriterDict(&b, flate.BestCompression, canonical); err == nil {
		_, err = w.Write(value)
		if err == nil && w.Close() == nil && b.Len() <= len(value) {
			return b.Bytes()
		}
	}
	return append([]byte{packedPlain}, value...)
}

var errPacked = errors.New("the packed copy of the value can not be read")

func unpack(packed, canonical []byte) ([]byte, error) {
	if len(packed) == 0 {
		return nil, errPacked
	}
	switch packed[0] {
	case packedPlain:
		return append([]byte{}, packed[1:]...), nil
	case packedDeflate:
		r := flate.NewReaderDict(bytes.NewReader(packed[1:]), canonical)
		value, err := io.ReadAll(io.LimitReader(r, maxRaw+1))
		if err != nil || len(value) > maxRaw {
			return nil, errPacked
		}
		return value, nil
	}
	return nil, errPacked
}
