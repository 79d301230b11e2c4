package dynamodbbackend

import (
	"strconv"
	"strings"
)

// The numbers that DynamoDB holds: 38 significant digits, magnitudes from
// 1E-130 to 9.99…E+125.
const (
	maxDigits    = 38
	maxMagnitude = 125
	minMagnitude = -130
)

// decimal is an exact decimal number: digits × 10^exponent. The digits have
// neither a first nor a last zero; zero has none at all and is never negative.
type decimal struct {
	negative bool
	digits   string
	exponent int
}

// parseDecimal reads a number as JSON, DynamoDB or DAX write it. It is exact,
// and refuses what is no number or has an exponent beyond all reason.
func parseDecimal(s string) (decimal, bool) {
	var d decimal
	s, d.negative = strings.CutPrefix(s, "-")
	if !d.negative {
		s = strings.TrimPrefix(s, "+")
	}
	mantissa, exponent := s, 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa = s[:i]
		n, err := strconv.ParseInt(strings.TrimPrefix(s[i+1:], "+"), 10, 32)
		if err != nil {
			return decimal{}, false
		}
		exponent = int(n)
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := whole + fraction
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return decimal{}, false
	}
	exponent -= len(fraction)
	digits = strings.TrimLeft(digits, "0")
	trimmed := strings.TrimRight(digits, "0")
	exponent += len(digits) - len(trimmed)
	if trimmed == "" {
		return decimal{}, true
	}
	d.digits, d.exponent = trimmed, exponent
	return d, true
}

// magnitude is the power of ten of the first digit.
func (d decimal) magnitude() int { return len(d.digits) + d.exponent - 1 }

// storable reports whether DynamoDB holds d as it is.
func (d decimal) storable() bool {
	if d.digits == "" {
		return true
	}
	m := d.magnitude()
	return len(d.digits) <= maxDigits && m <= maxMagnitude && m >= minMagnitude
}

// The magnitudes between which a number is written without an exponent, which
// are those of ECMAScript's Number::toString: a document that such a program
// wrote then needs no copy of its bytes.
const (
	plainFrom = -6
	plainTo   = 20
)

// append adds the one canonical text of d, which is valid JSON.
func (d decimal) append(b []byte) []byte {
	if d.digits == "" {
		return append(b, '0')
	}
	if d.negative {
		b = append(b, '-')
	}
	m := d.magnitude()
	switch {
	case m < plainFrom || m > plainTo:
		b = append(b, d.digits[0])
		if len(d.digits) > 1 {
			b = append(b, '.')
			b = append(b, d.digits[1:]...)
		}
		b = append(b, 'e')
		if m > 0 {
			b = append(b, '+')
		}
		return strconv.AppendInt(b, int64(m), 10)
	case d.exponent >= 0:
		b = append(b, d.digits...)
		return append(b, strings.Repeat("0", d.exponent)...)
	case m >= 0:
		b = append(b, d.digits[:m+1]...)
		b = append(b, '.')
		return append(b, d.digits[m+1:]...)
	default:
		b = append(b, "0."...)
		b = append(b, strings.Repeat("0", -m-1)...)
		return append(b, d.digits...)
	}
}

func (d decimal) String() string { return string(d.append(nil)) }

// uint64 returns d as a whole number, false where it is none or too large.
func (d decimal) uint64() (uint64, bool) {
	if d.digits == "" {
		return 0, true
	}
	if d.negative || d.exponent < 0 || d.magnitude() > plainTo {
		return 0, false
	}
	n, err := strconv.ParseUint(d.digits+strings.Repeat("0", d.exponent), 10, 64)
	return n, err == nil
}
