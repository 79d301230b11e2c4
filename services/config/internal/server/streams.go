package server

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/services/config/internal/intercept"
)

// streams bounds how many streams one tenant and one connection hold, and ends
// them all when the server drains: a Watch would otherwise keep its connection,
// and so the process, for as long as its client likes.
type streams struct {
	perTenant, perConnection int

	drained context.Context // done once the server drains
	drain   context.CancelFunc

	mu       sync.Mutex
	tenants  map[config.Tenant]int
	sessions map[config.Tenant]int // counted by themselves: no client needs one, and who watches needs that
	conns    map[string]int        // by remote address, which no two live connections share
}

func newStreams(perTenant, perConnection int) *streams {
	drained, drain := context.WithCancel(context.Background())
	return &streams{
		perTenant: perTenant, perConnection: perConnection, drained: drained, drain: drain,
		tenants: make(map[config.Tenant]int), sessions: make(map[config.Tenant]int), conns: make(map[string]int),
	}
}

var errDraining = config.Errorf(config.Unavailable, "this server is shutting down").
	WithHint("connect again and resume from the last token")

// intercept runs inside of the guard, which has put the caller in the context.
func (s *streams) intercept(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	session := info.FullMethod == tagstorev1.ConfigService_Session_FullMethodName
	release, err := s.admit(stream.Context(), session)
	if err != nil {
		return err
	}
	defer release()
	if session {
		return next(srv, stream) // it ends by itself, behind its answers
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.drained, func() { cancel(errDraining) })()
	err = next(srv, intercept.WithContext(ctx, stream))
	if errors.Is(context.Cause(ctx), errDraining) {
		return errDraining
	}
	return err
}

// admit counts one more stream of the caller and the connection, or refuses it
// where that would be too many. release takes it off again.
func (s *streams) admit(ctx context.Context, session bool) (release func(), err error) {
	conn := ""
	if p, ok := peer.FromContext(ctx); ok {
		conn = p.Addr.String()
	}
	caller, known := auth.FromContext(ctx)
	tenants, what := s.tenants, "watches"
	if session {
		tenants, what = s.sessions, "sessions"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.drained.Err() != nil:
		return nil, errDraining
	case s.conns[conn] >= s.perConnection:
		return nil, config.Errorf(config.ResourceExhausted, "this connection has its %d streams already", s.perConnection).
			WithHint("end one or open another connection")
	case known && tenants[caller.Tenant] >= s.perTenant:
		e := config.Errorf(config.ResourceExhausted, "the caller's tenant has its %d %s already", s.perTenant, what)
		if session {
			return nil, e.WithHint("make single calls, or end one")
		}
		return nil, e.WithHint("end one, or watch a shorter key prefix once instead of several longer ones")
	}
	s.conns[conn]++
	if known {
		tenants[caller.Tenant]++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		takeOff(s.conns, conn)
		if known {
			takeOff(tenants, caller.Tenant)
		}
	}, nil
}

// takeOff keeps the maps as small as what is open.
func takeOff[K comparable](counts map[K]int, key K) {
	counts[key]--
	if counts[key] == 0 {
		delete(counts, key)
	}
}
