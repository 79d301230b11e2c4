package ssmbackend

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf16"
)

// maxDescription is how long a parameter's description may be, in characters.
const maxDescription = 1024

// byAuthor parts the message of a description from its author.
const byAuthor = "— by "

// described is a description of which the plain form could be read another way.
type described struct {
	Message string `json:"message"`
	By      string `json:"by"`
}

// writeDescription returns the description of a version: "message — by author"
// where that can be read back, else the same as JSON. What does not fit is left
// out rather than cut, first the message.
func writeDescription(message, author string) string {
	for _, m := range []string{message, ""} {
		for _, form := range []func(string, string) string{plainDescription, jsonDescription} {
			text := form(m, author)
			if len(utf16.Encode([]rune(text))) > maxDescription {
				continue
			}
			if gotMessage, gotAuthor := readDescription(text); gotMessage == m && gotAuthor == author {
				return text
			}
		}
	}
	return ""
}

func plainDescription(message, author string) string {
	switch {
	case author == "":
		return message
	case message == "":
		return byAuthor + author
	default:
		return message + " " + byAuthor + author
	}
}

func jsonDescription(message, author string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(described{message, author}); err != nil {
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// readDescription is the inverse of writeDescription. A description in another
// form is somebody's message.
func readDescription(text string) (message, author string) {
	if strings.HasPrefix(text, `{"message":`) {
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		var form described
		if err := d.Decode(&form); err == nil && jsonDescription(form.Message, form.By) == text {
			return form.Message, form.By
		}
	}
	if author, ok := strings.CutPrefix(text, byAuthor); ok {
		return "", author
	}
	if i := strings.LastIndex(text, " "+byAuthor); i >= 0 {
		return text[:i], text[i+len(" "+byAuthor):]
	}
	return text, ""
}
