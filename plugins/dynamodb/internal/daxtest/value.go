package daxtest

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/fxamacker/cbor/v2"
)

// Item is an item as DynamoDB has it.
type Item = map[string]types.AttributeValue

// value writes one attribute value.
func (w *wire) value(v types.AttributeValue) error {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		w.text(v.Value)
	case *types.AttributeValueMemberB:
		w.bytes(v.Value)
	case *types.AttributeValueMemberN:
		return w.number(v.Value)
	case *types.AttributeValueMemberBOOL:
		w.boolean(v.Value)
	case *types.AttributeValueMemberNULL:
		w.null()
	case *types.AttributeValueMemberL:
		w.array(len(v.Value))
		for _, e := range v.Value {
			if err := w.value(e); err != nil {
				return err
			}
		}
	case *types.AttributeValueMemberM:
		w.mapping(len(v.Value))
		for k, e := range v.Value {
			w.text(k)
			if err := w.value(e); err != nil {
				return err
			}
		}
	case *types.AttributeValueMemberSS:
		w.tag(tagStringSet)
		w.array(len(v.Value))
		for _, e := range v.Value {
			w.text(e)
		}
	case *types.AttributeValueMemberBS:
		w.tag(tagBinarySet)
		w.array(len(v.Value))
		for _, e := range v.Value {
			w.bytes(e)
		}
	case *types.AttributeValueMemberNS:
		w.tag(tagNumberSet)
		w.array(len(v.Value))
		for _, e := range v.Value {
			if err := w.number(e); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("daxtest: no wire form for %T", v)
	}
	return nil
}

// number writes a DynamoDB number: an integer, a big integer, or a decimal
// fraction of exponent and mantissa.
func (w *wire) number(s string) error {
	mantissa, exponent, err := parseNumber(s)
	if err != nil {
		return err
	}
	if exponent != 0 {
		w.tag(tagDecimal)
		w.array(2)
		w.integer(int64(exponent))
	}
	w.bigInteger(mantissa)
	return nil
}

func (w *wire) bigInteger(n *big.Int) {
	abs, major, tag := new(big.Int).Set(n), byte(majorPositive), uint64(tagPositiveBig)
	if n.Sign() < 0 {
		abs.Not(n) // CBOR has -1-n
		major, tag = majorNegative, tagNegativeBig
	}
	if abs.IsUint64() {
		w.head(major, abs.Uint64())
		return
	}
	w.tag(tag)
	w.bytes(abs.Bytes())
}

// parseNumber splits a decimal number into mantissa * 10^exponent.
func parseNumber(s string) (mantissa *big.Int, exponent int, err error) {
	digits := s
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		if exponent, err = strconv.Atoi(s[i+1:]); err != nil {
			return nil, 0, fmt.Errorf("daxtest: %q is not a number", s)
		}
		digits = s[:i]
	}
	if i := strings.IndexByte(digits, '.'); i >= 0 {
		exponent -= len(digits) - i - 1
		digits = digits[:i] + digits[i+1:]
	}
	mantissa, is := new(big.Int).SetString(digits, 10)
	if !is {
		return nil, 0, fmt.Errorf("daxtest: %q is not a number", s)
	}
	return mantissa, exponent, nil
}

// numberText is mantissa * 10^exponent, without an exponent. Numbers of
// DynamoDB have fewer than 300 digits in all.
func numberText(mantissa *big.Int, exponent int) (string, error) {
	if exponent < -300 || exponent > 300 {
		return "", fmt.Errorf("daxtest: exponent %d is out of range", exponent)
	}
	if exponent >= 0 {
		scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(exponent)), nil)
		return scale.Mul(scale, mantissa).String(), nil
	}
	digits := new(big.Int).Abs(mantissa).String()
	if missing := -exponent + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	text := digits[:len(digits)+exponent] + "." + digits[len(digits)+exponent:]
	if mantissa.Sign() < 0 {
		text = "-" + text
	}
	return text, nil
}

// attribute is the attribute value that the decoder read as v.
func attribute(v any) (types.AttributeValue, error) {
	switch v := v.(type) {
	case string:
		return &types.AttributeValueMemberS{Value: v}, nil
	case []byte:
		return &types.AttributeValueMemberB{Value: v}, nil
	case bool:
		return &types.AttributeValueMemberBOOL{Value: v}, nil
	case nil:
		return &types.AttributeValueMemberNULL{Value: true}, nil
	case []any:
		list := make([]types.AttributeValue, len(v))
		for i := range v {
			e, err := attribute(v[i])
			if err != nil {
				return nil, err
			}
			list[i] = e
		}
		return &types.AttributeValueMemberL{Value: list}, nil
	case map[any]any:
		m := make(Item, len(v))
		for k, e := range v {
			name, err := as[string](k, "a map's key")
			if err != nil {
				return nil, err
			}
			if m[name], err = attribute(e); err != nil {
				return nil, err
			}
		}
		return &types.AttributeValueMemberM{Value: m}, nil
	case cbor.Tag:
		switch v.Number {
		case tagStringSet, tagNumberSet, tagBinarySet:
			return set(v)
		}
	}
	n, err := numberOf(v)
	if err != nil {
		return nil, err
	}
	return &types.AttributeValueMemberN{Value: n}, nil
}

func set(t cbor.Tag) (types.AttributeValue, error) {
	list, err := as[[]any](t.Content, "a set")
	if err != nil {
		return nil, err
	}
	switch t.Number {
	case tagStringSet:
		all, err := convert(list, func(e any) (string, error) { return as[string](e, "an element of a string set") })
		return &types.AttributeValueMemberSS{Value: all}, err
	case tagNumberSet:
		all, err := convert(list, numberOf)
		return &types.AttributeValueMemberNS{Value: all}, err
	default:
		all, err := convert(list, func(e any) ([]byte, error) { return as[[]byte](e, "an element of a binary set") })
		return &types.AttributeValueMemberBS{Value: all}, err
	}
}

func convert[T any](list []any, f func(any) (T, error)) ([]T, error) {
	all := make([]T, len(list))
	for i := range list {
		v, err := f(list[i])
		if err != nil {
			return nil, err
		}
		all[i] = v
	}
	return all, nil
}

func numberOf(v any) (string, error) {
	if t, is := v.(cbor.Tag); is && t.Number == tagDecimal {
		parts, err := as[[]any](t.Content, "a decimal")
		if err != nil {
			return "", err
		}
		if len(parts) != 2 {
			return "", fmt.Errorf("daxtest: a decimal of %d parts", len(parts))
		}
		exponent, err := integer(parts[0], "an exponent")
		if err != nil {
			return "", err
		}
		mantissa, err := bigOf(parts[1])
		if err != nil {
			return "", err
		}
		return numberText(mantissa, int(exponent))
	}
	n, err := bigOf(v)
	if err != nil {
		return "", err
	}
	return n.String(), nil
}

func bigOf(v any) (*big.Int, error) {
	switch n := v.(type) {
	case uint64:
		return new(big.Int).SetUint64(n), nil
	case int64:
		return big.NewInt(n), nil
	case big.Int:
		return &n, nil
	}
	return nil, fmt.Errorf("daxtest: a %T is not a number", v)
}

// path is one element of a projection, such as a.b[3].
type path []any // string or int

// pick returns what the path leads to.
func (p path) pick(item Item) (types.AttributeValue, bool) {
	var at types.AttributeValue = &types.AttributeValueMemberM{Value: item}
	for _, step := range p {
		switch step := step.(type) {
		case string:
			m, is := at.(*types.AttributeValueMemberM)
			if !is || m.Value[step] == nil {
				return nil, false
			}
			at = m.Value[step]
		case int:
			l, is := at.(*types.AttributeValueMemberL)
			if !is || step >= len(l.Value) {
				return nil, false
			}
			at = l.Value[step]
		}
	}
	return at, true
}

// project writes the part of an item that a projection selects: values by the
// position that their path has in the projection.
func (w *wire) project(item Item, paths []path) error {
	found := make([]types.AttributeValue, len(paths))
	n := 0
	for i, p := range paths {
		if v, is := p.pick(item); is {
			found[i] = v
			n++
		}
	}
	w.mapping(n)
	for i, v := range found {
		if v == nil {
			continue
		}
		w.integer(int64(i))
		if err := w.value(v); err != nil {
			return err
		}
	}
	return nil
}

// sortedNames returns the names of an item's attributes without the excluded.
func sortedNames(item Item, exclude ...string) []string {
	names := make([]string, 0, len(item))
	for name := range item {
		if !slices.Contains(exclude, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
