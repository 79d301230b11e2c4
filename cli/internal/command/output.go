package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// masked stands for a secret that is not to be shown.
const masked = "****"

// maxCell is how many characters of a value a table shows.
const maxCell = 60

// entryJSON is an entry in JSON output. It is an interface: fields may be
// added, never changed.
type entryJSON struct {
	Key         string  `json:"key"`
	Service     string  `json:"service"`
	Layer       string  `json:"layer"`
	Version     uint64  `json:"version"`
	Revision    string  `json:"revision"`
	ContentType string  `json:"content_type"`
	UpdatedAt   *string `json:"updated_at"`
	UpdatedBy   string  `json:"updated_by"`
	Message     string  `json:"message"`
	Secret      bool    `json:"secret"`
	Deleted     bool    `json:"deleted"`
	// Value is the JSON itself for a JSON content type, a string for any other
	// text. What is not text is in ValueBase64. Neither is there for a deletion,
	// for what a write answers, and for a secret without --reveal.
	Value       json.RawMessage `json:"value,omitempty"`
	ValueBase64 []byte          `json:"value_base64,omitempty"`
}

type freshnessJSON struct {
	Source    string `json:"source"`
	State     string `json:"state"`
	AgeMillis int64  `json:"age_ms"`
}

func newFreshnessJSON(f config.Freshness) freshnessJSON {
	return freshnessJSON{Source: f.Source.String(), State: f.State.String(), AgeMillis: f.Age.Milliseconds()}
}

// newEntryJSON shows a secret only with reveal.
func newEntryJSON(e client.Entry, reveal bool) entryJSON {
	out := entryJSON{
		Key: e.Key.String(), Service: e.Service.String(), Layer: layer(e),
		Version: e.Version, Revision: string(e.Revision), ContentType: e.ContentType,
		UpdatedAt: rfc3339(e.UpdatedAt), UpdatedBy: e.UpdatedBy, Message: e.Message, Secret: e.Secret, Deleted: e.Deleted,
	}
	if e.Value == nil || e.Deleted || e.Secret && !reveal {
		return out
	}
	switch {
	case isJSON(e.ContentType) && json.Valid(e.Value):
		out.Value = e.Value
	case utf8.Valid(e.Value):
		// A string always encodes.
		out.Value, _ = encodeJSON(string(e.Value), "")
	default:
		out.ValueBase64 = e.Value
	}
	return out
}

// rfc3339 returns nil for a time that is not known.
func rfc3339(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := t.UTC().Format(time.RFC3339Nano)
	return &s
}

// layer names the layer that an entry came from.
func layer(e client.Entry) string {
	switch {
	case e.Shared:
		return "shared"
	case e.Service.IsZero():
		return "tenant"
	default:
		return "service"
	}
}

// isJSON reports whether a content type is JSON (RFC 6839 section 3.1: a
// suffix +json is, too).
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == config.ContentTypeJSON || strings.HasSuffix(media, "+json"))
}

// print writes data to standard output.
func (a *app) print(s string) error {
	_, err := io.WriteString(a.process.Stdout, s)
	return err
}

func (a *app) printJSON(v any) error { return writeJSON(a.process.Stdout, v, "  ") }

// note writes progress to standard error.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.process.Stderr, format+"\n", args...)
}

// writeJSON writes v as one JSON document and a line end, in one Write.
func writeJSON(w io.Writer, v any, indent string) error {
	text, err := encodeJSON(v, indent)
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// encodeJSON leaves <, > and & as they are: this is not HTML.
func encodeJSON(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// table is rows of cells under headings.
type table struct{ rows [][]string }

func newTable(headings ...string) *table { return &table{rows: [][]string{headings}} }

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range t.rows {
		for i, cell := range row {
			row[i] = cleanLine(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // a strings.Builder takes everything
	lines := strings.Split(b.String(), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n")
}

// cell shows a value in one short line.
func cell(e client.Entry, reveal bool) string {
	switch {
	case e.Deleted:
		return "(deleted)"
	case e.Secret && !reveal:
		return masked
	case !utf8.Valid(e.Value):
		return fmt.Sprintf("(%d bytes)", len(e.Value))
	}
	text := string(e.Value)
	if isJSON(e.ContentType) {
		var b bytes.Buffer
		if json.Compact(&b, e.Value) == nil {
			text = b.String()
		}
	}
	if runes := []rune(text); len(runes) > maxCell {
		text = string(runes[:maxCell-1]) + "…"
	}
	return text
}

// clean replaces what would act on a terminal instead of being shown by it,
// line ends and tabs apart.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsGraphic(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// cleanLine is clean for text that must stay in its line and its cell.
func cleanLine(s string) string {
	return strings.NewReplacer("\n", " ", "\t", " ", "\v", " ", "\f", " ").Replace(clean(s))
}

// ago says how long ago t was, as people do.
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	switch d := a.process.Now().Sub(t); {
	case d < time.Second:
		return "just now"
	case d < 60*24*time.Hour:
		return elapsed(d) + " ago"
	default:
		return t.UTC().Format(time.DateOnly)
	}
}

// elapsed shows a time in its largest unit.
func elapsed(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
