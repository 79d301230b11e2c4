// Package strictjson reads JSON (RFC 8259) without guessing. encoding/json
// matches names in any case, takes the last of two equal names, turns bad
// UTF-8 into other text and null into nothing; each of these lets two readers
// of one text see two things, and is an error here.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error says what is wrong with a text, and where.
type Error struct {
	Path    string // such as "items[0].quantity"; "" is the whole text
	Problem string // such as "is required"; it repeats no value
}

// Error returns the path and the problem.
func (e *Error) Error() string {
	if e.Path == "" {
		return "the JSON text " + e.Problem
	}
	return e.Path + " " + e.Problem
}

// Parse calls read with a Reader that stands at the one value that data holds.
// read must read exactly that value. Errors of this package are *Error.
func Parse(data []byte, read func(*Reader) error) error {
	r := &Reader{}
	if !utf8.Valid(data) {
		return r.Errorf("is not valid UTF-8")
	}
	// The whole text is checked first, so that nothing below meets bad syntax.
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return r.Errorf("is not valid JSON at byte %d", syntax.Offset)
		}
		return r.Errorf("is not valid JSON")
	}
	r.atString = bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte(`"`))
	r.dec = json.NewDecoder(bytes.NewReader(data))
	r.dec.UseNumber()
	return read(r)
}

// Reader reads one value after the other. Each method reads the value that
// the Reader stands at, whole, or returns an *Error that names it.
type Reader struct {
	dec      *json.Decoder
	path     []string
	atString bool
}

// AtString reports whether the whole text is a string.
func (r *Reader) AtString() bool { return r.atString }

// Field is one member that an object may have.
type Field struct {
	Name     string
	Required bool
	Read     func() error // reads the member's value
}

// Object reads an object that has each of fields at most once and nothing
// else.
func (r *Reader) Object(fields ...Field) error { return r.object(false, fields) }

// OpenObject is Object for an object that may have more members, which are
// skipped.
func (r *Reader) OpenObject(fields ...Field) error { return r.object(true, fields) }

func (r *Reader) object(open bool, fields []Field) error {
	if err := r.delim('{', "must be an object"); err != nil {
		return err
	}
	seen := map[string]bool{}
	for r.dec.More() {
		token, err := r.dec.Token()
		if err != nil {
			return r.Errorf("is not valid JSON")
		}
		name := token.(string) // only strings stand before the colons of valid JSON
		if seen[name] {
			return r.Errorf("has the field %s twice", quote(name))
		}
		seen[name] = true
		if err := r.member(name, open, fields); err != nil {
			return err
		}
	}
	for _, f := range fields {
		if f.Required && !seen[f.Name] {
			r.enter(f.Name)
			return r.Errorf("is required")
		}
	}
	return r.close()
}

func (r *Reader) member(name string, open bool, fields []Field) error {
	for _, f := range fields {
		if f.Name != name {
			continue
		}
		r.enter(name)
		if err := f.Read(); err != nil {
			return err
		}
		r.leave()
		return nil
	}
	if !open {
		return r.Errorf("has the unknown field %s", quote(name))
	}
	var skipped json.RawMessage
	if err := r.dec.Decode(&skipped); err != nil {
		return r.Errorf("is not valid JSON")
	}
	return nil
}

// Array reads an array of at most limit elements, each by a call of read.
func (r *Reader) Array(limit int, read func() error) error {
	if err := r.delim('[', "must be an array"); err != nil {
		return err
	}
	for i := 0; r.dec.More(); i++ {
		if i == limit {
			return r.Errorf("has more than %d elements", limit)
		}
		r.enter("[" + strconv.Itoa(i) + "]")
		if err := read(); err != nil {
			return err
		}
		r.leave()
	}
	return r.close()
}

// String reads a string.
func (r *Reader) String(into *string) error {
	token, err := r.dec.Token()
	s, ok := token.(string)
	if err != nil || !ok {
		return r.Errorf("must be a string")
	}
	*into = s
	return nil
}

// Int reads a number that is written as an integer (no fraction, no exponent)
// and fits 64 bits.
func (r *Reader) Int(into *int64) error {
	token, err := r.dec.Token()
	number, ok := token.(json.Number)
	if err != nil || !ok {
		return r.Errorf("must be an integer")
	}
	n, err := strconv.ParseInt(number.String(), 10, 64)
	if err != nil {
		return r.Errorf("must be an integer of 64 bits, without fraction or exponent")
	}
	*into = n
	return nil
}

// Bool reads true or false.
func (r *Reader) Bool(into *bool) error {
	token, err := r.dec.Token()
	b, ok := token.(bool)
	if err != nil || !ok {
		return r.Errorf("must be true or false")
	}
	*into = b
	return nil
}

// Errorf returns an *Error about the value that the Reader stands at, or has
// just read.
func (r *Reader) Errorf(format string, args ...any) error {
	path := strings.ReplaceAll(strings.Join(r.path, "."), ".[", "[")
	return &Error{Path: path, Problem: fmt.Sprintf(format, args...)}
}

func (r *Reader) delim(want json.Delim, problem string) error {
	token, err := r.dec.Token()
	if err != nil || token != want {
		return r.Errorf("%s", problem)
	}
	return nil
}

func (r *Reader) close() error {
	if _, err := r.dec.Token(); err != nil {
		return r.Errorf("is not valid JSON")
	}
	return nil
}

func (r *Reader) enter(name string) { r.path = append(r.path, name) }

func (r *Reader) leave() { r.path = r.path[:len(r.path)-1] }

// quote shows a name that somebody else chose, cut to a length that an error
// can bear.
func quote(name string) string {
	const most = 32
	if len(name) > most {
		name = strings.ToValidUTF8(name[:most], "") + "…"
	}
	return strconv.Quote(name)
}
