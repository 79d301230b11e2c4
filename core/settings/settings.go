package settings

import (
	"encoding"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/internal/nearest"
)

// Load fills the struct that into points to from environ, whose items have the
// form of os.Environ. It is a pure function of its arguments: it never looks
// at the process's own environment.
//
// Every problem is reported at once, in one *config.Error with code
// InvalidArgument and a line "NAME: what is wrong (how to mend it)" for each: a
// value that does not fit its type, a required one that is missing or empty, a
// name that is set twice, and any name under the prefix that the struct does
// not know. No line holds a value. After an error *into is unchanged.
//
// A name that is set to nothing is set: it overrides the default, and only
// text and lists may be empty.
//
// A struct that can not be filled (a field of another type, a default that does
// not parse) is a fault in the program, and Load panics.
func Load(environ []string, prefix string, into any) error {
	target := structOf(into)
	filled := reflect.New(target.Type()).Elem()
	filled.Set(target)
	fields := fieldsOf(filled)

	given, problems := named(environ, prefix)
	for _, f := range fields {
		name := prefix + f.name
		text, set := given[name]
		delete(given, name)
		if !f.value.IsValid() {
			continue
		}
		if problem := f.fill(text, set); problem != "" {
			problems = append(problems, name+": "+problem)
		}
	}
	for name := range given {
		problems = append(problems, name+": is not a setting of this program ("+mendUnknown(name, prefix, fields)+")")
	}
	if len(problems) > 0 {
		slices.Sort(problems)
		what := "1 setting is wrong"
		if len(problems) > 1 {
			what = fmt.Sprintf("%d settings are wrong", len(problems))
		}
		return &config.Error{
			Op: "settings.Load", Code: config.InvalidArgument,
			Message: what + ":\n  " + strings.Join(problems, "\n  "),
		}
	}
	target.Set(filled)
	return nil
}

// Usage returns a table of the settings of the struct that into points to, in
// order of its fields, with the names as its tags have them. UsageFor shows
// the full names.
func Usage(into any) string { return UsageFor("", into) }

// UsageFor is Usage with the prefix in front of every name.
func UsageFor(prefix string, into any) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	// Writing to a strings.Builder can not fail.
	_, _ = fmt.Fprintln(w, "NAME\tTYPE\tDEFAULT\tMEANING")
	for _, f := range fieldsOf(structOf(into)) {
		if !f.value.IsValid() {
			continue
		}
		preset := f.preset
		switch {
		case f.required:
			preset = "(required)"
		case preset != "" && f.value.Type() == reflect.TypeFor[Secret]():
			preset = redacted
		case preset == "":
			preset = "-"
		}
		_, _ = fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\n", prefix, f.name, kindOf(f.value.Type()), preset, f.doc)
	}
	_ = w.Flush()
	return b.String()
}

// field is one setting. Its value is invalid where the name is only known, not
// read.
type field struct {
	name, preset, doc   string
	required, hasPreset bool
	value               reflect.Value
}

// structOf returns the struct behind the pointer into.
func structOf(into any) reflect.Value {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("settings: %T is not a pointer to a struct", into))
	}
	return v.Elem()
}

func fieldsOf(v reflect.Value) []field {
	var all []field
	for i := range v.NumField() {
		tag := v.Type().Field(i)
		name, ok := tag.Tag.Lookup("env")
		switch {
		case !ok && tag.Type.Kind() == reflect.Struct && tag.IsExported():
			all = append(all, fieldsOf(v.Field(i))...)
			continue
		case !ok:
			continue
		case name == "":
			panic("settings: field " + tag.Name + " has an empty env tag")
		}
		f := field{name: name, doc: tag.Tag.Get("doc"), required: tag.Tag.Get("required") == "true"}
		f.preset, f.hasPreset = tag.Tag.Lookup("default")
		if tag.Name != "_" {
			f.value = v.Field(i)
			f.check(tag)
		}
		all = append(all, f)
	}
	for i, f := range all {
		if slices.ContainsFunc(all[:i], func(other field) bool { return other.name == f.name }) {
			panic("settings: two fields are named " + f.name)
		}
	}
	return all
}

// check panics where the field can not work, so that the first test of a
// program finds it.
func (f *field) check(tag reflect.StructField) {
	if !tag.IsExported() {
		panic("settings: field " + tag.Name + " is not exported")
	}
	if kindOf(tag.Type) == "" {
		panic(fmt.Sprintf("settings: field %s has type %s, which no setting can have", tag.Name, tag.Type))
	}
	if f.required && f.hasPreset {
		panic("settings: field " + tag.Name + " is required and has a default")
	}
	if f.hasPreset && parse(reflect.New(tag.Type).Elem(), f.preset) != "" {
		panic("settings: the default of field " + tag.Name + " does not fit its type")
	}
}

// fill sets the field from text, or from its default, and returns what is
// wrong.
func (f *field) fill(text string, set bool) string {
	switch {
	case !set && f.required:
		return "is required and not set (" + f.mend() + ")"
	case set && text == "" && f.required:
		return "is required and set to nothing (" + f.mend() + ")"
	case !set && f.hasPreset:
		parse(f.value, f.preset)
		return ""
	case !set:
		return ""
	}
	return parse(f.value, text)
}

func (f *field) mend() string {
	if f.doc == "" {
		return "set it to a " + kindOf(f.value.Type())
	}
	return "set it: " + f.doc
}

// kindOf names a type as the usage table shows it, "" for types that no
// setting can have.
func kindOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[url.URL](), reflect.TypeFor[*url.URL]():
		return "URL"
	case reflect.TypeFor[Secret]():
		return "secret"
	case reflect.TypeFor[[]string]():
		return "list"
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return "text"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "integer"
	case reflect.Float64:
		return "number"
	default:
		return ""
	}
}

// parse sets v from text and returns what is wrong with text, "" for nothing.
// It never repeats the text, which may be a misplaced secret.
func parse(v reflect.Value, text string) string {
	switch typed := v.Addr().Interface().(type) {
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return "is not a duration (write one such as 500ms, 5s or 1h30m)"
		}
		*typed = d
		return ""
	case *url.URL:
		return parseURL(typed, text)
	case **url.URL:
		*typed = new(url.URL)
		return parseURL(*typed, text)
	case *Secret:
		*typed = NewSecret(text)
		return ""
	case *[]string:
		return parseList(typed, text)
	case encoding.TextUnmarshaler:
		// Its error may hold the text and is left out.
		if typed.UnmarshalText([]byte(text)) != nil {
			return "is not one of the values that this setting takes (-help lists its meaning)"
		}
		return ""
	}
	return parseBasic(v, text)
}

func parseBasic(v reflect.Value, text string) string {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return "is neither true nor false (write true or false)"
		}
		v.SetBool(b)
	case reflect.Float64:
		x, err := strconv.ParseFloat(text, 64)
		if err != nil || x-x != 0 { // x-x is NaN for NaN and the infinities
			return "is not a number (write one such as 0.5)"
		}
		v.SetFloat(x)
	default:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return "is not an integer of " + strconv.Itoa(v.Type().Bits()) + " bits (write digits only, such as 100)"
		}
		v.SetInt(n)
	}
	return ""
}

func parseURL(into *url.URL, text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return "is not an absolute URL (write one such as https://example.com/path)"
	}
	*into = *u
	return ""
}

func parseList(into *[]string, text string) string {
	*into = nil
	if strings.TrimSpace(text) == "" {
		return ""
	}
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			return "has an empty item (part the items by single commas)"
		}
		*into = append(*into, item)
	}
	return ""
}

// named picks the items of environ whose names start with prefix.
func named(environ []string, prefix string) (given map[string]string, problems []string) {
	given = map[string]string{}
	for _, item := range environ {
		name, text, _ := strings.Cut(item, "=")
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if _, twice := given[name]; twice {
			problems = append(problems, name+": is set more than once (set it once)")
		}
		given[name] = text
	}
	return given, problems
}

// mendUnknown names the known setting that is nearest to name, if one is near
// enough to be what was meant.
func mendUnknown(name, prefix string, fields []field) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	meant := nearest.Of(strings.ToUpper(strings.TrimPrefix(name, prefix)), names)
	if meant == "" {
		return "unset it; -help lists the settings"
	}
	return "did you mean " + prefix + meant + "? else unset it"
}
