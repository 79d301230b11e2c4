package driver

import (
	"encoding/json"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/tagstore/tagstore/core/config"
)

// The content types of values whose store keeps none (Caveats.InferredType).
const (
	inferredText   = "text/plain; charset=utf-8"
	inferredBinary = "application/octet-stream"
)

// InferType returns the content type of a value whose store keeps none:
// application/json where the bytes are JSON, text/plain where they are UTF-8,
// else application/octet-stream.
func InferType(value []byte) string {
	switch {
	case json.Valid(value):
		return config.ContentTypeJSON
	case utf8.Valid(value):
		return inferredText
	default:
		return inferredBinary
	}
}

// CheckInferredType is for the Put of such a store: it refuses a content type
// that the bytes can not show, with code InvalidArgument. Those that pass are
// "", application/json, text of any kind and application/octet-stream.
func CheckInferredType(contentType string) error {
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case contentType == "", media == config.ContentTypeJSON, media == inferredBinary, err == nil && strings.HasPrefix(media, "text/"):
		return nil
	}
	return config.Errorf(config.InvalidArgument, "this store keeps no content types, and %s would be lost", contentType).
		WithHint("use application/json, text/plain or application/octet-stream, or another store")
}
