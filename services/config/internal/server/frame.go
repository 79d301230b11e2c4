package server

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// The fields that are read and written here by hand, as the .proto files number
// them.
const (
	sessionRequestCalls    protowire.Number = 1
	sessionRequestCancel   protowire.Number = 2
	sessionResponseAnswers protowire.Number = 2
	sessionAnswerID        protowire.Number = 1
	sessionAnswerGet       protowire.Number = 2
)

// maxFrame is the most of a frame's buffer that is kept for the next one.
const maxFrame = 64 << 10

// frame is a SessionRequest as it came. A few bytes of one can be a call, and a
// call is hundreds of bytes in memory: they are counted first.
type frame struct{ data []byte }

func (f *frame) read(data mem.BufferSlice) {
	n := data.Len()
	if n > cap(f.data) || cap(f.data) > maxFrame {
		f.data = make([]byte, n)
	}
	f.data = f.data[:n]
	data.CopyTo(f.data)
}

// parse returns the request, which shares nothing with the frame. It holds at most
// this many calls and this many cancellations, or it is refused.
func (f *frame) parse(most int) (*tagstorev1.SessionRequest, error) {
	calls, cancels := 0, 0
	for b := f.data; len(b) > 0; {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return nil, errBroken
		}
		b = b[size:]
		if size = protowire.ConsumeFieldValue(n, kind, b); size < 0 {
			return nil, errBroken
		}
		switch {
		case n == sessionRequestCalls && kind == protowire.BytesType:
			calls++
		case n == sessionRequestCancel && kind == protowire.BytesType: // packed
			packed, _ := protowire.ConsumeBytes(b)
			cancels += varints(packed)
		case n == sessionRequestCancel && kind == protowire.VarintType:
			cancels++
		}
		b = b[size:]
	}
	if calls > most || cancels > most {
		return nil, config.Errorf(config.InvalidArgument, "one message of the session has %d calls and %d cancellations, it takes %d of each", calls, cancels, most).
			WithHint("begin no more calls than max_in_flight says")
	}
	r := new(tagstorev1.SessionRequest)
	if proto.Unmarshal(f.data, r) != nil {
		return nil, errBroken
	}
	return r, nil
}

var errBroken = config.Errorf(config.InvalidArgument, "a message of the session can not be read").
	WithHint("send messages of the type SessionRequest")

// varints is how many there are in the content of a packed field.
func varints(b []byte) (n int) {
	for _, c := range b {
		if c < 0x80 { // the last byte of one
			n++
		}
	}
	return n
}

// answer is one answer of a Session, before it is sent: one that is prepared, or
// else the encoding of any other.
type answer struct {
	id   uint64
	held *prepared
	body []byte
	size int // of the SessionAnswer
}

func heldAnswer(id uint64, p *prepared) answer {
	body := len(p.entry) + p.n
	return answer{id: id, held: p, size: sizeField(sessionAnswerID, id) + protowire.SizeTag(sessionAnswerGet) + protowire.SizeBytes(body)}
}

// plainAnswer is an error where there is no encoding, as it is for a call of its
// own.
func plainAnswer(m *tagstorev1.SessionAnswer) (answer, error) {
	body, err := proto.Marshal(m)
	if err != nil { // text that is not UTF-8
		return answer{}, config.Errorf(config.Internal, "the answer can not be sent: it has no encoding").WithCause(err)
	}
	return answer{id: m.GetId(), body: body, size: len(body)}, nil
}

const (
	// maxTogether is how much of answers goes into one message, so that what is
	// ready next does not wait long for it.
	maxTogether = 128 << 10
	// maxCopied is the size up to which answers are put together: what is larger
	// goes alone, as it lies there.
	maxCopied = 8 << 10
)

// together is how many of these answers, of which there is one, go into the next
// message.
func together(as []answer) int {
	sum := 0
	for i, a := range as {
		if sum += a.size; i > 0 && (sum > maxTogether || a.size > maxCopied) {
			return i
		}
		if a.size > maxCopied {
			return 1
		}
	}
	return len(as)
}

// encoded is a message that is encoded. It is sent once.
type encoded struct{ message mem.BufferSlice }

// encode makes one message of answers.
func encode(as []answer) *encoded {
	size := 0
	for _, a := range as {
		size += protowire.SizeTag(sessionResponseAnswers) + protowire.SizeBytes(a.size)
	}
	alone := as[0].size > maxCopied // and so there is no other
	if alone {
		size -= as[0].length()
	}
	pool := mem.DefaultBufferPool()
	buffer := pool.Get(size)
	b := (*buffer)[:0]
	for _, a := range as {
		b = protowire.AppendTag(b, sessionResponseAnswers, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(a.size))
		if a.held != nil {
			b = appendField(b, sessionAnswerID, a.id)
			b = protowire.AppendTag(b, sessionAnswerGet, protowire.BytesType)
			b = protowire.AppendVarint(b, uint64(a.length()))
		}
		if alone {
			break
		}
		if b = append(b, a.body...); a.held != nil {
			b = append(append(b, a.held.entry...), a.held.freshness[:a.held.n]...)
		}
	}
	*buffer = b
	out := mem.BufferSlice{mem.NewBuffer(buffer, pool)}
	switch a := as[0]; {
	case alone && a.held != nil:
		out = append(out, mem.SliceBuffer(a.held.entry), mem.SliceBuffer(a.held.freshness[:a.held.n]))
	case alone:
		out = append(out, mem.SliceBuffer(a.body))
	}
	return &encoded{out}
}

// length is how much of an answer is encoded already.
func (a answer) length() int {
	if a.held != nil {
		return len(a.held.entry) + a.held.n
	}
	return len(a.body)
}
