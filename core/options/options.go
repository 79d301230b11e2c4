// Package options makes the options of a plugin out of one Go struct: what a
// manifest may say, how it is checked, what stands for what it leaves out, and
// what is written about all of that.
//
//	type Options struct {
//		Path     string `json:"path" required:"true" doc:"the data file"`
//		MaxValue int    `json:"max_value" default:"1048576" doc:"largest value in bytes"`
//		LockWait string `json:"lock_wait" default:"2s" doc:"how long Open waits for the file"`
//	}
//
// Three tags say it, beside json: doc is one sentence for whoever writes the
// manifest, default is what a zero field means, as it would stand in the
// manifest, and required marks an option that has no default. A default that
// depends on another option can not stand in a tag: say it in doc, and leave
// the field's zero value to Open. Where 0, false or "" is itself a choice beside
// the default, make the field a pointer.
//
// Package pluginmain does the rest for a plugin's main function. A store that
// is also opened without it, as in its own tests, calls Fill first.
package options

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/tagstore/tagstore/core/config"
)

// field is one option of a struct.
type field struct {
	reflect.StructField
	name string
}

// fieldsOf returns the options of a struct in the order of its text, those of
// embedded structs where these stand.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case !f.IsExported(), name == "-":
			continue
		case f.Anonymous && name == "": // its fields are promoted, and visible
			continue
		case name == "":
			name = f.Name
		}
		fields = append(fields, field{f, name})
	}
	return fields
}

// plain reports whether t is a struct that encoding/json reads field by field.
func plain(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return t.Kind() == reflect.Struct && !p.Implements(reflect.TypeFor[json.Unmarshaler]()) && !p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// Fill sets every zero field of o to its default, in embedded and nested
// structs too. The error is one of the struct's author: a default that is no
// value of its field.
func Fill[O any](o *O) error { return fill(reflect.ValueOf(o).Elem()) }

func fill(v reflect.Value) error {
	if !plain(v.Type()) {
		return nil
	}
	var wrong []error
	for _, f := range fieldsOf(v.Type()) {
		value, err := v.FieldByIndexErr(f.Index)
		if err != nil {
			continue // behind a nil pointer to an embedded struct
		}
		text, has := f.Tag.Lookup("default")
		switch {
		case plain(f.Type):
			wrong = append(wrong, fill(value))
		case has && value.IsZero():
			wrong = append(wrong, setDefault(f, value, text))
		}
	}
	return errors.Join(wrong...)
}

func setDefault(f field, value reflect.Value, text string) error {
	if f.Type.Kind() == reflect.Bool {
		return config.Errorf(config.Internal, "option %q has a default, and its type %s can not tell false from nothing said", f.name, f.Type).
			WithHint("make it a pointer in the plugin's options struct, or let false be the default")
	}
	raw, err := defaultJSON(f, text)
	if err == nil {
		err = json.Unmarshal(raw, value.Addr().Interface())
	}
	if err != nil {
		return config.Errorf(config.Internal, "the default of option %q is no value of its type %s", f.name, f.Type).
			WithHint("mend the tag in the plugin's options struct").WithCause(err)
	}
	return nil
}

// defaultJSON is a tag's text as JSON: a text needs no quotes there.
func defaultJSON(f field, text string) (json.RawMessage, error) {
	t := f.Type
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.String || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return json.Marshal(text)
	}
	if !json.Valid([]byte(text)) {
		return nil, fmt.Errorf("%q is not JSON", text)
	}
	return json.RawMessage(text), nil
}

// Defaults returns what no option at all means. It is for package variables of
// a store: a tag that is no value of its field panics.
func Defaults[O any]() O {
	var o O
	if err := Fill(&o); err != nil {
		panic(err)
	}
	return o
}

// missingFrom names the required options that have their zero value.
func missingFrom(o any) []string {
	v := reflect.ValueOf(o)
	if !plain(v.Type()) {
		return nil
	}
	var missing []string
	for _, f := range fieldsOf(v.Type()) {
		value, err := v.FieldByIndexErr(f.Index)
		if f.Tag.Get("required") == "true" && (err != nil || value.IsZero()) {
			missing = append(missing, fmt.Sprintf("%s is missing: %s", f.name, f.Tag.Get("doc")))
		}
	}
	return missing
}

// Schema returns a JSON Schema (draft 2020-12) of what Decode[O] accepts, with
// descriptions and defaults, the properties in the order of the struct. It is
// narrower in one point: null, which JSON decoders take for nothing said, is
// not among the values. The error is one of the struct's author.
func Schema[O any]() (json.RawMessage, error) {
	t := reflect.TypeFor[O]()
	if err := Fill(new(O)); err != nil {
		return nil, err
	}
	special := map[reflect.Type]*jsonschema.Schema{}
	ownTypes(t, special, map[reflect.Type]bool{})
	s, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: special})
	if err != nil {
		return nil, config.Errorf(config.Internal, "the options %s have no JSON Schema", t).
			WithHint("use strings, numbers, booleans, lists, maps and structs of them").WithCause(err)
	}
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	withoutNull(s)
	if err := annotate(s, t); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// ownTypes finds the types that read themselves from JSON: from a text, of
// which nothing else is known, or from anything.
func ownTypes(t reflect.Type, found map[reflect.Type]*jsonschema.Schema, seen map[reflect.Type]bool) {
	if seen[t] {
		return
	}
	seen[t] = true
	p := reflect.PointerTo(t)
	switch {
	case p.Implements(reflect.TypeFor[json.Unmarshaler]()):
		found[t] = &jsonschema.Schema{}
		return
	case p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		found[t] = &jsonschema.Schema{Type: "string"}
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		for _, f := range fieldsOf(t) {
			ownTypes(f.Type, found, seen)
		}
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		ownTypes(t.Elem(), found, seen)
	}
}

// withoutNull takes null from the types that Go's nil stands for.
func withoutNull(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if len(s.Types) == 2 && s.Types[0] == "null" {
		s.Type, s.Types = s.Types[1], nil
	}
	for _, p := range s.Properties {
		withoutNull(p)
	}
	withoutNull(s.Items)
	if s.AdditionalProperties != nil {
		withoutNull(s.AdditionalProperties)
	}
}

// annotate adds what the tags say.
func annotate(s *jsonschema.Schema, t reflect.Type) error {
	if !plain(t) {
		return nil
	}
	s.Required = nil
	for _, f := range fieldsOf(t) {
		p := s.Properties[f.name]
		if p == nil {
			continue
		}
		p.Description = f.Tag.Get("doc")
		if f.Tag.Get("required") == "true" {
			s.Required = append(s.Required, f.name)
		}
		if text, has := f.Tag.Lookup("default"); has {
			raw, err := defaultJSON(f, text)
			if err != nil {
				return err // Fill has found it
			}
			p.Default = raw
		}
		inner := f.Type
		for inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if err := annotate(p, inner); err != nil {
			return err
		}
	}
	return nil
}
