package manifest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/tagstore/tagstore/core/config"
)

// Pinned is one checksum that Pin wrote, or found written.
type Pinned struct {
	Of     string // the backend, or the prefix of the route
	File   string // as the manifest has it
	SHA256 string
	// Arch is the architecture whose sum it is, where the manifest has one for
	// each; else "".
	Arch    string
	Changed bool
}

// Pin returns the manifest at path with the checksums of the files that it
// names, written in place of those that stand there: of the plugins, where the
// manifest has a sum for each architecture that of this one, and of the schemas.
// Comments and layout stay as they are; the file is not touched. The error is
// that of Load in development, wrong checksums and a signature apart. A layout
// into which no sum can be written is refused, and nothing else is changed.
func Pin(path string) ([]byte, []Pinned, error) { return pin(path, runtime.GOARCH, false) }

// PinFor is Pin for a manifest that is to run on several architectures, whose
// plugins beside it are those of arch, by Go's name for it: each plugin gets a
// sum for each architecture, and that of arch is written. A single sum that
// stood there is replaced. An arch that Go has no name for has code
// InvalidArgument.
func PinFor(path, arch string) ([]byte, []Pinned, error) {
	if !slices.Contains(architectures, arch) {
		return nil, nil, config.Errorf(config.InvalidArgument, "bad architecture %s", quote(arch)).
			WithHint("name one of %s", strings.Join(architectures, ", "))
	}
	return pin(path, arch, true)
}

func pin(path, arch string, each bool) ([]byte, []Pinned, error) {
	data, dir, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	d, found := parseLenient(data, path, dir, arch)
	p := &pinner{data: data, found: found, arch: arch, each: each}
	p.pin(d)
	if err := found.err(); err != nil {
		return nil, nil, err
	}
	out := p.apply()
	if !p.holds(out, path, dir) {
		found.add(0, "write the sums by hand: 'sha256sum FILE' prints them", "the layout leaves no place for a checksum")
		return nil, nil, found.err()
	}
	return out, p.sums, nil
}

// parseLenient is parse for another architecture, and for a manifest whose
// checksums may be anything.
func parseLenient(data []byte, path, dir, arch string) (*document, *problems) {
	d := &document{Manifest: Manifest{Path: path, Dir: dir}}
	r := &reader{problems: problems{path: path}, arch: arch, anySum: true}
	if root := r.root(data); root != nil {
		r.forbid(root)
		r.manifest(root, d)
	}
	return d, &r.problems
}

// pinner collects what to change in a manifest.
type pinner struct {
	data  []byte
	found *problems
	arch  string
	each  bool // a sum for each architecture, whatever stands there
	edits []edit
	sums  []Pinned
	// want is what each backend and each route has in the end.
	backends, routes map[int]string
}

// edit puts text in place of the bytes from begin to end.
type edit struct {
	begin, end int
	text       string
}

func (p *pinner) pin(d *document) {
	if len(p.found.list) > 0 {
		return
	}
	p.backends, p.routes = map[int]string{}, map[int]string{}
	for i, b := range d.Backends {
		at := d.backendLines[i]
		b.SHA256 = ""
		d.checkPlugin(&b, at, true, p.found)
		sum, ok := p.sum(b.Plugin)
		if !ok {
			continue
		}
		p.backends[i] = sum
		one := Pinned{Of: b.Name, File: value(at.node, "plugin").Value, SHA256: sum, Changed: d.Backends[i].SHA256 != sum}
		written := value(at.node, "sha256")
		switch {
		case written != nil && written.Kind == yaml.MappingNode:
			one.Arch = p.arch
			p.set(written, p.arch, "", sum)
		case p.each:
			one.Arch, one.Changed = p.arch, true
			p.set(at.node, "sha256", "plugin", "{ "+p.arch+": "+sum+" }")
		default:
			p.set(at.node, "sha256", "plugin", sum)
		}
		p.sums = append(p.sums, one)
	}
	for i, r := range d.Routes {
		at := d.schemaLines[i]
		r.SchemaSHA256 = ""
		d.checkSchema(&r, at, true, p.found)
		sum, ok := p.sum(r.SchemaPath)
		if !ok {
			continue
		}
		p.routes[i] = sum
		p.sums = append(p.sums, Pinned{Of: r.Prefix, File: value(at.node, "schema").Value, SHA256: sum, Changed: d.Routes[i].SchemaSHA256 != sum})
		p.set(at.node, "schema_sha256", "schema", sum)
	}
}

// sum returns that of a file, if there is one and nothing was found wrong yet.
func (p *pinner) sum(path string) (string, bool) {
	if path == "" || len(p.found.list) > 0 {
		return "", false
	}
	f, err := openRegular(path)
	if err == nil {
		defer f.Close()
		h := sha256.New()
		if _, err = io.Copy(h, f); err == nil {
			return hex.EncodeToString(h.Sum(nil)), true
		}
	}
	p.found.add(0, "name files that can be read", "%s can not be read: %s", quote(path), plain(err))
	return "", false
}

// value returns what a mapping has for a key, nil if it has nothing.
func value(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// set has the mapping n say key: sum, behind the entry named after, or behind
// the last one.
func (p *pinner) set(n *yaml.Node, key, after, sum string) {
	if len(n.Content) == 0 {
		if begin := p.offset(n); begin >= 0 && p.data[begin] == '{' {
			p.edits = append(p.edits, edit{begin + 1, begin + 1, key + ": " + sum})
		}
		return
	}
	at := len(n.Content) - 2
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch n.Content[i].Value {
		case key:
			p.replace(n.Content[i], n.Content[i+1], sum)
			return
		case after:
			at = i
		}
	}
	begin, _ := p.span(n.Content[at])
	_, end := p.span(n.Content[at+1])
	if end < 0 {
		return // which holds will find
	}
	if n.Style&yaml.FlowStyle != 0 {
		p.edits = append(p.edits, edit{end, end, ", " + key + ": " + sum})
		return
	}
	line := p.data[bytes.LastIndexByte(p.data[:begin], '\n')+1 : begin]
	indent := strings.Repeat(" ", utf8.RuneCount(line)) // a "- " in front of the first key is one of two
	lineEnd := "\n"
	if rest := bytes.IndexByte(p.data[end:], '\n'); rest < 0 {
		end = len(p.data)
		p.edits = append(p.edits, edit{end, end, "\n" + indent + key + ": " + sum})
		return
	} else if end += rest + 1; bytes.HasSuffix(p.data[:end], []byte("\r\n")) {
		lineEnd = "\r\n"
	}
	p.edits = append(p.edits, edit{end, end, indent + key + ": " + sum + lineEnd})
}

// replace writes sum in place of the scalar v, which may be empty.
func (p *pinner) replace(key, v *yaml.Node, sum string) {
	if v.Kind == yaml.ScalarNode && v.Value == "" && v.Style == 0 {
		if _, end := p.span(key); end >= 0 {
			if colon := bytes.IndexByte(p.data[end:], ':'); colon >= 0 {
				p.edits = append(p.edits, edit{end + colon + 1, end + colon + 1, " " + sum})
			}
		}
		return
	}
	if begin, end := p.span(v); v.Value != sum && end >= 0 {
		p.edits = append(p.edits, edit{begin, end, sum})
	}
}

// offset returns where a node begins in the file, -1 if that is not there.
func (p *pinner) offset(n *yaml.Node) int {
	at := 0
	for range n.Line - 1 {
		next := bytes.IndexByte(p.data[at:], '\n')
		if next < 0 {
			return -1
		}
		at += next + 1
	}
	for range n.Column - 1 {
		_, size := utf8.DecodeRune(p.data[at:])
		at += size
	}
	if at >= len(p.data) {
		return -1
	}
	return at
}

// span returns where a scalar stands in the file, -1 if it is not written there
// as it reads.
func (p *pinner) span(n *yaml.Node) (begin, end int) {
	at := p.offset(n)
	written := n.Value
	switch {
	case at < 0 || n.Kind != yaml.ScalarNode:
		return -1, -1
	case n.Style&yaml.DoubleQuotedStyle != 0:
		written = `"` + written + `"`
	case n.Style&yaml.SingleQuotedStyle != 0:
		written = "'" + written + "'"
	}
	if !bytes.HasPrefix(p.data[at:], []byte(written)) {
		return -1, -1
	}
	return at, at + len(written)
}

func (p *pinner) apply() []byte {
	slices.SortStableFunc(p.edits, func(a, b edit) int { return cmp.Compare(a.begin, b.begin) })
	var out bytes.Buffer
	at := 0
	for _, e := range p.edits {
		out.Write(p.data[at:max(at, e.begin)])
		out.WriteString(e.text)
		at = e.end
	}
	out.Write(p.data[at:])
	return out.Bytes()
}

// holds reports whether the result says what the manifest said, and the sums.
func (p *pinner) holds(out []byte, path, dir string) bool {
	before, _ := parseLenient(p.data, path, dir, p.arch)
	if _, wrong := parse(out, path, dir); len(wrong.list) > 0 {
		return false
	}
	after, _ := parseLenient(out, path, dir, p.arch)
	for i, sum := range p.backends {
		before.Backends[i].SHA256 = sum
	}
	for i, sum := range p.routes {
		before.Routes[i].SchemaSHA256 = sum
	}
	return reflect.DeepEqual(before.Manifest, after.Manifest)
}
