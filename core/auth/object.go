package auth

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/internal/strictjson"
)

// maxDepth is how deep the JSON of a token or a JWKS may nest. What is read
// here nests twice.
const maxDepth = 16

// object is a JSON object, its members by their exact names.
type object map[string]json.RawMessage

var errNotStrict = errors.New("not one JSON object of unique names in valid UTF-8")

// parseObject reads data as one JSON object and refuses what two parsers could
// read differently: a name that stands twice, at any depth, text that is not
// UTF-8, and anything behind the object.
func parseObject(data []byte) (object, error) {
	if strictjson.Check(data, maxDepth) != nil {
		return nil, errNotStrict
	}
	var members object
	if err := json.Unmarshal(data, &members); err != nil || members == nil {
		return nil, errNotStrict
	}
	return members, nil
}

// has reports whether there is a member of this name, null included.
func (o object) has(name string) bool {
	_, ok := o[name]
	return ok
}

// hasMisspelt reports whether a member's name differs from one of names in
// nothing but case.
func (o object) hasMisspelt(names []string) bool {
	for member := range o {
		for _, name := range names {
			if member != name && strings.EqualFold(member, name) {
				return true
			}
		}
	}
	return false
}

// text returns the member if it is a JSON string.
func (o object) text(name string) (string, bool) {
	var s *string
	if err := json.Unmarshal(o.raw(name), &s); err != nil || s == nil {
		return "", false
	}
	return *s, true
}

// texts returns the member if it is an array of JSON strings.
func (o object) texts(name string) ([]string, bool) {
	var items []*string
	if err := json.Unmarshal(o.raw(name), &items); err != nil || items == nil {
		return nil, false
	}
	all := make([]string, len(items))
	for i, item := range items {
		if item == nil {
			return nil, false
		}
		all[i] = *item
	}
	return all, true
}

// maxNumericDate is the end of the year 9999.
const maxNumericDate = 253402300799

// time returns the member if it is a NumericDate (RFC 7519, 2) from 1970 to
// 9999, to the second below.
func (o object) time(name string) (time.Time, bool) {
	raw := o.raw(name)
	if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || seconds < 0 || seconds > maxNumericDate {
		return time.Time{}, false
	}
	return time.Unix(int64(math.Floor(seconds)), 0).UTC(), true
}

// raw returns the member's JSON, null if there is none.
func (o object) raw(name string) json.RawMessage {
	if raw, ok := o[name]; ok && len(raw) > 0 {
		return raw
	}
	return json.RawMessage("null")
}
