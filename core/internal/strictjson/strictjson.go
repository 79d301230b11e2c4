// Package strictjson tells JSON that every reader understands alike from JSON
// that two readers could read differently. encoding/json takes the last of two
// equal names and turns bad UTF-8 into other text.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Check returns nil if data is exactly one JSON value (RFC 8259) in valid
// UTF-8, with no object name twice, whose arrays and objects nest at most
// maxDepth deep. The error completes a sentence that begins with what data is,
// such as "is not valid UTF-8"; it says where, and repeats nothing of data.
func Check(data []byte, maxDepth int) error {
	if !utf8.Valid(data) {
		return errors.New("is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var open []map[string]bool // the names of each object around, nil for an array
	inName := false            // the next token, if text, is a name
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("is not valid JSON near byte %d", d.InputOffset())
		}
		text, isText := token.(string)
		switch {
		case token == json.Delim('{') || token == json.Delim('['):
			var names map[string]bool
			if token == json.Delim('{') {
				names = map[string]bool{}
			}
			if open = append(open, names); len(open) > maxDepth {
				return fmt.Errorf("nests deeper than %d levels", maxDepth)
			}
		case token == json.Delim('}') || token == json.Delim(']'):
			open = open[:len(open)-1]
		case inName && isText:
			names := open[len(open)-1]
			if names[text] {
				return fmt.Errorf("has an object key twice, before byte %d", d.InputOffset())
			}
			names[text], inName = true, false
			continue
		}
		inName = len(open) > 0 && open[len(open)-1] != nil
	}
	// The tokens alone do not tell two values, or none, from one.
	if !json.Valid(data) {
		return errors.New("is not one JSON value")
	}
	return nil
}
