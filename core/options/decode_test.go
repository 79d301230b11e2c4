package options

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
)

type shared struct {
	Region string `json:"region"`
}

type duration time.Duration

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = duration(v)
	return err
}

type testOptions struct {
	shared
	Path    string   `json:"path"`
	Max     int      `json:"max"`
	Sync    bool     `json:"sync"`
	Names   []string `json:"names"`
	Timeout duration `json:"timeout"`
	Deep    struct {
		Inner string `json:"inner"`
	} `json:"deep"`
	Plain   string
	Ignored string `json:"-"`
}

func TestDecodeOptions(t *testing.T) {
	want := testOptions{Path: "p", Max: 3, Sync: true, Names: []string{"a"}, Timeout: duration(time.Second), Plain: "q"}
	want.Region, want.Deep.Inner = "r", "i"
	got, err := Decode[testOptions]([]byte(
		`{"path":"p","max":3,"sync":true,"names":["a"],"timeout":"1s","deep":{"inner":"i"},"region":"r","Plain":"q"}`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(testOptions{})); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	for _, empty := range []string{"", " \n", "{}"} {
		if got, err := Decode[testOptions]([]byte(empty)); err != nil || !reflect.DeepEqual(got, testOptions{}) {
			t.Errorf("%q gave %+v, %v", empty, got, err)
		}
	}
}

func TestDecodeOptionsRefuses(t *testing.T) {
	for _, c := range []struct{ name, raw, says string }{
		{"unknown", `{"pth": "x"}`, `unknown option "pth" (the options are Plain, deep, max, names, path, region, sync, timeout)`},
		{"two unknown", `{"a": 1, "b": {"c": [1]}}`, `unknown option "a", "b"`},
		{"another case", `{"Path": "x"}`, `unknown option "Path"`},
		{"hidden", `{"Ignored": "x"}`, `unknown option "Ignored"`},
		{"unknown inside", `{"deep": {"outer": "x"}}`, `unknown field "outer"`},
		{"twice", `{"path": "x", "path": "y"}`, `option "path" stands twice`},
		{"behind", `{"path": "x"} {}`, `behind the options' closing brace`},
		{"behind, not JSON", `{"path": "x"}]`, `behind the options' closing brace`},
		{"string", `{"path": 5}`, `option "path" must be a string, not a JSON number`},
		{"number", `{"max": "many"}`, `option "max" must be a whole number, not a JSON string`},
		{"fraction", `{"max": 1.5}`, `option "max" must be a whole number, not a JSON number`},
		{"bool", `{"sync": "yes"}`, `option "sync" must be true or false`},
		{"list", `{"names": "a"}`, `option "names" must be a list`},
		{"object", `{"deep": []}`, `option "deep" must be an object`},
		{"inside", `{"deep": {"inner": 1}}`, `option "deep.inner" must be a string`},
		{"own type", `{"timeout": "soon"}`, `"soon"`},
		{"not an object", `[1]`, `not a JSON object`},
		{"null", `null`, `not a JSON object`},
		{"cut short", `{"path": `, `not valid JSON`},
		{"not JSON", `path=x`, `not valid JSON`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Decode[testOptions]([]byte(c.raw))
			if !errors.Is(err, config.InvalidArgument) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want it to say %s", err, c.says)
			}
		})
	}
	if _, err := Decode[struct{}]([]byte(`{"x":1}`)); err == nil || !strings.Contains(err.Error(), "has no options") {
		t.Errorf("got %v", err)
	}
}

// A type that is not a plain struct decides for itself.
func TestDecodeOptionsOfOtherTypes(t *testing.T) {
	m, err := Decode[map[string]json.RawMessage]([]byte(`{"anything": 1}`))
	if err != nil || len(m) != 1 {
		t.Errorf("got %v, %v", m, err)
	}
}

func FuzzDecodeOptions(f *testing.F) {
	f.Add([]byte(`{"path":"p","deep":{"inner":"i"}}`))
	f.Add([]byte(`{"path":"p","path":"q"}{`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, err := Decode[testOptions](raw)
		if err != nil && !errors.Is(err, config.InvalidArgument) {
			t.Errorf("code %v: %v", config.CodeOf(err), err)
		}
		if err == nil && len(raw) > 0 && strings.TrimSpace(string(raw)) != "" && !json.Valid(raw) {
			t.Errorf("%q was accepted", raw)
		}
	})
}
