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

// Guard admits calls by a table and the caller's token, and puts the caller
// into the context, where auth.FromContext finds it. It is safe for concurrent
// use.
type Guard struct {
	table    Table
	verifier Verifier
}

// NewGuard returns a Guard. The table must not change any more.
func NewGuard(table Table, verifier Verifier) *Guard {
	return &Guard{table: table, verifier: verifier}
}

// Unary admits unary calls.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// Stream admits streams, when they begin. Ending one whose token expires is
// its handler's business.
func (g *Guard) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := g.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, intercept.WithContext(ctx, stream))
}

// admit returns ctx with the caller in it, or why the caller stays outside.
// The answers tell nothing about what the server holds: they depend on the
// method and the token alone.
func (g *Guard) admit(ctx context.Context, method string) (context.Context, error) {
	rule, ok := g.table[method]
	if !ok {
		return nil, denied(method, "nobody may call this method", "")
	}
	if rule.open {
		return ctx, nil
	}
	token, err := auth.BearerToken(metadata.ValueFromIncomingContext(ctx, "authorization"))
	if err != nil {
		return nil, err
	}
	p, err := g.verifier.Verify(ctx, token)
	if err != nil {
		return nil, err
	}
	intercept.CallFrom(ctx).SetTenant(p.Tenant)
	if !rule.Allows(p.Role) {
		return nil, denied(method, "the role "+string(p.Role)+" may not call this method", "it takes one of: "+rule.names())
	}
	return auth.ContextWithPrincipal(ctx, p), nil
}

func denied(method, message, hint string) error {
	return &config.Error{Op: method, Code: config.PermissionDenied, Message: message, Hint: hint}
}
