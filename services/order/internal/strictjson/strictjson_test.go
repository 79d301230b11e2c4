package strictjson_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/services/order/internal/strictjson"
)

type thing struct {
	name string
	n    int64
	on   bool
	list []int64
}

func read(data []byte, open bool) (thing, error) {
	var out thing
	err := strictjson.Parse(data, func(r *strictjson.Reader) error {
		object := r.Object
		if open {
			object = r.OpenObject
		}
		return object(
			strictjson.Field{Name: "name", Required: true, Read: func() error { return r.String(&out.name) }},
			strictjson.Field{Name: "n", Read: func() error { return r.Int(&out.n) }},
			strictjson.Field{Name: "on", Read: func() error { return r.Bool(&out.on) }},
			strictjson.Field{Name: "list", Read: func() error {
				return r.Array(2, func() error {
					var i int64
					err := r.Int(&i)
					out.list = append(out.list, i)
					return err
				})
			}},
		)
	})
	return out, err
}

func TestObject(t *testing.T) {
	got, err := read([]byte(` {"n": -9223372036854775808, "on": true, "name": "\u00e9", "list": [1, 2]} `), false)
	if err != nil {
		t.Fatal(err)
	}
	if got.name != "é" || got.n != -1<<63 || !got.on || len(got.list) != 2 || got.list[1] != 2 {
		t.Errorf("read %+v", got)
	}
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"empty":             {"", "the JSON text is not valid JSON at byte 0"},
		"cut":               {`{"name":`, "not valid JSON"},
		"trailing":          {`{"name":"a"} {}`, "not valid JSON at byte 14"},
		"comma":             {`{"name":"a",}`, "not valid JSON"},
		"bad UTF-8":         {"{\"name\":\"\xff\"}", "the JSON text is not valid UTF-8"},
		"byte order mark":   {"\ufeff{}", "not valid JSON"},
		"not an object":     {`[]`, "the JSON text must be an object"},
		"null":              {`null`, "the JSON text must be an object"},
		"missing":           {`{}`, "name is required"},
		"unknown":           {`{"name":"a","x":1}`, `the JSON text has the unknown field "x"`},
		"other case":        {`{"Name":"a"}`, `unknown field "Name"`},
		"twice":             {`{"name":"a","name":"b"}`, `has the field "name" twice`},
		"twice by escape":   {`{"name":"a","\u006eame":"b"}`, `has the field "name" twice`},
		"null member":       {`{"name":null}`, "name must be a string"},
		"number as string":  {`{"name":"a","n":"1"}`, "n must be an integer"},
		"fraction":          {`{"name":"a","n":1.0}`, "n must be an integer of 64 bits"},
		"exponent":          {`{"name":"a","n":1e3}`, "n must be an integer of 64 bits"},
		"too big":           {`{"name":"a","n":9223372036854775808}`, "n must be an integer of 64 bits"},
		"number as bool":    {`{"name":"a","on":1}`, "on must be true or false"},
		"object as array":   {`{"name":"a","list":{}}`, "list must be an array"},
		"wrong element":     {`{"name":"a","list":[1,"2"]}`, "list[1] must be an integer"},
		"too many elements": {`{"name":"a","list":[1,2,3]}`, "list has more than 2 elements"},
		"too deep":          {strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "not valid JSON"},
		"deep where flat":   {`{"name":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, "name must be a string"},
		"long name":         {`{"` + strings.Repeat("é", 100) + `":1}`, `unknown field "` + strings.Repeat("é", 16) + `…"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read([]byte(tc.text), false)
			var e *strictjson.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestOpenObjectSkipsWhatItDoesNotKnow(t *testing.T) {
	got, err := read([]byte(`{"x":{"name":[1,{}]},"name":"a","y":null}`), true)
	if err != nil || got.name != "a" {
		t.Errorf("read %+v, %v", got, err)
	}
	if _, err := read([]byte(`{"x":1,"name":"a","x":2}`), true); err == nil {
		t.Error("an unknown field was accepted twice")
	}
}

// Whatever is accepted is JSON that the standard library reads the same way.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"name":"a","n":1,"on":true,"list":[1,2]}`))
	f.Add([]byte(`{"name":"\ud800"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := read(data, false)
		if err != nil {
			var e *strictjson.Error
			if !errors.As(err, &e) {
				t.Fatalf("error of type %T: %v", err, err)
			}
			return
		}
		var want struct {
			Name string  `json:"name"`
			N    int64   `json:"n"`
			On   bool    `json:"on"`
			List []int64 `json:"list"`
		}
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatalf("accepted, but encoding/json says: %v", err)
		}
		if want.Name != got.name || want.N != got.n || want.On != got.on || len(want.List) != len(got.list) {
			t.Fatalf("read %+v, encoding/json read %+v", got, want)
		}
	})
}
