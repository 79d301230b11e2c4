package wire

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tagstore/tagstore/core/driver"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
)

// itemsField is the number of the repeated field of every answer that has one.
const itemsField = 1

// CheckItems refuses an answer of more items than it may hold, before it is
// decoded into answer, be it alone or in the frame of a stream. An empty item
// takes two bytes of a message and a hundred times as many in memory: as many as
// a message can hold are a gigabyte.
func CheckItems(encoded []byte, answer any) error {
	switch answer := answer.(type) {
	case *backendv1.ListResponse, *backendv1.HistoryResponse, *backendv1.BatchGetResponse, *backendv1.RefreshResponse:
		return checkItems(encoded, new(int))
	case *backendv1.ExchangeResponse:
		return checkFrame(encoded, answer)
	default:
		return nil
	}
}

// checkItems adds to items those of the message.
func checkItems(encoded []byte, items *int) error {
	return eachField(encoded, func(field protowire.Number, _ []byte) error {
		if field == itemsField {
			if *items++; *items > driver.MaxPageSize {
				return Broken("an answer of more items than one may hold")
			}
		}
		return nil
	})
}

func checkFrame(encoded []byte, frame *backendv1.ExchangeResponse) error {
	items := 0 // of all: an answer that stands twice is put together
	fields := frame.ProtoReflect().Descriptor().Fields()
	return eachField(encoded, func(field protowire.Number, value []byte) error {
		d := fields.ByNumber(field)
		if value == nil || d == nil || d.Message() == nil {
			return nil
		}
		switch d.Message().Name() {
		case "ListResponse", "HistoryResponse", "BatchGetResponse", "RefreshResponse":
			return checkItems(value, &items)
		}
		return nil
	})
}

// eachField calls f with each field of a message, and the bytes of those that
// have a length.
func eachField(encoded []byte, f func(protowire.Number, []byte) error) error {
	for len(encoded) > 0 {
		field, kind, tag := protowire.ConsumeTag(encoded)
		if tag < 0 {
			return Broken("a message that is not one")
		}
		n := protowire.ConsumeFieldValue(field, kind, encoded[tag:])
		if n < 0 {
			return Broken("a message that is not one")
		}
		var value []byte
		if kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(encoded[tag:])
		}
		if err := f(field, value); err != nil {
			return err
		}
		encoded = encoded[tag+n:]
	}
	return nil
}
