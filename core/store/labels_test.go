package store_test

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// labels writes attributes as "a=1,b=2", in order of name.
type labels struct{}

func (labels) Encode(i attribute.Iterator) string {
	var all []string
	for i.Next() {
		a := i.Attribute()
		all = append(all, string(a.Key)+"="+a.Value.String())
	}
	return strings.Join(all, ",")
}

func (labels) ID() attribute.EncoderID { return attribute.NewEncoderID() }
