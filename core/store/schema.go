package store

import (
	"bytes"
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

// checkSchema holds a JSON value to its route's schema. The error names where
// the value breaks which rule by JSON pointer (RFC 6901), and shows what the
// schema wants, never what the value holds.
func checkSchema(schema *jsonschema.Schema, value []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	if err != nil {
		return config.Errorf(config.InvalidArgument, "the value is not valid JSON").WithHint("send valid JSON")
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
