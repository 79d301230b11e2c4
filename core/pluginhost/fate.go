package pluginhost

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// unaryFate notes the fate of the calls whose context carries one and that fail.
// It asks gRPC for no more than that takes: a stats.Handler, which is told of
// every step, costs a tenth of a small call.
//
// There is a peer once a call has a stream, which is before its request leaves;
// and there are trailers, a content type at least, if the status is the plugin's:
// every implementation sends a bare error in one frame of them. (One that sent
// headers first, and then no details, would be taken for lost.)
func unaryFate(
	ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	f, ok := ctx.Value(fateKey{}).(*fate)
	if !ok {
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	var to peer.Peer
	var trailer metadata.MD
	err := invoke(ctx, method, req, reply, conn, append(opts, grpc.Peer(&to), grpc.Trailer(&trailer))...)
	if err != nil {
		f.sent.Store(f.sent.Load() || to.Addr != nil)
		f.answered.Store(f.answered.Load() || len(trailer) > 0)
	}
	return err
}

// streamFate notes that of a stream whose Recv failed. A status that comes behind
// messages may be alone in its frame: where there are no trailers a connection
// that works says that the plugin sent it.
func (g *generation) streamFate(ctx context.Context, stream grpc.ClientStream, f *fate) {
	f.answered.Store(len(stream.Trailer()) > 0 || ctx.Err() == nil && g.works(ctx))
}

// works reports whether the plugin answers a health check soon.
func (g *generation) works(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return g.health(ctx) == nil
}
