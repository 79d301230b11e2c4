package iamtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// set is the operator in front of the operator.
type set int

const (
	single set = iota // none: the key has one value at most
	forAllValues
	forAnyValue
)

// condition is one operator on one key.
type condition struct {
	operator string // for messages
	key      string // in lower case
	set      set
	ifExists bool
	null     bool // Null, whose values are "true" and "false"
	compare  comparison
	values   []text
}

// comparison is what an operator does with one value of the request and one of
// the policy.
type comparison struct {
	negated  bool
	variable bool // values may hold variables
	wildcard bool // values may hold wildcards
	equal    func(policy, request string) bool
	check    func(policy string) error
}

var comparisons = func() map[string]comparison {
	like := func(policy, request string) bool { return match(policy, request, func(int) bool { return true }) }
	exact := func(policy, request string) bool { return policy == request }
	all := map[string]comparison{
		"StringEquals":           {variable: true, equal: exact},
		"StringEqualsIgnoreCase": {variable: true, equal: strings.EqualFold},
		"StringLike":             {variable: true, wildcard: true, equal: like},
		"ArnEquals":              {variable: true, wildcard: true, equal: arnMatches, check: checkARN},
		"ArnLike":                {variable: true, wildcard: true, equal: arnMatches, check: checkARN},
		"Bool":                   {equal: strings.EqualFold, check: checkBool},
		"NumericEquals":          {equal: numbers(func(p, r float64) bool { return r == p }), check: checkNumber},
	}
	for name, negated := range map[string]string{
		"StringEquals": "StringNotEquals", "StringEqualsIgnoreCase": "StringNotEqualsIgnoreCase", "StringLike": "StringNotLike",
		"ArnEquals": "ArnNotEquals", "ArnLike": "ArnNotLike", "NumericEquals": "NumericNotEquals",
	} {
		c := all[name]
		c.negated = true
		all[negated] = c
	}
	for name, holds := range map[string]func(p, r float64) bool{
		"NumericLessThan":          func(p, r float64) bool { return r < p },
		"NumericLessThanEquals":    func(p, r float64) bool { return r <= p },
		"NumericGreaterThan":       func(p, r float64) bool { return r > p },
		"NumericGreaterThanEquals": func(p, r float64) bool { return r >= p },
	} {
		all[name] = comparison{equal: numbers(holds), check: checkNumber}
	}
	return all
}()

func numbers(holds func(policy, request float64) bool) func(string, string) bool {
	return func(policy, request string) bool {
		p, badPolicy := strconv.ParseFloat(policy, 64)
		r, badRequest := strconv.ParseFloat(request, 64)
		return badPolicy == nil && badRequest == nil && holds(p, r)
	}
}

func checkNumber(s string) error {
	if _, err := strconv.ParseFloat(s, 64); err != nil {
		return fmt.Errorf("%q is no number", s)
	}
	return nil
}

func checkBool(s string) error {
	if !strings.EqualFold(s, "true") && !strings.EqualFold(s, "false") {
		return fmt.Errorf("%q is neither true nor false", s)
	}
	return nil
}

func checkARN(s string) error {
	if len(strings.SplitN(s, ":", 6)) != 6 || !strings.HasPrefix(s, "arn:") {
		return fmt.Errorf("%q is no ARN of six parts", s)
	}
	return nil
}

// parseCondition makes a condition of an operator as it stands in the policy, a
// key and its values.
func parseCondition(operator, key string, values []string, variables bool) (condition, error) {
	c := condition{operator: operator, key: strings.ToLower(key)}
	name := operator
	if rest, ok := strings.CutPrefix(name, "ForAllValues:"); ok {
		name, c.set = rest, forAllValues
	} else if rest, ok := strings.CutPrefix(name, "ForAnyValue:"); ok {
		name, c.set = rest, forAnyValue
	}
	name, c.ifExists = strings.CutSuffix(name, "IfExists")
	if !strings.Contains(key, ":") || strings.ContainsAny(key, "*?${} ") {
		return c, fmt.Errorf("%q is no condition key", key)
	}
	if len(values) == 0 {
		return c, fmt.Errorf("%s %s has no values", operator, key)
	}
	if name == "Null" {
		if c.set != single || c.ifExists {
			return c, fmt.Errorf("the operator %q does not exist", operator)
		}
		c.null, c.compare = true, comparisons["Bool"]
	} else {
		compare, ok := comparisons[name]
		if !ok {
			return c, fmt.Errorf("the operator %q is not known here", operator)
		}
		c.compare = compare
	}
	for _, value := range values {
		if c.compare.check != nil {
			if err := c.compare.check(value); err != nil {
				return c, fmt.Errorf("%s %s: %w", operator, key, err)
			}
		}
		t, err := parseText(value, variables)
		if err != nil {
			return c, fmt.Errorf("%s %s: %w", operator, key, err)
		}
		if t.hasVariable() && !c.compare.variable {
			return c, fmt.Errorf("%s takes no variables", operator)
		}
		if !c.compare.wildcard { // then '*' and '?' are themselves
			for i := range t {
				t[i].literal = literals.Replace(t[i].literal)
			}
		}
		c.values = append(c.values, t)
	}
	return c, nil
}

var literals = strings.NewReplacer(string(anyRun), "*", string(anyByte), "?")

func (c condition) holds(keys map[string][]string) bool {
	request, has := keys[c.key]
	if c.null {
		return slices.ContainsFunc(c.values, func(t text) bool {
			value, _ := t.expand(keys)
			return strings.EqualFold(value, "true") != has
		})
	}
	switch {
	case has: // compared below
	case c.ifExists, c.set == forAllValues:
		return true
	case c.set == forAnyValue:
		return false
	}
	values := make([]string, 0, len(c.values))
	for _, t := range c.values {
		value, ok := t.expand(keys)
		if ok {
			values = append(values, value)
		} else if c.compare.negated {
			return false
		}
	}
	passes := func(request string) bool {
		found := slices.ContainsFunc(values, func(policy string) bool { return c.compare.equal(policy, request) })
		return found != c.compare.negated
	}
	switch c.set {
	case forAllValues:
		return !slices.ContainsFunc(request, func(value string) bool { return !passes(value) })
	case forAnyValue:
		return slices.ContainsFunc(request, passes)
	}
	if !has {
		return c.compare.negated
	}
	if len(request) > 1 {
		panic(fmt.Sprintf("iamtest: %s has %d values in the request, and %s neither ForAllValues nor ForAnyValue: AWS does not say what that means", c.key, len(request), c.operator))
	}
	return passes(request[0])
}
