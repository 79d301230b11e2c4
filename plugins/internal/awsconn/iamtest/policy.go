package iamtest

import (
	"fmt"
	"slices"
	"strings"
)

// Request is what a policy is asked about.
type Request struct {
	Action   string // "ssm:GetParameter"
	Resource string // the whole ARN, or "*" for an action that has none
	// Principal is who asks, where the policy names principals: the ARN of a
	// role, or the host name of a service.
	Principal string
	// PrincipalTags are the tags of the role and of the session, which a
	// condition reads as aws:PrincipalTag/<key>.
	PrincipalTags map[string]string
	// Context is every other condition key that the service fills for this
	// action, such as "dynamodb:LeadingKeys". A key with no values is one that
	// the request does not have.
	Context map[string][]string
}

// Decision is what a policy says of a Request.
type Decision int

// The decisions. Only Allow lets a request through.
const (
	ImplicitDeny Decision = iota // nothing allows it
	Allow
	ExplicitDeny // a statement forbids it
)

// String returns the decision's name.
func (d Decision) String() string {
	switch d {
	case ImplicitDeny:
		return "implicit deny"
	case Allow:
		return "allow"
	case ExplicitDeny:
		return "explicit deny"
	}
	return fmt.Sprintf("Decision(%d)", int(d))
}

// Policy is a parsed policy document. The zero value allows nothing.
type Policy struct {
	statements []statement
}

// Join returns the policy of a principal that has all of these.
func Join(policies ...Policy) Policy {
	var all Policy
	for _, p := range policies {
		all.statements = append(all.statements, p.statements...)
	}
	return all
}

// Allows evaluates the policy. It panics where AWS does not define the outcome:
// when a condition without ForAllValues or ForAnyValue meets several values.
func (p Policy) Allows(r Request) Decision {
	keys := r.keys()
	decision := ImplicitDeny
	for _, s := range p.statements {
		if !s.applies(r, keys) {
			continue
		}
		if s.deny {
			return ExplicitDeny
		}
		decision = Allow
	}
	return decision
}

// keys are the condition keys of the request, their names in lower case.
func (r Request) keys() map[string][]string {
	keys := map[string][]string{}
	for name, values := range r.Context {
		if len(values) > 0 {
			keys[strings.ToLower(name)] = values
		}
	}
	for name, value := range r.PrincipalTags {
		keys["aws:principaltag/"+strings.ToLower(name)] = []string{value}
	}
	return keys
}

// statement is one that was checked.
type statement struct {
	deny       bool
	actions    []string
	notActions bool // actions are those that it is not about
	// resources is nil where the statement names principals instead: it is then
	// about the resource that it is attached to.
	resources    []text
	notResources bool
	principals   []string
	conditions   []condition
}

func (s statement) applies(r Request, keys map[string][]string) bool {
	named := slices.ContainsFunc(s.actions, func(pattern string) bool {
		return glob(strings.ToLower(pattern), strings.ToLower(r.Action))
	})
	if named == s.notActions {
		return false
	}
	if s.resources != nil {
		named := slices.ContainsFunc(s.resources, func(t text) bool {
			pattern, ok := t.expand(keys)
			return ok && resourceMatches(pattern, r.Resource)
		})
		if named == s.notResources {
			return false
		}
	}
	if s.principals != nil && !slices.ContainsFunc(s.principals, func(named string) bool { return principalMatches(named, r.Principal) }) {
		return false
	}
	return !slices.ContainsFunc(s.conditions, func(c condition) bool { return !c.holds(keys) })
}

// principalMatches compares with the one form or the other of an account, which
// stands for everyone in it, or with a role or service by name.
func principalMatches(named, asks string) bool {
	if named == "*" || named == asks && asks != "" {
		return true
	}
	account := named
	if parts := strings.Split(named, ":"); len(parts) == 6 && parts[2] == "iam" && parts[5] == "root" {
		account = parts[4]
	}
	parts := strings.SplitN(asks, ":", 6)
	return len(parts) == 6 && len(account) == 12 && parts[4] == account
}
