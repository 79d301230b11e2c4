package store

import (
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/internal/strictjson"
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

// checkJSON accepts one JSON value that every reader understands alike. The
// errors tell where, never what.
func checkJSON(value []byte) error {
	if err := strictjson.Check(value, MaxJSONDepth); err != nil {
		return config.Errorf(config.InvalidArgument, "the value %v", err).WithHint("send valid JSON, or another content type")
	}
	return nil
}
