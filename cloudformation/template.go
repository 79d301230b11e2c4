// Package cloudformation reads the templates beside it as CloudFormation does: it
// resolves what they refer to and evaluates them with given parameters, nested
// stacks included, so that tests can say of a stack what it would be.
package cloudformation

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Template is one template. What is an intrinsic function in it has the long
// form: a map with the one key "Ref", "Condition" or "Fn::…".
type Template struct {
	File string
	// The sections that there are, by name.
	Sections map[string]map[string]any
}

// sections are what a template may have at its top.
var sections = map[string]bool{
	"AWSTemplateFormatVersion": false, "Description": false,
	"Metadata": true, "Parameters": true, "Mappings": true, "Conditions": true, "Rules": true, "Resources": true, "Outputs": true,
}

// Read reads the template in a file.
func Read(file string) (*Template, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return Parse(filepath.Base(file), text)
}

// Parse reads a template from its text.
func Parse(file string, text []byte) (*Template, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	value, err := plain(&document)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	top, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: is no map", file)
	}
	t := &Template{File: file, Sections: map[string]map[string]any{}}
	for name, content := range top {
		isMap, known := sections[name]
		if !known {
			return nil, fmt.Errorf("%s: there is no section %s", file, name)
		}
		if !isMap {
			continue
		}
		if t.Sections[name], ok = content.(map[string]any); !ok {
			return nil, fmt.Errorf("%s: %s is no map", file, name)
		}
	}
	return t, nil
}

// plain turns a node into maps, lists and scalars.
func plain(n *yaml.Node) (any, error) {
	if n.Kind == yaml.DocumentNode {
		return plain(n.Content[0])
	}
	function := ""
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		function = strings.TrimPrefix(n.Tag, "!")
	}
	var value any
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if _, twice := m[key]; twice {
				return nil, fmt.Errorf("line %d: %s stands there twice", n.Content[i].Line, key)
			}
			v, err := plain(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			m[key] = v
		}
		value = m
	case yaml.SequenceNode:
		list := []any{}
		for _, c := range n.Content {
			v, err := plain(c)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		value = list
	case yaml.ScalarNode:
		if function != "" {
			value = n.Value
			break
		}
		switch n.ShortTag() {
		case "!!bool":
			value = n.Value == "true"
		case "!!null":
			value = nil
		case "!!int":
			i, err := strconv.Atoi(n.Value)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n.Line, err)
			}
			value = i
		case "!!float":
			f, err := strconv.ParseFloat(n.Value, 64)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n.Line, err)
			}
			value = f
		default:
			value = n.Value
		}
	default:
		return nil, fmt.Errorf("line %d: anchors and aliases are not read", n.Line)
	}
	switch function {
	case "":
		return value, nil
	case "Ref", "Condition":
		return map[string]any{function: value}, nil
	case "GetAtt":
		if s, ok := value.(string); ok {
			name, attribute, _ := strings.Cut(s, ".")
			value = []any{name, attribute}
		}
	}
	return map[string]any{"Fn::" + function: value}, nil
}

// Call is an intrinsic function in a template.
type Call struct {
	Where    string // the path to it, such as Resources.Table.Properties.Name
	Function string
	Argument any
}

// calls tells each intrinsic function in value to visit, the outer one first.
func calls(where string, value any, visit func(Call)) {
	switch v := value.(type) {
	case map[string]any:
		if name, argument, ok := intrinsic(v); ok {
			visit(Call{Where: where, Function: name, Argument: argument})
		}
		for key, inner := range v {
			calls(where+"."+key, inner, visit)
		}
	case []any:
		for i, inner := range v {
			calls(where+"."+strconv.Itoa(i), inner, visit)
		}
	}
}

// intrinsic reports whether m is a call. A policy's Condition is a map, that of
// CloudFormation a name.
func intrinsic(m map[string]any) (name string, argument any, ok bool) {
	if len(m) != 1 {
		return "", nil, false
	}
	for name, argument = range m {
		_, isText := argument.(string)
		if name == "Ref" || strings.HasPrefix(name, "Fn::") || name == "Condition" && isText {
			return name, argument, true
		}
	}
	return "", nil, false
}

// pseudo are the parameters that every template has.
var pseudo = map[string]any{
	"AWS::AccountId": "123456789012", "AWS::Region": "eu-central-1", "AWS::Partition": "aws",
	"AWS::URLSuffix": "amazonaws.com", "AWS::NoValue": noValue, "AWS::StackName": "stack",
	"AWS::StackId": "arn:aws:cloudformation:eu-central-1:123456789012:stack/stack/1",
}

// variables returns what a text of Fn::Sub refers to, ${!literals} apart.
func variables(text string) []string {
	var names []string
	for {
		_, rest, found := strings.Cut(text, "${")
		if !found {
			return names
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return append(names, rest) // which resolves to nothing
		}
		if !strings.HasPrefix(name, "!") {
			names = append(names, name)
		}
		text = after
	}
}

// Resource returns what a template says of a resource.
func (t *Template) Resource(name string) (map[string]any, bool) {
	r, ok := t.Sections["Resources"][name].(map[string]any)
	return r, ok
}

// Type returns the type of a resource.
func (t *Template) Type(name string) string {
	r, _ := t.Resource(name)
	kind, _ := r["Type"].(string)
	return kind
}

// Unresolved returns, one line each, what a template refers to and does not
// have. nested returns the template of a nested stack by its TemplateURL.
func (t *Template) Unresolved(nested func(url string) (*Template, bool)) []string {
	var wrong []string
	say := func(where, format string, args ...any) {
		wrong = append(wrong, t.File+": "+where+": "+fmt.Sprintf(format, args...))
	}
	has := func(section, name string) bool { _, ok := t.Sections[section][name]; return ok }
	ref := func(where, name string) {
		_, isPseudo := pseudo[name]
		if !isPseudo && !has("Parameters", name) && !has("Resources", name) {
			say(where, "nothing is called %s", name)
		}
	}
	attribute := func(where, name, attr string) {
		switch {
		case !has("Resources", name):
			say(where, "there is no resource %s", name)
		case attr == "":
			say(where, "no attribute of %s is named", name)
		case t.Type(name) == stackType:
			r, _ := t.Resource(name)
			properties, _ := r["Properties"].(map[string]any)
			url, _ := properties["TemplateURL"].(string)
			inner, known := nested(url)
			output, isOutput := strings.CutPrefix(attr, "Outputs.")
			if !known || !isOutput || inner.Sections["Outputs"][output] == nil {
				say(where, "the stack %s has no %s", name, attr)
			}
		}
	}
	condition := func(where string, name any) {
		if s, ok := name.(string); !ok || !has("Conditions", s) {
			say(where, "there is no condition %v", name)
		}
	}
	for section, content := range t.Sections {
		if section == "Metadata" {
			continue
		}
		calls(section, content, func(c Call) {
			switch c.Function {
			case "Ref":
				name, _ := c.Argument.(string)
				ref(c.Where, name)
			case "Condition":
				// The same key names the condition of a resource or an output.
				condition(c.Where, c.Argument)
			case "Fn::GetAtt":
				pair, _ := c.Argument.([]any)
				if len(pair) != 2 {
					say(c.Where, "GetAtt takes a resource and an attribute")
					return
				}
				name, _ := pair[0].(string)
				attr, _ := pair[1].(string)
				attribute(c.Where, name, attr)
			case "Fn::Sub":
				text, isText := c.Argument.(string)
				var own map[string]any
				if pair, ok := c.Argument.([]any); ok && len(pair) == 2 {
					text, isText = pair[0].(string)
					own, _ = pair[1].(map[string]any)
				}
				if !isText {
					say(c.Where, "Sub takes a text")
				}
				for _, name := range variables(text) {
					resource, attr, dotted := strings.Cut(name, ".")
					if _, mine := own[name]; mine {
						continue
					}
					if dotted {
						attribute(c.Where, resource, attr)
					} else {
						ref(c.Where, name)
					}
				}
			case "Fn::If":
				list, _ := c.Argument.([]any)
				if len(list) != 3 {
					say(c.Where, "If takes a condition and two values")
					return
				}
				condition(c.Where, list[0])
			case "Fn::FindInMap":
				list, _ := c.Argument.([]any)
				if len(list) != 3 {
					say(c.Where, "FindInMap takes a map and two keys")
					return
				}
				name, _ := list[0].(string)
				rows, ok := t.Sections["Mappings"][name].(map[string]any)
				if !ok {
					say(c.Where, "there is no mapping %s", name)
				}
				for row, columns := range rows {
					m, _ := columns.(map[string]any)
					key, isText := list[2].(string)
					if _, ok := m[key]; isText && !ok {
						say(c.Where, "row %s of %s has no %s", row, name, key)
					}
				}
			}
		})
	}
	for name := range t.Sections["Resources"] {
		r, _ := t.Resource(name)
		if c, ok := r["Condition"]; ok {
			condition(name, c)
		}
		needs, _ := r["DependsOn"].([]any)
		if one, ok := r["DependsOn"].(string); ok {
			needs = []any{one}
		}
		for _, n := range needs {
			if s, ok := n.(string); !ok || !has("Resources", s) {
				say(name, "depends on %v, which is not there", n)
			}
		}
	}
	for name, output := range t.Sections["Outputs"] {
		o, _ := output.(map[string]any)
		if c, ok := o["Condition"]; ok {
			condition(name, c)
		}
	}
	return wrong
}
