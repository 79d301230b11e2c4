package options

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	santhosh "github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tagstore/tagstore/core/config"
)

type connection struct {
	Timeout string `json:"timeout" default:"5s" doc:"bounds one call"`
}

type tagged struct {
	Path  string   `json:"path" required:"true" doc:"the data file"`
	Limit int      `json:"limit" default:"100" doc:"versions that are kept"`
	Sync  *bool    `json:"sync" default:"true" doc:"writes wait for the disk"`
	Hosts []string `json:"hosts" default:"[\"a\",\"b\"]" doc:"where it is"`
	Wait  duration `json:"wait" default:"2s" doc:"how long"`
	Part  *string  `json:"part" doc:"stands for nothing"`
	Deep  struct {
		Inner int `json:"inner" default:"7" doc:"further in"`
	} `json:"deep"`
	connection
}

func TestDefaultsAreFilledIn(t *testing.T) {
	got, err := Decode[tagged]([]byte(`{"path":"p","limit":3}`))
	if err != nil {
		t.Fatal(err)
	}
	want := tagged{Path: "p", Limit: 3, Sync: new(true), Hosts: []string{"a", "b"}, Wait: duration(2 * time.Second), connection: connection{Timeout: "5s"}}
	want.Deep.Inner = 7
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(tagged{}, connection{})); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	if got, err := Decode[tagged]([]byte(`{"path":"p","sync":false}`)); err != nil || *got.Sync {
		t.Errorf("false became %v, %v", *got.Sync, err)
	}
	if d := Defaults[tagged](); d.Limit != 100 || d.Timeout != "5s" || d.Path != "" {
		t.Errorf("defaults are %+v", d)
	}
}

func TestRequiredOptionIsMissing(t *testing.T) {
	for _, raw := range []string{"", "{}", `{"path":""}`} {
		_, err := Decode[tagged]([]byte(raw))
		if !errors.Is(err, config.InvalidArgument) || !strings.Contains(err.Error(), "path is missing: the data file") {
			t.Errorf("%q gave %v", raw, err)
		}
	}
}

func TestWrongTagIsFound(t *testing.T) {
	type wrong struct {
		N int `json:"n" default:"many"`
	}
	type fraction struct {
		N int `json:"n" default:"1.5"`
	}
	type always struct {
		B bool `json:"n" default:"true"`
	}
	_, err4 := Schema[always]()
	_, err := Schema[wrong]()
	_, err2 := Schema[fraction]()
	_, err3 := Decode[wrong](nil)
	for _, err := range []error{err, err2, err3, err4} {
		if !errors.Is(err, config.Internal) || !strings.Contains(err.Error(), `"n"`) {
			t.Errorf("got %v", err)
		}
	}
}

// The schema accepts what Decode accepts, and refuses what it refuses.
func TestSchemaSaysWhatDecodeDoes(t *testing.T) {
	raw, err := Schema[tagged]()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := santhosh.UnmarshalJSON(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	compiler := santhosh.NewCompiler()
	if err := compiler.AddResource("mem:options", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("mem:options")
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	for text, ok := range map[string]bool{
		`{"path":"p"}`: true,
		`{"path":"p","limit":1,"sync":false,"hosts":["x"],"wait":"1s","part":"q","deep":{"inner":2},"timeout":"1s"}`: true,
		`{}`:                             false,
		`{"path":5}`:                     false,
		`{"path":"p","limit":"many"}`:    false,
		`{"path":"p","limit":1.5}`:       false,
		`{"path":"p","sync":"yes"}`:      false,
		`{"path":"p","hosts":"a"}`:       false,
		`{"path":"p","wait":2}`:          false,
		`{"path":"p","deep":{"x":1}}`:    false,
		`{"path":"p","other":1}`:         false,
		`{"path":"p","connection":{}}`:   false,
		`{"path":"p","timeout":{"a":1}}`: false,
	} {
		value, err := santhosh.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		_, decoded := Decode[tagged]([]byte(text))
		if validated := schema.Validate(value); (validated == nil) != ok || (decoded == nil) != ok {
			t.Errorf("%s: schema says %v, Decode says %v, want accepted %v", text, validated, decoded, ok)
		}
	}
}

func TestReadListsOptions(t *testing.T) {
	raw, err := Schema[tagged]()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := []Option{
		{"path", "string", "", true, "the data file"},
		{"limit", "integer", "100", false, "versions that are kept"},
		{"sync", "boolean", "true", false, "writes wait for the disk"},
		{"hosts", "list of string", `["a","b"]`, false, "where it is"},
		{"wait", "string", "2s", false, "how long"},
		{"part", "string", "", false, "stands for nothing"},
		{"deep", "object", "", false, ""},
		{"deep.inner", "integer", "7", false, "further in"},
		{"timeout", "string", "5s", false, "bounds one call"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options (-want +got):\n%s\n%s", diff, raw)
	}
	table := Table(got, "  ")
	for _, line := range []string{
		"  NAME        TYPE            DEFAULT     WHAT IT IS",
		"  path        string          (required)  the data file",
		"  part        string          -           stands for nothing",
	} {
		if !strings.Contains(table, line+"\n") {
			t.Errorf("%q is not in\n%s", line, table)
		}
	}
}

// What a plugin sends may be anything.
func TestReadOfForeignSchemas(t *testing.T) {
	for text, want := range map[string]int{
		``: 0, `{}`: 0, `{"properties":{}}`: 0, `{"properties":{"a":true,"b":{"type":["string","null"]},"c":{"enum":[1,"x"]}}}`: 3,
	} {
		if got, err := Read([]byte(text)); err != nil || len(got) != want {
			t.Errorf("%s gave %v, %v", text, got, err)
		}
	}
	for _, text := range []string{`[]`, `5`, `x`, `{"properties":[]}`, `{"properties":{"a":`} {
		if got, err := Read([]byte(text)); !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%s gave %v, %v", text, got, err)
		}
	}
	deep := strings.Repeat(`{"properties":{"a":`, 10_000) + "{}" + strings.Repeat("}}", 10_000)
	if got, _ := Read([]byte(deep)); len(got) > maxDepth {
		t.Errorf("%d options", len(got))
	}
}

func TestSchemaOfOtherTypes(t *testing.T) {
	for name, make := range map[string]func() (json.RawMessage, error){
		"none": Schema[struct{}], "map": Schema[map[string]json.RawMessage],
	} {
		if raw, err := make(); err != nil || !json.Valid(raw) {
			t.Errorf("%s: %s, %v", name, raw, err)
		}
	}
}
