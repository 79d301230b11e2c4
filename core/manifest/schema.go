package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tagstore/tagstore/core/config"
)

// schemaURL is what a schema without an $id is called while it is compiled.
const schemaURL = "tagstore:///schema.json"

// CompileSchema compiles one self-contained JSON Schema, of draft 2020-12
// unless its $schema names another. "format" is asserted. Nothing is ever
// loaded: a $ref that leads out of data is an error, whatever its scheme. The
// error is a *config.Error with code InvalidArgument.
func CompileSchema(data []byte) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, badSchema("the schema is not JSON: %s", err).WithHint("mend the file's JSON")
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	c.UseLoader(nothingOutside{})
	if err := c.AddResource(schemaURL, doc); err != nil {
		return nil, badSchema("the schema is not valid JSON Schema: %s", err).WithHint("mend what it names")
	}
	schema, err := c.Compile(schemaURL)
	var outside *jsonschema.LoadURLError
	switch {
	case errors.As(err, &outside):
		return nil, badSchema("the schema refers to something outside its file").
			WithHint("move what it refers to into its $defs")
	case err != nil:
		return nil, badSchema("the schema is not valid JSON Schema: %s", err).WithHint("mend what it names")
	}
	return schema, nil
}

// badSchema puts the compiler's findings, which it spreads over several lines,
// onto one.
func badSchema(format string, args ...any) *config.Error {
	text := strings.Join(strings.Fields(strings.ReplaceAll(fmt.Sprintf(format, args...), schemaURL, "")), " ")
	const most = 400
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return &config.Error{Op: "manifest.CompileSchema", Code: config.InvalidArgument, Message: text}
}

var errOutside = errors.New("a reference leads outside the schema")

// nothingOutside is a loader that loads nothing. The drafts' own meta-schemas
// are part of the compiler and need none.
type nothingOutside struct{}

func (nothingOutside) Load(string) (any, error) { return nil, errOutside }
