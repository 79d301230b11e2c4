package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/tagstore/tagstore/core/config"
)

// maxFindings is how many breaches of a schema one error tells.
const maxFindings = 5

// The numbers of a value that has a schema. The validator computes with exact
// fractions, without a deadline: the ten bytes of 1e1000000 take it a fiftieth
// of a second and hundreds of kilobytes, a value holds many of them, and over
// a larger exponent it panics. Every number that a double can hold is within.
const (
	maxNumber   = 128 // bytes
	maxExponent = 324
)

// maxMembers is how many JSON values, at any depth, a value may hold that has a
// schema. The validator does not stop at its first finding and keeps about a
// kilobyte of each, so that a megabyte of wrong numbers would cost seconds and
// hundreds of megabytes.
const maxMembers = 20_000

// checkSchema holds a JSON value to its route's schema. The error names where
// the value breaks which rule by JSON pointer (RFC 6901), and shows what the
// schema wants, never what the value holds.
func checkSchema(schema *jsonschema.Schema, value []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	if err != nil {
		return config.Errorf(config.InvalidArgument, "the value is not valid JSON").WithHint("send valid JSON")
	}
	if n := members(v); n > maxMembers {
		return config.Errorf(config.InvalidArgument, "the value holds %d JSON values, the limit with a schema is %d", n, maxMembers).
			WithHint("split it over several keys")
	}
	if hasHugeNumber(v) {
		return config.Errorf(config.InvalidArgument,
			"the value has a number of more than %d bytes or with an exponent beyond %d, which can not be held to a schema", maxNumber, maxExponent).
			WithHint("write it as text")
	}
	err = schema.Validate(v)
	if err == nil {
		return nil
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return config.Errorf(config.InvalidArgument, "the value can not be held to its schema")
	}
	var found []string
	collect(invalid, &found)
	slices.Sort(found) // the validator's order is a map's
	found = slices.Compact(found)
	told := found[:min(len(found), maxFindings)]
	text := "the value does not meet its schema: " + strings.Join(told, "; ")
	if more := len(found) - len(told); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return &config.Error{Code: config.InvalidArgument, Message: text}
}

// members counts v and what is in it.
func members(v any) int {
	n := 1
	switch v := v.(type) {
	case []any:
		for _, member := range v {
			n += members(member)
		}
	case map[string]any:
		for _, member := range v {
			n += members(member)
		}
	}
	return n
}

// hasHugeNumber reports whether v, which nests at most MaxJSONDepth deep, has
// a number beyond maxNumber or maxExponent.
func hasHugeNumber(v any) bool {
	switch v := v.(type) {
	case json.Number:
		if len(v) > maxNumber {
			return true
		}
		if i := strings.IndexAny(string(v), "eE"); i >= 0 {
			exponent, err := strconv.Atoi(string(v[i+1:]))
			return err != nil || exponent > maxExponent || exponent < -maxExponent
		}
	case []any:
		return slices.ContainsFunc(v, hasHugeNumber)
	case map[string]any:
		for _, member := range v {
			if hasHugeNumber(member) {
				return true
			}
		}
	}
	return false
}

// collect lists the innermost causes, which are the ones to mend.
func collect(e *jsonschema.ValidationError, found *[]string) {
	if len(e.Causes) == 0 {
		*found = append(*found, pointer(e.InstanceLocation)+" "+finding(e.ErrorKind))
	}
	for _, cause := range e.Causes {
		collect(cause, found)
	}
}

// pointer returns a JSON pointer, quoted and bounded, since its parts are keys
// that the caller chose.
func pointer(location []string) string {
	const most = 100
	var b strings.Builder
	for _, part := range location {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(part))
	}
	text := b.String()
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return strconv.QuoteToASCII(text)
}

// finding says which rule is broken.
func finding(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return "must be " + strings.Join(k.Want, " or ")
	case *kind.Required:
		return "lacks " + quoted(k.Missing)
	case *kind.DependentRequired:
		return "lacks " + quoted(k.Missing)
	case *kind.AdditionalProperties:
		return "has a property that is not allowed"
	case *kind.Enum:
		return "is not one of the allowed values"
	case *kind.Const:
		return "is not the one allowed value"
	case *kind.Format:
		return "must be of the format " + k.Want
	case *kind.Pattern:
		return "must match " + strconv.QuoteToASCII(k.Want)
	case *kind.MinLength:
		return fmt.Sprintf("must have at least %d characters", k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("must have at most %d characters", k.Want)
	case *kind.MinItems:
		return fmt.Sprintf("must have at least %d items", k.Want)
	case *kind.MaxItems:
		return fmt.Sprintf("must have at most %d items", k.Want)
	case *kind.MinProperties:
		return fmt.Sprintf("must have at least %d properties", k.Want)
	case *kind.MaxProperties:
		return fmt.Sprintf("must have at most %d properties", k.Want)
	case *kind.UniqueItems:
		return "must not have an item twice"
	case *kind.Minimum:
		return "must be at least " + number(k.Want)
	case *kind.Maximum:
		return "must be at most " + number(k.Want)
	case *kind.ExclusiveMinimum:
		return "must be more than " + number(k.Want)
	case *kind.ExclusiveMaximum:
		return "must be less than " + number(k.Want)
	case *kind.MultipleOf:
		return "must be a multiple of " + number(k.Want)
	default:
		if path := k.KeywordPath(); len(path) > 0 {
			return "breaks the rule " + strconv.QuoteToASCII(path[0])
		}
		return "is not allowed"
	}
}

func number(r *big.Rat) string {
	f, _ := r.Float64()
	return strconv.FormatFloat(f, 'g', -1, 64)
}

func quoted(names []string) string {
	const most = 5
	all := make([]string, 0, len(names))
	for i, n := range names {
		if i == most {
			all = append(all, "…")
			break
		}
		all = append(all, strconv.QuoteToASCII(n))
	}
	return strings.Join(all, ", ")
}
