package daxread

import (
	"bytes"
	"errors"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"
)

// TestScannerLetsAnswersThrough feeds well-formed CBOR in pieces of any size
// and wants the scanner to be at the end of an item exactly when it is.
func TestScannerLetsAnswersThrough(t *testing.T) {
	var value *rapid.Generator[any]
	value = rapid.Deferred(func() *rapid.Generator[any] {
		return rapid.OneOf(
			rapid.Int64().AsAny(), rapid.Uint64().AsAny(), rapid.String().AsAny(), rapid.SliceOf(rapid.Byte()).AsAny(), rapid.Bool().AsAny(),
			rapid.Float64().AsAny(), rapid.Just[any](nil),
			rapid.SliceOfN(value, 0, 4).AsAny(), rapid.MapOfN(rapid.String(), value, 0, 4).AsAny(),
			rapid.Just[any](cbor.Tag{Number: 3321, Content: []string{"a"}}),
			rapid.Just[any](cbor.RawMessage{0xbf, 0x01, 0x9f, 0x02, 0xff, 0xff}),
		)
	})
	rapid.Check(t, func(t *rapid.T) {
		b, err := cbor.Marshal(value.Draw(t, "value"))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, 0x80)
		var s scanner
		for rest := b; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			if err := s.feed(rest[:n]); err != nil {
				t.Fatalf("%x refused", b)
			}
			rest = rest[n:]
		}
		if len(s.open) != 0 || s.skip != 0 || s.missing != 0 {
			t.Fatalf("%x: not at an end: %+v", b, s)
		}
	})
}

func TestScannerRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"a list too long":       {0x9a, 0, 1, 0, 1},
		"a map too long":        {0xba, 0, 1, 0, 1},
		"a length below zero":   {0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"a text too long":       {0x7a, 0, 0x10, 0, 1},
		"bytes too long":        {0x5a, 0, 0x10, 0, 1},
		"depth":                 bytes.Repeat([]byte{0x81}, maxDepth+1),
		"depth without lengths": bytes.Repeat([]byte{0x9f}, maxDepth+1),
		"an endless text":       {0x7f},
		"a break out of place":  {0xff},
		"a reserved header":     {0x1c},
		"a short float":         {0xf9},
	} {
		t.Run(name, func(t *testing.T) {
			var s scanner
			if err := s.feed(b); !errors.Is(err, errMalformed) {
				t.Errorf("got %v", err)
			}
		})
	}
}
