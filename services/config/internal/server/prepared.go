package server

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/services/config/internal/intercept"
)

// The fields that are written here by hand, as the .proto files number them.
const (
	getResponseEntry     protowire.Number = 1
	getResponseFreshness protowire.Number = 2
	entryValue           protowire.Number = 4
	freshnessSource      protowire.Number = 1
	freshnessAge         protowire.Number = 2
	freshnessState       protowire.Number = 3
	durationSeconds      protowire.Number = 1
	durationNanos        protowire.Number = 2
)

// Prepare is for cache.Options: it encodes an entry as the field of a
// GetResponse, so that an answer from memory is sent as it lies there. The value
// comes last, which no reader of protobuf minds: it is the end of the form, and
// is not held twice.
func Prepare(e *config.Entry) (form, value []byte) {
	bare := toEntry(*e)
	bare.Value = nil
	head, err := proto.Marshal(bare)
	if err != nil { // text that is not UTF-8: the ordinary way tells it
		return nil, e.Value
	}
	size := len(head)
	if len(e.Value) > 0 {
		size += protowire.SizeTag(entryValue) + protowire.SizeBytes(len(e.Value))
	}
	form = make([]byte, 0, protowire.SizeTag(getResponseEntry)+protowire.SizeBytes(size))
	form = protowire.AppendTag(form, getResponseEntry, protowire.BytesType)
	form = protowire.AppendVarint(form, uint64(size))
	form = append(form, head...)
	if len(e.Value) > 0 {
		form = protowire.AppendTag(form, entryValue, protowire.BytesType)
		form = protowire.AppendBytes(form, e.Value)
	}
	at := len(form) - len(e.Value)
	return form, form[at:len(form):len(form)]
}

// maxFreshness is the most that the freshness of an answer takes, with its tag.
const maxFreshness = 32

// prepared is a GetResponse that is encoded but for its freshness, which stands
// behind the entry.
type prepared struct {
	entry     []byte // the cache's
	freshness [maxFreshness]byte
	n         int
}

func newPrepared(form []byte, f config.Freshness) *prepared {
	p := &prepared{entry: form}
	p.n = len(appendFreshness(p.freshness[:0], f))
	return p
}

// appendFreshness writes what toFreshness does.
func appendFreshness(b []byte, f config.Freshness) []byte {
	seconds, nanos := uint64(f.Age/1e9), uint64(f.Age%1e9)
	source, state := uint64(sources[f.Source]), uint64(states[f.State])
	age := sizeField(durationSeconds, seconds) + sizeField(durationNanos, nanos)
	size := sizeField(freshnessSource, source) + protowire.SizeTag(freshnessAge) + protowire.SizeBytes(age) + sizeField(freshnessState, state)
	b = protowire.AppendTag(b, getResponseFreshness, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = appendField(b, freshnessSource, source)
	b = protowire.AppendTag(b, freshnessAge, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(age))
	b = appendField(b, durationSeconds, seconds)
	b = appendField(b, durationNanos, nanos)
	return appendField(b, freshnessState, state)
}

// sizeField is how much appendField writes.
func sizeField(n protowire.Number, v uint64) int {
	if v == 0 {
		return 0
	}
	return protowire.SizeTag(n) + protowire.SizeVarint(v)
}

// appendField leaves out a zero, as proto3 does.
func appendField(b []byte, n protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

// codec is that of protobuf, and sends what is prepared as it is.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(encodingproto.Name)} }

// Marshal is called once for an answer, whose bytes gRPC reads and never writes.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case *prepared:
		return mem.BufferSlice{mem.SliceBuffer(v.entry), mem.SliceBuffer(v.freshness[:v.n])}, nil
	case *encoded:
		return v.message, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal leaves a frame of a Session as it is: its Session looks at it before
// anything is made of it.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		f.read(data)
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// description is that of ConfigService, with a Get and a BatchGet that can answer
// what is prepared, which the generated one has no type for.
func (s *configService) description() *grpc.ServiceDesc {
	d := tagstorev1.ConfigService_ServiceDesc
	d.Methods = slices.Clone(d.Methods)
	for i := range d.Methods {
		switch m := &d.Methods[i]; m.MethodName {
		case "Get":
			m.Handler = handler(s, tagstorev1.ConfigService_Get_FullMethodName, s.get)
		case "BatchGet":
			m.Handler = handler(s, tagstorev1.ConfigService_BatchGet_FullMethodName, s.batchGet)
		}
	}
	return &d
}

// handler is what the generated code has for a method, but for the type of the
// answer.
func handler[Request any](s *configService, method string, answer func(context.Context, *Request) (any, error)) grpc.MethodHandler {
	info := &grpc.UnaryServerInfo{Server: s, FullMethod: method}
	next := func(ctx context.Context, req any) (any, error) { return answer(ctx, req.(*Request)) }
	return func(_ any, ctx context.Context, decode func(any) error, around grpc.UnaryServerInterceptor) (any, error) {
		req := new(Request)
		if err := decode(req); err != nil {
			return nil, err
		}
		return around(ctx, req, info, next)
	}
}

// get is Get, from memory where that will do. That can not wait for anything, so
// it needs no deadline.
func (s *configService) get(ctx context.Context, req *tagstorev1.GetRequest) (any, error) {
	if p := s.fromMemory(ctx, req); p != nil {
		return p, nil
	}
	ctx, cancel := intercept.Bound(ctx, s.limits.UnaryCap)
	defer cancel()
	return s.Get(ctx, req)
}

// fromMemory is nil where Get has to find the answer, or what is wrong.
func (s *configService) fromMemory(ctx context.Context, req *tagstorev1.GetRequest) *prepared {
	if req.Version != nil || req.MinVersion != nil || req.MaxStaleness != nil {
		return nil
	}
	_, sc, key, err := about(ctx, req.GetService(), req.GetKey())
	if err != nil {
		return nil
	}
	form, f, ok := s.store.Held(ctx, sc, key)
	if !ok {
		return nil
	}
	return newPrepared(form, f)
}

// bounded are the methods whose handlers bound themselves.
func bounded() map[string]bool {
	return map[string]bool{tagstorev1.ConfigService_Get_FullMethodName: true}
}
