package config

import (
	"strings"
)

// MaxKey is the longest Key in bytes, its prefix included.
const MaxKey = 512

// Key names one configuration value: "<prefix><name>", where the prefix (the
// tag) picks the store and the name is one or more segments parted by '/'.
// Only ParseKey makes a valid one. A Key keeps its prefix all the way to the
// store, because two prefixes may share one.
type Key struct{ s string }

// ParseKey accepts 1 to 512 bytes: segments of A-Z, a-z, 0-9, '.', '_' and '-'
// parted by single '/', none of them empty, "." or "..". Nothing is folded,
// decoded or cleaned. The error has code InvalidArgument.
//
// Which part of the key is its prefix is the router's knowledge; CheckName
// holds the rest of the rule, for the name that remains.
func ParseKey(s string) (Key, error) {
	switch {
	case s == "":
		return Key{}, Errorf(InvalidArgument, "key is empty").WithHint("name one, such as tenant_config_payment-gateway")
	case len(s) > MaxKey:
		return Key{}, Errorf(InvalidArgument, "key has %d bytes, the limit is %d", len(s), MaxKey)
	}
	if err := checkPath("key", s); err != nil {
		return Key{}, err
	}
	return Key{s: s}, nil
}

// CheckName checks what is left of a key behind its prefix: it must not be
// empty and none of its segments may be empty, "." or "..". A key can pass
// ParseKey and fail here: "param_config_.." is one ordinary segment until the
// prefix is taken off.
func CheckName(name string) error {
	if name == "" {
		return Errorf(InvalidArgument, "key has nothing behind its prefix").WithHint("add a name, such as <prefix>payment-gateway")
	}
	return checkPath("the key's name", name)
}

// ParseKeyPrefix accepts what List and Watch take: "" (everything) or the
// beginning of a valid key. It may end inside a segment or with '/'.
func ParseKeyPrefix(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if len(s) > MaxKey {
		return "", Errorf(InvalidArgument, "key prefix has %d bytes, the limit is %d", len(s), MaxKey)
	}
	whole := strings.TrimSuffix(s, "/")
	if i := strings.LastIndexByte(whole, '/'); i >= 0 {
		if err := checkPath("key prefix", whole[:i]); err != nil {
			return "", err
		}
		whole = whole[i+1:]
		if whole == "" {
			return "", emptySegment("key prefix")
		}
	} else if whole == "" {
		return "", emptySegment("key prefix")
	}
	// The last segment may be unfinished: "." can still become ".x".
	if strings.HasSuffix(s, "/") {
		return s, checkSegment("key prefix", whole)
	}
	return s, checkBytes("key prefix", whole)
}

// String returns the key as it was parsed, "" for the zero value.
func (k Key) String() string { return k.s }

// IsZero reports whether k is the invalid zero value.
func (k Key) IsZero() bool { return k.s == "" }

func checkPath(what, s string) error {
	for segment := range strings.SplitSeq(s, "/") {
		if err := checkSegment(what, segment); err != nil {
			return err
		}
	}
	return nil
}

func checkSegment(what, segment string) error {
	switch segment {
	case "":
		return emptySegment(what)
	case ".", "..":
		return Errorf(InvalidArgument, "%s has the segment %q", what, segment).WithHint("'.' and '..' are not names here")
	}
	return checkBytes(what, segment)
}

func checkBytes(what, segment string) error {
	for i := range len(segment) {
		c := segment[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '.', c == '_', c == '-':
		default:
			return Errorf(InvalidArgument, "%s has %s in it", what, describeByte(c)).
				WithHint("use A-Z, a-z, 0-9, '.', '_', '-', and '/' between segments")
		}
	}
	return nil
}

func emptySegment(what string) error {
	return Errorf(InvalidArgument, "%s has an empty segment", what).WithHint("'/' parts segments: not first, not last, not twice in a row")
}
