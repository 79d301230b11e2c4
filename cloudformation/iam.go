package cloudformation

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Statement is a statement of a policy, with what may be one thing as a list.
type Statement struct {
	Sid, Effect                  string
	Actions, Resources           []string
	Principals                   map[string][]string // by kind: AWS, Service; "*" for everybody
	Condition                    map[string]map[string][]string
	statesResource, hasPrincipal bool
}

// Request is what somebody asks of AWS.
type Request struct {
	Action, Resource string
	// Context has the condition keys of the request and of who makes it, in lower
	// case, as IAM compares them. A key that is not there is absent.
	Context map[string][]string
}

// Statements reads those of a policy document. What this evaluator does not know
// is an error, never passed over.
func Statements(document any) ([]Statement, error) {
	d, ok := document.(map[string]any)
	if !ok || d["Version"] != "2012-10-17" {
		return nil, fmt.Errorf("a policy has the version 2012-10-17")
	}
	bodies, ok := d["Statement"].([]any)
	if !ok {
		bodies = []any{d["Statement"]}
	}
	var all []Statement
	for _, body := range bodies {
		m, ok := body.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("a statement is a map")
		}
		s := Statement{Condition: map[string]map[string][]string{}, Principals: map[string][]string{}}
		for key, value := range m {
			switch key {
			case "Sid":
				s.Sid = text(value)
			case "Effect":
				s.Effect = text(value)
			case "Action":
				s.Actions = texts(value)
			case "Resource":
				s.Resources, s.statesResource = texts(value), true
			case "Principal":
				s.hasPrincipal = true
				if value == "*" {
					s.Principals["*"] = []string{"*"}
					break
				}
				kinds, _ := value.(map[string]any)
				for kind, who := range kinds {
					s.Principals[kind] = texts(who)
				}
			case "Condition":
				operators, _ := value.(map[string]any)
				for operator, keys := range operators {
					if _, err := operation(operator); err != nil {
						return nil, err
					}
					s.Condition[operator] = map[string][]string{}
					entries, _ := keys.(map[string]any)
					for k, v := range entries {
						s.Condition[operator][k] = texts(v)
					}
				}
			default:
				return nil, fmt.Errorf("the statement %s has %s, which is not evaluated", s.Sid, key)
			}
		}
		if s.Effect != "Allow" && s.Effect != "Deny" || len(s.Actions) == 0 {
			return nil, fmt.Errorf("the statement %q has no effect or no action", s.Sid)
		}
		all = append(all, s)
	}
	return all, nil
}

func texts(value any) []string {
	list, ok := value.([]any)
	if !ok {
		return []string{text(value)}
	}
	var all []string
	for _, v := range list {
		all = append(all, text(v))
	}
	return all
}

// Allowed reports whether the statements of one policy, or of several of one
// identity, allow a request: some statement does, and none denies it.
func Allowed(statements []Statement, r Request) bool {
	allowed := false
	for _, s := range statements {
		if !s.applies(r) {
			continue
		}
		if s.Effect == "Deny" {
			return false
		}
		allowed = true
	}
	return allowed
}

func (s Statement) applies(r Request) bool {
	return slices.ContainsFunc(s.Actions, func(a string) bool { return matches(strings.ToLower(a), strings.ToLower(r.Action), nil) }) &&
		slices.ContainsFunc(s.Resources, func(p string) bool { return matches(p, r.Resource, r.Context) }) &&
		s.conditionHolds(r.Context)
}

// Trusts reports whether statements of a role's trust policy let a principal of
// that kind and name do an action.
func Trusts(statements []Statement, kind, principal string, r Request) bool {
	allowed := false
	for _, s := range statements {
		if !slices.Contains(s.Principals[kind], principal) || !slices.ContainsFunc(s.Actions, func(a string) bool { return matches(a, r.Action, nil) }) || !s.conditionHolds(r.Context) {
			continue
		}
		if s.Effect == "Deny" {
			return false
		}
		allowed = true
	}
	return allowed
}

func (s Statement) conditionHolds(context map[string][]string) bool {
	for operator, keys := range s.Condition {
		holds, err := operation(operator)
		if err != nil {
			return false
		}
		for key, patterns := range keys {
			values, present := context[strings.ToLower(key)]
			if !holds(patterns, values, present, context) {
				return false
			}
		}
	}
	return true
}

type conditionOperator func(patterns, values []string, present bool, context map[string][]string) bool

// operation returns what an operator of a condition means.
func operation(name string) (conditionOperator, error) {
	set, single := "", name
	if before, after, found := strings.Cut(name, ":"); found {
		set, single = before, after
	}
	if single == "Null" {
		return func(patterns, _ []string, present bool, _ map[string][]string) bool {
			return slices.Contains(patterns, map[bool]string{true: "false", false: "true"}[present])
		}, nil
	}
	var one func(pattern, value string, context map[string][]string) bool
	switch single {
	case "StringEquals":
		one = func(pattern, value string, context map[string][]string) bool {
			p, ok := substitute(pattern, context)
			return ok && p == value
		}
	case "StringLike", "ArnLike", "ArnEquals": // the two of ARNs are alike
		one = matches
	case "Bool":
		one = func(pattern, value string, _ map[string][]string) bool { return strings.EqualFold(pattern, value) }
	default:
		return nil, fmt.Errorf("the operator %s is not evaluated", name)
	}
	any1 := func(patterns []string, value string, context map[string][]string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return one(p, value, context) })
	}
	switch set {
	case "":
		return func(patterns, values []string, present bool, context map[string][]string) bool {
			return present && len(values) == 1 && any1(patterns, values[0], context)
		}, nil
	case "ForAllValues": // which holds for no value at all
		return func(patterns, values []string, _ bool, context map[string][]string) bool {
			return !slices.ContainsFunc(values, func(v string) bool { return !any1(patterns, v, context) })
		}, nil
	case "ForAnyValue":
		return func(patterns, values []string, _ bool, context map[string][]string) bool {
			return slices.ContainsFunc(values, func(v string) bool { return any1(patterns, v, context) })
		}, nil
	}
	return nil, fmt.Errorf("the operator %s is not evaluated", name)
}

var variable = regexp.MustCompile(`\$\{([^}]*)\}`)

// substitute puts values in place of a pattern's policy variables; a variable
// that has no value makes the statement one that does not apply.
func substitute(pattern string, context map[string][]string) (string, bool) {
	known := true
	return variable.ReplaceAllStringFunc(pattern, func(v string) string {
		values := context[strings.ToLower(v[2:len(v)-1])]
		known = known && len(values) == 1
		if !known {
			return ""
		}
		return values[0]
	}), known
}

// anything is the '*' of a pattern that was taken apart, and one its '?'. Neither
// is a rune of a text.
const (
	anything rune = -1
	one      rune = -2
)

// matches reports whether a text matches a pattern of '*' and '?', in which the
// value of a variable stands for itself.
func matches(pattern, value string, context map[string][]string) bool {
	var parts []rune
	wild := func(part string) {
		for _, c := range part {
			switch c {
			case '*':
				c = anything
			case '?':
				c = one
			}
			parts = append(parts, c)
		}
	}
	for strings.Contains(pattern, "${") {
		at := variable.FindStringIndex(pattern)
		if at == nil {
			break
		}
		wild(pattern[:at[0]])
		own, known := substitute(pattern[at[0]:at[1]], context)
		if !known {
			return false
		}
		parts = append(parts, []rune(own)...)
		pattern = pattern[at[1]:]
	}
	wild(pattern)
	return fit(parts, []rune(value))
}

// fit compares from the left; where it fails it goes back to the last '*', which
// then stands for one rune more. No earlier one has to be tried: what was matched
// since is as far to the left as it can be.
func fit(parts, value []rune) bool {
	p, v := 0, 0
	star, from := -1, 0
	for v < len(value) {
		switch {
		case p < len(parts) && parts[p] == anything:
			star, from = p, v
			p++
		case p < len(parts) && (parts[p] == one || parts[p] == value[v]):
			p++
			v++
		case star >= 0:
			from++
			p, v = star+1, from
		default:
			return false
		}
	}
	for p < len(parts) && parts[p] == anything {
		p++
	}
	return p == len(parts)
}

// Role is a role of a stack, with all policies that it has in it.
type Role struct {
	Name, ARN, LogicalName string
	Statements, Trust      []Statement
	// Stars are the reasons that are given for statements about all resources,
	// by their Sid.
	Stars map[string]string
}

// Roles returns the roles of a stack and of those below it, by logical name.
func (s *Stack) Roles() (map[string]*Role, error) {
	roles := map[string]*Role{}
	for _, stack := range s.All() {
		for _, name := range slices.Sorted(maps.Keys(stack.Resources)) {
			r := stack.Resources[name]
			if r.Type != "AWS::IAM::Role" {
				continue
			}
			role := &Role{Name: stack.physical(name), ARN: stack.arn(name), LogicalName: name, Stars: map[string]string{}}
			var err error
			if role.Trust, err = Statements(r.Properties["AssumeRolePolicyDocument"]); err != nil {
				return nil, fmt.Errorf("%s: trust: %w", name, err)
			}
			if err := role.add(r, policiesOf(r.Properties["Policies"])...); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if managed := r.Properties["ManagedPolicyArns"]; managed != nil {
				return nil, fmt.Errorf("%s: has managed policies, which are not here to be evaluated", name)
			}
			if roles[name] != nil {
				return nil, fmt.Errorf("%s: is the name of two roles", name)
			}
			roles[name] = role
		}
	}
	for _, stack := range s.All() {
		for name, r := range stack.Resources {
			if r.Type == "AWS::IAM::ManagedPolicy" || r.Type == "AWS::IAM::UserPolicy" || r.Type == "AWS::IAM::RolePolicy" {
				return nil, fmt.Errorf("%s: %s is not evaluated", name, r.Type)
			}
			if r.Type != "AWS::IAM::Policy" {
				continue
			}
			for _, of := range texts(r.Properties["Roles"]) {
				found := false
				for _, role := range roles {
					if role.Name == of {
						found = true
						if err := role.add(r, r.Properties); err != nil {
							return nil, fmt.Errorf("%s: %w", name, err)
						}
					}
				}
				if !found {
					return nil, fmt.Errorf("%s: there is no role %s", name, of)
				}
			}
		}
	}
	return roles, nil
}

// policiesOf returns the policies of a list.
func policiesOf(value any) []map[string]any {
	list, _ := value.([]any)
	var all []map[string]any
	for _, v := range list {
		m, _ := v.(map[string]any)
		all = append(all, m)
	}
	return all
}

func (r *Role) add(from Resource, policies ...map[string]any) error {
	for _, p := range policies {
		statements, err := Statements(p["PolicyDocument"])
		if err != nil {
			return err
		}
		r.Statements = append(r.Statements, statements...)
	}
	reasons, _ := from.Metadata["StarResource"].(map[string]any)
	for sid, reason := range reasons {
		r.Stars[sid] = text(reason)
	}
	return nil
}

// Assume returns what a session of role to may do that caller takes, with tags,
// as sts:AssumeRole does within one account: a trust that names the caller's own
// ARN is enough, whatever the caller's policies say, unless they deny it. A
// session's policy, if there is one, can only take away.
func Assume(caller, to *Role, tags map[string]string, policy []Statement) (session func(Request) bool, ok bool) {
	context := map[string][]string{}
	for key, value := range tags {
		context["aws:requesttag/"+strings.ToLower(key)] = []string{value}
		context["aws:tagkeys"] = append(context["aws:tagkeys"], key)
	}
	actions := []string{"sts:AssumeRole"}
	if len(tags) > 0 {
		actions = append(actions, "sts:TagSession")
	}
	for _, action := range actions {
		r := Request{Action: action, Resource: to.ARN, Context: context}
		denied := slices.ContainsFunc(caller.Statements, func(s Statement) bool { return s.Effect == "Deny" && s.applies(r) })
		if denied || !Trusts(to.Trust, "AWS", caller.ARN, r) {
			return nil, false
		}
	}
	return func(r Request) bool {
		own := maps.Clone(r.Context)
		if own == nil {
			own = map[string][]string{}
		}
		for key, value := range tags {
			own["aws:principaltag/"+strings.ToLower(key)] = []string{value}
		}
		r.Context = own
		return Allowed(to.Statements, r) && (policy == nil || Allowed(policy, r))
	}, true
}
