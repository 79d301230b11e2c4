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
// Refresher and Operator are machines without a tenant and stand beside them.
const (
	RoleReader    Role = "reader"
	RoleEditor    Role = "editor"
	RoleAdmin     Role = "admin"
	RoleRefresher Role = "refresher"
	RoleOperator  Role = "operator"
)

// RefreshScope is the OAuth scope that makes a machine's token a Refresher's.
const RefreshScope = "tagstore/refresh"

// OperateScope is the OAuth scope that makes a machine's token an Operator's: of
// those who run the service for all tenants and belong to none.
const OperateScope = "tagstore/operate"

// AtLeast reports whether r may do what other may. Each role includes itself,
// an admin is an editor and an editor a reader; a machine's role is none of
// these, and no role is a machine's but that one. Text that is not a role
// includes nothing.
func (r Role) AtLeast(other Role) bool {
	if r.IsMachine() || other.IsMachine() {
		return r == other
	}
	return other.rank() > 0 && r.rank() >= other.rank()
}

// IsMachine reports whether only a machine can have this role, one that belongs
// to no tenant.
func (r Role) IsMachine() bool { return r == RoleRefresher || r == RoleOperator }

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
	// an Operator, and for nobody else.
	Tenant config.Tenant
	// Subject is the token's sub: 1 to 255 printable ASCII characters.
	Subject string
	Role    Role
	// Expires is the first instant at which the token is refused. What goes on
	// for longer, such as a Watch, has to end then.
	Expires time.Time
}

type principalKey struct{}

// principalContext is a context with a principal in it, in one piece of memory.
type principalContext struct {
	context.Context
	principal Principal
}

func (c *principalContext) Value(key any) any {
	if key == (principalKey{}) {
		return &c.principal
	}
	return c.Context.Value(key)
}

// ContextWithPrincipal returns a context that carries p.
func ContextWithPrincipal(ctx context.Context, p Principal) context.Context {
	return &principalContext{ctx, p}
}

// FromContext returns the principal that ctx carries, false if there is none.
func FromContext(ctx context.Context) (Principal, bool) {
	if p, ok := ctx.Value(principalKey{}).(*Principal); ok {
		return *p, true
	}
	return Principal{}, false
}
