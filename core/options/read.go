package options

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/tagstore/tagstore/core/config"
)

// Option is one line of what can be said in a manifest.
type Option struct {
	Name     string // of an option within another one: "outer.inner"
	Type     string // of JSON; "list of string", "any"
	Default  string // as it would stand in a manifest; "" if there is none
	Required bool
	Doc      string
}

// maxDepth bounds how deep a schema is read: it comes from a plugin.
const maxDepth = 8

// Read lists the options of a schema in its order. Whatever a plugin in another
// language wrote is shown as far as it is understood; only what is not a schema
// at all is an error, with code InvalidArgument.
func Read(schema []byte) ([]Option, error) {
	if len(bytes.TrimSpace(schema)) == 0 {
		return nil, nil
	}
	all, err := read(schema, "", maxDepth)
	if err != nil {
		return nil, config.Errorf(config.InvalidArgument, "the schema of the options is not a JSON object").WithCause(err)
	}
	return all, nil
}

type property struct {
	Type        json.RawMessage `json:"type"`
	Description string          `json:"description"`
	Default     json.RawMessage `json:"default"`
	Enum        []any           `json:"enum"`
	Items       json.RawMessage `json:"items"`
	Properties  json.RawMessage `json:"properties"`
	Required    []string        `json:"required"`
}

func read(schema []byte, prefix string, depth int) ([]Option, error) {
	var object property
	if err := json.Unmarshal(schema, &object); err != nil {
		return nil, err
	}
	if len(object.Properties) == 0 || depth == 0 {
		return nil, nil
	}
	required := map[string]bool{}
	for _, name := range object.Required {
		required[name] = true
	}
	var all []Option
	d := json.NewDecoder(bytes.NewReader(object.Properties))
	if first, err := d.Token(); err != nil || first != json.Delim('{') {
		return nil, fmt.Errorf("properties is no object: %w", err)
	}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, err
		}
		var p property
		_ = json.Unmarshal(raw, &p) // a schema may also be true: then nothing is known
		all = append(all, Option{
			Name: prefix + name, Type: typeName(p), Default: defaultText(p.Default), Required: required[name],
			Doc: strings.Join(strings.Fields(p.Description), " "),
		})
		inner, err := read(raw, prefix+name+".", depth-1)
		if err == nil {
			all = append(all, inner...)
		}
	}
	return all, nil
}

func typeName(p property) string {
	var one string
	var several []string
	switch {
	case len(p.Enum) > 0:
		texts := make([]string, len(p.Enum))
		for i, v := range p.Enum {
			texts[i] = fmt.Sprint(v)
		}
		return strings.Join(texts, " or ")
	case json.Unmarshal(p.Type, &one) == nil:
	case json.Unmarshal(p.Type, &several) == nil:
		one = strings.Join(several, " or ")
	default:
		return "any"
	}
	if one != "array" {
		return one
	}
	var items property
	if len(p.Items) == 0 || json.Unmarshal(p.Items, &items) != nil {
		return "list"
	}
	return "list of " + typeName(items)
}

func defaultText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil && text != "" {
		return text
	}
	return string(raw)
}

// Table lays options out for a terminal, one a line behind indent.
func Table(all []Option, indent string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%sNAME\tTYPE\tDEFAULT\tWHAT IT IS\n", indent)
	for _, o := range all {
		standard := o.Default
		switch {
		case o.Required:
			standard = "(required)"
		case standard == "":
			standard = "-"
		}
		fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\n", indent, o.Name, o.Type, standard, o.Doc)
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}
