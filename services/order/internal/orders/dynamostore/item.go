package dynamostore

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/order/internal/orders"
)

// The table's key, and how the values of each part begin.
const (
	partitionKey, sortKey = "pk", "sk"

	tenantPrefix = "TENANT#"
	orderPrefix  = "ORDER#"
	oncePrefix   = "ONCE#"
)

// maxItemSize is DynamoDB's limit of one item, in bytes.
const maxItemSize = 400 << 10

type item = map[string]types.AttributeValue

func keyOf(tenant config.Tenant, sort string) item {
	return item{partitionKey: text(tenantPrefix + tenant.String()), sortKey: text(sort)}
}

func orderSort(id string) string { return orderPrefix + id }

// onceSort hides the client's key and bounds its length.
func onceSort(requestKey string) string {
	sum := sha256.Sum256([]byte(requestKey))
	return oncePrefix + hex.EncodeToString(sum[:])
}

// newestBound is a sort key that no order's is above.
const newestBound = orderPrefix + "~"

// boundBelow returns a sort key that is above those of all orders with IDs
// below before, and below before's own: IDs have one length, so of those that
// share all but the last character with before, each ends in a smaller one.
func boundBelow(before orders.ID) string {
	id := []byte(before.String())
	id[len(id)-1]--
	return orderPrefix + string(id)
}

// write names one call of Create, so that it knows what it wrote itself.
type write [16]byte

// encodeOrder returns o as an item. Amounts are numbers, which DynamoDB keeps to
// 38 digits.
func encodeOrder(o orders.Order, w write) item {
	it := keyOf(o.Tenant, orderSort(o.ID.String()))
	it["tenant"] = text(o.Tenant.String())
	it["write"] = binary(w[:])
	it["createdAt"] = number(o.CreatedAt.UnixMilli())
	it["createdBy"] = text(o.CreatedBy)
	it["total"] = number(o.Total)
	it["currency"] = text(o.Currency.Code)
	it["exponent"] = number(o.Currency.Exponent)
	if o.Reference != "" {
		it["reference"] = text(o.Reference)
	}
	gateway := item{"name": text(o.Gateway.Name)}
	if o.Gateway.Endpoint != "" {
		gateway["endpoint"] = text(o.Gateway.Endpoint)
	}
	if o.Gateway.RetryPolicy != "" {
		gateway["retryPolicy"] = text(o.Gateway.RetryPolicy)
	}
	it["gateway"] = &types.AttributeValueMemberM{Value: gateway}
	lines := make([]types.AttributeValue, len(o.Lines))
	for i, l := range o.Lines {
		lines[i] = &types.AttributeValueMemberM{Value: item{
			"sku": text(l.SKU), "quantity": number(l.Quantity), "unitPrice": number(l.UnitPrice),
		}}
	}
	it["lines"] = &types.AttributeValueMemberL{Value: lines}
	decisions := make([]types.AttributeValue, len(o.Decisions))
	for i, d := range o.Decisions {
		decisions[i] = &types.AttributeValueMemberM{Value: item{
			"key": text(d.Key.String()), "layer": text(string(d.Layer)),
			"version": &types.AttributeValueMemberN{Value: strconv.FormatUint(d.Version, 10)},
		}}
	}
	it["decisions"] = &types.AttributeValueMemberL{Value: decisions}
	return it
}

// decodeOrder refuses an item that is not an order of this tenant, and ignores
// attributes that it does not know.
func decodeOrder(it item, tenant config.Tenant) (orders.Order, error) {
	f := fields{item: it}
	sort := f.text(sortKey)
	if len(sort) < len(orderPrefix) || sort[:len(orderPrefix)] != orderPrefix || f.text("tenant") != tenant.String() {
		return orders.Order{}, damaged()
	}
	id, ok := orders.ParseID(sort[len(orderPrefix):])
	if !ok {
		return orders.Order{}, damaged()
	}
	o := orders.Order{
		ID: id, Tenant: tenant, CreatedAt: time.UnixMilli(f.number("createdAt")).UTC(), CreatedBy: f.text("createdBy"),
		Total: f.number("total"), Currency: orders.Currency{Code: f.text("currency"), Exponent: f.number("exponent")},
		Reference: f.optionalText("reference"),
	}
	gateway := f.of(f.item["gateway"])
	o.Gateway = orders.Gateway{
		Name: gateway.text("name"), Endpoint: gateway.optionalText("endpoint"), RetryPolicy: gateway.optionalText("retryPolicy"),
	}
	f.bad = f.bad || gateway.bad
	for _, element := range f.list("lines") {
		l := f.of(element)
		o.Lines = append(o.Lines, orders.Line{SKU: l.text("sku"), Quantity: l.number("quantity"), UnitPrice: l.number("unitPrice")})
		f.bad = f.bad || l.bad
	}
	for _, element := range f.list("decisions") {
		d := f.of(element)
		key, err := config.ParseKey(d.text("key"))
		o.Decisions = append(o.Decisions, orders.Decision{Key: key, Layer: orders.Layer(d.text("layer")), Version: d.unsigned("version")})
		f.bad = f.bad || d.bad || err != nil
	}
	if f.bad {
		return orders.Order{}, damaged()
	}
	return o, nil
}

// writeOf returns the write that made an item, the zero write if it does not
// say.
func writeOf(it item) (w write) {
	if b, ok := it["write"].(*types.AttributeValueMemberB); ok && len(b.Value) == len(w) {
		copy(w[:], b.Value)
	}
	return w
}

// mark is the record of a request key.
type mark struct {
	fingerprint [32]byte
	order       orders.ID
}

func encodeMark(o orders.Order, once orders.Once, w write) item {
	it := keyOf(o.Tenant, onceSort(once.Key))
	it["tenant"] = text(o.Tenant.String())
	it["write"] = binary(w[:])
	it["fingerprint"] = binary(once.Fingerprint[:])
	it["order"] = text(o.ID.String())
	return it
}

func decodeMark(it item, tenant config.Tenant) (mark, error) {
	f := fields{item: it}
	var m mark
	fingerprint, _ := it["fingerprint"].(*types.AttributeValueMemberB)
	if fingerprint == nil || len(fingerprint.Value) != len(m.fingerprint) || f.text("tenant") != tenant.String() {
		return mark{}, damaged()
	}
	copy(m.fingerprint[:], fingerprint.Value)
	var ok bool
	if m.order, ok = orders.ParseID(f.text("order")); !ok {
		return mark{}, damaged()
	}
	return m, nil
}

// fields reads the attributes of an item or of a map in one. bad is set once
// one is missing or has another type.
type fields struct {
	item item
	bad  bool
}

func (f *fields) of(v types.AttributeValue) fields {
	m, ok := v.(*types.AttributeValueMemberM)
	if !ok {
		return fields{bad: true}
	}
	return fields{item: m.Value}
}

func (f *fields) text(name string) string {
	s, ok := f.item[name].(*types.AttributeValueMemberS)
	if !ok {
		f.bad = true
		return ""
	}
	return s.Value
}

func (f *fields) optionalText(name string) string {
	if f.item[name] == nil {
		return ""
	}
	return f.text(name)
}

func (f *fields) number(name string) int64 {
	n, err := strconv.ParseInt(f.digits(name), 10, 64)
	f.bad = f.bad || err != nil
	return n
}

func (f *fields) unsigned(name string) uint64 {
	n, err := strconv.ParseUint(f.digits(name), 10, 64)
	f.bad = f.bad || err != nil
	return n
}

func (f *fields) digits(name string) string {
	n, ok := f.item[name].(*types.AttributeValueMemberN)
	if !ok {
		f.bad = true
		return ""
	}
	return n.Value
}

func (f *fields) list(name string) []types.AttributeValue {
	l, ok := f.item[name].(*types.AttributeValueMemberL)
	if !ok {
		f.bad = true
		return nil
	}
	return l.Value
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func binary(b []byte) types.AttributeValue { return &types.AttributeValueMemberB{Value: b} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// sizeOf is at least what DynamoDB counts for an item: names and text as UTF-8,
// a byte for two digits of a number and up to two more, 3 bytes for a list or
// map and 1 for each element of it.
func sizeOf(it item) int {
	size := 0
	for name, v := range it {
		size += len(name) + valueSize(v)
	}
	return size
}

func valueSize(v types.AttributeValue) int {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return len(v.Value)
	case *types.AttributeValueMemberB:
		return len(v.Value)
	case *types.AttributeValueMemberN:
		return len(v.Value)/2 + 3
	case *types.AttributeValueMemberL:
		size := 3
		for _, element := range v.Value {
			size += 1 + valueSize(element)
		}
		return size
	case *types.AttributeValueMemberM:
		return 3 + len(v.Value) + sizeOf(v.Value)
	default:
		return maxItemSize // no other type is written
	}
}
