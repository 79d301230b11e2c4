package dynamodbbackend

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

func TestForeignTimes(t *testing.T) {
	n := func(s string) types.AttributeValue { return &types.AttributeValueMemberN{Value: s} }
	second := time.Date(2024, 2, 20, 14, 45, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		attribute types.AttributeValue
		want      time.Time
	}{
		"the pattern's":          {str("2024-02-20T14:45:00Z"), second},
		"a zone":                 {str("2024-02-20T16:45:00+02:00"), second},
		"a zone without colon":   {str("2024-02-20T16:45:00+0200"), second},
		"a zone of hours":        {str("2024-02-20T16:45:00+02"), second},
		"no zone":                {str("2024-02-20T14:45:00"), second},
		"no zone and a fraction": {str("2024-02-20T14:45:00.123456"), second.Add(123456 * time.Microsecond)},
		"milliseconds":           {str("2024-02-20T14:45:00.120Z"), second.Add(120 * time.Millisecond)},
		"nanoseconds":            {str("2024-02-20T14:45:00.123456789Z"), second.Add(123456789)},
		"a blank":                {str("2024-02-20 14:45:00"), second},
		"a blank and a zone":     {str("2024-02-20 14:45:00 +00:00"), second},
		"minutes":                {str("2024-02-20T14:45Z"), second},
		"minutes, no zone":       {str("2024-02-20T14:45"), second},
		"a date":                 {str("2024-02-20"), second.Truncate(24 * time.Hour)},
		"basic":                  {str("20240220T144500Z"), second},
		"padded":                 {str(" 2024-02-20T14:45:00Z\n"), second},
		"seconds, a number":      {n("1708440300"), second},
		"seconds, exponent":      {n("17084403E2"), second},
		"seconds and fraction":   {n("1708440300.123"), second.Add(123 * time.Millisecond)},
		"seconds, long fraction": {n("1708440300.1234567891"), second.Add(123456789)},
		"seconds, text":          {str("1708440300"), second},
		"milliseconds, a number": {n("1708440300123"), second.Add(123 * time.Millisecond)},
		"milliseconds, text":     {str("1708440300123"), second.Add(123 * time.Millisecond)},
		"microseconds":           {n("1708440300123456"), second.Add(123456 * time.Microsecond)},
		"nanoseconds, a number":  {n("1708440300123456789"), second.Add(123456789)},
		"before 1970":            {n("-86400"), time.Date(1969, 12, 31, 0, 0, 0, 0, time.UTC)},
		"small":                  {n("1"), time.Unix(1, 0).UTC()},
		"none":                   {nil, time.Time{}},
		"null":                   {&types.AttributeValueMemberNULL{Value: true}, time.Time{}},
		"words":                  {str("yesterday"), time.Time{}},
		"empty":                  {str(""), time.Time{}},
		"zero":                   {n("0"), time.Time{}},
		"too large":              {n("1e30"), time.Time{}},
		"too small":              {n("1e-30"), time.Time{}},
		"the wrong kind":         {boolean(true), time.Time{}},
		"year 12000":             {str("12000-01-01T00:00:00Z"), time.Time{}},
	} {
		if got := parseTime(c.attribute); !got.Equal(c.want) || got.Location() != time.UTC {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestOwnTimesSortAsTheyAre(t *testing.T) {
	base := time.Date(2024, 12, 31, 23, 59, 59, 998_000_000, time.UTC)
	for _, step := range []time.Duration{time.Millisecond, 2 * time.Millisecond, time.Second, time.Hour, 24 * 365 * time.Hour} {
		if a, b := formatTime(base), formatTime(base.Add(step)); a >= b || len(a) != len(b) || !parseTime(str(b)).Equal(base.Add(step)) {
			t.Errorf("%s and %s", a, b)
		}
	}
}
