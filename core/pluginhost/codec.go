package pluginhost

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/tagstore/tagstore/core/internal/wire"
)

// boundedCodec is gRPC's own for protobuf, but for answers that would be larger
// in memory than the message limit lets expect.
type boundedCodec struct{ encoding.CodecV2 }

func newBoundedCodec() boundedCodec { return boundedCodec{encoding.GetCodecV2(protocodec.Name)} }

// Unmarshal implements encoding.CodecV2.
func (c boundedCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("a message can not be put into %T", v)
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	if err := wire.CheckItems(buffer.ReadOnlyData(), v); err != nil {
		return err
	}
	return proto.Unmarshal(buffer.ReadOnlyData(), m)
}
