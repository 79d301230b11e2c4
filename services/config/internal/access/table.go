// Package access decides who may call what. The decision is a table of full
// method names; a method without a row is refused, so that a new RPC is closed
// until somebody decides otherwise.
package access

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
)

// Rule says who may call one method. The zero Rule lets nobody in.
type Rule struct {
	open  bool
	roles []auth.Role
}

// Open lets everybody in, without a token.
func Open() Rule { return Rule{open: true} }

// Only lets in who has exactly one of these roles; a higher role is not
// implied and has to be named.
func Only(roles ...auth.Role) Rule { return Rule{roles: slices.Clone(roles)} }

// IsOpen reports whether the method needs no token.
func (r Rule) IsOpen() bool { return r.open }

// Allows reports whether a caller with this role may call the method.
func (r Rule) Allows(role auth.Role) bool { return r.open || slices.Contains(r.roles, role) }

// names lists the roles for people.
func (r Rule) names() string {
	names := make([]string, len(r.roles))
	for i, role := range r.roles {
		names[i] = string(role)
	}
	return strings.Join(names, ", ")
}

// Table holds the rule of each method, by full name ("/package.Service/Method").
type Table map[string]Rule

// Check compares the table with the services that a server has registered and
// returns an error that names every method without a row and every row without
// a method.
func (t Table) Check(services map[string]grpc.ServiceInfo) error {
	const op = "access.Check"
	registered := make(map[string]bool)
	var problems []string
	for service, info := range services {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			registered[name] = true
			if _, ok := t[name]; !ok {
				problems = append(problems, name+" has no row")
			}
		}
	}
	for name := range maps.Keys(t) {
		if !registered[name] {
			problems = append(problems, name+" has a row and is not registered")
		}
	}
	if len(problems) == 0 {
		return nil
	}
	slices.Sort(problems)
	e := config.Errorf(config.Internal, "the method table does not fit the services: %s", strings.Join(problems, "; ")).
		WithHint("give every RPC exactly one row")
	e.Op = op
	return e
}
