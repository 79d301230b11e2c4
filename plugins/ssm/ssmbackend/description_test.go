package ssmbackend

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestDescriptions(t *testing.T) {
	for _, c := range []struct{ message, author, want string }{
		{"", "", ""},
		{"raise the limit", "", "raise the limit"},
		{"", "ana", "— by ana"},
		{"raise the limit", "ana", "raise the limit — by ana"},
		{"by hand — by accident", "ana", "by hand — by accident — by ana"},
		{"by hand — by accident", "", `{"message":"by hand — by accident","by":""}`},
		{"x", "a — by b", `{"message":"x","by":"a — by b"}`},
		{`{"message":"x","by":"y"}`, "", `{"message":"{\"message\":\"x\",\"by\":\"y\"}","by":""}`},
		{strings.Repeat("m", 1020), "ana", "— by ana"},
		{strings.Repeat("m", 1015), "ana", strings.Repeat("m", 1015) + " — by ana"},
		{"short", strings.Repeat("a", 2000), ""},
		{strings.Repeat("m", 1025), "", ""},
	} {
		got := writeDescription(c.message, c.author)
		if got != c.want {
			t.Errorf("of %.40q by %.40q: got %.60q, want %.60q", c.message, c.author, got, c.want)
		}
	}
}

// What others wrote is shown as it is.
func TestForeignDescriptions(t *testing.T) {
	for _, text := range []string{"", "managed elsewhere", `{"message":"x"}`, `{"message":"x","by":"y","more":1}`, `{"message":1,"by":"y"}`, `{"message":"x","by":"y"} `, "x —by y", "a - by b", "漢字"} {
		if message, author := readDescription(text); message != text || author != "" {
			t.Errorf("%q is read as %q by %q", text, message, author)
		}
	}
}

// Whatever is written comes back as it was, or does not come back.
func TestDescriptionsAreTrue(t *testing.T) {
	part := rapid.OneOf(
		rapid.SampledFrom([]string{"", "ana", "— by ", " — by ", `{"message":`, `","by":"`, "\xff", "x\x00", "🧭"}),
		rapid.String(), rapid.StringN(900, 1100, -1),
	)
	text := rapid.Custom(func(t *rapid.T) string { return part.Draw(t, "a") + part.Draw(t, "b") })
	rapid.Check(t, func(t *rapid.T) {
		message, author := text.Draw(t, "message"), text.Draw(t, "author")
		written := writeDescription(message, author)
		if n := utf8.RuneCountInString(written); n > maxDescription {
			t.Fatalf("the description has %d characters", n)
		}
		gotMessage, gotAuthor := readDescription(written)
		if gotMessage != message && gotMessage != "" || gotAuthor != author && gotAuthor != "" {
			t.Fatalf("%q by %q is read back as %q by %q", message, author, gotMessage, gotAuthor)
		}
		if len(message)+len(author) < 100 && utf8.ValidString(message+author) && (gotMessage != message || gotAuthor != author) {
			t.Fatalf("%q by %q is lost", message, author)
		}
	})
}
