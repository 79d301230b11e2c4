package dynamodbbackend

import (
	"math"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// timeFormat is how the plugin writes times: that of ECMAScript's
// Date.toISOString. All such texts are equally long, so they sort as the times
// do, which the condition of a write relies on.
const timeFormat = "2006-01-02T15:04:05.000Z"

func formatTime(t time.Time) string { return t.UTC().Format(timeFormat) }

// foreignFormats are those in which other tools write times. One without a zone
// is taken as UTC.
var foreignFormats = []string{
	time.RFC3339Nano,
	"2006-01-02T15:04:05.999999999",
	"2006-01-02T15:04:05.999999999Z0700",
	"2006-01-02T15:04:05.999999999Z07",
	"2006-01-02T15:04Z07:00",
	"2006-01-02T15:04",
	"2006-01-02",
	"20060102T150405Z0700",
	"20060102T150405",
}

// parseTime reads a timestamp: ISO-8601 text, with or without zone and
// fraction, or a number of seconds, milliseconds, microseconds or nanoseconds
// since 1970, as a number or as text. The zero time stands for one that is
// missing or can not be read: a value is worth more than its date.
func parseTime(a types.AttributeValue) time.Time {
	switch a := a.(type) {
	case *types.AttributeValueMemberN:
		return epoch(a.Value)
	case *types.AttributeValueMemberS:
		text := strings.TrimSpace(a.Value)
		if len(text) > 10 && text[10] == ' ' {
			text = text[:10] + "T" + strings.Replace(text[11:], " ", "", 1)
		}
		for _, format := range foreignFormats {
			if t, err := time.Parse(format, text); err == nil && inRange(t) {
				return t.UTC()
			}
		}
		return epoch(text)
	}
	return time.Time{}
}

// inRange keeps times within what every part of the system can carry.
func inRange(t time.Time) bool { return t.Year() >= 1 && t.Year() <= 9999 }

// epoch tells the unit by the size: seconds reach the year 5138 with 11 digits,
// milliseconds begin in 1973 with 12.
func epoch(text string) time.Time {
	d, ok := parseDecimal(text)
	if !ok || d.digits == "" {
		return time.Time{}
	}
	unit := 9 // seconds
	switch m := d.magnitude(); {
	case m >= 19:
		return time.Time{}
	case m >= 17:
		unit = 0
	case m >= 14:
		unit = 3
	case m >= 11:
		unit = 6
	}
	d.exponent += unit
	if drop := -d.exponent; drop > 0 { // less than a nanosecond
		if drop >= len(d.digits) {
			return time.Time{}
		}
		d.digits, d.exponent = d.digits[:len(d.digits)-drop], 0
	}
	negative := d.negative
	d.negative = false
	seconds, nanos, ok := split(d)
	if !ok {
		return time.Time{}
	}
	if negative {
		seconds, nanos = -seconds, -nanos
	}
	if t := time.Unix(seconds, nanos).UTC(); inRange(t) {
		return t
	}
	return time.Time{}
}

// split parts whole nanoseconds into seconds and the rest.
func split(d decimal) (seconds, nanos int64, ok bool) {
	whole, fraction := d, decimal{}
	if digits := len(d.digits) + d.exponent; digits <= 9 {
		n, ok := d.uint64()
		return 0, int64(n), ok && n <= math.MaxInt64
	} else if d.exponent < 9 {
		at := digits - 9 // digits of the seconds
		whole = decimal{digits: d.digits[:at], exponent: 0}
		fraction = decimal{digits: d.digits[at:], exponent: d.exponent}
	} else {
		whole.exponent -= 9
	}
	s, ok := whole.uint64()
	n, okToo := fraction.uint64()
	return int64(s), int64(n), ok && okToo && s <= math.MaxInt64/2
}
