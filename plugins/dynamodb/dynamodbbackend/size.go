package dynamodbbackend

import (
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// maxItem is the largest item in bytes, names included.
const maxItem = 400 << 10

// itemSize returns what an item counts as at most, by the rules of the
// developer guide's page on item sizes. A number counts "approximately": this
// takes the most that it can be.
func itemSize(item map[string]types.AttributeValue) int {
	n := 0
	for name, a := range item {
		n += len(name) + attributeSize(a)
	}
	return n
}

func attributeSize(a types.AttributeValue) int {
	const overhead = 3 // of a list or map; each of its elements has one byte more
	n := 0
	switch a := a.(type) {
	case *types.AttributeValueMemberS:
		return len(a.Value)
	case *types.AttributeValueMemberB:
		return len(a.Value)
	case *types.AttributeValueMemberN:
		return numberSize(a.Value)
	case *types.AttributeValueMemberSS:
		for _, s := range a.Value {
			n += len(s)
		}
		return n
	case *types.AttributeValueMemberBS:
		for _, s := range a.Value {
			n += len(s)
		}
		return n
	case *types.AttributeValueMemberNS:
		for _, s := range a.Value {
			n += numberSize(s)
		}
		return n
	case *types.AttributeValueMemberL:
		for _, item := range a.Value {
			n += 1 + attributeSize(item)
		}
		return overhead + n
	case *types.AttributeValueMemberM:
		for name, item := range a.Value {
			n += 1 + len(name) + attributeSize(item)
		}
		return overhead + n
	}
	return 1
}

// numberSize: one byte for two digits, where a first or a last one may stand
// alone, one for the exponent, one for the sign of a negative number.
func numberSize(s string) int {
	d, _ := parseDecimal(s)
	n := (len(d.digits)+2)/2 + 1
	if d.negative {
		n++
	}
	return n
}
