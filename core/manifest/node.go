package manifest

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tagstore/tagstore/core/internal/nearest"
)

// maxDepth is how deep options may nest.
const maxDepth = 64

// reader turns YAML nodes into values and collects what is wrong with them. An
// alias is reported once, by forbid, and passed over in silence elsewhere.
type reader struct {
	problems
	arch   string // whose checksums of plugins are read
	anySum bool   // a checksum may be anything: it is going to be replaced
}

// forbid reports what could make a document mean more than is written.
func (r *reader) forbid(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		r.add(n.Line, "write the value out", "aliases are not allowed")
	case n.Anchor != "":
		r.add(n.Line, "remove the &name", "anchors are not allowed")
	case n.Style&yaml.TaggedStyle != 0:
		r.add(n.Line, "remove it; quote a value to make it text", "the tag %s is not allowed", quote(n.Tag))
	}
	for _, child := range n.Content {
		r.forbid(child)
	}
}

// fields are what a mapping may hold, each with its reader.
type fields map[string]func(value *yaml.Node)

// mapping reads a mapping of known fields. Of a required "a|b" it must have one.
func (r *reader) mapping(n *yaml.Node, what string, known fields, required ...string) {
	if n.Kind != yaml.MappingNode {
		r.wrongKind(n, what, "a mapping")
		return
	}
	names := slices.Sorted(maps.Keys(known))
	seen := map[string]bool{}
	r.entries(n, what, func(key, value *yaml.Node) {
		seen[key.Value] = true
		if read, ok := known[key.Value]; ok {
			read(value)
			return
		}
		mend := "the fields here are " + list(names)
		if near := nearest.Of(key.Value, names); near != "" {
			seen[near] = true
			mend = "did you mean " + strconv.Quote(near) + "?"
		}
		r.add(key.Line, mend, "unknown field %s", quote(key.Value))
	})
	for _, name := range required {
		either, or, two := strings.Cut(name, "|")
		switch {
		case seen[either] || seen[or]:
		case two:
			r.add(n.Line, "add one of them", "%s has neither %q nor %q", what, either, or)
		default:
			r.add(n.Line, "add it", "%s has no field %q", what, name)
		}
	}
}

// entries calls each for every pair of a mapping whose key is text and stands
// there for the first time.
func (r *reader) entries(n *yaml.Node, what string, each func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		r.wrongKind(n, what, "a mapping")
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch line, again := first[key.Value]; {
		case key.Kind == yaml.AliasNode:
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str":
			r.add(key.Line, "quote it", "a key in %s is not text", what)
		case again:
			r.add(key.Line, "remove one", "duplicate key %s, first on line %d", quote(key.Value), line)
		default:
			first[key.Value] = key.Line
			each(key, value)
		}
	}
}

func (r *reader) wrongKind(n *yaml.Node, what, want string) {
	if n.Kind == yaml.AliasNode {
		return
	}
	is := "text"
	switch {
	case n.Kind == yaml.MappingNode:
		is = "a mapping"
	case n.Kind == yaml.SequenceNode:
		is = "a list"
	case n.ShortTag() == "!!null":
		is = "empty"
	case n.ShortTag() == "!!bool":
		is = "true or false"
	case n.ShortTag() == "!!int", n.ShortTag() == "!!float":
		is = "a number"
	case n.ShortTag() != "!!str":
		is = "read as " + n.ShortTag()
	}
	mend := "write " + want
	if want == "text" && n.Kind == yaml.ScalarNode && is != "empty" {
		mend = "quote it"
	}
	r.add(n.Line, mend, "%s must be %s but is %s", what, want, is)
}

// text reads a scalar that YAML, too, takes for text.
func (r *reader) text(n *yaml.Node, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		r.wrongKind(n, what, "text")
		return "", false
	}
	return n.Value, true
}

// literal reads a scalar as it is written, whatever YAML takes it for: a
// checksum of digits only is a checksum.
func (r *reader) literal(n *yaml.Node, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		r.wrongKind(n, what, "text")
		return "", false
	}
	return n.Value, true
}

// flag reads true or false.
func (r *reader) flag(n *yaml.Node, what string) bool {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
		r.wrongKind(n, what, "true or false")
		return false
	}
	var set bool
	return n.Decode(&set) == nil && set
}

// count reads a whole number that is at least 1.
func (r *reader) count(n *yaml.Node, what string, most int) int {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		r.wrongKind(n, what, "a number")
		return 0
	}
	text := n.Value
	c, err := strconv.Atoi(text)
	if err != nil || c < 1 || c > most {
		r.add(n.Line, "write a whole number that is", "%s %s is not between 1 and %d", what, quote(text), most)
		return 0
	}
	return c
}

// size reads a number of bytes, with or without a unit. The bounds are named as
// they are to be read.
func (r *reader) size(n *yaml.Node, what, mend string, least, most int64, between string) int64 {
	text, ok := r.literal(n, what)
	if !ok {
		return 0
	}
	m := byteSize.FindStringSubmatch(text)
	if m == nil {
		r.add(n.Line, mend, "bad %s %s", what, quote(text))
		return 0
	}
	size, err := strconv.ParseInt(m[1], 10, 64) // at most nine digits
	switch m[2] {
	case "KiB":
		size <<= 10
	case "MiB":
		size <<= 20
	case "GiB":
		size <<= 30
	}
	if err != nil || size < least || size > most {
		r.add(n.Line, mend, "%s %s is not between %s", what, quote(text), between)
		return 0
	}
	return size
}

// texts reads a list of texts. On any problem it returns nil.
func (r *reader) texts(n *yaml.Node, what string) []string {
	if n.Kind != yaml.SequenceNode {
		r.wrongKind(n, what, "a list")
		return nil
	}
	all, good := make([]string, len(n.Content)), true
	for i, item := range n.Content {
		var ok bool
		all[i], ok = r.text(item, "each of "+what)
		good = good && ok
	}
	if !good {
		return nil
	}
	return all
}

// duration reads a time with its unit.
func (r *reader) duration(n *yaml.Node, what string, least, most time.Duration) time.Duration {
	text, ok := r.literal(n, what)
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil && n.ShortTag() != "!!str":
		r.add(n.Line, "add a unit, such as "+strconv.Quote(text+"s"), "bad duration %s", quote(text))
	case err != nil:
		r.add(n.Line, "write a number and a unit: ms, s, m or h", "bad duration %s", quote(text))
	case d < least || d > most:
		r.add(n.Line, "choose one that is", "%s is not between %s and %s", what, least, most)
	default:
		return d
	}
	return 0
}

// json writes n as JSON that means the same: the order of keys is kept, a
// number that is JSON's already keeps every digit, and a date is text.
func (r *reader) json(n *yaml.Node, out *bytes.Buffer, depth int) {
	if depth > maxDepth {
		r.add(n.Line, "flatten them", "options nest deeper than %d levels", maxDepth)
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		out.WriteByte('{')
		first := true
		r.entries(n, "options", func(key, value *yaml.Node) {
			if !first {
				out.WriteByte(',')
			}
			first = false
			writeText(out, key.Value)
			out.WriteByte(':')
			r.json(value, out, depth+1)
		})
		out.WriteByte('}')
	case yaml.SequenceNode:
		out.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			r.json(item, out, depth+1)
		}
		out.WriteByte(']')
	case yaml.ScalarNode:
		r.scalar(n, out)
	}
}

func (r *reader) scalar(n *yaml.Node, out *bytes.Buffer) {
	switch n.ShortTag() {
	case "!!null":
		out.WriteString("null")
	case "!!bool", "!!int", "!!float":
		if n.ShortTag() != "!!bool" && json.Valid([]byte(n.Value)) {
			out.WriteString(n.Value)
			return
		}
		var v any
		if err := n.Decode(&v); err != nil {
			r.add(n.Line, "quote it to make it text", "a number in options can not be read")
			return
		}
		if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
			r.add(n.Line, "quote it to make it text", "JSON has no number %s", quote(n.Value))
			return
		}
		b, err := json.Marshal(v)
		if err != nil {
			r.add(n.Line, "quote it to make it text", "a value in options can not be read")
			return
		}
		out.Write(b)
	default:
		writeText(out, n.Value)
	}
}

// writeText leaves '<', '>' and '&' as they are.
func writeText(out *bytes.Buffer, s string) {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes, and Buffer never fails
	out.Truncate(out.Len() - 1)
}

// list joins names for people: "a, b and c".
func list(names []string) string {
	var out bytes.Buffer
	for i, n := range names {
		switch {
		case i > 0 && i == len(names)-1:
			out.WriteString(" and ")
		case i > 0:
			out.WriteString(", ")
		}
		out.WriteString(n)
	}
	return out.String()
}
