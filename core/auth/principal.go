package auth

import (
	"context"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// Role is what a principal may do. Which RPC needs which role is the
// service's table, not this package's.
type Role string

// The roles. Reader, Editor and Admin are ranks of people inside one tenant;
// Refresher is a machine without a tenant and stands beside them.
const (
	RoleReader    Role = "reader"
	RoleEditor    Role = "editor"
	RoleAdmin     Role = "admin"
	RoleRefresher Role = "refresher"
)

// RefreshScope is the OAuth scope that makes a machine's token a Refresher's.
const RefreshScope = "tagstore/refresh"

// AtLeast reports whether r may do what other may. Each role includes itself,
// an admin is an editor and an editor a reader; a refresher is none of these
// and none of them is a refresher. Text that is not a role includes nothing.
func (r Role) AtLeast(other Role) bool {
	if r == RoleRefresher || other == RoleRefresher {
		return r == other
	}
	return other.rank() > 0 && r.rank() >= other.rank()
}

// Group returns the Cognito group whose members have the role of a person:
// "tagstore-reader", "tagstore-editor" or "tagstore-admin"; else "".
func (r Role) Group() string {
	if r.rank() == 0 {
		return ""
	}
	return "tagstore-" + string(r)
}

func (r Role) rank() int {
	switch r {
	case RoleReader:
		return 1
	case RoleEditor:
		return 2
	case RoleAdmin:
		return 3
	default:
		return 0
	}
}

// Principal is a caller whose token was verified.
type Principal struct {
	// Tenant is whose data the caller may see. It is zero for a Refresher and
	// for nobody else.
	Tenant config.Tenant
	// Subject is the token's sub: 1 to 255 printable ASCII characters.
	Subject string
	Role    Role
	// Expires is the first instant at which the token is refused. What goes on
	// for longer, such as a Watch, has to end then.
	Expires time.Time
}

type principalKey struct{}

// ContextWithPrincipal returns a context that carries p.
func ContextWithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// FromContext returns the principal that ctx carries, false if there is none.
func FromContext(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}
