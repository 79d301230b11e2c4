package daxtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/fxamacker/cbor/v2"
)

// schema is a table's primary key: the hash attribute, then the range
// attribute if there is one.
type schema []types.AttributeDefinition

func (k schema) names() []string {
	names := make([]string, len(k))
	for i := range k {
		names[i] = *k[i].AttributeName
	}
	return names
}

// encode is the key of an item as DAX has it on the wire. A hash attribute
// alone is its raw bytes or, for a number, a CBOR number. With a range
// attribute the hash attribute is CBOR, followed by the raw bytes of the range
// attribute; numbers are encoded there so that they sort as bytes.
func (k schema) encode(item Item) ([]byte, error) {
	w := &wire{}
	for i, def := range k {
		v, raw := item[*def.AttributeName], len(k) == 1 || i == 1
		switch v := v.(type) {
		case *types.AttributeValueMemberS:
			if raw {
				w.b = append(w.b, v.Value...)
			} else {
				w.text(v.Value)
			}
		case *types.AttributeValueMemberB:
			if raw {
				w.b = append(w.b, v.Value...)
			} else {
				w.bytes(v.Value)
			}
		case *types.AttributeValueMemberN:
			if i == 0 {
				if err := w.number(v.Value); err != nil {
					return nil, err
				}
				continue
			}
			mantissa, exponent, err := parseNumber(v.Value)
			if err != nil {
				return nil, err
			}
			w.b = appendSortable(w.b, mantissa, exponent)
		default:
			return nil, fmt.Errorf("daxtest: a key attribute is a %T", v)
		}
	}
	return w.b, nil
}

// decode is the inverse of encode.
func (k schema) decode(b []byte) (Item, error) {
	key := make(Item, len(k))
	rest := b
	for i, def := range k {
		raw := len(k) == 1 || i == 1
		var v types.AttributeValue
		switch {
		case def.AttributeType == types.ScalarAttributeTypeN && i == 1:
			mantissa, exponent, err := parseSortable(rest)
			if err != nil {
				return nil, err
			}
			text, err := numberText(mantissa, exponent)
			if err != nil {
				return nil, err
			}
			v = &types.AttributeValueMemberN{Value: text}
		case def.AttributeType == types.ScalarAttributeTypeN || !raw:
			var any any
			var err error
			if rest, err = cbor.UnmarshalFirst(rest, &any); err != nil {
				return nil, fmt.Errorf("daxtest: key: %w", err)
			}
			if v, err = attribute(any); err != nil {
				return nil, err
			}
		case def.AttributeType == types.ScalarAttributeTypeS:
			v = &types.AttributeValueMemberS{Value: string(rest)}
		default:
			v = &types.AttributeValueMemberB{Value: rest}
		}
		key[*def.AttributeName] = v
	}
	return key, nil
}

// The sortable form of a number is a header that holds sign and exponent of
// the number as 0.ddd * 10^exponent, and its digits in groups of three, each
// group ten bits wide. The last group has 1 to 3 digits, and a group after it
// says how many.
const (
	sortableZero = 0x80
	groupOffset  = 12  // of a positive number's group: 0 to 11 are marks
	groupMirror  = 999 // a negative number's groups count downwards
)

func appendSortable(b []byte, mantissa *big.Int, exponent int) []byte {
	if mantissa.Sign() == 0 {
		return append(b, sortableZero)
	}
	negative := mantissa.Sign() < 0
	digits := new(big.Int).Abs(mantissa).String()
	e := len(digits) + exponent
	switch short := e >= -0x3e && e < 0x3e; {
	case short && negative:
		b = append(b, byte(0x3f-e))
	case short:
		b = append(b, byte(0xc0+e))
	default:
		header, mask := byte(0xfe), uint32(0x80000000)
		switch {
		case negative && e < 0:
			header, mask = 0x7e, 0x7fffffff
		case negative:
			header, mask = 0x01, 0x7fffffff
		case e < 0:
			header = 0x81
		}
		b = binary.BigEndian.AppendUint32(append(b, header), uint32(int32(e))^mask)
	}
	padding := (3 - len(digits)%3) % 3
	mark := uint(2 - padding)
	for range padding {
		digits += "0"
	}
	var groups []uint
	for i := 0; i < len(digits); i += 3 {
		d := uint(digits[i]-'0')*100 + uint(digits[i+1]-'0')*10 + uint(digits[i+2]-'0')
		if negative {
			d = groupMirror - d
		}
		groups = append(groups, d+groupOffset)
	}
	if negative {
		mark = 1023 - mark
	}
	groups = append(groups, mark)
	accumulator, bits := uint(0), uint(0)
	for _, g := range groups {
		accumulator, bits = accumulator<<10|g, bits+10
		for bits >= 8 {
			bits -= 8
			b = append(b, byte(accumulator>>bits))
		}
	}
	if bits > 0 {
		b = append(b, byte(accumulator<<(8-bits)))
	}
	return b
}

func parseSortable(b []byte) (mantissa *big.Int, exponent int, err error) {
	if len(b) == 0 {
		return nil, 0, errors.New("daxtest: a number key without bytes")
	}
	header, b := b[0], b[1:]
	if header == sortableZero {
		return new(big.Int), 0, nil
	}
	negative := header < sortableZero
	switch header {
	case 0x01, 0x7e, 0x81, 0xfe:
		if len(b) < 4 {
			return nil, 0, errors.New("daxtest: a number key without its exponent")
		}
		mask := uint32(0x80000000)
		if negative {
			mask = 0x7fffffff
		}
		exponent, b = int(int32(binary.BigEndian.Uint32(b)^mask)), b[4:]
	default:
		exponent = int(header) - 0xc0
		if negative {
			exponent = 0x3f - int(header)
		}
	}
	var digits []byte
	accumulator, bits := uint(0), uint(0)
	for _, c := range b {
		accumulator, bits = accumulator<<8|uint(c), bits+8
		if bits < 10 {
			continue
		}
		bits -= 10
		group := accumulator >> bits & 0x3ff
		if group < 3 || group > 1020 {
			mark := group
			if negative {
				mark = 1023 - group
			}
			if len(digits) == 0 {
				break
			}
			digits = digits[:len(digits)-2+int(mark)]
			mantissa, _ = new(big.Int).SetString(string(digits), 10)
			if negative {
				mantissa.Neg(mantissa)
			}
			return mantissa, exponent - len(digits), nil
		}
		group -= groupOffset
		if negative {
			group = groupMirror - group
		}
		digits = fmt.Appendf(digits, "%03d", group)
	}
	return nil, 0, errors.New("daxtest: a number key without an end")
}
