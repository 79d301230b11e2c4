package server

import (
	"context"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/store"
)

// The fields of the answer of a batch, as the .proto file numbers them.
const (
	batchGetResponseResults protowire.Number = 1
	batchGetResultKey       protowire.Number = 1
	batchGetResultEntry     protowire.Number = 2
	batchGetResultFreshness protowire.Number = 4
)

// maxPreparedBatch is the most that is put together of what is prepared, in bytes.
const maxPreparedBatch = 1 << 20

// batchGet is BatchGet, from memory where all of it is there.
func (s *configService) batchGet(ctx context.Context, req *tagstorev1.BatchGetRequest) (any, error) {
	if batch := s.batchFromMemory(ctx, req); batch != nil {
		return batch, nil
	}
	return s.BatchGet(ctx, req)
}

// batchFromMemory is nil where BatchGet has to find the answers, or what is wrong:
// for a batch with a key that is not in memory, or not there, or not valid, and one
// that is so large that what it may take has to be shared out.
func (s *configService) batchFromMemory(ctx context.Context, req *tagstorev1.BatchGetRequest) *encoded {
	if asked := len(req.GetKeys()); req.MaxStaleness != nil || asked == 0 || asked > store.DefaultMaxBatch {
		return nil
	}
	_, sc, err := scope(ctx, req.GetService())
	if err != nil {
		return nil
	}
	held := make([]prepared, len(req.GetKeys()))
	size := 0
	for i, text := range req.GetKeys() {
		key, err := config.ParseKey(text)
		if err != nil {
			return nil
		}
		form, f, ok := s.store.Held(ctx, sc, key)
		if !ok {
			return nil
		}
		p := &held[i]
		p.entry = form
		p.n = len(appendFreshness(p.freshness[:0], f))
		size += protowire.SizeTag(batchGetResponseResults) + protowire.SizeBytes(sizeResult(text, p))
		if size > maxPreparedBatch {
			return nil
		}
	}
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(size)
	b := (*buffer)[:0]
	for i, text := range req.GetKeys() {
		b = protowire.AppendTag(b, batchGetResponseResults, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(sizeResult(text, &held[i])))
		b = appendResult(b, text, &held[i])
	}
	*buffer = b
	return &encoded{mem.BufferSlice{mem.NewBuffer(buffer, pool)}}
}

func sizeResult(key string, p *prepared) int {
	return protowire.SizeTag(batchGetResultKey) + protowire.SizeBytes(len(key)) + len(p.entry) + p.n
}

// appendResult writes what is prepared as a result: its two fields have other
// numbers there, which take one byte as their own do.
func appendResult(b []byte, key string, p *prepared) []byte {
	b = protowire.AppendTag(b, batchGetResultKey, protowire.BytesType)
	b = protowire.AppendString(b, key)
	b = protowire.AppendTag(b, batchGetResultEntry, protowire.BytesType)
	b = append(b, p.entry[1:]...)
	b = protowire.AppendTag(b, batchGetResultFreshness, protowire.BytesType)
	return append(b, p.freshness[1:p.n]...)
}
