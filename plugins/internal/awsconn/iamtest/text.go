package iamtest

import (
	"fmt"
	"strings"
)

// text is a policy's text with its wildcards and variables taken apart.
type text []piece

// piece is a literal, in which wildcards are anyRun and anyByte, or a variable.
type piece struct {
	literal  string
	variable string // the condition key in lower case; "" for a literal
	fallback *string
}

// parseText takes s apart. Without variables every '$' is one.
func parseText(s string, variables bool) (text, error) {
	if strings.ContainsAny(s, string(anyRun)+string(anyByte)) {
		return nil, fmt.Errorf("%q has a control character", s)
	}
	var t text
	for variables {
		before, rest, ok := strings.Cut(s, "${")
		if !ok {
			break
		}
		inner, after, ok := cutVariable(rest)
		if !ok {
			return nil, fmt.Errorf("%q has a ${ that is not closed", s)
		}
		p, err := parseVariable(inner)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		t = append(t, piece{literal: wildcards.Replace(before)}, p)
		s = after
	}
	return append(t, piece{literal: wildcards.Replace(s)}), nil
}

// cutVariable finds the brace that closes a variable. One in the quotes of a
// default value does not.
func cutVariable(s string) (inner, after string, ok bool) {
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '\'':
			quoted = !quoted
		case s[i] == '}' && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	return "", "", false
}

func parseVariable(inner string) (piece, error) {
	if inner == "*" || inner == "?" || inner == "$" {
		return piece{literal: inner}, nil // the character itself
	}
	name, fallback, has := strings.Cut(inner, ",")
	name = strings.TrimSpace(name)
	if !strings.Contains(name, ":") || strings.ContainsAny(name, " *?${}'") {
		return piece{}, fmt.Errorf("${%s} names no condition key", inner)
	}
	p := piece{variable: strings.ToLower(name)}
	if has {
		fallback = strings.TrimSpace(fallback)
		if len(fallback) < 2 || fallback[0] != '\'' || fallback[len(fallback)-1] != '\'' {
			return piece{}, fmt.Errorf("the default value of ${%s} is not in single quotes", inner)
		}
		value := strings.ReplaceAll(fallback[1:len(fallback)-1], "''", "'")
		p.fallback = &value
	}
	return p, nil
}

// expand puts the variables' values in. It is false if one has none, or
// several: such a text matches nothing.
func (t text) expand(keys map[string][]string) (pattern string, ok bool) {
	var b strings.Builder
	for _, p := range t {
		if p.variable == "" {
			b.WriteString(p.literal)
			continue
		}
		values := keys[p.variable]
		switch {
		case len(values) == 1:
			b.WriteString(values[0])
		case len(values) == 0 && p.fallback != nil:
			b.WriteString(*p.fallback)
		default:
			return "", false
		}
	}
	return b.String(), true
}

// hasVariable reports whether a variable stands in t, apart from the escaped
// characters.
func (t text) hasVariable() bool {
	for _, p := range t {
		if p.variable != "" {
			return true
		}
	}
	return false
}
