package exchange

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
)

// slots are the members of the oneof of a frame, by the name of their message.
// The messages stand in the frame itself, not encoded within it: a value is
// copied as often as in a call of its own.
type slots struct {
	oneof protoreflect.OneofDescriptor
	by    map[protoreflect.FullName]protoreflect.FieldDescriptor
}

var (
	calls    = slotsOf((&backendv1.ExchangeRequest{}).ProtoReflect().Descriptor().Oneofs().ByName("call"))
	outcomes = slotsOf((&backendv1.ExchangeResponse{}).ProtoReflect().Descriptor().Oneofs().ByName("outcome"))
)

func slotsOf(oneof protoreflect.OneofDescriptor) slots {
	s := slots{oneof, map[protoreflect.FullName]protoreflect.FieldDescriptor{}}
	for i := range oneof.Fields().Len() {
		fd := oneof.Fields().Get(i)
		s.by[fd.Message().FullName()] = fd
	}
	return s
}

// put makes m part of a frame, and reports whether there is a place for it.
func (s slots) put(frame, m proto.Message) bool {
	message := m.ProtoReflect()
	fd, ok := s.by[message.Descriptor().FullName()]
	if ok {
		frame.ProtoReflect().Set(fd, protoreflect.ValueOfMessage(message))
	}
	return ok
}

// get returns the message of a frame, nil if there is none.
func (s slots) get(frame proto.Message) protoreflect.Message {
	f := frame.ProtoReflect()
	fd := f.WhichOneof(s.oneof)
	if fd == nil {
		return nil
	}
	return f.Get(fd).Message()
}

// take moves the message of a frame into m, and reports whether the frame has
// one of its kind.
func (s slots) take(frame, m proto.Message) bool {
	f, into := frame.ProtoReflect(), m.ProtoReflect()
	fd, ok := s.by[into.Descriptor().FullName()]
	if !ok || !f.Has(fd) {
		return false
	}
	move(f.Get(fd).Message(), into)
	return true
}

// move makes what from holds part of into, which has the same type. Nobody uses
// from afterwards.
func move(from, into protoreflect.Message) {
	from.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		into.Set(fd, v)
		return true
	})
	into.SetUnknown(from.GetUnknown())
}
