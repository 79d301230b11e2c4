package pluginhost

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/tagstore/tagstore/core/internal/handshake"
)

// Every call tells the plugin which instance it is for. The name is added to the
// metadata that the call has already, none of which is replaced.

func unaryInstance(name string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoke(metadata.AppendToOutgoingContext(ctx, handshake.InstanceKey, name), method, req, reply, conn, opts...)
	}
}

func streamInstance(name string) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return stream(metadata.AppendToOutgoingContext(ctx, handshake.InstanceKey, name), desc, conn, method, opts...)
	}
}
