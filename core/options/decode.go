package options

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/tagstore/tagstore/core/config"
)

// Decode reads a JSON object into O and fills in its defaults. It is stricter
// than encoding/json: a name that O does not have, has in another case or that
// stands twice is an error, and so is anything behind the object, or a required
// option that is missing. The error has code InvalidArgument, names the option
// and, where that helps, those that exist.
func Decode[O any](raw []byte) (O, error) {
	var options, none O
	if len(bytes.TrimSpace(raw)) == 0 {
		raw = []byte("{}")
	}
	names, known := namesOf(reflect.TypeFor[O]())
	if err := checkNames(raw, names, known); err != nil {
		return none, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&options); err != nil {
		return none, optionError(err)
	}
	if missing := missingFrom(options); len(missing) > 0 {
		return none, config.Errorf(config.InvalidArgument, "%s", strings.Join(missing, "; "))
	}
	return options, Fill(&options)
}

// namesOf returns the JSON names of t's fields, and false for a type that
// is not a plain struct and decides for itself what it accepts.
func namesOf(t reflect.Type) (names []string, known bool) {
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil, false
	}
	for _, f := range fieldsOf(t) {
		names = append(names, f.name)
	}
	slices.Sort(names)
	return names, true
}

// checkNames walks the outermost object of raw.
func checkNames(raw []byte, names []string, known bool) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	first, err := d.Token()
	if err != nil {
		return optionError(err)
	}
	if first != json.Delim('{') {
		return config.Errorf(config.InvalidArgument, "the options are not a JSON object")
	}
	var unknown, twice []string
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return optionError(err)
		}
		name, _ := token.(string) // a key: encoding/json has checked that
		switch {
		case seen[name]:
			twice = append(twice, fmt.Sprintf("%.64q", name))
		case known && !slices.Contains(names, name):
			unknown = append(unknown, fmt.Sprintf("%.64q", name))
		}
		seen[name] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return optionError(err)
		}
	}
	if _, err := d.Token(); err != nil {
		return optionError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return config.Errorf(config.InvalidArgument, "there is something behind the options' closing brace")
	}
	switch {
	case len(unknown) > 0:
		return config.Errorf(config.InvalidArgument, "unknown option %s", strings.Join(unknown, ", ")).WithHint("%s", knownNames(names))
	case len(twice) > 0:
		return config.Errorf(config.InvalidArgument, "option %s stands twice", strings.Join(twice, ", "))
	}
	return nil
}

func knownNames(names []string) string {
	if len(names) == 0 {
		return "this plugin has no options"
	}
	return "the options are " + strings.Join(names, ", ")
}

// optionError makes what encoding/json says of options into an error that
// names the option.
func optionError(err error) error {
	var (
		wrongType *json.UnmarshalTypeError
		syntax    *json.SyntaxError
		ours      *config.Error
	)
	switch {
	case errors.As(err, &ours):
		return ours
	case errors.As(err, &wrongType):
		value, _, _ := strings.Cut(wrongType.Value, " ") // "number 5" would repeat the value
		return config.Errorf(config.InvalidArgument, "option %q must be %s, not a JSON %s", wrongType.Field, describeType(wrongType.Type), value)
	case errors.As(err, &syntax), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return config.Errorf(config.InvalidArgument, "the options are not valid JSON: %s", err)
	default: // an unknown field further in, or what the author's own type said
		return config.Errorf(config.InvalidArgument, "the options are refused: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
}

func describeType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number from 0"
	default:
		return "a " + t.String()
	}
}
