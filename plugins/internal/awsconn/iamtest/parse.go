package iamtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// action is the form of an action: a service, which holds no wildcard, and an
// operation.
var action = regexp.MustCompile(`^(\*|[a-z0-9-]+:[A-Za-z0-9*?]+)$`)

// Parse reads a policy document, of an identity or, where its statements name
// principals, of a resource or a role's trust. What this package does not know
// is an error, and so is what IAM accepts but does not act upon: a variable in a
// document without Version 2012-10-17.
func Parse(document []byte) (Policy, error) {
	p, err := parse(document)
	if err != nil {
		return Policy{}, fmt.Errorf("iamtest: %w", err)
	}
	return p, nil
}

func parse(document []byte) (Policy, error) {
	top, err := object(document, "Version", "Id", "Statement")
	if err != nil {
		return Policy{}, err
	}
	var version string
	if raw, ok := top["Version"]; ok {
		if err := json.Unmarshal(raw, &version); err != nil || version != "2012-10-17" && version != "2008-10-17" {
			return Policy{}, fmt.Errorf("version %s is none of IAM's", raw)
		}
	}
	variables := version == "2012-10-17"
	if !variables && bytes.Contains(document, []byte("${")) {
		return Policy{}, errors.New(`a "${" is only a variable with "Version": "2012-10-17"`)
	}
	raw, ok := top["Statement"]
	if !ok {
		return Policy{}, errors.New("there is no Statement")
	}
	list := []json.RawMessage{raw}
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("[")) {
		if err := json.Unmarshal(raw, &list); err != nil {
			return Policy{}, err
		}
	}
	if len(list) == 0 {
		return Policy{}, errors.New("there is no Statement")
	}
	var p Policy
	sids := map[string]bool{}
	for i, raw := range list {
		s, sid, err := parseStatement(raw, variables)
		if err != nil {
			return Policy{}, fmt.Errorf("statement %d: %w", i+1, err)
		}
		if sid != "" && sids[sid] {
			return Policy{}, fmt.Errorf("statement %d: the Sid %q stands twice", i+1, sid)
		}
		sids[sid] = true
		p.statements = append(p.statements, s)
	}
	return p, nil
}

func parseStatement(raw json.RawMessage, variables bool) (s statement, sid string, err error) {
	fields, err := object(raw, "Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Principal", "Condition")
	if err != nil {
		return s, "", err
	}
	if raw, ok := fields["Sid"]; ok {
		if err := json.Unmarshal(raw, &sid); err != nil {
			return s, "", errors.New("the Sid is no text")
		}
	}
	switch string(fields["Effect"]) {
	case `"Allow"`:
	case `"Deny"`:
		s.deny = true
	default:
		return s, "", errors.New("the Effect is neither Allow nor Deny")
	}
	if s.actions, s.notActions, err = either(fields, "Action", "NotAction"); err != nil {
		return s, "", err
	}
	if s.actions == nil {
		return s, "", errors.New("there is no Action")
	}
	for _, a := range s.actions {
		if !action.MatchString(a) {
			return s, "", fmt.Errorf("%q is no action", a)
		}
	}
	resources, not, err := either(fields, "Resource", "NotResource")
	if err != nil {
		return s, "", err
	}
	s.notResources = not
	for _, r := range resources {
		t, err := parseResource(r, variables)
		if err != nil {
			return s, "", err
		}
		s.resources = append(s.resources, t)
	}
	if raw, ok := fields["Principal"]; ok {
		if s.principals, err = parsePrincipal(raw); err != nil {
			return s, "", err
		}
	}
	if s.resources == nil && s.principals == nil {
		return s, "", errors.New("there is neither Resource nor Principal")
	}
	if raw, ok := fields["Condition"]; ok {
		if s.conditions, err = parseConditions(raw, variables); err != nil {
			return s, "", err
		}
	}
	return s, sid, nil
}

func parseResource(r string, variables bool) (text, error) {
	if r != "*" {
		parts := strings.SplitN(r, ":", 6)
		switch {
		case len(parts) != 6 || parts[0] != "arn":
			return nil, fmt.Errorf("the resource %q is neither \"*\" nor an ARN of six parts", r)
		case strings.ContainsAny(parts[2], "*?") || parts[2] == "":
			return nil, fmt.Errorf("the resource %q has a wildcard for its service, or none", r)
		case variables && strings.Contains(strings.Join(parts[:5], ":"), "${"):
			return nil, fmt.Errorf("the resource %q has a variable before its last part", r)
		case parts[5] == "":
			return nil, fmt.Errorf("the resource %q names nothing", r)
		}
	}
	return parseText(r, variables)
}

func parsePrincipal(raw json.RawMessage) ([]string, error) {
	if string(raw) == `"*"` {
		return []string{"*"}, nil
	}
	fields, err := object(raw, "AWS", "Service")
	if err != nil {
		return nil, fmt.Errorf("the Principal: %w", err)
	}
	var all []string
	for _, kind := range []string{"AWS", "Service"} {
		if raw, ok := fields[kind]; ok {
			some, err := texts(raw)
			if err != nil {
				return nil, fmt.Errorf("the Principal: %w", err)
			}
			all = append(all, some...)
		}
	}
	for _, p := range all {
		if p != "*" && strings.ContainsAny(p, "*?$") || p == "" {
			return nil, fmt.Errorf("the Principal %q has a wildcard in it: IAM takes none but \"*\" alone", p)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the Principal names nobody")
	}
	return all, nil
}

func parseConditions(raw json.RawMessage, variables bool) ([]condition, error) {
	operators, err := object(raw)
	if err != nil {
		return nil, fmt.Errorf("the Condition: %w", err)
	}
	var all []condition
	for operator, raw := range operators {
		keys, err := object(raw)
		if err != nil {
			return nil, fmt.Errorf("the Condition %s: %w", operator, err)
		}
		if len(keys) == 0 {
			return nil, fmt.Errorf("the Condition %s has no key", operator)
		}
		seen := map[string]bool{}
		for key, raw := range keys {
			if seen[strings.ToLower(key)] {
				return nil, fmt.Errorf("the Condition %s has the key %q twice: case does not tell them apart", operator, key)
			}
			seen[strings.ToLower(key)] = true
			values, err := texts(raw)
			if err != nil {
				return nil, fmt.Errorf("the Condition %s %s: %w", operator, key, err)
			}
			c, err := parseCondition(operator, key, values, variables)
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// either reads an element or its negation, of which one may stand.
func either(fields map[string]json.RawMessage, name, negated string) (values []string, not bool, err error) {
	raw, plain := fields[name]
	if other, ok := fields[negated]; ok {
		if plain {
			return nil, false, fmt.Errorf("there is both %s and %s", name, negated)
		}
		raw, not = other, true
	}
	if raw == nil {
		return nil, false, nil
	}
	values, err = texts(raw)
	if err == nil && len(values) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", name, err)
	}
	return values, not, nil
}

// texts reads one value or a list of them. A number or a boolean is its text.
func texts(raw json.RawMessage) ([]string, error) {
	list := []json.RawMessage{raw}
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("[")) {
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, err
		}
	}
	values := make([]string, 0, len(list))
	for _, raw := range list {
		raw = bytes.TrimSpace(raw)
		var s string
		switch {
		case json.Unmarshal(raw, &s) == nil && string(raw) != "null":
			values = append(values, s)
		case string(raw) == "true", string(raw) == "false", json.Unmarshal(raw, new(float64)) == nil && string(raw) != "null":
			values = append(values, string(raw))
		default:
			return nil, fmt.Errorf("%s is no text", raw)
		}
	}
	return values, nil
}

// object reads a JSON object whose names are among these, or any if there are
// none, and none of which stands twice.
func object(raw []byte, names ...string) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	first, err := d.Token()
	if err != nil {
		return nil, err
	}
	if first != json.Delim('{') {
		return nil, errors.New("it is no JSON object")
	}
	fields := map[string]json.RawMessage{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		if len(names) > 0 && !slices.Contains(names, name) {
			return nil, fmt.Errorf("the element %q is not known here", name)
		}
		if _, twice := fields[name]; twice {
			return nil, fmt.Errorf("the element %q stands twice", name)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		fields[name] = bytes.TrimSpace(value)
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something behind the object")
	}
	return fields, nil
}
