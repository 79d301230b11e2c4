package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/router"
)

// The limits of a write, beside those of the key and of the route.
const (
	MaxMessage        = 1024 // bytes
	MaxIdempotencyKey = 128  // bytes
	MaxContentType    = 128  // bytes
	MaxJSONDepth      = 64   // arrays and objects around a value
)

// checkValue holds a value to its route. It returns the content type to store.
func checkValue(r *router.Route, contentType string, value []byte) (string, error) {
	if len(value) > r.MaxValue {
		return "", config.Errorf(config.InvalidArgument, "the value has %d bytes, the limit of %s is %d", len(value), r.Prefix, r.MaxValue)
	}
	if contentType == "" {
		contentType = config.ContentTypeJSON
	}
	isJSON, err := checkContentType(contentType)
	switch {
	case err != nil:
		return "", err
	case isJSON:
		if err := checkJSON(value); err != nil {
			return "", err
		}
	case r.Schema != nil:
		return "", config.Errorf(config.InvalidArgument, "the values of %s must be JSON, since they have a schema", r.Prefix).
			WithHint("use the content type %s", config.ContentTypeJSON)
	}
	if r.Schema != nil {
		if err := checkSchema(r.Schema, value); err != nil {
			return "", err
		}
	}
	return contentType, nil
}

// checkContentType accepts a media type of RFC 9110 8.3.1 and reports whether
// it is JSON: application/json or the suffix +json of RFC 6839 3.1.
func checkContentType(s string) (isJSON bool, err error) {
	bad := config.Errorf(config.InvalidArgument, "the content type is not a media type of at most %d printable ASCII bytes", MaxContentType).
		WithHint("leave it out for %s", config.ContentTypeJSON)
	if len(s) > MaxContentType || !printable(s) {
		return false, bad
	}
	media, _, err := mime.ParseMediaType(s)
	if err != nil {
		return false, bad
	}
	kind, sub, ok := strings.Cut(media, "/")
	if !ok || kind == "" || sub == "" {
		return false, bad
	}
	return media == config.ContentTypeJSON || strings.HasSuffix(sub, "+json"), nil
}

// printable reports whether s is printable ASCII only.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// checkText checks the texts that go with a write.
func checkText(message, idempotencyKey string) error {
	switch {
	case len(message) > MaxMessage:
		return config.Errorf(config.InvalidArgument, "the message has %d bytes, the limit is %d", len(message), MaxMessage)
	case !utf8.ValidString(message):
		return config.Errorf(config.InvalidArgument, "the message is not valid UTF-8")
	case len(idempotencyKey) > MaxIdempotencyKey || !printable(idempotencyKey):
		return config.Errorf(config.InvalidArgument, "the idempotency key is not at most %d bytes of printable ASCII", MaxIdempotencyKey).
			WithHint("use a UUID")
	}
	return nil
}

// checkJSON accepts one JSON value (RFC 8259) that every reader understands
// alike: valid UTF-8, no object key twice, at most MaxJSONDepth levels. The
// errors tell where, never what.
func checkJSON(value []byte) error {
	if !utf8.Valid(value) {
		return badJSON("is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var open []map[string]bool // the keys of each object around, nil for an array
	inKey := false             // the next token, if text, is a key
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return badJSON("is not valid JSON near byte %d", d.InputOffset())
		}
		text, isText := token.(string)
		switch {
		case token == json.Delim('{') || token == json.Delim('['):
			var keys map[string]bool
			if token == json.Delim('{') {
				keys = map[string]bool{}
			}
			if open = append(open, keys); len(open) > MaxJSONDepth {
				return badJSON("nests deeper than %d levels", MaxJSONDepth)
			}
		case token == json.Delim('}') || token == json.Delim(']'):
			open = open[:len(open)-1]
		case inKey && isText:
			keys := open[len(open)-1]
			if keys[text] {
				return badJSON("has an object key twice, before byte %d", d.InputOffset())
			}
			keys[text], inKey = true, false
			continue
		}
		inKey = len(open) > 0 && open[len(open)-1] != nil
	}
	// The tokens alone do not tell two values, or none, from one.
	if !json.Valid(value) {
		return badJSON("is not one JSON value")
	}
	return nil
}

func badJSON(format string, args ...any) error {
	return config.Errorf(config.InvalidArgument, "the value "+format, args...).
		WithHint("send valid JSON, or another content type")
}
