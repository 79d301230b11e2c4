package daxread

import (
	"errors"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// The client library has fractions as "325E-2", where DynamoDB has "3.25".
// DynamoDB's numbers go from 1E-130 to 9.9E125 with 38 digits; what lies far
// outside is not one, and would only cost memory.
const (
	maxNumberText = 400
	maxExponent   = 300
)

var errNumber = errors.New("a number that DynamoDB does not have")

// plainNumber is a number without an exponent, as DynamoDB writes it. It is
// exact: digits are moved, never computed.
func plainNumber(s string) (string, error) {
	if len(s) > maxNumberText {
		return "", errNumber
	}
	mantissa, exponent := s, 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		n, err := strconv.Atoi(s[i+1:])
		if err != nil || n < -maxExponent || n > maxExponent {
			return "", errNumber
		}
		mantissa, exponent = s[:i], n
	}
	unsigned := strings.TrimLeft(mantissa, "+-")
	sign := mantissa[:len(mantissa)-len(unsigned)]
	if len(sign) > 1 {
		return "", errNumber
	}
	whole, fraction, _ := strings.Cut(unsigned, ".")
	digits := whole + fraction
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return "", errNumber
	}
	point := len(whole) + exponent // digits before the decimal point
	if point < 0 {
		digits, point = strings.Repeat("0", -point)+digits, 0
	}
	if missing := point - len(digits); missing > 0 {
		digits += strings.Repeat("0", missing)
	}
	whole, fraction = strings.TrimLeft(digits[:point], "0"), strings.TrimRight(digits[point:], "0")
	if whole == "" {
		whole = "0"
	}
	text := whole
	if fraction != "" {
		text += "." + fraction
	}
	if sign == "-" && text != "0" {
		text = "-" + text
	}
	return text, nil
}

// plainNumbers brings every number of an attribute value into DynamoDB's form,
// in place.
func plainNumbers(v types.AttributeValue) error {
	var err error
	switch v := v.(type) {
	case *types.AttributeValueMemberN:
		v.Value, err = plainNumber(v.Value)
	case *types.AttributeValueMemberNS:
		for i := range v.Value {
			if v.Value[i], err = plainNumber(v.Value[i]); err != nil {
				return err
			}
		}
	case *types.AttributeValueMemberL:
		for _, e := range v.Value {
			if err = plainNumbers(e); err != nil {
				return err
			}
		}
	case *types.AttributeValueMemberM:
		for _, e := range v.Value {
			if err = plainNumbers(e); err != nil {
				return err
			}
		}
	}
	return err
}
