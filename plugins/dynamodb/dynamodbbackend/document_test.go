package dynamodbbackend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// documents are values that native attributes alone do not give back, or can
// not hold, and some that they do.
var documents = map[string]struct {
	value     string
	native    bool // config is a native attribute
	canonical bool // and gives the bytes back alone
}{
	"object":              {`{"a":1,"b":[true,false,null,"x"]}`, true, true},
	"keys out of order":   {`{"b":1,"a":2}`, true, false},
	"white space":         {"{ \"a\" : 1 }\n", true, false},
	"duplicate keys":      {`{"a":1,"a":2}`, true, false},
	"fraction of zero":    {`1.0`, true, false},
	"exponent":            {`1e2`, true, false},
	"minus zero":          {`-0`, true, false},
	"38 digits":           {`12345678901234567890123456789012345678`, true, false},
	"21 digits":           {`123456789012345678901`, true, true},
	"39 digits":           {`123456789012345678901234567890123456789`, false, false},
	"38 digits and zeros": {`1234567890123456789012345678901234567800`, true, false},
	"largest":             {`9.9999999999999999999999999999999999999e+125`, true, true},
	"too large":           {`1e126`, false, false},
	"beyond all reason":   {`1e99999999999`, false, false},
	"smallest":            {`1e-130`, true, true},
	"too small":           {`1e-131`, false, false},
	"empty key":           {`{"":1}`, false, false},
	"empty object":        {`{}`, true, true},
	"empty text":          {`""`, true, true},
	"escapes":             {`"\u0041\/\u2028"`, true, false},
	"control characters":  {`"\u0001\b\f\n\r\t\"\\"`, true, true},
	"text":                {`"<b>&ä漢🧭"`, true, true},
	"lone surrogate":      {`"\ud800"`, true, false},
	"not UTF-8":           {"\"\xff\"", true, false},
	"null":                {`null`, true, true},
	"deep":                {strings.Repeat("[", 30) + strings.Repeat("]", 30), true, true},
	"too deep":            {strings.Repeat("[", 31) + strings.Repeat("]", 31), false, false},
	"deeper":              {strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200), false, false},
	"no JSON":             {`{"a":`, false, false},
	"two values":          {`1 2`, false, false},
	"empty":               {``, false, false},
}

func TestDocumentsNativeForm(t *testing.T) {
	for name, c := range documents {
		d := encodeDocument([]byte(c.value), config.ContentTypeJSON)[0]
		_, isBytes := d.config.(*types.AttributeValueMemberB)
		if isBytes == c.native {
			t.Errorf("%s: native: %t, want %t", name, !isBytes, c.native)
		}
		if c.native && (d.raw == nil) != c.canonical {
			t.Errorf("%s: the attribute gives the bytes back alone: %t, want %t", name, d.raw == nil, c.canonical)
		}
	}
}

// Every one of them comes back byte for byte, from the current item and from
// history, and so it does when it is sent through the real table.
func TestDocumentsComeBack(t *testing.T) {
	s, _ := fresh(t, Options{})
	n := uint64(0)
	for name, c := range documents {
		e := put(t, s, limits(t), c.value)
		n++
		got := get(t, s, limits(t))
		if string(got.Value) != c.value || got.ContentType != config.ContentTypeJSON || got.Version != n {
			t.Errorf("%s: came back as %q, %s, version %d", name, got.Value, got.ContentType, got.Version)
		}
		if got.Revision != e.Revision || !got.UpdatedAt.Equal(e.UpdatedAt) {
			t.Errorf("%s: what Put answered is not what Get does", name)
		}
		old, err := s.Get(t.Context(), limits(t), n)
		if err != nil || string(old.Value) != c.value {
			t.Errorf("%s: from history: %q, %v", name, old.Value, err)
		}
	}
}

func TestContentTypes(t *testing.T) {
	s, other := fresh(t, Options{})
	for _, c := range []struct {
		value, contentType string
		attribute          string
	}{
		{`{"a":1}`, "", "*types.AttributeValueMemberM"},
		{`{"a":1}`, "text/plain", "*types.AttributeValueMemberS"},
		{"plain ä", `text/plain; charset="utf-8"`, "*types.AttributeValueMemberS"},
		{"\xff", "text/plain", "*types.AttributeValueMemberB"},
		{`{"a":1}`, "application/yaml", "*types.AttributeValueMemberB"},
		{"", "text/plain", "*types.AttributeValueMemberS"},
		{"", "image/png", "*types.AttributeValueMemberB"},
		{`"abc"`, "", "*types.AttributeValueMemberS"},
	} {
		if _, err := s.Put(t.Context(), driver.PutRequest{ID: limits(t), Value: []byte(c.value), ContentType: c.contentType}); err != nil {
			t.Fatal(err)
		}
		if c.contentType == "" {
			c.contentType = config.ContentTypeJSON
		}
		if got := get(t, s, limits(t)); string(got.Value) != c.value || got.ContentType != c.contentType {
			t.Errorf("%q as %s came back as %q, %s", c.value, c.contentType, got.Value, got.ContentType)
		}
		if kind := fmt.Sprintf("%T", other.get(acmePK, limitsSK)[attrConfig]); kind != c.attribute {
			t.Errorf("%q as %s is stored as %s, want %s", c.value, c.contentType, kind, c.attribute)
		}
	}
}

// jsonText draws JSON in any notation.
func jsonText(depth int) *rapid.Generator[string] {
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n\t"})
	number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?`)
	quoted := rapid.Map(rapid.String(), func(s string) string {
		b, _ := json.Marshal(s)
		return string(b)
	})
	return rapid.Custom(func(t *rapid.T) string {
		kind := rapid.IntRange(0, 5).Draw(t, "kind")
		if depth == 0 {
			kind %= 4
		}
		pad := func(s string) string { return space.Draw(t, "left") + s + space.Draw(t, "right") }
		switch kind {
		case 0:
			return pad(rapid.SampledFrom([]string{"true", "false", "null"}).Draw(t, "word"))
		case 1:
			return pad(number.Draw(t, "number"))
		case 2, 3:
			return pad(quoted.Draw(t, "text"))
		case 4:
			return pad("[" + strings.Join(rapid.SliceOfN(jsonText(depth-1), 0, 4).Draw(t, "items"), ",") + "]")
		default:
			var members []string
			for _, item := range rapid.SliceOfN(jsonText(depth-1), 0, 4).Draw(t, "members") {
				members = append(members, quoted.Draw(t, "key")+":"+item)
			}
			return pad("{" + strings.Join(members, ",") + "}")
		}
	})
}

func TestAnyDocumentComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := []byte(jsonText(4).Draw(t, "value"))
		for i, d := range encodeDocument(value, config.ContentTypeJSON) {
			got, contentType, sum, err := d.decode(func([]byte) bool { return true })
			if err != nil || !bytes.Equal(got, value) || contentType != config.ContentTypeJSON || len(sum) != sumSize {
				t.Fatalf("form %d: came back as %q, %s, %v", i, got, contentType, err)
			}
		}
		attribute, canonical, ok := native(value)
		if !ok {
			return
		}
		_, again, ok := native(canonical)
		if !ok || !bytes.Equal(again, canonical) || !json.Valid(canonical) {
			t.Fatalf("the canonical text %q becomes %q", canonical, again)
		}
		if _, text := attribute.(*types.AttributeValueMemberS); !text && attributeSize(attribute) < 1 {
			t.Fatalf("size %d", attributeSize(attribute))
		}
	})
}

// Numbers keep their exact value, whatever their notation.
func TestAnyNumberIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "number")
		d, ok := parseDecimal(text)
		if !ok {
			t.Fatalf("%s was refused", text)
		}
		want, _ := new(big.Rat).SetString(text)
		got, ok := new(big.Rat).SetString(d.String())
		if !ok || want.Cmp(got) != 0 {
			t.Fatalf("%s became %s", text, d)
		}
		if again, _ := parseDecimal(d.String()); again != d {
			t.Fatalf("%s is read as %+v, was %+v", d, again, d)
		}
	})
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]string{
		"0": "0", "-0": "0", "0.000": "0", "00012": "12", "1.50": "1.5", "1E+2": "100", "325E-2": "3.25", "1e20": "100000000000000000000",
		"1e21": "1e+21", "0.000001": "0.000001", "1e-7": "1e-7", "-12.5e1": "-125", "123456e-3": "123.456", "+7": "7", "1.25e-10": "1.25e-10",
	} {
		if d, ok := parseDecimal(text); !ok || d.String() != want {
			t.Errorf("%s: %s, %t, want %s", text, d, ok, want)
		}
	}
	for _, text := range []string{"", "-", "+", "--1", "+-1", ".", "e5", "1e", "1e1.5", "0x1", "NaN", "Infinity", "1 ", "1_0", "1e99999999999"} {
		if d, ok := parseDecimal(text); ok {
			t.Errorf("%q was read as %s", text, d)
		}
	}
	for text, want := range map[string]uint64{"0": 0, "7": 7, "7.0": 7, "7E0": 7, "18446744073709551615": 1<<64 - 1, "1e19": 10_000_000_000_000_000_000} {
		d, _ := parseDecimal(text)
		if got, ok := d.uint64(); !ok || got != want {
			t.Errorf("%s: %d, %t", text, got, ok)
		}
	}
	for _, text := range []string{"-1", "1.5", "18446744073709551616", "1e25", "1e-1"} {
		d, _ := parseDecimal(text)
		if got, ok := d.uint64(); ok {
			t.Errorf("%s: %d", text, got)
		}
	}
}

// What does not fit beside its bytes is stored as bytes alone, and what does not
// fit at all is refused before it is sent.
func TestLargeDocuments(t *testing.T) {
	s, other := fresh(t, Options{MaxValue: maxMaxValue})
	digits := "[" + strings.Repeat("1,", 150_000) + "1]" // 300 kB of text, 600 kB of attributes
	wide := `{"b":"` + strings.Repeat("x", 380<<10) + `","a":1}`
	for name, c := range map[string]struct {
		value  string
		native bool
	}{
		"more attributes than bytes": {digits, false},
		"out of order":               {wide, true},
	} {
		put(t, s, limits(t), c.value)
		if got := get(t, s, limits(t)); string(got.Value) != c.value {
			t.Errorf("%s: came back with %d bytes", name, len(got.Value))
		}
		if _, isBytes := other.get(acmePK, limitsSK)[attrConfig].(*types.AttributeValueMemberB); isBytes == c.native {
			t.Errorf("%s: as bytes: %t", name, isBytes)
		}
	}
	before := put(t, s, limits(t), `"small"`).Version
	_, err := s.Put(t.Context(), driver.PutRequest{
		ID: limits(t), Value: bytes.Repeat([]byte{'x'}, maxMaxValue), ContentType: "image/png", Message: strings.Repeat("m", 20<<10),
	})
	wantCode(t, err, config.InvalidArgument)
	// The same with attributes of another tool, which only DynamoDB knows of.
	other.set(acmePK, limitsSK, item{"theirs": str(strings.Repeat("t", 150<<10))})
	_, err = s.Put(t.Context(), driver.PutRequest{ID: limits(t), Value: bytes.Repeat([]byte{'x'}, 300<<10), ContentType: "image/png"})
	wantCode(t, err, config.InvalidArgument)
	if got := get(t, s, limits(t)); got.Version != before {
		t.Errorf("a write that was refused made version %d", got.Version)
	}
	put(t, s, limits(t), `"small"`)
}

// itemSize is never below what DynamoDB counts: an item of just that size is
// taken, and one that DynamoDB refuses is over it.
func TestItemSizeIsAnUpperBound(t *testing.T) {
	_, other := fresh(t, Options{})
	base := item{attrPK: str("a"), attrSK: str("b"), "n": number(1234567), "neg": &types.AttributeValueMemberN{Value: "-1.25"}, "t": boolean(true), "l": &types.AttributeValueMemberL{
		Value: []types.AttributeValue{str("x"), &types.AttributeValueMemberM{Value: item{"k": number(1)}}, &types.AttributeValueMemberNULL{Value: true}},
	}}
	base["pad"] = str(strings.Repeat("x", maxItem-itemSize(base)-len("pad")))
	if n := itemSize(base); n != maxItem {
		t.Fatalf("size %d", n)
	}
	other.put(base)
}
