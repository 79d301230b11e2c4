package access

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/config/internal/intercept"
)

// Verifier tells who a bearer token belongs to. *auth.Verifier is one.
type Verifier interface {
	Verify(ctx context.Context, token string) (auth.Principal, error)
}

// Meter says whether a tenant may ask for more now.
type Meter interface {
	// Admit counts one call of a tenant, whose request is nil for a stream that
	// begins, or returns why it has to wait.
	Admit(ctx context.Context, tenant config.Tenant, request any) error
	// Hold waits before a refusal is told, or until ctx is done.
	Hold(ctx context.Context)
}

// Guard admits calls by a table and the caller's token, and puts the caller
// into the context, where auth.FromContext finds it. It is safe for concurrent
// use.
type Guard struct {
	table    Table
	verifier Verifier
	meter    Meter // nil: nothing is counted
}

// NewGuard returns a Guard. The table must not change any more. The meter is asked
// about every call that a tenant may make, last of all; nil is none.
func NewGuard(table Table, verifier Verifier, meter Meter) *Guard {
	return &Guard{table: table, verifier: verifier, meter: meter}
}

// Unary admits unary calls.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := g.admit(ctx, info.FullMethod, req)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// Stream admits streams, when they begin. Ending one whose token expires is
// its handler's business.
func (g *Guard) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := g.admit(stream.Context(), info.FullMethod, nil)
	if err != nil {
		return err
	}
	return next(srv, intercept.WithContext(ctx, stream))
}

// admit returns ctx with the caller in it, or why the caller stays outside.
// The answers tell nothing about what the server holds: they depend on the
// method, the token and how much its tenant asks for alone.
func (g *Guard) admit(ctx context.Context, method string, req any) (context.Context, error) {
	rule, ok := g.table[method]
	if !ok {
		return nil, denied(method, "nobody may call this method", "")
	}
	if rule.open {
		return ctx, nil
	}
	p, err := g.Authenticate(ctx)
	if err != nil {
		return nil, err
	}
	call := intercept.CallFrom(ctx)
	call.SetTenant(p.Tenant)
	if err := rule.check(method, p.Role); err != nil {
		return nil, err
	}
	if err := g.count(ctx, call, p.Tenant, req); err != nil {
		g.meter.Hold(ctx)
		return nil, err
	}
	return auth.ContextWithPrincipal(ctx, p), nil
}

// Authenticate returns whose the token in the metadata of ctx is. What goes on
// for longer asks again: a token ends when its time has come or its key is taken
// back.
func (g *Guard) Authenticate(ctx context.Context) (auth.Principal, error) {
	token, err := auth.BearerToken(metadata.ValueFromIncomingContext(ctx, "authorization"))
	if err != nil {
		return auth.Principal{}, err
	}
	return g.verifier.Verify(ctx, token)
}

// count asks the meter. A machine belongs to no tenant.
func (g *Guard) count(ctx context.Context, call *intercept.Call, tenant config.Tenant, req any) error {
	if g.meter == nil || tenant.IsZero() {
		return nil
	}
	err := g.meter.Admit(ctx, tenant, req)
	if err != nil {
		call.SetQuiet()
	}
	return err
}

// Allow decides, by the same table and meter, on a call that a stream carries.
// The context is that of the call. Nothing is held.
func (g *Guard) Allow(ctx context.Context, method string, caller auth.Principal, req any) error {
	rule, ok := g.table[method]
	if !ok {
		return denied(method, "nobody may call this method", "")
	}
	if err := rule.check(method, caller.Role); err != nil {
		return err
	}
	return g.count(ctx, intercept.CallFrom(ctx), caller.Tenant, req)
}

func (r Rule) check(method string, role auth.Role) error {
	if r.Allows(role) {
		return nil
	}
	return denied(method, "the role "+string(role)+" may not call this method", "it takes one of: "+r.names())
}

func denied(method, message, hint string) error {
	return &config.Error{Op: method, Code: config.PermissionDenied, Message: message, Hint: hint}
}
