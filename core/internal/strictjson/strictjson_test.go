package strictjson_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/internal/strictjson"
)

const depth = 4

func TestCheck(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"scalar", `1`, ""},
		{"string", `"a\u0000b"`, ""},
		{"object", `{"a":[{"a":1},{"a":2}],"b":"a"}`, ""},
		{"values are not names", `{"a":"a","b":["b","b"]}`, ""},
		{"as deep as may be", `[[[[1]]]]`, ""},
		{"too deep", `[[[[[1]]]]]`, "nests deeper than 4 levels"},
		{"name twice", `{"a":1,"a":2}`, "has an object key twice, before byte 10"},
		{"name twice by an escape", `{"a":1,"\u0061":2}`, "has an object key twice"},
		{"name twice further in", `[{"x":{"a":1,"a":2}}]`, "has an object key twice"},
		{"bad UTF-8", "\"\xff\"", "is not valid UTF-8"},
		{"nothing", ``, "is not one JSON value"},
		{"two values", `1 2`, "is not one JSON value"},
		{"cut short", `{"a":`, "is not "},
		{"NaN", `NaN`, "is not valid JSON near byte"},
		{"behind it", `{} x`, "is not valid JSON near byte"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := strictjson.Check([]byte(c.text), depth)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
				t.Errorf("the error is %v, want %s", err, c.want)
			}
		})
	}
}

// What is accepted is valid, and says the same when it is written anew.
func FuzzCheck(f *testing.F) {
	for _, seed := range []string{`{"a":[1,{"b":null}]}`, `{"a":1,"a":2}`, `[[[[]]]]`, `"\ud800"`, `1e999`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if strictjson.Check(data, depth) != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("%q was accepted and is not valid JSON", data)
		}
	})
}
