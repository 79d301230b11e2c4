// Package intercept holds what every call passes through around its handler:
// the request id, the encoding of errors, the access log, the recovery of
// panics and the cap on its time. Chain puts them into that order, outermost
// first.
package intercept

import (
	"context"
	"crypto/rand"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tagstore/tagstore/core/config"
)

// RequestIDKey is the metadata key of the request id, in a request (where the
// caller may choose it) and in the header of every response.
const RequestIDKey = "x-request-id"

// maxRequestID bounds a request id that a caller chose.
const maxRequestID = 64

// Call is what is known about one call besides its request. It is in the
// context of every handler.
type Call struct {
	// ID is the request id: the caller's own where that is valid, else random.
	ID string

	tenant config.Tenant
	quiet  bool
}

// SetQuiet has the call logged at DEBUG if it is its caller's own doing that it
// fails: for what comes as often as somebody likes, and is told otherwise.
func (c *Call) SetQuiet() { c.quiet = true }

// SetTenant notes whose call it is, for the access log. It is for interceptors,
// before the handler begins.
func (c *Call) SetTenant(t config.Tenant) { c.tenant = t }

// Tenant returns the tenant that was noted, zero where none was.
func (c *Call) Tenant() config.Tenant { return c.tenant }

type callKey struct{}

// callContext is a context with a Call in it, in one piece of memory.
type callContext struct {
	context.Context
	call Call
}

func (c *callContext) Value(key any) any {
	if key == (callKey{}) {
		return &c.call
	}
	return c.Context.Value(key)
}

// CallFrom returns the call that ctx belongs to. Outside of any it returns an
// empty one, so that what is noted there is lost and nothing breaks.
func CallFrom(ctx context.Context) *Call {
	if c, ok := ctx.Value(callKey{}).(*Call); ok {
		return c
	}
	return &Call{}
}

// begin gives the call its id and announces it in the response header.
func begin(ctx context.Context) (*callContext, error) {
	c := &callContext{Context: ctx, call: Call{ID: requestID(ctx)}}
	if err := grpc.SetHeader(ctx, metadata.MD{RequestIDKey: {c.call.ID}}); err != nil {
		// The cause is left out: it is a status, which would be sent instead.
		return nil, config.Errorf(config.Internal, "the response header could not be set")
	}
	return c, nil
}

// requestID takes the caller's id only where there is exactly one and it is
// plain, since it goes into log lines and back into a header.
func requestID(ctx context.Context) string {
	if got := metadata.ValueFromIncomingContext(ctx, RequestIDKey); len(got) == 1 && validRequestID(got[0]) {
		return got[0]
	}
	return rand.Text()
}

// validRequestID reports whether s matches ^[A-Za-z0-9._-]{1,64}$.
func validRequestID(s string) bool {
	if s == "" || len(s) > maxRequestID {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// WithContext returns the stream with another context, which must be derived
// from its own.
func WithContext(ctx context.Context, stream grpc.ServerStream) grpc.ServerStream {
	return streamWithContext{stream, ctx}
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamWithContext) Context() context.Context { return s.ctx }
